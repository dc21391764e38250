"""Figures of notebook 03: the LASSO path, errors, widths before and after, accuracy against MACs, what is saved."""

from collections import Counter
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown
from matplotlib import ticker

from helpers.report import assignment, channels, style
from helpers.report.channels import MAIN, SCRATCH, convs
from helpers.report.evidence import Rows
from helpers.report.one_layer import CURVES, OneLayer
from helpers.report.savings import curve_points, ratios
from helpers.report.sentences import absent, epochs_text, layer_labels

CURVE_LOOKS = {"before": (MAIN, ":"), "lasso": (MAIN, "-"), "l1": ("l1_filters", "--"), "random": ("random_channels", "-.")}
GREY = "#d3d7db"
OTHERS = "*"  # the mark of figures of others, which no method of ours has
RULES = {  # variant → name, mark and how far beside the middle of the bar it stands: where two rules agree, both are seen
    "widths=uniform": ("uniform", {"marker": "s", "mfc": "white", "mec": style.INK}, -0.2),
    "widths=he": ("1 : 1.5", {"marker": "D", "mfc": style.WARN, "mec": "white"}, 0.2),
}


def path(layer: OneLayer | None) -> style.Figure:
    """β of every channel along the path, λ falling from left to right; the kept ones in colour."""
    if layer is None:
        return style.stored("03_path")
    shown = layer.path.lambdas > layer.path.lambdas[0] * 1e-4
    kept = set(layer.kept.tolist())
    figure, axes = plt.subplots(figsize=(style.WIDTH, 4.2))
    for channel, beta in enumerate(layer.path.beta[:, shown]):
        color, width = (style.method(MAIN).color, 1.0) if channel in kept else (GREY, 0.7)
        axes.plot(layer.path.lambdas[shown], beta, color=color, lw=width, zorder=2 if channel in kept else 1)
    axes.axvline(layer.penalty, color=style.WARN, lw=1.2, ls="--")
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda tick, _: f"{tick:g}")
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set(xlabel="penalty λ (falling)", ylabel="β of a channel", title=f"{style.dataset(layer.dataset)}, {layer.label}")
    axes.margins(x=0.01)
    return style.show(
        figure,
        "03_path",
        alt=f"The LASSO path of one layer with {len(layer.path.gram)} channels: as the penalty falls, channels leave zero one "
        f"after another; {layer.count} are away from zero at the dashed line.",
        caption=f"Every line is a channel. Dashed: the penalty at which exactly {layer.count} of {len(layer.path.gram)} are in; "
        "those are drawn in green and stay.",
    )


def curve(layer: OneLayer | None) -> style.Figure:
    """Relative error of the layer's output against channels kept: three choices, and without reconstruction."""
    if layer is None:
        return style.stored("03_curve")
    figure, axes = plt.subplots(figsize=(style.WIDTH, 4.2))
    for name, (method, line) in CURVE_LOOKS.items():
        errors = 100 * np.asarray(layer.curves[name])
        counts = np.arange(len(errors))
        visible = errors > 0.1
        axes.plot(counts[visible], errors[visible], ls=line, color=style.method(method).color, label=CURVES[name])
        axes.plot(layer.count, errors[layer.count], style.method(method).marker, color=style.method(method).color)
    axes.axvline(layer.count, color=style.WARN, lw=1.2, ls="--")
    axes.set_yscale("log")
    axes.set(xlabel="channels kept", ylabel="relative error of the output (%)", title=f"{layer.label}: what is lost")
    axes.yaxis.set_major_formatter(lambda tick, _: f"{tick:g}")
    axes.legend()
    return style.show(
        figure,
        "03_curve",
        alt="Relative error against the number of channels kept for LASSO with old weights, and for LASSO, L1 and random "
        "choice with reconstructed weights. "
        f"At {layer.count} channels the errors are "
        + ", ".join(f"{100 * float(layer.curves[name][layer.count]):.1f} % ({label})" for name, label in CURVES.items())
        + ".",
        caption=f"Error about the mean, from {layer.images} training images; random is the mean of several orders. Dashed: "
        f"the {layer.count} channels of the figure above.",
    )


