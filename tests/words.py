"""Rules for the words of a built page: what is said, in how long a sentence, with how many numbers.

python tests/words.py build/demo        every page in a folder, one line for each thing to mend
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from bs4 import BeautifulSoup, Tag

WORDS, NUMBERS = 25, 3  # a sentence, at most
PAGE = 2000  # words a page, at most: prose, captions and tables
PAGES = {"04_analysis": 4500}
NOT_READ = "script, style, details.code, pre, svg, math, .meta, form, .unseen"  # code, drawings and controls
BLOCKS = ("p", "li", "figcaption", "caption", "summary", "td", "th", "dd", "blockquote", "h1", "h2", "h3", "h4")
MACHINERY = {
    "write-up": "the original report",
    "quiet pass": "say what was measured",
    "profile": "demo or study, by name",
    "tier": "say what it means",
    "number format": "trained in bfloat16",
    "variant": "name it",
    "signed at its first stage": "iterative GraSP",
    "dense control": "the dense network trained as long",
    "those asked here": "say which",
    "the latter": "say which",
    "the former": "say which",
}
ROW = re.compile(r"\brows?\b(?! (?:of|by row|and columns?|sums?)\b)", re.IGNORECASE)  # of a matrix; a result is no row
NAMES = re.compile(  # digits in them are no numbers
    r"\bVGG-?\d+(?:-BN)?\b|\bCIFAR-\d+\b|\bL[0-2]\b|\b\d+\s?[×x]\s?\d+(?:\s?[×x]\s?\d+)?(?![\d.])|\bTask \d[ab]?\b|\btop-\d\b"
    r"|\b(?:conv|fc|layer|Table|Figure|Fig\.|notebook|section|lab|seed|step|part|ch\.) \d+[a-z]?\b|\bMIT \d\.\d+\b"
    r"|\b(?:float|bfloat|int)\d+\b|\(?\b(?:19|20)\d\d[a-z]?\b\)?",
    re.IGNORECASE,
)
NUMBER = re.compile(r"(?<![\w.])[-+−±~]?\d[\d\u202f\u00a0,.]*")
ABBREVIATION = re.compile(r"\b(e\.g|i\.e|et al|Fig|Eq|vs|cf|approx|No|ch)\.")


def read(page: str) -> BeautifulSoup:
    """The part of a page that counts: its main text without code and drawings."""
    soup = BeautifulSoup(page, "html.parser")
    for element in soup.select(NOT_READ):
        element.replace_with(" formula " if element.name == "math" else "")
    return soup.main or soup


def words(text: str) -> list[str]:
    return [word for word in text.split() if re.search(r"\w", word)]


def sentences(soup: BeautifulSoup, blocks: tuple[str, ...] = BLOCKS) -> Iterator[str]:
    """The sentences of every block, each once."""
    for block in soup.find_all(blocks):
        own = [part if isinstance(part, str) else part.get_text() for part in block.children if _inline(part)]
        text = ABBREVIATION.sub(lambda match: match[0].replace(".", "\u2024"), " ".join("".join(own).split()))
        for sentence in re.split(r"(?<=[.!?:])[\s\u00a0]+(?=[A-Z0-9“\"(])", text):
            if words(sentence):
                yield sentence.replace("\u2024", ".")


def _inline(part: object) -> bool:
    return not isinstance(part, Tag) or (part.name not in (*BLOCKS, "ul", "ol", "table", "div") and not part.find(BLOCKS))


def numbers(sentence: str) -> list[str]:
    """The numbers of a sentence; those inside names left out."""
    return NUMBER.findall(NAMES.sub(" ", sentence))


def problems(page: str, name: str = "") -> list[str]:
    """What breaks a rule on a page (its HTML; `name` is its file's without ending), one line each."""
    soup = read(page)
    text = " ".join(soup.get_text(" ").split())
    found = [f"{word!r} is said ({instead})" for word, instead in MACHINERY.items() if re.search(rf"\b{word}s?\b", text, re.I)]
    found += [f"a result is called a row: …{text[max(0, m.start() - 40) : m.end() + 20]}…" for m in ROW.finditer(text)]
    if (count := len(words(text))) > (limit := PAGES.get(name, PAGE)):
        found.append(f"{count} words on the page, {limit} at most")
    for sentence in sentences(soup):
        if (count := len(words(sentence))) > WORDS:
            found.append(f"{count} words in a sentence, {WORDS} at most: {sentence}")
    for sentence in sentences(soup, tuple(name for name in BLOCKS if name not in ("td", "th"))):  # a cell may hold an interval
        if (count := len(numbers(sentence))) > NUMBERS:
            found.append(f"{count} numbers in a sentence, {NUMBERS} at most: {sentence}")
    return found


if __name__ == "__main__":
    told = [
        f"{path.name}: {problem}"
        for folder in sys.argv[1:]
        for path in sorted(Path(folder).glob("*.html"))
        for problem in problems(path.read_text(encoding="utf-8"), path.stem)
    ]
    print("\n".join(told) or "nothing to mend")
    sys.exit(bool(told))
