"""Channel pruning by regression (He, Zhang and Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks").

First to last, for every convolution: LASSO (or a control) chooses the channels that stay, the others are taken out of the
tensors, and the layer that reads them is solved again by least squares, so that from the inputs of the network pruned so far
it gives what the original gave before its batch norm. The result is an ordinary, smaller VGG.
"""

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import data, machine, models, settings
from helpers.pruning import regression
from helpers.pruning.regression import Samples, Statistics
from helpers.pruning.widths import with_conv_widths

METHODS = ("lasso", "l1", "random")
NARROW = 128  # up to so many channels one set of sums serves the choice and the solution
CHUNK = 250  # images at a time


@dataclass(frozen=True)
class Unit:
    """A convolution or linear layer, and what follows it up to the next one: batch norm, ReLU, max-pool, dropout."""

    name: str
    layer: nn.Conv2d | nn.Linear
    rest: nn.Sequential

    def outputs(self, maps: Tensor) -> Tensor:
        """What the layer alone gives: a convolution in the number format of `maps`, a linear layer in float32."""
        if isinstance(self.layer, nn.Linear):
            return self.layer(maps.flatten(1).float())
        weight, bias = (part.to(maps.dtype) for part in self.layer.parameters())
        return F.conv2d(maps, weight, bias, padding=1)


def units(network: models.VGG) -> list[Unit]:
    """All convolutions and linear layers in forward order; TypeError for a network that is not a VGG."""
    models.require_vgg(network)
    found = []
    for part in ("features", "classifier"):
        modules = list(getattr(network, part))
        starts = [i for i, module in enumerate(modules) if isinstance(module, nn.Conv2d | nn.Linear)]
        for start, end in pairwise([*starts, len(modules)]):
            found.append(Unit(f"{part}.{start}", modules[start], nn.Sequential(*modules[start + 1 : end])))
    return found


def convolutions(network: models.VGG) -> list[Unit]:
    """The units that are convolutions, in forward order."""
    return [unit for unit in units(network) if isinstance(unit.layer, nn.Conv2d)]


class Activations:
    """Images on their way through a network in eval mode, `CHUNK` at a time.

    Units may be changed, as long as no later unit's inputs are held. Maps are computed and held in `dtype`, channels last.
    """

    def __init__(self, network: models.VGG, images: Tensor, dtype: torch.dtype = torch.float32):
        self.units, self.normalization, self.dtype = units(network), network.normalization, dtype
        self.before = nn.Sequential(*takewhile(lambda module: not isinstance(module, nn.Conv2d), network.features))
        self.at, self.chunks, self.count = 0, list(images.split(CHUNK)), len(images)  # held: the inputs of unit `at`

    @torch.no_grad()
    def inputs(self, number: int) -> Iterator[Tensor]:
        """What enters unit `number` (past the last one: the logits), one chunk after another."""
        for maps in self.chunks:
            if maps.dtype == torch.uint8:
                maps = self.before(data.normalize(maps, self.normalization, self.dtype))
                maps = maps.contiguous(memory_format=torch.channels_last)
            for unit in self.units[self.at : number]:
                maps = unit.rest(unit.outputs(maps))
            yield maps

    def statistics(self, number: int, samples: Samples, targets: Tensor | None = None, rows: int | None = None) -> Statistics:
        """`regression.collect` for unit `number` and all images."""
        layer = self.units[number].layer
        return regression.collect(self.inputs(number), layer, samples, self.count, targets=targets, rows=rows)

    def advance(self, number: int) -> None:
        """Hold what enters unit `number`, except the first unit's maps: the largest ones, and the cheapest to compute again."""
        if number > 1:
            for i, maps in enumerate(self.inputs(number)):
                self.chunks[i] = maps
            self.at = number

    def keep(self, number: int, kept: Tensor) -> None:
        """Cut unit `number` to its output channels `kept`, also in the maps that are held behind it."""
        cut(self.units[number], self.units[number + 1], kept)
        if self.at > number:
            index = kept.to(self.chunks[0].device)
            self.chunks = [maps[:, index].contiguous(memory_format=torch.channels_last) for maps in self.chunks]


