"""What the sensitivity notebook shows beside its figures: tables, and what is seen in the rows."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown
from torch import Tensor

from helpers.pruning.scan import Scan
from helpers.report import style, tables
from helpers.report.evidence import Missing, Rows, value
from helpers.report.sentences import absent, epochs_text, layer_labels, told
from helpers.report.tables import Table, number_text

MAIN = "layerwise_magnitude"
CURVE_METHODS = (MAIN, "global_magnitude", "uniform_magnitude")


# The toy ----------------------------------------------------------------------------------------------------------


def toy_weights() -> Tensor:
    """A 5×5 matrix of different numbers with one decimal, the same every time."""
    generator = torch.Generator().manual_seed(4)
    magnitudes = (torch.randperm(25, generator=generator) + 1) / 10
    return (magnitudes * (torch.randint(0, 2, (25,), generator=generator) * 2 - 1)).view(5, 5)


def toy_checked(weights: Tensor, kept: Tensor) -> Markdown:
    """The pruned matrix against the rule applied by hand: sort, cut, compare. Raises AssertionError when they differ."""
    ordered = sorted(weights.abs().flatten().tolist())
    cut = len(ordered) - int(kept.sum())
    by_hand = torch.tensor([[abs(w) > ordered[cut - 1] for w in line] for line in weights.tolist()])
    assert torch.equal(by_hand, kept), "the function and the hand disagree"
    return Markdown(
        f"Sorted by hand, the {cut}th smallest magnitude is {ordered[cut - 1]:.1f} and the next one {ordered[cut]:.1f}: the same "
        f"{int(kept.sum())} weights stay, {100 * cut / len(ordered):.0f} % are gone, and none that went is larger "
        "than one that stayed."
    )


# Fragility and allocation -----------------------------------------------------------------------------------------


def _scan(rows: Rows, dataset: str) -> Scan:
    row = rows.one(dataset, MAIN)
    if "scan" not in row:
        raise Missing(f"no sensitivity scan on {style.dataset(dataset)}")
    return Scan.from_dict(row["scan"])


def _bearable(scan: Scan, points: float) -> np.ndarray:
    """The largest sparsity a layer, interpolated, up to which it loses at most `points` all the way."""
    grid, reached = np.array([0.0, *scan.sparsities]), []
    for drops in scan.drops:
        rising = np.maximum.accumulate([0.0, *drops]) + 1e-9 * grid
        reached.append(float(np.interp(points, rising, grid)))
    return np.array(reached)


def fragility_seen(all_rows: Sequence[dict], points: float = 1.0) -> Markdown:
    """The most fragile and the most robust layers, and where the weights are."""
    rows = Rows(all_rows)

    def tell(dataset: str) -> str:
        scan, row = _scan(rows, dataset), rows.one(dataset, MAIN)
        bearable, labels = _bearable(scan, points), layer_labels(scan.layers)
        order = np.argsort(bearable, kind="stable")
        weights = np.array([layer["total"] for layer in row["layers"]], float)
        robust = bearable >= 0.9
        fragile = ", ".join(f"{labels[i]} ({100 * bearable[i]:.0f} %)" for i in order[:3])
        held = (
            f"and these hold {100 * weights[robust].sum() / weights.sum():.0f} % of all weights"
            if robust.any()
            else "so none is free"
        )
        return (
            f"On {style.dataset(dataset)} the layers that bear least before they cost {points:g} point alone are {fragile}. "
            f"{int(robust.sum())} of {len(labels)} layers bear 90 % or more, {held}; "
            f"one image is {100 / scan.images:.2f} points, so smaller differences mean nothing."
        )

    return told(rows, tell)


def allocation_table(all_rows: Sequence[dict], dataset: str) -> Table | Markdown:
    """What each layer was given: sparsity, weights kept, share of MACs kept, the loss expected of it alone."""
    found = Rows(all_rows).find(dataset, MAIN)
    if not found or "allocation" not in found[0]:
        return absent(f"the allocation of {style.dataset(dataset)}")
    row, plan = found[0], found[0]["allocation"]
    frame = pd.DataFrame(
        {
            "Layer": layer_labels(layer["name"] for layer in plan["layers"]),
            "Weights": [layer["total"] for layer in plan["layers"]],
            "Kept": [layer["kept"] for layer in plan["layers"]],
            "sparsity_pct": [100 * (1 - layer["kept"] / layer["total"]) for layer in plan["layers"]],
            "effective_macs": [layer["macs"] * layer["kept"] / layer["total"] for layer in row["layers"]],
            "Expected loss alone, points": [layer["expected_drop"] for layer in plan["layers"]],
        }
    )
    kept, total = sum(frame["Kept"]), sum(frame["Weights"])
    return tables.table(
        frame,
        f"{style.dataset(dataset)}: the allocation that meets {row['target_sparsity_pct']:.2f} %.",
        digits={"Expected loss alone, points": 2},
        note=f"One tolerance for all layers, τ = {plan['tolerance']:.3f} points of validation top-1. Kept: "
        f"{number_text(kept, 0)} of {number_text(total, 0)} weights, which is {100 * (1 - kept / total):.4f} % sparse; the "
        "target rounded to a whole weight asks for "
        f"{number_text(total - round(total * row['target_sparsity_pct'] / 100), 0)}.",
    )


def allocation_seen(all_rows: Sequence[dict]) -> Markdown:
    """Who pays, and why fewer weights do not mean as many fewer multiply-adds."""
    rows = Rows(all_rows)

    def tell(dataset: str) -> str:
        row = rows.one(dataset, MAIN)
        labels = layer_labels(layer["name"] for layer in row["layers"])
        shares = [1 - layer["kept"] / layer["total"] for layer in row["layers"]]
        least, most = int(np.argmin(shares)), int(np.argmax(shares))
        macs = sum(layer["macs"] for layer in row["layers"])
        text = (
            f"On {style.dataset(dataset)} the sparsities run from {100 * shares[least]:.1f} % ({labels[least]}) to "
            f"{100 * shares[most]:.1f} % ({labels[most]}). {row['density_pct']:.2f} % of the weights stay, but "
            f"{100 * row['effective_macs'] / macs:.1f} % of the multiply-adds touch one of them"
        )
        peers = [found[0] for method in CURVE_METHODS[1:] if (found := rows.find(dataset, method))]
        others = [f"{100 * p['effective_macs'] / macs:.1f} % under {style.method(p['method']).label}" for p in peers]
        return text + (f" ({', '.join(others)})." if others else ".")

    return told(rows, tell)


# Accuracy against compression -------------------------------------------------------------------------------------


def compression_table(all_rows: Sequence[dict]) -> Table | Markdown:
    """Top-1 and top-5 at every compression, right after pruning and fine-tuned."""
    rows, lines = Rows(all_rows), {}
    for dataset in rows.datasets:
        for variant, stage in (("curve", "at once"), ("curve_finetuned", "tuned")):
            for method in CURVE_METHODS:
                for row in rows.find(dataset, method, variant):
                    line = lines.setdefault((dataset, f"{100 / (100 - row['target_sparsity_pct']):g}×"), {})
                    group = f"{style.method(method).label.removesuffix(' magnitude')}, {stage}"
                    line |= {(group, "top1_pct"): row["top1_pct"], (group, "top5_pct"): row["top5_pct"]}
    if not lines:
        return absent("accuracy against compression")
    columns = pd.MultiIndex.from_tuples(dict.fromkeys(column for line in lines.values() for column in line))
    index = pd.MultiIndex.from_tuples(lines, names=["dataset", "Fewer weights"])
    frame = pd.DataFrame([[line.get(column) for column in columns] for line in lines.values()], index, columns)
    tuned = sorted({row["epochs"] for row in rows.all if row["variant"] == "curve_finetuned"})
    note = (
        f"At once: nothing trained after pruning. Tuned: {' or '.join(map(epochs_text, tuned))} with the masks held."
        if tuned
        else ""
    )
    return tables.table(frame, "Test accuracy by how many times fewer weights are kept.", note=note)


def compression_seen(all_rows: Sequence[dict], points: float = 1.0) -> Markdown:
    """Which allocation loses least before any training, and how far fine-tuning carries."""
    rows = Rows(all_rows)

    def tell(dataset: str) -> str:
        dense = value(rows.one(dataset, "dense"), "top1_pct")
        if not any(rows.find(dataset, method, "curve") for method in CURVE_METHODS):
            raise Missing(f"no row of accuracy against compression on {style.dataset(dataset)}")
        held = []
        for method in CURVE_METHODS:
            found = [r for r in rows.find(dataset, method, "curve") if r["top1_pct"] >= dense - points]
            best = max((r["target_sparsity_pct"] for r in found), default=None)
            held.append(f"{style.method(method).label}: {f'{100 / (100 - best):g}×' if best is not None else 'none'}")
        text = (
            f"On {style.dataset(dataset)} the most that stays within {points:g} point of the dense network "
            f"untrained is, {'; '.join(held)}. "
        )
        tuned, control = rows.find(dataset, MAIN, "curve_finetuned"), rows.find(dataset, "dense_finetuned")
        if tuned and control:
            near = [r for r in tuned if r["top1_pct"] >= control[0]["top1_pct"] - points]
            last = tuned[-1]
            text += (
                f"Fine-tuned for {epochs_text(last['epochs'])}, {len(near)} of {len(tuned)} sparsities stay within {points:g} "
                f"point of the fine-tuned dense network (which had {control[0]['epochs']}); the sparsest, "
                f"{last['sparsity_pct']:.2f} %, reaches {last['top1_pct']:.2f} %."
            )
        return text.strip()

    return told(rows, tell)
