import pytest
import tiny
import torch
from test_repair import network, outputs

from helpers import models
from helpers.pruning import energy, masks
from helpers.pruning.energy import Moments


def by_hand(variances=(1.0, 4.0, 1.0), output_variances=(5.0, 10.0, 2.0)) -> tuple[models.VGG, dict[str, Moments]]:
    """One convolution of 1 × 1 maps and two linear layers whose weights are 1 … n / n, and moments that are the same all over."""
    net = tiny.network((2,), (3,), image_size=2)
    found = {}
    for (name, weight), v, out in zip(models.weights(net).items(), variances, output_variances, strict=True):
        weight.data.copy_((torch.arange(weight.numel()) + 1.0).view_as(weight) / weight.numel())
        shape = weight.shape[1:]
        found[name] = Moments(torch.full(shape, 9.0), torch.full(shape, v), torch.full((len(weight),), out / len(weight)))
    return net, found


# Moments -----------------------------------------------------------------------------------------------------------


def test_moments_are_those_of_all_that_a_layer_reads_and_gives():
    net, images = network(), tiny.images(270, 8).images  # more than one chunk
    found, plain = energy.moments(net, images), outputs(net, images)
    for name, layer in models.weight_layers(net).items():
        (x, y), ours = plain[name], found[f"{name}.weight"]
        assert torch.allclose(ours.square.flatten().double(), x.square().mean(0), rtol=1e-4, atol=1e-5)
        assert torch.allclose(ours.variance.flatten().double(), x.var(0, correction=0), rtol=1e-4, atol=1e-5)
        assert torch.allclose(ours.output_variance.double(), y.var(0, correction=0), rtol=1e-4, atol=1e-5)
        assert ours.variance.shape == layer.weight.shape[1:]
    assert net.training is False and energy.moments(net.train(), images[:5]) and net.training
    with pytest.raises(TypeError, match="helpers.models.VGG"):
        energy.moments(torch.nn.Linear(3, 2), images)


# Scores ------------------------------------------------------------------------------------------------------------


def test_wanda_weighs_each_weight_by_what_it_reads():
    net, found = by_hand()
    last = net.classifier[3].weight.data
    last.copy_(torch.tensor([[9.0, 1.0, 5.0]]).repeat(10, 1))
    last[0] *= 100
    squares = torch.tensor([0.0, 100.0, 1.0])  # scores 0, 10 and 5, and a hundred times that in the first output
    found["classifier.3.weight"] = Moments(squares, squares, torch.ones(10))
    kept = {"features.0.weight": 20, "classifier.0.weight": 5, "classifier.3.weight": 11}
    whole = energy.wanda(net, kept, found)
    assert {name: int(mask.sum()) for name, mask in whole.items()} == kept
    assert whole["classifier.3.weight"].sum(1).tolist() == [2] + [1] * 9 and whole["classifier.3.weight"][:, 1].all()
    assert torch.equal(whole["features.0.weight"], masks.magnitude(net, kept)["features.0.weight"])  # reads the same all over


# Counts ------------------------------------------------------------------------------------------------------------


def test_energy_counts_by_hand():
    """Layers of 54, 24 and 30 weights j / n; energies (j / n)² · v / out, with v / out = 1/5, 4/10 and 1/2."""
    net, found = by_hand()
    sizes = {name: weight.numel() for name, weight in models.weights(net).items()}
    assert list(sizes.values()) == [54, 24, 30]
    for sparsity in (0.0, 0.5, 0.9):
        for alpha, positions in ((0, 1), (0.5, 2), (1, 4)):
            factors = (1 / 5 / positions, 4 / 10, 1 / 2)
            ranked = sorted(
                ((j / n) ** 2 * factor, -layer)
                for layer, (n, factor) in enumerate(zip(sizes.values(), factors, strict=True))
                for j in range(1, n + 1)
            )
            kept = [-layer for _, layer in ranked[round(108 * sparsity) :]]
            expected = dict(zip(sizes, (kept.count(layer) for layer in range(3)), strict=True))
            assert energy.allocate(net, found, sparsity, alpha=alpha) == expected
    with pytest.raises(ValueError, match="sparsity"):
        energy.allocate(net, found, 1.0)
