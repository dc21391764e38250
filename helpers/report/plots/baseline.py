"""Figures of the dense network: where weights and work sit, which classes are hard, how weights are distributed."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from helpers.report import look

SHADE, PLAIN = "#0b4f8a", "#c3cad0"


def shares(result: pd.Series) -> plt.Figure:
    """Each layer's share of the weights and of the multiply-adds of one result, in percent."""
    layers = pd.DataFrame(list(result.layers))
    percent = 100 * layers[["total", "macs"]] / layers[["total", "macs"]].sum()
    places = np.arange(len(layers))
    figure, axes = plt.subplots(figsize=(look.WIDTH, 3.2))
    axes.bar(places - 0.2, percent.total, 0.4, color=SHADE, label="weights")
    axes.bar(places + 0.2, percent.macs, 0.4, color=PLAIN, edgecolor=look.SOFT_INK, linewidth=0.6, label="multiply-adds")
    axes.set_xticks(places, [name.replace(" ", "\n") for name in look.layers(layers.name)])
    axes.set(ylabel="Share (%)")
    axes.grid(axis="x", visible=False)
    axes.legend()
    return figure


def classes(top1_pct: pd.Series) -> plt.Figure:
    """Top-1 by class, worst first; names beside the points where there are few enough to read."""
    few = len(top1_pct) <= 20
    figure, axes = plt.subplots(figsize=(look.WIDTH, 0.27 * len(top1_pct) + 0.7 if few else 3.2))
    style = {"marker": look.network("dense").marker, "linestyle": "", "color": look.network("dense").color}
    if few:
        axes.plot(top1_pct.to_numpy(), np.arange(len(top1_pct)), **style)
        axes.set_yticks(range(len(top1_pct)), [str(name).replace("_", " ") for name in top1_pct.index])
        axes.axvline(top1_pct.mean(), color=look.SOFT_INK, linestyle="--", linewidth=1)
        axes.set(xlabel="Top-1 (%)")
    else:
        axes.plot(np.arange(len(top1_pct)), top1_pct.to_numpy(), **style | {"markersize": 4})
        axes.axhline(top1_pct.mean(), color=look.SOFT_INK, linestyle="--", linewidth=1)
        axes.set(ylabel="Top-1 (%)", xlabel=f"{len(top1_pct)} classes, worst first", xticks=[])
    return figure


def weights(histograms: Sequence[Mapping]) -> plt.Figure:
    """A histogram a layer, with what lies below its magnitude `cut` shaded; `histograms` as the facts of a data set hold them."""
    figure, grid = plt.subplots(4, -(-len(histograms) // 4), figsize=(look.WIDTH, 5.0))
    names = look.layers([layer["layer"] for layer in histograms])
    for axes, name, layer in zip(grid.flat, names, histograms, strict=False):
        edges, cut = np.linspace(-layer["limit"], layer["limit"], len(layer["heights"]) + 1), layer["cut"]
        axes.stairs(layer["heights"], edges, fill=True, color=PLAIN)
        inside = np.clip(edges, -cut, cut)
        axes.fill_between(np.repeat(inside, 2)[1:-1], np.repeat(layer["heights"], 2), color=SHADE)
        axes.set_title(f"{name}   ±{cut:.2g}", fontsize=8.5, fontweight="normal", pad=3)
        axes.set(yticks=[], xticks=[0], xlim=(-layer["limit"], layer["limit"]))
        axes.set_xticklabels(["0"], fontsize=7.5)
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
    for axes in list(grid.flat)[len(histograms) :]:
        axes.set_visible(False)
    return figure
