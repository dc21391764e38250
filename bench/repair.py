"""Pruning without training: seconds, peak memory and error of every layer, and of the whole network.

A line for each layer of a network pruned in order, at the counts that its error curves give: ours finds mask and weights
together; the other side solves the weights of the magnitude mask exactly, filter by filter with a Cholesky factorisation of its
own. Both start from the same sums over the layer's inputs, which are timed apart. Errors are ‖Y − Ŷ‖² / ‖Y‖² about the means
against the dense network's outputs, on the rows that were solved from; the line of the whole network has the goal.
"""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from helpers import data, machine, models, pretrained, settings
from helpers.pruning import errors, masks, regression, repair
from helpers.pruning.channels import Activations, targets, untouched
from helpers.pruning.regression import Samples
from helpers.pruning.repair import System

SPARSITY = 0.8033
GOAL_SECONDS, GOAL_MIB = 90.0, 4096.0


def prepared(quick: bool) -> tuple[models.VGG, Tensor, str]:
    """(network, images, what they are): trained on CIFAR-10 where that is at hand, otherwise untrained on digits."""
    if not quick and settings.cifar_dir() and settings.weights_path("cifar10").is_file():
        images = data.load("cifar10", torch.device("cpu")).train.images
        return pretrained.load("cifar10"), images, "trained VGG16-BN on CIFAR-10"
    torch.manual_seed(0)
    network = models.VGG(10, models.scaled(models.VGG16, 4) if quick else models.VGG16).eval()
    images = data.load("digits", torch.device("cpu")).train.images.repeat(3, 1, 1, 1)
    return network, images, f"untrained VGG16-BN{' at a quarter of its width' if quick else ''} on digits"


def filter_by_filter(system: System, mask: Tensor) -> Tensor:
    """The exact least squares of every output on its own kept inputs."""
    Z = torch.zeros_like(system.B)
    for row, kept in enumerate(mask):
        factor = torch.linalg.cholesky(system.H[kept][:, kept])
        Z[row, kept] = torch.cholesky_solve(system.B[row, kept].unsqueeze(1), factor).squeeze(1)
    return Z


def timed(work: Callable) -> tuple[float, float, object]:
    """(milliseconds, highest resident MiB meanwhile, result)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start = time.perf_counter()
    result = work()
    milliseconds = 1e3 * (time.perf_counter() - start)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return milliseconds, int(status["VmHWM"].split()[0]) / 1024, result


@torch.no_grad()
def layers(network: models.VGG, kept: dict[str, int], images: Tensor, samples: Samples) -> list[dict]:
    """One line for each layer."""
    pruned, images, rows = untouched(network), samples.choose(images), []
    dense, stream = targets(untouched(network), images, samples), Activations(pruned, images)
    for number, unit in enumerate(stream.units):
        name = f"{unit.name}.weight"
        stream.advance(number)
        collecting, _, statistics = timed(lambda n=number, u=unit: stream.statistics(n, samples, dense.pop(u.name)))
        W = regression.matrix(unit.layer.weight, statistics.taps)
        system = System.of(statistics, W)

        def ours(system=system, count=kept[name]) -> tuple[Tensor, Tensor]:
            Z, mask = system.searched(count)
            return system.solved(Z, mask, repair.STEPS), mask

        ours_ms, peak, (Z, mask) = timed(ours)
        magnitude = masks.keep_largest(W.abs(), kept[name])
        theirs_ms, _, solved = timed(lambda s=system, m=magnitude: filter_by_filter(s, m))
        plain, squares, together = (system.error(part) for part in (W * system.scale * magnitude, solved, Z))
        inputs, outputs = W.shape[::-1]
        note = (
            f"{kept[name]} of {W.numel()} weights; error {together:.4f}, least squares on the magnitude mask {squares:.4f}, "
            f"plain masking {plain:.4f}; sums over {statistics.rows} rows {collecting / 1e3:.1f} s; peak memory {peak:.0f} MiB"
        )
        line = {"ours_ms": ours_ms, "theirs_ms": theirs_ms, "ratio": theirs_ms / ours_ms, "note": note}
        rows.append({"name": f"repair, {unit.name} ({outputs} × {inputs})"} | line)
        weights = system.weights(Z, mask)
        bias = statistics.y_mean - weights.double() @ statistics.x_mean
        regression.assign(unit.layer, weights, bias.to(weights.dtype), statistics.taps)
    return rows


def run(quick: bool) -> list[dict]:
    """The whole network, what its counts cost, and each layer."""
    network, images, what = prepared(quick)
    samples = Samples(300, 10) if quick else repair.SAMPLES
    counting, _, curves = timed(lambda: errors.curves(network, images))
    kept = errors.allocate(network, curves, SPARSITY)
    ours_ms, peak, _ = timed(lambda: repair.together(network, kept, images, samples=samples))
    where = f"{torch.get_num_threads()} threads, {machine.processor()}"
    note = f"{what}, {100 * SPARSITY:g} % zeros, {min(samples.images, len(images))} images; {where}"
    both = (ours_ms + counting) / 1e3
    whole = {"ours_ms": ours_ms, "theirs_ms": None, "ratio": None, "note": f"peak memory {peak:.0f} MiB; {note}"}
    goal = {"goal": f"≤ {GOAL_SECONDS:g} s with the error curves, ≤ {GOAL_MIB / 1024:g} GiB"}
    met = {} if quick else {"met": both <= GOAL_SECONDS and peak <= GOAL_MIB}
    curve = {"name": "repair, error curves of all layers", "ours_ms": counting, "theirs_ms": None, "ratio": None, "note": note}
    return [{"name": "repair, mask and weights together"} | whole | goal | met, curve, *layers(network, kept, images, samples)]
