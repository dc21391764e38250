"""The built pages as text: nothing missing for a reader who cannot see, nothing left over from the machine."""

import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from helpers import settings

LARGEST = 3 * 2**20
LEFTOVERS = re.compile(
    r"Traceback \(most recent|\b\w*Warning:|\bnan\b|\bNone\b|\binf\b|<[\w.]+ object at 0x|site-packages|file://|(?<!\w)/(?:tmp|root|home|work|Users)/\w"
)


@pytest.fixture(scope="module")
def pages(sites) -> dict[Path, BeautifulSoup]:
    found = {path: BeautifulSoup(path.read_text(), "html.parser") for site in sites for path in sorted(site.glob("*.html"))}
    assert found
    return found


def text_of(soup: BeautifulSoup) -> str:
    """What a reader reads, folded code left out."""
    copy = BeautifulSoup(str(soup.body), "html.parser")
    for element in copy.select("script, style, details.code"):
        element.decompose()
    return copy.get_text(" ")


def test_every_notebook_has_a_page_and_there_is_a_first_page(sites):
    expected = {"index.html", *(f"{path.stem}.html" for path in (settings.ROOT / "notebooks").glob("*.ipynb"))}
    for site in sites:
        assert {path.name for path in site.glob("*.html")} == expected


def test_pages_are_small(pages):
    for path in pages:
        assert path.stat().st_size <= LARGEST, path


def test_images_say_what_they_show(pages):
    for path, soup in pages.items():
        for image in soup.find_all("img"):
            assert len(image.get("alt", "").split()) >= 4, f"{path}: {image.get('alt')!r}"
            assert image.find_parent("figure").figcaption.get_text(strip=True), path


def test_tables_have_a_caption_and_scoped_heads(pages):
    for path, soup in pages.items():
        for table in soup.find_all("table"):
            assert table.caption and len(table.caption.get_text(strip=True)) > 10, path
            heads = table.find_all("th")
            assert heads and {head.get("scope") for head in heads} <= {"col", "row", "colgroup", "rowgroup"}, path
            assert all(head.get_text(strip=True) for head in heads), f"{path}: an empty head in {table.caption.get_text()!r}"
            for row in table.tbody.find_all("tr"):
                assert row.find("th"), path


def test_rows_of_a_table_are_equally_wide(pages):
    for path, soup in pages.items():
        for table in soup.find_all("table"):
            wide, open_spans = set(), []
            for row in table.tbody.find_all("tr"):
                own = [cell for cell in row.find_all(["th", "td"])]
                wide.add(len(own) + len(open_spans))
                open_spans = [left - 1 for left in open_spans if left > 1]
                open_spans += [int(cell["rowspan"]) - 1 for cell in own if int(cell.get("rowspan", 1)) > 1]
            assert len(wide) == 1, f"{path}: {table.caption.get_text()!r}"


def test_nothing_is_left_over_from_the_machine(pages):
    for path, soup in pages.items():
        found = LEFTOVERS.search(text_of(soup))
        assert not found, f"{path}: {text_of(soup)[max(0, found.start() - 80) : found.end() + 80]!r}"
        assert not soup.select(".failure"), path


def test_pages_need_nothing_from_elsewhere(pages):
    for path, soup in pages.items():
        for element in soup.select("[src]"):
            assert element["src"].startswith("data:"), f"{path}: {element['src'][:80]}"
        assert not soup.select("link[href], iframe, object, embed"), path
        assert not re.search(
            r"@import|url\(\s*['\"]?(?!data:)", " ".join(style.get_text() for style in soup.find_all("style"))
        ), path


def test_links_lead_somewhere(pages):
    for path, soup in pages.items():
        for link in soup.find_all("a", href=True):
            if link["href"].startswith(("http://", "https://")):
                continue
            name, _, place = link["href"].partition("#")
            target = path.with_name(name) if name else path
            assert target in pages, f"{path}: {link['href']}"
            assert not place or pages[target].find(id=place), f"{path}: {link['href']}"


def test_headings_descend_one_level_at_a_time(pages):
    for path, soup in pages.items():
        levels = [int(heading.name[1]) for heading in soup.find_all(re.compile(r"^h[1-6]$"))]
        assert levels.count(1) == 1 and levels[0] == 1, path
        assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False)), f"{path}: {levels}"


def test_ids_are_unique(pages):
    for path, soup in pages.items():
        ids = [element["id"] for element in soup.select("[id]")]
        assert len(ids) == len(set(ids)), f"{path}: {sorted({i for i in ids if ids.count(i) > 1})}"


def test_every_page_has_a_frame_to_find_ones_way(pages):
    for path, soup in pages.items():
        assert soup.html["lang"] == "en" and soup.title.get_text(strip=True), path
        assert "width=device-width" in soup.select_one('meta[name="viewport"]')["content"], path
        skip = soup.select_one("a.skip")
        assert soup.body.find("a") is skip and soup.find(id=skip["href"][1:]).name == "main", path
        assert len(soup.select('header nav a[aria-current="page"], header a.home[aria-current="page"]')) == 1, path
        provenance = {dt.get_text(): dt.find_next("dd").get_text(strip=True) for dt in soup.select(".provenance dt")}
        assert all(provenance.get(term) for term in ("Profile", "Data", "Measured on", "Commit", "Built")), path


def test_demo_pages_say_so(demo, pages):
    for path, soup in pages.items():
        assert bool(soup.select_one(".badge")) == (path.parent == demo), path


def test_the_first_page_answers(demo, pages):
    for path, soup in pages.items():
        if path.name == "index.html":
            assert len(soup.select(".findings > li")) == 5
            told = [finding.get_text() for finding in soup.select(".findings > li")]
            assert all(re.search(r"\d", text) or "Not measured yet" in text for text in told), path
            assert path.parent != demo or not any("Not measured yet" in text for text in told)
            # the study's figure waits for its first rows with a cost and a control, and says so
            assert soup.select_one("figure img") or (path.parent != demo and "No row has both" in soup.get_text()), path
