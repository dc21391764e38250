"""Figures of notebook 01 about what pruning gains and saves: the controls, file sizes, speed."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from helpers.report import style
from helpers.report.evidence import Rows
from helpers.report.magnitude import Pair, control_pairs
from helpers.report.sensitivity import CURVE_METHODS, MAIN
from helpers.report.sentences import absent
from helpers.report.sparse_costs import FORMATS, SPEEDS, speed_points

SHORT_PT = 14  # points on the page: a way no longer than that has no room for a mark and a head
EXACT = tuple(column for column in FORMATS if "fp16" not in column)
FREE = "every zero skipped for free"


def control(all_rows: Sequence[dict]) -> style.Figure | Markdown:
    """Before → after fine-tuning, a line each: pruned, dense, dense under a wrong normalisation, and the write-up."""
    rows = Rows(all_rows)
    found = {name: pairs for name in rows.datasets if (pairs := control_pairs(rows, name))}
    if not found:
        return absent("the controls")
    heights = [len(pairs) + 1.5 for pairs in found.values()]
    figure, panels = plt.subplots(
        len(found), 1, squeeze=False, figsize=(style.WIDTH, 0.42 * sum(heights)), height_ratios=heights, layout="constrained"
    )
    for axes, (name, pairs) in zip(panels[:, 0], found.items(), strict=True):
        lowest = min(value for pair in pairs for value in (pair.before, pair.after) if value is not None)
        axes.set_yticks(range(len(pairs)), [pair.label for pair in pairs])
        # room for the numbers to both sides, also left of 0 %
        axes.set(xlim=(lowest - 14, 112), ylim=(len(pairs) - 0.4, -0.6), title=style.dataset(name), xlabel="top-1 (%)")
        axes.set_xticks([tick for tick in axes.get_xticks() if max(0, lowest - 14) <= tick <= 100])
        axes.grid(axis="y", visible=False)
    figure.draw_without_rendering()  # lays the panels out, so that a way can be measured on the page
    for axes, pairs in zip(panels[:, 0], found.values(), strict=True):
        for place, pair in enumerate(pairs):
            _arrow(axes, place, pair)
    return style.show(
        figure,
        "01_control",
        alt="Arrows from the accuracy before fine-tuning to the accuracy after it, for the pruned network, the dense network, "
        "the dense network under three wrong normalisations, and the write-up's two figures.",
        caption="Open mark: before any fine-tuning; arrow head: after it, same budget and schedule. Where the way is too short "
        "for a head the numbers say before → after; one number alone was not fine-tuned. The write-up's arrow runs from its "
        "baseline to its pruned and fine-tuned network.",
    )


def _arrow(axes: Axes, place: int, pair: Pair) -> None:
    """From before to after at height `place`, both ends written beside it; a plain line where no head fits."""
    color = style.method(pair.method).color if pair.ours else style.WARN
    if pair.after is None:
        texts = {pair.before: f"{pair.before:.2f}"}
    elif _way_pt(axes, pair) <= SHORT_PT:
        axes.plot([pair.before, pair.after], [place, place], color=color, lw=1.8)
        texts = {max(pair.before, pair.after): f"{pair.before:.2f} → {pair.after:.2f}"}
    else:
        arrow = {"arrowstyle": "-|>", "color": color, "lw": 1.8, "shrinkA": 4, "shrinkB": 0}
        axes.annotate("", (pair.after, place), (pair.before, place), arrowprops=arrow)
        texts = {value: f"{value:.2f}" for value in (pair.before, pair.after)}
    axes.plot(pair.before, place, "o", mfc="white", mec=color, mew=1.6)
    for value, text in texts.items():
        left = value < max(texts)
        look = {"va": "center", "ha": "right" if left else "left", "fontsize": 9, "color": style.SOFT_INK}
        axes.annotate(text, (value, place), (-7 if left else 7, 0), textcoords="offset points", **look)


def _way_pt(axes: Axes, pair: Pair) -> float:
    """How far apart both ends are on the page, in points."""
    (begin, _), (end, _) = axes.transData.transform([(pair.before, 0), (pair.after, 0)])
    return abs(end - begin) / axes.figure.dpi * 72


def sizes(all_rows: Sequence[dict]) -> style.Figure | Markdown:
    """Bars: bytes on disk in every format beside the fewest that mask and values can take."""
    rows = Rows(all_rows)
    found = {name: row[0] for name in rows.datasets if (row := rows.find(name, MAIN))}
    if not found:
        return absent("file sizes")
    shown = {name: [column for column in FORMATS if row.get(column) is not None] for name, row in found.items()}
    heights = [len(columns) + 2.0 for columns in shown.values()]
    figure, panels = plt.subplots(
        len(found), 1, squeeze=False, figsize=(style.WIDTH, 0.4 * sum(heights)), height_ratios=heights, layout="constrained"
    )
    for axes, (name, row) in zip(panels[:, 0], found.items(), strict=True):
        for place, column in enumerate(shown[name]):
            color = style.method("dense" if column == "size_dense_mib" else MAIN).color
            lossy = column not in EXACT
            axes.barh(place, row[column], color="white" if lossy else color, edgecolor=color, hatch="///" if lossy else None)
            text = f"{row[column]:.2f} MiB · {row['size_dense_mib'] / row[column]:.2f}× smaller"
            text = text if column != "size_dense_mib" else f"{row[column]:.2f} MiB"
            axes.annotate(text, (row[column], place), (6, 0), textcoords="offset points", va="center", fontsize=9)
        if bound := row.get("entropy_bound_mib"):
            bounded = sum(column in EXACT for column in shown[name])  # rounded values come last and may take fewer bytes
            axes.plot([bound, bound], [-1.2, bounded - 0.5], color=style.WARN, lw=1.3, ls="--")
            look = {"textcoords": "offset points", "va": "center", "fontsize": 9, "color": style.WARN}
            axes.annotate(f"entropy bound {bound:.2f} MiB", (bound, -0.85), (5, 0), **look)
        axes.set_yticks(range(len(shown[name])), [FORMATS[column] for column in shown[name]])
        axes.set_ylim(len(shown[name]) - 0.4, -1.2)
        axes.set(xlabel="bytes on disk (MiB)", xlim=(0, 1.3 * row["size_dense_mib"]), title=style.dataset(name))
        axes.grid(axis="y", visible=False)
    return style.show(
        figure,
        "01_sizes",
        alt="Bars of the file size of the pruned network as dense, coordinate, compressed-row and bitmask files, with the "
        "entropy bound as a dashed line.",
        caption="The same pruned network in every format, and how many times smaller than dense it is. Dashed: the fewest bytes "
        "that which-are-kept and fp32 values can take. Hatched: values rounded to 16 bits, so not the same network bit for bit, "
        "and not held to that bound.",
    )


def speed_up(all_rows: Sequence[dict]) -> style.Figure | Markdown:
    """Speed-up of running non-zeros only, against sparsity, and what skipping every zero for free would give."""
    rows = Rows(all_rows)
    names = [
        name for name in rows.datasets if any(speed_points(rows, name, m, kind) for m in CURVE_METHODS for kind, _ in SPEEDS)
    ]
    if not names:
        return absent("the latency of the networks run on their non-zeros")
    figure, panels = plt.subplots(len(names), 2, squeeze=False, sharey="row", figsize=(style.WIDE, 3.4 * len(names) + 0.9))
    for line, name in zip(panels, names, strict=True):
        for axes, (kind, batch) in zip(line, SPEEDS, strict=True):
            for method in CURVE_METHODS:
                look, points = style.method(method), speed_points(rows, name, method, kind)
                if not points:
                    continue
                x, lone = [point.sparsity_pct for point in points], len(points) == 1  # one network makes no line
                measured = {"ls": "" if lone else "-", "marker": look.marker, "label": look.label}
                free = {"ls": "", "marker": "_", "ms": 14, "mew": 1.4} if lone else {"ls": ":", "lw": 1.4}
                axes.plot(x, [point.speed_up for point in points], color=look.color, **measured)
                axes.plot(x, [point.bound for point in points], color=look.color, **free)
            axes.axhline(1, color=style.SOFT_INK, lw=1)
            axes.set_yscale("log", base=2)
            axes.yaxis.set_major_formatter(lambda ratio, _: f"{ratio:g}×")
            axes.set(title=f"{style.dataset(name)}, {batch}", xlabel="sparsity of the network (%)")
        line[0].set_ylabel("dense time ÷ sparse time")
    handles = {label: handle for axes in panels.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    drawn = [look.label for look in map(style.method, CURVE_METHODS) if look.label in handles]
    handles[FREE] = Line2D([], [], color=style.SOFT_INK, ls=":", lw=1.4)
    figure.legend([handles[label] for label in (*drawn, FREE)], [*drawn, FREE], loc="outside lower center", ncols=len(drawn) + 1)
    return style.show(
        figure,
        "01_speed_up",
        alt=f"Speed-up over dense execution against sparsity at batch 1 and 128 for {', '.join(drawn)}, each beside what its "
        "remaining multiply-adds alone would give.",
        caption="Marks: measured, the dense network and the pruned one on its non-zeros only, interleaved. Dotted, a dash where "
        "there is one network: MACs ÷ effective MACs, what skipping every zero at no cost would give. It is no bound at batch 1, "
        "where dense kernels wait for memory. Above the line at 1× skipping zeros pays.",
    )
