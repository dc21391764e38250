"""What the channel-pruning notebook shows beside its figures: tables, and what is seen in the rows."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from IPython.display import Markdown

from helpers import models
from helpers.report import assignment, style, tables, write_up
from helpers.report.evidence import Missing, Rows, value
from helpers.report.sentences import absent, counted, epochs_text, layer_labels, phrase, seeds_text, told
from helpers.report.statistics import signed
from helpers.report.tables import Table

MAIN, SCRATCH = "lasso_channels", "lasso_channels_from_scratch"
CONTROLS = ("l1_filters", "random_channels", SCRATCH)
ABLATIONS = {
    "": "as above",
    "no_reconstruction": "without reconstruction",
    "symmetric": "symmetric target",
    "widths=uniform": "widths: uniform",
    "widths=he": "widths: 1 : 1.5",
    "unrounded": "widths not rounded",
}
SHOWN = ("macs", "sparsity_pct", "size_mib", "pruned_top1_pct", "top1_pct", "top5_pct", "epochs")


def convs(widths: Sequence[int | str]) -> list[int]:
    return [width for width in widths if width != "M"]


def full_widths(row: Mapping) -> tuple[int | str, ...]:
    """The widths a row's network had before anything was removed."""
    return models.scaled(models.VGG16, row["settings"]["width_divisor"])


def fewer(rows: Rows, row: Mapping) -> float:
    """How many times fewer MACs than the dense network of its data set."""
    return value(rows.one(row["dataset"], "dense"), "macs") / value(row, "macs")


# Widths and errors ------------------------------------------------------------------------------------------------


def widths_seen(all_rows: Sequence[dict]) -> Markdown:
    """Where the channels went."""
    rows = Rows(all_rows)

    def tell(dataset: str) -> str:
        row = rows.one(dataset, MAIN)
        before, after = np.array(convs(full_widths(row))), np.array(convs(row["widths"]))
        shares, labels = after / before, _labels(row)
        least, most = int(shares.argmin()), int(shares.argmax())
        text = (
            f"On {style.dataset(dataset)} {after.sum()} of {before.sum()} channels stay: from {100 * shares[least]:.0f} % in "
            f"{labels[least]} to {100 * shares[most]:.0f} % in {labels[most]}. That leaves {row['macs'] / 1e6:.3f} M MACs "
            f"({fewer(rows, row):.2f}× fewer) and {row['params'] / 1e6:.2f} M parameters "
            f"({rows.one(dataset, 'dense')['params'] / row['params']:.1f}× fewer)"
        )
        budget = rows.one(dataset, "dense")["macs"] * row["settings"]["macs_share"]
        theirs = assignment.reported(dataset, MAIN, "macs")
        named = f" (the write-up's network has {theirs / 1e6:.3f} M)" if theirs else ""
        return text + f"; the budget is {budget / 1e6:.3f} M{named}, and it is {'kept' if row['macs'] <= budget else 'broken'}."

    return told(rows, tell)


def _labels(row: Mapping) -> list[str]:
    return layer_labels(f"features.{n}" for n in range(len(convs(row["widths"]))))


def errors_seen(all_rows: Sequence[dict]) -> Markdown:
    """What reconstruction is worth, layer by layer, and where the error is largest."""
    rows = Rows(all_rows)

    def tell(dataset: str) -> str:
        row = rows.one(dataset, MAIN)
        if "channel_reports" not in row:
            raise Missing(f"no reconstruction errors on {style.dataset(dataset)}")
        before, after = (np.array([r[f"error_{when}"] for r in row["channel_reports"]]) for when in ("before", "after"))
        labels, worst = _labels(row), int(after.argmax())
        text = (
            f"On {style.dataset(dataset)} the relative error of a layer's output is {100 * before.mean():.1f} % on average with "
            f"the old weights of the kept channels, and {100 * after.mean():.1f} % after least squares. It is largest behind "
            f"{labels[worst]} ({100 * after[worst]:.1f} %). "
        )
        fallbacks = [r["solver"] for r in row["channel_reports"] if not r["solver"].startswith("cholesky")]
        return text + (
            f"{len(fallbacks)} layers were singular and fell back."
            if fallbacks
            else "No layer's system of equations was singular."
        )

    return told(rows, tell)


# The write-up's table and the controls ----------------------------------------------------------------------------


def against_write_up(all_rows: Sequence[dict]) -> Table | Markdown:
    """The write-up's table of structured pruning, our rows and the controls beside it."""
    many = "latency_batch128_ms"
    return write_up.side_by_side(
        all_rows,
        "Regression-based channel pruning: the write-up's figures and ours, with the controls.",
        theirs=("dense", MAIN),
        ours=("dense", "dense_finetuned", MAIN, *CONTROLS),
        columns=SHOWN,
        shares={**write_up.PEAK, **write_up.LATENCY, "Latency ÷ dense, batch 128": (many, many)},
        note="Latency is at batch 1 where no batch is named. All channel-pruned networks of a data set have the same widths.",
    )


