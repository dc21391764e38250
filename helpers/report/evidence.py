"""Looking rows up for the claims: what is asked for is found, or a `Missing` says what is not there and why."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from helpers.plan import FLOAT32, MACS_CURVE, SHORTER
from helpers.report import benchmarks, style, tables
from helpers.report.statistics import Comparison, compare

FORMATS = {
    "size_bitmask_mib": "bitmask",
    "size_csr_mib": "CSR",
    "size_coo_mib": "COO",
    "size_mib": "dense",
    "size_dense_mib": "dense",
}
INIT_METHODS = ("grasp_iterative", "grasp", "snip", "synflow", "magnitude_init", "random")
GRASP, STRUCTURED, CONTROL = "grasp_iterative", "lasso_channels", "dense_from_scratch"
ABSOLUTE = "preserving"  # the variant of iterative GraSP with |θ ⊙ Hg| at its first stage as well
BESIDE = {  # method → variants that stand beside its main row, and what the pages call them
    GRASP: {ABSOLUTE: "GraSP, absolute score"},
    STRUCTURED: {SHORTER: "LASSO channels, shorter"},
    CONTROL: {FLOAT32: "dense, from scratch, float32"},
}
COSTS = ("parameters", "MACs", "bytes", "latency")
ACCURACIES = ("top1_pct", "top5_pct", "val_top1_pct", "pruned_top1_pct")
SHAPE = ("dataset", "params", "macs")  # equal in networks of equal widths
TIMES = {"latency": "latency_batch128_ms", "single": "latency_ms"}  # at batch 128, at batch 1


class Missing(LookupError):
    """A row or a column that the rows do not have; the message is a phrase for the reader."""


class Rows:
    """The rows of one profile, as `results.rows` gives them."""

    def __init__(self, rows: Iterable[Mapping]):
        self.all = list(rows)
        found = {row["dataset"] for row in self.all}
        self.datasets = [name for name in style.DATASETS if name in found] + sorted(found - set(style.DATASETS))

    def find(self, dataset: str, method: str, variant: str = "") -> list[Mapping]:
        """All rows of a method's variant, by target sparsity and seed; empty when there is none."""
        rows = [r for r in self.all if (r["dataset"], r["method"], r.get("variant") or "") == (dataset, method, variant)]
        return sorted(rows, key=lambda r: (r.get("target_sparsity_pct") or 0, r.get("seed") or 0))

    def seeds(self, dataset: str, method: str, variant: str = "") -> list[Mapping]:
        """The rows of a method's variant over seeds, at least one."""
        rows = self.find(dataset, method, variant)
        if not rows:
            what = name(method) + (f" ({variant})" if variant else "")
            raise Missing(f"no row of {what} on {style.dataset(dataset)}")
        return self.trainings(rows[0])

    def trainings(self, row: Mapping) -> list[Mapping]:
        """The rows over seeds of the network that `row` is, or that it shows the figures of."""
        rows = self.find(row["dataset"], row["method"], row.get("variant") or "")
        return [other for other in rows if other.get("target_sparsity_pct") == row.get("target_sparsity_pct")]

    def shown(self, dataset: str, method: str, variant: str = "") -> Mapping:
        """A method's figures, `over_seeds`; empty when it has no row."""
        found = self.find(dataset, method, variant)
        return over_seeds(self.trainings(found[0])) if found else {}

    def one(self, dataset: str, method: str, variant: str = "") -> Mapping:
        """The row of the first seed."""
        return self.seeds(dataset, method, variant)[0]

    def variants(self, method: str) -> tuple[str, ...]:
        """The main row's variant and those beside it that have a row."""
        return ("", *(v for v in BESIDE.get(method, ()) if any(self.find(d, method, v) for d in self.datasets)))

    def control(self, dataset: str, like: list[Mapping]) -> list[Mapping]:
        """The dense network trained from new weights as those of `like` were: in their number format, where there is one."""
        found = [rows for v in ("", FLOAT32) if (rows := self.find(dataset, CONTROL, v))]
        alike = (rows for rows in found if rows[0].get("train_dtype") == like[0].get("train_dtype"))
        return next(alike, None) or self.seeds(dataset, CONTROL)

    def structured(self, dataset: str) -> list[Mapping]:
        """The channel-pruned network fine-tuned as long as the dense control; the main row where that one is not there."""
        return self.find(dataset, STRUCTURED, SHORTER) or self.seeds(dataset, STRUCTURED)

    def macs_curve(self, dataset: str) -> list[list[Mapping]]:
        """The channel-pruned networks of one length of fine-tuning, most MACs first, each by its rows over seeds."""
        found = [self.find(dataset, STRUCTURED, variant) for variant in MACS_CURVE]
        if not self.find(dataset, STRUCTURED, SHORTER):
            found.append(self.find(dataset, STRUCTURED))
        return sorted(filter(None, found), key=lambda rows: -rows[0]["macs"])

    def compare(self, a: list[Mapping], b: list[Mapping], tests: int = 1) -> Comparison:
        """Top-1 of two methods, each by its rows over seeds, with the seed noise of all rows; `tests` as in `compare`."""
        for row in (*a, *b):
            value(row, "top1_pct")
            if not row.get("correct"):
                raise Missing(f"the row of {name(row['method'])} does not say which test images were right")
        return compare(a, b, self.all, tests=tests)

    def equal_work(self, row: Mapping, column: str) -> list[float]:
        """The times of all networks without masks that have the row's shape: dense kernels do the same work for them."""
        unmasked = (r for r in self.all if not masked(r) and r.get(column) is not None)
        return [r[column] for r in unmasked if all(r.get(key) == row.get(key) for key in SHAPE)]

    def read(self, row: Mapping, column: str) -> float:
        """A measured column; a time on dense kernels as the median over `equal_work`, since what tells those apart is noise."""
        own, timed = value(row, column), column.removeprefix("folded_") in TIMES.values()
        return median(self.equal_work(row, column)) if timed and not masked(row) else own

    def cost(self, row: Mapping, kind: str) -> float:
        """What a network costs: non-zero parameters, MACs that touch a kept weight, bytes (MiB), ms at batch 128 or 1."""
        if kind == "parameters":
            return value(row, "nonzero_params")
        if kind == "MACs":
            return row["effective_macs"] if row.get("effective_macs") is not None else value(row, "macs")
        if kind == "bytes":
            return smallest_file(row).mib
        column = TIMES[kind]
        if not masked(row):
            times = [self.read(row, c) for c in (column, f"folded_{column}") if row.get(c) is not None]
            return min(times) if times else value(row, column)
        # fine-tuning moves values, not zeros: the time is that of the same masks right after pruning
        twins = [r for r in self.find(row["dataset"], row["method"], "curve") if r["sparsity_pct"] == row["sparsity_pct"]]
        times = [r[c] for r in (row, *twins) for c in (column, f"sparse_{column}") if r.get(c) is not None]
        if not times:
            return value(row, column)
        folded = f"folded_{column}"  # on dense kernels it does the work of the dense network
        times += [self.read(r, folded) for r in self.find(row["dataset"], "dense") if r.get(folded) is not None]
        return min(times)

    def gain(self, row: Mapping, kind: str) -> float:
        """How many times less than the dense network a network costs."""
        return self.cost(self.one(row["dataset"], "dense"), kind) / self.cost(row, kind)

    def gains(self, row: Mapping, kind: str) -> tuple[float, float]:
        """Least and greatest gain in time over the networks without masks that have the row's shape, run as PyTorch does."""
        column = TIMES[kind]
        base = self.read(self.one(row["dataset"], "dense"), column)
        return tuple(base / end(self.equal_work(row, column)) for end in (max, min))

    def best_at_initialization(self, dataset: str, like: Sequence[Mapping] = ()) -> list[Mapping]:
        """The rows of the most accurate method that prunes before or during training from scratch.

        Of those trained in the number format of `like`, where there are any: only with them can it be compared.
        """
        groups = [rows for method in INIT_METHODS if (rows := self.find(dataset, method))]
        formats = {row.get("train_dtype") for row in like}
        groups = [rows for rows in groups if rows[0].get("train_dtype") in formats] or groups
        if not groups:
            raise Missing(f"no row of a method that prunes at initialisation on {style.dataset(dataset)}")
        return max(groups, key=lambda rows: mean(rows, "top1_pct"))


