"""Figures of the analysis notebook: accuracy against cost with its front, density profiles, shared weights, gradients."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown

from helpers.report import frontier, style
from helpers.report.claims_accuracy import MAGNITUDE
from helpers.report.evidence import Rows, name
from helpers.report.sentences import absent, layer_labels
from helpers.report.style import Figure

AXES = {
    "bytes": ("Smallest exact file (MiB)", 1, "size on disk"),
    "MACs": ("Effective MACs (M)", 1e-6, "effective MACs, those that touch a weight that is left"),
    "latency": ("Time for 128 images, its fastest kernel (ms)", 1, "time at batch 128"),
    "parameters": ("Parameters that are left (M)", 1e-6, "parameters"),
}

FEWEST = 3  # methods on a data set: two points tell nothing of a relation
REACH = 15.0  # points below the best network that the axis shows: further down nobody would use one


def front(rows: Sequence[Mapping], kind: str) -> Figure | Markdown:
    """Top-1 against one cost for every network, the front drawn through those that no other beats."""
    known = Rows(rows)
    panels = {d: points for d in known.datasets if (points := frontier.points(known, frontier.candidates(known, d), kind))}
    if not panels:
        return absent(f"accuracy against {AXES[kind][2]}")
    label, scale, short = AXES[kind]
    figure, grid = plt.subplots(len(panels), 1, figsize=(style.WIDTH, 4.6 * len(panels)), squeeze=False)
    told, below = [], {}
    for axes, (dataset, points) in zip(grid.flat, panels.items(), strict=True):
        best = frontier.pareto(points)
        axes.step(
            [spent * scale for spent, _ in best],
            [row["top1_pct"] for _, row in best],
            where="post",
            color=style.RULE,
            linewidth=6,
            solid_capstyle="round",
            zorder=1,
        )
        labels = []
        for method in dict.fromkeys(row["method"] for _, row in points):
            look = style.method(method)
            mine = sorted((spent * scale, row["top1_pct"]) for spent, row in points if row["method"] == method)
            axes.plot(*zip(*mine, strict=True), color=look.color, marker=look.marker, linestyle=look.line, linewidth=1)
            labels.append((*mine[-1], look.label, look.color))
        axes.set_xscale("log")
        left, right = axes.get_xlim()
        axes.set_xlim(left, right * (right / left) ** 0.32)  # room for the labels
        _plain_numbers(axes.xaxis)
        axes.set(xlabel=label, ylabel="Top-1 (%)", title=style.dataset(dataset))
        floor = max(row["top1_pct"] for _, row in points) - REACH
        if under := [frontier.called(row) for _, row in points if row["top1_pct"] < floor]:
            below[dataset] = f"on {style.dataset(dataset)} {'; '.join(under)}"
        if axes.get_ylim()[0] < floor:
            axes.set_ylim(floor, floor + 1.1 * REACH)
        style.scatter_labels(axes, [place for place in labels if place[1] >= floor])
        told.append(f"{style.dataset(dataset)}: {', '.join(dict.fromkeys(name(row['method']) for _, row in best))}")
    return style.show(
        figure,
        f"04_front_{kind.lower()}",
        alt=f"Top-1 accuracy against {short}, one panel a data set. On the front, from cheap to accurate: {'; '.join(told)}.",
        caption=f"Accuracy against {short}. The grey band runs along the networks that no other beats: none is cheaper and more "
        "accurate. Lines join one method's networks at several sparsities or MAC budgets, not all fine-tuned for as long."
        + (f" More than {REACH:g} points below the best, and off the axis: {', and '.join(below.values())}." if below else ""),
    )


def density_profiles(
    rows: Sequence[Mapping], methods: Sequence[str] = ("snip", "grasp", "grasp_iterative", MAGNITUDE)
) -> Figure | Markdown:
    """How dense each criterion leaves each layer, one panel a data set."""
    known = Rows(rows)
    panels = {d: {m: found[0] for m in methods if (found := known.find(d, m)) and found[0].get("layers")} for d in known.datasets}
    panels = {dataset: found for dataset, found in panels.items() if found}
    if not panels:
        return absent("density by layer")
    figure, grid = plt.subplots(len(panels), 1, figsize=(style.WIDTH, 3.6 * len(panels)), squeeze=False)
    told = []
    for axes, (dataset, found) in zip(grid.flat, panels.items(), strict=True):
        labels = []
        for method, row in found.items():
            look, density = style.method(method), [100 * layer["kept"] / layer["total"] for layer in row["layers"]]
            axes.plot(density, color=look.color, marker=look.marker, linestyle=look.line)
            labels.append((len(density) - 1, density[-1], look.label, look.color))
            sparsest = layer_labels(layer["name"] for layer in row["layers"])[int(np.argmin(density))]
            told.append(f"{look.label} on {style.dataset(dataset)} leaves least in {sparsest}, {min(density):.1f} %")
        axes.set_yscale("log")
        _plain_numbers(axes.yaxis)
        layers = layer_labels(layer["name"] for layer in next(iter(found.values()))["layers"])
        axes.set_xticks(range(len(layers)), layers, rotation=45, ha="right")
        axes.set_xlim(-0.5, len(layers) + 3.2)
        axes.set(ylabel="Weights left (%)", title=style.dataset(dataset))
        style.direct_labels(axes, labels)
    return style.show(
        figure,
        "04_density",
        alt=f"Share of weights left in each layer, one line a method: {'; '.join(told)}.",
        caption="Where each criterion spends its weights, layer by layer, at one overall sparsity. The scale is logarithmic.",
    )


def shared_weights(overlaps: Mapping[str, Mapping]) -> Figure | Markdown:
    """What two masks have in common, in percent of what either keeps, with what chance would give.

    `overlaps`: data set → name → other name → {"jaccard", "by_chance"}, as `comparison.matrix` gives it.
    """
    panels = {dataset: table for dataset, table in overlaps.items() if len(table) > 1}
    if not panels:
        return absent("weights that two masks share")
    figure, grid = plt.subplots(len(panels), 1, figsize=(style.WIDTH, 0.6 + 2.9 * len(panels)), squeeze=False)
    most = 100 * max(table[a][b]["jaccard"] for table in panels.values() for a in table for b in table if a != b)
    told = []
    for axes, (dataset, table) in zip(grid.flat, panels.items(), strict=True):
        methods = list(table)
        values = np.array([[100 * table[a][b]["jaccard"] for b in methods] for a in methods])
        lower = np.tril(np.ones_like(values, dtype=bool), -1)[1:, :-1]  # each pair once
        shown = np.where(lower, values[1:, :-1], np.nan)
        image = axes.imshow(shown, cmap=f"{style.SEQUENTIAL}_r", vmin=0, vmax=most, aspect="auto")
        for i, j in zip(*np.nonzero(lower), strict=True):
            pair = table[methods[i + 1]][methods[j]]
            red, green, blue, _ = image.cmap(image.norm(shown[i, j]))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            text = f"{shown[i, j]:.1f}\nchance {100 * pair['by_chance']:.1f}"
            axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else style.INK)
        axes.set_xticks(range(len(methods) - 1), [name(m) for m in methods[:-1]], rotation=20, ha="right")
        axes.set_yticks(range(len(methods) - 1), [name(m) for m in methods[1:]])
        axes.set_title(style.dataset(dataset))
        axes.grid(visible=False)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        i, j = np.unravel_index(np.nanargmax(shown), shown.shape)
        told.append(f"{style.dataset(dataset)} most between {name(methods[i + 1])} and {name(methods[j])}, {shown[i, j]:.1f} %")
    figure.colorbar(image, ax=list(grid.flat), label="weights that both keep (%)", aspect=40, pad=0.02)
    return style.show(
        figure,
        "04_shared_weights",
        alt=f"A triangle of pairs of methods with the share of weights that both keep: on {'; on '.join(told)}.",
        caption="Weights that two masks both keep, in percent of those that either keeps, all layers together; below it what "
        "masks with the same densities in every layer would share by chance.",
    )


def gradients(rows: Sequence[Mapping], methods: Sequence[str]) -> Figure | Markdown:
    """Accuracy in the end against the gradient norm that pruning left at the start."""
    known = Rows(rows)
    panels = {}
    for dataset in known.datasets:
        found = {m: row for m in methods if (row := known.shown(dataset, m))}
        found = {m: row for m, row in found.items() if row.get("gradient_norm")}
        if len(found) >= FEWEST:
            panels[dataset] = found
    if not panels:
        return absent(f"gradient norm and accuracy of {FEWEST} methods on one data set")
    figure, grid = plt.subplots(len(panels), 1, figsize=(style.WIDTH, 3.6 * len(panels)), squeeze=False)
    told = []
    for axes, (dataset, found) in zip(grid.flat, panels.items(), strict=True):
        labels = []
        for method, row in found.items():
            look, after = style.method(method), row["gradient_norm"]["after"]
            axes.plot(after, row["top1_pct"], color=look.color, marker=look.marker, linestyle="")
            labels.append((after, row["top1_pct"], look.label, look.color))
            told.append(f"{look.label} {after:.2g} and {row['top1_pct']:.1f} %")
        before = next(iter(found.values()))["gradient_norm"]["before"]
        axes.axvline(before, color=style.SOFT_INK, linewidth=1, linestyle=":")
        axes.set_xscale("log")
        _plain_numbers(axes.xaxis)
        left, right = axes.get_xlim()
        axes.set_xlim(left, right * (right / left) ** 0.3)
        axes.set(xlabel="Gradient norm after pruning", ylabel="Top-1 after training (%)", title=style.dataset(dataset))
        axes.margins(y=0.15)
        style.scatter_labels(axes, labels)
    return style.show(
        figure,
        "04_gradients",
        alt=f"Gradient norm right after pruning against accuracy after training, a point a method: {'; '.join(told)}.",
        caption="Does the gradient that pruning leaves at the start tell the accuracy in the end? The dotted line is the norm "
        "before pruning, on the same images.",
    )


def _plain_numbers(axis) -> None:
    """1, 2, 5, 10 … on a logarithmic axis, no powers of ten."""
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
