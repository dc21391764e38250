import copy
import dataclasses
import json

import numpy as np
import pytest
import torch

from helpers import data, models, training
from helpers.pruning import masks, scan, sensitivity
from helpers.pruning.sensitivity import Scan

TARGETS = (0.10, 1 / 3, 0.50, 0.75, 0.8033, 0.875, 0.9375, 0.96875, 0.98)


@pytest.fixture(scope="module")
def digits() -> data.Split:
    return data.class_balanced(data.load("digits", torch.device("cpu")).val, 12, seed=0)


@pytest.fixture(scope="module")
def network(digits) -> models.VGG:
    """A small network that knows the digits a little, so that pruning a layer costs images."""
    torch.manual_seed(0)
    made = models.VGG(10, (8, "M", 12, 16, "M", 16, "M"), (16,), dropout=0.0)
    training.fit(made, digits, training.Recipe(epochs=12, batch_size=24, peak_lr=0.05), dtype=torch.float32)
    return made.eval()


def drawn(network, seed: int, *, noise: float = 1.0) -> Scan:
    """A scan with curves that fall, up to noise, each layer at its own speed."""
    generator = np.random.default_rng(seed)
    grid = np.array(sensitivity.SPARSITIES)
    layers = tuple(models.weight_layers(network))
    steep = generator.uniform(0.5, 8, len(layers))[:, None]
    top1 = 90 - 80 * grid**steep + noise * generator.normal(size=(len(layers), len(grid)))
    return Scan(90.0, layers, sensitivity.SPARSITIES, tuple(map(tuple, top1.clip(0, 100).tolist())), 5000)


def test_the_scan_equals_running_every_whole_pruned_network(network, digits):
    sparsities = (0.3, 0.6, 0.9)
    scanned = sensitivity.scan(network, digits, sparsities=sparsities, dtype=torch.float32)
    expected = np.empty((len(scanned.layers), len(sparsities)))
    for i, name in enumerate(scanned.layers):
        for j, sparsity in enumerate(sparsities):
            pruned = copy.deepcopy(network)
            weight = models.weight_layers(pruned)[name].weight
            kept = masks.keep_largest(weight.abs(), weight.numel() - round(weight.numel() * sparsity))
            weight.data.masked_fill_(~kept, 0)
            expected[i, j] = training.evaluate(pruned, digits).top1_pct
    one_image = 100 / len(digits)  # float32 sums in another order may turn one undecided image
    assert np.abs(np.array(scanned.top1_pct) - expected).max() <= one_image + 1e-9
    assert scanned.baseline_top1_pct == training.evaluate(network, digits).top1_pct
    assert len(np.unique(expected)) > 5  # the network is not at chance throughout
    assert scanned.images == len(digits) and scanned.layers == tuple(models.weight_layers(network))


def test_batches_of_any_size_give_the_same_figures(network, digits, monkeypatch):
    whole = sensitivity.scan(network, digits, sparsities=(0.5, 0.9), dtype=torch.float32)
    monkeypatch.setattr(scan, "BATCH", 17)  # 120 images: the last batch is short
    assert np.abs(sensitivity.scan(network, digits, sparsities=(0.5, 0.9), dtype=torch.float32).drops - whole.drops).max() < 1


def test_what_16_bits_leave_undecided_is_decided_in_float32(network, digits, monkeypatch):
    arguments = dict(sparsities=(0.5, 0.8), dtype=torch.bfloat16)
    exact = sensitivity.scan(network, digits, sparsities=(0.5, 0.8), dtype=torch.float32)
    one_image = 100 / len(digits) + 1e-9
    assert np.abs(sensitivity.scan(network, digits, **arguments).drops - exact.drops).max() <= one_image
    monkeypatch.setattr(scan, "UNDECIDED", float("inf"))  # every image is run again
    assert np.array_equal(sensitivity.scan(network, digits, **arguments).top1_pct, exact.top1_pct)


def test_the_scan_leaves_the_network_alone(network, digits):
    before = copy.deepcopy(network)
    network.train()
    sensitivity.scan(network, digits, sparsities=(0.9,), dtype=torch.float32)
    assert network.training and all(parameter.requires_grad for parameter in network.parameters())
    network.eval()
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in before.state_dict().items())


