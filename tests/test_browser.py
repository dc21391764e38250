"""Built pages in a real browser, opened from a file with the network off. The pages are those of `test_pages`."""

import json
from pathlib import Path

import pytest
import sample

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

PHONE, LAPTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 800}
BEYOND = """[...document.querySelectorAll('main *')].filter(element => !element.closest('.scroll, pre, svg, .unseen')
    && element.getBoundingClientRect().right > innerWidth + 1).length"""
WRONG_STOPS = """[...document.querySelectorAll('[tabindex="0"]')].filter(box => box.scrollWidth <= box.clientWidth + 1).length
    + [...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth + 1
        && box.tabIndex !== 0).length"""
FOREIGN = ".output table:not(.data) td"  # in colours that a cell's own code gives
IN_SIGHT = """[...document.querySelectorAll('.scroll.scrolls')].filter(box => [0, box.scrollWidth].every(at => {
    box.scrollLeft = at;
    const edge = box.getBoundingClientRect();
    const [head, ...cells] = box.querySelector('tbody tr:not(.group)').children;
    const key = cells.find(cell => getComputedStyle(cell).right === '0px');
    return Math.abs(head.getBoundingClientRect().left - edge.left) < 2 && key?.getBoundingClientRect().right <= edge.right + 1;
})).length"""


@pytest.fixture(scope="module")
def paths() -> list[Path]:
    return sample.pages(sample.site())


@pytest.fixture
def open_page(browser):
    """A function that opens a file at a size; at the end, nothing may have gone wrong on any page opened."""
    wrong, contexts = [], []

    def opened(path: Path, size: dict, **options):
        context = browser.new_context(viewport=size, offline=True, reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: message.type in ("error", "warning") and wrong.append(f"{path.name}: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"{path.name}: {error}"))
        page.on(
            "request", lambda sent: sent.url.startswith(("file:", "data:")) or wrong.append(f"{path.name} asks for {sent.url}")
        )
        page.on("requestfailed", lambda sent: wrong.append(f"{path.name} lacks {sent.url[:80]}"))
        page.goto(path.as_uri())
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not wrong


@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["1280", "390"])
def test_pages_fit_their_screen(paths, open_page, size):
    for path in paths:
        page = open_page(path, size)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], path
        assert page.evaluate(BEYOND) == 0, path
        assert page.evaluate(WRONG_STOPS) == 0, path
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 100)"), path
        links = page.locator("header nav a")
        boxes = [links.nth(number).bounding_box() for number in range(links.count())]
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= size["width"] for box in boxes), path
        wide, kept = page.evaluate("document.querySelectorAll('.scroll.scrolls > .data').length"), page.evaluate(IN_SIGHT)
        assert wide <= (1 if size is LAPTOP else kept), path  # one grand table a page; on a phone first and key column stay


@pytest.mark.parametrize(
    ("size", "scheme", "options"),
    [(LAPTOP, "light", {}), (PHONE, "dark", {"runOnly": ["color-contrast"]})],
    ids=["1280, light", "390, dark"],
)
def test_axe_finds_nothing(paths, open_page, size, scheme, options):
    for path in paths if scheme == "light" else paths[-2:]:  # the dark colours are the same on all pages
        page = open_page(path, size, color_scheme=scheme)
        if path is not paths[0]:  # code looks alike on all pages, and is most of what axe would read
            page.evaluate("document.querySelectorAll('details.code').forEach(code => code.remove())")
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        found = axe.Axe().run(page, context={"exclude": [[FOREIGN]]}, options=options).response["violations"]
        told = [(violation["id"], [node["html"][:120] for node in violation["nodes"][:3]]) for violation in found]
        assert not told, f"{path}: {told}"


def test_figures_stay_on_light_ground_in_the_dark(paths, open_page):
    page = open_page(sample.site() / "index.html", LAPTOP, color_scheme="dark")
    grounds = page.evaluate(
        "[...document.querySelectorAll('figure.plot img, .drawings svg')].map(e => getComputedStyle(e).backgroundColor)"
    )
    assert grounds and set(grounds) == {"rgb(255, 255, 255)"}
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"


