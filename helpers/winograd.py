"""3×3 convolutions of a frozen network with fewer multiplications, in float32 on the CPU, the same to rounding.

*Maps divisible by 4*: F(4×4, 3×3) of Lavin and Gray (2016), "Fast algorithms for convolutional neural networks",
section 4: a 4×4 output tile costs 36 products a pair of channels instead of 144, done as 36 matrix products over all
tiles. Their two transforms cost memory traffic, so few channels do not gain. *2×2 maps*: one dense product, see
`fast_convolution`. Both need the weights transformed, which pays where one set of weights serves thousands of images.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.fast_convolution import _maps, _rows, dense_matrix

MIN_CHANNELS = 128  # with fewer, oneDNN's direct convolution is faster
CHUNK = 128  # tiles done together: more would fall out of the cache, fewer would read the weights too often

# Lavin and Gray (2016), section 4.3: Bᵀ (inputs), G (weights) and Aᵀ (outputs), for the points 0, ±1, ±2 and infinity
INPUT = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
WEIGHT = [[1 / 4, 0, 0], [-1 / 6] * 3, [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


def _twice(matrix: list[list[float]]) -> Tensor:
    """The transform of rows and of columns in one."""
    return torch.kron(*[torch.tensor(matrix, dtype=torch.float64)] * 2).float()


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
        if self.conv.in_channels >= MIN_CHANNELS and not (size[0] % 4 or size[1] % 4):
            return self._tiled(inputs)
        return self.conv(inputs)

    @torch.no_grad()
    def _dense(self, inputs: Tensor) -> Tensor:
        if "dense" not in self._transformed:
            self._transformed["dense"] = dense_matrix(self.conv.weight).t().contiguous()
        product = _rows(inputs) @ self._transformed["dense"]
        return _maps(product if self.conv.bias is None else product.add_(self.conv.bias.repeat(4)))

    @torch.no_grad()
    def _tiled(self, inputs: Tensor) -> Tensor:
        if "tiled" not in self._transformed:
            flat = self.conv.weight.permute(2, 3, 1, 0).reshape(9, -1)  # (tap, C·O)
            self._transformed["tiled"] = (_twice(WEIGHT) @ flat).view(36, self.conv.in_channels, self.conv.out_channels)
        images = max(1, CHUNK // (inputs.shape[2] * inputs.shape[3] // 16))
        parts = [self._tiles(part) for part in inputs.split(images)]
        return torch.cat(parts).permute(0, 3, 1, 2)

    def _tiles(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) → (N, H, W, O)."""
        count, channels, height, width = inputs.shape
        rows, columns, outputs = height // 4, width // 4, self.conv.out_channels
        padded = F.pad(inputs, (1, 1, 1, 1)).permute(0, 2, 3, 1).contiguous()
        image, row, column, _ = padded.stride()
        strides = (row, column, image, 4 * row, 4 * column, 1)
        tiles = padded.as_strided((6, 6, count, rows, columns, channels), strides).reshape(36, -1)
        products = torch.bmm((_twice(INPUT) @ tiles).view(36, -1, channels), self._transformed["tiled"])
        maps = (_twice(OUTPUT) @ products.view(36, -1)).view(4, 4, count, rows, columns, outputs)
        maps = maps.permute(2, 3, 0, 4, 1, 5).reshape(count, height, width, outputs)
        return maps if self.conv.bias is None else maps.add_(self.conv.bias)
