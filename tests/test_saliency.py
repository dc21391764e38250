"""Saliency scores against their definitions, and the ranking that turns scores into masks."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers import models
from helpers.pruning import double_backward, saliency, scores
from helpers.pruning.masks import Masks, kept_count

TINY = (4, "M", 6, "M")


@pytest.fixture
def network():
    torch.manual_seed(0)
    net = models.VGG(5, TINY, (7,), image_size=8)
    for module in net.modules():  # running statistics and affine parameters that matter
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return net


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(40, 3, 8, 8, generator=generator), torch.arange(40) // 8


def gradient(network: nn.Module, images: torch.Tensor, labels: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """The gradient over conv and linear weights as one vector."""
    weights = [layer.weight for layer in models.weight_layers(network).values()]
    loss = F.cross_entropy(network(images) / temperature, labels)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])


def flat(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([t.flatten() for t in tensors.values()])


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1])


def test_grasp_sign_by_brute_force(network, batch):
    """Removing a weight changes ‖g‖² by twice its score as defined, to first order: the largest scores are removed.

    Zeroing each weight in turn gives the sign; a short step towards zero, within which no unit switches, the factor.
    """
    images, labels = batch
    score = flat(scores.grasp_score(network, images, labels, temperature=2.0, batch_norm="eval"))
    assert torch.equal(flat(scores.grasp(network, images, labels, temperature=2.0, batch_norm="eval")), -score)
    net, images = network.double().eval(), images.double()
    before = gradient(net, images, labels, 2.0).square().sum()
    removed, nudged, scored, short, place = [], [], [], 1e-4, 0
    for layer in models.weight_layers(net).values():
        weights = layer.weight.data.view(-1)
        for i in range(0, len(weights), 3):
            weight = weights[i].item()
            for share, changes in ((1.0, removed), (short, nudged)):
                weights[i] = weight * (1 - share)
                changes.append(gradient(net, images, labels, 2.0).square().sum() - before)
            weights[i] = weight
            scored.append(score[place + i])
        place += len(weights)
    score = torch.stack(scored)
    assert correlation(torch.stack(removed), score) > 0.5
    assert correlation(torch.stack(nudged), score) > 0.99
    slope = float((torch.stack(nudged) / short * score).sum() / score.square().sum())
    assert slope == pytest.approx(2, rel=0.05)


def test_the_preserving_score_is_grasp_without_its_sign(network, batch):
    raw = scores.grasp_score(network, *batch, batch_norm="eval")
    assert all(torch.equal(score, raw[name].abs()) for name, score in scores.grasp_preserving(network, *batch).items())
    before_training = scores.grasp_score(network, *batch, batch_norm="train")
    assert all(torch.equal(s, before_training[name].abs()) for name, s in scores.grasp_absolute(network, *batch).items())


@pytest.mark.parametrize("batch_norm", ["train", "eval"])
def test_grasp_product_is_a_finite_difference_of_gradients(network, batch, batch_norm):
    """H g ≈ (∇L(θ + εg) − ∇L(θ − εg)) / 2ε, in the batch-norm mode that was asked for."""
    images, labels = batch
    score = flat(scores.grasp_score(network, images, labels, batch_norm=batch_norm))
    net = network.double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(batch_norm == "train")
    layers = list(models.weight_layers(net).values())
    theta = torch.cat([layer.weight.detach().flatten() for layer in layers])
    g = gradient(net, images.double(), labels, 200.0)
    step = 1e-5 / g.abs().max()

    def moved(distance: float) -> torch.Tensor:
        nn.utils.vector_to_parameters(theta + distance * g, [layer.weight for layer in layers])
        return gradient(net, images.double(), labels, 200.0)

    product = (moved(step) - moved(-step)) / (2 * step)
    expected = -theta * product
    assert torch.allclose(score.double(), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert correlation(score, expected) > 0.9999


@pytest.mark.parametrize("geometry", [(1, 1, 1, 1), (2, 0, 1, 2), (1, 2, 2, 1)])
def test_quick_second_derivative_is_the_second_derivative(geometry):
    """Of inputs and weights, for any stride, padding, dilation and groups; checked by differences in fp64."""
    stride, padding, dilation, groups = geometry
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 2, 3, stride, padding, dilation, groups).double()
    plain_output = layer(x := torch.randn(2, 2, 5, 5, dtype=torch.float64, requires_grad=True))
    double_backward.prepare(layer)
    assert torch.equal(layer(x), plain_output)
    arguments = (x, layer.weight, layer.bias, (layer.stride, layer.padding, layer.dilation, groups))
    assert torch.autograd.gradcheck(double_backward._Convolution.apply, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(double_backward._Convolution.apply, arguments, fast_mode=True)


def test_grasp_in_chunks_is_the_gradient_of_the_summed_losses(network, batch, monkeypatch):
    """With running statistics the loss is a mean over images, so how the batch is cut must not matter."""
    images, labels = batch
    whole = flat(scores.grasp(network, images, labels, batch_norm="eval"))
    monkeypatch.setattr(scores, "CHUNK", 7)
    assert torch.allclose(flat(scores.grasp(network, images, labels, batch_norm="eval")), whole, rtol=1e-3, atol=1e-10)


def test_grasp_leaves_pruned_weights_out_of_the_gradient(network, batch):
    """On a pruned network g has no part along pruned weights, and their own score is zero."""
    images, labels = batch
    masks = saliency.prune(network, "random", images, labels, 0.5)
    masks.apply(network)
    score = flat(scores.grasp_score(network, images, labels, batch_norm="eval")).double()
    net = network.double().eval()
    weights = [layer.weight for layer in models.weight_layers(net).values()]
    alive = torch.cat([m.flatten() for m in masks.values()])
    loss = F.cross_entropy(net(images.double()) / 200, labels)
    inner = torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, create_graph=True)])
    product = torch.cat([p.flatten() for p in torch.autograd.grad(inner, weights, inner.detach() * alive)])
    expected = -torch.cat([w.detach().flatten() for w in weights]) * product
    assert torch.allclose(score, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert score[~alive].abs().max() == 0


@pytest.mark.parametrize("batch_norm", ["train", "eval"])
def test_snip_is_the_gradient_of_explicit_gates(network, batch, batch_norm):
    """|∂L/∂c| at c = 1, with a gate c in front of every weight."""
    images, labels = batch
    found = scores.snip(network, images, labels, batch_norm=batch_norm)
    net = network.double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(batch_norm == "train")
    weights = {name: net.get_parameter(name).detach() for name in found}
    gates = {name: torch.ones_like(w, requires_grad=True) for name, w in weights.items()}
    gated = {name: weights[name] * gate for name, gate in gates.items()}
    loss = F.cross_entropy(torch.func.functional_call(net, gated, (images.double(),)), labels)
    for name, expected in zip(gates, torch.autograd.grad(loss, list(gates.values())), strict=True):
        assert torch.allclose(found[name].double(), expected.abs(), rtol=1e-3, atol=1e-6), name


def test_synflow_is_conserved_from_layer_to_layer(batch):
    """Without biases every layer's scores sum to the same flow R (Tanaka et al. 2020, theorem 1)."""
    torch.manual_seed(0)
    net = models.VGG(5, (4, 4, "M", 6, "M"), (7, 7), image_size=8)
    for module in net.modules():
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
    found = scores.synflow(net, batch[0])
    positive = models.VGG(5, (4, 4, "M", 6, "M"), (7, 7), image_size=8).double().eval()
    positive.load_state_dict({name: t.abs() for name, t in net.state_dict().items()})
    flow = float(positive(torch.ones(1, 3, 8, 8, dtype=torch.float64)).sum().detach())
    assert [float(score.sum()) for score in found.values()] == pytest.approx([flow] * len(found), rel=1e-9)


