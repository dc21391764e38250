"""Accuracy against what it costs: the networks no other beats, and which of them to use when."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from IPython.display import Markdown

from helpers import results
from helpers.plan import MACS_CURVE, SHORTER
from helpers.report import style, tables
from helpers.report.claims_accuracy import MAGNITUDE
from helpers.report.evidence import STRUCTURED, Missing, Rows, mean, name, timed_at_best
from helpers.report.sentences import absent, epochs_text
from helpers.report.statistics import Comparison, signed
from helpers.report.tables import Table, number_text

SAFE = 1.0  # points that the decision table's first choice loses at most, by the lower end of its interval
COSTLY = 2.0  # points that its second choice may lose


def candidates(rows: Rows, dataset: str) -> list[Mapping]:
    """Networks a practitioner could use: each method's figures over its seeds, and the trained points of the two curves."""
    chosen = [row for method in results.METHODS if (row := rows.shown(dataset, method))]
    chosen += rows.find(dataset, MAGNITUDE, "curve_finetuned")
    variants = (v for v in MACS_CURVE if v != SHORTER)  # the main row is that network, trained longer
    return chosen + [row for variant in variants if (row := rows.shown(dataset, STRUCTURED, variant))]


def points(rows: Rows, networks: Sequence[Mapping], kind: str) -> list[tuple[float, Mapping]]:
    """(cost, row) of every network whose cost of that kind was measured."""
    found = []
    for row in networks:
        try:
            found.append((rows.cost(row, kind), row))
        except Missing:
            continue
    return found


def pareto(measured: Sequence[tuple[float, Mapping]]) -> list[tuple[float, Mapping]]:
    """The points that no other beats: nothing costs less, or as much, and is more accurate; cheapest first."""
    front, best = [], float("-inf")
    for spent, row in sorted(measured, key=lambda p: (p[0], -p[1]["top1_pct"])):
        if row["top1_pct"] > best:
            front.append((spent, row))
            best = row["top1_pct"]
    return front


def called(row: Mapping) -> str:
    """A network's name with what tells it from the method's main row."""
    variant = row.get("variant") or ""
    if variant.startswith("macs="):
        return f"{name(row['method'])}, {variant.removeprefix('macs=').replace('x', '×')} fewer\u00a0MACs"
    if variant == "curve_finetuned":
        return f"{name(row['method'])}, {number_text(row['sparsity_pct'], 1)}\u00a0%\u00a0sparse"
    return name(row["method"])


def front_seen(rows: Sequence[Mapping], kinds: Sequence[str] = ("bytes", "MACs", "latency")) -> Markdown:
    """Who is on the front, for each cost and data set."""
    known, lines = Rows(rows), []
    for dataset in known.datasets:
        for kind in kinds:
            front = pareto(points(known, candidates(known, dataset), kind))
            if front:
                families = list(dict.fromkeys(name(row["method"]) for _, row in front))
                lines.append(f"- {style.dataset(dataset)}, {kind}: {', '.join(families)} ({len(front)} networks)")
    if not lines:
        return Markdown("No network's cost is measured yet.")
    return Markdown("**What is seen.** On the front, from the cheapest network to the most accurate one:\n\n" + "\n".join(lines))


# What to use when -------------------------------------------------------------------------------------------------

NEEDS = {
    "a smaller file": ("bytes", "size"),
    "higher throughput on a CPU": ("latency", "time at batch 128"),
    "a quick answer on a CPU": ("single", "time at batch 1"),
    "fewer MACs": ("MACs", "MACs"),
    "fewer parameters": ("parameters", "parameters"),
}


CHEAP = f"losing at most {SAFE:g} point at 95 % confidence"
CHEAPER = f"losing at most {COSTLY:g} points as measured"


@dataclass(frozen=True)
class Choice:
    """The cheapest network that loses no more than allowed, how many times less it costs, and what it loses."""

    row: Mapping
    gain: float
    lost: Comparison


