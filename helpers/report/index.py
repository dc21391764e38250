"""The first page: the answer in three sentences, a short table, one figure, an explorer of all results, and the pages.

Every number is a selection from the frame; none is typed.
"""

import json
import math
from collections.abc import Callable, Sequence

import pandas as pd
from markupsafe import Markup
from matplotlib.ticker import LogLocator, MaxNLocator
from pandas.io.formats.style import Styler

from helpers import files, settings
from helpers.report import evidence, look, pages, tables
from helpers.report.plots.overview import STARTS, gains, overview
from helpers.report.tables import number_text, signed_text

LINES = ("dense_finetuned", "layerwise_magnitude", "lasso_channels", "dense_from_scratch", "grasp_iterative")
EXPLORED = ("", "curve_finetuned", "preserving", "macs=2x", "macs=4x", "macs=7.5x", "macs=12x")  # trained to their end
WIDTH, HEIGHT = 460, 310  # pixels of a drawing of the explorer
NOTE = "Time: 128 images on the CPU named below, each network on the fastest software that was timed."
CAPTION = (
    "Each mark is one pruned network: right is faster, up is more accurate. The upper networks start from the trained one, the "
    "lower from nothing. Zero is a dense network of the same start. Do not compare across panels."
)


def body(frame: pd.DataFrame, profile: str, site: Sequence[pages.Page], instead: pd.DataFrame | None = None) -> str:
    """The inside of the first page; of a frame without lines, the links alone.

    `instead`: what one would do without pruning: further lines of the short table, with its columns, dataset and `stop`.
    """
    words = {"title": pages.SITE, "demo": profile == "demo", "pages": site, "size": (WIDTH, HEIGHT)}
    words |= dict.fromkeys(("answer", "datasets", "table", "figure", "explorer", "stops", "everything"), "")
    if len(frame):
        made = evidence.networks(frame)
        made["stop"] = [evidence.called(line) for _, line in made.iterrows()]
        gained, explored = gains(made), explorer(made)
        words["answer"], words["datasets"] = answer(made), " and ".join(map(look.dataset, made["dataset"].unique()))
        words["table"] = Markup(short_table(made, instead).to_html()) if made["method"].isin(LINES).any() else ""
        words["figure"] = Markup(_figure(gained, profile))
        words["explorer"], words["everything"] = explored, Markup(long_table(made).to_html())
        words["stops"] = Markup(json.dumps(explored, ensure_ascii=False).replace("<", "\\u003c"))
    return pages.template("index.html.j2").render(**words)


def answer(made: pd.DataFrame) -> list[tuple[str, str]]:
    """(verdict, sentence) of size, speed and cost: what layer-wise magnitude gains at least, and loses at most, on a data set."""
    main = made[made["label"] == ""].set_index(["method", "dataset"])
    if not {"layerwise_magnitude", "dense", "dense_finetuned"} <= set(main.index.get_level_values(0)):
        return []
    pruned, dense, control = (main.loc[method] for method in ("layerwise_magnitude", "dense", "dense_finetuned"))
    smaller, faster = ((dense[column] / pruned[column]).min() for column in ("size_mib", "time_batch128_ms"))
    lost = (control["top1_pct"] - pruned["top1_pct"]).max()
    pays = smaller > 1, faster > 1
    size = (
        f"with {pruned['sparsity_pct'].min():.0f} % of its weights at zero, the file is {number_text(smaller, 1)} times smaller."
    )
    only = "but only" if pays[1] else "even"
    speed = f"a CPU runs it {number_text(faster, 1)} times as fast, {only} with software that skips zeros."
    cost = f"{number_text(lost, 1)} points of accuracy" if round(lost, 1) > 0 else "no accuracy"
    return [
        ("Yes for size:" if pays[0] else "No for size:", size),
        *([("Partly for speed:" if pays[1] else "No for speed:", speed)] if pd.notna(faster) else []),
        ("The cost:", f"{cost}, beside a dense network that was trained on as long."),
    ]


