"""Executed notebooks as pages: one self-contained HTML file each, no script, style or image from elsewhere."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import nbformat
from bs4 import BeautifulSoup, NavigableString, Tag
from latex2mathml.converter import convert as to_mathml
from markupsafe import Markup
from nbconvert import HTMLExporter

from helpers import files

SITE = "Does pruning pay?"
SHORT = {"Grasp": "GraSP"}
TEMPLATES = Path(__file__).parent / "template"
MATH = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\w])\$(?!\s)([^$]+?)(?<!\s)\$(?!\w)", re.DOTALL)
UNIT = re.compile(r"(?<=\d) (?=(?:%|×|MiB|MB|ms|mJ|s|M|points?|epochs?|images)\b|%|×)")
VERBATIM = {"pre", "code", "script", "style", "math", "textarea"}


@dataclass(frozen=True)
class Page:
    """What other pages need to know of one notebook."""

    file: str  # "01_sensitivity.html"
    title: str
    short: str  # for the row of links
    question: str  # the first paragraph under the title


@dataclass
class Body:
    """The inside of a page and its table of contents."""

    html: str
    toc: list[dict] = field(default_factory=list)  # {level, id, text}
    folded: bool = False  # is there code to unfold


def describe(path: Path) -> Page:
    """Title and question of the notebook at `path`, from its first Markdown cell; nothing is executed."""
    notebook = nbformat.read(path, as_version=4)
    text = next((cell.source for cell in notebook.cells if cell.cell_type == "markdown"), "")
    paragraphs = [block.strip() for block in text.split("\n\n") if block.strip()]
    title = paragraphs[0].lstrip("# ").strip() if paragraphs and paragraphs[0].startswith("# ") else path.stem
    title, *rest = title.split("\n")
    question = next((p for p in ["\n".join(rest).strip(), *paragraphs[1:]] if p), "")
    short = path.stem.split("_", 1)[-1].replace("_", " ").capitalize()
    return Page(f"{path.stem}.html", title, SHORT.get(short, short), _plain(question))


def body(notebook: nbformat.NotebookNode) -> Body:
    """An executed notebook as HTML, with headings numbered for links, formulas as MathML and code folded."""
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), start=1):
        cell.metadata["report_number"] = number
        cell.outputs = [output for output in cell.outputs if not _unprintable(output)]
    exporter = HTMLExporter(template_name="pages", extra_template_basedirs=[str(TEMPLATES)], exclude_anchor_links=True)
    soup = BeautifulSoup(exporter.from_notebook_node(notebook)[0], "html.parser")
    _formulas(soup)
    _units(soup)
    for link in soup.select('a[href*=".ipynb"]'):
        link["href"] = re.sub(r"^(?:\./)?([\w-]+)\.ipynb", r"\1.html", link["href"])
    for block in soup.find_all("pre"):
        block["tabindex"] = "0"  # what scrolls must be reachable by keyboard
    toc, taken = [], set()
    for heading in soup.find_all(["h1", "h2", "h3", "h4"]):
        heading["id"] = _identity(heading.get_text(), taken)
        if heading.name in ("h2", "h3"):
            toc.append({"level": int(heading.name[1]), "id": heading["id"], "text": heading.get_text()})
    return Body(str(soup), toc, bool(soup.select("details.code")))


def render(
    content: Body,
    current: Page | None,
    pages: Sequence[Page],
    *,
    profile: str,
    provenance: dict[str, str],
    failure: str = "",
) -> str:
    """The whole file: `content` with the head, links, contents and provenance around it. `current` None is the first page."""
    position = pages.index(current) if current in pages else -1
    return template("page.html.j2").render(
        site=SITE,
        title=_plain(current.title) if current else SITE,
        kind="notebook" if current else "index",
        current=current.file if current else "index.html",
        pages=pages,
        before=pages[position - 1] if position > 0 else None,
        after=pages[position + 1] if current and position + 1 < len(pages) else None,
        profile=profile,
        provenance=provenance,
        failure=failure,
        body=Markup(content.html),
        toc=[{**entry, "text": _plain(entry["text"])} for entry in content.toc],
        folded=content.folded,
        css=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "page.js").read_text(encoding="utf-8")),
    )


def template(name: str) -> jinja2.Template:
    """A page template of this report; what it is given is escaped, and a misspelt name is an error."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template(name)


def write(path: Path, text: str) -> None:
    """Write a page, whole or not at all."""
    with files.atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _unprintable(output) -> bool:
    """Widgets need a live kernel and standard error belongs to the console."""
    if output.output_type == "stream":
        return output.name == "stderr"
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def _identity(text: str, taken: set[str]) -> str:
    """A short, readable and unique id for a heading."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    base = re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-") or "section"
    identity = base
    number = 2
    while identity in taken:
        identity, number = f"{base}-{number}", number + 1
    taken.add(identity)
    return identity


def _plain(markdown: str) -> str:
    """Markdown emphasis, code marks and links taken off, for titles and link texts."""
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", markdown)
    return re.sub(r"[*_`]{1,2}(\S(?:.*?\S)?)[*_`]{1,2}", r"\1", " ".join(text.split()))


def _units(soup: BeautifulSoup) -> None:
    """A number and its unit stay on one line."""
    for node in list(soup.find_all(string=UNIT)):
        if not any(isinstance(parent, Tag) and parent.name in VERBATIM for parent in node.parents):
            node.replace_with(UNIT.sub("\u00a0", node))


def _formulas(soup: BeautifulSoup) -> None:
    """$…$ and $$…$$ in running text become MathML, which browsers draw without a script."""
    for node in list(soup.find_all(string=MATH)):
        if any(isinstance(parent, Tag) and parent.name in VERBATIM for parent in node.parents):
            continue
        pieces: list = []
        end = 0
        for match in MATH.finditer(node):
            display = "block" if match.group(1) else "inline"
            formula = to_mathml((match.group(1) or match.group(2)).strip(), display=display)
            pieces += [NavigableString(node[end : match.start()]), BeautifulSoup(formula, "html.parser")]
            end = match.end()
        node.replace_with(*pieces, NavigableString(node[end:]))
