"""Train a network, resume it exactly, evaluate it.

One recipe for every method: SGD with Nesterov momentum and a one-cycle learning rate, weight decay on weights only.
Everything random in an epoch (order, crops, dropout) follows from the recipe's seed and the epoch's number, so an
interrupted training continues bit for bit.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import data, machine, progress
from helpers.accelerate import accelerate, graphs
from helpers.checkpoint import EpochLog, Hook, State
from helpers.models import Normalization


@dataclass(frozen=True)
class Recipe:
    """How long and how a network is trained; equal recipes mean equal budgets."""

    epochs: int
    batch_size: int = 256
    peak_lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.2  # share of all steps in which the learning rate rises
    label_smoothing: float = 0.0
    crop_padding: int = data.CROP_PADDING  # pixels
    small_epochs: int = 0  # that many at the beginning see images of `small_size`: 24×24 cost 0.55 of 32×32
    small_size: int = 24  # pixels
    linear: bool = False  # whether the learning rate falls on a line and not on a cosine
    norm_bias_lr: float = 1.0  # learning rate of the batch norms' biases over that of all else
    alternating: bool = False  # images are mirrored in every other epoch instead of by chance
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.small_epochs <= self.epochs:
            raise ValueError(f"{self.small_epochs} epochs on small images of {self.epochs} epochs in all")


@dataclass(frozen=True)
class Accuracy:
    """Exact counts over a split. `correct` holds one bool an image, in the split's order."""

    top1_pct: float
    top5_pct: float
    loss: float
    correct: np.ndarray


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """One cycle (Smith and Topin 2018): linear from 0 to the peak over the warm-up, then a cosine or a line to 0."""
    rising = recipe.warmup * steps
    if step < rising:
        return recipe.peak_lr * (step + 1) / (rising + 1)
    done = (step - rising) / (steps - rising)
    return recipe.peak_lr * (1 - done if recipe.linear else 0.5 * (1 + math.cos(math.pi * done)))


def fit(
    network: nn.Module,
    train: data.Split,
    recipe: Recipe,
    *,
    val: data.Split | None = None,
    hook: Hook | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 0.0,
    made_with: str = "",
    made_by: dict[str, str] | None = None,
    normalization: Normalization | None = None,
    dtype: torch.dtype | None = None,
    label: str = "training",
) -> list[EpochLog]:
    """Train `network` in place and return one log an epoch.

    Args:
        train, val: images to train on; images to evaluate on after every epoch, if any.
        hook: see `Hook`.
        checkpoint: where the whole state is written after an epoch, not after the last, when `checkpoint_seconds` have passed
            since the start or the last write. A file left there by an interrupted run of the same recipe and the same
            `made_with` is continued from. It stays: its owner removes it once the trained network is stored, lest a crash
            between the two cost the whole training.
        made_with: stands for all that decided `network` and `hook` and is in neither the recipe nor the shapes.
        made_by: who trains, in words; where others made the epochs before, they are added to it in place ("a; b").
        normalization: of the images; default: the network's own.
        dtype: what is multiplied in (autocast); default: `machine.dtype()`.

    Raises FloatingPointError when the loss is no longer finite, ValueError where there are no images.
    """
    if not len(train):
        raise ValueError("there are no images to train on")
    pools, size = sum(isinstance(module, nn.MaxPool2d) for module in network.modules()), train.images.shape[-1]
    if recipe.small_epochs and math.ceil(recipe.small_size / 2**pools) != size // 2**pools:
        raise ValueError(f"of {recipe.small_size} and of {size} pixels {pools} pools leave different maps: set small_epochs=0")
    dtype, normalization = dtype or machine.dtype(train.images.device), _normalization(network, normalization)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = State(network, _optimizer(network, recipe), hook, asdict(recipe), made_with, {} if made_by is None else made_by)
    logs = state.resume(checkpoint) if checkpoint is not None and checkpoint.is_file() else []
    written, forward = time.perf_counter(), graphs.Forward(network, dtype)
    for epoch in range(len(logs), recipe.epochs):
        start = time.perf_counter()
        if hook is not None:
            hook.before_epoch(network, epoch)
        title = f"{label} epoch {epoch + 1}/{recipe.epochs}"
        lr, loss, top1 = _epoch(state, forward, recipe, train, epoch, normalization, title)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss of {label} is {loss} in epoch {epoch + 1}: lower the learning rate")
        val_top1 = evaluate(network, val, normalization=normalization, dtype=dtype).top1_pct if val is not None else None
        logs.append(EpochLog(epoch, lr, loss, top1, val_top1, time.perf_counter() - start))
        validated = "" if val_top1 is None else f"validation {val_top1:.2f} %, "
        progress.say(f"{title}: loss {loss:.3f}, train {top1:.2f} %, {validated}{logs[-1].seconds:.0f} s")
        if checkpoint is not None and epoch + 1 < recipe.epochs and time.perf_counter() - written >= checkpoint_seconds:
            state.write(checkpoint, logs)
            written = time.perf_counter()
    if hook is not None:
        hook.after_step(network)
    network.eval()
    return logs


