"""What masks chosen before or while training cost and save: multiply-adds left, and time with and without their zeros."""

from collections.abc import Sequence

import pandas as pd
from IPython.display import Markdown

from helpers.report import style, tables
from helpers.report.evidence import INIT_METHODS, Missing, Rows, name, value
from helpers.report.saliency import MAIN
from helpers.report.sentences import absent, told
from helpers.report.sparse_costs import SPEEDS, against_bound, speed_points
from helpers.report.tables import Table

TIMES = ("latency_ms", "sparse_latency_ms", "latency_batch128_ms", "sparse_latency_batch128_ms")


def costs_seen(all_rows: Sequence[dict]) -> Markdown:
    """Equal parameters, unequal work."""
    rows = Rows(all_rows)

    def tell(dataset: str) -> str:
        found = {m: row[0] for m in INIT_METHODS if (row := rows.find(dataset, m))}
        if len(found) < 2:
            raise Missing(f"fewer than two methods on {style.dataset(dataset)}")
        cut = {m: value(row, "macs") / value(row, "effective_macs") for m, row in found.items()}
        most, least = max(cut, key=cut.get), min(cut, key=cut.get)
        best = max(found, key=lambda m: found[m]["top1_pct"])
        return (
            f"On {style.dataset(dataset)} the same share of weights leaves very different work: {name(most)} cuts the MACs "
            f"{cut[most]:.1f}×, {name(least)} {cut[least]:.1f}×. The most accurate, {name(best)}, cuts them {cut[best]:.1f}×."
        )

    return told(rows, tell)


def latencies(all_rows: Sequence[dict]) -> Table | Markdown:
    """The same masked network run densely and on its non-zeros only."""
    rows, lines, reasons = Rows(all_rows), {}, {}
    for dataset in rows.datasets:
        for method in INIT_METHODS:
            for row in rows.find(dataset, method)[:1]:
                lines[dataset, method] = row
                reasons |= {((dataset, method), c): why for c in TIMES if (why := (row.get("reasons") or {}).get(c))}
    if not lines:
        return absent("latency")
    frame = pd.DataFrame(
        [[line.get(column) for column in ("effective_macs", *TIMES)] for line in lines.values()],
        pd.MultiIndex.from_tuples(lines, names=["dataset", "method"]),
        ["effective_macs", *TIMES],
    )
    device = "; ".join(sorted({str(row["device"]) for row in lines.values() if row.get("latency_ms") is not None}))
    return tables.table(
        frame, f"Latency of the masked networks, run densely and on their non-zeros ({device}).", reasons=reasons,
    )  # fmt: skip


def latency_seen(all_rows: Sequence[dict]) -> Markdown:
    """What skipping zeros gains for these masks."""
    rows = Rows(all_rows)

    def tell(dataset: str) -> str:
        row = rows.one(dataset, MAIN)
        value(row, "sparse_latency_ms")  # or Missing, with the reason
        said = []
        for kind, batch in SPEEDS:
            for point in speed_points(rows, dataset, MAIN, kind):
                said.append(f"{point.speed_up:.2f}× as fast at {batch} ({against_bound(point)})")
        if not said:
            raise Missing(f"no time of the dense network on {style.dataset(dataset)}")
        text = f"On {style.dataset(dataset)} the network of {name(MAIN)} runs on its non-zeros, against the dense one, "
        return f"{text}{' and '.join(said)}."

    return told(rows, tell)
