"""The same `study.compute` on a Dask cluster of several machines (docs/scaling.md); one machine does with `--processes`.

Machines need this code and the data, but no shared folder: results come back as values and are stored here.
"""

import asyncio
import importlib
import os
import threading
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError
from pathlib import Path

import dask
import distributed
import torch
from distributed import Client, Future, rpc
from distributed.protocol.pickle import dumps

from helpers import files, models, progress, results, settings, study
from helpers.experiments import Experiment, New
from helpers.maker import source_of

_ONE_AT_A_TIME = threading.Lock()  # training seeds a whole process, however many threads its worker was started with


def make(planned: Sequence[Experiment], scheduler: str, wait: float = 60) -> int:
    """Have the missing results of `planned` made, the longest first, and store each as it arrives: 0, or 1 when one failed.

    `scheduler` is an address. A trained dense network is made before what starts from it and travels as a file, so that all
    start from the same bits. Raises ConnectionError or ValueError, in `wait` seconds, where no worker can do the work.
    """
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 GiB"}):  # a network's file
        _check(scheduler, wait)
        with Client(scheduler, timeout=wait) as client:
            return _make(client, planned, wait)


def _make(client: Client, planned: Sequence[Experiment], wait: float) -> int:
    sources = dict.fromkeys(source for e in planned if (source := source_of(e)))
    stored = {e: results.load(e) for e in (*sources, *planned)}
    digests = {e.dataset: r["weights_digest"] for e, r in reversed(stored.items()) if r and "weights_digest" in r}
    missing = sorted((e for e in stored if stored[e] is None), key=lambda e: e.cost, reverse=True)
    waiting = {source: [e for e in missing if source_of(e) == source] for source in sources}
    token, pending, failed = uuid.uuid4().hex[:8], {}, False

    def submit(chosen: Iterable[Experiment], dense: bytes | Future | None = None) -> None:
        for e in chosen:
            key, priority = ("experiment", e.dataset, e.name, token), 1e6 if e in sources else e.cost
            pending[client.submit(_compute, e, dense, key=key, priority=priority, pure=False)] = e

    for source in sources:
        if waiting[source] or source in missing:
            submit([source], _file(source).read_bytes() if models.is_of(_file(source), source.hash) else None)
    submit(e for e in missing if e not in sources and not source_of(e))
    while pending:
        try:
            done = distributed.wait(list(pending), timeout=wait, return_when="FIRST_COMPLETED").done
        except (asyncio.TimeoutError, CancelledError):
            if client.scheduler_info().get("workers"):
                continue
            raise ConnectionError("scheduler or workers are gone; what arrived is stored, the same command goes on") from None
        for future in done:
            e = pending.pop(future)
            refused = str(future.exception()) if future.status == "error" else _store(e, digests, *future.result())
            after = waiting.get(e, [])
            failed |= bool(refused)
            progress.say(f"{e.dataset} {e.name}: {' '.join(refused.split()) or 'stored'}")
            if after and not refused:  # behind a task that is the network: a worker that dies does not take it along
                submit(after, client.submit(bytes, _file(e).read_bytes(), key=("network", e.dataset, token), pure=False))
    return int(failed)


def _compute(e: Experiment, dense: bytes | None) -> tuple[dict, bytes | None]:
    """On a worker: the result and the file kept of it; `dense` is the file of the network to start from."""
    with _ONE_AT_A_TIME:
        if threads := os.environ.get("OMP_NUM_THREADS"):  # torch would follow MKL_NUM_THREADS, which Dask sets to 1
            torch.set_num_threads(int(threads))
        if dense is not None:
            source = source_of(e) or e
            lock = settings.lock_path(source.profile, source.dataset, f"{source.name}-weights")
            with files.lock(lock), files.atomic(_file(source)) as path:
                path.write_bytes(dense)
        result = study.compute(e)
        return result, _file(e).read_bytes() if _file(e).is_file() else None


def _store(e: Experiment, digests: dict[str, str], result: dict, content: bytes | None) -> str:
    """Store what arrived, unless it lies here already (a shared folder): "", or why it does not belong here."""
    if (result["version"], result["hash"]) != (results.VERSION, e.hash):
        return "refused, made by other code; bring all machines to one commit"
    if (digest := result.get("weights_digest")) and digests.setdefault(e.dataset, digest) != digest:
        return "refused, made from another dense network than the results here; give all machines the same weights"
    if content is not None:
        with files.atomic(_file(e)) as path:
            path.write_bytes(content)
    if results.load(e) is None:
        results.save(e, results.measured(result))
    return ""


def _file(e: Experiment) -> Path:
    """What is kept of its network: all of it where others may start from it."""
    path_of = settings.network_path if e.prune is None and isinstance(e.start, New) else settings.kept_path
    return path_of(e.profile, e.dataset, e.name)


def _check(address: str, seconds: float) -> None:
    """Return when all machines of the cluster can do the work, and there is one: for others Dask would wait for ever."""
    asked = "for a scheduler"

    async def check() -> None:
        nonlocal asked
        async with rpc(address, timeout=seconds) as scheduler:
            versions, asked = {"the scheduler": await scheduler.versions()}, "for a worker"
            while True:
                for place, found in versions.items():
                    if (theirs := found["packages"]["distributed"]) != distributed.__version__:
                        raise ValueError(f"{place} runs Dask {theirs}, not {distributed.__version__}: install one version")
                if len(versions) > 1:
                    break
                await asyncio.sleep(0.1)
                versions |= await scheduler.broadcast(msg={"op": "versions"})
            call, asked = {"function": dumps(importlib.import_module), "args": dumps((__name__,))}, "to import this program"
            here, there = await asyncio.gather(scheduler.run_function(**call), scheduler.broadcast(msg={"op": "run", **call}))
            for place, answer in {"the scheduler": here, **there}.items():
                if answer["status"] != "OK":
                    raise ValueError(f"{place} cannot import this program: {answer['exception_text']}; install it there")

    try:
        asyncio.run(asyncio.wait_for(check(), seconds))
    except (asyncio.TimeoutError, OSError):
        raise ConnectionError(f"{address} was asked {asked} for {seconds:g} seconds, in vain") from None
