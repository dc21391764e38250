"""What the GraSP notebook shows beside its figures: tables, and what is seen in the rows."""

from collections.abc import Mapping, Sequence

import pandas as pd
from IPython.display import Markdown

from helpers.plan import FLOAT32
from helpers.report import assignment, style, tables, write_up
from helpers.report.evidence import CONTROL, INIT_METHODS, Missing, Rows, mean, name, value
from helpers.report.sentences import absent, layer_labels, phrase, told
from helpers.report.statistics import signed, wilson
from helpers.report.tables import Table, number_text

MAIN = "grasp_iterative"
ONE_SCORE = {"preserving": "absolute score at every stage", "signed": "signed score at every stage"}
CHECKS = {"": "as chosen", "shuffled": "shuffled within layers", "reinitialized": "other initial weights", "inverted": "inverted"}
PUBLISHED = "Published"
LARGE_HEAD = "all weights drawn as He et al. (2015)"  # rows older than the choice of the head do not name theirs
CHECKED = ("grasp", "snip")
WRITE_UP_COLUMNS = ("sparsity_pct", "top1_pct", "top5_pct", "size_coo_mib", "size_bitmask_mib", "macs", "effective_macs")
COLUMNS = ("sparsity_pct", "top1_pct", "top5_pct", "val_top1_pct", "nonzero_params", "effective_macs", "epochs")

# Tables -----------------------------------------------------------------------------------------------------------


def against_write_up(all_rows: Sequence[dict]) -> Table | Markdown:
    """The write-up's table of GraSP, our rows beside it."""
    return write_up.side_by_side(
        all_rows,
        "Iterative GraSP: the write-up's figures and ours, with SNIP, random masks and the dense control.",
        theirs=(MAIN,),
        ours=(MAIN, "snip", "random", CONTROL),
        columns=WRITE_UP_COLUMNS,
        shares={**write_up.PEAK, **write_up.LATENCY},
        note="The write-up's file is a COO file. Latency is that of the masked network run densely, batch 1; what its zeros save "
        "is shown further down.",
    )


def one_budget(all_rows: Sequence[dict], dataset: str) -> Table | Markdown:
    """All methods from one initialisation, budget and data order, the dense control first."""
    rows = Rows(all_rows)
    lines, reasons = {}, {}
    for method, variant in shown(rows):
        found = rows.find(dataset, method, variant)
        label = called(method, variant)
        bounds = wilson(found[0]) if found and found[0].get("correct") else None
        figures = rows.shown(dataset, method, variant)
        lines[label] = {column: figures.get(column) for column in COLUMNS} | {
            "95 %": f"{number_text(bounds.low, 1)} to {number_text(bounds.high, 1)}" if bounds else None,
            PUBLISHED: None if variant else _published(dataset, method),
        }
        if not found:
            reasons |= {(label, column): "not computed yet" for column in lines[label]}
    if all(line["top1_pct"] is None for line in lines.values()):
        return absent(f"the comparison on {style.dataset(dataset)}")
    frame = pd.DataFrame.from_dict(lines, orient="index")[["sparsity_pct", "top1_pct", "95 %", *COLUMNS[2:], PUBLISHED]]
    frame.index.name = "Method"
    return tables.table(
        frame,
        f"{style.dataset(dataset)}: pruned before or while training, same start, epochs, learning rates and data order.",
        best={"top1_pct": "max", "effective_macs": "min"},
        reasons=reasons,
        digits={PUBLISHED: 1},
        note="95 %: Wilson interval of top-1, test-image noise alone. Effective MACs: multiply-adds that touch a kept weight. "
        f"{PUBLISHED}: {assignment.citations([assignment.AT_INIT])}.",
    )


def shown(rows: Rows) -> list[tuple[str, str]]:
    """(method, variant) of every network on that budget, the dense controls first."""
    controls = [(CONTROL, variant) for variant in rows.variants(CONTROL)]
    return [*controls, *((method, "") for method in INIT_METHODS), *((MAIN, variant) for variant in ONE_SCORE)]


def called(method: str, variant: str) -> str:
    """A network of `shown` as this notebook calls it."""
    return f"{name(method)}, {ONE_SCORE[variant]}" if variant in ONE_SCORE else name(method, variant)


def _published(dataset: str, method: str) -> float | None:
    """Top-1 of a method in the raw results of a published comparison, with a long training."""
    known = assignment.published(dataset, method)
    known = known[known["source"] == assignment.AT_INIT.short] if len(known) else known
    return float(known["top1_pct"].iloc[0]) if len(known) else None


