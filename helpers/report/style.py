"""One look for every figure: colours and markers by method, type, and the way a figure enters a page.

Methods of one family share a hue (dense grey, after training blue, at initialisation warm, channels green); within a
family lightness, marker and line differ, so that a grey print and a colour-blind reader tell them apart.
"""

import base64
import html
import io
from dataclasses import dataclass

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib import font_manager
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from helpers import files, settings
from helpers.report.labels import direct_labels, scatter_labels, text_color

__all__ = [
    "Figure",
    "MethodStyle",
    "apply",
    "dataset",
    "direct_labels",
    "method",
    "scatter_labels",
    "show",
    "stored",
    "text_color",
]

INK, SOFT_INK, RULE = "#1d2125", "#5b636b", "#d9dcdf"
ACCENT, WARN = "#1f5c3d", "#b3401f"
SEQUENTIAL, DIVERGING = "cividis", "PuOr"  # both read in grey and by colour-blind eyes
WIDTH = 7.6  # inches: the text column; one inch is CSS_PIXELS_PER_INCH pixels on the page, so 10 pt type stays readable
WIDE = 10.0  # inches: figures that may reach into the margin
CSS_PIXELS_PER_INCH = 96
DPI = 168
LARGE_BYTES = 150_000
FONTS = ("Source Sans 3", "Inter", "Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans")


@dataclass(frozen=True)
class MethodStyle:
    """How a method of the study is named and drawn everywhere."""

    label: str
    color: str
    marker: str
    line: str
    family: str


DENSE, AFTER, INIT, CHANNELS = "dense", "after training", "at initialisation", "channels"
METHODS: dict[str, MethodStyle] = {
    "dense": MethodStyle("dense", "#1d2125", "o", "-", DENSE),
    "dense_finetuned": MethodStyle("dense, fine-tuned", "#565d64", "D", "--", DENSE),
    "dense_from_scratch": MethodStyle("dense, from scratch", "#868e96", "s", ":", DENSE),
    "layerwise_magnitude": MethodStyle("layer-wise magnitude", "#0b4f8a", "o", "-", AFTER),
    "global_magnitude": MethodStyle("global magnitude", "#3f8fc9", "^", "--", AFTER),
    "uniform_magnitude": MethodStyle("uniform magnitude", "#7fb8e0", "v", ":", AFTER),
    "grasp_iterative": MethodStyle("GraSP, iterative", "#b3401f", "o", "-", INIT),
    "grasp": MethodStyle("GraSP, one shot", "#e0793c", "s", "--", INIT),
    "snip": MethodStyle("SNIP", "#7b2d6b", "^", "-", INIT),
    "synflow": MethodStyle("SynFlow", "#c46aa8", "v", "--", INIT),
    "magnitude_init": MethodStyle("magnitude at init", "#c99a1c", "D", "-.", INIT),
    "random": MethodStyle("random", "#9a8f6e", "X", ":", INIT),
    "lasso_channels": MethodStyle("LASSO channels", "#1f5c3d", "o", "-", CHANNELS),
    "l1_filters": MethodStyle("L1 filters", "#3f9b6c", "^", "--", CHANNELS),
    "random_channels": MethodStyle("random channels", "#8bc4a0", "X", ":", CHANNELS),
    "lasso_channels_from_scratch": MethodStyle("same widths, from scratch", "#5d7d2b", "s", "-.", CHANNELS),
}
DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "digits": "digits"}


def method(name: str) -> MethodStyle:
    """The style of a method; KeyError naming the known ones."""
    try:
        return METHODS[name]
    except KeyError:
        raise KeyError(f"no method {name!r}; known: {', '.join(METHODS)}") from None


def dataset(name: str) -> str:
    """A data set as a reader knows it: "cifar10" → "CIFAR-10"."""
    return DATASETS.get(name, name)


def apply() -> None:
    """Set the look of every figure drawn after this call."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    sns.set_theme(
        context="paper",
        style="ticks",
        palette=[style.color for style in METHODS.values() if style.line == "-"],
        rc={
            "font.family": "sans-serif",
            "font.sans-serif": [font for font in FONTS if font in installed],
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.titlepad": 8,
            "axes.labelsize": 10,
            "axes.labelcolor": SOFT_INK,
            "axes.edgecolor": "#9aa1a8",
            "axes.linewidth": 0.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#e7e9eb",
            "grid.linewidth": 0.8,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "xtick.color": SOFT_INK,
            "ytick.color": SOFT_INK,
            "text.color": INK,
            "lines.linewidth": 1.8,
            "lines.markersize": 5.5,
            "legend.fontsize": 9,
            "legend.frameon": False,
            "figure.figsize": (WIDTH, 4.2),
            "figure.constrained_layout.use": True,
            "figure.dpi": 110,
            "savefig.facecolor": "white",
            "image.cmap": SEQUENTIAL,
        },
    )


@dataclass(frozen=True)
class Figure:
    """A figure as it stands in a page: an image with alt text and a caption."""

    name: str
    png: bytes
    alt: str
    caption: str
    width_px: int

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.png).decode()
        return (
            f'<figure class="plot" id="figure-{html.escape(self.name)}"><div class="scroll" tabindex="0" role="group" '
            f'aria-label="figure, scrolls sideways on a narrow screen">'
            f'<img src="data:image/png;base64,{data}" alt="{html.escape(self.alt)}" width="{self.width_px}" '
            f'style="--w:{self.width_px}px"></div>'
            f"<figcaption>{self.caption}</figcaption></figure>"
        )

    def __repr__(self) -> str:
        return f"Figure({self.name!r}: {self.alt})"


def show(figure: plt.Figure, name: str, *, alt: str, caption: str, profile: str | None = None) -> Figure:
    """Save `figure` as a PNG under `settings.figure_path`, close it and return what a page shows.

    Args:
        name: the file's name without ending, unique in the report ("00_weights").
        alt: what a reader who cannot see the figure needs to know; a sentence, not a title.
        caption: what stands under it; may hold inline HTML.
        profile: whose report it belongs to; that of the environment, as in a notebook, when none is named.
    """
    if len(alt.split()) < 4:
        raise ValueError(f"the alt text of {name!r} must say what the figure shows, in a sentence; got {alt!r}")
    png = _png(figure, {"Description": alt, "Comment": caption})
    plt.close(figure)
    with files.atomic(settings.figure_path(settings.profile(profile).name, name)) as temporary:
        temporary.write_bytes(png)
    return stored(name, profile)


def stored(name: str, profile: str | None = None) -> Figure:
    """A figure drawn earlier, for a machine that lacks what it was drawn from; FileNotFoundError when there is none.

    Alt text and caption are read from the PNG itself.
    """
    path = settings.figure_path(settings.profile(profile).name, name)
    with Image.open(path) as image:
        text, width = image.text, round(image.width / DPI * CSS_PIXELS_PER_INCH)
    return Figure(name, path.read_bytes(), text["Description"], text["Comment"], width)


def _png(figure: plt.Figure, text: dict[str, str]) -> bytes:
    """The figure as PNG bytes with `text` in it; a large one is reduced to 256 colours, which a chart does not show."""
    described = PngInfo()
    for key, value in text.items():
        described.add_itxt(key, value)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, pil_kwargs={"pnginfo": described})
    if buffer.tell() <= LARGE_BYTES:
        return buffer.getvalue()
    reduced = io.BytesIO()
    image = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(reduced, "png", optimize=True, pnginfo=described)
    return min(buffer.getvalue(), reduced.getvalue(), key=len)
