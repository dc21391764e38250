"""Scores against their definitions, and the ranking that turns scores into masks."""

import functools

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune
from test_masks import Residual
from torch import nn

from helpers import models
from helpers.pruning import scores
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
    """Removing a weight lowers ‖g‖² by twice its score, to first order: the largest scores are kept.

    Zeroing each weight in turn gives the sign; a short step towards zero, within which no unit switches, the factor.
    """
    images, labels = batch
    score = flat(scores.grasp(network, images, labels, temperature=2.0, batch_norm="eval"))
    net, images = network.double().eval(), images.double()
    before = gradient(net, images, labels, 2.0).square().sum()
    removed, nudged, scored, short, place = [], [], [], 1e-4, 0
    for layer in models.weight_layers(net).values():
        weights = layer.weight.data.view(-1)
        for i in range(0, len(weights), 5):
            weight = weights[i].item()
            for share, changes in ((1.0, removed), (short, nudged)):
                weights[i] = weight * (1 - share)
                changes.append(gradient(net, images, labels, 2.0).square().sum() - before)
            weights[i] = weight
            scored.append(score[place + i])
        place += len(weights)
    score = torch.stack(scored)
    assert correlation(torch.stack(removed), score) < -0.5
    assert correlation(torch.stack(nudged), score) < -0.99
    slope = float((torch.stack(nudged) / short * score).sum() / score.square().sum())
    assert slope == pytest.approx(-2, rel=0.05)


def test_the_preserving_score_is_grasp_without_its_sign(network, batch):
    signed = flat(scores.grasp(network, *batch, batch_norm="eval"))
    assert torch.equal(flat(scores.grasp_preserving(network, *batch)), signed.abs())
    before_training = flat(scores.grasp(network, *batch, batch_norm="train"))
    assert torch.equal(flat(scores.grasp_absolute(network, *batch)), before_training.abs())


