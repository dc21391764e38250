"""A pruned network in 8-bit whole numbers that touches non-zero blocks of weights only.

Weights are int8 with a scale a filter (`storage.quantise`), activations whole numbers from 0 to 127 with a scale a layer, chosen
from images. A block is four neighbouring input channels at one tap of one filter: what one instruction of a processor multiplies
at once, so a block is skipped where all four are zero (`repair.together(…, block=4)` prunes so). Activations of 7 bits make sums
exact on every processor with AVX2, with VNNI or without: two products fit 16 bits. Elsewhere the network is refused.
"""

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers import models, storage
from helpers.sparse import kernels, layers
from helpers.sparse.layers import IMAGES, MOST_OFFSET, POSITIONS, Offset, Operation, Step
from helpers.sparse.network import layout_of, operations, sized

BLOCK = 4  # channels
MOST = 127  # of an activation; keep in step with quantised.cpp
KERNELS = (1, 3)  # sizes, at stride 1


class Layer(ctypes.Structure):
    """What a kernel knows of a layer; keep in step with `Layer` in quantised.cpp."""

    POINTERS = "values offsets starts scale bias"
    NUMBERS = "filters blocks block groups height width kernel padding out_height out_width rows columns zero pool floats"
    _fields_ = [(name, ctypes.c_void_p) for name in POINTERS.split()] + [(name, ctypes.c_int64) for name in NUMBERS.split()]


def available() -> str | None:
    """None where networks run in whole numbers, else one line that says why not. Builds the kernels at the first call."""
    if reason := kernels.available(kernels.QUANTISED):
        return reason
    return None if _library().lanes() else "int8 kernels need a processor with AVX2 at least"


def _library() -> ctypes.CDLL:
    return kernels.load(kernels.QUANTISED)


@dataclass(frozen=True)
class Quantised:
    """An operation in whole numbers: x from 0 to 127 → the nearest to (Σ weight · x) · scale + bias, or that as float32.

    Outside the map x is `zero`. Ties go to the even number; what is below 0 or above 127 saturates, which is the ReLU.
    """

    op: Operation  # its shape, padding and pool
    weight: Tensor  # int8, of the same shape
    scale: Tensor  # float32 (filters,), not negative
    bias: Tensor  # float32 (filters,)
    zero: int = 0
    floats: bool = False  # of the last layer


@dataclass(frozen=True)
class Range:
    """What bytes stand for: scale · (byte − zero)."""

    scale: float
    zero: int = 0

    @classmethod
    def of(cls, x: Tensor) -> "Range":
        """From the least value, or 0, to the largest."""
        low, high = min(0.0, float(x.min())), float(x.max())
        scale = (high - low) / MOST or 1.0
        return cls(scale, round(-low / scale))

    def bytes(self, x: Tensor) -> Tensor:
        return (x / self.scale).round().add_(self.zero).clamp_(0, MOST).to(torch.uint8)


@torch.no_grad()
def quantised(ops: Sequence[Operation], images: Tensor) -> tuple[Range, list[Quantised]]:
    """(range of the input, operations in whole numbers), with the ranges that activations have on normalised images.

    ValueError naming a layer that no kernel runs.
    """
    before = first = Range.of(images)
    made, x = [], images
    for op in ops:
        last = op is ops[-1]
        if not last and not op.relu:
            raise ValueError(f"{op.name} has no ReLU, so its outputs are no unsigned bytes")
        if not op.linear and (op.stride != 1 or op.weight.shape[-1] not in KERNELS) or last and not op.linear:
            raise ValueError(f"int8 kernels run 1×1 and 3×3 convolutions of stride 1 and end in a linear layer, not {op.name}")
        x = layers.dense_step(op)(x)
        after = Range(1.0) if last else Range.of(x)
        weight, scales = storage.quantise(op.weight)
        factor = scales.double() * before.scale
        bias = op.bias - factor * before.zero * weight.flatten(1).sum(1)
        scale, bias = ((part / after.scale).float() for part in (factor, bias))
        made.append(Quantised(op, weight, scale, bias, before.zero, last))
        before = after
    return first, made