# What is seen -----------------------------------------------------------------------------------------------------


def _one_score(rows: Rows, dataset: str) -> dict[str, list[dict]]:
    """The rows of iterative GraSP with one score at every stage, by what that score is called."""
    return {score: found for variant, score in ONE_SCORE.items() if (found := rows.find(dataset, MAIN, variant))}


def _compared(rows: Rows, ours: Sequence[Mapping], theirs: Sequence[Mapping]) -> str:
    """Top-1 of the method spoken of against another's, as a phrase with its uncertainty."""
    return phrase(rows.compare(ours, theirs), "it", f'"{name(theirs[0]["method"])}"')


def against_seen(all_rows: Sequence[dict]) -> Markdown:
    """Iterative GraSP, and with one score at every stage, against the write-up's figure, random masks and the dense control."""
    rows = Rows(all_rows)

    def tell(dataset: str) -> list[str]:
        pruned = rows.seeds(dataset, MAIN)
        text = f"On {style.dataset(dataset)} iterative GraSP ends at {mean(pruned, 'top1_pct'):.2f} % top-1"
        theirs = assignment.reported(dataset, MAIN, "top1_pct")
        text += f", {signed(mean(pruned, 'top1_pct') - theirs)} points from the write-up's {theirs:.2f} %." if theirs else "."
        peers = {method: peer for method in (CONTROL, "random") if (peer := rows.find(dataset, method))}
        said = [text, *(f"Against {name(m)}: {_compared(rows, pruned, peer)}." for m, peer in peers.items())]
        for score, other in _one_score(rows, dataset).items():
            against = "; ".join(_compared(rows, other, peer) for peer in peers.values())
            said.append(f"With the {score} it ends at {mean(other, 'top1_pct'):.2f} %: {against}.")
        return said

    return told(rows, tell)


def _path(row: Mapping, stages: Sequence[int]) -> str:
    """Validation top-1 after the epoch of the first pruning stage, after that of the last, and in the end."""
    moments = dict.fromkeys((stages[0], stages[-1], len(row["log"]) - 1))
    return ", ".join(f"{row['log'][epoch]['val_top1_pct']:.1f}" for epoch in moments)


def curves_seen(all_rows: Sequence[dict]) -> Markdown:
    """What the stages do: signed before training and absolute after, as the main row has it, or one of the two throughout."""
    rows = Rows(all_rows)

    def tell(dataset: str) -> str:
        pruned = rows.one(dataset, MAIN)
        epochs = [stage["epoch"] for stage in pruned["schedule"]]
        text = f"On {style.dataset(dataset)} iterative GraSP has {_path(pruned, epochs)} % validation top-1 "
        text += "after the epoch of its first stage, the epoch of its last, and all epochs"
        if control := rows.find(dataset, CONTROL):
            text += f"; the dense control, at the same moments, {_path(control[0], epochs)} %"
        text += ". "
        for score, other in _one_score(rows, dataset).items():
            shown = rows.compare(other, rows.seeds(dataset, MAIN))
            text += (
                f"With the {score} the test accuracy is {mean(other, 'top1_pct'):.2f} %: "
                f"{phrase(shown, 'this', 'the sign at the first stage alone')}. "
            )
        return text.strip()

    return told(rows, tell)


def control_seen(all_rows: Sequence[dict]) -> Markdown:
    """How far the dense control gets, which masks beat it beyond the noise, and how thin the ranking leaves a layer."""
    rows = Rows(all_rows)

    def tell(dataset: str) -> list[str]:
        control = rows.seeds(dataset, CONTROL)
        said = [f"On {style.dataset(dataset)} the dense control ends at {mean(control, 'top1_pct'):.2f} % top-1"]
        if trained := rows.find(dataset, "dense"):
            said[0] += f" after {control[0]['epochs']} epochs, where a trained network has {value(trained[0], 'top1_pct'):.2f} %"
        pruned = {m: found for m in INIT_METHODS if (found := rows.find(dataset, m))}
        compared = {m: rows.compare(found, rows.control(dataset, found)) for m, found in pruned.items()}
        above = {m: c for m, c in compared.items() if c.decided and c.difference > 0}
        if above:
            listed = ", ".join(f"{name(m)} ({signed(c.difference)} points)" for m, c in above.items())
            said[0] += f". Beyond the noise above it: {listed}."
            said[0] += " So short a training favours what learns fast, which need not end best."
        else:
            said[0] += "; no pruned network is above it beyond the noise."
        began = control[0]["settings"]
        drawn = began.get("initialization")
        said.append(f"All of them began alike: {drawn or LARGE_HEAD}; dropout {began['dropout']:g} in the head.")
        said += held_back(control[0])
        said += _places(rows, dataset)
        for method in (MAIN, "random"):
            for row in rows.find(dataset, method)[:1]:
                kept = [layer["kept"] / layer["total"] for layer in row["layers"]]
                share = dict(zip(layer_labels(layer["name"] for layer in row["layers"]), kept, strict=True))
                thinnest = min(share, key=share.get)
                kept_pct = 100 * share[thinnest]
                said.append(f"The thinnest layer of {name(method)}, {thinnest}, keeps {kept_pct:.1f} % of its weights.")
        return said

    return told(rows, tell)


