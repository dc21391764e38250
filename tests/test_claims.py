"""Every generic rule can come out supported, refuted and undecided, on frames small enough to see why."""

import math

import numpy as np
import pandas as pd
import pytest
from frames import bits, frame, result

from helpers import settings
from helpers.report import claims, published, rules
from helpers.report.evidence import Evidence, Missing, networks
from helpers.report.rules import (
    NOT_MEASURED,
    REFUTED,
    SIZE_DIFFERS,
    SUPPORTED,
    UNDECIDED,
    Cheapest,
    Difference,
    EqualCost,
    MoreGradient,
    Provided,
    Ratio,
)

DENSE, TUNED, NEW = ("dense", ""), ("dense_finetuned", ""), ("dense_from_scratch", "")
MASKED, CURVE, SMALL = ("layerwise_magnitude", ""), ("layerwise_magnitude", "curve_finetuned"), ("lasso_channels", "")
SNIP, RANDOM, SYNFLOW = ("snip", ""), ("random", ""), ("synflow", "")

# three seeds of one network of either kind, close together: what gives the frames below a seed noise of their own
NOISE = [result("global_magnitude", bits(80 + s / 10), seed=s, target_sparsity_pct=80.0) for s in range(3)]
NOISE += [result("grasp", bits(70 + s / 10), seed=s, target_sparsity_pct=80.0) for s in range(3)]


def judge(rule, *results: dict, noise: bool = True, dataset: str = "cifar10") -> rules.Judgement:
    return rule.judge(Evidence(frame(*results, *(NOISE if noise else [])), dataset))


def at(network: tuple[str, str], top1: float = 90.0, **columns) -> dict:
    return result(network[0], top1, network[1], **columns)


# Costs ------------------------------------------------------------------------------------------------------------

BELOW = Ratio(("energy_mj",), (SMALL,), high=1.0, noise=0.05)
CUT = Ratio(("latency_ms",), (SMALL,), low=38, high=52, noise=5, cut=True, sized=True)


@pytest.mark.parametrize(("spent", "verdict"), [(90.0, SUPPORTED), (103.0, UNDECIDED), (120.0, REFUTED)])
def test_a_ratio_is_judged_by_its_limits_and_the_noise_of_measuring(spent, verdict):
    found = judge(BELOW, at(DENSE, energy_mj=100.0), at(SMALL, energy_mj=spent))
    assert found.verdict == verdict and found.value == pytest.approx(spent / 100)


@pytest.mark.parametrize(
    ("latency", "verdict"),
    [(55.0, SUPPORTED), (45.0, UNDECIDED), (25.0, SIZE_DIFFERS), (18.0, SIZE_DIFFERS), (99.0, REFUTED), (130.0, REFUTED)],
)
def test_a_cut_of_another_size_has_the_direction_alone(latency, verdict):
    """ "40 to 50 % less" is not supported by 82 %, and not refuted either."""
    found = judge(CUT, at(DENSE, latency_ms=100.0), at(SMALL, latency_ms=latency))
    assert found.verdict == verdict and found.value == pytest.approx(100 - latency)
    assert found.theirs == pytest.approx(100 * (1 - 8.342 / 15.461)) and found.threshold == "38 to 52 %"


def test_the_worst_of_several_ratios_decides_and_a_base_may_be_the_least_of_several():
    rule = Ratio(("latency_ms",), (MASKED, SNIP), (DENSE, TUNED), low=0.95)
    times = [at(DENSE, latency_ms=10.0), at(TUNED, latency_ms=9.0), at(MASKED, latency_ms=9.5)]
    assert judge(rule, *times, at(SNIP, latency_ms=9.0)).verdict == SUPPORTED  # 0.9 of the dense one, 1 of the fastest unpruned
    found = judge(rule, *times, at(SNIP, latency_ms=8.0))
    assert found.verdict == REFUTED and found.value == pytest.approx(8 / 9)
    own = Ratio(("size_coo_mib",), (MASKED,), base=(), base_column="values_mib", low=1.25)
    file = at(MASKED, size_coo_mib=6.0, size_dense_mib=10.0, density_pct=20.0)
    assert judge(own, file).value == pytest.approx(3) and math.isnan(judge(own, file).theirs)


SMALLEST = Cheapest("file_mib", SMALL, (MASKED, CURVE))


