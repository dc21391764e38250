"""Saliency scores: how much each weight of a network matters, judged from one small batch or from none.

Every score function takes (network, images, labels) — images float, normalised, (N, 3, H, W); labels int64 (N,) — and
returns weight name ("features.0.weight") → tensor of the weight's shape on the network's device, where HIGHER MEANS
KEEP. It works in fp32 (SynFlow in fp64) on a plain copy with dropout off, so the network passed in keeps every bit,
its running statistics, its modes and its gradients, and the scores do not depend on the seed unless they say so.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import models
from helpers.pruning import double_backward

Scores = dict[str, Tensor]

TEMPERATURE = 200.0
CHUNK = 128


def plain_copy(network: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A contiguous copy in eval mode whose layers are PyTorch's own.

    A network in training may run on replaced convolutions that cannot be differentiated twice, so a VGG is rebuilt
    from its description; on the meta device, which draws no random numbers a training run would miss.
    """
    if isinstance(network, models.VGG):
        with torch.device("meta"):
            plain = models.build(network.architecture())
        state = {n: t.detach().clone(memory_format=torch.contiguous_format) for n, t in network.state_dict().items()}
        plain.load_state_dict(state, assign=True)
    else:
        plain = copy.deepcopy(network)
    return plain.to(dtype).eval().requires_grad_(True)


def _batch_norm_mode(network: nn.Module, mode: str) -> None:
    if mode not in ("train", "eval"):
        raise ValueError(f'batch norm runs in "train" or "eval" mode, not {mode!r}')
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(mode == "train")


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Full fp32 and the same bits each time: no autocast, no TF32, no algorithm chosen by timing."""
    with (
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        yield


def _chunks(images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor, float]]:
    """(images, labels, share of the batch), at most CHUNK images each: memory stays bounded for 100 classes.

    Strided rather than cut, since a class-balanced batch may be sorted by class and batch norm needs a mixed one.
    """
    count = -(-len(images) // CHUNK)
    return [(images[i::count], labels[i::count], len(labels[i::count]) / len(labels)) for i in range(count)]


def gradient(
    plain: nn.Module, images: Tensor, labels: Tensor, *, temperature: float = 1.0, batch_norm: str = "train"
) -> dict[str, Tensor]:
    """∂L/∂θ of every convolution and linear weight, of the mean cross-entropy of logits divided by `temperature`.

    `plain` is a `plain_copy`. More than CHUNK images are taken in chunks, and batch norm in "train" mode normalises each
    by itself.
    """
    _batch_norm_mode(plain, batch_norm)
    weights = models.weights(plain)
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    with _exact(images.device):
        for x, y, share in _chunks(images.float(), labels):
            loss = F.cross_entropy(plain(x) / temperature, y) * share
            torch._foreach_add_(list(total.values()), torch.autograd.grad(loss, list(weights.values())))
    return {name: part.detach() for name, part in total.items()}


def magnitude(network: nn.Module, images: Tensor | None = None, labels: Tensor | None = None) -> Scores:
    """|θ|, one ranking over all layers; needs no images (Han et al. 2015, at initialisation as in Frankle et al. 2021)."""
    return {name: weight.detach().float().abs() for name, weight in models.weights(network).items()}


def random(network: nn.Module, images: Tensor | None = None, labels: Tensor | None = None, *, seed: int = 0) -> Scores:
    """Uniform in [0, 1), drawn on the CPU so that every device prunes the same weights."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(w.shape, generator=generator).to(w.device) for name, w in models.weights(network).items()}


def snip(network: nn.Module, images: Tensor, labels: Tensor, *, batch_norm: str = "train") -> Scores:
    """|θ ⊙ ∂L/∂θ| (Lee et al. 2019, equation 6): how fast the loss moves as the weight's gate closes.

    Equals |∂L/∂c| of a gate c = 1 in front of every weight. Batch norm uses the batch's statistics by default, as in
    the first training step ("eval": the running ones).
    """
    plain = plain_copy(network)
    slope = gradient(plain, images, labels, batch_norm=batch_norm)
    return {name: (weight * slope[name]).abs().detach() for name, weight in models.weights(plain).items()}


