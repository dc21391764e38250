"""Training is exact: counted image by image, the same every time, and the same after a SIGKILL."""

import itertools
import json
import math
import os
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import checkpoint, data, files, machine, models, training
from helpers.accelerate import graphs
from helpers.pruning import masks
from helpers.training import Recipe

RECIPE = Recipe(epochs=3, batch_size=16, peak_lr=0.02, seed=5)
FORMATS = [torch.float32, torch.bfloat16]


def network(dropout: float = 0.3) -> models.VGG:
    return tiny.network(dropout=dropout)


def few(count: int = 70) -> data.Split:
    return data.load("digits", torch.device("cpu")).train.subset(torch.arange(count))


def halved(trained: models.VGG) -> masks.MaskHook:
    return masks.MaskHook(masks.magnitude(trained, {name: mask.numel() // 2 for name, mask in masks.Masks.of(trained).items()}))


def digest(trained: nn.Module) -> str:
    return files.digest_of(trained.state_dict())


def test_the_learning_rate_rises_to_the_peak_and_falls_to_zero():
    rates = [training.learning_rate(Recipe(10, peak_lr=0.5), step, 100) for step in range(100)]
    assert max(rates) == pytest.approx(0.5) and rates.index(max(rates)) == 20
    assert rates[:21] == sorted(rates[:21]) and rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] < 0.001 and training.learning_rate(Recipe(10, peak_lr=0.5), 60, 100) == pytest.approx(0.25)
    line = [training.learning_rate(Recipe(10, peak_lr=0.5, linear=True), step, 100) for step in (10, 20, 40, 60, 100)]
    assert line[0] == rates[10] and line[1:] == pytest.approx([0.5, 0.375, 0.25, 0.0])


def test_a_short_last_batch_counts_image_by_image():
    trained, split = network().eval(), few(37)
    accuracy = training.evaluate(trained, split, batch_size=16)
    logits = trained(data.normalize(split.images, trained.normalization))
    right = logits.argmax(1) == split.labels
    assert accuracy.correct.tolist() == right.tolist()
    assert accuracy.top1_pct == 100 * int(right.sum()) / 37
    assert accuracy.loss == pytest.approx(nn.functional.cross_entropy(logits, split.labels).item(), rel=1e-5)
    top5 = (logits.topk(5).indices == split.labels[:, None]).any(1)
    assert accuracy.top5_pct == 100 * int(top5.sum()) / 37


def test_training_learns():
    logs = training.fit(network(dropout=0.0), few(64), Recipe(20, 16, 0.1, seed=1), dtype=torch.float32)
    assert logs[-1].train_loss < 0.6 * logs[0].train_loss and logs[-1].train_top1_pct > 50


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_training_repeats_itself_and_leaves_the_global_generator_alone(dtype):
    outcomes = []
    for _ in range(2):
        trained = network()
        torch.manual_seed(99)
        state = torch.random.get_rng_state()
        logs = training.fit(trained, few(), RECIPE, val=few(40), dtype=dtype)
        assert torch.equal(torch.random.get_rng_state(), state) and not trained.training
        outcomes.append((digest(trained), [(log.lr, log.train_loss, log.train_top1_pct, log.val_top1_pct) for log in logs]))
    assert outcomes[0] == outcomes[1]


def test_the_format_is_the_machine_s_unless_given(monkeypatch):
    used = []
    monkeypatch.setenv("DTYPE", "bfloat16")
    hook = type("Hook", (), {"before_epoch": lambda *_: None, "after_step": lambda *_: None})()
    for dtype in (None, torch.float32):
        trained = network()
        trained.features[0].register_forward_hook(lambda _module, _inputs, output: used.append(output.dtype))
        training.fit(trained, few(16), replace(RECIPE, epochs=1), dtype=dtype, hook=hook)
    assert used == [torch.bfloat16, torch.float32] and machine.dtype() == torch.bfloat16


@pytest.mark.parametrize(
    "change",
    [
        *({"crop_padding": 2}, {"seed": 6}, {"weight_decay": 0.0}, {"label_smoothing": 0.1}, {"peak_lr": 0.03}),
        *({"linear": True}, {"norm_bias_lr": 4.0}, {"alternating": True}),
    ],
)
def test_every_part_of_a_recipe_changes_the_network(change):
    networks, split = [network(), network()], replace(few(), mirrors=True)
    for trained, recipe in zip(networks, (replace(RECIPE, epochs=1), replace(RECIPE, epochs=1, **change)), strict=True):
        training.fit(trained, split, recipe)
    assert digest(networks[0]) != digest(networks[1])


def test_alternating_shows_each_image_once_from_either_side_in_two_epochs():
    split, recipe = replace(few(), mirrors=True), replace(RECIPE, alternating=True)
    even, odd, next_even = (training._sides(recipe, split, epoch) for epoch in range(3))
    assert torch.equal(even, ~odd) and torch.equal(even, next_even) and 0 < int(even.sum()) < len(split)
    assert not torch.equal(even, training._sides(replace(recipe, seed=6), split, 0))


def test_biases_of_batch_norms_have_a_learning_rate_of_their_own():
    moved = []
    for times in (1.0, 16.0):
        trained, one = network(dropout=0.0), replace(RECIPE, epochs=1, norm_bias_lr=times)
        before = {name: p.detach().clone() for name, p in trained.named_parameters()}
        training.fit(trained, few(16), one, dtype=torch.float32)  # a single step
        moved.append({name: p.detach() - before[name] for name, p in trained.named_parameters()})
    biases = {f"features.{i}.bias" for i, module in enumerate(trained.features) if isinstance(module, nn.BatchNorm2d)}
    for name, once in moved[0].items():
        torch.testing.assert_close(moved[1][name], once * (16.0 if name in biases else 1.0))


def test_small_images_come_first_and_leave_no_trace():
    seen: list[tuple[int, int]] = []
    trained = tiny.network((4, "M", 8, "M", 8, "M", "M", "M"))
    trained.features[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].shape[2:]))
    training.fit(trained, few(32), replace(RECIPE, small_epochs=2), dtype=torch.float32)
    assert seen == [(24, 24)] * 4 + [(32, 32)] * 2
    assert not any(module.ceil_mode for module in trained.modules() if isinstance(module, nn.MaxPool2d))
    with pytest.raises(ValueError, match="3 pools leave different maps"):
        training.fit(network(), few(32), replace(RECIPE, small_epochs=2))
    with pytest.raises(ValueError, match="4 epochs on small images of 3"):
        replace(RECIPE, small_epochs=4)