@pytest.mark.parametrize(
    ("rival", "verdict"),
    [
        ({"size_mib": 5.0, "top1": 95.0}, SUPPORTED),  # costs more
        ({"size_mib": 3.0, "top1": 85.0}, SUPPORTED),  # costs less and is less accurate
        ({"size_mib": 3.0, "top1": 90.0}, REFUTED),
        ({"size_mib": 3.0, "top1": 89.6}, UNDECIDED),  # perhaps more than a point below, perhaps not below at all
    ],
)
def test_the_cheapest_network_has_no_rival_as_cheap_and_as_accurate(rival, verdict):
    top1 = rival.pop("top1")
    found = judge(SMALLEST, at(SMALL, size_mib=4.0), at(MASKED, top1, **rival, target_sparsity_pct=80.0))
    assert found.verdict == verdict
    assert (found.value, found.unit) == ((1.25, "×") if top1 == 95 else (pytest.approx(top1 - 90), "points"))


def test_rivals_that_are_searched_are_corrected_for_their_number():
    """Of one rival 90.9 % could not be called less accurate than a point; the best of nine has to be clearer."""
    rivals = [at(CURVE, 89.75, size_mib=3.0, target_sparsity_pct=80.0 + n, epochs=4) for n in range(9)]
    own = at(SMALL, size_mib=4.0)
    assert judge(SMALLEST, own, rivals[0]).verdict == REFUTED
    few, many = judge(SMALLEST, own, rivals[0]), judge(SMALLEST, own, *rivals)
    assert many.low < few.low and many.verdict == UNDECIDED


def test_a_race_is_not_lost_by_a_network_that_was_timed_on_worse_terms():
    rule = Cheapest("time_batch128_ms", SMALL, (MASKED,), same=0.05)
    own = at(SMALL, latency_batch128_ms=100.0)
    rival = at(MASKED, sparse_latency_batch128_ms=104.0, latency_batch128_ms=400.0, target_sparsity_pct=80.0)
    unfused = judge(rule, own, rival)
    assert unfused.verdict == UNDECIDED and rules.UNFAIR in unfused.note
    assert judge(rule, own | {"folded_latency_batch128_ms": 100.0}, rival).verdict == REFUTED
    assert judge(rule, own | {"folded_latency_batch128_ms": 50.0}, rival).verdict == SUPPORTED


EQUAL = EqualCost("effective_macs", losers=(SMALL,), winners=(MASKED, CURVE))


@pytest.mark.parametrize(("top1", "verdict"), [(92.5, SUPPORTED), (87.5, UNDECIDED), (90.2, UNDECIDED)])
def test_at_equal_cost_the_cheaper_of_a_pair_wins_by_being_more_accurate(top1, verdict):
    # the rival costs less: less accurate it proves nothing, as the costlier network may owe that to its cost
    results = at(SMALL, effective_macs=50.0), at(MASKED, top1, effective_macs=40.0, target_sparsity_pct=80.0)
    assert judge(EQUAL, *results).verdict == verdict


def test_at_equal_cost_either_kind_can_win_and_both_winning_decides_nothing():
    small, masked = at(SMALL, 93.0, effective_macs=30.0), at(MASKED, 90.0, effective_macs=40.0, target_sparsity_pct=80.0)
    assert judge(EQUAL, small, masked).verdict == REFUTED
    assert judge(EQUAL, small | {"epochs": 8}, masked).verdict == UNDECIDED  # a longer training may have won
    other = at(CURVE, 96.0, effective_macs=20.0, target_sparsity_pct=90.0)
    assert judge(EQUAL, small, masked, other).verdict == UNDECIDED


def test_pairs_at_equal_cost_are_corrected_for_their_number():
    results = [at(SMALL, 90.0, effective_macs=45.0), at(MASKED, 91.05, effective_macs=40.0, target_sparsity_pct=80.0)]
    assert judge(EQUAL, *results).verdict == SUPPORTED
    curve = [at(CURVE, 91.0, effective_macs=100.0 + n, target_sparsity_pct=10.0 + n) for n in range(8)]
    found = judge(EQUAL, *results, *curve)
    assert "9 pairs" in found.threshold and found.verdict == UNDECIDED


# Accuracy ---------------------------------------------------------------------------------------------------------

HIGHER = Difference(((MASKED, TUNED),))


