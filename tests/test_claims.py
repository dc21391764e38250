import html

import pytest
from synthetic import correct_bits, made

from helpers.report import benchmarks, claims, evidence
from helpers.report.claims import NOT_MEASURED, REFUTED, SUPPORTED, UNDECIDED


def judged(key: str, rows: list[dict]) -> claims.Judged:
    [claim] = [claim for claim in claims.CLAIMS if claim.key == key]
    return claims._judged(claim, evidence.Rows(rows))


def channels(**columns):
    """Change all networks of the small widths."""
    return dict.fromkeys((LASSO, L1, ("lasso_channels_from_scratch", "")), columns)


def top1(points: float):
    """Change a row's accuracy by so many points."""
    return {"top1_pct": lambda r: r["top1_pct"] + points}


MAGNITUDE, GRASP, SNIP, LASSO = ("layerwise_magnitude", ""), ("grasp_iterative", ""), ("snip", ""), ("lasso_channels", "")
FINE, HALF, TUNED_HALF = (
    ("layerwise_magnitude", "curve_finetuned"),
    ("dense", "normalization=half"),
    ("dense_finetuned", "normalization=half"),
)
SLOW = {"sparse_latency_ms": 30.0, "sparse_latency_batch128_ms": 1500.0}
L1, FROM_SCRATCH = ("l1_filters", ""), ("dense_from_scratch", "")
WORSE = {MAGNITUDE: top1(-9), FINE: top1(-9)}