def test_scaled_images_keep_their_means():
    images = torch.rand(3, 3, 32, 32)
    scaled = training._scaled(images, 24)
    assert scaled.shape == (3, 3, 24, 24)
    torch.testing.assert_close(scaled.mean((2, 3)), images.mean((2, 3)), atol=0.01, rtol=0)
    assert training._scaled(images, 32) is images


def test_only_weights_decay():
    trained = network()
    groups = training._optimizer(trained, RECIPE).param_groups
    assert [group["weight_decay"] for group in groups] == [RECIPE.weight_decay, 0.0, 0.0]
    assert [{p.ndim for p in group["params"]} for group in groups] == [{2, 4}, {1}, {1}]
    assert sum(len(group["params"]) for group in groups) == len(list(trained.parameters()))


def test_fewer_images_than_a_batch_are_one_batch_and_none_are_refused():
    assert len(training.fit(network(), few(10), replace(RECIPE, epochs=1))) == 1
    for use in (lambda: training.fit(network(), few(0), RECIPE), lambda: training.evaluate(network(), few(0))):
        with pytest.raises(ValueError, match="no images"):
            use()


# Checkpoints ------------------------------------------------------------------------------------------------------


def _train(checkpoint: Path | None, out: Path) -> None:
    torch.set_num_threads(1)
    trained = network()
    training.fit(trained, few(), RECIPE, hook=halved(trained), checkpoint=checkpoint)
    models.save(trained, out)


def _run(*arguments) -> int:
    child = tiny.FORK.Process(target=_train, args=arguments)
    child.start()
    child.join(60)
    return child.exitcode


