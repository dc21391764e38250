"""The non-zeros of a weight as the lists that `convolution.cpp` runs on.

Input channels come in blocks whose packed tile stays in the L1 cache. A list holds the (offset, value) pairs of one block
and one filter; lists are ordered block by block and, within a block, filter by filter.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MOST_OFFSET = 2**16  # offsets are unsigned 16-bit numbers


@dataclass(frozen=True)
class Lists:
    """values float32 (k,), offsets uint16 held as int16 (k,), starts int32 (blocks × filters + 1,), block in channels."""

    values: Tensor
    offsets: Tensor
    starts: Tensor
    block: int


def of_convolution(weight: Tensor, block: int, offset: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> Lists:
    """Lists of a (filters, channels, kernel, kernel) weight; `offset(channel in its block, row, column)` is vectorised."""
    filters, channels, kernel, _ = weight.shape
    flat = weight.detach().cpu().contiguous().flatten()
    kept = torch.nonzero(flat).flatten().numpy()
    f, c, ky, kx = np.unravel_index(kept, (filters, channels, kernel, kernel))
    return _listed(flat.numpy()[kept], f, c // block, offset(c % block, ky, kx), filters, -(-channels // block), block)


def of_product(weight: Tensor, block: int) -> Lists:
    """Lists of an (outputs, inputs) weight; the offset is the input's place in its block."""
    return of_convolution(weight[:, :, None, None], block, lambda c, ky, kx: c)


def unfolded(weight: Tensor, height: int, width: int, stride: int, padding: int) -> Tensor:
    """A convolution on a small map as the matrix it is: (filters × out positions, channels × in positions).

    Taps that fall on the zero padding have no entry, so a 3×3 convolution of a 2×2 map costs 16 multiply-adds a weight pair
    of channels instead of 36.
    """
    filters, channels, kernel, _ = weight.shape
    out_height, out_width = (height + 2 * padding - kernel) // stride + 1, (width + 2 * padding - kernel) // stride + 1
    matrix = weight.new_zeros(filters, out_height, out_width, channels, height, width)
    for oy in range(out_height):
        for ox in range(out_width):
            for ky in range(kernel):
                for kx in range(kernel):
                    y, x = oy * stride + ky - padding, ox * stride + kx - padding
                    if 0 <= y < height and 0 <= x < width:
                        matrix[:, oy, ox, :, y, x] = weight[:, :, ky, kx]
    return matrix.view(filters * out_height * out_width, channels * height * width)


def _listed(
    values: np.ndarray, filters: np.ndarray, blocks: np.ndarray, offsets: np.ndarray, count: int, most: int, block: int
) -> Lists:
    keys = blocks * count + filters
    order = np.argsort(keys, kind="stable")
    if len(offsets) and offsets.max() >= MOST_OFFSET:
        raise ValueError(f"a block of {block} channels needs offsets beyond {MOST_OFFSET}")
    starts = np.concatenate(([0], np.cumsum(np.bincount(keys, minlength=count * most))))
    return Lists(
        torch.from_numpy(np.ascontiguousarray(values[order])),
        torch.from_numpy(offsets[order].astype(np.uint16).view(np.int16)),
        torch.from_numpy(starts.astype(np.int32)),
        block,
    )
