"""One layer of a folded network, with what is fused into it, as a step: sparse in either layout, or dense.

*images*: a vector register holds one position of several images; for batches. *positions*: a register holds neighbouring
positions of one image; for a few images.
"""

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import models
from helpers.sparse import kernels, lists

IMAGES, POSITIONS = "images", "positions"
FEWEST_IMAGES = 8  # a smaller batch runs in the positions layout
L1_BYTES = 32 * 1024  # of the packed tile: a whole L1 cache, since longer lists save more than the few misses cost
Step = Callable[[Tensor], Tensor]


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

    @property
    def density(self) -> float:
        return float((self.weight != 0).float().mean())

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Of the convolution, before the pool."""
        kernel = self.weight.shape[-1]
        return (height + 2 * self.padding - kernel) // self.stride + 1, (width + 2 * self.padding - kernel) // self.stride + 1


def lanes_of() -> int:
    """Images a vector."""
    return kernels.load().widest()


def layout_of(batch: int) -> str:
    return IMAGES if batch >= FEWEST_IMAGES else POSITIONS


def _operation(name: str, layer: nn.Conv2d | nn.Linear, relu: bool = False, pool: bool = False) -> Operation:
    weight = layer.weight.detach().float().contiguous()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().float().contiguous()
    if isinstance(layer, nn.Linear):
        return Operation(name, weight, bias, relu=relu)
    square = [getattr(layer, key)[0] == getattr(layer, key)[1] for key in ("kernel_size", "stride", "padding")]
    if not all(square) or layer.groups != 1 or layer.dilation != (1, 1) or layer.padding_mode != "zeros":
        raise ValueError(f"{name}: only square convolutions of one group, without dilation, run sparsely")
    return Operation(name, weight, bias, layer.stride[0], layer.padding[0], relu, pool)


def operations(network: models.VGG) -> list[Operation | nn.Module]:
    """The folded network as fused operations; a module that fuses with nothing stands by itself."""
    folded = models.fold_batch_norm(network)
    steps: list[Operation | nn.Module] = []
    for name, module in [*folded.features.named_children(), (None, nn.Flatten()), *folded.classifier.named_children()]:
        prefix = "features" if not any(isinstance(step, nn.Flatten) for step in steps) else "classifier"
        last = steps[-1] if steps and isinstance(steps[-1], Operation) else None
        if isinstance(module, nn.Conv2d | nn.Linear):
            steps.append(_operation(f"{prefix}.{name}", module))
        elif isinstance(module, nn.Identity | nn.Dropout):
            continue
        elif isinstance(module, nn.ReLU) and last and not last.pool:
            steps[-1] = Operation(**{**vars(last), "relu": True})
        elif isinstance(module, nn.MaxPool2d) and last and not last.pool and not last.linear:
            steps[-1] = Operation(**{**vars(last), "pool": True})
        else:
            steps.append(module)
    return steps


def _blocks(channels: int, bytes_per_channel: int, most: int) -> int:
    """Channels a block: as many as the cache holds, evenly shared."""
    count = -(-channels // max(1, min(most, L1_BYTES // bytes_per_channel)))
    return -(-channels // count)


def _step(function: str, pairs: lists.Lists, bias: Tensor, shape: Sequence[int], **numbers: int) -> Step:
    """A call of one compiled function; `shape` is the output's, without its first dimension."""
    tensors = {"values": pairs.values, "offsets": pairs.offsets, "starts": pairs.starts, "bias": bias.contiguous()}
    pointers = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    blocks = (len(pairs.starts) - 1) // len(bias)
    layer = kernels.Layer(**pointers, filters=len(bias), blocks=blocks, block=pairs.block, **numbers)
    call, address, name = getattr(kernels.load(), function), ctypes.addressof(layer), function

    def step(x: Tensor, _alive: tuple = (layer, tensors)) -> Tensor:
        out = x.new_empty(len(x), *shape)
        if call(address, x.data_ptr(), out.data_ptr(), len(x)):
            raise RuntimeError(f"{name} has no kernel for this layer")
        return out

    return step


def _geometry(op: Operation, channels: int, height: int, width: int) -> dict[str, int]:
    out_height, out_width = op.out_size(height, width)
    shape = {"channels": channels, "height": height, "width": width, "out_height": out_height, "out_width": out_width}
    return {**shape, "kernel": op.weight.shape[-1], "stride": op.stride, "padding": op.padding, "relu": op.relu, "pool": op.pool}


