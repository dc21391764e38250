"""Figures of pruning before or while training: curves, cost, densities, and gradients when many weights go at once."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from helpers.report import look, tables
from helpers.report.plots import heatmap, legend, panels, scatter

SHOWN = [
    *(("dense_from_scratch", ""), ("grasp_iterative", ""), ("grasp_iterative", "preserving"), ("grasp", ""), ("snip", "")),
    *(("synflow", ""), ("magnitude_init", ""), ("random", "")),
]
RULES = {"signed": ("#b3401f", "-"), "absolute": ("#0b4f8a", "--"), "random": ("#7d7350", ":")}


def epochs(frame: pd.DataFrame) -> Figure:
    """Validation top-1 after each epoch of every network trained from nothing; triangles where iterative GraSP prunes."""
    figure, grid = panels(frame.dataset, 4.6, "Epoch", "Validation top-1 (%)")
    first = frame.drop_duplicates(["dataset", "method", "label"]).set_index(["method", "label"])
    for dataset, axes in grid.items():
        found = first[first.dataset == dataset]
        for named in (named for named in SHOWN if named in found.index):
            result, network = found.loc[named], look.network(*named)
            top1 = [epoch["val_top1_pct"] for epoch in result.log]
            axes.plot(range(1, len(top1) + 1), top1, **network.style, linewidth=1.4, markersize=5, label=network.name)
            if named == ("grasp_iterative", ""):
                before = [stage["epoch"] + 0.5 for stage in result.schedule]
                foot = axes.get_xaxis_transform()
                axes.plot(before, [0] * len(before), "^", color=network.color, markersize=7, transform=foot, clip_on=False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure)
    return figure


def cost(frame: pd.DataFrame) -> Figure:
    """Top-1 against the multiply-adds that touch a weight that is left, one panel a data set."""
    return scatter(tables.means(frame), "effective_macs", "Multiply-adds left (M)")[0]


def gradients(flows: pd.DataFrame) -> Figure:
    """Gradient norm after pruning over before, against top-1 after training, one panel a data set; dotted: nothing lost."""
    figure, grid = scatter(tables.means(flows), "gradient_left", "Gradient norm left")
    for axes in grid.values():
        axes.axvline(1, color=look.SOFT_INK, linewidth=0.8, linestyle=":")
    return figure


def densities(frame: pd.DataFrame) -> Figure:
    """Share of each layer's weights that every network of one data set keeps, in percent: networks down, layers across."""
    lines = {}
    for (method, label), seeds in frame.groupby(["method", "label"], sort=False):
        layers = pd.DataFrame(list(seeds.layers.iloc[0]))
        lines[look.name(method, label)] = (100 * layers.kept / layers.total).set_axis(look.layers(layers.name))
    table = pd.DataFrame(lines).T
    figure, axes = heatmap(table, 0.9 + 0.32 * len(table), cbar=False)
    axes.set_xticklabels([name.replace(" ", "\n") for name in table.columns], rotation=0)
    return figure


def at_once(facts: Mapping[str, Mapping]) -> Figure:
    """Gradient norm left by the share removed together, for each rule; data set → facts. Dash-dotted: GraSP's first order."""
    figure, grid = panels(facts, 3.8, "Weights removed together (%)", "Gradient norm left", sharey=True)
    for dataset, axes in grid.items():
        shares = [100 * share for share in facts[dataset]["shares"]]
        for rule, (color, line) in RULES.items():
            left = facts[dataset]["left"][rule]
            axes.plot(shares, left, color=color, linestyle=line, marker="o", label=f"{rule} score")
        promised = facts[dataset]["promised"]
        axes.plot(shares, promised, color=look.SOFT_INK, linestyle="-.", linewidth=1, label="promised to first order")
        axes.axhline(1, color=look.INK, linewidth=0.8)
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(shares, [f"{share:g}" for share in shares])
    legend(figure, 4)
    return figure
