"""The frame of a study that was never run, in which most statements of the original report have a plain answer."""

from collections.abc import Mapping

import frames
import pandas as pd

from helpers import results

DENSE_WEIGHTS, DENSE_MACS = 15_239_872, 314_003_466
DENSITY = {"layerwise_magnitude": 0.1967, "grasp_iterative": 0.2}


def result(dataset: str, method: str, top1: float, label: str = "", **columns) -> dict:
    """A dense network's result; `columns` change it."""
    measured = {"size_mib": 58.25, "size_dense_mib": 58.25, "macs": DENSE_MACS, "effective_macs": 313_725_952}
    measured |= {"nonzero_params": DENSE_WEIGHTS, "params": DENSE_WEIGHTS, "sparsity_pct": 0.0, "density_pct": 100.0}
    measured |= {"peak_memory_mib": 156.0, "latency_ms": 20.0, "latency_batch128_ms": 1000.0, "device": "a processor"}
    measured |= {"reasons": {"energy_mj": "no counter on this machine"}, "target_sparsity_pct": None}
    return frames.result(method, top1, label, dataset=dataset, **measured | columns)


def sparse(dataset: str, method: str, top1: float, density: float, label: str = "", **columns) -> dict:
    """The result of a network with a share `density` of its weights."""
    kept = round(density * DENSE_WEIGHTS)
    measured = {"size_coo_mib": 175 * density, "size_csr_mib": 117 * density, "size_bitmask_mib": 1.82 + 58.25 * density}
    measured |= {"size_mib": measured["size_bitmask_mib"], "nonzero_params": kept, "density_pct": 100 * density}
    measured |= {"sparsity_pct": 100 - 100 * density, "target_sparsity_pct": 100 - 100 * density}
    measured |= {"effective_macs": round(DENSE_MACS * density * 1.5)}
    measured |= {"sparse_latency_ms": 20 * density + 8, "sparse_latency_batch128_ms": 2000 * density}
    measured |= {"layers": [{"name": "features.0", "kept": kept, "total": DENSE_WEIGHTS, "macs": 1}]}
    return result(dataset, method, top1, label, **measured | columns)


def world() -> list[dict]:
    """Results on which most statements can be judged."""
    made = []
    for dataset, top, gap in (("cifar10", 92.4, 1.0), ("cifar100", 66.2, 3.0)):
        small = {"macs": 41_700_000, "effective_macs": 41_650_000, "nonzero_params": 2_000_000, "params": 2_000_000}
        small |= {"size_mib": 8.0, "peak_memory_mib": 40.0, "latency_ms": 6.0, "latency_batch128_ms": 200.0}
        layerwise, iterative = DENSITY["layerwise_magnitude"], DENSITY["grasp_iterative"]
        made += [
            result(dataset, "dense", top, epochs=0),
            *(
                result(dataset, "dense", top - drop, f"normalization={name}", epochs=0)
                for name, drop in (("none", 30), ("half", 9))
            ),
            result(dataset, "dense_finetuned", top + 0.3),
            result(dataset, "dense_finetuned", top, "normalization=half", pruned_top1_pct=top - 9),
            sparse(dataset, "layerwise_magnitude", top + 0.2, layerwise),
            sparse(dataset, "layerwise_magnitude", top - 0.1, 0.11, "curve_finetuned"),
            sparse(dataset, "layerwise_magnitude", top - 3, 0.06, "curve_finetuned"),
            sparse(dataset, "layerwise_magnitude", top - 1, layerwise, "rewound"),
            sparse(dataset, "layerwise_magnitude", top - 6, layerwise, "reinitialized"),
            sparse(dataset, "grasp_iterative", top - 4, iterative),
            sparse(dataset, "snip", top - 4.1, 0.2, gradient_left=2.0),
            sparse(dataset, "grasp", top - 6, 0.2, gradient_left=4.0),
            sparse(dataset, "random", top - 8, 0.2, gradient_left=0.5),
            result(dataset, "dense_from_scratch", top - 2),
            result(dataset, "lasso_channels", top - gap, **small),
            result(dataset, "l1_filters", top - gap - 0.1, **small),
            result(dataset, "lasso_channels_from_scratch", top - gap - 2, **small),
        ]
    return made


def frame(
    changes: Mapping[tuple[str, str], Mapping] | None = None, without: tuple[str, ...] = (), folded: bool = True
) -> pd.DataFrame:
    """The world's results as `results.frame` gives them.

    Args:
        changes: (method, label) → columns set on every data set, a value or a function of the result.
        without: methods left out.
        folded: whether networks without masks were timed with batch norm folded as well, and were no faster for it.
    """
    made, changes = [one for one in world() if one["method"] not in without], changes or {}
    unused = changes.keys() - {(one["method"], one["label"]) for one in made}
    assert not unused, f"the test changes results that are not there: {unused}"
    for one in made:
        for column, value in changes.get((one["method"], one["label"]), {}).items():
            one[column] = value(one) if callable(value) else value
            if column == "top1_pct":
                one["correct"] = frames.bits(one[column], seed=sum(map(ord, one["method"] + one["label"])))
        if folded and one["target_sparsity_pct"] is None:
            one |= {f"folded_{column}": one[column] for column in ("latency_ms", "latency_batch128_ms")}
    return frames.frame(*made).reindex(columns=list(results.COLUMNS))
