"""Figures of notebook 02: GraSP on a tiny network, the schedule, training curves, accuracy against cost, density, checks."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown

from helpers.plan import FLOAT32
from helpers.pruning import schedule as schedules
from helpers.report import style
from helpers.report.evidence import CONTROL, INIT_METHODS, Rows, mean, name
from helpers.report.gradient_flow import AtOnce, Toy
from helpers.report.saliency import CHECKED, CHECKS, MAIN, called, shown
from helpers.report.sentences import absent, layer_labels
from helpers.report.statistics import wilson
from helpers.settings import Profile

VARIANT_LINES = {"preserving": "-.", "signed": ":", FLOAT32: ":"}
KNEE = 1e-3  # below it the axes of the toy are linear


def toy(toy: Toy) -> style.Figure:
    """Every weight of the tiny network: its score against what removing it does to the squared gradient norm."""
    look = style.method("grasp")
    figure, axes = plt.subplots(figsize=(style.WIDTH, 4))
    cut = float(toy.score.quantile(0.8))
    x, y = 100 * toy.score.numpy(), 100 * toy.change.numpy()
    removed = x > 100 * cut
    axes.scatter(x[removed], y[removed], marker="X", s=28, color=style.WARN, label="removed first: the largest fifth")
    axes.scatter(x[~removed], y[~removed], marker=look.marker, s=18, facecolor="white", edgecolor=look.color, label="kept longer")
    axes.axhline(0, color=style.SOFT_INK, lw=0.8)
    axes.axvline(0, color=style.SOFT_INK, lw=0.8)
    for axis in ("x", "y"):
        getattr(axes, f"set_{axis}scale")("symlog", linthresh=100 * KNEE)
        getattr(axes, f"{axis}axis").set_major_formatter(lambda v, _: f"{v:g}".replace("-", "−"))
    axes.set(xlabel=r"score $-\theta \odot Hg$ (% of $|g|^2$)", ylabel=r"change of $|g|^2$ without the weight (%)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return style.show(
        figure,
        "02_toy",
        alt=f"Scatter of {len(x)} weights, score against the change of the squared gradient norm. Of the {removed.sum()} "
        f"with the largest scores {(y[removed] > 0).sum()} raise it when they are removed alone and {(y[removed] < 0).sum()} "
        "lower it.",
        caption="One mark a weight of the tiny network. Right: its score as GraSP defines it. Up: what really happens to the "
        "squared gradient norm when that weight alone is set to zero. Both axes are logarithmic away from zero.",
    )


def at_once(found: AtOnce | None) -> style.Figure:
    """The gradient norm left after removing a share of the weights together, by rule, beside the first order's promise."""
    if found is None:
        return style.stored("02_at_once")
    figure, axes = plt.subplots(figsize=(style.WIDTH, 3.8))
    percent = [100 * share for share in found.shares]
    looks = {"signed": style.method("grasp"), "absolute": style.method(MAIN), "random": style.method("random")}
    ends = []
    for rule, left in found.left.items():
        look = looks[rule]
        axes.plot(percent, left, look.line, marker=look.marker, color=look.color)
        ends.append((percent[-1], left[-1], rule, look.color))
    axes.plot(percent, found.counted_all, ls="--", lw=1, color=looks["signed"].color)
    axes.plot(percent, found.promised, ls=":", color=looks["signed"].color)
    ends.append((percent[-1], found.promised[-1], "signed, promised", looks["signed"].color))
    axes.axhline(1, color=style.SOFT_INK, lw=0.8)
    axes.set(xscale="log", yscale="log", xlabel="weights removed at once (%, log scale)", xlim=(None, 25 * percent[-1]))
    axes.set_ylabel("gradient norm ÷ before (log scale)")
    axes.set_xticks(percent, [f"{p:g}" for p in percent])
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
    axes.minorticks_off()
    style.direct_labels(axes, ends)
    worst = min(found.left, key=lambda rule: found.left[rule][-1])
    return style.show(
        figure,
        "02_at_once",
        alt=f"Gradient norm after removing {percent[0]:g} to {percent[-1]:g} percent of the weights at once, relative to before, "
        f"for a signed, an absolute and a random choice; at the right {worst} leaves least.",
        caption=f"{style.dataset(found.dataset)}, the network of this profile before training, {found.images} images. "
        "Norms over the weights that are left; dashed: signed, over the removed ones as well. Dotted: what the sum of the signed "
        "scores promises of that to first order.",
    )


