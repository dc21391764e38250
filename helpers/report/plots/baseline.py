"""Figures of the dense network: where weights and work sit, which classes are hard, how weights are distributed."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from helpers.report import look
from helpers.report.plots import bars

SHADE = "#0b4f8a"
FEW = 20  # classes that have room for their names


def shares(result: pd.Series) -> Figure:
    """Each layer's share of the weights and of the multiply-adds of one result, in percent."""
    layers = pd.DataFrame(list(result.layers))
    percent = 100 * layers[["total", "macs"]] / layers[["total", "macs"]].sum()
    percent = percent.set_axis(look.layers(layers.name)).set_axis(["weights", "multiply-adds"], axis=1)
    return bars(percent, (SHADE, look.PALE), "Share (%)")


def classes(top1_pct: pd.Series) -> Figure:
    """Top-1 by class, worst first; names beside the points where there are few enough to read."""
    few, places = len(top1_pct) <= FEW, np.arange(len(top1_pct))
    figure, axes = plt.subplots(figsize=(look.WIDTH, 0.27 * len(top1_pct) + 0.7 if few else 3.2))
    if few:
        axes.plot(top1_pct, places, "o", color=look.INK)
        axes.axvline(top1_pct.mean(), color=look.SOFT_INK, linestyle="--", linewidth=1)
        axes.set_yticks(places, [str(name).replace("_", " ") for name in top1_pct.index])
        axes.set(xlabel="Top-1 (%)")
    else:
        axes.plot(places, top1_pct, "o", color=look.INK, markersize=4)
        axes.axhline(top1_pct.mean(), color=look.SOFT_INK, linestyle="--", linewidth=1)
        axes.set(ylabel="Top-1 (%)", xlabel=f"{len(top1_pct)} classes, worst first", xticks=[])
    return figure


def weights(histograms: Sequence[Mapping]) -> Figure:
    """A histogram a layer, with what lies below its magnitude `cut` shaded; `histograms` as the facts of a data set hold them."""
    figure, grid = plt.subplots(4, -(-len(histograms) // 4), figsize=(look.WIDTH, 5.0))
    names = look.layers([layer["layer"] for layer in histograms])
    for axes in list(grid.flat)[len(histograms) :]:
        axes.set_visible(False)
    for axes, name, layer in zip(grid.flat, names, histograms, strict=False):
        edges, cut = np.linspace(-layer["limit"], layer["limit"], len(layer["heights"]) + 1), layer["cut"]
        axes.stairs(layer["heights"], edges, fill=True, color=look.PALE)
        axes.stairs(layer["heights"], edges.clip(-cut, cut), fill=True, color=SHADE)
        axes.set_title(f"{name}   ±{cut:.2g}", fontsize=8.5, fontweight="normal", pad=3)
        axes.set(yticks=[], xticks=[0], xlim=(-layer["limit"], layer["limit"]))
        axes.tick_params(axis="x", labelsize=7.5)
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
    return figure
