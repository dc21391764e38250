"""Masks: which weights of a network are kept.

A mask covers the weight of a convolution or a linear layer, never a bias or a batch norm. True is kept, False is
pruned; sparsity is the fraction of False, density the fraction of True.
"""

import json
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from helpers import files, models

FILE_KIND = "masks-1"
AGAINST_EMPTY = "lower the sparsity, or rank with keep_at_least=1"


@dataclass(frozen=True)
class LayerDensity:
    """What a mask leaves of one weight tensor, named as in `Masks`."""

    name: str
    kept: int
    total: int


class Masks(Mapping[str, Tensor]):
    """Weight name ("features.0.weight") → bool tensor of the weight's shape, for all weights of a network in forward order.

    A weight without a mask in `masks` is kept whole, so masks of the convolutions alone will do. KeyError for a name that is
    no prunable weight, ValueError for a wrong shape, TypeError for a dtype other than bool.
    """

    def __init__(self, network: nn.Module, masks: Mapping[str, Tensor]):
        weights = models.weights(network)
        _require_fit(masks, weights)
        all_kept = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
        self._masks = all_kept | {name: mask.detach().clone() for name, mask in masks.items()}

    @classmethod
    def of(cls, network: nn.Module) -> "Masks":
        """All weights kept."""
        return cls(network, {})

    @classmethod
    def from_zeros(cls, network: nn.Module) -> "Masks":
        """Kept where the weight is not zero."""
        return cls(network, {name: w != 0 for name, w in models.weights(network).items()})

    @classmethod
    def load(cls, path: str | Path) -> "Masks":
        """Read what `save` wrote, without the network; files.CorruptFile where the file holds something else."""
        packed, described = files.load_tensors(path)
        if described.get("kind") != FILE_KIND:
            raise files.CorruptFile(f"{path} holds {described.get('kind', 'something else')!r}, not masks ({FILE_KIND!r})")
        unpacked = {}
        for name, shape in json.loads(described["shapes"]).items():
            bits = np.unpackbits(packed[name].numpy())[: math.prod(shape)]
            unpacked[name] = torch.from_numpy(bits.astype(bool).reshape(shape))
        return cls._made(unpacked)

    def save(self, path: str | Path) -> None:
        """Write the masks as one checksummed safetensors file, eight weights a byte."""
        packed = {name: torch.from_numpy(np.packbits(mask.cpu().numpy())) for name, mask in self.items()}
        shapes = {name: list(mask.shape) for name, mask in self.items()}
        files.save_tensors(path, packed, {"kind": FILE_KIND, "shapes": json.dumps(shapes)})

    @classmethod
    def _made(cls, masks: dict[str, Tensor]) -> "Masks":
        made = cls.__new__(cls)
        made._masks = masks
        return made

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
        """Set the pruned weights of `network` to zero, in place; kept weights keep every bit.

        KeyError or ValueError where the masks are another network's, ValueError where a weight would not stay zero.
        """
        weights = models.weights(network)
        _require_fit(self, weights, whole=True)
        for name, weight in weights.items():
            weight.masked_fill_(~self[name].to(weight.device), 0)

    def replaced(self, masks: Mapping[str, Tensor]) -> "Masks":
        """Other masks of all the same weights, on the same device; KeyError, ValueError or TypeError where they are not."""
        _require_fit(masks, self, whole=True)
        return self._made({name: masks[name].to(mask.device) for name, mask in self.items()})

    def shuffled(self, seed: int = 0) -> "Masks":
        """The same number of kept weights in every layer, at random places: does it matter *which* weights are kept?

        The layer-wise shuffle of Frankle et al. 2021, section 5. Drawn on the CPU, so every device keeps the same weights.
        """
        generator = torch.Generator().manual_seed(seed)

        def moved(mask: Tensor) -> Tensor:
            return mask.flatten()[torch.randperm(mask.numel(), generator=generator).to(mask.device)].view_as(mask)

        return self._made({name: moved(mask) for name, mask in self.items()})

    @property
    def empty(self) -> list[str]:
        """The weights of which nothing is left."""
        return [name for name, mask in self.items() if not mask.any()]


def _require_fit(masks: Mapping[str, Tensor], weights: Mapping[str, Tensor], *, whole: bool = False) -> None:
    """Raise unless every mask is a bool tensor of its weight's shape and, with `whole`, every weight has one."""
    for name, mask in masks.items():
        if name not in weights:
            raise KeyError(f"{name} is no prunable weight of this network (biases and batch norms are never pruned)")
        if mask.dtype != torch.bool:
            raise TypeError(f"the mask of {name} is {mask.dtype}, not torch.bool")
        if mask.shape != weights[name].shape:
            raise ValueError(f"the mask of {name} has shape {tuple(mask.shape)}, its weight {tuple(weights[name].shape)}")
    if whole and len(masks) < len(weights):
        raise KeyError(f"no mask for {next(name for name in weights if name not in masks)}")


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
        """Take the masks of a checkpoint; KeyError, ValueError or TypeError when they are not masks of this network."""
        self.masks = self.masks.replaced(state)  # the caller's masks stay as they are


