"""The original report's statements as records, their verdicts, and which network to use when."""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from helpers.report import look
from helpers.report.evidence import Evidence, Missing, called, networks, signed
from helpers.report.rules import DENSE, NOT_MEASURED, Cheapest, Difference, EqualCost, MoreGradient, Provided, Ratio, Rule
from helpers.report.tables import number_text

SIZE, PERFORMANCE, ACCURACY, EARLY = "Analysis: size", "Analysis: performance", "Analysis: accuracy", "SNIP vs. GraSP"
TASK_1, TASK_1A, TASK_1B, TASK_2 = "Tasks 1a and 1b", "Task 1a, analysis: accuracy", "Task 1b, analysis: accuracy", "Task 2"

FINETUNED, NEW = ("dense_finetuned", ""), ("dense_from_scratch", "")  # dense networks with the training of the pruned ones
LAYERWISE, CURVE = ("layerwise_magnitude", ""), ("layerwise_magnitude", "curve_finetuned")
LASSO, SMALL = ("lasso_channels", ""), ("lasso_channels_from_scratch", "")
SHORT = ("lasso_channels", "macs=7.5x"), FINETUNED  # both fine-tuned for as long
LASSO_CURVE = tuple(("lasso_channels", f"macs={times}x") for times in ("2", "4", "7.5", "12"))
GRASP, ABSOLUTE, SNIP, RANDOM = ("grasp_iterative", ""), ("grasp_iterative", "preserving"), ("snip", ""), ("random", "")
UNTRAINED = (GRASP, *((method, "") for method in ("grasp", "snip", "synflow", "magnitude_init", "random")))
REWOUND, REINITIALIZED = ("layerwise_magnitude", "rewound"), ("layerwise_magnitude", "reinitialized")
WRONG = "normalization=half"  # mean and deviation ½, the likeliest mistake
BOTH_SCORES = (GRASP, NEW), (ABSOLUTE, NEW)  # the score signed at first, as GraSP is defined, and absolute throughout
JUMP, LOSS = ("layerwise_magnitude", "dense"), ("grasp_iterative", "dense")  # the original's gain and its loss
USABLE = ("", "curve_finetuned", *(label for _, label in LASSO_CURVE))  # labels of the networks that one could choose from
NEEDS = {  # what somebody needs → the cost that has to be low
    **{"a smaller file": "file_mib", "a quick answer for one image": "time_ms"},
    **{"many images at once": "time_batch128_ms", "fewer multiply-adds": "effective_macs"},
}


@dataclass(frozen=True)
class Claim:
    """A statement in our own words, where the original makes it, and what decides it."""

    id: str
    where: str
    sentence: str
    rule: Rule
    only: tuple[str, ...] = ()  # the data sets that it is about, where not all
    asked_here: bool = False  # the original does not say it, but rests on it
    by_design: bool = False  # settings taken from the original make it true


