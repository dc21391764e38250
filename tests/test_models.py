"""The networks of the public releases, name by name and count by count."""

import copy
import math

import pytest
import tiny
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from helpers import data, files, models, starts


def small(**changes) -> models.VGG:
    torch.manual_seed(0)
    return models.VGG(**{"num_classes": 7, "widths": (4, "M", 6, "M", 8), "hidden": (5,), "image_size": 8} | changes).eval()


def randomize_statistics(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()


@pytest.mark.parametrize(("classes", "parameters", "macs"), [(10, 15_253_578, 313_725_952), (100, 15_299_748, 313_772_032)])
def test_vgg16_has_the_released_size(classes, parameters, macs):
    network = models.VGG(classes)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert models.macs(network) == macs
    names = list(models.weight_layers(network))
    assert len(names) == 16
    assert (names[0], names[12], names[13:]) == ("features.0", "features.40", ["classifier.0", "classifier.3", "classifier.6"])


def test_a_layer_table_counted_by_hand():
    table = models.layer_table(small())
    # 8×8 image: conv 3→4 at 64 positions, 4→6 at 16, 6→8 at 4; linear 8·2·2→5, 5→7
    assert [layer.macs for layer in table] == [3 * 4 * 9 * 64, 4 * 6 * 9 * 16, 6 * 8 * 9 * 4, 32 * 5, 5 * 7]
    assert [layer.parameters for layer in table] == [112, 222, 440, 165, 42]
    assert [layer.output_size for layer in table] == [(4, 8, 8), (6, 4, 4), (8, 2, 2), (5,), (7,)]


def test_folding_batch_norm_changes_nothing_but_rounding():
    network = small()
    randomize_statistics(network)
    before = copy.deepcopy(network.state_dict())
    images = torch.randn(3, 3, 8, 8)
    folded = models.fold_batch_norm(network)
    torch.testing.assert_close(folded(images), network(images), rtol=1e-5, atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_a_file_carries_architecture_and_normalization(tmp_path):
    network = small(normalization=models.Normalization("mine", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    models.save(network, tmp_path / "n.safetensors")
    again = models.load(tmp_path / "n.safetensors")
    assert again.architecture() == network.architecture()
    assert again.normalization == network.normalization == copy.deepcopy(network).normalization
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in network.state_dict().items())


def test_damage_is_told_or_changes_nothing(tmp_path):
    network, path = small(), tmp_path / "n.safetensors"
    models.save(network, path)
    for broken in tiny.damaged(path.read_bytes(), 100):
        path.write_bytes(broken)
        try:
            again = models.load(path)
        except files.CorruptFile as error:
            assert str(path) in str(error)
        else:
            assert files.digest_of(again.state_dict()) == files.digest_of(network.state_dict())


def test_a_file_says_which_experiment_it_is_of(tmp_path):
    path = tmp_path / "n.safetensors"
    models.save(small(), path, experiment="abc", trained="{}")
    assert models.is_of(path, "abc") and not models.is_of(path, "abd") and not models.is_of(tmp_path / "none", "abc")
    assert models.metadata(path)["trained"] == "{}" and models.metadata(tmp_path / "none") == {}
    path.write_bytes(b"no network")
    assert models.metadata(path) == {}


CHANGES = {
    "folded": models.fold_batch_norm,
    "compiled": lambda n: torch.compile(n, backend="eager"),
    "a larger pool": lambda n: exchanged(n.features, 3, nn.MaxPool2d(3, 2, 1), n),
    "ceil mode": lambda n: exchanged(n.features, 3, nn.MaxPool2d(2, ceil_mode=True), n),
    "a stride": lambda n: exchanged(n.features, 4, nn.Conv2d(4, 6, 3, padding=1, stride=2), n),
    "one input channel": lambda n: exchanged(n.features, 0, nn.Conv2d(1, 4, 3, padding=1), n),
    "no running statistics": lambda n: exchanged(n.features, 1, nn.BatchNorm2d(4, track_running_stats=False), n),
    "another head": lambda n: exchanged(n.classifier, 3, nn.Linear(5, 3), n),
    "a head without bias": lambda n: exchanged(n.classifier, 3, nn.Linear(5, 7, bias=False), n),
    "a layer removed": lambda n: exchanged(n.features, 2, None, n),
    "a layer added": lambda n: exchanged(n.features, 8, nn.ReLU(), n),
    "weight norm": lambda n: nn.utils.parametrizations.weight_norm(n.features[0]) and n,
    "pruned by torch": lambda n: prune.l1_unstructured(n.features[0], "weight", 0.5) and n,
    "a subclass": lambda n: exchanged_class(n),
    "a hook": lambda n: n.features[0].register_forward_hook(lambda module, inputs, output: 2 * output) and n,
    "a hook before": lambda n: n.register_forward_pre_hook(lambda module, inputs: None) and n,
    "a forward of its own": lambda n: setattr(n.features[2], "forward", torch.sigmoid) or n,
}


def exchanged(layers: nn.Sequential, index: int, layer: nn.Module | None, network: models.VGG) -> models.VGG:
    if layer is None:
        del layers[index]
    elif index == len(layers):
        layers.append(layer)
    else:
        layers[index] = layer
    return network


def exchanged_class(network: models.VGG) -> models.VGG:
    network.__class__ = type("Changed", (models.VGG,), {"forward": lambda self, images: images})
    return network


@pytest.mark.parametrize("change", CHANGES)
def test_a_network_that_a_file_cannot_describe_is_refused_when_it_is_saved(tmp_path, change):
    network = CHANGES[change](small(widths=(4, "M", 6, "M"), image_size=8))
    state = torch.random.get_rng_state()
    with pytest.raises(ValueError, match="stored") as refused:
        models.save(network, tmp_path / "n")
    assert len(str(refused.value)) < 200 and not list(tmp_path.iterdir())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_does_not_change_a_network_is_no_reason_to_refuse_it(tmp_path):
    network = small()
    network.features[1].momentum = None
    network.set_dropout(0.9)
    network.to(memory_format=torch.channels_last)
    models.save(network.bfloat16(), tmp_path / "n")
    again = models.load(tmp_path / "n")
    assert again.features[0].weight.dtype == torch.float32
    assert torch.equal(again.features[0].weight, network.features[0].weight.float())


@pytest.mark.parametrize("use", [models.layer_table, models.macs, models.fold_batch_norm])
def test_another_architecture_is_one_sentence(use):
    with pytest.raises(TypeError, match=r"helpers\.models\.VGG.*Sequential"):
        use(nn.Sequential(nn.Conv2d(3, 4, 3)))


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((125.3, 123.0, 113.9), (0.2, 0.2, 0.2)),
        ((0.5, 0.5, 0.5), (63.0, 62.1, 66.7)),
        ((0.5,), (0.5,)),
        ((0.5, 0.5, 0.5), (0.5, 0.0, 0.5)),
        ((0.5, 0.5, 0.5), (0.5, -0.5, 0.5)),
        ((math.nan, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ((0.5, 0.5, 0.5), (0.5, math.inf, 0.5)),
    ],
)
def test_a_normalization_that_cannot_be_one_is_refused(mean, std):
    with pytest.raises(ValueError, match="normalisation"):
        models.Normalization("mine", mean, std)
    with pytest.raises(ValueError):
        models.build(small().architecture() | {"normalization": {"name": "mine", "mean": mean, "std": std}})


def test_identities_hand_the_inputs_on():
    network = tiny.network()
    convolutions = [module for module in network.features if isinstance(module, torch.nn.Conv2d)]
    before = [convolution.weight.detach().clone() for convolution in convolutions]
    starts.add_identities(network)
    for convolution, weight in zip(convolutions, before, strict=True):
        inputs = torch.randn(2, convolution.in_channels, 5, 5)
        same = min(convolution.in_channels, convolution.out_channels)
        added = F.conv2d(inputs, convolution.weight - weight / 4, padding=1)
        torch.testing.assert_close(added[:, :same], inputs[:, :same])
        assert not added[:, same:].any()


@pytest.mark.parametrize("filters", [4, 60])
def test_whitened_filters_answer_with_variance_one_each_in_its_own_direction(filters):
    network = tiny.network((filters, "M"))
    first = network.features[0]
    before, images = first.weight.detach().clone(), data.normalize(tiny.images(40).images, network.normalization)
    starts.whiten(network, images)
    pairs = min(27, filters // 2)
    answers = F.conv2d(images, first.weight).transpose(0, 1).flatten(1)[: 2 * pairs]
    torch.testing.assert_close(answers[:pairs], -answers[pairs:])
    torch.testing.assert_close(answers[:pairs] @ answers[:pairs].T / answers.shape[1], torch.eye(pairs), atol=0.01, rtol=0)
    assert torch.equal(first.weight[2 * pairs :], before[2 * pairs :])


def test_widths_are_divided_and_never_vanish():
    assert models.scaled(models.VGG11, 32) == (2, "M", 4, "M", 8, 8, "M", 16, 16, "M", 16, 16, "M")
    assert models.scaled((8, "M", 3), 4) == (2, "M", 1)


@pytest.mark.parametrize(
    "change", [{"widths": ["M", -1]}, {"widths": [10**9]}, {"widths": None}, {"hidden": [0]}, {"classes": 3}]
)
def test_a_description_that_is_no_network_is_refused(change):
    with pytest.raises(ValueError):
        models.build(small().architecture() | change)


def test_an_image_too_small_for_its_pools_is_refused():
    with pytest.raises(ValueError, match="max-pools"):
        models.VGG(10, image_size=16)