def test_code_unfolds_by_keyboard(paths, open_page):
    page = open_page(sample.site() / "01_sensitivity.html", LAPTOP)
    cell = page.locator("details.code:not([open])").first.element_handle()
    cell.query_selector("summary").focus()
    page.keyboard.press("Enter")
    assert cell.evaluate("cell => cell.open") and cell.query_selector("pre").is_visible()

    fold, opened = page.locator("#fold"), "document.querySelectorAll('details.code[open]').length"
    label = fold.text_content()
    fold.focus()
    page.keyboard.press("Space")
    assert page.evaluate(opened) == page.locator("details.code").count() > 0
    assert (fold.get_attribute("aria-pressed"), fold.text_content()) == ("true", label)
    page.keyboard.press("Space")
    assert page.evaluate(opened) == 0 and (fold.get_attribute("aria-pressed"), fold.text_content()) == ("false", label)


def test_print_opens_what_is_folded_but_code(paths, open_page):
    page = open_page(sample.site() / "01_sensitivity.html", LAPTOP)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".prose details:not(.code) :is(p, li)").first.is_visible()
    assert not page.locator("details.code:not([open])").first.is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not page.locator(".prose details:not(.code)").first.evaluate("part => part.open")


def test_the_explorer_works_by_keyboard(paths, open_page):
    page = open_page(sample.site() / "index.html", LAPTOP)
    parts = json.loads(page.locator("#stops").text_content())
    slider, status, multiply_adds = (
        page.locator("#stop"),
        page.locator("#chosen"),
        page.get_by_role("radio", name="multiply-adds"),
    )
    in_order = sorted(parts[0]["stops"], key=lambda stop: sum(stop["sparsity"]) / len(stop["sparsity"]))
    slider.focus()
    for stop in in_order:
        assert slider.get_attribute("aria-valuetext") == stop["name"] == page.locator(".explorer .name").text_content()
        for dataset, values in stop["values"].items():
            for field in ("file", "time", "top1", "macs"):
                assert page.locator(f"[data-dataset={dataset}][data-field={field}]").text_content() == values[field]
                assert values[field] in status.text_content()
            ring = page.locator(f".drawings:not([hidden]) circle.chosen[data-dataset={dataset}]")
            assert [float(ring.get_attribute(side)) for side in ("cx", "cy")] == values["at"] and ring.is_visible()
        page.keyboard.press("ArrowRight")
    assert slider.input_value() == slider.get_attribute("max") == str(len(in_order) - 1)

    multiply_adds.focus()
    page.keyboard.press("Space")
    slider.focus()
    page.keyboard.press("End")
    least = min(parts[0]["stops"], key=lambda stop: sum(stop["macs"]) / len(stop["macs"]))
    assert slider.get_attribute("aria-valuetext") == least["name"]
    page.get_by_role("radio", name=parts[1]["start"]).check()
    assert slider.get_attribute("aria-valuetext") in [stop["name"] for stop in parts[1]["stops"]]
    assert page.locator(".drawings:not([hidden])").count() == 1


def test_without_a_script_everything_stands_there(browser):
    context = browser.new_context(viewport=LAPTOP, offline=True, java_script_enabled=False)
    page = context.new_page()
    page.goto((sample.site() / "index.html").as_uri())
    assert page.locator(".everything table").is_visible() and not page.locator("#explorer").is_visible()
    assert page.locator(".drawings").count() == 2 and all(drawing.is_visible() for drawing in page.locator(".drawings").all())
    context.close()


def test_the_skip_link_comes_first_and_links_lead_through_all_pages(paths, open_page):
    page = open_page(sample.site() / "index.html", LAPTOP)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    seen, link = [Path(page.url).name.partition("#")[0]], page.locator(".contents a").first
    while link.count():
        with page.expect_navigation():
            link.click()
        seen.append(Path(page.url).name)
        link = page.locator('a[rel="next"]')
    assert seen == ["index.html", *(path.name for path in paths if path.stem != "index")]
    page.locator(".toc nav a").last.click()
    assert page.locator(f"[id='{page.url.partition('#')[2]}']").is_visible()
