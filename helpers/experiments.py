"""Experiments: every decision that makes one network, as data; `plan` lists those of a profile.

`Experiment` holds what a result depends on and nothing else does: no code below takes a decision from a name. What a
machine decides by itself (number format, device, processor, torch's version) is recorded beside the result.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace

from helpers import data, settings
from helpers.pruning import repair, scores, sensitivity
from helpers.pruning.allocation import LEAST_DENSITY, SLOPE
from helpers.training import Recipe

PER_CLASS = 10  # images a class for saliency scores (Wang et al. 2020, section 5)
RECALIBRATION_IMAGES = 5000  # training images that batch norms are averaged over after channels were cut
METHODS = (
    *("dense", "dense_finetuned", "layerwise_magnitude", "global_magnitude", "uniform_magnitude", "repaired"),
    *("dense_from_scratch", "grasp_iterative", "grasp", "snip", "synflow", "magnitude_init", "random"),
    *("lasso_channels", "l1_filters", "random_channels", "lasso_channels_from_scratch"),
)
TOPICS = ("baseline", "sensitivity", "grasp", "channels")


@dataclass(frozen=True)
class New:
    """A start from nothing: VGG16-BN with its widths divided, initialised by `seed`."""

    width_divisor: int
    seed: int
    dropout: float
    large_head: bool = False
    identities: bool = False  # see `starts.add_identities`
    whitened: bool = False  # see `starts.whiten`


@dataclass(frozen=True)
class Trained:
    """A start from the trained dense network: the one that `dense` makes, or the given weights where that is None."""

    dropout: float
    dense: "Experiment | None" = None


@dataclass(frozen=True)
class Scan:
    """How the sensitivity scan is made: on how many validation images, at which sparsities (see `pruning.sensitivity`)."""

    images: int
    sparsities: tuple[float, ...] = sensitivity.SPARSITIES
    undecided: float = sensitivity.UNDECIDED


@dataclass(frozen=True)
class Magnitude:
    """The smallest weights of the trained network go, as many of each layer as the allocation says."""

    allocation: str  # "layerwise" (from the scan), "global" or "uniform"
    sparsity: float
    scan: Scan | None = None
    slope: float = SLOPE
    least_density: float = LEAST_DENSITY
    retrain: New | None = None  # the masks on another network: the lottery ticket's question


@dataclass(frozen=True)
class Repair:
    """Weights of the trained network go and those that stay are solved for, from training images without their labels."""

    choice: str  # which weights stay: the largest "magnitude", those of "wanda", or found "together" with their values
    allocation: str  # of each layer: "layerwise", as in Magnitude, or by error "curves" (`pruning.errors`)
    sparsity: float
    images: int
    positions: int
    alpha: float = 0.0  # of "curves": 0 counts weights, 1 MACs
    scan: Scan | None = None
    ridge: float = repair.RIDGE
    rho: float = repair.RHO
    rounds: int = repair.ROUNDS
    block: int = 1  # neighbouring input channels that stay or go as one, where chosen "together"

    def __post_init__(self):
        settings.choose("allocation of a repair", self.allocation, ("layerwise", "curves"))
        if (self.allocation == "layerwise") != (self.scan is not None):
            raise ValueError("a repair takes a scan where its allocation is layerwise, and nowhere else")


@dataclass(frozen=True)
class Saliency:
    """Weights of a new network go by a score, all at once and before training."""

    score: str
    sparsity: float
    rounds: int
    per_class: int = PER_CLASS
    temperature: float = scores.TEMPERATURE
    inverted: bool = False  # the smallest scores are kept instead of the largest
    shuffled: bool = False  # each layer keeps its density, at random places
    retrain: New | None = None  # the masks on another network


@dataclass(frozen=True)
class Stages:
    """Weights go by a score in stages across the training."""

    first: str  # the score before training
    later: str  # the score at the stages during training
    sparsity: float
    count: int
    per_class: int = PER_CLASS
    temperature: float = scores.TEMPERATURE


@dataclass(frozen=True)
class Channels:
    """Whole channels of the trained network go until its MACs are at most a share of the dense network's."""

    choice: str  # "lasso", "l1" or "random"
    macs_share: float
    images: int
    positions: int
    rule: str = "marginal"  # how the widths are chosen (see `pruning.widths`)
    multiple: int = 1  # widths are multiples of this
    reconstruct: bool = True  # the remaining weights are solved for
    asymmetric: bool = True  # from the inputs of the network pruned so far
    recalibration_images: int = RECALIBRATION_IMAGES
    retrain: New | None = None  # the same widths on a new network


Pruning = Magnitude | Repair | Saliency | Stages | Channels


@dataclass(frozen=True)
class Experiment:
    """One network of the study. Its file's name follows from it, its hash from all that decides the network."""

    profile: str
    dataset: str
    method: str
    start: New | Trained
    label: str = ""  # tells experiments of one method apart; "" is the method's main one
    prune: Pruning | None = None
    recipe: Recipe | None = None  # of the training after (or, in stages, during) pruning; None: nothing is trained
    seed: int = 0
    normalization: str = ""  # of the images; "" is the one the network was trained with
    number_format: str = ""  # "" is the machine's fastest
    validation_images: int = data.VALIDATION_IMAGES
    split_seed: int = data.SPLIT_SEED
    timed: bool = False  # whether latency, memory and energy are measured

    def __post_init__(self):
        settings.choose("method", self.method, METHODS)

    @property
    def epochs(self) -> int:
        """Of training, 0 where nothing is trained."""
        return self.recipe.epochs if self.recipe else 0

    @property
    def cost(self) -> float:
        """About how long its training takes, in epochs of the dense network."""
        return self.epochs * (0.25 if isinstance(self.prune, Channels) else 1)

    @property
    def sparsity_pct(self) -> float | None:
        """The target, where the method has one."""
        sparsity = getattr(self.prune, "sparsity", None)
        return None if sparsity is None else round(100 * sparsity, 6)

    @property
    def name(self) -> str:
        """The file's name without ending, unique in a data set: method, sparsity, label, seed."""
        parts = [self.method]
        if self.sparsity_pct is not None:
            parts.append(f"s{self.sparsity_pct:g}")
        if self.label:
            parts.append(re.sub(r"[^a-z0-9_.]+", "-", self.label.lower()))
        if self.seed:
            parts.append(f"seed{self.seed}")
        return "-".join(parts)

    @property
    def decisions(self) -> dict:
        """Every field as plain data, `timed` as False, here and in the dense network's: it does not change a network."""
        dense = getattr(self.start, "dense", None)
        start = replace(self.start, dense=replace(dense, timed=False)) if dense else self.start
        return asdict(replace(self, start=start, timed=False))

    @property
    def hash(self) -> str:
        """Of all decisions."""
        decisions = self.decisions | {"pruning": type(self.prune).__name__}
        return hashlib.sha256(json.dumps(decisions, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def topic(self) -> str:
        """The notebook that shows it."""
        if isinstance(self.prune, Channels):
            return "channels"
        if self.method == "dense":
            return "baseline"
        return "sensitivity" if isinstance(self.prune, (Magnitude, Repair)) or self.method == "dense_finetuned" else "grasp"
