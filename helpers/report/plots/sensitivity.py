"""Figures of notebook 01 about the method: the toy, fragile layers, the allocation, accuracy against compression."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown
from matplotlib.colors import PowerNorm
from torch import Tensor

from helpers.pruning.scan import Scan
from helpers.report import style
from helpers.report.evidence import Rows
from helpers.report.sensitivity import CURVE_METHODS, MAIN
from helpers.report.sentences import absent, epochs_text, layer_labels
from helpers.report.tables import number_text


def toy(weights: Tensor, kept: Tensor) -> style.Figure:
    """A small weight matrix, its pruned entries hatched: what magnitude pruning does, number by number."""
    figure, axes = plt.subplots(figsize=(4.4, 3.6))
    limit = float(weights.abs().max())
    image = axes.imshow(weights, cmap=style.DIVERGING, vmin=-limit, vmax=limit)
    for (i, j), value in np.ndenumerate(weights.numpy()):
        gone = not bool(kept[i, j])
        if gone:
            axes.add_patch(plt.Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor="white", edgecolor=style.RULE, hatch="////", lw=0))
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5} if gone else None
        color = style.SOFT_INK if gone else "white" if abs(value) > 0.6 * limit else style.INK
        axes.text(j, i, number_text(value, 1), ha="center", va="center", color=color, bbox=box, fontsize=10)
    axes.set(xticks=[], yticks=[], title="Hatched: pruned")
    axes.grid(False)
    figure.colorbar(image, ax=axes, label="weight", shrink=0.85)
    pruned = int((~kept).sum())
    return style.show(
        figure,
        "01_toy",
        alt=f"A {len(weights)} by {weights.shape[1]} matrix of weights; the {pruned} entries nearest to zero are "
        "hatched as pruned.",
        caption=f"The {pruned} weights of smallest magnitude are set to zero; the {int(kept.sum())} others keep every bit.",
    )


def fragility(all_rows: Sequence[dict], dataset: str) -> style.Figure | Markdown:
    """Heat map layer × sparsity of validation top-1 lost, the number in every cell."""
    found = Rows(all_rows).find(dataset, MAIN)
    if not found or "scan" not in found[0]:
        return absent(f"the sensitivity scan of {style.dataset(dataset)}")
    scan = Scan.from_dict(found[0]["scan"])
    drops, weights = scan.drops, [layer["total"] for layer in found[0]["layers"]]
    figure, axes = plt.subplots(figsize=(style.WIDTH, 0.3 * len(drops) + 1.3))
    image = axes.imshow(drops.clip(min=0), cmap="Greys", norm=PowerNorm(0.4, 0, max(drops.max(), 1)), aspect="auto")
    for (i, j), drop in np.ndenumerate(drops):
        color = "white" if image.norm(max(drop, 0)) > 0.55 else style.INK
        axes.text(j, i, number_text(drop, 1), ha="center", va="center", fontsize=9, color=color)
    labels = layer_labels(scan.layers)
    axes.set_yticks(range(len(labels)), [f"{name}  ({_short(size)})" for name, size in zip(labels, weights, strict=True)])
    axes.set_xticks(range(len(scan.sparsities)), [f"{100 * sparsity:g}" for sparsity in scan.sparsities])
    axes.set(xlabel="sparsity of that layer alone (%)", title=f"{style.dataset(dataset)}: points of validation top-1 lost")
    axes.grid(False)
    axes.tick_params(length=0)
    column = int(np.abs(np.array(scan.sparsities) - 0.8).argmin())
    return style.show(
        figure,
        f"01_fragility_{dataset}",
        alt=f"Heat map of {len(labels)} layers by {len(scan.sparsities)} sparsities; darker cells lose more accuracy. "
        f"At {100 * scan.sparsities[column]:g} % sparsity {labels[int(drops[:, column].argmax())]} loses most.",
        caption=f"One layer pruned by magnitude, all others dense, nothing trained; {scan.images} validation images, "
        f"baseline {scan.baseline_top1_pct:.2f} % in the scan's number format. In brackets the layer's weights. "
        "Darker: more lost.",
    )


def _short(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.1f} k"


def allocation(all_rows: Sequence[dict], dataset: str) -> style.Figure | Markdown:
    """Bars a layer: the sparsity it was given, beside its share of the weights and of the MACs."""
    found = Rows(all_rows).find(dataset, MAIN)
    if not found:
        return absent(f"the allocation of {style.dataset(dataset)}")
    row, layers = found[0], found[0]["layers"]
    total, macs, kept = (np.array([layer[key] for layer in layers], float) for key in ("total", "macs", "kept"))
    shown = (
        ("sparsity given (%)", 100 * (1 - kept / total), None),
        ("share of weights (%)", 100 * total / total.sum(), 100 * kept / total.sum()),
        ("share of MACs (%)", 100 * macs / macs.sum(), 100 * macs * kept / total / macs.sum()),
    )
    color, places = style.method(MAIN).color, np.arange(len(layers))
    figure, panels = plt.subplots(1, 3, sharey=True, figsize=(style.WIDE, 0.27 * len(layers) + 1.3))
    for axes, (label, values, left) in zip(panels, shown, strict=True):
        bars = axes.barh(places, values, color=color if left is None else "#d3d7db")
        if left is not None:
            axes.barh(places, left, color=color, height=0.45)
        if left is not None:
            axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=9, color=style.SOFT_INK)
        for place, share in enumerate(values if left is None else ()):  # at the foot of the bar, clear of the dashed line
            inside = share > 18
            at, ink = (1.5, "white") if inside else (share + 1.5, style.SOFT_INK)
            axes.text(at, place, number_text(share, 1), va="center", fontsize=9, color=ink)
        axes.set(xlabel=label, xlim=(0, 1.2 * values.max()))
        axes.grid(axis="y", visible=False)
    panels[0].set_yticks(places, layer_labels(layer["name"] for layer in layers))
    panels[0].invert_yaxis()
    panels[0].axvline(row["sparsity_pct"], color=style.WARN, lw=1.2, ls="--")
    panels[0].set_title(f"{style.dataset(dataset)}: what each layer gives")
    return style.show(
        figure,
        f"01_allocation_{dataset}",
        alt=f"Three groups of bars over {len(layers)} layers: the sparsity each was given, its share of the weights and its "
        "share of the multiply-adds, before and after pruning.",
        caption=f"Dashed: the whole network, {row['sparsity_pct']:.2f} %. Grey: the dense network; blue inside: what is kept of "
        "it, as a share of the dense network's total.",
    )


def compression(all_rows: Sequence[dict]) -> style.Figure | Markdown:
    """Top-1 against compression: three allocations right after pruning, and fine-tuned where it was computed."""
    rows = Rows(all_rows)
    names = [name for name in rows.datasets if any(rows.find(name, method, "curve") for method in CURVE_METHODS)]
    if not names:
        return absent("accuracy against compression")
    figure, panels = plt.subplots(1, len(names), squeeze=False, figsize=(style.WIDE if len(names) > 1 else style.WIDTH, 4.6))
    for axes, name in zip(panels[0], names, strict=True):
        for method in CURVE_METHODS:
            look = style.method(method)
            if points := rows.find(name, method, "curve"):
                axes.plot(
                    *_factors(points), ls=":", marker=look.marker, mfc="white", color=look.color, label=f"{look.label}, at once"
                )
            if tuned := rows.find(name, method, "curve_finetuned"):
                epochs = epochs_text(tuned[0]["epochs"])
                axes.plot(*_factors(tuned), ls="-", marker=look.marker, color=look.color, label=f"{look.label}, {epochs}")
        if row := rows.shown(name, "dense_finetuned"):
            look = style.method("dense_finetuned")
            axes.axhline(
                row["top1_pct"], color=look.color, ls=look.line, lw=1.2, label=f"{look.label}, {epochs_text(row['epochs'])}"
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks([2, 4, 8, 16, 32], ["2×", "4×", "8×", "16×", "32×"])
        axes.set(title=style.dataset(name), xlabel="times fewer weights", ylabel="test top-1 (%)", ylim=(0, 101))
    handles = {label: handle for axes in panels[0] for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2)
    return style.show(
        figure,
        "01_compression",
        alt="Test top-1 against the compression factor from 2 to 32 for layer-wise, global and uniform magnitude pruning, right "
        "after pruning and fine-tuned, with the fine-tuned dense network as a level.",
        caption="Open marks, dotted: at once, nothing trained after pruning. Filled marks: fine-tuned with the masks held. "
        "Level: the dense network with the main budget of fine-tuning.",
    )


def _factors(rows: Sequence[dict]) -> tuple[list[float], list[float]]:
    return [1 / (1 - row["sparsity_pct"] / 100) for row in rows], [row["top1_pct"] for row in rows]