def choices(rows: Rows, dataset: str, kind: str) -> dict[str, Choice | None]:
    """For one kind of cost the network to use under either allowance; None where only the dense one is left.

    Only networks fine-tuned no longer than the dense one they are compared with: what more training brings is not
    pruning's.
    """
    control = rows.seeds(dataset, "dense_finetuned")
    networks = (*candidates(rows, dataset), rows.shown(dataset, STRUCTURED, SHORTER))
    offered = [row for row in networks if row and row["epochs"] <= control[0]["epochs"]]
    costs = points(rows, offered, kind)
    base = next((spent for spent, row in costs if row["method"] == "dense"), 0)
    found: dict[str, Choice | None] = {CHEAP: None, CHEAPER: None}
    for spent, row in sorted(costs, key=lambda point: (-point[0], point[1]["top1_pct"])):
        if spent >= base or row["method"] in ("dense", "dense_finetuned"):
            continue
        choice = Choice(row, base / spent, rows.compare(rows.trainings(row), control))
        if choice.lost.total.low >= -SAFE:
            found[CHEAP] = choice
        if choice.lost.difference >= -COSTLY:
            found[CHEAPER] = choice
    return found


def decisions(rows: Sequence[Mapping], dataset: str) -> Table | Markdown:
    """For each need the network to use: the cheapest that surely loses little, and the cheapest within two points."""
    known, lines = Rows(rows), {}
    control = known.find(dataset, "dense_finetuned")
    if not control:
        return absent(f"what to use when on {style.dataset(dataset)}")
    for need, (kind, label) in NEEDS.items():
        lines[need, label] = {
            (allowed, column): text
            for allowed, choice in choices(known, dataset, kind).items()
            for column, text in (
                ("Use", called(choice.row) if choice else "the dense network"),
                ("Times less", choice.gain if choice else None),
                ("Points", _points(choice.lost) if choice else None),
            )
        }
    frame = pd.DataFrame.from_dict(lines, orient="index")
    frame.index = pd.MultiIndex.from_tuples(lines, names=["I need", "Measured by"])
    frame.columns = pd.MultiIndex.from_tuples(frame.columns)
    reference = number_text(mean(control, "top1_pct"), 2)
    return tables.table(
        frame,
        f"{style.dataset(dataset)}: what to use when, compared with the fine-tuned dense network ({reference} %)",
        digits={"Times less": 2},
        note="Points: top-1 against that network, with the 95 % interval, whose lower end decides at 95 % confidence. Offered "
        f"are networks with at most its {epochs_text(control[0]['epochs'])} of fine-tuning. Chosen by their test accuracy, so "
        "the chosen one's is a little flattered. Unstructured networks are stored as a bitmask and run on the kernel that skips "
        "zeros; without it their times are those of the dense network, which was run "
        f"{'with its batch norm folded' if dense_folded(known, [dataset]) else 'as PyTorch does'}. Networks of the "
        "compression curve have the time of their masks, taken before they were fine-tuned.",
    )


def dense_folded(rows: Rows, datasets: Sequence[str]) -> bool:
    """Whether the dense networks that gains are told against were timed with their batch norm folded."""
    return all(timed_at_best(row) for dataset in datasets for row in rows.find(dataset, "dense"))


def _points(lost: Comparison) -> str:
    return f"{signed(lost.difference)} ({signed(lost.total.low)} to {signed(lost.total.high)})"


def decisions_seen(rows: Sequence[Mapping]) -> Markdown:
    """How much smaller and faster a network gets for next to nothing."""
    known, lines = Rows(rows), []
    for dataset in known.datasets:
        try:
            text = []
            for kind, gains in {"bytes": "the file {} times smaller", "latency": "128 images {} times as fast"}.items():
                choice = choices(known, dataset, kind)[CHEAP]
                if choice is None:
                    text.append(f"by {kind} no network is that good")
                else:
                    gained = gains.format(number_text(choice.gain, 2))
                    text.append(f"{gained} by {called(choice.row)} ({signed(choice.lost.difference)} points)")
            lines.append(f"- {style.dataset(dataset)}, {CHEAP}: {'; '.join(text)}.")
        except Missing as missing:
            lines.append(f"- {style.dataset(dataset)}: not all is measured ({missing}).")
    return Markdown("**What is seen.**\n\n" + "\n".join(lines))
