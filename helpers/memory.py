"""Memory of inference: peak and time average of what is alive during one forward pass."""

import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

MIB = 2**20
CPU_METHOD = "live bytes of the CPU allocator over one forward pass (torch.profiler), weights and input included"
CUDA_METHOD = "CUDA allocator: its peak, and its live bytes read after every layer, weights and input included, no other tensors"


@dataclass(frozen=True)
class Memory:
    """Memory of one forward pass in MiB, weights and input included; the method says how it was read."""

    peak_mib: float
    average_mib: float | None
    method: str


def memory(network: Callable[[Tensor], Tensor], batch: Tensor) -> Memory:
    """Peak and time-averaged memory of one forward pass of `batch`.

    On a GPU from the allocator's statistics; on a CPU from every allocation and release during the pass, exact in its
    peak. Both on top of the tensors that `network` and `batch` hold: what else lies on the device, of other networks or
    kept by libraries, is not counted. Memory that a library takes past torch's allocator is not seen. Works for any
    callable that holds its tensors in attributes, lists or dicts.
    """
    with torch.inference_mode(), evaluating(network):
        network(batch)  # lazy initialisation is no part of a pass
        return _memory_cuda(network, batch) if batch.is_cuda else _memory_cpu(network, batch)


def _memory_cpu(network: Callable, batch: Tensor, passes: int = 5) -> Memory:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler prints two lines a run
    held = held_bytes(network, batch)
    peaks, averages = [], []
    for _ in range(passes):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
                network(batch)
        events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
        peak, average = live_bytes([(e.start_ns(), e.nbytes()) for e in events])
        peaks.append(peak)
        averages.append(average)
    return Memory((held + max(peaks)) / MIB, (held + statistics.median(averages)) / MIB, CPU_METHOD)


def live_bytes(events: list[tuple[int, int]]) -> tuple[int, float]:
    """(peak, time average) of the bytes alive, from (time, bytes allocated or −bytes released) pairs."""
    if not events:
        return 0, 0.0
    times, changes = np.array(sorted(events, key=lambda event: event[0]), dtype=np.int64).T
    live = np.cumsum(changes)
    elapsed = np.diff(times)
    average = float((live[:-1] * elapsed).sum() / elapsed.sum()) if elapsed.sum() else float(live.mean())
    return max(int(live.max()), 0), average


def held_bytes(*holders: object) -> int:
    """Bytes of all distinct tensors reachable from `holders` through attributes, mappings and sequences."""
    storages: dict[int, int] = {}
    seen: set[int] = set()
    waiting = list(holders)
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            storages[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
        elif isinstance(item, np.ndarray):
            storages[item.ctypes.data] = item.nbytes
        elif isinstance(item, Mapping):
            waiting.extend(item.values())
        elif isinstance(item, list | tuple | set):
            waiting.extend(item)
        elif hasattr(item, "__self__"):  # a bound method
            waiting.append(item.__self__)
        elif hasattr(item, "__dict__") and not isinstance(item, type | ModuleType):
            waiting.extend(vars(item).values())
    return sum(storages.values())


def _memory_cuda(network: Callable, batch: Tensor) -> Memory:
    readings: list[tuple[float, int]] = []

    def read(*_: object) -> None:
        torch.cuda.synchronize(batch.device)
        readings.append((time.perf_counter(), torch.cuda.memory_allocated(batch.device)))

    torch.cuda.synchronize(batch.device)
    others = torch.cuda.memory_allocated(batch.device) - held_bytes(network, batch)  # other networks, libraries' workspaces
    torch.cuda.reset_peak_memory_stats(batch.device)
    network(batch)
    torch.cuda.synchronize(batch.device)
    peak = torch.cuda.max_memory_allocated(batch.device) - others
    if not isinstance(network, nn.Module):
        return Memory(peak / MIB, None, CUDA_METHOD)
    # the average from a second pass: reading after every layer slows it, yet changes no peak
    layers = [module for module in network.modules() if not any(module.children())]
    handles = [module.register_forward_hook(read) for module in layers]
    try:
        read()
        network(batch)
    finally:
        for handle in handles:
            handle.remove()
    times, live = np.array(readings).T
    # what is alive after a layer was alive while it ran
    average = float((live[1:] * np.diff(times)).sum() / np.diff(times).sum()) - others
    return Memory(peak / MIB, average / MIB, CUDA_METHOD)


@contextmanager
def evaluating(network: object) -> Iterator[None]:
    """`network` in eval mode, and back as it was; callables without modes pass through."""
    was_training = isinstance(network, nn.Module) and network.training
    if was_training:
        network.eval()
    try:
        yield
    finally:
        if was_training:
            network.train()