def schedule(profile: Profile) -> style.Figure:
    """Share of weights kept over the epochs of a training, beside pruning everything at the start."""
    target, epochs = profile.saliency_sparsity_pct / 100, profile.init_epochs
    stages = schedules.stages(epochs, target, count=profile.pruning_stages)
    figure, axes = plt.subplots(figsize=(style.WIDTH, 3.4))
    for method, steps in ((MAIN, stages), ("grasp", [schedules.Stage(0, target)])):
        look = style.method(method)
        x, kept = [0.0], [100.0]
        for stage in steps:
            x += [stage.epoch, stage.epoch]
            kept += [kept[-1], 100 * (1 - stage.sparsity)]
        axes.plot([*x, epochs], [*kept, kept[-1]], look.line, color=look.color, label=look.label)
    for stage in stages:
        kept = 100 * (1 - stage.sparsity)
        axes.plot(stage.epoch, kept, style.method(MAIN).marker, color=style.method(MAIN).color)
        axes.annotate(f"{kept:.0f} %", (stage.epoch, kept), (6, 6), textcoords="offset points", fontsize=9)
    axes.set_yscale("log")
    axes.set_yticks([20, 50, 100], ["20", "50", "100"])
    axes.minorticks_off()
    axes.set(xlabel="epoch", ylabel="weights kept (%, log scale)", xlim=(-0.02 * epochs, epochs), ylim=(90 * (1 - target), 125))
    axes.legend(loc="upper right")
    return style.show(
        figure,
        "02_schedule",
        alt=f"The share of weights kept falls in {len(stages)} steps from 100 to {100 * (1 - target):.0f} percent over the first "
        "half of the training; one-shot pruning falls there at once.",
        caption=f"{len(stages)} stages over the first half of {epochs} epochs, each keeping the same share of what the one "
        "before left; the second half is left to recover.",
    )


def curves(all_rows: Sequence[Mapping], dataset: str) -> style.Figure | Markdown:
    """Validation top-1 by epoch for every method, pruning stages marked."""
    rows = Rows(all_rows)
    found = {(m, v): row[0] for m, v in shown(rows) if (row := rows.find(dataset, m, v))}
    found = {key: row for key, row in found.items() if row.get("log")}
    if not found:
        return absent(f"training curves on {style.dataset(dataset)}")
    figure, axes = plt.subplots(figsize=(style.WIDE, 4.4))
    stages = found[MAIN, ""]["schedule"] if (MAIN, "") in found else []
    for number, stage in enumerate(stages):
        axes.axvline(stage["epoch"], color=style.WARN, lw=0.9, ls=(0, (2, 3)), label="GraSP stage" if number == 0 else None)
        label = f"{100 * stage['sparsity']:.0f} %"
        place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "fontsize": 8, "color": style.WARN}
        axes.annotate(label, (stage["epoch"], 1), (0, 3), ha="center", **place)
    for (method, variant), row in found.items():
        look = style.method(method)
        epoch = [entry["epoch"] + 1 for entry in row["log"]]
        drawn = {"mfc": "white", "lw": 1, "ls": VARIANT_LINES[variant]} if variant else {}
        text = ",\n".join(called(method, variant).rsplit(", ", 1)) if variant else look.label
        shape = {"color": look.color, "ls": look.line, "marker": look.marker, "markersize": 4} | drawn
        axes.plot(epoch, [e["val_top1_pct"] for e in row["log"]], label=text, **shape)
    axes.set(xlabel="epochs trained", ylabel="validation top-1 (%)", xlim=(-0.15, None))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return style.show(
        figure,
        f"02_curves_{dataset}",
        alt=f"Validation accuracy by epoch on {style.dataset(dataset)} for {len(found)} trainings; dashed vertical lines mark "
        f"the {len(stages)} pruning stages of iterative GraSP.",
        caption=f"{style.dataset(dataset)}: validation top-1 after each epoch, same start, budget and data order. Dashed "
        "verticals: stages of iterative GraSP with the sparsity they reach. Open marks: one score at every stage, or "
        "the dense control in another number format.",
    )


