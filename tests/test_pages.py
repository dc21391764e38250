"""Built pages as text: plain words, everything described and linked, nothing left over from the machine.

The pages are the committed ones, or those of $DEMO_PAGES, and those of a sample that is built for these tests.
"""

import re
from pathlib import Path

import pytest
import sample
import words
from bs4 import BeautifulSoup

from helpers import settings
from helpers.report import pages as page_maker

LARGEST = 3 * 2**20
LEFTOVERS = re.compile(
    r"Traceback \(most recent|\b\w*Warning:|\bnan\b|\bNone\b(?! of)|\binf\b|<[\w.]+ object at 0x|site-packages|file://|(?<!\w)/(?:tmp|root|home|work|Users)/\w"
)


@pytest.fixture(scope="module")
def pages() -> dict[Path, BeautifulSoup]:
    paths = [path for site in (sample.site(), sample.built().resolve()) for path in sample.pages(site)]
    return {path: BeautifulSoup(path.read_text(), "html.parser") for path in paths}


def test_the_words_of_every_page_keep_the_rules(pages):
    assert len(pages) >= 3
    assert not [f"{path.name}: {problem}" for path in pages for problem in words.problems(path.read_text(), path.stem)]


LONG = "Because it is long it says the same thing twice and " * 3
BROKEN = {
    "machinery": ("<p>The profile has another number format.</p>", 2),
    "row": ("<p>Nine rows are not computed yet.</p>", 1),
    "row of a matrix": ("<p>Every row of the matrix sums to one.</p>", 0),
    "long sentence": (f"<p>{LONG}.</p>", 1),
    "two sentences": (f"<p>{' '.join(LONG.split()[:22])}. {' '.join(LONG.split()[:22])}.</p>", 0),
    "numbers": ("<p>It fell from 92.4 to 91.9 %, then to 90.1 and 88 %.</p>", 1),
    "interval in a cell": ("<table><caption>C</caption><tr><td>−0.99 to +0.57, −0.57 to +0.15</td></tr></table>", 0),
    "names": ("<p>VGG16-BN on CIFAR-10 and CIFAR-100 (Task 1a, conv 3, 3×3) loses 1 point (Han et al. 2015).</p>", 0),
    "code": (f"<details class='code'><pre>{LONG}</pre></details><pre>{LONG}</pre>", 0),
    "figure's words": (f"<figure><figcaption>{LONG}.</figcaption></figure>", 1),
    "page": ("<p>Short. </p>" * 2001, 1),
}


@pytest.mark.parametrize(("html", "count"), BROKEN.values(), ids=BROKEN)
def test_the_checker_finds_what_breaks_a_rule(html, count):
    assert len(words.problems(f"<main>{html}</main>")) == count


def test_the_pages_allowed_more_words_are_known():
    assert not words.problems("<main>" + "<p>Short.</p>" * 4500 + "</main>", "04_analysis")


def text_of(soup: BeautifulSoup) -> str:
    """What a reader reads, folded code left out."""
    copy = BeautifulSoup(str(soup.body), "html.parser")
    for element in copy.select("script, style, details.code"):
        element.decompose()
    return copy.get_text(" ")


def test_nothing_is_left_over_from_the_machine(pages):
    for path, soup in pages.items():
        text = text_of(soup)
        found = LEFTOVERS.search(text)
        assert not found, f"{path}: {text[max(0, found.start() - 80) : found.end() + 80]!r}"
        assert not soup.select(".failure") and path.stat().st_size <= LARGEST, path


def test_images_say_what_they_show_each_in_its_own_words(pages):
    alts = [(path.parent, image.get("alt", "")) for path, soup in pages.items() for image in soup.find_all("img")]
    assert alts and len(set(alts)) == len(alts)
    for path, soup in pages.items():
        for image in soup.find_all("img"):
            assert len(image["alt"].split()) >= 4 and re.search(r"\d", image["alt"]), f"{path}: {image['alt']!r}"
            assert image.find_parent("figure").figcaption.get_text(strip=True), path


def test_tables_have_a_caption_and_scoped_heads(pages):
    for path, soup in pages.items():
        for table in soup.select("main table"):
            heads = table.find_all("th")
            assert heads and {head.get("scope") for head in heads} <= {"col", "row", "colgroup", "rowgroup"}, path
            assert all(head.get_text(strip=True) for head in heads), f"{path}: an empty head in {table.get_text()!r}"
            if "data" in table.get("class", ()):  # not one of pandas' own, beside the code that made it
                assert table.caption and all(line.find("th") for line in table.select("tbody tr")), path


