"""Figures of the baseline notebook: sample images, where weights and work sit, accuracy by class, weights by layer."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import torch
from statsmodels.stats.proportion import proportion_confint

from helpers import data, models, results
from helpers.report import style
from helpers.report.sentences import layer_labels
from helpers.report.style import Figure

FEW_CLASSES = 20  # up to here every class has its own bar


def sample_images(splits: data.Splits) -> Figure:
    """A grid of training images, one column a class (one image a class where there are many)."""
    many = len(splits.classes) > FEW_CLASSES
    columns, per_class = (20, 1) if many else (len(splits.classes), 5)
    chosen = data.class_balanced(splits.train, per_class, seed=0)
    order = torch.argsort(chosen.labels, stable=True)
    images, labels = chosen.images[order].cpu(), chosen.labels[order].cpu()
    lines = len(images) // columns if many else per_class
    figure, grid = plt.subplots(lines, columns, figsize=(style.WIDTH, style.WIDTH / columns * lines + (0 if many else 0.35)))
    for position, axes in enumerate(grid.flat):
        picked = position if many else position % columns * per_class + position // columns
        axes.imshow(images[picked].permute(1, 2, 0).numpy(), interpolation="nearest")
        axes.axis("off")
        if not many and position < columns:
            axes.set_title(splits.classes[labels[picked]], fontsize=8.5, fontweight="normal", loc="center", pad=4)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    name = style.dataset(splits.name)
    what = "one image of each class" if many else f"{per_class} images of each class, one column a class"
    return style.show(
        figure,
        f"00_images_{splits.name}",
        alt=f"A grid of {len(images)} small training images of {name}, {what}: {', '.join(splits.classes[:10])}"
        + (" and so on." if len(splits.classes) > 10 else "."),
        caption=f"Training images of {name}: {what}, 32 × 32 pixels as the network sees them.",
    )


def layer_shares(network: models.VGG) -> Figure:
    """Each layer's share of the network's weights and of its MACs, as bars to the left and to the right."""
    layers = models.layer_table(network)
    labels = layer_labels(layer.name for layer in layers)
    weights = np.array([layer.parameters for layer in layers]) / sum(layer.parameters for layer in layers)
    macs = np.array([layer.macs for layer in layers]) / sum(layer.macs for layer in layers)
    height = np.arange(len(layers))
    limit = 1.15 * max(weights.max(), macs.max())
    figure, axes = plt.subplots(figsize=(style.WIDTH, 4.3))
    for sign, shares, side, method in ((-1, weights, "right", "layerwise_magnitude"), (1, macs, "left", "lasso_channels")):
        axes.barh(height, sign * shares, color=style.method(method).color, height=0.72)
        for position, share in zip(height, shares, strict=True):
            place = {"textcoords": "offset points", "va": "center", "ha": side, "fontsize": 8}
            axes.annotate(f"{100 * share:.1f}", (sign * share, position), (3 * sign, 0), **place)
    axes.axvline(0, color=style.INK, linewidth=0.8)
    axes.set_yticks(height, labels)
    axes.set(xlim=(-limit, limit), xlabel="Share of the network (%)")
    axes.xaxis.set_major_formatter(lambda share, _: f"{abs(100 * share):.0f}")
    axes.set_title("Parameters", loc="left", color=style.method("layerwise_magnitude").color)
    axes.set_title("MACs", loc="right", color=style.method("lasso_channels").color)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    most_weights, most_macs = labels[int(weights.argmax())], labels[int(macs.argmax())]
    return style.show(
        figure,
        "00_layer_shares",
        alt=f"Two bar charts over the {len(layers)} weight layers. The share of parameters is largest in {most_weights} "
        f"({100 * weights.max():.1f} %), the share of MACs in {most_macs} ({100 * macs.max():.1f} %).",
        caption="Where the weights sit and where the work is done: late layers hold most parameters, early and middle layers "
        "do most multiply-adds. Share of each layer in percent.",
    )


def per_class(row: Mapping, splits: data.Splits) -> Figure:
    """Top-1 on the test images class by class, with 95 % Wilson intervals, worst class first."""
    shares, low, high, _ = class_accuracy(row, splits)
    order = np.argsort(shares)
    name, mean = style.dataset(splits.name), 100 * shares.mean()
    worst, best = splits.classes[order[0]], splits.classes[order[-1]]
    look = style.method("dense")
    few = len(order) <= FEW_CLASSES
    figure, axes = plt.subplots(figsize=(style.WIDTH, 0.29 * len(order) + 0.8 if few else 3.6))
    if few:
        axes.hlines(np.arange(len(order)), 100 * low[order], 100 * high[order], color="#b9c0c6", linewidth=3)
        axes.plot(100 * shares[order], np.arange(len(order)), look.marker, color=look.color)
        axes.set_yticks(np.arange(len(order)), [splits.classes[i] for i in order])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.axvline(mean, color=style.WARN, linewidth=1, linestyle="--")
        axes.annotate(f"mean {mean:.1f} %", (mean, 1), (-4, 2), xycoords=("data", "axes fraction"), textcoords="offset points",
                      ha="right", va="bottom", fontsize=8.5, color=style.WARN)  # fmt: skip
        axes.set_xlabel("Top-1 (%)")
    else:
        axes.vlines(np.arange(len(order)), 100 * low[order], 100 * high[order], color="#b9c0c6", linewidth=2)
        axes.plot(np.arange(len(order)), 100 * shares[order], ".", color=look.color)
        axes.axhline(mean, color=style.WARN, linewidth=1, linestyle="--")
        axes.annotate(f"mean {mean:.1f} %", (0, mean), (0, 3), textcoords="offset points", fontsize=8.5, color=style.WARN)
        axes.set(ylabel="Top-1 (%)", xlabel=f"The {len(order)} classes, worst to best", xticks=[])
    return style.show(
        figure,
        f"00_classes_{splits.name}",
        alt=f"Top-1 accuracy of the dense network on {name} by class, from {100 * shares.min():.1f} % ({worst}) to "
        f"{100 * shares.max():.1f} % ({best}), around a mean of {mean:.1f} %.",
        caption=f"{name}: top-1 of the dense network class by class on the test images; grey bars are 95 % Wilson intervals."
        + ("" if few else f" Hardest: {_listed(splits, order[:4])}; easiest: {_listed(splits, order[:-5:-1])}."),
    )


def _listed(splits: data.Splits, chosen: np.ndarray) -> str:
    return ", ".join(splits.classes[i].replace("_", " ") for i in chosen)


def class_accuracy(row: Mapping, splits: data.Splits) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(share right, lower limit, upper limit, images) a class, from the row's correctness bits."""
    labels = splits.test.labels.cpu().numpy()
    right = results.unpack_bits(row["correct"], len(labels))
    count = np.bincount(labels, minlength=len(splits.classes))
    hits = np.bincount(labels, weights=right, minlength=len(splits.classes))
    low, high = proportion_confint(hits, count, method="wilson")
    return hits / count, low, high, count