def widths(all_rows: Sequence[dict], dataset: str) -> style.Figure | Markdown:
    """Channels of every convolution before and after; other rules' widths as marks."""
    rows = Rows(all_rows)
    if not (found := rows.find(dataset, MAIN)):
        return absent(f"the widths on {style.dataset(dataset)}")
    before, after = convs(channels.full_widths(found[0])), convs(found[0]["widths"])
    labels = layer_labels(f"features.{n}" for n in range(len(before)))
    places = np.arange(len(before))
    figure, axes = plt.subplots(figsize=(style.WIDTH, 4.0))
    axes.bar(places, before, color=GREY, width=0.8, label="dense")
    axes.bar(places, after, color=style.method(MAIN).color, width=0.8, label="equal marginal error for a MAC")
    for variant, (label, mark, beside) in RULES.items():
        if other := rows.find(dataset, MAIN, variant):
            axes.plot(places + beside, convs(other[0]["widths"]), ls="", ms=6, label=label, **mark)
    axes.set_xticks(places, [f"{label.removeprefix('conv ')}\n{kept}" for label, kept in zip(labels, after, strict=True)])
    axes.set(
        xlabel="convolution, and the channels it keeps",
        ylabel="output channels",
        title=f"{style.dataset(dataset)}: channels that stay",
    )
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper left")
    return style.show(
        figure,
        f"03_widths_{dataset}",
        alt=f"Bars of output channels of {len(before)} convolutions before and after pruning; after: "
        f"{', '.join(map(str, after))}.",
        caption=f"Grey: the dense network. Green, its channels below: the network of {found[0]['macs'] / 1e6:.2f} M MACs. "
        "Marks: what other rules keep at the same budget, where they were computed.",
    )


def errors(all_rows: Sequence[dict], dataset: str) -> style.Figure | Markdown:
    """Relative reconstruction error of every layer: old weights against solved ones, and the controls' channels."""
    rows = Rows(all_rows)
    drawn = [row for method in (MAIN, "l1_filters", "random_channels") for row in rows.find(dataset, method)[:1]]
    drawn = [row for row in drawn if "channel_reports" in row]
    if not drawn:
        return absent(f"the reconstruction errors on {style.dataset(dataset)}")
    figure, axes = plt.subplots(figsize=(style.WIDTH, 4.0))
    for row in drawn:
        look, reports = style.method(row["method"]), row["channel_reports"]
        places = np.arange(1, len(reports) + 1)
        solved = any(report["solver"] != "none" for report in reports)
        old = [100 * report["error_before"] for report in reports]
        axes.plot(places, old, ls=":", marker=look.marker, mfc="white", color=look.color, label=f"{look.label}, old weights")
        if solved:
            new = [100 * report["error_after"] for report in reports]
            axes.plot(places, new, ls="-", marker=look.marker, color=look.color, label=f"{look.label}, reconstructed")
    axes.set_yscale("log")
    axes.set_xticks(places)
    axes.yaxis.set_major_formatter(lambda tick, _: f"{tick:g}")
    axes.set(xlabel="channels of convolution …", ylabel="error of the next layer's output (%)", title=style.dataset(dataset))
    axes.legend()
    return style.show(
        figure,
        f"03_errors_{dataset}",
        alt="Relative error of every layer's output with the old weights of the kept channels and after least squares.",
        caption="Relative to the variance of the dense network's output, before its batch norm; the inputs come from the "
        "network pruned so far, so a layer also repairs, or inherits, what the layers before it lost.",
    )


def accuracy(all_rows: Sequence[dict]) -> style.Figure | Markdown:
    """Top-1 against MACs: right after pruning, fine-tuned, the controls, the write-up and published networks."""
    rows = Rows(all_rows)
    names = [name for name in rows.datasets if rows.macs_curve(name) and rows.find(name, "dense")]
    if not names:
        return absent("accuracy against MACs")
    figure, panels = plt.subplots(1, len(names), squeeze=False, figsize=(style.WIDE if len(names) > 1 else style.WIDTH, 4.8))
    named = [_accuracy(axes, rows, name) for axes, name in zip(panels[0], names, strict=True)]
    handles = {label: handle for axes in panels[0] for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2)
    for axes, labels in zip(panels[0], named, strict=True):
        style.scatter_labels(axes, labels)  # after the legend, which takes height from the panels
    return style.show(
        figure,
        "03_accuracy",
        alt="Test top-1 against MACs on a logarithmic axis for channel pruning right after pruning and fine-tuned, its controls "
        "at one budget, the dense network as a level, and the write-up's network.",
        caption="Open marks, dotted: nothing trained after pruning. Filled: fine-tuned; a line joins networks of one budget of "
        "epochs, marks alone had the budget that the legend says. Stars: figures of others, trained with other budgets and from "
        "other dense networks.",
    )