@pytest.mark.parametrize("batch_norm", ["train", "eval"])
def test_grasp_product_is_a_finite_difference_of_gradients(network, batch, batch_norm):
    """H g ≈ (∇L(θ + εg) − ∇L(θ − εg)) / 2ε, in the batch-norm mode that was asked for."""
    images, labels = batch
    score = flat(scores.grasp(network, images, labels, batch_norm=batch_norm))
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
    expected = theta * product
    assert torch.allclose(score.double(), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert correlation(score, expected) > 0.9999


def test_grasp_in_chunks_is_the_gradient_of_the_summed_losses(network, batch, monkeypatch):
    """With running statistics the loss is a mean over images, so how the batch is cut must not matter."""
    images, labels = batch
    whole = flat(scores.grasp(network, images, labels, batch_norm="eval"))
    for chunk in (20, 14, 7):
        monkeypatch.setattr(scores, "CHUNK", chunk)
        cut = flat(scores.grasp(network, images, labels, batch_norm="eval"))
        assert torch.allclose(cut, whole, rtol=1e-3, atol=1e-10)


def test_batch_norm_sees_each_part_of_the_batch_by_itself(network, batch, monkeypatch):
    images, labels = batch
    plain = scores.plain_copy(network)
    monkeypatch.setattr(scores, "CHUNK", 20)  # each part then has images of every class
    spread = [scores.gradient(plain, images[start::2], labels[start::2]) for start in range(2)]
    mean = {name: (spread[0][name] + spread[1][name]) / 2 for name in spread[0]}
    assert torch.allclose(flat(scores.gradient(plain, images, labels)), flat(mean), rtol=1e-3, atol=1e-6)


def test_grasp_leaves_pruned_weights_out_of_the_gradient(network, batch):
    """On a pruned network g has no part along pruned weights, and their own score is zero."""
    images, labels = batch
    masks = scores.prune(network, "random", images, labels, 0.5)
    masks.apply(network)
    score = flat(scores.grasp(network, images, labels, batch_norm="eval")).double()
    net = network.double().eval()
    weights = [layer.weight for layer in models.weight_layers(net).values()]
    alive = torch.cat([m.flatten() for m in masks.values()])
    loss = F.cross_entropy(net(images.double()) / 200, labels)
    inner = torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, create_graph=True)])
    product = torch.cat([p.flatten() for p in torch.autograd.grad(inner, weights, inner.detach() * alive)])
    expected = torch.cat([w.detach().flatten() for w in weights]) * product
    assert torch.allclose(score, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert score[~alive].abs().max() == 0


def test_snip_is_the_gradient_of_explicit_gates(network, batch):
    """|∂L/∂c| at c = 1, with a gate c in front of every weight."""
    images, labels = batch
    found = scores.snip(network, images, labels)
    net = network.double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
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
    found = scores.SCORES["magnitude_init"](network, *batch)
    assert all(torch.equal(found[f"{n}.weight"], m.weight.abs()) for n, m in models.weight_layers(network).items())
    first, again, other = (flat(scores.random(network, *batch, seed=s)) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("method", list(scores.SCORES))
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
    first = scores.SCORES[method](network, images, labels)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(state[name], t) for name, t in network.state_dict().items())
    assert [m.training for m in network.modules()] == modes
    assert [p.requires_grad for p in network.parameters()] == flags
    assert torch.equal(network.classifier[0].weight.grad, torch.ones_like(network.classifier[0].weight))
    assert network.features[0].weight.grad is None
    network.to(memory_format=torch.channels_last).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        again = scores.SCORES[method](network, images, labels)
    assert list(first) == [f"{name}.weight" for name in models.weight_layers(network)]
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("method", ["random", "snip", "grasp", "synflow"])
@pytest.mark.parametrize("sparsity", [0.0, 0.333, 0.8])
def test_counts_are_exact_and_rounds_are_nested(network, batch, method, sparsity):
    """To one weight, whatever the size; what a round has pruned stays pruned, and the network is not touched."""
    state = {name: t.clone() for name, t in network.state_dict().items()}
    total = Masks.of(network).total
    half = scores.prune(network, method, *batch, sparsity / 2, rounds=3, keep_at_least=1)
    whole = scores.prune(network, method, *batch, sparsity, previous=half, rounds=5, keep_at_least=1)
    assert (half.kept, whole.kept) == (kept_count(total, sparsity / 2), kept_count(total, sparsity))
    assert all((half[name] | ~whole[name]).all() for name in half)
    assert all(torch.equal(state[name], t) for name, t in network.state_dict().items())


def test_pruned_weights_never_return(network, batch):
    """Not even where their score is the best of all; asking for more than is left is refused."""
    previous = scores.prune(network, "random", *batch, 0.5)
    best_where_pruned = {name: (~mask).float() for name, mask in previous.items()}
    masks = scores.prune(network, lambda *_: best_where_pruned, *batch, 0.6, previous=previous, keep_at_least=1)
    assert masks.kept == kept_count(masks.total, 0.6) and all((previous[name] | ~masks[name]).all() for name in masks)
    with pytest.raises(ValueError, match="never return"):
        scores.prune(network, "random", *batch, 0.2, previous=previous)


def test_an_emptied_layer_is_an_error_that_names_it_or_is_kept_alive(network, batch):
    with torch.no_grad():
        network.features[4].weight.mul_(1e-6)
    with pytest.raises(ValueError, match=r"nothing is left of features\.4\.weight"):
        scores.prune(network, "magnitude", *batch, 0.8)
    masks = scores.prune(network, "magnitude", *batch, 0.8, keep_at_least=2)
    assert int(masks["features.4.weight"].sum()) == 2 and masks.kept == kept_count(masks.total, 0.8)
    best = network.features[4].weight.abs().flatten().topk(2).indices
    assert masks["features.4.weight"].flatten()[best].all()


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 80.0, float("nan")])
def test_a_sparsity_out_of_range_is_refused(network, batch, sparsity):
    with pytest.raises(ValueError, match="sparsity is a fraction"):
        scores.prune(network, "random", *batch, sparsity)


def test_unknown_names_are_refused(network, batch):
    with pytest.raises(ValueError, match="grasp"):
        scores.prune(network, "grsp", *batch, 0.5)
    with pytest.raises(ValueError, match="batch norm"):
        scores.grasp(network, *batch, batch_norm="running")
    with pytest.raises(ValueError, match="at least one round"):
        scores.prune(network, "random", *batch, 0.5, rounds=0)


def test_scores_that_are_none_are_refused(network, batch):
    images, labels = batch
    given = {name: weight.detach().abs() for name, weight in models.weights(network).items()}
    first = "features.0.weight"
    for wrong in ({}, {n: s for n, s in given.items() if n != first}, given | {first: given[first].flatten()}):
        with pytest.raises(ValueError, match=r"features\.0\.weight"):
            scores.prune(network, lambda *_, wrong=wrong: wrong, *batch, 0.5)
    with pytest.raises(ValueError, match="NaN"):
        scores.prune(network, lambda *_: given | {first: given[first] * torch.nan}, *batch, 0.5)
    for wrong in ((255 * images.abs()).byte(), images[:0]):  # raw pixels, and no images at all
        with pytest.raises(ValueError, match="normalised images"):
            scores.snip(network, wrong, labels[: len(wrong)])
    torch.nn.utils.prune.l1_unstructured(network.features[0], "weight", 0.5)
    with pytest.raises(ValueError, match=r"features\.0\.weight is computed anew"):
        scores.snip(network, *batch)


