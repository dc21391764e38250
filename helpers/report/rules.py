"""Rules that judge a statement on the results of one data set.

A rule is data: which networks (method, label), which column or control, which threshold. Its `judge` returns a verdict
with the numbers that led to it, or raises `Missing` where results that it needs are not there.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd

from helpers.report import look
from helpers.report.evidence import Evidence, Missing, Network, called
from helpers.report.tables import HEADINGS, number_text, signed_text
from helpers.statistics import Comparison, Interval

SUPPORTED, REFUTED, UNDECIDED, NOT_MEASURED = "supported", "refuted", "undecided", "not measured"
SIZE_DIFFERS = "direction holds, size does not"
ONE_SEED = "One seed: how far a second training would end from the first is not known."
UNFAIR = "The network with fewer channels was timed without folding its batch norm: it could be faster."
DENSE = ("dense", "")


@dataclass(frozen=True)
class Judgement:
    """A verdict and what led to it: what was compared, our number with its 95 % limits, the original's, the trainings."""

    verdict: str
    subject: str
    value: float
    unit: str  # "points", "×" or "%"
    threshold: str
    note: str = ""  # sentences
    theirs: float = math.nan
    low: float = math.nan
    high: float = math.nan
    seeds: str = ""


def _compared(
    verdict: str, subject: str, compared: Comparison, threshold: str, note: str = "", theirs: float = math.nan
) -> Judgement:
    limits, seeds = compared.total or compared.images, " and ".join(map(str, compared.seeds))
    note += f" {ONE_SEED}" if verdict == UNDECIDED and compared.total is None else ""
    numbers = compared.difference, "points", threshold, note.strip(), theirs, limits.low, limits.high, seeds
    return Judgement(verdict, subject, *numbers)


def _against(a: pd.Series, b: pd.Series) -> str:
    return f"{called(a)} against {called(b)}"


@dataclass(frozen=True)
class Ratio:
    """Columns of some networks over those of a base (the least of several; none: the network's own `base_column`).

    Every ratio has to lie from `low` to `high`. `cut`: the statement is about how many percent less. Up to `noise` outside,
    in the same unit, nothing is decided. `sized`: the statement names a size, of which the direction alone may hold.
    """

    columns: tuple[str, ...]
    networks: tuple[Network, ...]
    base: tuple[Network, ...] = (DENSE,)
    low: float = -math.inf
    high: float = math.inf
    base_column: str = ""
    noise: float = 0.0
    cut: bool = False
    sized: bool = False

    def judge(self, evidence: Evidence) -> Judgement:
        found = []
        for column, network in itertools.product(self.columns, self.networks):
            base = min(evidence.value(other, self.base_column or column) for other in self.base or (network,))
            value = self._scaled(evidence.value(network, column), base)
            found.append((min(value - self.low, self.high - value), value, network, column))
        margin, value, network, column = min(found)
        verdict = SUPPORTED if margin >= 0 else UNDECIDED if margin >= -self.noise else REFUTED
        if verdict == REFUTED and self.sized and value > self.noise:
            verdict = SIZE_DIFFERS
        unit = "%" if self.cut else "×"
        subject = f"{HEADINGS[column].noun} of {look.name(*network)} {'below' if self.cut else 'over'} "
        subject += "the dense network's" if self.base else "its values"
        limits = f"at least {self.low:g}" if math.isinf(self.high) else f"{self.low:g} to {self.high:g}"
        limits = f"{limits} {unit}".replace("-inf to", "at most").replace(" ×", "×")
        theirs = [evidence.reported(method, column) for method, _ in (network, *self.base[:1])] if self.base else [math.nan] * 2
        return Judgement(verdict, subject, value, unit, limits, theirs=self._scaled(theirs[0], theirs[1]))

    def _scaled(self, value: float, base: float) -> float:
        return 100 * (1 - value / base) if self.cut else value / base


