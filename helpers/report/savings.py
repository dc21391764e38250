"""What a smaller network saves: accuracy at several budgets of MACs, and the time and memory that MACs turn into."""

from collections.abc import Mapping, Sequence

import pandas as pd
from IPython.display import Markdown

from helpers.report import assignment, style, tables
from helpers.report.channels import MAIN, fewer, full_widths
from helpers.report.evidence import Missing, Rows, over_seeds
from helpers.report.sentences import absent, told
from helpers.report.tables import Table

IMAGE_SIZE, CHANNELS = 32, 3  # of an image
RATIOS = {
    "MACs": "macs",
    "Size": "size_mib",
    "Peak memory": "peak_memory_mib",
    "Latency, batch 1": "latency_ms",
    "Latency, batch 128": "latency_batch128_ms",
}


# Accuracy against MACs --------------------------------------------------------------------------------------------


def curve_points(rows: Rows, dataset: str) -> list[Mapping]:
    """The main method's figures over budgets of MACs, most MACs first."""
    return [over_seeds(found) for found in rows.macs_curve(dataset)]


def curve_table(all_rows: Sequence[dict]) -> Table | Markdown:
    """Accuracy right after pruning and after fine-tuning at every budget of MACs."""
    rows, lines = Rows(all_rows), {}
    for dataset in rows.datasets:
        dense = rows.find(dataset, "dense")
        for row in curve_points(rows, dataset) if dense else []:
            lines[dataset, f"{fewer(rows, row):.1f}×"] = row
    if not lines:
        return absent("accuracy against MACs")
    columns = ["macs", "params", "pruned_top1_pct", "top1_pct", "top5_pct", "epochs", "latency_ms", "latency_batch128_ms"]
    index = pd.MultiIndex.from_tuples(lines, names=["dataset", "Fewer MACs"])
    frame = pd.DataFrame([[line.get(column) for column in columns] for line in lines.values()], index, columns)
    return tables.table(
        frame,
        "LASSO channels at several budgets of MACs, and the epochs of fine-tuning of each.",
        note="Single times are noisy: at batch 1 networks of equal widths differ by as much as budgets do.",
    )


def curve_seen(all_rows: Sequence[dict], points: float = 1.0) -> Markdown:
    """How far the MACs can fall before accuracy does."""
    rows = Rows(all_rows)

    def tell(dataset: str) -> str:
        found, dense = curve_points(rows, dataset), rows.one(dataset, "dense")
        if not found:
            raise Missing(f"no channel-pruned network on {style.dataset(dataset)}")
        near = [row for row in found if row["top1_pct"] >= dense["top1_pct"] - points]
        untrained = [row for row in found if row["pruned_top1_pct"] >= dense["top1_pct"] - points]
        least = found[-1]

        def reach(group: Sequence[Mapping]) -> str:
            return f"{fewer(rows, group[-1]):.1f}× fewer MACs" if group else "none of these budgets"

        return (
            f"On {style.dataset(dataset)}, within {points:g} point of the dense network as given ({dense['top1_pct']:.2f} %): "
            f"{reach(near)} with fine-tuning, {reach(untrained)} without. At {fewer(rows, least):.1f}× fewer, "
            f"{least['pruned_top1_pct']:.2f} % become {least['top1_pct']:.2f} % in {least['epochs']} epochs."
        )

    return told(rows, tell)


# What the MACs saved are worth ------------------------------------------------------------------------------------


def maps(widths: Sequence[int | str], image_size: int = IMAGE_SIZE) -> list[tuple[int, int]]:
    """Numbers each of a network's convolutions reads and writes for one image."""
    found, side, before = [], image_size, CHANNELS
    for width in widths:
        if width == "M":
            side //= 2
        else:
            found.append((before * side**2, width * side**2))
            before = width
    return found


def activations(widths: Sequence[int | str]) -> int:
    """Numbers a network's convolutions write for one image."""
    return sum(written for _, written in maps(widths))


def ratios(rows: Rows, dataset: str) -> dict[str, float]:
    """How many times less of each cost than the dense network; a cost that was not measured is left out."""
    row, dense = rows.one(dataset, MAIN), rows.one(dataset, "dense")
    measured = {name: column for name, column in RATIOS.items() if dense.get(column) and row.get(column)}
    found = {name: rows.read(dense, column) / rows.read(row, column) for name, column in measured.items()}
    return found | {"Activations": activations(full_widths(row)) / activations(row["widths"])}


def savings_seen(all_rows: Sequence[dict]) -> Markdown:
    """Why the time does not fall as the MACs do."""
    rows = Rows(all_rows)

    def tell(dataset: str) -> str:
        found = ratios(rows, dataset)
        if "Latency, batch 128" not in found:
            raise Missing(f"the latency of {style.method(MAIN).label} on {style.dataset(dataset)} was not measured")
        macs, wide, one, many = (found[n] for n in ("MACs", "Activations", "Latency, batch 1", "Latency, batch 128"))
        text = (
            f"On {style.dataset(dataset)} {macs:.1f}× fewer MACs make inference {one:.1f}× faster at batch 1 and {many:.1f}× at "
            f"batch 128. A layer's MACs fall with the product of two widths, what it writes only with one: activations fall "
            f"{wide:.1f}×, and batch norm, ReLU and pooling cost by activations. "
        )
        kept = [100 * (1 - 1 / ratio) for ratio in (one, many)]
        text += f"As a share, latency falls by {kept[0]:.0f} % at batch 1 and {kept[1]:.0f} % at batch 128"
        theirs, base = (assignment.reported(dataset, method, "latency_ms") for method in (MAIN, "dense"))
        return text + (f"; the write-up's fell by {100 * (1 - theirs / base):.0f} % on its GPU." if theirs else ".")

    return told(rows, tell)