def test_killed_after_an_epoch_it_ends_with_the_same_bits(tmp_path):
    checkpoint, unbroken, resumed = (tmp_path / name for name in ("checkpoint", "unbroken", "resumed"))
    assert _run(None, unbroken) == 0
    child = tiny.FORK.Process(target=_train, args=(checkpoint, resumed))
    child.start()
    while not checkpoint.exists() and child.is_alive():
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    child.join(60)
    assert child.exitcode == -signal.SIGKILL and not resumed.exists()
    assert len(json.loads(files.load_tensors(checkpoint)[1]["logs"])) in (1, 2)
    assert _run(checkpoint, resumed) == 0
    assert digest(models.load(unbroken)) == digest(models.load(resumed))


class Interrupted(Exception):
    pass


class Stopping(masks.MaskHook):
    """Masks that stop the training before an epoch."""

    def __init__(self, chosen: masks.Masks, epoch: int):
        super().__init__(chosen)
        self.epoch = epoch

    def before_epoch(self, network: nn.Module, epoch: int) -> None:
        super().before_epoch(network, epoch)
        if epoch == self.epoch:
            raise Interrupted


@pytest.mark.parametrize(("epoch", "dtype", "threads"), [(1, torch.float32, 2), (2, torch.float32, 1), (1, torch.bfloat16, 1)])
def test_stopped_before_an_epoch_it_ends_with_the_same_bits_and_logs(tmp_path, epoch, dtype, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        _stopped_and_resumed(tmp_path, epoch, dtype)
    finally:
        torch.set_num_threads(before)


def _stopped_and_resumed(tmp_path: Path, epoch: int, dtype: torch.dtype) -> None:
    whole, broken, path = network(), network(), tmp_path / "c"
    logs = training.fit(whole, few(33), RECIPE, val=few(10), hook=halved(whole), dtype=dtype)
    with pytest.raises(Interrupted):
        stopping = Stopping(halved(broken).masks, epoch)
        training.fit(broken, few(33), RECIPE, val=few(10), hook=stopping, checkpoint=path, dtype=dtype)
    resumed = network()  # other masks are replaced by those of the checkpoint
    hook = masks.MaskHook(masks.uniform(resumed, 0.1))
    again = training.fit(resumed, few(33), RECIPE, val=few(10), hook=hook, checkpoint=path, dtype=dtype)
    assert digest(whole) == digest(resumed)
    assert [replace(log, seconds=0) for log in again] == [replace(log, seconds=0) for log in logs]
    assert hook.masks.kept == halved(network()).masks.kept


def test_a_checkpoint_is_written_when_its_time_has_come(tmp_path, monkeypatch):
    written: list[int] = []
    clock = itertools.count(step=10)  # every look at it takes ten seconds
    monkeypatch.setattr(training.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(checkpoint.State, "write", lambda self, path, logs: written.append(len(logs)))
    training.fit(network(), few(16), replace(RECIPE, epochs=6), checkpoint=tmp_path / "state", checkpoint_seconds=50)
    every = written.copy()
    written.clear()
    training.fit(network(), few(16), replace(RECIPE, epochs=6), checkpoint=tmp_path / "state")
    assert every == [2, 4] and written == [1, 2, 3, 4, 5]


def test_a_step_waits_for_no_copy_from_the_device():
    def copies(images: int) -> int:
        with Counted() as counted:
            begun = state()
            forward = graphs.Forward(begun.network, torch.float32)
            training._epoch(begun, forward, RECIPE, few(images), 0, tiny.network().normalization, "")
        return counted.copies

    assert copies(16) == copies(64) > 0  # those of an epoch's end alone


class Counted(TorchDispatchMode):
    """Counts the values that are taken from tensors into Python."""

    copies = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.copies += function is torch.ops.aten._local_scalar_dense.default
        return function(*arguments, **(options or {}))


def state() -> checkpoint.State:
    trained = network()
    return checkpoint.State(trained, training._optimizer(trained, RECIPE), None, asdict(RECIPE), "", {})


def captured(module, samples):
    """As `torch.cuda.make_graphed_callables`: trial runs that move statistics and draw dropout, then the module."""
    for _ in range(3):
        module(*samples).sum().backward()
        module.zero_grad()
    torch.rand(7)
    return module


def test_a_step_captured_once_a_shape_trains_the_same_network(monkeypatch):
    made = {}
    for name, devices in (("plain", ()), ("captured", ("cpu",))):
        shapes: list[torch.Size] = []
        monkeypatch.setattr(graphs, "CAPTURED", devices)
        monkeypatch.setattr(
            torch.cuda, "make_graphed_callables", lambda m, s, seen=shapes: seen.append(s[0].shape) or captured(m, s)
        )
        made[name] = network(dropout=0.5)
        training.fit(made[name], few(), replace(RECIPE, small_epochs=1, small_size=28))
        assert [shape[-1] for shape in shapes] == ([28, 32] if devices else [])
    for name, tensor in made["plain"].state_dict().items():
        assert torch.equal(tensor, made["captured"].state_dict()[name]), name


def test_graphs_are_switched_off_with_all_that_accelerates(monkeypatch):
    monkeypatch.setattr(graphs, "CAPTURED", ("cpu",))
    monkeypatch.setenv("ACCELERATE", "0")
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda *_: pytest.fail("captured"))
    training.fit(network(), few(16), replace(RECIPE, epochs=1))


def test_where_no_graph_can_be_captured_one_line_says_so(monkeypatch, capsys):
    def refuse(*_):
        raise RuntimeError("operation not permitted when stream is capturing\ndetails")

    monkeypatch.setattr(graphs, "CAPTURED", ("cpu",))
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refuse)
    training.fit(network(), few(), RECIPE)
    told = [line for line in capsys.readouterr().err.splitlines() if "CUDA graph" in line]
    assert len(told) == 1 and "not permitted" in told[0] and "details" not in told[0]


