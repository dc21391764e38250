"""The first page's answer to its title: what next to nothing of accuracy buys, and what is left of it elsewhere."""

from collections.abc import Iterable, Mapping

from helpers import measurement
from helpers.report import benchmarks, frontier, style
from helpers.report.claims_accuracy import MAGNITUDE
from helpers.report.evidence import Missing, Rows
from helpers.report.findings import Finding
from helpers.report.frontier import CHEAP
from helpers.report.tables import number_text


def answer(rows: Iterable[Mapping]) -> Finding | None:
    """Does pruning pay? What next to nothing of accuracy buys, and which network buys it; None where it is not measured."""
    known, told = Rows(rows), []
    try:
        for dataset in known.datasets:
            file, time = (frontier.choices(known, dataset, kind)[CHEAP] for kind in ("bytes", "latency"))
            if file is None or time is None:
                return None
            told.append(
                f"on {style.dataset(dataset)} the file gets {number_text(file.gain, 2)} times smaller "
                f"({frontier.called(file.row)}), and a batch of 128 images runs {number_text(time.gain, 2)} times as fast "
                f"({frontier.called(time.row)})"
            )
    except Missing:
        return None
    if not told:
        return None
    dense = "with its batch norm folded" if frontier.dense_folded(known, known.datasets) else "as PyTorch runs it"
    return Finding(
        f"It does, in bytes and in time. {CHEAP[0].upper()}{CHEAP[1:]} against that control, {'; '.join(told)}.",
        f"The time is a CPU's, zeros skipped by this report's kernel, the dense network {dense}.{_stronger(known)}",
    )


def _stronger(rows: Rows) -> str:
    """What is left of the gain in time against stronger ways to run the dense network, where a benchmark says so."""
    pruned = rows.find("cifar10", MAGNITUDE)
    left = benchmarks.over_rivals(pruned[0]["target_sparsity_pct"], measurement.BATCH) if pruned else {}
    if not left:
        return ""
    told = ", ".join(f"{number_text(ratio, 2)} times as fast as {words}" for words, ratio in left.items())
    return f" Against faster ways to run the dense network less is left: on CIFAR-10 layer-wise magnitude is {told}."
