"""The transforms' adjoints; that they make the convolution is seen where they are used."""

import pytest
import torch

from helpers import winograd

MAPS, PRODUCTS, WEIGHT = (3, 8, 12, 5), (36, 18, 7), (7, 5, 3, 3)


@pytest.mark.parametrize(
    ("transform", "adjoint", "shape"),
    [
        (winograd.transform_weight, winograd.weight_gradient, WEIGHT),
        (winograd.transform_inputs, lambda y: winograd.inputs_gradient(y, 8, 12), MAPS),
        (lambda x: winograd.transform_outputs(x, 8, 12), winograd.outputs_gradient, PRODUCTS),
    ],
    ids=["weight", "inputs", "outputs"],
)
def test_every_gradient_is_the_adjoint_of_its_transform(transform, adjoint, shape):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    y = torch.randn_like(transform(x))
    back = adjoint(y)
    assert back.shape == x.shape
    torch.testing.assert_close((transform(x) * y).sum(), (x * back).sum())


def test_parts_hold_every_image_once_and_fit_the_buffer():
    maps = torch.empty(1000, 16, 16, 1)
    for channels in (64, 512):
        parts = list(winograd.parts(maps, channels))
        assert [i for part in parts for i in range(*part.indices(1000))] == list(range(1000))
        assert max(part.stop - part.start for part in parts) * 36 * 16 * channels <= winograd.BUFFER
    huge = torch.empty(2, 512, 512, 1)
    assert list(winograd.parts(huge, 512)) == [slice(0, 1), slice(1, 2)]
