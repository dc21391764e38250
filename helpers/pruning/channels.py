"""Channel pruning by regression (He, Zhang and Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks").

First to last, for every layer: the input channels that stay are chosen by LASSO (or a control), then the layer's weights
are solved again by least squares, so that from the inputs of the network pruned so far it gives what the original gave
before its batch norm. The channels are taken out of the tensors: the result is an ordinary, smaller VGG.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter

import torch
from torch import Tensor, nn

from helpers import machine, models
from helpers.pruning import reconstruction, selection
from helpers.pruning.patches import Samples, collect, targets
from helpers.pruning.reconstruction import Statistics
from helpers.pruning.stream import Stream, units
from helpers.pruning.surgery import consumer, matrix_of, rebuilt, remove, set_inputs, slice_outputs

METHODS = ("lasso", "l1", "random")
NARROW = 128  # up to so many channels one set of sums serves the choice and the solution
__all__ = ["METHODS", "LayerReport", "Samples", "error_curves", "layer_statistics", "prune", "remove"]


@dataclass(frozen=True)
class LayerReport:
    """What happened between one convolution and the layer that reads its channels.

    Errors are ‖Y − Ŷ‖² / ‖Y‖² about the means, on the rows that were solved from: with the old weights of the kept
    channels, and with the ones the network got.
    """

    name: str
    consumer: str
    channels_before: int
    channels_after: int
    kept: tuple[int, ...]
    error_before: float
    error_after: float
    penalty: float | None
    solver: str
    rows: int
    seconds: float

    def as_dict(self) -> dict:
        """All but the indices, as plain JSON."""
        return {key: value for key, value in asdict(self).items() if key != "kept"}


def layer_statistics(
    network: models.VGG, images: Tensor, number: int, *, samples: Samples | None = None
) -> tuple[Statistics, Tensor]:
    """(statistics, W) of the layer that reads convolution `number` in `network` itself: where a single layer is studied."""
    network, samples = copy.deepcopy(network).eval(), samples or Samples()
    _, layer = consumer(network, number)
    images = samples.choose(images)
    statistics = collect(Stream(network, images).inputs(number + 1), layer, None, samples, len(images))
    return statistics, reconstruction.matrix(layer, statistics.taps)


def error_curves(
    network: models.VGG, images: Tensor, *, samples: Samples | None = None, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Convolution name → relative error of its consumer when the first 0 … c channels of the LASSO's order stay.

    Each layer by itself in the unpruned network, reconstructed by least squares: what `widths.for_budget` weighs.
    """
    network, samples = copy.deepcopy(network).eval(), samples or Samples()
    images = samples.choose(images)
    stream, curves = Stream(network, images, dtype or machine.fast_dtype(images.device)), {}
    for number, unit in enumerate(stream.units):
        _, layer = consumer(network, number)
        statistics = collect(stream.inputs(number + 1), layer, None, samples, len(images))
        order = selection.path(statistics, reconstruction.matrix(layer, statistics.taps)).order
        curves[unit.name] = reconstruction.error_curve(statistics, order)
        if unit.pools:
            stream.carry(number + 1)
    return curves


