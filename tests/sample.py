"""Pages to look at: the committed ones, and a small report built once a process, that holds one of everything."""

import functools
import os
import re
import tempfile
from pathlib import Path

import nbformat
import pytest
import synthetic
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from helpers import results, settings
from helpers.report import build

PLAIN = "# {title}\n\n{question}\n\n## Limits\n\nThis is a sample."
FULL = r"""
# 1 · Which weights can go

How many weights can go before the network gets worse? [The original report](../docs/original.md) says most of them.
%% parameters
SPARSITY = 0.8
LAYER = "features.7"
%%
import pandas as pd
from helpers.report import look, published, tables

look.theme()
frame = pd.read_pickle("frame.pkl")
SPARSITY
%% markdown
## By hand

A weight $w_i$ has the score $|w_i|$, and the layer is left with

$$\|Y - XW\|^2.$$

See [the limits](00_baseline.ipynb#limits), and [Han et al. 2015](https://arxiv.org/abs/1506.02626).
%% open
import matplotlib.pyplot as plt

print("kept", 5, "of", 25)
%% markdown
## What it gives
%%
figure, axes = plt.subplots()
axes.plot([50, 75, 87.5], [92.1, 92, 91.2], **look.NETWORKS["layerwise_magnitude", ""].style)
look.show(figure, "01_curve", alt="Top-1 falls by 0.9 points from 50 to 87.5 % zeros.", caption="Top-1 against zeros.")
%%
tables.task(frame, published.ORIGINAL, [("dense", ""), ("layerwise_magnitude", "")], caption="Task 1a.")
%%
means = tables.means(frame[frame["label"] == ""]).dropna(axis=1, how="all").set_index(["dataset", "method"])
tables.table(means.select_dtypes("number"), caption="Everything that was measured.")
%% markdown
## What we see

- Half of the weights cost nothing.

<details><summary>Exercise: what happens at 99 %?</summary>

The network guesses.

</details>
"""
NOTEBOOKS = {
    "00_baseline": PLAIN.format(title="0 · The dense network", question="What does a network cost before pruning?"),
    "01_sensitivity": FULL,
}


def notebook(text: str) -> nbformat.NotebookNode:
    """A notebook from text in which a line "%% markdown" begins text, "%%" code, "%% NAME" code with that tag."""
    made = []
    for kind, source in re.findall(r"^%% ?(\w*)\n(.*?)(?=^%%|\Z)", f"%% markdown\n{text}\n", re.DOTALL | re.MULTILINE):
        tags = {"tags": [kind]} if kind else {}
        made.append(new_markdown_cell(source.strip()) if kind == "markdown" else new_code_cell(source.strip(), metadata=tags))
    return new_notebook(cells=made)


def site() -> Path:
    """The folder of pages that are tried in a browser: those of $DEMO_PAGES, else the committed ones, else the small report's."""
    committed = settings.ROOT / "reports"
    named = os.environ.get("DEMO_PAGES") or (committed if (committed / "index.html").is_file() else built())
    return Path(named).resolve()


def pages(site: Path) -> list[Path]:
    """The report's pages in a folder; that of `make time`, which a reader may have made there, is none of them."""
    return sorted(path for path in site.glob("*.html") if path.name != "here.html")


@functools.cache
def built() -> Path:
    """The folder of a small report's pages, over results that nobody measured."""
    folder, frame = Path(tempfile.mkdtemp(prefix="sample-")), synthetic.frame()
    (folder / "notebooks").mkdir()
    frame.to_pickle(folder / "notebooks" / "frame.pkl")
    for name, text in NOTEBOOKS.items():
        nbformat.write(notebook(text), folder / "notebooks" / f"{name}.ipynb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BUILD_DIR", str(folder))
        patch.setattr(results, "frame", lambda profile: frame)
        build.build("study", folder=folder / "notebooks")
    return folder / "study"
