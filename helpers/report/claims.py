"""The write-up's statements as code: each with the test on rows that would support or refute it, and its verdict.

A judge looks at the rows of one data set and returns a verdict with the figures behind it. What rows cannot decide is
*undecided*; what no row speaks of is *not measured here*, with what is missing. The judges themselves live in
`claims_cost.py`, `claims_accuracy.py`, `claims_structure.py` and `claims_initialization.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from IPython.display import Markdown

from helpers.report import claims_accuracy, claims_cost, claims_initialization, claims_structure, style, tables
from helpers.report.answer import answer
from helpers.report.evidence import Missing, Rows
from helpers.report.findings import Finding, findings
from helpers.report.verdicts import MARKS, NOT_MEASURED, REFUTED, SUPPORTED, UNDECIDED, Claim, Judgement

__all__ = [
    "CLAIMS",
    "Finding",
    "Judged",
    "NOT_MEASURED",
    "REFUTED",
    "SUPPORTED",
    "UNDECIDED",
    "answer",
    "details",
    "findings",
    "judge",
    "marked",
    "table",
    "tally",
]


@dataclass(frozen=True)
class Judged:
    """A claim with a judgement for every data set it was looked at on."""

    claim: Claim
    by_dataset: Mapping[str, Judgement]

    @property
    def verdict(self) -> str:
        """The data sets' common verdict; undecided where one supports what another refutes."""
        verdicts = {judgement.verdict for judgement in self.by_dataset.values()} - {NOT_MEASURED}
        if not verdicts:
            return NOT_MEASURED
        return verdicts.pop() if len(verdicts) == 1 else UNDECIDED


# in the order of the write-up
CLAIMS = (*claims_cost.CLAIMS, *claims_accuracy.CLAIMS, *claims_structure.CLAIMS, *claims_initialization.CLAIMS)


def judge(rows: Iterable[Mapping]) -> list[Judged]:
    """Every claim judged on every data set that the rows hold."""
    known = Rows(rows)
    return [_judged(claim, known) for claim in CLAIMS]


def _judged(claim: Claim, rows: Rows) -> Judged:
    datasets = [claim.only] if claim.only in rows.datasets else rows.datasets
    found = {}
    for dataset in datasets:
        try:
            found[dataset] = claim.judge(rows, dataset)
        except Missing as missing:
            found[dataset] = Judgement(NOT_MEASURED, f"{str(missing)[0].upper()}{str(missing)[1:]}.")
    return Judged(claim, found)


def marked(verdict: str) -> str:
    """A verdict with its mark, so that it does not depend on colour or on reading a table's every word."""
    return f"{MARKS[verdict]} {verdict}"


def table(judged: Sequence[Judged], topic: str | None = None) -> tables.Table:
    """The verdicts at a glance: one claim a line, one data set a column."""
    chosen = [j for j in judged if topic in (None, j.claim.topic)]
    datasets = list(dict.fromkeys(dataset for j in chosen for dataset in j.by_dataset))
    lines = [
        {"Statement": j.claim.shown}
        | {style.dataset(d): marked(j.by_dataset[d].verdict) if d in j.by_dataset else "" for d in datasets}
        | ({"Together": marked(j.verdict)} if len(datasets) > 1 else {})
        for j in chosen
    ]
    about = f"{topic}: the" if topic else "The"
    return tables.table(pd.DataFrame(lines), f"{about} write-up's statements and what the rows say to them")


def details(judged: Sequence[Judged], topic: str | None = None) -> Markdown:
    """The evidence: for every claim what decides it and the figures of each data set."""
    lines = []
    for j in judged:
        if topic in (None, j.claim.topic):
            lines += [f"**{j.claim.shown}**: {marked(j.verdict)}. *Decided by:* {j.claim.test}.", ""]
            lines += [
                f"- {style.dataset(dataset)}, {seen.verdict}: {seen.evidence}" for dataset, seen in j.by_dataset.items()
            ] + [""]
    return Markdown("\n".join(lines))


def tally(judged: Sequence[Judged]) -> dict[str, int]:
    """How many claims have each verdict."""
    verdicts = [j.verdict for j in judged]
    return {verdict: verdicts.count(verdict) for verdict in MARKS}