CASES = [
    ("all_shrink", SUPPORTED, {}),
    ("all_shrink", REFUTED, {LASSO: {"size_mib": 60.0}}),
    ("zeros_alone", SUPPORTED, {}),
    ("zeros_alone", REFUTED, {MAGNITUDE: {"size_dense_mib": 12.0}}),
    ("structured_smallest", SUPPORTED, {FINE: top1(-5)}),
    ("structured_smallest", REFUTED, {LASSO: {"size_mib": 20.0}}),
    ("structured_smallest", REFUTED, {FINE: {"top1_pct": lambda r: r["top1_pct"] + 3}}),  # sparser and no less accurate
    ("structured_smallest", UNDECIDED, {FINE: top1(-5), LASSO: {"size_mib": 13.0}, MAGNITUDE: {"size_bitmask_mib": 13.0}}),
    ("coo_overhead", SUPPORTED, {}),
    ("coo_overhead", REFUTED, {MAGNITUDE: {"size_coo_mib": 11.5}}),
    ("unstructured_keeps_macs", SUPPORTED, {}),
    ("unstructured_keeps_macs", REFUTED, {MAGNITUDE: {"peak_memory_mib": 80.0}}),
    ("dense_kernels", SUPPORTED, {}),
    ("dense_kernels", REFUTED, {GRASP: {"latency_batch128_ms": 700.0}}),
    ("dense_kernels", SUPPORTED, {GRASP: {"latency_batch128_ms": 940.0}, FROM_SCRATCH: {"latency_batch128_ms": 930.0}}),  # noise
    ("channels_faster", REFUTED, channels(latency_batch128_ms=220.0)),
    ("channels_faster", SUPPORTED, {FINE: top1(-5)}),  # as fast and less accurate
    ("channels_faster", SUPPORTED, {MAGNITUDE: SLOW, FINE: SLOW}),
    ("macs_cut", SUPPORTED, {}),
    ("macs_cut", REFUTED, {LASSO: {"macs": 100_000_000}}),
    ("memory_cut", SUPPORTED, {}),
    ("memory_cut", REFUTED, {LASSO: {"peak_memory_mib": 80.0}}),
    ("memory_cut", UNDECIDED, {LASSO: {"peak_memory_mib": 0.295 * 156}}),
    ("latency_cut", SUPPORTED, {}),
    ("latency_cut", REFUTED, channels(latency_ms=19.0)),
    ("latency_cut", UNDECIDED, channels(latency_ms=12.7)),
    ("energy", SUPPORTED, {("dense", ""): {"energy_mj": 100.0}, LASSO: {"energy_mj": 30.0}}),
    ("energy", REFUTED, {("dense", ""): {"energy_mj": 100.0}, LASSO: {"energy_mj": 120.0}}),
    ("energy", UNDECIDED, {("dense", ""): {"energy_mj": 100.0}, LASSO: {"energy_mj": 98.0}}),
    ("magnitude_boost", REFUTED, {}),
    ("magnitude_boost", REFUTED, {MAGNITUDE: top1(1.2)}),  # a gain, no noise, and nothing like the one claimed
    ("magnitude_boost", SUPPORTED, {("dense_finetuned", ""): top1(-8)}),
    (
        "magnitude_boost",
        UNDECIDED,
        {("dense_finetuned", ""): {"top1_pct": lambda r: 87.9 if r["dataset"] == "cifar10" else 64.2}},
    ),
    ("only_pruning_explains", REFUTED, {}),
    ("only_pruning_explains", SUPPORTED, {HALF: top1(8.9), ("dense", "normalization=none"): top1(29.8), TUNED_HALF: top1(0)}),
    (
        "only_pruning_explains",
        UNDECIDED,
        {TUNED_HALF: {"top1_pct": lambda r: r["top1_pct"] - (5.8 if r["dataset"] == "cifar10" else 7.2)}},
    ),
    ("grasp_fails", REFUTED, {}),
    ("grasp_fails", SUPPORTED, {GRASP: top1(-15)}),
    ("grasp_fails", UNDECIDED, {GRASP: top1(-8.5)}),
    ("criterion_fails", REFUTED, {}),
    ("criterion_fails", SUPPORTED, {GRASP: top1(-6)}),
    ("criterion_fails", UNDECIDED, {GRASP: top1(-4.1)}),
    ("blunter_parameters", SUPPORTED, {}),
    ("blunter_parameters", REFUTED, WORSE),
    (
        "blunter_parameters",
        UNDECIDED,
        {FINE: top1(-0.9), LASSO: {"top1_pct": lambda r: r["top1_pct"] + (0.9 if r["dataset"] == "cifar10" else 2.9)}},
    ),
    ("blunter_macs", REFUTED, WORSE | {LASSO: {"effective_macs": 20_000_000}}),
    ("blunter_macs", SUPPORTED, {FINE: {"effective_macs": 40_000_000}}),
    ("blunter_bytes", SUPPORTED, {LASSO: {"size_mib": 9.0}}),
    ("blunter_bytes", REFUTED, WORSE),
    ("blunter_latency", SUPPORTED, channels(latency_batch128_ms=300.0)),
    ("blunter_latency", REFUTED, WORSE | channels(latency_batch128_ms=100.0)),
    ("keeps_learnt", SUPPORTED, {}),
    ("keeps_learnt", REFUTED, {LASSO: top1(-4)}),
    ("keeps_learnt", UNDECIDED, {LASSO: top1(-2.1)}),
    ("snip_better", UNDECIDED, {}),
    ("snip_better", SUPPORTED, {SNIP: top1(2.5)}),
    ("snip_better", REFUTED, {SNIP: top1(-2.5)}),
    ("after_training_better", SUPPORTED, {("dense_from_scratch", ""): top1(1.5)}),
    ("after_training_better", UNDECIDED, {("dense_from_scratch", ""): top1(-2)}),  # longer training explains the difference
    ("after_training_better", REFUTED, {MAGNITUDE: top1(-9)}),
    ("gradient_flow", SUPPORTED, {}),  # one-shot GraSP keeps more gradient than SNIP and is two points below
    ("gradient_flow", UNDECIDED, {("grasp", ""): {"gradient_norm": {"before": 1.0, "after": 1.0}}}),
    ("lottery_ticket", SUPPORTED, {}),
    ("lottery_ticket", REFUTED, {("layerwise_magnitude", "rewound"): top1(-9)}),
    ("lottery_ticket", UNDECIDED, {("layerwise_magnitude", "reinitialized"): top1(5)}),
]


