"""Saliency scores: how much each weight of a network matters, judged from one small batch or from none, and pruning by them.

A score is a function (network, images, labels) → {weight name ("features.0.weight"): tensor of the weight's shape}, where the
LARGEST ARE KEPT. Images are float, normalised, (N, 3, H, W); labels int64 (N,). The scores here compute in fp32 (SynFlow in
fp64) on a copy with dropout off; the network passed in keeps every bit, mode and gradient.

To add a score, write one function below with `@registered` above it; `prune` also takes any such function as it is.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from helpers import models, settings
from helpers.pruning.masks import AGAINST_EMPTY, Masks, kept_count, rank

Scores = dict[str, Tensor]
Score = Callable[..., Scores]

TEMPERATURE = 200.0  # what GraSP divides logits by (the authors' code, Wang et al. 2020)
ROUNDS = {"synflow": 100}  # Tanaka et al. 2020, section 5; every other score ranks once
CHUNK = 128  # images that are run at once
SCORES: dict[str, Score] = {}


def registered(score: Score) -> Score:
    """Put a score into `SCORES` under its function's name; if it takes a `seed` or `temperature`, `prune` hands over its own."""
    SCORES[score.__name__] = score
    return score


def prune(
    network: nn.Module,
    score: str | Score,
    images: Tensor,
    labels: Tensor,
    sparsity: float,
    *,
    seed: int = 0,
    inverted: bool = False,
    exclude: Collection[str] = (),
    keep_at_least: int = 0,
    temperature: float = TEMPERATURE,
    rounds: int | None = None,
    previous: Masks | None = None,
) -> Masks:
    """Masks of exactly `sparsity` (a fraction, to one weight) by one global ranking of convolution and linear weights.

    Args:
        score: a key of `SCORES`, or a function that is called with (network, images, labels) alone.
        seed, temperature: handed to the registered scores that have such an argument.
        inverted: keep the lowest scores instead (a sanity check of Frankle et al. 2021: a score that carries
            information must then do worse).
        exclude, keep_at_least: layers left out of the ranking, so many of each other layer's best weights kept first; see
            `masks.rank`.
        rounds: in how many steps, the kept share falling exponentially and the scores computed anew on the pruned
            network each time; by default 100 for SynFlow and 1 for the others.
        previous: masks to go on from; their pruned weights never return.

    The network is left as it was. ValueError for an unknown score, a sparsity outside [0, 1) or below that of `previous`,
    scores that are NaN or of other shapes than the weights, and a layer of which nothing is left.
    """
    masks = Masks.of(network) if previous is None else previous
    target, start = kept_count(masks.total, sparsity), masks.kept
    if isinstance(score, str):
        rounds = ROUNDS.get(score, 1) if rounds is None else rounds
        chosen = SCORES[settings.choose("saliency score", score, SCORES)]
        options = {"seed": seed, "temperature": temperature}
        arguments = inspect.signature(chosen).parameters
        score = functools.partial(chosen, **{name: value for name, value in options.items() if name in arguments})
    rounds = 1 if rounds is None else rounds
    if rounds < 1:
        raise ValueError(f"pruning takes at least one round, not {rounds}")
    if target > start:
        raise ValueError(f"pruned weights never return: {start} are left, {target} were asked for")
    if target == start:
        return masks
    current = plain_copy(network)
    for step in range(1, rounds + 1):
        masks.apply(current)
        scores = score(current, images, labels)
        if wrong := [name for name, mask in masks.items() if name not in scores or scores[name].shape != mask.shape]:
            raise ValueError(f"the score gives {wrong[0]} no tensor of the weight's shape {tuple(masks[wrong[0]].shape)}")
        signed = {name: -1 * scores[name] if inverted else scores[name] for name in masks}
        count = round(start * (target / start) ** (step / rounds))
        masks = rank(masks, signed, count, exclude=exclude, keep_at_least=keep_at_least)
    if masks.empty:
        raise ValueError(f"nothing is left of {masks.empty[0]}: {AGAINST_EMPTY}")
    return masks


