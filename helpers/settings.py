"""Profiles as data, and the folders: the one module that knows every budget and every path.

Environment overrides: PROFILE, SPARSITY, CIFAR_DIR, WEIGHTS_DIR, BUILD_DIR, RESULTS_DIR, REPORT_DIR.
"""

import difflib
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Start:
    """How a new network's head begins: its weights (torch's default, or larger as He et al. 2015) and its dropout.

    Decided by the dense control on validation images; docs/trials.md has the figures.
    """

    large_head: bool = False
    dropout: float = 0.0  # in few epochs nothing overfits


@dataclass(frozen=True)
class Profile:
    """One scale of the same study. Budgets are epochs; learning rates are peaks of a one-cycle schedule."""

    name: str
    datasets: tuple[str, ...]
    width_divisor: int  # of VGG16-BN's widths
    weights: str  # where the dense network comes from: "given" files, or "trained" here
    seeds: tuple[int, ...]
    batch_size: int
    dropout: float  # in the head, when a trained network is trained on
    dense_epochs: int  # only where weights == "trained"
    finetune_epochs: int
    init_epochs: int  # every method that prunes at or during training from nothing, and its dense control
    init_batch_size: int  # of the same trainings: in few epochs they need many steps
    channel_epochs: int
    channel_scratch_epochs: int
    curve_epochs: int  # accuracy against compression
    macs_curve_epochs: int  # accuracy against MACs
    scratch_lr: float
    finetune_lr: float
    scan_images: int
    statistics_images: int  # for channel selection
    timing_seconds: float  # for one latency figure
    positions: int = 10  # random positions an image, for channel selection
    magnitude_sparsity_pct: float = 80.33
    saliency_sparsity_pct: float = 80.0
    pruning_stages: int = 5
    width_multiple: int = 8  # channels are taken that many at a time
    macs_share: float = 41.782 / 314.003466  # the original report's MACs over the dense network's, same counter
    start: Start = Start()
    starts: tuple[tuple[str, Start], ...] = ()  # data sets that begin otherwise
    init_seeds: tuple[int, ...] = (0,)  # of the trainings that `init_epochs` is about, as the next three
    init_lr: float | None = None  # peak; None: `scratch_lr`
    small_epochs: int = 0  # at the beginning, on small images
    label_smoothing: float = 0.0
    methods: tuple[str, ...] = ()  # of its plan, "method" or "method label"; none named: all
    without: tuple[str, ...] = ()  # methods and labels that its plan leaves out
    ranks: str = "ABC"  # of the experiments in its plan (see `experiments.Ranked`)

    def start_of(self, dataset: str) -> Start:
        """How trainings from nothing begin on a data set."""
        return dict(self.starts).get(dataset, self.start)


_STUDY = Profile(
    name="study",
    datasets=("cifar10", "cifar100"),
    width_divisor=1,
    weights="given",
    seeds=(0, 1, 2),
    batch_size=256,
    init_batch_size=128,
    dropout=0.2,
    dense_epochs=0,
    finetune_epochs=4,
    init_epochs=5,
    channel_epochs=8,
    channel_scratch_epochs=12,
    curve_epochs=2,
    macs_curve_epochs=4,
    scratch_lr=0.1,
    finetune_lr=0.05,
    scan_images=5000,
    statistics_images=5000,
    timing_seconds=2.0,
    # several starts at a quarter of the width (see "quarter") tell more of these than one at the whole width
    without=("random", "synflow", "magnitude_init", "shuffled", "reinitialized", "inverted", "signed"),
    # the head makes no difference on CIFAR-10, but its results are older than the choice of no dropout
    starts=(("cifar10", Start(large_head=True, dropout=0.2)),),
)
PROFILES = {
    "demo": Profile(
        name="demo",
        datasets=("digits",),
        width_divisor=8,
        weights="trained",
        seeds=(0,),
        batch_size=32,
        init_batch_size=32,
        dropout=0.0,
        dense_epochs=8,
        finetune_epochs=2,
        init_epochs=5,
        channel_epochs=3,
        channel_scratch_epochs=6,
        curve_epochs=1,
        macs_curve_epochs=2,
        scratch_lr=0.02,
        finetune_lr=0.01,
        scan_images=300,
        statistics_images=500,
        timing_seconds=0.05,
        ranks="AB",
        width_multiple=2,
    ),
    "study": _STUDY,
    "quarter": replace(
        _STUDY,
        name="quarter",
        width_divisor=4,
        weights="trained",
        dense_epochs=8,
        init_epochs=8,
        init_seeds=(0, 1, 2),
        init_lr=0.15,
        init_batch_size=256,
        small_epochs=5,
        label_smoothing=0.1,
        starts=(),
        without=("fast",),  # how far few epochs reach is asked of the whole width
        methods=(
            *("dense_from_scratch", "grasp_iterative", "grasp", "snip", "synflow", "magnitude_init", "random"),
            *("layerwise_magnitude rewound", "layerwise_magnitude reinitialized"),
        ),
    ),
    "paper": replace(
        _STUDY,
        name="paper",
        weights="trained",
        init_batch_size=256,
        without=(),
        dense_epochs=60,
        finetune_epochs=10,
        init_epochs=30,
        channel_epochs=15,
        channel_scratch_epochs=30,
        curve_epochs=3,
        macs_curve_epochs=10,
        start=Start(dropout=0.2),
        starts=(),
    ),
}


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """`name` if it is one of `known`; ValueError suggesting the nearest one otherwise."""
    known = list(known)
    if name in known:
        return name
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(map(repr, known))}"
    raise ValueError(f"unknown {kind} {name!r}: {hint}")