class File(NamedTuple):
    """A network's smallest exact file."""

    mib: float
    format: str


def name(method: str, variant: str = "") -> str:
    """A method, or a variant that stands beside the main rows, as the pages call it."""
    if variant:
        return BESIDE[method][variant]
    return style.METHODS[method].label if method in style.METHODS else method


def masked(row: Mapping) -> bool:
    """Whether a network's weights were zeroed by masks; otherwise it is dense, with all its channels or fewer."""
    return row.get("target_sparsity_pct") is not None


def timed_at_best(row: Mapping) -> bool:
    """Whether a network was timed with what the sparse kernel does for one with masks: batch norm folded, channels last."""
    return masked(row) or row.get("folded_latency_batch128_ms") is not None


def unequal_kernels() -> str:
    """What is said where a network with fewer channels was not `timed_at_best`: what that is worth, where a benchmark tells."""
    return (
        "The network with fewer channels was timed as PyTorch runs it, the unstructured ones with batch norm folded and fused "
        f"into the sparse kernel: the former could be faster than shown. {benchmarks.channels_against_zeros()}"
    ).strip()


def value(row: Mapping, column: str) -> float:
    """A measured column; Missing with the row's own reason when it is null."""
    if row.get(column) is None:
        reason = (row.get("reasons") or {}).get(column, "")
        reason = reason.removeprefix("not measured: ") or "not measured"
        what = tables.HEADINGS[column][0] if column in tables.HEADINGS else column
        raise Missing(f"{what} of {name(row['method'])} on {style.dataset(row['dataset'])}: {reason}")
    return row[column]


def over_seeds(rows: Sequence[Mapping]) -> Mapping:
    """What is shown of a method: accuracies as means over its seeds, everything else of the first.

    Which images were right is left out: no network got the mean right.
    """
    found = {column: [row[column] for row in rows if row.get(column) is not None] for column in ACCURACIES}
    means = {column: sum(values) / len(values) for column, values in found.items() if values}
    return {key: entry for key, entry in rows[0].items() if key != "correct"} | means | {"seeds": len(rows)}


def mean(rows: list[Mapping], column: str) -> float:
    values = [value(row, column) for row in rows]
    return sum(values) / len(values)


def smallest_file(row: Mapping) -> File:
    """The smallest of the row's lossless files."""
    sizes = [File(row[column], format) for column, format in FORMATS.items() if row.get(column) is not None]
    if not sizes:
        raise Missing(f"size of {name(row['method'])} on {style.dataset(row['dataset'])}: not measured")
    return min(sizes, key=lambda file: file.mib)