def _product(op: Operation, height: int, width: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """A linear layer, or a convolution of a tiny map, as (matrix, bias, output map)."""
    if op.linear:
        return op.weight, op.bias, (1, 1)
    size = op.out_size(height, width)
    return lists.unfolded(op.weight, height, width, op.stride, op.padding), op.bias.repeat_interleave(math.prod(size)), size


def images_step(op: Operation, channels: int, height: int, width: int) -> Step:
    """(N / lanes, channels, height, width, lanes) → the same of the output, on the non-zeros of `op`."""
    lanes = lanes_of()
    if op.linear or (max(height, width) <= 2 and max(op.out_size(height, width)) <= 2):
        matrix, bias, size = _product(op, height, width)
        pooled = op.pool and size == (2, 2)
        pairs = lists.of_product(matrix, _blocks(matrix.shape[1], 8 * lanes * 4, lists.MOST_OFFSET))
        shape = (len(op.weight), *((1, 1) if pooled else size), lanes)
        return _step("product_images", pairs, bias, shape, channels=matrix.shape[1], lanes=lanes, relu=op.relu, pool=pooled)
    kernel, stride = op.weight.shape[-1], op.stride
    rows, columns = (4, 2) if kernels.load().widest() == 8 else (4, 4)
    reach = (kernel - 1) // stride
    area = (rows + reach) * (columns + reach)

    def offset(c: np.ndarray, ky: np.ndarray, kx: np.ndarray) -> np.ndarray:
        phase = (c * stride + ky % stride) * stride + kx % stride
        return phase * area + ky // stride * (columns + reach) + kx // stride

    phases = area * stride * stride
    pairs = lists.of_convolution(op.weight, _blocks(channels, phases * lanes * 4, lists.MOST_OFFSET // phases), offset)
    geometry = _geometry(op, channels, height, width)
    shape = (len(op.weight), *_pooled(op, height, width), lanes)
    return _step("conv_images", pairs, op.bias, shape, **geometry, rows=rows, columns=columns, lanes=lanes)


def positions_step(op: Operation, channels: int, height: int, width: int) -> Step:
    """Contiguous (N, channels, height, width) → the same of the output, on the non-zeros of `op`."""
    if op.linear or (op.out_size(height, width) == (1, 1) and not op.pool):
        matrix, bias, size = _product(op, height, width)
        pairs = lists.of_product(matrix, lists.MOST_OFFSET)
        shape = (len(op.weight),) if op.linear else (len(op.weight), *size)
        return _step("product_single", pairs, bias, shape, channels=matrix.shape[1], relu=op.relu)
    kernel, stride = op.weight.shape[-1], op.stride
    out_height, out_width = op.out_size(height, width)
    most = kernels.load().widest() * kernels.load().most_accumulators()
    even = 2 if op.pool else 1  # a tile of a pooled layer holds whole 2×2 windows
    columns = out_width if even * out_width <= most else most // even // even * even
    rows = max(even, min(-(-out_height // even) * even, most // columns // even * even))
    packed_rows = rows + (kernel - 1) // stride
    area = kernel * stride * packed_rows * columns

    def offset(c: np.ndarray, ky: np.ndarray, kx: np.ndarray) -> np.ndarray:
        return (((c * kernel + kx) * stride + ky % stride) * packed_rows + ky // stride) * columns

    pairs = lists.of_convolution(op.weight, _blocks(channels, area * 4, lists.MOST_OFFSET // area), offset)
    shape = (len(op.weight), *_pooled(op, height, width))
    return _step("conv_positions", pairs, op.bias, shape, **_geometry(op, channels, height, width), rows=rows, columns=columns)


def _pooled(op: Operation, height: int, width: int) -> tuple[int, int]:
    out_height, out_width = op.out_size(height, width)
    return (out_height // 2, out_width // 2) if op.pool else (out_height, out_width)


def dense_step(op: Operation) -> Step:
    """(N, channels, height, width) → the same of the output, by oneDNN."""
    if op.linear:
        return lambda x: _relu(F.linear(x.flatten(1), op.weight, op.bias), op.relu)
    weight = op.weight.contiguous(memory_format=torch.channels_last)

    def step(x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        out = _relu(F.conv2d(x, weight, op.bias, op.stride, op.padding), op.relu)
        return F.max_pool2d(out, 2) if op.pool else out

    return step


def _relu(x: Tensor, wanted: bool) -> Tensor:
    return x.relu_() if wanted else x