@pytest.mark.parametrize(("top1", "verdict"), [(93.0, SUPPORTED), (87.0, REFUTED), (90.1, UNDECIDED)])
def test_a_difference_has_to_exceed_the_noise(top1, verdict):
    found = judge(HIGHER, at(MASKED, top1), at(TUNED))
    assert found.verdict == verdict and found.value == pytest.approx(top1 - 90)
    assert found.low < found.value < found.high and found.seeds == "1 and 1"
    opposite = {SUPPORTED: REFUTED, REFUTED: SUPPORTED, UNDECIDED: UNDECIDED}
    assert judge(Difference(((MASKED, TUNED),), below=True), at(MASKED, top1), at(TUNED)).verdict == opposite[verdict]


def test_nothing_is_decided_from_one_seed():
    results = at(MASKED, 99.0), at(TUNED, 60.0)
    assert judge(HIGHER, *results).verdict == SUPPORTED
    found = judge(HIGHER, *results, noise=False)
    assert found.verdict == UNDECIDED and found.note.endswith(rules.ONE_SEED) and found.low > 30
    equal = judge(EQUAL, at(SMALL, effective_macs=9.0), at(MASKED, 99.0, effective_macs=1.0), noise=False)
    cheapest = judge(SMALLEST, at(SMALL, size_mib=4.0), at(MASKED, size_mib=3.0), noise=False)
    assert equal.verdict == cheapest.verdict == UNDECIDED


BOOST = Difference(((MASKED, TUNED),), share=0.5, reported=("layerwise_magnitude", "dense"), sized=True)


@pytest.mark.parametrize(
    ("gain", "verdict"), [(8.0, SUPPORTED), (4.7, UNDECIDED), (2.0, SIZE_DIFFERS), (0.0, REFUTED), (-3.0, REFUTED)]
)
def test_a_gain_is_measured_by_the_one_that_was_reported(gain, verdict):
    found = judge(BOOST, at(MASKED, 88 + gain), at(TUNED, 88.0))
    assert found.verdict == verdict
    assert found.theirs == pytest.approx(9.45) and found.threshold == "above +4.73"  # 92.37 − 82.92, and half of it
    assert (
        judge(BOOST, at(MASKED, dataset="digits"), at(TUNED, dataset="digits"), dataset="digits", noise=False).theirs
        == found.theirs
    )


@pytest.mark.parametrize(("lost", "verdict"), [(3.0, SUPPORTED), (1.0, UNDECIDED), (0.0, REFUTED), (-2.0, REFUTED)])
def test_a_loss_may_be_limited_in_points(lost, verdict):
    found = judge(Difference(((MASKED, TUNED),), below=True, limit=-1.0), at(MASKED, 90 - lost), at(TUNED, 90.0))
    assert found.verdict == verdict and found.threshold == "below −1.00"


def test_a_loss_as_a_share_of_the_control():
    rule = Difference(((SNIP, NEW),), below=True, share=0.5, reported=("grasp_iterative", "dense"), relative=True, sized=True)
    # the original loses 0.36 of 82.92 points on CIFAR-10: of a control with 40 % half of that is 0.087 points
    found = judge(rule, at(SNIP, 30.0), at(NEW, 40.0))
    assert found.threshold == "below −0.09" and found.verdict == SUPPORTED
    assert judge(rule, at(SNIP, 42.0), at(NEW, 40.0)).verdict == REFUTED


def test_every_pair_has_to_hold_and_one_that_fails_refutes():
    rule = Difference(((MASKED, SNIP), (MASKED, RANDOM)))
    assert judge(rule, at(MASKED), at(SNIP, 85.0), at(RANDOM, 80.0)).verdict == SUPPORTED
    assert judge(rule, at(MASKED), at(SNIP, 95.0), at(RANDOM, 80.0)).verdict == REFUTED
    found = judge(rule, at(MASKED), at(SNIP, 90.0), at(RANDOM, 80.0))
    assert found.verdict == UNDECIDED and found.value == pytest.approx(0)
    with pytest.raises(Missing):
        judge(rule, at(MASKED), at(SNIP))


