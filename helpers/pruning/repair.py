"""Pruning without training: from about a thousand images, the weights that stay are solved for.

Layer by layer in forward order, the pruned layer is to give, from what the network pruned so far feeds it, what the dense layer
gave from its own input, before batch norm. The bias takes up the means, so batch norms keep their statistics.

`least_squares` solves for the weights that a mask keeps (Hubara et al. 2021, "Accelerated Sparse Neural Training", AdaPrune);
`together` finds mask and weights at once (Boža 2024, "Fast and Effective Weight Update for Pruned Large Language Models";
Meng et al. 2024, "ALPS"). Both treat all filters of a layer at once, with products of matrices alone.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from helpers import models
from helpers.pruning import regression
from helpers.pruning.channels import Activations, targets, untouched
from helpers.pruning.masks import Masks, keep_largest
from helpers.pruning.regression import Samples, Statistics

SAMPLES = Samples(images=1000, positions=10)
RIDGE = 0.01  # of each input's variance, towards the dense weights
RHO = 2.0  # of each input's variance
ROUNDS, STEPS = 30, 10  # of ADMM, and of conjugate gradients on its mask
RELAXATION = 1.7  # Boyd et al. 2011, section 3.4.3
SOLVING = 30  # steps of conjugate gradients for a given mask
DEAD = 1e-5  # an input whose variance is less of its own square and of the largest variance counts as constant


@dataclass(frozen=True)
class System:
    """Least squares of one layer, every output a row by itself: min over Z of ½ Z H Zᵀ − Z Bᵀ.

    Z (outputs, inputs) are weights times `scale`, their inputs' standard deviations, so that z² is the energy that a weight
    brings to the output. H (inputs, inputs) is the correlation of the inputs with `ridge` more on the diagonal, which pulls
    towards the dense weights; the same in B. `dense` (outputs, inputs) are those weights as they are.
    """

    H: Tensor
    B: Tensor
    scale: Tensor
    dense: Tensor
    output_variance: Tensor
    ridge: float

    @classmethod
    def of(cls, statistics: Statistics, W: Tensor, ridge: float = RIDGE) -> "System":
        """From a layer's (centred) statistics and its dense weights W (outputs, taps · channels)."""
        variance = statistics.xx.diagonal() / statistics.rows
        alive = variance > DEAD * (variance.max() + statistics.x_mean.float() ** 2)  # what is left is rounding
        scale = torch.where(alive, variance.sqrt(), 0)
        inverse = torch.where(scale > 0, 1 / scale, 0)
        H = statistics.xx * (inverse / statistics.rows).unsqueeze(1) * inverse
        H.diagonal().add_(ridge)
        B = statistics.xy.T * inverse / statistics.rows + ridge * W * scale
        return cls(H, B, scale, W, statistics.yy / statistics.rows, ridge)

    def error(self, Z: Tensor) -> float:
        """‖Y − Ŷ‖² / ‖Y‖² about the means: 0 is exact, 1 is no better than a constant."""
        pull = self.ridge * (Z - 2 * self.dense * self.scale)  # what the ridge added to H and B
        explained = ((2 * self.B - Z @ self.H + pull) * Z).sum(dtype=torch.float64)
        return max(0.0, 1 - float(explained / self.output_variance.sum().clamp(min=1e-30)))

    def weights(self, Z: Tensor, mask: Tensor) -> Tensor:
        """The weights of Z, zero where `mask` is False; those of inputs that never change stay the dense ones."""
        return torch.where(self.scale > 0, Z / self.scale, self.dense).masked_fill(~mask, 0)

    def solved(self, Z: Tensor, mask: Tensor, steps: int) -> Tensor:
        """Z after some steps of conjugate gradients on what `mask` (outputs, inputs) keeps, which start from the given Z."""
        Z = Z * mask
        residual = (self.B - Z @ self.H) * mask
        direction, square = residual, residual.square().sum(1, keepdim=True)
        for _ in range(steps):
            image = (direction @ self.H) * mask
            curvature = (direction * image).sum(1, keepdim=True)
            step = torch.where(curvature > 0, square / curvature, 0)
            Z, residual = Z + step * direction, residual - step * image
            before, square = square, residual.square().sum(1, keepdim=True)
            direction = residual + square / before.clamp(min=1e-30) * direction
        return Z

    def searched(
        self, count: int, *, rho: float = RHO, rounds: int = ROUNDS, block: int = 1, taps: int = 1
    ) -> tuple[Tensor, Tensor]:
        """(Z, mask) of `count` non-zeros at nearly the least error, by the alternating direction method of multipliers.

        The number of kept weights falls to `count` as the cube of the rounds left; `block` and `taps` as in `keep_blocks`.
        """
        shifted = self.H.clone()
        shifted.diagonal().add_(rho)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(shifted))
        del shifted
        Z = self.dense * self.scale
        U, mask, surplus = torch.zeros_like(Z), torch.ones_like(Z, dtype=torch.bool), Z.numel() - count
        for left in reversed(range(rounds)):
            V = RELAXATION * ((self.B + rho * (Z - U)) @ inverse) + (1 - RELAXATION) * Z + U
            mask = keep_blocks(V, count + round(surplus * (left / rounds) ** 3), block, taps)
            Z = V * mask
            U = V - Z
        return Z, mask


