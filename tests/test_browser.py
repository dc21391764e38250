"""The built pages in a real browser, opened from a file with the network off."""

import shutil
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

PHONE, LAPTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 800}
NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_api.sync_playwright() as playwright:
        found = found or (playwright.chromium.executable_path if Path(playwright.chromium.executable_path).exists() else None)
        if found is None:
            pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def paths(sites) -> list[Path]:
    return [path for site in sites for path in sorted(site.glob("*.html"))]


@pytest.fixture
def open_page(browser):
    """A function that opens a file at a size; at the end, nothing may have gone wrong on any page opened."""
    wrong, contexts = [], []

    def opened(path: Path, size: dict):
        context = browser.new_context(viewport=size, offline=True, reduced_motion="reduce")
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: message.type in ("error", "warning") and wrong.append(f"{path.name}: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"{path.name}: {error}"))
        page.on(
            "request", lambda sent: sent.url.startswith(("file:", "data:")) or wrong.append(f"{path.name} asks for {sent.url}")
        )
        page.on("requestfailed", lambda sent: wrong.append(f"{path.name} lacks {sent.url[:80]}"))
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not wrong


def test_pages_fit_a_phone(paths, open_page):
    for path in paths:
        page = open_page(path, PHONE)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path
        assert page.get_by_role("link", name="Does pruning pay?").first.is_visible(), path


def test_images_are_drawn_and_nothing_spills(paths, open_page):
    for path in paths:
        page = open_page(path, LAPTOP)
        assert page.evaluate("document.documentElement.scrollWidth") <= LAPTOP["width"], path
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 100)"), path


def test_axe_finds_nothing_serious(paths, open_page):
    for path in paths:
        for size in (LAPTOP, PHONE):
            found = axe.Axe().run(open_page(path, size)).response["violations"]
            serious = [
                (violation["id"], [node["html"][:120] for node in violation["nodes"][:3]])
                for violation in found
                if violation["impact"] in ("serious", "critical")
            ]
            assert not serious, f"{path} at {size['width']}: {serious}"


def test_code_unfolds_by_keyboard(demo, open_page):
    page = open_page(demo / "00_baseline.html", LAPTOP)
    cell = page.locator("details.code").first
    cell.locator("summary").focus()
    page.keyboard.press("Enter")
    assert cell.evaluate("cell => cell.open") and cell.locator("pre").is_visible()
    page.keyboard.press("Enter")
    assert not cell.evaluate("cell => cell.open")

    opened = "document.querySelectorAll('details.code[open]').length"
    page.locator("#fold").focus()
    page.keyboard.press("Space")
    assert page.evaluate(opened) == page.locator("details.code").count() > 0
    assert page.locator("#fold").get_attribute("aria-pressed") == "true"
    page.keyboard.press("Space")
    assert page.evaluate(opened) == 0


def test_the_skip_link_comes_first_and_works(demo, open_page):
    page = open_page(demo / "00_baseline.html", LAPTOP)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_links_lead_through_all_pages(demo, open_page):
    page = open_page(demo / "index.html", LAPTOP)
    seen = [Path(page.url).name]
    link = page.locator(".contents a").first
    while link.count():
        with page.expect_navigation():
            link.click()
        seen.append(Path(page.url).name)
        link = page.locator('a[rel="next"]')
    assert seen == ["index.html", *sorted(path.name for path in demo.glob("0*.html"))]
    page.locator(".toc nav a").last.click()
    assert "#" in page.url and page.locator(f"[id='{page.url.partition('#')[2]}']").is_visible()
    with page.expect_navigation():
        page.locator("a.home").click()
    assert Path(page.url).name == "index.html"


def test_wide_tables_scroll_in_their_own_box_with_their_row_heads(demo, open_page):
    page = open_page(demo / "00_baseline.html", PHONE)
    boxes = page.evaluate(
        """[...document.querySelectorAll('div.table .scroll')].filter(box => box.scrollWidth > box.clientWidth).map(box => {
            const head = [...box.querySelector('tbody tr').querySelectorAll('th')].at(-1);
            const left = () => head.getBoundingClientRect().left - box.getBoundingClientRect().left;
            const before = left();
            box.scrollLeft = box.scrollWidth;
            return [box.scrollLeft, box.tabIndex, before, left()];
        })"""
    )
    assert boxes, "at least one table is wider than a phone"
    for moved, tab, before, after in boxes:
        assert moved > 0 and tab == 0
        assert after == pytest.approx(max(before - moved, 0), abs=2)  # moves with the table as far as the edge, and stays there
    assert any(moved > before for moved, _, before, _ in boxes), "at least one head has reached the edge"
