import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from torch import nn
from torch.nn import functional as F

from helpers.pruning import regression
from helpers.pruning.regression import Samples, Statistics

FORMATS = (torch.float32, torch.bfloat16)
TAPS, CHANNELS, OUTPUTS, ROWS = 9, 8, 5, 400


def centred(rows: torch.Tensor) -> torch.Tensor:
    return rows.double() - rows.double().mean(0)


def problem(dtype=torch.float32, *, rank=None, seed=0) -> tuple[Statistics, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(statistics, X, Y, W) of rows with a mean, made in two parts, whose outputs are nearly X Wᵀ."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(ROWS, TAPS * CHANNELS, generator=generator)
    if rank:
        X = X[:, :rank] @ torch.randn(rank, TAPS * CHANNELS, generator=generator)
    X = (X + 1.5).to(dtype)
    size = torch.linspace(2, 0.2, CHANNELS).repeat(TAPS)
    W = torch.randn(OUTPUTS, TAPS * CHANNELS, generator=generator) * size
    Y = (X.float() @ W.T + torch.randn(ROWS, OUTPUTS, generator=generator) + 2).to(dtype)
    statistics = Statistics(TAPS, CHANNELS, OUTPUTS)
    for part in (slice(0, 150), slice(150, None)):
        statistics.add(X[part].view(-1, TAPS, CHANNELS), Y[part])
    return statistics.centred(), X.float(), Y.float(), W


# Samples and sums --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("side, size", [(5, 3), (2, 3), (1, 3), (4, 1)])
def test_patches_are_the_columns_of_an_unfolded_map(side, size, dtype):
    maps = torch.randn(6, 4, side, side).to(dtype).contiguous(memory_format=torch.channels_last)
    at = Samples(positions=3).positions_of(6, side)
    unfolded = F.unfold(maps.float(), size, padding=size // 2).view(6, 4, size * size, -1)
    expected = torch.stack([unfolded[n, :, :, at[n]].permute(2, 1, 0) for n in range(6)]).flatten(0, 1)
    assert torch.equal(regression.patches(maps, at, size).float(), expected)


def test_samples_are_drawn_by_seed_without_replacement():
    images = torch.arange(100).view(100, 1)
    for few in (Samples(30), Samples(30, seed=1)):
        chosen = few.choose(images).flatten()
        assert len(chosen) == 30 and (chosen.diff() > 0).all()
    assert torch.equal(Samples(30).choose(images), Samples(30).choose(images))
    assert not torch.equal(Samples(30).choose(images), Samples(30, seed=1).choose(images))
    assert torch.equal(Samples(1000).choose(images), images)
    at = Samples(positions=5).positions_of(20, 8)
    assert at.shape == (20, 5) and all(len(set(row)) == 5 for row in at.tolist()) and int(at.max()) < 64
    assert Samples(positions=5).positions_of(20, 2).sort().values.tolist() == [[0, 1, 2, 3]] * 20


def test_a_sum_by_hand():
    statistics = Statistics(1, 2, 1)
    statistics.add(torch.tensor([[[1.0, 0.0]], [[3.0, 4.0]]]), torch.tensor([[2.0], [6.0]]))
    statistics.centred()
    assert statistics.xx.tolist() == [[2, 4], [4, 8]] and statistics.xy.tolist() == [[4], [8]]
    assert statistics.x_mean.tolist() == [2, 2] and statistics.y_mean.tolist() == [4] and statistics.yy.tolist() == [8]


@pytest.mark.parametrize("dtype", FORMATS)
def test_sums_are_those_of_the_centred_rows(dtype):
    statistics, X, Y, _ = problem(dtype)
    close = {"rtol": 1e-3, "atol": 5e-2}
    torch.testing.assert_close(statistics.xx.double(), centred(X).T @ centred(X), **close)
    torch.testing.assert_close(statistics.xy.double(), centred(X).T @ centred(Y), **close)
    torch.testing.assert_close(statistics.yy, centred(Y).square().sum(0))
    assert statistics.rows == ROWS
    part = statistics.restricted(torch.tensor([1, 6]))
    at = statistics.columns(torch.tensor([1, 6]))
    assert at.tolist() == [8 * tap + channel for tap in range(9) for channel in (1, 6)]
    torch.testing.assert_close(part.xx.double(), centred(X[:, at]).T @ centred(X[:, at]), **close)
    torch.testing.assert_close(part.x_mean, X[:, at].double().mean(0))


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("kind", ["convolution", "linear layer on maps", "linear layer"])
def test_collect_reads_any_layer(kind, dtype):
    torch.manual_seed(0)
    samples, count = Samples(positions=4, seed=2), 30
    layer = nn.Conv2d(6, 5, 3, padding=1) if kind == "convolution" else nn.Linear(24 if "maps" in kind else 6, 5)
    inputs = torch.randn(count, 6, *{"convolution": (5, 5), "linear layer": ()}.get(kind, (2, 2))).to(dtype)
    if kind == "convolution":
        at = samples.positions_of(count, 5)
        X = regression.patches(inputs, at).float()
        Y = layer(inputs.float()).flatten(2).gather(2, at.unsqueeze(1).expand(-1, 5, -1)).transpose(1, 2).flatten(0, 1).detach()
    else:
        X, Y = inputs.float().reshape(count, 6, -1).transpose(1, 2), layer(inputs.float().flatten(1)).detach()
    W = regression.matrix(layer.weight, X.shape[1])
    torch.testing.assert_close(X.flatten(1) @ W.T + layer.bias, Y, rtol=1e-4, atol=1e-4)  # the layer is this product
    own = regression.collect(inputs.split(7), layer, samples, count)
    given = regression.collect(inputs.split(30), layer, samples, count, targets=Y)
    for statistics in (own, given):
        assert statistics.rows == len(X)
        torch.testing.assert_close(statistics.xx.double(), centred(X.flatten(1)).T @ centred(X.flatten(1)), rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(statistics.xy.double(), centred(X.flatten(1)).T @ centred(Y.detach()), rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(statistics.y_mean, Y.double().mean(0), rtol=1e-4, atol=1e-4)
    before = layer.weight.detach().clone()
    regression.assign(layer, W, layer.bias.detach() + 1, X.shape[1])
    assert torch.equal(layer.weight, before)


def test_fewer_rows_are_the_first_positions_and_images():
    layer, samples, maps = nn.Conv2d(2, 3, 3, padding=1), Samples(positions=4), torch.randn(12, 2, 5, 5)
    Y = torch.randn(48, 3)
    assert regression.collect(maps.split(4), layer, samples, 12, targets=Y, rows=24).rows == 24  # 2 positions of every image
    few = regression.collect(maps.split(4), layer, samples, 12, targets=Y, rows=4)  # 1 position of 4 images
    assert few.rows == 4
    torch.testing.assert_close(few.y_mean, Y[:16:4].double().mean(0))


@pytest.mark.parametrize("broken", ["inputs", "outputs", "weights"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_not_finite_is_an_error_and_no_perfect_fit(broken, number):
    X, Y, W = torch.randn(50, 3, 4), torch.randn(50, 5), torch.randn(5, 12)
    {"inputs": X, "outputs": Y, "weights": W}[broken].view(-1)[7] = number
    statistics = Statistics(3, 4, 5)
    statistics.add(X, Y)
    if broken == "weights":
        with pytest.raises(ValueError, match="not a finite number"):
            regression.relative_error(statistics.centred(), torch.arange(4), W)
        with pytest.raises(ValueError, match="outputs of this layer are not finite"):
            statistics.explained_by(W, torch.zeros(5))
    else:
        with pytest.raises(ValueError, match=f"{broken} of this layer are not finite"):
            statistics.centred()


def test_no_rows_are_an_error():
    with pytest.raises(ValueError, match="no rows"):
        Statistics(1, 2, 3).centred()


# The LASSO path ----------------------------------------------------------------------------------------------------


def contributions(X: torch.Tensor, W: torch.Tensor) -> np.ndarray:
    """Z (rows · outputs, channels): what each channel gives to every output, about the mean."""
    X, W = X.view(-1, TAPS, CHANNELS), W.view(OUTPUTS, TAPS, CHANNELS)
    parts = torch.stack([X[:, :, c] @ W[:, :, c].T for c in range(CHANNELS)], dim=2)
    return (parts - parts.mean(0)).flatten(0, 1).double().numpy()


@pytest.mark.parametrize("dtype", FORMATS)
def test_the_path_is_scikit_learns_lasso(dtype):
    statistics, X, Y, W = problem(dtype)
    path, Z, y = regression.path(statistics, W), contributions(X, W), centred(Y).flatten().numpy()
    np.testing.assert_allclose(path.gram, Z.T @ Z, rtol=1e-3, atol=1e-3 * np.diag(path.gram).max())
    np.testing.assert_allclose(path.correlation, Z.T @ y, rtol=1e-3, atol=1e-3 * np.abs(path.correlation).max())
    assert len(path.penalties) > CHANNELS and (np.diff(path.penalties) < 0).all()
    for knot in range(1, len(path.penalties) - 1):
        # scikit-learn divides by the rows of Z, the path by those of X
        lasso = Lasso(alpha=path.penalties[knot] / OUTPUTS, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(Z, y)
        np.testing.assert_allclose(path.beta[:, knot], lasso.coef_, atol=2e-3)


@pytest.mark.parametrize("dtype", FORMATS)
def test_every_count_can_be_kept(dtype):
    statistics, _, _, W = problem(dtype)
    path = regression.path(statistics, W)
    for count in range(1, CHANNELS + 1):
        kept, penalty = path.keep(count)
        assert len(kept) == count and (kept.diff() > 0).all()
        residual = path.correlation - path.gram @ path.beta[:, np.argmin(np.abs(path.penalties - penalty))]
        slack = np.abs(residual) / statistics.rows
        assert slack.max() <= penalty * (1 + 1e-6) + 1e-9  # Karush-Kuhn-Tucker: no correlation above the penalty,
        np.testing.assert_allclose(slack[kept], penalty, rtol=1e-5, atol=1e-9)  # and equality on the active set
    assert sorted(path.order.tolist()) == list(range(CHANNELS))
    for count in (0, CHANNELS + 1):
        with pytest.raises(ValueError, match=f"cannot keep {count}"):
            path.keep(count)


def test_a_path_with_a_count_keeps_the_same_channels_and_no_more_than_it_has_seen():
    statistics, _, _, W = problem()
    whole = regression.path(statistics, W)
    for count in range(1, CHANNELS + 1):
        short = regression.path(statistics, W, count)
        assert short.keep(count)[0].tolist() == whole.keep(count)[0].tolist()
        assert short.keep(count)[1] == pytest.approx(whole.keep(count)[1])
    torch.manual_seed(0)
    many = Statistics(1, 60, 3)
    X, W = torch.randn(300, 1, 60), torch.randn(3, 60)
    many.add(X, X.flatten(1) @ W.T)
    short = regression.path(many.centred(), W, 2)
    assert not short.whole and short.keep(2)[0].tolist() == regression.path(many, W).keep(2)[0].tolist()
    with pytest.raises(ValueError, match="cannot keep 60 channels, only 1 to .* of a path with a count"):
        short.keep(60)


def test_dead_and_equal_channels_come_last():
    generator = torch.Generator().manual_seed(0)
    X, W = torch.randn(500, 1, 6, generator=generator), torch.randn(4, 6, generator=generator)
    X[:, :, 3], X[:, :, 4], W[:, 4] = X[:, :, 0], 0, 1.0
    W[:, 3] = W[:, 0]
    statistics = Statistics(1, 6, 4)
    statistics.add(X, X.flatten(1) @ W.T)
    path = regression.path(statistics.centred(), W)
    for count in range(1, 7):
        assert len(set(path.keep(count)[0].tolist())) == count
    assert 4 not in path.keep(5)[0].tolist() and path.order[-1] == 4
    dead = Statistics(1, 6, 4)
    dead.add(torch.ones(9, 1, 6), torch.randn(9, 4))
    assert len(regression.path(dead.centred(), W).keep(2)[0]) == 2


def test_random_orders_hold_every_channel():
    assert sorted(regression.random_order(40, 0).tolist()) == list(range(40))
    assert regression.random_order(40, 0).tolist() == regression.random_order(40, 0).tolist()
    assert regression.random_order(40, 0).tolist() != regression.random_order(40, 1).tolist()


# Least squares -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FORMATS)
def test_least_squares_is_numpys(dtype):
    statistics, X, Y, _ = problem(dtype)
    kept = torch.tensor([0, 2, 5])
    solved = regression.solve(statistics, kept, torch.zeros(OUTPUTS, 3 * TAPS), ridge=1e-7)
    design = np.column_stack([X[:, statistics.columns(kept)].numpy(), np.ones(ROWS)])
    expected, *_ = np.linalg.lstsq(design, Y.numpy(), rcond=None)
    np.testing.assert_allclose(solved.W.T, expected[:-1], atol=5e-3)
    np.testing.assert_allclose(solved.bias, expected[-1], atol=5e-2)
    left = ((Y.numpy() - design @ expected) ** 2).sum() / centred(Y).square().sum().item()
    assert regression.relative_error(statistics, kept, solved.W) == pytest.approx(left, abs=1e-4)


def test_the_curve_is_the_error_of_each_prefix():
    statistics, *_ = problem()
    order = torch.tensor([3, 0, 5, 1, 7, 2, 4, 6])
    curve = regression.error_curve(statistics, order, ridge=1e-7)
    assert curve[0] == 1 and (curve.diff() <= 1e-9).all()
    for count in range(1, CHANNELS + 1):
        solved = regression.solve(statistics, order[:count], torch.zeros(OUTPUTS, TAPS * count), ridge=1e-7)
        error = regression.relative_error(statistics, order[:count], solved.W)
        assert float(curve[count]) == pytest.approx(error, abs=1e-4)


def test_the_ridge_pulls_towards_the_weights_that_were():
    statistics, *_ = problem()
    W = torch.randn(OUTPUTS, TAPS * CHANNELS, generator=torch.Generator().manual_seed(5))
    near = regression.solve(statistics, torch.arange(CHANNELS), W, ridge=1e5).W
    torch.testing.assert_close(near, W, atol=1e-3, rtol=1e-3)


def test_a_singular_system_needs_the_ridge():
    statistics, X, Y, _ = problem(rank=4)
    everything, nothing = torch.arange(CHANNELS), torch.zeros(OUTPUTS, TAPS * CHANNELS)
    solved = regression.solve(statistics, everything, nothing)
    assert solved.solver == "cholesky, ridge 1e-03"
    design = np.column_stack([X.numpy(), np.ones(ROWS)])
    left = ((Y.numpy() - design @ np.linalg.lstsq(design, Y.numpy(), rcond=1e-5)[0]) ** 2).sum() / centred(Y).square().sum()
    assert regression.relative_error(statistics, everything, solved.W) == pytest.approx(float(left), abs=5e-3)
    for call in (
        lambda: regression.solve(statistics, everything, nothing, ridge=0.0),
        lambda: regression.error_curve(statistics, everything, ridge=0.0),
    ):
        with pytest.raises(ValueError, match="singular"):
            call()
    statistics.xx.diagonal().sub_(0.05 * statistics.xx.diagonal().mean())  # as rounding may: no sums of squares any more
    assert regression.solve(statistics, everything, nothing).solver == "cholesky, ridge 1e-01"


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
def test_constant_channels_explain_nothing(value):
    constant = Statistics(1, 2, 3)
    constant.add(torch.tensor([value, 3 * value]).expand(1000, 1, 2), torch.randn(1000, 3))
    solved = regression.solve(constant.centred(), torch.arange(2), torch.ones(3, 2))
    assert torch.equal(solved.W, torch.ones(3, 2)) and "constant" in solved.solver
    torch.testing.assert_close(solved.bias.double(), constant.y_mean - 4 * value, rtol=1e-4, atol=1e-5)
    assert regression.error_curve(constant, torch.arange(2)).tolist() == [1, 1, 1]
