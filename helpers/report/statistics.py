"""Uncertainty of accuracies: what a difference between two rows is worth.

Two kinds of noise are kept apart. *Test-image noise*: another 10,000 images would have given another accuracy; it
follows from the rows' correctness bits, image by image (Wilson, McNemar, bootstrap). *Seed noise*: the same method
trained again gives another network; it follows from rows of several seeds only. A difference has to be larger than
both together before it is called one.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as exact_mcnemar
from statsmodels.stats.proportion import proportion_confint

from helpers import budget, results
from helpers.report.tables import number_text

CONFIDENCE = 0.95
RESAMPLES = 20_000
# Standard deviation, in points, of the CIFAR-10 accuracy of a dense VGG16 over 246 trainings at about 93.5 % of 10,000
# images, computed from published raw results. Used, scaled by the binomial spread, where rows have too few seeds.
PUBLISHED_SEED_SD, PUBLISHED_TOP1, PUBLISHED_IMAGES, PUBLISHED_TRAININGS = 0.19, 0.935, 10_000, 246
ENOUGH_SEEDS = 3  # degrees of freedom for a spread of our own

Row = Mapping


@dataclass(frozen=True)
class Interval:
    """A value in percent or points with its 95 % limits."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class McNemar:
    """Images that only one of two networks gets right, and the exact two-sided p-value of their being equally many."""

    only_a: int
    only_b: int
    p: float


@dataclass(frozen=True)
class SeedNoise:
    """Standard deviation over seeds in points, where it comes from, and from how many degrees of freedom."""

    sd: float
    source: str
    freedom: int

    def reach(self, alpha: float = 1 - CONFIDENCE) -> float:
        """Half the width of a single training's interval, in points: a spread of few seeds is itself uncertain (t)."""
        return float(stats.t.ppf(1 - alpha / 2, self.freedom)) * self.sd


@dataclass(frozen=True)
class Comparison:
    """Top-1 of a minus top-1 of b, in points.

    `images` holds the paired bootstrap's limits (test-image noise alone), `total` those with seed noise added, which
    decide. `formats` are the number formats (a's, b's) in which they were trained, where those differ: then nothing is
    decided, since the format may have its share in the difference. `left_out` trainings were in a format of one side only.
    """

    images: Interval
    total: Interval
    p: float
    seeds: tuple[int, int]
    alpha: float = 1 - CONFIDENCE
    formats: tuple[str, str] | None = None
    left_out: int = 0

    @property
    def difference(self) -> float:
        return self.total.value

    @property
    def decided(self) -> bool:
        """Whether the difference is larger than test-image and seed noise together, and nothing else can be its cause."""
        return self.formats is None and self.beyond_noise

    @property
    def beyond_noise(self) -> bool:
        return (self.total.low > 0 or self.total.high < 0) and self.p < self.alpha


# Correctness bits -------------------------------------------------------------------------------------------------


def correctness(row: Row) -> np.ndarray:
    """Which test images the row's network got right, bool (N,).

    The bits are packed in eights: N is the row's `test_images` where it has one, else all bits count, which is right
    for 10,000 images and for every other multiple of eight. Raises ValueError where bits and top-1 disagree.
    """
    text = row.get("correct")
    if not text:
        raise ValueError(f"the row {_name(row)} does not say which test images were right")
    bits = results.unpack_bits(text, row.get("test_images"))
    if row.get("top1_pct") is not None and not math.isclose(100 * bits.mean(), row["top1_pct"], abs_tol=0.005):
        raise ValueError(f"the row {_name(row)} says {row['top1_pct']} % top-1, its bits {100 * bits.mean():.2f} %")
    return bits


def wilson(right: int | Row, total: int | None = None) -> Interval:
    """Accuracy in percent with its Wilson score interval, from counts or from a row."""
    if isinstance(right, Mapping):
        bits = correctness(right)
        right, total = int(bits.sum()), len(bits)
    low, high = proportion_confint(right, total, alpha=1 - CONFIDENCE, method="wilson")
    return Interval(100 * right / total, 100 * float(low), 100 * float(high))


