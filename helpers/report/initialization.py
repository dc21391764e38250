"""SNIP, GraSP and the others on one footing: what they cost, what they choose, and whether tickets can be found early."""

from collections.abc import Mapping, Sequence

import pandas as pd
from IPython.display import Markdown

from helpers.report import saliency, style, tables
from helpers.report.analysis import NOT_YET
from helpers.report.claims_accuracy import MAGNITUDE, brief
from helpers.report.claims_initialization import rewound_rows
from helpers.report.evidence import CONTROL, INIT_METHODS, Missing, Rows, mean, name, value
from helpers.report.sentences import absent
from helpers.report.statistics import wilson
from helpers.report.tables import Table, number_text


def initialization(rows: Sequence[Mapping], dataset: str) -> Table:
    """The methods that prune at initialisation on one budget: accuracy, what is left, gradient norm before and after."""
    known, lines, reasons = Rows(rows), {}, {}
    for kind, variant in ((m, v) for m in (CONTROL, *INIT_METHODS) for v in known.variants(m)):
        found = known.find(dataset, kind, variant)
        shown = known.shown(dataset, kind, variant)
        method = name(kind, variant) if variant else kind
        norms = shown.get("gradient_norm") or {}
        lines[method] = {
            "top1_pct": shown.get("top1_pct"),
            "Against dense": _against_dense(known, dataset, found) if kind != CONTROL else None,
            "sparsity_pct": shown.get("sparsity_pct"),
            "effective_macs": shown.get("effective_macs"),
            "Gradient before": norms.get("before"),
            "Gradient after": norms.get("after"),
        }
        if not found:
            reasons |= {(method, column): NOT_YET for column in lines[method]}
        elif not norms:
            reason = "not pruned" if kind == CONTROL else "pruned in stages: no single moment before and after"
            reasons |= {(method, column): reason for column in ("Gradient before", "Gradient after", "Against dense")}
    frame = pd.DataFrame.from_dict(lines, orient="index")
    frame.index.name = "method"
    return tables.table(
        frame,
        f"{style.dataset(dataset)}: pruned at initialisation or while training, same start, budget and data order",
        best={"top1_pct": "max", "effective_macs": "min"},
        digits={"Gradient before": 3, "Gradient after": 3},
        reasons=reasons,
        note="Against dense: points with their 95 % interval, test-image and seed noise, and McNemar's exact p, against the "
        "control of the same number format where there is one. Gradient: norm over the weights that are left, on the images that "
        "were scored, at initialisation.",
    )


def _against_dense(rows: Rows, dataset: str, found: list[Mapping]) -> str | None:
    if not found or not rows.find(dataset, CONTROL):
        return None
    return brief(rows.compare(found, rows.control(dataset, found)))


def initialization_seen(rows: Sequence[Mapping], overlaps: Mapping[str, Mapping]) -> Markdown:
    """SNIP against GraSP in accuracy, work and choice of weights; `overlaps`: data set → `comparison.matrix` of its masks."""
    known, lines = Rows(rows), []
    for dataset in known.datasets:
        if control := known.find(dataset, CONTROL):
            lines += [f"- {style.dataset(dataset)}: {said}" for said in saliency.held_back(control[0])]
        for other in ("grasp", "grasp_iterative"):
            try:
                snip, grasp = known.seeds(dataset, "snip"), known.seeds(dataset, other)
                text = f"SNIP against {name(other)} {brief(known.compare(snip, grasp))}"
                work = value(snip[0], "effective_macs") / value(grasp[0], "effective_macs")
            except Missing as missing:
                lines.append(f"- {style.dataset(dataset)}: {missing}.")
                continue
            text += f", with {number_text(work, 2)} times its MACs"
            shared = overlaps.get(dataset, {}).get("snip", {}).get(other)
            if shared:
                text += (
                    f"; they share {number_text(100 * shared['jaccard'], 1)} % of the weights that either keeps, where layers of "
                    f"the same densities at random would share {number_text(100 * shared['by_chance'], 1)} %"
                )
            lines.append(f"- {style.dataset(dataset)}: {text}.")
    return Markdown("**What is seen.** At equal parameters, top-1:\n\n" + "\n".join(dict.fromkeys(lines)))


def ticket(rows: Sequence[Mapping], dataset: str) -> Table | Markdown:
    """The lottery-ticket experiment: one sparsity, one training budget, four ways to come by masks and weights."""
    known = Rows(rows)
    if not any(known.find(dataset, MAGNITUDE, variant) for variant in ("rewound", "reinitialized")):
        return absent(f"masks found after training and trained again from new weights, on {style.dataset(dataset)}")
    origins = {
        "found after training, weights rewound": (MAGNITUDE, "rewound"),
        "found after training, weights drawn anew": (MAGNITUDE, "reinitialized"),
        "best method at initialisation": None,
        "random": ("random", ""),
        "none (dense)": (CONTROL, ""),
    }
    lines, reasons = {}, {}
    for label, key in origins.items():
        try:
            found = _network(known, dataset, key)
            bounds = wilson(found[0])
            interval = f"{number_text(bounds.low, 1)} to {number_text(bounds.high, 1)}"
            lines[label] = {"top1_pct": mean(found, "top1_pct"), "95 %": interval, "epochs": found[0]["epochs"]}
        except Missing as missing:
            lines[label] = {"top1_pct": None, "95 %": None, "epochs": None}
            reasons |= {(label, column): str(missing) for column in lines[label]}
    frame = pd.DataFrame.from_dict(lines, orient="index")
    frame.index.name = "Masks"
    return tables.table(
        frame, f"{style.dataset(dataset)}: where masks and weights come from", best={"top1_pct": "max"}, reasons=reasons
    )


def _network(rows: Rows, dataset: str, key: tuple[str, str] | None) -> list[Mapping]:
    """Rows of a (method, variant); None stands for the best method at initialisation."""
    if key is None:
        return rows.best_at_initialization(dataset)
    return rewound_rows(rows, dataset) if key[1] == "rewound" else rows.seeds(dataset, *key)


def ticket_seen(rows: Sequence[Mapping]) -> Markdown:
    """Whether masks found after training are worth more than others, as far as there are rows."""
    known, lines = Rows(rows), []
    for dataset in known.datasets:
        for variant, text in (("rewound", "rewound"), ("reinitialized", "with weights drawn anew")):
            try:
                found, early = _network(known, dataset, (MAGNITUDE, variant)), known.best_at_initialization(dataset)
                compared = brief(known.compare(found, early))
                against = name(early[0]["method"])
                lines.append(f"- {style.dataset(dataset)}: masks found after training, {text}, against {against} {compared}.")
            except Missing as missing:
                lines.append(f"- {style.dataset(dataset)}: {missing}.")
    return Markdown("**What is seen.**\n\n" + "\n".join(lines))
