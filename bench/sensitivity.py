"""The sensitivity scan against running the whole pruned network for every point.

Both sides read the same images and are timed in turn, layer by layer. The plain side prunes one layer of a copy and
evaluates it with the project's own loop (channels last): in float32, and in the machine's format by autocast where that is
another. CIFAR-10 and its trained network are used where they are at hand; otherwise, and with --quick, a network of a
quarter of the width on the digits, whose figures say less about speed.
"""

import copy
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from helpers import data, machine, models, pretrained, training
from helpers.pruning import masks, sensitivity

GOAL = 3.0  # against float32
IMAGES, QUICK_IMAGES = 500, 150
QUICK_SPARSITIES = (0.5, 0.8, 0.95)


def subject(quick: bool) -> tuple[models.VGG, data.Split, str]:
    """(network, images, what they are); the digits' network is trained for a few seconds."""
    try:
        if not quick:
            splits = data.load("cifar10")
            network = pretrained.load("cifar10").to(machine.device())
            return network, data.class_balanced(splits.val, IMAGES // 10, seed=0), f"VGG16-BN, {IMAGES} CIFAR-10 images"
    except FileNotFoundError:
        pass
    splits = data.load("digits")
    torch.manual_seed(0)
    network = models.VGG(10, models.scaled(models.VGG16, 4), (128, 128), dropout=0.2).to(machine.device())
    training.fit(network, splits.train, training.Recipe(epochs=5, batch_size=64, peak_lr=0.05))
    return network, splits.val.subset(torch.arange(QUICK_IMAGES)), f"a quarter of VGG16-BN's width, {QUICK_IMAGES} digits"


def whole(network: models.VGG, name: str, split: data.Split, sparsities: Sequence[float], dtype: torch.dtype) -> list[float]:
    """Top-1 (%) at every sparsity of one layer, the plain way."""
    pruned, top1 = copy.deepcopy(network).to(memory_format=torch.channels_last), []
    weight = models.weight_layers(pruned)[name].weight
    for sparsity in sparsities:  # growing, so that each goes on from the one before
        weight.data.mul_(masks.keep_largest(weight.abs(), masks.kept_count(weight.numel(), sparsity)))
        top1.append(training.evaluate(pruned, split, dtype=dtype, batch_size=sensitivity.BATCH).top1_pct)
    return top1


def timed(work: Callable) -> tuple[float, object]:
    start = time.perf_counter()
    result = work()
    if machine.device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def run(quick: bool) -> list[dict]:
    """One row for each dtype of the plain side; milliseconds a point of the scan."""
    network, split, what = subject(quick)
    sparsities = QUICK_SPARSITIES if quick else sensitivity.SPARSITIES
    plain = list(dict.fromkeys((torch.float32, machine.dtype())))
    figures: dict = {side: [] for side in ("ours", *plain)}
    seconds = dict.fromkeys(figures, 0.0)
    with torch.inference_mode():
        for dtype in plain:  # warm up
            whole(network, next(iter(models.weight_layers(network))), split, sparsities[:1], dtype)
        seconds["ours"], reader = timed(lambda: sensitivity._Reader(network, split, machine.dtype(), sensitivity.UNDECIDED))
        for name, layer in models.weight_layers(network).items():
            sides = {dtype: lambda dtype=dtype, name=name: whole(network, name, split, sparsities, dtype) for dtype in plain}
            sides["ours"] = lambda layer=layer: [reader.top1_pct(layer.weight, sparsity) for sparsity in sparsities]
            for side, work in sides.items():
                took, row = timed(work)
                seconds[side] += took
                figures[side].append(row)
            seconds["ours"] += timed(reader.advance)[0]
    apart = np.abs(np.array(figures["ours"]) - np.array(figures[torch.float32])).max()
    points = len(figures["ours"]) * len(sparsities)
    note = (
        f"{what}, {points} points, ours in {_name(machine.dtype())}; figures at most {apart:.2f} points from float32's, "
        f"one image is {100 / len(split):.2f}; {torch.get_num_threads()} threads, {machine.processor()}"
    )
    return [
        {
            "name": f"sensitivity scan, against whole networks in {_name(dtype)}",
            "ours_ms": 1e3 * seconds["ours"] / points,
            "theirs_ms": 1e3 * seconds[dtype] / points,
            "ratio": seconds[dtype] / seconds["ours"],
            "goal": GOAL if dtype == torch.float32 else None,
            "note": f"a point; {'' if dtype == torch.float32 else 'what reuse alone saves; '}{note}",
        }
        for dtype in plain
    ]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
