"""Figures of the analysis: fronts of accuracy against a cost, shared weights, gradients."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from helpers.report import evidence, look
from helpers.report.plots import label

COSTS = {"file_mib": "File (MiB)", "effective_macs": "Multiply-adds (M)", "time_batch128_ms": "Time, 128 images (ms)"}
TRAINED = ("", "preserving")


def fronts(frame: pd.DataFrame, chosen: Mapping[str, pd.DataFrame], cost: str) -> plt.Figure:
    """Top-1 against a cost, one panel a data set; a line joins the networks of `chosen` (`claims.front` of each data set)."""
    figure, grid = plt.subplots(1, len(chosen), figsize=(look.WIDTH, 4.0), squeeze=False)
    scale = 1e6 if cost == "effective_macs" else 1
    for axes, (dataset, front) in zip(grid[0], chosen.items(), strict=True):
        made, points = evidence.networks(frame[frame.dataset == dataset]), []
        made = made[made.label.isin(TRAINED) & made[cost].notna()]
        for line in made.itertuples():
            network, x = look.network(line.method, line.label), getattr(line, cost) / scale
            axes.plot(x, line.top1_pct, network.marker, color=network.color, markersize=7)
            if (front.method == line.method).any():
                points.append((x, line.top1_pct, network.name, network.color))
        axes.step(front[cost] / scale, front.top1_pct, where="post", color=look.SOFT_INK, linewidth=0.9)
        axes.set(title=look.dataset(dataset), xlabel=COSTS[cost], xscale="log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.margins(0.15, 0.1)
        label(axes, points)
    grid[0][0].set_ylabel("Top-1 (%)")
    return figure


def overlap(matrix: Mapping[str, Mapping[str, Mapping[str, float]]]) -> plt.Figure:
    """Jaccard index of every two masks in percent, beside what equal densities by layer give by chance."""
    names = list(matrix)
    shares = np.array([[100 * matrix[a][b]["jaccard"] for b in names] for a in names])
    texts = [[f"{share:.0f}\n({100 * matrix[a][b]['by_chance']:.0f})" for b, share in zip(names, line, strict=True)]
             for a, line in zip(names, shares, strict=True)]  # fmt: skip
    figure, axes = plt.subplots(figsize=(look.WIDTH, 0.9 + 0.5 * len(names)))
    upper = np.triu(np.ones_like(shares, dtype=bool))
    called = [look.name(name) for name in names]
    frame = pd.DataFrame(shares, called, called)
    sns.heatmap(frame, mask=upper, annot=texts, fmt="", vmin=0, vmax=60, cmap=f"{look.SEQUENTIAL}_r", cbar=False, ax=axes)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set_xticklabels([name.replace(" ", "\n") for name in called], rotation=0)
    return figure


def gradients(flows: pd.DataFrame) -> plt.Figure:
    """Gradient norm after pruning over before, against top-1 after training, one panel a data set."""
    datasets = list(flows.dataset.unique())
    figure, grid = plt.subplots(1, len(datasets), figsize=(look.WIDTH, 3.6), squeeze=False)
    for axes, dataset in zip(grid[0], datasets, strict=True):
        points = []
        for line in flows[flows.dataset == dataset].itertuples():
            network, left = look.network(line.method, line.label), line.gradient_norm["after"] / line.gradient_norm["before"]
            axes.plot(left, line.top1_pct, network.marker, color=network.color, markersize=8)
            points.append((left, line.top1_pct, network.name, network.color))
        axes.axvline(1, color=look.SOFT_INK, linewidth=0.8, linestyle=":")
        axes.set(title=look.dataset(dataset), xlabel="Gradient norm left")
        axes.margins(0.2, 0.15)
        label(axes, points)
    grid[0][0].set_ylabel("Top-1 (%)")
    return figure
