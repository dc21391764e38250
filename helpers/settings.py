"""Profiles and names: the one module that knows every budget and every path.

Environment overrides: PROFILE, CIFAR_DIR, WEIGHTS_DIR, BUILD_DIR, RESULTS_DIR, REPORT_DIR.
"""

import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Start:
    """How a training from initialisation begins: the head's weights (torch's default or larger) and its dropout.

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
    weights: str  # where the dense network comes from: "local" files or "train"
    seeds: tuple[int, ...]
    batch_size: int
    dropout: float  # in the head, when a trained network is trained on
    dense_epochs: int  # only where weights == "train"
    finetune_epochs: int
    init_epochs: int  # every method that prunes at or during training from scratch, and its dense control
    init_batch_size: int  # of the same trainings: in few epochs they need many steps
    channel_epochs: int
    channel_scratch_epochs: int
    curve_epochs: int  # accuracy against compression
    macs_curve_epochs: int  # accuracy against MACs
    scratch_lr: float
    finetune_lr: float
    scan_images: int
    statistics_images: int  # for channel selection
    positions: int  # random positions an image, for channel selection
    timing_seconds: float  # for one latency figure
    magnitude_sparsity_pct: float = 80.33
    saliency_sparsity_pct: float = 80.0
    pruning_stages: int = 5
    macs_share: float = 41.782 / 314.003466  # the write-up's MACs over the dense network's, same counter
    start: Start = Start()
    starts: tuple[tuple[str, Start], ...] = ()  # data sets that begin otherwise

    def start_of(self, dataset: str) -> Start:
        """How trainings from initialisation begin on a data set."""
        return dict(self.starts).get(dataset, self.start)


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="demo",
            datasets=("digits",),
            width_divisor=4,
            weights="train",
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
            positions=10,
            timing_seconds=0.05,
        ),
        Profile(
            name="study",
            datasets=("cifar10", "cifar100"),
            width_divisor=1,
            weights="local",
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
            positions=10,
            timing_seconds=2.0,
            # the head makes no difference on CIFAR-10, but its rows are older than the choice of no dropout
            starts=(("cifar10", Start(large_head=True, dropout=0.2)),),
        ),
        Profile(
            name="paper",
            datasets=("cifar10", "cifar100"),
            width_divisor=1,
            weights="train",
            seeds=(0, 1, 2),
            batch_size=256,
            init_batch_size=256,
            dropout=0.2,
            dense_epochs=160,
            finetune_epochs=40,
            init_epochs=160,
            channel_epochs=60,
            channel_scratch_epochs=160,
            curve_epochs=10,
            macs_curve_epochs=40,
            scratch_lr=0.1,
            finetune_lr=0.05,
            scan_images=5000,
            statistics_images=5000,
            positions=10,
            timing_seconds=2.0,
            start=Start(dropout=0.2),
        ),
    )
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
    """The profile of that name, else of $PROFILE, else "demo"."""
    return PROFILES[choose("profile", name or os.environ.get("PROFILE") or "demo", PROFILES)]


# Paths -----------------------------------------------------------------------------------------------------------


def _directory(variable: str, default: Path) -> Path:
    return Path(os.environ[variable]).expanduser().resolve() if os.environ.get(variable) else default


def build_dir(profile_name: str) -> Path:
    """Everything that can be made again: caches, checkpoints, trained networks; the demo's pages and rows."""
    return _directory("BUILD_DIR", ROOT / "build") / profile_name


def results_dir(profile_name: str) -> Path:
    base = _directory("RESULTS_DIR", ROOT / "results") / profile_name
    return build_dir(profile_name) / "results" if profile_name == "demo" and not os.environ.get("RESULTS_DIR") else base


def report_dir(profile_name: str) -> Path:
    if os.environ.get("REPORT_DIR"):
        return _directory("REPORT_DIR", ROOT)
    return ROOT / "reports" if profile_name == "study" else build_dir(profile_name)


def figure_path(profile_name: str, name: str) -> Path:
    base = (
        ROOT / "figures" if profile_name == "study" and not os.environ.get("REPORT_DIR") else report_dir(profile_name) / "figures"
    )
    return base / f"{name}.png"


def row_path(profile_name: str, dataset: str, row_id: str) -> Path:
    return results_dir(profile_name) / dataset / f"{row_id}.json"


def scan_path(profile_name: str, name: str) -> Path:
    """What several rows are decided from (validation scans, reconstruction errors): a raw fact, kept with the rows."""
    return results_dir(profile_name) / "scans" / name


def lock_path(profile_name: str, *parts: str) -> Path:
    return build_dir(profile_name).joinpath("locks", *parts[:-1], f"{parts[-1]}.lock")


def network_path(profile_name: str, dataset: str, row_id: str) -> Path:
    return build_dir(profile_name) / "networks" / dataset / f"{row_id}.safetensors"


def checkpoint_path(profile_name: str, dataset: str, row_id: str) -> Path:
    return build_dir(profile_name) / "checkpoints" / dataset / f"{row_id}.safetensors"


def cache_path(name: str) -> Path:
    return _directory("BUILD_DIR", ROOT / "build") / "cache" / name


def cifar_dir() -> Path | None:
    """Where Parquet files of CIFAR lie ($CIFAR_DIR), if anywhere."""
    return _directory("CIFAR_DIR", ROOT) if os.environ.get("CIFAR_DIR") else None


def download_dir() -> Path:
    return ROOT / "data"


def weights_path(dataset: str) -> Path:
    return _directory("WEIGHTS_DIR", ROOT / "weights") / f"vgg16_bn_{dataset}.safetensors"
