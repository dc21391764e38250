"""An executed notebook as a page: one HTML file that needs no script, style, font or image from elsewhere."""

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import nbformat
from bs4 import BeautifulSoup
from latex2mathml.converter import convert as to_mathml
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from helpers import settings

SITE = "Does pruning pay?"
TEMPLATES = Path(__file__).parent / "template"
NOTEBOOKS = settings.ROOT / "notebooks"
MATH = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\w])\$(?!\s)([^$]+?)(?<!\s)\$(?!\w)", re.DOTALL)
UNIT = re.compile(r"(?<=\d) (?=(?:%|×|MiB|MB|ms|mJ|s|M|points?|epochs?|images)\b|%|×)")
VERBATIM = {"pre", "code", "script", "style", "math", "textarea"}
SHORT = {"Grasp": "GraSP"}


@dataclass(frozen=True)
class Page:
    """What other pages need to know of one notebook."""

    file: str  # "01_sensitivity.html"
    title: str
    short: str  # for the row of links
    question: str  # the first paragraph under the title


def describe(path: Path) -> Page:
    """Title and question of a notebook, from its first Markdown cell; nothing is executed."""
    notebook = nbformat.read(path, as_version=4)
    text = next((cell.source for cell in notebook.cells if cell.cell_type == "markdown"), "")
    title, _, rest = text.strip().partition("\n")
    question = next((block for block in rest.split("\n\n") if block.strip()), "")
    short = path.stem.partition("_")[2].replace("_", " ").capitalize()
    title = title.lstrip("# ") if title.startswith("# ") else path.stem
    return Page(f"{path.stem}.html", _plain(title), SHORT.get(short, short or path.stem), _plain(question))


def contents(notebook: NotebookNode, out: Path) -> tuple[str, list[dict]]:
    """An executed notebook as HTML, and its headings {level, id, text}: formulas as MathML, code folded, links from `out`."""
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), start=1):
        cell.metadata["number"] = number
        cell.outputs = [output for output in cell.outputs if not _unprintable(output)]
    exporter = HTMLExporter(template_name="pages", extra_template_basedirs=[str(TEMPLATES)], exclude_anchor_links=True)
    soup = BeautifulSoup(exporter.from_notebook_node(notebook)[0], "html.parser")
    _formulas(soup)
    for table in soup.select("table:not(.data)"):  # those of pandas: wide ones scroll in their own box
        table.wrap(soup.new_tag("div", attrs={"class": "scroll"}))
        for head in table.select("th"):
            head.name = head.name if head.get_text(strip=True) else "td"
    for text in _running_text(soup, UNIT):
        text.replace_with(UNIT.sub("\u00a0", text))  # a number and its unit stay on one line
    for link in soup.select("a[href]"):
        file, mark, place = link["href"].partition("#")
        if re.fullmatch(r"(?:\./)?[\w-]+\.ipynb", file):
            link["href"] = f"{Path(file).stem}.html{mark}{place}"
        elif file and ":" not in file and (target := (NOTEBOOKS / file).resolve()).is_relative_to(settings.ROOT):
            link["href"] = address(str(target.relative_to(settings.ROOT)), out) + mark + place
    headings, taken = [], set()
    for heading in soup.find_all(["h1", "h2", "h3", "h4"]):
        heading["id"] = _identity(heading.get_text(), taken)
        headings.append({"level": int(heading.name[1]), "id": heading["id"], "text": heading.get_text()})
    return str(soup), headings


def page(body: str, headings: list[dict], current: Page | None, site: Sequence[Page], out: Path, **words) -> str:
    """The whole file: `body` with head, links, contents and foot around it. `current` None is the first page."""
    position = site.index(current) if current else -1
    source = f"notebooks/{Path(current.file).stem}.ipynb" if current else "helpers/report/index.py"
    links = {"Code of this page": source, "The original report": "docs/original.md", "What else was tried": "docs/trials.md"}
    return template("page.html.j2").render(
        site=SITE,
        pages=site,
        current=current,
        before=site[position - 1] if position > 0 else None,
        after=site[position + 1] if position + 1 < len(site) else None,
        toc=[heading for heading in headings if heading["level"] in (2, 3)] if current else [],
        folded='<details class="code"' in body,
        links={text: address(path, out) for text, path in links.items()},
        body=Markup(body),
        **{name: Markup((TEMPLATES / name.replace("_", ".")).read_text(encoding="utf-8")) for name in ("style_css", "page_js")},
        **words,
    )


def template(name: str) -> jinja2.Template:
    """A template of this report; what it is given is escaped, and a misspelt name is an error."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True).get_template(
        name
    )


def address(path: str, out: Path) -> str:
    """A file of this project as a page in `out` links it: in the repository that $REPOSITORY names, else beside the page."""
    repository = os.environ.get("REPOSITORY", "").rstrip("/")
    return f"{repository}/blob/HEAD/{path}" if repository else Path(os.path.relpath(settings.ROOT / path, out)).as_posix()


def _unprintable(output: NotebookNode) -> bool:
    """Widgets need a live kernel, and standard error belongs to the console."""
    return output.get("name") == "stderr" or "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def _running_text(soup: BeautifulSoup, pattern: re.Pattern) -> list:
    found = soup.find_all(string=pattern)
    return [text for text in found if not any(parent.name in VERBATIM for parent in text.parents)]


def _formulas(soup: BeautifulSoup) -> None:
    """$…$ and $$…$$ in running text become MathML, which browsers draw without a script and, unstretched, without its font."""
    for text in _running_text(soup, MATH):
        pieces, end = [], 0
        for match in MATH.finditer(text):
            formula = to_mathml((match[1] or match[2]).strip(), display="block" if match[1] else "inline")
            formula = BeautifulSoup(formula, "html.parser")
            for operator in formula.select("mo"):
                operator["stretchy"] = "false"
            pieces += [text[end : match.start()], formula]
            end = match.end()
        text.replace_with(*pieces, text[end:])


def _identity(text: str, taken: set[str]) -> str:
    """A short, readable and unique id for a heading."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    base = re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "section"
    names = [base, *(f"{base}-{number}" for number in range(2, len(taken) + 2))]
    taken.add(name := next(name for name in names if name not in taken))
    return name


def _plain(markdown: str) -> str:
    """Markdown emphasis, code marks and links taken off, for titles and link texts."""
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", markdown)
    return re.sub(r"[*_`]{1,2}(\S(?:.*?\S)?)[*_`]{1,2}", r"\1", " ".join(text.split()))
