"""The iterative schedule: when to prune during training, how far each time, and the training hook that does it."""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from helpers import data
from helpers.models import VGG
from helpers.pruning import scores
from helpers.pruning.masks import MaskHook, Masks, kept_count


@dataclass(frozen=True)
class Stage:
    """Before epoch `epoch` (0: before training) the network is pruned to `sparsity`, a fraction of all its weights."""

    epoch: int
    sparsity: float


def stages(epochs: int, sparsity: float, *, count: int = 5) -> list[Stage]:
    """`count` stages from initialisation to half of `epochs`, the kept share falling by the same factor at each.

    After stage i of n the density is (1 − sparsity)^(i/n); the last one is exactly `sparsity`, and the second half of
    the training is left to recover. Where the first half has too few epochs, there are as many stages as it has.
    Raises ValueError when an argument is out of range.
    """
    if epochs < 1 or count < 1:
        raise ValueError(f"pruning in stages needs at least one epoch and one stage, not {epochs} and {count}")
    kept_count(1, sparsity)  # refuses what is no sparsity
    half = epochs // 2
    count = min(count, half + 1)
    planned = [Stage(i * half // max(1, count - 1), 1 - (1 - sparsity) ** ((i + 1) / count)) for i in range(count - 1)]
    return [*planned, Stage(half, sparsity)]


class IterativeHook(MaskHook):
    """A training hook that prunes at each stage by scores of the network as it then is, and holds the masks after every step.

    Each stage draws `per_class` new training images a class (by `seed` and the stage's epoch), so a stage repeated
    after an interruption prunes the same weights. `masks` are the masks in force; a later stage only takes away.

    Args:
        network: it says how its images are normalised.
        score: for the stage before training, as `scores.prune` takes it.
        later: the score of the stages during training. By its signed definition GraSP would remove what was learnt.
        keep_at_least, temperature: see `scores.prune`; with 0 kept a stage that empties a layer is a ValueError.
    """

    def __init__(
        self,
        network: VGG,
        train_split: data.Split,
        stages: Sequence[Stage],
        score: str | scores.Score,
        per_class: int = 10,
        seed: int = 0,
        *,
        later: str | scores.Score,
        keep_at_least: int = 0,
        temperature: float = scores.TEMPERATURE,
    ):
        if any(a.epoch >= b.epoch or a.sparsity > b.sparsity for a, b in itertools.pairwise(stages)):
            raise ValueError("stages must follow each other in epochs and never lower the sparsity")
        super().__init__(Masks.of(network))
        self.stages, self.score, self.later = tuple(stages), score, later
        self._train, self.per_class, self._seed = train_split, per_class, seed
        self._normalization = network.normalization
        self._prune = functools.partial(scores.prune, seed=seed, keep_at_least=keep_at_least, temperature=temperature)

    def before_epoch(self, network: nn.Module, epoch: int) -> None:
        """Prune if `epoch` begins a stage, and set what is pruned to zero."""
        for stage in self.stages:
            if stage.epoch == epoch:
                chosen = data.class_balanced(self._train, self.per_class, self._seed * 100_003 + epoch)
                batch = data.normalize(chosen.images, self._normalization), chosen.labels
                score = self.later if epoch else self.score
                self.masks = self._prune(network, score, *batch, stage.sparsity, previous=self.masks)
        super().before_epoch(network, epoch)
