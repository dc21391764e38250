"""Faster training of 3×3 convolutions on small maps, on the CPU, with the same results to rounding.

oneDNN is slow where maps are small and channels many: in the weight gradient, and with AMX in bringing the weights into its
own order. It also multiplies with the zeros of the padding. Four rewrites help, all exact in real numbers:

- *weight gradient*: one matrix product a tap over the positions whose input lies inside the map;
- *unfolded maps, with AMX*: outputs and both gradients are one product each, of weights in the order in which they lie (more
  multiplications, which cost little there);
- *2×2 maps*: each output position sees each input position through exactly one tap, so the whole convolution is one
  dense 4C × 4C product, 2.25 times fewer multiplications than nine taps at four positions;
- *maps divisible by 4, in float32*: Winograd's tiles (`winograd`), forward and backward, a quarter of the multiplications.
  Their transforms would lose bfloat16's few digits.

Which one a layer uses depends on its shape, the dtype and the processor only, never on a timing: training that was
interrupted and resumed gives the same bits. All of them take any number of images, none included.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from helpers import machine
from helpers.accelerate import winograd

DTYPES = (torch.float32, torch.bfloat16)
MIN_CHANNELS = 256  # with fewer, oneDNN's weight gradient is as fast
MIN_TILES = 128  # of a batch; with fewer, transforming the weights costs more than the products save
MIN_TILED = 64 * 128  # input times output channels; with fewer, the transforms cost more than the products save


@contextmanager
def replaced(network: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Within the context the 3×3 convolutions of `network` (stride 1, padding 1, one group) are `FastConv2d`.

    Parameters, hooks and the state dict's names stay as they are. In another dtype than float32 and bfloat16 nothing changes.
    """
    eligible = [m for m in network.modules() if type(m) is nn.Conv2d and _eligible(m)] if dtype in DTYPES else []
    try:
        for module in eligible:
            module.__class__ = FastConv2d  # a class, not a closure: copies made meanwhile stay sound
        yield
    finally:
        for module in eligible:
            module.__class__ = nn.Conv2d


def _eligible(conv: nn.Conv2d) -> bool:
    same = conv.padding in ((1, 1), "same") and conv.padding_mode == "zeros"
    return same and conv.kernel_size == (3, 3) and conv.stride == conv.dilation == (1, 1) and conv.groups == 1


class FastConv2d(nn.Conv2d):
    """A 3×3 convolution of stride 1 and padding 1 whose training step is computed as is fastest for its shape."""

    def _conv_forward(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        training = torch.is_grad_enabled() and weight.requires_grad
        if not training or inputs.ndim != 4 or inputs.device.type != "cpu":
            return super()._conv_forward(inputs, weight, bias)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else inputs.dtype
        fastest = rewrite(tuple(inputs.shape[2:]), *weight.shape[:2], dtype, len(inputs))
        if fastest is None:
            return super()._conv_forward(inputs, weight, bias)
        return fastest(inputs.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))


@functools.cache
def rewrite(
    size: tuple[int, int], outputs: int, channels: int, dtype: torch.dtype, images: int
) -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
    """What computes a convolution of maps of `size` fastest here: a function (inputs, weight, bias) → outputs; None: torch's own.

    Fixed rules, from measuring VGG16's layers one by one at batch 32 to 256.
    """
    deep = min(channels, outputs) >= MIN_CHANNELS
    if dtype not in DTYPES:
        return None
    if size == (2, 2):
        return dense_convolution
    if dtype == torch.bfloat16 and "amx_bf16" in machine.processor_flags():
        return unfolded_convolution if deep and max(size) <= 4 else None
    enough = channels * outputs >= MIN_TILED and images * size[0] * size[1] // winograd.TILE**2 >= MIN_TILES
    if dtype == torch.float32 and enough and winograd.divides(*size):
        return tiled_convolution
    # oneDNN's AVX2 kernels fall behind on larger maps than its AVX-512 ones do
    largest = 4 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 8
    return tap_convolution if deep and max(size) <= largest else None


# Rewrites: (N, C, H, W), (O, C, 3, 3), (O) → (N, O, H, W), all of one dtype -----------------------------------------------