def test_several_pairs_are_corrected_for_their_number():
    rivals = [(method, "") for method in ("snip", "random", "synflow", "magnitude_init", "grasp_iterative", "x", "y", "z")]
    alone, many = Difference(((MASKED, rivals[0]),)), Difference(tuple((MASKED, rival) for rival in rivals))
    results = [at(MASKED, 91.2), *(at(rival, 90.0 if rival == SNIP else 60.0) for rival in rivals)]
    assert judge(alone, *results).verdict == SUPPORTED and judge(many, *results).verdict == UNDECIDED
    assert judge(alone, *results).low > judge(many, *results).low


def test_readings_of_one_statement_have_to_agree():
    rule = Difference(((SNIP, RANDOM), (SNIP, SYNFLOW)), readings=True)
    verdicts = [judge(rule, at(SNIP), at(RANDOM, a), at(SYNFLOW, b)).verdict for a, b in ((80, 80), (99, 99), (80, 99), (80, 90))]
    assert verdicts == [SUPPORTED, REFUTED, UNDECIDED, UNDECIDED]


def test_a_difference_of_differences_adds_the_noise_of_both():
    pair = (SMALL, TUNED)
    rule = Difference((pair,), below=True, minus=pair, elsewhere="cifar10", reported=("lasso_channels", "dense"))

    def gap(here: float, noise: bool = True, rule=rule, dataset: str = "cifar100"):
        there = [result(m, top1, dataset="cifar10") for (m, _), top1 in zip(pair, (88.0, 90.0), strict=True)]
        own = [result(m, top1, dataset="cifar100") for (m, _), top1 in zip(pair, (70 + here, 70.0), strict=True)]
        spread = [r | {"dataset": "cifar100"} for r in NOISE] if noise else []
        return judge(rule, *there, *own, *spread, dataset=dataset)

    assert [gap(here).verdict for here in (-8.0, 3.0, -2.1)] == [SUPPORTED, REFUTED, UNDECIDED]
    found, single = gap(-8.0), Difference((pair,))
    assert found.value == pytest.approx(-6) and found.theirs == pytest.approx((54.46 - 63.57) - (88.01 - 82.92))
    fine, coarse = (gap(-8.0, rule=single, dataset=dataset) for dataset in ("cifar100", "cifar10"))
    assert found.value - found.low == pytest.approx(math.hypot(fine.value - fine.low, coarse.high - coarse.value))
    assert found.high - found.value == pytest.approx(math.hypot(fine.high - fine.value, coarse.value - coarse.low))
    assert gap(-8.0, noise=False).verdict == UNDECIDED


def test_support_may_need_a_second_rule():
    rule = Provided(Difference(((MASKED, SNIP),)), Difference(((SNIP, NEW),), below=True, minus=(MASKED, TUNED)))
    own = at(MASKED), at(TUNED)
    assert judge(rule, *own, at(SNIP, 70.0), at(NEW, 80.0)).verdict == SUPPORTED  # ten points below its own control
    assert judge(rule, *own, at(SNIP, 70.0), at(NEW, 60.0)).verdict == UNDECIDED  # short training explains it
    assert judge(rule, *own, at(SNIP, 95.0), at(NEW, 99.0)).verdict == REFUTED


GRADIENT = MoreGradient((SNIP, RANDOM, SYNFLOW))


def kept(network: tuple[str, str], top1: float, left: float, **more) -> dict:
    return at(network, top1, gradient_left=left, **more)


def test_one_clear_counterexample_shows_that_gradient_is_not_enough():
    ordered = kept(SNIP, 80, 3.0), kept(RANDOM, 75, 2.0), kept(SYNFLOW, 70, 1.0)
    assert judge(GRADIENT, *ordered).verdict == REFUTED
    found = judge(GRADIENT, kept(SNIP, 70, 3.0), *ordered[1:])
    assert found.verdict == SUPPORTED and found.value == pytest.approx(-5) and "3 pairs" in found.threshold
    assert judge(GRADIENT, kept(SNIP, 70, 3.0), kept(RANDOM, 70.1, 2.0), kept(SYNFLOW, 70, 1.0)).verdict == UNDECIDED
    # a network that kept little of its gradient is no example of good flow, and 1.05 times is not more
    little = [kept(network, top1, left) for network, top1, left in ((SNIP, 60, 0.4), (RANDOM, 75, 0.3), (SYNFLOW, 70, 0.2))]
    with pytest.raises(Missing):
        judge(GRADIENT, *little)
    # of several starts the mean counts
    assert judge(GRADIENT, kept(SNIP, 70, 5.0), kept(SNIP, 70, 1.0, seed=1), *ordered[1:]).verdict == SUPPORTED
    with pytest.raises(Missing):
        judge(GRADIENT, kept(SNIP, 60, 3.0), kept(SNIP, 60, 0.2, seed=1), kept(RANDOM, 80, 1.5))
    with pytest.raises(Missing):
        judge(GRADIENT, kept(SNIP, 60, 1.05), kept(RANDOM, 80, 1.0))


