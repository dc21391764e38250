"""How alike two masks are, and what a mask does to the gradient: what tells pruning criteria apart besides accuracy."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from helpers.pruning.masks import Masks
from helpers.pruning.scores import gradient, plain_copy


@dataclass(frozen=True)
class Overlap:
    """How many of the weights that two masks keep are the same ones.

    `jaccard` is kept by both over kept by either, 0 … 1. `by_chance` is the same for the numbers expected of masks that keep
    as many weights of every layer, at random places: two criteria that only agree on how dense each layer is reach this much;
    what is above it is agreement on *which* weights matter.
    """

    jaccard: float
    by_chance: float


def overlap(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Overlap:
    """Compare two masks of one architecture, or of one of its layers; ValueError when they do not cover the same weights."""
    if {name: mask.shape for name, mask in a.items()} != {name: mask.shape for name, mask in b.items()}:
        raise ValueError("the two masks belong to different networks")
    kept = both = expected = 0.0
    for name, mask in a.items():
        other = b[name].to(mask.device)
        in_a, in_b = int(mask.sum()), int(other.sum())
        kept += in_a + in_b
        both += int((mask & other).sum())
        expected += in_a * in_b / mask.numel()
    return Overlap(*(shared / (kept - shared) if kept else 1.0 for shared in (both, expected)))


def matrix(masks: Mapping[str, Masks]) -> dict[str, dict[str, dict[str, float]]]:
    """Every pair of named masks, as plain JSON: name → other name → {"jaccard", "by_chance"}."""
    return {a: {b: vars(overlap(masks[a], masks[b])) for b in masks} for a in masks}


def gradient_norm(
    network: nn.Module, images: Tensor, labels: Tensor, masks: Masks | None = None, *, temperature: float = 1.0
) -> float:
    """Euclidean norm of the gradient of the mean cross-entropy, over convolution and linear weights.

    Images are float, normalised, (N, 3, H, W). The network is not changed, and with `masks` it is judged as if they had been
    applied to it: over the weights that are left, which training can still move. Batch norm uses the images' own statistics.
    For `temperature` see `scores.gradient`.
    """
    plain = plain_copy(network)
    if masks is not None:
        masks.apply(plain)
    parts = gradient(plain, images, labels, temperature=temperature)
    if masks is not None:
        parts = {name: part * masks[name].to(part.device) for name, part in parts.items()}
    return float(sum((part.double() ** 2).sum() for part in parts.values()) ** 0.5)
