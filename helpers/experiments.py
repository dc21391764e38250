"""Experiments: every decision that makes one network, as data, and which experiments a profile has.

`Experiment` holds what a result depends on and nothing else does: no code below takes a decision from a name. What a
machine decides by itself (number format, device, processor, torch's version) is recorded beside the result.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from helpers import data, settings
from helpers.pruning import allocation, scores, sensitivity
from helpers.settings import Profile
from helpers.training import Recipe

PER_CLASS = 10  # images a class for saliency scores (Wang et al. 2020, section 5)
RECALIBRATION_IMAGES = 5000  # training images that batch norms are averaged over after channels were cut
WRONG_NORMALIZATIONS = ("none", "half", "imagenet")
CURVE_PCT = (50.0, 75.0, 80.0, 87.5, 93.75, 96.875)  # 2×, 4×, 5×, 8×, 16×, 32× fewer weights
FINETUNED_CURVE_PCT = (50.0, 75.0, 87.5, 93.75)
FEWER_MACS = {"macs=2x": 2.0, "macs=4x": 4.0, "macs=7.5x": None, "macs=12x": 12.0}  # None: the main result's budget of MACs
STAGE_SCORES = {  # label of iterative GraSP → its score before training, and during it
    "": ("grasp", "grasp_preserving"),
    "preserving": ("grasp_absolute", "grasp_preserving"),
    "signed": ("grasp", "grasp"),
}
METHODS = (
    *("dense", "dense_finetuned", "layerwise_magnitude", "global_magnitude", "uniform_magnitude", "dense_from_scratch"),
    *("grasp_iterative", "grasp", "snip", "synflow", "magnitude_init", "random"),
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
    slope: float = allocation.SLOPE
    least_density: float = allocation.LEAST_DENSITY
    retrain: New | None = None  # the masks on another network: the lottery ticket's question


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


Pruning = Magnitude | Saliency | Stages | Channels


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
        return "sensitivity" if isinstance(self.prune, Magnitude) or self.method == "dense_finetuned" else "grasp"


def plan(profile: Profile, topic: str | None = None) -> list[Experiment]:
    """All experiments of a profile (or those of one topic), the most important first, then by data set."""
    if topic is not None:
        settings.choose("topic", topic, TOPICS)
    ranked = [pair for dataset in profile.datasets for pair in _Planner(profile, dataset).experiments()]
    ranked.sort(key=lambda pair: pair[0])  # stable: within a rank the order below stands
    return [experiment for rank, experiment in ranked if rank in profile.ranks and topic in (None, experiment.topic)]


def dense(profile: Profile, dataset: str) -> Experiment:
    """The experiment of the dense network that every method after training starts from."""
    return _Planner(profile, dataset).dense


Ranked = tuple[str, Experiment]  # rank "A" carries the report, "B" deepens it, "C" are ablations and checks


class _Planner:
    def __init__(self, profile: Profile, dataset: str):
        self.profile, self.dataset, self.seed = profile, dataset, profile.seeds[0]
        if profile.weights == "given":
            self.dense = self._experiment("dense", Trained(profile.dropout), timed=True)
            self.trained = Trained(profile.dropout)
        else:
            recipe = Recipe(profile.dense_epochs, profile.batch_size, profile.scratch_lr, seed=self.seed)
            self.dense = self._experiment("dense", self._new(self.seed), recipe=recipe, timed=True)
            self.trained = Trained(profile.dropout, self.dense)

    def _experiment(self, method: str, start: New | Trained, **decisions) -> Experiment:
        return Experiment(self.profile.name, self.dataset, method, start, **{"seed": self.seed, **decisions})

    def _new(self, seed: int) -> New:
        start = self.profile.start_of(self.dataset)
        return New(self.profile.width_divisor, seed, start.dropout, start.large_head)

    def _tuning(self, epochs: int, seed: int) -> Recipe:
        return Recipe(epochs, self.profile.batch_size, self.profile.finetune_lr, seed=seed)

    def experiments(self) -> Iterator[Ranked]:
        yield "A", self.dense
        for name in WRONG_NORMALIZATIONS:
            label = f"normalization={name}"
            yield "A", self._experiment("dense", self.trained, label=label, normalization=name)
            finetuned = self._finetuned(self.seed, label=label, normalization=name, timed=False)
            yield "B" if name == "half" else "C", finetuned
        for seed in self.profile.seeds:
            rank = "A" if seed == self.seed else "B"
            yield rank, self._finetuned(seed)
            yield rank, self._magnitude("layerwise", self.profile.magnitude_sparsity_pct, seed=seed)
            yield rank, self._channels("lasso", seed=seed)
            yield rank, self._channels("l1", seed=seed, reconstruct=False)
        yield from self._magnitudes()
        yield from self._channel_experiments()
        yield from self._from_nothing()

    def _finetuned(self, seed: int, **decisions) -> Experiment:
        recipe = self._tuning(self.profile.finetune_epochs, seed)
        decisions = {"timed": seed == self.seed, **decisions}
        return self._experiment("dense_finetuned", self.trained, recipe=recipe, seed=seed, **decisions)

    def _magnitude(self, allocated: str, pct: float, epochs: int | None = None, *, seed: int | None = None, **more) -> Experiment:
        seed, label = self.seed if seed is None else seed, more.get("label", "")
        recipe = more.pop("recipe", None)
        if epochs != 0 and recipe is None:
            recipe = self._tuning(epochs or self.profile.finetune_epochs, seed)
        scan = Scan(self.profile.scan_images) if allocated == "layerwise" else None
        pruning = Magnitude(allocated, pct / 100, scan, retrain=more.pop("retrain", None))
        timed = seed == self.seed and (not label or (label == "curve" and allocated == "layerwise"))
        method = f"{allocated}_magnitude"
        return self._experiment(method, self.trained, prune=pruning, recipe=recipe, seed=seed, timed=timed, **more)

    def _magnitudes(self) -> Iterator[Ranked]:
        for allocated in ("layerwise", "global", "uniform"):
            for pct in CURVE_PCT:
                yield "B", self._magnitude(allocated, pct, 0, label="curve")
        for allocated in ("global", "uniform"):
            yield "B", self._magnitude(allocated, self.profile.magnitude_sparsity_pct)
        for pct in FINETUNED_CURVE_PCT:
            yield "B", self._magnitude("layerwise", pct, self.profile.curve_epochs, label="curve_finetuned")
        starts = {"reinitialized": self._new(self.seed + 1000)}
        if self.profile.weights == "trained":  # only then the weights that the dense network began with are at hand
            starts["rewound"] = self._new(self.seed)
        for label, start in starts.items():
            budget = {"recipe": self._from_nothing_recipe(), "retrain": start}
            yield "C", self._magnitude("layerwise", self.profile.magnitude_sparsity_pct, label=label, **budget)

    def _channels(self, choice: str, epochs: int | None = None, *, seed: int | None = None, label: str = "", **how) -> Experiment:
        seed = self.seed if seed is None else seed
        start, method = self.trained, {"lasso": "lasso_channels", "l1": "l1_filters", "random": "random_channels"}[choice]
        recipe = self._tuning(epochs or self.profile.channel_epochs, seed)
        if how.get("retrain"):
            method = "lasso_channels_from_scratch"
            recipe = Recipe(self.profile.channel_scratch_epochs, self.profile.batch_size, self.profile.scratch_lr, seed=seed)
        how = {"macs_share": self.profile.macs_share, "multiple": max(1, 8 // self.profile.width_divisor), **how}
        pruning = Channels(choice, images=self.profile.statistics_images, positions=self.profile.positions, **how)
        timed = seed == self.seed and (not label or choice == "lasso")
        return self._experiment(method, start, prune=pruning, recipe=recipe, label=label, seed=seed, timed=timed)

    def _channel_experiments(self) -> Iterator[Ranked]:
        yield "A", self._channels("lasso", retrain=self._new(self.seed))
        yield "B", self._channels("random", reconstruct=False)
        for label, fewer in FEWER_MACS.items():
            share = 1 / fewer if fewer else self.profile.macs_share
            yield "B", self._channels("lasso", self.profile.macs_curve_epochs, label=label, macs_share=share)
        yield "B", self._channels("lasso", label="unrounded", multiple=1)
        yield "C", self._channels("lasso", label="no_reconstruction", reconstruct=False)
        yield "C", self._channels("lasso", label="symmetric", asymmetric=False)
        for rule in ("uniform", "he"):
            yield "C", self._channels("lasso", label=f"widths={rule}", rule=rule)

    def _from_nothing_recipe(self) -> Recipe:
        return Recipe(self.profile.init_epochs, self.profile.init_batch_size, self.profile.scratch_lr, seed=self.seed)

    def _from_nothing(self) -> Iterator[Ranked]:
        """Methods that prune before or while they train, and their dense control: same start, budget and order of images."""
        sparsity, recipe, start = self.profile.saliency_sparsity_pct / 100, self._from_nothing_recipe(), self._new(self.seed)
        shared = {"recipe": recipe, "timed": True}
        yield "A", self._experiment("dense_from_scratch", start, **shared)
        if self.profile.name == "study":  # its results come from processors of both kinds
            float32 = {"label": "format=float32", "number_format": "float32", "recipe": recipe}
            yield "B", self._experiment("dense_from_scratch", start, **float32)
        for label, (first, later) in STAGE_SCORES.items():
            pruning = Stages(first, later, sparsity, self.profile.pruning_stages)
            yield "B" if label else "A", self._experiment("grasp_iterative", start, label=label, prune=pruning, **shared)
        for score in ("snip", "random", "grasp", "synflow", "magnitude_init"):
            pruning = Saliency(score, sparsity, scores.ROUNDS.get(score, 1))
            yield "A" if score in ("snip", "random") else "B", self._experiment(score, start, prune=pruning, **shared)
            if score not in ("snip", "grasp"):
                continue
            checks = {
                "shuffled": {"shuffled": True},
                "reinitialized": {"retrain": self._new(self.seed + 1000)},
                "inverted": {"inverted": True},
            }
            for label, changed in checks.items():
                checked = replace(pruning, **changed)
                yield "C", self._experiment(score, start, label=label, prune=checked, recipe=recipe)