# Two rows ---------------------------------------------------------------------------------------------------------


def mcnemar(a: Row, b: Row) -> McNemar:
    """Exact McNemar test on the images of two rows of one data set."""
    right_a, right_b = _paired(a, b)
    table = [[int((x & y).sum()) for y in (right_b, ~right_b)] for x in (right_a, ~right_a)]
    # with no discordant image there is nothing to test, and the binomial test of 0 in 0 is undefined
    p = float(exact_mcnemar(table, exact=True).pvalue) if table[0][1] + table[1][0] else 1.0
    return McNemar(table[0][1], table[1][0], min(p, 1.0))


def paired_bootstrap(a: Row, b: Row, alpha: float = 1 - CONFIDENCE) -> Interval:
    """Top-1 of a minus that of b in points, with percentile limits over resampled test images.

    An image counts +1 where only a is right, −1 where only b is, else 0. Drawing n images with replacement is drawing
    how often each of the three comes, a multinomial: the bootstrap distribution itself, without moving any image.
    """
    right_a, right_b = _paired(a, b)
    count, gains, losses = len(right_a), int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    shares = [gains / count, losses / count, (count - gains - losses) / count]
    drawn = stats.multinomial(count, shares, seed=np.random.default_rng(0)).rvs(RESAMPLES)
    points = 100 * (drawn[:, 0] - drawn[:, 1]) / count
    low, high = np.quantile(points, [alpha / 2, 1 - alpha / 2])
    return Interval(100 * (gains - losses) / count, float(low), float(high))


def _paired(a: Row, b: Row) -> tuple[np.ndarray, np.ndarray]:
    if a.get("dataset") != b.get("dataset"):
        raise ValueError(f"{_name(a)} and {_name(b)} were tested on different images")
    right_a, right_b = correctness(a), correctness(b)
    if len(right_a) != len(right_b):
        raise ValueError(f"{_name(a)} and {_name(b)} were tested on {len(right_a)} and {len(right_b)} images")
    return right_a, right_b


# Seeds ------------------------------------------------------------------------------------------------------------


def seed_noise(rows: Sequence[Row], dataset: str, from_initialization: bool, top1_pct: float, images: int) -> SeedNoise:
    """The standard deviation over seeds on a data set, of trainings that start from new weights or of those that do not.

    Pooled over all methods of that kind that have rows of several seeds: trainings from one trained network end closer
    together than trainings from nothing, so one kind says nothing of the other. What another number format adds to a
    seed's difference counts as noise. Where there are fewer than three degrees of freedom, the published figure of
    CIFAR-10, scaled to the accuracy and the number of images at hand as a binomial spread is.
    """
    groups, formats = [], set()
    alike = (r for r in rows if r.get("dataset") == dataset and r.get("epochs") and _is_new(r) == from_initialization)
    for _, members in itertools.groupby(sorted(alike, key=_group), key=_group):
        by_seed = {row["seed"]: row for row in members}
        if len(by_seed) > 1:
            groups.append([row["top1_pct"] for row in by_seed.values()])
            formats |= {row.get("train_dtype") for row in by_seed.values()}
    freedom = sum(len(group) - 1 for group in groups)
    if freedom >= ENOUGH_SEEDS:
        pooled = sum((len(group) - 1) * float(np.var(group, ddof=1)) for group in groups) / freedom
        source = f"pooled over {len(groups)} methods with several seeds"
        source += ", not all in one number format" if len(formats) > 1 else ""
        return SeedNoise(math.sqrt(pooled), source, freedom)
    accuracy = min(max(top1_pct / 100, 1 / images), 1 - 1 / images)
    ratio = accuracy * (1 - accuracy) / images / (PUBLISHED_TOP1 * (1 - PUBLISHED_TOP1) / PUBLISHED_IMAGES)
    source = f"published spread of {PUBLISHED_TRAININGS} dense networks, scaled"
    return SeedNoise(PUBLISHED_SEED_SD * math.sqrt(ratio), source, PUBLISHED_TRAININGS - 1)


