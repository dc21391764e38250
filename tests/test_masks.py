import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from helpers import data, files, models, training
from helpers.pruning import masks
from helpers.pruning.masks import MaskHook, Masks

WIDTHS = (5, "M", 7, "M", 9, "M")  # odd sizes: 135, 315, 567 weights, then 9·4 → 11 → 10
pytestmark = pytest.mark.filterwarnings("ignore:nothing is left of")  # of so small a head, at the highest sparsities


@pytest.fixture
def network() -> models.VGG:
    torch.manual_seed(0)
    return models.VGG(10, WIDTHS, (11,), image_size=16)


class Residual(nn.Module):
    """No VGG: two convolutions, the second one's output added to the first one's."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 10)

    def forward(self, x):
        x = self.first(x).relu()
        return self.head((x + self.norm(self.second(x))).relu().mean((2, 3)))


def weights(network) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": layer.weight for name, layer in models.weight_layers(network).items()}


def flat(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def test_a_ranking_worked_by_hand():
    scores = torch.tensor([[0.5, 2.0, 0.5], [0.0, 2.0, 1.0]])
    assert masks.keep_largest(scores, 4).tolist() == [[True, True, False], [False, True, True]]
    two = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([[2.0], [1.0], [5.0]])}
    assert {n: m.flatten().tolist() for n, m in masks.keep_globally(two, 3).items()} == {
        "a": [True, False],
        "b": [True, False, True],
    }
    kept = masks.keep_globally({"a": torch.tensor([0.1, 0.2]), "b": torch.tensor([1.0, 2.0, 3.0])}, 3, keep_at_least=1)
    assert {name: mask.tolist() for name, mask in kept.items()} == {"a": [False, True], "b": [False, True, True]}
    with pytest.raises(ValueError, match="cannot keep 2 weights of each of 2 layers and 3 in all"):
        masks.keep_globally({"a": torch.zeros(2), "b": torch.zeros(3)}, 3, keep_at_least=2)


def test_one_ranking_keeps_the_best_and_breaks_ties_by_index():
    ranks = torch.randperm(600, generator=torch.Generator().manual_seed(2)).float()
    scores = dict(zip("abc", ranks.split([100, 200, 300]), strict=True))
    assert torch.equal(flat(masks.keep_globally(scores, 100)), ranks >= 500)
    tied = {name: torch.zeros_like(part) for name, part in scores.items()}
    assert torch.equal(flat(masks.keep_globally(tied, 150)), torch.arange(600) < 150)


@pytest.mark.parametrize("size", [1, 2, 7, 1001])
def test_every_count_is_exact_even_where_all_scores_are_equal(size):
    for scores in (torch.zeros(size), torch.rand(size, generator=torch.Generator().manual_seed(size))):
        for count in {0, 1, size // 3, size - 1, size}:
            kept = masks.keep_largest(scores, count)
            assert int(kept.sum()) == count
            if not scores.any():
                assert kept[:count].all()  # ties go to the lowest index


def test_scores_that_cannot_be_ranked_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        masks.keep_largest(torch.tensor([1.0, float("nan")]), 1)
    for count in (-1, 3):
        with pytest.raises(ValueError, match=f"cannot keep {count} of 2"):
            masks.keep_largest(torch.ones(2), count)


def test_masks_refuse_what_does_not_fit_the_network(network):
    whole = dict(Masks.of(network))
    first = "features.0.weight"
    with pytest.raises(KeyError, match="features.1.weight"):  # a batch norm
        Masks(network, {**whole, "features.1.weight": torch.ones(5, dtype=torch.bool)})
    with pytest.raises(KeyError, match="features.0.bias"):
        Masks(network, {**whole, "features.0.bias": torch.ones(5, dtype=torch.bool)})
    with pytest.raises(TypeError, match="float32"):
        Masks(network, {**whole, first: whole[first].float()})
    with pytest.raises(ValueError, match="shape"):
        Masks(network, {**whole, first: whole[first].flatten()})


def test_masks_of_the_convolutions_alone_leave_the_rest_whole(network):
    convolutions = {name: torch.zeros_like(w, dtype=torch.bool) for name, w in weights(network).items() if w.ndim == 4}
    made = Masks(network, dict(reversed(convolutions.items())))
    assert list(made) == list(weights(network))  # in forward order, whatever the order given
    assert {layer.name for layer in made.table() if layer.kept == 0} == set(convolutions)
    assert made.total == sum(w.numel() for w in weights(network).values())
    assert made.kept == sum(w.numel() for w in weights(network).values() if w.ndim == 2)


def test_masks_of_another_network_are_not_applied(network):
    before = copy.deepcopy(network.state_dict())
    for widths in ((5, "M", 7, "M", 8, "M"), (5, "M", 7, "M"), (5, 7, 9, 9, "M")):
        with pytest.raises((KeyError, ValueError), match="weight"):
            Masks.of(models.VGG(10, widths, (11,), image_size=16)).apply(network)
    fewer = Masks._made(dict(list(Masks.of(network).items())[:-1]))
    with pytest.raises(KeyError, match=r"no mask for classifier\.3\.weight"):
        fewer.apply(network)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("wrap", [lambda m: prune.l1_unstructured(m, "weight", 0.5), parametrizations.weight_norm])
def test_a_weight_that_is_computed_anew_is_refused_by_name(network, wrap):
    """torch.nn.utils.prune would put its own weights back at the next forward pass."""
    pruned = masks.global_magnitude(network, 0.5)
    wrap(network.features[4])
    with pytest.raises(ValueError, match=r"features\.4\.weight is computed anew.*torch\.nn\.utils\.prune\.remove"):
        pruned.apply(network)


def test_a_network_whose_pruning_was_made_permanent_takes_masks(network):
    layer = prune.l1_unstructured(network.features[0], "weight", 0.5)
    prune.remove(layer, "weight")
    masks.global_magnitude(network, 0.9).apply(network)
    network.eval()(torch.zeros(1, 3, 16, 16))
    assert Masks.from_zeros(network).kept == masks.kept_count(Masks.of(network).total, 0.9)


def test_masks_come_back_from_a_file_of_eight_weights_a_byte(network, tmp_path):
    path = tmp_path / "masks.safetensors"
    network.to(memory_format=torch.channels_last)
    pruned = masks.global_magnitude(network, 0.7)
    pruned.save(path)
    assert path.stat().st_size < pruned.total / 8 + 2500
    back = Masks.load(path)
    assert list(back) == list(pruned) and all(torch.equal(back[name], pruned[name]) for name in pruned)
    back.apply(network)
    assert Masks.from_zeros(network).kept == pruned.kept
    models.save(network, path)
    with pytest.raises(files.CorruptFile, match="not masks"):
        Masks.load(path)


def test_masks_do_not_follow_the_tensors_they_were_made_from(network):
    given = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights(network).items()}
    made = Masks(network, given)
    given["features.0.weight"].zero_()
    assert made.density == 1


def test_sparsity_density_and_table_count_the_same_weights(network):
    kept = {name: w.numel() // 3 for name, w in weights(network).items()}
    pruned = masks.magnitude(network, kept)
    assert {layer.name: layer.kept for layer in pruned.table()} == kept
    assert pruned.kept == sum(kept.values())
    assert pruned.total == sum(w.numel() for w in weights(network).values())
    assert pruned.sparsity == 1 - pruned.kept / pruned.total
    pruned.apply(network)
    assert Masks.from_zeros(network).kept == pruned.kept


METHODS = {"uniform": masks.uniform, "global": masks.global_magnitude}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 1 / 3, 0.5, 0.8033, 0.875, 0.95])
def test_the_global_count_is_exact_to_one_weight(network, method, sparsity):
    pruned = method(network, sparsity)
    assert pruned.kept == pruned.total - round(pruned.total * sparsity)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_growing_sparsity_only_takes_more_away(network, method):
    previous = method(network, 0.0)
    for sparsity in (0.1, 0.3, 0.5, 0.8033, 0.9, 0.95):
        current = method(network, sparsity)
        assert all((current[name] <= previous[name]).all() for name in current), f"a weight came back at {sparsity}"
        previous = current


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_pruning_again_changes_nothing(network, method):
    method(network, 0.8033).apply(network)
    before = copy.deepcopy(network.state_dict())
    method(network, 0.8033).apply(network)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_sparsity_zero_leaves_every_bit(network, method):
    weights(network)["features.0.weight"].data.view(-1)[:2] = torch.tensor([-0.0, 1e-42])  # a negative zero, a subnormal
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    method(network, 0.0).apply(network)
    for name, tensor in network.state_dict().items():
        assert torch.equal(before[name].view(-1).view(torch.uint8), tensor.view(-1).view(torch.uint8)), name


def test_within_a_layer_nothing_pruned_is_larger_than_what_is_kept(network):
    pruned = masks.uniform(network, 0.7)
    for name, weight in weights(network).items():
        assert weight[~pruned[name]].abs().max() <= weight[pruned[name]].abs().min(), name


def test_one_global_threshold_separates_kept_from_pruned(network):
    pruned = masks.global_magnitude(network, 0.7)
    gone = torch.cat([weight[~pruned[name]].abs() for name, weight in weights(network).items()])
    left = torch.cat([weight[pruned[name]].abs() for name, weight in weights(network).items()])
    assert gone.max() <= left.min()


def test_uniform_gives_every_layer_the_same_share_to_one_weight(network):
    for layer in masks.uniform(network, 0.8033).table():
        assert abs(layer.kept - layer.total * (1 - 0.8033)) <= 1, layer.name


def test_global_ties_go_to_the_earliest_layer(network):
    for weight in weights(network).values():
        weight.data.fill_(0.25)
    table = masks.global_magnitude(network, 0.9).table()
    total = sum(layer.total for layer in table)
    left = total - round(0.9 * total)
    for layer in table:
        assert layer.kept == min(layer.total, left), layer.name
        left -= layer.kept


def test_a_level_is_met_exactly_and_ties_spare_the_earlier_layer():
    def counts(level):
        return {"a": round(10 * (1 - level)), "b": round(10 * (1 - level)), "c": round(4 * (1 - level))}

    assert masks.meet(counts, 24, 0, 1)[1] == {"a": 10, "b": 10, "c": 4}
    assert masks.meet(counts, 13, 0, 1)[1] == {"a": 6, "b": 5, "c": 2}
    chosen = [masks.meet(counts, kept, 0, 1)[1] for kept in range(25)]
    for kept, (less, more) in enumerate(zip(chosen, chosen[1:], strict=False)):
        assert sum(less.values()) == kept
        assert all(less[name] <= more[name] for name in less)
    with pytest.raises(ValueError, match="0 to 24 are within reach"):
        masks.meet(counts, 25, 0, 1)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 80.33, float("nan")])
def test_an_impossible_sparsity_is_refused(network, sparsity):
    for method in METHODS.values():
        with pytest.raises(ValueError, match="fraction from 0"):
            method(network, sparsity)


def test_an_emptied_layer_is_named_or_kept_alive(network):
    weights(network)["features.4.weight"].data.mul_(1e-6)
    with pytest.warns(UserWarning, match=r"nothing is left of features\.4\.weight"):
        emptied = masks.global_magnitude(network, 0.7)
    assert emptied.empty == ["features.4.weight"] and emptied.kept == masks.kept_count(emptied.total, 0.7)
    alive = masks.global_magnitude(network, 0.7, keep_at_least=3)
    assert int(alive["features.4.weight"].sum()) == 3 and not alive.empty and alive.kept == masks.kept_count(alive.total, 0.7)
    best = weights(network)["features.4.weight"].abs().flatten().topk(3).indices
    assert alive["features.4.weight"].flatten()[best].all()
    with pytest.warns(UserWarning, match=r"nothing is left of .*classifier\.3\.weight"):
        masks.uniform(network, 0.997)


def test_excluded_layers_stay_whole_and_the_network_has_the_sparsity_all_the_same(network):
    first, last = "features.0", "classifier.3.weight"  # a layer, or its weight
    pruned = masks.global_magnitude(network, 0.8, exclude=(first, last))
    assert pruned.kept == masks.kept_count(pruned.total, 0.8)
    assert pruned[f"{first}.weight"].all() and pruned[last].all()
    left = {name: w for name, w in weights(network).items() if not pruned[name].all()}
    kept, gone = (torch.cat([w[side[n]].abs() for n, w in left.items()]) for side in (pruned, {n: ~m for n, m in pruned.items()}))
    assert kept.min() >= gone.max()
    with pytest.raises(ValueError, match="excluded"):
        masks.global_magnitude(network, 0.95, exclude=("classifier.0",))
    with pytest.raises(ValueError, match=r"cannot exclude features\.1\.weight"):
        masks.global_magnitude(network, 0.5, exclude=("features.1",))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_residual_network_is_pruned_like_any_other(method):
    torch.manual_seed(0)
    network = Residual().eval()
    pruned = method(network, 0.75)
    assert list(pruned) == ["first.weight", "second.weight", "head.weight"]
    MaskHook(pruned).after_step(network)
    assert Masks.from_zeros(network).kept == masks.kept_count(pruned.total, 0.75)
    assert network(torch.randn(2, 3, 8, 8)).isfinite().all()


def test_shuffled_masks_keep_each_layer_s_count_at_other_places(network):
    pruned = masks.global_magnitude(network, 0.7)
    before = {name: mask.clone() for name, mask in pruned.items()}
    shuffled = pruned.shuffled(1)
    assert shuffled.table() == pruned.table()
    assert all(not torch.equal(shuffled[name], pruned[name]) for name in pruned)
    assert all(torch.equal(before[name], pruned[name]) for name in pruned)
    assert all(torch.equal(shuffled[name], pruned.shuffled(1)[name]) for name in pruned)
    assert any(not torch.equal(shuffled[name], pruned.shuffled(2)[name]) for name in pruned)


def test_pruned_weights_are_zero_after_every_optimiser_step(network):
    """With momentum and weight decay, through the real training loop; without the hook they come back at once."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 3, 16, 16), generator=generator, dtype=torch.uint8)
    split = data.Split(images, torch.randint(0, 10, (64,), generator=generator))
    pruned = masks.uniform(network, 0.8)
    revived, steps = copy.deepcopy(network), []

    class Witness(MaskHook):
        def after_step(self, network):
            super().after_step(network)
            steps.append(Masks.from_zeros(network).kept)
            assert all(not weight[~pruned[name]].any() for name, weight in weights(network).items())

    recipe = training.Recipe(epochs=2, batch_size=16, peak_lr=0.1, momentum=0.9, weight_decay=5e-2)
    training.fit(network, split, recipe, hook=Witness(pruned), dtype=torch.float32)
    assert len(steps) >= 8 and max(steps) <= pruned.kept

    pruned.apply(revived)
    training.fit(revived, split, recipe, dtype=torch.float32)
    assert Masks.from_zeros(revived).kept > pruned.kept