@torch.no_grad()
def evaluate(
    network: nn.Module,
    split: data.Split,
    *,
    normalization: Normalization | None = None,
    dtype: torch.dtype = torch.float32,
    batch_size: int = 500,
) -> Accuracy:
    """Top-1, top-5 and mean cross-entropy over the split, counted image by image, in eval mode.

    `normalization` of the images is the network's own unless given. ValueError where the split has no images.
    """
    if not len(split):
        raise ValueError("there are no images to evaluate on")
    normalization, where = _normalization(network, normalization), split.images.device
    was_training = network.training
    network.eval()
    losses, top5, correct = [], [], []  # on the device until the end: no image waits for a copy
    for images, labels in zip(split.images.split(batch_size), split.labels.split(batch_size), strict=True):
        with torch.autocast(where.type, dtype, enabled=dtype != torch.float32):
            logits = network(_inputs(images, normalization))
        logits = logits.float()
        losses.append(F.cross_entropy(logits, labels, reduction="sum"))
        best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        top5.append(best.any(1).sum())
        correct.append(best[:, 0])
    network.train(was_training)
    right, loss = torch.cat(correct).cpu().numpy(), float(torch.stack(losses).double().sum())
    return Accuracy(100 * int(right.sum()) / len(split), 100 * int(sum(top5)) / len(split), loss / len(split), right)


@torch.no_grad()
def recalibrate(
    network: nn.Module, split: data.Split, *, images: int = 5000, seed: int = 0, normalization: Normalization | None = None
) -> None:
    """Replace the running statistics of every batch norm by the plain average over random images of `split`, in place."""
    normalization = _normalization(network, normalization)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:images].to(split.labels.device)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    for batch in split.images[order].chunk(-(-len(order) // 250)):  # of one size, so that each counts as much
        network(_inputs(batch, normalization))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def _normalization(network: nn.Module, given: Normalization | None) -> Normalization:
    normalization = given or getattr(network, "normalization", None)
    if normalization is None:
        raise TypeError(f"a {type(network).__name__} does not say how its images are normalised: give normalization=…")
    return normalization


def _inputs(images: Tensor, normalization: Normalization) -> Tensor:
    return data.normalize(images, normalization).contiguous(memory_format=torch.channels_last)


def _scaled(inputs: Tensor, size: int) -> Tensor:
    """Normalised images (N, 3, H, W), height and width scaled to `size` pixels."""
    if inputs.shape[-1] == size:
        return inputs
    scaled = F.interpolate(inputs, (size, size), mode="bilinear", antialias=True)
    return scaled.contiguous(memory_format=torch.channels_last)


@contextmanager
def _pools_round_up(network: nn.Module, needed: bool) -> Iterator[None]:
    """Within the context pools round up where `needed`: VGG16's five then leave one position of 24×24 images as of 32×32."""
    pools = [module for module in network.modules() if isinstance(module, nn.MaxPool2d)] if needed else []
    before = [pool.ceil_mode for pool in pools]
    try:
        for pool in pools:
            pool.ceil_mode = True
        yield
    finally:
        for pool, mode in zip(pools, before, strict=True):
            pool.ceil_mode = mode


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Biases and batch norms are not decayed; "times" is a group's learning rate over the recipe's."""
    weights = [p for p in network.parameters() if p.ndim > 1]
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d) and module.affine]
    biases = dict.fromkeys(norm.bias for norm in norms)  # a set in their order
    others = [p for p in network.parameters() if p.ndim <= 1 and p not in biases]
    groups = [
        {"params": weights, "weight_decay": recipe.weight_decay, "times": 1.0},
        {"params": others, "weight_decay": 0.0, "times": 1.0},
        {"params": list(biases), "weight_decay": 0.0, "times": recipe.norm_bias_lr},
    ]
    return torch.optim.SGD(groups, lr=recipe.peak_lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True)


def _sides(recipe: Recipe, train: data.Split, epoch: int) -> Tensor:
    """Which images are mirrored in this epoch: each in one of two in a row (Jordan 2024, *94 % on CIFAR-10*, section 3.6)."""
    where = train.images.device
    drawn = torch.rand(len(train), generator=torch.Generator(where).manual_seed(recipe.seed), device=where) < 0.5
    return drawn ^ bool(epoch % 2)


def _epoch(
    state: State, forward: graphs.Forward, recipe: Recipe, train: data.Split, epoch: int, normalization: Normalization, title: str
) -> tuple[float, float, float]:
    """Train one epoch; (last learning rate, mean loss, top-1 in percent) of its batches.

    What does not fill a batch is left out and waits for another epoch's order.
    """
    network, where = state.network, train.images.device
    size = recipe.small_size if epoch < recipe.small_epochs else train.images.shape[-1]
    seed = recipe.seed * 100_003 + epoch
    generator = torch.Generator(where).manual_seed(seed)  # of the order and the crops
    steps = max(1, len(train) // recipe.batch_size)
    order = torch.randperm(len(train), generator=generator, device=where).split(recipe.batch_size)[:steps]
    sides = _sides(recipe, train, epoch) if recipe.alternating and train.mirrors else None
    loss_sum = correct = torch.zeros((), device=where)
    network.train()
    with torch.random.fork_rng(), accelerate(network, forward.dtype), _pools_round_up(network, size < train.images.shape[-1]):
        torch.manual_seed(seed)  # of dropout; the global generator is put back afterwards
        for step, index in enumerate(progress.track(order, title), start=epoch * steps):
            lr = learning_rate(recipe, step, recipe.epochs * steps)
            for group in state.optimizer.param_groups:
                group["lr"] = lr * group["times"]
            mirrored = train.mirrors if sides is None else sides[index]
            images = data.augment(train.images[index], generator, padding=recipe.crop_padding, mirrors=mirrored)
            inputs, labels = _scaled(_inputs(images, normalization), size), train.labels[index]
            logits = forward(inputs)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
            state.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            state.optimizer.step()
            if state.hook is not None:
                state.hook.after_step(network)
            loss_sum = loss_sum + loss.detach() * len(labels)
            correct = correct + (logits.argmax(1) == labels).sum()
    seen = sum(map(len, order))
    return lr, float(loss_sum) / seen, 100 * float(correct) / seen