def _is_new(row: Row) -> bool:
    return budget.from_initialization(row.get("method") or "", row.get("variant") or "")


def compare(a: Sequence[Row], b: Sequence[Row], rows: Sequence[Row] = (), *, tests: int = 1) -> Comparison:
    """Two methods, each given as its rows over seeds; `rows` are all rows, for the seed noise.

    `tests` is the number of comparisons of which one is enough for what is asked: limits and p-value's threshold are
    widened so that all of them together err as rarely as one (Bonferroni).

    Networks are paired by seed where both have it, and otherwise a's first with b's first. A row that was not trained
    (`epochs` 0 or missing) is a fixed network and brings no seed noise. The p-value is the largest over the pairs.
    Of trainings in several number formats, those in a format of both methods are compared, where there is one.
    """
    if not a or not b:
        raise ValueError("a comparison takes at least one row of each method")
    given = len(a) + len(b)
    formats = [{row["train_dtype"] for row in group if row.get("train_dtype")} for group in (a, b)]
    if both := set.intersection(*formats):
        a, b = ([row for row in group if row.get("train_dtype") in both] for group in (a, b))
    by_seed_a, by_seed_b = ({row.get("seed"): row for row in group} for group in (a, b))
    shared = [seed for seed in by_seed_a if seed in by_seed_b]
    pairs = [(by_seed_a[s], by_seed_b[s]) for s in shared] or [(a[0], b[0])]
    alpha = (1 - CONFIDENCE) / tests
    boots = [paired_bootstrap(x, y, alpha) for x, y in pairs]
    images = Interval(*(float(np.mean([getattr(boot, field) for boot in boots])) for field in ("value", "low", "high")))
    difference = float(np.mean([row["top1_pct"] for row in a]) - np.mean([row["top1_pct"] for row in b]))
    images = Interval(difference, *(difference + limit - images.value for limit in (images.low, images.high)))
    level, count = float(np.mean([r["top1_pct"] for r in (*a, *b)])), len(correctness(a[0]))
    trained = [group for group in (a, b) if group[0].get("epochs")]
    noises = [seed_noise(rows, group[0].get("dataset"), _is_new(group[0]), level, count) for group in trained]
    seeds = [noise.reach(alpha) / math.sqrt(len(group)) for noise, group in zip(noises, trained, strict=True)]
    reach = [math.hypot(limit - difference, *seeds) for limit in (images.low, images.high)]
    total = Interval(difference, difference - reach[0], difference + reach[1])
    unlike = tuple("/".join(sorted(names)) for names in formats) if all(formats) and not both else None
    p, left_out = max(mcnemar(x, y).p for x, y in pairs), given - len(a) - len(b)
    return Comparison(images, total, p, (len(a), len(b)), alpha, unlike, left_out)


# Words ------------------------------------------------------------------------------------------------------------


def signed(points: float, digits: int = 2) -> str:
    """A difference with its sign: "+0.40", "−1.25", "0.00"."""
    text = number_text(points, digits)
    return text if text.startswith("−") or not float(text.replace("\u202f", "")) else f"+{text}"


def p_text(p: float) -> str:
    """A p-value that no line break parts."""
    return "p\u00a0<\u00a00.001" if p < 0.001 else f"p\u00a0=\u00a0{p:.3f}"


def _group(row: Row) -> tuple:
    return (row.get("method") or "", row.get("variant") or "", row.get("target_sparsity_pct") or 0.0, row.get("epochs") or 0)


def _name(row: Row) -> str:
    return " ".join(str(row[key]) for key in ("dataset", "method", "variant") if row.get(key)) or "without a name"
