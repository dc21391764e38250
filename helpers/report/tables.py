"""Tables of results: styled frames whose data stay in reach, with scoped heads and numbers aligned on the point.

A page, JupyterLab and a reader's own code get the same object, a pandas Styler: `.data` holds the unrounded numbers under
the frame's own column names.
"""

import html
import itertools
import numbers
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pandas as pd
from pandas.io.formats.style import Styler

from helpers import statistics
from helpers.report import look

# column of the frame → (heading, unit, digits); MACs are stored as counts and shown in millions
HEADINGS: dict[str, tuple[str, str, int]] = {
    **{"top1_pct": ("Top-1", "%", 2), "top5_pct": ("Top-5", "%", 2), "val_top1_pct": ("Validation top-1", "%", 2)},
    **{"pruned_top1_pct": ("Top-1 right after pruning", "%", 2), "target_sparsity_pct": ("Sparsity wanted", "%", 2)},
    **{"sparsity_pct": ("Sparsity", "%", 2), "density_pct": ("Density", "%", 2), "params": ("Parameters", "", 0)},
    **{"nonzero_params": ("Non-zero", "", 0), "size_mib": ("File", "MiB", 2), "size_dense_mib": ("Dense file", "MiB", 2)},
    **{"size_coo_mib": ("COO file", "MiB", 2), "size_csr_mib": ("CSR file", "MiB", 2), "entropy_mib": ("Entropy", "MiB", 2)},
    **{"size_bitmask_mib": ("Bitmask file", "MiB", 2), "macs": ("MACs", "M", 1), "effective_macs": ("Effective MACs", "M", 1)},
    **{"peak_memory_mib": ("Peak memory", "MiB", 1), "average_memory_mib": ("Average memory", "MiB", 1)},
    **{"latency_ms": ("Latency, 1 image", "ms", 2), "latency_batch128_ms": ("Latency, 128 images", "ms", 0)},
    **{"folded_latency_ms": ("Folded, 1 image", "ms", 2), "folded_latency_batch128_ms": ("Folded, 128 images", "ms", 0)},
    **{"sparse_latency_ms": ("Zeros skipped, 1 image", "ms", 2), "energy_mj": ("Energy", "mJ", 0), "epochs": ("Epochs", "", 0)},
    **{"sparse_latency_batch128_ms": ("Zeros skipped, 128 images", "ms", 0), "train_seconds": ("Training", "s", 0)},
    **{"seeds": ("Trainings", "", 0), "time_ms": ("Time, 1 image", "ms", 2), "time_batch128_ms": ("Time, 128 images", "ms", 0)},
    **{"dataset": ("Data set", "", 0), "network": ("Network", "", 0)},
}
MILLIONS = ("macs", "effective_macs")
TASK = ("sparsity_pct", "size_mib", "macs", "peak_memory_mib", "latency_ms", "energy_mj", "top1_pct")  # the original's columns
BEST = '<span class="mark" aria-hidden="true">▸</span><b>{}</b><span class="unseen" hidden> (best)</span>'
GAP = '<span role="img" aria-label="no value">–</span>'
DOT = '<span class="dot" style="display: inline-block; width: .62em; height: .62em; border-radius: 50%; background: {}"></span> '
NUMBER = re.compile(r"[-+−±~≤≥<>]?\s?\d")
SPARSITY = re.compile(r" at [\d.]+ %$")  # behind a network's name
LONG = 34  # characters, from where a cell holds a sentence rather than a name
GROUP = " · "  # between the parts of a group's head
_Styler = Styler.from_custom_template(str(Path(__file__).parent / "template"), html_table="table.html.tpl")
_COLORS = {network.name: network.color for network in look.NETWORKS.values()}


def number_text(value: float, digits: int) -> str:
    """A number as a page shows it: fixed digits, thin spaces between thousands, a real minus sign, none before a zero."""
    return f"{round(value, digits) or 0.0:,.{digits}f}".replace(",", "\u202f").replace("-", "\u2212")


def signed_text(value: float) -> str:
    """A difference in points: always with its sign."""
    return ("+" if round(value, 2) > 0 else "") + number_text(value, 2)


def means(frame: pd.DataFrame) -> pd.DataFrame:
    """One line a network: the mean over its seeds of every number, `seeds` of them, and the first seed's other columns."""
    groups = frame.groupby(list(statistics.NETWORK), dropna=False, sort=False)
    mean = {name: "mean" for name in frame.select_dtypes("number") if name not in (*statistics.NETWORK, "seed")}
    first = {name: "first" for name in frame.columns if name not in (*mean, *statistics.NETWORK, "seed")}
    return groups.agg({**mean, **first}).assign(seeds=groups.size()).reset_index()


