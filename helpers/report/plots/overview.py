"""Figures of accuracy against what it costs: gains beside a dense network trained alike, and networks that no other beats."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from helpers.report import evidence, look
from helpers.report.plots import legend, marks, panels, plain_log
from helpers.report.tables import HEADINGS

LABELS = ("", "preserving")  # the main results, and GraSP in the form that works


def gains(networks: pd.DataFrame) -> pd.DataFrame:
    """What was pruned after training and timed: how many times as fast as the dense network (`faster`), and `points` of top-1
    over the dense network trained on as long.

    `networks` is what `evidence.networks` returns.
    """
    main = networks[networks.label == ""].set_index(["method", "dataset"])
    after = networks.method.map(lambda method: look.network(method).start == look.FINETUNED)
    shown = networks[(networks.label == "") & after & ~networks.method.isin(["dense", "dense_finetuned"])]

    def of(method: str, column: str) -> pd.Series:
        """A column of that network, each line's own data set; NaN where there is none."""
        found = main[column].reindex([(method, dataset) for dataset in shown.dataset])
        return found.set_axis(shown.index)

    faster = of("dense", "time_batch128_ms") / shown.time_batch128_ms
    points = shown.top1_pct - of("dense_finetuned", "top1_pct")
    return shown.assign(faster=faster, points=points).dropna(subset=["faster", "points"])


def overview(gained: pd.DataFrame) -> Figure:
    """A panel a data set: times faster to the right, points of top-1 upwards; 0 is the dense network trained on as long."""
    figure, grid = panels(gained.dataset, 3.4, "128 images run this much faster", "points of top-1")
    for dataset, axes in grid.items():
        axes.axhline(0, color=look.SOFT_INK, linewidth=1, linestyle="--")
        marks(axes, gained[gained.dataset == dataset], "faster", "points")
        axes.set_xscale("log")
        axes.margins(0.1, 0.16)
        plain_log(axes.xaxis, "×")
    legend(figure)
    return figure


def fronts(frame: pd.DataFrame, chosen: Mapping[str, pd.DataFrame], cost: str) -> Figure:
    """Top-1 against a cost, one panel a data set: coloured the networks of `chosen` (`claims.front` of each), grey the others.

    What is less accurate than all of the front is left out, so that the front can be read.
    """
    heading = HEADINGS[cost]
    figure, grid = panels(chosen, 4.4, f"{heading.title} ({heading.unit})")
    for dataset, axes in grid.items():
        made, front = evidence.networks(frame[frame.dataset == dataset]), chosen[dataset]
        beaten = ~pd.MultiIndex.from_frame(made[["method", "label"]]).isin(pd.MultiIndex.from_frame(front[["method", "label"]]))
        others = made[made.label.isin(LABELS) & beaten & (made.top1_pct >= front.top1_pct.min())]
        axes.plot(others[cost] * heading.scale, others.top1_pct, "o", color=look.GREY, markersize=5, label="beaten by another")
        marks(axes, front.assign(label=""), cost)
        axes.set_xscale("log")
        plain_log(axes.xaxis)
    legend(figure)
    return figure
