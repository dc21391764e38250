"""What the baseline notebook shows: the network's layers, the dense row beside the write-up, and what is seen in them."""

from collections.abc import Sequence

import pandas as pd
import torch
from IPython.display import Markdown

from helpers import context, data, measurement, models, settings
from helpers.report import assignment, style, tables
from helpers.report.plots import baseline as plots
from helpers.report.sentences import layer_labels
from helpers.report.statistics import wilson
from helpers.report.style import Figure
from helpers.report.tables import Table, number_text
from helpers.settings import Profile

OURS, FULL, WRITE_UP, PUBLISHED = "this report", "full network, untrained", "write-up", "published"
COSTS = ("size_mib", "macs", "peak_memory_mib", "average_memory_mib", "latency_ms", "latency_batch128_ms", "energy_mj")
ACCURACY = ("top1_pct", "top5_pct")
CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100}


def full_network(dataset: str) -> models.VGG:
    """VGG16-BN at its full width for a data set, freshly initialised: for what depends on its shape alone."""
    return models.VGG(CLASSES[dataset])


def layers(profile: Profile) -> Table:
    """Shape, parameters and MACs of every layer of VGG16-BN, and of the narrower network where the profile has one."""
    full = full_network(profile.datasets[0])
    columns = {"VGG16-BN": _layer_columns(full)}
    if profile.width_divisor > 1:
        hidden = tuple(width // profile.width_divisor for width in full.hidden)
        narrow = models.VGG(full.num_classes, models.scaled(full.widths, profile.width_divisor), hidden)
        columns[f"at 1/{profile.width_divisor} of its width"] = _layer_columns(narrow)[["Weight", "params", "macs"]]
    frame = pd.concat(columns, axis=1)
    frame.index.name = "Layer"
    totals = f"{number_text(sum(p.numel() for p in full.parameters()), 0)} parameters with batch norm"
    return tables.table(
        frame,
        f"The weight layers of VGG16-BN for {style.dataset(profile.datasets[0])}: convolutions by their output × input × kernel, "
        "linear layers by their output × input.",
        digits={"macs": 2, "params_share": 1, "macs_share": 1},
        headings={"params_share": "of all, %", "macs_share": "of all, %"},
        note=f"{totals}; a MAC is one multiply-add for one image, convolutions and linear layers only "
        f"({number_text(models.macs(full) / 1e6, 3)} M; "
        f"{number_text(measurement.macs_aten(full) / 1e6, 3)} M with batch norm, as the write-up counts).",
    )


def _layer_columns(network: models.VGG) -> pd.DataFrame:
    table = models.layer_table(network)
    parameters, macs = sum(layer.parameters for layer in table), sum(layer.macs for layer in table)
    return pd.DataFrame(
        {
            "Weight": ["\u2009×\u2009".join(map(str, layer.weight_shape)) for layer in table],
            "params": [layer.parameters for layer in table],
            "params_share": [100 * layer.parameters / parameters for layer in table],
            "macs": [layer.macs for layer in table],
            "macs_share": [100 * layer.macs / macs for layer in table],
        },
        index=layer_labels(layer.name for layer in table),
    )


def layers_seen(profile: Profile) -> Markdown:
    """Which layers hold half of the weights and which do half of the work."""
    table = models.layer_table(full_network(profile.datasets[0]))
    parameters, macs = sum(layer.parameters for layer in table), sum(layer.macs for layer in table)
    late = [layer for layer in table if layer.kind == "conv" and layer.weight_shape[0] == 512]
    early = [layer for layer in table if layer.kind == "conv" and layer.weight_shape[0] < 512]
    held, few = (100 * sum(layer.parameters for layer in part) / parameters for part in (late, early))
    done = 100 * sum(layer.macs for layer in early) / macs
    return Markdown(
        f"**What is seen.** The {len(late)} convolutions with 512 channels hold {held:.1f} % of the parameters; the {len(early)} "
        f"before them hold {few:.1f} % and do {done:.1f} % of the multiply-adds. "
        "Removing weights where most of them are makes the file small; saving time asks for the early layers as well."
    )


def images(profile: Profile) -> list[Figure]:
    """Sample images of every data set of the profile; the stored figure where the images are not at hand."""
    return [_drawn(f"00_images_{name}", name, lambda splits: plots.sample_images(splits)) for name in profile.datasets]


def classes(rows: Sequence[dict]) -> list[Figure]:
    """Accuracy by class of every dense row."""
    return [
        _drawn(f"00_classes_{row['dataset']}", row["dataset"], lambda splits, row=row: plots.per_class(row, splits))
        for row in dense(rows)
    ]


def weights(profile: Profile, rows: Sequence[dict]) -> list[Figure]:
    """Weight histograms of the dense networks; the stored figure where a network is not at hand."""
    figures = []
    for row in dense(rows):
        try:
            network = context.dense_network(profile, row["dataset"])
            figures.append(plots.weight_histograms(network, profile.magnitude_sparsity_pct, row["dataset"]))
        except FileNotFoundError:
            figures.append(style.stored(f"00_weights_{row['dataset']}"))
    return figures


def _drawn(name: str, dataset: str, draw) -> Figure:
    if not data.at_hand(dataset) and settings.figure_path(settings.profile().name, name).is_file():
        return style.stored(name)
    return draw(data.load(dataset))


def dense(rows: Sequence[dict]) -> list[dict]:
    """The main dense row of each data set."""
    return [row for row in rows if row["method"] == "dense" and not row["variant"]]


def costs(rows: Sequence[dict]) -> Table:
    """The baseline table of the assignment: our dense rows, the write-up's figures, the published ones."""
    ours, columns = {row["dataset"]: row for row in dense(rows)}, COSTS + ACCURACY
    lines: dict[tuple[str, str], dict] = {}
    reasons = {}
    for dataset in dict.fromkeys([*ours, "cifar10", "cifar100"]):
        if dataset in ours:
            lines[dataset, OURS] = ours[dataset]
            reasons |= {((dataset, OURS), column): why for column, why in ours[dataset].get("reasons", {}).items()}
        else:
            network = full_network(dataset)
            lines[dataset, FULL] = {"size_mib": measurement.file_size(network), "macs": measurement.macs_aten(network)}
        for source, known in ((WRITE_UP, assignment.write_up()), (PUBLISHED, assignment.published())):
            for line in known[(known["dataset"] == dataset) & (known["method"] == "dense")].to_dict("records"):
                lines[dataset, source] = line
    index = pd.MultiIndex.from_tuples(lines, names=["dataset", "Figures"])
    frame = pd.DataFrame([[line.get(column) for column in columns] for line in lines.values()], index, columns)
    devices = "; ".join(sorted({str(row["device"]) for row in ours.values()}))
    return tables.table(
        frame,
        "The dense network: what it costs and how well it classifies, beside the write-up's and the published figures.",
        digits={"macs": 3, "size_mib": 3},
        reasons=reasons,
        note=f"{assignment.WRITE_UP_NOTE} Published: {assignment.citations([assignment.RELEASE])}. Ours were measured on "
        f"{devices}. A gap without a number: the source gives no figure, or nothing was run.",
    )


def costs_seen(rows: Sequence[dict]) -> Markdown:
    """How our dense rows compare with the write-up's and the published ones."""
    lines = [f"- {style.dataset(row['dataset'])}: {_beside(row)}{_trained(row)}" for row in dense(rows)]
    if any(assignment.reported(row["dataset"], "dense", "top1_pct") for row in dense(rows)):
        last = "Whether wrongly normalised images explain that baseline is tested in [the next notebook](01_sensitivity.ipynb)."
    else:
        last = "These are not the write-up's data: only file size and MACs of the full network compare with it."
    return Markdown("**What is seen.**\n\n" + "\n".join(lines) + f"\n\n{last}")


def _beside(row: dict) -> str:
    """One dense row in words, beside the write-up's and the published figures where there are any."""
    interval = wilson(row)
    text = (
        f"{row['top1_pct']:.2f} % of the test images are classified correctly (95 % interval {interval.low:.2f} to "
        f"{interval.high:.2f}); the file has {row['size_mib']:.2f} MiB."
    )
    theirs, macs = (assignment.reported(row["dataset"], "dense", column) for column in ("top1_pct", "macs"))
    if theirs is None:
        return text
    apart = abs(100 * (row["macs"] / macs - 1))
    released = float(assignment.published(row["dataset"], "dense")["top1_pct"].iloc[0])
    same = "the same" if apart < 0.01 else "another"
    return text + (
        f" MACs differ from the write-up's by {apart:.3f} %: {same} architecture. Its top-1 of {theirs:.2f} % lies "
        f"{_points(theirs, row['top1_pct'])} ours and {_points(theirs, released)} what the released weights reach."
    )


def _trained(row: dict) -> str:
    """How its weights were trained, where their file says so; what it was trained with bounds what it reaches."""
    said = row.get("weights_training")
    return f" The weights are given; their training, as their file states it: {said}." if said else ""


def _points(a: float, b: float) -> str:
    return f"{abs(a - b):.2f} points {'below' if a < b else 'above'}"


def classes_seen(rows: Sequence[dict]) -> Markdown:
    """The hardest and the easiest classes."""
    said = []
    for row in dense(rows):
        if not data.at_hand(row["dataset"]):
            continue
        try:
            splits = data.load(row["dataset"])
        except FileNotFoundError:
            continue
        shares, low, high, count = plots.class_accuracy(row, splits)
        worst, best = int(shares.argmin()), int(shares.argmax())
        apart = "which the intervals keep apart" if high[worst] < low[best] else "which the intervals do not keep apart"
        said.append(
            f"On {style.dataset(row['dataset'])} accuracy by class runs from {100 * shares[worst]:.1f} % "
            f"({splits.classes[worst]}) to {100 * shares[best]:.1f} % ({splits.classes[best]}), {apart} at about "
            f"{round(count.mean())} images a class."
        )
    return Markdown("**What is seen.** " + " ".join(said)) if said else Markdown("")


def weights_seen(profile: Profile, rows: Sequence[dict]) -> Markdown:
    """How little of a layer's squared norm its small weights carry."""
    said = []
    for row in dense(rows):
        try:
            layers = models.weight_layers(context.dense_network(profile, row["dataset"]))
        except FileNotFoundError:
            continue
        shares = [100 * _small_share(layer.weight, profile.magnitude_sparsity_pct / 100) for layer in layers.values()]
        carried = dict(zip(layer_labels(layers), shares, strict=True))
        least, most = min(carried, key=carried.get), max(carried, key=carried.get)
        said.append(
            f"On {style.dataset(row['dataset'])} the {profile.magnitude_sparsity_pct:.2f} % smallest weights of a layer carry "
            f"from {carried[least]:.1f} % ({least}) to {carried[most]:.1f} % ({most}) of its squared norm."
        )
    said.append(
        "Whether the layers differ as much in what they can lose is the question of [the next notebook](01_sensitivity.ipynb)."
    )
    return Markdown("**What is seen.** " + " ".join(said))


def _small_share(weight: torch.Tensor, share: float) -> float:
    squares = weight.detach().flatten().square().sort().values.double()
    return float(squares[: round(share * len(squares))].sum() / squares.sum())
