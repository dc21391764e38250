"""A Dask cluster whose workers make rows: one started on this machine, or a stranger's that has to be fit for it."""

import logging
import os
from collections.abc import Mapping

import torch
from distributed import Nanny, Scheduler, SpecCluster

RESOURCE = "row"
WORKER = f'dask worker ADDRESS --nthreads 1 --resources "{RESOURCE}=1" --memory-limit 0'


def require_workers(workers: Mapping[str, Mapping]) -> None:
    """ValueError unless some worker takes rows, and each that does takes one at a time (training seeds a process as a whole)."""
    rows = {address: worker.get("resources", {}).get(RESOURCE, 0) for address, worker in workers.items()}
    if not any(rows.values()):
        raise ValueError(f"no worker of the cluster takes rows; on each machine start one a GPU with: {WORKER}")
    several = [address for address, count in rows.items() if count > 1]
    if several:
        raise ValueError(f"the worker {several[0]} takes {rows[several[0]]:g} rows at once; start it with: {WORKER}")


def local(workers: int | None = None, threads: int | None = None) -> SpecCluster:
    """Worker processes on this machine: one a GPU, else one for every two cores; they share the cores evenly."""
    gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
    count = workers or gpus or max(1, cores // 2)
    threads = threads or max(1, cores // count)

    def options(i: int) -> dict:
        environment = {"OMP_NUM_THREADS": str(threads)}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = str(i % gpus)
        return {"nthreads": 1, "resources": {RESOURCE: 1}, "memory_limit": 0, "env": environment, "silence_logs": logging.ERROR}

    nannies = {i: {"cls": Nanny, "options": options(i)} for i in range(count)}
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard": False}}
    return SpecCluster(workers=nannies, scheduler=scheduler, name="rows", silence_logs=logging.ERROR)
