"""On this machine: dense, pruned and smaller networks in every engine that is installed, timed here, beside the study's times.

    python -m helpers.report.here [--seconds 1.5]

Needs the committed results alone, neither images nor trained weights: times depend on where zeros are and how wide layers are,
not on values. A network that lies with the results is timed as it is; another gets random weights, with as many zeros in each
layer as its result has.
"""

import argparse
import contextlib
import html
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from markupsafe import Markup

from helpers import engines, files, machine, models, plan, progress, results, settings, storage
from helpers.experiments import Experiment
from helpers.pruning import masks
from helpers.report import look, pages, tables
from helpers.report.build import provenance

STUDY, DATASET = "study", "cifar10"
SKIPPED = "zeros skipped fp32"
DENSE = tuple(name for name in engines.ENGINES if not name.startswith("zeros skipped"))
METHODS = {"dense": DENSE, "layerwise_magnitude": (SKIPPED, "zeros skipped int8"), "uniform_magnitude": (SKIPPED,)}
METHODS["lasso_channels"] = tuple(name for name in DENSE if not name.startswith("ONNX"))
MEASURED = {"PyTorch fp32": ("folded_", ""), SKIPPED: ("sparse_",)}  # what the study timed as well: prefixes of its columns
COLUMNS = {"time_ms": ("latency_ms", 1), "time_batch128_ms": ("latency_batch128_ms", 128)}
HERE, THERE = "here", "in the study"
CALIBRATION_IMAGES = 64  # drawn: the ranges of activations change no time


def network(experiment: Experiment, result: dict) -> models.VGG:
    """The network that lies with a result, else one with random weights, and zeros or widths as the result has them."""
    with contextlib.suppress(FileNotFoundError):  # only some networks are kept, and of others only the masks
        return storage.committed(DATASET, experiment.name, STUDY)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = models.VGG(10, result.get("widths", models.VGG16)).eval()
    if "size_bitmask_mib" in result:
        masks.magnitude(made, {f"{layer['name']}.weight": layer["kept"] for layer in result["layers"]}).apply(made)
    return made


def timed(seconds: float) -> tuple[pd.DataFrame, list[str]]:
    """Milliseconds by (network, software) here and in the study, and why some software has no line.

    ValueError where the study's results are missing. Engines whose products would saturate here are left out: one would not
    use them.
    """
    drawn, running, missing = torch.randn(128, 3, 32, 32), {}, {}
    lines: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    with contextlib.ExitStack() as stack:
        for experiment, result in _main_results():
            made, name = network(experiment, result), look.name(experiment.method)
            for software in (software for software in METHODS[experiment.method] if not engines.saturates(software)):
                try:
                    engine = engines.Engine(software, made, drawn[:CALIBRATION_IMAGES])
                except engines.Unavailable as reason:
                    missing[software] = f"{software}: {reason}."
                    continue
                running[name, software] = stack.enter_context(engine)
                progress.say(f"{name}, {software}: ready")
                lines[name, software] = {(THERE, column): _in_the_study(result, software, column) for column in COLUMNS}
        for column, (_, batch) in COLUMNS.items():
            for head, latency in engines.latency(running, drawn[:batch], min_seconds=seconds).items():
                lines[head][HERE, column] = latency.median_ms
    frame = pd.DataFrame.from_dict(lines, orient="index")
    frame.index, frame.columns = pd.MultiIndex.from_tuples(lines, names=["network", "software"]), pd.MultiIndex.from_tuples(frame)
    return frame[[(side, column) for side in (HERE, THERE) for column in COLUMNS]], list(missing.values())


def _main_results() -> list[tuple[Experiment, dict]]:
    """The networks of the page, those in `METHODS`, with their results."""
    planned = plan.experiments(settings.PROFILES[STUDY])
    main = {e.method: e for e in reversed(planned) if (e.dataset, e.label, e.seed) == (DATASET, "", 0)}
    found = [(main[method], result) for method in METHODS if method in main and (result := results.load(main[method]))]
    if not found:
        raise ValueError(f"no results of {DATASET} in {settings.results_dir(STUDY)}: restore them from the repository")
    return found


def _in_the_study(result: dict, software: str, column: str) -> float:
    """What the study measured with the same software; NaN where it did not."""
    stored = (result.get(f"{prefix}{COLUMNS[column][0]}") for prefix in MEASURED.get(software, ()))
    return next(filter(None, stored), math.nan)


def page(frame: pd.DataFrame, missing: Sequence[str], out: Path) -> str:
    """The whole file."""
    study = provenance(results.frame(settings.PROFILES[STUDY]), STUDY)
    here = f"{machine.processor()}, {torch.get_num_threads()} threads"
    note = f"Here: {here}. In the study: {study['provenance']['Results measured on']}. " + html.escape(" ".join(missing))
    table = tables.table(frame, caption="VGG16-BN on CIFAR-10.", note=note)
    words = Markup(
        '<h1>On this machine</h1><p class="lede">The study\'s networks timed here, each software in a process of its own, in '
        "turns. Compare lines of one machine. The study ran PyTorch with batch norms as they are.</p>"
    )
    site = [pages.describe(path) for path in sorted(pages.NOTEBOOKS.glob("*.ipynb"))]
    return pages.page(words + Markup(table.to_html()), [], None, site, out, "helpers/report/here.py", failure="", **study)


def main(arguments: Sequence[str] | None = None) -> int:
    """Time what the study has on this machine and write the page "on this machine"."""
    parser = argparse.ArgumentParser(prog="python -m helpers.report.here", description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=1.5, help="for one time")
    options = parser.parse_args(arguments)
    begun, path = time.monotonic(), settings.report_dir(STUDY) / "here.html"
    frame, missing = timed(options.seconds)
    files.save_text(path, page(frame, missing, path.parent))
    print(frame.round(2).to_string(), *missing, sep="\n")
    print(f"in {time.monotonic() - begun:.0f} s: {path}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; nothing was written")
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
