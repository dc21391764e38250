"""The original report's statements, their verdicts, and which network to use when.

`records/statements.csv` has every statement in our own words, where the original makes it, which data sets it is about where not
all, and a remark: *asked here* (the original rests on it without saying it), *true by design* (our settings, taken from the
original, make it true). What decides it stands here under the same id.
"""

import math
from dataclasses import asdict

import numpy as np
import pandas as pd

from helpers import results
from helpers.contenders import TIMES
from helpers.report import look
from helpers.report.evidence import Evidence, Missing, called, networks
from helpers.report.rules import (
    DENSE,
    NOT_MEASURED,
    Cheapest,
    Difference,
    EqualCost,
    Judgement,
    MoreGradient,
    Provided,
    Ratio,
    Rule,
)
from helpers.report.tables import number_text, signed_text
from helpers.settings import Profile

STATEMENTS = look.records("statements.csv")

FINETUNED, NEW = ("dense_finetuned", ""), ("dense_from_scratch", "")  # dense networks with the training of the pruned ones
MASKED = LAYERWISE, CURVE = ("layerwise_magnitude", ""), ("layerwise_magnitude", "curve_finetuned")
REPAIRED = ("repaired", "")
REWOUND, REINITIALIZED = ("layerwise_magnitude", "rewound"), ("layerwise_magnitude", "reinitialized")
LASSO, SMALL = ("lasso_channels", ""), ("lasso_channels_from_scratch", "")
SHORT = ("lasso_channels", "macs=7.5x"), FINETUNED  # both fine-tuned for as long
LASSO_CURVE = tuple(("lasso_channels", f"macs={times}x") for times in ("2", "4", "7.5", "12"))
GRASP, ABSOLUTE, SNIP, RANDOM = ("grasp_iterative", ""), ("grasp_iterative", "preserving"), ("snip", ""), ("random", "")
UNTRAINED = (GRASP, *((method, "") for method in ("grasp", "snip", "synflow", "magnitude_init", "random")))
FULL_WIDTH = GRASP, ("grasp", ""), SNIP  # of them, those that the study has at the width of the trained network
WRONG = ("dense_finetuned", "normalization=half"), ("dense", "normalization=half")  # mean and deviation ½, the likeliest mistake
BOTH_SCORES = (GRASP, NEW), (ABSOLUTE, NEW)  # the score signed at first, as GraSP is defined, and absolute throughout
JUMP, LOSS = ("layerwise_magnitude", "dense"), ("grasp_iterative", "dense")  # the original's gain and its loss
LOSS_CHANNELS = ("lasso_channels", "dense")

RULES: dict[str, Rule] = {
    "all_shrink": Ratio(("file_mib",), (LAYERWISE, GRASP, LASSO), high=1.0),
    "zeros_alone": Ratio(("size_dense_mib",), (LAYERWISE,), base_column="size_mib", low=0.99, high=1.01),
    "structured_smallest": Cheapest("file_mib", LASSO, (LAYERWISE, GRASP, CURVE)),
    "coo_overhead": Ratio(("size_coo_mib",), (LAYERWISE,), base=(), base_column="values_mib", low=1.25),
    "unstructured_keeps_macs": Ratio(("macs", "peak_memory_mib"), (LAYERWISE, GRASP), low=0.95, high=1.05),
    "dense_kernels": Ratio(
        ("latency_ms", "latency_batch128_ms"), (LAYERWISE, GRASP), (DENSE, FINETUNED, NEW), low=0.95, noise=0.05
    ),
    "channels_faster": Cheapest("time_batch128_ms", LASSO, MASKED, same=0.05),
    "energy": Ratio(("energy_mj",), (LASSO,), low=5, noise=10, cut=True),
    "macs_cut": Ratio(("macs",), (LASSO,), low=85, high=89, cut=True, sized=True),
    "memory_cut": Ratio(("peak_memory_mib",), (LASSO,), low=72, high=76, cut=True, sized=True),
    "latency_cut": Ratio(("usual_latency_ms",), (LASSO,), low=38, high=52, noise=5, cut=True, sized=True),
    "needs_training": Difference(((REPAIRED, DENSE),), below=True, limit=-1.0),
    "magnitude_boost": Difference(((LAYERWISE, FINETUNED),), share=0.5, reported=JUMP, sized=True),
    "only_pruning_explains": Difference((WRONG,), below=True, share=0.5, reported=JUMP),
    "grasp_fails": Difference(BOTH_SCORES, below=True, share=0.5, reported=LOSS, relative=True, readings=True, sized=True),
    "criterion_fails": Difference(((GRASP, RANDOM), (ABSOLUTE, RANDOM)), below=True, readings=True),
    "blunter_parameters": EqualCost("nonzero_params", LASSO_CURVE, MASKED),
    "blunter_macs": EqualCost("effective_macs", LASSO_CURVE, MASKED),
    "blunter_bytes": EqualCost("file_mib", LASSO_CURVE, MASKED),
    "blunter_latency": EqualCost("time_batch128_ms", LASSO_CURVE, MASKED),
    "harder_when_finer": Difference((SHORT,), below=True, minus=SHORT, elsewhere="cifar10", reported=LOSS_CHANNELS),
    "keeps_learnt": Difference(((LASSO, SMALL),)),
    "snip_better": Difference(((SNIP, GRASP), (SNIP, ABSOLUTE)), readings=True),
    "after_training_better": Provided(
        Difference(tuple((LAYERWISE, early) for early in FULL_WIDTH)),
        Difference(tuple((early, NEW) for early in FULL_WIDTH), below=True, minus=(LAYERWISE, FINETUNED)),
    ),
    "gradient_flow": MoreGradient(UNTRAINED),
    "lottery_ticket": Difference(((REWOUND, REINITIALIZED), *((REWOUND, early) for early in UNTRAINED))),
}

