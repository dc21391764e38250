"""The arithmetic of F(4×4, 3×3), Lavin and Gray (2016), "Fast algorithms for convolutional neural networks", section 4.

A 3×3 convolution of padding 1 on maps divisible by 4: a 4×4 output tile costs 36 products a pair of channels instead of
144, done as 36 matrix products over all tiles. Each transform stands beside its adjoint, which is what a gradient needs.
Maps are (N, H, W, C), the order in which channels_last lies in memory; float32 or float64, on the CPU.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 4  # outputs along each side of a tile; its inputs are TILE + 2 along each side
BUFFER = 6 * 2**20  # elements of one transformed part: from 8 Mi on, the allocator asks the system for new pages every time

# section 4.3: Bᵀ (inputs), G (weights) and Aᵀ (outputs), for the points 0, ±1, ±2 and infinity
INPUT = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
WEIGHT: list[list[float]] = [
    [1 / 4, 0, 0],
    [-1 / 6] * 3,
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


def divides(height: int, width: int) -> bool:
    """Whether maps of this size are whole tiles."""
    return height % TILE == 0 and width % TILE == 0


def parts(maps: Tensor, channels: int) -> Iterator[slice]:
    """The images of (N, H, W, C) in parts whose tiles, of at most `channels` channels, fit the buffer."""
    count, height, width, _ = maps.shape
    images = max(1, BUFFER // (36 * channels * height * width // TILE**2))
    return (slice(start, start + images) for start in range(0, count, images))


def transform_weight(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) → (36, O, C)."""
    taps = weight.permute(2, 3, 0, 1)
    return (_twice(WEIGHT, weight) @ taps.reshape(9, -1)).view(36, *taps.shape[2:])


def weight_gradient(transformed: Tensor) -> Tensor:
    """The adjoint of `transform_weight`: (36, O, C) → (O, C, 3, 3)."""
    taps = _twice(WEIGHT, transformed).t() @ transformed.view(36, -1)
    return taps.view(3, 3, *transformed.shape[1:]).permute(2, 3, 0, 1)


def transform_inputs(maps: Tensor) -> Tensor:
    """(N, H, W, C) → (36, N·H/4·W/4, C), tiles image by image and row by row."""
    count, height, width, channels = maps.shape
    padded = F.pad(maps, (0, 0, 1, 1, 1, 1)).contiguous()
    image, row, column, _ = padded.stride()
    shape = (6, 6, count, height // TILE, width // TILE, channels)
    tiles = padded.as_strided(shape, (row, column, image, TILE * row, TILE * column, 1))
    return (_twice(INPUT, maps) @ tiles.reshape(36, -1)).view(36, -1, channels)


def inputs_gradient(transformed: Tensor, height: int, width: int) -> Tensor:
    """The adjoint of `transform_inputs`: what overlapping tiles say of one input is added up."""
    rows, columns, channels = height // TILE, width // TILE, transformed.shape[2]
    tiles = (_twice(INPUT, transformed).t() @ transformed.view(36, -1)).view(6, 6, -1, rows, columns, channels)
    padded = tiles.new_zeros(tiles.shape[2], height + 2, width + 2, channels)
    for i in range(6):
        for j in range(6):
            padded[:, i : i + height - 3 : TILE, j : j + width - 3 : TILE] += tiles[i, j]
    return padded[:, 1:-1, 1:-1]


def transform_outputs(products: Tensor, height: int, width: int) -> Tensor:
    """(36, N·H/4·W/4, O) → (N, H, W, O)."""
    rows, columns, outputs = height // TILE, width // TILE, products.shape[2]
    maps = (_twice(OUTPUT, products) @ products.view(36, -1)).view(TILE, TILE, -1, rows, columns, outputs)
    return maps.permute(2, 3, 0, 4, 1, 5).reshape(-1, height, width, outputs)


def outputs_gradient(gradient: Tensor) -> Tensor:
    """The adjoint of `transform_outputs`."""
    count, height, width, outputs = gradient.shape
    tiles = gradient.reshape(count, height // TILE, TILE, width // TILE, TILE, outputs).permute(2, 4, 0, 1, 3, 5)
    return (_twice(OUTPUT, gradient).t() @ tiles.reshape(TILE**2, -1)).view(36, -1, outputs)


def _twice(matrix: Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """The transform of rows and of columns in one."""
    return torch.kron(*[torch.tensor(matrix, dtype=torch.float64)] * 2).to(like.dtype)
