"""Tables for a page: a caption, scoped headers, numbers aligned on the decimal point, gaps that say why.

Every column has a fixed number of digits and tabular figures, so right-aligned numbers align on the point. The best
value of a column carries a mark and bold type, never a colour alone.
"""

import html
import numbers
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from helpers.report import style
from helpers.report.headings import HEADINGS, MILLIONS

MISSING = "–"
LONG_TEXT = 44  # characters, from where a cell holds a sentence rather than a name
BEST = "▸"  # stands before the best value; a reader with a screen reader hears "best"


@dataclass(frozen=True)
class Table:
    """A table as it stands in a page."""

    html: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return "Table"


def table(
    frame: pd.DataFrame,
    caption: str,
    *,
    digits: Mapping[str, int] = {},
    best: Mapping[str, str] = {},
    note: str = "",
    headings: Mapping[str, str] = {},
    reasons: Mapping = {},
) -> Table:
    """A frame as an HTML table.

    Args:
        frame: one row a line; the index heads the rows (a plain 0, 1, 2 … index gives way to the first column). Columns
            named as in the study's rows get their heading, unit and digits from `HEADINGS`; MACs are shown in millions.
            Two-level columns give a first line of group headings. A "method" or "dataset" is shown by its label.
        caption: one line above the table; may hold inline HTML.
        digits: column → digits behind the point, where `HEADINGS` has none or another number is wanted.
        best: column → "max" or "min": its best value is marked.
        note: one paragraph below the table; may hold inline HTML.
        headings: column → heading, where the name is not in `HEADINGS` or another is wanted ("Share of MACs (%)").
        reasons: column, or (row label, column), → why a value is missing ("not measured: no counter"); a footnote.

    In a two-level frame `digits`, `best` and `reasons` take the whole (group, column) pair or the column alone.
    Raises KeyError when `digits`, `best` or `headings` name a column that is not there, ValueError on an empty frame.
    """
    if frame.empty:
        raise ValueError(f"the table {caption!r} has no rows")
    if isinstance(frame.index, pd.RangeIndex) and frame.index.name is None:
        frame = frame.set_index(frame.columns[0])
    flat = {part for column in frame.columns for part in ((column, column[-1]) if isinstance(column, tuple) else (column,))}
    for name in {**digits, **best, **headings}:
        if name not in flat and name not in frame.index.names:
            raise KeyError(f"the table has no column {name!r}; it has {list(frame.columns)}")
    columns = [_Column(column, frame[column], digits, best, headings) for column in frame.columns]
    footnotes: dict[str, int] = {}
    body = []
    for position, label in enumerate(frame.index):
        cells = [column.cell(position, label, reasons, footnotes) for column in columns]
        body.append(f"<tr>{_row_heads(frame.index, position)}{''.join(cells)}</tr>")
    if any(column.best_positions for column in columns):
        note = f'<span class="mark">{BEST}</span> best of its column. {note}'.strip()
    for reason, number in footnotes.items():
        note += f" <sup>{number}</sup> {html.escape(reason)}."
    identity = f"table-{zlib.crc32((caption + ''.join(body)).encode()):08x}"
    return Table(
        f'<div class="table"><div class="scroll" tabindex="0" role="group" aria-labelledby="{identity}">'
        f'<table class="data"><caption id="{identity}"><span>{caption}</span></caption>'
        f"<thead>{_head(frame, columns, headings)}</thead><tbody>{''.join(body)}</tbody></table></div>"
        + (f'<p class="note">{note}</p>' if note else "")
        + "</div>"
    )


