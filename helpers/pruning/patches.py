"""Sampled rows of a layer: what enters it at random positions, and what the dense network gives there.

A layer's input X is read at a few positions of many images, as rows of (tap, channel): nine taps for a 3×3
convolution, one for each map position for the first linear layer. Neighbours outside the map are zeros, so on small
maps the rows are grouped by the taps that lie inside, and the zeros are never multiplied.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from helpers import models
from helpers.pruning import reconstruction
from helpers.pruning.reconstruction import Statistics
from helpers.pruning.stream import Stream, first_linear

GROUPED_SIDE = 8  # maps up to this side are grouped by border; on larger ones too few rows touch it to gain


@dataclass(frozen=True)
class Samples:
    """How many rows a layer is solved from: images, and random positions an image (all of a map that has fewer).

    Channels of wide layers are chosen from fewer rows than their weights are solved from: every row holds all outputs, one
    coefficient a channel needs fewer of them than nine weights a channel and output, and XᵀX of all channels costs most.
    """

    images: int = 5000
    positions: int = 10
    seed: int = 0
    selection_rows: int = 2000

    def choose(self, images: Tensor) -> Tensor:
        """At most `images` of the given ones, without replacement, in their order."""
        if len(images) <= self.images:
            return images
        chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.seed))[: self.images]
        return images[chosen.sort().values.to(images.device)]

    def positions_of(self, count: int, side: int) -> Tensor:
        """(count, p) flat positions of a side × side map; the same for every layer with maps of that size."""
        generator = torch.Generator().manual_seed(self.seed * 65537 + side)
        return torch.rand(count, side * side, generator=generator).topk(min(self.positions, side * side), dim=1).indices


@torch.no_grad()
def targets(
    network: models.VGG, images: Tensor, samples: Samples, dtype: torch.dtype = torch.float32
) -> Iterator[dict[int, Tensor]]:
    """For each block of the dense network: unit number → its convolution's outputs before batch norm, rows (R, outputs).

    The number after the last unit stands for the first linear layer, whose rows are one an image.
    """
    stream, block = Stream(network, images, dtype), []
    for number, unit in enumerate(stream.units):
        block.append(number)
        if unit.pools or number == len(stream.units) - 1:
            yield _block_targets(stream, block, samples, len(images))
            block = []
    head = first_linear(network)
    yield {len(stream.units): torch.cat([head(maps.flatten(1).float()) for maps in stream.inputs(len(stream.units))])}


def _block_targets(stream: Stream, block: list[int], samples: Samples, count: int) -> dict[int, Tensor]:
    collected: dict[int, list[Tensor]] = {number: [] for number in block}
    done, positions = 0, None
    for index, chunk in enumerate(stream.chunks):
        maps = stream.floats(chunk)
        if positions is None:
            positions = samples.positions_of(count, maps.shape[-1])
        rows = _flat_index(positions[done : done + len(chunk)], maps.shape[-1] ** 2).to(maps.device)
        for number in block:
            maps = stream.convolved(number, maps)
            if number > 0:  # nothing is chosen among the colours of the image
                collected[number].append(_by_position(maps)[rows].float())
            maps = stream.units[number].finish(maps)
        stream.chunks[index] = maps
        done += len(chunk)
    stream.arrived(block[-1] + 1)
    return {number: torch.cat(rows) for number, rows in collected.items() if rows}


def _by_position(maps: Tensor) -> Tensor:
    """(N, C, H, W) → (N·H·W, C), a view of channels-last maps."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _flat_index(positions: Tensor, area: int) -> Tensor:
    """(N, p) positions inside each image → (N·p,) rows of `_by_position`."""
    return (positions + area * torch.arange(len(positions)).unsqueeze(1)).flatten()


def linear_rows(maps: Tensor) -> Tensor:
    """(N, C, H, W) → (N, H·W taps, C)."""
    return maps.flatten(2).transpose(1, 2).float()


def patches(maps: Tensor, positions: Tensor) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """The 3×3 neighbourhoods of `maps` (N, C, H, H) at `positions` (N, p), as groups of rows with the same taps inside.

    Yields (taps, rows, X): the tap numbers 0 … 8 that lie inside the map, which of the N·p rows these are, and
    X (rows, taps, C).
    """
    side = maps.shape[-1]
    row, column = (positions // side).flatten(), (positions % side).flatten()
    offsets = torch.tensor([-1, 0, 1])
    rows = (row.unsqueeze(1) + offsets).unsqueeze(2).expand(-1, 3, 3).flatten(1)
    columns = (column.unsqueeze(1) + offsets).unsqueeze(1).expand(-1, 3, 3).flatten(1)
    inside = ((rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)).to(maps.device)
    image = torch.arange(len(positions)).repeat_interleave(positions.shape[1]).unsqueeze(1)
    index = (image * side * side + rows.clamp(0, side - 1) * side + columns.clamp(0, side - 1)).to(maps.device)
    flat = _by_position(maps)
    if side > GROUPED_SIDE:
        X = flat[index].float()
        X[~inside] = 0
        yield list(range(9)), torch.arange(len(index), device=maps.device), X
        return
    codes = (inside.long() << torch.arange(9, device=maps.device)).sum(1)
    for code in codes.unique().tolist():
        taps = [tap for tap in range(9) if code >> tap & 1]
        of_code = (codes == code).nonzero().squeeze(1)
        yield taps, of_code, flat[index[of_code][:, taps]].float()


@torch.no_grad()
def collect(
    chunks: Iterable[Tensor],
    layer: nn.Conv2d | nn.Linear,
    Y: Tensor | None,
    samples: Samples,
    count: int,
    *,
    channels: Tensor | None = None,
    for_selection: bool = False,
) -> Statistics:
    """Statistics of a layer's input, given as chunks of its maps for `count` images, against the target rows Y.

    Without Y the target is what `layer` itself makes of that input. `channels` restricts X to some input channels (with a
    given Y only), `for_selection` the rows to about `samples.selection_rows`: the first positions of each image, at least
    one, until there are so many rows. Of more images than that the later ones are not looked at.
    """
    done, statistics = 0, None
    used = slice(max(1, samples.selection_rows // count) if for_selection else None)
    for maps in chunks:
        if statistics is None:
            taps = layer.weight[0].numel() // maps.shape[1]
            width = maps.shape[1] if channels is None else len(channels)
            statistics = Statistics(taps, width, len(layer.weight), maps.device)
            everywhere = None if isinstance(layer, nn.Linear) else samples.positions_of(count, maps.shape[-1])
        here = slice(done, done + len(maps))
        if channels is not None:
            maps = maps.permute(0, 2, 3, 1)[..., channels.to(maps.device)].permute(0, 3, 1, 2)
        if everywhere is None:
            target = None if Y is None else Y[here]
            groups = [(list(range(statistics.taps)), slice(None), linear_rows(maps))]
        else:
            target = None if Y is None else Y.view(count, everywhere.shape[1], -1)[here, used].flatten(0, 1)
            groups = patches(maps, everywhere[here, used])
        for taps, rows, X in groups:
            statistics.add(X, None if target is None else target[rows], taps)
        done += len(maps)
        if for_selection and statistics.rows >= samples.selection_rows:
            break
    statistics.centred()
    return statistics if Y is not None else statistics.explained_by(reconstruction.matrix(layer, statistics.taps), layer.bias)
