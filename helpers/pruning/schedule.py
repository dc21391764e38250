"""The iterative schedule: when to prune during training, how far each time, and the training hook that does it."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from helpers import data
from helpers.pruning import saliency
from helpers.pruning.masks import MaskHook, Masks

LATER = {"grasp": "grasp_preserving"}
"""Which score takes over once training has begun; by its signed definition GraSP would remove what was learnt."""


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
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity is a fraction from 0 up to, not including, 1; got {sparsity}")
    half = epochs // 2
    count = min(count, half + 1)
    planned = [Stage(i * half // max(1, count - 1), 1 - (1 - sparsity) ** ((i + 1) / count)) for i in range(count - 1)]
    return [*planned, Stage(half, sparsity)]


class IterativeHook(MaskHook):
    """A training hook that prunes at each stage by scores of the network as it then is, and holds the masks after every step.

    Each stage draws `per_class` new training images a class (by `seed` and the stage's epoch), so a stage repeated
    after an interruption prunes the same weights. `masks` are the masks in force; a later stage only takes away.

    Args:
        score: a key of `saliency.SCORES`, for the stage before training.
        later: the score of the stages during training; by default `LATER` of `score`, or `score` itself.
        keep_at_least: weights of each layer that are kept in any case; with 0 a stage that empties a layer is a ValueError.
    """

    def __init__(
        self,
        network: nn.Module,
        train_split: data.Split,
        stages: Sequence[Stage],
        score: str = "grasp",
        per_class: int = 10,
        seed: int = 0,
        *,
        later: str | None = None,
        keep_at_least: int = 0,
    ):
        if any(a.epoch >= b.epoch or a.sparsity > b.sparsity for a, b in itertools.pairwise(stages)):
            raise ValueError("stages must follow each other in epochs and never lower the sparsity")
        self.stages, self.per_class, self.seed = tuple(stages), per_class, seed
        self.score, self.later = score, later or LATER.get(score, score)
        super().__init__(Masks.of(network))
        self._network, self._train, self._keep_at_least = network, train_split, keep_at_least

    def before_epoch(self, network: nn.Module, epoch: int) -> None:
        """Prune if `epoch` begins a stage, and set what is pruned to zero."""
        for stage in self.stages:
            if stage.epoch == epoch:
                chosen = data.class_balanced(self._train, self.per_class, self.seed * 100_003 + epoch)
                self.masks = saliency.prune(
                    network,
                    self.later if epoch else self.score,
                    data.normalize(chosen.images, network.normalization),
                    chosen.labels,
                    stage.sparsity,
                    previous=self.masks,
                    seed=self.seed,
                    keep_at_least=self._keep_at_least,
                )
        super().before_epoch(network, epoch)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the masks of a checkpoint; KeyError, ValueError or TypeError when they are not masks of this network."""
        device = next(iter(self.masks.values())).device
        self.masks = Masks(self._network, {name: mask.to(device) for name, mask in state.items()})