def _accuracy(axes: plt.Axes, rows: Rows, dataset: str) -> list[tuple[float, float, str, str]]:
    """Draw one data set; the labels that are still to be written beside their points."""
    look, points = style.method(MAIN), curve_points(rows, dataset)
    macs = [row["macs"] / 1e6 for row in points]
    at_once = [row["pruned_top1_pct"] for row in points]
    axes.plot(macs, at_once, ls=":", marker=look.marker, mfc="white", color=look.color, label=f"{look.label}, at once")
    epochs = Counter(row["epochs"] for row in points).most_common(1)[0][0]
    joined = [(row["macs"] / 1e6, row["top1_pct"]) for row in points if row["epochs"] == epochs]
    axes.plot(*zip(*joined, strict=True), marker=look.marker, color=look.color, label=f"{look.label}, {epochs_text(epochs)}")
    labels = []
    for method in (MAIN, "l1_filters", "random_channels", SCRATCH):
        if row := rows.shown(dataset, method):
            peer, budget, place = style.method(method), epochs_text(row["epochs"]), (row["macs"] / 1e6, row["top1_pct"])
            if method == MAIN and place in joined:
                continue
            axes.plot(*place, peer.marker, color=peer.color, ms=7, label=f"{peer.label}, {budget}")
            if method == MAIN:
                labels.append((*place, budget, peer.color))
    for row in filter(None, (rows.shown(dataset, method) for method in ("dense", "dense_finetuned"))):
        level = style.method(row["method"])
        axes.axhline(row["top1_pct"], color=level.color, ls=level.line, lw=1.2, label=level.label)
    others = assignment.published(dataset, "structured")
    marks = [(r.macs, r.top1_pct, r.source) for r in others.itertuples() if r.macs == r.macs]
    if (theirs := assignment.reported(dataset, MAIN, "macs")) is not None:
        marks.append((theirs, assignment.reported(dataset, MAIN, "top1_pct"), "write-up"))
    for place, top1, label in marks:
        color = style.WARN if label == "write-up" else style.SOFT_INK
        axes.plot(place / 1e6, top1, OTHERS, color=color, ms=10, label=label if label == "write-up" else "published")
        if label != "write-up":
            labels.append((place / 1e6, top1, label.partition(",")[0], color))
    axes.set_xscale("log")
    axes.set_xticks(macs, [f"{m:.3g}\n{channels.fewer(rows, row):.1f}×" for m, row in zip(macs, points, strict=True)])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlim(0.7 * min(macs), 1.5 * max(macs))
    lowest = min([*at_once, *(row["top1_pct"] for row in points), *(top1 for _, top1, _ in marks)])
    axes.set(title=style.dataset(dataset), xlabel="MACs (millions), and how many times fewer", ylabel="test top-1 (%)")
    bottom, top = max(0, lowest - 5), axes.get_ylim()[1]
    axes.set_ylim(bottom, top + 0.07 * (top - bottom))  # room for the names of what lies on top
    return labels


def savings(all_rows: Sequence[dict]) -> style.Figure | Markdown:
    """How many times less of each cost: MACs, bytes, activations, memory, latency."""
    rows = Rows(all_rows)
    names = [name for name in rows.datasets if rows.find(name, MAIN) and rows.find(name, "dense")]
    if not names:
        return absent("what channel pruning saves")
    order = ("MACs", "Size", "Activations", "Peak memory", "Latency, batch 128", "Latency, batch 1")
    found = {name: ratios(rows, name) for name in names}
    shown = [cost for cost in order if any(cost in costs for costs in found.values())]
    figure, panels = plt.subplots(
        1,
        len(names),
        squeeze=False,
        sharey=True,
        figsize=(style.WIDE if len(names) > 1 else style.WIDTH, 0.45 * len(shown) + 1.2),
    )
    for axes, (name, costs) in zip(panels[0], found.items(), strict=True):
        for place, cost in enumerate(shown):
            if cost in costs:
                late = cost.startswith("Latency")
                bar = axes.barh(place, costs[cost], color=style.method(MAIN).color if late else GREY)
                axes.bar_label(bar, fmt="%.1f×", padding=3, fontsize=9)
        axes.axvline(1, color=style.INK, lw=0.8)
        axes.set_yticks(range(len(shown)), shown)
        axes.set(title=style.dataset(name), xlabel="times less than dense", xlim=(0, 1.15 * max(costs.values())))
        axes.grid(axis="y", visible=False)
    panels[0][0].invert_yaxis()
    return style.show(
        figure,
        "03_savings",
        alt="Bars of how many times less the pruned network needs than the dense one. "
        + " ".join(
            f"{style.dataset(name)}: " + ", ".join(f"{cost} {costs[cost]:.1f} times" for cost in shown if cost in costs) + "."
            for name, costs in found.items()
        ),
        caption="Green: what is measured in time. Activations: the numbers that the convolutions write for one image.",
    )
