"""Pruning by saliency: scores → masks by one global ranking, at once or in rounds.

The score functions live in `scores.py` and are reachable from here; the schedule over training is in `schedule.py`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from helpers import settings
from helpers.pruning.masks import Masks, keep_largest, kept_count
from helpers.pruning.scores import (
    SCORES,
    Scores,
    grasp,
    grasp_absolute,
    grasp_preserving,
    grasp_score,
    magnitude,
    plain_copy,
    random,
    snip,
    synflow,
)

__all__ = [
    "ROUNDS",
    "SCORES",
    "Scores",
    "global_masks",
    "grasp",
    "grasp_absolute",
    "grasp_preserving",
    "grasp_score",
    "magnitude",
    "prune",
    "random",
    "snip",
    "synflow",
]

ROUNDS = {"synflow": 100}  # Tanaka et al. 2020, section 5; every other score ranks once


def global_masks(
    network: nn.Module, scores: Mapping[str, Tensor], kept: int, previous: Masks, *, keep_at_least: int = 0
) -> Masks:
    """The `kept` highest scores over all layers together, exactly; what `previous` has pruned stays pruned.

    `keep_at_least`: so many of each layer's best go first, which keeps a layer from being emptied. Ties fall to the
    lowest index. Raises ValueError for more weights than `previous` has left, or a score that is not a number.
    """
    if kept > previous.kept:
        raise ValueError(f"pruned weights never return: {previous.kept} are left, {kept} were asked for")
    alive = torch.cat([mask.flatten() for mask in previous.values()])
    ranking = torch.cat([scores[name].flatten() for name in previous])[alive]
    if keep_at_least:
        for part in ranking.split([layer.kept for layer in previous.table()]):
            part.masked_fill_(keep_largest(part, min(keep_at_least, part.numel())), torch.inf)
    alive[alive.clone()] = keep_largest(ranking, kept)
    parts = alive.split([mask.numel() for mask in previous.values()])
    return Masks(network, {name: part.view_as(previous[name]) for name, part in zip(previous, parts, strict=True)})


def prune(
    network: nn.Module,
    method: str,
    images: Tensor,
    labels: Tensor,
    sparsity: float,
    *,
    previous: Masks | None = None,
    seed: int = 0,
    rounds: int | None = None,
    inverted: bool = False,
    keep_at_least: int = 0,
) -> Masks:
    """Masks of exactly `sparsity` (a fraction, to one weight) by one global ranking of convolution and linear weights.

    Args:
        method: a key of `SCORES`.
        previous: masks to go on from; their pruned weights never return.
        rounds: in how many steps, the kept share falling exponentially and the scores computed anew on the pruned
            network each time; by default 100 for SynFlow and 1 for the others.
        inverted: keep the lowest scores instead (a sanity check of Frankle et al. 2021: a score that carries
            information must then do worse).
        keep_at_least: see `global_masks`; 0 leaves the ranking alone, and a layer it empties is a ValueError that
            names the layer. A caller that prefers a crippled layer to none passes 1 and says so.

    The network is left as it was. Raises ValueError also for an unknown method or a sparsity outside [0, 1).
    """
    score = SCORES[settings.choose("saliency score", method, SCORES)]
    rounds = ROUNDS.get(method, 1) if rounds is None else rounds
    if rounds < 1:
        raise ValueError(f"pruning takes at least one round, not {rounds}")
    masks = Masks.of(network) if previous is None else previous
    target = kept_count(masks.total, sparsity)
    if target == masks.kept:
        return masks
    current, start = plain_copy(network), masks.kept
    for step in range(1, rounds + 1):
        masks.apply(current)
        scores = score(current, images, labels, seed=seed)
        if inverted:
            scores = {name: -value for name, value in scores.items()}
        kept = round(start * (target / start) ** (step / rounds))
        masks = global_masks(network, scores, kept, masks, keep_at_least=keep_at_least)
    return masks.require_alive()