def profile(name: str | None = None) -> Profile:
    """The profile of that name, else of $PROFILE, else "demo"; $SPARSITY (0 … 1) prunes the demo's networks to that share."""
    chosen = PROFILES[choose("profile", name or os.environ.get("PROFILE") or "demo", PROFILES)]
    if not (wanted := os.environ.get("SPARSITY")):
        return chosen
    try:
        sparsity_pct = 100 * float(wanted)
    except ValueError:
        sparsity_pct = math.nan
    if not 0 < sparsity_pct < 100:
        raise ValueError(f"SPARSITY={wanted} is not a share of zeros between 0 and 1, such as 0.9")
    if chosen.name != "demo":
        raise ValueError(f"SPARSITY changes the demo only; the profile {chosen.name!r} shows results made at its own sparsities")
    return replace(chosen, magnitude_sparsity_pct=sparsity_pct, saliency_sparsity_pct=sparsity_pct)


# Paths -----------------------------------------------------------------------------------------------------------


def _directory(variable: str, default: Path) -> Path:
    return Path(os.environ[variable]).expanduser().resolve() if os.environ.get(variable) else default


def build_dir(profile_name: str) -> Path:
    """Everything that can be made again: caches, checkpoints, trained networks; the demo's pages and results."""
    return _directory("BUILD_DIR", ROOT / "build") / profile_name


def results_dir(profile_name: str) -> Path:
    base = _directory("RESULTS_DIR", ROOT / "results") / profile_name
    return build_dir(profile_name) / "results" if profile_name == "demo" and not os.environ.get("RESULTS_DIR") else base


def _commits(profile_name: str) -> bool:
    """Whether pages and figures of this profile go where the committed ones lie."""
    return profile_name == "study" and not any(os.environ.get(name) for name in ("REPORT_DIR", "RESULTS_DIR", "BUILD_DIR"))


def report_dir(profile_name: str) -> Path:
    """Where pages go: reports/ for the study in its own folders, else beside the build, so that no other run overwrites them."""
    return ROOT / "reports" if _commits(profile_name) else _directory("REPORT_DIR", build_dir(profile_name))


def figure_path(profile_name: str, name: str) -> Path:
    return (ROOT if _commits(profile_name) else report_dir(profile_name)) / "figures" / f"{name}.png"


def result_path(profile_name: str, dataset: str, name: str) -> Path:
    return results_dir(profile_name) / dataset / f"{name}.json"


def facts_path(profile_name: str, dataset: str) -> Path:
    """What pages show of a data set and no single result holds."""
    return results_dir(profile_name) / f"{dataset}-facts.json"


def contenders_path(profile_name: str, dataset: str) -> Path:
    """What was timed beside the results in other engines (see `contenders`)."""
    return results_dir(profile_name) / f"{dataset}-contenders.json"


def scan_path(profile_name: str, name: str) -> Path:
    """What several results are decided from (validation scans, reconstruction errors): kept with the results."""
    return results_dir(profile_name) / "scans" / name


def errors_path(profile_name: str, dataset: str, images: int) -> Path:
    """The error curves of a data set's layers (`pruning.errors`), from so many images."""
    return scan_path(profile_name, f"{dataset}-errors-{images}.json")


def kept_path(profile_name: str, dataset: str, name: str) -> Path:
    """A result's masks, or its network where that is small: kept with the results."""
    return results_dir(profile_name) / "networks" / dataset / f"{name}.safetensors"


def network_path(profile_name: str, dataset: str, name: str) -> Path:
    """A result's whole network: too large to keep with the results."""
    return build_dir(profile_name) / "networks" / dataset / f"{name}.safetensors"


def checkpoint_path(profile_name: str, dataset: str, name: str) -> Path:
    return build_dir(profile_name) / "checkpoints" / dataset / f"{name}.safetensors"


def lock_path(profile_name: str, *parts: str) -> Path:
    return build_dir(profile_name).joinpath("locks", *parts[:-1], f"{parts[-1]}.lock")


def cache_path(name: str) -> Path:
    return _directory("BUILD_DIR", ROOT / "build") / "cache" / name


def cifar_dir() -> Path | None:
    """Where CIFAR lies ($CIFAR_DIR), if anywhere."""
    return _directory("CIFAR_DIR", ROOT) if os.environ.get("CIFAR_DIR") else None


def download_dir() -> Path:
    return ROOT / "data"


def weights_path(dataset: str) -> Path:
    return _directory("WEIGHTS_DIR", ROOT / "weights") / f"vgg16_bn_{dataset}.safetensors"
