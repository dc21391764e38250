"""Tables and figures as a page gets them: aligned, marked without colour, every gap explained, every image described."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from matplotlib.text import Text

from helpers import results, settings
from helpers.report import assignment, style, tables

FRAME = pd.DataFrame(
    {
        "method": ["dense", "snip", "random"],
        "top1_pct": [94.161, 93.999, 94.158],
        "macs": [314_003_466, 62_000_000, 1_000],
        "energy_mj": [12.0, None, float("nan")],
    }
)


def soup(*given, **options) -> BeautifulSoup:
    return BeautifulSoup(tables.table(*given, **options)._repr_html_(), "html.parser")


def column(page: BeautifulSoup, position: int) -> list[str]:
    return [row.find_all(["th", "td"])[position].get_text() for row in page.tbody.find_all("tr")]


def test_numbers_have_their_units_digits_and_labels():
    page = soup(FRAME, "What it costs")
    assert [th.get_text() for th in page.thead.find_all("th")] == ["Method", "Top-1 %", "MACs M", "Energy mJ"]
    assert column(page, 0) == ["dense", "SNIP", "random"]
    assert column(page, 2) == ["314.00", "62.00", "0.00"]
    assert {th["scope"] for th in page.find_all("th")} == {"col", "row"}
    assert {len(text.partition(".")[2]) for text in column(page, 1)} == {2}


def test_the_best_as_shown_is_marked_in_words_and_type():
    page = soup(FRAME, "What it costs", best={"top1_pct": "max", "macs": "min"})
    best = [[td.get_text() for td in row.select("td.best")] for row in page.tbody.find_all("tr")]
    assert best == [["▸94.16 (best)"], [], ["▸94.16 (best)", "▸0.00 (best)"]]  # 94.161 and 94.158 look the same, so both
    assert "best of its column" in page.select_one("p.note").get_text()


def test_gaps_say_why_once():
    page = soup(FRAME, "What it costs", reasons={("snip", "energy_mj"): "not measured: no counter.", "energy_mj": "not run"})
    assert column(page, 3) == ["12", "–1", "–2"]
    assert page.select_one("p.note").get_text(" ", strip=True) == "1 not measured: no counter. 2 not run."
    assert "no value" in str(soup(FRAME, "What it costs")) and "nan" not in page.get_text()


def test_two_levels_become_groups():
    wide = pd.concat({"cifar10": FRAME.set_index("method"), "cifar100": FRAME.set_index("method")}, axis=1)
    page = soup(wide, "Both", best={"top1_pct": "max"}, digits={("cifar100", "top1_pct"): 0})
    groups = page.select('th[scope="colgroup"]')
    assert [(g.get_text(), g["colspan"]) for g in groups] == [("CIFAR-10", "3"), ("CIFAR-100", "3")]
    assert column(page, 4) == ["▸94 (best)", "▸94 (best)", "▸94 (best)"]
    tall = pd.concat({"cifar10": FRAME.set_index("method"), "cifar100": FRAME.set_index("method")}, names=["dataset"])
    heads = soup(tall, "Both").select('th[scope="rowgroup"]')
    assert [(h.get_text(), h["rowspan"]) for h in heads] == [("CIFAR-10", "3"), ("CIFAR-100", "3")]


def test_what_is_shown_is_text_not_markup():
    page = soup(pd.DataFrame({"name": ["<b>a</b>"], "value": ["<script>"]}), "Text")
    assert page.tbody.get_text() == "<b>a</b><script>" and not page.tbody.find(["b", "script"])


@pytest.mark.parametrize(
    ("options", "error"),
    [({"digits": {"top1": 2}}, KeyError), ({"best": {"macs": "least"}}, ValueError), ({"headings": {"x": "y"}}, KeyError)],
)
def test_misspelt_options_are_errors(options, error):
    with pytest.raises(error):
        tables.table(FRAME, "What it costs", **options)


def test_zero_has_no_sign_and_thousands_a_space():
    assert tables.number_text(-0.001, 2) == "0.00"
    assert tables.number_text(-1.5, 1) == "−1.5"
    assert tables.number_text(15_253_578, 0) == "15\u202f253\u202f578"


# Figures ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("REPORT_DIR", str(tmp_path))
    monkeypatch.setenv("PROFILE", "demo")
    style.apply()
    return tmp_path


def test_a_figure_is_stored_with_its_words(folder):
    figure, axes = plt.subplots()
    axes.plot([1, 2])
    shown = style.show(figure, "line", alt='A line that "rises" from 1 < 2.', caption="Rising.")
    assert not plt.fignum_exists(figure.number)
    image = BeautifulSoup(shown._repr_html_(), "html.parser").figure.img
    assert image["alt"] == 'A line that "rises" from 1 < 2.' and image["src"].startswith("data:image/png;base64,")
    assert settings.figure_path("demo", "line").read_bytes() == shown.png
    assert style.stored("line") == shown
    with pytest.raises(FileNotFoundError):
        style.stored("another")


def test_a_figure_without_a_description_is_refused(folder):
    with pytest.raises(ValueError, match="alt text"):
        style.show(plt.figure(), "line", alt="A plot", caption="")


@pytest.mark.parametrize("labelled", [style.direct_labels, style.scatter_labels])
def test_labels_do_not_cover_each_other(folder, labelled):
    figure, axes = plt.subplots()
    axes.set(xlim=(0, 4), ylim=(0, 100))
    labelled(axes, [(1, 50 + step / 10, f"method {step}", "black") for step in range(5)])
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 5 and not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_no_leader_crosses_a_label(folder):
    """So many names for one place that some stand away from it."""
    figure, axes = plt.subplots()
    axes.set(xlim=(0, 10), ylim=(0, 100))
    axes.plot([1, 5], [40, 50], "o-")
    style.scatter_labels(axes, [(5, 50 + step / 10, f"method {step}", "black") for step in range(8)])
    figure.canvas.draw()
    leaders = [(text, text.arrow_patch) for text in axes.texts if text.arrow_patch is not None]
    assert leaders
    for text, leader in leaders:
        path = leader.get_path().transformed(leader.get_transform())
        others = [Text.get_window_extent(other) for other in axes.texts if other is not text]  # without its own leader
        assert not any(path.intersects_bbox(box, filled=False) for box in others)


def test_every_method_of_the_study_has_a_look_of_its_own():
    assert set(style.METHODS) == set(results.METHODS)
    looks = [(look.color, look.marker, look.line) for look in style.METHODS.values()]
    assert len(set(looks)) == len(looks) == len({look.label for look in style.METHODS.values()})
    within = {}
    for look in style.METHODS.values():  # in a grey print colours of one family fall together, marks do not
        within.setdefault(look.family, []).append((look.marker, look.line))
    assert all(len(set(marks)) == len(marks) for marks in within.values())


def test_text_in_a_methods_colour_is_readable():
    assert style.text_color("#000000") == "#000000"
    for look in style.METHODS.values():
        red, green, blue = (int(style.text_color(look.color)[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
        assert 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05) >= 4.45


def test_the_write_ups_figures_are_all_there():
    frame = assignment.write_up().set_index(["dataset", "method"])
    assert frame.loc[("cifar100", "grasp_iterative"), "top1_pct"] == 42.67
    assert frame.loc[("cifar10", "lasso_channels"), "macs"] == 41_782_000
    assert len(frame) == 8 and not frame[["size_mib", "macs", "peak_memory_mib", "latency_ms", "top1_pct"]].isna().any().any()
    assert assignment.reported("cifar10", "dense", "energy_mj") == 77_151
    assert assignment.reported("cifar10", "snip", "top1_pct") is None
    assert set(assignment.published()["mark"]) == {"v", "c"}
