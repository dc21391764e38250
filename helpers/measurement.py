"""What a network costs: size, MACs, latency, memory and energy.

Every figure is read from the network or the machine: what cannot be read is None with a reason, never 0. MiB is 2**20
bytes, one MAC one multiply-add. Networks are measured in inference mode and in their own number format.
"""

import copy
import io
import math
import os
import statistics
import sys
import time
import timeit
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark.utils.timer import timer as clock  # waits for a GPU before it looks

from helpers import data, models
from helpers.models import VGG

Name = TypeVar("Name", bound=Hashable)
BATCH = 128
MIB = 2**20
SHORTEST_S = 1e-3  # of what is timed at once
POWERCAP = Path("/sys/class/powercap")


def images_for(network: VGG, split: data.Split, count: int) -> Tensor:
    """The first `count` images of `split` (repeated where it has fewer), normalised for `network`: (count, 3, H, W)."""
    models.require_vgg(network)
    index = torch.arange(count, device=split.images.device) % len(split)
    return data.normalize(split.images[index], network.normalization)


@contextmanager
def _evaluating(*networks: object) -> Iterator[None]:
    """Networks in eval mode, and back as they were; other callables pass through."""
    training = [network for network in networks if isinstance(network, nn.Module) and network.training]
    for network in training:
        network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for network in training:
            network.train()


def file_size(network: nn.Module) -> float:
    """MiB of the file that `torch.save(network.state_dict())` writes."""
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    return buffer.tell() / MIB


def macs_aten(network: nn.Module, image_size: int | None = None) -> int:
    """Multiply-adds for one image as ptflops counts them with its "aten" backend, batch norm included.

    `image_size` is the network's own unless given, or 32 where it names none. Raises ImportError without ptflops, and
    RuntimeError for a network that it cannot count.
    """
    # ptflops does without torchvision when there is none, yet stops at one whose compiled operators do not load, as those of
    # the stock wheel beside a CPU-only torch
    imported = {name: sys.modules[name] for name in ("torchvision",) if name in sys.modules}
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    try:
        from ptflops import get_model_complexity_info
    except ImportError as error:
        raise ImportError(f"MACs are counted by ptflops, which cannot be imported ({error}): pip install ptflops") from None
    finally:
        del sys.modules["torchvision"]
        sys.modules.update(imported)
    size = image_size or getattr(network, "image_size", 32)
    macs, _ = get_model_complexity_info(
        copy.deepcopy(network).eval(),  # a copy: ptflops leaves hooks on the network's children
        (3, size, size),
        as_strings=False,
        print_per_layer_stat=False,
        verbose=False,
        backend="aten",
    )
    if macs is None:
        raise RuntimeError(f"ptflops could not count this {type(network).__name__} on a {size}×{size} image; it printed why")
    return int(macs)


@dataclass(frozen=True)
class Latency:
    """Time of one call in ms over `runs` timed ones."""

    median_ms: float
    p90_ms: float
    runs: int


def latency(
    callables: Mapping[Name, Callable[[Tensor], Tensor]],
    batch: Tensor | Mapping[Name, Tensor],
    *,
    min_seconds: float = 2.0,
    rounds: int = 5,
) -> dict[Name, Latency]:
    """Time a call of each on `batch`, or on its own of several, at least `min_seconds` each, as `in_turns` does.

    Calls shorter than `SHORTEST_S` are timed several at a time, and the 90th percentile is then one of such groups.
    """
    batches = batch if isinstance(batch, Mapping) else dict.fromkeys(callables, batch)
    timers = {name: timeit.Timer(partial(call, batches[name]), timer=clock) for name, call in callables.items()}
    together: dict[Name, int] = {}

    def times(name: Name, seconds: float) -> list[float]:
        spent: list[float] = []
        while not spent or sum(spent) < seconds:
            spent.append(timers[name].timeit(together[name]))
        return [1e3 * each / together[name] for each in spent]

    with _evaluating(*callables.values()):
        for name, timer in timers.items():
            timer.timeit(3)  # first calls pick kernels and reorder weights
            together[name] = math.ceil(SHORTEST_S / max(timer.timeit(1), 1e-6))
        return in_turns(callables, times, min_seconds, rounds)