def test_a_counterexample_is_corrected_for_the_pairs_that_were_searched():
    lone = MoreGradient((SNIP, RANDOM))
    results = kept(SNIP, 70.0, 3.0), kept(RANDOM, 71.0, 2.0), kept(SYNFLOW, 60.0, 1.0)
    assert judge(lone, *results).verdict == SUPPORTED and judge(GRADIENT, *results).verdict == UNDECIDED


# Evidence ---------------------------------------------------------------------------------------------------------


def line(made: pd.DataFrame, method: str, label: str = "") -> pd.Series:
    [found] = [found for _, found in made.iterrows() if (found["method"], found["label"]) == (method, label)]
    return found


def test_a_network_is_one_line_with_means_over_its_seeds():
    seeds = [at(MASKED, top1, seed=s, size_mib=9.0, size_bitmask_mib=4.0) for s, top1 in enumerate((80.0, 82.0))]
    made = line(networks(frame(*seeds)), *MASKED)
    assert made["top1_pct"] == pytest.approx(81) and made["seeds"] == 2 and made["file_mib"] == 4


def test_networks_that_do_equal_work_have_the_median_of_their_times():
    shape = {"params": 10, "macs": 10, "latency_batch128_ms": 1.0}
    times = [
        at((name, ""), latency_ms=ms, **shape) for name, ms in (("lasso_channels", 5.0), ("l1_filters", 7.0), ("dense", 6.0))
    ]
    made = networks(
        frame(*times, at(MASKED, latency_ms=9.0, sparse_latency_ms=3.0, target_sparsity_pct=80.0, params=10, macs=10))
    )
    assert line(made, "l1_filters")["usual_latency_ms"] == line(made, "l1_filters")["time_ms"] == 6
    assert line(made, *MASKED)["usual_latency_ms"] == 9 and line(made, *MASKED)["time_ms"] == 3
    assert not line(made, "l1_filters")["fused"] and line(made, *MASKED)["fused"]


def test_a_fine_tuned_network_has_the_time_of_its_masks_and_of_no_others():
    twin = result("layerwise_magnitude", 50.0, "curve", sparse_latency_ms=3.0, latency_ms=9.0, target_sparsity_pct=90.0, epochs=0)
    signed = at(("grasp_iterative", "signed"), sparse_latency_ms=2.0, target_sparsity_pct=80.0)
    made = networks(
        frame(twin, at(CURVE, target_sparsity_pct=90.0), signed, at(("grasp_iterative", ""), target_sparsity_pct=80.0))
    )
    assert line(made, *CURVE)["time_ms"] == 3 and np.isnan(line(made, "grasp_iterative")["time_ms"])


def test_a_missing_column_is_given_with_its_reason():
    dense = at(DENSE, reasons={"energy_mj": "not measured: no counter"})
    with pytest.raises(Missing, match="energy an image of dense: no counter"):
        judge(BELOW, dense, at(SMALL, energy_mj=1.0))


# The records ------------------------------------------------------------------------------------------------------


def test_every_statement_is_a_short_sentence_of_its_own_with_a_rule():
    assert [line["id"] for line in claims.STATEMENTS] == list(claims.RULES)
    sentences = [line["statement"] for line in claims.STATEMENTS]
    assert all(len(sentence.split()) <= 25 and sentence.endswith(".") for sentence in sentences) and len(set(sentences)) == len(
        sentences
    )
    assert all(line["where"] and line["remark"] in ("", "asked here", "true by design") for line in claims.STATEMENTS)


def test_one_line_a_statement_and_data_set():
    both = frame(*(at(DENSE, dataset=d, size_mib=58.0, macs=3e8, params=1) for d in ("cifar10", "cifar100")))
    judged = claims.judge(both)
    assert not judged.duplicated(["id", "dataset"]).any() and set(judged["verdict"]) == {NOT_MEASURED}
    assert judged["evidence"].str.endswith(".").all() and judged["evidence"].str.len().gt(8).all()
    about = judged.groupby("id")["dataset"].agg(list).to_dict()
    assert about["grasp_fails"] == ["cifar100"] and about["energy"] == ["cifar10", "cifar100"]
    other = claims.judge(both.iloc[:1].assign(dataset="digits")).set_index("id")
    assert set(other["dataset"]) == {"digits"} and len(other) == len(claims.RULES)
    assert "CIFAR-100" in other.loc["grasp_fails", "evidence"]


