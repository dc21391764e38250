"""From each layer's fragility to its sparsity: one tolerance for all layers, chosen so that the network meets a target.

The fragility is measured in `scan.py`, whose names are reachable from here.
"""

from dataclasses import dataclass

import numpy as np

from helpers import models
from helpers.pruning import masks
from helpers.pruning.scan import SPARSITIES, Scan, scan

__all__ = ["SPARSITIES", "Allocation", "LayerAllocation", "Scan", "allocate", "plan", "scan"]

LEAST_DENSITY = 0.005  # no layer is cut below this, nor below as many weights as it has filters or outputs
SLOPE = 0.01  # points of top-1 from sparsity 0 to 1, half an image of 5,000: layers that lose nothing advance together


@dataclass(frozen=True)
class LayerAllocation:
    """What one layer keeps. `expected_drop` is the interpolated loss of top-1 (points) when it alone is pruned so far."""

    name: str
    kept: int
    total: int
    expected_drop: float

    @property
    def sparsity(self) -> float:
        return 1 - self.kept / self.total


@dataclass(frozen=True)
class Allocation:
    """A sparsity a layer: the largest at which each loses at most `tolerance` points of validation top-1 alone."""

    tolerance: float
    layers: tuple[LayerAllocation, ...]

    @property
    def kept(self) -> dict[str, int]:
        """Weight name ("features.0.weight") → kept weights, as `masks.magnitude` takes it."""
        return {f"{layer.name}.weight": layer.kept for layer in self.layers}

    @property
    def sparsity(self) -> float:
        return 1 - sum(layer.kept for layer in self.layers) / sum(layer.total for layer in self.layers)


def allocate(network: models.VGG, scan: Scan, sparsity: float) -> dict[str, int]:
    """Weight name → kept weights that give the whole network `sparsity`, exact to one weight; see `plan`."""
    return plan(network, scan, sparsity).kept


def plan(network: models.VGG, scan: Scan, sparsity: float) -> Allocation:
    """Bisect the tolerance τ at which the layers together reach `sparsity` (fraction of zeros over all weights).

    Each layer gets the largest sparsity whose interpolated drop of validation top-1 is at most τ, capped so that at
    least 0.5 % of it and as many weights as it has outputs remain (a count: which weights, and so whether each output
    keeps one, is left to their ranking). Beyond the last scanned sparsity the curve goes on to the one
    point that needs no measurement: an emptied layer leaves the network guessing. Each share is rounded to whole weights;
    where several layers lose a weight at the same τ, the later ones lose it first (`masks.meet`).

    Raises ValueError for a sparsity outside [0, 1), NaN, or beyond what the caps allow, naming the reachable range; and
    for a scan of another network.
    """
    layers = models.weight_layers(network)
    if tuple(layers) != scan.layers:
        raise ValueError(f"the scan knows the layers {', '.join(scan.layers)}; the network has {', '.join(layers)}")
    sizes = {name: layer.weight.numel() for name, layer in layers.items()}
    least = {name: min(n, max(len(layers[name].weight), int(np.ceil(LEAST_DENSITY * n)))) for name, n in sizes.items()}
    total, floor = sum(sizes.values()), sum(least.values())
    kept = masks.kept_count(total, sparsity)
    if kept < floor:
        raise ValueError(
            f"sparsity {100 * sparsity:g} % cannot be reached: this network can be pruned from 0 to "
            f"{np.floor(1e4 * (1 - floor / total)) / 100:g} % before a layer dies"
        )
    grid, curves = _curves(scan, network.num_classes)

    def counts(tolerance: float) -> dict[str, int]:
        reached = (np.interp(tolerance, curve, grid) for curve in curves)
        return {name: max(least[name], round(sizes[name] * (1 - s))) for name, s in zip(sizes, reached, strict=True)}

    tolerance, chosen = masks.meet(counts, kept, 0.0, float(curves.max()))
    pruned = {name: 1 - chosen[name] / sizes[name] for name in sizes}
    drops = {name: float(np.interp(pruned[name], grid, curve)) for name, curve in zip(sizes, curves, strict=True)}
    return Allocation(tolerance, tuple(LayerAllocation(name, chosen[name], sizes[name], drops[name]) for name in sizes))


def _curves(scan: Scan, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The sparsities from 0 to 1, and (layers, sparsities) drops in points, rising strictly along each row.

    A drop counts at a sparsity only if every larger one drops as much too: then "the largest sparsity whose drop is at
    most τ" is where the row crosses τ, also where the measured curve goes up and down.
    """
    grid = np.array([0.0, *scan.sparsities, 1.0])
    if not (np.diff(grid) > 0).all() or not np.isfinite(scan.drops).all():
        raise ValueError(f"a scan needs finite figures at sparsities that rise between 0 and 1, got {scan.sparsities}")
    drops = np.full((len(scan.layers), len(grid)), scan.baseline_top1_pct - 100 / classes)
    drops[:, 0], drops[:, 1:-1] = 0.0, scan.drops
    drops[:, -1] = np.maximum(drops[:, -1], drops[:, :-1].max(axis=1))
    lasting = np.minimum.accumulate(drops[:, ::-1], axis=1)[:, ::-1]
    return grid, np.maximum(lasting, 0) + SLOPE * grid
