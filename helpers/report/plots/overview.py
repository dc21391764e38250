"""The first page's figure: what each network gains in speed and loses in accuracy, beside a dense one trained alike."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from helpers.report import look
from helpers.report.plots import label

LABELS = ("", "preserving")  # the main results, and GraSP in the form that works
STARTS = {  # what stands in a line of panels → kinds of network in it, and the one at its zero
    "fine-tuned": ((look.FINETUNED, look.CHANNELS), "dense_finetuned"),
    "from nothing": ((look.NOTHING,), "dense_from_scratch"),
}


def gains(networks: pd.DataFrame) -> pd.DataFrame:
    """What was timed, in columns dataset, start, network, `faster` (than the dense network) and `points` (over their control).

    `networks` is what `evidence.networks` returns.
    """
    shown = networks[networks["label"].isin(LABELS) & networks["time_batch128_ms"].notna()]
    main = networks[networks["label"] == ""].set_index(["dataset", "method"])
    lines = []
    for _, line in shown.iterrows():
        network, dataset = look.network(line["method"], line["label"]), line["dataset"]
        start, control = next((start, control) for start, (kinds, control) in STARTS.items() if network.kind in kinds)
        if line["method"] not in ("dense", control) and {(dataset, "dense"), (dataset, control)} <= set(main.index):
            faster = main.loc[(dataset, "dense"), "time_batch128_ms"] / line["time_batch128_ms"]
            points = line["top1_pct"] - main.loc[(dataset, control), "top1_pct"]
            lines.append({"dataset": dataset, "start": start, "network": network, "faster": faster, "points": points})
    return pd.DataFrame(lines, columns=["dataset", "start", "network", "faster", "points"])


def overview(gained: pd.DataFrame) -> plt.Figure:
    """A panel a data set and start: times faster to the right, points of top-1 upwards; 0 is the dense network trained alike."""
    datasets, starts = list(gained["dataset"].unique()), [start for start in STARTS if start in set(gained["start"])]
    size = (0.5 + 3.1 * len(datasets), 2.75 * len(starts))
    figure, grid = plt.subplots(len(starts), len(datasets), figsize=size, sharex=True, squeeze=False)
    for (dataset, start), here in gained.groupby(["dataset", "start"], sort=False):
        axes = grid[starts.index(start)][datasets.index(dataset)]
        axes.set(title=f"{look.dataset(dataset)}, {start}", xscale="log")
        axes.axhline(0, color=look.SOFT_INK, linewidth=1, linestyle="--")
        for _, point in here.iterrows():
            axes.plot(point["faster"], point["points"], ms=8, mec="white", mew=0.8, **point["network"].style)
        axes.margins(x=0.1, y=0.16)
        axes.xaxis.set(major_locator=LogLocator(subs=(1, 2, 3, 5)), minor_formatter=NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    left, right = grid[0][0].get_xlim()
    grid[0][0].set_xlim(left, right * (right / left) ** 0.45)  # room for names
    for axes in grid[-1]:
        axes.set_xlabel("128 images run this much faster")
    for axes in grid[:, 0]:
        axes.set_ylabel("points of top-1")
    for (dataset, start), here in gained.groupby(["dataset", "start"], sort=False):
        points = [(p["faster"], p["points"], p["network"].name, p["network"].color) for _, p in here.iterrows()]
        label(grid[starts.index(start)][datasets.index(dataset)], points)
    return figure
