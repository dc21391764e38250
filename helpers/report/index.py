"""The first page: the answer in three sentences, a short table, one figure, an explorer of all results, and the pages.

Every number is a selection from the frame; none is typed.
"""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.ticker import LogLocator, MaxNLocator
from pandas.io.formats.style import Styler

from helpers import results
from helpers.report import claims, evidence, look, pages, tables
from helpers.report.plots.overview import gains, overview
from helpers.report.tables import number_text, signed_text

LINES = ("dense_finetuned", "layerwise_magnitude", "repaired", "lasso_channels", "dense_from_scratch", "grasp_iterative")
WIDTH, HEIGHT = 460, 310  # pixels of a drawing of the explorer
NOTE = "Time: 128 images on the CPU named below, in PyTorch or with zeros skipped, whichever is faster. Repair trains nothing."
CAPTION = (
    "Each mark is one network pruned after training: right is faster, up is more accurate. Zero is the dense network that was "
    "trained on as long."
)


def body(frame: pd.DataFrame, profile: str, site: Sequence[pages.Page]) -> str:
    """The inside of the first page; of a frame without lines, the links alone."""
    words: dict[str, Any] = {"title": pages.SITE, "demo": profile == "demo", "pages": site, "size": (WIDTH, HEIGHT)}
    words |= {"untrained": 0, "speeds": {}} | dict.fromkeys(
        ("answer", "datasets", "table", "figure", "explorer", "stops", "everything"), ""
    )
    if len(frame):
        made = evidence.networks(frame)
        made["stop"] = [evidence.called(line) for _, line in made.iterrows()]
        explored = explorer(made)
        found = answer(frame, made)
        runs = [{"zeros": found.get("faster", math.nan)}, *(instead(run) for run in results.contenders(profile, "cifar10"))]
        words |= {
            "answer": found,
            "speeds": pd.DataFrame(runs).agg(["min", "max"]).dropna(axis=1).to_dict("list"),
            "untrained": untrained(frame),
            "datasets": " and ".join(map(look.dataset, made["dataset"].unique())),
        }
        words |= {"table": Markup(short_table(made).to_html()) if made["method"].isin(LINES).any() else ""}
        words |= {"figure": Markup(_figure(gains(made), profile)), "everything": Markup(long_table(made).to_html())}
        words |= {"explorer": explored, "stops": Markup(json.dumps(explored, ensure_ascii=False).replace("<", "\\u003c"))}
    return pages.template("index.html.j2").render(**words)


def answer(frame: pd.DataFrame, made: pd.DataFrame) -> dict[str, float]:
    """What layer-wise magnitude gains at least and loses at most on a data set: `smaller` and `faster` (times), `lost` (points).

    `made`: the networks of `frame`. What several trainings do not tell from noise is no loss. Empty where it, or the dense
    network trained on as long, is missing.
    """
    main = made[made["label"] == ""].set_index(["method", "dataset"])
    if not {"layerwise_magnitude", "dense", "dense_finetuned"} <= set(main.index.get_level_values(0)):
        return {}
    pruned, dense, control = (main.loc[method] for method in ("layerwise_magnitude", "dense", "dense_finetuned"))
    smaller, faster = ((dense[column] / pruned[column]).min() for column in ("size_mib", "time_batch128_ms"))
    lost = max(_lost(evidence.Evidence(frame, dataset)) for dataset in control.index.intersection(pruned.index))
    return {"smaller": smaller, "faster": faster, "lost": lost, "zeros": pruned["sparsity_pct"].min()}


def _lost(of: evidence.Evidence) -> float:
    found = of.compare(of.one(claims.FINETUNED), of.one(claims.LAYERWISE))
    return found.difference if found.decided or found.total is None else 0.0


def untrained(frame: pd.DataFrame) -> float:
    """How many times smaller, at least, a file gets with nothing trained and surely no more than a point lost; else NaN."""
    need = "a smaller file, no time to train"
    chosen = [claims.decisions(frame, dataset).set_index("need")["times_less"] for dataset in frame["dataset"].unique()]
    return float(np.min([times.get(need, math.nan) for times in chosen]))


def instead(timed: pd.DataFrame) -> dict[str, float]:
    """How many times as fast as the dense network in PyTorch 128 images run: with `zeros` skipped, `quantised`, or `both`.

    Both: pruned and in int8. What loses more than a point of top-1 is no choice. `timed` as one of
    `results.contenders`; empty without times of the dense network.
    """
    dense = timed[timed["method"] == "dense"]
    base = dense[dense["software"] == "PyTorch fp32"]
    if base.empty:
        return {}
    sound = timed[timed["software"].str.contains("int8") & (timed["top1_pct"] > base.iloc[0]["top1_pct"] - 1)]
    pruned = sound["method"] != "dense"
    ways = {"zeros": timed[timed["method"] == "layerwise_magnitude"], "quantised": sound[~pruned], "both": sound[pruned]}
    fastest = {name: lines["time_batch128_ms"].min() for name, lines in ways.items()}
    return {name: base.iloc[0]["time_batch128_ms"] / time for name, time in fastest.items() if pd.notna(time)}


