"""Uncertainty of accuracies: what a difference between two networks is worth.

*Test-image noise* follows from which images each network gets right: other images would have given another accuracy. *Seed
noise* follows from methods trained with several seeds. A difference has to exceed both together.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

ALPHA = 0.05  # intervals are at 95 %
RESAMPLES = 20_000
LEAST_FREEDOM = 2  # degrees of freedom of a seed noise of our own: three seeds of one method, or two of two
NETWORK = ["dataset", "method", "label", "target_sparsity_pct"]  # results that agree in these differ in their seed alone


@dataclass(frozen=True)
class Interval:
    value: float  # in percent or points, as its confidence limits
    low: float
    high: float


@dataclass(frozen=True)
class McNemar:
    only_a: int  # images that a alone gets right
    only_b: int
    p: float  # two-sided, of their being equally many


@dataclass(frozen=True)
class SeedNoise:
    sd: float  # standard deviation over seeds, in points
    freedom: int  # its degrees of freedom
    methods: int  # that it is pooled over

    def reach(self, alpha: float = ALPHA) -> float:
        """Half the width of a single training's interval, in points (Student's t, since the spread is itself estimated)."""
        return float(stats.t.ppf(1 - alpha / 2, self.freedom)) * self.sd


@dataclass(frozen=True)
class Comparison:
    """Mean top-1 of our trainings minus mean top-1 of theirs, in points, over all seeds of both.

    `images` holds test-image noise alone, `total` seed noise as well; `total` is None where the seed noise is not known.
    Limits are at 1 − `alpha`; `p` is of the test images alone; `seeds` counts the trainings of either side.
    """

    difference: float
    images: Interval
    total: Interval | None
    p: float
    seeds: tuple[int, int]
    alpha: float = ALPHA

    @property
    def decided(self) -> bool:
        """Whether the difference exceeds test-image and seed noise together."""
        return self.total is not None and (self.total.low > 0 or self.total.high < 0) and self.p < self.alpha

    @property
    def reason(self) -> str:
        """Why nothing is decided; "" where it is."""
        return "" if self.decided else "one seed" if self.total is None else "inside the noise"


def wilson(right: int, total: int, alpha: float = ALPHA) -> Interval:
    """Accuracy in percent of `right` images in `total` with its score interval (Wilson 1927)."""
    low, high = proportion_confint(right, total, alpha=alpha, method="wilson")
    return Interval(100 * right / total, 100 * float(low), 100 * float(high))


def mcnemar(a: np.ndarray, b: np.ndarray) -> McNemar:
    """Exact McNemar test of two networks; `a` and `b`: which of the same images each gets right, bool (N,)."""
    shares = _by_image(a, b)
    only_a, only_b = int((shares > 0).sum()), int((shares < 0).sum())
    # where no image tells the two apart there is nothing to test, and the binomial test of 0 in 0 is undefined
    p = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return McNemar(only_a, only_b, float(p))


def paired_bootstrap(ours: np.ndarray, theirs: np.ndarray, alpha: float = ALPHA) -> Interval:
    """Mean accuracy of ours minus that of theirs in points, with percentile limits over resampled test images.

    Either side: which images are right, bool (N,) for one training or (seeds, N); the numbers of seeds may differ. An image's
    share of the difference takes few values, and drawing images with replacement is drawing how often each value comes.
    """
    values, counts = np.unique(_by_image(ours, theirs), return_counts=True)
    drawn = stats.multinomial(count := counts.sum(), counts / count, seed=np.random.default_rng(0)).rvs(RESAMPLES)
    limits = np.quantile(100 * drawn @ values / count, [alpha / 2, 1 - alpha / 2])
    return Interval(100 * float(counts @ values) / count, *map(float, limits))


def from_nothing(experiment: Mapping) -> bool:
    """Whether a result's training started from new weights, not from a trained network; `experiment` as in the frame."""
    if not isinstance(experiment, Mapping) or "start" not in experiment:
        raise ValueError("the column 'experiment' must say in 'start' what each result's training began with")
    return "width_divisor" in experiment["start"] or bool((experiment.get("prune") or {}).get("retrain"))