# Pruning ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def prune(
    network: models.VGG,
    images: Tensor,
    widths: Sequence[int | str],
    *,
    method: str = "lasso",
    seed: int = 0,
    reconstruct: bool = True,
    asymmetric: bool = True,
    samples: Samples | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[models.VGG, list[LayerReport]]:
    """A smaller network of the given `widths`, and a report for each convolution. Nothing is trained.

    Args:
        images: uint8 (N, 3, H, W), training images; at most `samples.images` of them are used.
        widths: output channels a convolution, at most those of `network`, with its "M"s.
        method: "lasso" chooses by the LASSO path, "l1" by filter norm, "random" by `seed`.
        reconstruct: solve the consumer's weights by least squares; otherwise the kept ones stay as they are.
        asymmetric: the target is the original network's output; otherwise the layer's own on the pruned network's input.
        dtype: of the maps (by default what the processor is fastest in); sums and solutions are float32 at least.

    Batch-norm statistics stay those of the original: recalibrate them before reading an accuracy.
    Raises ValueError for widths that are not a narrower list of the same shape, or an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(METHODS)}; got {method!r}")
    counts = _checked(network, widths)
    samples = samples or Samples(seed=seed)
    images = samples.choose(images)
    dtype = dtype or machine.fast_dtype(images.device)
    original, sliced = copy.deepcopy(network).eval(), copy.deepcopy(network).eval()
    rows = _by_unit(targets(original, images, samples, dtype)) if asymmetric else None
    stream, reports = Stream(sliced, images, dtype), []
    for number, (unit, count) in enumerate(zip(stream.units, counts, strict=True)):
        started = perf_counter()
        name, layer = consumer(sliced, number)
        known = _control(original, number, count, method, seed)
        chosen = _choose(stream, number, layer, rows(number + 1) if rows else None, samples, count, known)
        solved = _solved(chosen, layer, reconstruct)
        reports.append(
            LayerReport(
                name=unit.name,
                consumer=name,
                channels_before=unit.conv.out_channels,
                channels_after=count,
                kept=tuple(chosen.kept.tolist()),
                error_before=solved.error_before,
                error_after=solved.error_after,
                penalty=chosen.penalty,
                solver=solved.solution.solver,
                rows=chosen.statistics.rows,
                seconds=perf_counter() - started,
            )
        )
        slice_outputs(unit, chosen.kept)
        set_inputs(layer, solved.solution.W, solved.solution.bias, chosen.statistics.taps)
        if unit.pools:
            stream.carry(number + 1)
    return rebuilt(network, sliced, counts), reports


@dataclass(frozen=True)
class _Chosen:
    """The channels that stay, and statistics of which they are the channels `inside`."""

    kept: Tensor
    penalty: float | None
    statistics: Statistics
    inside: Tensor


def _choose(
    stream: Stream,
    number: int,
    layer: nn.Conv2d | nn.Linear,
    Y: Tensor | None,
    samples: Samples,
    count: int,
    known: Tensor | None,
) -> _Chosen:
    """Choose the channels of unit `number` (unless they are known) and collect what its consumer is solved from."""
    images, chunks = sum(map(len, stream.chunks)), stream.inputs(number + 1)
    if known is not None and Y is not None:
        return _Chosen(known, None, collect(chunks, layer, Y, samples, images, channels=known), torch.arange(count))
    separately = Y is not None and stream.units[number].conv.out_channels > NARROW
    if separately:
        chunks = list(chunks)
    statistics = collect(chunks, layer, Y, samples, images, for_selection=separately)
    if known is not None:
        return _Chosen(known, None, statistics, known)
    kept, penalty = selection.path(statistics, reconstruction.matrix(layer, statistics.taps), count).keep(count)
    if separately:
        return _Chosen(kept, penalty, collect(chunks, layer, Y, samples, images, channels=kept), torch.arange(count))
    return _Chosen(kept, penalty, statistics, kept)


@dataclass(frozen=True)
class _Solved:
    solution: reconstruction.Solution
    error_before: float
    error_after: float


def _solved(chosen: _Chosen, layer: nn.Conv2d | nn.Linear, reconstruct: bool) -> _Solved:
    """The consumer on the chosen channels, with its old weights or with solved ones."""
    statistics, inside = chosen.statistics, chosen.inside
    W = matrix_of(layer, statistics.taps, chosen.kept)
    before = reconstruction.relative_error(statistics, inside, W)
    if not reconstruct:
        return _Solved(reconstruction.Solution(W, layer.bias.data, "none"), before, before)
    solution = reconstruction.solve(statistics, inside, W)
    return _Solved(solution, before, reconstruction.relative_error(statistics, inside, solution.W))


def _control(original: models.VGG, number: int, count: int, method: str, seed: int) -> Tensor | None:
    """The channels a control keeps, known before any statistics; None for the LASSO."""
    conv = units(original)[number].conv
    if method == "l1":
        return selection.l1_filters(conv, count)
    if method == "random":
        return selection.random_channels(conv.out_channels, count, seed * 65537 + number)
    return None


def _by_unit(blocks: Iterator[dict[int, Tensor]]) -> Callable[[int], Tensor]:
    """Look up unit number → target rows from an iterator of blocks, each number once and in ascending order."""
    waiting: dict[int, Tensor] = {}

    def take(number: int) -> Tensor:
        while number not in waiting:
            waiting.update(next(blocks))
        return waiting.pop(number)

    return take


def _checked(network: models.VGG, widths: Sequence[int | str]) -> list[int]:
    shape = [width == "M" for width in network.widths]
    if [width == "M" for width in widths] != shape:
        raise ValueError(f"the widths {tuple(widths)} have not the layers of {network.widths}")
    for before, after in zip(network.widths, widths, strict=True):
        if before != "M" and not (isinstance(after, int) and 1 <= after <= before):
            raise ValueError(f"a convolution of {before} channels cannot keep {after}")
    return [width for width in widths if width != "M"]
