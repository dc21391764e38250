"""Tables: data in reach, numbers as a reader wants them, heads that a screen reader finds."""

import pandas as pd
import pytest
import synthetic
from bs4 import BeautifulSoup

from helpers.report import look, published, tables

FRAME = pd.DataFrame(
    {
        "method": ["dense", "snip", "random"],
        "top1_pct": [94.161, 93.999, 94.158],
        "macs": [314_003_466, 62_000_000, 1_000],
        "energy_mj": [12.0, None, float("nan")],
    }
)
TWO = {"cifar10": FRAME.set_index("method"), "cifar100": FRAME.set_index("method")}


def soup(styler) -> BeautifulSoup:
    return BeautifulSoup(styler.to_html(), "html.parser")


def column(page: BeautifulSoup, position: int) -> list[str]:
    return [line.find_all(["th", "td"])[position].get_text(strip=True) for line in page.select("tbody tr:not(.group)")]


def test_the_data_are_in_reach_unrounded_and_under_their_own_names():
    data = tables.table(FRAME, caption="What it costs").data
    assert list(data.columns) == ["top1_pct", "macs", "energy_mj"] and data.loc["SNIP", "top1_pct"] == 93.999
    assert tables.table(FRAME, caption="What it costs").data["macs"].max() == 314_003_466


def test_numbers_have_their_units_and_digits_and_gaps_a_dash():
    page = soup(tables.table(FRAME, caption="What it costs", headings={"macs": ("MACs", "M", 2)}))
    heads = [" ".join(head.get_text(" ").split()) for head in page.thead.find_all("th")]
    assert heads == ["Network", "Top-1 %", "MACs M", "Energy mJ"]
    assert column(page, 0) == ["dense", "SNIP", "random masks"]
    assert column(page, 2) == ["314.00", "62.00", "0.00"] and column(page, 3) == ["12", "–", "–"]
    assert page.select_one("td [aria-label]")["aria-label"] == "no value" and "nan" not in page.get_text()
    assert {head["scope"] for head in page.find_all("th")} == {"col", "row"}


def test_a_network_has_the_dot_of_its_colour():
    page = soup(tables.table(FRAME, caption="What it costs"))
    dots = [line.select_one(".dot")["style"] for line in page.select("tbody tr")]
    assert all(look.NETWORKS[method, ""].color in dot for method, dot in zip(FRAME["method"], dots, strict=True))


def test_only_names_of_networks_have_a_dot():
    words = ["SNIP at 90 %", "magnitude at the start", "SNIP against GraSP", "dense layers"]
    page = soup(tables.table(pd.DataFrame({"name": words, "value": range(4)}), caption="Dots"))
    assert [bool(line.select_one(".dot")) for line in page.select("tbody tr")] == [True, True, False, False]


def test_two_levels_become_groups():
    wide = soup(tables.table(pd.concat(TWO, axis=1), caption="Both", headings={"top1_pct": ("Top-1", "%", 0)}))
    groups = wide.select('th[scope="colgroup"]')
    assert [(g.get_text(), g["colspan"]) for g in groups] == [("CIFAR-10", "3"), ("CIFAR-100", "3")]
    assert column(wide, 4) == ["94", "94", "94"]
    tall = soup(tables.table(pd.concat(TWO, names=["dataset"]), caption="Both"))
    heads = tall.select('tr.group th[scope="rowgroup"]')
    assert [(h.get_text(), h["colspan"]) for h in heads] == [("CIFAR-10", "4"), ("CIFAR-100", "4")]
    assert [len(body.find_all("tr")) for body in tall.find_all("tbody")] == [4, 4]


def test_what_is_shown_is_text_not_markup():
    page = soup(tables.table(pd.DataFrame({"name": ["<b>a</b>"], "value": ["<script>"]}), caption="Text"))
    assert page.tbody.get_text().split() == ["<b>a</b>", "<script>"] and not page.tbody.find(["b", "script"])
    evidence = pd.DataFrame({"name": ["a"], "evidence": ["<details><summary>why</summary>because</details>"]})
    assert soup(tables.table(evidence, caption="Text", markup=["evidence"])).td.details.summary
    heads = evidence.set_index("evidence")
    assert soup(tables.table(heads, caption="Text", markup=["evidence"])).tbody.th.details.summary


@pytest.mark.parametrize(
    ("frame", "options", "error"),
    [
        (FRAME, {"headings": {"top1": ("Top-1", "%", 2)}}, KeyError),
        (FRAME, {"markup": ["top1"]}, KeyError),
        (FRAME.head(0), {}, ValueError),
        (pd.concat([FRAME, FRAME]), {}, ValueError),
    ],
    ids=["headings", "markup", "empty", "twice the same head"],
)
def test_what_cannot_be_a_table_is_an_error(frame, options, error):
    with pytest.raises(error):
        tables.table(frame, caption="What it costs", **options)


def test_zero_has_no_sign_and_thousands_a_space():
    assert tables.number_text(-0.001, 2) == "0.00" == tables.signed_text(-0.001)
    assert tables.number_text(-1.5, 1) == "\u22121.5" and tables.signed_text(1.5) == "+1.50"
    assert tables.number_text(15_253_578, 0) == "15\u202f253\u202f578"


def test_means_are_those_of_all_seeds():
    frame = synthetic.frame()
    again = frame[frame["method"] == "snip"].assign(seed=1, top1_pct=lambda lines: lines["top1_pct"] + 1, size_mib=float("nan"))
    means = tables.means(pd.concat([frame, again])).set_index(["dataset", "method", "label"])
    before = frame.set_index(["dataset", "method", "label"])
    snip = ("cifar10", "snip", "")
    assert means.loc[snip, "top1_pct"].item() == pytest.approx(before.loc[snip, "top1_pct"].item() + 0.5)
    assert means.loc[snip, "seeds"].item() == 2 and means.loc[snip, "size_mib"].item() == before.loc[snip, "size_mib"].item()
    assert len(means) == len(frame)


def test_a_task_has_the_originals_figures_ours_and_each_over_its_own_dense_network():
    frame, pruned = synthetic.frame(), ("layerwise_magnitude", "")
    table = tables.task(frame, published.ORIGINAL, [("dense", ""), pruned], caption="Task 1a", file="size_coo_mib")
    data = table.data.loc["CIFAR-10 · layer-wise magnitude"]
    assert list(data.index) == ["original", "ours", "original ÷ dense", "ours ÷ dense"]
    assert data.loc["original", "size_mib"] == 34.331
    assert data.loc["original ÷ dense", "size_mib"] == pytest.approx(34.331 / 58.251)
    coo = frame[(frame["method"] == pruned[0]) & (frame["label"] == "")]["size_coo_mib"].iloc[0]
    assert data.loc["ours", "size_mib"] == coo and data.loc["ours ÷ dense", "size_mib"] == pytest.approx(coo / 58.25)
    assert data.loc["original ÷ dense", "top1_pct"] == pytest.approx(92.37 - 82.92)  # points, not a ratio
    assert list(table.data.loc["CIFAR-10 · dense"].index) == ["original", "ours"]
    shown = soup(table)
    assert "no counter on this machine" in shown.select_one("p.note").get_text()
    assert "+9.45" in shown.get_text() and "0.59×" in shown.get_text()