def test_an_interrupted_scan_goes_on_behind_the_last_finished_layer(network, digits, tmp_path, monkeypatch):
    path, sparsities = tmp_path / "scan.json", (0.5, 0.9)
    unbroken = sensitivity.scan(network, digits, sparsities=sparsities, dtype=torch.float32)
    real, done = scan._scan_layer, []

    def interrupted(reader, *rest):
        name = unbroken.layers[reader.position]
        if name == unbroken.layers[2] and len(done) == 2:
            raise KeyboardInterrupt
        done.append(name)
        return real(reader, *rest)

    monkeypatch.setattr(scan, "_scan_layer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sensitivity.scan(network, digits, path=path, sparsities=sparsities, dtype=torch.float32)
    done.append("stopped")
    assert sensitivity.scan(network, digits, path=path, sparsities=sparsities, dtype=torch.float32) == unbroken
    assert done == [*unbroken.layers[:2], "stopped", *unbroken.layers[2:]]  # nothing twice
    monkeypatch.setattr(scan, "_Reader", None)  # a whole scan is read without running the network, on any processor
    for dtype in (torch.float32, torch.bfloat16):
        assert sensitivity.scan(network, digits, path=path, sparsities=sparsities, dtype=dtype) == unbroken


def test_progress_of_another_network_images_or_sparsities_is_not_used(network, digits, tmp_path, monkeypatch):
    path = tmp_path / "scan.json"
    calls = []
    monkeypatch.setattr(scan, "_scan_layer", lambda *arguments: calls.append(1) or [50.0])
    arguments = dict(path=path, sparsities=(0.5,), dtype=torch.float32)
    sensitivity.scan(network, digits, **arguments)
    layers = len(calls)
    sensitivity.scan(network, digits, **arguments)
    assert len(calls) == layers
    other = copy.deepcopy(network)
    other.features[0].weight.data[0, 0, 0, 0] += 1e-3
    for changed in (
        lambda: sensitivity.scan(other, digits, **arguments),
        lambda: sensitivity.scan(network, digits.subset(torch.arange(60)), **arguments),
        lambda: sensitivity.scan(network, digits, **{**arguments, "sparsities": (0.6,)}),
    ):
        before = len(calls)
        changed()
        assert len(calls) == before + layers


def test_damaged_progress_is_named_and_made_again(network, digits, tmp_path, monkeypatch, capfd):
    path, arguments = tmp_path / "scan.json", dict(sparsities=(0.5,), dtype=torch.float32)
    monkeypatch.delenv("PROGRESS_LOG", raising=False)
    whole = sensitivity.scan(network, digits, path=path, **arguments)
    intact = path.read_text()
    for damaged in (intact[: len(intact) // 2], intact.replace("top1_pct", "top1_pcu", 1), "[]", ""):
        path.write_text(damaged)
        assert sensitivity.scan(network, digits, path=path, **arguments) == whole
        assert "scan.json" in capfd.readouterr().err
        assert path.read_text() == intact


def test_a_scan_needs_images_and_sparsities_in_range(network, digits):
    with pytest.raises(ValueError, match="at least one sparsity and one image"):
        sensitivity.scan(network, digits, sparsities=(), dtype=torch.float32)
    with pytest.raises(ValueError, match="at least one sparsity and one image"):
        sensitivity.scan(network, digits.subset(torch.arange(0)), dtype=torch.float32)
    with pytest.raises(ValueError, match="fraction from 0"):
        sensitivity.scan(network, digits, sparsities=(95.0,), dtype=torch.float32)


def test_a_scan_survives_json(network):
    scanned = drawn(network, 0)
    assert Scan.from_dict(json.loads(json.dumps(scanned.to_dict()))) == scanned


def test_an_allocation_worked_by_hand():
    """Two layers of 270 weights; one loses 1 point a 10 %, the other 3 (and more beyond 60 %)."""
    network = models.VGG(10, (10, 3), (), image_size=1)
    sizes = [layer.weight.numel() for layer in models.weight_layers(network).values()]
    assert sizes == [270, 270, 30]
    robust, fragile, last = (89.0, 87.0, 84.0), (87.0, 81.0, 72.0), (80.0, 60.0, 40.0)
    scanned = Scan(90.0, tuple(models.weight_layers(network)), (0.1, 0.3, 0.6), (robust, fragile, last), 1000)
    # τ ≈ 3: 30 % of the first, 10 % of the second, 3 % of the third: 81 + 27 + 1 pruned
    plan = sensitivity.plan(network, scanned, 109 / 570)
    assert list(plan.kept.values()) == [270 - 81, 270 - 27, 30 - 1]
    assert plan.tolerance == pytest.approx(3, abs=0.02)
    assert [layer.expected_drop for layer in plan.layers] == pytest.approx([3, 3, 10 / 3], abs=0.02)
    assert plan.sparsity == 1 - 461 / 570


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("widths", [models.scaled(models.VGG16, 4), (8, "M", 12, 16, "M", 16, "M"), (3, 5, "M")])
def test_every_target_is_met_to_one_weight_and_no_layer_dies(widths, seed):
    network = models.VGG(10, widths, (16,), image_size=32 if "M" in widths[3:] else 4)
    scanned, before = drawn(network, seed, noise=3.0), None
    for target in TARGETS:
        try:
            kept = sensitivity.allocate(network, scanned, target)
        except ValueError as error:
            assert target > 0.9 and "can be pruned from 0 to" in str(error) and len(widths) < 5
            continue
        pruned = masks.magnitude(network, kept)
        assert pruned.kept == pruned.total - round(pruned.total * target)
        assert all(layer.kept >= mask.shape[0] for layer, mask in zip(pruned.table(), pruned.values(), strict=True))
        assert before is None or all((pruned[name] <= before[name]).all() for name in pruned)  # nested
        before = pruned


def test_the_whole_vgg16_reaches_98_percent_on_any_curve():
    network = models.VGG(100)
    total = sum(layer.weight.numel() for layer in models.weight_layers(network).values())
    for seed in range(3):
        kept = sensitivity.allocate(network, drawn(network, seed), 0.98)
        assert sum(kept.values()) == total - round(0.98 * total)


@pytest.mark.parametrize("target", [0.3, 0.6, 0.9])
def test_no_layer_drops_more_than_the_tolerance_and_each_is_pruned_as_far_as_it_allows(target):
    network = models.VGG(10, models.scaled(models.VGG16, 4), (128, 128))
    scanned = drawn(network, 1, noise=0.0)
    plan = sensitivity.plan(network, scanned, target)
    for layer, drops in zip(plan.layers, scanned.drops, strict=True):
        grid, curve = [0, *scanned.sparsities], [0, *drops]
        if layer.sparsity < 0.94:  # inside what was scanned
            one_weight = 2 * (np.interp(layer.sparsity + 1 / layer.total, grid, curve) - np.interp(layer.sparsity, grid, curve))
            assert np.interp(layer.sparsity, grid, curve) <= plan.tolerance + one_weight
            assert np.interp(layer.sparsity, grid, curve) >= plan.tolerance - sensitivity.SLOPE - one_weight


def test_a_fragile_layer_keeps_more_than_a_robust_one():
    network = models.VGG(10, models.scaled(models.VGG16, 4), (128, 128))
    scanned = drawn(network, 2, noise=0.0)
    plan = sensitivity.plan(network, scanned, 0.8)
    at_half = scanned.drops[:, scanned.sparsities.index(0.5)]
    assert np.corrcoef(np.argsort(np.argsort(at_half)), [layer.sparsity for layer in plan.layers])[0, 1] < -0.7


def test_a_curve_that_recovers_counts_by_the_largest_sparsity_within_the_tolerance():
    network = models.VGG(10, (10, 3), (), image_size=1)
    dips = (85.0, 90.0, 89.0)  # loses 5 points at 10 %, nothing at 30 %
    scanned = Scan(90.0, tuple(models.weight_layers(network)), (0.1, 0.3, 0.6), (dips, (80.0, 70.0, 60.0), (80.0, 70.0, 60.0)), 9)
    plan = sensitivity.plan(network, scanned, 81 / 570)
    assert plan.layers[0].sparsity > 0.29 and plan.tolerance < 0.2


def test_targets_that_cannot_be_reached_are_refused():
    network = models.VGG(10, (8, "M", 12, "M"), (), image_size=4)
    scanned = drawn(network, 0)
    with pytest.raises(ValueError, match=r"can be pruned from 0 to 9\d\.?\d* % before a layer dies"):
        sensitivity.allocate(network, scanned, 0.999)
    reachable = float(
        str(pytest.raises(ValueError, sensitivity.allocate, network, scanned, 0.999).value).split(" to ")[1].split()[0]
    )
    sensitivity.allocate(network, scanned, reachable / 100)  # what the message promises holds
    for wrong in (float("nan"), -0.1, 1.0, 80.33):
        with pytest.raises(ValueError, match="fraction from 0"):
            sensitivity.allocate(network, scanned, wrong)


def test_a_scan_of_another_network_or_without_figures_is_refused():
    network, other = models.VGG(10, (8, "M"), ()), models.VGG(10, (8, 8, "M"), ())
    with pytest.raises(ValueError, match="the scan knows the layers"):
        sensitivity.allocate(other, drawn(network, 0), 0.5)
    broken = dataclasses.replace(drawn(network, 0), baseline_top1_pct=float("nan"))
    with pytest.raises(ValueError, match="finite"):
        sensitivity.allocate(network, broken, 0.5)


def test_the_result_ends_to_end(network, digits):
    """Scan, allocate, prune: the layers' own fragility decides better than one share for all."""
    scanned = sensitivity.scan(network, digits, dtype=torch.float32)
    pruned = copy.deepcopy(network)
    masks.magnitude(network, sensitivity.allocate(network, scanned, 0.6)).apply(pruned)
    uniformly = copy.deepcopy(network)
    masks.uniform(network, 0.6).apply(uniformly)
    assert masks.Masks.from_zeros(pruned).kept == masks.Masks.from_zeros(uniformly).kept
    assert training.evaluate(pruned, digits).top1_pct >= training.evaluate(uniformly, digits).top1_pct