def test_a_damaged_or_foreign_checkpoint_is_not_used(tmp_path, capsys):
    path, reference = tmp_path / "c.safetensors", network()
    training.fit(reference, few(), RECIPE)
    training.fit(network(), few(), replace(RECIPE, seed=8), checkpoint=path)
    foreign = path.read_bytes()
    for content in (foreign, foreign[:-3], b"", tiny.trap(tmp_path / "executed")):
        path.write_bytes(content)
        trained = network()
        assert len(training.fit(trained, few(), RECIPE, checkpoint=path)) == RECIPE.epochs
        assert digest(trained) == digest(reference)
        assert f"{path} is not continued from" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()


def test_damage_is_told_and_restores_nothing(tmp_path, capsys):
    path, trained = tmp_path / "c.safetensors", network()
    training.fit(trained, few(), replace(RECIPE, epochs=2), hook=halved(trained), checkpoint=path)
    whole, told = path.read_bytes(), 0
    made = digest_of_checkpoint(path)
    for broken in tiny.damaged(whole, 200):
        path.write_bytes(broken)
        other = network(dropout=0.0)
        before = digest(other)
        state = checkpoint.State(
            other, training._optimizer(other, RECIPE), halved(other), asdict(replace(RECIPE, epochs=2)), "", {}
        )
        if state.resume(path):  # the damage lies in bytes that say nothing
            assert digest(other) == made
        else:
            assert digest(other) == before and "c.safetensors" in capsys.readouterr().err
            told += 1
    assert told > 180


