"""Rows on many machines: every missing row is one task of a Dask cluster.

    python -m helpers.sweep [--profile paper] [--scheduler tcp://host:8786] [--workers N] [--networks]

The longest rows go out first, one at a time to each worker (the resource "row"); the row of a worker that died goes to
another. Workers need this code and the data, no shared folder: rows come back as values and are stored here, and the
trained dense network travels to the rows that start from it, so that all of a data set start from the same bits.
"""

import argparse
import asyncio
import heapq
import os
import sys
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

from distributed import Client, Future, as_completed

from helpers import budget, cluster, files, models, plan, progress, results, settings, study
from helpers.cluster import RESOURCE
from helpers.context import Context
from helpers.results import RowKey
from helpers.settings import Profile

RETRIES = 2  # of a row that failed; a worker's death is not the row's fault and not counted
NARROW = 0.25  # an epoch of a network with few channels, in epochs of the dense one: it saves more MACs than time
OVERHEAD = 1.0  # scans, scores, selection and evaluation, in epochs
Made = tuple[dict, bytes | None]


class Foreign(ValueError):
    """A worker's row does not belong beside those here: other settings, another version of rows, another dense network."""


def cost(profile: Profile, key: RowKey) -> float:
    """What a row takes on a worker, in epochs of the dense network; its dense network's training is counted apart."""
    recipe = budget.recipe(profile, key)
    if recipe is None or (key.method == "dense" and profile.weights == "train"):
        return OVERHEAD
    return OVERHEAD + recipe.epochs * (NARROW if "channels" in key.method or key.method == "l1_filters" else 1.0)


# On a worker ------------------------------------------------------------------------------------------------------


def make(profile: Profile, key: RowKey, dense: bytes | None = None, send_network: bool = False) -> Made:
    """Compute one row in this worker's own folders: (the row, its network's file when it is wanted).

    `dense` is the file of the dense network to start from; it replaces another one of the same name.
    """
    if dense is not None:
        path = settings.network_path(profile.name, key.dataset, "dense")
        with files.lock(settings.lock_path(profile.name, key.dataset, "dense-weights")):
            if not path.is_file() or path.read_bytes() != dense:
                _write(path, dense)
    row = study.compute(profile, key)
    network = settings.network_path(profile.name, key.dataset, key.row_id)
    return row, network.read_bytes() if send_network and network.is_file() else None


def train_dense(profile: Profile, dataset: str) -> bytes:
    """Train the dense network of a data set here, or take the one that is here: its file."""
    Context(profile, RowKey(dataset, "dense", seed=profile.seeds[0])).dense()
    return settings.network_path(profile.name, dataset, "dense").read_bytes()


def stored_dense(profile: Profile, dataset: str) -> bytes | None:
    """The file of the trained dense network that lies here; None when there is none or other settings made it."""
    path = settings.network_path(profile.name, dataset, "dense")
    made_with = budget.made_with(profile, budget.dense_key(profile, dataset))
    return path.read_bytes() if models.is_of(path, results.settings_hash(made_with)) else None


def carry(network: bytes) -> bytes:
    """A network as a task of its own: computed again from itself when the worker that holds it dies."""
    return network


# On the machine that asks -----------------------------------------------------------------------------------------


def sweep(profile: Profile, keys: Sequence[RowKey], client: Client, *, networks: bool = False) -> dict[RowKey, str]:
    """Have every row of `keys` made that is not stored here, and store each as it arrives: {row that failed: why}.

    With `networks`, the networks come back too (the quiet pass needs them). A row of a worker with other code or another
    dense network counts as failed.
    """
    asked = {*keys, *(budget.dense_key(profile, dataset) for dataset in _names(keys))}
    stored = {key: results.load_row(profile.name, key, budget.made_with(profile, key)) for key in asked}
    digests = {key.dataset: row["weights_digest"] for key, row in stored.items() if row and row.get("weights_digest")}
    wanted = [key for key in keys if stored[key] is None]
    from_dense = [key for key in wanted if budget.starts_from_dense(profile, key)]
    waiting = {dataset: [key for key in from_dense if key.dataset == dataset] for dataset in _names(from_dense)}
    token, of, failed = uuid.uuid4().hex[:8], {}, {}

    def submit(call, *arguments, name: str, priority: float) -> Future:
        options = {"key": f"{name}-{token}", "priority": priority, "retries": RETRIES, "resources": {RESOURCE: 1}}
        return client.submit(call, *arguments, pure=False, **options)

    def submit_rows(rows: Iterable[RowKey], dense: Future | None = None) -> list[Future]:
        futures = []
        for key in sorted(rows, key=lambda key: (-cost(profile, key), key.row_id)):
            name = f"{key.dataset}-{key.row_id}"
            futures.append(submit(make, profile, key, dense, networks, name=name, priority=cost(profile, key)))
            of[futures[-1].key] = key
        return futures

    def submit_after_dense(dataset: str, network: bytes) -> list[Future]:
        carried = client.submit(carry, network, key=f"{dataset}-dense-network-{token}", pure=False, retries=RETRIES)
        return submit_rows(waiting[dataset], carried)

    pending = as_completed(submit_rows(set(wanted) - set(from_dense)), loop=client.loop)
    for dataset in waiting:
        if (network := stored_dense(profile, dataset)) is not None:
            pending.update(submit_after_dense(dataset, network))
        else:
            pending.add(submit(train_dense, profile, dataset, name=f"{dataset}-train-dense", priority=1e6))
            of[f"{dataset}-train-dense-{token}"] = dataset
    done = 0
    for future in pending:
        what = of[future.key]
        if future.status != "finished":
            reason = str(future.exception()) if future.status == "error" else f"{future.status}: the scheduler went away"
            failed |= dict.fromkeys(waiting[what] if isinstance(what, str) else [what], " ".join(reason.split()))
        elif isinstance(what, str):
            network = future.result()
            _write(settings.network_path(profile.name, what, "dense"), network)
            pending.update(submit_after_dense(what, network))
        else:
            try:
                _accept(profile, what, *future.result(), digests)
            except Foreign as error:  # of one worker: what the others make is good
                failed[what] = str(error)
            else:
                done += 1
                progress.say(f"{done}/{len(wanted)} rows: {what.dataset} {what.row_id}")
        future.release()
    return failed


