import pytest
import torch
from torch import nn

from helpers import frozen_convolution
from helpers.frozen_convolution import Frozen, frozen


@pytest.mark.parametrize("size", [(2, 2), (4, 4), (8, 4), (12, 16), (3, 5), (6, 6)])
@pytest.mark.parametrize(("channels", "outputs"), [(128, 64), (130, 3), (16, 24)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_result_is_the_convolution_s(size, channels, outputs, bias):
    generator = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(channels, outputs, 3, padding=1, bias=bias)
    for count in (1, 5):
        inputs = torch.randn(count, channels, *size, generator=generator)
        with torch.no_grad():
            expected = conv(inputs)
        for given in (inputs, inputs.contiguous(memory_format=torch.channels_last)):
            found = frozen(conv)(given)
            assert found.shape == expected.shape
            assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_tiles_and_the_dense_product_are_really_used(monkeypatch):
    taken = []
    monkeypatch.setattr(Frozen, "_tiled", lambda self, x: taken.append("tiled"))
    monkeypatch.setattr(Frozen, "_dense", lambda self, x: taken.append("dense"))
    layer = frozen(nn.Conv2d(frozen_convolution.MIN_CHANNELS, 8, 3, padding=1))
    for side in (8, 2, 6):
        layer(torch.zeros(1, frozen_convolution.MIN_CHANNELS, side, side))
    assert taken == ["tiled", "dense"]


def test_other_convolutions_stay_as_they_are():
    for conv in (
        nn.Conv2d(128, 8, 1),
        nn.Conv2d(128, 8, 3),
        nn.Conv2d(128, 8, 3, padding=1, stride=2),
        nn.Conv2d(128, 8, 3, padding=2, dilation=2),
        nn.Conv2d(128, 128, 3, padding=1, groups=2),
        nn.Conv2d(128, 8, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(128, 8, 3, padding=1).bfloat16(),
        nn.Linear(4, 4),
    ):
        assert frozen(conv) is conv