def grasp_score(
    network: nn.Module, images: Tensor, labels: Tensor, *, temperature: float = TEMPERATURE, batch_norm: str = "train"
) -> Scores:
    """The score as GraSP defines it, −θ ⊙ (H g), where the LARGEST ARE REMOVED (Wang et al. 2020, equation 8).

    g is the gradient and H the Hessian, over convolution and linear weights, of the cross-entropy of logits divided by
    `temperature`. To first order, removing a weight changes ‖g‖² by twice its score: what goes first is what held the
    gradient norm down. No absolute value, no weight re-drawn for scoring; the paper
    uses 10 images a class. Batch norm uses the batch's statistics by default, as the authors' code does; more than
    CHUNK images are scored in chunks, each normalised by itself, whose losses add up.

    A weight that is exactly zero has been pruned and is no parameter any more: it has no part in g. H g is the gradient
    of gᵀ∇L with g held fixed: one backward pass through a backward pass.
    """
    plain = plain_copy(network)
    double_backward.prepare(plain)
    _batch_norm_mode(plain, batch_norm)
    weights = models.weights(plain)
    parameters = list(weights.values())
    chunks = _chunks(images.float(), labels)

    def slope(x: Tensor, y: Tensor, share: float, *, differentiable: bool) -> tuple[Tensor, ...]:
        loss = F.cross_entropy(plain(x) / temperature, y) * share
        return torch.autograd.grad(loss, parameters, create_graph=differentiable)

    with _exact(images.device):
        if len(chunks) == 1:  # the gradient that is differentiated is the whole gradient: no need to compute it twice
            inner = slope(*chunks[0], differentiable=True)
            product = torch.autograd.grad(
                inner, parameters, [g.detach() * (p != 0) for g, p in zip(inner, parameters, strict=True)]
            )
        else:
            total = [torch.zeros_like(p) for p in parameters]
            product = [torch.zeros_like(p) for p in parameters]
            for chunk in chunks:
                torch._foreach_add_(total, slope(*chunk, differentiable=False))
            total = [g * (p != 0) for g, p in zip(total, parameters, strict=True)]
            for chunk in chunks:
                torch._foreach_add_(product, torch.autograd.grad(slope(*chunk, differentiable=True), parameters, total))
    return {name: -(w * hg).detach() for (name, w), hg in zip(weights.items(), product, strict=True)}


def grasp(
    network: nn.Module, images: Tensor, labels: Tensor, *, temperature: float = TEMPERATURE, batch_norm: str = "train"
) -> Scores:
    """`grasp_score` with its sign turned, θ ⊙ (H g), so that the largest are kept."""
    raw = grasp_score(network, images, labels, temperature=temperature, batch_norm=batch_norm)
    return {name: -score for name, score in raw.items()}


def grasp_preserving(
    network: nn.Module, images: Tensor, labels: Tensor, *, temperature: float = TEMPERATURE, batch_norm: str = "eval"
) -> Scores:
    """|θ ⊙ (H g)|: keep what moves the gradient norm either way (Lubana and Dick 2021, section 4), for a network in training.

    Once a network has learnt something, raising the gradient norm means unlearning it, and the signed score removes just
    the weights that do so; preserving the norm does not. Batch norm uses the running statistics, that is, the function
    the network has learnt.
    """
    raw = grasp_score(network, images, labels, temperature=temperature, batch_norm=batch_norm)
    return {name: score.abs() for name, score in raw.items()}


def grasp_absolute(network: nn.Module, images: Tensor, labels: Tensor) -> Scores:
    """`grasp_preserving` for a network before training, whose running statistics have seen nothing: those of the batch."""
    return grasp_preserving(network, images, labels, batch_norm="train")


def synflow(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> Scores:
    """|θ ⊙ ∂R/∂θ| with R the sum of the outputs for an input of ones and every parameter made positive (Tanaka et al. 2020).

    Of the images only the shape of one is read. Batch norm runs in eval mode with its running mean set to zero (as it
    is at initialisation), so that it passes flow on and never blocks it. In fp64: R of a deep network leaves fp32.
    """
    plain = plain_copy(network, torch.float64)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.abs_()
        for module in plain.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.zero_()
    weights = models.weights(plain)
    with _exact(images.device):
        flow = plain(images.new_ones((1, *images.shape[1:]), dtype=torch.float64)).sum()
        gradients = torch.autograd.grad(flow, list(weights.values()))
    return {name: (w * g).abs().detach() for (name, w), g in zip(weights.items(), gradients, strict=True)}


def _unseeded(score: Callable[..., Scores]) -> Callable[..., Scores]:
    def seeded(network: nn.Module, images: Tensor, labels: Tensor, *, seed: int = 0) -> Scores:
        return score(network, images, labels)

    seeded.__doc__ = score.__doc__
    return seeded


SCORES: dict[str, Callable[..., Scores]] = {
    "magnitude": _unseeded(magnitude),
    "magnitude_init": _unseeded(magnitude),
    "random": random,
    "snip": _unseeded(snip),
    "grasp": _unseeded(grasp),
    "grasp_absolute": _unseeded(grasp_absolute),
    "grasp_preserving": _unseeded(grasp_preserving),
    "synflow": _unseeded(synflow),
}
"""Method → score(network, images, labels, *, seed)."""
