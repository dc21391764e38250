"""How alike two masks are, and what a mask does to the gradient: what tells pruning criteria apart besides accuracy."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from helpers.pruning.masks import Masks
from helpers.pruning.scores import gradient, plain_copy


@dataclass(frozen=True)
class Overlap:
    """Weights that two masks keep, of one layer or of all ("all layers")."""

    name: str
    kept_a: int
    kept_b: int
    both: int
    total: int

    @property
    def jaccard(self) -> float:
        """Kept by both over kept by either, 0 … 1."""
        either = self.kept_a + self.kept_b - self.both
        return self.both / either if either else 1.0

    @property
    def expected_both(self) -> float:
        """What two random masks with the same number of kept weights share on average."""
        return self.kept_a * self.kept_b / self.total


@dataclass(frozen=True)
class Likeness:
    """Two masks compared layer by layer."""

    layers: tuple[Overlap, ...]

    @property
    def whole(self) -> Overlap:
        """All layers together."""
        return Overlap("all layers", *(sum(getattr(o, f) for o in self.layers) for f in ("kept_a", "kept_b", "both", "total")))

    @property
    def jaccard(self) -> float:
        return self.whole.jaccard

    @property
    def jaccard_by_chance(self) -> float:
        """The Jaccard index expected of masks that keep as many weights of every layer, at random places.

        Two criteria that only agree on how dense each layer is reach this much; what is above it is agreement on
        *which* weights matter.
        """
        both = sum(layer.expected_both for layer in self.layers)
        return both / (self.whole.kept_a + self.whole.kept_b - both)


def overlap(a: Masks, b: Masks) -> Likeness:
    """Compare two masks of one architecture; ValueError when they do not cover the same weights."""
    if {name: mask.shape for name, mask in a.items()} != {name: mask.shape for name, mask in b.items()}:
        raise ValueError("the two masks belong to different networks")
    return Likeness(
        tuple(
            Overlap(
                name, int(a[name].sum()), int(b[name].sum()), int((a[name] & b[name].to(a[name].device)).sum()), a[name].numel()
            )
            for name in a
        )
    )


def gradient_norm(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    masks: Masks | None = None,
    *,
    over: str = "kept",
    batch_norm: str = "train",
    temperature: float = 1.0,
) -> float:
    """Euclidean norm of the gradient of the mean cross-entropy, over convolution and linear weights.

    Images are float, normalised, (N, 3, H, W); batch norm uses the statistics of batches of at most `scores.CHUNK` images
    ("eval": its running ones). The network is not changed, and with `masks` it is judged as if they had been applied to
    it. Logits are divided by `temperature`.

    Args:
        over: with `masks`, which weights count. "kept": those that training can still move, the gradient flow of the
            pruned network. "all": also the pruned ones, at which the gradient is rarely zero; this is what GraSP means
            to preserve and what its first order promises, ‖g‖² changing by twice the score of each weight removed (Wang
            et al. 2020, section 4). Without masks both are the same.

    Raises ValueError for another `over` or `batch_norm`.
    """
    if over not in ("kept", "all"):
        raise ValueError(f'the norm is over "kept" or "all" weights, not {over!r}')
    plain = plain_copy(network)
    if masks is not None:
        masks.apply(plain)
    parts = gradient(plain, images, labels, temperature=temperature, batch_norm=batch_norm)
    if masks is not None and over == "kept":
        parts = {name: part * masks[name].to(part.device) for name, part in parts.items()}
    return float(sum((part.double() ** 2).sum() for part in parts.values()) ** 0.5)


def matrix(masks: Mapping[str, Masks]) -> dict[str, dict[str, dict[str, float]]]:
    """Every pair of named masks, as plain JSON: name → other name → {"jaccard", "by_chance"}."""
    likeness = {(a, b): overlap(masks[a], masks[b]) for a in masks for b in masks}
    return {
        a: {b: {"jaccard": likeness[a, b].jaccard, "by_chance": likeness[a, b].jaccard_by_chance} for b in masks} for a in masks
    }
