import pytest
import torch
from IPython.display import Markdown
from synthetic import made, unstructured

from helpers.plan import Planned
from helpers.pruning import masks
from helpers.report import magnitude, sensitivity, sentences, sparse_costs, style
from helpers.report.evidence import Rows
from helpers.report.plots import magnitude as gain_plots
from helpers.report.plots import sensitivity as plots
from helpers.results import RowKey

LAYERS = [
    {"name": "features.0", "kept": 30, "total": 100, "macs": 900},
    {"name": "features.3", "kept": 10, "total": 400, "macs": 400},
    {"name": "classifier.0", "kept": 20, "total": 500, "macs": 500},
]
SCAN = {
    "baseline_top1_pct": 90.0,
    "layers": ["features.0", "features.3", "classifier.0"],
    "sparsities": [0.5, 0.8, 0.95],
    "top1_pct": [[89.5, 60.0, 20.0], [90.0, 89.9, 89.0], [90.1, 88.0, 70.0]],
    "images": 5000,
}
ALLOCATION = {"tolerance": 0.75, "layers": [layer | {"expected_drop": 0.7} for layer in LAYERS]}
PEERS = {
    "effective_macs": 700,
    "layers": LAYERS,
    "pruned_top1_pct": 40.0,
    "size_bitmask_fp16_mib": 7.5,
    "entropy_bound_mib": 13.0,
}


@pytest.fixture
def rows(tmp_path, monkeypatch) -> list[dict]:
    monkeypatch.setenv("REPORT_DIR", str(tmp_path))
    curve = [
        unstructured("cifar10", method, top1, density, "curve", epochs=0)
        for method in sensitivity.CURVE_METHODS
        for density, top1 in ((0.5, 92.0), (0.125, 30.0))
    ]
    return made({("layerwise_magnitude", ""): PEERS | {"scan": SCAN, "allocation": ALLOCATION}}) + curve


def test_every_figure_is_drawn_from_the_rows(rows):
    for dataset in ("cifar10", "cifar100"):
        assert isinstance(plots.fragility(rows, dataset), style.Figure)
        assert isinstance(plots.allocation(rows, dataset), style.Figure)
    for figure in (plots.compression(rows), gain_plots.control(rows), gain_plots.sizes(rows), gain_plots.speed_up(rows)):
        assert isinstance(figure, style.Figure) and figure.png.startswith(b"\x89PNG")


def test_rows_that_do_not_exist_show_as_missing():
    for shown in (
        *(show([], "cifar10") for show in (plots.fragility, plots.allocation, sensitivity.allocation_table)),
        *(show([]) for show in (plots.compression, gain_plots.control, gain_plots.sizes, gain_plots.speed_up)),
        *(show([]) for show in (sensitivity.compression_table, magnitude.against_write_up)),
    ):
        assert isinstance(shown, Markdown) and "Missing" in shown.data
    lone = made(without=("layerwise_magnitude",))
    for tell in (sensitivity.fragility_seen, sensitivity.allocation_seen, magnitude.against_seen, sparse_costs.sizes_seen):
        assert "Not told for CIFAR-10: no row of layer-wise magnitude" in tell(lone).data


def test_a_row_missing_for_both_data_sets_is_named_once():
    keys = [RowKey("cifar10", "random", 80.0), RowKey("cifar100", "random", 80.0), RowKey("cifar10", "snip", 80.0)]
    text = sentences.missing([Planned(key, "saliency", "A") for key in keys]).data
    assert "3 rows are not computed yet" in text
    assert "<li>CIFAR-10 and CIFAR-100: <code>random-s80</code></li>" in text
    assert "<li>CIFAR-10: <code>snip-s80</code></li>" in text


def test_fragile_layers_are_named_by_what_they_bear(rows):
    text = sensitivity.fragility_seen(rows).data
    assert "conv 1 (51 %)" in text  # 0.5 points at 50 %, 30 at 80 %: one point at 50.5 %
    assert "1 of 3 layers bear 90 % or more, and these hold 40 % of all weights" in text


def test_a_gain_without_pruning_is_put_beside_the_write_up_s(rows):
    text = magnitude.control_seen(rows).data
    assert "mean and deviation ½ −9.00 points" in text
    assert f"{100 * 9 / (92.37 - 82.92):.0f} % of the write-up's gain, with nothing pruned" in text
    pairs = {pair.label: pair for pair in magnitude.control_pairs(Rows(rows), "cifar10")}
    assert pairs["dense, no normalisation"].after is None  # not fine-tuned: no arrow, no gain
    assert pairs["write-up: baseline → pruned"].gain == pytest.approx(9.45)


def test_a_normalisation_that_is_the_network_s_own_is_no_wrong_one(rows):
    own = next(r for r in rows if (r["dataset"], r["method"], r["variant"]) == ("cifar10", "dense", ""))
    for r in rows:
        if (r["dataset"], r["variant"]) == ("cifar10", "normalization=half"):
            r["correct"] = own["correct"]
    assert not any("½" in pair.label for pair in magnitude.control_pairs(Rows(rows), "cifar10"))


def test_speed_is_a_ratio_of_times_and_the_bound_one_of_macs(rows):
    points = sparse_costs.speed_points(Rows(rows), "cifar10", "layerwise_magnitude", "single")
    row = Rows(rows).one("cifar10", "layerwise_magnitude")
    assert [point.sparsity_pct for point in points] == sorted([50.0, row["sparsity_pct"], 87.5])
    point = next(point for point in points if point.sparsity_pct == row["sparsity_pct"])
    assert point.speed_up == Rows(rows).one("cifar10", "dense")["latency_ms"] / row["sparse_latency_ms"]
    assert point.bound == 1800 / 700


def test_the_table_holds_both_sides(rows):
    html = magnitude.against_write_up(rows)._repr_html_()
    assert "34.33" in html and "92.37" in html and "68.07" in html and "write-up" in html


def test_the_toy_is_checked_and_a_wrong_mask_is_caught():
    weights = sensitivity.toy_weights()
    kept = masks.keep_largest(weights.abs(), 5)
    assert len(set(weights.abs().flatten().tolist())) == 25
    assert "same 5 weights stay" in sensitivity.toy_checked(weights, kept).data
    wrong = kept.clone()
    wrong.view(-1)[[int(kept.view(-1).int().argmax()), int((~kept).view(-1).int().argmax())]] ^= True
    with pytest.raises(AssertionError, match="disagree"):
        sensitivity.toy_checked(weights, wrong)
    assert isinstance(wrong, torch.Tensor)


def test_accuracy_against_compression_counts_what_stays_near_the_dense_network(rows):
    text = sensitivity.compression_seen(rows).data
    assert "On CIFAR-10 the most that stays within 1 point of the dense network untrained is, layer-wise magnitude: 2×" in text
    html = sensitivity.compression_table(rows)._repr_html_()
    assert "2×" in html and "8×" in html and "92.00" in html and "30.00" in html


def test_layers_are_numbered_by_kind():
    assert sensitivity.layer_labels(["features.0", "features.3", "classifier.0"]) == ["conv 1", "conv 2", "fc 1"]