class _Column:
    """One column: how its values are written and which of them is best."""

    def __init__(self, key, values: pd.Series, digits: Mapping, best: Mapping, headings: Mapping):
        self.key, self.values = key, list(values)
        self.name = key[-1] if isinstance(key, tuple) else key
        title, unit, default = HEADINGS.get(self.name, (str(self.name), "", None))
        self.heading = headings.get(key, headings.get(self.name, title))
        self.unit = "" if self.heading != title else unit
        self.scale = 1e-6 if self.name in MILLIONS else 1
        present = [v for v in self.values if not _is_missing(v)]
        self.right = all(_is_number(v) or re.match(r"[-+−±~≤≥<>]?\s?\d", str(v)) for v in present)
        whole = all(_is_number(v) and float(v).is_integer() for v in present)
        fallback = default if default is not None else 0 if whole else 2
        self.digits = digits.get(key, digits.get(self.name, fallback))
        self.best_positions = self._best(best.get(key, best.get(self.name)))

    def _best(self, direction: str | None) -> set[int]:
        """Positions of the best value as it is shown: what looks equal is equal."""
        if direction is None:
            return set()
        if direction not in ("max", "min"):
            raise ValueError(f"best takes 'max' or 'min', got {direction!r}")
        shown = {i: round(v * self.scale, self.digits) for i, v in enumerate(self.values) if _is_number(v) and not _is_missing(v)}
        if len(shown) < 2:
            return set()
        winner = (max if direction == "max" else min)(shown.values())
        return {i for i, value in shown.items() if value == winner}

    def head(self) -> str:
        unit = f' <span class="unit">{self.unit}</span>' if self.unit else ""
        kinds = ("number" if self.right else "", "short" if len(str(self.heading)) + len(self.unit) < 9 else "")
        right = f' class="{" ".join(filter(None, kinds))}"' if any(kinds) else ""
        return f'<th scope="col"{right}>{html.escape(str(self.heading))}{unit}</th>'

    def cell(self, position: int, label, reasons: Mapping, footnotes: dict[str, int]) -> str:
        value = self.values[position]
        right = ' class="number"' if self.right else ""
        if _is_missing(value):
            candidates = ((label, self.key), (label, self.name), self.key, self.name)
            reason = next((reasons[c] for c in candidates if c in reasons), None)
            if reason is None:
                return f"<td{right}>{_gap('no value')}</td>"
            number = footnotes.setdefault(reason.rstrip("."), len(footnotes) + 1)
            return f"<td{right}>{_gap(f'not measured, see note {number}')}<sup>{number}</sup></td>"
        if not _is_number(value):
            return f"<td{right or _wordy(value)}>{_label(self.name, value)}</td>"
        text = number_text(value * self.scale, self.digits)
        if position in self.best_positions:
            mark = f'<span class="mark" aria-hidden="true">{BEST}</span>'
            return f'<td class="number best">{mark}{text}<span class="unseen"> (best)</span></td>'
        return f"<td{right}>{text}</td>"


def _gap(spoken: str) -> str:
    return f'<span role="img" aria-label="{spoken}">{MISSING}</span>'


def number_text(value: float, digits: int) -> str:
    """A number as a page shows it: fixed digits, thin spaces between thousands, a real minus sign."""
    text = f"{round(value, digits) or 0.0:,.{digits}f}".replace(",", "\u202f")  # "or": no minus before a zero
    return text.replace("-", "\u2212")


def _head(frame: pd.DataFrame, columns: list[_Column], headings: Mapping) -> str:
    """One header line, or two when the columns have two levels."""
    names = [headings.get(name, HEADINGS.get(name, (name or "", "", 0))[0]) for name in frame.index.names]
    grouped = frame.columns.nlevels > 1
    span = ' rowspan="2"' if grouped else ""
    # a corner without a word is a cell, not a header
    corner = "".join(f'<th scope="col"{span}>{html.escape(str(n))}</th>' if n else f"<td{span}></td>" for n in names)
    cells = "".join(column.head() for column in columns)
    if not grouped:
        return f"<tr>{corner}{cells}</tr>"
    groups: list[list] = []
    for column in frame.columns:
        if groups and groups[-1][0] == column[0]:
            groups[-1][1] += 1
        else:
            groups.append([column[0], 1])
    first = "".join(f'<th scope="colgroup" colspan="{n}">{_label("dataset", name)}</th>' for name, n in groups)
    return f"<tr>{corner}{first}</tr><tr>{cells}</tr>"


def _row_heads(index: pd.Index, position: int) -> str:
    """The heads of one row; in an index of two levels the outer one spans the rows that share it."""
    if index.nlevels == 1:
        return f'<th scope="row"{_wordy(index[position])}>{_label(index.name, index[position])}</th>'
    outer = list(index.get_level_values(0))
    label, *inner = index[position]
    head = ""
    if position == 0 or outer[position - 1] != label:
        span = next((i for i, other in enumerate(outer[position:]) if other != label), len(outer) - position)
        head = f'<th scope="rowgroup" rowspan="{span}">{_label(index.names[0], label)}</th>'
    return head + "".join(f'<th scope="row"{_wordy(v)}>{_label(n, v)}</th>' for n, v in zip(index.names[1:], inner, strict=True))


def _wordy(value) -> str:
    """Sentences wrap; names and figures stay on one line."""
    return ' class="words"' if isinstance(value, str) and len(value) > LONG_TEXT else ""


def _label(name, value) -> str:
    """A text cell: methods and data sets by their label, a method with its mark from the plots."""
    if name == "method" and value in style.METHODS:
        look = style.method(value)
        return f'<span class="dot" style="background:{look.color}" aria-hidden="true"></span>{html.escape(look.label)}'
    if name == "dataset":
        return html.escape(style.dataset(value))
    return html.escape(str(value))


def _is_number(value) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_missing(value) -> bool:
    return pd.api.types.is_scalar(value) and bool(pd.isna(value))
