"""What a network costs: size, MACs and latency; memory and energy are reachable from here.

Every figure is read, never derived from a wish: what cannot be read is None with a reason, never 0. MiB is 2**20
bytes, one MAC one multiply-add. Networks are measured in inference mode and in their own dtype.
"""

import copy
import io
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from helpers import data
from helpers.energy import energy
from helpers.memory import MIB, memory
from helpers.models import VGG

__all__ = ["BATCH", "LATER", "Latency", "energy", "file_size", "images_for", "latency", "macs_aten", "memory"]

Name = TypeVar("Name", bound=Hashable)
BATCH = 128
LATER = "not measured: left to a pass in which nothing else runs on the machine"


@dataclass(frozen=True)
class Latency:
    """Time of one call in ms over `runs` calls."""

    median_ms: float
    p90_ms: float
    runs: int


def images_for(network: VGG, split: data.Split, count: int) -> Tensor:
    """The first `count` images of `split` (repeated where it has fewer), normalised for `network`: (count, 3, H, W)."""
    index = torch.arange(count, device=split.images.device) % len(split)
    return data.normalize(split.images[index], network.normalization)


def file_size(network: nn.Module) -> float:
    """MiB of the file that `torch.save(network.state_dict())` writes."""
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    return buffer.tell() / MIB


# MACs -------------------------------------------------------------------------------------------------------------


def macs_aten(network: VGG) -> int:
    """Multiply-adds for one image as ptflops counts them with its "aten" backend, batch norm included."""
    with _without("torchvision"):
        from ptflops import get_model_complexity_info
    # a copy: ptflops leaves hooks on the network's children
    macs, _ = get_model_complexity_info(
        copy.deepcopy(network).eval(),
        (3, network.image_size, network.image_size),
        as_strings=False,
        print_per_layer_stat=False,
        verbose=False,
        backend="aten",
    )
    if macs is None:
        raise RuntimeError("ptflops could not count this network; it printed why")
    return int(macs)


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Imports of `module` fail with ImportError inside.

    ptflops does without torchvision when there is none, yet stops when there is one whose compiled operators do not
    load, as is the case of the stock wheel beside a CPU-only torch.
    """
    held = sys.modules.get(module)
    sys.modules[module] = None
    try:
        yield
    finally:
        del sys.modules[module]
        if held is not None:
            sys.modules[module] = held


# Latency ----------------------------------------------------------------------------------------------------------


def latency(
    callables: Mapping[Name, Callable[[Tensor], Tensor]],
    batch: Tensor | Mapping[Name, Tensor],
    *,
    threads: int | None = None,
    min_seconds: float = 2.0,
    rounds: int = 5,
) -> dict[Name, Latency]:
    """Time a call of each on `batch`, or on its own of several, at least `min_seconds` each.

    `threads` is torch's setting unless given. They take turns, in `rounds` short blocks each, forwards and backwards, so
    that a drift of the machine's speed hits all alike: compare only what one call returned. Calls much shorter than a
    millisecond are timed several at a time, and the 90th percentile is then one of such groups.
    """
    threads = threads or torch.get_num_threads()
    batches = batch if isinstance(batch, Mapping) else dict.fromkeys(callables, batch)
    timers = {
        name: Timer("call(batch)", globals={"call": call, "batch": batches[name]}, num_threads=threads)
        for name, call in callables.items()
    }
    times: dict[Name, list[float]] = {name: [] for name in callables}
    runs = dict.fromkeys(callables, 0)
    modules = [c for c in callables.values() if isinstance(c, nn.Module) and c.training]
    for module in modules:
        module.eval()
    with torch.inference_mode():
        for name, call in callables.items():
            for _ in range(3):  # first calls pick kernels and reorder weights
                call(batches[name])
        for turn in range(rounds):
            for name in list(timers)[:: 1 if turn % 2 == 0 else -1]:
                block = timers[name].blocked_autorange(min_run_time=min_seconds / rounds)
                times[name] += block.times
                runs[name] += len(block.times) * block.number_per_run
    for module in modules:
        module.train()
    return {name: Latency(1e3 * float(np.median(t)), 1e3 * float(np.quantile(t, 0.9)), runs[name]) for name, t in times.items()}