@pytest.mark.parametrize(("key", "verdict", "changes"), CASES)
def test_rows_decide_a_claim(key, verdict, changes):
    found = judged(key, made(changes))
    assert {d: j.verdict for d, j in found.by_dataset.items()} == dict.fromkeys(found.by_dataset, verdict), found.by_dataset
    assert found.verdict == verdict
    assert all("nan" not in j.evidence and any(c.isdigit() for c in j.evidence) for j in found.by_dataset.values())


@pytest.mark.parametrize(("verdict", "shift"), [(SUPPORTED, 0.0), (REFUTED, 5.0), (UNDECIDED, 1.9)])
def test_the_finer_task_is_compared_across_data_sets(verdict, shift):
    rows = made()
    for stream, r in enumerate(rows):
        if (r["dataset"], r["method"]) == ("cifar100", "lasso_channels"):
            r["top1_pct"] += shift
            r["correct"] = correct_bits(r["top1_pct"], stream)
    assert judged("harder_when_finer", rows).verdict == verdict


def test_every_claim_can_be_supported_refuted_or_is_decided_by_measurement():
    keys = [claim.key for claim in claims.CLAIMS]
    assert len(keys) == len(set(keys))
    tried = {key: {verdict for k, verdict, _ in CASES if k == key} for key in keys}
    tried["harder_when_finer"] = {SUPPORTED, REFUTED}
    tried["gradient_flow"].add(REFUTED)  # a general "not enough" is shown by one example and refuted by none
    assert all({SUPPORTED, REFUTED} <= verdicts for verdicts in tried.values()), tried


@pytest.mark.parametrize("key", [claim.key for claim in claims.CLAIMS])
def test_without_rows_a_claim_is_not_measured_and_says_what_is_missing(key):
    found = judged(key, [r for r in made() if (r["method"], r["variant"]) == ("dense", "")])
    assert found.verdict == NOT_MEASURED
    assert all(j.evidence.endswith(".") and len(j.evidence.split()) > 2 for j in found.by_dataset.values())
    assert judged(key, []).verdict == NOT_MEASURED


def test_a_missing_column_is_given_with_the_reason_of_its_row():
    rows = made({("dense", ""): {"energy_mj": None, "reasons": {"energy_mj": "not measured: no counter"}}})
    found = judged("energy", rows).by_dataset["cifar10"]
    assert found == claims.Judgement(NOT_MEASURED, "Energy of dense on CIFAR-10: no counter.")


def test_data_sets_that_disagree_leave_a_claim_undecided():
    rows = made()
    for r in rows:
        if (r["dataset"], r["method"]) == ("cifar100", "lasso_channels"):
            r["size_mib"] = 30.0
    found = judged("structured_smallest", rows)
    assert [j.verdict for j in found.by_dataset.values()] == [SUPPORTED, REFUTED] and found.verdict == UNDECIDED


def test_a_claim_about_one_data_set_is_judged_on_it_alone_or_on_what_there_is():
    assert list(judged("grasp_fails", made()).by_dataset) == ["cifar100"]
    digits = [r | {"dataset": "digits"} for r in made() if r["dataset"] == "cifar10"]
    assert list(judged("grasp_fails", digits).by_dataset) == ["digits"]


def test_tables_show_every_claim_and_no_verdict_by_colour_alone():
    found = claims.judge(made())
    glance, details = claims.table(found)._repr_html_(), claims.details(found).data
    assert sum(claims.tally(found).values()) == len(claims.CLAIMS)
    for j in found:
        assert html.escape(j.claim.sentence) in glance and claims.marked(j.verdict) in glance
        assert all(seen.evidence in details for seen in j.by_dataset.values())
    assert "nan" not in (glance + details).replace("tenance", "") and "CIFAR-100" in glance
    topic = found[0].claim.topic
    assert found[-1].claim.sentence not in claims.table(found, topic)._repr_html_() + claims.details(found, topic).data
    with pytest.raises(ValueError, match="no verdict 'maybe'"):
        claims.Judgement("maybe", "")


