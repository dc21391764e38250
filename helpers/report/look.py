"""One look for every figure and one name for every network, data set and layer; and how a figure enters a page.

`records/networks.csv` gives every method its name, colour, mark and line: one hue a kind, and 3:1 or more against white.
"""

import base64
import csv
import html
import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
from IPython.display import HTML, display
from matplotlib.figure import Figure
from PIL import Image

from helpers import files, settings

RECORDS = Path(__file__).parent / "records"
INK, SOFT_INK, PALE, GREY = "#1d2125", "#565d64", "#c3cad0", "#868d95"
SEQUENTIAL = "cividis"  # reads in grey and by colour-blind eyes
WIDTH = 7.6  # inches: the text's column on a page, where an inch is CSS_PIXELS pixels
CSS_PIXELS = 96
DPI = 168
DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "digits": "digits"}
FINETUNED, FROM_NOTHING = "fine-tuned", "from nothing"  # what a network's training began with


@dataclass(frozen=True)
class Network:
    """How a network is named and drawn everywhere."""

    name: str
    color: str
    marker: str
    line: str
    start: str  # FINETUNED or FROM_NOTHING

    @property
    def style(self) -> dict[str, Any]:
        """Keyword arguments of `axes.plot` for a line with marks."""
        return {"color": self.color, "marker": self.marker, "linestyle": self.line}

    @property
    def mark(self) -> dict[str, Any]:
        """Keyword arguments of `axes.plot` for a mark that is named in the legend; a white edge keeps close ones apart."""
        return (
            self.style
            | {"linestyle": "", "label": self.name, "mec": "white", "mew": 0.5}
            | {"ms": 13 if self.marker == "*" else 9}
        )


def records(name: str) -> list[dict[str, str]]:
    """The lines of a table in `records/`, as text."""
    with open(RECORDS / name, encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


_LABELS = {"": "", **{line["label"]: f" {line['words']}" for line in records("labels.csv")}}
_METHODS = {line.pop("method"): Network(**line) for line in records("networks.csv")}
NETWORKS: dict[tuple[str, str], Network] = {
    (method, label): replace(network, name=network.name + words, marker="8" if label == "preserving" else network.marker)
    for method, network in _METHODS.items()
    for label, words in _LABELS.items()
}


def network(method: str, label: str = "") -> Network:
    """How the network of a method is named and drawn; one that nobody has given a look has its method's name and a cross."""
    plain = f"{method} {label}".strip().replace("_", " ").replace(",", "")
    return NETWORKS.get((method, label)) or Network(plain, SOFT_INK, "X", "-.", FROM_NOTHING)


def name(method: str, label: str = "") -> str:
    """A network as a reader knows it: ("grasp_iterative", "preserving") → "iterative GraSP with absolute scores"."""
    return network(method, label).name


def dataset(name: str) -> str:
    """A data set as a reader knows it: "cifar10" → "CIFAR-10"."""
    return DATASETS.get(name, name)


def layers(names: Iterable[str]) -> list[str]:
    """All of a network's weight layers, in forward order, as a reader counts them: "conv 1" … "fc 3"."""
    kinds = ["conv" if name.startswith("features") else "fc" for name in names]
    return [f"{kind} {kinds[: position + 1].count(kind)}" for position, kind in enumerate(kinds)]


def theme() -> None:
    """Set the look of every figure drawn after this call, whatever the reader's own matplotlibrc says."""
    mpl.rcdefaults()
    sns.set_theme(context="paper", style="ticks", palette=[network.color for network in _METHODS.values()])
    plt.style.use(RECORDS / "report.mplstyle")


def show(figure: Figure, name: str, *, alt: str, caption: str) -> None:
    """Display a figure once, with its words, store it where `settings.figure_path` says, and close it.

    `name` is the file's, unique in the report ("00_weights"); `caption` may hold inline HTML. `alt` tells a reader who cannot
    see the figure what it shows, with its main number. Raises ValueError when that is less than a sentence.
    """
    if len(alt.split()) < 4:
        raise ValueError(f"the alt text of {name!r} must say what the figure shows, in a sentence; got {alt!r}")
    display(HTML(figure_html(figure, name, settings.profile().name, alt=alt, caption=caption)))


def figure_html(figure: Figure, name: str, profile: str, *, alt: str, caption: str) -> str:
    """A figure, stored and closed, as a `<figure>` with its words."""
    data = png(figure)
    plt.close(figure)
    with files.atomic(settings.figure_path(profile, name)) as temporary:
        temporary.write_bytes(data)
    width, height = (round(side / DPI * CSS_PIXELS) for side in Image.open(io.BytesIO(data)).size)
    size = f'width="{width}" height="{height}" style="max-width: 100%; height: auto; background: #fff"'
    image = f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}" alt="{html.escape(alt)}" {size}>'
    return f'<figure class="plot" id="figure-{html.escape(name)}">{image}<figcaption>{caption}</figcaption></figure>'


def png(figure: Figure) -> bytes:
    """A figure on opaque white as PNG bytes in 256 colours, of which a chart has fewer."""
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, facecolor="white", transparent=False, metadata={"Software": None})
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(packed, "png", optimize=True)
    return packed.getvalue()