def keep_blocks(Z: Tensor, count: int, block: int, taps: int) -> Tensor:
    """The mask of the largest blocks of `block` neighbouring channels at one tap and output, by their sum of squares.

    `count` weights, rounded up to whole blocks; channels that do not fill a block are one that ends in zeros.
    """
    if block == 1:
        return keep_largest(Z.abs(), count)
    maps = Z.view(len(Z), taps, -1)
    padded = F.pad(maps, (0, -maps.shape[2] % block)).unflatten(2, (-1, block))
    energies = padded.square().sum(3)
    kept = keep_largest(energies, math.ceil(count * energies.numel() / Z.numel()))
    return kept.repeat_interleave(block, 2)[:, :, : maps.shape[2]].flatten(1)


@torch.no_grad()
def least_squares(
    network: models.VGG,
    masks: Mapping[str, Tensor],
    images: Tensor,
    *,
    samples: Samples = SAMPLES,
    ridge: float = RIDGE,
    steps: int = SOLVING,
) -> models.VGG:
    """A copy of the dense `network` with the `masks`, whose kept weights and biases are solved for. Nothing is trained.

    Args:
        images: uint8 (N, 3, H, W), training images; `samples` says how many of them are used, and at how many positions.
        ridge: the pull towards the dense weights, relative to the variance of each weight's input.
        steps: of conjugate gradients.

    Raises TypeError or ValueError for a network that is not a VGG as it was built, and for masks that do not fit it.
    """
    masks = Masks(network, masks)

    def solve(name: str, system: System, taps: int) -> Tensor:
        mask = regression.matrix(masks[name], taps)
        return system.weights(system.solved(system.dense * system.scale, mask, steps), mask)

    return _in_order(network, images, samples, ridge, {name for name, mask in masks.items() if not mask.all()}, solve)


@torch.no_grad()
def together(
    network: models.VGG,
    kept: Mapping[str, int],
    images: Tensor,
    *,
    samples: Samples = SAMPLES,
    ridge: float = RIDGE,
    rho: float = RHO,
    rounds: int = ROUNDS,
    steps: int = STEPS,
    block: int = 1,
) -> tuple[models.VGG, Masks]:
    """A copy of the dense `network` whose masks and weights were found together, and the masks. Nothing is trained.

    Args:
        kept: weight name ("features.0.weight") → weights that stay in it, as in `masks.magnitude`.
        images, ridge: as in `least_squares`.
        rho: how fast the method settles: the weight of its quadratic term, relative to the variance of each weight's input.
        rounds: of the method; the number of kept weights falls to the wanted one as the cube of the rounds left.
        steps: of conjugate gradients on the mask it ends with.
        block: weights stay or go in blocks of so many neighbouring input channels at one tap, rounded up to whole blocks.

    Raises TypeError or ValueError for a network that is not a VGG as it was built, KeyError or ValueError for counts that do
    not fit it.
    """
    weights = models.weights(network)
    for name, weight in weights.items():
        if not 0 <= kept[name] <= weight.numel():
            raise ValueError(f"{name} has {weight.numel()} weights and cannot keep {kept[name]}")
    masks = dict(Masks.of(network))

    def solve(name: str, system: System, taps: int) -> Tensor:
        Z, mask = system.searched(kept[name], rho=rho, rounds=rounds, block=block, taps=taps)
        masks[name] = regression.unmatrix(mask, taps, weights[name].shape)
        return system.weights(system.solved(Z, mask, steps), mask)

    changed = {name for name, weight in weights.items() if kept[name] < weight.numel()}
    return _in_order(network, images, samples, ridge, changed, solve), Masks(network, masks)


def _in_order(
    network: models.VGG,
    images: Tensor,
    samples: Samples,
    ridge: float,
    changed: set[str],
    solve: Callable[[str, System, int], Tensor],
) -> models.VGG:
    """A copy of `network` in which `solve(weight name, system, taps)` gave each layer its W, from the first changed one on."""
    pruned, images = untouched(network), samples.choose(images)
    stream = Activations(pruned, images)
    names = [f"{unit.name}.weight" for unit in stream.units]
    first = next((number for number, name in enumerate(names) if name in changed), len(names))
    dense = targets(copy.deepcopy(pruned), images, samples) if changed else {}
    for number, unit in enumerate(stream.units[first:], start=first):
        stream.advance(number)
        statistics = stream.statistics(number, samples, dense.pop(unit.name))
        taps = statistics.taps
        W = solve(names[number], System.of(statistics, regression.matrix(unit.layer.weight, taps), ridge), taps)
        bias = statistics.y_mean - W.double() @ statistics.x_mean
        regression.assign(unit.layer, W, bias.to(W.dtype), taps)
    return pruned.train(network.training)
