"""Rows that take a fraction of a second: a profile, a data set and a plan for tests that make rows in other processes.

`install()` puts them in place of the demo's in the process that calls it; a Dask worker does so with `--preload`.
"""

import functools
import sys
from dataclasses import replace

import torch

from helpers import data, measurement, plan, results, settings
from helpers.results import RowKey
from helpers.sparse import convolution

PROFILE = replace(
    settings.PROFILES["demo"],
    width_divisor=32,
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
KEYS = (
    RowKey("digits", "dense"),
    RowKey("digits", "dense", variant="normalization=half"),
    RowKey("digits", "layerwise_magnitude", 80.33),
    RowKey("digits", "lasso_channels"),
    RowKey("digits", "grasp_iterative", 80.0),
)
VOLATILE = {"train_seconds", "scoring_seconds", "seconds", "average_memory_mib", "energy_mj", "timed_at"}


def splits(name: str, device: torch.device | None = None) -> data.Splits:
    """The digits with 100 training, 24 validation and 40 test images."""
    whole = _digits(name)
    return replace(
        whole,
        train=whole.train.subset(_first_of_each_class(whole.train, 10)),
        val=whole.val.subset(torch.arange(24)),
        test=whole.test.subset(torch.arange(40)),
    )


_digits = functools.cache(data.load)


def _first_of_each_class(split: data.Split, count: int) -> torch.Tensor:
    return torch.cat([(split.labels == label).nonzero().flatten()[:count] for label in range(10)])


def install(keys: tuple[RowKey, ...] = KEYS) -> None:
    """The tiny study in place of the demo, on one thread; what is measured is not timed for long."""
    torch.set_num_threads(1)
    settings.PROFILES["demo"] = PROFILE
    data.load = splits
    plan.plan = lambda profile, topic=None: [plan.Planned(key, "baseline", "A") for key in keys]
    results.commit = lambda: "tiny"
    convolution.available = lambda: "no kernels in this test"
    measurement.latency = lambda runs, batch, **_: {name: measurement.Latency(1.0, 2.0, 3) for name in runs}


def dask_setup(worker) -> None:
    install()


def steady(value):
    """A row, or a part of one, without what differs from run to run."""
    if isinstance(value, dict):
        return {name: steady(part) for name, part in value.items() if name not in VOLATILE}
    return [steady(part) for part in value] if isinstance(value, list) else value


def run_as_main(module: str, *arguments: str) -> None:
    """What `python -m module arguments` does, in this process."""
    import runpy

    sys.argv = [module, *arguments]
    sys.modules.pop(module, None)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
