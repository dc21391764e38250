"""Tables of results: styled frames whose data stay in reach, with scoped heads and numbers aligned on the point.

A page, JupyterLab and a reader's own code get the same object, a pandas Styler: `.data` holds the unrounded numbers under
the frame's own column names.
"""

import html
import itertools
import re
import zlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from pandas.io.formats.style import Styler

from helpers import statistics
from helpers.report import look


class Heading(NamedTuple):
    """What stands above a column, and how many digits behind the point its numbers get (None: 0 or 2, as they need)."""

    title: str
    unit: str = ""  # "M": counts, shown in millions
    digits: int | None = None
    noun: str = ""  # in a sentence

    @property
    def scale(self) -> float:
        """What a stored value is multiplied by to be shown."""
        return 1e-6 if self.unit == "M" else 1.0

    def text(self, value: float) -> str:
        """A value of the column as it is shown, a dash where there is none."""
        return "–" if pd.isna(value) else number_text(value * self.scale, self.digits or 0)


HEADINGS = {
    line["column"]: Heading(line["title"], line["unit"], int(line["digits"]), line["noun"])
    for line in look.records("columns.csv")
}
TASK = ["sparsity_pct", "size_mib", "macs", "peak_memory_mib", "latency_ms", "energy_mj", "top1_pct"]  # the original's columns
GAP = '<span role="img" aria-label="no value">–</span>'
DOT = '<span class="dot" style="display: inline-block; width: .62em; height: .62em; border-radius: 50%; background: {}"></span> '
WHOLE = '<span style="white-space: nowrap">{}</span>'  # "Top-1" and "CIFAR-10" would break at their hyphen
NUMBER = re.compile(r"[-+−±~≤≥<>]?\s?\d")
BEHIND = re.compile(r"( at [\d.]+ %)?( in int8|, .+)?$")  # a network's name: its sparsity, how it is kept or run
LONG = 34  # characters, from where a cell holds a sentence rather than a name
GROUP = " · "  # between the parts of a group's head
_Styler = Styler.from_custom_template(str(Path(__file__).parent / "template"), html_table="table.html.tpl")
_COLORS = {network.name: network.color for network in look.NETWORKS.values()}


def number_text(value: float, digits: int) -> str:
    """A number as a page shows it: fixed digits, thin spaces between thousands, a real minus sign, none before a zero."""
    return f"{round(value, digits) or 0.0:,.{digits}f}".replace(",", "\u202f").replace("-", "\u2212")


def signed_text(points: float) -> str:
    """A difference with its sign: "+0.40", "−1.25", "0.00"."""
    return ("+" if round(points, 2) > 0 else "") + number_text(points, 2)


def means(frame: pd.DataFrame) -> pd.DataFrame:
    """One line a network: the mean over its seeds of every number, `seeds` of them, and the first seed's other columns."""
    groups = frame.groupby(list(statistics.NETWORK), dropna=False, sort=False)
    mean = {name: "mean" for name in frame.select_dtypes("number") if name not in (*statistics.NETWORK, "seed")}
    first = {name: "first" for name in frame.columns if name not in (*mean, *statistics.NETWORK, "seed")}
    return groups.agg({**mean, **first}).assign(seeds=groups.size()).reset_index()


def side_by_side(runs: Mapping[str, pd.DataFrame], columns: Iterable[str]) -> pd.DataFrame:
    """Columns of several of `results.contenders` under a head each: a line a network and its software, empty where not timed."""
    parts = {head: run.set_index(["method", "label", "software"])[list(columns)] for head, run in runs.items()}
    both = pd.concat(parts, axis=1)
    return both.reindex(max(parts.values(), key=len).index.union(both.index, sort=False))


