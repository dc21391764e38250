"""Differences between networks with their uncertainty: dots and whiskers, one line a comparison."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd

from helpers import statistics
from helpers.report import look

Named = tuple[str, str]  # method and label of a network


def compared(frame: pd.DataFrame, pairs: Sequence[tuple[Named, Named]], sparsity_pct: float | None = None) -> pd.DataFrame:
    """Top-1 of the first network minus the second's for each pair and data set, over all seeds of both, in points.

    Columns: dataset, ours, theirs (names), difference, low, high (95 %, with seed noise where it is known), decided, reason,
    seeds of either side. Pairs of which a network is missing are left out. Where a network has results of several targets,
    those of `sparsity_pct` are taken.
    """
    lines = []
    for dataset in frame.dataset.unique():
        for ours, theirs in pairs:
            sides = [_results(frame, dataset, *side, sparsity_pct) for side in (ours, theirs)]
            if any(side.empty for side in sides):
                continue
            found = statistics.compare(*sides, frame)
            limits = found.total or found.images
            line = {
                "dataset": dataset,
                "ours": look.name(*ours),
                "theirs": look.name(*theirs),
                "method": ours[0],
                "label": ours[1],
            }
            line |= {"difference": found.difference}
            line |= {"low": limits.low, "high": limits.high, "p": found.p}
            lines.append(line | {"decided": found.decided, "reason": found.reason, "seeds": found.seeds})
    return pd.DataFrame(lines)


def _results(frame: pd.DataFrame, dataset: str, method: str, label: str, sparsity_pct: float | None) -> pd.DataFrame:
    side = frame[(frame.dataset == dataset) & (frame.method == method) & (frame.label == label)]
    several = side.target_sparsity_pct.nunique() > 1
    return side[side.target_sparsity_pct == sparsity_pct] if several else side


def whiskers(differences: pd.DataFrame, *, xlabel: str = "Difference in top-1 (points)") -> plt.Figure:
    """The differences of `compared`: filled where decided, hollow where inside the noise; thin where one seed leaves it open."""
    datasets = list(differences.dataset.unique())
    lines = differences.groupby("dataset", sort=False).size().max()
    figure, grid = plt.subplots(1, len(datasets), figsize=(look.WIDTH, 0.9 + 0.36 * lines), sharex=True, squeeze=False)
    for axes, dataset in zip(grid[0], datasets, strict=True):
        chosen = differences[differences.dataset == dataset].reset_index(drop=True)
        for place, line in chosen.iterrows():
            style = look.network(line.method, line.label)
            width, fill = 1.0 if line.reason == "one seed" else 2.2, style.color if line.decided else "white"
            axes.plot([line.low, line.high], [place, place], color=style.color, linewidth=width, solid_capstyle="butt")
            axes.plot(line.difference, place, style.marker, color=style.color, markerfacecolor=fill, markersize=7)
        axes.axvline(0, color=look.SOFT_INK, linewidth=0.9)
        axes.set(title=look.dataset(dataset), xlabel=xlabel, ylim=(lines - 0.4, -0.6))
        same = chosen.theirs.nunique() == 1
        texts = [line.ours if same else f"{line.ours}\nagainst {line.theirs}" for line in chosen.itertuples()]
        axes.set_yticks(range(len(chosen)), texts)
        axes.tick_params(axis="y", length=0)
    if len(datasets) > 1 and all(
        list(differences[differences.dataset == d].ours) == list(differences[differences.dataset == datasets[0]].ours)
        for d in datasets
    ):
        for axes in grid[0][1:]:
            axes.set_yticklabels([])
    return figure
