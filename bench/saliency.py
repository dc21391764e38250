"""One GraSP scoring of VGG16-BN on 100 images against one plain training step on the same images, in the same run.

The step is what it would be in training without tricks: float32, forward, backward and fused SGD; in PyTorch's default
memory layout, as the scoring, and channels_last, as the training loop runs it. The three take turns, so that a busy
machine slows all; medians, the first turn left out. Peak memory is what each allocates on top of the network and the
images: from torch's allocations and releases on a CPU, from the allocator's statistics on a GPU.
"""

import copy
import statistics
import time
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from helpers import machine, measurement, models
from helpers.pruning import scores

GOAL = 4.0
IMAGES = 100


def training_step(network: models.VGG, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, nesterov=True, fused=True)

    def step() -> None:
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def milliseconds(work: Callable, device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


def peak_mib(work: Callable, device: torch.device) -> float:
    """What `work` has alive at its highest, beyond what was alive before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / measurement.MIB
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            work()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    return measurement.live_bytes([(e.start_ns(), e.nbytes()) for e in events])[0] / measurement.MIB


def run(quick: bool) -> list[dict]:
    """One row for each layout of the training step."""
    device = machine.device()
    torch.manual_seed(0)
    widths, hidden = (models.scaled(models.VGG16, 4), (128, 128)) if quick else (models.VGG16, (512, 512))
    network = models.VGG(10, widths, hidden).to(device)
    images, labels = torch.randn(IMAGES, 3, 32, 32, device=device), torch.arange(IMAGES, device=device) % 10
    last = torch.channels_last
    sides = {
        "ours": lambda: scores.grasp(network, images, labels),
        "default layout": training_step(copy.deepcopy(network), images, labels),
        "channels_last": training_step(
            copy.deepcopy(network).to(memory_format=last), images.contiguous(memory_format=last), labels
        ),
    }
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(4 if quick else 6):
        for side, work in sides.items():
            times[side].append(milliseconds(work, device))
    median = {side: statistics.median(taken[1:]) for side, taken in times.items()}
    peak = {side: peak_mib(work, device) for side, work in sides.items()}
    what = "VGG16-BN at a quarter of its width" if quick else "VGG16-BN"
    return [
        {
            "name": f"GraSP scoring against a training step ({side}), {what}, {IMAGES} images",
            "ours_ms": median["ours"],
            "theirs_ms": median[side],
            "ratio": median[side] / median["ours"],
            "goal": 1 / GOAL,
            "note": f"goal: the time of at most {GOAL:g} steps, found {median['ours'] / median[side]:.2f}; "
            f"peak memory {peak['ours']:.0f} MiB against {peak[side]:.0f} MiB beside network and images; float32, "
            f"{torch.get_num_threads()} threads, {machine.processor()}",
        }
        for side in ("default layout", "channels_last")
    ]
