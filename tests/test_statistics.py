import numpy as np
import pytest
from scipy import stats as scipy_stats

from helpers import results
from helpers.report import sentences, statistics


def row(correct, method="m", **columns):
    correct = np.asarray(correct, dtype=bool)
    return {
        **{"dataset": "cifar10", "method": method, "variant": "", "seed": 0, "epochs": 4, "sparsity_pct": None},
        "top1_pct": 100 * correct.mean(),
        "correct": results.pack_bits(correct),
        "test_images": len(correct),
        **columns,
    }


def bits(accuracy, count=10_000, seed=0):
    """Exactly `accuracy` of `count` images right, at random places."""
    correct = np.zeros(count, dtype=bool)
    correct[np.random.default_rng(seed).permutation(count)[: round(accuracy * count)]] = True
    return correct


def flipped(correct, gains, losses, seed=1):
    """`correct` with so many wrong images made right and right ones made wrong."""
    generator, changed = np.random.default_rng(seed), correct.copy()
    changed[generator.choice(np.flatnonzero(~correct), gains, replace=False)] = True
    changed[generator.choice(np.flatnonzero(correct), losses, replace=False)] = False
    return changed


@pytest.mark.parametrize("count", [8, 13, 400, 10_000])
def test_correctness_survives_packing(count):
    correct = bits(0.7, count)
    assert np.array_equal(statistics.correctness(row(correct)), correct)
    if count % 8 == 0:
        assert np.array_equal(statistics.correctness(row(correct, test_images=None)), correct)


def test_bits_that_contradict_the_accuracy_or_are_absent_are_refused():
    with pytest.raises(ValueError, match="cifar10 m says 50"):
        statistics.correctness(row(bits(0.7), top1_pct=50.0))
    with pytest.raises(ValueError, match="which test images"):
        statistics.correctness({**row(bits(0.7)), "correct": None})


def test_wilson_is_the_score_interval():
    # Wilson 1927 for 9 of 10: centre (9 + z²/2) / (10 + z²)
    z = scipy_stats.norm.ppf(0.975)
    centre, half = (9 + z**2 / 2) / (10 + z**2), z / (10 + z**2) * np.sqrt(9 * 1 / 10 + z**2 / 4)
    interval = statistics.wilson(9, 10)
    assert (interval.low, interval.high) == (pytest.approx(100 * (centre - half)), pytest.approx(100 * (centre + half)))
    assert statistics.wilson(row(bits(0.92))) == statistics.wilson(9200, 10_000)
    assert statistics.wilson(10, 10).high == pytest.approx(100)


def test_mcnemar_is_the_binomial_test_of_the_discordant_images():
    base = bits(0.9)
    test = statistics.mcnemar(row(flipped(base, 30, 12)), row(base))
    assert (test.only_a, test.only_b) == (30, 12)
    assert test.p == pytest.approx(scipy_stats.binomtest(12, 42).pvalue)
    assert statistics.mcnemar(row(base), row(base)).p == 1


def test_bootstrap_agrees_with_the_normal_limits_and_is_reproducible():
    base = bits(0.9)
    other = flipped(base, 300, 200)
    first, again = (statistics.paired_bootstrap(row(other), row(base)) for _ in range(2))
    assert first == again and first.value == pytest.approx(1.0)
    half = 1.96 * 100 * np.sqrt(500 / 10_000 - 0.01**2) / 100
    assert (first.low, first.high) == (pytest.approx(1 - half, abs=0.04), pytest.approx(1 + half, abs=0.04))
    points = 100 * (other.astype(float) - base)
    scipys = scipy_stats.bootstrap(
        (points,), np.mean, n_resamples=1000, batch=100, method="percentile", rng=np.random.default_rng(1)
    )
    assert (first.low, first.high) == pytest.approx(tuple(scipys.confidence_interval), abs=0.05)
    same = statistics.paired_bootstrap(row(base), row(base))
    assert (same.low, same.value, same.high) == (0, 0, 0)


def test_rows_of_different_images_are_not_compared():
    with pytest.raises(ValueError, match="different images"):
        statistics.mcnemar(row(bits(0.9)), row(bits(0.9), dataset="cifar100"))
    with pytest.raises(ValueError, match="10000 and 400"):
        statistics.mcnemar(row(bits(0.9)), row(bits(0.9, 400)))


