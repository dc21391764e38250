"""Rows of a study that was never run, in which most statements of the write-up have a plain answer."""

import copy
import functools

import numpy as np

from helpers import results

IMAGES = 10_000
DENSE_WEIGHTS, DENSE_MACS = 15_239_872, 314_003_466
KEPT = {"layerwise_magnitude": 0.1967, "grasp_iterative": 0.2}


@functools.cache
def correct_bits(top1_pct: float, stream: int) -> str:
    """That share of the images right: mostly the same images, some of each network's own."""
    hardness = np.random.default_rng(0).random(IMAGES) + 0.05 * np.random.default_rng(stream + 1).random(IMAGES)
    correct = np.zeros(IMAGES, dtype=bool)
    correct[np.argsort(hardness)[: round(top1_pct * IMAGES / 100)]] = True
    return results.pack_bits(correct)


def row(dataset, method, top1, variant="", seed=0, **columns):
    made = dict.fromkeys(results.COLUMNS)
    made |= {
        "dataset": dataset,
        "method": method,
        "variant": variant,
        "seed": seed,
        "top1_pct": top1,
        "epochs": 4,
        "macs": DENSE_MACS,
        "settings": {"dropout": 0.2},
    }
    made |= {"size_mib": 58.25, "nonzero_params": DENSE_WEIGHTS, "effective_macs": 313_725_952, "device": "a processor"}
    made |= {"peak_memory_mib": 156.0, "latency_ms": 20.0, "latency_batch128_ms": 1000.0, "target_sparsity_pct": None}
    return made | columns


def unstructured(dataset, method, top1, density, variant="", **columns):
    kept = round(density * DENSE_WEIGHTS)
    sizes = {"size_dense_mib": 58.25, "size_coo_mib": 175 * density, "size_csr_mib": 117 * density}
    return row(
        *(dataset, method, top1, variant),
        **sizes,
        size_bitmask_mib=1.82 + 58.25 * density,
        sparsity_pct=100 - 100 * density,
        target_sparsity_pct=100 - 100 * density,
        nonzero_params=kept,
        effective_macs=round(DENSE_MACS * density * 1.5),
        sparse_latency_ms=20 * density + 8,
        sparse_latency_batch128_ms=2000 * density,
        layers=[{"name": "features.0", "kept": kept, "total": DENSE_WEIGHTS, "macs": 1}],
        **columns,
    )


def world() -> dict[tuple, dict]:
    """Rows of a study in which most statements have a plain answer, by (dataset, method, variant)."""
    rows = []
    for dataset, top, gap in (("cifar10", 92.4, 1.0), ("cifar100", 66.2, 3.0)):
        small = {"macs": 41_700_000, "effective_macs": 41_650_000, "nonzero_params": 2_000_000, "size_mib": 8.0}
        small |= {"peak_memory_mib": 40.0, "latency_ms": 6.0, "latency_batch128_ms": 200.0}
        rows += [
            row(dataset, "dense", top, epochs=0),
            row(dataset, "dense_finetuned", top + 0.3),
            unstructured(dataset, "layerwise_magnitude", top + 0.2, KEPT["layerwise_magnitude"]),
            unstructured(dataset, "grasp_iterative", top - 4, KEPT["grasp_iterative"], gradient_norm=None),
            unstructured(dataset, "snip", top - 4.1, 0.2, gradient_norm={"before": 1.0, "after": 2.0}),
            unstructured(dataset, "grasp", top - 6, 0.2, gradient_norm={"before": 1.0, "after": 4.0}),
            unstructured(dataset, "random", top - 8, 0.2, gradient_norm={"before": 1.0, "after": 0.5}),
            row(dataset, "dense_from_scratch", top - 2),
            row(dataset, "lasso_channels", top - gap, **small),
            row(dataset, "lasso_channels_from_scratch", top - gap - 2, **small),
            row(dataset, "l1_filters", top - gap - 0.1, **small),
            *(row(dataset, "dense", top - drop, f"normalization={name}", epochs=0) for name, drop in (("none", 30), ("half", 9))),
            row(dataset, "dense_finetuned", top, "normalization=half", pruned_top1_pct=top - 9),
            unstructured(dataset, "layerwise_magnitude", top - 0.1, 0.11, "curve_finetuned"),
            unstructured(dataset, "layerwise_magnitude", top - 3, 0.06, "curve_finetuned"),
            unstructured(dataset, "layerwise_magnitude", top - 1, KEPT["layerwise_magnitude"], "rewound"),
            unstructured(dataset, "layerwise_magnitude", top - 6, KEPT["layerwise_magnitude"], "reinitialized"),
        ]
    return {(r["dataset"], r["method"], r["variant"], r["target_sparsity_pct"]): r for r in rows}


def made(changes: dict | None = None, without: tuple = (), folded: bool = True) -> list[dict]:
    """The world's rows.

    `changes`: (method, variant) → columns set on every data set, `without`: methods left out, `folded`: whether networks
    without masks were timed with batch norm folded as well, and no faster for it.
    """
    rows = copy.deepcopy(list(world().values()))
    for (method, variant), columns in (changes or {}).items():
        chosen = [r for r in rows if (r["method"], r["variant"]) == (method, variant)]
        assert chosen, f"the test changes a row that is not there: {method} {variant}"
        for r in chosen:
            r |= {column: value(r) if callable(value) else value for column, value in columns.items()}
    for stream, r in enumerate(rows):
        r["top1_pct"] = round(r["top1_pct"] * 100) / 100
        r["correct"], r["test_images"] = correct_bits(r["top1_pct"], stream), IMAGES
        if folded and r["target_sparsity_pct"] is None:
            r |= {f"folded_{c}": r[c] for c in ("latency_ms", "latency_batch128_ms") if r[f"folded_{c}"] is None}
    return [r for r in rows if r["method"] not in without]
