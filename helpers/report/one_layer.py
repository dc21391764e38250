"""One layer step by step: a toy whose answer is known, then a layer of the dense network."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from IPython.display import Markdown
from torch import Tensor

from helpers import context, data
from helpers.pruning import channels, reconstruction, selection
from helpers.pruning.reconstruction import Solution, Statistics
from helpers.pruning.stream import units
from helpers.pruning.surgery import consumer
from helpers.report import style, tables
from helpers.report.sentences import layer_labels
from helpers.report.tables import Table
from helpers.settings import Profile

IMAGES = 1000  # a figure needs fewer than the rows of the study
SHOWN_CONVOLUTION = 5  # the sixth: in the blocks that do most of the work
RANDOM_ORDERS = 5


@dataclass(frozen=True)
class Toy:
    """Six channels of one tap and two outputs. Channels 3 and 4 repeat 0 and 1 at a share of their weight; 5 is faint."""

    statistics: Statistics
    W: Tensor
    by_hand: Tensor  # the weights that channels 0, 1, 2 need so that nothing but channel 5 is lost


def toy() -> Toy:
    """The same rows every time."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(500, 6, generator=generator)
    X[:, 3], X[:, 4] = X[:, 0], X[:, 1]
    W = torch.tensor([[2.0, 0.5, 0.8, 1.0, 0.2, 0.05], [1.0, 1.5, -1.2, 0.5, 0.6, 0.05]])
    statistics = Statistics(1, 6, 2)
    statistics.add(X.unsqueeze(1), X @ W.T)
    return Toy(statistics.centred(), W, torch.stack([W[:, 0] + W[:, 3], W[:, 1] + W[:, 4], W[:, 2]], dim=1))


def toy_checked(toy: Toy, kept: Tensor, solution: Solution) -> Table:
    """The toy's solution beside the one found by hand. Raises AssertionError when they differ."""
    assert kept.tolist() == [0, 1, 2], "the path and the hand disagree"
    torch.testing.assert_close(solution.W, toy.by_hand, atol=0.02, rtol=0)
    before = reconstruction.relative_error(toy.statistics, kept, toy.W[:, kept])
    after = reconstruction.relative_error(toy.statistics, kept, solution.W)
    frame = pd.DataFrame(
        {
            ("output 1", "before"): toy.W[0, kept],
            ("output 1", "solved"): solution.W[0],
            ("output 1", "by hand"): toy.by_hand[0],
            ("output 2", "before"): toy.W[1, kept],
            ("output 2", "solved"): solution.W[1],
            ("output 2", "by hand"): toy.by_hand[1],
        },
        index=pd.Index([f"{channel}" for channel in kept.tolist()], name="Channel kept"),
    )
    return tables.table(
        frame.astype(float),
        "The toy: weights of the three channels that the path keeps.",
        note=f"Relative error with the old weights {100 * before:.1f} %, with the solved ones {100 * after:.2f} %.",
    )


@dataclass(frozen=True)
class OneLayer:
    """A layer of the dense network, its LASSO path, and relative errors by the number of channels kept."""

    dataset: str
    label: str  # of the convolution whose channels are chosen
    path: selection.Path
    count: int  # as many as a network of equal shares would keep
    kept: Tensor
    penalty: float
    curves: Mapping[str, Tensor]  # name → error at 0 … c channels
    images: int


CURVES = {
    "before": "LASSO, old weights",
    "lasso": "LASSO, reconstructed",
    "l1": "L1 filters, reconstructed",
    "random": "random, reconstructed",
}


def look(profile: Profile) -> OneLayer | None:
    """A middle layer of the first data set's dense network; None where the network or the images are not at hand."""
    dataset = profile.datasets[0]
    try:
        network = context.dense_network(profile, dataset)
        if not data.at_hand(dataset):
            return None
        images = data.load(dataset, torch.device("cpu")).train.images
    except FileNotFoundError:
        return None
    samples = channels.Samples(min(IMAGES, profile.statistics_images), profile.positions)
    statistics, W = channels.layer_statistics(network, images, SHOWN_CONVOLUTION, samples=samples)
    found = selection.path(statistics, W)
    total = statistics.channels
    count = max(1, round(total * profile.macs_share**0.5))
    kept, penalty = found.keep(count)
    conv = units(network)[SHOWN_CONVOLUTION].conv
    by_norm = conv.weight.detach().abs().sum((1, 2, 3)).argsort(descending=True, stable=True)
    drawn = [reconstruction.error_curve(statistics, selection.random_order(total, seed)) for seed in range(RANDOM_ORDERS)]
    curves = {
        "before": _with_old_weights(statistics, W, found.order),
        "lasso": reconstruction.error_curve(statistics, found.order),
        "l1": reconstruction.error_curve(statistics, by_norm),
        "random": torch.stack(drawn).mean(0),
    }
    label, reader = layer_labels([units(network)[n].name for n in range(SHOWN_CONVOLUTION + 2)])[-2:]
    assert consumer(network, SHOWN_CONVOLUTION)[0] == units(network)[SHOWN_CONVOLUTION + 1].name
    return OneLayer(dataset, f"{label}, read by {reader}", found, count, kept, penalty, curves, samples.images)


def _with_old_weights(statistics: Statistics, W: Tensor, order: Tensor) -> Tensor:
    total, columns = statistics.channels, W.view(len(W), statistics.taps, -1)
    errors = [1.0]
    for count in range(1, total + 1):
        kept = order[:count]
        errors.append(reconstruction.relative_error(statistics, kept, columns[:, :, kept].flatten(1)))
    return torch.tensor(errors, dtype=torch.float64)


def seen(layer: OneLayer | None) -> Markdown:
    """What the choice and the reconstruction are worth at the marked count."""
    if layer is None:
        return Markdown("*The trained network or its images are not on this machine: the figures above are the stored ones.*")
    at = {name: float(curve[layer.count]) for name, curve in layer.curves.items()}
    total = len(layer.path.gram)
    enough = int((layer.curves["lasso"] <= 0.05).nonzero()[0])
    return Markdown(
        f"**What is seen.** On {style.dataset(layer.dataset)} ({layer.label}), {layer.count} of {total} channels with their old "
        f"weights miss {100 * at['before']:.1f} % of the output's variance; the same channels with solved weights miss "
        f"{100 * at['lasso']:.1f} %. Reconstructed, channels chosen by L1 norm miss {100 * at['l1']:.1f} % and random ones "
        f"{100 * at['random']:.1f} %: solving the weights makes the error {at['before'] / max(at['lasso'], 1e-9):.1f}× smaller, "
        f"choosing by LASSO instead of by chance {at['random'] / max(at['lasso'], 1e-9):.2f}×. {enough} channels are enough to "
        "miss no more than 5 %."
    )
