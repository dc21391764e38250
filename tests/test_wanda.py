import pytest
import tiny
import torch
from test_repair import network, outputs

from helpers import models
from helpers.pruning import masks, wanda


def test_squares_are_those_of_all_that_a_layer_reads():
    net, images = network(), tiny.images(270, 8).images  # more than one chunk
    found, plain = wanda.squares(net, images), outputs(net, images)
    for name, layer in models.weight_layers(net).items():
        ours = found[f"{name}.weight"]
        assert torch.allclose(ours.flatten().double(), plain[name][0].square().mean(0), rtol=1e-4, atol=1e-5)
        assert ours.shape == layer.weight.shape[1:]
    assert net.training is False and wanda.squares(net.train(), images[:5]) and net.training
    with pytest.raises(TypeError, match="helpers.models.VGG"):
        wanda.squares(torch.nn.Linear(3, 2), images)


def test_each_weight_is_weighed_by_what_it_reads():
    net = tiny.network((2,), (3,), image_size=2)
    squares = {name: torch.full(weight.shape[1:], 9.0) for name, weight in models.weights(net).items()}
    last = net.classifier[3].weight.data
    last.copy_(torch.tensor([[9.0, 1.0, 5.0]]).repeat(10, 1))
    last[0] *= 100
    squares["classifier.3.weight"] = torch.tensor([0.0, 100.0, 1.0])  # scores 0, 10 and 5, a hundred times that in the first
    kept = {"features.0.weight": 20, "classifier.0.weight": 5, "classifier.3.weight": 11}
    whole = wanda.prune(net, kept, squares)
    assert {name: int(mask.sum()) for name, mask in whole.items()} == kept
    assert whole["classifier.3.weight"].sum(1).tolist() == [2] + [1] * 9 and whole["classifier.3.weight"][:, 1].all()
    assert torch.equal(whole["features.0.weight"], masks.magnitude(net, kept)["features.0.weight"])  # reads the same all over