def test_the_time_of_a_fine_tuned_network_is_that_of_its_masks():
    rows = made()
    [tuned] = [r for r in rows if (r["dataset"], r["variant"]) == ("cifar10", "curve_finetuned") and r["sparsity_pct"] < 90]
    tuned |= {"latency_batch128_ms": None, "sparse_latency_batch128_ms": None}
    with pytest.raises(evidence.Missing, match="Latency, batch 128 of layer-wise magnitude"):
        evidence.Rows(rows).cost(tuned, "latency")
    twin = tuned | {"variant": "curve", "latency_batch128_ms": 900.0, "sparse_latency_batch128_ms": 250.0}
    assert evidence.Rows([*rows, twin]).cost(tuned, "latency") == 250


def test_networks_that_do_equal_work_take_the_median_of_their_times():
    rows = made({LASSO: {"latency_ms": 5.0}, L1: {"latency_ms": 7.0}})
    known = evidence.Rows(rows)
    lasso, l1 = (known.one("cifar10", method) for method in ("lasso_channels", "l1_filters"))
    assert sorted(known.equal_work(lasso, "latency_ms")) == [5, 6, 7]
    assert known.cost(lasso, "single") == known.cost(l1, "single") == 6
    masked = known.one("cifar10", "layerwise_magnitude")
    assert known.read(masked, "latency_ms") == masked["latency_ms"] and known.read(lasso, "macs") == lasso["macs"]


def test_what_is_said_of_grasp_has_to_hold_for_either_score():
    level = [r | {"variant": "preserving"} for r in made() if r["method"] == "grasp_iterative"]
    worse = made({GRASP: top1(-15)})
    for key in ("grasp_fails", "criterion_fails"):
        assert judged(key, worse).verdict == SUPPORTED
        found = judged(key, [*worse, *level])
        assert found.verdict == UNDECIDED
        [evidence_] = [j.evidence for j in found.by_dataset.values()]
        assert "signed at its first stage 47.20 %" in evidence_ and "with its absolute score at every stage 62.20 %" in evidence_
    assert judged("snip_better", [*worse, *level]).verdict == UNDECIDED


def test_a_win_among_pairs_is_one_of_few_chosen_by_cost_alone():
    [judgement] = {j.evidence.split(";")[0] for j in judged("blunter_parameters", made()).by_dataset.values()}
    # 1.68 M weights against LASSO's 2.00 M, those against 3.00 M; nothing is cheaper than 0.91 M and of the other kind
    assert judgement.startswith("Of 2 pairs unstructured wins")


def test_five_findings_with_figures_of_the_rows():
    found = claims.findings(made())
    assert len(found) == 5 and all(isinstance(f, claims.Finding) for f in found)
    headlines = [f.headline for f in found]
    assert headlines[0].endswith("not bring the +9.45 / +4.50 points reported but −0.10 (CIFAR-10 / CIFAR-100)")
    assert "bitmask" in headlines[1] and "4.39 times smaller" in headlines[1]  # the same on both is said once
    assert headlines[2].startswith("Unstructured zeros do run faster, 2.54 times")
    assert "7.53 times fewer MACs, 5.00 times faster, at −1.30 / −3.30 points" in headlines[3]
    assert "94.00 % of the weights zeroed on CIFAR-10, 8.33 times, after 4 epochs −2.00 points" in found[3].text
    assert "from nothing for 4 epochs" in found[3].text and "networks of this shape are 3.3 times faster" in found[3].text
    assert "wrong normalisation (mean and deviation ½) the unpruned network loses 9.00 points" in found[0].text
    assert headlines[4].startswith("Between SNIP and iterative GraSP the rows do not decide")
    better = claims.findings(made({SNIP: top1(2.5), MAGNITUDE: SLOW}))
    assert better[4].headline.startswith("SNIP would have done better") and "absolute" not in better[4].text
    [other] = [r for r in made() if (r["dataset"], r["method"]) == ("cifar100", "grasp_iterative")]
    with_absolute = claims.findings([*made(), other | {"variant": "preserving"}])[4].text
    assert "Against GraSP with its absolute score at every stage (CIFAR-100): " in with_absolute
    level = [r | {"variant": "preserving"} for r in made() if r["method"] == "grasp_iterative"]
    both = claims.findings([*made({SNIP: top1(2.5), GRASP: top1(-4)}), *level])[4].headline
    assert both.startswith(
        "SNIP ends above iterative GraSP, signed at its first stage, by +6.40 points; "
        "above it with the score's absolute value throughout by +2.4"
    )
    only = claims.findings([*made({GRASP: top1(-4)}), *level])[4].headline
    assert only.startswith(
        "SNIP ends above iterative GraSP, signed at its first stage, by +3.90 points; "
        "with the score's absolute value throughout nothing"
    )
    assert "do not run clearly faster" in better[2].headline