def short_table(made: pd.DataFrame, instead: pd.DataFrame | None = None) -> Styler:
    """A handful of networks, one line each: file, time and top-1 on every data set."""
    columns = ["size_mib", "time_batch128_ms", "top1_pct"]
    shown = pd.concat([made[(made["label"] == "") & (made["method"] == method)] for method in LINES] + [instead])
    wide = shown.pivot(index="stop", columns="dataset", values=columns).swaplevel(axis=1)
    wide = wide.loc[shown["stop"].unique(), [(dataset, column) for dataset in shown["dataset"].unique() for column in columns]]
    heads = {"headings": {"time_batch128_ms": "Time"}, "units": {"time_batch128_ms": "ms"}}
    return tables.table(wide.rename_axis(index="network"), caption="What you get.", note=NOTE, **heads)


def long_table(made: pd.DataFrame) -> Styler:
    """Every stop of the explorer, a line each."""
    shown = made[made["label"].isin(EXPLORED)].set_index(["dataset", "stop"])
    columns = ["sparsity_pct", "effective_macs", "size_mib", "time_batch128_ms", "top1_pct"]
    return tables.table(shown[columns].rename_axis(["dataset", "network"]), caption="All results of the explorer.")


def explorer(made: pd.DataFrame) -> list[dict]:
    """One part a start: ticks of a drawing a data set, and stops with text and place of their values, for the page's script."""
    made, parts = made[made["label"].isin(EXPLORED)], []
    for start, (kinds, _) in STARTS.items():
        here = made[[look.network(method).kind in kinds for method in made["method"]]]
        drawings, stops = [], {}
        for dataset, lines in here.groupby("dataset", sort=False):
            macs, xticks = _axis(lines["effective_macs"] / 1e6, WIDTH - 14, 46, log=True)  # fewer to the right
            top1, yticks = _axis(lines["top1_pct"], HEIGHT - 42, 26)
            drawings.append({"dataset": dataset, "name": look.dataset(dataset), "xticks": xticks, "yticks": yticks})
            for _, line in lines.iterrows():
                color = look.network(line["method"], line["label"]).color
                stop = stops.setdefault(
                    line["stop"], {"name": line["stop"], "color": color, "sparsity": [], "macs": [], "values": {}}
                )
                stop["sparsity"].append(line["sparsity_pct"])
                stop["macs"].append(line["effective_macs"])
                texts = (f"{number_text(line['size_mib'], 1)} MiB", f"{number_text(line['top1_pct'], 2)} %")
                time = f"{number_text(line['time_batch128_ms'], 0)} ms" if pd.notna(line["time_batch128_ms"]) else "not timed"
                values = {
                    "file": texts[0],
                    "time": time,
                    "top1": texts[1],
                    "macs": f"{number_text(line['effective_macs'] / 1e6, 0)} M",
                }
                stop["values"][dataset] = {**values, "at": [macs(line["effective_macs"] / 1e6), top1(line["top1_pct"])]}
        if stops:
            parts.append({"start": start, "drawings": drawings, "stops": list(stops.values())})
    return parts


def _axis(values: pd.Series, low: float, high: float, *, log: bool = False) -> tuple[Callable[[float], float], list[tuple]]:
    """A function from values to pixels between `low` and `high`, and ticks for the values given: [(pixel, text)]."""
    scale = math.log if log else float
    first, last = scale(values.min()), scale(values.max())
    margin = 0.08 * (last - first) or 0.5
    first, last = first - margin, last + margin

    def pixel(value: float) -> float:
        return round(low + (scale(value) - first) / (last - first) * (high - low), 1)

    locator = LogLocator(subs=(1, 2, 5)) if log else MaxNLocator(5)
    ticks = locator.tick_values(values.min(), values.max())
    return pixel, [(pixel(tick), f"{tick:g}") for tick in ticks if (not log or tick > 0) and first <= scale(tick) <= last]


def _figure(gained: pd.DataFrame, profile: str) -> str:
    """The figure, stored where a profile's figures are, and as a page shows it; "" where nothing was timed."""
    if gained.empty:
        return ""
    look.theme()
    image = look.png(overview(gained))
    with files.atomic(settings.figure_path(profile, "index_overview")) as temporary:
        temporary.write_bytes(image)
    most = gained.loc[gained["faster"].idxmax()]
    name, dataset = most["network"].name, look.dataset(most["dataset"])
    alt = (
        f"Times faster against points of top-1, one panel a data set and start. The fastest is {name} on {dataset}, "
        f"{number_text(most['faster'], 1)} times as fast at {signed_text(most['points'])} points."
    )
    return look.figure_html(image, "index_overview", alt=alt, caption=CAPTION)