def test_a_hook_restores_its_masks_without_touching_the_ones_it_was_given(network):
    half, most = masks.uniform(network, 0.5), masks.uniform(network, 0.9)
    hook = MaskHook(half)
    hook.load_state_dict(MaskHook(most).state_dict())
    assert hook.masks.kept == most.kept and half.kept == masks.uniform(network, 0.5).kept
    hook.after_step(network)
    assert Masks.from_zeros(network).kept == most.kept
    with pytest.raises(ValueError, match=r"features\.8\.weight"):
        hook.load_state_dict(dict(Masks.of(models.VGG(10, (5, "M", 7, "M", 8, "M"), (11,), image_size=16))))
    with pytest.raises(KeyError, match="no mask for"):
        hook.load_state_dict({})


def test_effective_macs_worked_by_hand():
    network = models.VGG(2, (1, "M"), (), image_size=4)  # 27 weights at 16 positions, then 4 → 2
    half = Masks(network, {name: mask.clone() for name, mask in Masks.of(network).items()})
    assert masks.effective_macs(network, half) == models.macs(network) == 27 * 16 + 8
    network.features[0].weight.data.view(-1)[9:].zero_()
    assert masks.effective_macs(network, Masks.from_zeros(network)) == 9 * 16 + 8


def test_biases_and_batch_norms_are_never_pruned(network):
    before = {name: t.clone() for name, t in network.state_dict().items() if name not in weights(network)}
    masks.global_magnitude(network, 0.95).apply(network)
    assert all(torch.equal(before[name], network.state_dict()[name]) for name in before)
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
