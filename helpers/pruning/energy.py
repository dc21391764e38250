"""What each weight brings to its layer's output, from a few images without their labels: scores and allocations."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import models
from helpers.pruning import masks
from helpers.pruning.channels import Activations
from helpers.pruning.masks import Masks


@dataclass(frozen=True)
class Moments:
    """What the weights of one layer read in the dense network, and what the layer gives, over all images and positions.

    `square` is E[x²] and `variance` that of x, in the shape of one output's weights; `output_variance` (outputs,).
    """

    square: Tensor
    variance: Tensor
    output_variance: Tensor


@torch.no_grad()
def moments(network: models.VGG, images: Tensor) -> dict[str, Moments]:
    """Weight name → moments over all `images` (uint8) and all positions. TypeError for a network that is not a VGG."""
    training = network.training
    stream = Activations(network.eval(), images)
    sums: dict[str, list[Tensor]] = {}
    for maps in stream.inputs(0):
        for unit in stream.units:
            maps = maps if isinstance(unit.layer, nn.Conv2d) else maps.flatten(1)
            outputs = unit.outputs(maps)
            parts = [x.sum(0, dtype=torch.float64) for x in (maps, maps.square(), outputs, outputs.square())]
            sums[unit.name] = [a + b for a, b in zip(sums[unit.name], parts, strict=True)] if unit.name in sums else parts
            maps = unit.rest(outputs)
    network.train(training)
    return {f"{unit.name}.weight": _moments(unit.layer, sums[unit.name], len(images)) for unit in stream.units}


def _moments(layer: nn.Conv2d | nn.Linear, sums: list[Tensor], images: int) -> Moments:
    rows = images * sums[2][0].numel()  # an image has as many as the output has positions
    if isinstance(layer, nn.Conv2d):  # each tap reads the map, moved by its place, and zeros beyond the border
        sums = [F.unfold(s.unsqueeze(0), 3, padding=1)[0].sum(1) for s in sums[:2]] + [s.sum((1, 2)) for s in sums[2:]]
    mean, square, output_mean, output_square = (s / rows for s in sums)
    shape = layer.weight.shape[1:]
    variance, output_variance = (square - mean**2).clamp(min=0), (output_square - output_mean**2).clamp(min=0)
    return Moments(square.view(shape).float(), variance.view(shape).float(), output_variance.float())


def wanda(network: models.VGG, kept: Mapping[str, int], moments: Mapping[str, Moments]) -> Masks:
    """Keep the largest |w| · ‖x‖, the norm of what the weight reads (Sun et al. 2023, "A Simple and Effective Pruning Approach").

    kept: weight name → weights that stay in the layer (the paper keeps as many in each output of a language model's).
    """
    weights = models.weights(network)
    scores = {name: w.detach().abs() * moments[name].square.to(w.device).sqrt() for name, w in weights.items()}
    return Masks(network, {name: masks.keep_largest(score, kept[name]) for name, score in scores.items()})


def allocate(network: models.VGG, moments: Mapping[str, Moments], sparsity: float, *, alpha: float = 0.0) -> dict[str, int]:
    """Weight name → kept weights, from one ranking over all layers by share of the layer's output.

    A weight's energy is w² times the variance of what it reads, over the variance of its layer's output (all outputs
    together); it is divided by the positions of the output's map to the power of `alpha`: 0 counts a weight, 1 a MAC.
    Exact over the network to one weight. ValueError for a sparsity outside [0, 1).
    """
    weights = models.weights(network)
    positions = {f"{layer.name}.weight": prod(layer.output_size[1:]) for layer in models.layer_table(network)}
    energies = {
        name: w.detach() ** 2 * (m.variance / (m.output_variance.sum().clamp(min=1e-30) * positions[name] ** alpha)).to(w.device)
        for (name, w), m in zip(weights.items(), (moments[name] for name in weights), strict=True)
    }
    count = masks.kept_count(sum(w.numel() for w in weights.values()), sparsity)
    return {name: int(mask.sum()) for name, mask in masks.keep_globally(energies, count).items()}
