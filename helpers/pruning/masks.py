"""Masks: which weights of a network are kept.

A mask covers the weight of a convolution or a linear layer, never a bias or a batch norm. True is kept, False is
pruned; sparsity is the fraction of False, density the fraction of True.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from helpers import models


@dataclass(frozen=True)
class LayerDensity:
    """What a mask leaves of one layer."""

    name: str
    kept: int
    total: int

    @property
    def density(self) -> float:
        return self.kept / self.total


class Masks(Mapping[str, Tensor]):
    """A validated mapping from weight name ("features.0.weight") to a bool tensor of the weight's shape.

    Raises KeyError for an unknown or missing name, ValueError for a wrong shape, TypeError for a dtype other than bool.
    """

    def __init__(self, network: nn.Module, masks: Mapping[str, Tensor]):
        weights = models.weights(network)
        unknown, missing = sorted(set(masks) - set(weights)), sorted(set(weights) - set(masks))
        if unknown:
            raise KeyError(f"{unknown[0]} is no prunable weight of this network (biases and batch norms are never pruned)")
        if missing:
            raise KeyError(f"no mask for {missing[0]}")
        for name, weight in weights.items():
            mask = masks[name]
            if mask.dtype != torch.bool:
                raise TypeError(f"the mask of {name} is {mask.dtype}, not torch.bool")
            if mask.shape != weight.shape:
                raise ValueError(f"the mask of {name} has shape {tuple(mask.shape)}, its weight {tuple(weight.shape)}")
        self._masks = {name: masks[name].detach().clone() for name in weights}

    @classmethod
    def of(cls, network: nn.Module) -> "Masks":
        """All weights kept."""
        return cls(network, {name: torch.ones_like(w, dtype=torch.bool) for name, w in models.weights(network).items()})

    @classmethod
    def from_zeros(cls, network: nn.Module) -> "Masks":
        """Kept where the weight is not zero."""
        return cls(network, {name: w != 0 for name, w in models.weights(network).items()})

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    @property
    def kept(self) -> int:
        return sum(int(mask.sum()) for mask in self.values())

    @property
    def total(self) -> int:
        return sum(mask.numel() for mask in self.values())

    @property
    def density(self) -> float:
        return self.kept / self.total

    @property
    def sparsity(self) -> float:
        return 1 - self.density

    def table(self) -> list[LayerDensity]:
        """Kept and total weights a layer, in forward order."""
        return [LayerDensity(name, int(mask.sum()), mask.numel()) for name, mask in self.items()]

    @torch.no_grad()
    def apply(self, network: nn.Module) -> None:
        """Set the pruned weights of `network` to zero, in place; kept weights keep every bit."""
        for name, weight in models.weights(network).items():
            weight.masked_fill_(~self[name].to(weight.device), 0)

    def shuffled(self, seed: int = 0) -> "Masks":
        """The same number of kept weights in every layer, at random places: does it matter *which* weights are kept?

        The layer-wise shuffle of Frankle et al. 2021, section 5. Drawn on the CPU, so every device keeps the same weights.
        """
        generator = torch.Generator().manual_seed(seed)

        def moved(mask: Tensor) -> Tensor:
            return mask.flatten()[torch.randperm(mask.numel(), generator=generator).to(mask.device)].view_as(mask)

        return self._with({name: moved(mask) for name, mask in self.items()})

    def _with(self, masks: dict[str, Tensor]) -> "Masks":
        """Other masks of the same names, shapes and dtype."""
        other = copy.copy(self)
        other._masks = masks
        return other

    def require_alive(self) -> "Masks":
        """These masks; ValueError naming the first layer of which nothing is left."""
        for layer in self.table():
            if layer.kept == 0:
                raise ValueError(f"nothing is left of {layer.name}: lower the sparsity or choose another method")
        return self


class MaskHook:
    """A training hook that puts pruned weights back to zero after every optimiser step (momentum would revive them)."""

    def __init__(self, masks: Masks):
        self.masks = masks

    def before_epoch(self, network: nn.Module, epoch: int) -> None:
        self.masks.apply(network)

    def after_step(self, network: nn.Module) -> None:
        self.masks.apply(network)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.masks)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        # the caller's masks stay as they are
        self.masks = self.masks._with({name: state[name].to(mask.device) for name, mask in self.masks.items()})


def ranks(scores: Tensor) -> Tensor:
    """The place of every score from the largest (0) to the smallest, int64 of the scores' shape; ties to the lowest index.

    One ranking serves every sparsity of a layer: `ranks(scores) < kept`. Raises ValueError when a score is NaN.
    """
    flat = scores.detach().flatten()
    if torch.isnan(flat).any():
        raise ValueError("a score is NaN")
    order = torch.sort(flat, descending=True, stable=True).indices  # stable, not topk: topk promises nothing about ties
    places = torch.empty_like(order)
    places[order] = torch.arange(flat.numel(), device=flat.device)
    return places.view(scores.shape)


def keep_largest(scores: Tensor, count: int) -> Tensor:
    """A bool tensor of the scores' shape, True at exactly `count` places: the largest scores, ties to the lowest index.

    Raises ValueError when `count` is outside 0 … numel or a score is NaN.
    """
    if not 0 <= count <= scores.numel():
        raise ValueError(f"cannot keep {count} of {scores.numel()} weights")
    flat = scores.detach().flatten()
    if torch.isnan(flat).any():
        raise ValueError("a score is NaN")
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    # selection, not topk, which promises nothing about ties, nor a sort, which takes six times as long
    threshold = flat.kthvalue(flat.numel() - count + 1).values
    kept = flat > threshold
    kept[(flat == threshold).nonzero()[: count - int(kept.sum())]] = True
    return kept.view(scores.shape)


def kept_count(total: int, sparsity: float) -> int:
    """How many of `total` weights a sparsity in [0, 1) keeps, to the nearest weight; ValueError outside that range."""
    if not 0 <= sparsity < 1:  # also refuses NaN
        raise ValueError(f"sparsity is a fraction from 0 up to, not including, 1; got {sparsity}")
    return total - round(total * sparsity)


def magnitude(network: nn.Module, kept: Mapping[str, int]) -> Masks:
    """Keep the `kept[name]` largest weights by absolute value in each layer (Han et al. 2015)."""
    return Masks(network, {name: keep_largest(w.abs(), kept[name]) for name, w in models.weights(network).items()})


def uniform(network: nn.Module, sparsity: float) -> Masks:
    """Magnitude pruning at the same sparsity in every layer, the last one included; exact over the network to one weight."""
    sizes = {name: weight.numel() for name, weight in models.weights(network).items()}
    kept = kept_count(sum(sizes.values()), sparsity)
    return magnitude(network, meet(lambda level: {name: round(n * (1 - level)) for name, n in sizes.items()}, kept, 0, 1)[1])


def global_magnitude(network: nn.Module, sparsity: float) -> Masks:
    """One ranking by absolute value over all layers together, the last one included; ties to the earliest weight."""
    weights = models.weights(network)
    scores = torch.cat([weight.detach().abs().flatten() for weight in weights.values()])
    kept = keep_largest(scores, kept_count(len(scores), sparsity)).split([weight.numel() for weight in weights.values()])
    return Masks(network, {name: mask.view(weights[name].shape) for name, mask in zip(weights, kept, strict=True)})


def meet(counts: Callable[[float], Mapping[str, int]], kept: int, low: float, high: float) -> tuple[float, dict[str, int]]:
    """(level, counts) with counts that sum to `kept` exactly, where `counts(level)` fall as the level rises.

    The level is bisected to the last bit. Where several layers lose a weight at that very level, the later ones lose it
    first. Every layer's count falls with `kept`, so masks made of them are nested (rounding shares to the largest
    remainder would not promise that). Raises ValueError when `kept` does not lie between the counts at both ends.
    """
    most, least = sum(counts(low).values()), sum(counts(high).values())
    if not least <= kept <= most:
        raise ValueError(f"cannot keep {kept} weights: {least} to {most} are within reach")
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if sum(counts(middle).values()) <= kept else (middle, high)
    before, chosen = counts(low), dict(counts(high))
    missing = kept - sum(chosen.values())
    for name in chosen:
        added = min(missing, before[name] - chosen[name])
        chosen[name] += added
        missing -= added
    return high, chosen


def effective_macs(network: models.VGG, masks: Masks) -> int:
    """Multiply-adds that touch a kept weight, for one image."""
    return sum(
        layer.macs * int(masks[f"{layer.name}.weight"].sum()) // masks[f"{layer.name}.weight"].numel()
        for layer in models.layer_table(network)
    )
