"""One layer of a folded network, with what is fused into it, as a step: on its non-zeros in either layout, or dense.

*images*: a vector register holds one position of several images; for batches. *positions*: a register holds neighbouring
positions of one image; for a few images.

The kernels run on lists of (offset, value) pairs. Input channels come in blocks whose packed tile stays in the L1 cache; a
list holds the non-zeros of one block and one filter. Lists are ordered block by block and, within a block, filter by filter.
"""

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.sparse import kernels

IMAGES, POSITIONS = "images", "positions"
L1_BYTES = 32 * 1024  # of the packed tile: a whole L1 cache, since longer lists save more than the few misses cost
MOST_OFFSET = 2**16  # offsets are unsigned 16-bit numbers
REACHES = (0, 1, 2, 4)  # (kernel - 1) // stride: what `conv_images` has tiles for
Step = Callable[[Tensor], Tensor]
Offset = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # of (channel in its block, kernel row, kernel column)


@dataclass(frozen=True)
class Operation:
    """One prunable layer with what is fused into it: max_pool2x2(relu(weight * x + bias))."""

    name: str
    weight: Tensor
    bias: Tensor
    stride: int = 1
    padding: int = 0
    relu: bool = False
    pool: bool = False

    @property
    def linear(self) -> bool:
        return self.weight.dim() == 2

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Of the convolution, before the pool."""
        kernel = self.weight.shape[-1]
        return (height + 2 * self.padding - kernel) // self.stride + 1, (width + 2 * self.padding - kernel) // self.stride + 1

    def geometry(self, channels: int, height: int, width: int) -> tuple[dict[str, int], tuple[int, int]]:
        """(the numbers of `kernels.Layer`, the map after the pool) of a convolution."""
        out = self.out_size(height, width)
        numbers = {"channels": channels, "height": height, "width": width, "out_height": out[0], "out_width": out[1]}
        numbers |= {"kernel": self.weight.shape[-1], "stride": self.stride, "padding": self.padding}
        return {**numbers, "relu": self.relu, "pool": self.pool}, (out[0] // 2, out[1] // 2) if self.pool else out


def lists(weight: Tensor, block: int, offset: Offset) -> dict[str, Tensor]:
    """The lists of a (filters, channels, kernel, kernel) weight with `block` channels a block.

    values float32 (k,), offsets uint16 held as int16 (k,), starts int32 (blocks × filters + 1,).
    """
    filters, channels, kernel, _ = weight.shape
    flat = weight.contiguous().flatten().numpy()
    kept = np.flatnonzero(flat)
    f, c, ky, kx = np.unravel_index(kept, (filters, channels, kernel, kernel))
    places, offsets = c // block * filters + f, offset(c % block, ky, kx)
    order = np.argsort(places, kind="stable")
    if len(offsets) and offsets.max() >= MOST_OFFSET:
        raise ValueError(f"a block of {block} channels needs offsets beyond {MOST_OFFSET}")
    starts = np.cumsum(np.bincount(places + 1, minlength=-(-channels // block) * filters + 1))
    parts = flat[kept][order], offsets[order].astype(np.uint16).view(np.int16), starts.astype(np.int32)
    return dict(zip(("values", "offsets", "starts"), map(torch.from_numpy, parts), strict=True))


def per_block(channels: int, bytes_per_channel: int, most: int) -> int:
    """Channels a block: as many as the cache holds, evenly shared."""
    count = -(-channels // max(1, min(most, L1_BYTES // bytes_per_channel)))
    return -(-channels // count)


def tile(op: Operation, height: int, width: int, most: int) -> tuple[int, int]:
    """(rows, columns) of the output, at most so many values, that are computed at once; of a pooled layer whole 2×2 windows."""
    (out_height, out_width), even = op.out_size(height, width), 2 if op.pool else 1
    columns = out_width if even * out_width <= most else most // even // even * even
    return max(even, min(-(-out_height // even) * even, most // columns // even * even)), columns


def compiled(call: Callable, layer: ctypes.Structure, tensors: dict[str, Tensor], empty: Callable[[Tensor], Tensor]) -> Step:
    """A call of a compiled function; `tensors` are what `layer` points to, and `empty` gives room for an input's output."""
    address = ctypes.addressof(layer)

    def step(x: Tensor, _alive: tuple = (layer, tensors)) -> Tensor:
        out = empty(x)
        if len(x) and call(address, x.data_ptr(), out.data_ptr(), len(x), torch.get_num_threads()):
            raise RuntimeError(f"{call.__name__} has no kernel for this layer")
        return out

    return step


def _step(function: str, weight: Tensor, bias: Tensor, block: int, offset: Offset, shape: Sequence[int], **numbers: int) -> Step:
    """A call of one compiled function; `shape` is the output's, without its first dimension."""
    tensors = lists(weight, block, offset) | {"bias": bias.contiguous()}
    pointers = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    blocks = (len(tensors["starts"]) - 1) // len(bias)
    layer = kernels.Layer(**pointers, filters=len(bias), blocks=blocks, block=block, **numbers)
    return compiled(getattr(kernels.load(), function), layer, tensors, lambda x: x.new_empty(len(x), *shape))