def keep_largest(scores: Tensor, count: int) -> Tensor:
    """Bool, of the scores' shape, True at exactly `count` places: the largest, ties to the lowest index; ValueError for NaN."""
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


def keep_globally(scores: Mapping[str, Tensor], count: int, *, keep_at_least: int = 0) -> dict[str, Tensor]:
    """`keep_largest` over all tensors together: one ranking, ties to the earliest tensor.

    keep_at_least: so many of each tensor's largest are kept first. ValueError also where that is more than `count` in all.
    """
    ranking, sizes = torch.cat([part.detach().flatten() for part in scores.values()]), [part.numel() for part in scores.values()]
    if not ranking.is_floating_point():
        ranking = ranking.float()
    if keep_at_least:
        if sum(min(keep_at_least, size) for size in sizes) > count:
            raise ValueError(f"cannot keep {keep_at_least} weights of each of {len(sizes)} layers and {count} in all")
        ranking.clamp_(max=torch.finfo(ranking.dtype).max)  # below the infinity that marks what is kept first
        for part in ranking.split(sizes):
            part.masked_fill_(keep_largest(part, min(keep_at_least, part.numel())), torch.inf)
    kept = keep_largest(ranking, count).split(sizes)
    return {name: part.view(scores[name].shape) for name, part in zip(scores, kept, strict=True)}


def kept_count(total: int, sparsity: float) -> int:
    """How many of `total` weights a sparsity in [0, 1) keeps, to the nearest weight; ValueError outside that range."""
    if not 0 <= sparsity < 1:  # also refuses NaN
        raise ValueError(f"sparsity is a fraction from 0 up to, not including, 1; got {sparsity}")
    return total - round(total * sparsity)


def magnitude(network: nn.Module, kept: Mapping[str, int]) -> Masks:
    """Keep the `kept[name]` largest weights by absolute value in each layer (Han et al. 2015); unnamed layers stay whole."""
    weights = models.weights(network)
    return Masks(network, {name: keep_largest(weights[name].abs(), count) for name, count in kept.items()})


def uniform(network: nn.Module, sparsity: float) -> Masks:
    """Magnitude pruning at the same sparsity in every layer; exact over the network to one weight; warns of an emptied one."""
    sizes = {name: weight.numel() for name, weight in models.weights(network).items()}
    kept = kept_count(sum(sizes.values()), sparsity)
    shares = meet(lambda level: {name: round(n * (1 - level)) for name, n in sizes.items()}, kept, 0, 1)[1]
    return _tell_empty(magnitude(network, shares))


def global_magnitude(network: nn.Module, sparsity: float, *, exclude: Collection[str] = (), keep_at_least: int = 0) -> Masks:
    """One ranking by absolute value over all layers together, the last one included; ties to the earliest weight.

    For `exclude`, `keep_at_least` and errors see `rank`; `sparsity` is of the whole network. Warns of emptied layers.
    """
    scores, whole = {name: weight.abs() for name, weight in models.weights(network).items()}, Masks.of(network)
    return _tell_empty(rank(whole, scores, kept_count(whole.total, sparsity), exclude=exclude, keep_at_least=keep_at_least))


def rank(
    masks: Masks, scores: Mapping[str, Tensor], count: int, *, exclude: Collection[str] = (), keep_at_least: int = 0
) -> Masks:
    """Of what `masks` keeps, the `count` weights of the largest scores, in one ranking over all layers.

    Args:
        exclude: layers ("features.0") or weights ("features.0.weight") left out of the ranking; they keep what they have.
        keep_at_least: so many of each ranked layer's best weights are kept first.

    ValueError where too much is excluded for the count, or a name in `exclude` is no layer.
    """
    whole = {f"{name.removesuffix('.weight')}.weight" for name in exclude}
    if unknown := sorted(whole - set(masks)):
        raise ValueError(f"cannot exclude {unknown[0]}: the network's weights are {', '.join(masks)}")
    excluded = sum(int(masks[name].sum()) for name in whole)
    if count < excluded:
        raise ValueError(f"this sparsity keeps {count} of {masks.total} weights, but {excluded} are excluded from pruning")
    ranked = {name: scores[name][mask] for name, mask in masks.items() if name not in whole}
    kept = keep_globally(ranked, count - excluded, keep_at_least=keep_at_least)
    return masks.replaced({n: mask.masked_scatter(mask, kept[n]) if n in kept else mask for n, mask in masks.items()})


def _tell_empty(masks: Masks) -> Masks:
    if masks.empty:
        warnings.warn(f"nothing is left of {', '.join(masks.empty)}: {AGAINST_EMPTY}", stacklevel=3)
    return masks


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
    covering = ((layer.macs, masks[f"{layer.name}.weight"]) for layer in models.layer_table(network))
    return sum(macs * int(mask.sum()) // mask.numel() for macs, mask in covering)