def plain_copy(network: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A contiguous copy in `dtype` and eval mode, every parameter of which takes a gradient."""
    models.weights(network)  # raises where a weight is none that a copy would have
    plain = copy.deepcopy(network).to(dtype=dtype, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return plain.eval().requires_grad_(True)


def gradient(
    plain: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    batch_norm: str = "train",
) -> Scores:
    """∂L/∂θ of every convolution and linear weight, of the mean cross-entropy of logits divided by `temperature`.

    Args:
        plain: a `plain_copy`.
        batch_norm: "train" normalises by the statistics of the images, as the first training step does, "eval" by the
            running ones. Of more than 128 images it sees one part after another, each spread over all of them, since images
            sorted by class would give it few classes.
    """
    weights = models.weights(plain)
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    with _exact(plain, images, batch_norm):
        for loss in _losses(plain, images, labels, temperature):
            torch._foreach_add_(list(total.values()), torch.autograd.grad(loss, list(weights.values())))
    return total


@registered
def magnitude(network: nn.Module, images: Tensor | None = None, labels: Tensor | None = None) -> Scores:
    """|θ|, one ranking over all layers; needs no images (Han et al. 2015, at initialisation as in Frankle et al. 2021)."""
    return {name: weight.detach().float().abs() for name, weight in models.weights(network).items()}


SCORES["magnitude_init"] = magnitude


@registered
def random(network: nn.Module, images: Tensor | None = None, labels: Tensor | None = None, *, seed: int = 0) -> Scores:
    """Uniform in [0, 1), drawn on the CPU so that every device prunes the same weights."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(w.shape, generator=generator).to(w.device) for name, w in models.weights(network).items()}


@registered
def snip(network: nn.Module, images: Tensor, labels: Tensor) -> Scores:
    """|θ ⊙ ∂L/∂θ| (Lee et al. 2019, equation 6): |∂L/∂c| of a gate c = 1 in front of every weight."""
    plain = plain_copy(network)
    slope = gradient(plain, images, labels)
    return {name: (weight.detach() * slope[name]).abs() for name, weight in models.weights(plain).items()}


@registered
def grasp(
    network: nn.Module, images: Tensor, labels: Tensor, *, temperature: float = TEMPERATURE, batch_norm: str = "train"
) -> Scores:
    """θ ⊙ (H g): GraSP's score with its sign turned, so that the largest are kept (Wang et al. 2020, equation 8).

    g is the gradient and H the Hessian, over convolution and linear weights, of the cross-entropy of logits divided by
    `temperature`. To first order, removing a weight changes ‖g‖² by minus twice its score: what goes first is what held the
    gradient norm down. The paper uses 10 images a class. For `batch_norm` see `gradient`.

    A weight that is exactly zero has been pruned and is no parameter any more: it has no part in g. H g is the gradient
    of gᵀ∇L with g held fixed: one backward pass through a backward pass.
    """
    plain = plain_copy(network)
    weights = models.weights(plain)
    parameters = list(weights.values())
    product = [torch.zeros_like(p) for p in parameters]
    whole = None
    if len(images) > CHUNK:  # with one part, the gradient differentiated is already that of all images
        whole = gradient(plain, images, labels, temperature=temperature, batch_norm=batch_norm)
    with _exact(plain, images, batch_norm):
        for loss in _losses(plain, images, labels, temperature):
            slope = torch.autograd.grad(loss, parameters, create_graph=True)
            g = [s.detach() * (p != 0) for s, p in zip(whole.values() if whole else slope, parameters, strict=True)]
            torch._foreach_add_(product, torch.autograd.grad(slope, parameters, g))
    return {name: weight.detach() * hg for (name, weight), hg in zip(weights.items(), product, strict=True)}


@registered
def grasp_preserving(
    network: nn.Module, images: Tensor, labels: Tensor, *, temperature: float = TEMPERATURE, batch_norm: str = "eval"
) -> Scores:
    """|θ ⊙ (H g)|: keep what moves the gradient norm either way (Lubana and Dick 2021, section 4), for a network in training.

    Once a network has learnt something, raising the gradient norm means unlearning it, and the signed score does just that.
    Batch norm uses the running statistics, that is, the function the network has learnt.
    """
    signed = grasp(network, images, labels, temperature=temperature, batch_norm=batch_norm)
    return {name: score.abs() for name, score in signed.items()}


@registered
def grasp_absolute(network: nn.Module, images: Tensor, labels: Tensor, *, temperature: float = TEMPERATURE) -> Scores:
    """`grasp_preserving` for a network before training, whose running statistics have seen nothing: those of the batch."""
    return grasp_preserving(network, images, labels, temperature=temperature, batch_norm="train")


@registered
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
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                module.running_mean.zero_()
    weights = models.weights(plain)
    with _exact(plain, images, "eval"):
        flow = plain(images.new_ones((1, *images.shape[1:]), dtype=torch.float64)).sum()
        gradients = torch.autograd.grad(flow, list(weights.values()))
    return {name: (w.detach() * g).abs() for (name, w), g in zip(weights.items(), gradients, strict=True)}


@contextmanager
def _exact(plain: nn.Module, images: Tensor, batch_norm: str) -> Iterator[None]:
    """Batch norm as wanted; full fp32 and the same bits each time: no autocast, no TF32, no algorithm chosen by timing."""
    if batch_norm not in ("train", "eval"):
        raise ValueError(f'batch norm runs in "train" or "eval" mode, not {batch_norm!r}')
    if not images.is_floating_point() or not len(images):
        raise ValueError(f"a score takes normalised images, as data.normalize gives them, not {len(images)} of {images.dtype}")
    for module in plain.modules():
        if isinstance(module, _BatchNorm):
            module.train(batch_norm == "train")
    with (
        torch.enable_grad(),
        torch.autocast(images.device.type, enabled=False),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        yield


def _losses(plain: nn.Module, images: Tensor, labels: Tensor, temperature: float) -> Iterator[Tensor]:
    """The loss of each part of the images, so weighted that they sum to the mean over all; see `gradient`."""
    count = -(-len(images) // CHUNK)
    for x, y in ((images[start::count], labels[start::count]) for start in range(count)):
        yield F.cross_entropy(plain(x.float()) / temperature, y) * (len(y) / len(labels))
