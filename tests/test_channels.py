import copy

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from torch import nn
from torch.nn import functional as F

from helpers import data, models
from helpers.pruning import channels, reconstruction, selection
from helpers.pruning.patches import Samples, targets
from helpers.pruning.stream import Stream, first_linear, units
from helpers.pruning.surgery import consumer

SMALL = (8, 12, "M", 16, 12, "M", 16, "M")


def network(widths=SMALL, *, image_size=32, hidden=(24,), seed=0, classes=10) -> models.VGG:
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


def pictures(count=60, side=32, seed=1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    return (F.interpolate(coarse, size=side, mode="bilinear") * 255).round().to(torch.uint8)


def logits(net: models.VGG, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net(data.normalize(images, net.normalization))


def random_kept(net: models.VGG) -> dict[str, torch.Tensor]:
    return {unit.name: selection.random_channels(unit.conv.out_channels, unit.conv.out_channels // 2, 3) for unit in units(net)}


NETWORKS = {
    "vgg16, an eighth": lambda: network(models.scaled(models.VGG16, 8), hidden=(64, 64)),
    "vgg11, 64 pixels, 2×2 last map": lambda: network(models.scaled(models.VGG11, 16), image_size=64, classes=7),
    "vgg19, no hidden layer": lambda: network(models.scaled(models.VGG19, 16), hidden=(), classes=100),
}


# Surgery ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_removed_channels_compute_what_zeroed_channels_do(make):
    full = make()
    kept = random_kept(full)
    zeroed = copy.deepcopy(full)
    for unit in units(zeroed):
        gone = torch.ones(unit.conv.out_channels, dtype=torch.bool)
        gone[kept[unit.name]] = False
        with torch.no_grad():  # after ReLU the channel is zero everywhere
            unit.rest[0].weight[gone], unit.rest[0].bias[gone] = 0.0, -1.0
    images = pictures(8, full.image_size)
    small = channels.remove(full, kept)
    torch.testing.assert_close(logits(small, images), logits(zeroed, images), atol=1e-5, rtol=1e-5)
    assert small.widths == tuple("M" if w == "M" else w // 2 for w in full.widths)
    assert [p.shape for p in small.parameters()] == [p.shape for p in models.build(small.architecture()).parameters()]


def test_removing_nothing_changes_no_bit_and_by_list_is_by_name():
    full = network()
    same = channels.remove(full, {})
    assert all(torch.equal(a, b) for a, b in zip(same.state_dict().values(), full.state_dict().values(), strict=True))
    kept = random_kept(full)
    by_name, by_list = channels.remove(full, kept), channels.remove(full, list(kept.values()))
    assert all(torch.equal(a, b) for a, b in zip(by_name.state_dict().values(), by_list.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "kept, says",
    [
        ({"features.1": [0]}, "features.1 is no convolution"),
        ({"features.3": [3, 2]}, "features.3 must ascend"),
        ({"features.3": [0, 12]}, "at most 11"),
        ({"features.3": []}, "features.3"),
        ([[0]], "1 index lists for 5"),
    ],
)
def test_wrong_indices_are_refused(kept, says):
    with pytest.raises(ValueError, match=says):
        channels.remove(network(), kept)


# Statistics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4], ids=["32×32", "16×16", "16×16 b", "8×8", "linear 4×4"])
def test_statistics_are_those_of_the_rows(number):
    net, images, samples = network(), pictures(20), Samples(images=20, positions=5, seed=4)
    statistics, W = channels.layer_statistics(net, images, number, samples=samples)
    maps = next(Stream(net, images).inputs(number + 1))
    layer = consumer(net, number)[1]
    if isinstance(layer, nn.Linear):
        X = maps.flatten(2).transpose(1, 2).flatten(1)
    else:
        unfolded = F.unfold(maps, 3, padding=1).reshape(20, maps.shape[1], 9, -1)  # (N, C, taps, positions)
        at = samples.positions_of(20, maps.shape[-1])
        assert at.shape == (20, 5) and all(len(set(row)) == 5 for row in at.tolist())
        X = torch.stack([unfolded[n, :, :, at[n]].permute(2, 1, 0) for n in range(20)]).flatten(0, 1).flatten(1)
    Y = X @ W.T + layer.bias
    X0, Y0 = (X - X.mean(0)).double(), (Y - Y.mean(0)).double()
    close = {"rtol": 2e-3, "atol": 2e-3}
    assert statistics.rows == len(X)
    torch.testing.assert_close(statistics.xx.double(), X0.T @ X0, **close)
    torch.testing.assert_close(statistics.xy.double(), X0.T @ Y0, **close)
    torch.testing.assert_close(statistics.yy, Y0.square().sum(0), **close)
    torch.testing.assert_close(statistics.x_mean, X.double().mean(0), rtol=1e-4, atol=1e-5)
    if isinstance(layer, nn.Conv2d):  # the layer as a matrix product is the layer
        direct = layer(maps).permute(0, 2, 3, 1).reshape(20, -1, len(W))
        picked = torch.stack([direct[n, at[n]] for n in range(20)]).flatten(0, 1)
        torch.testing.assert_close(Y, picked, atol=1e-5, rtol=1e-4)


def test_targets_are_the_dense_networks_outputs_in_row_order():
    net, images, samples = network(), pictures(300), Samples(images=300, positions=3)  # more than one chunk
    rows = {number: block for blocks in targets(net, images, samples) for number, block in blocks.items()}
    assert set(rows) == {1, 2, 3, 4, 5}
    with torch.no_grad():
        maps = data.normalize(images, net.normalization)
        for number, unit in enumerate(units(net)):
            before_norm = unit.conv(maps)
            if number:
                at = samples.positions_of(300, maps.shape[-1])
                expected = before_norm.flatten(2).gather(2, at.unsqueeze(1).expand(-1, before_norm.shape[1], -1))
                torch.testing.assert_close(rows[number], expected.transpose(1, 2).flatten(0, 1), atol=1e-5, rtol=1e-4)
            maps = unit.finish(before_norm)
        torch.testing.assert_close(rows[5], first_linear(net)(maps.flatten(1)), atol=1e-5, rtol=1e-4)


# Selection --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def layer():
    """Statistics and weights of one middle layer, 16 channels, 9 taps."""
    return channels.layer_statistics(network(), pictures(), 2, samples=Samples(60, 10))


def contributions(number=2, count=60):
    """Z (rows · outputs, channels) and Y (rows · outputs,), centred, written out for the same rows as `layer`."""
    net, images, samples = network(), pictures(count), Samples(count, 10)
    maps, conv = next(Stream(net, images).inputs(number + 1)), consumer(net, number)[1]
    at = samples.positions_of(count, maps.shape[-1])
    columns = []
    with torch.no_grad():
        for channel in range(maps.shape[1]):
            part = F.conv2d(maps[:, [channel]], conv.weight[:, [channel]], padding=1).flatten(2)
            rows = part.gather(2, at.unsqueeze(1).expand(-1, part.shape[1], -1)).transpose(1, 2).flatten(0, 1)
            columns.append((rows - rows.mean(0)).flatten())
    Z = torch.stack(columns, 1).double().numpy()
    return Z, Z.sum(1)


def test_the_gram_matrix_over_channels_is_that_of_the_contributions(layer):
    gram, correlation = selection.channel_gram(*layer)
    Z, Y = contributions()
    np.testing.assert_allclose(gram, Z.T @ Z, rtol=1e-3, atol=1e-3 * np.diag(gram).max())
    np.testing.assert_allclose(correlation, Z.T @ Y, rtol=1e-3, atol=1e-3 * np.abs(correlation).max())


def test_the_path_solves_the_lasso_and_holds_every_count(layer):
    statistics, W = layer
    path = selection.path(statistics, W)
    for count in range(1, 17):
        kept, penalty = path.keep(count)
        assert len(kept) == count and (kept.diff() > 0).all()
        residual = path.correlation - path.gram @ path.beta[:, np.argmin(np.abs(path.lambdas - penalty))]
        slack = np.abs(residual) / statistics.rows
        assert slack.max() <= penalty * (1 + 1e-6) + 1e-9  # Karush-Kuhn-Tucker: no correlation above the penalty,
        np.testing.assert_allclose(slack[kept], penalty, rtol=1e-5, atol=1e-9)  # and equality on the active set


def test_the_path_agrees_with_coordinate_descent(layer):
    path = selection.path(*layer)
    kept, penalty = path.keep(6)
    Z, Y = contributions()
    statistics, _ = layer
    fitted = Lasso(alpha=penalty * statistics.rows / len(Y) * 1.0001, fit_intercept=False, tol=1e-10, max_iter=100_000).fit(Z, Y)
    assert set(np.flatnonzero(fitted.coef_)) == set(kept.tolist())


def test_channels_that_carry_everything_are_found():
    net = network()
    alive = torch.tensor([1, 4, 6, 11, 15])
    norm = units(net)[2].rest[0]
    with torch.no_grad():
        gone = torch.ones(16, dtype=torch.bool)
        gone[alive] = False
        norm.weight[gone], norm.bias[gone] = 0.0, 0.0
    path = selection.path(*channels.layer_statistics(net, pictures(), 2, samples=Samples(60, 10)))
    assert path.keep(5)[0].tolist() == alive.tolist()
    assert len(path.keep(9)[0]) == 9 and set(alive.tolist()) <= set(path.keep(9)[0].tolist())
    assert sorted(path.order.tolist()) == list(range(16)) and set(path.order[:5].tolist()) == set(alive.tolist())


def test_controls_keep_what_they_say():
    conv = units(network())[1].conv
    kept = selection.l1_filters(conv, 5)
    norms = conv.weight.detach().abs().sum((1, 2, 3))
    assert len(kept) == 5 and norms[kept].min() >= np.delete(norms.numpy(), kept.numpy()).max()
    assert selection.random_channels(40, 7, 0).tolist() == selection.random_channels(40, 7, 0).tolist()
    assert selection.random_channels(40, 7, 0).tolist() != selection.random_channels(40, 7, 1).tolist()


# Reconstruction ---------------------------------------------------------------------------------------------------


def random_statistics(rows=400, taps=3, channels_=6, outputs=5, rank=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(rows, taps * channels_, generator=generator)
    if rank:
        X = X[:, :rank] @ torch.randn(rank, taps * channels_, generator=generator)
    X += 1.5
    Y = torch.relu(X @ torch.randn(taps * channels_, outputs, generator=generator)) + 2
    made = reconstruction.Statistics(taps, channels_, outputs)
    for part in (slice(0, 150), slice(150, None)):
        made.add(X[part].view(-1, taps, channels_), Y[part])
    return made.centred(), X, Y


def test_least_squares_is_numpys():
    statistics, X, Y = random_statistics()
    kept = torch.tensor([0, 2, 5])
    at = statistics.columns(kept)
    solved = reconstruction.solve(statistics, kept, torch.zeros(5, 9), ridge=1e-7)
    design = np.column_stack([X[:, at].numpy(), np.ones(len(X))])
    expected, *_ = np.linalg.lstsq(design, Y.numpy(), rcond=None)
    np.testing.assert_allclose(solved.W.T, expected[:-1], atol=2e-3)
    np.testing.assert_allclose(solved.bias, expected[-1], atol=2e-2)
    left = ((Y.numpy() - design @ expected) ** 2).sum() / ((Y - Y.mean(0)) ** 2).sum().item()
    assert reconstruction.relative_error(statistics, kept, solved.W) == pytest.approx(left, abs=1e-4)


def test_the_curve_is_the_error_of_each_prefix():
    statistics, *_ = random_statistics()
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    curve = reconstruction.error_curve(statistics, order, ridge=1e-7)
    assert curve[0] == 1 and (curve.diff() <= 1e-9).all()
    for count in range(1, 7):
        solved = reconstruction.solve(statistics, order[:count], torch.zeros(5, 3 * count), ridge=1e-7)
        assert float(curve[count]) == pytest.approx(reconstruction.relative_error(statistics, order[:count], solved.W), abs=1e-4)


def test_ridge_pulls_towards_the_weights_that_were():
    statistics, *_ = random_statistics()
    W = torch.randn(5, 18, generator=torch.Generator().manual_seed(5))
    everything = torch.arange(6)
    near = reconstruction.solve(statistics, everything, W, ridge=1e4).W
    torch.testing.assert_close(near, W, atol=1e-3, rtol=1e-3)


def test_a_singular_system_is_solved_and_says_how():
    statistics, X, Y = random_statistics(rank=4)
    everything = torch.arange(6)
    solved = reconstruction.solve(statistics, everything, torch.zeros(5, 18), ridge=0.0)
    assert solved.solver == "pseudo-inverse" and torch.isfinite(solved.W).all()
    design = np.column_stack([X.numpy(), np.ones(len(X))])
    left = ((Y.numpy() - design @ np.linalg.lstsq(design, Y.numpy(), rcond=1e-5)[0]) ** 2).sum()
    assert reconstruction.relative_error(statistics, everything, solved.W) == pytest.approx(
        left / ((Y - Y.mean(0)) ** 2).sum().item(), abs=5e-3
    )
    damped = reconstruction.solve(statistics, everything, torch.zeros(5, 18))
    assert damped.solver.startswith("cholesky")
    constant = reconstruction.Statistics(1, 2, 3)
    constant.add(torch.ones(10, 1, 2), torch.randn(10, 3))
    kept = reconstruction.solve(constant.centred(), torch.arange(2), torch.ones(3, 2))
    assert kept.solver.startswith("none") and torch.equal(kept.W, torch.ones(3, 2))


@pytest.mark.parametrize("broken", ["inputs", "outputs", "weights"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_not_finite_is_an_error_and_no_perfect_fit(broken, number):
    X, Y, W = torch.randn(50, 3, 4), torch.randn(50, 5), torch.randn(5, 12)
    {"inputs": X, "outputs": Y, "weights": W}[broken].view(-1)[7] = number
    statistics = reconstruction.Statistics(3, 4, 5)
    statistics.add(X, Y)
    if broken == "weights":
        with pytest.raises(ValueError, match="not a finite number"):
            reconstruction.relative_error(statistics.centred(), torch.arange(4), W)
        with pytest.raises(ValueError, match="outputs of this layer are not finite"):
            statistics.explained_by(W, torch.zeros(5))
    else:
        with pytest.raises(ValueError, match=f"{broken} of this layer are not finite"):
            statistics.centred()


def test_a_network_that_overflows_is_named_and_not_pruned():
    net = network()
    net.features[0].weight.data[0, 0, 0, 0] = float("nan")
    for asymmetric in (True, False):
        with pytest.raises(ValueError, match="not finite numbers"):
            channels.prune(net, pictures(), HALF, asymmetric=asymmetric, samples=SAMPLES)


# The whole network ------------------------------------------------------------------------------------------------

HALF = tuple("M" if w == "M" else w // 2 for w in SMALL)
SAMPLES = Samples(60, 10)


@pytest.mark.parametrize("method", channels.METHODS)
@pytest.mark.parametrize("reconstruct", [True, False])
@pytest.mark.parametrize("asymmetric", [True, False])
def test_keeping_everything_keeps_the_function(method, reconstruct, asymmetric):
    net, images = network(), pictures()
    same, reports = channels.prune(
        net, images, SMALL, method=method, reconstruct=reconstruct, asymmetric=asymmetric, samples=SAMPLES, dtype=torch.float32
    )
    torch.testing.assert_close(logits(same, images), logits(net, images), atol=1e-3, rtol=1e-3)
    assert all(report.error_after < 1e-5 for report in reports)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("method", channels.METHODS)
def test_widths_are_met_to_the_channel(make, method, tmp_path):
    full = make()
    before = copy.deepcopy(full.state_dict())
    wanted = tuple("M" if w == "M" else max(1, w * 2 // 5) for w in full.widths)
    images = pictures(40, full.image_size)
    small, reports = channels.prune(full, images, wanted, method=method, samples=Samples(40, 10))
    again, _ = channels.prune(full, images, wanted, method=method, samples=Samples(40, 10))
    assert small.widths == wanted and small.normalization == full.normalization
    assert all(torch.equal(a, b) for a, b in zip(before.values(), full.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(small.state_dict().values(), again.state_dict().values(), strict=True))
    assert [len(report.kept) for report in reports] == [w for w in wanted if w != "M"]
    assert all(report.error_after <= report.error_before + 1e-6 for report in reports)
    models.save(small, tmp_path / "small.safetensors")
    torch.testing.assert_close(logits(models.load(tmp_path / "small.safetensors"), images), logits(small, images))


def test_a_network_with_dead_channels_loses_only_those():
    net, images = network(), pictures()
    alive = {}
    for unit in units(net):
        alive[unit.name] = selection.random_channels(unit.conv.out_channels, unit.conv.out_channels // 2, 8)
        gone = torch.ones(unit.conv.out_channels, dtype=torch.bool)
        gone[alive[unit.name]] = False
        with torch.no_grad():
            unit.rest[0].weight[gone], unit.rest[0].bias[gone] = 0.0, 0.0
            unit.rest[0].bias[alive[unit.name]] = 0.3  # lest one of them be below zero on every image, and dead as well
    small, reports = channels.prune(net, images, HALF, samples=SAMPLES, dtype=torch.float32)
    assert [report.kept for report in reports] == [tuple(index.tolist()) for index in alive.values()]
    torch.testing.assert_close(logits(small, images), logits(net, images), atol=1e-3, rtol=1e-3)


def test_regression_beats_its_controls_and_its_ablations():
    net, images = network(models.scaled(models.VGG11, 8), hidden=()), pictures(150)
    wanted = tuple("M" if w == "M" else w // 2 for w in net.widths)
    truth = logits(net, images)

    def distance(**options) -> float:
        small, _ = channels.prune(net, images, wanted, samples=Samples(150, 10), **options)
        return float((logits(small, images) - truth).square().mean() / truth.var())

    ours = distance()
    assert ours < 0.5 * distance(reconstruct=False)
    assert ours < distance(method="random")
    assert ours < distance(asymmetric=False)


def test_without_reconstruction_the_kept_weights_stay_bit_for_bit():
    net, images = network(), pictures()
    small, reports = channels.prune(net, images, HALF, method="l1", reconstruct=False, samples=SAMPLES)
    cut = channels.remove(net, [torch.tensor(report.kept) for report in reports])
    assert all(torch.equal(a, b) for a, b in zip(small.state_dict().values(), cut.state_dict().values(), strict=True))
    assert all(report.error_before == report.error_after and report.solver == "none" for report in reports)


def test_error_curves_fall_from_one_to_nearly_zero():
    net = network()
    curves = channels.error_curves(net, pictures(), samples=SAMPLES)
    assert [(name, len(curve) - 1) for name, curve in curves.items()] == [(u.name, u.conv.out_channels) for u in units(net)]
    for curve in curves.values():
        assert curve[0] == 1 and (curve.diff() <= 1e-9).all() and curve[-1] < 0.01


@pytest.mark.parametrize(
    "options, says",
    [
        ({"method": "best"}, "best"),
        ({"widths": (8, 12, 16, "M", 12, "M", 16, "M")}, "not the layers"),
        ({"widths": (9, 12, "M", 16, 12, "M", 16, "M")}, "8 channels cannot keep 9"),
        ({"widths": (0, 12, "M", 16, 12, "M", 16, "M")}, "cannot keep 0"),
    ],
)
def test_wrong_arguments_are_named(options, says):
    with pytest.raises(ValueError, match=says):
        channels.prune(network(), pictures(4), **{"widths": SMALL, **options})


def test_a_path_cut_short_keeps_the_same_channels(layer):
    whole = selection.path(*layer)
    for count in (1, 4, 9, 16):
        short = selection.path(*layer, count)
        assert short.keep(count)[0].tolist() == whole.keep(count)[0].tolist()
        assert short.keep(count)[1] == pytest.approx(whole.keep(count)[1])


def test_choosing_and_solving_from_separate_sums_is_the_same_on_the_same_rows(monkeypatch):
    net, images = network(), pictures()
    together, _ = channels.prune(net, images, HALF, samples=SAMPLES, dtype=torch.float32)
    monkeypatch.setattr(channels, "NARROW", 4)
    apart, _ = channels.prune(net, images, HALF, samples=Samples(60, 10, selection_rows=600), dtype=torch.float32)
    torch.testing.assert_close(logits(apart, images), logits(together, images), atol=1e-3, rtol=1e-3)
    _, reports = channels.prune(net, images, HALF, samples=Samples(60, 10, selection_rows=180))
    assert [report.rows for report in reports] == [600, 600, 600, 600, 60]
