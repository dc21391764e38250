import pytest
import tiny
import torch
from test_repair import network

from helpers import models
from helpers.pruning import errors, masks
from helpers.pruning.errors import Curve
from helpers.pruning.regression import Samples


def test_a_curve_rises_from_nothing_and_a_given_density_is_solved_for():
    net, images = network(), tiny.images(60, 8).images
    found = errors.curves(net, images, samples=Samples(60, 20), densities=(0.8, 0.4, 0.1), outputs=5)
    assert list(found) == list(models.weights(net))
    for curve in found.values():
        assert curve.densities == (1.0, 0.8, 0.4, 0.1) and curve.errors[0] == 0
        assert 0 <= curve.errors[1] < curve.errors[2] < curve.errors[3] < 1
    with pytest.raises(TypeError, match="helpers.models.VGG"):
        errors.curves(torch.nn.Linear(3, 2), images)


def test_counts_by_error_are_exact_nested_and_the_same_for_the_same_layers():
    net = models.VGG(10, (16, 16, 16), (), image_size=4)
    layers = list(models.weights(net))
    one = Curve((1.0, 0.5, 0.25, 0.1, 0.02), (0.0, 0.01, 0.04, 0.2, 0.6))
    found = dict.fromkeys(layers, one)
    total, before = sum(weight.numel() for weight in models.weights(net).values()), None
    for sparsity in (0.0, 0.3, 0.8, 0.95):
        counts = errors.allocate(net, found, sparsity)
        assert sum(counts.values()) == masks.kept_count(total, sparsity)
        assert abs(counts["features.3.weight"] - counts["features.6.weight"]) <= 1
        assert before is None or all(counts[name] <= before[name] for name in layers)
        before = counts
    assert errors.allocate(net, found, 0.0) == {name: weight.numel() for name, weight in models.weights(net).items()}


def test_the_last_weight_is_worth_the_same_in_all_layers_for_its_price():
    """With errors c / n, where n are kept weights, a weight is worth c / n²: n goes with the root of c over the price."""
    net = models.VGG(10, (16, 16, 16), (), image_size=4)
    sizes = {name: weight.numel() for name, weight in models.weights(net).items()}
    densities = tuple(0.8**i for i in range(30))
    strengths = dict(zip(sizes, (0.5, 1.0, 4.0, 1.0), strict=True))
    found = {
        name: Curve(densities, tuple(strengths[name] * (1 / (density * size) - 1 / size) for density in densities))
        for name, size in sizes.items()
    }
    counts = errors.allocate(net, found, 0.95)
    assert counts["features.6.weight"] == pytest.approx(2 * counts["features.3.weight"], rel=0.02)
    dear = errors.allocate(net, found, 0.95, alpha=1)  # sixteen positions, one in the linear layer
    assert dear["features.6.weight"] == pytest.approx(2 * dear["features.3.weight"], rel=0.02)
    assert dear["classifier.0.weight"] == pytest.approx(4 * dear["features.3.weight"], rel=0.02)


def test_what_the_curves_cannot_tell_is_refused():
    net = models.VGG(10, (16, 16, 16), (), image_size=4)
    one = Curve((1.0, 0.5, 0.1), (0.0, 0.1, 0.4))
    with pytest.raises(ValueError, match="within reach"):
        errors.allocate(net, dict.fromkeys(models.weights(net), one), 0.95)
    with pytest.raises(ValueError, match="curves are of the weights features.0.weight;"):
        errors.allocate(net, {"features.0.weight": one}, 0.5)
