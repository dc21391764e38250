"""Weights from elsewhere: with their own normalisation or not at all, and nothing in a file is executed."""

import hashlib
import json

import pytest
import tiny
import torch
from safetensors.torch import save_file

from helpers import files, models, pretrained, settings

HEADER = {"normalisation": '{"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}'}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in models.VGG(10).state_dict().items()}


@pytest.fixture
def place(own_folders):
    """Where the weights of CIFAR-10 belong."""
    path = settings.weights_path("cifar10")
    path.parent.mkdir()
    return path


@pytest.fixture
def hub(own_folders, monkeypatch):
    """Where torch keeps downloads, with no network."""
    monkeypatch.setenv("TORCH_HOME", str(own_folders / "torch"))
    monkeypatch.setattr(pretrained, "RELEASE", "http://127.0.0.1:9")
    folder = own_folders / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_a_state_dict_brings_its_normalization(place, state):
    with pytest.raises(FileNotFoundError, match="WEIGHTS_DIR"):
        pretrained.load("cifar10")
    save_file(state, place, HEADER)
    network = pretrained.load("cifar10")
    assert (network.normalization.mean, network.normalization.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in state.items())
    assert not network.training and pretrained.training_of("cifar10") is None
    save_file(state, place, HEADER | {"training": '"40 epochs"'})
    assert pretrained.training_of("cifar10") == "40 epochs"


@pytest.mark.parametrize(
    "values",
    [
        None,
        {"mean": [0.5] * 3},
        {"mean": [125.0] * 3, "std": [63.0] * 3},
        {"mean": [0.5], "std": [0.5]},
        {"mean": [0.5] * 3, "std": [0.5, 0.0, 0.5]},
        {"mean": [float("nan")] * 3, "std": [0.5] * 3},
    ],
)
def test_a_header_without_a_right_normalization_is_refused(place, state, values):
    save_file({"classifier.6.bias": state["classifier.6.bias"]}, place, {"normalisation": json.dumps(values)} if values else None)
    with pytest.raises(files.CorruptFile, match="normalisation"):
        pretrained.load("cifar10")


def test_a_saved_network_is_a_weights_file(place):
    network = tiny.network(normalization=models.NORMALIZATIONS["imagenet"])
    models.save(network, place)
    again = pretrained.load("cifar10")
    assert again.architecture() == network.architecture()
    assert files.digest_of(again.state_dict()) == files.digest_of(network.state_dict())
    models.save(models.VGG(7, (4, "M"), ()), place)
    with pytest.raises(ValueError, match="7 classes, not 10"):
        pretrained.load("cifar10")
    place.write_bytes(place.read_bytes()[:-3])
    with pytest.raises(files.CorruptFile, match=place.name):
        pretrained.load("cifar10")


@pytest.mark.parametrize("outputs", [1, 9, 100])
def test_weights_of_another_data_set_are_named(place, state, outputs):
    head = {"classifier.6.weight": torch.zeros(outputs, 512), "classifier.6.bias": torch.zeros(outputs)}
    save_file(state | head, place, HEADER)
    with pytest.raises(ValueError, match=f"{outputs} classes, not 10"):
        pretrained.load("cifar10")


def test_weights_of_another_network_are_one_line(place, state):
    save_file({name: tensor for name, tensor in state.items() if name != "features.3.weight"}, place, HEADER)
    with pytest.raises(ValueError, match=r"features\.3") as refused:
        pretrained.load("cifar10")
    assert len(str(refused.value)) < 300 and "\n" not in str(refused.value)


def test_weights_that_are_not_finite_are_refused(place, state):
    save_file(state | {"features.0.bias": torch.full((64,), float("nan"))}, place, HEADER)
    with pytest.raises(ValueError, match=r"features\.0\.bias"):
        pretrained.load("cifar10")


def test_the_released_networks_bring_the_normalization_they_were_trained_with(hub, state, monkeypatch):
    torch.save(state, hub / "weights.pt")
    digest = hashlib.sha256((hub / "weights.pt").read_bytes()).hexdigest()
    name = f"weights-{digest[:8]}.pt"
    (hub / "weights.pt").rename(hub / name)
    monkeypatch.setattr(pretrained, "RELEASED", {"cifar10": name})
    network = pretrained.load("cifar10", "hub")
    assert network.normalization.std == (0.2023, 0.1994, 0.2010)
    pretrained.main(["hub:cifar10", "--out", str(hub / "out")])
    assert models.load(hub / "out").architecture() == network.architecture()
    assert models.VGG(10).normalization.std == (0.2470, 0.2435, 0.2616)  # the data set's own, which this project trains with
    assert pretrained.RELEASED_NORMALIZATIONS["cifar100"].std == (0.2673, 0.2564, 0.2761)


def test_a_cached_release_that_is_another_file_is_not_loaded(hub, state):
    cached = hub / pretrained.RELEASED["cifar10"]
    torch.save(state, cached)  # whole and loadable, yet not what its name says
    with pytest.raises(files.CorruptFile, match=cached.name):
        pretrained.load("cifar10", "hub")


def test_no_network_is_one_clear_line(hub):
    with pytest.raises(FileNotFoundError, match="use local weights"):
        pretrained.load("cifar10", "hub")


def test_code_in_weights_is_never_executed(place, hub, tmp_path):
    target = tmp_path / "executed"
    torch.save({"classifier.6.bias": tiny.Malicious(target)}, tmp_path / "torch.pt")
    for content in (tiny.trap(target), (tmp_path / "torch.pt").read_bytes()):
        for path, source in ((place, "local"), (hub / pretrained.RELEASED["cifar10"], "hub")):
            path.write_bytes(content)
            with pytest.raises(files.CorruptFile, match=path.name):
                pretrained.load("cifar10", source)
    assert not target.exists()


@pytest.mark.parametrize(("arguments", "nearest"), [(("cifar1O",), "cifar10"), (("cifar10", "locale"), "local")])
def test_an_unknown_name_gets_the_nearest_one(arguments, nearest):
    with pytest.raises(ValueError, match=f"did you mean '{nearest}'"):
        pretrained.load(*arguments)
