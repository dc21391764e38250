import numpy as np
import pandas as pd
import pytest
from frames import bits, flipped, frame, result
from scipy import stats as scipy_stats

from helpers import statistics
from helpers.statistics import compare, mcnemar, paired_bootstrap, seed_noise, wilson

BASE = bits(90)


def seeds_of(**groups: tuple[float, ...]) -> pd.DataFrame:
    """Methods with several seeds, given their accuracies."""
    return frame(*(result(m, bits(top1), seed=s) for m, tops in groups.items() for s, top1 in enumerate(tops)))


# an own seed noise of 0.1 points for fine-tuned networks and of 1 point for those trained from nothing: two degrees of freedom
SPREAD = seeds_of(global_magnitude=(90.0, 90.1, 90.2), synflow=(70.0, 71.0, 72.0))
REACH = 4.3027  # Student's t at 97.5 % with two degrees of freedom


def one(correct: np.ndarray, method: str = "layerwise_magnitude", **columns) -> pd.DataFrame:
    return frame(result(method, correct, **columns))


def test_wilson_is_the_score_interval():
    # 9 of 10: centre (9 + z²/2) / (10 + z²)
    z = scipy_stats.norm.ppf(0.975)
    centre, half = (9 + z**2 / 2) / (10 + z**2), z / (10 + z**2) * np.sqrt(9 * 1 / 10 + z**2 / 4)
    assert (wilson(9, 10).low, wilson(9, 10).high) == (pytest.approx(100 * (centre - half)), pytest.approx(100 * (centre + half)))
    assert wilson(10, 10).high == pytest.approx(100) and wilson(9, 10, alpha=0.01).low < wilson(9, 10).low


def test_mcnemar_is_the_binomial_test_of_the_images_that_tell_two_networks_apart():
    test = mcnemar(np.array([1, 1, 1, 1, 0, 1], bool), np.array([0, 0, 0, 1, 1, 1], bool))
    assert (test.only_a, test.only_b) == (3, 1) and test.p == pytest.approx(10 / 16)  # 2 · (1 + 4) / 2⁴
    assert mcnemar(flipped(BASE, 30, 12), BASE).p == pytest.approx(scipy_stats.binomtest(12, 42).pvalue)
    assert mcnemar(BASE, BASE).p == 1


def test_bootstrap_agrees_with_the_normal_limits_and_is_reproducible():
    other = flipped(BASE, 300, 200)
    first, again = (paired_bootstrap(other, BASE) for _ in range(2))
    half = 1.96 * 100 * np.sqrt(500 / 10_000 - 0.01**2) / 100
    assert first == again and first.value == pytest.approx(1.0)
    assert (first.low, first.high) == (pytest.approx(1 - half, abs=0.04), pytest.approx(1 + half, abs=0.04))
    same = paired_bootstrap(BASE, BASE)
    assert (same.low, same.value, same.high) == (0, 0, 0)


def test_bootstrap_over_several_seeds_resamples_the_mean_of_each_image():
    ours = np.stack([flipped(BASE, 300, 200, seed) for seed in range(3)])
    theirs = np.stack([flipped(BASE, 50, 50, 9 + seed) for seed in range(2)])
    found, shares = paired_bootstrap(ours, theirs), 100 * (ours.mean(0) - theirs.mean(0))
    half = 1.96 * shares.std() / 100
    assert found.value == pytest.approx(shares.mean()) == pytest.approx(1.0)
    assert (found.low, found.high) == (pytest.approx(1 - half, abs=0.04), pytest.approx(1 + half, abs=0.04))
    repeated = paired_bootstrap(ours[[0, 0, 0]], BASE)  # the same training thrice tells no more than once
    assert repeated == paired_bootstrap(ours[0], BASE)


def test_networks_that_saw_other_images_are_not_compared():
    with pytest.raises(ValueError, match="10000 and 400"):
        mcnemar(BASE, bits(90, 400))
    with pytest.raises(ValueError, match="same data set"):
        compare(one(BASE), one(BASE, dataset="cifar100"), SPREAD)
    with pytest.raises(ValueError, match="results of one network"):
        compare(one(BASE), frame(), SPREAD)
    with pytest.raises(ValueError, match="results of one network"):
        compare(SPREAD, one(BASE), SPREAD)


def test_bits_that_are_absent_or_contradict_the_accuracy_are_refused():
    with pytest.raises(ValueError, match="cifar10 m has 50"):
        compare(one(BASE, "m", top1_pct=50.0), one(BASE), SPREAD)
    with pytest.raises(ValueError, match="which test images"):
        compare(one(BASE).assign(correct=None), one(BASE), SPREAD)


def test_seed_noise_is_pooled_over_methods_that_have_several_seeds():
    noise = seed_noise(seeds_of(snip=(90.0, 90.4), grasp=(80.0, 80.2), random=(70.0, 70.6)), "cifar10", True)
    assert noise.sd == pytest.approx(np.sqrt((0.4**2 + 0.2**2 + 0.6**2) / 2 / 3)) and (noise.freedom, noise.methods) == (3, 3)
    assert noise.reach() == pytest.approx(3.1824 * noise.sd, rel=1e-4)  # Student's t, not 1.96
    assert seed_noise(seeds_of(snip=(1.0, 2.0, 3.0)), "cifar10", True).sd == pytest.approx(1)
    assert seed_noise(SPREAD, "cifar10", True).sd == pytest.approx(1) and seed_noise(SPREAD, "cifar10", False).sd < 0.11