def table(
    frame: pd.DataFrame,
    *,
    caption: str,
    note: str = "",
    headings: Mapping[str, tuple] = {},
    markup: Iterable[str] = (),
    key: str = "top1_pct",
) -> Styler:
    """A frame as a table; `.data` of what is returned has its numbers as they are.

    Args:
        frame: its index heads the lines; without one of its own, "dataset", "method" and "label" do, or the first column.
            Of two levels in columns or index the outer one stands above its group.
        caption: one sentence above the table; `note`: one paragraph below. Both may hold inline HTML.
        headings: column → (title, unit, digits) where it is not that of `HEADINGS`.
        markup: columns and heads that hold HTML; all others are text.
        key: the column that stays in sight on a phone, where there is one of that name.

    Raises KeyError for a column that is not there, ValueError for a frame that is empty or has two lines with the same heads.
    """
    if frame.empty:
        raise ValueError(f"the table {caption!r} has no lines; leave it out where nothing was measured")
    shown, markup = _headed(frame), set(markup)
    if unknown := [*(headings.keys() | markup) - {*map(_last, shown.columns), *shown.index.names}]:
        raise KeyError(f"the table {caption!r} has no column {unknown[0]!r}; it has {list(shown.columns)}")
    if not shown.index.is_unique:
        twice = shown.index[shown.index.duplicated()][0]
        raise ValueError(f"two lines of the table {caption!r} are headed {twice}; set an index that tells them apart")

    def heading(column: Hashable) -> Heading:
        text = str(_last(column))
        return Heading(*headings[text]) if text in headings else HEADINGS.get(text, Heading(text[:1].upper() + text[1:]))

    def writer(column: Hashable, values: pd.Series | pd.Index) -> Callable[[object], str]:
        return str if _last(column) in markup else _writer(heading(column), values)

    corner = heading(inner).title if isinstance(inner := shown.index.names[-1], str) else None
    shown = shown.rename_axis(columns=[None] * (shown.columns.nlevels - 1) + [corner])
    styler = _Styler(shown, uuid=f"{zlib.crc32((caption + shown.to_csv()).encode()):08x}", cell_ids=False)
    styler.hide(names=True).set_table_attributes('class="data"').set_caption((caption, note))  # the template takes both
    for level in range(shown.columns.nlevels - 1):
        styler.format_index(_label, axis=1, level=level)
    styler.format_index(lambda name: _headed_html(heading(name)), axis=1, level=shown.columns.nlevels - 1)
    for level, name in enumerate(shown.index.names):
        styler.format_index(writer(name, shown.index.get_level_values(level)), level=level)
    styles: dict[Hashable, list[dict[str, str]]] = {}
    for column, values in shown.items():
        styler.format(writer(column, values), subset=[column], na_rep=GAP)
        words = not all(isinstance(value, Real) or NUMBER.match(str(value)) for value in values.dropna())
        props = [f"text-align: left; white-space: normal; {_wrapped(values)}"] if words else []
        props += ["position: sticky; right: 0; background: var(--paper, inherit);"] if _last(column) == key else []
        styles[column] = [{"selector": "", "props": text} for text in props]
    heads = _wrapped(shown.index.get_level_values(-1)) or "text-align: left;"
    return styler.set_table_styles([{"selector": "tbody th", "props": heads}]).set_table_styles(styles, overwrite=False)