def table(
    frame: pd.DataFrame,
    *,
    caption: str,
    note: str = "",
    headings: Mapping = {},
    units: Mapping = {},
    digits: Mapping = {},
    highlight: Mapping = {},
    markup: Iterable = (),
    key: str = "top1_pct",
) -> Styler:
    """A frame as a table; `.data` of what is returned has its numbers as they are.

    Args:
        frame: its index heads the lines; without one of its own, "dataset", "method" and "label" do, or the first column.
            Columns named as in the results' frame get heading, unit and digits from `HEADINGS`. Of columns with two levels
            (data set, column) the first stands above the second; outer index levels stand above their group.
        caption: one sentence above the table; `note`: one paragraph below. Both may hold inline HTML.
        headings, units, digits: column (both levels or the last) → what `HEADINGS` lacks, or something else.
        highlight: column → "max" or "min": its best value is marked, unless more than two lines share it.
        markup: columns that hold HTML; all others are text.
        key: the column that stays in sight on a phone, where there is one of that name.

    Raises KeyError for a column that is not there, ValueError for a frame that is empty or has two lines with the same heads.
    """
    if frame.empty:
        raise ValueError(f"the table {caption!r} has no lines; leave it out where nothing was measured")
    shown = _headed(frame, headings)
    names = {*frame.index.names, *(part for column in shown.columns for part in (column, _last(column)))}
    if unknown := [name for name in (*headings, *units, *digits, *highlight) if name not in names]:
        raise KeyError(f"the table {caption!r} has no column {unknown[0]!r}; it has {list(shown.columns)}")
    if not shown.index.is_unique:
        twice = shown.index[shown.index.duplicated()][0]
        raise ValueError(f"two lines of the table {caption!r} are headed {twice}; set an index that tells them apart")
    styler = _Styler(shown, uuid=f"{zlib.crc32((caption + shown.to_csv()).encode()):08x}", cell_ids=False)
    styler.hide(names=True).set_table_attributes('class="data"').set_caption((caption, note))  # the template takes both
    heads = [_label] * (shown.columns.nlevels - 1) + [lambda name: _heading(name, headings, units)]
    for level, write in enumerate(heads):
        styler.format_index(write, axis=1, level=level)
    for level, name in enumerate(shown.index.names):
        styler.format_index(_writer(name, shown.index.get_level_values(level), digits), level=level)
    styles = {}
    for column, values in shown.items():
        write = str if _last(column) in markup else _writer(column, values, digits)
        styler.format(write, subset=[column], na_rep=GAP)
        if best := _best(values, write, highlight.get(column, highlight.get(_last(column)))):
            styler.format(lambda value, write=write: BEST.format(write(value)), subset=(best, [column]))
        words = not all(isinstance(v, numbers.Real) or NUMBER.match(str(v)) for v in values.dropna())
        props = [f"text-align: left; white-space: normal; {_wrapped(values)}"] if words else []
        props += ["position: sticky; right: 0; background: var(--paper, inherit);"] if key in (column, _last(column)) else []
        styles[column] = [{"selector": "", "props": text} for text in props]
    heads = _wrapped(shown.index.get_level_values(-1)) or "text-align: left;"
    return styler.set_table_styles([{"selector": "tbody th", "props": heads}]).set_table_styles(styles, overwrite=False)


def task(
    frame: pd.DataFrame, published: pd.DataFrame, networks: Iterable, *, caption: str, note: str = "", ours: Mapping = {}
) -> Styler:
    """A Task's networks in the original report's columns and units: its figures, ours, and each over its own dense network.

    Top-1 is not divided: the difference to the dense network is shown, in points. Columns that nobody measured are left out.

    Args:
        frame: results, averaged over seeds here; `published`: the original's figures under the same column names.
        networks: (method, label) of each, in order; the dense network itself gets no ratios.
        ours: column of the original → our column that means the same (its file's format: {"size_mib": "size_coo_mib"}).
    """
    lines, reasons = {}, {}
    sides = {"original": (published.assign(label=""), {}), "ours": (means(frame), ours)}
    for dataset, (method, label) in itertools.product(frame["dataset"].unique(), networks):
        head, ratios = GROUP.join([look.dataset(dataset), look.name(method, label)]), {}
        for side, (source, same) in sides.items():
            own, dense = _line(source, dataset, method, label), _line(source, dataset, "dense", "")
            if not own:
                continue
            base = {c: dense[same[c]] if pd.notna(dense.get(same.get(c))) else dense.get(c) for c in TASK}
            values = base if method == "dense" else {c: own.get(same.get(c, c)) for c in TASK}
            lines[head, side] = values
            if method != "dense":
                ratios[head, f"{side} ÷ dense"] = {c: _over(c, values[c], base[c]) for c in TASK}
            missing = own.get("reasons") if isinstance(own.get("reasons"), dict) else {}
            reasons |= {c: why for c, why in missing.items() if c in TASK and pd.isna(values[c])}
        lines |= ratios
    shown = pd.DataFrame.from_dict(lines, orient="index", columns=TASK).astype(float).dropna(axis=1, how="all")
    shown.index = pd.MultiIndex.from_tuples(lines, names=["network", "figures"])
    notes = [note, *(f"{HEADINGS[c][0]}: {why.removesuffix('.')}." for c, why in reasons.items() if c in shown)]
    headings = {"figures": "Figures", "size_mib": "Size"}
    units = {c: "MB" for c in ("size_mib", "peak_memory_mib") if c in shown}
    styler = table(shown, caption=caption, note=" ".join(filter(None, notes)), headings=headings, units=units)
    divided = [line for line in lines if line[1].endswith("÷ dense")]
    for column in shown if divided else ():
        write = signed_text if column == "top1_pct" else lambda value: f"{number_text(value, 2)}×"
        styler.format(write, subset=(divided, [column]), na_rep="")
    return styler


