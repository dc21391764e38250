import json

import pytest
import torch
import torch.nn.functional as F

from helpers import models
from helpers.pruning import comparison
from helpers.pruning.masks import Masks, keep_largest


@pytest.fixture
def network():
    torch.manual_seed(0)
    return models.VGG(4, (4, "M", 8, "M"), (6,), image_size=8)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(20, 3, 8, 8, generator=generator), torch.randint(0, 4, (20,), generator=generator)


def random_masks(network, density, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = {name: network.get_parameter(name) for name in Masks.of(network)}
    kept = {n: keep_largest(torch.rand(w.shape, generator=generator), round(density * w.numel())) for n, w in weights.items()}
    return Masks(network, kept)


def test_a_mask_overlaps_wholly_with_itself_and_not_with_its_complement(network):
    mask = random_masks(network, 0.3, 0)
    assert comparison.overlap(mask, mask).jaccard == 1
    complement = Masks(network, {name: ~tensor for name, tensor in mask.items()})
    assert comparison.overlap(mask, complement).jaccard == 0
    nothing = Masks(network, {name: torch.zeros_like(tensor) for name, tensor in mask.items()})
    assert comparison.overlap(nothing, nothing).jaccard == 1


def test_overlap_of_known_masks_counts_by_hand(network):
    a, b = Masks.of(network), Masks.of(network)
    first = "features.0.weight"
    a = Masks(network, {**a, first: torch.arange(108).view(4, 3, 3, 3) < 50})
    b = Masks(network, {**b, first: torch.arange(108).view(4, 3, 3, 3) >= 40})
    layer = comparison.overlap({first: a[first]}, {first: b[first]})
    assert layer.jaccard == pytest.approx(10 / 108) and layer.by_chance == pytest.approx(50 * 68 / 108 / (118 - 50 * 68 / 108))
    rest = a.total - 108  # kept whole by both
    assert comparison.overlap(a, b).jaccard == comparison.overlap(b, a).jaccard == pytest.approx((10 + rest) / (108 + rest))


def test_independent_masks_overlap_as_chance_expects():
    torch.manual_seed(0)
    network = models.VGG(10, models.scaled(models.VGG16, 8), (64, 64))
    like = comparison.overlap(random_masks(network, 0.2, 0), random_masks(network, 0.2, 1))
    assert like.jaccard == pytest.approx(like.by_chance, rel=0.02)
    assert like.by_chance == pytest.approx(0.04 / 0.36, rel=0.01)


def test_masks_of_different_networks_are_refused(network):
    with pytest.raises(ValueError, match="different networks"):
        comparison.overlap(Masks.of(network), Masks.of(models.VGG(5, (4, "M", 8, "M"), (6,), image_size=8)))


def test_gradient_norm_is_that_of_a_plain_backward_pass(network, batch):
    images, labels = batch
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    ours = comparison.gradient_norm(network, images, labels)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    network.eval().features.train()  # batch norms see the batch, and no dropout
    F.cross_entropy(network(images), labels).backward()
    squares = sum((network.get_parameter(name).grad ** 2).sum() for name in Masks.of(network))
    assert ours == pytest.approx(float(squares.sqrt()), rel=1e-5)
    cold = comparison.gradient_norm(network, images, labels, temperature=200)
    network.zero_grad()
    F.cross_entropy(network(images) / 200, labels).backward()
    squares = sum((network.get_parameter(name).grad ** 2).sum() for name in Masks.of(network))
    assert cold == pytest.approx(float(squares.sqrt()), rel=1e-5)


def test_gradient_norm_under_masks_leaves_pruned_weights_out(network, batch):
    images, labels = batch
    mask = random_masks(network, 0.5, 0)
    pruned = models.build(network.architecture())
    pruned.load_state_dict(network.state_dict())
    mask.apply(pruned)
    masked = comparison.gradient_norm(network, images, labels, mask)
    assert masked == comparison.gradient_norm(pruned, images, labels, mask)
    assert masked < comparison.gradient_norm(pruned, images, labels)  # which also counts gradients at zeros


def test_the_matrix_of_named_masks_is_symmetric_json(network):
    masks = {"a": random_masks(network, 0.5, 0), "b": random_masks(network, 0.5, 1), "c": random_masks(network, 0.2, 2)}
    table = comparison.matrix(masks)
    assert json.loads(json.dumps(table)) == table and list(table) == ["a", "b", "c"]
    assert all(table[m][m]["jaccard"] == 1 for m in masks)
    assert table["a"]["c"] == table["c"]["a"] and table["a"]["b"]["jaccard"] == comparison.overlap(masks["a"], masks["b"]).jaccard
