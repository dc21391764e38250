"""How the networks of the rows were trained, and what that took."""

from collections.abc import Mapping, Sequence
from statistics import median

import pandas as pd
from IPython.display import Markdown

from helpers.report import style, tables
from helpers.report.evidence import Rows, name
from helpers.report.saliency import LARGE_HEAD
from helpers.report.sentences import absent
from helpers.report.tables import Table, number_text

SHARED = {"momentum": "Nesterov momentum", "weight_decay": "weight decay on weights", "warmup": "share of the steps warming up"}


def recipes(all_rows: Sequence[Mapping]) -> Table | Markdown:
    """One line a recipe: which networks had it, from where they started, and the median minutes of an epoch."""
    rows = Rows(all_rows)
    groups: dict[tuple, list[Mapping]] = {}
    for row in rows.all:
        if row["settings"].get("recipe") and row.get("log"):
            groups.setdefault(_key(row), []).append(row)
    if not groups:
        return absent("a training")
    lines = [_line(*key, members) for key, members in groups.items()]
    return tables.table(
        pd.DataFrame(lines).set_index("Networks"),
        "How the networks were trained",
        note=f"All: SGD, one cycle of the learning rate (linear to its peak, then a cosine to 0), {_shared(rows.all)}; images "
        "are flipped and cropped at random. Minutes an epoch: median of all epochs, on the processors named below, whatever else "
        "ran on them.",
    )


def _key(row: Mapping) -> tuple:
    recipe, settings = row["settings"]["recipe"], row["settings"]
    new = str(row.get("weights", "")).startswith("initialised")
    start = settings.get("initialization", LARGE_HEAD) if new else "the trained dense network"
    return recipe["epochs"], recipe["batch_size"], recipe["peak_lr"], settings.get("dropout"), start


def _line(epochs: int, batch: int, peak: float, dropout: float | None, start: str, members: Sequence[Mapping]) -> dict:
    datasets = dict.fromkeys(style.dataset(row["dataset"]) for row in members)
    return {
        "Networks": ", ".join(dict.fromkeys(name(row["method"]) for row in members)),
        "Data": ", ".join(datasets),
        "Starts from": start,
        "epochs": epochs,
        "Batch": batch,
        "Peak rate": f"{peak:g}",
        "Dropout": f"{dropout:g}" if dropout is not None else None,
        "Minutes an epoch": number_text(median(entry["seconds"] / 60 for row in members for entry in row["log"]), 1),
    }


def _shared(rows: Sequence[Mapping]) -> str:
    """What all recipes have in common, read from them."""
    found = [row["settings"]["recipe"] for row in rows if row["settings"].get("recipe")]
    told = (f"{text} {' or '.join(sorted({f'{recipe[key]:g}' for recipe in found}))}" for key, text in SHARED.items())
    return ", ".join(told)