def seeds_of(**groups):
    """Rows of methods with several seeds, given their accuracies."""
    return [row(bits(t / 100), m, seed=s, top1_pct=t) for m, tops in groups.items() for s, t in enumerate(tops)]


def test_seed_noise_is_pooled_from_seeds_where_there_are_enough():
    rows = seeds_of(snip=(90.0, 90.4), grasp=(80.0, 80.2), random=(70.0, 70.6))
    noise = statistics.seed_noise(rows, "cifar10", True, 90, 10_000)
    assert noise.sd == pytest.approx(np.sqrt((0.4**2 + 0.2**2 + 0.6**2) / 2 / 3)) and "3 methods" in noise.source
    # three degrees of freedom reach Student's 3.18 standard deviations, not 1.96
    assert noise.freedom == 3 and noise.reach() == pytest.approx(3.1824 * noise.sd, rel=1e-4)
    few = statistics.seed_noise(rows[:4], "cifar10", True, 93.5, 10_000)
    assert few.sd == pytest.approx(0.19) and "published" in few.source
    # fewer images and an accuracy nearer to one half are noisier
    assert statistics.seed_noise([], "digits", True, 93.5, 400).sd == pytest.approx(0.19 * 5)
    assert statistics.seed_noise([], "cifar100", True, 66.0, 10_000).sd > 0.3
    # two budgets of one method are not two seeds of it
    budgets = [row(bits(0.9), epochs=e, seed=s, top1_pct=80.0 + e) for e, s in ((1, 0), (2, 1), (3, 2), (9, 3))]
    assert "published" in statistics.seed_noise(budgets, "cifar10", True, 90, 10_000).source


def test_seeds_of_fine_tuned_networks_say_nothing_of_trainings_from_nothing():
    rows = seeds_of(dense_finetuned=(90.0, 90.1), layerwise_magnitude=(90.0, 90.1), lasso_channels=(88.0, 88.1))
    rows[-1]["sparsity_pct"] = 92.8  # other images to choose channels by: other widths, another sparsity
    assert statistics.seed_noise(rows, "cifar10", False, 90, 10_000).source == "pooled over 3 methods with several seeds"
    formats = [row | {"train_dtype": ("bfloat16", "float32")[row["seed"]]} for row in rows]
    assert "not all in one number format" in statistics.seed_noise(formats, "cifar10", False, 90, 10_000).source
    assert "published" in statistics.seed_noise(rows, "cifar10", True, 90, 10_000).source


def test_the_interval_adds_the_noise_of_images_and_of_both_methods_seeds():
    """Two seeds against three: pairs where both have a seed, each method's seed noise over the root of its own number."""
    base = bits(0.90)
    ours = [row(flipped(base, gained, 100, seed), "a", seed=seed) for seed, gained in enumerate((160, 180))]
    theirs = [row(flipped(base, gained, 50, 9 + seed), "b", seed=seed) for seed, gained in enumerate((50, 60, 40))]
    found = statistics.compare(ours, theirs, [*ours, *theirs])
    # by hand: means 90.7 and 90.0; squared deviations 2 · 0.1² and 0 + 0.1² + 0.1² over 1 + 2 degrees of freedom
    assert found.difference == pytest.approx(0.7) and found.seeds == (2, 3)
    reach = 3.1824 * np.sqrt(0.04 / 3)
    pairs = [statistics.paired_bootstrap(a, b) for a, b in zip(ours, theirs, strict=False)]
    below, above = (np.mean([abs(getattr(p, end) - p.value) for p in pairs]) for end in ("low", "high"))
    for half, limit in ((below, found.total.low), (above, found.total.high)):
        assert abs(limit - 0.7) == pytest.approx(np.sqrt(half**2 + reach**2 / 2 + reach**2 / 3), rel=1e-3)
    assert found.p == max(statistics.mcnemar(a, b).p for a, b in zip(ours, theirs, strict=False))
    with pytest.raises(ValueError, match="at least one row"):
        statistics.compare([], theirs)


def test_one_win_among_many_comparisons_has_to_be_clearer():
    base = bits(0.90)
    better = row(flipped(base, 230, 130), epochs=0)
    alone, among = (statistics.compare([better], [row(base, epochs=0)], tests=n) for n in (1, 9))
    assert alone.decided and alone.difference == among.difference
    assert among.total.low < alone.total.low and among.alpha == pytest.approx(0.05 / 9)
    weak = row(flipped(base, 133, 95), epochs=0)  # p = 0.014
    assert statistics.compare([weak], [row(base, epochs=0)]).decided
    assert not statistics.compare([weak], [row(base, epochs=0)], tests=9).decided


