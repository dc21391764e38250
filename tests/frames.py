"""Results of a study that was never run, as the frame that reports read; and which test images a network gets right."""

import numpy as np
import pandas as pd

IMAGES = 10_000
FROM_NOTHING = ("dense_from_scratch", "lasso_channels_from_scratch", "grasp_iterative", "grasp", "snip", "synflow", "random")
COLUMNS = (
    *("profile", "dataset", "method", "label", "seed", "target_sparsity_pct", "sparsity_pct", "density_pct", "params"),
    *("nonzero_params", "size_mib", "size_dense_mib", "size_coo_mib", "size_csr_mib", "size_bitmask_mib", "macs"),
    *("size_int8_mib", "int8_top1_pct"),
    *("effective_macs", "peak_memory_mib", "average_memory_mib", "latency_ms", "latency_batch128_ms", "folded_latency_ms"),
    *("folded_latency_batch128_ms", "sparse_latency_ms", "sparse_latency_batch128_ms", "energy_mj", "top1_pct", "top5_pct"),
    *("val_top1_pct", "pruned_top1_pct", "epochs", "device", "correct", "reasons", "gradient_left", "experiment"),
)


def bits(top1_pct: float, count: int = IMAGES, seed: int = 0) -> np.ndarray:
    """Exactly that share of the images right, the same images for every network but for a few of each seed's own."""
    hardness = np.random.default_rng(0).random(count) + 0.05 * np.random.default_rng(seed + 1).random(count)
    correct = np.zeros(count, dtype=bool)
    correct[np.argsort(hardness)[: round(top1_pct * count / 100)]] = True
    return correct


def flipped(correct: np.ndarray, gains: int, losses: int, seed: int = 1) -> np.ndarray:
    """`correct` with so many wrong images made right and right ones made wrong."""
    generator, changed = np.random.default_rng(seed), correct.copy()
    changed[generator.choice(np.flatnonzero(~correct), gains, replace=False)] = True
    changed[generator.choice(np.flatnonzero(correct), losses, replace=False)] = False
    return changed


def result(method: str, correct: np.ndarray | float, label: str = "", **columns) -> dict:
    """One result; `correct` may be a top-1 in percent, of which some images differ by method and seed."""
    if not isinstance(correct, np.ndarray):
        correct = bits(correct, seed=sum(map(ord, method + label)) + columns.get("seed", 0))
    new = method in FROM_NOTHING or label in ("reinitialized", "rewound")
    experiment = {"start": {"width_divisor": 1} if new else {"dropout": 0.2}, "prune": None}
    line = {"profile": "study", "dataset": "cifar10", "method": method, "label": label, "seed": 0, "epochs": 4}
    return line | {"top1_pct": 100 * correct.mean(), "correct": correct, "experiment": experiment} | columns


def frame(*results: dict) -> pd.DataFrame:
    made = pd.DataFrame(list(results), columns=list(COLUMNS))
    words = ("profile", "dataset", "method", "label", "device", "correct", "reasons", "experiment")
    return made.astype({name: float for name in COLUMNS if name not in (*words, "seed")})
