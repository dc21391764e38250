"""Figures of magnitude pruning: fragile layers, allocations, accuracy against compression, bytes and time of zeros."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from helpers.report import look
from helpers.report.plots import label, main_result

MAGNITUDES = ("layerwise_magnitude", "global_magnitude", "uniform_magnitude")


def fragility(frame: pd.DataFrame, dataset: str) -> plt.Figure:
    """Points of validation top-1 lost when one layer alone is pruned: layers down, sparsities across."""
    scan = main_result(frame, "layerwise_magnitude", dataset).scan
    lost = scan["baseline_top1_pct"] - np.array(scan["top1_pct"])
    table = pd.DataFrame(lost, index=look.layers(scan["layers"]), columns=[f"{100 * s:g}" for s in scan["sparsities"]])
    figure, axes = plt.subplots(figsize=(look.WIDTH, 4.4))
    colors = {"cmap": f"{look.SEQUENTIAL}_r", "vmin": 0, "vmax": 30, "cbar_kws": {"label": "points lost", "extend": "max"}}
    sns.heatmap(table, annot=True, fmt=".0f", annot_kws={"fontsize": 7.5}, linewidths=0.5, ax=axes, **colors)
    axes.set(xlabel="Sparsity of this layer alone (%)", ylabel="", title=look.dataset(dataset))
    axes.tick_params(length=0)
    axes.grid(visible=False)
    return figure


def allocation(frame: pd.DataFrame, dataset: str) -> plt.Figure:
    """Left the share of each layer's weights that goes; right its multiply-adds, before and after, in millions."""
    result = main_result(frame, "layerwise_magnitude", dataset)
    layers = pd.DataFrame(list(result.layers))
    names, places = look.layers(layers.name), np.arange(len(layers))
    gone = 1 - layers.kept / layers.total
    figure, (left, right) = plt.subplots(1, 2, figsize=(look.WIDTH, 4.0), sharey=True)
    color = look.network("layerwise_magnitude").color
    left.barh(places, 100 * gone, color=color)
    left.axvline(result.sparsity_pct, color=look.INK, linestyle="--", linewidth=1)
    left.set(xlabel="Weights that go (%)", xlim=(0, 100), title=look.dataset(dataset))
    right.barh(places, layers.macs / 1e6, color="#d5dade", label="dense")
    right.barh(places, layers.macs / 1e6 * (1 - gone), color=color, label="touching a weight that stays")
    right.set(xlabel="Multiply-adds (M)")
    right.legend(loc="lower right")
    left.set_yticks(places, names)
    left.invert_yaxis()
    for axes in (left, right):
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    return figure


