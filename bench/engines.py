"""What one would do instead of pruning: the dense network in the engines a practitioner would pick, against zeros skipped.

All networks and engines take turns, each in a process of its own (see `helpers.engines`), on the same images. Groups of
lines a batch size, where more than 1 is faster than the alternative:

    layer-wise zeros skipped     against the dense network in every engine
    uniform zeros skipped        against the fastest engine in float32, and the fastest in int8 whose products do not saturate
    blocks of zeros, in int8     against the fastest in int8

Top-1 is that of all test images on this processor, where CIFAR-10 and trained weights are at hand. An engine that is not
installed has one line that says so.
"""

import contextlib
import time
from collections.abc import Mapping

import torch

from bench.int8_inference import in_blocks
from bench.sparse_inference import pruned, scanned, trained
from helpers import cifar, data, engines, machine, models
from helpers.contenders import CALIBRATION_IMAGES, DENSE, FLOAT, WHOLE, top1_pct
from helpers.engines import Engine
from helpers.measurement import Latency

LAYERWISE, UNIFORM = "layer-wise 80.33 %", {"uniform 80 %": 0.8, "uniform 90 %": 0.9}
BLOCKS = {"80 % of blocks": 0.8, "90 % of blocks": 0.9}
GOALS = {(LAYERWISE, 128): 2.2, (LAYERWISE, 1): 2.0}  # against the fastest dense float32
GOALS |= {("80 % of blocks", 128): 2.3, ("90 % of blocks", 128): 4.0}  # against the fastest dense int8
GOALS |= {(what, 1): 1.5 for what in BLOCKS}


def contenders() -> dict[tuple[str, str], models.VGG]:
    """(what, engine) → the network."""
    found: dict[tuple[str, str], models.VGG] = {("dense", engine): trained()[0] for engine in DENSE}
    if scanned() is not None:
        found[LAYERWISE, FLOAT] = pruned("layerwise", 0.8033)[0]
    found |= {(what, FLOAT): pruned("uniform", sparsity)[0] for what, sparsity in UNIFORM.items()}
    return found | {(what, WHOLE): in_blocks(sparsity) for what, sparsity in BLOCKS.items()}


def images() -> tuple[data.Splits | None, data.Split]:
    """CIFAR-10 where it is at hand, and images to calibrate with: its training images, else random ones."""
    if cifar.find("cifar10"):
        splits = data.load("cifar10", torch.device("cpu"))
        return splits, splits.train
    drawn = torch.randint(0, 256, (CALIBRATION_IMAGES, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    return None, data.Split(drawn.to(torch.uint8), torch.zeros(len(drawn), dtype=torch.long))


def run(quick: bool = False) -> list[dict]:
    """Rows with name, ours_ms, theirs_ms, ratio, goal (None where none is set) and note."""
    splits, calibrating = images()
    test = splits.test if splits and not quick and trained()[1] == "trained weights" else None
    rows, notes, running = [], {}, {}
    with contextlib.ExitStack() as stack:
        for (what, name), network in contenders().items():
            begun = time.perf_counter()
            try:
                ranges = calibrating.images[: 64 if quick else CALIBRATION_IMAGES]
                engine = stack.enter_context(Engine(name, network, data.normalize(ranges, network.normalization)))
            except engines.Unavailable as reason:
                rows += [{"name": name, "note": str(reason)}] if what == "dense" else []
                continue
            running[what, name] = engine
            notes[what, name] = [f"built in {time.perf_counter() - begun:.0f} s"]
            notes[what, name] += [f"file {engine.size_mib:.1f} MiB"] if engine.size_mib else []
            if test is not None and what == "dense":
                notes[what, name].append(f"top-1 {top1_pct(engine, test, network.normalization):.2f} %")
            notes[what, name] += ["products may saturate here"] if engines.saturates(name) else []
        for batch in (1, 128):
            shown = data.normalize(calibrating.images[:batch], trained()[0].normalization)
            times = engines.latency(running, shown, min_seconds=0.5 if quick else 4.0)
            rows += lines(times, notes, batch)
    return rows


def lines(times: Mapping[tuple[str, str], Latency], notes: Mapping[tuple[str, str], list[str]], batch: int) -> list[dict]:
    """The rows of one batch size, from what was timed in one run."""
    where = f"{torch.get_num_threads()} threads, {machine.processor()}"

    def line(ours: tuple[str, str], theirs: tuple[str, str], judged: bool = False) -> dict:
        mine, other = times[ours], times[theirs]
        counted = f"p90 {mine.p90_ms:.1f} against {other.p90_ms:.1f} ms, {mine.runs} and {other.runs} calls"
        both = {"ours_ms": mine.median_ms, "theirs_ms": other.median_ms, "ratio": other.median_ms / mine.median_ms}
        both["goal"] = GOALS.get((ours[0], batch)) if judged else None
        name = f"{ours[0]} in {ours[1]}, batch {batch}, against {theirs[0]} in {theirs[1]}"
        return {"name": name, **both, "note": "; ".join([*notes[theirs], counted, where])}

    def fastest(kind: str) -> tuple[str, str] | None:
        found = [key for key in times if key[0] == "dense" and kind in key[1] and not engines.saturates(key[1])]
        return min(found, key=lambda key: times[key].median_ms, default=None)

    strongest, whole, dense = fastest("fp32"), fastest("int8"), [key for key in times if key[0] == "dense"]
    rows = []
    if (LAYERWISE, FLOAT) in times:
        rows += [line((LAYERWISE, FLOAT), key, key == strongest) for key in dense]
    for what in UNIFORM:
        rows += [line((what, FLOAT), key) for key in (strongest, whole) if key is not None]
    if whole is not None:
        rows += [line((what, WHOLE), whole, True) for what in BLOCKS if (what, WHOLE) in times]
    return rows