def weight_histograms(network: models.VGG, sparsity_pct: float, dataset: str) -> Figure:
    """One histogram a layer of a data set's network, the smallest `sparsity_pct` percent of its weights by magnitude shaded."""
    layers = models.weight_layers(network)
    figure, grid = plt.subplots(4, -(-len(layers) // 4), figsize=(style.WIDTH, 5.2))
    share = sparsity_pct / 100
    thresholds = []
    for axes, label, layer in zip(grid.flat, layer_labels(layers), layers.values(), strict=False):
        weights = layer.weight.detach().flatten().cpu().numpy()
        limit = np.quantile(np.abs(weights), 0.998)
        cut = float(np.quantile(np.abs(weights), share))
        thresholds.append(cut)
        heights, edges = np.histogram(weights, bins=np.linspace(-limit, limit, 61))
        axes.stairs(heights, edges, fill=True, color="#c3cad0")
        inside = np.clip(edges, -cut, cut)
        axes.fill_between(
            np.repeat(inside, 2)[1:-1], np.repeat(heights, 2), step=None, color=style.METHODS["layerwise_magnitude"].color
        )
        axes.set_title(label, fontsize=8.5, fontweight="normal", pad=3)
        axes.set(yticks=[], xticks=[-cut, cut], xlim=(-limit, limit))
        axes.set_xticklabels([f"−{cut:.2g}", f"{cut:.2g}"], fontsize=7.5)
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
    for axes in list(grid.flat)[len(layers) :]:
        axes.set_visible(False)
    return style.show(
        figure,
        f"00_weights_{dataset}",
        alt=f"Histograms of the weights of the {len(layers)} layers, all peaked at zero; the shaded middle holds "
        f"{sparsity_pct:.0f} percent of each layer's weights, those below {min(thresholds):.2g} to {max(thresholds):.2g} "
        "in magnitude.",
        caption=f"{style.dataset(dataset)}: weights of every layer. The dark middle is the {sparsity_pct:.0f} % of smallest "
        "magnitude; the two values under each axis bound it.",
    )
