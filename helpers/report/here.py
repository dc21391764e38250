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
HERE, THERE = "here", "in the study"


def beside(here: pd.DataFrame, there: pd.DataFrame) -> pd.DataFrame:
    """Milliseconds by method, label and software on two machines, from frames of `contenders`; empty where one has no line."""
    sides = {}
    for side, frame in ((HERE, here), (THERE, there)):
        sides[side] = frame.set_index(["method", "label", "software"])[list(contenders.TIMES)].astype(float)
    return pd.concat({HERE: sides[HERE], THERE: sides[THERE].reindex(sides[HERE].index)}, axis=1)


def page(here: pd.DataFrame, there: pd.DataFrame, missing: Sequence[str], out: Path) -> str:
    """The whole file."""
    where = f"Here: {machine.processor()}, {torch.get_num_threads()} threads."
    if there.attrs:
        where += f" In the study: {there.attrs['device']}, {there.attrs['threads']} threads."
    note = f"{where} {html.escape(' '.join(missing))}"
    table = tables.table(beside(here, there), caption="VGG16-BN on CIFAR-10.", note=note)
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
    there = results.contenders(STUDY, contenders.DATASET)
    files.save_text(path, page(here, there, missing, path.parent))
    print(beside(here, there).round(2).to_string(), *missing, sep="\n")
    print(f"in {time.monotonic() - begun:.0f} s: {path}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; nothing was written")
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