@dataclass(frozen=True)
class Cheapest:
    """A network costs least: no rival costs as little (to a share of `same`) without being less accurate.

    A rival that costs no more refutes where it surely is less than `margin` points below the network.
    """

    column: str
    network: Network
    rivals: tuple[Network, ...]
    same: float = 0.0
    margin: float = 1.0

    def judge(self, evidence: Evidence) -> Judgement:
        own, spent = evidence.one(self.network), evidence.value(self.network, self.column)
        noun, limit = HEADINGS[self.column].noun, f"no rival as cheap within {self.margin:g} point"
        rivals = sorted(evidence.find(*self.rivals, having=self.column), key=lambda line: line[self.column])
        if not rivals:
            raise Missing(f"{noun} of {look.name(*self.rivals[0])}: not measured")
        cheap = [line for line in rivals if line[self.column] <= (1 + self.same) * spent] or rivals[:1]
        compared = [(evidence.compare(line, own, len(cheap)), line) for line in cheap]
        best, line = max(compared, key=lambda pair: pair[0].total.low if pair[0].total else -math.inf)
        ratio = line[self.column] / spent
        if ratio > 1 + self.same:
            theirs, base = (evidence.reported(method, self.column) for method in (line["method"], own["method"]))
            return Judgement(SUPPORTED, f"{noun}, {_against(line, own)}", ratio, "×", limit, theirs=theirs / base)
        less = all(c.decided and c.difference < 0 for c, _ in compared)
        verdict = REFUTED if best.total and best.total.low > -self.margin else SUPPORTED if less else UNDECIDED
        note = f"It has {number_text(ratio, 2)} times the {noun}."
        if verdict == REFUTED and self.column.startswith("time") and not own["fused"]:
            verdict, note = UNDECIDED, f"{note} {UNFAIR}"
        return _compared(verdict, f"top-1 of {_against(line, own)}", best, limit, note)


@dataclass(frozen=True)
class EqualCost:
    """At equal cost the networks of `losers` are less accurate than those of `winners`.

    Every network is set against the costliest of the other kind that costs no more: pairs chosen by cost alone, and few
    enough to be corrected for their number. A win counts if the winner was not fine-tuned longer; wins have to be one-sided.
    """

    column: str
    losers: tuple[Network, ...]
    winners: tuple[Network, ...]

    def judge(self, evidence: Evidence) -> Judgement:
        sides, pairs = [evidence.find(*side, having=self.column) for side in (self.losers, self.winners)], []
        for line, others in ((line, sides[1 - side]) for side in (0, 1) for line in sides[side]):
            if cheaper := [other for other in others if other[self.column] <= line[self.column]]:
                pairs.append((max(cheaper, key=lambda other: other[self.column]), line))
        if not pairs:
            noun = HEADINGS[self.column].noun
            raise Missing(f"{noun} of fine-tuned networks of both kinds on {look.dataset(evidence.dataset)}")
        compared = [(evidence.compare(*pair, len(pairs)), *pair) for pair in pairs]
        wins = [w for w in compared if w[0].decided and w[0].difference > 0 and w[1]["epochs"] <= w[2]["epochs"]]
        against = [(line["method"], line["label"]) in self.losers for _, line, _ in wins]
        verdict = SUPPORTED if wins and not any(against) else REFUTED if wins and all(against) else UNDECIDED
        best, *clearest = max(wins or compared, key=lambda w: w[0].difference)
        note = f"Of {len(pairs)} pairs, {look.name(*self.winners[0])} wins {len(wins) - sum(against)}, "
        note += f"{look.name(self.losers[0][0])} {sum(against)}; this is the clearest."
        if verdict == SUPPORTED and self.column.startswith("time") and not all(line["fused"] for line in sides[0]):
            verdict, note = UNDECIDED, f"{note} {UNFAIR}"
        return _compared(verdict, f"top-1 of {_against(*clearest)}", best, f"above 0, corrected for {len(pairs)} pairs", note)


