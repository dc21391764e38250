"""Results: one JSON file for every experiment, folded into one tidy frame.

A result holds its experiment, what was measured, and the commit, device and versions that made it; its file is written
whole or not at all. What could not be measured is null, never 0.
"""

import base64
import functools
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from helpers import files, machine, plan, progress, settings
from helpers.experiments import Experiment
from helpers.settings import Profile

VERSION = 2
NUMBERS = (
    *("sparsity_pct", "density_pct", "params", "nonzero_params"),
    *("size_mib", "size_dense_mib", "size_coo_mib", "size_csr_mib", "size_bitmask_mib", "entropy_mib"),
    *("size_int8_mib", "int8_top1_pct"),
    *("macs", "effective_macs", "peak_memory_mib", "average_memory_mib"),
    *("latency_ms", "latency_batch128_ms", "folded_latency_ms", "folded_latency_batch128_ms"),
    *("sparse_latency_ms", "sparse_latency_batch128_ms", "energy_mj"),
    *("top1_pct", "top5_pct", "val_top1_pct", "pruned_top1_pct", "recalibrated_top1_pct", "repaired_top1_pct"),
    *("epochs", "train_seconds"),
)
WORDS = (
    *("weights", "train_device", "train_dtype", "device", "threads", "dtype", "torch", "data_source", "commit"),
    *("timed_at", "timed_commit", "timed_torch", "weights_digest", "weights_training"),
)
DETAILS = (
    *("correct", "class_top1_pct", "layers", "log", "reasons", "scan", "allocation", "schedule", "widths"),
    *("channel_reports", "gradient_norm"),
)
MEASURED = (*NUMBERS, *WORDS, *DETAILS)
CONTENDERS = ("method", "label", "software", "time_ms", "time_batch128_ms", "size_mib", "top1_pct")
KEYS = ("profile", "dataset", "method", "label", "seed", "target_sparsity_pct")
COLUMNS = (*KEYS, *MEASURED, "gradient_left", "recipe", "experiment")


def save(experiment: Experiment, measured: Mapping) -> dict:
    """Write a result and return it as every later reader gets it; ValueError for a column this version does not know."""
    if unknown := measured.keys() - set(MEASURED):
        raise ValueError(f"{sorted(unknown)[0]!r} is not a column of a result; add it to helpers/results.py")
    path = settings.result_path(experiment.profile, experiment.dataset, experiment.name)
    stored = {name: value for name, value in measured.items() if value is not None}
    files.save_json(path, {"version": VERSION, "hash": experiment.hash, **stored, "experiment": experiment.decisions})
    return files.load_json(path)


def measured(result: Mapping) -> dict:
    """The columns of a stored result, as `save` takes them."""
    return {name: value for name, value in result.items() if name in MEASURED}


def load(experiment: Experiment) -> dict | None:
    """The stored result; None when there is none or, after saying so, when it is damaged or other decisions made it."""
    path = settings.result_path(experiment.profile, experiment.dataset, experiment.name)
    if (result := files.intact(path, read)) is None:
        return None
    if result["hash"] != experiment.hash:
        before, now = result["experiment"], json.loads(json.dumps(experiment.decisions))
        differing = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        progress.say(f"{path.name} was made by other decisions ({', '.join(differing)}) and is not used")
        return None
    return result


def read(path: Path) -> dict:
    """One file; files.CorruptFile when it is damaged or of another version."""
    result = files.load_json(path)
    if result.get("version") != VERSION:
        raise files.CorruptFile(
            f"{path} is a result of version {result.get('version')}, this code reads {VERSION}; delete it to have it made again"
        )
    return result


def frame(profile: Profile) -> pd.DataFrame:
    """The results of a profile's plan that exist, in its order, one line each, exactly `COLUMNS`.

    `correct` holds a numpy array with one bool a test image; the other details are lists and dicts as stored. `gradient_left`:
    the gradient norm that pruning a new network left, over that before.
    """
    found = [(experiment, load(experiment)) for experiment in plan.experiments(profile)]
    lines = [_line(experiment, result) for experiment, result in found if result is not None]
    made = pd.DataFrame(lines, columns=list(COLUMNS))
    return made.astype(dict.fromkeys((*NUMBERS, "target_sparsity_pct", "gradient_left"), float))


def _line(experiment: Experiment, result: dict) -> dict:
    line = {name: result.get(name) for name in MEASURED}
    line |= {name: getattr(experiment, name) for name in ("profile", "dataset", "method", "label", "seed")}
    line |= {"target_sparsity_pct": experiment.sparsity_pct, "recipe": result["experiment"]["recipe"]}
    if norm := result.get("gradient_norm"):
        line["gradient_left"] = norm["after"] / norm["before"]
    return line | {"experiment": result["experiment"], "correct": unpack_bits(result["correct"])}


def facts(profile: Profile | str, dataset: str) -> dict:
    """What pages show of a data set and no single result holds (see `facts.store`); {} before it was computed."""
    path = settings.facts_path(profile if isinstance(profile, str) else profile.name, dataset)
    return files.load_json(path) if path.is_file() else {}


def contenders(profile: Profile | str, dataset: str) -> list[pd.DataFrame]:
    """What `store_contenders` stored, a frame a processor: one line a network and its software, `.attrs` says where."""
    path = settings.contenders_path(profile if isinstance(profile, str) else profile.name, dataset)
    runs = files.load_json(path)["runs"] if path.is_file() else []
    frames = [pd.DataFrame(run["lines"], columns=CONTENDERS) for run in runs]
    for frame, run in zip(frames, runs, strict=True):
        frame.attrs = {name: value for name, value in run.items() if name != "lines"}
    return frames


def store_contenders(profile: str, dataset: str, lines: pd.DataFrame, missing: list[str]) -> None:
    """Store a run on this processor (see `contenders.measure`) in place of an older one, else after those of others."""
    path, device = settings.contenders_path(profile, dataset), machine.processor()
    stored = [{name: value for name, value in line.items() if pd.notna(value)} for line in lines.to_dict("records")]
    run = {"device": device, "threads": torch.get_num_threads(), "commit": commit(), "missing": missing, "lines": stored}
    runs = {old["device"]: old for old in files.load_json(path)["runs"]} if path.is_file() else {}
    files.save_json(path, {"runs": list((runs | {device: run}).values())})


def pack_bits(correct: np.ndarray) -> dict:
    """Which images were right: their number, and base64 of packed bits."""
    return {"images": len(correct), "bits": base64.b64encode(np.packbits(correct).tobytes()).decode()}


def unpack_bits(packed: Mapping) -> np.ndarray:
    bits = np.frombuffer(base64.b64decode(packed["bits"]), np.uint8)
    return np.unpackbits(bits)[: packed["images"]].astype(bool)


@functools.cache
def commit() -> str:
    """The commit of the working tree, "+changes" when the code differs from it; "unknown (why)" where there is none."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=settings.ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != settings.ROOT:
            return "unknown (inside another repository)"
        head, changed = git("rev-parse", "--short=12", "HEAD"), git("status", "--porcelain", "--", "helpers", "requirements.txt")
    except OSError:
        return "unknown (no git)"
    except subprocess.CalledProcessError as error:
        reason = "another owner's folder" if "dubious ownership" in error.stderr else "no repository"
        return f"unknown ({reason})"
    return head + ("+changes" if changed else "")


def provenance() -> dict:
    """The columns that say what made a result."""
    return {
        "device": machine.processor(),
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "torch": torch.__version__,
        "commit": commit(),
    }
