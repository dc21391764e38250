"""What one would do instead of pruning, and pruning beside it: networks of the study in every engine, timed in turns.

    python -m helpers.contenders [--seconds 4]        on a quiet machine, with CIFAR-10 and the trained weights

stores a run with the study's results, one a processor; `report.here` repeats it on a reader's machine. Each engine has a
process of its own (see `engines`). Times depend on where zeros are and how wide layers are, not on values: a network whose
masks or widths alone are known is timed with random weights, and has no accuracy of its own.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pandas as pd
import torch

from helpers import data, engines, models, plan, pretrained, progress, results, settings, storage
from helpers.experiments import Experiment
from helpers.measurement import BATCH
from helpers.pruning import masks

STUDY, DATASET = "study", "cifar10"
FLOAT, WHOLE = "zeros skipped fp32", "zeros skipped int8"
DENSE = tuple(name for name in engines.ENGINES if name not in (FLOAT, WHOLE))
SOFTWARE = {  # (method, label) of a main result → the software that its network is timed in
    ("dense", ""): DENSE,
    ("layerwise_magnitude", ""): (FLOAT,),
    ("repaired", ""): (FLOAT,),
    ("repaired", "macs"): (FLOAT,),
    ("repaired", "blocks"): (WHOLE,),
    ("repaired", "blocks_macs"): (WHOLE,),
    ("lasso_channels", ""): DENSE,
    ("lasso_channels", "macs=2x"): DENSE,
}
CALIBRATION_IMAGES, FEW = 500, 16  # that int8 engines take ranges from; few where nobody asks for their top-1
TIMES = {"time_ms": 1, "time_batch128_ms": BATCH}  # column → images at once


@dataclass(frozen=True)
class Contender:
    """A network of the study; `real` where its weights are its own."""

    experiment: Experiment
    network: models.VGG
    real: bool

    @property
    def software(self) -> tuple[str, ...]:
        """What it is timed in."""
        return SOFTWARE[self.experiment.method, self.experiment.label]


def contenders(trained: bool) -> list[Contender]:
    """The networks of `SOFTWARE` that the study has results of; with `trained` the dense one has its given weights.

    Of several sparsities the first; of its seeds the first whose network is kept.
    """
    planned, found = [e for e in plan.experiments(settings.PROFILES[STUDY]) if e.dataset == DATASET], []
    for wanted in SOFTWARE:
        if made := [(e, result) for e in planned if (e.method, e.label) == wanted and (result := results.load(e)) is not None]:
            seeds = (pair for pair in made if pair[0].sparsity_pct == made[0][0].sparsity_pct)
            kept = (pair for pair in seeds if settings.kept_path(STUDY, DATASET, pair[0].name).is_file())
            found.append(_contender(*next(kept, made[0]), trained))
    if not found:
        raise ValueError(f"no results of {DATASET} in {settings.results_dir(STUDY)}: restore them from the repository")
    return found


def _contender(experiment: Experiment, result: dict, trained: bool) -> Contender:
    if experiment.method == "dense" and trained:
        return Contender(experiment, pretrained.load(DATASET), True)
    with contextlib.suppress(FileNotFoundError):  # only some networks are kept, and of others only the masks
        return Contender(experiment, storage.committed(DATASET, experiment.name, STUDY), True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.VGG(10, result.get("widths", models.VGG16)).eval()
    if "size_bitmask_mib" in result:
        masks.magnitude(network, {f"{layer['name']}.weight": layer["kept"] for layer in result["layers"]}).apply(network)
    return Contender(experiment, network, False)


def measure(seconds: float, splits: data.Splits | None = None) -> tuple[pd.DataFrame, list[str]]:
    """One line a network and its software, timed here in turns, `seconds` for each time; and why some software has no line.

    Columns: method, label, software, `TIMES` in ms, `size_mib` of an engine's own file, and with `splits` `top1_pct` of the
    networks that have their own weights. Int8 activations get their ranges from training images, without `splits` from noise.
    """
    noise = torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    running: dict[int, engines.Engine] = {}
    lines: list[dict] = []
    missing: dict[str, str] = {}
    wanted = [
        (contender, software)
        for contender in contenders(trained=splits is not None)
        for software in contender.software
        if splits is not None or not engines.saturates(software)  # without test images nobody would see what that loses
    ]
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(torch.get_num_threads()) as pool:
        # each engine starts a process and imports its packages there, which takes longer than all else
        started = [pool.submit(_engine, contender.network, software, splits, noise) for contender, software in wanted]
        for (contender, software), engine in zip(wanted, started, strict=True):
            try:
                running[len(lines)] = ready = stack.enter_context(engine.result())
            except engines.Unavailable as reason:
                missing[software] = f"{software}: {reason}."
                continue
            progress.say(f"{contender.experiment.name}, {software}: ready")
            of = contender.experiment
            line = {"method": of.method, "label": of.label, "software": software, "size_mib": ready.size_mib}
            if splits and contender.real:
                line["top1_pct"] = top1_pct(ready, splits.test, contender.network.normalization)
            lines.append(line)
        for column, images in TIMES.items():
            for number, latency in engines.latency(running, noise[:images], min_seconds=seconds).items():
                lines[number][column] = latency.median_ms
    return pd.DataFrame(lines), list(missing.values())


def _engine(network: models.VGG, software: str, splits: data.Splits | None, noise: torch.Tensor) -> engines.Engine:
    images = data.normalize(splits.train.images[:CALIBRATION_IMAGES], network.normalization) if splits else noise[:FEW]
    return engines.Engine(software, network, images)


def top1_pct(engine: engines.Engine, split: data.Split, normalization: models.Normalization) -> float:
    """Per cent of a split's images that an engine classifies rightly."""
    right = engine(data.normalize(split.images, normalization)).argmax(1) == split.labels
    return 100 * float(right.double().mean())


def main(arguments: Iterable[str] | None = None) -> int:
    """Time the study's networks in every engine and store that with the study's results."""
    parser = argparse.ArgumentParser(prog="python -m helpers.contenders", description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="for one time")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    frame, missing = measure(options.seconds, data.load(DATASET, torch.device("cpu")))
    results.store_contenders(STUDY, DATASET, frame, missing)
    print(frame.round(2).to_string(), *missing, f"in {time.monotonic() - begun:.0f} s", sep="\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; nothing was stored")
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
