"""The study: make the experiments of a profile, store their results, time the networks, give the frame.

    python -m helpers.study [--profile study] [--topic grasp] [--dataset cifar10] [--list | --time] [--processes 2]
    python -m helpers.study --scheduler tcp://host:8786      the same on a Dask cluster (see docs/scaling.md)

Notebooks call `frame`, `narrow` and `dense_network`.
"""

import argparse
import concurrent.futures
import contextlib
import json
import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from helpers import (
    data,
    experiments,
    facts,
    files,
    machine,
    making,
    measurement,
    models,
    plan,
    progress,
    results,
    settings,
    storage,
    timing,
    training,
)
from helpers.experiments import Experiment
from helpers.models import VGG
from helpers.pruning.masks import effective_macs
from helpers.pruning.widths import macs_with_batch_norm
from helpers.settings import Profile

IN_INT8 = (experiments.Repair, experiments.Channels)  # whose networks are kept, in 8-bit whole numbers


def frame(topic: str | None = None, profile: Profile | None = None) -> pd.DataFrame:
    """Every result of the profile (by default $PROFILE's) as one frame, with the times of one timing pass.

    The demo first makes what its plan has for this topic (or for all) and is not stored yet; the larger profiles take hours
    and leave that to `make study`. The frame holds all topics: a figure is then the same on every page that shows it.
    """
    profile = profile or settings.profile()
    if profile.name == "demo":
        wanted = plan.experiments(profile, topic)
        dense = [] if topic is None else plan.experiments(profile, "baseline")  # what every topic compares with
        make_missing(profile, list(dict.fromkeys([*dense, *wanted])))
    return timing.of_one_run(results.frame(profile))


def narrow() -> pd.DataFrame:
    """The results that compare methods before training at a quarter of the width; none beside another profile than the study."""
    found = results.frame(settings.PROFILES["quarter"])
    return found if settings.profile().name == "study" else found.head(0)


def dense_network(dataset: str) -> VGG:
    """The trained dense network of "digits" (trained once, in seconds), "cifar10" or "cifar100" (its weights are given)."""
    profiles = (profile for profile in settings.PROFILES.values() if dataset in profile.datasets)
    known = {name for profile in settings.PROFILES.values() for name in profile.datasets}
    settings.choose("network", dataset, sorted(known))
    return making.dense_network(next(profiles), dataset)


def make_missing(profile: Profile, wanted: Sequence[Experiment], processes: int = 1, minutes: float = math.inf) -> None:
    """Make the results that are not there, so many at a time, then the facts and times of what is on disk.

    Nothing is begun that would not end in `minutes`, by what results have taken so far. A data set whose images or weights are
    missing is named once and left out; FileNotFoundError where all are.
    """
    pace = Pace(time.monotonic() + 60 * minutes)
    if processes > 1:
        _side_by_side(wanted, processes, pace)
    present = dict.fromkeys(experiment.dataset for experiment in wanted)
    for experiment in wanted:
        try:
            if experiment.dataset in present and pace.allows(experiment):
                pace.note(experiment, _seconds(experiment))
        except FileNotFoundError as error:
            del present[experiment.dataset]
            if not present:
                raise
            progress.say(f"{experiment.dataset} is left out: {error}")
    for dataset in present:
        facts.store(profile, dataset)
    timing.measure(profile, [e for e in plan.experiments(profile) if e.dataset in present])


@dataclass
class Pace:
    """The time until which results may be made, and the longest that an epoch of the dense network has taken."""

    until: float  # by `time.monotonic`
    seconds: float = 0.0

    def allows(self, experiment: Experiment) -> bool:
        """Whether its training would end in time; while nothing is known, any may begin."""
        return time.monotonic() + self.seconds * experiment.cost < self.until

    def note(self, experiment: Experiment, seconds: float) -> None:
        if experiment.cost:
            self.seconds = max(self.seconds, seconds / experiment.cost)


