"""The study's results as Markdown: the short table of the README and the long one beside the results."""

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from helpers import settings
from helpers.report import claims, evidence, look
from helpers.report.tables import HEADINGS

COLUMNS = ["seeds", "sparsity_pct", "size_mib", "effective_macs", "time_batch128_ms", "epochs", "top1_pct"]
SHORT = ("dense_finetuned", "layerwise_magnitude", "repaired", "lasso_channels")
MARKED = re.compile(r"(?<=<!-- results -->\n).*(?=<!-- end of results -->)", re.DOTALL)
FOOTNOTE = (
    "¹ 128 images on {}, against the dense network in PyTorch; zeros are skipped by this project's kernel. *Repair* trains "
    "nothing: the weights that stay are solved for from 1,000 images without labels."
)
CHEAPEST = (
    "The cheapest way that surely loses at most one point of top-1, and how many times less it costs than the dense network:"
)
INTRODUCTION = """# All results of the study

Means over trainings with other seeds. *Effective MACs* touch a weight that is not zero; time is that of PyTorch or of this
project's kernel that skips zeros, whichever is faster. One JSON file a training lies in `study/`. `make report PROFILE=study`
writes this file.
"""


def texts(frame: pd.DataFrame) -> dict[Path, str]:
    """The files that show the results as Markdown, with what has to stand in them; `frame` as `study.frame` gives it."""
    networks, readme = evidence.networks(frame), settings.ROOT / "README.md"
    timed_on = networks[networks["latency_batch128_ms"].notna()]["device"].unique()
    parts = short_table(networks), f"{FOOTNOTE.format(' and '.join(timed_on))}\n", f"{CHEAPEST}\n", use_when(frame)
    return {
        readme: MARKED.sub(lambda _: "\n".join(parts), readme.read_text("utf-8")),
        settings.ROOT / "results" / "README.md": f"{INTRODUCTION}\n{long_table(networks)}",
    }


def short_table(networks: pd.DataFrame) -> str:
    """File, speed and top-1 of three networks on every data set."""
    main, lines = networks[networks["label"] == ""].set_index(["dataset", "method"]), []
    for dataset in networks["dataset"].unique():
        for method in (name for name in SHORT if (dataset, name) in main.index):
            own, dense = main.loc[(dataset, method)], main.loc[(dataset, "dense")]
            faster = dense["time_batch128_ms"] / own["time_batch128_ms"]
            speed = "–" if pd.isna(faster) else f"{faster:.1f}×"
            numbers = [f"{own['size_mib']:.1f} MiB", speed, f"{own['top1_pct']:.2f} %"]
            lines.append([look.dataset(dataset), look.name(method), *numbers])
    return _table(["data set", "network", "file", "CPU speed¹", "top-1"], lines)


def use_when(frame: pd.DataFrame) -> str:
    """What to use for each need: a line a need, a column a data set."""
    datasets = list(frame["dataset"].unique())
    chosen = claims.all_decisions(frame, "study")
    texts = ["–" if pd.isna(line.network) else f"{line.network}: {line.times_less:.1f}×" for line in chosen.itertuples()]
    wide = chosen.assign(text=texts).pivot(index="need", columns="dataset", values="text")
    wide = wide.reindex(index=chosen.sort_index(kind="stable")["need"].unique(), columns=datasets).fillna("–")
    lines = [[need, *cells] for need, cells in zip(wide.index, wide.to_numpy(), strict=True)]
    return _table(["what you need", *map(look.dataset, datasets)], lines, names=1 + len(datasets))


def long_table(networks: pd.DataFrame) -> str:
    """Every network, a line each."""
    heads = [f"{HEADINGS[column].title} {HEADINGS[column].unit}".strip() for column in COLUMNS]
    lines = [
        [look.dataset(line["dataset"]), evidence.called(line), *(HEADINGS[column].text(line[column]) for column in COLUMNS)]
        for _, line in networks.iterrows()
    ]
    return _table(["Data set", "Network", *heads], lines)


def _table(heads: list[str], lines: Iterable[list[str]], names: int = 2) -> str:
    """Lines of text as a Markdown table: names, which come first, to the left, numbers to the right."""
    under = ["---"] * names + ["---:"] * (len(heads) - names)
    return "".join(f"| {' | '.join(line)} |\n" for line in (heads, under, *lines))
