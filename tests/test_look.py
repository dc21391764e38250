"""One name and one look for everything, and figures that look alike whatever a reader has set."""

import io

import matplotlib as mpl
import matplotlib.colors
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from helpers import experiments, plan, settings
from helpers.report import look, plots

MAIN = [(method, look.NETWORKS[method, ""]) for method in experiments.METHODS]
PLANNED = {(e.method, e.label) for profile in settings.PROFILES.values() for e in plan.experiments(profile)}


def test_every_planned_network_has_a_name_of_its_own_without_a_comma():
    names = [look.name(*pair) for pair in sorted(PLANNED)]
    assert look.NETWORKS.keys() >= PLANNED
    assert len(set(names)) == len(names) and not any("," in name or "_" in name for name in names)


def luminance(color: str) -> float:
    """Relative luminance (WCAG 2.2): 0 for black, 1 for white."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in mpl.colors.to_rgb(color)]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_colours_stand_out_from_white():
    for _, network in MAIN:
        assert 1.05 / (luminance(network.color) + 0.05) >= 3, network


def test_a_grey_print_tells_methods_apart():
    """By mark and line; and by mark alone those of one start, which share a scatter."""
    looks = [(network.marker, network.line) for _, network in MAIN]
    assert len(set(looks)) == len(looks)
    for start in (look.FINETUNED, look.FROM_NOTHING):
        shown = [look.NETWORKS["grasp_iterative", "preserving"], *(network for _, network in MAIN)]
        marks = [network.marker for network in shown if network.start == start]
        assert len(set(marks)) == len(marks)


def test_a_method_nobody_has_given_a_look_is_drawn_all_the_same():
    assert look.network("my_score", "half").name == "my score half"


def test_layers_are_counted_by_kind():
    assert look.layers(["features.0", "features.3", "classifier.0", "classifier.2"]) == ["conv 1", "conv 2", "fc 1", "fc 2"]


# Figures ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch) -> list:
    """What is displayed."""
    displayed: list = []
    monkeypatch.setattr(look, "display", displayed.append)
    return displayed


def figure() -> plt.Figure:
    made, axes = plt.subplots()
    axes.plot([1, 2])
    return made


def test_a_figure_is_shown_once_and_stored(shown):
    look.theme()
    made = figure()
    look.show(made, "line", alt='A line that "rises" from 1 < 2.', caption="Rising.")
    (html,) = shown
    image = BeautifulSoup(html.data, "html.parser").figure.img
    assert image["alt"] == 'A line that "rises" from 1 < 2.' and image["src"].startswith("data:image/png;base64,")
    assert settings.figure_path("demo", "line").is_file() and not plt.fignum_exists(made.number)


def test_a_figure_without_a_description_is_refused(shown):
    with pytest.raises(ValueError, match="alt text"):
        look.show(figure(), "line", alt="A plot", caption="")


def test_a_readers_matplotlibrc_changes_no_figure(shown):
    look.theme()
    plain = look.png(figure())
    foreign = {
        "text.usetex": True,
        "savefig.transparent": True,
        "figure.facecolor": "none",
        "lines.linewidth": 9,
        "font.size": 30,
    }
    mpl.rcParams.update(foreign)
    look.theme()
    assert look.png(figure()) == plain
    assert np.array(Image.open(io.BytesIO(plain)).convert("RGBA"))[..., 3].min() == 255


def test_a_figures_legend_names_every_network_once_below_its_panels():
    look.theme()
    networks = pd.DataFrame({"dataset": ["cifar10", "cifar10", "cifar100"], "method": ["snip", "grasp", "snip"], "label": ""})
    made, grid = plots.scatter(networks.assign(top1_pct=90.0, macs=[1.0, 2.0, 3.0]), "macs", "MACs")
    made.canvas.draw()
    assert [text.get_text() for text in made.legends[0].get_texts()] == ["SNIP", "one-shot GraSP"]
    below = made.legends[0].get_window_extent().y1
    assert list(grid) == ["cifar10", "cifar100"] and all(axes.get_tightbbox().y0 >= below for axes in grid.values())
