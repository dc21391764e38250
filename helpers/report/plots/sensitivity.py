"""Figures of magnitude pruning: fragile layers, allocations, accuracy against compression, bytes and time of zeros."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from helpers.report import look
from helpers.report.plots import heatmap, legend, main_result, panels

LAYERWISE_METHOD = "layerwise_magnitude"
LAYERWISE = look.network(LAYERWISE_METHOD)
MAGNITUDES = ("layerwise_magnitude", "global_magnitude", "uniform_magnitude")
NORMALIZATIONS = {
    "": "its own",
    "normalization=half": "±1",
    "normalization=imagenet": "ImageNet's",
    "normalization=none": "none",
}
UNTRAINED = {  # column of a repair of magnitude masks → name, colour, mark and line
    "recalibrated_top1_pct": ("batch norm averaged anew", "#b3401f", "v--"),
    "repaired_top1_pct": ("kept weights solved for", "#0b4f8a", "D-."),
}
BESIDE = {  # label of another repair → name, colour, mark and line
    "blocks": ("together, in blocks of four", "#6d2361", ">--"),
    "finetuned": ("together, and one epoch", "#1f5c3d", "*"),
    "blocks_finetuned": ("in blocks of four, and one epoch", "#6d2361", "X"),
    "magnitude_finetuned": ("magnitude masks solved for, and one epoch", "#0b4f8a", "P"),
}
FORMATS = {  # column → name, colour, mark and line
    "size_dense_mib": ("dense", "#1d2125", "o", "-"),
    "size_coo_mib": ("COO", "#b3401f", "s", "--"),
    "size_csr_mib": ("CSR", "#96730f", "^", "-."),
    "size_bitmask_mib": ("bitmask", "#0b4f8a", "D", "-"),
    "entropy_mib": ("mask entropy + raw values", "#565d64", "", ":"),
}


def fragility(frame: pd.DataFrame, dataset: str) -> Figure:
    """Points of validation top-1 lost when one layer alone is pruned: layers down, sparsities across."""
    scan = main_result(frame, "layerwise_magnitude", dataset).scan
    lost = scan["baseline_top1_pct"] - np.array(scan["top1_pct"])
    table = pd.DataFrame(lost, index=look.layers(scan["layers"]), columns=[f"{100 * s:g}" for s in scan["sparsities"]])
    figure, axes = heatmap(table, 4.4, vmin=0, vmax=30, cbar_kws={"label": "points lost", "extend": "max"})
    axes.set(xlabel="Sparsity of this layer alone (%)", title=look.dataset(dataset))
    return figure


def allocation(frame: pd.DataFrame, dataset: str) -> Figure:
    """Left the share of each layer's weights that goes; right its multiply-adds, before and after, in millions."""
    result = main_result(frame, "layerwise_magnitude", dataset)
    layers = pd.DataFrame(list(result.layers))
    names, stays = look.layers(layers.name), layers.kept / layers.total
    figure, (left, right) = plt.subplots(1, 2, figsize=(look.WIDTH, 4.0), sharey=True)
    left.barh(names, 100 * (1 - stays), color=LAYERWISE.color)
    left.axvline(result.sparsity_pct, color=look.INK, linestyle="--", linewidth=1)
    left.set(xlabel="Weights that go (%)", xlim=(0, 100), title=look.dataset(dataset))
    right.barh(names, layers.macs / 1e6, color=look.PALE, label="dense")
    right.barh(names, layers.macs / 1e6 * stays, color=LAYERWISE.color, label="touching a weight that stays")
    right.set(xlabel="Multiply-adds (M)")
    right.legend(loc="lower right")
    left.invert_yaxis()
    for axes in (left, right):
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    return figure


def compression(frame: pd.DataFrame) -> Figure:
    """Top-1 against how many times fewer weights: untrained for three allocations, and after the short fine-tuning."""
    figure, grid = panels(frame[frame.label == "curve"].dataset, 3.9, "Times fewer weights")
    for dataset, axes in grid.items():
        chosen = frame[frame.dataset == dataset].sort_values("sparsity_pct")
        for method, label in (*((method, "curve") for method in MAGNITUDES), (MAGNITUDES[0], "curve_finetuned")):
            curve, network = chosen[(chosen.method == method) & (chosen.label == label)], look.network(method)
            fill, width, words = ("white", 1.2, "untrained") if label == "curve" else (network.color, 2.2, "fine-tuned")
            style = network.style | {"markerfacecolor": fill, "linewidth": width, "label": f"{network.name}, {words}"}
            axes.plot(100 / curve.density_pct, curve.top1_pct, **style)
        dense = main_result(frame, "dense", dataset)
        axes.axhline(dense.top1_pct, color=look.INK, linewidth=1, linestyle=":", label="dense")
        axes.set_xscale("log", base=2)
        axes.set_xticks([2, 4, 8, 16, 32], ["2×", "4×", "8×", "16×", "32×"])
        axes.set(ylim=(0, None))
    legend(figure, 2)
    return figure