def _product(op: Operation, height: int, width: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """A linear layer, or a convolution of a tiny map, as (matrix as a 1×1 convolution's weight, bias, output map).

    Taps that fall on the zero padding have no entry, so a 3×3 convolution of a 2×2 map costs 16 multiply-adds a weight pair
    of channels instead of 36.
    """
    if op.linear:
        return op.weight[:, :, None, None], op.bias, (1, 1)
    filters, channels, kernel, _ = op.weight.shape
    size = op.out_size(height, width)
    matrix = op.weight.new_zeros(filters, *size, channels, height, width)
    for oy, ox, ky, kx in np.ndindex(*size, kernel, kernel):
        y, x = oy * op.stride + ky - op.padding, ox * op.stride + kx - op.padding
        if 0 <= y < height and 0 <= x < width:
            matrix[:, oy, ox, :, y, x] = op.weight[:, :, ky, kx]
    outputs = math.prod(size)
    return matrix.view(filters * outputs, channels * height * width, 1, 1), op.bias.repeat_interleave(outputs), size


def images_step(op: Operation, channels: int, height: int, width: int) -> Step:
    """(N / lanes, channels, height, width, lanes) → the same of the output, on the non-zeros of `op`."""
    lanes = kernels.load().widest()
    if op.linear or (max(height, width) <= 2 and max(op.out_size(height, width)) <= 2):
        matrix, bias, size = _product(op, height, width)
        inputs, pooled = matrix.shape[1], op.pool and size == (2, 2)
        shape = (len(op.weight), *((1, 1) if pooled else size), lanes)
        numbers = {"channels": inputs, "lanes": lanes, "relu": op.relu, "pool": pooled}
        block = per_block(inputs, 8 * lanes * 4, MOST_OFFSET)
        return _step("product_images", matrix, bias, block, lambda c, ky, kx: c, shape, **numbers)
    stride = op.stride
    rows, columns = (4, 2) if lanes == 8 else (4, 4)
    reach = (op.weight.shape[-1] - 1) // stride
    area = (rows + reach) * (columns + reach)

    def offset(c: np.ndarray, ky: np.ndarray, kx: np.ndarray) -> np.ndarray:
        phase = (c * stride + ky % stride) * stride + kx % stride
        return phase * area + ky // stride * (columns + reach) + kx // stride

    numbers, size = op.geometry(channels, height, width)
    phases = area * stride * stride
    block = per_block(channels, phases * lanes * 4, MOST_OFFSET // phases)
    numbers |= {"rows": rows, "columns": columns, "lanes": lanes}
    return _step("conv_images", op.weight, op.bias, block, offset, (len(op.weight), *size, lanes), **numbers)


def positions_step(op: Operation, channels: int, height: int, width: int) -> Step:
    """Contiguous (N, channels, height, width) → the same of the output, on the non-zeros of `op`."""
    if op.linear or (op.out_size(height, width) == (1, 1) and not op.pool):
        matrix, bias, size = _product(op, height, width)
        shape = (len(op.weight),) if op.linear else (len(op.weight), *size)
        numbers = {"channels": matrix.shape[1], "relu": op.relu}
        return _step("product_single", matrix, bias, MOST_OFFSET, lambda c, ky, kx: c, shape, **numbers)
    kernel, stride = op.weight.shape[-1], op.stride
    rows, columns = tile(op, height, width, kernels.load().widest() * kernels.load().most_accumulators())
    packed_rows = rows + (kernel - 1) // stride
    area = kernel * stride * packed_rows * columns

    def offset(c: np.ndarray, ky: np.ndarray, kx: np.ndarray) -> np.ndarray:
        return (((c * kernel + kx) * stride + ky % stride) * packed_rows + ky // stride) * columns

    numbers, size = op.geometry(channels, height, width)
    block = per_block(channels, area * 4, MOST_OFFSET // area)
    numbers |= {"rows": rows, "columns": columns}
    return _step("conv_positions", op.weight, op.bias, block, offset, (len(op.weight), *size), **numbers)


def dense_step(op: Operation) -> Step:
    """(N, channels, height, width) → the same of the output, by oneDNN."""
    weight = op.weight if op.linear else op.weight.contiguous(memory_format=torch.channels_last)

    def step(x: Tensor) -> Tensor:
        if op.linear:
            out = F.linear(x.flatten(1), weight, op.bias)
        else:
            out = F.conv2d(x.contiguous(memory_format=torch.channels_last), weight, op.bias, op.stride, op.padding)
        out = out.relu_() if op.relu else out
        return F.max_pool2d(out, 2) if op.pool else out

    return step
