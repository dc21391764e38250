"""One look for every figure and one name for every network, data set and layer; and how a figure enters a page.

Networks of one kind share a hue. Every colour stands out from white by 3:1 or more, and no two methods share both marker
and line, so that a grey print and a colour-blind reader tell them apart.
"""

import base64
import html
import io
from collections.abc import Iterable
from dataclasses import dataclass, replace

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
from IPython.display import HTML, display
from matplotlib import font_manager
from PIL import Image

from helpers import files, settings

INK, SOFT_INK, GRID = "#1d2125", "#565d64", "#e7e9eb"
SEQUENTIAL, DIVERGING = "cividis", "PuOr"  # both read in grey and by colour-blind eyes
WIDTH = 7.6  # inches: the text's column on a page, where an inch is CSS_PIXELS pixels
CSS_PIXELS = 96
DPI = 168
LARGE_BYTES = 100_000
FONTS = ("Source Sans 3", "Inter", "Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans")
DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "digits": "digits"}


@dataclass(frozen=True)
class Network:
    """How a network is named and drawn everywhere."""

    name: str
    color: str
    marker: str
    line: str
    kind: str  # what its weights began as: FINETUNED, NOTHING or CHANNELS

    @property
    def style(self) -> dict[str, str]:
        """Keyword arguments of `axes.plot`."""
        return {"color": self.color, "marker": self.marker, "linestyle": self.line}


FINETUNED, NOTHING, CHANNELS = "fine-tuned from a trained network", "trained from nothing", "channels"
_METHODS = {
    "dense": Network("dense", "#1d2125", "o", "-", FINETUNED),
    "dense_finetuned": Network("fine-tuned dense", "#5b636b", "D", "--", FINETUNED),
    "layerwise_magnitude": Network("layer-wise magnitude", "#0b4f8a", "s", "-", FINETUNED),
    "global_magnitude": Network("global magnitude", "#2f7fc0", "^", "--", FINETUNED),
    "uniform_magnitude": Network("uniform magnitude", "#4d8fb0", "v", ":", FINETUNED),
    "dense_from_scratch": Network("dense from nothing", "#7a6a58", "D", ":", NOTHING),
    "grasp_iterative": Network("iterative GraSP", "#b3401f", "P", "-", NOTHING),
    "grasp": Network("one-shot GraSP", "#c8692b", "p", "--", NOTHING),
    "snip": Network("SNIP", "#6d2361", "^", "-", NOTHING),
    "synflow": Network("SynFlow", "#b3558f", "v", "--", NOTHING),
    "magnitude_init": Network("magnitude at the start", "#96730f", "*", "-.", NOTHING),
    "random": Network("random masks", "#7d7350", "X", ":", NOTHING),
    "lasso_channels": Network("LASSO channels", "#1f5c3d", "H", "-", CHANNELS),
    "l1_filters": Network("L1 channels", "#35885c", "<", "--", CHANNELS),
    "random_channels": Network("random channels", "#5b9474", ">", ":", CHANNELS),
    "lasso_channels_from_scratch": Network("small network from nothing", "#5d7d2b", "d", "-.", NOTHING),
}
_MARKED = (  # (label, words behind the method's name, marker); without a marker: a point on the method's own line
    *(("curve", "without fine-tuning", ""), ("curve_finetuned", "after a short fine-tuning", "")),
    *((f"macs={times}x", f"with {times}× fewer MACs", "") for times in ("2", "4", "7.5", "12")),
    *(("preserving", "with absolute scores", "8"), ("signed", "with signed scores", "h"), ("inverted", "inverted", "1")),
    *(("shuffled", "with shuffled masks", "2"), ("reinitialized", "with new weights", "3"), ("rewound", "rewound", "4")),
    *(("no_reconstruction", "without least squares", "1"), ("symmetric", "from the dense network's inputs", "+")),
    *(("unrounded", "with free widths", "x"), ("widths=uniform", "with even widths", "|"), ("format=float32", "in float32", "+")),
    *(("widths=he", "with He's widths", "2"), ("normalization=imagenet", "on images normalised as ImageNet's", "|")),
    *(("normalization=none", "on images as they are", "+"), ("normalization=half", "on images centred on a half", "x")),
)
NETWORKS: dict[tuple[str, str], Network] = {(method, ""): network for method, network in _METHODS.items()} | {
    (method, label): replace(network, name=f"{network.name} {words}", marker=marker or network.marker)
    for method, network in _METHODS.items()
    for label, words, marker in _MARKED
}


def network(method: str, label: str = "") -> Network:
    """How the network of a method is named and drawn; one that nobody has given a look has its method's name and a cross."""
    plain = f"{method} {label}".strip().replace("_", " ").replace(",", "")
    return NETWORKS.get((method, label)) or Network(plain, SOFT_INK, "X", "-.", NOTHING)


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
    installed = {font.name for font in font_manager.fontManager.ttflist}
    rc = {"font.family": "sans-serif", "font.sans-serif": [font for font in FONTS if font in installed], "font.size": 10}
    rc |= {"axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.labelsize": 10}
    rc |= {"axes.labelcolor": SOFT_INK, "axes.edgecolor": "#8b929a", "axes.linewidth": 0.8, "axes.grid": True, "grid.color": GRID}
    rc |= {"axes.spines.top": False, "axes.spines.right": False, "xtick.labelsize": 9, "ytick.labelsize": 9, "text.color": INK}
    rc |= {"xtick.color": SOFT_INK, "ytick.color": SOFT_INK, "legend.fontsize": 9, "legend.frameon": False, "figure.dpi": 110}
    rc |= {"figure.figsize": (WIDTH, 4.2), "figure.constrained_layout.use": True, "image.cmap": SEQUENTIAL}
    sns.set_theme(context="paper", style="ticks", palette=[look.color for look in _METHODS.values()], rc=rc)


def show(figure: plt.Figure, name: str, *, alt: str, caption: str) -> None:
    """Display a figure once, with its words, store it where `settings.figure_path` says, and close it.

    `name` is the file's, unique in the report ("00_weights"); `caption` may hold inline HTML. `alt` tells a reader who cannot
    see the figure what it shows, with its main number. Raises ValueError when that is less than a sentence.
    """
    if len(alt.split()) < 4:
        raise ValueError(f"the alt text of {name!r} must say what the figure shows, in a sentence; got {alt!r}")
    data = png(figure)
    plt.close(figure)
    with files.atomic(settings.figure_path(settings.profile().name, name)) as temporary:
        temporary.write_bytes(data)
    display(HTML(figure_html(data, name, alt=alt, caption=caption)))


def figure_html(data: bytes, name: str, *, alt: str, caption: str) -> str:
    """A PNG as a `<figure>` with its words."""
    width, height = (round(side / DPI * CSS_PIXELS) for side in Image.open(io.BytesIO(data)).size)
    size = f'width="{width}" height="{height}" style="max-width: 100%; height: auto; background: #fff"'
    image = f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}" alt="{html.escape(alt)}" {size}>'
    return f'<figure class="plot" id="figure-{html.escape(name)}">{image}<figcaption>{caption}</figcaption></figure>'


def png(figure: plt.Figure) -> bytes:
    """A figure on opaque white as PNG bytes; a large one is reduced to 256 colours, which a chart does not show."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white", transparent=False, metadata={"Software": None})
    if buffer.tell() <= LARGE_BYTES:
        return buffer.getvalue()
    reduced = io.BytesIO()
    Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(reduced, "png", optimize=True)
    return min(buffer.getvalue(), reduced.getvalue(), key=len)
