"""From each layer's sensitivity to its sparsity: one tolerance for all layers, chosen so that the network meets a target."""

from dataclasses import dataclass

import numpy as np

from helpers import models
from helpers.pruning import masks
from helpers.pruning.sensitivity import Scan

LEAST_DENSITY = 0.005  # no layer is cut below this, nor below as many weights as it has filters or outputs
SLOPE = 0.01  # points of top-1 from sparsity 0 to 1, half an image of 5,000: layers that lose nothing advance together


@dataclass(frozen=True)
class LayerAllocation:
    """What one layer keeps. `expected_drop` is the interpolated loss of top-1 (points) when it alone is pruned so far."""

    name: str
    kept: int
    total: int
    expected_drop: float


@dataclass(frozen=True)
class Allocation:
    """A sparsity a layer: the largest at which each loses at most `tolerance` points of validation top-1 alone."""

    tolerance: float
    layers: tuple[LayerAllocation, ...]

    @property
    def kept(self) -> dict[str, int]:
        """Weight name ("features.0.weight") → kept weights, as `masks.magnitude` takes it."""
        return {f"{layer.name}.weight": layer.kept for layer in self.layers}


def allocate(
    network: models.VGG, scan: Scan, sparsity: float, *, slope: float = SLOPE, least_density: float = LEAST_DENSITY
) -> Allocation:
    """Bisect the tolerance τ at which the layers together reach `sparsity` (fraction of zeros over all weights, exact to one).

    Each layer gets the largest sparsity whose interpolated drop of validation top-1 is at most τ. Beyond the last scanned
    sparsity the curve goes on to the one point that needs no measurement: an emptied layer leaves the network guessing.
    Shares are rounded to whole weights by `masks.meet`.

    Args:
        slope: points of top-1, above 0, that are added to every drop from sparsity 0 to 1; layers that lose nothing then
            advance together.
        least_density: the share of each layer that is kept in any case. As many weights as it has outputs are so too (a
            count: which ones, and so whether each output keeps one, is left to their ranking).

    ValueError for a sparsity out of reach, with the reason, and for a scan of another network or without figures.
    """
    layers = models.weight_layers(network)
    if tuple(layers) != tuple(scan.layers):
        raise ValueError(f"the scan knows the layers {', '.join(scan.layers)}; the network has {', '.join(layers)}")
    if not slope > 0 or not 0 <= least_density < 1:
        raise ValueError(f"slope is above 0 and least_density a fraction below 1, not {slope} and {least_density}")
    sizes = {name: layer.weight.numel() for name, layer in layers.items()}
    outputs = {name: min(n, len(layers[name].weight)) for name, n in sizes.items()}
    least = {name: max(outputs[name], int(np.ceil(least_density * n))) for name, n in sizes.items()}
    total, kept = sum(sizes.values()), masks.kept_count(sum(sizes.values()), sparsity)
    if kept < sum(least.values()):
        share = f"least_density={least_density:g} of each layer is kept: lower it"
        reason = share if kept >= sum(outputs.values()) else "each layer keeps as many weights as it has outputs"
        most = np.floor(1e4 * (1 - sum(least.values()) / total)) / 100
        raise ValueError(
            f"sparsity {100 * sparsity:g} % cannot be reached: this network can be pruned from 0 to {most:g} %, because {reason}"
        )
    grid, curves = _curves(scan, network.num_classes, slope)

    def counts(tolerance: float) -> dict[str, int]:
        reached = (np.interp(tolerance, curve, grid) for curve in curves)
        return {name: max(least[name], round(sizes[name] * (1 - s))) for name, s in zip(sizes, reached, strict=True)}

    tolerance, chosen = masks.meet(counts, kept, 0.0, float(curves.max()))
    pruned = {name: 1 - chosen[name] / sizes[name] for name in sizes}
    drops = {name: float(np.interp(pruned[name], grid, curve)) for name, curve in zip(sizes, curves, strict=True)}
    return Allocation(tolerance, tuple(LayerAllocation(name, chosen[name], sizes[name], drops[name]) for name in sizes))


def _curves(scan: Scan, classes: int, slope: float) -> tuple[np.ndarray, np.ndarray]:
    """The sparsities from 0 to 1, and (layers, sparsities) drops in points, rising strictly along each row.

    A drop counts at a sparsity only if every larger one drops as much too: then "the largest sparsity whose drop is at
    most τ" is where the row crosses τ, also where the measured curve goes up and down.
    """
    scanned, first = np.unique([*scan.sparsities, 0.0], return_index=True)  # in order, each once
    if not (scanned >= 0).all() or not (scanned < 1).all() or not np.isfinite(scan.drops).all():
        raise ValueError(f"a scan needs finite figures at sparsities from 0 up to, not including, 1; got {scan.sparsities}")
    grid, columns = np.array([*scanned, 1.0]), first[1:]
    drops = np.full((len(scan.layers), len(grid)), scan.baseline_top1_pct - 100 / classes)
    drops[:, 0], drops[:, 1:-1] = 0.0, scan.drops[:, columns]
    drops[:, -1] = np.maximum(drops[:, -1], drops[:, :-1].max(axis=1))
    lasting = np.minimum.accumulate(drops[:, ::-1], axis=1)[:, ::-1]
    return grid, np.maximum(lasting, 0) + slope * grid
