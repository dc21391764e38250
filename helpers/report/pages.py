"""An executed notebook as a page: one HTML file that needs no script, style, font or image from elsewhere."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import nbformat
from bs4 import BeautifulSoup
from latex2mathml.converter import convert as to_mathml
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from helpers import settings

SITE = "Does pruning pay?"
TEMPLATES = Path(__file__).parent / "template"
NOTEBOOKS = settings.ROOT / "notebooks"
UNIT = re.compile(r"(?<=\d) (?=(?:%|×|MiB|MB|ms|mJ|s|M|points?|epochs?|images?)\b|%|×)")
VERBATIM = ["pre", "code", "script", "style", "math", "textarea"]
SHORT = {"Grasp": "GraSP"}


@dataclass(frozen=True)
class Page:
    """What other pages need to know of one notebook."""

    file: str  # "01_sensitivity.html"
    title: str
    short: str  # for the row of links
    question: str  # the first paragraph under the title


class _Renderer(IPythonRenderer):
    """Formulas become MathML, which browsers draw without a script and, unstretched, without its font."""

    def inline_math(self, body: str, display: str = "inline") -> str:
        formula = BeautifulSoup(to_mathml(body.strip(), display=display), "html.parser")
        for operator in formula.select("mo"):
            operator["stretchy"] = "false"
        return str(formula)

    def block_math(self, body: str) -> str:
        return self.inline_math(body, "block")


def _html(markdown: str) -> str:
    return MarkdownWithMath(renderer=_Renderer(escape=False, exclude_anchor_links=True)).render(markdown)


def describe(path: Path) -> Page:
    """Title and question of a notebook, from its first Markdown cell; nothing is executed."""
    cells = nbformat.read(path, as_version=4).cells
    first = BeautifulSoup(_html(next((cell.source for cell in cells if cell.cell_type == "markdown"), "")), "html.parser")
    title, question = (" ".join(part.get_text().split()) if part else "" for part in (first.h1, first.p))
    short = path.stem.partition("_")[2].replace("_", " ").capitalize()
    return Page(f"{path.stem}.html", title or path.stem, SHORT.get(short, short or path.stem), question)


def contents(notebook: NotebookNode, out: Path) -> tuple[str, list[dict]]:
    """An executed notebook as HTML, and its headings {level, id, text}: formulas as MathML, code folded, links from `out`.

    Text tagged "measured" is left out where the cell behind it shows nothing, since its results are not there.
    """
    cells = notebook.cells
    empty = {i for i, cell in enumerate(cells) if "measured" in cell.metadata.get("tags", ()) and not cells[i + 1].get("outputs")}
    notebook.cells = [cell for i, cell in enumerate(cells) if not {i, i - 1} & empty]
    for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), start=1):
        cell.metadata["number"] = number
        cell.outputs = [output for output in cell.outputs if not _unprintable(output)]
    exporter = HTMLExporter(template_name="pages", extra_template_basedirs=[str(TEMPLATES)])
    exporter.register_filter("markdown2html", _html)
    soup = BeautifulSoup(exporter.from_notebook_node(notebook)[0], "html.parser")
    for table in soup.select("table:not(.data)"):  # those of pandas: wide ones scroll in their own box
        table.wrap(soup.new_tag("div", attrs={"class": "scroll"}))
        for head in table.select("th"):
            head["scope"] = "col" if head.find_parent("thead") else "row"
            head.name = head.name if head.get_text(strip=True) else "td"
    for text in soup.find_all(string=UNIT):
        if not text.find_parent(VERBATIM):
            text.replace_with(UNIT.sub("\u00a0", text))  # a number and its unit stay on one line
    for link in soup.select("a[href]"):
        link["href"] = _target(str(link["href"]), out)
    headings, taken = [], Counter[str]()
    for heading in soup.find_all(["h1", "h2", "h3", "h4"]):
        name = re.sub(r"\W+", "-", heading.get_text().lower()).strip("-")
        taken[name] += 1
        heading["id"] = f"{name}-{taken[name]}" if taken[name] > 1 else name
        headings.append({"level": int(heading.name[1]), "id": heading["id"], "text": heading.get_text()})
    return str(soup), headings


def _unprintable(output: NotebookNode) -> bool:
    """Widgets need a live kernel, and standard error belongs to the console."""
    return output.get("name") == "stderr" or "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def _target(link: str, out: Path) -> str:
    """A link of a notebook as its page in `out` has it: to another page, to a file of the project, or as it is."""
    file, mark, place = link.partition("#")
    if re.fullmatch(r"(?:\./)?[\w-]+\.ipynb", file):
        return f"{Path(file).stem}.html{mark}{place}"
    if file and ":" not in file and (path := (NOTEBOOKS / file).resolve()).is_relative_to(settings.ROOT):
        return address(str(path.relative_to(settings.ROOT)), out) + mark + place
    return link


def page(
    body: str, headings: list[dict], current: Page | None, site: Sequence[Page], out: Path, code: str = "", **words: object
) -> str:
    """The whole file: `body` with head, links, contents and foot around it. `current` None is the first page."""
    position = site.index(current) if current else -1
    source = code or (f"notebooks/{Path(current.file).stem}.ipynb" if current else "helpers/report/index.py")
    links = {"Code of this page": source, "The original report": "docs/original.md", "What else was tried": "docs/trials.md"}
    return template("page.html.j2").render(
        site=SITE,
        pages=site,
        current=current,
        before=site[position - 1] if position > 0 else None,
        after=site[position + 1] if position + 1 < len(site) else None,
        toc=[heading for heading in headings if heading["level"] in (2, 3)] if current else [],
        links={text: address(path, out) for text, path in links.items()},
        body=Markup(body),
        style_css=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        page_js=Markup((TEMPLATES / "page.js").read_text(encoding="utf-8")),
        **words,
    )


def template(name: str) -> jinja2.Template:
    """A template of this report; what it is given is escaped, and a misspelt name is an error."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template(name)


def address(path: str, out: Path) -> str:
    """A file of this project as a page in `out` links it: in the repository that $REPOSITORY names, else beside the page."""
    repository = os.environ.get("REPOSITORY", "").rstrip("/")
    return f"{repository}/blob/HEAD/{path}" if repository else Path(os.path.relpath(settings.ROOT / path, out)).as_posix()