# about trainings from nothing alone
OF_EARLY = {"grasp_fails", "criterion_fails", "snip_better", "gradient_flow", "lottery_ticket"}

USABLE = ("", "curve_finetuned", *(label for _, label in LASSO_CURVE))  # labels of the networks that one could choose from,
USABLE_REPAIRED = ("curve", "blocks", "macs", "blocks_macs")  # and of repaired ones besides
LOSE = 1.0  # points of top-1 that somebody would give
NEEDS = {  # what somebody needs → the cost that has to be low, and the most epochs of training after pruning
    "a smaller file": ("file_mib", math.inf),
    "a smaller file, no time to train": ("file_mib", 0),
    "a quick answer for one image": ("time_ms", math.inf),
    "many images at once": ("time_batch128_ms", math.inf),
    "fewer multiply-adds": ("effective_macs", math.inf),
}
NOT_TIMED = pd.DataFrame(columns=list(results.CONTENDERS))


def usable(frame: pd.DataFrame) -> pd.Series:
    """Which lines hold a network that one could choose: trained to its end, or repaired."""
    return frame["label"].isin(USABLE) | (frame["method"].eq("repaired") & frame["label"].isin(USABLE_REPAIRED))


def with_early(frame: pd.DataFrame, early: pd.DataFrame) -> pd.DataFrame:
    """The frame, its trainings from nothing replaced by those of `early` on data sets where it has several starts of each."""
    compared = (NEW, ABSOLUTE, *UNTRAINED)
    networks = early.groupby(["dataset", "method", "label"]).seed.nunique()
    whole = []
    for dataset, starts in networks.groupby("dataset"):
        whole += [dataset] if min(starts.get((dataset, *network), 0) for network in compared) > 1 else []
    if not whole:
        return frame
    replaced = frame["dataset"].isin(whole) & frame["method"].isin([method for method, _ in compared])
    merged = pd.concat([frame[~replaced], early[early["dataset"].isin(whole)]], ignore_index=True)
    order = {dataset: place for place, dataset in enumerate(frame["dataset"].unique())}
    return merged.sort_values("dataset", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def judge(frame: pd.DataFrame, early: pd.DataFrame | None = None) -> pd.DataFrame:
    """Every statement judged on every data set of the frame that it is about, one line each (also where there is none).

    `early`: results that compare methods before training with each other, at another width than the frame's; where it has them
    (see `with_early`) they decide `OF_EARLY`. With trained networks, of the frame's width, they are not compared.
    `ours`, `theirs`, `threshold` and `evidence` are text for a table; `value`, `low` and `high` numbers in `unit` (95 % limits,
    wider where several pairs are searched; of test images alone where one seed is all there is).
    """
    evidence, lines = {dataset: Evidence(frame, dataset) for dataset in dict.fromkeys(frame["dataset"])}, []
    merged = frame if early is None else with_early(frame, early)
    of_early = {dataset: Evidence(merged, dataset) for dataset in evidence}
    for statement in STATEMENTS:
        about = statement["datasets"].split() or list(evidence)
        for dataset in [name for name in evidence if name in about] or list(evidence)[:1]:
            try:
                if dataset not in about:
                    raise Missing(f"the statement is about {' and '.join(map(look.dataset, about))}")
                rule = RULES[statement["id"]]
                chosen = of_early if statement["id"] in OF_EARLY else evidence
                found = rule.judge(chosen[dataset])
            except Missing as gap:
                found = Judgement(NOT_MEASURED, str(gap), math.nan, "", "")
            text = {"ours": _shown(found.value, found.unit), "theirs": _shown(found.theirs, found.unit)}
            lines.append({**statement, "dataset": dataset, **asdict(found), **text, "evidence": _evidence(found)})
    return pd.DataFrame(lines).drop(columns=["datasets", "subject", "note"])


def _shown(value: float, unit: str) -> str:
    """A number with its unit: "+0.04 points", "2.95×", "86.7 %"."""
    if math.isnan(value):
        return ""
    return {"points": f"{signed_text(value)} points", "×": f"{number_text(value, 2)}×", "%": f"{number_text(value, 1)} %"}[unit]


def _evidence(found: Judgement) -> str:
    """What a verdict rests on: "Top-1 of A against B: +0.04 points (−0.52 to +0.61; trainings: 2 and 2). Asked: above +4.73."."""
    text = f"{found.subject[:1].upper()}{found.subject[1:]}"
    if not math.isnan(found.value):
        text += f": {_shown(found.value, found.unit)}"
        if found.seeds:
            text += f" ({signed_text(found.low)} to {signed_text(found.high)}; trainings: {found.seeds})"
        text += f". Asked: {found.threshold}"
    return f"{text.removesuffix('.')}. {found.note}".strip()


def front(frame: pd.DataFrame, dataset: str, cost_column: str) -> pd.DataFrame:
    """The lines of `networks` that no other beats (costs less, or as much, and is more accurate), cheapest first."""
    ordered = (
        networks(frame[usable(frame) & (frame["dataset"] == dataset)])
        .dropna(subset=[cost_column])
        .sort_values([cost_column, "top1_pct"], ascending=[True, False])
    )
    return ordered[ordered["top1_pct"] > ordered["top1_pct"].cummax().shift(fill_value=-np.inf)]


def decisions(frame: pd.DataFrame, dataset: str, timed: pd.DataFrame = NOT_TIMED) -> pd.DataFrame:
    """For each need the cheapest network whose whole 95 % interval lies above −`LOSE` points against the fine-tuned dense one.

    One line a need: `network` (missing where none is that good), `times_less` it costs than the dense network, `difference`
    with `low` and `high` in points, `seeds` of both. Networks that were trained longer than that control are not offered.
    `timed` as one of `results.contenders`: the times of all engines on one processor, which replace those of the frame.
    The choice sees test accuracy, which flatters the chosen one a little. No lines without a dense network, plain and fine-tuned.
    """
    evidence, lines = Evidence(frame[usable(frame)], dataset), []
    for control, own in zip(evidence.find(FINETUNED)[:1], evidence.find(DENSE), strict=False):
        dense, offered = dict(own), _offers(evidence, control, timed)
        plainly = timed[(timed["method"] == DENSE[0]) & (timed["software"] == "PyTorch fp32")]
        dense |= dict(*plainly[[cost for cost in dense if cost in TIMES]].to_dict("records"))
        for need, (cost, epochs) in NEEDS.items():
            good = offered[(offered["low"] >= -LOSE) & (offered[cost] < dense[cost]) & (offered["epochs"] <= epochs)]
            best = good.sort_values(cost).head(1).assign(times_less=dense[cost] / good[cost])
            lines.append({"need": need, "cost": cost, **dict(*best.to_dict("records"))})
    return pd.DataFrame(lines, columns=["need", "cost", "network", "method", "times_less", "difference", "low", "high", "seeds"])


def all_decisions(frame: pd.DataFrame, profile: Profile | str) -> pd.DataFrame:
    """`decisions` of every data set of the frame (column `dataset`), by the times of all engines where the profile has them.

    Where engines were timed, the needs of speed have a line for each processor, which is named.
    """
    found = []
    for dataset in frame["dataset"].unique():
        chosen, runs = decisions(frame, dataset), results.contenders(profile, dataset)
        lines = [chosen[~chosen["cost"].isin(TIMES)]] if runs else [chosen]
        for run in runs:
            fast = decisions(frame, dataset, run).loc[lambda lines: lines["cost"].isin(TIMES)]
            lines.append(fast.assign(need=fast["need"] + f", on {run.attrs['device']}"))
        found.append(pd.concat(lines).sort_index(kind="stable").assign(dataset=dataset))  # the index counts the needs
    return pd.concat(found)


def _offers(evidence: Evidence, control: pd.Series, timed: pd.DataFrame) -> pd.DataFrame:
    """Every way to keep or run a network, one line each, with its costs and its difference to the control in points.

    In 8-bit numbers a network has another file and another top-1, which moves its interval by as much.
    """
    costs, offered = {cost for cost, _ in NEEDS.values()}, []
    for line in evidence.lines:
        found = evidence.compare(line, control)
        if found.total is None or line["epochs"] > control["epochs"]:
            continue
        network = line["method"], line["label"]
        plain = {cost: line[cost] for cost in costs if timed.empty or cost not in TIMES}
        ways = [(called(line), 0.0, plain)] if network not in (DENSE, FINETUNED) else []
        ways.append((f"{called(line)} in int8", line["int8_change"], {"file_mib": line["size_int8_mib"]}))
        first = line.name == evidence.find(network)[0].name  # of its sparsities; it is the one that engines run
        for way in timed[(timed["method"] == network[0]) & (timed["label"] == network[1]) & first].to_dict("records"):
            change = way["top1_pct"] - line["top1_pct"] if "int8" in way["software"] else 0.0
            ways.append((f"{called(line)}, {way['software']}", change, {cost: way[cost] for cost in TIMES}))
        about, limits = {"method": network[0], "epochs": line["epochs"], "seeds": found.seeds}, found.total
        for name, change, cost in ways:
            moved = {"difference": limits.value + change, "low": limits.low + change, "high": limits.high + change}
            offered.append({"network": name, **about, **cost, **moved})
    return pd.DataFrame(offered, columns=["network", "method", "epochs", "seeds", "difference", "low", "high", *sorted(costs)])
