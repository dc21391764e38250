"""One name and one look for everything, and figures that look alike whatever a reader has set."""

import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
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


def test_colours_stand_out_from_white_and_text_in_them_can_be_read():
    for _, network in MAIN:
        assert 1.05 / (plots.luminance(network.color) + 0.05) >= 3, network
        assert 1.05 / (plots.luminance(plots.readable(network.color)) + 0.05) >= 4.5, network


def test_a_grey_print_tells_methods_and_their_labels_apart():
    looks = [(network.marker, network.line) for _, network in MAIN]
    assert len(set(looks)) == len(looks)
    for method, network in MAIN:
        points = ("curve", "curve_finetuned", *(label for label in dict(look.NETWORKS) if label[1].startswith("macs=")))
        labels = {label for m, label in PLANNED if m == method and label not in points and not label.startswith("macs=")}
        marks = [look.network(method, label).marker for label in labels]
        assert len(set(marks)) == len(marks), network


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


def test_labels_cover_neither_each_other_nor_a_point():
    look.theme()
    made, axes = plt.subplots()
    axes.set(xlim=(0, 4), ylim=(0, 100))
    points = [(1 + step / 50, 50 + step, f"method {step}", "black") for step in range(5)]
    plots.label(axes, points)
    made.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    marks = axes.transData.transform([point[:2] for point in points])
    assert len(boxes) == 5 and not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert not any(box.contains(*mark) for box in boxes for mark in marks)
