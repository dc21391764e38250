"""Dense or sparse, layer by layer: measured once a machine, then read from a file.

A measurement is of a shape, a density in steps of 5 %, a layout and a number of threads, on random zeros. The plan is the
cheapest path through the network, the conversions between dense and sparse layers included.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from helpers import files, models
from helpers.sparse import kernels, layers
from helpers.sparse.layers import IMAGES, POSITIONS, Operation

BATCH = {IMAGES: 32, POSITIONS: 1}
BUCKETS = 20  # densities are rounded up to 1/20
MARGIN = 1.15  # a layer runs dense only if that is faster by more than the noise of a busy machine
SECONDS = 0.02  # a measurement repeats until it has run this long, at least three times


@dataclass(frozen=True)
class Choice:
    """One layer in one layout: milliseconds for BATCH[layout] images, and what was chosen."""

    layout: str
    name: str
    density: float
    dense_ms: float
    sparse_ms: float
    convert_ms: float  # of the layer's input, from one kind to the other: half of there and back
    kind: str


def require_cpu(network: models.VGG) -> None:
    """ValueError unless the network's weights lie on the CPU, where the kernels run and their times are taken."""
    elsewhere = {str(weight.device) for weight in network.parameters()} - {"cpu"}
    if elsewhere:
        raise ValueError(f'sparse networks run on the CPU, this one is on {min(elsewhere)}: pass a copy moved by .to("cpu")')


def _sized(network: models.VGG) -> list[tuple[Operation, tuple[int, int, int]]]:
    """The prunable layers with the (channels, height, width) that they see."""
    x, sized = torch.zeros(1, 3, network.image_size, network.image_size), []
    for op in layers.operations(network):
        if isinstance(op, Operation):
            sized.append((op, (*x.shape[1:], 1, 1)[:3]))
            x = layers.dense_step(op)(x)
        else:
            x = op(x)
    return sized


def _key(op: Operation, size: tuple[int, int, int], layout: str) -> str:
    kept = int(op.weight.count_nonzero())
    bucket = -(-kept * BUCKETS // op.weight.numel())  # in whole numbers: 0.2 in float32 is a little more than 4/20
    shape = "x".join(map(str, op.weight.shape))
    extras = f"stride {op.stride} padding {op.padding} relu {int(op.relu)} pool {int(op.pool)}"
    return f"{layout} {shape} on {'x'.join(map(str, size))} {extras} density {max(1, bucket)}/{BUCKETS}"


def _milliseconds(calls: dict[str, Callable[[], Tensor]]) -> dict[str, float]:
    """The least time of each call, taken in turns."""
    best = dict.fromkeys(calls, float("inf"))
    for call in calls.values():
        call()
    started, rounds = time.perf_counter(), 0
    while rounds < 3 or time.perf_counter() - started < SECONDS * len(calls):
        for name, call in calls.items():
            before = time.perf_counter()
            call()
            best[name] = min(best[name], 1e3 * (time.perf_counter() - before))
        rounds += 1
    return best


def _measure(op: Operation, size: tuple[int, int, int], layout: str, density: float) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(op.weight.shape, generator=generator)
    weight *= torch.rand(op.weight.shape, generator=generator) < density
    probe = Operation(op.name, weight, op.bias, op.stride, op.padding, op.relu, op.pool)
    x = torch.randn(BATCH[layout], *size, generator=generator)
    last = x.contiguous(memory_format=torch.channels_last)
    dense = layers.dense_step(probe)
    if layout == IMAGES:
        sparse, ours = layers.images_step(probe, *size), kernels.to_images(x, layers.lanes_of())
        there = lambda: kernels.to_images(last, layers.lanes_of())  # noqa: E731
        back = lambda: kernels.from_images(ours).contiguous(memory_format=torch.channels_last)  # noqa: E731
    else:
        sparse, ours = layers.positions_step(probe, *size), x
        there = lambda: last.clone(memory_format=torch.contiguous_format)  # noqa: E731
        back = lambda: x.clone(memory_format=torch.channels_last)  # noqa: E731
    times = _milliseconds({"dense_ms": lambda: dense(last), "sparse_ms": lambda: sparse(ours), "there": there, "back": back})
    return {"convert_ms": (times.pop("there") + times.pop("back")) / 2, **times}


@torch.no_grad()
def table(network: models.VGG) -> list[Choice]:
    """Both layouts' times and choices for every layer; measures what this machine has not measured before.

    Empty where sparse kernels are not available. Raises ValueError for a network that is not on the CPU.
    """
    require_cpu(network)
    if kernels.available() is not None:
        return []
    parts = (kernels.processor(), torch.__version__, kernels.SOURCE.read_text())
    machine = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    path = kernels.cache_dir() / f"choice-{machine}-threads{torch.get_num_threads()}.json"
    sized = _sized(network)
    with files.lock(path.with_suffix(".lock")):
        try:
            known = files.load_json(path)
        except (FileNotFoundError, files.CorruptFile):
            known = {}
        missing = {_key(op, size, layout): (op, size, layout) for layout in BATCH for op, size in sized}
        missing = {key: what for key, what in missing.items() if key not in known}
        for key, (op, size, layout) in missing.items():
            known[key] = _measure(op, size, layout, int(key.rsplit(" ", 1)[1].split("/")[0]) / BUCKETS)
        if missing:
            files.save_json(path, known)
    rows = []
    for layout in BATCH:
        times = [known[_key(op, size, layout)] for op, size in sized]
        kinds = _cheapest(times)
        for (op, _), measured, kind in zip(sized, times, kinds, strict=True):
            rows.append(Choice(layout, op.name, op.density, **measured, kind=kind))
    return rows


def _cheapest(times: list[dict[str, float]]) -> list[str]:
    """The kinds of the cheapest path, which begins and ends with plain tensors (as dense layers do)."""
    paths: dict[str, tuple[float, list[str]]] = {"dense": (0.0, []), "sparse": (float("inf"), [])}
    for layer in times:
        following = {}
        for kind in paths:
            cost, before = min(
                (total + (layer["convert_ms"] if last != kind else 0.0), kinds) for last, (total, kinds) in paths.items()
            )
            following[kind] = (cost + layer[f"{kind}_ms"] * (MARGIN if kind == "dense" else 1), [*before, kind])
        paths = following
    paths["sparse"] = (paths["sparse"][0] + times[-1]["convert_ms"], paths["sparse"][1])
    return min(paths.values())[1]


def plan(network: models.VGG) -> dict[str, dict[str, str]]:
    """{layout: {layer: "dense" | "sparse"}} of the cheapest paths."""
    rows = table(network)
    return {layout: {row.name: row.kind for row in rows if row.layout == layout} for layout in BATCH}