CLAIMS = (
    Claim(
        *("all_shrink", SIZE, "Every way of pruning makes the file smaller."),
        Ratio(("file_mib",), (LAYERWISE, GRASP, LASSO), high=1.0),
    ),
    Claim(
        *("zeros_alone", SIZE, "A plainly saved network does not get smaller by zeros."),
        Ratio(("size_dense_mib",), (LAYERWISE,), base_column="size_mib", low=0.99, high=1.01),
    ),
    Claim(
        *("structured_smallest", SIZE, "Removing channels shrinks the file most."),
        Cheapest("file_mib", LASSO, (LAYERWISE, GRASP, CURVE)),
    ),
    Claim(
        *("coo_overhead", SIZE, "A COO file is not proportional to the weights that are left."),
        Ratio(("size_coo_mib",), (LAYERWISE,), base=(), base_column="values_mib", low=1.25),
    ),
    Claim(
        *("unstructured_keeps_macs", TASK_1, "Zeroed weights leave MACs and peak memory as they were."),
        Ratio(("macs", "peak_memory_mib"), (LAYERWISE, GRASP), low=0.95, high=1.05),
        by_design=True,
    ),
    Claim(
        *("dense_kernels", PERFORMANCE, "Without sparse kernels, zeroed weights do not make inference faster."),
        Ratio(("latency_ms", "latency_batch128_ms"), (LAYERWISE, GRASP), (DENSE, FINETUNED, NEW), low=0.95, noise=0.05),
    ),
    Claim(
        *("channels_faster", PERFORMANCE, "For speed, removing channels does more than zeroing weights."),
        Cheapest("time_batch128_ms", LASSO, (LAYERWISE, CURVE), same=0.05),
    ),
    Claim(
        *("macs_cut", TASK_2, "Removing channels takes away about 87 % of the MACs."),
        Ratio(("macs",), (LASSO,), low=85, high=89, cut=True, sized=True),
        by_design=True,
    ),
    Claim(
        *("memory_cut", TASK_2, "Removing channels lowers peak memory by about 74 %."),
        Ratio(("peak_memory_mib",), (LASSO,), low=72, high=76, cut=True, sized=True),
    ),
    Claim(
        *("latency_cut", TASK_2, "Removing channels lowers latency by 40 to 50 %."),
        Ratio(("usual_latency_ms",), (LASSO,), low=38, high=52, noise=5, cut=True, sized=True),
    ),
    Claim(
        *("energy", PERFORMANCE, "Removing channels saves energy."),
        Ratio(("energy_mj",), (LASSO,), low=5, noise=10, cut=True),
        asked_here=True,
    ),
    Claim(
        *("magnitude_boost", TASK_1A, "Magnitude pruning regularises, and so brings the large gain in accuracy."),
        Difference(((LAYERWISE, FINETUNED),), share=0.5, reported=JUMP, sized=True),
    ),
    Claim(
        *("only_pruning_explains", TASK_1A, "Fine-tuning cannot bring that gain to an unpruned, wrongly normalised network."),
        Difference(((("dense_finetuned", WRONG), ("dense", WRONG)),), below=True, share=0.5, reported=JUMP),
        only=("cifar10", "cifar100"),
        asked_here=True,
    ),
    Claim(
        *("grasp_fails", TASK_1B, "GraSP fails on CIFAR-100."),
        Difference(BOTH_SCORES, below=True, share=0.5, reported=LOSS, relative=True, readings=True, sized=True),
        only=("cifar100",),
    ),
    Claim(
        *("criterion_fails", TASK_1B, "On fine classes, preserving the gradient is no guide: random masks do better."),
        Difference(((GRASP, RANDOM), (ABSOLUTE, RANDOM)), below=True, readings=True),
        only=("cifar100",),
    ),
    *(
        Claim(
            *(f"blunter_{cost}", ACCURACY, f"Removing channels is the blunter instrument, at equal {words}."),
            EqualCost(column, losers=LASSO_CURVE, winners=(LAYERWISE, CURVE)),
        )
        for cost, words, column in (
            ("parameters", "numbers of weights", "nonzero_params"),
            ("macs", "MACs", "effective_macs"),
            ("bytes", "file size", "file_mib"),
            ("latency", "time", "time_batch128_ms"),
        )
    ),
    Claim(
        *("harder_when_finer", ACCURACY, "Removing channels loses more on the more complex task."),
        Difference((SHORT,), below=True, minus=SHORT, elsewhere="cifar10", reported=("lasso_channels", "dense")),
        only=("cifar100",),
    ),
    Claim(
        *(
            "keeps_learnt",
            ACCURACY,
            "Removing channels keeps what training has learnt: the same small network from nothing is worse.",
        ),
        Difference(((LASSO, SMALL),)),
        asked_here=True,
    ),
    Claim(
        *("snip_better", EARLY, "SNIP might do slightly better than GraSP."),
        Difference(((SNIP, GRASP), (SNIP, ABSOLUTE)), readings=True),
    ),
    Claim(
        *("after_training_better", EARLY, "Magnitude pruning after training beats all pruning at initialisation."),
        Provided(
            Difference(tuple((LAYERWISE, early) for early in UNTRAINED)),
            Difference(tuple((early, NEW) for early in UNTRAINED), below=True, minus=(LAYERWISE, FINETUNED)),
        ),
    ),
    Claim("gradient_flow", EARLY, "Good gradient flow alone is not enough.", MoreGradient(UNTRAINED)),
    Claim(
        *("lottery_ticket", EARLY, "Good subnetworks exist at initialisation, and are hard to find without training."),
        Difference(((REWOUND, REINITIALIZED), *((REWOUND, early) for early in UNTRAINED))),
    ),
)


