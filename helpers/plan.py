"""Which rows the study has, in the order they are computed: what the report cannot do without first."""

from collections.abc import Iterator
from dataclasses import dataclass

from helpers import settings
from helpers.results import RowKey
from helpers.settings import Profile

TOPICS = ("baseline", "magnitude", "saliency", "channels")
WRONG_NORMALIZATIONS = ("none", "half", "imagenet")
INIT_METHODS = ("snip", "random", "dense_from_scratch", "grasp_iterative", "grasp", "synflow", "magnitude_init")
CURVE_PCT = (50.0, 75.0, 80.0, 87.5, 93.75, 96.875)  # 2×, 4×, 5×, 8×, 16×, 32× fewer weights
CURVE_FINETUNED_PCT = (50.0, 75.0, 87.5, 93.75)
MACS_CURVE = {"macs=2x": 2.0, "macs=4x": 4.0, "macs=7.5x": None, "macs=12x": 12.0}  # None: the main row's budget of MACs
SHORTER = "macs=7.5x"  # the main row's network, fine-tuned no longer than the dense control and the curve's others
STAGE_SCORES = {  # variant of iterative GraSP → its score before training, and during it
    "": ("grasp", "grasp_preserving"),
    "preserving": ("grasp_absolute", "grasp_preserving"),
    "signed": ("grasp", "grasp"),
}
FLOAT32 = "format=float32"  # the dense control once more, for rows of processors on which bfloat16 is not fast
ABLATIONS = ("no_reconstruction", "symmetric", "widths=uniform", "widths=he", "unrounded")


@dataclass(frozen=True)
class Planned:
    """One row to be computed. Tier "A" rows carry the report, "B" rows deepen it, "C" rows are ablations and checks."""

    key: RowKey
    topic: str
    tier: str


def plan(profile: Profile, topic: str | None = None) -> list[Planned]:
    """All rows of a profile (or of one topic), tier A first, then by data set."""
    if topic is not None:
        settings.choose("topic", topic, TOPICS)
    rows = [row for dataset in profile.datasets for row in _of(profile, dataset) if topic in (None, row.topic)]
    return sorted(rows, key=lambda row: row.tier)  # stable: within a tier the order below stands


def variants(method: str) -> set[str]:
    """The variants of a method that some profile plans; another name would silently be made as the main row."""
    rows = (row for profile in settings.PROFILES.values() for dataset in profile.datasets for row in _of(profile, dataset))
    return {""} | {row.key.variant for row in rows if row.key.method == method}


def _of(profile: Profile, dataset: str) -> Iterator[Planned]:
    magnitude, saliency = profile.magnitude_sparsity_pct, profile.saliency_sparsity_pct
    first, *others = profile.seeds

    def row(tier: str, topic: str, method: str, sparsity: float | None = None, seed: int = first, variant: str = "") -> Planned:
        return Planned(RowKey(dataset, method, sparsity, seed, variant), topic, tier)

    yield row("A", "baseline", "dense")
    for name in WRONG_NORMALIZATIONS:
        yield row("A", "baseline", "dense", variant=f"normalization={name}")
    yield row("A", "magnitude", "layerwise_magnitude", magnitude)
    yield row("A", "magnitude", "dense_finetuned")
    for method in ("lasso_channels", "l1_filters", "lasso_channels_from_scratch"):
        yield row("A", "channels", method)
    for method in INIT_METHODS:
        tier = "A" if method in ("snip", "random", "dense_from_scratch", "grasp_iterative") else "B"
        yield row(tier, "saliency", method, None if method == "dense_from_scratch" else saliency)
    if profile.name == "study":  # its rows come from processors of both kinds
        yield row("B", "saliency", "dense_from_scratch", variant=FLOAT32)

    for method in ("layerwise_magnitude", "global_magnitude", "uniform_magnitude"):
        for sparsity in CURVE_PCT:
            yield row("B", "magnitude", method, sparsity, variant="curve")
    for ablation in ABLATIONS:
        yield row("B" if ablation == "unrounded" else "C", "channels", "lasso_channels", variant=ablation)
    for method in ("global_magnitude", "uniform_magnitude"):
        yield row("B", "magnitude", method, magnitude)
    yield row("B", "channels", "random_channels")
    for variant in MACS_CURVE:
        yield row("B", "channels", "lasso_channels", variant=variant)
    for seed in others:
        yield row("B", "magnitude", "layerwise_magnitude", magnitude, seed)
        yield row("B", "magnitude", "dense_finetuned", seed=seed)
        yield row("B", "channels", "lasso_channels", seed=seed)
        yield row("B", "channels", "l1_filters", seed=seed)
    for sparsity in CURVE_FINETUNED_PCT:
        yield row("B", "magnitude", "layerwise_magnitude", sparsity, variant="curve_finetuned")
    yield row("B", "magnitude", "dense_finetuned", variant="normalization=half")
    for name in ("none", "imagenet"):
        yield row("C", "magnitude", "dense_finetuned", variant=f"normalization={name}")
    for variant in filter(None, STAGE_SCORES):
        yield row("B", "saliency", "grasp_iterative", saliency, variant=variant)
    for method in ("grasp", "snip"):
        for check in ("shuffled", "reinitialized", "inverted"):
            yield row("C", "saliency", method, saliency, variant=check)
    yield row("C", "magnitude", "layerwise_magnitude", magnitude, variant="reinitialized")
    if profile.weights == "train":
        yield row("C", "magnitude", "layerwise_magnitude", magnitude, variant="rewound")
