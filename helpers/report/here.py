"""On this machine: the study's networks in every engine that is installed, timed here, beside the study's own times.

    python -m helpers.report.here [--seconds 1.5]

Needs the committed results alone, neither images nor trained weights.
"""

import argparse
import html
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from markupsafe import Markup

from helpers import contenders, files, machine, results, settings
from helpers.report import pages, tables
from helpers.report.build import provenance

STUDY = contenders.STUDY


def beside(here: pd.DataFrame) -> pd.DataFrame:
    """Milliseconds by method, label and software: here, and on every processor of the study."""
    runs = {f"in the study: {run.attrs['device']}": run for run in results.contenders(STUDY, contenders.DATASET)}
    return tables.side_by_side({"here": here} | runs, contenders.TIMES)


def page(here: pd.DataFrame, missing: Sequence[str], out: Path) -> str:
    """The whole file."""
    note = f"Here: {machine.processor()}, {torch.get_num_threads()} threads. {html.escape(' '.join(missing))}"
    table = tables.table(beside(here), caption="VGG16-BN on CIFAR-10, ms.", note=note)
    words = Markup(
        '<h1>On this machine</h1><p class="lede">The study\'s networks timed here, each software in a process of its own, in '
        "turns. Compare lines of one machine.</p>"
    )
    site = [pages.describe(path) for path in sorted(pages.NOTEBOOKS.glob("*.ipynb"))]
    study = provenance(results.frame(settings.PROFILES[STUDY]), STUDY)
    return pages.page(words + Markup(table.to_html()), [], None, site, out, "helpers/report/here.py", failure="", **study)


def main(arguments: Sequence[str] | None = None) -> int:
    """Time what the study has on this machine and write the page "on this machine"."""
    parser = argparse.ArgumentParser(prog="python -m helpers.report.here", description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=1.5, help="for one time")
    options = parser.parse_args(arguments)
    begun, path = time.monotonic(), settings.report_dir(STUDY) / "here.html"
    here, missing = contenders.measure(options.seconds)
    files.save_text(path, page(here, missing, path.parent))
    print(beside(here).round(2).to_string(), *missing, sep="\n")
    print(f"in {time.monotonic() - begun:.0f} s: {path}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; nothing was written")
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