def test_without_several_seeds_of_its_kind_there_is_no_seed_noise():
    assert seed_noise(seeds_of(snip=(90.0, 90.4)), "cifar10", True) is None  # one degree of freedom
    assert seed_noise(seeds_of(snip=(90.0, 90.4, 90.2)), "cifar10", False) is None
    assert seed_noise(seeds_of(snip=(90.0, 90.4, 90.2)), "cifar100", True) is None
    # two budgets of one method are not two seeds of it, and a network that was not trained has no seed
    budgets = frame(*(result("snip", bits(80 + e), epochs=e, seed=s) for e, s in ((1, 0), (2, 1), (3, 2), (9, 3))))
    assert seed_noise(budgets, "cifar10", True) is None
    assert seed_noise(SPREAD.assign(epochs=np.nan), "cifar10", True) is None


def test_what_training_began_with_is_read_from_the_decisions():
    assert statistics.from_nothing({"start": {"width_divisor": 4}}) and not statistics.from_nothing({"start": {"dropout": 0.1}})
    assert statistics.from_nothing({"start": {"dropout": 0.1}, "prune": {"retrain": {"width_divisor": 4}}})
    with pytest.raises(ValueError, match="'experiment'"):
        seed_noise(SPREAD.assign(experiment=None), "cifar10", True)


def test_the_difference_is_that_of_the_means_over_all_seeds_in_whatever_format():
    ours = frame(*(result("snip", bits(top1), seed=s) for s, top1 in enumerate((80.0, 81.0, 83.0))))
    theirs = frame(*(result("random", bits(top1), seed=s) for s, top1 in ((0, 79.0), (7, 80.0))))
    compared = compare(ours.assign(train_dtype=["bfloat16", "float32", "float32"]), theirs, SPREAD)
    assert (
        compared.difference == pytest.approx(ours["top1_pct"].mean() - theirs["top1_pct"].mean()) == pytest.approx(244 / 3 - 79.5)
    )
    assert compared.seeds == (3, 2) and compared.images.value == compared.total.value == compared.difference


def test_the_interval_adds_the_noise_of_images_and_of_both_sides_seeds():
    ours = frame(*(result("layerwise_magnitude", flipped(BASE, 160, 100, s), seed=s) for s in range(2)))
    theirs = frame(*(result("dense_finetuned", flipped(BASE, 50, 50, 9 + s), seed=s) for s in range(3)))
    compared = compare(ours, theirs, SPREAD)
    for limit, images in ((compared.total.low, compared.images.low), (compared.total.high, compared.images.high)):
        seeds = (REACH * 0.1) ** 2 * (1 / 2 + 1 / 3)
        assert abs(limit - 0.6) == pytest.approx(np.sqrt((images - 0.6) ** 2 + seeds), rel=1e-3)


def test_each_kind_of_training_has_its_own_noise():
    tuned, new = one(flipped(BASE, 150, 50)), one(flipped(BASE, 150, 50), "snip")
    control = one(BASE, "dense_finetuned")
    assert compare(tuned, control, SPREAD).decided
    compared = compare(new, control, SPREAD)
    assert not compared.decided and compared.reason == "inside the noise" and compared.p < 1e-6
    assert compared.total.high - 1 == pytest.approx(np.hypot(compared.images.high - 1, REACH * np.hypot(1, 0.1)), rel=1e-3)


def test_nothing_is_decided_where_one_seed_is_all_there_is():
    compared = compare(one(flipped(BASE, 900, 0)), one(BASE, "dense_finetuned"), frame())
    assert compared.difference == pytest.approx(9) and compared.p < 1e-9 and compared.images.low > 8
    assert compared.total is None and not compared.decided and compared.reason == "one seed"


def test_fixed_networks_are_told_apart_by_the_images_alone():
    better, worse = (one(x, "dense", epochs=e) for x, e in ((flipped(BASE, 40, 5), 0), (BASE, np.nan)))
    compared = compare(better, worse, frame())
    assert compared.decided and compared.total == compared.images and compared.reason == ""
    assert not compare(better.assign(epochs=4.0), worse, SPREAD).decided  # 0.35 points are within a seed's reach of 0.43


def test_one_win_among_many_comparisons_has_to_be_clearer():
    fixed = one(BASE, epochs=0)
    clear, weak = (one(flipped(BASE, *flips), epochs=0) for flips in ((230, 130), (133, 95)))
    alone, among = (compare(clear, fixed, SPREAD, tests=n) for n in (1, 9))
    assert alone.decided and alone.difference == among.difference
    assert among.total.low < alone.total.low and among.alpha == pytest.approx(0.05 / 9)
    assert compare(weak, fixed, SPREAD).decided and not compare(weak, fixed, SPREAD, tests=9).decided  # p = 0.014


def test_more_seeds_narrow_a_comparison():
    better = [result("layerwise_magnitude", flipped(BASE, 60, 5, s), seed=s) for s in range(3)]
    control = [result("dense_finetuned", BASE, seed=s) for s in range(3)]
    few, many = (compare(frame(*better[:n]), frame(*control[:n]), SPREAD) for n in (1, 3))
    assert many.difference == pytest.approx(0.55) and many.total.high - many.total.low < few.total.high - few.total.low
    assert many.p < 1e-6


def test_p_over_seeds_agrees_with_mcnemar_where_both_apply():
    ours, theirs = one(flipped(BASE, 130, 90)), one(BASE, "dense_finetuned")
    repeated = pd.concat([ours] * 3)
    assert compare(repeated, theirs, SPREAD).p == pytest.approx(compare(ours, theirs, SPREAD).p, rel=0.25)
