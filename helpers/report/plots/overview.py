"""The figure of the first page: what each method gains in size and speed, and what it loses in accuracy."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt

from helpers import budget
from helpers.report import style
from helpers.report.evidence import CONTROL, Missing, Rows, mean, name
from helpers.report.style import Figure

GAINS = {"bytes": "File, times smaller", "latency": "Inference of 128 images, times faster"}
Network = tuple[str, str]  # method and variant

SHOWN = (  # the write-up's three ways, SNIP, and the controls that say what each is worth; notebook 04 draws all
    "layerwise_magnitude",
    "grasp_iterative",
    "snip",
    "random",
    "lasso_channels",
    "l1_filters",
    "lasso_channels_from_scratch",
)


def overview(rows: Sequence[Mapping], profile: str) -> Figure | None:
    """Points of top-1 lost against the gain over the dense network, one line a data set; None where no row has a gain.

    `profile`: whose report the figure belongs to; a build need not run in that profile's environment.
    """
    known = Rows(rows)
    panels = {(d, kind): points for d in known.datasets for kind in GAINS if (points := _gains(known, d, kind))}
    if not panels:
        return None
    datasets, kinds = list(dict.fromkeys(d for d, _ in panels)), [kind for kind in GAINS if any(k == kind for _, k in panels)]
    size = (style.WIDTH, 3.9 if len(datasets) == 1 else 3.2 * len(datasets))
    figure, grid = plt.subplots(len(datasets), len(kinds), figsize=size, sharey="row", squeeze=False)
    for line, dataset in zip(grid, datasets, strict=True):
        line[0].set(title=style.dataset(dataset), ylabel="Points of top-1 against\nthe dense control")
        for axes, kind in zip(line, kinds, strict=True):
            _panel(axes, panels.get((dataset, kind), {}), GAINS[kind])
    for (dataset, kind), points in panels.items():
        axes = grid[datasets.index(dataset)][kinds.index(kind)]
        style.scatter_labels(axes, [(*at, name(m, v), style.method(m).color) for (m, v), at in points.items()])
    return style.show(
        figure,
        "index_overview",
        alt=_told(panels),
        caption=CAPTION.format(epochs=_epochs(known), levels=_levels(known)),
        profile=profile,
    )


CAPTION = (
    "What pruning gains (right is better) and what it costs in accuracy (up is better), against a dense control: fine-tuned "
    "({epochs}; the same widths from scratch stand against it too), or trained from scratch alike for GraSP, SNIP and random. "
    "The zero is each one's own control: {levels}. "
    "Each network in its smallest exact file and on its fastest kernel that was timed."
)


def _epochs(rows: Rows) -> str:
    """How long the networks that begin from the trained one were trained, beside their control."""
    tuned = ("dense_finetuned", *(m for m in SHOWN if not budget.from_initialization(m)))
    networks = [(m, v) for m in tuned for v in rows.variants(m)]
    found = {n: row[0]["epochs"] for n in networks for d in rows.datasets if (row := rows.find(d, *n))}
    return "; ".join(f"{name(*network)} {epochs}" for network, epochs in found.items()) + " epochs"


def _levels(rows: Rows) -> str:
    """Top-1 of both dense controls."""
    told = []
    for method in ("dense_finetuned", CONTROL):
        found = [f"{mean(row, 'top1_pct'):.2f} %" for d in rows.datasets if (row := rows.find(d, method))]
        told += [f"{name(method)} {' / '.join(found)}"] if found else []
    return ", ".join(told)


def _gains(rows: Rows, dataset: str, kind: str) -> dict[Network, tuple[float, float]]:
    """(Method, variant) → (times less of the cost, points of top-1 against its dense control)."""
    found = {}
    for method, variant in ((m, v) for m in SHOWN for v in rows.variants(m)):
        try:
            pruned = rows.seeds(dataset, method, variant)
            new = style.method(method).family == style.INIT
            control = rows.control(dataset, pruned) if new else rows.seeds(dataset, "dense_finetuned")
            gain = rows.gain(pruned[0], kind)
            lost = mean(pruned, "top1_pct") - mean(control, "top1_pct")
        except Missing:
            continue
        found[method, variant] = (gain, lost)
    return found


def _panel(axes: plt.Axes, points: Mapping[Network, tuple[float, float]], label: str) -> None:
    axes.axhline(0, color=style.SOFT_INK, linewidth=1, linestyle="--")
    axes.axvline(1, color=style.SOFT_INK, linewidth=1, linestyle="--")
    for (method, _), (gain, lost) in points.items():
        look = style.method(method)
        axes.plot(gain, lost, look.marker, color=look.color, markersize=8, markeredgecolor="white")
    axes.set_xscale("log")
    left, right = axes.get_xlim()
    left, right = min(left, 0.8), max(right, 2)
    axes.set_xlim(left, right * (right / left) ** 0.35)  # room for the labels
    axes.margins(y=0.12)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}×" if f"{value:e}"[0] in "25" else "")
    axes.tick_params(axis="x", which="both", length=4, pad=4, labelsize=9)
    axes.set_xlabel(label)


def _told(panels: Mapping[tuple[str, str], Mapping[Network, tuple[float, float]]]) -> str:
    """The figure in words, for a reader who cannot see it."""
    parts = []
    for (dataset, kind), points in panels.items():
        most = max(points, key=lambda network: points[network][0])
        gain, lost = points[most]
        parts.append(
            f"{style.dataset(dataset)}, {GAINS[kind].lower()}: {name(*most)} gains most, {gain:.1f} times at {lost:+.1f} points"
        )
    return "Gain over the dense network against points of accuracy lost, one point a method. " + "; ".join(parts) + "."
