"""What a claim is and what a judge may say of it."""

from collections.abc import Callable
from dataclasses import dataclass

from helpers.report import tables
from helpers.report.evidence import Rows

SUPPORTED, REFUTED, UNDECIDED, NOT_MEASURED = "supported", "refuted", "undecided", "not measured here"
MARKS = {SUPPORTED: "✓", REFUTED: "✗", UNDECIDED: "?", NOT_MEASURED: tables.MISSING}


@dataclass(frozen=True)
class Judgement:
    """A verdict on one claim from one data set, with the figures that led to it."""

    verdict: str
    evidence: str

    def __post_init__(self):
        if self.verdict not in MARKS:
            raise ValueError(f"no verdict {self.verdict!r}; there are {', '.join(MARKS)}")


Judge = Callable[[Rows, str], Judgement]


@dataclass(frozen=True)
class Claim:
    """One statement: the write-up's sentence in short, what decides it, and the judge.

    `only` names the data set a statement is about; where the rows are of others, it is judged on those instead.
    `asked_here`: the write-up does not say it, its other statements rest on it.
    """

    key: str
    topic: str
    sentence: str
    test: str
    judge: Judge
    only: str | None = None
    asked_here: bool = False

    @property
    def shown(self) -> str:
        """The sentence, marked where it is this report's own question."""
        return f"{self.sentence} (asked here)" if self.asked_here else self.sentence
