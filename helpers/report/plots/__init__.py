"""Figures of the results, one module a subject: functions of a frame that return a matplotlib figure to go on with."""

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from helpers.report import look
from helpers.report.tables import HEADINGS


def main_result(frame: pd.DataFrame, method: str, dataset: str) -> pd.Series:
    """The first seed's main result of a method; KeyError naming it where it is missing."""
    found = frame[(frame.method == method) & (frame.dataset == dataset) & (frame.label == "")].sort_values("seed")
    if found.empty:
        raise KeyError(f"no result of {method} on {dataset}")
    return found.iloc[0]


def panels(
    datasets: Iterable[str], height: float, x: str = "", y: str = "Top-1 (%)", **options: Any
) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a titled panel for every data set, side by side; `height` in inches, `options` of `plt.subplots`."""
    names = list(dict.fromkeys(datasets))
    figure, grid = plt.subplots(1, len(names), figsize=(look.WIDTH, height), squeeze=False, **options)
    for axes, name in zip(grid[0], names, strict=True):
        axes.set(title=look.dataset(name), xlabel=x)
    grid[0][0].set_ylabel(y)
    return figure, dict(zip(names, grid[0], strict=True))


def marks(axes: Axes, networks: pd.DataFrame, x: str, y: str = "top1_pct") -> None:
    """A mark for every network (columns method, label) at two of its columns, in the units of a table."""
    scale = HEADINGS[x].scale if x in HEADINGS else 1
    for line in networks.to_dict("records"):
        axes.plot(line[x] * scale, line[y], **look.network(line["method"], line["label"]).mark)


def scatter(networks: pd.DataFrame, x: str, label: str) -> tuple[Figure, dict[str, Axes]]:
    """Top-1 of networks against one of their columns, one panel a data set."""
    figure, grid = panels(networks.dataset, 4.1, label)
    for dataset, axes in grid.items():
        marks(axes, networks[networks.dataset == dataset], x)
        axes.margins(0.1)
    legend(figure)
    return figure, grid


def legend(figure: Figure, columns: int = 3) -> None:
    """One legend below all panels, every name once."""
    named = {name: handle for axes in figure.axes for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=columns)


def plain_log(axis: Axis, unit: str = "") -> None:
    """Ticks of a logarithmic axis as plain numbers, few enough to stand apart."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.set_major_formatter(f"{{x:g}}{unit}")
    axis.set_minor_formatter(NullFormatter())


def bars(table: pd.DataFrame, colors: Sequence[str], ylabel: str, numbers: str = "") -> Figure:
    """Bars of a colour a column, side by side for every line of the table, which is a layer; `numbers`: a column to write."""
    axes = table.rename(lambda name: name.replace(" ", "\n")).plot.bar(
        figsize=(look.WIDTH, 3.1), color=list(colors), width=0.8, rot=0, edgecolor=look.SOFT_INK, linewidth=0.5
    )
    axes.set(xlabel="", ylabel=ylabel)
    axes.grid(axis="x", visible=False)
    if numbers:
        axes.bar_label(axes.containers[list(table).index(numbers)], fontsize=8)
    return axes.figure


def heatmap(table: pd.DataFrame, height: float, **options: Any) -> tuple[Figure, Axes]:
    """A table of numbers as shades with the numbers in them, the larger the darker; `options` of `sns.heatmap`."""
    figure, axes = plt.subplots(figsize=(look.WIDTH, height))
    shown: dict[str, Any] = {"annot": True, "fmt": ".0f", "annot_kws": {"fontsize": 7.5}, "cmap": f"{look.SEQUENTIAL}_r"}
    sns.heatmap(table.round() + 0.0, ax=axes, linewidths=0.5, **shown | options)  # + 0.0: no "-0"
    axes.set(xlabel="", ylabel="")
    axes.tick_params(length=0)
    axes.grid(visible=False)
    return figure, axes
