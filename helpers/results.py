"""Rows: one JSON file for every network of the study, folded into one tidy frame.

A row is keyed by what it is, carries the settings, commit, device and versions that made it, and is written whole or
not at all. A column that could not be measured is null, never 0.
"""

import base64
import functools
import hashlib
import json
import re
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch

from helpers import files, machine, progress, settings

VERSION = 1
COLUMNS = (
    "profile",
    "dataset",
    "method",
    "variant",
    "seed",
    "weights",
    "sparsity_pct",
    "density_pct",
    "params",
    "nonzero_params",
    "size_mib",
    "size_dense_mib",
    "size_coo_mib",
    "size_csr_mib",
    "size_bitmask_mib",
    "macs",
    "effective_macs",
    "peak_memory_mib",
    "average_memory_mib",
    "latency_ms",
    "latency_p90_ms",
    "latency_batch128_ms",
    "folded_latency_ms",
    "folded_latency_batch128_ms",
    "sparse_latency_ms",
    "sparse_latency_batch128_ms",
    "energy_mj",
    "top1_pct",
    "top5_pct",
    "val_top1_pct",
    "pruned_top1_pct",
    "epochs",
    "train_seconds",
    "train_device",
    "train_dtype",
    "device",
    "threads",
    "dtype",
    "torch",
    "data_source",
    "commit",
    "settings_hash",
)
METHODS = (
    "dense",
    "dense_finetuned",
    "layerwise_magnitude",
    "global_magnitude",
    "uniform_magnitude",
    "dense_from_scratch",
    "grasp_iterative",
    "grasp",
    "snip",
    "synflow",
    "magnitude_init",
    "random",
    "lasso_channels",
    "l1_filters",
    "random_channels",
    "lasso_channels_from_scratch",
)


@dataclass(frozen=True)
class RowKey:
    """What a row is: its file's name follows from it, so nothing is named by hand and nothing overwrites another."""

    dataset: str
    method: str
    sparsity_pct: float | None = None  # the target, where the method has one
    seed: int = 0
    variant: str = ""  # what differs from the method's main row: "normalization=half", "macs=4x", "curve" …

    def __post_init__(self):
        settings.choose("method", self.method, METHODS)
        if self.sparsity_pct is not None and not 0 <= self.sparsity_pct < 100:
            raise ValueError(f"sparsity_pct is a percentage from 0 up to, not including, 100; got {self.sparsity_pct}")

    @property
    def row_id(self) -> str:
        parts = [self.method]
        if self.sparsity_pct is not None:
            parts.append(f"s{self.sparsity_pct:g}")
        if self.variant:
            parts.append(re.sub(r"[^a-z0-9_.]+", "-", self.variant.lower()))
        if self.seed:
            parts.append(f"seed{self.seed}")
        return "-".join(parts)


def settings_hash(made_with: dict) -> str:
    return hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()[:16]


def save_row(profile: str, key: RowKey, row: dict, made_with: dict) -> dict:
    """Write a row (its columns and its extras) and return it; ValueError when a column is unknown or misspelt as NaN."""
    whole = {column: None for column in COLUMNS} | row
    whole |= asdict(key) | {"profile": profile, "sparsity_pct": row.get("sparsity_pct", key.sparsity_pct)}
    whole |= {"target_sparsity_pct": key.sparsity_pct, "version": VERSION}
    whole |= {"settings": made_with, "settings_hash": settings_hash(made_with)}
    path = settings.row_path(profile, key.dataset, key.row_id)
    files.save_json(path, whole)
    return files.load_json(path)  # as every later reader gets it


def load_row(profile: str, key: RowKey, made_with: dict | None = None) -> dict | None:
    """The row, or None when there is none, or (after saying so) when it is damaged or was made with other settings."""
    path = settings.row_path(profile, key.dataset, key.row_id)
    if not path.is_file():
        return None
    try:
        row = read(path)
    except files.CorruptFile as error:
        progress.say(f"{error}")
        return None
    if made_with is not None and row["settings_hash"] != settings_hash(made_with):
        old = row["settings"]
        differing = sorted(k for k in old.keys() | made_with.keys() if old.get(k) != made_with.get(k))
        progress.say(f"{path.name} was made with other settings ({', '.join(differing)}) and is not used")
        return None
    return row


def read(path) -> dict:
    """One row file; files.CorruptFile when it is damaged or of another version."""
    row = files.load_json(path)
    if row.get("version") != VERSION:
        raise files.CorruptFile(
            f"{path} is a row of version {row.get('version')}, this code reads {VERSION}; delete it to have it made again"
        )
    missing = [column for column in COLUMNS if column not in row]
    if missing:
        raise files.CorruptFile(f"{path} lacks the column {missing[0]}; delete it to have it made again")
    return row


def rows(profile: str, dataset: str | None = None) -> list[dict]:
    """Every whole row of a profile, in order of data set and name; a damaged file is named and left out."""
    found = []
    folders = [dataset] if dataset else settings.profile(profile).datasets
    for path in sorted(path for folder in folders for path in settings.results_dir(profile).glob(f"{folder}/*.json")):
        try:
            found.append(read(path))
        except files.CorruptFile as error:
            progress.say(f"{error}")
    return found


def frame(profile: str | Iterable[dict]) -> pd.DataFrame:
    """The tidy frame (one line a row, exactly `COLUMNS`) of a profile's rows or of the rows given."""
    chosen = rows(profile) if isinstance(profile, str) else list(profile)
    return pd.DataFrame([{column: row[column] for column in COLUMNS} for row in chosen], columns=list(COLUMNS))


def pack_bits(correct: np.ndarray) -> str:
    """Which images were right, as base64 of packed bits."""
    return base64.b64encode(np.packbits(correct)).decode()


def unpack_bits(packed: str, count: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(base64.b64decode(packed), np.uint8))[:count].astype(bool)


@functools.cache
def commit() -> str:
    """The commit of the working tree, "+changes" when the code differs from it; "unknown" outside a repository."""
    try:
        run = functools.partial(subprocess.run, cwd=settings.ROOT, capture_output=True, text=True, check=True)
        head = run(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        changed = run(["git", "status", "--porcelain", "--", "helpers", "requirements.txt"]).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changed else "")


def provenance() -> dict:
    """The columns that say what made a row."""
    return {
        "device": machine.processor(),
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "torch": torch.__version__,
        "commit": commit(),
    }
