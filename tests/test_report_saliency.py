"""What the GraSP notebook says of its rows: computed from them, and open about what is missing."""

from dataclasses import replace

from synthetic import made

from helpers import settings
from helpers.report import gradient_flow, saliency, saliency_costs
from helpers.report.plots import saliency as plots

LAYERS = [
    {"name": "features.0", "kept": 50, "total": 100, "macs": 1},
    {"name": "classifier.0", "kept": 30, "total": 1000, "macs": 1},
    {"name": "classifier.3", "kept": 5, "total": 1000, "macs": 1},
]


def test_only_what_is_beyond_the_noise_is_said_to_beat_the_dense_control():
    rows = made(
        {("random", ""): {"top1_pct": lambda r: r["top1_pct"] + 10}, ("snip", ""): {"top1_pct": lambda r: r["top1_pct"] + 2.2}}
    )
    said = saliency.control_seen(rows).data
    assert said.count("Beyond the noise above it: random (+4.00 points).") == 2 and "SNIP" not in said
    assert said.count("no pruned network is above it beyond the noise") == 0
    assert saliency.control_seen(made()).data.count("no pruned network is above it beyond the noise") == 2
    drawn = {"settings": {"dropout": 0.0, "initialization": "the head by lot"}}
    said = saliency.control_seen(made({("dense_from_scratch", ""): drawn})).data
    assert "All of them began alike: the head by lot; dropout 0 in the head." in said and "hold a dense control back" not in said
    # rows that began with the large head say what it does, whichever method is ahead
    ahead = made({("random", ""): {"top1_pct": lambda r: r["top1_pct"] + 10}})
    assert all(saliency.control_seen(rows).data.count("hold a dense control back") == 2 for rows in (made(), ahead))


def test_a_method_is_held_against_the_control_of_its_number_format():
    changes = {("random", ""): {"top1_pct": lambda r: r["top1_pct"] + 10, "train_dtype": "float32"}}
    rows = made(changes | {("dense_from_scratch", ""): {"train_dtype": "bfloat16"}})
    assert "Beyond the noise above it" not in saliency.control_seen(rows).data  # +4 points, of which the format may have a share
    control = next(r for r in rows if r["method"] == "dense_from_scratch" and r["dataset"] == "cifar10")
    alike = control | {"variant": "format=float32", "train_dtype": "float32"}
    said = saliency.control_seen([*rows, alike]).data
    assert said.count("Beyond the noise above it: random (+4.00 points).") == 1  # on the data set that has the control
    assert "in float32 ends at 90.40 %" not in saliency.control_seen(rows).data
    placed = [r | {"train_device": "a processor"} for r in (*rows, alike) if r["dataset"] == "cifar10"]
    worth = "the dense control in float32 ends at 90.40 %, 0.00 points from that in bfloat16, inside the noise"
    assert worth in saliency.control_seen(placed).data
    assert "dense, from scratch, float32" in saliency.one_budget([*rows, alike], "cifar10").html


def test_the_thinnest_layer_is_named_as_in_the_figures():
    said = saliency.control_seen(made({("grasp_iterative", ""): {"layers": LAYERS}})).data
    assert "The thinnest layer of GraSP, iterative, fc 2, keeps 0.5 % of its weights." in said


def test_snip_is_judged_against_both_grasps_and_a_missing_one_is_named():
    said = saliency.snip_answer(made()).data
    assert "On CIFAR-10 SNIP ends at 88.30 % top-1." in said and said.count("Against GraSP") == 4
    assert "SNIP's network keeps 1.00× its MACs" in said
    assert "GraSP, one shot has no row yet." in saliency.snip_answer(made(without=("grasp",))).data
    assert "Not told for CIFAR-10: no row of SNIP" in saliency.snip_answer(made(without=("snip",))).data


def test_equal_weights_are_not_equal_work():
    rows = made({("snip", ""): {"effective_macs": 157_001_733}})
    assert saliency_costs.costs_seen(rows).data.count("cuts the MACs 3.3×, SNIP 2.0×.") == 2


def test_one_score_at_every_stage_stands_beside_the_main_row():
    log = {"log": [{"epoch": e, "val_top1_pct": 60.0} for e in range(3)], "schedule": [{"epoch": 0}, {"epoch": 1}]}
    rows = made({("grasp_iterative", ""): log, ("dense_from_scratch", ""): log})
    assert "60.0, 60.0, 60.0 % validation top-1" in saliency.curves_seen(rows).data
    assert "absolute" not in saliency.curves_seen(rows).data
    main = next(r for r in rows if r["method"] == "grasp_iterative" and r["dataset"] == "cifar10")
    bits = next(r for r in rows if r["method"] == "dense_from_scratch" and r["dataset"] == "cifar10")
    better = main | {"variant": "preserving", "top1_pct": bits["top1_pct"], "correct": bits["correct"]}
    said = saliency.curves_seen([*rows, better]).data
    assert "With the absolute score at every stage the test accuracy is 90.40 %: this is 2.00 points above" in said
    against = saliency.against_seen([*rows, better]).data
    assert "With the absolute score at every stage it ends at 90.40 %: undecided between it and" in against
    assert "GraSP, iterative, absolute score at every stage" in saliency.one_budget([*rows, better], "cifar10").html


def test_a_promise_for_one_weight_is_held_against_many_at_once():
    """On a narrow network: shares rise, the random choice loses gradient, and the sentence follows the figures."""
    found = gradient_flow.at_once(replace(settings.profile("demo"), width_divisor=16))
    assert set(found.left) == {"signed", "absolute", "random"} and found.shares == tuple(sorted(found.shares))
    assert found.left["absolute"][0] > 0.99 and found.left["random"][-1] < 0.5
    assert all(a <= b + 1e-9 for a, b in zip(found.promised[:3], found.promised[1:3], strict=False)) and found.promised[0] > 1
    assert "signed" in plots.at_once(found)._repr_html_()
    # the removed weights have gradient too: the norm the promise speaks of is never below that of what is left
    assert all(whole >= left for whole, left in zip(found.counted_all, found.left["signed"], strict=True))
    kept = replace(found, counted_all=[2.0] * len(found.shares))
    assert "still points the right way" in gradient_flow.at_once_seen(kept).data
    shares = len(found.shares)
    left = found.left | {"signed": [0.1] * shares, "absolute": [0.9] * shares}
    broken = replace(found, counted_all=[0.2] * shares, left=left)
    said = gradient_flow.at_once_seen(broken).data
    assert "leaves 10 % of the gradient norm (20 % with the removed weights" in said
    assert "Most is left by the absolute choice." in said
