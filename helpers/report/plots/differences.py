"""Differences between networks with their uncertainty: dots and whiskers, one line a comparison."""

import itertools
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from helpers import statistics
from helpers.report import look
from helpers.report.plots import panels

Named = tuple[str, str]  # method and label of a network


def compared(frame: pd.DataFrame, pairs: Sequence[tuple[Named, Named]]) -> pd.DataFrame:
    """Top-1 of the first network minus the second's for each pair and data set, over all seeds of both, in points.

    Columns: dataset, method and label of the first, ours, theirs (names), difference, low, high (95 %, with seed noise where it
    is known), p, decided, reason, seeds of either side. Pairs of which a network is missing are left out.
    """
    lines = []
    for dataset, pair in itertools.product(frame.dataset.unique(), pairs):
        here = frame[frame.dataset == dataset]
        ours, theirs = (here[(here.method == method) & (here.label == label)] for method, label in pair)
        if ours.empty or theirs.empty:
            continue
        found = statistics.compare(ours, theirs, frame)
        limits = found.total or found.images
        named = {"dataset": dataset, "method": pair[0][0], "label": pair[0][1]}
        named |= {"ours": look.name(*pair[0]), "theirs": look.name(*pair[1])}
        numbers = {"difference": found.difference, "low": limits.low, "high": limits.high, "p": found.p}
        lines.append(named | numbers | {"decided": found.decided, "reason": found.reason, "seeds": found.seeds})
    return pd.DataFrame(lines)


def told(differences: pd.DataFrame) -> str:
    """The first line of `compared` in words, for readers who cannot see `whiskers`."""
    first = differences.iloc[0]
    return f"{look.dataset(first.dataset)}: {first.ours} ends {first.difference:+.2f} points from {first.theirs}."


def whiskers(differences: pd.DataFrame) -> Figure:
    """The differences of `compared`: filled where decided, hollow where inside the noise; thin where one seed leaves it open.

    To the right: how many trainings stand on either side.
    """
    names = differences.ours
    if differences.theirs.nunique() > 1:
        names = names + "\nagainst " + differences.theirs
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    figure, grid = panels(differences.dataset, 1.0 + 0.36 * len(places), "Points of top-1", "", sharex=True, sharey=True)
    for line, name in zip(differences.itertuples(), names, strict=True):
        axes, place, style = grid[line.dataset], places[name], look.network(line.method, line.label)
        width, fill = 1.0 if line.reason == "one seed" else 2.2, style.color if line.decided else "white"
        axes.plot([line.low, line.high], [place, place], color=style.color, linewidth=width, solid_capstyle="butt")
        axes.plot(line.difference, place, style.marker, color=style.color, markerfacecolor=fill, markersize=7)
        seeds, edge = " and ".join(map(str, line.seeds)), axes.get_yaxis_transform()
        axes.text(1.01, place, seeds, transform=edge, va="center", fontsize=7.5, color=look.SOFT_INK)
    for axes in grid.values():
        axes.axvline(0, color=look.SOFT_INK, linewidth=0.9)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(4, prune="both"))
        axes.set(ylim=(len(places) - 0.4, -0.6))
    figure.axes[0].set_yticks(range(len(places)), list(places))
    return figure
