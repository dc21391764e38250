"""Figures that this project did not measure: the original report's tables, and published results to compare with.

Columns are named as in the results' frame. The original report says MB where its sizes are MiB (2**20 bytes), and names
no device: its memory, latency and energy compare with ours only as ratios to its own dense network. What it only estimates,
the sparsity of Task 2, is no figure.
"""

import pandas as pd

from helpers.report import look

ORIGINAL = pd.read_csv(look.RECORDS / "original.csv").assign(label="")
ELSEWHERE = pd.read_csv(look.RECORDS / "elsewhere.csv")  # one line a network: top-1 by data set, with its source and setting


def reported(dataset: str, method: str, column: str) -> float:
    """One figure of the original report; NaN where it gives none."""
    found = ORIGINAL[(ORIGINAL["dataset"] == dataset) & (ORIGINAL["method"] == method)]
    return float(found[column].iloc[0]) if len(found) and column in found else float("nan")
