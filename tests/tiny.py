"""Networks, images and a study so small that a test takes a fraction of a second; processes that start as fast."""

import functools
import multiprocessing
import pickle
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from helpers import data, models, settings

FORK = multiprocessing.get_context("forkserver")  # torch is imported once, every child is forked from there
FORK.set_forkserver_preload(["helpers.training", "helpers.study", "torch._dynamo"])  # the last by every optimiser

PROFILE = replace(
    settings.PROFILES["demo"],
    width_divisor=32,
    ranks="ABC",
    width_multiple=1,
    dense_epochs=2,
    finetune_epochs=2,
    init_epochs=3,
    channel_epochs=2,
    channel_scratch_epochs=2,
    scan_images=24,
    statistics_images=30,
    positions=4,
    pruning_stages=2,
)
NAMES = ("dense", "dense-normalization-half", "layerwise_magnitude-s80.33", "lasso_channels", "grasp_iterative-s80")
VOLATILE = {"train_seconds", "seconds", "average_memory_mib", "energy_mj", "timed_at"}


def network(widths: Sequence[int | str] = (4, "M", 8, "M", 8, "M"), hidden: Sequence[int] = (8,), **options) -> models.VGG:
    """A network with three convolutions for 32×32 images of 10 classes, always the same one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.VGG(10, widths, hidden, **{"normalization": models.NORMALIZATIONS["half"]} | options)


def images(count: int, size: int = 32, classes: int = 10) -> data.Split:
    """Random images, always the same ones, with labels in turn."""
    drawn = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
    return data.Split(drawn, torch.arange(count) % classes)


_load = functools.cache(data.load)  # before `install` puts `splits` in its place


def splits(name: str = "digits", device: torch.device | None = None, **options) -> data.Splits:
    """The digits with 100 training, 24 validation and 40 test images."""
    whole = _load(name, torch.device("cpu"), **options)
    first = torch.cat([(whole.train.labels == label).nonzero().flatten()[:10] for label in range(10)])
    parts = {"val": whole.val.subset(torch.arange(24)), "test": whole.test.subset(torch.arange(40))}
    return replace(whole, train=whole.train.subset(first), **parts)


def experiments(names: Sequence[str] = NAMES) -> list:
    """The experiments of the tiny study with these names."""
    from helpers import plan

    return [experiment for experiment in plan.experiments(PROFILE) if experiment.name in names]


def install(names: Sequence[str] = NAMES) -> None:
    """The tiny study in place of the demo, on one thread, for this whole process; nothing is measured."""
    from helpers import facts, measurement, plan, results
    from helpers.pruning import widths
    from helpers.sparse import kernels

    torch.set_num_threads(1)
    settings.PROFILES["demo"], chosen = PROFILE, experiments(names)
    data.load = splits
    plan.experiments = lambda profile, topic=None: [e for e in chosen if topic in (None, e.topic)]
    results.commit = lambda: "tiny"
    facts.store = lambda profile, dataset: {}
    kernels.available = lambda: "no kernels in this test"
    measurement.latency = lambda runs, *_, **__: {name: measurement.Latency(1.0, 2.0, 3) for name in runs}
    measurement.macs_aten = widths.macs_with_batch_norm  # the same without the counter's import
    measurement.memory = lambda *_: measurement.Memory(2.0, 1.0, "by hand")
    measurement.energy = lambda *_, **__: (None, "not measured: no counter in this test")


def dask_setup(worker) -> None:
    """A Dask worker that preloads this module has the small digits."""
    data.load = splits


def damaged(whole: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """`whole` with a bit flipped, a run overwritten, cut short, a piece lost or doubled; never `whole` itself."""
    draw = random.Random(seed)
    while count:
        at, length = draw.randrange(len(whole)), draw.randint(1, 16)
        broken = {
            "flip": whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :],
            "overwrite": whole[:at] + draw.randbytes(length) + whole[at + length :],
            "cut": whole[:at],
            "lose": whole[:at] + whole[at + length :],
            "double": whole[: at + length] + whole[at:],
        }[draw.choice(("flip", "flip", "overwrite", "cut", "lose", "double"))]
        if broken != whole:
            count -= 1
            yield broken


class Malicious:
    """Unpickling it creates a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


def trap(target: Path) -> bytes:
    """A pickle whose loading would create `target`."""
    return pickle.dumps(Malicious(target))


def steady(value):
    """A result, or a part of one, without what differs from run to run."""
    if isinstance(value, dict):
        return {name: steady(part) for name, part in value.items() if name not in VOLATILE}
    return [steady(part) for part in value] if isinstance(value, list) else value


def run_as_main(module: str, *arguments: str) -> None:
    """What `python -m module arguments` does, in this process."""
    import runpy

    sys.argv = [module, *arguments]
    sys.modules.pop(module, None)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