def tap_convolution(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The weight gradient as nine matrix products, one a tap."""
    return _TapConvolution.apply(inputs, weight, bias)


def unfolded_convolution(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Outputs and gradients as products with unfolded maps."""
    return _UnfoldedConvolution.apply(inputs, weight, bias)


def dense_convolution(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of a 2×2 map as one product with a dense (4·O, 4·C) matrix."""
    return _DenseConvolution.apply(inputs, weight, bias)


def tiled_convolution(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of maps divisible by 4 by Winograd's tiles; in float32 or float64."""
    return _TiledConvolution.apply(inputs, weight, bias)


class _TapConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return F.conv2d(inputs, weight, bias, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        inputs, weight = ctx.saved_tensors
        for_inputs = for_weight = None
        if ctx.needs_input_grad[0]:
            one, zero, only_inputs = [1, 1], [0, 0], [True, False, False]
            backward = torch.ops.aten.convolution_backward
            for_inputs = backward(gradient, inputs, weight, None, one, one, one, False, zero, 1, only_inputs)[0]
        if ctx.needs_input_grad[1]:
            for_weight = tap_weight_gradient(inputs, gradient)
        return for_inputs, for_weight, _bias_gradient(ctx, gradient)


class _UnfoldedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        unfolded, taps = unfold(inputs), weight.permute(0, 2, 3, 1)
        ctx.save_for_backward(unfolded, taps)
        rows = taps.reshape(len(taps), -1).t()
        outputs = unfolded @ rows if bias is None else torch.addmm(bias, unfolded, rows)
        return maps_of(outputs, inputs, len(taps))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        unfolded, taps = ctx.saved_tensors
        for_inputs = for_weight = None
        if ctx.needs_input_grad[0]:  # a convolution with the weights turned round
            turned = taps.permute(1, 2, 0, 3).flip(0, 1)
            for_inputs = maps_of(unfold(gradient) @ turned.reshape(-1, taps.shape[3]), gradient, taps.shape[3])
        if ctx.needs_input_grad[1]:
            rows = gradient.permute(0, 2, 3, 1).reshape(-1, len(taps))
            for_weight = (rows.t() @ unfolded).view_as(taps).permute(0, 3, 1, 2)
        return for_inputs, for_weight, _bias_gradient(ctx, gradient)


class _DenseConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        matrix = dense_matrix(weight)
        ctx.save_for_backward(inputs, matrix)
        rows = rows_of(inputs)
        outputs = rows @ matrix.t() if bias is None else torch.addmm(bias.repeat(4), rows, matrix.t())
        return maps_of(outputs, inputs, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        inputs, matrix = ctx.saved_tensors
        for_inputs = maps_of(rows_of(gradient) @ matrix, inputs, inputs.shape[1]) if ctx.needs_input_grad[0] else None
        for_weight = tap_weight_gradient(inputs, gradient) if ctx.needs_input_grad[1] else None
        return for_inputs, for_weight, _bias_gradient(ctx, gradient)


class _TiledConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        maps, size = inputs.permute(0, 2, 3, 1), inputs.shape[2:]
        transformed = winograd.transform_weight(weight)
        outputs = inputs.new_empty(*maps.shape[:3], weight.shape[0])
        tiles = []
        for part in winograd.parts(maps, max(weight.shape[:2])):
            tiles.append(winograd.transform_inputs(maps[part]))
            outputs[part] = winograd.transform_outputs(torch.bmm(tiles[-1], transformed.mT), *size)
        ctx.save_for_backward(transformed, *tiles)
        return (outputs if bias is None else outputs.add_(bias)).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        transformed, *tiles = ctx.saved_tensors
        maps, size = gradient.permute(0, 2, 3, 1), gradient.shape[2:]
        for_inputs = maps.new_empty(*maps.shape[:3], transformed.shape[2]) if ctx.needs_input_grad[0] else None
        for_weight = torch.zeros_like(transformed)
        for part, seen in zip(winograd.parts(maps, max(transformed.shape[1:])), tiles, strict=True):
            caused = winograd.outputs_gradient(maps[part])
            for_weight.baddbmm_(caused.mT, seen)
            if for_inputs is not None:
                for_inputs[part] = winograd.inputs_gradient(torch.bmm(caused, transformed), *size)
        if for_inputs is not None:
            for_inputs = for_inputs.permute(0, 3, 1, 2)
        return for_inputs, winograd.weight_gradient(for_weight), _bias_gradient(ctx, gradient)


def _bias_gradient(ctx, gradient: Tensor) -> Tensor | None:
    return gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None


def unfold(maps: Tensor) -> Tensor:
    """(N, C, H, W) → (N·H·W, 9·C): the 3×3 neighbourhood of every position, tap by tap, with zeros around the map."""
    count, channels, height, width = maps.shape
    padded = F.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    image, row, column, _ = padded.stride()
    windows = padded.as_strided((count, height, width, 3, 3, channels), (image, row, column, row, column, 1))
    return windows.reshape(-1, 9 * channels)


def rows_of(maps: Tensor) -> Tensor:
    """(N, C, 2, 2) → (N, 4·C), a position's channels side by side; no copy in channels_last."""
    return maps.permute(0, 2, 3, 1).reshape(maps.shape[0], 4 * maps.shape[1])


def maps_of(rows: Tensor, like: Tensor, channels: int) -> Tensor:
    """Positions row by row, each with its channels side by side → (N, C, H, W) in channels_last, of as many images as `like`."""
    count, _, height, width = like.shape
    return rows.view(count, height, width, channels).permute(0, 3, 1, 2)


def dense_matrix(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) → (4·O, 4·C): rows (output position, o), columns (input position, c), positions row by row."""
    outputs, channels = weight.shape[:2]
    taps = weight.permute(0, 2, 3, 1)
    matrix = weight.new_empty(2, 2, outputs, 2, 2, channels)
    for i in (0, 1):
        for j in (0, 1):
            matrix[i, j] = taps[:, 1 - i : 3 - i, 1 - j : 3 - j]
    return matrix.view(4 * outputs, 4 * channels)


def tap_weight_gradient(inputs: Tensor, gradient: Tensor) -> Tensor:
    """Inputs (N, C, H, W), output gradients (N, O, H, W) → (O, C, 3, 3), over the positions whose input lies inside the map.

    The sum over images and positions runs inside a matrix product, which accumulates bfloat16 in float32.
    """
    height, width = inputs.shape[2:]
    x, g = inputs.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    taps = x.new_zeros(g.shape[3], 3, 3, x.shape[3])
    for i in range(3):
        for j in range(3):
            top, left = max(0, 1 - i), max(0, 1 - j)
            bottom, right = min(height, height + 1 - i), min(width, width + 1 - j)
            seen = x[:, top + i - 1 : bottom + i - 1, left + j - 1 : right + j - 1]
            if seen.numel():
                caused = g[:, top:bottom, left:right]
                taps[:, i, j] = caused.reshape(-1, g.shape[3]).t() @ seen.reshape(-1, x.shape[3])
    return taps.permute(0, 3, 1, 2)
