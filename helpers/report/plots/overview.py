"""Figures of accuracy against what it costs: gains beside a dense network trained alike, and networks that no other beats."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from helpers.report import evidence, look
from helpers.report.plots import legend, marks, panels, plain_log
from helpers.report.tables import HEADINGS

LABELS = ("", "preserving")  # the main results, and GraSP in the form that works
CONTROLS = {look.FINETUNED: "dense_finetuned", look.FROM_NOTHING: "dense_from_scratch"}  # start → the network at its zero


def gains(networks: pd.DataFrame) -> pd.DataFrame:
    """What was timed, with its `start`, how many times as fast as the dense network (`faster`), and `points` over its control.

    `networks` is what `evidence.networks` returns.
    """
    main = networks[networks.label == ""].set_index(["dataset", "method"])
    shown = networks[networks.label.isin(LABELS) & ~networks.method.isin(["dense", *CONTROLS.values()])]
    shown = shown.assign(start=[look.network(method).start for method in shown.method])

    def of(methods: pd.Series, column: str) -> list[float]:
        """A column of other networks, each on the line's own data set; NaN where there is none."""
        return main[column].reindex(list(zip(shown.dataset, methods, strict=True))).to_list()

    faster = of(shown.method.map(lambda _: "dense"), "time_batch128_ms") / shown.time_batch128_ms
    points = shown.top1_pct - of(shown.start.map(CONTROLS), "top1_pct")
    return shown.assign(faster=faster, points=points).dropna(subset=["faster", "points"])


def overview(gained: pd.DataFrame) -> Figure:
    """A panel a data set and start: times faster to the right, points of top-1 upwards; 0 is the dense network trained alike."""
    datasets, starts = list(gained.dataset.unique()), [start for start in CONTROLS if start in set(gained.start)]
    size = (0.5 + 3.1 * len(datasets), 2.3 * len(starts) + 0.9)
    figure, grid = plt.subplots(len(starts), len(datasets), figsize=size, sharex=True, squeeze=False)
    for (dataset, start), here in gained.groupby(["dataset", "start"], sort=False):
        axes = grid[starts.index(start)][datasets.index(dataset)]
        axes.axhline(0, color=look.SOFT_INK, linewidth=1, linestyle="--")
        marks(axes, here, "faster", "points")
        axes.set(title=f"{look.dataset(dataset)}, {start}", xscale="log")
        axes.margins(0.1, 0.16)
        plain_log(axes.xaxis, "×")
    for axes in grid[-1]:
        axes.set_xlabel("128 images run this much faster")
    for axes in grid[:, 0]:
        axes.set_ylabel("points of top-1")
    legend(figure, 2 if len(datasets) > 1 else 1)
    return figure


def fronts(frame: pd.DataFrame, chosen: Mapping[str, pd.DataFrame], cost: str) -> Figure:
    """Top-1 against a cost, one panel a data set: coloured the networks of `chosen` (`claims.front` of each), grey the others."""
    heading = HEADINGS[cost]
    figure, grid = panels(chosen, 4.4, f"{heading.title} ({heading.unit})")
    for dataset, axes in grid.items():
        made, front = evidence.networks(frame[frame.dataset == dataset]), chosen[dataset]
        beaten = ~pd.MultiIndex.from_frame(made[["method", "label"]]).isin(pd.MultiIndex.from_frame(front[["method", "label"]]))
        others = made[made.label.isin(LABELS) & beaten]
        axes.plot(others[cost] * heading.scale, others.top1_pct, "o", color=look.GREY, markersize=5, label="beaten by another")
        marks(axes, front.assign(label=""), cost)
        axes.set_xscale("log")
        plain_log(axes.xaxis)
    legend(figure)
    return figure
