"""What strangers bring, as docs/cases.md lists it: checkpoints, networks of their own, bare environments. Seconds each."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune

from helpers import data, measurement, models, pretrained, settings, storage, training
from helpers.pruning import channels, masks, scores, sensitivity, widths
from helpers.pruning.masks import MaskHook
from helpers.sparse.network import compile_sparse

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
State = dict[str, Tensor]


def trained(hidden: tuple[int, ...] = (16, 16), biases: bool = True, **options) -> models.VGG:
    """A thin VGG16 none of whose tensors is what a new network has."""
    torch.manual_seed(0)
    network = models.VGG(**{"num_classes": 10, "widths": models.scaled(models.VGG16, 8), "hidden": hidden} | options).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in module.weight.data, module.bias.data, module.running_mean, module.running_var:
                tensor.uniform_(0.5, 1.5)
        elif isinstance(module, nn.Conv2d) and not biases:
            module.bias.data.zero_()
    return network


def saved(tmp_path, content):
    torch.save(content, tmp_path / "theirs.pt")
    return tmp_path / "theirs.pt"


# A checkpoint from elsewhere ----------------------------------------------------------------------------------------


def prefixed(prefix: str) -> Callable[[models.VGG], State]:
    return lambda network: {prefix + name: tensor for name, tensor in network.state_dict().items()}


def of_other_names(network: models.VGG) -> State:
    """`backbone.conv0.weight`, `backbone.bn0.weight`, …, `classifier.weight`; no biases of convolutions."""
    state = {}
    for called, kind in (("conv", nn.Conv2d), ("bn", nn.BatchNorm2d)):
        for i, module in enumerate(module for module in network.features if isinstance(module, kind)):
            state |= {f"backbone.{called}{i}.{name}": tensor for name, tensor in module.state_dict().items()}
    state |= {f"classifier.{name}": tensor for name, tensor in network.classifier[0].state_dict().items()}
    return {name: tensor for name, tensor in state.items() if "conv" not in name or "bias" not in name}


CHECKPOINTS = {
    "as torch saves it": ((16, 16), prefixed("")),
    "trained in parallel": ((16, 16), lambda n: {"net": prefixed("module.")(n), "acc": 93.1, "epoch": 200}),
    "compiled": ((16, 16), lambda n: {"model": prefixed("module._orig_mod.")(n)}),
    "one linear layer": ((), lambda n: {k.replace("classifier.0", "classifier"): t for k, t in n.state_dict().items()}),
    "a wide head": ((128, 128), lambda n: {"state_dict": n.state_dict(), "optimizer": {"state": {}, "param_groups": []}}),
    "without counters": ((4,), lambda n: {k: t for k, t in n.state_dict().items() if "num_batches" not in k}),
    "in double precision": ((4,), lambda n: dict(n.double().state_dict())),
    "other names": ((), lambda n: {"state_dict": of_other_names(n)}),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint_from_elsewhere_becomes_a_weights_file(own_folders, case, capsys):
    hidden, content = CHECKPOINTS[case]
    network, images = trained(hidden, biases=case != "other names"), torch.randn(3, 3, 32, 32)
    theirs = saved(own_folders, content(network))
    converted = pretrained.convert(theirs, MEAN, STD)
    assert torch.equal(converted(images), network.float()(images)) and converted.hidden == hidden
    renamed = case not in ("as torch saves it", "a wide head", "without counters", "in double precision")
    assert ("matched by order and shape" in capsys.readouterr().err) == renamed
    models.save(converted, settings.weights_path("cifar10"))
    again = pretrained.load("cifar10")
    assert (again.normalization.mean, again.normalization.std) == (MEAN, STD) and torch.equal(again(images), network(images))


def test_a_safetensors_file_keeps_no_order_and_is_read_in_the_right_one(tmp_path):
    network, images = trained((), biases=False), torch.randn(2, 3, 32, 32)
    save_file({name: tensor.contiguous() for name, tensor in of_other_names(network).items()}, tmp_path / "theirs")
    assert torch.equal(pretrained.convert(tmp_path / "theirs", MEAN, STD)(images), network(images))


def test_widths_and_image_size_are_asked_for_where_names_do_not_tell_them(tmp_path):
    own = trained(widths=(7, "M", 9, "M", 11), image_size=20)
    theirs = saved(tmp_path, own.state_dict())
    with pytest.raises(ValueError, match="3 convolutions and is no VGG11.*give widths"):
        pretrained.convert(theirs, MEAN, STD)
    with pytest.raises(ValueError, match=r"classifier\.0.*image_size"):
        pretrained.convert(theirs, MEAN, STD, widths=own.widths)
    with pytest.raises(ValueError, match=r"features\.4 would be features\.3"):
        pretrained.convert(theirs, MEAN, STD, widths=(7, 9, "M", 11, "M"), image_size=20)
    images = torch.randn(2, 3, 20, 20)
    assert torch.equal(pretrained.convert(theirs, MEAN, STD, widths=own.widths, image_size=20)(images), own(images))


def without_norms(network: models.VGG) -> State:
    norms = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    return {name: tensor for name, tensor in network.state_dict().items() if name.rpartition(".")[0] not in norms}


def relu_first(network: models.VGG) -> State:
    """Names of a network whose batch norms come after the ReLUs."""
    norms = {f"features.{i}": f"features.{i + 1}" for i, m in enumerate(network.features) if isinstance(m, nn.BatchNorm2d)}
    parted = {name.rpartition("."): tensor for name, tensor in network.state_dict().items()}
    return {f"{norms.get(layer, layer)}.{part}": tensor for (layer, _, part), tensor in parted.items()}


def without(name: str) -> Callable[[models.VGG], State]:
    return lambda network: {n: tensor for n, tensor in network.state_dict().items() if n != name}


def pruned_by_torch(network: models.VGG) -> State:
    prune.l1_unstructured(network.features[0], "weight", 0.5)
    return network.state_dict()


def residual(*blocks: int) -> State:
    """Names and shapes of a residual network for CIFAR without convolutions in its shortcuts."""
    state, before = {"linear.weight": torch.zeros(10, blocks[-1]), "linear.bias": torch.zeros(10)}, 3
    for i, width in enumerate(blocks):
        state |= {f"layer{i}.conv.weight": torch.zeros(width, before, 3, 3)}
        state |= {f"layer{i}.bn.{name}": torch.ones(width) for name in ("weight", "bias", "running_mean", "running_var")}
        before = width
    return state


NO_VGG = {
    "no batch norm": (without_norms, "13 Conv2d, 0 BatchNorm2d"),
    "ReLU before batch norm": (relu_first, r"features\.2 would be features\.1"),
    "masks of torch": (pruned_by_torch, r"features\.0 \(bias, weight_orig, weight_mask\)"),
    "residual": (lambda n: residual(*[16] * 5, *[32] * 4, *[64] * 4), "13 convolutions.*give widths"),  # as many as VGG16 has
    "whole numbers": (lambda n: {k: t.to(torch.int8) for k, t in n.state_dict().items()}, r"features\.0.*torch\.int8"),
    "a layer more": (lambda n: n.state_dict() | {"attention.scale": torch.ones(3)}, r"attention \(scale\)"),
    "a tensor more": (lambda n: n.state_dict() | {"features.3.gain": torch.ones(3)}, r"gain of features\.3"),
    "no statistics": (without("features.4.running_var"), r"running_var of features\.4"),
    "not a number": (lambda n: n.state_dict() | {"features.3.bias": torch.full((8,), torch.nan)}, r"features\.3\.bias"),
    "no state dict": (lambda n: {"optimizer": {}, "epoch": 3}, "optimizer, epoch"),
    "a list": (lambda n: [n.state_dict()], "list"),
}


@pytest.mark.parametrize("case", NO_VGG)
def test_what_is_no_vgg_is_named_by_what_differs_first(tmp_path, case):
    content, named = NO_VGG[case]
    with pytest.raises(ValueError, match=named) as refused:
        pretrained.convert(saved(tmp_path, content(trained())), MEAN, STD)
    assert len(str(refused.value)) < 300 and "\n" not in str(refused.value)


def test_a_whole_network_is_not_executed_and_told_how_to_be_saved(tmp_path, own_folders):
    target = tmp_path / "executed"
    for content in (trained(), {"model": trained()}, {"net": {}, "args": argparse.Namespace()}, {"a": tiny.Malicious(target)}):
        with pytest.raises(ValueError, match=r"code besides tensors.*torch\.save\(network\.state_dict\(\)") as refused:
            pretrained.convert(saved(tmp_path, content), MEAN, STD)
        assert "\n" not in str(refused.value)
    whole = saved(tmp_path, trained().state_dict())
    for broken in tiny.damaged(whole.read_bytes(), 20):
        whole.write_bytes(broken)
        try:
            pretrained.convert(whole, MEAN, STD)
        except ValueError as error:
            assert "\n" not in str(error)
    assert not target.exists()


@pytest.mark.parametrize("std", [(63.0, 62.1, 66.7), (0.2,), (0.2, 0.0, 0.2), (0.2, float("nan"), 0.2)])
def test_a_wrong_normalization_is_refused_whatever_the_file(tmp_path, std):
    with pytest.raises(ValueError, match="deviation of a normalisation"):
        pretrained.convert(saved(tmp_path, trained().state_dict()), MEAN, std)


def test_a_file_in_the_weights_folder_that_names_no_normalization_is_told_the_command(own_folders):
    path = settings.weights_path("cifar10")
    with pytest.raises(FileNotFoundError, match="helpers.pretrained FILE --mean"):
        pretrained.load("cifar10")
    path.parent.mkdir()
    saved(own_folders, trained().state_dict()).rename(path)
    with pytest.raises(ValueError, match="normalisation.*helpers.pretrained FILE --mean"):
        pretrained.load("cifar10")


def test_the_command_converts_or_says_in_one_line_why_not(tmp_path):
    theirs, out = saved(tmp_path, prefixed("module.")(trained())), tmp_path / "out.safetensors"
    command = [sys.executable, "-m", "helpers.pretrained", str(theirs), "--out", str(out)]
    given = ["--mean", *map(str, MEAN), "--std", *map(str, STD)]
    done = subprocess.run([*command, *given], cwd=settings.ROOT, capture_output=True, text=True, check=True)
    assert "module.features.0 is features.0 here" in done.stderr and models.load(out).normalization.mean == MEAN
    for wrong in (command[3:], [str(tmp_path / "none"), *command[4:], *given], ["hub:cifar1O", *command[4:]]):
        with pytest.raises(SystemExit) as refused:
            pretrained.main(wrong)
        assert "Error: " in str(refused.value) and "\n" not in str(refused.value)


# A network of one's own ---------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """A block with a shortcut; knows neither its image size nor its normalisation."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.second, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.first(images)).relu()
        return self.head((x + self.second(x)).mean((2, 3)))