def test_synflow_reads_no_data_and_survives_depth():
    """The images' values do not matter, and a deep network whose flow leaves fp32 still has finite scores."""
    torch.manual_seed(0)
    net = models.VGG(5, (48,) * 24, (16,), image_size=4)
    with torch.no_grad():
        for layer in models.weight_layers(net).values():
            layer.weight.mul_(4)
    found = scores.synflow(net, torch.randn(2, 3, 4, 4))
    assert all(
        torch.equal(a, b) for a, b in zip(found.values(), scores.synflow(net, torch.zeros(1, 3, 4, 4)).values(), strict=True)
    )
    assert flat(found).isfinite().all() and float(flat(found).sum()) > torch.finfo(torch.float32).max


def test_magnitude_and_random(network, batch):
    found = scores.SCORES["magnitude_init"](network, *batch, seed=3)
    assert all(torch.equal(found[f"{n}.weight"], m.weight.abs()) for n, m in models.weight_layers(network).items())
    first, again, other = (flat(scores.random(network, *batch, seed=s)) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("method", list(saliency.SCORES))
def test_scoring_leaves_the_network_and_the_random_state_alone(network, batch, method):
    """Every bit, mode, gradient and flag as before; the same scores twice; unmoved by dropout, autocast or memory format."""
    images, labels = batch
    network.train()
    network.features[1].eval()
    network.features[0].weight.requires_grad_(False)
    network.classifier[0].weight.grad = torch.ones_like(network.classifier[0].weight)
    state = {name: t.clone() for name, t in network.state_dict().items()}
    modes = [m.training for m in network.modules()]
    flags = [p.requires_grad for p in network.parameters()]
    random_state = torch.get_rng_state()
    first = saliency.SCORES[method](network, images, labels, seed=0)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(state[name], t) for name, t in network.state_dict().items())
    assert [m.training for m in network.modules()] == modes
    assert [p.requires_grad for p in network.parameters()] == flags
    assert torch.equal(network.classifier[0].weight.grad, torch.ones_like(network.classifier[0].weight))
    assert network.features[0].weight.grad is None
    network.to(memory_format=torch.channels_last).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        again = saliency.SCORES[method](network, images, labels, seed=0)
    assert list(first) == [f"{name}.weight" for name in models.weight_layers(network)]
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("method", ["random", "snip", "grasp", "synflow"])
@pytest.mark.parametrize("sparsity", [0.0, 0.333, 0.8])
def test_counts_are_exact_and_rounds_are_nested(network, batch, method, sparsity):
    """To one weight, whatever the size; what a round has pruned stays pruned, and the network is not touched."""
    state = {name: t.clone() for name, t in network.state_dict().items()}
    total = Masks.of(network).total
    half = saliency.prune(network, method, *batch, sparsity / 2, rounds=3, keep_at_least=1)
    whole = saliency.prune(network, method, *batch, sparsity, previous=half, rounds=5, keep_at_least=1)
    assert (half.kept, whole.kept) == (kept_count(total, sparsity / 2), kept_count(total, sparsity))
    assert all((half[name] | ~whole[name]).all() for name in half)
    assert all(torch.equal(state[name], t) for name, t in network.state_dict().items())


