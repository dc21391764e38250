import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers import data, models
from helpers.pruning import channels, regression
from helpers.pruning.channels import Activations, convolutions, units
from helpers.pruning.regression import Samples

SMALL = (8, 12, "M", 16, 12, "M", 16, "M")
HALF = tuple("M" if w == "M" else w // 2 for w in SMALL)
SAMPLES = Samples(60, 10)
FORMATS = (torch.float32, torch.bfloat16)


def network(widths=SMALL, *, image_size=16, hidden=(24,), seed=0, classes=10) -> models.VGG:
    """Random weights, with batch-norm statistics and scales unlike their initial ones."""
    torch.manual_seed(seed)
    made = models.VGG(classes, widths, hidden, image_size=image_size).eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return made


def pictures(count=60, side=16, seed=1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    return (F.interpolate(coarse, size=side, mode="bilinear") * 255).round().to(torch.uint8)


def logits(net: models.VGG, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net(data.normalize(images, net.normalization))


def random_half(net: models.VGG, seed: int) -> dict[str, torch.Tensor]:
    sizes = {unit.name: len(unit.layer.weight) for unit in convolutions(net)}
    return {name: regression.random_order(size, seed)[: size // 2].sort().values for name, size in sizes.items()}


def same(a: models.VGG, b: models.VGG) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


NETWORKS = {
    "vgg16, two hidden layers": lambda: network(models.scaled(models.VGG16, 32), image_size=32, hidden=(30, 20)),
    "vgg11, 64 pixels, 2×2 last map": lambda: network(models.scaled(models.VGG11, 32), image_size=64, classes=7),
    "vgg19, no hidden layer": lambda: network(models.scaled(models.VGG19, 32), image_size=32, hidden=(), classes=100),
    "a pool first, odd sizes": lambda: network(("M", 5, "M", "M", 7), hidden=(9,), image_size=20, classes=3),
}


# Activations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_activations_go_through_the_network_unit_by_unit(make, monkeypatch):
    monkeypatch.setattr(channels, "CHUNK", 20)
    net = make()
    images = pictures(30, net.image_size)
    stream, expected = Activations(net, images), logits(net, images)
    for number in range(len(stream.units) + 1):
        stream.advance(number)
        torch.testing.assert_close(torch.cat(list(stream.inputs(len(stream.units)))), expected, rtol=1e-3, atol=1e-4)
    assert [unit.name for unit in stream.units] == list(models.weight_layers(net))


@pytest.mark.parametrize("dtype", FORMATS)
def test_targets_are_the_layers_outputs_at_the_rows_that_are_collected(dtype, monkeypatch):
    monkeypatch.setattr(channels, "CHUNK", 20)
    net, images, samples = network(), pictures(50), Samples(50, 3)
    rows, stream = channels.targets(net, images, samples, dtype), Activations(net, images, dtype)
    for number, unit in enumerate(stream.units):
        own = stream.statistics(number, samples)
        given = stream.statistics(number, samples, rows[unit.name])
        assert given.rows == own.rows == len(rows[unit.name]) == 50 * (3 if isinstance(unit.layer, nn.Conv2d) else 1)
        scale = float(own.yy.max())
        tolerance = 1e-4 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(given.xy, own.xy, rtol=tolerance, atol=tolerance * float(own.xy.abs().max()))
        torch.testing.assert_close(given.yy, own.yy, rtol=tolerance, atol=tolerance * scale)
        torch.testing.assert_close(given.xx, own.xx)


# Cutting -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_removed_channels_compute_what_zeroed_channels_do(make):
    full = make()
    kept, zeroed = random_half(full, 3), copy.deepcopy(full)
    for unit in convolutions(zeroed):
        gone = torch.ones(len(unit.layer.weight), dtype=torch.bool)
        gone[kept[unit.name]] = False
        with torch.no_grad():  # after ReLU the channel is zero everywhere
            unit.rest[0].weight[gone], unit.rest[0].bias[gone] = 0.0, -1.0
    images = pictures(8, full.image_size)
    small = channels.remove(full, kept)
    torch.testing.assert_close(logits(small, images), logits(zeroed, images), atol=1e-5, rtol=1e-5)
    assert small.widths == tuple("M" if w == "M" else w // 2 for w in full.widths)
    assert [p.shape for p in small.parameters()] == [p.shape for p in models.build(small.architecture()).parameters()]
    assert same(small, channels.remove(full, dict(enumerate(kept.values()))))
    assert same(full, channels.remove(full, {}))


@pytest.mark.parametrize(
    "kept, says",
    [
        ({"features.1": [0]}, "'features.1' is no convolution of this network: give 0 to 4 or one of features.0, features.3"),
        ({5: [0]}, "5 is no convolution"),
        ({"features.3": [3, 2]}, "features.3 must ascend"),
        ({"features.3": [0, 12]}, "at most 11"),
        ({1: []}, "features.3"),
    ],
)
def test_wrong_indices_are_refused(kept, says):
    with pytest.raises(ValueError, match=says):
        channels.remove(network(), kept)


# One layer ---------------------------------------------------------------------------------------------------------


def test_a_layer_goes_by_name_or_number():
    net, images = network(), pictures(20)
    by_name, W = channels.layer_statistics(net, images, "features.7", samples=SAMPLES)
    by_number, _ = channels.layer_statistics(net, images, 2, samples=SAMPLES)
    assert torch.equal(by_name.xx, by_number.xx) and by_name.channels == 16 and W.shape == (12, 9 * 16)
    for wrong in ("features.8", "classifier.0", 5, -1):
        with pytest.raises(ValueError, match="no convolution of this network"):
            channels.layer_statistics(net, images, wrong)


def test_channels_that_carry_everything_are_found():
    net, alive = network(), torch.tensor([1, 4, 6, 11, 15])
    norm = convolutions(net)[2].rest[0]
    with torch.no_grad():
        gone = torch.ones(16, dtype=torch.bool)
        gone[alive] = False
        norm.weight[gone], norm.bias[gone] = 0.0, 0.0
    path = regression.path(*channels.layer_statistics(net, pictures(), 2, samples=SAMPLES))
    assert path.keep(5)[0].tolist() == alive.tolist()
    assert len(path.keep(9)[0]) == 9 and set(alive.tolist()) <= set(path.keep(9)[0].tolist())


@pytest.mark.parametrize("dtype", FORMATS)
def test_error_curves_fall_from_one_to_nearly_zero(dtype):
    net = network()
    curves = channels.error_curves(net, pictures(), samples=SAMPLES, dtype=dtype)
    assert [(n, len(curve) - 1) for n, curve in curves.items()] == [(u.name, len(u.layer.weight)) for u in convolutions(net)]
    for number, curve in enumerate(curves.values()):
        assert curve[0] == 1 and (curve.diff() <= 1e-9).all() and curve[-1] < 0.01
        statistics, W = channels.layer_statistics(net, pictures(), number, samples=SAMPLES)  # of float32 maps
        alone = regression.error_curve(statistics, regression.path(statistics, W).order)
        torch.testing.assert_close(curve, alone, rtol=0, atol=1e-3 if dtype == torch.float32 else 0.1)


# The whole network -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", channels.METHODS)
@pytest.mark.parametrize("reconstruct", [True, False])
@pytest.mark.parametrize("asymmetric", [True, False])
def test_keeping_everything_keeps_the_function(method, reconstruct, asymmetric):
    net, images = network(), pictures()
    options = {"reconstruct": reconstruct, "asymmetric": asymmetric, "samples": SAMPLES, "dtype": torch.float32}
    whole, reports = channels.prune(net, images, SMALL, method=method, **options)
    torch.testing.assert_close(logits(whole, images), logits(net, images), atol=1e-3, rtol=1e-3)
    assert all(report.error_after < 1e-5 for report in reports)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("method", channels.METHODS)
@pytest.mark.parametrize("dtype", FORMATS)
def test_widths_are_met_to_the_channel(make, method, dtype, tmp_path):
    full = make()
    before, images = copy.deepcopy(full), pictures(20, full.image_size)
    wanted = tuple("M" if w == "M" else max(1, w * 2 // 5) for w in full.widths)
    small, reports = channels.prune(full, images, wanted, method=method, samples=Samples(20, 10), dtype=dtype)
    again, _ = channels.prune(full, images, wanted, method=method, samples=Samples(20, 10), dtype=dtype)
    assert small.widths == wanted and small.normalization == full.normalization
    assert same(before, full) and same(small, again)
    assert [len(report.kept) for report in reports] == [w for w in wanted if w != "M"]
    assert [report.consumer for report in reports] == [unit.name for unit in units(full)[1 : len(reports) + 1]]
    assert all(report.error_after <= report.error_before + 1e-6 for report in reports)
    models.save(small, tmp_path / "small.safetensors")
    torch.testing.assert_close(logits(models.load(tmp_path / "small.safetensors"), images), logits(small, images))


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_network_with_dead_channels_loses_only_those(dtype):
    net, images = network(), pictures()
    alive = random_half(net, 8)
    for unit in convolutions(net):
        gone = torch.ones(len(unit.layer.weight), dtype=torch.bool)
        gone[alive[unit.name]] = False
        with torch.no_grad():
            unit.rest[0].weight[gone], unit.rest[0].bias[gone] = 0.0, 0.0
            # small and far from zero, lest ReLU make one of them dead as well
            unit.rest[0].weight[~gone], unit.rest[0].bias[~gone] = 0.1, 1.0
    small, reports = channels.prune(net, images, HALF, samples=SAMPLES, dtype=dtype)
    assert [report.kept for report in reports] == [tuple(index.tolist()) for index in alive.values()]
    tolerance = 1e-3 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(logits(small, images), logits(net, images), atol=tolerance, rtol=tolerance)


def test_the_first_layer_is_chosen_and_solved_as_by_hand():
    net, images = network(), pictures()
    small, (report, *_) = channels.prune(net, images, HALF, samples=SAMPLES, dtype=torch.float32)
    statistics, W = channels.layer_statistics(net, images, 0, samples=SAMPLES)
    kept, penalty = regression.path(statistics, W).keep(4)
    solved = regression.solve(statistics, kept, W[:, statistics.columns(kept)])
    assert report.kept == tuple(kept.tolist()) and report.penalty == pytest.approx(penalty)
    assert torch.equal(small.features[0].weight, net.features[0].weight[kept])
    mine = regression.matrix(small.features[3].weight, 9)  # of the next convolution's outputs half were taken later
    second = list(channels.prune(net, images, HALF, samples=SAMPLES, dtype=torch.float32)[1][1].kept)
    torch.testing.assert_close(mine, solved.W[second], rtol=1e-3, atol=1e-3)


def test_controls_keep_what_they_say():
    net, images = network(), pictures()
    _, reports = channels.prune(net, images, HALF, method="l1", samples=SAMPLES)
    for unit, report in zip(convolutions(net), reports, strict=True):
        norms = unit.layer.weight.detach().abs().sum((1, 2, 3))
        assert set(report.kept) == set(norms.topk(len(report.kept)).indices.tolist()) and report.penalty is None
    drawn = [channels.prune(net, images, HALF, method="random", seed=seed, samples=SAMPLES)[1] for seed in (0, 0, 1)]
    kept = [[report.kept for report in reports] for reports in drawn]
    assert kept[0] == kept[1] != kept[2]


@pytest.mark.parametrize("method", channels.METHODS)
@pytest.mark.parametrize("dtype", FORMATS)
def test_without_reconstruction_the_kept_weights_stay_bit_for_bit(method, dtype):
    net, images = network(), pictures()
    options = {"method": method, "samples": SAMPLES, "dtype": dtype}
    small, reports = channels.prune(net, images, HALF, reconstruct=False, **options)
    assert same(small, channels.remove(net, {report.name: torch.tensor(report.kept) for report in reports}))
    assert all(report.error_before == report.error_after and report.solver == "none" for report in reports)
    solved, with_solution = channels.prune(net, images, HALF, **options)  # the default solves, whatever the method
    assert all(report.solver.startswith("cholesky") for report in with_solution)
    assert with_solution[0].kept == reports[0].kept and with_solution[0].error_before == reports[0].error_before
    assert torch.equal(solved.features[0].weight, small.features[0].weight)
    assert not torch.equal(solved.features[3].weight, small.features[3].weight)


def test_the_target_is_the_original_output_or_the_layers_own():
    net, images = network(), pictures()
    options, errors, first = {"samples": SAMPLES, "dtype": torch.float32}, {}, {}
    for asymmetric in (True, False):
        _, reports = channels.prune(net, images, (3, 5, *SMALL[2:]), asymmetric=asymmetric, **options)
        between, _ = channels.prune(net, images, (3, *SMALL[1:]), asymmetric=asymmetric, **options)
        between.features[7].load_state_dict(net.features[7].state_dict())  # as it is when its channels are chosen
        Y = channels.targets(net, images, SAMPLES)["features.7"] if asymmetric else None
        statistics, W = Activations(between, images).statistics(2, SAMPLES, Y), regression.matrix(net.features[7].weight, 9)
        kept, _ = regression.path(statistics, W).keep(5)
        solved = regression.solve(statistics, kept, W[:, statistics.columns(kept)])
        errors[asymmetric] = regression.relative_error(statistics, kept, solved.W)
        assert reports[1].kept == tuple(kept.tolist())
        assert reports[1].error_after == pytest.approx(errors[asymmetric], rel=1e-3)
        first[asymmetric] = reports[0]
    assert errors[True] > 1.05 * errors[False]  # the layer's own output is the easier target
    assert first[True].kept == first[False].kept  # before anything is pruned both are the same
    assert first[True].error_after == pytest.approx(first[False].error_after, rel=1e-3)


def test_regression_beats_its_controls_and_its_ablations():
    net, images = network(models.scaled(models.VGG11, 8), image_size=32, hidden=()), pictures(100, 32)
    wanted = tuple("M" if w == "M" else w // 2 for w in net.widths)
    truth = logits(net, images)

    def distance(**options) -> float:
        small, _ = channels.prune(net, images, wanted, samples=Samples(100, 10), **options)
        return float((logits(small, images) - truth).square().mean() / truth.var())

    ours = distance()
    assert ours < 0.5 * distance(reconstruct=False)
    assert ours < distance(method="random") < distance(method="random", reconstruct=False)
    assert ours < distance(asymmetric=False)


def test_wide_layers_are_chosen_from_fewer_rows_and_solved_from_all(monkeypatch):
    net, images = network(), pictures()
    together, _ = channels.prune(net, images, HALF, samples=SAMPLES, dtype=torch.float32)
    monkeypatch.setattr(channels, "NARROW", 4)
    apart, from_all = channels.prune(net, images, HALF, samples=Samples(60, 10, selection_rows=600), dtype=torch.float32)
    torch.testing.assert_close(logits(apart, images), logits(together, images), atol=1e-3, rtol=1e-3)
    _, from_few = channels.prune(net, images, HALF, samples=Samples(60, 10, selection_rows=60), dtype=torch.float32)
    for reports in (from_all, from_few):
        assert [report.rows for report in reports] == [600, 600, 600, 600, 60]
    assert all(a.penalty != b.penalty for a, b in zip(from_all[:4], from_few[:4], strict=True))


@pytest.mark.parametrize(
    "options, says",
    [
        ({"method": "best"}, "unknown method 'best'"),
        ({"widths": (8, 12, 16, "M", 12, "M", 16, "M")}, "not the layers"),
        ({"widths": (9, 12, "M", 16, 12, "M", 16, "M")}, "8 channels cannot keep 9"),
        ({"widths": (0, 12, "M", 16, 12, "M", 16, "M")}, "cannot keep 0"),
    ],
)
def test_wrong_arguments_are_named(options, says):
    with pytest.raises(ValueError, match=says):
        channels.prune(network(), pictures(4), **{"widths": SMALL, **options})


def test_other_networks_are_refused_in_a_sentence():
    other, images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)), pictures(4)
    folded = models.fold_batch_norm(network())
    for call in (
        lambda net: channels.prune(net, images, SMALL),
        lambda net: channels.remove(net, {}),
        lambda net: channels.error_curves(net, images),
        lambda net: channels.layer_statistics(net, images, 0),
    ):
        with pytest.raises(TypeError, match="helpers.models.VGG"):
            call(other)
        with pytest.raises(ValueError, match="features.1.* was changed"):
            call(folded)


def test_a_network_that_overflows_is_named_and_not_pruned():
    net = network()
    net.features[0].weight.data[0, 0, 0, 0] = float("nan")
    for asymmetric in (True, False):
        with pytest.raises(ValueError, match="not finite numbers"):
            channels.prune(net, pictures(), HALF, asymmetric=asymmetric, samples=SAMPLES)