def short_table(made: pd.DataFrame) -> Styler:
    """A handful of networks, one line each: file, time and top-1 on every data set."""
    columns = ["size_mib", "time_batch128_ms", "top1_pct"]
    shown = pd.concat([made[(made["label"] == "") & (made["method"] == method)] for method in LINES])
    wide = shown.pivot(index="stop", columns="dataset", values=columns).swaplevel(axis=1)
    wide = wide.loc[shown["stop"].unique(), [(dataset, column) for dataset in shown["dataset"].unique() for column in columns]]
    headings = {"time_batch128_ms": ("Time", "ms", 0)}
    return tables.table(wide.rename_axis(index="network"), caption="What you get.", note=NOTE, headings=headings)


def long_table(made: pd.DataFrame) -> Styler:
    """Every stop of the explorer, a line each."""
    shown = made[_explored(made)].set_index(["dataset", "stop"])
    columns = ["sparsity_pct", "effective_macs", "size_mib", "time_batch128_ms", "top1_pct"]
    return tables.table(shown[columns].rename_axis(["dataset", "network"]), caption="All results of the explorer.")


def _explored(made: pd.DataFrame) -> pd.Series:
    return claims.usable(made) | (made["label"] == "preserving")


def explorer(made: pd.DataFrame) -> list[dict]:
    """One part a start: ticks of a drawing a data set, and stops with text and place of their values, for the page's script."""
    made, parts = made[_explored(made)], []
    for start in (look.FINETUNED, look.FROM_NOTHING):
        drawings: list[dict] = []
        stops: dict[str, dict] = {}
        here = made[[look.network(method).start == start for method in made["method"]]]
        for dataset, lines in here.groupby("dataset", sort=False):
            x, xticks = _axis(lines["effective_macs"] / 1e6, WIDTH - 14, 46, log=True)  # fewer to the right
            y, yticks = _axis(lines["top1_pct"], HEIGHT - 42, 26)
            drawings.append({"dataset": dataset, "name": look.dataset(dataset), "xticks": xticks, "yticks": yticks})
            for line in lines.itertuples():
                color, macs, ms = look.network(line.method).color, line.effective_macs / 1e6, line.time_batch128_ms
                stop = {"name": line.stop, "color": color, "sparsity": [], "macs": [], "values": {}}
                stop = stops.setdefault(line.stop, stop)
                stop["sparsity"].append(line.sparsity_pct)
                stop["macs"].append(macs)
                values = {"file": f"{number_text(line.size_mib, 1)} MiB", "top1": f"{number_text(line.top1_pct, 2)} %"}
                values |= {
                    "time": f"{number_text(ms, 0)} ms" if pd.notna(ms) else "not timed",
                    "macs": f"{number_text(macs, 0)} M",
                }
                stop["values"][dataset] = {**values, "at": [x(macs), y(line.top1_pct)]}
        if stops:
            parts.append({"start": start, "drawings": drawings, "stops": list(stops.values())})
    return parts


def _axis(values: pd.Series, low: float, high: float, *, log: bool = False) -> tuple[Callable[[float], float], list[tuple]]:
    """A function from values to pixels between `low` and `high`, and ticks for the values given: [(pixel, text)]."""
    scale: Callable[[float], float] = math.log if log else float
    first, last = scale(values.min()), scale(values.max())
    margin = 0.08 * (last - first) or 0.5
    first, last = first - margin, last + margin

    def pixel(value: float) -> float:
        return round(low + (scale(value) - first) / (last - first) * (high - low), 1)

    locator = LogLocator(subs=(1, 2, 5)) if log else MaxNLocator(5)
    ticks = locator.tick_values(values.min(), values.max())
    return pixel, [(pixel(tick), f"{tick:g}") for tick in ticks if (not log or tick > 0) and first <= scale(tick) <= last]


def _figure(gained: pd.DataFrame, profile: str) -> str:
    """The figure as a page shows it; "" where nothing was timed."""
    if gained.empty:
        return ""
    look.theme()
    most = gained.loc[gained["faster"].idxmax()]
    fastest = f"{look.name(most['method'])} on {look.dataset(most['dataset'])}, {number_text(most['faster'], 1)} times as fast"
    alt = "Times faster against points of top-1, one panel a data set. "
    alt += f"The fastest is {fastest} at {signed_text(most['points'])} points."
    return look.figure_html(overview(gained), "index_overview", profile, alt=alt, caption=CAPTION)
