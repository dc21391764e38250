import copy

import numpy as np
import pytest
import tiny
import torch
from torch import nn
from torch.nn import functional as F

from helpers import data, models, training
from helpers.pruning import masks, regression, repair
from helpers.pruning.regression import Samples, Statistics
from helpers.pruning.repair import System

WIDTHS, SMALL, SAMPLES = (6, "M", 8, "M"), {"image_size": 8}, Samples(60, 20)


def network(**options) -> models.VGG:
    """Two convolutions and two linear layers, the first of which reads 2 × 2 maps; batch norms that know the images."""
    built = tiny.network(WIDTHS, (12,), **SMALL | options)
    training.recalibrate(built, tiny.images(60, 8))
    return built.eval()


def problem(taps=3, channels=6, outputs=5, rows=500, dead=()) -> tuple[Statistics, torch.Tensor, np.ndarray, np.ndarray]:
    """(statistics, W, X, Y) of correlated inputs with a mean, whose outputs are nearly X Wᵀ."""
    generator = torch.Generator().manual_seed(0)
    inputs = taps * channels
    X = torch.randn(rows, inputs, generator=generator) @ torch.randn(inputs, inputs, generator=generator) + 1
    X[:, list(dead)] = 3.0
    W = torch.randn(outputs, inputs, generator=generator)
    Y = X @ W.T + torch.randn(rows, outputs, generator=generator)
    statistics = Statistics(taps, channels, outputs)
    statistics.add(X.view(rows, taps, channels), Y)
    return statistics.centred(), W, X.double().numpy(), Y.double().numpy()


