"""Channel pruning by regression against torch-pruning, the tool a user would pick instead: same MACs, same fine-tuning.

torch-pruning removes channels by group magnitude, the same share of every layer; its ratio is the smallest that meets the
budget. Its widths are not rounded: to multiples of 8, one ratio for all layers would end a sixth below the budget, and the
two networks would not have the same MACs. Both get recalibrated batch-norm statistics, the same recipe and data order, and
are judged on validation images. CIFAR-10 and its trained network are used where they are at hand; otherwise, and with
--quick, a network of a quarter of the width on the digits, trained for a few seconds first.
"""

import copy
import time
from dataclasses import dataclass

import torch
import torch_pruning
from torch import nn

from helpers import data, machine, measurement, models, pretrained, settings, training
from helpers.pruning import channels, regression, widths

SHARE = 41.782 / 314.003466
EPOCHS, QUICK_EPOCHS = 4, 2
SAMPLES, QUICK_SAMPLES = 5000, 500


@dataclass(frozen=True)
class Side:
    """A pruned network: MACs, seconds to prune it, and validation top-1 before and after fine-tuning."""

    network: models.VGG
    macs: int
    seconds: float
    pruned_pct: float
    tuned_pct: float


def subject(quick: bool) -> tuple[models.VGG, data.Splits, int, str]:
    """(dense network, its data, the multiple that widths are rounded to, what they are)."""
    if not quick:
        try:
            network = pretrained.load("cifar10").to(machine.device())
            return network, data.load("cifar10"), 8, "VGG16-BN on CIFAR-10"
        except FileNotFoundError:
            pass
    splits = data.load("digits")
    torch.manual_seed(0)
    half = models.NORMALIZATIONS["half"]
    network = models.VGG(10, models.scaled(models.VGG16, 4), (128, 128), normalization=half).to(machine.device())
    demo = settings.profile("demo")
    training.fit(network, splits.train, training.Recipe(demo.dense_epochs, demo.batch_size, demo.scratch_lr), label="dense")
    return network, splits, 2, "VGG16-BN at a quarter of its width on digits"


def by_torch_pruning(network: models.VGG, ratio: float) -> models.VGG:
    """A smaller copy: `ratio` of the channels of every convolution removed; the hidden linear layers stay, as with ours."""
    pruned = copy.deepcopy(network).eval()
    example = torch.zeros(1, 3, network.image_size, network.image_size, device=next(network.parameters()).device)
    torch_pruning.pruner.MagnitudePruner(
        pruned,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=[module for module in pruned.modules() if isinstance(module, nn.Linear)],
    ).step()
    found = [module.out_channels for module in pruned.features if isinstance(module, nn.Conv2d)]
    small = models.build(network.architecture() | {"widths": list(widths.with_conv_widths(network.widths, found))})
    small.load_state_dict(pruned.state_dict())
    return small.to(example.device)


def smallest_ratio(network: models.VGG, budget: int) -> float:
    """The smallest pruning ratio, to a thousandth, whose network meets the budget."""
    low, high = 0, 999
    while high - low > 1:
        middle = (low + high) // 2
        fits = widths.macs_with_batch_norm(by_torch_pruning(network, middle / 1000)) <= budget
        low, high = (low, middle) if fits else (middle, high)
    return high / 1000


def finished(small: models.VGG, seconds: float, splits: data.Splits, recipe: training.Recipe, label: str) -> Side:
    training.recalibrate(small, splits.train)
    pruned = training.evaluate(small, splits.val).top1_pct
    training.fit(small, splits.train, recipe, label=label)
    return Side(small, widths.macs_with_batch_norm(small), seconds, pruned, training.evaluate(small, splits.val).top1_pct)


def run(quick: bool) -> list[dict]:
    """One row; the milliseconds are the latency of the two networks at batch 128."""
    network, splits, multiple, what = subject(quick)
    budget = int(SHARE * widths.macs_with_batch_norm(network))
    recipe = training.Recipe(QUICK_EPOCHS if quick else EPOCHS, batch_size=64 if quick else 256, peak_lr=0.05)
    samples = regression.Samples(QUICK_SAMPLES if quick else SAMPLES)

    start = time.perf_counter()
    curves = channels.error_curves(network, splits.train.images, samples=samples)
    wanted = widths.for_budget(network, budget, rule="marginal", multiple=multiple, errors=curves)
    small, _ = channels.prune(network, splits.train.images, wanted, samples=samples)
    ours = finished(small, time.perf_counter() - start, splits, recipe, "regression")

    start = time.perf_counter()
    other = by_torch_pruning(network, smallest_ratio(network, budget))
    theirs = finished(other, time.perf_counter() - start, splits, recipe, "torch-pruning")

    batch = data.normalize(splits.val.images[:128], network.normalization)
    times = measurement.latency({"ours": ours.network, "theirs": theirs.network}, batch, min_seconds=0.5)
    mine, its = times["ours"].median_ms, times["theirs"].median_ms
    note = (
        f"{what}; right after pruning {ours.pruned_pct:.2f} % against {theirs.pruned_pct:.2f} %, after {recipe.epochs} epochs "
        f"{ours.tuned_pct:.2f} % against {theirs.tuned_pct:.2f} % of {len(splits.val)} validation images; "
        f"{ours.macs / 1e6:.3f} M against {theirs.macs / 1e6:.3f} M MACs; pruned in {ours.seconds:.1f} s against "
        f"{theirs.seconds:.1f} s; "
        f"{torch.get_num_threads()} threads, {machine.processor()}"
    )
    row = {"name": "latency at batch 128, regression against torch-pruning", "ours_ms": mine, "theirs_ms": its}
    reached = ours.tuned_pct >= theirs.tuned_pct and ours.macs <= budget
    return [row | {"ratio": its / mine, "goal": "top-1 no lower within the budget", "met": reached, "note": note}]
