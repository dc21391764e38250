import base64

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from helpers import models
from helpers.pruning import reconstruction, selection
from helpers.report import channels, one_layer, savings, style
from helpers.report.evidence import Rows
from helpers.report.plots import channels as plots

HALF = tuple("M" if width == "M" else width // 2 for width in models.VGG16)


def row(method: str, variant: str = "", **columns) -> dict:
    bits = np.arange(200) % 10 != 0
    made = {
        "dataset": "cifar10",
        "method": method,
        "variant": variant,
        "seed": 0,
        "epochs": 2,
        "top1_pct": 90.0,
        "top5_pct": 99.0,
        "pruned_top1_pct": 80.0,
        "macs": 80e6,
        "params": 4_000_000,
        "size_mib": 15.0,
        "latency_ms": 2.0,
        "latency_batch128_ms": 50.0,
        "device": "a processor",
        "widths": list(HALF),
        "channel_reports": [
            {"error_before": 0.4, "error_after": 0.1 + n / 100, "solver": "cholesky, ridge 1e-03"} for n in range(13)
        ],
        "correct": base64.b64encode(np.packbits(bits)).decode(),
        "test_images": 200,
        "settings": {"width_divisor": 1, "macs_share": 0.25},
    }
    return made | columns


DENSE = row("dense", macs=320e6, params=16_000_000, size_mib=60.0, latency_ms=6.0, latency_batch128_ms=300.0, epochs=0)


def test_the_toys_answer_is_the_one_found_by_hand():
    toy = one_layer.toy()
    kept, _ = selection.path(toy.statistics, toy.W).keep(3)
    solved = reconstruction.solve(toy.statistics, kept, toy.W[:, kept])
    assert "by hand" in one_layer.toy_checked(toy, kept, solved).html
    with pytest.raises(AssertionError):
        one_layer.toy_checked(toy, kept, reconstruction.Solution(toy.W[:, kept], solved.bias, "none"))
    with pytest.raises(AssertionError):
        one_layer.toy_checked(toy, torch.tensor([0, 1, 4]), solved)


def test_savings_are_ratios_of_the_rows():
    found = savings.ratios(Rows([DENSE, row(channels.MAIN)]), "cifar10")
    assert found == {"MACs": 4, "Size": 4, "Latency, batch 1": 3, "Latency, batch 128": 6, "Activations": 2}
    assert savings.activations(models.VGG16) == 276_480


def test_what_is_seen_follows_from_the_rows():
    rows = [DENSE, row(channels.MAIN), row(channels.MAIN, "no_reconstruction", pruned_top1_pct=30.0)]
    assert "4.00× fewer" in channels.widths_seen(rows).data and "it is kept" in channels.widths_seen(rows).data
    broken = [DENSE, row(channels.MAIN, macs=81e6)]
    assert "it is broken" in channels.widths_seen(broken).data
    assert "40.0 % on average" in channels.errors_seen(rows).data and "conv 13 (22.0 %)" in channels.errors_seen(rows).data
    assert "Without reconstruction: −50.00 points right after pruning" in channels.ablations_seen(rows).data
    formats = {0: "bfloat16", 1: "bfloat16", 2: "float32"}
    seeded = [DENSE, *(row(channels.MAIN, seed=seed, train_dtype=dtype) for seed, dtype in formats.items())]
    said = channels.ablations_seen([*seeded, row(channels.MAIN, "symmetric", train_dtype="bfloat16")]).data
    assert "within one number format, 1 training in another left out" in said
    assert "left out" not in channels.ablations_seen(rows).data
    assert "88.01 %, ours is +1.99 points" in channels.against_seen(rows).data
    assert "3.0× faster at batch 1 and 6.0× at batch 128" in savings.savings_seen(rows).data
    assert "write-up" in channels.against_write_up(rows).html


def test_the_curve_names_the_furthest_budget_within_a_point():
    rows = [DENSE, row(channels.MAIN, "macs=2x", macs=160e6, top1_pct=89.5), row(channels.MAIN, top1_pct=89.0)]
    rows.append(row(channels.MAIN, "macs=12x", macs=32e6, top1_pct=88.9, epochs=3))
    told = savings.curve_seen(rows).data
    assert "4.0× fewer MACs with fine-tuning, none of these budgets without" in told
    assert "At 10.0× fewer, 80.00 % become 88.90 % in 3 epochs" in told


def test_a_network_of_another_budget_of_epochs_stands_beside_the_line_and_says_so():
    rows = [DENSE, *(row(channels.MAIN, f"macs={n}x", macs=320e6 / n) for n in (2, 12)), row(channels.MAIN, epochs=3)]
    figure, axes = plt.subplots()
    named = plots._accuracy(axes, Rows(rows), "cifar10")
    assert [text for _, _, text, _ in named] == ["3 epochs", "HRank", "CHIP"]
    joined = {line.get_label(): len(line.get_xdata()) for line in axes.lines}
    assert joined["LASSO channels, 2 epochs"] == 2 and joined["LASSO channels, 3 epochs"] == 1
    alike = plots._accuracy(figure.add_subplot(), Rows([*rows[:-1], row(channels.MAIN)]), "cifar10")
    assert [text for _, _, text, _ in alike] == ["HRank", "CHIP"]
    plt.close(figure)
    assert plots.OTHERS not in {look.marker for look in style.METHODS.values()}


def test_a_latency_of_other_widths_stands_beside_the_spread_of_equal_ones():
    twins = [row(channels.MAIN), row("l1_filters", latency_batch128_ms=55.0), row("random_channels", latency_batch128_ms=None)]
    odd = row(channels.MAIN, "unrounded", latency_batch128_ms=63.0, macs=81e6)
    said = channels.ablations_seen([DENSE, *twins, odd]).data
    assert "by +20 %, where the 2 networks of the rounded widths differ by 10 %." in said


def test_missing_rows_are_said_and_nothing_fails():
    assert "Missing" in channels.against_write_up([]).data
    for rows in ([], [DENSE]):
        for show in (savings.curve_table, channels.ablations, plots.accuracy, plots.savings):
            assert "Missing" in show(rows).data
        for seen in (channels.widths_seen, channels.errors_seen, savings.curve_seen, channels.ablations_seen):
            assert ("Not told" in seen(rows).data) == bool(rows)
        assert "Missing" in plots.widths(rows, "cifar10").data and "Missing" in plots.errors(rows, "cifar10").data
