"""What the analysis notebook shows: all methods beside the write-up, what a test set can tell, and how far the rows carry."""

from collections.abc import Mapping, Sequence

import pandas as pd
from IPython.display import Markdown

from helpers import budget, results
from helpers.report import assignment, claims, style, tables
from helpers.report.evidence import STRUCTURED, TIMES, Rows, name, over_seeds
from helpers.report.statistics import seed_noise, wilson
from helpers.report.tables import Table, number_text

OURS, THEIRS = "this report", "write-up"
NOT_YET = "no row yet: make study computes it"
# part of the grand table → its columns, each with what is best in it
GRAND: dict[str, dict[str, str | None]] = {
    "accuracy and what is left": {"top1_pct": "max", "95 %": None, "Seeds": None, "top5_pct": "max", "sparsity_pct": None},
    "size and arithmetic": {"size_mib": "min", "nonzero_params": "min", "macs": "min", "effective_macs": "min"},
    "memory, time and energy": {  # times and average memory of networks of equal shape differ by noise: no best of those
        "peak_memory_mib": "min",
        **dict.fromkeys(("average_memory_mib", "latency_ms", "latency_batch128_ms"), None),
        **dict.fromkeys(("sparse_latency_ms", "sparse_latency_batch128_ms", "energy_mj"), "min"),
    },
}
READING = (
    "Where a difference stands with an interval and a p-value, the 95 % interval holds test-image and seed noise, p is McNemar's "
    "of the test images alone, and only a difference that both agree on counts."
)
THEY_REPORT = ("top1_pct", "top5_pct", "size_mib", "macs", "peak_memory_mib", "average_memory_mib", "latency_ms", "energy_mj")
WITH = {  # columns that share the reason of another
    "average_memory_mib": "peak_memory_mib",
    "latency_batch128_ms": "latency_ms",
    "sparse_latency_batch128_ms": "sparse_latency_ms",
}
NOTES = {
    "accuracy and what is left": "Accuracy is the mean over seeds; the interval is Wilson's for the first seed. Sparsity of a "
    "network with fewer channels is the share of the dense network's weights that are gone.",
    "size and arithmetic": "Size is that of the smallest exact file with 32 bits a value (what the training of a given network "
    "left in 16 bits counts as 32 too); MACs count every weight, effective MACs what is left.",
    "memory, time and energy": "Latency is that of dense kernels, sparse latency that of a kernel that skips zeros. Networks of "
    "one shape do equal work on dense kernels: what their times differ by is noise, and ratios elsewhere use the median.",
}


# What a test set can tell -------------------------------------------------------------------------------------------


def resolution(accuracy_pct: float = 90.0, images: Sequence[int] = (100, 1_000, 10_000)) -> Table:
    """How sharply test sets of several sizes see one accuracy, and how far two networks have to be apart on them."""
    lines = []
    for count in images:
        bounds = wilson(round(count * accuracy_pct / 100), count)
        noise = seed_noise((), "", True, accuracy_pct, count)
        lines.append(
            {
                "Test images": count,
                "Lowest (%)": bounds.low,
                "Highest (%)": bounds.high,
                "Two trainings differ by chance up to (points)": noise.reach() * 2**0.5,
            }
        )
    return tables.table(
        pd.DataFrame(lines),
        f"A network that gets {accuracy_pct:g} % of its test images right: between which limits its accuracy lies",
        note=f"Wilson's 95 % interval. Last column: {noise.source}, to this accuracy and number of images.",
    )


# All methods ------------------------------------------------------------------------------------------------------


def grand(rows: Sequence[Mapping], dataset: str) -> list[Table]:
    """Every method on one data set with every metric, the write-up's figures beside ours, in three parts."""
    known = Rows(rows)
    found = {(m, v): known.find(dataset, m, v) for m in results.METHODS for v in known.variants(m)}
    return [_part(found, dataset, part, columns) for part, columns in GRAND.items()]