def test_several_starts_of_every_early_method_decide_between_them_and_not_about_files_or_trained_networks():
    early_networks = (claims.NEW, claims.ABSOLUTE, *claims.UNTRAINED)
    once = frame(
        at(DENSE, size_mib=58.0),
        *(at(network, 50.0, size_mib=60.0) for network in early_networks),
        at(claims.LASSO, size_mib=5.0),
        at(claims.LAYERWISE, size_mib=9.0),
        at(claims.FINETUNED, size_mib=58.0),
    )
    tops = {claims.SNIP: 80.0, claims.GRASP: 60.0, claims.ABSOLUTE: 60.0}
    starts = [
        at(network, bits(tops.get(network, 70.0) + s / 10), seed=s, size_mib=0.1) for network in early_networks for s in range(3)
    ]
    starts += [at(claims.REWOUND, bits(90.0)), at(claims.REINITIALIZED, bits(50.0))]
    verdicts, values = {}, {}
    for name, early in (("alone", None), ("one missing", frame(*starts[3:])), ("whole", frame(*starts))):
        judged = claims.judge(once, early).set_index(["id", "dataset"])
        verdicts[name], values[name] = judged["verdict"], judged["value"]
        assert verdicts[name]["all_shrink", "cifar10"] == REFUTED  # GraSP's own file, whatever was compared beside it
    assert verdicts["alone"]["snip_better", "cifar10"] == verdicts["one missing"]["snip_better", "cifar10"] == UNDECIDED
    assert verdicts["whole"]["snip_better", "cifar10"] == SUPPORTED
    assert verdicts["alone"]["lottery_ticket", "cifar10"] == NOT_MEASURED
    assert verdicts["whole"]["lottery_ticket", "cifar10"] == SUPPORTED
    trained = "after_training_better", "cifar10"  # of another width than the starts
    assert values["whole"][trained] == values["alone"][trained] and verdicts["whole"][trained] == UNDECIDED


def test_a_line_holds_text_for_a_table_and_numbers_for_a_figure():
    small = at(SMALL, 88.0, macs=4e7, peak_memory_mib=40.0, size_mib=8.0, params=2)
    judged = claims.judge(frame(at(DENSE, macs=3e8, peak_memory_mib=150.0, size_mib=58.0, params=1), small, *NOISE)).set_index(
        "id"
    )
    cut = judged.loc["macs_cut"]
    assert (cut["ours"], cut["theirs"], cut["threshold"]) == ("86.7 %", "86.7 %", "85 to 89 %")
    assert cut["value"] == pytest.approx(100 * (1 - 4 / 30)) and cut["unit"] == "%" and cut["verdict"] == SUPPORTED
    assert judged.loc["memory_cut", "verdict"] == SUPPORTED and judged.loc["energy", "verdict"] == NOT_MEASURED


def priced(network: tuple[str, str], top1: float, mib: float, **columns) -> dict:
    return at(network, top1, size_mib=mib, latency_ms=mib, latency_batch128_ms=mib, effective_macs=mib, **columns)


def test_the_front_holds_what_no_other_network_beats():
    offered = [
        priced(DENSE, 92.0, 58.0, epochs=0),
        priced(SMALL, 90.0, 4.0),
        priced(MASKED, 92.5, 13.0),
        priced(SNIP, 80.0, 13.0),
    ]
    checks = [priced(("snip", "inverted"), 99.0, 1.0), priced(SMALL, 99.0, 1.0, dataset="cifar100")]
    front = claims.front(frame(*offered, *checks), "cifar10", "file_mib")
    assert list(zip(front["method"], front["file_mib"], strict=True)) == [("lasso_channels", 4), ("layerwise_magnitude", 13)]


