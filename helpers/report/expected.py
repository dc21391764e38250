"""What each metric should become by arithmetic alone, and what was observed."""

from collections.abc import Mapping, Sequence

import pandas as pd
from IPython.display import Markdown

from helpers import measurement
from helpers.report import assignment, channels, savings, style, tables
from helpers.report.claims_accuracy import MAGNITUDE
from helpers.report.evidence import GRASP, STRUCTURED, Missing, Rows
from helpers.report.sentences import absent
from helpers.report.tables import Table


def expected(rows: Sequence[Mapping], dataset: str) -> Table | Markdown:
    """For each metric what theory expects of it, as a share of the dense network, and what was observed there and here."""
    known, lines = Rows(rows), []
    for method in (MAGNITUDE, GRASP, STRUCTURED):
        try:
            dense, row = known.one(dataset, "dense"), known.one(dataset, method)
        except Missing:
            continue
        for column, (metric, theory) in _theory(row, dense).items():
            theirs = [assignment.reported(dataset, m, column) for m in (method, "dense")]
            ours = [known.read(r, column) if r.get(column) is not None else None for r in (row, dense)]
            lines.append(
                {
                    "method": method,
                    "Metric": metric,
                    "Expected": theory,
                    "Write-up": theirs[0] / theirs[1] if all(theirs) else None,
                    "This report": ours[0] / ours[1] if all(ours) else None,
                }
            )
    if not lines:
        return absent(f"expected and observed on {style.dataset(dataset)}")
    return tables.table(
        pd.DataFrame(lines).set_index(["method", "Metric"]),
        f"{style.dataset(dataset)}: each metric as a share of the dense network's, expected and observed",
        digits={"Expected": 3, "Write-up": 3, "This report": 3},
        note="Expected of unstructured pruning: a file of the values that are left and one bit for every weight, and with dense "
        "kernels nothing else. Expected of structured pruning: size as its share of parameters, time and energy as its share of "
        "MACs, memory as that of weights, images and the three maps that live while the largest layer is normalised. "
        "Ratios to each side's own dense network, since the devices differ.",
    )


def _theory(row: Mapping, dense: Mapping) -> dict[str, tuple[str, float | None]]:
    """Column → (metric, expected share of the dense network's)."""
    work = _ratio(row.get("effective_macs"), dense.get("effective_macs") or dense.get("macs"))
    parameters = _ratio(row.get("params"), dense.get("params"))
    if row["method"] == STRUCTURED:
        macs = _ratio(row.get("macs"), dense.get("macs"))
        return {
            "size_mib": ("Size", parameters),
            "macs": ("MACs", macs),
            "peak_memory_mib": ("Peak memory", _ratio(_memory(row), _memory(dense))),
            "latency_ms": ("Latency, batch 1", macs),
            "latency_batch128_ms": ("Latency, batch 128", macs),
            "energy_mj": ("Energy", macs),
        }
    density = _ratio(row.get("density_pct"), 100.0)
    return {
        "size_mib": ("Size", density + 1 / 32 if density is not None else None),
        "macs": ("MACs, all weights", 1.0),
        "effective_macs": ("MACs, weights that are left", work),
        "peak_memory_mib": ("Peak memory", 1.0),
        "latency_ms": ("Latency, batch 1, dense kernels", 1.0),
        "latency_batch128_ms": ("Latency, batch 128, dense kernels", 1.0),
        "energy_mj": ("Energy, dense kernels", 1.0),
    }


def _memory(row: Mapping) -> float | None:
    """Bytes that inference of a batch needs at its peak: weights, images, a convolution's input and its output twice."""
    if row.get("params") is None or not row.get("settings", {}).get("width_divisor"):
        return None
    live = max(read + 2 * written for read, written in savings.maps(row.get("widths") or channels.full_widths(row)))
    images = savings.CHANNELS * savings.IMAGE_SIZE**2
    return 4 * (row["params"] + measurement.BATCH * (images + live))


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None