def in_float64(W: np.ndarray, X: np.ndarray, Y: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(H, B, Z): the scaled system of dense weights W, plainly."""
    X, Y = (X - X.mean(0)) / X.std(0), Y - Y.mean(0)
    scale = 1.0 if W is None else W
    return X.T @ X / len(X) + ridge * np.eye(X.shape[1]), Y.T @ X / len(X) + ridge * scale, scale


# One layer ---------------------------------------------------------------------------------------------------------


def test_a_given_mask_gets_the_least_squares_of_every_output():
    statistics, W, X, Y = problem()
    mask = torch.rand(W.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    mask[2] = False
    system = System.of(statistics, W, ridge=0.05)
    solved = system.weights(system.solved(W * system.scale, mask, 200), mask).double().numpy()
    H, B, _ = in_float64(W.double().numpy() * X.std(0), X, Y, 0.05)
    for row, kept in enumerate(mask.numpy()):
        expected = np.linalg.solve(H[np.ix_(kept, kept)], B[row, kept]) / X.std(0)[kept]
        np.testing.assert_allclose(solved[row, kept], expected, rtol=2e-3, atol=2e-3)
        assert (solved[row, ~kept] == 0).all()


def reference_admm(H, B, Z, count, rho, rounds):
    """Boža's iteration in float64, one output after another in the first half-step."""
    U, total = np.zeros_like(Z), Z.size
    for done in range(1, rounds + 1):
        W = np.stack([np.linalg.solve(H + rho * np.eye(len(H)), b + rho * (z - u)) for b, z, u in zip(B, Z, U, strict=True)])
        V = repair.RELAXATION * W + (1 - repair.RELAXATION) * Z + U
        kept = count + round((total - count) * (1 - done / rounds) ** 3)
        mask = np.zeros(total, dtype=bool)
        mask[np.argsort(-np.abs(V).flatten(), kind="stable")[:kept]] = True
        mask = mask.reshape(Z.shape)
        Z = V * mask
        U = V - Z
    return Z, mask


def test_mask_and_weights_together_are_those_of_a_reference_in_float64():
    statistics, W, X, Y = problem()
    system, count = System.of(statistics, W, ridge=0.01), 25
    Z, mask = system.searched(count, rho=1.5, rounds=12)
    start = W.double().numpy() * X.std(0)
    H, B, _ = in_float64(start, X, Y, 0.01)
    expected, expected_mask = reference_admm(H, B, start, count, 1.5, 12)
    assert np.array_equal(mask.numpy(), expected_mask) and int(mask.sum()) == count
    np.testing.assert_allclose(Z.numpy(), expected, rtol=1e-3, atol=1e-3)


def test_an_error_is_that_of_the_rows():
    statistics, W, X, Y = problem()
    system = System.of(statistics, W)
    some = torch.where(torch.rand(W.shape, generator=torch.Generator().manual_seed(2)) < 0.5, W, 0)
    left = Y - X @ some.double().numpy().T
    expected = np.square(left - left.mean(0)).sum() / np.square(Y - Y.mean(0)).sum()
    assert system.error(some * system.scale) == pytest.approx(expected, rel=1e-4)


def test_inputs_that_never_change_keep_their_weights_and_are_the_first_to_go():
    statistics, W, *_ = problem(dead=(4, 9))
    system = System.of(statistics, W)
    mask = torch.ones_like(W, dtype=torch.bool)
    assert torch.equal(system.weights(system.solved(W * system.scale, mask, 50), mask)[:, [4, 9]], W[:, [4, 9]])
    Z, mask = system.searched(W.numel() - 10)
    assert not mask[:, [4, 9]].any() and int(mask.sum()) == W.numel() - 10 and Z.isfinite().all()


def test_blocks_are_neighbouring_channels_at_one_tap_and_output():
    Z = torch.zeros(2, 3 * 8)  # three taps of eight channels
    Z[0, 8:12], Z[1, 20:24], Z[1, 3] = 1.0, 2.0, 3.9
    kept = repair.keep_blocks(Z, 8, 4, taps=3)
    expected = torch.zeros_like(kept)
    expected[1, 20:24] = expected[1, 0:4] = True  # 16 and 15.2 against 4: the sum of squares decides
    assert torch.equal(kept, expected)
    assert int(repair.keep_blocks(Z, 5, 4, taps=3).sum()) == 8  # rounded up to whole blocks
    colours = torch.randn(4, 9 * 3, generator=torch.Generator().manual_seed(0))
    kept = repair.keep_blocks(colours, 29, 4, taps=9).view(4, 9, 3)
    assert int(kept.all(2).sum()) == 10 and int(kept.sum()) == 30  # three colours are a block that ends in a zero
    assert repair.keep_blocks(colours, colours.numel(), 4, taps=9).all()


# The network -------------------------------------------------------------------------------------------------------


def kept_counts(dense: models.VGG, density: float) -> dict[str, int]:
    return {name: round(density * weight.numel()) for name, weight in models.weights(dense).items()}


def outputs(net: models.VGG, images: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Layer name → (rows of all that enters it, what it gives), from a plain forward pass, taps first."""
    found, handles = {}, []
    for name, layer in models.weight_layers(net).items():

        def record(module, inputs, output, name=name):
            x = inputs[0].detach()
            if isinstance(module, nn.Conv2d):
                x = F.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1)
                output = output.permute(0, 2, 3, 1).flatten(0, 2)
            found[name] = (x.double(), output.detach().double().clone())

        handles.append(layer.register_forward_hook(record))
    with torch.no_grad():
        net(data.normalize(images, net.normalization))
    for handle in handles:
        handle.remove()
    return found


def test_pruned_inputs_and_dense_outputs_are_what_a_layer_is_solved_from():
    dense, images = network(), tiny.images(60, 8).images
    everywhere = Samples(60, 64)  # all positions, so that a plain forward pass gives the same rows
    found = masks.magnitude(dense, kept_counts(dense, 0.5))
    pruned = repair.least_squares(dense, found, images, samples=everywhere, ridge=1e-3, steps=300)
    theirs, ours = outputs(dense, images), outputs(pruned, images)
    for name, layer in models.weight_layers(pruned).items():
        X, target = ours[name][0], theirs[name][1]
        scale = X.std(0, correction=0)
        centred, wanted = (X - X.mean(0)) / torch.where(scale > 0, scale, 1), target - target.mean(0)
        original = models.weight_layers(dense)[name].weight.detach().flatten(1).double()
        for row, kept in enumerate(found[f"{name}.weight"].flatten(1) & (scale > 1e-2 * scale.max())):
            A = centred[:, kept]
            H = A.T @ A / len(A) + 1e-3 * torch.eye(int(kept.sum()), dtype=torch.float64)
            B = A.T @ wanted[:, row] / len(A) + 1e-3 * original[row, kept] * scale[kept]
            expected = torch.linalg.solve(H, B) / scale[kept]
            assert torch.allclose(layer.weight.detach().flatten(1)[row, kept].double(), expected, rtol=0.02, atol=0.02)
        given = ours[name][1].mean(0)
        assert torch.allclose(given, target.mean(0), atol=1e-4)  # the bias takes up the means


@pytest.mark.parametrize("density", [0.05, 0.3])
def test_together_leaves_exactly_the_wanted_weights_and_says_which(density):
    dense, images = network(), tiny.images(60, 8).images
    before, kept = copy.deepcopy(dense.state_dict()), kept_counts(dense, density)
    pruned, found = repair.together(dense, kept, images, samples=SAMPLES)
    assert {name: int(mask.sum()) for name, mask in found.items()} == kept
    for name, weight in models.weights(pruned).items():
        assert torch.equal(weight != 0, found[name])
    assert all(torch.equal(before[name], value) for name, value in dense.state_dict().items())
    for name, value in pruned.state_dict().items():  # batch norms are left alone
        assert "features.1." not in name or torch.equal(value, before[name])
    again, _ = repair.together(dense, kept, images, samples=SAMPLES)
    assert all(torch.equal(value, pruned.state_dict()[name]) for name, value in again.state_dict().items())


def test_solving_is_better_than_masking_and_finding_together_than_solving():
    dense, images = network(), tiny.images(60, 8).images
    kept = kept_counts(dense, 0.3)
    chosen = masks.magnitude(dense, kept)
    masked = copy.deepcopy(dense)
    chosen.apply(masked)
    networks = (masked, repair.least_squares(dense, chosen, images, samples=SAMPLES))
    networks += (repair.together(dense, kept, images, samples=SAMPLES)[0],)
    with torch.no_grad():
        truth, *given = (net(data.normalize(images, dense.normalization)) for net in (dense, *networks))
    errors = [float((found - truth).square().mean()) for found in given]
    assert errors[0] > 2 * errors[1] > 2 * errors[2]


def test_without_zeros_no_bit_changes_up_to_the_first_pruned_layer():
    dense, images = network(), tiny.images(60, 8).images
    everything = {name: weight.numel() for name, weight in models.weights(dense).items()}
    for pruned in (
        repair.together(dense, everything, images, samples=SAMPLES)[0],
        repair.least_squares(dense, masks.Masks.of(dense), images, samples=SAMPLES),
    ):
        assert all(torch.equal(value, dense.state_dict()[name]) for name, value in pruned.state_dict().items())
    later = everything | {"classifier.0.weight": 100}
    pruned, _ = repair.together(dense, later, images, samples=SAMPLES)
    assert torch.equal(pruned.features[4].weight, dense.features[4].weight)
    assert not torch.equal(pruned.classifier[3].weight, dense.classifier[3].weight)  # makes good what the layer before lost


@pytest.mark.parametrize("method", ["together", "least_squares"])
def test_full_layers_whose_inputs_are_the_dense_ones_are_reproduced(method):
    """The first layer's solution, forced by pruning one weight that reads nothing."""
    dense, images = network(), tiny.images(60, 8).images
    dense.features[0].weight.data[0, 0, 0, 0] = 0.0
    kept = {name: weight.numel() for name, weight in models.weights(dense).items()}
    if method == "together":
        pruned, _ = repair.together(dense, kept | {"features.0.weight": kept["features.0.weight"] - 1}, images, samples=SAMPLES)
    else:
        pruned = repair.least_squares(dense, masks.Masks.from_zeros(dense), images, samples=SAMPLES)
    for name, value in pruned.state_dict().items():
        assert torch.allclose(value, dense.state_dict()[name], atol=2e-3)


def test_blocks_of_four_in_a_network():
    dense, images = network(), tiny.images(60, 8).images
    kept = {name: 4 * round(0.1 * weight.numel()) for name, weight in models.weights(dense).items()}
    pruned, found = repair.together(dense, kept, images, samples=SAMPLES, block=4)
    conv = found["features.4.weight"]  # (8, 6, 3, 3): blocks of channels 0 … 3 and of 4, 5
    assert (conv[:, :4].all(1) == conv[:, :4].any(1)).all() and (conv[:, 4:].all(1) == conv[:, 4:].any(1)).all()
    assert int(conv[:, 0].sum() + conv[:, 4].sum()) == 58  # ⌈172 · 144 / 432⌉ blocks
    last = found["classifier.3.weight"].view(10, 3, 4)
    assert (last.all(2) == last.any(2)).all() and int(last.sum()) == kept["classifier.3.weight"]
    first_linear = found["classifier.0.weight"].view(12, 2, 4, 4)  # outputs, blocks of channels, channels, positions of the map
    assert (first_linear.all(2) == first_linear.any(2)).all()
    assert all(torch.equal(weight != 0, found[name]) for name, weight in models.weights(pruned).items())


@pytest.mark.parametrize("classes, size, hidden", [(3, 8, ()), (7, 12, (9, 5)), (100, 4, (6,))])
def test_any_vgg_of_any_size(classes, size, hidden):
    images = tiny.images(40, size).images
    dense = models.VGG(classes, (4, "M", 5, 6, "M"), hidden, image_size=size).eval()
    pruned, found = repair.together(dense, kept_counts(dense, 0.4), images, samples=Samples(30, 5))
    assert pruned(data.normalize(images, dense.normalization)).shape == (40, classes) and not pruned.training
    assert repair.least_squares(dense, found, images, samples=Samples(30, 5)).num_classes == classes


def test_samples_decide_which_images_are_read():
    dense, images = network(), tiny.images(60, 8).images
    kept = kept_counts(dense, 0.3)
    first, second = (repair.together(dense, kept, images, samples=Samples(20, 5, seed=seed))[0] for seed in (0, 1))
    assert not torch.equal(first.features[0].weight, second.features[0].weight)
    chosen = Samples(20, 5, seed=1).choose(images)
    again, _ = repair.together(dense, kept, chosen, samples=Samples(60, 5, seed=1))
    assert torch.equal(again.features[0].weight, second.features[0].weight)


def test_bad_input_is_refused():
    dense, images = network(), tiny.images(60, 8).images
    kept = kept_counts(dense, 0.3)
    with pytest.raises(TypeError, match="helpers.models.VGG"):
        repair.together(nn.Sequential(nn.Conv2d(3, 4, 3)), {"0.weight": 5}, images)
    with pytest.raises(ValueError, match="features.0.weight has 162 weights"):
        repair.together(dense, kept | {"features.0.weight": 163}, images)
    with pytest.raises(KeyError, match="classifier.3.weight"):
        repair.together(dense, {name: count for name, count in kept.items() if name != "classifier.3.weight"}, images)
    with pytest.raises(KeyError):
        repair.least_squares(dense, {"features.1.weight": torch.ones(6, dtype=torch.bool)}, images)
    dense.features[0].weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        repair.together(dense, kept, images, samples=SAMPLES)


def test_matrices_of_masks_stand_as_those_of_weights():
    dense = network()
    for layer in models.weight_layers(dense).values():
        taps = 4 if layer is dense.classifier[0] else 1 if isinstance(layer, nn.Linear) else 9
        mask = layer.weight.detach() > 0
        assert torch.equal(regression.matrix(mask, taps), regression.matrix(layer.weight, taps) > 0)
        assert torch.equal(regression.unmatrix(regression.matrix(mask, taps), taps, mask.shape), mask)