def test_one_s_own_score_is_a_function(network, batch):
    """It is called with the network, images and labels alone, of each round's pruned network."""
    seen = []

    def fisher(network, images, labels, temperature=3.0):
        assert torch.equal(images, batch[0]) and torch.equal(labels, batch[1]) and temperature == 3.0
        seen.append(Masks.from_zeros(network).kept)
        return {name: score.square() for name, score in scores.snip(network, images, labels).items()}

    masks = scores.prune(network, fisher, *batch, 0.6)
    expected = scores.prune(network, "snip", *batch, 0.6)
    assert seen == [masks.total] and all(torch.equal(masks[name], expected[name]) for name in masks)
    scores.prune(network, fisher, *batch, 0.6, rounds=3, keep_at_least=1)
    assert seen[1] > seen[2] > seen[3] > masks.kept


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, "infinite"])
@pytest.mark.parametrize("inverted", [False, True])
def test_one_s_own_score_may_be_whole_yes_or_no_or_infinite(network, batch, kind, inverted):
    def score(network, images, labels):
        large = {name: weight.detach().abs() > 0.1 for name, weight in models.weights(network).items()}
        return {name: torch.where(part, torch.inf, 0.0) if kind == "infinite" else part.to(kind) for name, part in large.items()}

    def score_in_numbers(network, images, labels):
        return {name: (weight.detach().abs() > 0.1).float() for name, weight in models.weights(network).items()}

    own, plain = (scores.prune(network, s, *batch, 0.6, keep_at_least=1, inverted=inverted) for s in (score, score_in_numbers))
    assert not different(own, plain)


def test_a_registered_score_is_known_by_its_name(network, batch, monkeypatch):
    monkeypatch.setattr(scores, "SCORES", dict(scores.SCORES))

    @scores.registered
    def smallest(network, images, labels):
        return {name: -weight.detach().abs() for name, weight in models.weights(network).items()}

    masks = scores.prune(network, "smallest", *batch, 0.5)
    expected = scores.prune(network, "magnitude", *batch, 0.5, inverted=True)
    assert all(torch.equal(masks[name], expected[name]) for name in masks)


# Constants that decide a result: their values as in the papers, and that the result depends on them


def recorded(monkeypatch, name: str) -> list[dict]:
    """The arguments of every call of a registered score, which goes on as before."""
    calls, score = [], scores.SCORES[name]

    @functools.wraps(score)
    def recording(*arguments, **options):
        calls.append(options)
        return score(*arguments, **options)

    monkeypatch.setitem(scores.SCORES, name, recording)
    return calls


def different(a: Masks, b: Masks) -> bool:
    return any(not torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("name", "rounds"), [("synflow", 100), ("snip", 1), ("grasp", 1), ("random", 1)])
def test_synflow_ranks_100_times_and_the_others_once(network, batch, monkeypatch, name, rounds):
    calls = recorded(monkeypatch, name)
    scores.prune(network, name, *batch, 0.8, keep_at_least=1)
    assert len(calls) == rounds
    scores.prune(network, name, *batch, 0.8, keep_at_least=1, rounds=4)
    assert len(calls) == rounds + 4


def test_rounds_change_what_synflow_keeps(network, batch):
    once, several, default = (scores.prune(network, "synflow", *batch, 0.8, keep_at_least=1, rounds=n) for n in (1, 9, None))
    assert different(once, several) and different(several, default)


def test_grasp_divides_logits_by_200(network, batch, monkeypatch):
    calls = recorded(monkeypatch, "grasp")
    warm, default, hot = (
        scores.prune(network, "grasp", *batch, 0.8, keep_at_least=1, **options)
        for options in ({"temperature": 1.0}, {}, {"temperature": 200.0})
    )
    assert calls == [{"temperature": 1.0}, {"temperature": 200.0}, {"temperature": 200.0}]
    assert different(warm, default) and not different(default, hot)
    for score in (scores.grasp, scores.grasp_preserving, scores.grasp_absolute):
        assert torch.equal(flat(score(network, *batch)), flat(score(network, *batch, temperature=200.0)))
        assert not torch.equal(flat(score(network, *batch)), flat(score(network, *batch, temperature=100.0)))


@pytest.mark.parametrize("name", ["snip", "grasp", "synflow", "magnitude", "random"])
def test_inverted_masks_are_those_of_the_negative_score(network, batch, name):
    options = {"keep_at_least": 1, "rounds": 1}
    usual = scores.prune(network, name, *batch, 0.75, **options)
    inverted = scores.prune(network, name, *batch, 0.75, inverted=True, **options)
    negative = {n: -s for n, s in scores.SCORES[name](scores.plain_copy(network), *batch).items()}
    assert not different(inverted, scores.prune(network, lambda *_: negative, *batch, 0.75, **options))
    assert different(usual, inverted)


def test_a_residual_network_can_be_scored_and_is_left_alone(batch):
    torch.manual_seed(0)
    network = Residual()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for name in scores.SCORES:
        masks = scores.prune(network, name, *batch, 0.6, rounds=2, keep_at_least=1)
        assert masks.kept == kept_count(masks.total, 0.6)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
