"""The README's result table, written from the study's rows: `python -m helpers.report.readme`."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from helpers import files, settings, study
from helpers.report import assignment, style
from helpers.report.evidence import Missing, Rows, name

BEGIN, END = "<!-- results: written by `python -m helpers.report.readme` -->", "<!-- end of results -->"
METHODS = (
    "dense",
    "dense_finetuned",
    "layerwise_magnitude",
    "grasp_iterative",
    "snip",
    "synflow",
    "magnitude_init",
    "random",
    "dense_from_scratch",
    "lasso_channels",
    "l1_filters",
    "lasso_channels_from_scratch",
)
COLUMNS = (
    *("data set", "network", "sparsity %", "file MiB", "MACs M", "effective MACs M", "times as fast"),
    *("epochs", "seeds", "top-1 %", "write-up's top-1 %"),
)
MISSING = "–"


def table(rows: Sequence[dict]) -> str:
    """Every data set's methods as Markdown, the write-up's top-1 beside ours."""
    known, lines = Rows(rows), [f"| {' | '.join(COLUMNS)} |", f"| --- | --- |{' ---: |' * (len(COLUMNS) - 2)}"]
    for dataset in known.datasets:
        for method in METHODS:
            for variant in known.variants(method):
                lines.append(f"| {' | '.join(_cells(known, dataset, method, variant))} |")
    return "\n".join(lines)


def _cells(rows: Rows, dataset: str, method: str, variant: str) -> list[str]:
    theirs = None if variant else assignment.reported(dataset, method, "top1_pct")
    first = [style.dataset(dataset), name(method, variant)]
    last = f"{theirs:.2f}" if theirs is not None else MISSING
    row = rows.shown(dataset, method, variant)
    if not row:
        return [*first, *[MISSING] * (len(COLUMNS) - 4), "not computed yet", last]
    return [
        *first,
        f"{row['sparsity_pct']:.2f}",
        f"{row['size_mib']:.2f}",
        f"{row['macs'] / 1e6:.1f}",
        f"{row['effective_macs'] / 1e6:.1f}",
        _times_as_fast(rows, row),
        f"{row['epochs']}",
        f"{row['seeds']}",
        f"**{row['top1_pct']:.2f}**",
        last,
    ]


def _times_as_fast(rows: Rows, row: Mapping) -> str:
    """The dense network's time at batch 128 over this one's, each on the fastest kernel it was timed on."""
    try:
        return f"{rows.gain(row, 'latency'):.2f}"
    except Missing:
        return MISSING


def updated(text: str, rows: Sequence[dict]) -> str:
    """The README with its table made from `rows`; ValueError when its markers are gone."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md must hold {BEGIN!r} and {END!r} around its result table")
    return f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{after}"


def main(path: Path = settings.ROOT / "README.md") -> int:
    text = updated(path.read_text(encoding="utf-8"), study.rows(settings.profile("study"), compute_missing=False))
    with files.atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
