"""The quiet pass: memory, latency and energy of rows whose networks are on disk, when nothing else runs."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timezone

import torch

from helpers import budget, data, files, machine, measurement, models, results, settings
from helpers.results import RowKey
from helpers.settings import Profile
from helpers.sparse import convolution

NOT_TIMED = "not measured: only the main rows and one compression curve are timed"
NO_ZEROS = "the network has no zeros to skip"
FOLDED_ALIKE = "folded and run densely it does the work of the dense network"
OTHER_RUN = "not measured in the run that timed the other networks, and times of two runs do not compare"
COLUMNS = (
    *("latency_ms", "latency_p90_ms", "latency_batch128_ms"),
    *("folded_latency_ms", "folded_latency_batch128_ms", "sparse_latency_ms", "sparse_latency_batch128_ms"),
    *("peak_memory_mib", "average_memory_mib", "energy_mj"),
)
# what the quiet pass may change in a row: `commit` and `torch` stay those that trained it
CHANGED = (*COLUMNS, "reasons", "device", "threads", "dtype", "run_densely", "timed_at", "timed_commit", "timed_torch")


def pending(key: RowKey) -> dict[str, str]:
    """Why each of these columns is empty in a row that has just been made."""
    return dict.fromkeys(COLUMNS, measurement.LATER if timed(key) else NOT_TIMED)


def measure(profile: Profile, keys: Sequence[RowKey], *, again: bool = False, seconds: float | None = None) -> None:
    """Fill memory, latency and energy of the rows whose networks are on disk, all in one run.

    Networks of all data sets are timed interleaved, so that a drift of the machine hits all alike and ratios of one data
    set can be set beside another's. Times of two runs do not compare: where one row has none yet, or one of another run,
    or with `again`, all rows of `keys` are timed. One process at a time.
    """
    with files.lock(settings.lock_path(profile.name, "quiet")):
        wanted: dict[RowKey, dict] = {}
        for key in filter(timed, keys):
            row = results.load_row(profile.name, key, budget.made_with(profile, key))
            path = settings.network_path(profile.name, key.dataset, key.row_id)
            if row is not None and models.is_of(path, row["settings_hash"]):
                wanted[key] = row
        pending = any(row["latency_ms"] is None for row in wanted.values())
        if again or pending or len({row.get("timed_at") for row in wanted.values()}) > 1:
            _measure(profile, wanted, seconds or profile.timing_seconds)


def of_one_run(rows: Sequence[dict]) -> list[dict]:
    """The rows, with what was measured in one run only: the one that timed the dense networks, or else most rows.

    Rows that came together were timed together; one made since, elsewhere, was timed without the networks of the others.
    """
    runs: Counter[str] = Counter()
    for row in rows:
        if row["latency_ms"] is not None:
            runs[row.get("timed_at", "")] += len(rows) if row["method"] == "dense" else 1
    chosen = max(runs, key=lambda run: (runs[run], run), default=None)
    nothing, why = dict.fromkeys(COLUMNS), dict.fromkeys(COLUMNS, OTHER_RUN)
    return [
        row
        if row["latency_ms"] is None or row.get("timed_at", "") == chosen
        else row | nothing | {"reasons": why | row["reasons"]}
        for row in rows
    ]


def timed(key: RowKey) -> bool:
    """Whether a row's network is timed: not one that differs from a timed one in nothing that time depends on."""
    if key.variant == "curve":  # the speed at many sparsities: one allocation tells it
        return key.method == "layerwise_magnitude"
    return key.seed == 0 and (not key.variant or key.method in ("lasso_channels", "grasp_iterative"))


def _measure(profile: Profile, wanted: dict[RowKey, dict], seconds: float) -> None:
    images = {dataset: data.load(dataset).test for dataset in {key.dataset for key in wanted}}
    networks = {key: models.load(settings.network_path(profile.name, key.dataset, key.row_id)) for key in wanted}
    one, many = (
        {key: measurement.images_for(network, images[key.dataset], count) for key, network in networks.items()}
        for count in (1, measurement.BATCH)
    )
    unavailable = "its kernels run on the CPU" if machine.device().type != "cpu" else convolution.available()
    runs: dict[tuple[str, RowKey], Callable] = {("dense", key): networks[key].to(one[key].device) for key in wanted}
    for key, row in wanted.items():
        if row["size_bitmask_mib"] is None:  # a network without zeros gets what helps it: the sparse kernel folds as well
            folded = models.fold_batch_norm(networks[key]).to(memory_format=torch.channels_last)
            runs["folded", key] = folded.to(one[key].device)
        elif unavailable is None:
            runs["sparse", key] = convolution.compile_sparse(networks[key])
    single, batched = (
        measurement.latency(runs, {run: batches[run[1]] for run in runs}, min_seconds=seconds) for batches in (one, many)
    )
    made, timed_at = results.provenance(), datetime.now(timezone.utc).isoformat(timespec="microseconds")
    for key, row in wanted.items():
        used = measurement.memory(networks[key], many[key])
        spent, why = measurement.energy(networks[key], many[key], seconds=seconds)
        reasons = {"energy_mj": why} if spent is None else {}
        row.pop("run_densely", None)  # of an earlier pass, which may have had kernels where this one has none
        for run, why_not in (("folded", FOLDED_ALIKE), ("sparse", unavailable or NO_ZEROS)):
            there = (run, key) in runs
            times = {f"{run}_latency_ms": single, f"{run}_latency_batch128_ms": batched}
            row |= {column: found[run, key].median_ms if there else None for column, found in times.items()}
            reasons |= {} if there else dict.fromkeys(times, f"not measured: {why_not}")
        if ("sparse", key) in runs:  # which layers the sparse network runs on dense kernels, since they are faster there
            row["run_densely"] = {
                layout: [name for name, kernel in chosen.items() if kernel == "dense"]
                for layout, chosen in runs["sparse", key].plan.items()
            }
        row |= {
            "latency_ms": single["dense", key].median_ms,
            "latency_p90_ms": single["dense", key].p90_ms,
            "latency_batch128_ms": batched["dense", key].median_ms,
            "peak_memory_mib": used.peak_mib,
            "average_memory_mib": used.average_mib,
            "energy_mj": spent,
            "reasons": reasons,
            **{name: made[name] for name in ("device", "threads", "dtype")},
            "timed_at": timed_at,
            **{f"timed_{name}": made[name] for name in ("commit", "torch")},
        }
        results.save_row(profile.name, key, row, row["settings"])