def accuracy_against_cost(all_rows: Sequence[Mapping]) -> style.Figure | Markdown:
    """Top-1 against weights kept and against multiply-adds that touch one, a panel pair a data set."""
    rows = Rows(all_rows)
    networks = [(m, v) for m in (CONTROL, *INIT_METHODS) for v in rows.variants(m)]
    found = {d: {(m, v): row[0] for m, v in networks if (row := rows.find(d, m, v))} for d in rows.datasets}
    found = {dataset: some for dataset, some in found.items() if some}
    if not found:
        return absent("accuracy against parameters and MACs")
    figure, panels = plt.subplots(len(found), 2, squeeze=False, sharey="row", figsize=(style.WIDE, 3.9 * len(found)))
    for line, (dataset, some) in zip(panels, found.items(), strict=True):
        for axes, (column, label) in zip(
            line, (("nonzero_params", "parameters left (M)"), ("effective_macs", "effective MACs (M)")), strict=True
        ):
            labels = []
            for (method, variant), row in some.items():
                look, x, text = style.method(method), row[column] / 1e6, name(method, variant)
                bounds = wilson(row)
                axes.vlines(x, bounds.low, bounds.high, color=look.color, lw=1.2, alpha=0.6)
                top1 = rows.shown(dataset, method, variant)["top1_pct"]
                axes.plot(x, top1, look.marker, color=look.color, mfc="white" if variant else None, label=text)
                labels.append((x, top1, text, look.color))
            axes.set(xlabel=label, title=style.dataset(dataset), xlim=(0, 1.15 * max(row[column] for row in some.values()) / 1e6))
            if column == "effective_macs":
                style.scatter_labels(axes, labels)
        line[0].set_ylabel("top-1 (%)")
    keys = {label: key for axes in panels.flat for key, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(keys.values(), keys.keys(), loc="outside lower center", ncols=4)
    return style.show(
        figure,
        "02_cost",
        alt="Top-1 accuracy of every method against the parameters it leaves, where all pruned networks stand at one place, "
        "and against the multiply-adds it leaves, where they spread.",
        caption="The same networks, twice: by parameters they stand in one column, by multiply-adds they do not. Vertical bars: "
        "95 % Wilson intervals.",
    )


def densities(all_rows: Sequence[Mapping], dataset: str) -> style.Figure | Markdown:
    """Share of weights kept layer by layer, all methods in one plot."""
    rows = Rows(all_rows)
    found = {m: row[0] for m in INIT_METHODS if (row := rows.find(dataset, m)) and row[0].get("layers")}
    if not found:
        return absent(f"density profiles on {style.dataset(dataset)}")
    figure, axes = plt.subplots(figsize=(style.WIDE, 4.2))
    for method, row in found.items():
        look = style.method(method)
        share = [100 * layer["kept"] / layer["total"] for layer in row["layers"]]
        axes.plot(np.arange(len(share)), share, look.line, marker=look.marker, color=look.color, label=look.label)
        names = [layer["name"] for layer in row["layers"]]
    axes.set_yscale("log")
    axes.set_yticks([tick for tick in (1, 2, 5, 10, 20, 50, 100) if tick >= axes.get_ylim()[0]])
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
    axes.minorticks_off()
    axes.set_xticks(range(len(names)), layer_labels(names), rotation=45, ha="right", rotation_mode="anchor")
    axes.set(ylabel="weights kept (%, log scale)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return style.show(
        figure,
        f"02_density_{dataset}",
        alt=f"Weights kept in each of the {len(names)} layers on {style.dataset(dataset)}, one line a method; random keeps the "
        "same share everywhere.",
        caption=f"{style.dataset(dataset)}: how each method spreads the same number of weights over the layers. Random masks are "
        "flat; what lies above their line is kept more than its share.",
    )


def checks(all_rows: Sequence[Mapping]) -> style.Figure | Markdown:
    """Top-1 of GraSP and SNIP under the sanity checks, with 95 % Wilson intervals and random masks for comparison."""
    rows = Rows(all_rows)
    kinds = list(CHECKS)[::-1]
    found = {
        dataset: {(m, k): row[0] for m in CHECKED for k in kinds if (row := rows.find(dataset, m, k))}
        for dataset in rows.datasets
    }
    found = {dataset: some for dataset, some in found.items() if any(kind for _, kind in some)}
    if not found:
        return absent("the sanity checks")
    figure, panels = plt.subplots(1, len(found), squeeze=False, sharey=True, figsize=(style.WIDTH, 3.2))
    for axes, (dataset, some) in zip(panels[0], found.items(), strict=True):
        for shift, method in zip((0.13, -0.13), CHECKED, strict=True):
            look = style.method(method)
            for place, kind in enumerate(kinds):
                if (row := some.get((method, kind))) is not None:
                    bounds = wilson(row)
                    axes.hlines(place + shift, bounds.low, bounds.high, color=look.color, lw=2, alpha=0.5)
                    axes.plot(row["top1_pct"], place + shift, look.marker, color=look.color)
            axes.plot([], [], look.marker, color=look.color, label=look.label)
        if reference := rows.find(dataset, "random"):
            look = style.method("random")
            axes.axvline(mean(reference, "top1_pct"), color=look.color, ls=look.line, label=look.label)
        axes.set_yticks(range(len(kinds)), [CHECKS[kind] for kind in kinds])
        axes.set(title=style.dataset(dataset), xlabel="top-1 (%)", ylim=(-0.5, len(kinds) - 0.5))
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    names = " and ".join(name(method) for method in CHECKED)
    return style.show(
        figure,
        "02_checks",
        alt=f"Top-1 of {names} as chosen, with masks shuffled within layers, with other initial weights, and with the ranking "
        "inverted, beside random masks.",
        caption="Sanity checks: if shuffling a layer's mask or drawing new weights changes nothing, the score chose only how "
        "dense each layer is. Bars: 95 % Wilson intervals. Dotted: random masks.",
    )