def seed_noise(frame: pd.DataFrame, dataset: str, new: bool) -> SeedNoise | None:
    """The standard deviation over seeds on a data set, of trainings from nothing (`new`) or from a trained network.

    Pooled over all networks of that kind that have several seeds in the frame: trainings from one trained network end closer
    together than trainings from nothing, so one kind says nothing of the other. None where too few seeds are there.
    """
    groups: dict[str, list[float]] = {}
    columns = (frame[name] for name in (*NETWORK, "epochs", "top1_pct", "experiment"))
    for *network, epochs, top1, experiment in zip(*columns, strict=True):
        if network[0] == dataset and epochs > 0 and from_nothing(experiment) == new:
            groups.setdefault(f"{network} {epochs}", []).append(top1)
    several = [group for group in groups.values() if len(group) > 1]
    freedom, squares = sum(len(group) - 1 for group in several), sum(np.var(group) * len(group) for group in several)
    return SeedNoise(math.sqrt(squares / freedom), freedom, len(several)) if freedom >= LEAST_FREEDOM else None


def compare(ours: pd.DataFrame, theirs: pd.DataFrame, frame: pd.DataFrame, *, tests: int = 1) -> Comparison:
    """Two networks, each given by its results over seeds (all are used); `frame` holds all results, for the seed noise.

    A network that was not trained (`epochs` 0 or missing) is fixed and brings no seed noise. `tests` is the number of
    comparisons of which one is enough for what is asked: limits and threshold are widened so that all of them together err
    as rarely as one (Bonferroni). Raises ValueError for several networks on a side, other test images, a missing `correct`.
    """
    alpha, total = ALPHA / tests, None
    for side in (ours, theirs):
        if len(side[NETWORK].drop_duplicates()) != 1 or side["dataset"].iloc[0] != ours["dataset"].iloc[0]:
            raise ValueError("a comparison takes the results of one network on either side, tested on the same data set")
    a, b = _correct(ours), _correct(theirs)
    images = paired_bootstrap(a, b, alpha)
    trained = [side for side in (ours, theirs) if side["epochs"].iloc[0] > 0]
    noises = [seed_noise(frame, side["dataset"].iloc[0], from_nothing(side["experiment"].iloc[0])) for side in trained]
    seeds = [noise.reach(alpha) / math.sqrt(len(side)) for noise, side in zip(noises, trained, strict=True) if noise]
    if len(seeds) == len(trained):
        below, above = (math.hypot(limit - images.value, *seeds) for limit in (images.low, images.high))
        total = Interval(images.value, images.value - below, images.value + above)
    return Comparison(images.value, images, total, _p_value(a, b), (len(ours), len(theirs)), alpha)


def _correct(side: pd.DataFrame) -> np.ndarray:
    """(seeds, N); checked against the accuracies that are shown."""
    name = " ".join(filter(None, side[NETWORK[:3]].iloc[0]))
    for top1, correct in zip(side["top1_pct"], side["correct"], strict=True):
        if not isinstance(correct, np.ndarray):
            raise ValueError(f"{name} does not say which test images were right")
        if not math.isclose(counted := 100 * correct.mean(), top1, abs_tol=0.005):
            raise ValueError(f"{name} has {top1} % top-1, but {counted:.2f} % of its images are right")
    return np.stack(side["correct"].tolist())


def _by_image(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Each image's share of the difference, between −1 and 1; float (N,)."""
    ours, theirs = np.atleast_2d(ours), np.atleast_2d(theirs)
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(f"the networks were tested on {ours.shape[1]} and {theirs.shape[1]} images, which cannot be paired")
    # in whole numbers first, so that equal shares are equal
    return (ours.sum(0) * len(theirs) - theirs.sum(0) * len(ours)) / (len(ours) * len(theirs))


def _p_value(ours: np.ndarray, theirs: np.ndarray) -> float:
    """McNemar's for one training of each; of means over seeds, with the sign of every image's share drawn at random."""
    if len(ours) == len(theirs) == 1:
        return mcnemar(ours, theirs).p
    shares = _by_image(ours, theirs)
    return float(2 * stats.norm.sf(abs(shares.sum()) / math.sqrt((shares**2).sum() or 1)))