def _names(keys: Iterable[RowKey]) -> list[str]:
    return list(dict.fromkeys(key.dataset for key in keys))


def _accept(profile: Profile, key: RowKey, row: dict, network: bytes | None, digests: dict[str, str]) -> None:
    """Store a row that arrived, unless it lies here already (a shared folder); Foreign when it does not belong here.

    `digests` holds those of the dense networks that the rows so far start from, by data set; the first row's is added.
    """
    made_with = budget.made_with(profile, key)
    if row.get("version") != results.VERSION or row.get("settings_hash") != results.settings_hash(made_with):
        raise Foreign(f"a worker made {key.row_id} with other code than this: bring all machines to one commit")
    if (digest := row.get("weights_digest")) and digests.setdefault(key.dataset, digest) != digest:
        raise Foreign(f"a worker made {key.row_id} from another dense network than the rows here: give all the same weights")
    path = settings.network_path(profile.name, key.dataset, key.row_id)
    if network is not None and not models.is_of(path, row["settings_hash"]):
        _write(path, network)
    if results.load_row(profile.name, key, made_with) is None:
        results.save_row(profile.name, key, row, made_with)


def _write(path: Path, content: bytes) -> None:
    with files.atomic(path) as temporary:
        temporary.write_bytes(content)


def projection(profile: Profile, keys: Sequence[RowKey], seconds_per_epoch: float, workers: int) -> float:
    """Hours until the last row when `workers` take the longest row first and a dense epoch takes `seconds_per_epoch`."""
    free = [0.0] * workers
    ready = dict.fromkeys(_names(keys), 0.0)

    def take(epochs: float, not_before: float = 0.0) -> float:
        end = max(heapq.heappop(free), not_before) + epochs
        heapq.heappush(free, end)
        return end

    for dataset in ready:
        if any(budget.starts_from_dense(profile, key) for key in keys if key.dataset == dataset):
            ready[dataset] = take(profile.dense_epochs)
    ends = [
        take(cost(profile, key), ready[key.dataset] if budget.starts_from_dense(profile, key) else 0.0)
        for key in sorted(keys, key=lambda key: (budget.starts_from_dense(profile, key), -cost(profile, key)))
    ]
    return max(ends, default=0.0) * seconds_per_epoch / 3600


def main(arguments: Iterable[str] | None = None) -> int:
    """Compute the missing rows of a profile on a Dask cluster: the one at --scheduler, else one on this machine."""
    parser = argparse.ArgumentParser(prog="python -m helpers.sweep", description=main.__doc__)
    parser.add_argument("--profile", default=None)
    parser.add_argument("--scheduler", default=os.environ.get("SCHEDULER"), metavar="tcp://HOST:PORT", help="else $SCHEDULER")
    parser.add_argument("--workers", type=int, default=None, help="of the cluster on this machine; by default one a GPU")
    parser.add_argument("--tier", default="ABC", help="tiers to compute, e.g. A or AB")
    parser.add_argument("--networks", action="store_true", help="bring the networks back too")
    parser.add_argument("--wait", type=float, default=60, metavar="SECONDS", help="for the scheduler and its first worker")
    parser.add_argument("--estimate", type=float, metavar="SECONDS", help="only project the hours, given a dense epoch's seconds")
    options = parser.parse_args(arguments)
    profile = settings.profile(options.profile)
    keys = [item.key for item in plan.plan(profile) if item.tier in options.tier]
    if options.estimate:
        for workers in (1, 2, 4, 8, 16):
            hours = projection(profile, keys, options.estimate, workers)
            print(f"{len(keys)} rows of {profile.name} on {workers:2} workers: {hours:.1f} h")
        return 0
    own = None if options.scheduler else cluster.local(options.workers)
    try:
        with Client(options.scheduler or own, timeout=options.wait, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=options.wait)
            cluster.require_workers(client.scheduler_info(n_workers=-1)["workers"])
            failed = sweep(profile, keys, client, networks=options.networks)
    finally:
        if own is not None:
            own.close()
    for key, reason in failed.items():
        print(f"failed: {key.dataset} {key.row_id}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def _guarded() -> int | str:
    try:
        return main()
    except KeyboardInterrupt:
        return "stopped; the rows that arrived are stored, run it again for the others"
    except (ValueError, OSError, asyncio.TimeoutError) as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    from helpers import sweep as itself  # tasks are found by the module's name on every worker

    sys.exit(itself._guarded())
