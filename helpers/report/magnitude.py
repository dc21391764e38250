"""The magnitude-pruned networks beside the write-up, and the controls that say what a gain comes from."""

from collections.abc import Sequence
from dataclasses import dataclass

from IPython.display import Markdown

from helpers.report import assignment, style, write_up
from helpers.report.claims_accuracy import WRONG
from helpers.report.evidence import Missing, Rows, value
from helpers.report.sensitivity import CURVE_METHODS, MAIN
from helpers.report.sentences import epochs_text, phrase, seeds_text, told
from helpers.report.statistics import compare, signed
from helpers.report.tables import Table

SHOWN = ("sparsity_pct", "pruned_top1_pct", "top1_pct", "top5_pct", "size_dense_mib", "size_coo_mib", "size_bitmask_mib", "macs")


def against_write_up(all_rows: Sequence[dict]) -> Table | Markdown:
    """The write-up's table of layer-wise pruning, our rows and the controls beside it."""
    return write_up.side_by_side(
        all_rows,
        "Layer-wise magnitude pruning: the write-up's figures and ours, with the controls.",
        theirs=("dense", MAIN),
        ours=("dense", "dense_finetuned", *CURVE_METHODS),
        columns=SHOWN,
        shares={**write_up.PEAK, **write_up.LATENCY, "Sparse latency ÷ dense": ("sparse_latency_ms", "latency_ms")},
        note="The write-up's file is a COO file. Latency is at batch 1, over the unpruned networks' median; sparse latency is "
        "that of the same weights run on their non-zeros only.",
    )


def against_seen(all_rows: Sequence[dict]) -> Markdown:
    """How far the pruned network lies from the control, and from the other allocations."""
    rows = Rows(all_rows)

    def tell(dataset: str) -> list[str]:
        pruned, row = rows.seeds(dataset, MAIN), rows.shown(dataset, MAIN)
        said = [
            f"On {style.dataset(dataset)}, {row['sparsity_pct']:.2f} % sparse: {value(row, 'pruned_top1_pct'):.2f} % right after "
            f"pruning, {row['top1_pct']:.2f} % after {epochs_text(row['epochs'])} of fine-tuning{seeds_text(row['seeds'])}."
        ]
        if control := rows.find(dataset, "dense_finetuned"):
            said.append(f"Against the control with the same budget: {phrase(rows.compare(pruned, control), 'pruned', 'dense')}.")
        alike = []
        for method in CURVE_METHODS[1:]:
            if peer := rows.find(dataset, method):
                compared = compare(pruned, peer, rows.all)
                alike += [style.method(method).label] if not compared.beyond_noise else []
                shown = phrase(compared, "layer-wise", "it")
                work = value(peer[0], "effective_macs") / value(row, "effective_macs")
                label = style.method(method).label.capitalize()
                said.append(f"{label} at the same sparsity: {shown}; it keeps {work:.2f}× the multiply-adds.")
        if alike:
            said.append(f"So after fine-tuning the scan has gained nothing that shows over {' and '.join(alike)}.")
        return said

    return told(rows, tell)


# The controls -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Top-1 (%) before and after fine-tuning; `after` is None where the row does not exist."""

    label: str
    method: str
    before: float
    after: float | None
    ours: bool = True

    @property
    def gain(self) -> float | None:
        return None if self.after is None else self.after - self.before


def control_pairs(rows: Rows, dataset: str) -> list[Pair]:
    """Everything that gains by fine-tuning, pruned or not, and the write-up's pair."""
    pairs, own, row = [], rows.find(dataset, "dense"), rows.shown(dataset, MAIN)
    if row and row["pruned_top1_pct"] is not None:
        pairs.append(Pair(f"pruned {row['sparsity_pct']:.2f} %", MAIN, row["pruned_top1_pct"], row["top1_pct"]))
    for suffix, label in {
        "": "dense, its own normalisation",
        **{f"normalization={n}": f"dense, {t}" for n, t in WRONG.items()},
    }.items():
        before, after = rows.find(dataset, "dense", suffix), rows.shown(dataset, "dense_finetuned", suffix)
        if suffix and before and own and before[0].get("correct") == own[0].get("correct"):
            continue  # the normalisation called wrong is this network's own
        start = before[0]["top1_pct"] if before else after["pruned_top1_pct"] if after else None
        if start is not None:
            pairs.append(Pair(label, "dense_finetuned", start, after["top1_pct"] if after else None))
    theirs = [assignment.reported(dataset, method, "top1_pct") for method in ("dense", MAIN)]
    if None not in theirs:
        pairs.append(Pair("write-up: baseline → pruned", MAIN, *theirs, ours=False))
    return pairs


def control_seen(all_rows: Sequence[dict]) -> Markdown:
    """Does a wrong normalisation alone make a drop and a "boost" like the write-up's?"""
    rows = Rows(all_rows)

    def tell(dataset: str) -> list[str]:
        dense = value(rows.one(dataset, "dense"), "top1_pct")
        pairs = {pair.label: pair for pair in control_pairs(rows, dataset)}
        wrong = [(pairs[f"dense, {text}"], text) for text in WRONG.values() if f"dense, {text}" in pairs]
        if not wrong:
            raise Missing("no dense row under a wrong normalisation")
        drops = ", ".join(f"{text} {signed(pair.before - dense)} points" for pair, text in wrong)
        said = [
            f"On {style.dataset(dataset)}, with nothing pruned and nothing trained, a wrong normalisation "
            f"changes top-1 by: {drops}."
        ]
        said += [
            f"Fine-tuned under {text}, the same dense network goes from {pair.before:.2f} % to "
            f"{pair.after:.2f} % ({signed(pair.gain)})."
            for pair, text in wrong
            if pair.after is not None
        ]
        right = pairs.get("dense, its own normalisation")
        if right is not None and right.after is not None:
            said.append(f"Under its own normalisation the same fine-tuning brings {signed(right.gain)} points.")
        theirs = pairs.get("write-up: baseline → pruned")
        if theirs is not None:
            published = assignment.published(dataset, "dense").iloc[0]["top1_pct"]
            said.append(_verdict(theirs, published, [pair for pair, _ in wrong], dense))
        return said

    return told(rows, tell)


def _verdict(theirs: Pair, published: float, wrong: Sequence[Pair], dense: float) -> str:
    """The write-up's gap and gain beside those measured without pruning."""
    gap = theirs.before - published
    nearest = min(wrong, key=lambda pair: abs(pair.before - dense - gap))
    text = (
        f"The write-up's baseline lies {signed(gap)} points from the released weights, and its pruned network "
        f"{signed(theirs.gain)} points above that baseline. The wrong normalisation that comes nearest to this gap "
        f"({nearest.label.removeprefix('dense, ')}) changes top-1 by {signed(nearest.before - dense)} points, "
    )
    if nearest.gain is None:
        return text + "and what fine-tuning under it brings was not computed."
    return text + (
        f"and fine-tuning under it brings {signed(nearest.gain)}: {100 * nearest.gain / theirs.gain:.0f} % of the "
        "write-up's gain, with nothing pruned. This shows that such a jump needs no pruning, not that this mistake was made."
    )
