"""The allocation of one sparsity over layers, from curves worked by hand and drawn at random."""

import dataclasses

import numpy as np
import pytest

from helpers import models
from helpers.pruning import allocation, masks
from helpers.pruning.sensitivity import SPARSITIES, Scan

TARGETS = (0.10, 1 / 3, 0.50, 0.75, 0.8033, 0.875, 0.9375, 0.96875, 0.98)


def drawn(network, seed: int, *, noise: float = 1.0, sparsities: tuple[float, ...] = SPARSITIES) -> Scan:
    """A scan with curves that fall, up to noise, each layer at its own speed."""
    generator = np.random.default_rng(seed)
    grid = np.array(sparsities)
    layers = tuple(models.weight_layers(network))
    steep = generator.uniform(0.5, 8, len(layers))[:, None]
    top1 = 90 - 80 * grid**steep + noise * generator.normal(size=(len(layers), len(grid)))
    return Scan(90.0, layers, sparsities, tuple(map(tuple, top1.clip(0, 100).tolist())), 5000)


def sparsity(layer) -> float:
    return 1 - layer.kept / layer.total


def test_an_allocation_worked_by_hand():
    """Two layers of 270 weights; one loses 1 point a 10 %, the other 3 (and more beyond 60 %)."""
    network = models.VGG(10, (10, 3), (), image_size=1)
    sizes = [layer.weight.numel() for layer in models.weight_layers(network).values()]
    assert sizes == [270, 270, 30]
    robust, fragile, last = (89.0, 87.0, 84.0), (87.0, 81.0, 72.0), (80.0, 60.0, 40.0)
    scanned = Scan(90.0, tuple(models.weight_layers(network)), (0.1, 0.3, 0.6), (robust, fragile, last), 1000)
    # τ ≈ 3: 30 % of the first, 10 % of the second, 3 % of the third: 81 + 27 + 1 pruned
    allocated = allocation.allocate(network, scanned, 109 / 570)
    assert list(allocated.kept.values()) == [270 - 81, 270 - 27, 30 - 1]
    assert allocated.tolerance == pytest.approx(3, abs=0.02)
    assert [layer.expected_drop for layer in allocated.layers] == pytest.approx([3, 3, 10 / 3], abs=0.02)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("widths", [models.scaled(models.VGG16, 4), (8, "M", 12, 16, "M", 16, "M"), (3, 5, "M")])
def test_every_target_is_met_to_one_weight_and_no_layer_dies(widths, seed):
    network = models.VGG(10, widths, (16,), image_size=32 if "M" in widths[3:] else 4)
    scanned, before = drawn(network, seed, noise=3.0), None
    for target in TARGETS:
        try:
            kept = allocation.allocate(network, scanned, target).kept
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
        kept = allocation.allocate(network, drawn(network, seed), 0.98).kept
        assert sum(kept.values()) == total - round(0.98 * total)


@pytest.mark.parametrize("target", [0.3, 0.6, 0.9])
def test_no_layer_drops_more_than_the_tolerance_and_each_is_pruned_as_far_as_it_allows(target):
    network = models.VGG(10, models.scaled(models.VGG16, 4), (128, 128))
    scanned = drawn(network, 1, noise=0.0)
    allocated = allocation.allocate(network, scanned, target)
    for layer, drops in zip(allocated.layers, scanned.drops, strict=True):
        if sparsity(layer) < 0.94:  # inside what was scanned
            gone = np.array([sparsity(layer), sparsity(layer) + 1 / layer.total])
            drop, one_more = np.interp(gone, [0, *scanned.sparsities], [0, *drops])
            one_weight = 2 * (one_more - drop)
            assert allocated.tolerance - allocation.SLOPE - one_weight <= drop <= allocated.tolerance + one_weight


def test_a_fragile_layer_keeps_more_than_a_robust_one():
    network = models.VGG(10, models.scaled(models.VGG16, 4), (128, 128))
    scanned = drawn(network, 2, noise=0.0)
    allocated = allocation.allocate(network, scanned, 0.8)
    at_half = scanned.drops[:, scanned.sparsities.index(0.5)]
    assert np.corrcoef(np.argsort(np.argsort(at_half)), [sparsity(layer) for layer in allocated.layers])[0, 1] < -0.7


def test_a_curve_that_recovers_counts_by_the_largest_sparsity_within_the_tolerance():
    network = models.VGG(10, (10, 3), (), image_size=1)
    dips = (85.0, 90.0, 89.0)  # loses 5 points at 10 %, nothing at 30 %
    scanned = Scan(90.0, tuple(models.weight_layers(network)), (0.1, 0.3, 0.6), (dips, (80.0, 70.0, 60.0), (80.0, 70.0, 60.0)), 9)
    allocated = allocation.allocate(network, scanned, 81 / 570)
    assert sparsity(allocated.layers[0]) > 0.29 and allocated.tolerance < 0.2


