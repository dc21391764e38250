"""What the first page says: five findings, each a headline and a few sentences, their figures computed from rows."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from helpers.report import claims_accuracy, claims_cost, claims_initialization, style
from helpers.report.claims_accuracy import GRASP, MAGNITUDE, brief
from helpers.report.claims_cost import STRUCTURED
from helpers.report.evidence import Missing, Rows, mean, smallest_file, value
from helpers.report.statistics import signed
from helpers.report.tables import number_text
from helpers.report.verdicts import REFUTED, SUPPORTED, UNDECIDED


@dataclass(frozen=True)
class Finding:
    """A headline that states the answer, and the figures behind it."""

    headline: str
    text: str


def findings(rows: Iterable[Mapping]) -> list[Finding]:
    """The five findings; where a row is missing the finding says what is not measured."""
    known = Rows(rows)
    return [_written(known, write, question) for write, question in FINDINGS]


def _written(rows: Rows, write: Callable[[Rows, list[str]], Finding], question: str) -> Finding:
    """The finding over all data sets that have its rows."""
    usable, reasons = [], []
    for dataset in rows.datasets:
        try:
            write(rows, [dataset])
            usable.append(dataset)
        except Missing as missing:
            reasons.append(str(missing))
    if not usable:
        return Finding(f"Not measured yet: {question}", f"Missing: {'; '.join(reasons) or 'every row'}.")
    found = write(rows, usable)
    return Finding(found.headline, found.text + (f" Missing: {'; '.join(reasons)}." if reasons else ""))


def _each(datasets: list[str], text: Callable[[str], str]) -> str:
    """The same figure for every data set: "13.5 (CIFAR-10) and 13.6 (CIFAR-100)"."""
    parts = [text(dataset) + (f" ({style.dataset(dataset)})" if len(datasets) > 1 else "") for dataset in datasets]
    return " and ".join(parts)


def _together(verdicts: list[str]) -> str:
    return verdicts[0] if len(set(verdicts)) == 1 else UNDECIDED


def _boost(rows: Rows, datasets: list[str]) -> Finding:
    judged = {d: claims_accuracy.CLAIMS[0].judge(rows, d) for d in datasets}
    gaps = _each(datasets, lambda d: signed(_gap(rows, d, MAGNITUDE, "dense_finetuned")))
    sparsity = number_text(value(rows.one(datasets[0], MAGNITUDE), "sparsity_pct"), 2)
    headline = {
        REFUTED: f"Pruning {sparsity} % of the weights is not what raises accuracy: it brings {gaps} points",
        SUPPORTED: f"Pruning {sparsity} % of the weights raises accuracy by {gaps} points",
        UNDECIDED: f"Whether pruning {sparsity} % of the weights raises accuracy is undecided: {gaps} points",
    }[_together([j.verdict for j in judged.values()])]
    parts = [f"{style.dataset(d)}: {j.evidence}" for d, j in judged.items()]
    for dataset in datasets:
        try:
            parts.append(claims_accuracy.CLAIMS[1].judge(rows, dataset).evidence)
        except Missing:
            continue
    return Finding(headline, " ".join(dict.fromkeys(parts)))


def _gap(rows: Rows, dataset: str, method: str, control: str) -> float:
    return mean(rows.seeds(dataset, method), "top1_pct") - mean(rows.seeds(dataset, control), "top1_pct")


def _files(rows: Rows, datasets: list[str]) -> Finding:
    def smaller(dataset: str) -> float:
        return value(rows.one(dataset, "dense"), "size_mib") / smallest_file(rows.one(dataset, MAGNITUDE)).mib

    best = smallest_file(rows.one(datasets[0], MAGNITUDE))
    coo = _each(datasets, lambda d: number_text(value(rows.one(d, MAGNITUDE), "size_coo_mib"), 2))
    times = _each(datasets, lambda d: number_text(smaller(d), 2))
    return Finding(
        f"Stored as a {best.format}, the pruned network's file is {times} times smaller",
        f"{_each(datasets, lambda d: number_text(smallest_file(rows.one(d, MAGNITUDE)).mib, 2))} MiB, exact to the bit, "
        f"where COO takes {coo} and the dense network "
        f"{_each(datasets, lambda d: number_text(value(rows.one(d, 'dense'), 'size_mib'), 2))}.",
    )


def _sparse_speed(rows: Rows, datasets: list[str]) -> Finding:
    gains = {d: claims_cost.speed_up(rows, d, MAGNITUDE, "sparse_latency_batch128_ms") for d in datasets}
    single = _each(datasets, lambda d: number_text(claims_cost.speed_up(rows, d, MAGNITUDE, "sparse_latency_ms"), 2))
    many = _each(datasets, lambda d: number_text(gains[d], 2))
    pays = all(gain > 1 + claims_cost.SAME for gain in gains.values())
    headline = (
        f"Unstructured zeros do run faster, {many} times, once a kernel skips them"
        if pays
        else f"Unstructured zeros do not run clearly faster on this machine, even where a kernel skips them: {many} times"
    )
    macs = _each(
        datasets,
        lambda d: number_text(value(rows.one(d, "dense"), "macs") / value(rows.one(d, MAGNITUDE), "effective_macs"), 2),
    )
    return Finding(
        headline,
        f"At batch 128 against the dense network as PyTorch runs it, {rows.one(datasets[0], MAGNITUDE)['device']}; "
        f"{single} times at batch 1, with {macs} times fewer multiplications.",
    )


def _structured(rows: Rows, datasets: list[str]) -> Finding:
    def ratio(dataset: str, column: str) -> float:
        return value(rows.one(dataset, "dense"), column) / value(rows.one(dataset, STRUCTURED), column)

    gaps = {d: rows.compare(rows.seeds(d, STRUCTURED), rows.seeds(d, "dense_finetuned")) for d in datasets}
    text = f"Top-1 against the fine-tuned dense network: {_each(datasets, lambda d: brief(gaps[d]))}."
    try:
        scratch = {d: rows.compare(rows.seeds(d, STRUCTURED), rows.seeds(d, "lasso_channels_from_scratch")) for d in datasets}
        text += f" Against the same small network trained from scratch: {_each(datasets, lambda d: brief(scratch[d]))}."
    except Missing:
        pass
    try:
        fast = _each(datasets, lambda d: number_text(ratio(d, "latency_batch128_ms"), 2))
        single = _each(datasets, lambda d: number_text(ratio(d, "latency_ms"), 2))
        speed, text = f", {fast} times faster", f"{text} The speed is that of batch 128; at batch 1 it is {single} times."
    except Missing:
        speed = ""
    fewer = _each(datasets, lambda d: number_text(ratio(d, "macs"), 2))
    points = _each(datasets, lambda d: signed(gaps[d].difference))
    return Finding(f"Removing channels leaves {fewer} times fewer MACs{speed}, at {points} points", text)


def _snip(rows: Rows, datasets: list[str]) -> Finding:
    judged = {d: next(c for c in claims_initialization.CLAIMS if c.key == "snip_better").judge(rows, d) for d in datasets}
    points = _each(datasets, lambda d: signed(_gap(rows, d, "snip", GRASP)))
    verdicts = [j.verdict for j in judged.values()]
    headline = {
        SUPPORTED: f"SNIP would have done better than GraSP, by {points} points",
        REFUTED: f"SNIP would not have done better than GraSP: {points} points",
        UNDECIDED: f"Between SNIP and GraSP the rows do not decide: {points} points",
    }[_together(verdicts)]
    return Finding(headline, " ".join(f"{style.dataset(d)}: {j.evidence}" for d, j in judged.items()))


FINDINGS = (
    (_boost, "does pruning itself raise accuracy?"),
    (_files, "how small can the pruned network's file be?"),
    (_sparse_speed, "do unstructured zeros make inference faster?"),
    (_structured, "what does removing channels gain and cost?"),
    (_snip, "would SNIP have done better than GraSP?"),
)
