"""Figures of channel pruning: widths, errors of one layer and of all, accuracy against MACs, what is saved."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from helpers.report import look
from helpers.report.plots import label, main_result

LINES = {  # of one layer's errors: colour and line
    "LASSO, old weights": ("#7d7350", "--"),
    "LASSO, solved": ("#1f5c3d", "-"),
    "L1, solved": ("#35885c", "-."),
    "random, solved": ("#96730f", ":"),
}
SAVED = {
    "macs": "MACs",
    "size_mib": "file",
    "peak_memory_mib": "peak memory",
    "latency_ms": "time, 1 image",
    "latency_batch128_ms": "time, 128 images",
}


def widths(frame: pd.DataFrame, dataset: str) -> plt.Figure:
    """Channels of each convolution before and after."""
    result = main_result(frame, "lasso_channels", dataset)
    kept = [width for width in result.widths if width != "M"]
    full = [report["channels_before"] for report in result.channel_reports]
    places = np.arange(len(kept))
    figure, axes = plt.subplots(figsize=(look.WIDTH, 3.0))
    axes.bar(places, full, color="none", edgecolor="#8b929a", label="before")
    axes.bar(places, kept, color=look.network("lasso_channels").color, label="after")
    axes.set_xticks(places, [f"conv {place + 1}\n{count}" for place, count in enumerate(kept)], fontsize=8)
    axes.set(ylabel="Channels", title=look.dataset(dataset))
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper left")
    return figure


def one_layer(facts: Mapping) -> plt.Figure:
    """Relative error of the next layer's output by channels kept, for each choice; `facts` as `results.facts` holds it."""
    figure, axes = plt.subplots(figsize=(look.WIDTH, 3.4))
    for name, (color, line) in LINES.items():
        axes.plot(100 * np.array(facts["errors"][name]), color=color, linestyle=line, label=name)
    axes.set(xlabel="Channels kept", ylabel="Output lost (%)", ylim=(0, 105))
    axes.legend()
    return figure


def errors(reports: pd.DataFrame) -> plt.Figure:
    """Error of each next layer's output with the old and the solved weights."""
    places = np.arange(len(reports))
    figure, axes = plt.subplots(figsize=(look.WIDTH, 3.0))
    for column, name, color, shift in (
        ("error_before", "old weights", "#c3cad0", -0.2),
        ("error_after", "solved", "#1f5c3d", 0.2),
    ):
        axes.bar(places + shift, 100 * reports[column].clip(upper=1.2), 0.4, color=color, label=name)
    axes.set_xticks(places, [name.replace(" ", "\n") for name in look.layers(reports.name)])
    axes.set(ylabel="Output lost (%)")
    axes.grid(axis="x", visible=False)
    axes.legend()
    return figure


def accuracy(frame: pd.DataFrame) -> plt.Figure:
    """Top-1 against MACs: the curve of LASSO channels and, as single points, the others at the main budget."""
    datasets = list(frame.dataset.unique())
    figure, grid = plt.subplots(1, len(datasets), figsize=(look.WIDTH, 3.8), squeeze=False)
    for axes, dataset in zip(grid[0], datasets, strict=True):
        chosen, points = frame[frame.dataset == dataset], []
        curve = chosen[chosen.label.str.startswith("macs=")].sort_values("macs")
        lasso = look.network("lasso_channels")
        axes.plot(curve.macs / 1e6, curve.top1_pct, color=lasso.color, marker=".", linewidth=1.2)
        for method in ("dense_finetuned", "lasso_channels", "l1_filters", "random_channels", "lasso_channels_from_scratch"):
            seeds = chosen[(chosen.method == method) & (chosen.label == "")]
            if seeds.empty:
                continue
            style = look.network(method)
            axes.plot(seeds.macs.mean() / 1e6, seeds.top1_pct.mean(), style.marker, color=style.color, markersize=8)
            points.append((seeds.macs.mean() / 1e6, seeds.top1_pct.mean(), style.name, style.color))
        axes.set(title=look.dataset(dataset), xlabel="MACs (M)")
        axes.margins(0.16, 0.12)
        label(axes, points)
    grid[0][0].set_ylabel("Top-1 (%)")
    return figure


def savings(frame: pd.DataFrame) -> plt.Figure:
    """How many times less MACs, bytes, memory and time LASSO channels take than the dense network, by data set."""
    lines = {}
    for dataset in frame.dataset.unique():
        result, dense = (main_result(frame, method, dataset) for method in ("lasso_channels", "dense"))
        lines[look.dataset(dataset)] = [dense[column] / result[column] for column in SAVED]
    times = pd.DataFrame(lines, index=list(SAVED.values())).dropna(how="all").iloc[::-1]
    axes = times.plot.barh(figsize=(look.WIDTH, 3.0), color=["#1f5c3d", "#8fbf9f"], width=0.75)
    for bars in axes.containers:
        axes.bar_label(bars, fmt="%.1f×", padding=3, fontsize=8.5)
    axes.axvline(1, color=look.INK, linewidth=0.8)
    axes.set(xlabel="Times less than dense")
    axes.grid(axis="y", visible=False)
    return axes.figure
