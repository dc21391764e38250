"""Figures of pruning before or while training: curves, cost, densities, and gradients when many weights go at once."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from helpers.report import look
from helpers.report.plots import label

SHOWN = [
    *(("dense_from_scratch", ""), ("grasp_iterative", ""), ("grasp_iterative", "preserving"), ("grasp", ""), ("snip", "")),
    *(("synflow", ""), ("magnitude_init", ""), ("random", "")),
]
RULES = {"signed": ("#b3401f", "-"), "absolute": ("#0b4f8a", "--"), "random": ("#7d7350", ":")}


def epochs(frame: pd.DataFrame, dataset: str) -> plt.Figure:
    """Validation top-1 after each epoch of every network trained from nothing; triangles where iterative GraSP prunes."""
    figure, axes = plt.subplots(figsize=(look.WIDTH, 4.0))
    for method, kind in SHOWN:
        found = frame[(frame.dataset == dataset) & (frame.method == method) & (frame.label == kind)]
        if found.empty:
            continue
        result, network = found.iloc[0], look.network(method, kind)
        top1 = [epoch["val_top1_pct"] for epoch in result.log]
        axes.plot(range(1, len(top1) + 1), top1, **network.style, linewidth=1.4, markersize=5, label=network.name)
        if method == "grasp_iterative" and not kind:
            for stage in result.schedule:
                axes.plot(stage["epoch"] + 0.5, axes.get_ylim()[0], "^", color=network.color, clip_on=False, markersize=7)
    axes.set(xlabel="Epoch", ylabel="Validation top-1 (%)", title=look.dataset(dataset))
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside right center")
    return figure


def cost(frame: pd.DataFrame) -> plt.Figure:
    """Top-1 against the multiply-adds that touch a weight that is left, one panel a data set."""
    datasets = list(frame.dataset.unique())
    figure, grid = plt.subplots(1, len(datasets), figsize=(look.WIDTH, 3.8), squeeze=False)
    for axes, dataset in zip(grid[0], datasets, strict=True):
        points = []
        for (method, kind), seeds in frame[frame.dataset == dataset].groupby(["method", "label"], sort=False):
            network, x, y = look.network(method, kind), seeds.effective_macs.mean() / 1e6, seeds.top1_pct.mean()
            axes.plot(x, y, network.marker, color=network.color, markersize=8)
            points.append((x, y, network.name.replace(" with ", "\nwith "), network.color))
        axes.set(title=look.dataset(dataset), xlabel="Multiply-adds left (M)")
        axes.margins(0.2, 0.15)
        label(axes, points)
    grid[0][0].set_ylabel("Top-1 (%)")
    return figure


def densities(frame: pd.DataFrame) -> plt.Figure:
    """Share of each layer's weights that every network of one data set keeps, in percent: networks down, layers across."""
    lines = {}
    for (method, kind), seeds in frame.groupby(["method", "label"], sort=False):
        layers = pd.DataFrame(list(seeds.layers.iloc[0]))
        lines[look.name(method, kind)] = (100 * layers.kept / layers.total).set_axis(look.layers(layers.name))
    table = pd.DataFrame(lines).T
    figure, axes = plt.subplots(figsize=(look.WIDTH, 0.9 + 0.32 * len(table)))
    sns.heatmap(table, annot=True, fmt=".0f", annot_kws={"fontsize": 7.5}, cmap=f"{look.SEQUENTIAL}_r", cbar=False, ax=axes)
    axes.set_xticklabels([name.replace(" ", "\n") for name in table.columns], rotation=0)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    return figure


def at_once(facts: Mapping) -> plt.Figure:
    """Gradient norm left by the share removed together, for each rule; dotted: what GraSP's first order promises."""
    figure, axes = plt.subplots(figsize=(look.WIDTH, 3.2))
    shares = [100 * share for share in facts["shares"]]
    for rule, (color, line) in RULES.items():
        axes.plot(shares, facts["left"][rule], color=color, linestyle=line, marker="o", label=f"{rule} score")
    axes.plot(shares, facts["promised"], color=look.SOFT_INK, linestyle="-.", linewidth=1, label="promised to first order")
    axes.axhline(1, color=look.INK, linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="Weights removed together (%)", ylabel="Gradient norm left")
    axes.set_xticks(shares, [f"{share:g}" for share in shares])
    axes.legend()
    return figure
