"""What the GraSP notebook says of its rows: computed from them, and open about what is missing."""

from synthetic import made

from helpers.report import saliency

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
    assert "All of them began alike: the head by lot; dropout 0 in the head." in said


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
    assert saliency.costs_seen(rows).data.count("cuts the MACs 3.3×, SNIP 2.0×.") == 2