def without_training(frame: pd.DataFrame) -> Figure:
    """Top-1 by sparsity with nothing trained: magnitude masks alone, recalibrated, solved; repair; and what was fine-tuned.

    Below, the corner where repaired networks lie, enlarged.
    """
    repairs = frame[frame.method == "repaired"]
    datasets = list(dict.fromkeys(repairs.dataset))
    figure, grid = plt.subplots(2, len(datasets), figsize=(look.WIDTH, 6.4), squeeze=False)
    for dataset, whole, corner in zip(datasets, *grid, strict=True):
        for axes in (whole, corner):
            _untrained(axes, frame[frame.dataset == dataset])
        dense, furthest = main_result(frame, "dense", dataset).top1_pct, repairs[repairs.dataset == dataset].sparsity_pct
        whole.set(ylim=(0, None), title=look.dataset(dataset))
        corner.xaxis.set_major_locator(MultipleLocator(5))
        corner.set(xlim=(furthest.min() - 1, furthest.max() + 1), ylim=(0.87 * dense, 1.01 * dense), xlabel="Sparsity (%)")
    for axes in grid[:, 0]:
        axes.set_ylabel("Top-1 (%)")
    legend(figure, 2)
    return figure


def _untrained(axes: Axes, frame: pd.DataFrame) -> None:
    """The curves of `without_training` for the results of one data set."""
    hollow: dict[str, Any] = {"markerfacecolor": "white"}
    repairs = frame[frame.method == "repaired"].sort_values("sparsity_pct")
    of_masks, alone = repairs[repairs.label == "magnitude"], _curve(frame)
    axes.plot(alone.sparsity_pct, alone.top1_pct, "^:", color="#96730f", label="magnitude masks alone", **hollow)
    for column, (name, color, mark) in UNTRAINED.items() if len(of_masks) else ():
        axes.plot(of_masks.sparsity_pct, of_masks[column], mark, color=color, label=name, **hollow)
    together = repairs[repairs.label.isin(["", "curve"])]
    axes.plot(together.sparsity_pct, together.top1_pct, **look.network("repaired").style, label="mask and weights together")
    for label, (name, color, mark) in BESIDE.items():
        other = repairs[repairs.label == label]
        if len(other):
            axes.plot(other.sparsity_pct, other.top1_pct, mark, color=color, label=name, zorder=4)
    tuned, dense = _curve(frame, "curve_finetuned"), main_result(frame, "dense", frame.dataset.iloc[0])
    axes.plot(tuned.sparsity_pct, tuned.top1_pct, **LAYERWISE.style | hollow, label="magnitude masks, fine-tuned", zorder=1)
    axes.axhline(dense.top1_pct, color=look.INK, linewidth=1, linestyle=":", label="dense")


def normalizations(frame: pd.DataFrame) -> Figure:
    """Top-1 of the dense network under each normalisation of the images, before and after fine-tuning, beside pruned networks."""
    figure, grid = panels(frame.dataset, 3.2)
    places, shown = range(len(NORMALIZATIONS)), ["dense", "dense_finetuned", "layerwise_magnitude"]
    for dataset, axes in grid.items():
        top1 = frame[frame.dataset == dataset].groupby(["label", "method"]).top1_pct.mean().unstack()
        top1 = top1.reindex(index=NORMALIZATIONS, columns=shown)
        axes.vlines(places, top1.dense, top1.dense_finetuned, color=look.SOFT_INK, linewidth=1)
        for method in shown[:2]:
            axes.plot(places, top1[method], **look.network(method).mark)
        axes.plot(len(places), top1.loc["", shown[2]], **LAYERWISE.mark)
        axes.set_xticks(range(len(places) + 1), [*NORMALIZATIONS.values(), "pruned"], fontsize=8.5)
        axes.set_xlim(-0.5, len(places) + 0.5)
    legend(figure)
    return figure


def sizes(frame: pd.DataFrame) -> Figure:
    """Size on disk in each format by sparsity, for layer-wise masks of the first data set: formats hardly depend on the masks."""
    dataset = frame.dataset.iloc[0]
    figure, axes = plt.subplots(figsize=(look.WIDTH, 3.8))
    curve = _curve(frame[frame.dataset == dataset])
    for column, (name, color, marker, line) in FORMATS.items():
        axes.plot(curve.sparsity_pct, curve[column], color=color, marker=marker, linestyle=line, label=name)
    axes.set(xlabel="Sparsity (%)", ylabel="File (MiB)", ylim=(0, None), title=look.dataset(dataset))
    legend(figure, 5)
    return figure


def speed(frame: pd.DataFrame) -> Figure:
    """How many times faster zeros are skipped than the same network is run densely, by sparsity; one panel a batch size."""
    figure, grid = plt.subplots(1, 2, figsize=(look.WIDTH, 3.9), sharey=True)
    for axes, column, title in zip(grid, ("latency_ms", "latency_batch128_ms"), ("1 image", "128 images"), strict=True):
        for dataset, line in zip(frame.dataset.unique(), ("-", "--"), strict=False):
            curve, dense = _curve(frame[frame.dataset == dataset]), main_result(frame, "dense", dataset)
            curve, name = curve[curve[f"sparse_{column}"].notna()], look.dataset(dataset)
            faster = dense[column] / curve[f"sparse_{column}"]
            axes.plot(curve.sparsity_pct, faster, **LAYERWISE.style | {"linestyle": line}, label=name)
            bound = {"color": look.SOFT_INK, "linewidth": 0.9, "linestyle": line, "label": f"{name}, every zero for free"}
            axes.plot(curve.sparsity_pct, curve.macs / curve.effective_macs, **bound)
        axes.axhline(1, color=look.INK, linewidth=0.8)
        axes.set(title=title, xlabel="Sparsity (%)", ylim=(0, 8))
    grid[0].set_ylabel("Times as fast as dense")
    legend(figure, 2)
    return figure


def _curve(frame: pd.DataFrame, label: str = "curve") -> pd.DataFrame:
    """One data set's networks with layer-wise masks by sparsity, untrained or of another label."""
    return frame[(frame.method == LAYERWISE_METHOD) & (frame.label == label)].sort_values("sparsity_pct")