def test_pages_need_nothing_from_elsewhere(pages):
    for path, soup in pages.items():
        assert all(element["src"].startswith("data:") for element in soup.select("[src]")), path
        assert not soup.select("link[href], iframe, object, embed"), path
        css = " ".join(style.get_text() for style in soup.find_all("style"))
        assert not re.search(r"@import|url\(\s*['\"]?(?!data:)", css), path


def test_links_lead_somewhere(pages):
    for path, soup in pages.items():
        for link in soup.find_all("a", href=re.compile(r"^(?!https?://)")):
            name, _, place = link["href"].partition("#")
            target = (path.parent / name).resolve() if name else path
            assert target in pages or target.is_relative_to(settings.ROOT), f"{path}: {link['href']}"
            assert not place or pages[target].find(id=place), f"{path}: {link['href']}"


def test_every_page_links_its_code_the_original_report_and_what_else_was_tried(pages):
    for path, soup in pages.items():
        links = [(path.parent / a["href"]).resolve() for a in soup.select("footer .links a")]
        source = "helpers/report/index.py" if path.stem == "index" else f"notebooks/{path.stem}.ipynb"
        assert links == [settings.ROOT / file for file in (source, "docs/original.md", "docs/trials.md")]


def test_the_repository_is_one_setting(monkeypatch, tmp_path):
    monkeypatch.setenv("REPOSITORY", "https://example.org/someone/pruning/")
    assert page_maker.address("docs/trials.md", tmp_path) == "https://example.org/someone/pruning/blob/HEAD/docs/trials.md"


def test_head_and_foot_name_the_same_machine_and_commit(pages):
    for path, soup in pages.items():
        foot = {dt.get_text(): dt.find_next("dd").get_text() for dt in soup.select(".provenance dt")}
        assert foot.keys() == {"Data", "Results measured on", "Cells run on", "Commit", "Built"}, path
        if path.stem != "index":
            meta = soup.select_one(".meta").get_text()
            assert foot["Results measured on"] in meta and foot["Commit"] in meta, path


def test_headings_descend_one_level_at_a_time_and_ids_are_unique(pages):
    for path, soup in pages.items():
        levels = [int(heading.name[1]) for heading in soup.find_all(re.compile(r"^h[1-6]$"))]
        assert levels.count(1) == 1 and levels[0] == 1, path
        assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False)), f"{path}: {levels}"
        ids = [element["id"] for element in soup.select("[id]")]
        assert len(ids) == len(set(ids)), f"{path}: {sorted({i for i in ids if ids.count(i) > 1})}"


def test_every_page_has_a_frame_to_find_ones_way(pages):
    for path, soup in pages.items():
        assert soup.html["lang"] == "en" and soup.title.get_text(strip=True), path
        skip = soup.select_one("a.skip")
        assert soup.body.find("a") is skip and soup.find(id=skip["href"][1:]).name == "main", path
        assert len(soup.select('header nav a[aria-current="page"], header a.home[aria-current="page"]')) == 1, path


def test_only_the_demo_says_that_it_is_one(pages):
    for path, soup in pages.items():
        assert bool(soup.select_one(".badge")) == (path.parent.name == "demo"), path


def test_the_first_page_answers_and_explores(pages):
    for soup in (soup for path, soup in pages.items() if path.stem == "index"):
        assert 2 <= len(soup.select(".answer li")) <= 4
        assert all(len(words.words(item.get_text())) <= 20 for item in soup.select(".answer li"))
        assert 4 <= len(soup.select(".screen tbody tr")) <= 6
        stops = len(soup.select(".everything tbody tr:not(.group)"))
        assert stops == sum(len(drawings.select("circle:not(.chosen)")) for drawings in soup.select(".drawings")) > 10
        assert soup.select_one(".everything").has_attr("open") and soup.select_one("#explorer").has_attr(
            "hidden"
        )  # without a script


def test_the_committed_figures_are_those_of_the_committed_pages():
    pages = (BeautifulSoup(path.read_text(), "html.parser") for path in sample.pages(settings.ROOT / "reports"))
    shown = {figure["id"].removeprefix("figure-") for page in pages for figure in page.select("figure.plot")}
    assert {path.stem for path in (settings.ROOT / "figures").glob("*.png")} == shown
