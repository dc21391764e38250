"""The timing pass: memory, latency and energy of the networks on disk, all in one run, when nothing else runs."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timezone

import pandas as pd
import torch

from helpers import data, files, machine, measurement, models, results, settings
from helpers.experiments import Experiment
from helpers.settings import Profile
from helpers.sparse import kernels, network

LATER = "not measured: left to a pass in which nothing else runs on the machine"
NOT_TIMED = "not measured: only the main results and one compression curve are timed"
NO_ZEROS = "not measured: the network has no zeros to skip"
FOLDED_ALIKE = "not measured: folded and run densely it does the work of the dense network"
OTHER_RUN = "not measured in the run that timed the other networks, and times of two runs do not compare"
COLUMNS = (
    *("latency_ms", "latency_batch128_ms"),
    *("folded_latency_ms", "folded_latency_batch128_ms", "sparse_latency_ms", "sparse_latency_batch128_ms"),
    *("peak_memory_mib", "average_memory_mib", "energy_mj"),
)


def pending(experiment: Experiment) -> dict[str, str]:
    """Why each of the pass's columns is empty in a result that has just been made."""
    return dict.fromkeys(COLUMNS, LATER if experiment.timed else NOT_TIMED)


def measure(profile: Profile, planned: Sequence[Experiment], *, again: bool = False) -> None:
    """Fill memory, latency and energy of the timed results whose networks are on disk, all in one run.

    Networks of all data sets are timed interleaved, so that a drift of the machine hits all alike and ratios of one data
    set can be set beside another's. Times of two runs do not compare: where one result has none yet, or one of another
    run, or with `again`, all are timed. One process at a time.
    """
    with files.lock(settings.lock_path(profile.name, "timing")):
        wanted: dict[Experiment, dict] = {}
        for experiment in planned:
            path = settings.network_path(profile.name, experiment.dataset, experiment.name)
            result = results.load(experiment) if experiment.timed and models.is_of(path, experiment.hash) else None
            if result is not None:
                wanted[experiment] = result
        runs = {result.get("timed_at") for result in wanted.values()}
        if wanted and (again or len(runs) > 1 or None in runs):
            _measure(profile, wanted)


def of_one_run(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with what was measured in one run only: the one that timed the dense networks, or else most results."""
    timed = frame[frame.latency_ms.notna()]
    runs: Counter[str] = Counter()
    for run, method in zip(timed.timed_at, timed.method, strict=True):
        runs[run] += len(frame) if method == "dense" else 1
    chosen = max(runs, key=lambda run: (runs[run], run), default=None)
    others = timed.index[timed.timed_at != chosen]
    frame = frame.copy()
    frame.loc[others, list(COLUMNS)] = float("nan")
    for index in others:
        frame.at[index, "reasons"] = dict.fromkeys(COLUMNS, OTHER_RUN) | (frame.at[index, "reasons"] or {})
    return frame


def _measure(profile: Profile, wanted: dict[Experiment, dict]) -> None:
    images = {dataset: data.load(dataset).test for dataset in {experiment.dataset for experiment in wanted}}
    networks = {e: models.load(settings.network_path(profile.name, e.dataset, e.name)) for e in wanted}
    one, many = (
        {e: measurement.images_for(network, images[e.dataset], count) for e, network in networks.items()}
        for count in (1, measurement.BATCH)
    )
    unavailable = "its kernels run on the CPU" if machine.device().type != "cpu" else kernels.available()
    runs: dict[tuple[str, Experiment], Callable] = {("dense", e): networks[e].to(one[e].device) for e in wanted}
    for e, result in wanted.items():
        if "size_bitmask_mib" not in result:  # a network without zeros gets what helps it: the sparse kernel folds as well
            folded = models.fold_batch_norm(networks[e]).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            runs["folded", e] = folded.to(one[e].device)
        elif unavailable is None:
            runs["sparse", e] = network.compile_sparse(networks[e])
    single, batched = (
        measurement.latency(runs, {run: batches[run[1]] for run in runs}, min_seconds=profile.timing_seconds)
        for batches in (one, many)
    )
    made, timed_at = results.provenance(), datetime.now(timezone.utc).isoformat(timespec="microseconds")
    for e, result in wanted.items():
        used = measurement.memory(networks[e], many[e])
        spent, reason = measurement.energy(networks[e], many[e], seconds=profile.timing_seconds)
        reasons = {"energy_mj": reason} if spent is None else {}
        columns = {
            "latency_ms": single["dense", e].median_ms,
            "latency_batch128_ms": batched["dense", e].median_ms,
            "peak_memory_mib": used.peak_mib,
            "average_memory_mib": used.average_mib,
            "energy_mj": spent,
            **{name: made[name] for name in ("device", "threads", "dtype")},
            **{"timed_at": timed_at, "timed_commit": made["commit"], "timed_torch": made["torch"]},
        }
        for run, why_not in (("folded", FOLDED_ALIKE), ("sparse", f"not measured: {unavailable}" if unavailable else NO_ZEROS)):
            for name, latencies in ((f"{run}_latency_ms", single), (f"{run}_latency_batch128_ms", batched)):
                columns[name] = latencies[run, e].median_ms if (run, e) in runs else None
                reasons |= {} if (run, e) in runs else {name: why_not}
        results.save(e, {**results.measured(result), **columns, "reasons": reasons})
