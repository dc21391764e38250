"""Magnitude times what a weight reads, from a few images without their labels (Sun et al. 2023, "A Simple and Effective
Pruning Approach for Large Language Models").
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import models
from helpers.pruning import masks
from helpers.pruning.channels import Activations
from helpers.pruning.masks import Masks


@torch.no_grad()
def squares(network: models.VGG, images: Tensor) -> dict[str, Tensor]:
    """Weight name → mean square of what each weight of one output reads, over all `images` (uint8) and all positions.

    TypeError for a network that is not a VGG.
    """
    training = network.training
    stream = Activations(network.eval(), images)
    sums: dict[str, Tensor] = {}
    for maps in stream.inputs(0):
        for unit in stream.units:
            convolution = isinstance(unit.layer, nn.Conv2d)
            maps = maps if convolution else maps.flatten(1)
            outputs, seen = unit.outputs(maps), maps.square().sum(0, dtype=torch.float64)
            if convolution:  # each tap reads the map, moved by its place, and zeros beyond the border
                seen = F.unfold(seen.unsqueeze(0), 3, padding=1)[0].sum(1)
            mean = seen.view(unit.layer.weight.shape[1:]) / (len(images) * outputs[0, 0].numel())
            sums[f"{unit.name}.weight"] = sums.get(f"{unit.name}.weight", 0) + mean
            maps = unit.rest(outputs)
    network.train(training)
    return {name: mean.float() for name, mean in sums.items()}


def prune(network: models.VGG, kept: Mapping[str, int], squares: Mapping[str, Tensor]) -> Masks:
    """Keep the largest |w| · ‖x‖, the norm of what the weight reads, with `squares` as above.

    kept: weight name → weights that stay in the layer (the paper keeps as many in each output of a language model's).
    """
    weights = models.weights(network)
    scores = {name: w.detach().abs() * squares[name].to(w.device).sqrt() for name, w in weights.items()}
    return Masks(network, {name: masks.keep_largest(score, kept[name]) for name, score in scores.items()})
