"""Training is exact: counted image by image, the same every time, and the same after a SIGKILL."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest
import torch

from helpers import checkpoints, data, files, models, training
from helpers.pruning import masks as masks_module
from helpers.training import Recipe

RECIPE = Recipe(epochs=3, batch_size=16, peak_lr=0.02, seed=5)


def tiny(dropout: float = 0.3) -> models.VGG:
    torch.manual_seed(0)
    return models.VGG(10, (4, "M", 8, "M", 8, "M"), (8,), dropout=dropout, normalization=models.NORMALIZATIONS["half"])


def few(count: int = 70) -> data.Split:
    return data.load("digits").train.subset(torch.arange(count))


def test_the_learning_rate_rises_to_the_peak_and_falls_to_zero():
    rates = [training.learning_rate(Recipe(10, peak_lr=0.5), step, 100) for step in range(100)]
    assert max(rates) == pytest.approx(0.5) and rates.index(max(rates)) == 20
    assert rates[:21] == sorted(rates[:21]) and rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] < 0.001 and training.learning_rate(Recipe(10, peak_lr=0.5), 60, 100) == pytest.approx(0.25)


def test_a_short_last_batch_counts_image_by_image():
    network, split = tiny().eval(), few(37)
    accuracy = training.evaluate(network, split, batch_size=16)
    logits = network(data.normalize(split.images, network.normalization))
    right = logits.argmax(1) == split.labels
    assert accuracy.correct.tolist() == right.tolist()
    assert accuracy.top1_pct == 100 * int(right.sum()) / 37
    assert accuracy.loss == pytest.approx(torch.nn.functional.cross_entropy(logits, split.labels).item(), rel=1e-5)
    top5 = (logits.topk(5).indices == split.labels[:, None]).any(1)
    assert accuracy.top5_pct == 100 * int(top5.sum()) / 37


def test_training_learns_and_repeats_itself_and_leaves_the_global_generator_alone():
    outcomes = []
    for _ in range(2):
        network = tiny(dropout=0.0)
        torch.manual_seed(99)
        state = torch.random.get_rng_state()
        logs = training.fit(network, few(200), Recipe(12, 16, 0.05, seed=1), val=few(40))
        assert torch.equal(torch.random.get_rng_state(), state)
        outcomes.append((network.state_dict(), [(log.train_loss, log.val_top1_pct) for log in logs]))
    assert outcomes[0][1] == outcomes[1][1]
    assert all(torch.equal(outcomes[0][0][name], tensor) for name, tensor in outcomes[1][0].items())
    assert outcomes[0][1][-1][0] < 0.5 * outcomes[0][1][0][0]


def test_only_weights_decay():
    network = tiny()
    groups = training._optimizer(network, RECIPE).param_groups
    assert [group["weight_decay"] for group in groups] == [RECIPE.weight_decay, 0.0]
    assert all(p.ndim > 1 for p in groups[0]["params"]) and all(p.ndim == 1 for p in groups[1]["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))


SCRIPT = """
import pathlib, sys
sys.path.insert(0, {tests!r})
from test_training import RECIPE, few, tiny
from helpers import models, training
from helpers.pruning import masks
network = tiny()
kept = {{name: mask.numel() // 2 for name, mask in masks.Masks.of(network).items()}}
hook = masks.MaskHook(masks.magnitude(network, kept))
training.fit(network, few(), RECIPE, hook=hook, checkpoint=pathlib.Path({checkpoint!r}) if {checkpoint!r} else None)
models.save(network, {out!r})
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_killed_after_an_epoch_it_ends_with_the_same_bits(tmp_path, threads):
    checkpoint = tmp_path / "c.safetensors"
    environment = os.environ | {"OMP_NUM_THREADS": threads, "PYTHONPATH": os.getcwd()}

    def script(where, out):
        return [sys.executable, "-c", SCRIPT.format(tests=os.path.dirname(__file__), checkpoint=where, out=str(tmp_path / out))]

    subprocess.run(script("", "unbroken.safetensors"), env=environment, check=True, capture_output=True)
    process = subprocess.Popen(script(str(checkpoint), "resumed.safetensors"), env=environment, stderr=subprocess.DEVNULL)
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and checkpoint.exists()
    assert len(json.loads(files.load_tensors(checkpoint)[1]["logs"])) in (1, 2)
    subprocess.run(script(str(checkpoint), "resumed.safetensors"), env=environment, check=True, capture_output=True)
    unbroken, resumed = (files.load_tensors(tmp_path / f"{name}.safetensors")[0] for name in ("unbroken", "resumed"))
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)


def test_a_damaged_or_foreign_checkpoint_is_not_used(tmp_path, capsys):
    path = tmp_path / "c.safetensors"
    reference = tiny()
    training.fit(reference, few(), RECIPE)
    other = tiny()
    optimizer = training._optimizer(other, RECIPE)
    checkpoints.write(path, other, optimizer, None, asdict(Recipe(9, seed=8)), [])
    for damage in (False, True):
        if damage:
            path.write_bytes(path.read_bytes()[:-3])
        network = tiny()
        assert len(training.fit(network, few(), RECIPE, checkpoint=path)) == RECIPE.epochs
        assert all(torch.equal(reference.state_dict()[name], tensor) for name, tensor in network.state_dict().items())
        assert "starts again" in capsys.readouterr().err


@pytest.mark.parametrize(("made_with", "epochs_left"), [("these settings", 1), ("other settings", RECIPE.epochs)])
def test_a_checkpoint_is_continued_only_by_what_it_was_made_with(tmp_path, capsys, made_with, epochs_left):
    path, reference, network = tmp_path / "c.safetensors", tiny(), tiny()
    training.fit(reference, few(), RECIPE, checkpoint=path, made_with="these settings")
    assert path.exists()  # the state before the last epoch: who stores the network removes it
    capsys.readouterr()
    assert len(training.fit(network, few(), RECIPE, checkpoint=path, made_with=made_with)) == RECIPE.epochs
    said = capsys.readouterr().err
    assert said.count(": loss ") == epochs_left
    assert (f"{path} belongs to" in said) == ("starts again" in said) == (made_with == "other settings")
    assert all(torch.equal(reference.state_dict()[name], tensor) for name, tensor in network.state_dict().items())


def test_who_continues_a_checkpoint_is_named_behind_who_began_it(tmp_path, capsys):
    path = tmp_path / "c.safetensors"
    for who, named in (("a", "a"), ("a", "a"), ("b", "a; b"), ("b", "a; b")):
        made_by = {"commit": who, "train_dtype": "float32"}
        training.fit(tiny(), few(), replace(RECIPE, epochs=4), checkpoint=path, made_by=made_by)
        assert made_by == {"commit": named, "train_dtype": "float32"}
        said = capsys.readouterr().err
        assert (f"{path.name} was begun by others" in said) == (f"names both: {named}\n" in said) == (named != who)
        tensors, described = files.load_tensors(path)
        logs = json.loads(described["logs"])[:2]  # as if it had been interrupted earlier
        files.save_tensors(path, tensors, described | {"logs": json.dumps(logs)})


def test_recalibrated_statistics_are_those_of_the_images():
    network, split = tiny(), few(64)
    training.recalibrate_batch_norm(network, split, images=64)
    with torch.no_grad():
        maps = network.features[0](data.normalize(split.images, network.normalization))
    torch.testing.assert_close(network.features[1].running_mean, maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network.features[1].running_var, maps.var((0, 2, 3)), rtol=1e-3, atol=1e-5)
    assert network.features[1].momentum == 0.1 and not network.training


def test_a_loss_that_is_not_finite_stops_the_training():
    network = tiny()
    network.classifier[-1].bias.data.fill_(math.inf)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        training.fit(network, few(), RECIPE)


def test_masks_hold_through_training():
    network = tiny()
    masks = masks_module.magnitude(network, {n: m.numel() // 3 for n, m in masks_module.Masks.of(network).items()})
    training.fit(network, few(), RECIPE, hook=masks_module.MaskHook(masks))
    weights = dict(network.named_parameters())
    assert all(not weights[name][~mask].any() for name, mask in masks.items())