def test_decisions_take_the_cheapest_network_that_surely_loses_little():
    offered = [
        priced(DENSE, 92.0, 58.0, epochs=0),
        priced(TUNED, 92.0, 58.0),
        priced(MASKED, 92.1, 13.0, target_sparsity_pct=80.0),
    ]
    unsure = [priced(SMALL, 91.3, 4.0), priced(("lasso_channels", "macs=2x"), 92.4, 5.0, epochs=8)]  # perhaps; trained longer
    chosen = claims.decisions(frame(*offered, *unsure, *NOISE), "cifar10")
    assert list(chosen["need"]) == list(claims.NEEDS) and chosen["method"].dropna().eq("layerwise_magnitude").all()
    assert chosen["network"].isna().tolist() == [epochs == 0 for _, epochs in claims.NEEDS.values()]  # all of these were trained
    repaired = priced(("repaired", "blocks"), 92.0, 5.0, epochs=0, target_sparsity_pct=80.0)
    assert set(claims.decisions(frame(*offered, repaired, *NOISE), "cifar10")["method"]) == {"repaired"}
    assert chosen["times_less"].iloc[0] == pytest.approx(58 / 13) and (chosen["low"].dropna() >= -1).all()
    none = claims.decisions(frame(*offered[:2], *unsure, *NOISE), "cifar10")
    assert none["network"].isna().all() and len(none) == len(claims.NEEDS) and list(none) == list(chosen)
    assert claims.decisions(frame(*offered, *unsure), "cifar10")["network"].isna().all()  # one seed: nothing is sure
    assert claims.decisions(frame(offered[0]), "cifar10").empty


def test_decisions_know_files_in_int8_and_the_times_of_other_engines():
    offered = [
        priced(DENSE, 92.0, 58.0, epochs=0),
        priced(TUNED, 92.0, 58.0),
        priced(MASKED, 92.1, 13.0, target_sparsity_pct=80.0, size_int8_mib=4.0, int8_top1_pct=92.0),
        priced(("repaired", ""), 92.0, 12.0, epochs=0, target_sparsity_pct=80.0, size_int8_mib=3.0, int8_top1_pct=90.9),
    ]
    way = {"label": "", "time_ms": 9.0, "time_batch128_ms": 90.0, "size_mib": 1.0}
    timed = pd.DataFrame(
        [
            {**way, "method": "dense", "software": "PyTorch fp32", "top1_pct": 92.0},
            {**way, "method": "dense", "software": "A int8", "top1_pct": 90.9, "time_ms": 1.0},  # loses more than a point
            {**way, "method": "dense", "software": "B int8", "top1_pct": 92.0, "time_ms": 2.0},
            {**way, "method": "layerwise_magnitude", "software": "C fp32", "time_batch128_ms": 30.0},  # timed with any weights
            {**way, "method": "repaired", "software": "D int8", "time_batch128_ms": 10.0},  # the same, so no one knows its top-1
        ]
    )
    chosen = claims.decisions(frame(*offered, *NOISE), "cifar10", timed).set_index("need")
    smallest = chosen.loc["a smaller file"]
    assert (smallest.network, smallest.times_less) == ("layer-wise magnitude in int8", 58 / 4)
    assert smallest.difference == pytest.approx(0.0) and smallest.low < smallest.difference < smallest.high
    assert chosen.network["a smaller file, no time to train"] == "repair"  # its int8 file would lose 1.1 points
    one, many = chosen.loc["a quick answer for one image"], chosen.loc["many images at once"]
    assert (one.network, one.times_less) == ("dense, B int8", 4.5)
    assert (many.network, many.times_less) == ("layer-wise magnitude, C fp32", 3.0)


def test_the_restated_report_lists_the_same_statements():
    text = (settings.ROOT / "docs" / "original.md").read_text()
    listed = [line.split(" | ")[1:4] for line in text.splitlines() if line.startswith("| ") and "| `" in line]
    stated = [
        [f"`{line['id']}`", f"{line['statement']} ({line['remark']})".removesuffix(" ()"), f"{line['where']} |"]
        for line in claims.STATEMENTS
    ]
    assert listed == stated


def test_the_restated_report_holds_the_published_figures():
    text = (settings.ROOT / "docs" / "original.md").read_text().replace(",", "")
    for line in published.ORIGINAL.itertuples():
        figures = (line.size_mib, line.macs / 1e6, line.peak_memory_mib, line.latency_ms)
        assert all(f"{figure:.3f}" in text for figure in figures) and f"{line.top1_pct:.2f}" in text