def _seconds(experiment: Experiment, *missing: type[Exception]) -> float:
    """How long it took to make a result; that of a data set that is `missing` none."""
    begun = time.monotonic()
    with contextlib.suppress(*missing):
        compute(experiment)
    return time.monotonic() - begun


def _side_by_side(wanted: Sequence[Experiment], processes: int, pace: Pace) -> None:
    """Make results in several processes of this machine, which share its cores; what misses its data set is left."""
    context, threads = multiprocessing.get_context("spawn"), max(1, machine.cores() // processes)
    with ProcessPoolExecutor(processes, context, torch.set_num_threads, (threads,)) as pool:
        running: dict[Future, Experiment] = {}
        for experiment in wanted:
            if len(running) == processes:
                for future in concurrent.futures.wait(running, return_when="FIRST_COMPLETED").done:
                    pace.note(running.pop(future), future.result())
            if pace.allows(experiment):
                running[pool.submit(_seconds, experiment, FileNotFoundError)] = experiment
        for future in running:
            future.result()


def compute(experiment: Experiment) -> dict:
    """The stored result of an experiment, made first if it is not there. One process at a time makes one."""
    at = experiment.profile, experiment.dataset, experiment.name
    with files.lock(settings.lock_path(*at)):
        if (result := results.load(experiment)) is not None:
            return result
        progress.say(f"{experiment.dataset} {experiment.name}: making it")
        results.commit()  # looked up before the work, not after it: the tree may change meanwhile
        made = making.make(experiment)
        _keep(experiment, made)
        columns = _measured(experiment, made)
        network_file = settings.network_path(*at)
        models.save(made.network, network_file, experiment=experiment.hash, trained=json.dumps(made.trained))
        result = results.save(experiment, columns)
        settings.checkpoint_path(*at).unlink(missing_ok=True)
    progress.say(f"{experiment.dataset} {experiment.name}: top-1 {result['top1_pct']:.2f} %")
    return result


def _keep(experiment: Experiment, made: making.Made) -> None:
    """What is small enough to lie beside a result: a network of `IN_INT8`, or masks as bits."""
    path = settings.kept_path(experiment.profile, experiment.dataset, experiment.name)
    if isinstance(experiment.prune, IN_INT8):
        storage.save(made.network, path, "bitmask_int8_zstd")
    elif made.masks is not None and experiment.recipe is not None:
        made.masks.save(path)


def _measured(experiment: Experiment, made: making.Made) -> dict:
    """Every column that follows from the network itself; the timing pass adds the others."""
    network, masks = made.network, made.masks
    splits = data.load(experiment.dataset, validation_images=experiment.validation_images, split_seed=experiment.split_seed)
    repaired = isinstance(experiment.prune, experiments.Repair)
    changed_since = made.trained or repaired
    test = training.evaluate(network, splits.test) if changed_since or made.untrained is None else made.untrained
    params = sum(p.numel() for p in network.parameters())
    dense_mib = measurement.file_size(network)
    columns: dict[str, Any] = {
        "weights": made.weights,
        "params": params,
        "nonzero_params": sum(int(p.count_nonzero()) for p in network.parameters()),
        "size_mib": dense_mib,
        "size_dense_mib": dense_mib,
        "macs": macs_with_batch_norm(network),
        "effective_macs": models.macs(network),
        "top1_pct": test.top1_pct,
        "top5_pct": test.top5_pct,
        "class_top1_pct": _by_class(test.correct, splits),
        "val_top1_pct": training.evaluate(network, splits.val, dtype=machine.dtype()).top1_pct,
        "pruned_top1_pct": made.untrained and made.untrained.top1_pct,
        "repaired_top1_pct": test.top1_pct if repaired else None,
        **(_in_int8(experiment, splits) if isinstance(experiment.prune, IN_INT8) else {}),
        "epochs": experiment.epochs,
        "train_seconds": None if experiment.recipe else 0,  # null: trained, and nothing is known of it
        "log": None if experiment.recipe else [],
        "data_source": splits.source,
        "correct": results.pack_bits(test.correct),
        "reasons": timing.pending(experiment),
    }
    layers = {layer.name: layer for layer in models.layer_table(network)}
    if masks is not None:
        columns |= _sizes(network) | {
            "sparsity_pct": 100 * masks.sparsity,
            "density_pct": 100 * masks.density,
            "effective_macs": effective_macs(network, masks),
        }
        columns["size_mib"] = columns["size_bitmask_mib"]
        kept = {layer.name.removesuffix(".weight"): layer for layer in masks.table()}
        columns["layers"] = [asdict(kept[name]) | {"name": name, "macs": layer.macs} for name, layer in layers.items()]
    else:
        whole = made.dense_params or params
        columns |= {"sparsity_pct": 100 * (1 - params / whole), "density_pct": 100 * params / whole}
        columns["layers"] = [
            {"name": n, "kept": layer.parameters, "total": layer.parameters, "macs": layer.macs} for n, layer in layers.items()
        ]
    return columns | results.provenance() | made.trained | made.details


def _by_class(correct: np.ndarray, splits: data.Splits) -> list[float]:
    labels = splits.test.labels.cpu().numpy()
    right = np.bincount(labels, weights=correct, minlength=len(splits.classes))
    return (100 * right / np.bincount(labels, minlength=len(splits.classes))).tolist()


def _in_int8(experiment: Experiment, splits: data.Splits) -> dict[str, float]:
    """Size and test accuracy of the kept network, whose values are whole numbers of 8 bits."""
    path = settings.kept_path(experiment.profile, experiment.dataset, experiment.name)
    top1_pct = training.evaluate(storage.load(path).to(machine.device()), splits.test).top1_pct
    return {"size_int8_mib": path.stat().st_size / measurement.MIB, "int8_top1_pct": top1_pct}


def _sizes(network: VGG) -> dict[str, float]:
    """MiB on disk in every format that stores zeros apart."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = {f: storage.save(network, Path(folder) / f, f) for f in storage.FORMATS if f != "dense"}
    named = {f"size_{name}_mib": size / measurement.MIB for name, size in sizes.items()}
    return named | {"entropy_mib": storage.entropy_bytes(network) / measurement.MIB}


# Command line ------------------------------------------------------------------------------------------------------


def main(arguments: Iterable[str] | None = None) -> int:
    """Make what the plan has and the results folder has not, most important first, then the timing pass."""
    parser = argparse.ArgumentParser(prog="python -m helpers.study", description=main.__doc__)
    parser.add_argument("--profile", default=None)
    parser.add_argument("--topic", default=None, choices=experiments.TOPICS)
    parser.add_argument("--dataset", default=None)
    parser.add_argument("--list", action="store_true", help="only say what is there and what is missing")
    parser.add_argument("--time", action="store_true", help="only time all networks on disk again")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin nothing that would not end in that time")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--processes", type=int, default=1, help="make so many at a time on this machine")
    where.add_argument("--scheduler", metavar="tcp://HOST:PORT", help="make them on the Dask cluster there")
    options = parser.parse_args(arguments)
    profile = settings.profile(options.profile)
    if options.dataset:
        settings.choose("data set", options.dataset, profile.datasets)
    planned = [e for e in plan.experiments(profile, options.topic) if options.dataset in (None, e.dataset)]
    if options.list:
        for experiment in planned:
            print(f"{experiment.dataset:9} {experiment.name:50} {'there' if results.load(experiment) else 'missing'}")
    elif options.time:  # all of them, whatever was asked for: pages show one run
        timing.measure(profile, plan.experiments(profile), again=True)
    elif options.scheduler:
        from helpers import cluster  # Dask is needed here alone

        return cluster.make(planned, options.scheduler)
    else:
        make_missing(profile, planned, options.processes, options.minutes)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; run it again to go on from the last checkpoint")
    except (ValueError, OSError, ArithmeticError, MemoryError, files.Busy) as error:
        sys.exit(f"{type(error).__name__}: {error}")