def judge(frame: pd.DataFrame) -> pd.DataFrame:
    """Every statement judged on every data set of the frame that it is about, one line each (also where there is none).

    `ours`, `theirs` and `threshold` are text for a table; `value`, `low` and `high` numbers in `unit` (95 % limits, wider
    where several pairs are searched; of test images alone where one seed is all there is); `seeds` the trainings of either.
    """
    evidence, lines = {dataset: Evidence(frame, dataset) for dataset in dict.fromkeys(frame["dataset"])}, []
    for claim in CLAIMS:
        for dataset in [name for name in evidence if name in (claim.only or evidence)] or list(evidence)[:1]:
            line = {"id": claim.id, "statement": claim.sentence, "where": claim.where, "dataset": dataset}
            line |= {"asked_here": claim.asked_here, "by_design": claim.by_design}
            lines.append(line | _judged(claim, evidence[dataset]))
    return pd.DataFrame(lines)


def _judged(claim: Claim, evidence: Evidence) -> dict:
    try:
        if claim.only and evidence.dataset not in claim.only:
            raise Missing(f"the statement is about {' and '.join(map(look.dataset, claim.only))}")
        found = claim.rule.judge(evidence)
    except Missing as gap:
        empty = dict.fromkeys(("ours", "theirs", "threshold", "seeds", "unit"), "")
        return {"verdict": NOT_MEASURED, **empty, "evidence": _sentences(f"{str(gap).removesuffix('.')}.")}
    text = {"ours": _shown(found.ours, found.unit), "theirs": _shown(found.theirs, found.unit), "threshold": found.threshold}
    numbers = {"value": found.ours, "low": found.low, "high": found.high, "unit": found.unit, "seeds": found.seeds}
    return {"verdict": found.verdict, **text, **numbers, "evidence": _sentences(found.evidence)}


def _sentences(text: str) -> str:
    return re.sub(r"(^|\. )[a-z]", lambda start: start[0].upper(), text)


def _shown(value: float | None, unit: str) -> str:
    """A number with its unit: "+0.04 points", "2.95×", "86.7 %"."""
    if value is None:
        return ""
    return {"points": f"{signed(value)} points", "×": f"{number_text(value, 2)}×", "%": f"{number_text(value, 1)} %"}[unit]


def front(frame: pd.DataFrame, dataset: str, cost_column: str) -> pd.DataFrame:
    """The lines of `networks` that no other beats (costs less, or as much, and is more accurate), cheapest first."""
    usable = frame["label"].isin(USABLE) & (frame["dataset"] == dataset)
    ordered = networks(frame[usable]).dropna(subset=[cost_column]).sort_values([cost_column, "top1_pct"], ascending=[True, False])
    return ordered[ordered["top1_pct"] > ordered["top1_pct"].cummax().shift(fill_value=-np.inf)]


def decisions(frame: pd.DataFrame, dataset: str, *, lose: float = 1.0) -> pd.DataFrame:
    """For each need the cheapest network whose whole 95 % interval lies above −`lose` points against the fine-tuned dense one.

    One line a need: `network` (None where none is that good), `times_less` it costs than the dense network, `difference`
    with `low` and `high` in points, `seeds` of both. Networks that were trained longer than that control are not offered.
    The choice sees test accuracy, which flatters the chosen one a little. No lines without a fine-tuned dense network.
    """
    evidence, lines = Evidence(frame[frame["label"].isin(USABLE)], dataset), []
    control = next(iter(evidence.find(FINETUNED)), None)
    for need, cost in NEEDS.items() if control is not None else ():
        base = evidence.value(DENSE, cost)
        offered = [line for line in evidence.lines if line[cost] < base and line["epochs"] <= control["epochs"]]
        made = {"need": need, "cost": cost, "network": None}
        for line in sorted(offered, key=lambda line: line[cost]):
            compared = evidence.compare(line, control)
            if line["method"] not in (DENSE[0], FINETUNED[0]) and compared.total and compared.total.low >= -lose:
                made |= {"network": called(line), **line[["method", "label", "target_sparsity_pct"]]}
                made |= {"times_less": base / line[cost], "difference": compared.difference, "seeds": compared.seeds}
                made |= {"low": compared.total.low, "high": compared.total.high}
                break
        lines.append(made)
    network = ("network", "method", "label", "target_sparsity_pct", "times_less")
    return pd.DataFrame(lines, columns=["need", "cost", *network, "difference", "low", "high", "seeds"])
