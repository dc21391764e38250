"""Train a network, resume it exactly, evaluate it.

One recipe for every method: SGD with Nesterov momentum and a one-cycle learning rate, weight decay on weights only.
Everything random in an epoch (order, crops, dropout) follows from the recipe's seed and the epoch's number, so an
interrupted training continues bit for bit.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import checkpoints, data, heap, machine, progress
from helpers.checkpoints import Hook
from helpers.fast_convolution import accelerate
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
    seed: int = 0


@dataclass(frozen=True)
class EpochLog:
    """One epoch: the loss and accuracy of the (augmented) training batches as they came, validation after it."""

    epoch: int
    lr: float
    train_loss: float
    train_top1_pct: float
    val_top1_pct: float | None
    seconds: float


@dataclass(frozen=True)
class Accuracy:
    """Exact counts over a split. `correct` holds one bool an image, in the split's order."""

    top1_pct: float
    top5_pct: float
    loss: float
    correct: np.ndarray


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """One cycle (Smith and Topin 2018): linear from 0 to the peak over the warm-up, then a cosine to 0."""
    rising = recipe.warmup * steps
    if step < rising:
        return recipe.peak_lr * (step + 1) / (rising + 1)
    return recipe.peak_lr * 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


@heap.kept()
def fit(
    network: nn.Module,
    train: data.Split,
    recipe: Recipe,
    *,
    val: data.Split | None = None,
    hook: Hook | None = None,
    checkpoint: Path | None = None,
    made_with: str = "",
    made_by: dict[str, str] = {},
    normalization: Normalization | None = None,
    dtype: torch.dtype | None = None,
    label: str = "training",
) -> list[EpochLog]:
    """Train `network` in place and return one log an epoch.

    With `checkpoint`, the whole state is written there after every epoch but the last; a file left by an interrupted run
    of the same recipe and the same `made_with` (what stands for the settings that decided `network` and `hook`) is
    continued from. The file stays: its owner removes it once the trained network is stored, lest a crash between the
    two cost the whole training. `made_by`, who trains in words, is completed in place by who made the epochs before.
    Images are normalised as the network says, unless `normalization` is given.
    Raises FloatingPointError when the loss is no longer finite.
    """
    where = next(network.parameters()).device
    dtype = dtype or machine.fast_dtype(where)
    normalization = normalization or network.normalization
    network.to(memory_format=torch.channels_last)
    optimizer = _optimizer(network, recipe)
    steps = max(1, len(train) // recipe.batch_size)
    logs: list[EpochLog] = []
    if checkpoint is not None and checkpoint.is_file():
        done = checkpoints.resume(checkpoint, network, optimizer, hook, asdict(recipe), made_with=made_with, made_by=made_by)
        logs = [EpochLog(**log) for log in done]
    for epoch in range(len(logs), recipe.epochs):
        start = time.perf_counter()
        if hook is not None:
            hook.before_epoch(network, epoch)
        network.train()
        loss_sum = correct = seen = 0.0
        with _seeded(recipe.seed, epoch) as generator, accelerate(network, dtype):
            batches = _batches(train, recipe.batch_size, steps, generator)
            for step, (images, labels) in enumerate(progress.track(batches, f"{label} epoch {epoch + 1}/{recipe.epochs}")):
                lr = learning_rate(recipe, epoch * steps + step, recipe.epochs * steps)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                inputs = data.normalize(images, normalization).contiguous(memory_format=torch.channels_last)
                with torch.autocast(where.type, dtype, enabled=dtype != torch.float32):
                    logits = network(inputs)
                loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                if hook is not None:
                    hook.after_step(network)
                loss_sum += loss.detach() * len(labels)
                correct += (logits.argmax(1) == labels).sum()
                seen += len(labels)
        mean_loss = float(loss_sum) / seen
        if not math.isfinite(mean_loss):
            raise FloatingPointError(f"the loss of {label} is {mean_loss} in epoch {epoch + 1}: lower the learning rate")
        val_top1 = evaluate(network, val, normalization=normalization, dtype=dtype).top1_pct if val is not None else None
        seconds = time.perf_counter() - start
        logs.append(EpochLog(epoch, lr, mean_loss, 100 * float(correct) / seen, val_top1, seconds))
        progress.say(
            f"{label} epoch {epoch + 1}/{recipe.epochs}: loss {mean_loss:.3f}, train {logs[-1].train_top1_pct:.2f} %, "
            f"validation {val_top1 if val_top1 is not None else float('nan'):.2f} %, {seconds:.0f} s"
        )
        if checkpoint is not None and epoch + 1 < recipe.epochs:
            so_far = [asdict(log) for log in logs]
            state = checkpoint, network, optimizer, hook, asdict(recipe), so_far
            checkpoints.write(*state, made_with=made_with, made_by=made_by)
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
    """Top-1, top-5 and mean cross-entropy over the split, counted image by image, in eval mode."""
    where = next(network.parameters()).device
    normalization = normalization or network.normalization
    was_training = network.training
    network.eval()
    loss, top5, correct = 0.0, 0, []
    for images, labels in zip(split.images.split(batch_size), split.labels.split(batch_size), strict=True):
        inputs = data.normalize(images, normalization).contiguous(memory_format=torch.channels_last)
        with torch.autocast(where.type, dtype, enabled=dtype != torch.float32):
            logits = network(inputs)
        logits = logits.float()
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        top5 += int(best.any(1).sum())
        correct.append(best[:, 0].cpu().numpy())
    network.train(was_training)
    right = np.concatenate(correct)
    return Accuracy(100 * int(right.sum()) / len(split), 100 * top5 / len(split), loss / len(split), right)


@torch.no_grad()
def recalibrate_batch_norm(network: nn.Module, train: data.Split, *, images: int = 5000, seed: int = 0) -> None:
    """Replace the running statistics of every batch norm by the plain average over random training images, in place."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:images].to(train.labels.device)
    chosen = train.subset(order).images
    dropouts = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    network.train()
    for dropout in dropouts:
        dropout.eval()
    for batch in chosen.split(250):
        network(data.normalize(batch, network.normalization).contiguous(memory_format=torch.channels_last))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


# The parts of fit -------------------------------------------------------------------------------------------------


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]  # biases and batch norms are not decayed
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=recipe.peak_lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True)


@contextlib.contextmanager
def _seeded(seed: int, epoch: int) -> Iterator[torch.Generator]:
    """A generator for the order and the crops; dropout's global generator is seeded beside it and put back after."""
    with torch.random.fork_rng():
        torch.manual_seed(seed * 100_003 + epoch)
        yield torch.Generator().manual_seed(seed * 100_003 + epoch)


class _batches:  # noqa: N801 - a sized iterable, used like a function
    """`steps` shuffled, augmented batches of one epoch; what does not fill a batch waits for another epoch's order."""

    def __init__(self, split: data.Split, batch_size: int, steps: int, generator: torch.Generator):
        self.split, self.batch_size, self.steps, self.generator = split, batch_size, steps, generator

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.split), generator=self.generator).to(self.split.labels.device)
        for index in order.split(self.batch_size)[: self.steps]:
            images = data.augment(self.split.images[index], self.generator, mirrors=self.split.mirrors)
            yield images, self.split.labels[index]
