"""A task's figures in the write-up and in this report, side by side."""

from collections.abc import Mapping, Sequence

import pandas as pd
from IPython.display import Markdown

from helpers.report import assignment, style, tables
from helpers.report.evidence import Rows, name
from helpers.report.sentences import absent
from helpers.report.tables import Table

THEIRS, OURS = "write-up", "this report"
PEAK = {"Peak memory ÷ dense": ("peak_memory_mib", "peak_memory_mib")}
LATENCY = {"Latency ÷ dense": ("latency_ms", "latency_ms")}
FILES = {"dense": "size_dense_mib", "layerwise_magnitude": "size_coo_mib", "grasp_iterative": "size_coo_mib"}  # its formats


def side_by_side(
    all_rows: Sequence[dict],
    caption: str,
    *,
    theirs: Sequence[str],
    ours: Sequence[str],
    columns: Sequence[str],
    shares: Mapping[str, tuple[str, str]],
    note: str,
) -> Table | Markdown:
    """The write-up's methods, then ours, a data set at a time; devices differ, so what depends on them is a share.

    `shares`: heading → the column of a network and the column of the dense network it is divided by, on each side's own.
    """
    rows, lines, reasons, means = Rows(all_rows), {}, {}, []
    for dataset in rows.datasets:
        base = _reported(dataset, "dense")
        for method in theirs:
            if figures := _reported(dataset, method):
                lines[dataset, THEIRS, method] = figures | _over(figures, base, shares)
        dense = _read(rows, next(iter(rows.find(dataset, "dense")), {}), shares)
        for method in ours:
            if row := rows.shown(dataset, method):
                label = (dataset, OURS, method)
                means += [f"{name(method)} on {style.dataset(dataset)} ({row['seeds']})"] if row["seeds"] > 1 else []
                lines[label] = dict(row) | _over(_read(rows, row, shares), dense, shares)
                for share, (column, _) in shares.items():
                    if lines[label][share] is None and (why := (row.get("reasons") or {}).get(column)):
                        reasons[label, share] = why
    if not any(side == OURS for _, side, _ in lines):
        return absent("the comparison with the write-up")
    index = pd.MultiIndex.from_tuples(lines, names=["dataset", "Figures", "method"])
    shown = [*columns, *shares]
    frame = pd.DataFrame([[line.get(column) for column in shown] for line in lines.values()], index, shown)
    devices = "; ".join(sorted({str(row["device"]) for row in rows.all if row.get("latency_ms") is not None})) or "no device yet"
    return tables.table(
        frame,
        caption,
        digits=dict.fromkeys(shares, 2),
        reasons=reasons,
        note=f"{assignment.WRITE_UP_NOTE} Ours: on {devices}. {note}"
        + (f" Accuracies are means over seeds for {', '.join(means)}." if means else ""),
    )


def _reported(dataset: str, method: str) -> dict:
    """All the write-up says of a network, its file under the format it has; empty where it says nothing."""
    figures = assignment.figures(dataset, method)
    return figures | {FILES[method]: figures["size_mib"]} if figures and method in FILES else figures


def _read(rows: Rows, row: Mapping, shares: Mapping[str, tuple[str, str]]) -> dict[str, float]:
    """What a row says of the columns that are divided, times as `Rows.read` has them."""
    columns = {column for pair in shares.values() for column in pair}
    return {column: rows.read(row, column) for column in columns if row.get(column) is not None}


def _over(row: Mapping, dense: Mapping, shares: Mapping[str, tuple[str, str]]) -> dict[str, float | None]:
    return {name: row[own] / dense[base] if row.get(own) and dense.get(base) else None for name, (own, base) in shares.items()}