class QuantisedNetwork:
    """A compiled network in whole numbers: normalised float32 (N, 3, H, W) on the CPU → (N, classes) logits."""

    def __init__(self, first: Range, ops: Sequence[Quantised]):
        self.first, self.ops = first, ops
        self._compiled: dict[tuple, list[Step]] = {}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        layout = layout_of(images)
        if (key := (layout, *images.shape[1:])) not in self._compiled:
            sizes = sized([q.op for q in self.ops], images.shape[1:])
            self._compiled[key] = [STEPS[layout](q, *size) for q, (_, size) in zip(self.ops, sizes, strict=True)]
        x = elements(self.first.bytes(images), layout)
        for step in self._compiled[key]:
            x = step(x)
        return x[: len(images), : len(self.ops[-1].weight)]


def compile_quantised(network: models.VGG, images: Tensor) -> QuantisedNetwork:
    """`network` in eval mode as a callable in whole numbers; `images`: normalised, a few hundred, that ranges are taken from.

    Raises RuntimeError where this processor has no kernels, TypeError or ValueError for a network that they do not run.
    """
    if reason := available():
        raise RuntimeError(reason)
    return QuantisedNetwork(*quantised(operations(network), images))


def elements(x: Tensor, layout: str) -> Tensor:
    """uint8 (N, C, H, W) → int32 elements of four channels: (N, C / 4, H, W), or (N / lanes, C / 4, H, W, lanes) for images.

    The last block of images and the last element are filled up with zeros.
    """
    lanes = _library().lanes() if layout == IMAGES else 1
    x = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % BLOCK, 0, -len(x) % lanes))
    x = x.unflatten(1, (-1, BLOCK)).unflatten(0, (len(x) // lanes, lanes)).permute(0, 2, 4, 5, 1, 3)
    x = _whole(x)
    return x if layout == IMAGES else x.flatten(3)


def _whole(x: Tensor) -> Tensor:
    """Bytes (…, 4) → int32 (…), whatever strides torch calls contiguous where a dimension is 0 or 1."""
    return x.clone(memory_format=torch.contiguous_format).view(torch.int32).squeeze(-1)


def packed(weight: Tensor) -> Tensor:
    """int8 (filters, channels, …) → int32 elements (filters, channels / 4, …); both filled up with zeros to whole elements."""
    filled = F.pad(weight.flatten(2), (0, 0, 0, -weight.shape[1] % BLOCK, 0, -len(weight) % BLOCK))
    made = _whole(filled.unflatten(1, (-1, BLOCK)).transpose(2, 3))
    return made.view(*made.shape[:2], *weight.shape[2:])


def _step(function: str, q: Quantised, weight: Tensor, block: int, offset: Offset, shape: Sequence[int], **numbers: int) -> Step:
    """A call of one compiled function on elements; `shape` is the output's, without its first dimension."""
    library, rows = _library(), len(weight)
    tensors = layers.lists(weight, block, offset)
    # outputs of a map lie by elements: four filters at one position, then at the next
    repeats = rows // (-(-len(q.weight) // BLOCK) * BLOCK)
    for name in ("scale", "bias"):
        whole = F.pad(getattr(q, name), (0, -len(q.weight) % BLOCK)).view(-1, 1, BLOCK)
        tensors[name] = whole.expand(-1, repeats, -1).reshape(-1).contiguous()
    pointers = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    blocks = (len(tensors["starts"]) - 1) // rows
    layer = Layer(**pointers, filters=rows, blocks=blocks, block=block, zero=q.zero, floats=q.floats, **numbers)
    images = library.lanes() if function == "product_images" and q.floats else 1
    dtype = torch.float32 if q.floats else torch.int32
    return layers.compiled(
        getattr(library, function), layer, tensors, lambda x: x.new_empty(len(x) * images, *shape, dtype=dtype)
    )


def _product(q: Quantised, channels: int, height: int, width: int) -> tuple[Tensor, tuple[int, int]]:
    """(elements of a matrix as a 1×1 convolution's weight, output map) of a linear layer, or a convolution of a tiny map."""
    if q.op.linear:
        return packed(q.weight.view(-1, channels, height, width)).flatten(1)[:, :, None, None], (1, 1)
    weight, size = packed(q.weight), q.op.out_size(height, width)
    filters, groups, kernel, _ = weight.shape
    matrix = weight.new_zeros(filters // BLOCK, *size, BLOCK, groups, height, width)
    for oy, ox, ky, kx in np.ndindex(*size, kernel, kernel):
        y, x = oy + ky - q.op.padding, ox + kx - q.op.padding
        if 0 <= y < height and 0 <= x < width:
            matrix[:, oy, ox, :, :, y, x] = weight[:, :, ky, kx].unflatten(0, (-1, BLOCK))
    return matrix.view(filters * math.prod(size), groups * height * width, 1, 1), size


def images_step(q: Quantised, channels: int, height: int, width: int) -> Step:
    """(N / lanes, channels / 4, height, width, lanes) elements → the same of the output, or float32 (N, filters)."""
    library, op = _library(), q.op
    vector = 4 * library.lanes()  # packed bytes
    if op.linear or (not q.zero and max(height, width) <= 2 and max(op.out_size(height, width)) <= 2):
        weight, size = _product(q, channels, height, width)
        pool, groups = op.pool and size == (2, 2), weight.shape[1]
        out = (len(weight),) if q.floats else (-(-len(q.weight) // BLOCK), *((1, 1) if pool else size), library.lanes())
        block = layers.per_block(groups, 8 * vector, MOST_OFFSET)
        return _step("product_images", q, weight, block, lambda c, ky, kx: c, out, groups=groups, pool=pool)
    weight, reach = packed(q.weight), op.weight.shape[-1] - 1
    rows, columns = library.tile_rows() + reach, library.tile_columns() + reach
    block = layers.per_block(weight.shape[1], rows * columns * vector, MOST_OFFSET // (rows * columns))
    numbers, shape = _geometry(q, weight, height, width)
    offset = lambda c, ky, kx: (c * rows + ky) * columns + kx  # noqa: E731
    return _step("conv_images", q, weight, block, offset, (*shape, library.lanes()), **numbers)


def positions_step(q: Quantised, channels: int, height: int, width: int) -> Step:
    """(N, channels / 4, height, width) elements → the same of the output, or float32 (N, filters)."""
    library, op = _library(), q.op
    if op.linear or (not q.zero and op.out_size(height, width) == (1, 1) and not op.pool):
        weight, _ = _product(q, channels, height, width)
        groups = weight.shape[1]
        single = (len(weight),) if q.floats else (len(weight) // BLOCK, 1, 1)
        return _step("product_single", q, weight, MOST_OFFSET, lambda c, ky, kx: c, single, groups=groups)
    weight, kernel = packed(q.weight), op.weight.shape[-1]
    numbers, shape = _geometry(q, weight, height, width)
    rows, columns = layers.tile(op, height, width, library.lanes() * library.most_accumulators())
    packed_rows = rows + kernel - 1
    area = kernel * packed_rows * columns
    offset = lambda c, ky, kx: ((c * kernel + kx) * packed_rows + ky) * columns  # noqa: E731
    block = layers.per_block(weight.shape[1], 4 * area, MOST_OFFSET // area)
    return _step("conv_positions", q, weight, block, offset, shape, **numbers, rows=rows, columns=columns)


def _geometry(q: Quantised, weight: Tensor, height: int, width: int) -> tuple[dict[str, int], tuple[int, int, int]]:
    """(numbers of `Layer`, elements and map of the output) of a convolution."""
    numbers, size = q.op.geometry(0, height, width)
    numbers = {name: number for name, number in numbers.items() if name in Layer.NUMBERS.split()}
    return numbers | {"groups": weight.shape[1]}, (len(weight) // BLOCK, *size)


STEPS: dict[str, Callable[..., Step]] = {IMAGES: images_step, POSITIONS: positions_step}
