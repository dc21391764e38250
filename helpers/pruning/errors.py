"""How many weights each layer keeps, by what pruning costs its output once the weights that stay are solved for.

`curves` prunes every layer by itself, in the dense network, to fewer and fewer weights, and reads the error of its output; no
label is read and nothing is trained. `allocate` then makes the last weight worth the same in all layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from helpers import models
from helpers.pruning import masks, regression
from helpers.pruning.channels import Activations, untouched
from helpers.pruning.regression import Samples
from helpers.pruning.repair import System

SAMPLES = Samples(images=500, positions=10)
OUTPUTS = 64  # that stand for all outputs of a layer
DENSITIES = tuple(round(0.7**i, 4) for i in range(1, 15))  # 0.7 … 0.0068
STEPS = 2  # of conjugate gradients at each


@dataclass(frozen=True)
class Curve:
    """One layer: the densities from 1 down, and ‖Y − Ŷ‖² / ‖Y‖² about the means of its output at each; at 0 it is 1."""

    densities: tuple[float, ...]
    errors: tuple[float, ...]


@torch.no_grad()
def curves(
    network: models.VGG,
    images: Tensor,
    *,
    samples: Samples = SAMPLES,
    densities: Sequence[float] = DENSITIES,
    outputs: int = OUTPUTS,
) -> dict[str, Curve]:
    """Weight name → error of the layer alone at falling `densities`, read on a random `outputs` of its outputs.

    From one density to the next the smallest weights times the standard deviation of their inputs go, and the others are
    solved for. `images`: uint8 training images, of which `samples` says how many are used. Raises TypeError or ValueError for
    a network that is not a VGG as it was built.
    """
    stream, found = Activations(untouched(network), samples.choose(images)), {}
    for number, unit in enumerate(stream.units):
        stream.advance(number)
        statistics = stream.statistics(number, samples)
        chosen = regression.random_order(len(unit.layer.weight), samples.seed)[:outputs].to(images.device)
        W = regression.matrix(unit.layer.weight, statistics.taps)[chosen]
        statistics.xy, statistics.yy = statistics.xy[:, chosen], statistics.yy[chosen]
        system = System.of(statistics, W)
        Z, errors = W * system.scale, [0.0]
        for density in densities:
            Z = system.solved(Z, masks.keep_largest(Z.abs(), round(density * Z.numel())), STEPS)
            errors.append(system.error(Z))
        found[f"{unit.name}.weight"] = Curve((1.0, *densities), tuple(errors))
    return found


def allocate(network: models.VGG, curves: Mapping[str, Curve], sparsity: float, *, alpha: float = 0.0) -> dict[str, int]:
    """Weight name → kept weights, that give the whole network `sparsity` at the least sum of the layers' errors.

    All layers end where one weight more would take the same from their error, for its price: the positions of the layer's
    output to the power of `alpha`, so that 0 counts weights and 1 MACs. Exact over the network to one weight; no layer falls
    below its curve's last density. ValueError for a sparsity out of reach, or curves of another network.
    """
    weights = models.weights(network)
    if list(curves) != list(weights):
        raise ValueError(f"the curves are of the weights {', '.join(curves)}; the network has {', '.join(weights)}")
    prices = {f"{layer.name}.weight": prod(layer.output_size[1:]) ** alpha for layer in models.layer_table(network)}
    worth = {name: _worth(curve, weights[name].numel(), prices[name]) for name, curve in curves.items()}

    def counts(level: float) -> dict[str, int]:
        return {name: round(np.exp(np.interp(level, values, logs))) for name, (values, logs) in worth.items()}

    levels = np.concatenate([values for values, _ in worth.values()])
    kept = masks.kept_count(sum(weight.numel() for weight in weights.values()), sparsity)
    return masks.meet(counts, kept, levels.min(), levels.max())[1]


def _worth(curve: Curve, total: int, price: float) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of what the last of some weights takes from the error, rising, and of how many those weights are, falling."""
    kept, errors = total * np.array([*curve.densities, 0.0]), np.array([*curve.errors, 1.0])
    values = np.log(np.maximum(np.diff(errors), 1e-12) / -np.diff(kept) / price)
    values = np.maximum.accumulate(values) + 1e-9 * np.arange(len(values))  # noise must not make a weight cheaper than the next
    middles = np.log(np.sqrt(kept[1:-1] * kept[:-2]))
    logs = np.concatenate([[np.log(total)], middles, [np.log(kept[-2])]])
    return np.concatenate([[values[0] - 9], values]), logs