@dataclass(frozen=True)
class Difference:
    """Top-1 of one network minus that of its control, for every pair, is above a threshold, or with `below` under it.

    The threshold is `limit` points, or `share` of what two methods of the original report differ by (`reported`), with
    `relative` as a share of its dense network's top-1 and so of our control's. With `minus` the same difference of another
    pair, perhaps on another data set (`elsewhere`), is taken off first. Every pair has to hold, and one that fails refutes,
    corrected for their number; as `readings` of one statement they have to agree. `sized`: as in `Ratio`.
    """

    pairs: tuple[tuple[Network, Network], ...]
    below: bool = False
    limit: float = 0.0
    share: float = 0.0
    reported: tuple[str, str] | None = None
    relative: bool = False
    minus: tuple[Network, Network] | None = None
    elsewhere: str = ""
    readings: bool = False
    sized: bool = False

    def judge(self, evidence: Evidence) -> Judgement:
        there, sign = Evidence(evidence.frame, self.elsewhere) if self.elsewhere else evidence, -1 if self.below else 1
        found = list(self._contrasts(evidence, there))
        verdicts = {self._verdict(compared, limit, sign) for _, compared, limit in found}
        least = min(found, key=lambda contrast: sign * (contrast[1].difference - contrast[2]))
        subject, compared, limit = found[0] if self.readings else least
        verdict = REFUTED if REFUTED in verdicts and not self.readings else verdicts.pop() if len(verdicts) == 1 else UNDECIDED
        note = f"The least favourable of {len(found)}." if len(found) > 1 and not self.readings else ""
        for other, second, _ in found[1:] if self.readings else ():
            note += f"{other[:1].upper()}{other[1:]}: {signed_text(second.difference)} points."
        theirs = self._theirs(evidence) - (self._theirs(there) if self.elsewhere else 0)
        threshold = f"{'below' if self.below else 'above'} {signed_text(limit)}"
        return _compared(verdict, f"top-1 of {subject}", compared, threshold, note, theirs)

    def _contrasts(self, evidence: Evidence, there: Evidence) -> Iterator[tuple[str, Comparison, float]]:
        """Which pair, what it differs by, and the threshold."""
        tests = 1 if self.readings else len(self.pairs)
        for a, b in ((evidence.one(ours), evidence.one(control)) for ours, control in self.pairs):
            compared, subject = evidence.compare(a, b, tests), _against(a, b)
            if self.minus:
                other, control = map(there.one, self.minus)
                compared = _minus(compared, there.compare(other, control, tests))
                subject += (
                    f", minus that on {look.dataset(self.elsewhere)}" if self.elsewhere else f", minus {_against(other, control)}"
                )
            limit = self.share * self._theirs(evidence) if self.share else self.limit
            if self.relative and self.reported:
                limit *= b["top1_pct"] / evidence.reported(self.reported[1], "top1_pct")
            yield subject, compared, limit

    def _verdict(self, compared: Comparison, limit: float, sign: int) -> str:
        if compared.total is None or (limit == 0 and not compared.decided):
            return UNDECIDED
        low, high = sorted((sign * compared.total.low, sign * compared.total.high))
        if low > sign * limit:
            return SUPPORTED
        return UNDECIDED if high >= sign * limit else SIZE_DIFFERS if self.sized and low > 0 else REFUTED

    def _theirs(self, evidence: Evidence) -> float:
        """What the original's two methods differ by; NaN where none are named."""
        ours, control = (evidence.reported(method, "top1_pct") for method in self.reported or ("", ""))
        return ours - control


def _minus(a: Comparison, b: Comparison) -> Comparison:
    """What two differences differ by, taken as independent of each other."""

    def apart(x: Interval, y: Interval) -> Interval:
        value, below, above = x.value - y.value, (x.value - x.low, y.high - y.value), (x.high - x.value, y.value - y.low)
        return Interval(value, value - math.hypot(*below), value + math.hypot(*above))

    total = apart(a.total, b.total) if a.total and b.total else None
    p = 0.0 if total and (total.low > 0 or total.high < 0) else 1.0
    return replace(a, difference=a.difference - b.difference, images=apart(a.images, b.images), total=total, p=p)


@dataclass(frozen=True)
class Provided:
    """A difference whose support counts only where another supports its own statement too."""

    rule: Difference
    condition: Difference

    def judge(self, evidence: Evidence) -> Judgement:
        judged, condition = self.rule.judge(evidence), self.condition.judge(evidence)
        verdict = UNDECIDED if judged.verdict == SUPPORTED != condition.verdict else judged.verdict
        note = f"{judged.note} Beside it, {condition.subject}: {signed_text(condition.value)} points."
        return replace(judged, verdict=verdict, note=note)


@dataclass(frozen=True)
class MoreGradient:
    """More gradient left after pruning does not make a network end more accurate: one clear counterexample supports it.

    A pair counts where one keeps at least `good` of its gradient norm and `more` times the other's; each is corrected for
    their number. Refuted where in every pair the one with more gradient is more accurate.
    """

    methods: tuple[Network, ...]
    good: float = 0.5
    more: float = 1.1

    def judge(self, evidence: Evidence) -> Judgement:
        lines = [(line["gradient_left"], line) for line in evidence.find(*self.methods, having="gradient_left")]
        pairs = [(a, b, x / y) for x, a in lines for y, b in lines if x >= self.good and x > self.more * y]
        if not pairs:
            raise Missing(f"methods that differ in the gradient that they keep on {look.dataset(evidence.dataset)}")
        compared = [(evidence.compare(a, b, len(pairs)), a, b, ratio) for a, b, ratio in pairs]
        best, a, b, ratio = min(compared, key=lambda found: found[0].total.high if found[0].total else found[0].difference)
        above = all((single := evidence.compare(x, y)).decided and single.difference > 0 for x, y, _ in pairs)
        verdict = SUPPORTED if best.decided and best.difference < 0 else REFUTED if above else UNDECIDED
        note = f"It keeps {number_text(ratio, 1)} times the gradient."
        return _compared(verdict, f"top-1 of {_against(a, b)}", best, f"below 0, corrected for {len(pairs)} pairs", note)


Rule = Ratio | Cheapest | EqualCost | Difference | Provided | MoreGradient
