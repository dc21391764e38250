"""Figures that this project did not measure: the original report's tables, and published results to compare with.

Columns are named as in the results' frame. The original report says MB where its sizes are MiB (2**20 bytes), and names
no device: its memory, latency and energy compare with ours only as ratios to its own dense network.
"""

from dataclasses import dataclass

import pandas as pd

_DENSE = (
    "dataset",
    "size_mib",
    "macs",
    "peak_memory_mib",
    "average_memory_mib",
    "latency_ms",
    "energy_mj",
    "top1_pct",
    "top5_pct",
)
_TASK_0 = (
    ("cifar10", 58.251, 314.002e6, 457.388, 73.249, 15.461, 77_151, 82.92, 98.27),
    ("cifar100", 58.427, 314.049e6, 516.827, 132.705, 13.204, 79_778, 63.57, 83.71),
)
_PRUNED = ("dataset", "sparsity_pct", "size_mib", "macs", "peak_memory_mib", "latency_ms", "top1_pct")
_TASK_1A = (
    ("cifar10", 80.33, 34.331, 314.002e6, 455.333, 17.096, 92.37),
    ("cifar100", 80.33, 34.384, 314.049e6, 455.946, 30.656, 68.07),
)
_TASK_1B = (
    ("cifar10", 80.00, 35.105, 314.002e6, 455.873, 39.590, 82.56),
    ("cifar100", 80.00, 35.214, 314.049e6, 456.007, 32.875, 42.67),
)
_TASK_2 = (  # its sparsity is "~80 % (est.)", an estimate and so no figure
    ("cifar10", None, 11.144, 41.782e6, 118.364, 8.342, 88.01),
    ("cifar100", None, 11.321, 41.828e6, 118.698, 11.238, 54.46),
)


def _table(task: str, method: str, columns: tuple[str, ...], lines: tuple[tuple, ...]) -> pd.DataFrame:
    return pd.DataFrame(lines, columns=list(columns)).assign(task=task, method=method, label="")


ORIGINAL = pd.concat(
    [
        _table("Task 0", "dense", _DENSE, _TASK_0),
        _table("Task 1a", "layerwise_magnitude", _PRUNED, _TASK_1A),
        _table("Task 1b", "grasp_iterative", _PRUNED, _TASK_1B),
        _table("Task 2", "lasso_channels", _PRUNED, _TASK_2).astype({"sparsity_pct": float}),
    ],
    ignore_index=True,
)


def reported(dataset: str, method: str, column: str) -> float | None:
    """One figure of the original report; None where it gives none."""
    found = ORIGINAL[(ORIGINAL["dataset"] == dataset) & (ORIGINAL["method"] == method)]
    value = found[column].iloc[0] if len(found) and column in found else float("nan")
    return None if pd.isna(value) else float(value)


@dataclass(frozen=True)
class Source:
    """Where published figures come from, and how they were taken."""

    short: str
    full: str
    url: str
    taken: str  # how this project came by the figures


READ, COMPUTED = "read in the authors' own files", "computed from the authors' raw results"
RELEASE = Source(
    "released weights", "VGG16-BN weights of pytorch-cifar-models", "https://github.com/chenyaofo/pytorch-cifar-models", READ
)
AT_INITIALISATION = Source(
    "Tanaka et al. 2020",
    "Tanaka, Kunin, Yamins and Ganguli (2020), Pruning neural networks without any data by iteratively conserving synaptic flow: "
    "VGG16-BN, 160 epochs, mean of 3 seeds, best test epoch",
    "https://arxiv.org/abs/2006.05467",
    COMPUTED,
)
COURSE = Source(
    "MIT 6.5940 lab 1", "Han, MIT 6.5940, lab 1: a small VGG, five epochs of fine-tuning", "https://efficientml.ai", READ
)
HRANK = Source(
    "HRank",
    "Lin et al. (2020), HRank: the widths of its smallest released VGG16-BN, MACs counted again",
    "https://arxiv.org/abs/2002.10179",
    COMPUTED,
)
CHIP = Source("CHIP", "Sui et al. (2021), CHIP: VGG16-BN", "https://arxiv.org/abs/2110.13981", READ)

_FROM_NOTHING = {  # method → sparsity, times fewer MACs, top-1 on CIFAR-10 and CIFAR-100
    "random": (82.0, 5.6, 92.5, 71.1),
    "snip": (82.0, 3.1, 93.0, 72.3),
    "grasp": (82.0, 3.9, 92.9, 72.0),
    "magnitude_init": (82.0, 3.0, 93.4, 72.7),
    "synflow": (82.0, 2.1, 93.5, 73.0),
    "dense_from_scratch": (None, 1.0, 93.5, 73.0),
}
ELSEWHERE = pd.DataFrame(
    [
        {"dataset": "cifar10", "method": "dense", "params": 15_253_578, "top1_pct": 94.16, "top5_pct": 99.71, "source": RELEASE},
        {"dataset": "cifar100", "method": "dense", "params": 15_299_748, "top1_pct": 74.00, "top5_pct": 90.56, "source": RELEASE},
        *(
            {"dataset": d, "method": m, "sparsity_pct": s, "times_fewer_macs": t, "top1_pct": p, "source": AT_INITIALISATION}
            for m, (s, t, *both) in _FROM_NOTHING.items()
            for d, p in zip(("cifar10", "cifar100"), both, strict=True)
        ),
        {"dataset": "cifar10", "method": "layerwise_magnitude", "sparsity_pct": 80.0, "top1_pct": 92.52, "source": COURSE}
        | {"pruned_top1_pct": 52.59},
        {"dataset": "cifar10", "method": "HRank", "macs": 41.1e6, "times_fewer_macs": 7.63, "top1_pct": 92.34, "source": HRANK},
        {"dataset": "cifar10", "method": "CHIP", "macs": 67e6, "top1_pct": 93.18, "source": CHIP},
    ]
).astype({"sparsity_pct": float})
