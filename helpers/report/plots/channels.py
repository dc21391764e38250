"""Figures of channel pruning: widths, errors of one layer and of all, accuracy against MACs, what is saved."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from helpers.report import look, tables
from helpers.report.plots import bars, legend, main_result, panels, scatter

DARK, LIGHT = "#1f5c3d", "#8fbf9f"
LINES = {  # of one layer's errors: colour and line
    "LASSO, old weights": ("#7d7350", "--"),
    "LASSO, solved": (DARK, "-"),
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
AT_BUDGET = ("dense_finetuned", "lasso_channels", "l1_filters", "random_channels", "lasso_channels_from_scratch")


def widths(frame: pd.DataFrame, dataset: str) -> Figure:
    """Channels of each convolution before and after."""
    result = main_result(frame, "lasso_channels", dataset)
    kept = [width for width in result.widths if width != "M"]
    full = [report["channels_before"] for report in result.channel_reports]
    names = [f"conv {place}" for place in range(1, len(kept) + 1)]
    return bars(pd.DataFrame({"before": full, "after": kept}, names), ("white", DARK), "Channels", numbers="after")


def one_layer(facts: Mapping[str, Mapping]) -> Figure:
    """Relative error of the next layer's output by channels kept, for each choice; data set → facts of one layer."""
    figure, grid = panels(facts, 3.6, "Channels kept", "Output lost (%)", sharey=True)
    for dataset, axes in grid.items():
        for name, (color, line) in LINES.items():
            axes.plot(100 * np.array(facts[dataset]["errors"][name]), color=color, linestyle=line, label=name)
    legend(figure, 4)
    return figure


def errors(reports: pd.DataFrame) -> Figure:
    """Error of each next layer's output with the old and the solved weights, in percent; old ones cut at 120."""
    lost = 100 * reports[["error_before", "error_after"]].clip(upper=1.2)
    lost = lost.set_axis(look.layers(reports.name)).set_axis(["old weights", "solved"], axis=1)
    return bars(lost, (look.PALE, DARK), "Output lost (%)")


def accuracy(frame: pd.DataFrame) -> Figure:
    """Top-1 against MACs: the curve of LASSO channels and, as single points, the others at the main budget."""
    made = tables.means(frame)
    figure, grid = scatter(made[made.method.isin(AT_BUDGET) & (made.label == "")], "macs", "MACs (M)")
    for dataset, axes in grid.items():
        curve = made[(made.dataset == dataset) & made.label.str.startswith("macs=")].sort_values("macs")
        axes.plot(curve.macs / 1e6, curve.top1_pct, ".-", color=DARK)
    return figure


def savings(frame: pd.DataFrame) -> Figure:
    """How many times less MACs, bytes, memory and time LASSO channels take than the dense network, by data set."""
    lines = {}
    for dataset in frame.dataset.unique():
        result, dense = (main_result(frame, method, dataset) for method in ("lasso_channels", "dense"))
        lines[look.dataset(dataset)] = [dense[column] / result[column] for column in SAVED]
    times = pd.DataFrame(lines, index=list(SAVED.values())).dropna(how="all")
    axes = times.plot.barh(figsize=(look.WIDTH, 3.0), color=[DARK, LIGHT], width=0.75)
    for container in axes.containers:
        axes.bar_label(container, fmt="%.1f×", padding=3, fontsize=8.5)
    axes.axvline(1, color=look.INK, linewidth=0.8)
    axes.set(xlabel="Times less than dense")
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    return axes.figure
