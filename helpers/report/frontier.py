"""Accuracy against what it costs: the networks no other beats, and which of them to use when."""

from collections.abc import Mapping, Sequence

import pandas as pd
from IPython.display import Markdown

from helpers import results
from helpers.report import style, tables
from helpers.report.claims_accuracy import MAGNITUDE
from helpers.report.claims_cost import STRUCTURED
from helpers.report.evidence import Missing, Rows, mean, name, smallest_file, value
from helpers.report.sentences import absent
from helpers.report.statistics import compare, signed
from helpers.report.tables import Table, number_text

COSTLY = 2.0  # points that the decision table's second choice may lose


def candidates(rows: Rows, dataset: str) -> list[Mapping]:
    """Networks a practitioner could use: each method's first seed, and the trained points of the two curves."""
    chosen = [row for method in results.METHODS for row in rows.find(dataset, method)[:1]]
    chosen += rows.find(dataset, MAGNITUDE, "curve_finetuned")
    return chosen + [r for r in rows.all if r["dataset"] == dataset and (r.get("variant") or "").startswith("macs=")]


def points(rows: Rows, dataset: str, kind: str) -> list[tuple[float, Mapping]]:
    """(cost, row) of every candidate whose cost of that kind was measured."""
    found = []
    for row in candidates(rows, dataset):
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
            front = pareto(points(known, dataset, kind))
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


def decisions(rows: Sequence[Mapping], dataset: str) -> Table | Markdown:
    """For each need the network to use: the cheapest that loses nothing beyond the noise, and the cheapest within two points."""
    known, lines = Rows(rows), []
    control = known.find(dataset, "dense_finetuned")
    if not control:
        return absent(f"what to use when on {style.dataset(dataset)}")
    kept, near = "without a loss beyond the noise", f"losing at most {COSTLY:g} points"
    for need, (kind, label) in NEEDS.items():
        costs = points(known, dataset, kind)
        measured = [(spent, row) for spent, row in costs if row["method"] not in ("dense", "dense_finetuned")]
        base = next((spent for spent, row in costs if row["method"] == "dense"), None)
        line: dict = {"I need": need, "Measured by": label}
        for heading, fits in (
            (kept, lambda row: not _loses(known, row, control)),
            (near, lambda row: row["top1_pct"] >= mean(control, "top1_pct") - COSTLY),
        ):
            fitting = sorted(((spent, row) for spent, row in measured if base and spent < base and fits(row)), key=lambda p: p[0])
            spent, row = fitting[0] if fitting else (None, None)
            line[f"Use, {heading}"] = called(row) if row else "the dense network"
            line[f"Times less, {heading}"] = base / spent if row else None
            line[f"Top-1, {heading}"] = row["top1_pct"] if row else None
        lines.append(line)
    flat = pd.DataFrame(lines).set_index(["I need", "Measured by"])
    grouped = [(heading.partition(", ")[2], heading.partition(", ")[0]) for heading in flat.columns]
    flat.columns = pd.MultiIndex.from_tuples(grouped)
    reference = number_text(mean(control, "top1_pct"), 2)
    return tables.table(
        flat,
        f"{style.dataset(dataset)}: what to use when, compared with the fine-tuned dense network ({reference} %)",
        digits={"Times less": 2, "Top-1": 2},
        headings={"Top-1": "Top-1 (%)"},
        note="Chosen among the networks of this report by their test accuracy, so the chosen one's is a little flattered. "
        "Unstructured networks are stored as a bitmask and run on the kernel that skips zeros; without it their times are "
        "those of the dense network.",
    )


def _loses(rows: Rows, row: Mapping, control: list[Mapping]) -> bool:
    compared = compare([row], control, rows.all)
    return compared.decided and compared.difference < 0


def decisions_seen(rows: Sequence[Mapping]) -> Markdown:
    """How much smaller and faster a network gets for nothing."""
    known, lines = Rows(rows), []
    for dataset in known.datasets:
        try:
            control = known.seeds(dataset, "dense_finetuned")
            dense, pruned = known.one(dataset, "dense"), known.one(dataset, MAGNITUDE)
            gap = known.compare(known.seeds(dataset, MAGNITUDE), control).difference
            ratio = value(dense, "size_mib") / smallest_file(pruned).mib
            text = f"{name(MAGNITUDE)} makes the file {number_text(ratio, 2)} times smaller at {signed(gap)} points"
            small = known.one(dataset, STRUCTURED)
            speed = known.gain(small, "latency")
            gap = known.compare(known.seeds(dataset, STRUCTURED), control).difference
            text += f"; {name(STRUCTURED)} runs {number_text(speed, 2)} times faster at {signed(gap)} points"
            lines.append(f"- {style.dataset(dataset)}: {text}.")
        except Missing as missing:
            lines.append(f"- {style.dataset(dataset)}: not all is measured ({missing}).")
    return Markdown("**What is seen.**\n\n" + "\n".join(lines))