def test_a_sparsity_out_of_reach_is_refused_with_the_true_reason():
    network = models.VGG(10, (8, "M", 12, "M"), (), image_size=4)  # 216, 864 and 120 weights; 8, 12 and 10 outputs
    scanned = drawn(network, 0)
    with pytest.raises(
        ValueError, match=r"99.9 % cannot be reached.* 0 to 97.5 %, because each layer keeps as many weights as it has"
    ):
        allocation.allocate(network, scanned, 0.999)
    assert sum(allocation.allocate(network, scanned, 0.975).kept.values()) == 30  # what the message promises holds
    with pytest.raises(ValueError, match=r"0 to 89.91 %, because least_density=0.1 of each layer is kept: lower it"):
        allocation.allocate(network, scanned, 0.95, least_density=0.1)
    allocation.allocate(network, scanned, 0.8991, least_density=0.1)
    whole = models.VGG(10)  # as many weights as outputs would be 0.04 % of it
    with pytest.raises(ValueError, match=r"least_density=0.005 of each layer is kept"):
        allocation.allocate(whole, drawn(whole, 0), 0.999)
    kept = allocation.allocate(whole, drawn(whole, 0), 0.999, least_density=0).kept
    assert sum(kept.values()) == masks.kept_count(masks.Masks.of(whole).total, 0.999)
    for wrong in (float("nan"), -0.1, 1.0, 80.33):
        with pytest.raises(ValueError, match="fraction from 0"):
            allocation.allocate(network, scanned, wrong)
    for wrong in ({"slope": 0.0}, {"slope": float("nan")}, {"least_density": 1.0}, {"least_density": -0.1}):
        with pytest.raises(ValueError, match="slope is above 0"):
            allocation.allocate(network, scanned, 0.5, **wrong)


def test_the_least_density_decides_and_is_half_a_percent():
    network = models.VGG(10, models.scaled(models.VGG16, 4), (128, 128))
    layers, sparsities = tuple(models.weight_layers(network)), (0.5, 0.995, 0.9999)
    robust, fragile = (90.0, 90.0, 90.0), (50.0, 20.0, 10.0)
    scanned = Scan(90.0, layers, sparsities, tuple(robust if name == "features.40" else fragile for name in layers), 100)
    kept = [
        allocation.allocate(network, scanned, 0.3, **given).kept["features.40.weight"]
        for given in ({"least_density": 0.001}, {}, {"least_density": 0.005}, {"least_density": 0.008})
    ]
    assert kept == [148, 738, 738, 1180]  # of 147,456


def test_the_slope_decides_and_is_a_hundredth_of_a_point():
    network = models.VGG(10, models.scaled(models.VGG16, 4), (128, 128))
    scanned = drawn(network, 1)
    default, same, steep = (
        allocation.allocate(network, scanned, 0.8, **given) for given in ({}, {"slope": 0.01}, {"slope": 5.0})
    )
    assert default == same and default.kept != steep.kept
    idle = Scan(90.0, scanned.layers, (0.5, 0.9), ((90.0, 90.0),) * 16, 100)  # nothing is lost: all advance together
    shares = [sparsity(layer) for layer in allocation.allocate(network, idle, 0.8).layers]
    assert shares == pytest.approx([0.8] * 16, abs=0.01)


def test_a_scan_that_goes_further_lets_layers_go_further():
    """Up to 99.5 %: between there and 95 % the curve is what was measured, not a line to guessing."""
    network = models.VGG(10, models.scaled(models.VGG16, 4), (128, 128))
    far = (*SPARSITIES, 0.98, 0.99, 0.995)
    robust, fragile = tuple(90.0 if s < 0.99 else 50.0 for s in far), tuple(90.0 - 80.0 * s for s in far)
    layers = tuple(models.weight_layers(network))
    top1 = tuple(fragile if i < 4 else robust for i in range(len(layers)))
    long = Scan(90.0, layers, far, top1, 100)
    short = Scan(90.0, layers, SPARSITIES, tuple(curve[: len(SPARSITIES)] for curve in top1), 100)
    ours, before = (allocation.allocate(network, scan, 0.97) for scan in (long, short))
    assert ours.tolerance < before.tolerance / 2
    for i, (further, nearer) in enumerate(zip(ours.layers, before.layers, strict=True)):
        assert further.kept > nearer.kept if i < 4 else further.kept < nearer.kept


def test_scanned_sparsities_may_come_in_any_order_and_begin_at_zero():
    network = models.VGG(10, (8, "M", 12, "M"), (), image_size=4)
    scanned = drawn(network, 3, sparsities=(0.2, 0.5, 0.9))
    turned = Scan(90.0, scanned.layers, (0.9, 0.0, 0.2, 0.5), tuple((c, 88.0, a, b) for a, b, c in scanned.top1_pct), 5000)
    assert allocation.allocate(network, turned, 0.7) == allocation.allocate(network, scanned, 0.7)
    for wrong in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="sparsities from 0"):
            allocation.allocate(network, dataclasses.replace(scanned, sparsities=(0.2, 0.5, wrong)), 0.7)


def test_a_scan_of_another_network_or_without_figures_is_refused():
    network, other = models.VGG(10, (8, "M"), ()), models.VGG(10, (8, 8, "M"), ())
    with pytest.raises(ValueError, match="the scan knows the layers"):
        allocation.allocate(other, drawn(network, 0), 0.5)
    broken = dataclasses.replace(drawn(network, 0), baseline_top1_pct=float("nan"))
    with pytest.raises(ValueError, match="finite"):
        allocation.allocate(network, broken, 0.5)
