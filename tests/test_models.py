"""The networks of the public releases, name by name and count by count."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from helpers import files, models, pretrained


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


def test_pretrained_weights_bring_their_normalization(tmp_path, monkeypatch):
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="WEIGHTS_DIR"):
        pretrained.load("cifar10")
    state = {name: tensor.contiguous() for name, tensor in models.VGG(10).state_dict().items()}
    save_file(state, tmp_path / "vgg16_bn_cifar10.safetensors")
    with pytest.raises(files.CorruptFile, match="normalisation"):
        pretrained.load("cifar10")
    header = {"normalisation": '{"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}'}
    save_file(state, tmp_path / "vgg16_bn_cifar10.safetensors", header)
    assert pretrained.load("cifar10").normalization.mean == (0.1, 0.2, 0.3)
    assert pretrained.training_of("cifar10") is None
    save_file(state, tmp_path / "vgg16_bn_cifar10.safetensors", header | {"training": '"40 epochs"'})
    assert pretrained.training_of("cifar10") == "40 epochs"
    save_file(state, tmp_path / "vgg16_bn_cifar100.safetensors", header)
    with pytest.raises(ValueError, match="10 classes, not 100"):
        pretrained.load("cifar100")


@pytest.mark.parametrize(
    "change", [{"widths": ["M", -1]}, {"widths": [10**9]}, {"widths": None}, {"hidden": [0]}, {"classes": 3}]
)
def test_a_description_that_is_no_network_is_refused(change):
    with pytest.raises(ValueError):
        models.build(small().architecture() | change)


def test_an_image_too_small_for_its_pools_is_refused():
    with pytest.raises(ValueError, match="max-pools"):
        models.VGG(10, image_size=16)