def _part(found: Mapping[tuple[str, str], list[Mapping]], dataset: str, part: str, columns: Mapping[str, str | None]) -> Table:
    """Some columns of the grand table, one line a method."""
    beside = [column for column in columns if column in THEY_REPORT]
    lines, reasons = {}, {}
    for (method, variant), own in found.items():
        method = name(method, variant) if variant else method
        line = {(OURS, column): _cell(own, column) for column in columns}
        lines[method] = line | {(THEIRS, column): assignment.reported(dataset, method, column) for column in beside}
        why = (own[0].get("reasons") or {}) if own else dict.fromkeys(columns, NOT_YET)
        why = why | {column: why[other] for column, other in WITH.items() if other in why}
        reasons |= {(method, (OURS, column)): reason for column, reason in why.items()}
    frame = pd.DataFrame.from_dict(lines, orient="index")
    frame.columns = pd.MultiIndex.from_tuples(frame.columns)
    frame.index.name = "method"
    return tables.table(
        frame,
        f"{style.dataset(dataset)}, every method: {part}, the write-up's figures beside ours",
        best={(OURS, column): direction for column, direction in columns.items() if direction},
        reasons=reasons,
        note=f"{NOTES[part]} {assignment.WRITE_UP_NOTE if 'time' in part else ''}".strip(),
    )


def _cell(rows: list[Mapping], column: str) -> float | int | str | None:
    """A method's figure: accuracies over its seeds, everything else of the first."""
    if not rows:
        return None
    if column == "95 %":
        bounds = wilson(rows[0])
        return f"{number_text(bounds.low, 1)} to {number_text(bounds.high, 1)}"
    if column == "Seeds":
        return len(rows)
    return over_seeds(rows).get(column)


def missing_rows(rows: Sequence[Mapping], planned: Sequence) -> Markdown:
    """Which planned rows are not there, in a sentence."""
    there = {(r["dataset"], r["method"], r.get("target_sparsity_pct"), r["seed"], r["variant"]) for r in rows}
    absent = [p.key for p in planned if (p.key.dataset, p.key.method, p.key.sparsity_pct, p.key.seed, p.key.variant) not in there]
    if not absent:
        return Markdown(f"All {len(planned)} planned rows are there.")
    counts: dict[str, dict[str, int]] = {}
    for key in absent:
        methods = counts.setdefault(style.dataset(key.dataset), {})
        methods[name(key.method)] = methods.get(name(key.method), 0) + 1
    listed = "\n".join(
        f"- {dataset}: {', '.join(f'{method} ({count})' if count > 1 else method for method, count in methods.items())}"
        for dataset, methods in counts.items()
    )
    return Markdown(
        f"{len(planned) - len(absent)} of {len(planned)} planned rows are there. Not computed yet, and therefore in no table, "
        f"figure or verdict of this page (how many rows of a method; `make study` computes them):\n\n{listed}"
    )


def certainty(rows: Sequence[Mapping], planned: Sequence) -> str:
    """How much stands behind the findings, in a few sentences: rows, seeds, and how a difference is read."""
    keys = {(r["dataset"], r["method"], r.get("target_sparsity_pct"), r["variant"], r["seed"]) for r in rows}
    again = len(keys) - len({key[:-1] for key in keys})
    there = "All" if len(rows) == len(planned) else f"{len(rows)} of"
    seeds = f"{again} of them with a further seed" if again else "each of one seed"
    noise = "seed noise that they cannot show is taken from a published spread"
    return f"{there} {len(planned)} planned rows are there, {seeds}; {noise}. {READING}"


def verdicts_seen(judged: Sequence[claims.Judged]) -> Markdown:
    """How many statements hold."""
    counts = [f"{count} {verdict}" for verdict, count in claims.tally(judged).items() if count]
    return Markdown(
        f"**What is seen.** The verdicts on {len(judged)} statements: {', '.join(counts)}. {READING} Some hold by construction, "
        "where the budget was set to the write-up's or a dense kernel is run on masks; what decides each is said with it. Those "
        "asked here are not in the write-up, which rests on them; the blunter instrument is one sentence of it, tested at four "
        "costs."
    )


