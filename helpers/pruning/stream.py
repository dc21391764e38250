"""Sample images on their way through a network, layer by layer."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import data, models

CHUNK, MOST = 250, 1000  # images at a time: at first, and once the maps are small
CHUNK_NUMBERS = CHUNK * 64 * 32 * 32  # what a chunk's maps may hold


@dataclass(frozen=True)
class Unit:
    """A convolution and what follows it up to the next one: batch norm, ReLU, sometimes a max-pool."""

    name: str
    conv: nn.Conv2d
    rest: tuple[nn.Module, ...]

    @property
    def pools(self) -> bool:
        return any(isinstance(module, nn.MaxPool2d) for module in self.rest)

    def finish(self, maps: Tensor) -> Tensor:
        for module in self.rest:
            maps = module(maps)
        return maps


def units(network: models.VGG) -> list[Unit]:
    """The convolutions of `network` with what follows each, in forward order."""
    modules = list(network.features)
    starts = [i for i, module in enumerate(modules) if isinstance(module, nn.Conv2d)]
    ends = [*starts[1:], len(modules)]
    return [Unit(f"features.{a}", modules[a], tuple(modules[a + 1 : b])) for a, b in zip(starts, ends, strict=True)]


class Stream:
    """Sample images on their way through a network, a chunk at a time.

    Maps are carried in memory only at the input of a block (behind a max-pool) and recomputed inside it, so the large
    maps of the first layers never stand in memory for all images at once. Unit i may change as long as the stream has
    not been carried past it. Maps are computed and kept in `dtype`; the weights stay as they are.
    """

    def __init__(self, network: models.VGG, images: Tensor, dtype: torch.dtype = torch.float32):
        self.units = units(network)
        self.at = 0
        self.chunks = list(images.split(CHUNK))  # uint8 until the first carry
        self.normalization, self.dtype = network.normalization, dtype

    @torch.no_grad()
    def inputs(self, unit: int) -> Iterator[Tensor]:
        """The input of unit number `unit` (past the last one: the final maps), one channels-last chunk after another."""
        for chunk in self.chunks:
            yield self._forward(chunk, unit)

    @torch.no_grad()
    def carry(self, unit: int) -> None:
        """Move to the input of `unit`, keeping its maps instead of the earlier ones."""
        for number, chunk in enumerate(self.chunks):
            self.chunks[number] = self._forward(chunk, unit)
        self.arrived(unit)

    def arrived(self, unit: int) -> None:
        """The chunks hold the input of `unit`: note it, and make chunks larger where the maps have become small."""
        self.at = unit
        images = min(MOST, max(CHUNK, CHUNK_NUMBERS // self.chunks[0][0].numel()))
        if images > len(self.chunks[0]) and len(self.chunks) > 1:
            self.chunks = list(torch.cat(self.chunks).split(images))

    def _forward(self, chunk: Tensor, unit: int) -> Tensor:
        maps = self.floats(chunk)
        for number in range(self.at, unit):
            maps = self.units[number].finish(self.convolved(number, maps))
        return maps

    def convolved(self, number: int, maps: Tensor) -> Tensor:
        """What the convolution of a unit makes of its input, before batch norm, in the stream's dtype."""
        conv = self.units[number].conv
        weight = conv.weight.to(maps.dtype, memory_format=torch.channels_last)
        return F.conv2d(maps, weight, conv.bias.to(maps.dtype), padding=conv.padding)

    def floats(self, chunk: Tensor) -> Tensor:
        if chunk.dtype == torch.uint8:
            chunk = data.normalize(chunk, self.normalization, self.dtype)
        return chunk.contiguous(memory_format=torch.channels_last)


def first_linear(network: models.VGG) -> nn.Linear:
    return next(module for module in network.classifier if isinstance(module, nn.Linear))
