"""What the zeros of a pruned network are worth in bytes and in time."""

from collections.abc import Sequence
from dataclasses import dataclass

from IPython.display import Markdown

from helpers.report import assignment, benchmarks, style
from helpers.report.evidence import TIMES, Missing, Rows, timed_at_best, value
from helpers.report.sensitivity import MAIN
from helpers.report.sentences import told

FORMATS = {
    "size_dense_mib": "dense, fp32",
    "size_coo_mib": "COO, as the write-up",
    "size_csr_mib": "CSR, 32-bit indices",
    "size_bitmask_mib": "bitmask, fp32",
    "size_bitmask_fp16_mib": "bitmask, fp16 values",
}
SPEEDS = (("single", "batch 1"), ("latency", "batch 128"))  # the kind of cost, and where


def sizes_seen(all_rows: Sequence[dict]) -> Markdown:
    """How small the file gets, and how near the bound."""
    rows = Rows(all_rows)

    def tell(dataset: str) -> str:
        row = rows.one(dataset, MAIN)
        dense, coo, bitmask = (value(row, f"size_{name}_mib") for name in ("dense", "coo", "bitmask"))
        text = (
            f"On {style.dataset(dataset)} COO makes the file {dense / coo:.2f}× smaller, the bitmask {dense / bitmask:.2f}× "
            f"({bitmask:.2f} MiB)"
        )
        bound = row.get("entropy_bound_mib")
        if bound:
            text += f", {100 * (bitmask / bound - 1):.1f} % above the entropy bound of {bound:.2f} MiB"
        theirs = assignment.reported(dataset, MAIN, "size_mib")
        return text + (f"; the write-up's COO file has {theirs:.2f} MiB." if theirs else ".")

    return told(rows, tell)


@dataclass(frozen=True)
class SpeedPoint:
    """A network on its non-zeros against the dense one: the ratio of times, and of MACs (what free skipping would give)."""

    sparsity_pct: float
    speed_up: float
    bound: float


def speed_points(rows: Rows, dataset: str, method: str, kind: str) -> list[SpeedPoint]:
    """By growing sparsity; networks without a sparse latency are left out, all where the dense network has none."""
    found = [row for variant in ("curve", "") for row in rows.find(dataset, method, variant)]
    dense, sparse = rows.find(dataset, "dense"), f"sparse_{TIMES[kind]}"
    if not dense or dense[0].get(TIMES[kind]) is None:
        return []
    return sorted(
        (
            SpeedPoint(
                row["sparsity_pct"],
                rows.cost(dense[0], kind) / row[sparse],
                sum(layer["macs"] for layer in row["layers"]) / row["effective_macs"],
            )
            for row in found
            if row.get(sparse)
        ),
        key=lambda point: point.sparsity_pct,
    )


def speed_seen(all_rows: Sequence[dict]) -> Markdown:
    """Whether skipping zeros pays, from which sparsity, and how much of the bound is reached."""
    rows = Rows(all_rows)

    def tell(dataset: str) -> str:
        said = []
        for kind, batch in SPEEDS:
            points = speed_points(rows, dataset, MAIN, kind)
            if not points:
                raise Missing(f"no sparse latency on {style.dataset(dataset)}")
            paying = [p.sparsity_pct for p in points if p.speed_up >= 1]
            main = min(points, key=lambda p: abs(p.sparsity_pct - rows.one(dataset, MAIN)["sparsity_pct"]))
            said.append(
                f"at {batch}, {main.sparsity_pct:.2f} % sparse, the network runs {main.speed_up:.2f}× as fast on its "
                f"non-zeros as the dense one ({against_bound(main)}), and "
                + _break_even([p.sparsity_pct for p in points], paying)
            )
        text = f"On {style.dataset(dataset)}: {'; '.join(said)}. {dense_run(rows, dataset)}"
        return f"{text} {benchmarked(rows, dataset)}".strip()

    return told(rows, tell)


def _break_even(timed: Sequence[float], paying: Sequence[float]) -> str:
    """From which sparsity on skipping zeros pays against this dense run, as far as the timed sparsities tell."""
    if not paying:
        return "no measured sparsity pays"
    if min(paying) == min(timed):
        return f"{min(paying):.0f} %, the lowest sparsity timed, pays already"
    return f"{min(paying):.0f} % is the lowest measured sparsity that pays"


def dense_run(rows: Rows, dataset: str) -> str:
    """How the dense network was run that a speed is a multiple of, as a sentence."""
    if timed_at_best(rows.one(dataset, "dense")):
        return "The dense network was run both as PyTorch does and with its batch norm folded; the faster one counts."
    return "The dense network was run as PyTorch does, in fp32 with its batch norm not folded, as the sparse kernel folds it."


def benchmarked(rows: Rows, dataset: str) -> str:
    """What stronger dense kernels leave of the speed-up, where a benchmark says so; "" elsewhere."""
    if dataset != "cifar10":
        return ""
    return benchmarks.against_other_kernels(rows.one(dataset, MAIN)["target_sparsity_pct"])


def against_bound(point: SpeedPoint) -> str:
    """A speed-up beside that of skipping every zero for free, which bounds it only where multiply-adds are what takes time."""
    if point.speed_up > point.bound:
        return f"more than the {point.bound:.2f}× of skipping every zero for free: the dense time is not mostly multiply-adds"
    return f"{100 * point.speed_up / point.bound:.0f} % of the {point.bound:.2f}× of skipping every zero for free"