def task(
    frame: pd.DataFrame, published: pd.DataFrame, networks: Iterable[tuple[str, str]], *, caption: str, file: str = "size_mib"
) -> Styler:
    """A Task's networks in the original report's columns and units: its figures, ours, and each over its own dense network.

    Top-1 is not divided: the difference to the dense network is shown, in points. Columns that nobody measured are left out.

    Args:
        frame: results, averaged over seeds here; `published`: the original's figures under the same column names.
        networks: (method, label) of each, in order; the dense network itself gets no ratios.
        file: our column of the original's kind of file; networks that have none are shown with their plain one.
    """
    own, divided = means(frame), []
    lines: dict[tuple[str, str], pd.Series] = {}
    reasons: dict[str, str] = {}
    own["size_mib"] = own[file].fillna(own["size_mib"])
    for dataset, network in itertools.product(frame["dataset"].unique(), networks):
        head = GROUP.join([look.dataset(dataset), look.name(*network)])
        found = {side: _line(source, dataset, network) for side, source in (("original", published), ("ours", own))}
        lines |= {(head, side): line[TASK] for side, line in found.items() if line is not None}
        if (ours := found["ours"]) is not None and isinstance(ours["reasons"], dict):
            reasons |= {column: why for column, why in ours["reasons"].items() if column in TASK and pd.isna(ours[column])}
        for side, line in found.items() if network != ("dense", "") else ():
            dense = _line(published if side == "original" else own, dataset, ("dense", ""))
            if line is not None and dense is not None:
                over = line[TASK].astype(float) / dense[TASK].astype(float)
                over["sparsity_pct"], over["top1_pct"] = None, line["top1_pct"] - dense["top1_pct"]
                divided.append((head, f"{side} ÷ dense"))
                lines[divided[-1]] = over
    shown = pd.DataFrame.from_dict(lines, orient="index", columns=TASK).astype(float).dropna(axis=1, how="all")
    shown.index = pd.MultiIndex.from_tuples(lines, names=["network", "figures"])
    note = " ".join(f"{HEADINGS[column].title}: {why.removesuffix('.')}." for column, why in reasons.items() if column in shown)
    units = {"size_mib": ("Size", "MB", 2), "peak_memory_mib": ("Peak memory", "MB", 1)}
    styler = table(shown, caption=caption, note=note, headings={c: units[c] for c in shown if c in units})
    for column in shown if divided else ():
        write = signed_text if column == "top1_pct" else lambda value: f"{number_text(value, 2)}×"
        styler.format(write, subset=(divided, [column]), na_rep="")
    return styler


def _line(source: pd.DataFrame, dataset: str, network: tuple[str, str]) -> pd.Series | None:
    method, label = network
    found = source[(source["dataset"] == dataset) & (source["method"] == method) & (source["label"] == label)]
    return found.iloc[0] if len(found) else None


def _headed(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the index that a table shows: "method" and "label" as one network, data sets under their names."""
    if isinstance(frame.index, pd.RangeIndex):
        named = [name for name in ("dataset", "method", "label") if name in frame and "method" in frame]
        frame = frame.set_index(named or [frame.columns[0]])
    index = frame.index.to_frame(index=False)
    if "method" in index:
        labels, place = index.pop("label") if "label" in index else [""] * len(index), index.columns.get_loc("method")
        index.insert(place, "network", [look.name(*pair) for pair in zip(index.pop("method"), labels, strict=True)])
    if "dataset" in index:
        index["dataset"] = index["dataset"].map(look.dataset)
    return frame.set_axis(pd.MultiIndex.from_frame(index) if index.shape[1] > 1 else index.iloc[:, 0])


def _last(column: Hashable) -> Hashable:
    return column[-1] if isinstance(column, tuple) else column


def _headed_html(heading: Heading) -> str:
    title = html.escape(heading.title)
    return (title if len(title) > 12 else WHOLE.format(title)) + (
        f' <span class="unit">{html.escape(heading.unit)}</span>' if heading.unit else ""
    )


def _writer(heading: Heading, values: Iterable) -> Callable[[object], str]:
    """How a column's values become text: numbers with its digits, names with their dot."""
    if heading.digits is None:
        whole = all(float(value).is_integer() for value in values if isinstance(value, Real) and pd.notna(value))
        heading = heading._replace(digits=0 if whole else 2)
    return lambda value: heading.text(float(value)) if isinstance(value, Real) else _label(value)


def _label(value: object) -> str:
    """Text, escaped; a network's name behind a dot of its colour."""
    texts = []
    for part in map(look.dataset, str(value).split(GROUP)):
        dot = _COLORS.get(part, _COLORS.get(BEHIND.sub("", part)))
        text = (DOT.format(dot) if dot else "") + html.escape(part)
        texts.append(WHOLE.format(text) if part in look.DATASETS.values() else text)
    return GROUP.join(texts)


def _wrapped(texts: Iterable) -> str:
    """The style of cells that hold sentences; names and numbers stay on one line."""
    return "white-space: normal; min-width: min(14rem, 36vw);" if max(len(str(text)) for text in texts) > LONG else ""
