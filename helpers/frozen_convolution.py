"""3×3 convolutions of a frozen network with fewer multiplications, in float32 on the CPU, the same to rounding.

The two rewrites of `fast_convolution` that need the weights transformed, with the transformed weights kept: that pays
where one set of weights serves thousands of images, with fewer channels than in training.
"""

import torch
from torch import Tensor, nn

from helpers import winograd
from helpers.fast_convolution import dense_matrix, maps_of, rows_of

MIN_CHANNELS = 128  # with fewer, oneDNN's direct convolution is faster


def frozen(conv: nn.Module) -> nn.Module:
    """`conv`, or a `Frozen` in its place where that may be faster; its weights must not change afterwards."""
    plain = isinstance(conv, nn.Conv2d) and conv.padding_mode == "zeros" and conv.groups == 1
    same = plain and conv.kernel_size == (3, 3) and conv.stride == conv.dilation == conv.padding == (1, 1)
    fits = same and conv.weight.dtype == torch.float32 and conv.weight.device.type == "cpu"
    return Frozen(conv) if fits else conv


class Frozen(nn.Module):
    """A convolution that takes the fastest way for the size of its input, its transformed weights kept.

    Input (N, C, H, W) float32, best in channels_last; output as the convolution's, without a gradient.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.conv = conv
        self._transformed: dict[str, Tensor] = {}

    def forward(self, inputs: Tensor) -> Tensor:
        size = tuple(inputs.shape[2:])
        if size == (2, 2):
            return self._dense(inputs)
        if self.conv.in_channels >= MIN_CHANNELS and winograd.divides(*size):
            return self._tiled(inputs)
        return self.conv(inputs)

    @torch.no_grad()
    def _dense(self, inputs: Tensor) -> Tensor:
        if "dense" not in self._transformed:
            self._transformed["dense"] = dense_matrix(self.conv.weight).t().contiguous()
        product = rows_of(inputs) @ self._transformed["dense"]
        return maps_of(product if self.conv.bias is None else product.add_(self.conv.bias.repeat(4)))

    @torch.no_grad()
    def _tiled(self, inputs: Tensor) -> Tensor:
        if "tiled" not in self._transformed:
            self._transformed["tiled"] = winograd.transform_weight(self.conv.weight)
        maps, size = inputs.permute(0, 2, 3, 1), inputs.shape[2:]
        parts = [
            winograd.transform_outputs(torch.bmm(winograd.transform_inputs(maps[part]), self._transformed["tiled"].mT), *size)
            for part in winograd.parts(maps, max(self._transformed["tiled"].shape[1:]))
        ]
        outputs = torch.cat(parts)
        return (outputs if self.conv.bias is None else outputs.add_(self.conv.bias)).permute(0, 3, 1, 2)