def _places(rows: Rows, dataset: str) -> list[str]:
    """Which networks were trained where and in what, where that is not one and the same."""
    places: dict[tuple, list[str]] = {}
    for method, variant in shown(rows):
        for row in rows.find(dataset, method, variant)[:1]:
            if row["train_device"]:
                places.setdefault((row["train_device"], row["train_dtype"]), []).append(f"“{called(method, variant)}”")
    if len(places) < 2:
        return []
    listed = "; ".join(f"{', '.join(names)} on “{device}” in {dtype}" for (device, dtype), names in places.items())
    said = [f"They were not all trained alike: {listed}. Nothing is decided between two number formats."]
    main, other = (rows.find(dataset, CONTROL, variant) for variant in ("", FLOAT32))
    if main and other and (compared := rows.compare(main, other)).formats:
        side = "outside" if compared.beyond_noise else "inside"
        said.append(
            f"What the format is worth: the dense control in {other[0]['train_dtype']} ends at {mean(other, 'top1_pct'):.2f} %, "
            f"{signed(-compared.difference)} points from that in {main[0]['train_dtype']}, {side} the noise."
        )
    return said


def held_back(control: Mapping) -> list[str]:
    """What is said of networks that began as this dense control did, where that held it back."""
    if control["settings"].get("initialization"):
        return []
    return [
        "In short trainings dropout, and on CIFAR-100 so large a head as well, hold a dense control back (`docs/trials.md` has "
        "how much), and hold back less the networks whose masks thin the head: what is above the control need not be better than "
        "a dense network."
    ]


def snip_answer(all_rows: Sequence[dict]) -> Markdown:
    """Would SNIP have done better? Decided by the rows, against every GraSP, with seed noise where it is known."""
    rows = Rows(all_rows)

    def tell(dataset: str) -> list[str]:
        snip = rows.seeds(dataset, "snip")
        said = [f"On {style.dataset(dataset)} SNIP ends at {mean(snip, 'top1_pct'):.2f} % top-1."]
        for method in (MAIN, "grasp"):
            if not (other := rows.find(dataset, method)):
                said.append(f"{name(method)} has no row yet.")
                continue
            work = value(snip[0], "effective_macs") / value(other[0], "effective_macs")
            said.append(f"Against {name(method)}: {_compared(rows, snip, other)}; SNIP's network keeps {work:.2f}× its MACs.")
        for score, other in _one_score(rows, dataset).items():
            said.append(f"Against {name(MAIN)}, {score}: {phrase(rows.compare(snip, other), 'SNIP', 'GraSP')}.")
        if chance := rows.find(dataset, "random"):
            said.append(f"And against random masks: {_compared(rows, snip, chance)}.")
        return said

    return told(rows, tell)


def checks_seen(all_rows: Sequence[dict]) -> Markdown:
    """Does it matter which weights of a layer are kept, with which values, and from which end of the ranking?"""
    rows = Rows(all_rows)

    def tell(dataset: str) -> list[str]:
        said = []
        for method in CHECKED:
            base = rows.seeds(dataset, method)
            for variant, label in list(CHECKS.items())[1:]:
                if other := rows.find(dataset, method, variant):
                    said.append(f"{name(method)} {label}: {phrase(rows.compare(other, base), 'checked', 'as chosen')}.")
        if not said:
            raise Missing(f"no sanity check on {style.dataset(dataset)}")
        return [f"On {style.dataset(dataset)}, each against the method as it is:", *said]

    return told(rows, tell)