def digest_of_checkpoint(path: Path) -> str:
    tensors, _ = files.load_tensors(path)
    return files.digest_of({name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")})


@pytest.mark.parametrize(("made_with", "epochs_left"), [("these settings", 1), ("other settings", RECIPE.epochs)])
def test_a_checkpoint_is_continued_only_by_what_it_was_made_with(tmp_path, capsys, made_with, epochs_left):
    path, reference, trained = tmp_path / "c.safetensors", network(), network()
    training.fit(reference, few(), RECIPE, checkpoint=path, made_with="these settings")
    assert path.exists()  # the state before the last epoch: who stores the network removes it
    capsys.readouterr()
    assert len(training.fit(trained, few(), RECIPE, checkpoint=path, made_with=made_with)) == RECIPE.epochs
    told = capsys.readouterr().err
    assert told.count(": loss ") == epochs_left
    assert ("starts again" in told) == (made_with == "other settings")
    assert digest(trained) == digest(reference)


@pytest.mark.parametrize("error", [KeyError, ValueError, TypeError])
def test_a_state_that_its_hook_refuses_starts_again(tmp_path, capsys, error):
    class Refusing(masks.MaskHook):
        def load_state_dict(self, state) -> None:
            raise error("masks of another network")

    path, reference, trained = tmp_path / "c", network(), network()
    training.fit(reference, few(), RECIPE, hook=halved(reference), checkpoint=path)
    training.fit(trained, few(), RECIPE, hook=Refusing(halved(trained).masks), checkpoint=path)
    assert "starts again" in capsys.readouterr().err and digest(trained) == digest(reference)


def test_who_continues_a_checkpoint_is_named_behind_who_began_it(tmp_path, capsys):
    path = tmp_path / "c.safetensors"
    for who, named in (("a", "a"), ("a", "a"), ("b", "a; b"), ("b", "a; b")):
        made_by = {"commit": who, "train_dtype": "float32"}
        training.fit(network(), few(), replace(RECIPE, epochs=4), checkpoint=path, made_by=made_by)
        assert made_by == {"commit": named, "train_dtype": "float32"}
        told = capsys.readouterr().err
        assert (f"{path.name} was begun by others" in told) == (f"names both: {named}\n" in told) == (named != who)
        tensors, described = files.load_tensors(path)
        logs = json.loads(described["logs"])[:2]  # as if it had been interrupted earlier
        files.save_tensors(path, tensors, described | {"logs": json.dumps(logs)})


# Statistics, losses, masks, other networks ------------------------------------------------------------------------


def test_recalibrated_statistics_are_those_of_the_images():
    trained, split = network(), few(64)
    training.recalibrate(trained, split, images=64)
    with torch.no_grad():
        maps = trained.features[0](data.normalize(split.images, trained.normalization))
    torch.testing.assert_close(trained.features[1].running_mean, maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(trained.features[1].running_var, maps.var((0, 2, 3)), rtol=1e-3, atol=1e-5)
    assert trained.features[1].momentum == 0.1 and not trained.training


def test_recalibration_reads_five_thousand_images_unless_told():
    split, seen = data.Split(torch.zeros(5100, 3, 8, 8, dtype=torch.uint8), torch.zeros(5100, dtype=torch.int64)), []
    small = models.VGG(2, (1, "M"), (), image_size=8)
    small.features[0].register_forward_hook(lambda _module, _inputs, output: seen.append(len(output)))
    training.recalibrate(small, split)
    assert sum(seen) == 5000
    training.recalibrate(small, split, images=20)
    assert sum(seen) == 5020


def test_recalibration_has_no_small_batch_at_the_end():
    split, seen = data.Split(torch.zeros(251, 3, 4, 4, dtype=torch.uint8), torch.zeros(251, dtype=torch.int64)), []
    small = models.VGG(2, (4, "M", 4, "M", 4), (), image_size=4)  # the last maps are 1×1: of one image no variance is known
    small.features[0].register_forward_hook(lambda _module, _inputs, output: seen.append(len(output)))
    training.recalibrate(small, split)
    assert seen == [126, 125]


def test_a_loss_that_is_not_finite_stops_the_training():
    trained = network()
    trained.classifier[-1].bias.data.fill_(math.inf)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        training.fit(trained, few(), RECIPE)


def test_masks_hold_through_training():
    trained = network()
    chosen = masks.magnitude(trained, {n: m.numel() // 3 for n, m in masks.Masks.of(trained).items()})
    training.fit(trained, few(), RECIPE, hook=masks.MaskHook(chosen))
    weights = dict(trained.named_parameters())
    assert all(not weights[name][~mask].any() for name, mask in chosen.items())


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 10)

    def forward(self, images):
        maps = self.norm(self.first(images)).relu()
        return self.head((maps + self.second(maps)).mean((2, 3)))


def test_any_network_trains_where_the_normalization_is_given():
    half, other = models.NORMALIZATIONS["half"], Residual()
    logs = training.fit(other, few(), replace(RECIPE, epochs=1), val=few(20), normalization=half)
    assert logs[0].val_top1_pct == training.evaluate(other, few(20), normalization=half).top1_pct
    training.recalibrate(other, few(), normalization=half)
    for use in (lambda: training.fit(other, few(), RECIPE), lambda: training.evaluate(other, few())):
        with pytest.raises(TypeError, match="Residual does not say how its images are normalised"):
            use()