def test_a_large_difference_is_one_and_a_small_one_is_undecided():
    base = bits(0.90)
    large = statistics.compare([row(flipped(base, 300, 100))], [row(base)])
    assert large.decided and large.difference == pytest.approx(2)
    assert sentences.phrase(large, "A", "B").startswith("A is 2.00 points above B")
    assert sentences.phrase(statistics.compare([row(base)], [row(flipped(base, 300, 100))]), "B", "A").startswith(
        "B is 2.00 points below A"
    )
    small = statistics.compare([row(flipped(base, 110, 100))], [row(base)])
    assert not small.decided and sentences.phrase(small, "A", "B").startswith("undecided between A and B")


def test_nothing_is_decided_between_trainings_in_two_number_formats():
    rng = np.random.default_rng(3)
    right = rng.random(10_000) < 0.9
    better, worse = row(right, train_dtype="float32"), row(right & (rng.random(10_000) < 0.95), train_dtype="bfloat16")
    assert statistics.compare([better], [worse | {"train_dtype": "float32"}]).decided
    unlike = statistics.compare([better], [worse])
    assert unlike.beyond_noise and not unlike.decided and unlike.formats == ("float32", "bfloat16")
    assert "trained in float32 and bfloat16" in sentences.phrase(unlike, "A", "B")
    assert statistics.compare([better], [worse | {"train_dtype": None, "epochs": 0}]).decided  # an untrained one has no format


def test_over_seeds_only_trainings_in_a_format_of_both_methods_are_compared():
    rng = np.random.default_rng(3)
    right = rng.random(10_000) < 0.9
    better = row(right, seed=0, train_dtype="float32")
    worse = row(right & (rng.random(10_000) < 0.95), seed=0, train_dtype="float32")
    best = row(np.ones(10_000, bool), seed=1, train_dtype="bfloat16")
    alone, both = statistics.compare([better], [worse]), statistics.compare([better, best], [worse])
    assert both.difference == alone.difference and both.seeds == (1, 1) and both.formats is None
    assert both.left_out == 1 and "1 training in another number format left out" in sentences.phrase(both, "A", "B")
    both = statistics.compare([better, best], [worse, best])
    assert both.seeds == (2, 2) and not both.left_out and both.difference == pytest.approx(alone.difference / 2)
    unlike = statistics.compare([better, best], [worse | {"train_dtype": "float16"}])
    assert unlike.formats == ("bfloat16/float32", "float16") and not unlike.decided


def test_test_image_noise_is_not_seed_noise():
    """Significant on these images, yet no larger than what another seed would give."""
    base = bits(0.90)
    compared = statistics.compare([row(flipped(base, 40, 5))], [row(base)])
    assert compared.p < 0.001 and compared.images.low > 0  # 0.35 points on the same images
    assert compared.total.low < 0 and not compared.decided
    # the same bits of two networks that were not trained by us are two fixed networks: there the images decide
    fixed = statistics.compare([row(flipped(base, 40, 5), epochs=0)], [row(base, epochs=None)])
    assert fixed.decided and fixed.total == fixed.images


def test_more_seeds_narrow_a_comparison():
    base = bits(0.90)
    better = [row(flipped(base, 60, 5, seed), seed=seed) for seed in range(3)]
    control = [row(base, "control", seed=seed) for seed in range(3)]
    one, three = statistics.compare(better[:1], control[:1]), statistics.compare(better, control)
    assert three.seeds == (3, 3) and three.difference == pytest.approx(0.55)
    assert three.total.high - three.total.low < one.total.high - one.total.low
    unpaired = statistics.compare(better[:1], [row(base, "control", seed=7)])
    assert unpaired.difference == pytest.approx(0.55)


def test_signs_and_p_values_in_words():
    assert [statistics.signed(x) for x in (0.4, -1.25, 0.001, -0.001)] == ["+0.40", "−1.25", "0.00", "0.00"]
    assert (statistics.p_text(0.0001), statistics.p_text(0.04)) == ("p\u00a0<\u00a00.001", "p\u00a0=\u00a00.040")
