"""Images a second in training VGG16-BN: the plain loop against the one that `training.fit` runs, in the same run.

The latter has faster convolutions and keeps freed memory (`accelerate`). Both train the same network on the
same random batch (channels_last, fused SGD; in the processor's fast dtype and in float32) and take turns, so that a busy
machine slows both; medians of single steps, the first of every turn left out.
"""

import contextlib
import copy
import statistics
import time

import torch
import torch.nn.functional as F

from helpers import machine, models
from helpers.accelerate import accelerate

STEPS = 3  # a turn, after one that is not counted


def goal(dtype: torch.dtype) -> tuple[float, float] | None:
    """(ratio, images a second) asked of two cores in this format; none was set for bfloat16 without AMX."""
    if dtype == torch.float32:
        return 1.2, 80.0
    return (1.4, 250.0) if "amx_bf16" in machine.processor_flags() else None


def run(quick: bool) -> list[dict]:
    """A row for the processor's fast dtype and one for float32 where that is another."""
    return [compared(dtype, *((64, 2) if quick else (256, 4))) for dtype in dict.fromkeys((machine.dtype(), torch.float32))]


def compared(dtype: torch.dtype, batch: int, turns: int) -> dict:
    """Medians in milliseconds a step of both loops."""
    torch.manual_seed(0)
    networks = [models.VGG(10).to(memory_format=torch.channels_last).train()]
    networks.append(copy.deepcopy(networks[0]))
    images = torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,))
    optimizers = [torch.optim.SGD(n.parameters(), 0.01, momentum=0.9, nesterov=True, fused=True) for n in networks]

    def step(side: int) -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(networks[side](images), labels)
        optimizers[side].zero_grad(set_to_none=True)
        loss.backward()
        optimizers[side].step()
        return 1e3 * (time.perf_counter() - start)

    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(turns):
        for side in (0, 1):
            with accelerate(networks[side], dtype) if side else contextlib.nullcontext():
                times[side].extend([step(side) for _ in range(STEPS + 1)][1:])
    theirs, ours = map(statistics.median, times)
    in_words = str(dtype).removeprefix("torch.")
    note = (
        f"{1e3 * batch / ours:.0f} images/s against {1e3 * batch / theirs:.0f}, batch {batch}, {in_words}, channels_last, "
        f"{torch.get_num_threads()} threads, {machine.processor()}"
    )
    name = f"training step, VGG16-BN, {in_words}"
    row = {"name": name, "ours_ms": ours, "theirs_ms": theirs, "ratio": theirs / ours, "note": note}
    if (wanted := goal(dtype)) is None:
        return row
    reached = row["ratio"] >= wanted[0] and 1e3 * batch / ours >= wanted[1]
    return row | {"goal": f"≥ {wanted[0]:g}× and ≥ {wanted[1]:g} images/s", "met": reached}
