"""Claims about pruning at initialisation: SNIP against GraSP, and either against pruning what has been trained."""

import math
from collections.abc import Mapping

import numpy as np
from scipy import stats

from helpers.report import style
from helpers.report.claims_accuracy import MAGNITUDE, brief, by_score, higher, top1
from helpers.report.evidence import CONTROL, GRASP, INIT_METHODS, Missing, Rows, mean, name
from helpers.report.statistics import signed
from helpers.report.tables import number_text
from helpers.report.verdicts import REFUTED, SUPPORTED, UNDECIDED, Claim, Judgement

INIT = "SNIP, GraSP and initialisation"
GOOD = 0.5  # of the gradient norm before pruning: a network that keeps less has no good gradient flow to be judged by


def _snip_better(rows: Rows, dataset: str) -> Judgement:
    snip, grasp = rows.seeds(dataset, "snip"), rows.seeds(dataset, GRASP)

    def judge(other: list[Mapping]) -> Judgement:
        compared = rows.compare(snip, other)
        return Judgement(higher(compared), f"{top1(other)}, SNIP against it {brief(compared)}")

    told = by_score(rows, dataset, judge)
    parts = [f"SNIP {top1(snip)}. {told.evidence[:-1]}"]
    if once := rows.find(dataset, "grasp"):
        parts.append(f"SNIP against GraSP in one shot {brief(rows.compare(snip, once))}")
    if all(row.get("effective_macs") is not None for row in (snip[0], grasp[0])):
        ratio = snip[0]["effective_macs"] / grasp[0]["effective_macs"]
        parts.append(f"SNIP keeps {number_text(ratio, 2)} times the MACs of {name(GRASP)}")
    return Judgement(told.verdict, f"{'; '.join(parts)}.")


def _after_training_better(rows: Rows, dataset: str) -> Judgement:
    after = rows.seeds(dataset, MAGNITUDE)
    early = rows.best_at_initialization(dataset, like=after)
    compared = rows.compare(after, early)
    evidence = (
        f"{top1(after)} after training, at best {top1(early)} at initialisation ({name(early[0]['method'])}): {brief(compared)}"
    )
    verdict = higher(compared)
    if rows.find(dataset, "dense_finetuned") and rows.find(dataset, CONTROL):
        controls = rows.seeds(dataset, "dense_finetuned"), rows.control(dataset, early)
        gaps = [rows.compare(pruned, control) for pruned, control in zip((after, early), controls, strict=True)]
        evidence += f". Each against the dense network of its own budget: {brief(gaps[0])} and {brief(gaps[1])}"
        difference = gaps[0].difference - gaps[1].difference
        reach = math.hypot(gaps[0].difference - gaps[0].total.low, gaps[1].total.high - gaps[1].difference)
        # the trained network has had many more epochs: the claim has to hold against each side's own control as well
        if verdict == SUPPORTED and difference <= reach:
            verdict = UNDECIDED
    return Judgement(verdict, evidence + ".")


def gradient_norms(rows: Rows, dataset: str) -> dict[str, tuple[float, float]]:
    """Method → gradient norm at initialisation, before and after pruning, where its row has them."""
    found = {m: rows.find(dataset, m)[0].get("gradient_norm") for m in INIT_METHODS if rows.find(dataset, m)}
    return {m: (norms["before"], norms["after"]) for m, norms in found.items() if norms}


def _gradient_flow(rows: Rows, dataset: str) -> Judgement:
    found = gradient_norms(rows, dataset)
    norms = {method: after for method, (_, after) in found.items()}
    if len(norms) < 3:
        raise Missing(
            f"gradient norms of at least three methods on {style.dataset(dataset)}, of which fewer have a row that holds them"
        )
    accuracies = {method: mean(rows.seeds(dataset, method), "top1_pct") for method in norms}
    counter = []
    for a in (method for method, (before, after) in found.items() if after >= GOOD * before):
        for b in norms:
            if norms[a] > 1.1 * norms[b] and accuracies[a] < accuracies[b]:
                compared = rows.compare(rows.seeds(dataset, a), rows.seeds(dataset, b))
                if compared.decided:
                    counter.append(
                        (norms[a] / norms[b], f"{name(a)} against {name(b)}, {{:.1f}} times the norm: {brief(compared)}")
                    )
    reached = list(accuracies.values())
    rank = stats.spearmanr(list(norms.values()), reached).statistic if np.ptp(reached) else 0.0
    evidence = f"Rank correlation of gradient norm after pruning and accuracy over {len(norms)} methods: {signed(float(rank))}"
    if counter:
        ratio, text = max(counter)
        return Judgement(SUPPORTED, f"{evidence}; {text.format(ratio)}.")
    return Judgement(
        UNDECIDED,
        f"{evidence}; no method that keeps {100 * GOOD:.0f} % of it is, with more "
        "gradient than another, less accurate than it beyond the noise.",
    )


def rewound_rows(rows: Rows, dataset: str) -> list:
    """The rows of the rewound network; where there is none it may be one that cannot be had."""
    if not rows.find(dataset, MAGNITUDE, "rewound"):
        raise Missing(
            f"nothing was rewound on {style.dataset(dataset)}, which takes a dense network whose initial weights are known "
            "(those of a network that is given are not; the profile paper trains its own)"
        )
    return rows.seeds(dataset, MAGNITUDE, "rewound")


def _lottery_ticket(rows: Rows, dataset: str) -> Judgement:
    rewound, again = rewound_rows(rows, dataset), rows.seeds(dataset, MAGNITUDE, "reinitialized")
    early = rows.best_at_initialization(dataset)
    against_new, against_early = rows.compare(rewound, again), rows.compare(rewound, early)
    evidence = (
        f"Masks found after training, put on the initial weights they grew from: {top1(rewound)}; "
        f"on other initial weights: {top1(again)}, {brief(against_new)}; "
        f"against masks found without training ({name(early[0]['method'])}): {brief(against_early)}."
    )
    verdicts = {higher(against_new), higher(against_early)}
    return Judgement(verdicts.pop() if len(verdicts) == 1 else REFUTED if REFUTED in verdicts else UNDECIDED, evidence)


CLAIMS = (
    Claim(
        "snip_better",
        INIT,
        "SNIP might do slightly better than GraSP",
        "SNIP against iterative GraSP with either score at equal sparsity, training and seed",
        _snip_better,
    ),
    Claim(
        "after_training_better",
        INIT,
        "Magnitude pruning after training beats any pruning at initialisation",
        "Against the best of them (iterative GraSP, which goes on pruning while it trains, among them), "
        "and each against the dense network of its own budget; both have to hold",
        _after_training_better,
    ),
    Claim(
        "gradient_flow",
        INIT,
        "Good gradient flow alone is not enough",
        "Two methods of which one keeps at least half of its gradient norm, and more than the other, and ends less accurate than "
        "it beyond the noise",
        _gradient_flow,
    ),
    Claim(
        "lottery_ticket",
        INIT,
        "Good subnetworks exist at initialisation, and are hard to find without training",
        "Masks from a trained network, rewound: above the same masks on new weights and above masks found at initialisation",
        _lottery_ticket,
    ),
)