def in_turns(
    names: Iterable[Name], times: Callable[[Name, float], list[float]], min_seconds: float, rounds: int
) -> dict[Name, Latency]:
    """What `times` (name, seconds → milliseconds) gives in `rounds` short blocks each, forwards and backwards.

    A drift of the machine's speed then hits all alike: compare only what one call returned.
    """
    found: dict[Name, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in list(found)[:: 1 if turn % 2 == 0 else -1]:
            found[name] += times(name, min_seconds / rounds)
    return {name: Latency(float(np.median(t)), float(np.quantile(t, 0.9)), len(t)) for name, t in found.items()}


@dataclass(frozen=True)
class Memory:
    """Memory of one forward pass in MiB, weights and input included; `method` says how it was read."""

    peak_mib: float
    average_mib: float
    method: str


def memory(network: nn.Module, batch: Tensor) -> Memory:
    """Peak and time-averaged memory of one forward pass of `batch`.

    On a GPU from the allocator's statistics; on a CPU from every allocation and release during the pass, exact in its
    peak. Both on top of `batch` and the network's parameters and buffers: what else lies on the device is not counted,
    and memory that a library takes past torch's allocator is not seen.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"memory is measured of a torch.nn.Module, whose weights it counts; this is a {type(network).__name__}")
    storages = [tensor.untyped_storage() for tensor in (*network.parameters(), *network.buffers(), batch)]
    held = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    with _evaluating(network):
        network(batch)  # lazy initialisation is no part of a pass
        peak, average, method = (_on_cuda if batch.is_cuda else _on_cpu)(network, batch, held)
    return Memory(peak / MIB, average / MIB, method)


def _on_cpu(network: nn.Module, batch: Tensor, held: int, passes: int = 3) -> tuple[float, float, str]:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler prints two lines a run
    readings = []
    for _ in range(passes):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
                network(batch)
        events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
        readings.append(live_bytes([(e.start_ns(), e.nbytes()) for e in events]))
    peaks, averages = zip(*readings, strict=True)
    method = "live bytes of the CPU allocator over one forward pass (torch.profiler), weights and input included"
    return held + max(peaks), held + statistics.median(averages), method


def live_bytes(events: list[tuple[int, int]]) -> tuple[int, float]:
    """(peak, time average) of the bytes alive, from (time, bytes allocated or −bytes released) pairs."""
    if not events:
        return 0, 0.0
    times, changes = np.array(sorted(events, key=lambda event: event[0]), dtype=np.int64).T
    live = np.cumsum(changes)
    elapsed = np.diff(times)
    average = float((live[:-1] * elapsed).sum() / elapsed.sum()) if elapsed.sum() else float(live.mean())
    return max(int(live.max()), 0), average


def _on_cuda(network: nn.Module, batch: Tensor, held: int) -> tuple[float, float, str]:
    readings: list[tuple[float, int]] = []

    def read(*_: object) -> None:
        torch.cuda.synchronize(batch.device)
        readings.append((time.perf_counter(), torch.cuda.memory_allocated(batch.device)))

    torch.cuda.synchronize(batch.device)
    others = torch.cuda.memory_allocated(batch.device) - held  # other networks, libraries' workspaces
    torch.cuda.reset_peak_memory_stats(batch.device)
    network(batch)
    torch.cuda.synchronize(batch.device)
    peak = torch.cuda.max_memory_allocated(batch.device) - others
    # the average from a second pass: reading after every layer slows it, yet changes no peak
    layers = [module for module in network.modules() if not any(module.children())]
    handles = [module.register_forward_hook(read) for module in layers]
    try:
        read()
        network(batch)
    finally:
        for handle in handles:
            handle.remove()
    times, live = np.array(readings).T  # what is alive after a layer was alive while it ran
    average = float((live[1:] * np.diff(times)).sum() / np.diff(times).sum()) - others
    method = "CUDA allocator: its peak, and its live bytes read after every layer, weights and input included, no other tensors"
    return peak, average, method


class _Unreadable(RuntimeError):
    """No energy counter can be read; the message says why."""


def energy(
    network: Callable[[Tensor], Tensor], batch: Tensor, *, seconds: float = 3.0, powercap: Path = POWERCAP
) -> tuple[float | None, str]:
    """(mJ an image, how it was read), or (None, "not measured: why").

    The counter of the device that holds `batch` is read around a window of at least `seconds`, since NVML's moves only
    every 20 to 100 ms. All that the device draws in the window counts, its idle power included.
    """

    def run() -> None:
        network(batch)
        clock()  # waits for a GPU

    try:
        read, method = _nvml(batch.device) if batch.is_cuda else _rapl(powercap)
        with _evaluating(network):
            run()
            begun, before, calls = time.perf_counter(), read(), 0
            while time.perf_counter() - begun < seconds:
                run()
                calls += 1
            spent = read() - before
    except _Unreadable as error:
        return None, f"not measured: {error}"
    if spent <= 0:
        return None, f"not measured: {method} did not move in {seconds:g} s"
    return 1e3 * spent / (calls * len(batch)), method


def _nvml(device: torch.device) -> tuple[Callable[[], float], str]:
    """A reader of the GPU's total energy in joules."""
    try:
        import pynvml
    except ImportError:
        raise _Unreadable("pynvml (package nvidia-ml-py) is not installed") from None
    try:
        pynvml.nvmlInit()
        # by UUID, for NVML ignores CUDA_VISIBLE_DEVICES
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError as error:
        raise _Unreadable(f"NVML gives no energy counter of this GPU ({error})") from None
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3, "NVML total energy counter"


def _rapl(root: Path) -> tuple[Callable[[], float], str]:
    """A reader of the processor packages' energy in joules, counted on from the first reading."""
    zones = []
    for zone in sorted(root.glob("intel-rapl:*")):
        try:
            if (zone / "name").read_text().startswith("package"):  # the others lie within a package or around it
                (zone / "energy_uj").read_text()
                zones.append((zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())))
        except OSError as error:  # mostly that only root may read it
            raise _Unreadable(f"the processor's energy counter cannot be read ({error})") from None
    if not zones:
        raise _Unreadable(f"no energy counter of the processor under {root} and no GPU in use")
    last = [int(path.read_text()) for path, _ in zones]
    total = [0]

    def read() -> float:
        for i, (path, span) in enumerate(zones):
            now = int(path.read_text())
            total[0] += (now - last[i]) % (span + 1)  # the counter wraps
            last[i] = now
        return total[0] / 1e6

    return read, "RAPL energy counter of the processor packages"