# Limits -----------------------------------------------------------------------------------------------------------


def limits(rows: Sequence[Mapping]) -> Markdown:
    """What the rows themselves say about how far they carry: seeds, budgets, noise, devices."""
    known, lines = Rows(rows), []
    for dataset in known.datasets:
        mine = [row for row in known.all if row["dataset"] == dataset]
        groups: dict[str, set] = {}
        for row in mine:
            if not row["variant"] and row["epochs"]:
                groups.setdefault(row["method"], set()).add(row["seed"])
        several = [name(method) for method, seeds in groups.items() if len(seeds) > 1]
        images = mine[0].get("test_images", "all")
        lines.append(
            f"- **{style.dataset(dataset)}**: {len(mine)} rows on {images} test images; more than one seed: "
            f"{', '.join(several) or 'none'}.{_seed_noise(known, dataset)}{_time_noise(known, dataset)}"
        )
    budgets: dict[str, set[int]] = {}
    for row in known.all:
        if row["epochs"]:
            budgets.setdefault(name(row["method"]), set()).add(row["epochs"])
    listed = [f"{method} {' or '.join(map(str, sorted(epochs)))}" for method, epochs in budgets.items()]
    lines.append(f"- **Budgets** in epochs, of all rows of a method: {', '.join(listed) or 'none yet'}.")
    timed = {f"“{row['device']}”" for row in known.all if row.get("latency_ms") is not None}
    trained = {f"“{row['train_device']}” in {row['train_dtype']}" for row in known.all if row.get("train_device")}
    lines.append(
        f"- **Devices**: timed on {' and '.join(sorted(timed)) or 'none'}; trained on {' and '.join(sorted(trained)) or 'none'}."
    )
    unknown = sum(row["commit"] == "unknown" for row in known.all)
    changed = sum("+changes" in str(row["commit"]) for row in known.all)
    if changed or unknown:
        lines.append(
            f"- **Code**: {changed} of {len(known.all)} rows were made while the code differed from the commit that they name "
            "(it stands there with “+changes”); their settings are whole, their code can only be found near that commit. "
            f"Of {unknown} rows the commit is not known."
        )
    return Markdown("\n".join(lines))


def _seed_noise(rows: Rows, dataset: str) -> str:
    """How far two trainings may differ by chance: of networks that were trained before, and of new ones."""
    told, kinds = [], {"dense_finetuned": "from a trained network", "dense_from_scratch": "from new weights"}
    for control, kind in kinds.items():
        for row in rows.find(dataset, control)[:1]:
            new = budget.from_initialization(control)
            noise = seed_noise(rows.all, dataset, new, row["top1_pct"], row.get("test_images") or 10_000)
            least = number_text(noise.reach() * 2**0.5, 2)
            told.append(f"{least} points {kind} (standard deviation {number_text(noise.sd, 2)}, {noise.source})")
    return f" Between two single trainings less than this is never called a difference: {'; '.join(told)}." if told else ""


def _time_noise(rows: Rows, dataset: str) -> str:
    """How far the times of networks of one shape lie apart, which do the same work: unpruned ones, and those without channels."""
    told = []
    for method, kind in {"dense": "unpruned networks", STRUCTURED: "channel-pruned networks of equal widths"}.items():
        for row in rows.find(dataset, method)[:1]:
            times = [rows.equal_work(row, column) for column in TIMES.values()]
            if min(map(len, times)) > 1:
                many, one = (number_text(100 * (max(t) / min(t) - 1), 0) for t in times)
                told.append(f"{len(times[0])} {kind} differ by up to {one} % at batch 1 and {many} % at batch 128")
    return f" Times of {'; of '.join(told)}." if told else ""
