"""Figures from elsewhere that the report compares itself with: the write-up's tables and published results.

Nothing here is measured by this project. A figure marked "v" was read in its authors' own files, one marked "c" was
computed from the raw results they published.
"""

from dataclasses import dataclass

import pandas as pd

# The write-up's tables. It measured on a GPU and says MB where its sizes are MiB (2**20 bytes); memory, latency and energy
# compare across devices only as ratios to its own dense network. Sparsity of the structured networks is its estimate.
WRITE_UP: tuple[dict, ...] = (
    {
        "dataset": "cifar10",
        "method": "dense",
        "size_mib": 58.251,
        "macs": 314.002e6,
        "peak_memory_mib": 457.388,
        "average_memory_mib": 73.249,
        "latency_ms": 15.461,
        "energy_mj": 77_151,
        "top1_pct": 82.92,
        "top5_pct": 98.27,
    },
    {
        "dataset": "cifar100",
        "method": "dense",
        "size_mib": 58.427,
        "macs": 314.049e6,
        "peak_memory_mib": 516.827,
        "average_memory_mib": 132.705,
        "latency_ms": 13.204,
        "energy_mj": 79_778,
        "top1_pct": 63.57,
        "top5_pct": 83.71,
    },
    *(
        {
            "dataset": dataset,
            "method": method,
            "sparsity_pct": sparsity,
            "size_mib": size,
            "macs": macs * 1e6,
            "peak_memory_mib": memory,
            "latency_ms": latency,
            "top1_pct": top1,
        }
        for dataset, method, sparsity, size, macs, memory, latency, top1 in (
            ("cifar10", "layerwise_magnitude", 80.33, 34.331, 314.002, 455.333, 17.096, 92.37),
            ("cifar100", "layerwise_magnitude", 80.33, 34.384, 314.049, 455.946, 30.656, 68.07),
            ("cifar10", "grasp_iterative", 80.00, 35.105, 314.002, 455.873, 39.590, 82.56),
            ("cifar100", "grasp_iterative", 80.00, 35.214, 314.049, 456.007, 32.875, 42.67),
            ("cifar10", "lasso_channels", None, 11.144, 41.782, 118.364, 8.342, 88.01),
            ("cifar100", "lasso_channels", None, 11.321, 41.828, 118.698, 11.238, 54.46),
        )
    ),
)
WRITE_UP_NOTE = "Write-up: measured on a GPU, so memory, latency and energy compare only as ratios to its own dense network."


def write_up() -> pd.DataFrame:
    """The write-up's figures, one row a data set and method, columns named as in the study's rows; a gap is missing."""
    return pd.DataFrame(WRITE_UP)


def figures(dataset: str, method: str) -> dict:
    """All figures the write-up gives of a network; empty where it gives none."""
    return next((dict(row) for row in WRITE_UP if (row["dataset"], row["method"]) == (dataset, method)), {})


def reported(dataset: str, method: str, column: str) -> float | None:
    """One figure of the write-up; None where it gives none."""
    return figures(dataset, method).get(column)


@dataclass(frozen=True)
class Source:
    """Where a published figure comes from."""

    short: str
    full: str
    mark: str  # "v": read in the authors' own files; "c": computed from their raw results

    @property
    def meaning(self) -> str:
        return {"v": "read in the authors' own files", "c": "computed from the authors' raw results"}[self.mark]


RELEASE = Source("released weights", "chenyaofo/pytorch-cifar-models, the VGG16-BN weights it releases", "v")
AT_INIT = Source(
    "Tanaka et al. 2020, raw results",
    "Tanaka, Kunin, Yamins and Ganguli (2020), Pruning neural networks without any data by iteratively conserving synaptic flow; "
    "raw results of VGG16-BN, about 80 % sparse, 160 epochs, mean of 3 seeds, best test epoch",
    "c",
)
COURSE = Source(
    "Han, MIT 6.5940, lab 1", "Han, MIT 6.5940, lab 1: a small VGG, layer-wise magnitude, five epochs of fine-tuning", "v"
)
HRANK = Source(
    "HRank, released widths", "Lin et al. (2020), HRank: the widths of its smallest released VGG16-BN, MACs counted again", "c"
)
CHIP = Source("CHIP", "Sui et al. (2021), CHIP: VGG16-BN", "v")

PUBLISHED: tuple[dict, ...] = (
    {"dataset": "cifar10", "method": "dense", "params": 15_253_578, "top1_pct": 94.16, "top5_pct": 99.71, "source": RELEASE},
    {"dataset": "cifar100", "method": "dense", "params": 15_299_748, "top1_pct": 74.00, "top5_pct": 90.56, "source": RELEASE},
    *(
        {"dataset": dataset, "method": method, "sparsity_pct": sparsity, "macs_cut": cut, "top1_pct": top1, "source": AT_INIT}
        for dataset, accuracies in (
            ("cifar10", (92.5, 93.0, 92.9, 93.4, 93.5, 93.5)),
            ("cifar100", (71.1, 72.3, 72.0, 72.7, 73.0, 73.0)),
        )
        for (method, sparsity, cut), top1 in zip(
            (
                ("random", 82.0, 5.6),
                ("snip", 82.0, 3.1),
                ("grasp", 82.0, 3.9),
                ("magnitude_init", 82.0, 3.0),
                ("synflow", 82.0, 2.1),
                ("dense_from_scratch", None, 1.0),
            ),
            accuracies,
            strict=True,
        )
    ),
    {
        "dataset": "cifar10",
        "method": "layerwise_magnitude",
        "sparsity_pct": 80.0,
        "pruned_top1_pct": 52.59,
        "top1_pct": 92.52,
        "source": COURSE,
    },
    {"dataset": "cifar10", "method": "structured", "macs": 41.1e6, "macs_cut": 7.63, "top1_pct": 92.34, "source": HRANK},
    {"dataset": "cifar10", "method": "structured", "macs": 67e6, "top1_pct": 93.18, "source": CHIP},
)


def published(dataset: str | None = None, method: str | None = None) -> pd.DataFrame:
    """Published figures, one row each, with `source` (short) and `mark`; of one data set or method where named."""
    rows = [
        {**row, "source": row["source"].short, "mark": row["source"].mark}
        for row in PUBLISHED
        if dataset in (None, row["dataset"]) and method in (None, row["method"])
    ]
    return pd.DataFrame(rows)


def citations(sources: list[Source] | None = None) -> str:
    """The sources as one line of text for a table's note."""
    chosen = sources or list(dict.fromkeys(row["source"] for row in PUBLISHED))
    return "; ".join(f"{source.short}: {source.full} ({source.meaning})" for source in chosen)