def against_seen(all_rows: Sequence[dict]) -> Markdown:
    """The pruned network against the fine-tuned dense one, the controls and the write-up."""
    rows = Rows(all_rows)

    def tell(dataset: str) -> list[str]:
        pruned, row = rows.seeds(dataset, MAIN), rows.shown(dataset, MAIN)
        said = [
            f"On {style.dataset(dataset)}, at {row['macs'] / 1e6:.2f} M MACs: {value(row, 'pruned_top1_pct'):.2f} % right after "
            f"pruning, {row['top1_pct']:.2f} % after {row['epochs']} epochs of fine-tuning{seeds_text(row['seeds'])}."
        ]
        if (theirs := assignment.reported(dataset, MAIN, "top1_pct")) is not None:
            said.append(
                f"The write-up's network has {theirs:.2f} %, ours is {signed(row['top1_pct'] - theirs)} points from it, "
                f"{signed(row['pruned_top1_pct'] - theirs)} before any training."
            )
            for he in rows.find(dataset, MAIN, "widths=he"):
                size = assignment.reported(dataset, MAIN, "size_mib")
                said.append(
                    f"With the widths of He et al. (2017) our network of those MACs has {he['sparsity_pct']:.1f} % fewer "
                    f"parameters, a file of {he['size_mib']:.2f} MiB and {he['top1_pct']:.2f} %; the write-up's about 80 % and "
                    f"{size:.2f} MiB: the smaller file above comes from other widths, not from another budget."
                )
        for method in ("dense_finetuned", *CONTROLS):
            if peer := rows.find(dataset, method):
                label = style.method(method).label
                ours = rows.structured(dataset) if method == "dense_finetuned" else pruned
                compared = phrase(rows.compare(ours, peer), "the LASSO's network", f'"{label}"')
                said.append(f"Against {label} ({epochs_text(peer[0]['epochs'])}, LASSO {ours[0]['epochs']}): {compared}.")
        return said

    return told(rows, tell)


# Ablations --------------------------------------------------------------------------------------------------------


def ablations(all_rows: Sequence[dict]) -> Table | Markdown:
    """Each part of the method left out or exchanged, at the same budget of MACs."""
    rows, lines = Rows(all_rows), {}
    for dataset in rows.datasets:
        for variant, label in ABLATIONS.items():
            if row := rows.shown(dataset, MAIN, variant):
                lines[dataset, label] = row
    if len(lines) <= len(rows.datasets):
        return absent("the ablations")
    columns = ["macs", "params", "pruned_top1_pct", "top1_pct", "latency_ms", "latency_batch128_ms"]
    index = pd.MultiIndex.from_tuples(lines, names=["dataset", "LASSO channels"])
    frame = pd.DataFrame([[line.get(column) for column in columns] for line in lines.values()], index, columns)
    return tables.table(
        frame,
        "What each part of the method is worth.",
        note="Same budget of MACs and of fine-tuning. Networks of equal widths do equal work: what their times differ "
        "by is noise.",
    )


def ablations_seen(all_rows: Sequence[dict]) -> Markdown:
    """What each part changes before and after fine-tuning."""
    rows = Rows(all_rows)

    def tell(dataset: str) -> list[str]:
        main, shown, said = rows.seeds(dataset, MAIN), rows.shown(dataset, MAIN), []
        found = {variant: rows.find(dataset, MAIN, variant) for variant in ABLATIONS if variant}
        compared = {variant: rows.compare(ablated, main) for variant, ablated in found.items() if ablated}
        if not compared:
            raise Missing(f"no ablation on {style.dataset(dataset)}")
        for variant, tuned in compared.items():
            first = signed(rows.shown(dataset, MAIN, variant)["pruned_top1_pct"] - shown["pruned_top1_pct"])
            word = "" if tuned.beyond_noise else ", inside the noise"
            word += f", trained in {' and '.join(tuned.formats)}" if tuned.formats else ""
            label = ABLATIONS[variant].capitalize()
            said.append(f"{label}: {first} points right after pruning, {signed(tuned.difference)} fine-tuned{word}.")
        if left_out := max(tuned.left_out for tuned in compared.values()):
            trainings = counted(left_out, "training")
            said.append(f"Fine-tuned networks are compared within one number format, {trainings} in another left out.")
        if alike := [variant for variant, tuned in compared.items() if not tuned.beyond_noise]:
            listed = ", ".join(ABLATIONS[variant] for variant in alike)
            said.append(
                f"After fine-tuning nothing shows, beyond the noise, of: {listed}. What they change, training makes up for."
            )
        twins = rows.equal_work(shown, "latency_batch128_ms")
        if twins and (odd := rows.find(dataset, MAIN, "unrounded")) and odd[0].get("latency_batch128_ms"):
            ratio = odd[0]["latency_batch128_ms"] / np.median(twins)
            said.append(
                f"Widths that are no multiple of 8 change latency at batch 128 by {signed(100 * (ratio - 1), 0)} %, where "
                f"the {len(twins)} networks of the rounded widths differ by {100 * (max(twins) / min(twins) - 1):.0f} %."
            )
        return [f"On {style.dataset(dataset)}, against the method as above:", *said]

    return told(rows, tell)