def test_the_answer_is_what_a_point_at_most_buys(monkeypatch):
    left = {}
    monkeypatch.setattr(benchmarks, "over_rivals", lambda sparsity_pct, batch: left)
    rows = [r for r in made() if r["dataset"] == "cifar10"]
    told = claims.answer(rows)
    assert (
        "on CIFAR-10 the file gets 4.39 times smaller (layer-wise magnitude), and a batch of 128 images runs 2.54 times"
        in told.headline
    )
    assert told.text.endswith("the dense network with its batch norm folded.")
    alone = [r for r in made(folded=False) if r["dataset"] == "cifar10"]
    assert claims.answer(alone).text.endswith("the dense network as PyTorch runs it.")
    left["the dense network in another format"] = 1.024
    assert claims.answer(rows).text.endswith("layer-wise magnitude is 1.02 times as fast as the dense network in another format.")
    assert claims.answer([]) is None  # and where no network of a data set is surely that good:
    assert claims.answer(made({MAGNITUDE: top1(-3), FINE: top1(-3)})) is None


def test_networks_timed_unlike_the_sparse_kernel_decide_no_race():
    """The sparse kernel folds batch norm: where a network with fewer channels was not timed so, it may be faster than shown."""
    as_fast, slower = channels(latency_batch128_ms=220.0), channels(latency_batch128_ms=300.0)
    for key, changes, verdict in (("channels_faster", as_fast, REFUTED), ("blunter_latency", slower, SUPPORTED)):
        assert judged(key, made(changes)).verdict == verdict
        found = judged(key, made(changes, folded=False))
        assert found.verdict == UNDECIDED
        assert all("could be faster than shown" in j.evidence for j in found.by_dataset.values())
    text = claims.findings(made(as_fast, folded=False))[3].text
    assert "could be faster than shown" in text and "could be" not in claims.findings(made(as_fast))[3].text


def test_a_time_is_that_of_the_fastest_kernel():
    rows = made({SNIP: {"sparse_latency_batch128_ms": 900.0}})
    for r in rows:
        if r["folded_latency_batch128_ms"] == 1000:  # all of the dense network's shape
            r["folded_latency_batch128_ms"] = 800.0
    known = evidence.Rows(rows)
    assert known.cost(known.one("cifar10", "dense"), "latency") == 800
    assert known.gain(known.one("cifar10", "layerwise_magnitude"), "latency") == pytest.approx(800 / (2000 * 0.1967))
    assert known.cost(known.one("cifar10", "snip"), "latency") == 800  # with masks, and faster run densely and folded


def test_findings_without_rows_say_so_and_with_one_data_set_name_none():
    assert [f.headline.split(":")[0] for f in claims.findings([])] == ["Not measured yet"] * 5
    one = claims.findings([r for r in made(without=("snip",)) if r["dataset"] == "cifar10"])
    assert "CIFAR" not in one[0].headline and one[4].headline.startswith("Not measured yet")
    assert "no row of SNIP on CIFAR-10" in one[4].text
    half = [r for r in made() if (r["dataset"], r["method"]) != ("cifar100", "snip")]
    assert "Missing: no row of SNIP on CIFAR-100." in claims.findings(half)[4].text