def compression(frame: pd.DataFrame) -> plt.Figure:
    """Top-1 against how many times fewer weights: untrained for three allocations, and after the short fine-tuning."""
    datasets = [d for d in frame.dataset.unique() if (frame[frame.dataset == d].label == "curve").any()]
    figure, grid = plt.subplots(1, len(datasets), figsize=(look.WIDTH, 3.9), squeeze=False)
    for axes, dataset in zip(grid[0], datasets, strict=True):
        chosen = frame[frame.dataset == dataset].sort_values("sparsity_pct")
        for method in MAGNITUDES:
            curve = chosen[(chosen.method == method) & (chosen.label == "curve")]
            style = look.network(method).style | {"markerfacecolor": "white", "linewidth": 1.2}
            axes.plot(100 / curve.density_pct, curve.top1_pct, **style, label=f"{look.name(method)}, untrained")
        tuned = chosen[(chosen.method == "layerwise_magnitude") & (chosen.label == "curve_finetuned")]
        style = look.network("layerwise_magnitude").style
        axes.plot(100 / tuned.density_pct, tuned.top1_pct, **style, linewidth=2.2, label="layer-wise magnitude, fine-tuned")
        dense = main_result(frame, "dense", dataset)
        axes.axhline(dense.top1_pct, color=look.INK, linewidth=1, linestyle=":", label="dense")
        axes.set_xscale("log", base=2)
        axes.set_xticks([2, 4, 8, 16, 32], ["2×", "4×", "8×", "16×", "32×"])
        axes.set(title=look.dataset(dataset), xlabel="Times fewer weights", ylim=(0, None))
    grid[0][0].set_ylabel("Top-1 (%)")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def normalizations(frame: pd.DataFrame) -> plt.Figure:
    """Top-1 of the dense network under each normalisation of the images, before and after fine-tuning, beside pruned networks."""
    datasets = list(frame.dataset.unique())
    figure, grid = plt.subplots(1, len(datasets), figsize=(look.WIDTH, 3.2), sharey=False, squeeze=False)
    kinds = ["", "normalization=half", "normalization=imagenet", "normalization=none"]
    names = ["its own", "±1", "ImageNet's", "none"]
    for axes, dataset in zip(grid[0], datasets, strict=True):
        chosen = frame[frame.dataset == dataset].groupby(["method", "label"]).top1_pct.mean()
        for place, kind in enumerate(kinds):
            before, after = chosen.get(("dense", kind)), chosen.get(("dense_finetuned", kind))
            if before is not None and after is not None:
                axes.annotate("", (place, after), (place, before), arrowprops={"arrowstyle": "-|>", "color": look.SOFT_INK})
            axes.plot(place, before, **look.network("dense").style | {"linestyle": ""}, label="dense" if not place else None)
            if after is not None:
                style = look.network("dense_finetuned").style | {"linestyle": ""}
                axes.plot(place, after, **style, label=None if place else "fine-tuned dense")
        pruned = chosen.get(("layerwise_magnitude", ""))
        if pruned is not None:
            style = look.network("layerwise_magnitude").style | {"linestyle": ""}
            axes.plot(len(kinds), pruned, **style, label="layer-wise magnitude")
        axes.set_xticks(range(len(kinds) + 1), [*names, "pruned"], fontsize=8.5)
        axes.set(title=look.dataset(dataset), xlim=(-0.5, len(kinds) + 0.5))
    grid[0][0].set_ylabel("Top-1 (%)")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def sizes(frame: pd.DataFrame) -> plt.Figure:
    """Size on disk in each format by sparsity, for layer-wise masks of the first data set: formats hardly depend on the masks."""
    dataset = frame.dataset.iloc[0]
    curve = frame[(frame.dataset == dataset) & (frame.method == "layerwise_magnitude") & (frame.label == "curve")]
    curve = curve.sort_values("sparsity_pct")
    formats = {
        "size_dense_mib": ("dense", "#1d2125", "o", "-"),
        "size_coo_mib": ("COO", "#b3401f", "s", "--"),
        "size_csr_mib": ("CSR", "#96730f", "^", "-."),
        "size_bitmask_mib": ("bitmask", "#0b4f8a", "D", "-"),
        "entropy_mib": ("mask entropy + raw values", "#565d64", "", ":"),
    }
    figure, axes = plt.subplots(figsize=(look.WIDTH, 3.6))
    for column, (name, color, marker, line) in formats.items():
        axes.plot(curve.sparsity_pct, curve[column], color=color, marker=marker, linestyle=line, label=name)
    axes.set(xlabel="Sparsity (%)", ylabel="File (MiB)", ylim=(0, None), title=look.dataset(dataset))
    axes.legend()
    return figure


def speed(frame: pd.DataFrame) -> plt.Figure:
    """How many times faster zeros are skipped than the same network is run densely, by sparsity; one panel a batch size."""
    figure, grid = plt.subplots(1, 2, figsize=(look.WIDTH, 3.6), sharey=True)
    points = []
    for axes, column, title in zip(grid, ("latency_ms", "latency_batch128_ms"), ("1 image", "128 images"), strict=True):
        for dataset, line in zip(frame.dataset.unique(), ("-", "--"), strict=False):
            dense = main_result(frame, "dense", dataset)
            curve = frame[(frame.dataset == dataset) & (frame.method == "layerwise_magnitude") & (frame.label == "curve")]
            curve = curve[curve[f"sparse_{column}"].notna()].sort_values("sparsity_pct")
            style = look.network("layerwise_magnitude").style | {"linestyle": line}
            axes.plot(curve.sparsity_pct, dense[column] / curve[f"sparse_{column}"], **style, label=look.dataset(dataset))
            bound = curve.macs / curve.effective_macs
            axes.plot(curve.sparsity_pct, bound, color=look.SOFT_INK, linewidth=0.9, linestyle=line)
        axes.axhline(1, color=look.INK, linewidth=0.8)
        axes.set(title=title, xlabel="Sparsity (%)", ylim=(0, 8))
        points.append((60, 4.6, "every zero for free", look.SOFT_INK))
    grid[0].set_ylabel("Times as fast as dense")
    grid[0].legend()
    label(grid[1], points[-1:])
    return figure