@torch.no_grad()
def targets(network: models.VGG, images: Tensor, samples: Samples, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """What every layer of `network`, in eval mode, gives for all `images` at the sampled positions, before batch norm.

    Layer name → rows (images · positions, outputs), in the order in which `regression.collect` reads the layer's input.
    """
    dense = Activations(network, images, dtype)
    rows: dict[str, list[Tensor]] = {unit.name: [] for unit in dense.units}
    for number, maps in enumerate(dense.inputs(0)):
        for unit in dense.units:
            outputs = unit.outputs(maps)
            square = outputs.view(*outputs.shape[:2], *(outputs.shape[2:] or (1, 1)))
            at = samples.positions_of(len(images), square.shape[-1])[number * CHUNK :][: len(square)]
            rows[unit.name].append(regression.patches(square, at, 1).flatten(1))
            maps = unit.rest(outputs)  # may overwrite them
    return {name: torch.cat(parts) for name, parts in rows.items()}


def cut(producer: Unit, reader: Unit, kept: Tensor) -> None:
    """Keep some output channels of a convolution and its batch norm, and the weights that read them, in place."""
    conv, layer = producer.layer, reader.layer
    kept = kept.to(conv.weight.device)
    by_channel = layer.weight.data.unflatten(1, (len(conv.weight), -1))
    layer.weight = nn.Parameter(by_channel[:, kept].flatten(1, 2))
    for module in (conv, *producer.rest):
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.dim():  # a batch norm's count of batches has no channels
                part = tensor.data[kept]
                setattr(module, name, nn.Parameter(part) if isinstance(tensor, nn.Parameter) else part)


def remove(network: models.VGG, kept: Mapping[str | int, Tensor]) -> models.VGG:
    """A smaller copy of `network` with only the `kept` output channels of some convolutions, weights unchanged.

    `kept`: a convolution's name ("features.0") or number → its channels, ascending; ValueError for another layer or channel.
    """
    sliced = untouched(network)
    found = units(sliced)
    for layer, index in kept.items():
        number = _number(network, layer)
        index, total = torch.as_tensor(index, dtype=torch.int64), len(found[number].layer.weight)
        if not len(index) or index[0] < 0 or index[-1] >= total or (index.diff() <= 0).any():
            raise ValueError(f"the kept channels of {found[number].name} must ascend from 0 to at most {total - 1}")
        cut(found[number], found[number + 1], index)
    return rebuilt(network, sliced)


def untouched(network: models.VGG) -> models.VGG:
    """A copy in eval mode. Raises TypeError or ValueError for a network that is not a VGG as it was built."""
    models.require_vgg(network)
    models.require_plain(network)
    return copy.deepcopy(network).eval()


def rebuilt(network: models.VGG, sliced: models.VGG) -> models.VGG:
    """A clean VGG with the tensors of `sliced`, a cut copy of `network`."""
    counts = [len(unit.layer.weight) for unit in convolutions(sliced)]
    small = models.build(network.architecture() | {"widths": list(with_conv_widths(network.widths, counts))})
    small.load_state_dict(sliced.state_dict())
    return small.to(next(network.parameters()).device).train(network.training)


def _number(network: models.VGG, layer: str | int) -> int:
    """The number of a convolution given by number or name; ValueError for another layer."""
    names = [unit.name for unit in convolutions(network)]
    if layer in names:
        return names.index(layer)
    if isinstance(layer, int) and 0 <= layer < len(names):
        return layer
    raise ValueError(f"{layer!r} is no convolution of this network: give 0 to {len(names) - 1} or one of {', '.join(names)}")


@dataclass(frozen=True)
class LayerReport:
    """What happened between one convolution and the layer that reads its channels (`consumer`).

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


def layer_statistics(
    network: models.VGG, images: Tensor, layer: str | int, *, samples: Samples | None = None
) -> tuple[Statistics, Tensor]:
    """(statistics, W) of the layer that reads a convolution's channels in `network` itself, to study one choice.

    `layer` is the convolution, by name ("features.7") or number from 0 in forward order; ValueError for another.
    """
    number, samples = _number(network, layer), samples or Samples()
    stream = Activations(untouched(network), samples.choose(images))
    statistics = stream.statistics(number + 1, samples)
    return statistics, regression.matrix(stream.units[number + 1].layer.weight, statistics.taps)


def error_curves(
    network: models.VGG, images: Tensor, *, samples: Samples | None = None, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Convolution name → relative error of its reader when the first 0 … c channels of the LASSO's order stay.

    Each layer by itself in the unpruned network, solved by least squares: what `widths.for_budget` weighs.
    """
    samples, curves = samples or Samples(), {}
    stream = Activations(untouched(network), samples.choose(images), dtype or machine.dtype(images.device))
    for number, unit in enumerate(convolutions(network), start=1):
        stream.advance(number)
        statistics = stream.statistics(number, samples)
        order = regression.path(statistics, regression.matrix(stream.units[number].layer.weight, statistics.taps)).order
        curves[unit.name] = regression.error_curve(statistics, order)
    return curves


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
        widths: output channels of each convolution, at most those of `network`, with its "M"s.
        method: "lasso" chooses by the LASSO path, "l1" by filter norm (Li et al. 2017), "random" by `seed`.
        reconstruct: with every method, solve the reading layer by least squares; otherwise its kept weights stay.
        asymmetric: the target is the original network's output; otherwise the layer's own on the pruned network's input.
        dtype: of the maps (by default what the device is fastest in); sums and solutions are float32 at least.

    Batch-norm statistics stay those of the original: recalibrate them before reading an accuracy.
    Raises ValueError for widths that are not a narrower list of the same shape, or an unknown method.
    """
    settings.choose("method", method, METHODS)
    sliced, samples = untouched(network), samples or Samples(seed=seed)
    counts = _counts(network, widths)
    images, dtype = samples.choose(images), dtype or machine.dtype(images.device)
    dense = targets(sliced, images, samples, dtype) if asymmetric else {}
    stream, reports = Activations(sliced, images, dtype), []
    for number, (unit, count) in enumerate(zip(convolutions(network), counts, strict=True)):
        started, channels = perf_counter(), len(unit.layer.weight)
        whole, penalty = None, None
        name, reader = stream.units[number + 1].name, stream.units[number + 1].layer
        stream.advance(number + 1)
        sums = functools.partial(stream.statistics, number + 1, samples, dense.pop(name, None))
        # of all channels: what the LASSO chooses from, and what the layer's own output is made of
        few = samples.selection_rows if asymmetric and channels > NARROW else None
        if method == "lasso":
            whole = sums(few)
            kept, penalty = regression.path(whole, regression.matrix(reader.weight, whole.taps), count).keep(count)
        else:
            by_norm = unit.layer.weight.abs().sum((1, 2, 3)).argsort(descending=True, stable=True)
            order = by_norm if method == "l1" else regression.random_order(channels, seed * 65537 + number)
            kept, whole = order[:count].sort().values, None if asymmetric else sums()
        stream.keep(number, kept)
        statistics = whole.restricted(kept) if whole and not few else sums()
        everything, W = torch.arange(count), regression.matrix(reader.weight, statistics.taps)
        solved, solver = W, "none"
        if reconstruct:
            solution = regression.solve(statistics, everything, W)
            regression.assign(reader, solution.W, solution.bias, statistics.taps)
            solved, solver = solution.W, solution.solver
        before, after = (regression.relative_error(statistics, everything, weights) for weights in (W, solved))
        choice, cost = (unit.name, name, channels, count, tuple(kept.tolist())), (statistics.rows, perf_counter() - started)
        reports.append(LayerReport(*choice, before, after, penalty, solver, *cost))
    return rebuilt(network, sliced), reports


def _counts(network: models.VGG, widths: Sequence[int | str]) -> list[int]:
    """The channels that `widths` leaves each convolution; ValueError where it is no narrower list."""
    if [width == "M" for width in widths] != [width == "M" for width in network.widths]:
        raise ValueError(f"the widths {tuple(widths)} have not the layers of {network.widths}")
    for before, after in zip(network.widths, widths, strict=True):
        if isinstance(before, int) and not (isinstance(after, int) and 1 <= after <= before):
            raise ValueError(f"a convolution of {before} channels cannot keep {after}")
    return [width for width in widths if isinstance(width, int)]