def test_a_residual_network_is_pruned_trained_and_measured():
    torch.manual_seed(0)
    network, split, half = Residual().eval(), tiny.images(40, 8), models.NORMALIZATIONS["half"]
    images = data.normalize(split.images, half)
    chosen = scores.prune(network, "snip", images, split.labels, 0.4, exclude=("first", "head"))
    assert chosen.kept == masks.kept_count(chosen.total, 0.4) and chosen["first.weight"].all() and chosen["head.weight"].all()
    with pytest.raises(ValueError, match="are excluded from pruning"):
        scores.prune(network, "snip", images, split.labels, 0.9, exclude=("first", "second"))
    training.fit(network, split, training.Recipe(epochs=1, batch_size=20), hook=MaskHook(chosen), normalization=half)
    assert masks.Masks.from_zeros(network).kept <= chosen.kept
    assert training.evaluate(network, split, normalization=half).correct.shape == (40,)
    assert measurement.macs_aten(network, 8) > 0 and measurement.file_size(network) > 0
    assert measurement.memory(network, images).peak_mib > 0
    assert measurement.latency({"": network}, images, min_seconds=0.01, rounds=1)[""].median_ms > 0


FOR_A_VGG = {
    "storage": lambda n, path: storage.save(n, path, "bitmask"),
    "file": lambda n, path: models.save(n, path),
    "sparse": lambda n, path: compile_sparse(n),
    "MACs by layer": lambda n, path: models.layer_table(n),
    "folding": lambda n, path: models.fold_batch_norm(n),
    "images": lambda n, path: measurement.images_for(n, tiny.images(2), 1),
    "scan": lambda n, path: sensitivity.scan(n, tiny.images(2), sparsities=(0.5,)),
    "widths": lambda n, path: widths.for_budget(n, 1000),
    "channels": lambda n, path: channels.prune(n, tiny.images(2).images, (4,)),
}


@pytest.mark.parametrize("use", FOR_A_VGG)
def test_what_is_for_a_vgg_alone_says_so_in_one_sentence(tmp_path, use):
    with pytest.raises((TypeError, ValueError), match=r"helpers\.models\.VGG.*Residual") as refused:
        FOR_A_VGG[use](Residual(), tmp_path / "n")
    assert len(str(refused.value)) < 300 and not list(tmp_path.iterdir())


# A bare machine -----------------------------------------------------------------------------------------------------


def test_nothing_of_the_environment_is_needed(tmp_path):
    bare = {"PATH": os.environ["PATH"], "BUILD_DIR": str(tmp_path / "a folder"), "RESULTS_DIR": str(tmp_path / "none")}
    bare |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # no home, and nothing but ASCII
    command = [sys.executable, "-m", "helpers.study", "--profile", "study", "--list"]
    done = subprocess.run(command, cwd=settings.ROOT, env=bare, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) > 50 and "missing" in done.stdout and not done.stderr