def _line(source: pd.DataFrame, dataset: str, method: str, label: str) -> dict:
    found = source[(source["dataset"] == dataset) & (source["method"] == method) & (source["label"] == label)]
    return found.iloc[0].to_dict() if len(found) else {}


def _over(column: str, value: float | None, base: float | None) -> float:
    if column == "sparsity_pct" or pd.isna(value) or pd.isna(base):
        return float("nan")
    return value - base if column == "top1_pct" else value / base


def _headed(frame: pd.DataFrame, headings: Mapping) -> pd.DataFrame:
    """The frame with one index level, or two where lines stand in groups; methods and data sets under their names."""
    if not any(frame.index.names) and ("method" in frame or isinstance(frame.index, pd.RangeIndex)):
        heads = [name for name in ("dataset", "method", "label") if name in frame and "method" in frame] or [frame.columns[0]]
        index, frame = frame[heads], frame.drop(columns=heads)
    else:
        index = frame.index.to_frame(index=False)
    index = index.reset_index(drop=True)
    if "method" in index:
        labels = index.pop("label") if "label" in index else [""] * len(index)
        index["method"] = [look.name(*pair) for pair in zip(index["method"], labels, strict=True)]
        index = index.rename(columns={"method": "network"})
    if "dataset" in index:
        index["dataset"] = index["dataset"].map(look.dataset)
    *outer, inner = index.columns
    if len(outer) > 1:
        index[outer[0]] = index[outer].astype(str).agg(GROUP.join, axis=1)
    index = index[[*outer[:1], inner]]
    shown = frame.set_axis(pd.MultiIndex.from_frame(index) if outer else pd.Index(index[inner]))
    corner = headings.get(inner, HEADINGS.get(inner, (inner if isinstance(inner, str) else None,))[0])
    return shown.rename_axis(columns=[None] * (shown.columns.nlevels - 1) + [corner])


def _last(column: object) -> object:
    return column[-1] if isinstance(column, tuple) else column


def _heading(column: object, headings: Mapping, units: Mapping) -> str:
    title, unit, _ = HEADINGS.get(column, (str(column), "", 0))
    unit = units.get(column, "" if column in headings else unit)
    title = html.escape(str(headings.get(column, title)))
    title = title if len(title) > 12 else f'<span style="white-space: nowrap">{title}</span>'  # "Top-1" breaks at its hyphen
    return title + (f' <span class="unit">{html.escape(unit)}</span>' if unit else "")


def _writer(column: object, values: Iterable, digits: Mapping) -> Callable[[object], str]:
    """How a column's values become text: numbers with its digits (those of `HEADINGS`, else 0 or 2), names with their dot."""
    whole = all(float(v).is_integer() for v in values if isinstance(v, numbers.Real) and pd.notna(v))
    usual = HEADINGS.get(_last(column), ("", "", 0 if whole else 2))[2]
    places = digits.get(column, digits.get(_last(column), usual))
    scale = 1e-6 if _last(column) in MILLIONS else 1
    return lambda value: number_text(value * scale, places) if isinstance(value, numbers.Real) else _label(value)


def _label(value: object) -> str:
    """Text, escaped; a network's name behind a dot of its colour."""
    parts = [look.dataset(part) for part in str(value).split(GROUP)]
    dots = [_COLORS.get(part, _COLORS.get(SPARSITY.sub("", part))) for part in parts]
    return GROUP.join((DOT.format(dot) if dot else "") + html.escape(part) for part, dot in zip(parts, dots, strict=True))


def _wrapped(texts: Iterable) -> str:
    """The style of cells that hold sentences; names and numbers stay on one line."""
    return "white-space: normal; min-width: min(14rem, 36vw);" if max(len(str(text)) for text in texts) > LONG else ""


def _best(values: pd.Series, write: Callable[[object], str], direction: object) -> list:
    """The heads of the lines with the best value as it is shown; none when more than two share it."""
    if direction not in (None, "max", "min"):
        raise ValueError(f"highlight takes 'max' or 'min', got {direction!r}")
    if direction is None or values.notna().sum() < 2:
        return []
    winner = write(values.max() if direction == "max" else values.min())
    heads = [head for head, value in values.items() if pd.notna(value) and write(value) == winner]
    return heads if len(heads) <= 2 else []