def test_ranking_is_global_keeps_the_best_and_breaks_ties_by_index(network):
    """On known scores: the exact set, over all layers together."""
    everything = Masks.of(network)
    ranks = torch.randperm(everything.total, generator=torch.Generator().manual_seed(2)).float()
    parts = ranks.split([m.numel() for m in everything.values()])
    by_rank = {name: part.view_as(everything[name]) for name, part in zip(everything, parts, strict=True)}
    masks = saliency.global_masks(network, by_rank, 100, everything)
    assert torch.equal(flat(dict(masks)), ranks >= everything.total - 100)
    tied = saliency.global_masks(network, {name: torch.zeros_like(s) for name, s in by_rank.items()}, 100, everything)
    assert torch.equal(flat(dict(tied)), torch.arange(everything.total) < 100)


def test_pruned_weights_never_return(network, batch):
    """Not even where their score is the best of all; asking for more than is left is refused."""
    previous = saliency.prune(network, "random", *batch, 0.5)
    best_where_pruned = {name: (~mask).float() for name, mask in previous.items()}
    masks = saliency.global_masks(network, best_where_pruned, previous.kept - 10, previous)
    assert masks.kept == previous.kept - 10 and all((previous[name] | ~masks[name]).all() for name in masks)
    with pytest.raises(ValueError, match="never return"):
        saliency.prune(network, "random", *batch, 0.2, previous=previous)


def test_an_emptied_layer_is_an_error_that_names_it_or_is_kept_alive(network, batch):
    with torch.no_grad():
        network.features[4].weight.mul_(1e-6)
    with pytest.raises(ValueError, match=r"nothing is left of features\.4\.weight"):
        saliency.prune(network, "magnitude", *batch, 0.8)
    masks = saliency.prune(network, "magnitude", *batch, 0.8, keep_at_least=2)
    assert int(masks["features.4.weight"].sum()) == 2 and masks.kept == kept_count(masks.total, 0.8)
    best = network.features[4].weight.abs().flatten().topk(2).indices
    assert masks["features.4.weight"].flatten()[best].all()


def test_inverted_keeps_the_other_end(network, batch):
    usual = saliency.prune(network, "magnitude", *batch, 0.75)
    inverted = saliency.prune(network, "magnitude", *batch, 0.75, inverted=True)
    assert usual.kept == inverted.kept
    weakest = min(float(network.get_parameter(name).detach()[mask].abs().min()) for name, mask in usual.items())
    strongest = max(float(network.get_parameter(name).detach()[mask].abs().max()) for name, mask in inverted.items())
    assert strongest < weakest


def test_shuffled_masks_keep_each_layers_count(network, batch):
    masks = saliency.prune(network, "random", *batch, 0.7)
    before = {name: mask.clone() for name, mask in masks.items()}
    shuffled = masks.shuffled(1)
    assert [layer.kept for layer in shuffled.table()] == [layer.kept for layer in masks.table()]
    assert any(not torch.equal(shuffled[name], masks[name]) for name in masks)
    assert all(torch.equal(before[name], masks[name]) for name in masks)
    assert all(torch.equal(shuffled[name], masks.shuffled(1)[name]) for name in masks)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 80.0, float("nan")])
def test_a_sparsity_out_of_range_is_refused(network, batch, sparsity):
    with pytest.raises(ValueError, match="sparsity is a fraction"):
        saliency.prune(network, "random", *batch, sparsity)


def test_unknown_names_are_refused(network, batch):
    with pytest.raises(ValueError, match="grasp"):
        saliency.prune(network, "grsp", *batch, 0.5)
    with pytest.raises(ValueError, match="batch norm"):
        scores.grasp(network, *batch, batch_norm="running")
    with pytest.raises(ValueError, match="at least one round"):
        saliency.prune(network, "random", *batch, 0.5, rounds=0)
