"""Convolutions that are quick to differentiate twice.

PyTorch's own second derivative of a convolution computes a weight gradient as a convolution whose kernel is as large as
the image, which no library is fast at. Written with the operators of the first derivative it costs four convolutions.
"""

import types

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Geometry = tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]  # stride, padding, dilation, groups


def _gradients(output: Tensor, inputs: Tensor, weight: Tensor, geometry: Geometry, wanted: tuple[bool, bool]):
    """(gradient of the inputs, gradient of the weight) of a convolution, None where not wanted."""
    stride, padding, dilation, groups = geometry
    return torch.ops.aten.convolution_backward(
        output, inputs, weight, None, stride, padding, dilation, False, (0, 0), groups, (*wanted, False)
    )[:2]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.geometry = geometry
        return F.conv2d(inputs, weight, bias, *geometry)

    @staticmethod
    def backward(ctx, output: Tensor):
        inputs, weight = ctx.saved_tensors
        bias = output.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return (*_Backward.apply(output, inputs, weight, ctx.geometry, tuple(ctx.needs_input_grad[:2])), bias, None)


class _Backward(torch.autograd.Function):
    """(∂L/∂y, x, W) → (∂L/∂x, ∂L/∂W), itself differentiable: both are bilinear, so their gradients are convolutions again."""

    @staticmethod
    def forward(ctx, output: Tensor, inputs: Tensor, weight: Tensor, geometry: Geometry, wanted: tuple[bool, bool]):
        ctx.save_for_backward(output, inputs, weight)
        ctx.geometry = geometry
        ctx.set_materialize_grads(False)
        return tuple(_gradients(output, inputs, weight, geometry, wanted))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, of_inputs: Tensor | None, of_weight: Tensor | None):
        output, inputs, weight = ctx.saved_tensors
        needs_output, needs_inputs, needs_weight = ctx.needs_input_grad[:3]
        d_output = d_inputs = d_weight = None
        if of_inputs is not None:
            if needs_output:
                d_output = F.conv2d(of_inputs, weight, None, *ctx.geometry)
            if needs_weight:
                d_weight = _gradients(output, of_inputs, weight, ctx.geometry, (False, True))[1]
        if of_weight is not None:
            if needs_output:
                more = F.conv2d(inputs, of_weight, None, *ctx.geometry)
                d_output = more if d_output is None else d_output + more
            if needs_inputs:
                d_inputs = _gradients(output, inputs, of_weight, ctx.geometry, (True, False))[0]
        return d_output, d_inputs, d_weight, None, None


def _forward(self: nn.Conv2d, inputs: Tensor) -> Tensor:
    return _Convolution.apply(inputs, self.weight, self.bias, (self.stride, self.padding, self.dilation, self.groups))


def prepare(network: nn.Module) -> None:
    """Give every ordinary convolution of `network` the quick second derivative, in place; the outputs are the same bits."""
    for module in network.modules():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            module.forward = types.MethodType(_forward, module)
