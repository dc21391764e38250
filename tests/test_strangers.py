"""Networks the project was not written around: other depths, widths, heads, class counts and image sizes."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from helpers import data, measurement, models, training
from helpers.pruning import channels, masks, saliency, scan, sensitivity, widths
from helpers.pruning.surgery import remove
from helpers.sparse import convolution, storage

NAMED = {"vgg11": models.VGG11, "vgg13": models.VGG13, "vgg16": models.VGG16, "vgg19": models.VGG19}
few = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@st.composite
def networks(draw) -> models.VGG:
    """A VGG with trained-looking statistics: one of the named families scaled down, or any list of widths that fits the image."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    size = draw(st.sampled_from((32, 64)))
    if draw(st.booleans()):
        layout = models.scaled(draw(st.sampled_from(list(NAMED.values()))), draw(st.sampled_from((16, 24, 64))))
    else:
        blocks = draw(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=2), min_size=2, max_size=4))
        layout = tuple(width for block in blocks for width in (*block, "M"))
        layout = layout[:-1] if draw(st.booleans()) else layout  # the last map may come without a pool
    side = size // 2 ** layout.count("M")
    assume(side * side * layout[-1 if layout[-1] != "M" else -2] <= 2048)
    hidden = tuple(draw(st.lists(st.integers(2, 17), max_size=2)))
    network = models.VGG(draw(st.integers(2, 21)), layout, hidden, image_size=size).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return network


def images_of(network: models.VGG, count: int) -> torch.Tensor:
    shape = (count, 3, network.image_size, network.image_size)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(count), dtype=torch.uint8)


def inputs_of(network: models.VGG, count: int) -> torch.Tensor:
    return data.normalize(images_of(network, count), network.normalization)


@few
@given(networks(), st.floats(0, 0.97))
def test_masks_are_exact_nested_and_ordered(network, sparsity):
    total = masks.Masks.of(network).total
    for prune in (masks.uniform, masks.global_magnitude):
        pruned, less = prune(network, sparsity), prune(network, sparsity / 2)
        assert pruned.kept == total - round(total * sparsity)
        assert all((pruned[name] <= less[name]).all() for name in pruned)
        for name, layer in models.weight_layers(network).items():
            gone, kept = (layer.weight[side].abs() for side in (~pruned[f"{name}.weight"], pruned[f"{name}.weight"]))
            assert not len(gone) or not len(kept) or gone.max() <= kept.min()


@few
@given(networks(), st.floats(0, 1), st.integers(0, 2**16))
def test_an_allocation_meets_every_reachable_target_to_one_weight(network, share, seed):
    layers = tuple(models.weight_layers(network))
    drops = 90 * torch.rand(len(layers), 3, generator=torch.Generator().manual_seed(seed)).sort(1).values
    curves = scan.Scan(90.0, layers, (0.3, 0.6, 0.9), tuple(map(tuple, (90 - drops).tolist())), 100)
    total = masks.Masks.of(network).total
    with pytest.raises(ValueError, match="can be pruned from 0 to") as refused:
        sensitivity.plan(network, curves, 1 - 1e-9)
    reachable = float(str(refused.value).split("from 0 to ")[1].split(" %")[0]) / 100
    chosen = sensitivity.plan(network, curves, share * reachable)
    assert sum(chosen.kept.values()) == total - round(total * share * reachable)
    assert all(kept >= 1 for kept in chosen.kept.values())
    assert masks.magnitude(network, chosen.kept).kept == sum(chosen.kept.values())


@few
@given(networks(), st.integers(0, 2**16))
def test_removed_channels_count_as_channels_that_are_zero(network, seed):
    generator = torch.Generator().manual_seed(seed)
    convs = {n: layer for n, layer in models.weight_layers(network).items() if isinstance(layer, torch.nn.Conv2d)}
    kept, silenced = {}, copy.deepcopy(network)
    for name, conv in convs.items():
        count = int(torch.randint(1, conv.out_channels + 1, (), generator=generator))
        kept[name] = torch.randperm(conv.out_channels, generator=generator)[:count].sort().values
        gone = torch.ones(conv.out_channels, dtype=torch.bool)
        gone[kept[name]] = False
        norm = silenced.features[int(name.split(".")[1]) + 1]
        norm.weight.data[gone] = 0
        norm.bias.data[gone] = 0
    small = remove(network, kept)
    images = inputs_of(network, 3)
    torch.testing.assert_close(small(images), silenced(images), rtol=1e-5, atol=1e-5)
    assert widths.macs(small) == models.macs(small) <= models.macs(network)
    assert [w for w in small.widths if w != "M"] == [len(index) for index in kept.values()]


@few
@given(networks(), st.floats(0.05, 1.0), st.sampled_from(("uniform", "he")))
def test_widths_never_exceed_a_budget_and_the_pruned_network_has_them(network, share, rule):
    ones = widths.with_conv_widths(network.widths, [1] * sum(w != "M" for w in network.widths))
    budget = int(max(widths.macs_with_batch_norm(network, ones), share * widths.macs_with_batch_norm(network)))
    layout = widths.for_budget(network, budget, rule=rule, multiple=1)
    assert widths.macs_with_batch_norm(network, layout) <= budget
    samples = channels.Samples(40, 4)
    small, reports = channels.prune(network, images_of(network, 40), layout, samples=samples, dtype=torch.float32)
    assert small.widths == layout and measurement.macs_aten(small) == widths.macs_with_batch_norm(small)
    assert small(inputs_of(network, 2)).shape == (2, network.num_classes)
    assert all(report.error_after <= report.error_before * 1.001 + 1e-6 for report in reports)


@few
@given(networks(), st.floats(0, 0.97), st.sampled_from(("dense", "coo", "csr", "bitmask")))
def test_every_file_gives_the_network_back(tmp_path_factory, network, sparsity, format):
    masks.uniform(network, sparsity).apply(network)
    path = tmp_path_factory.mktemp("stored") / "network"
    assert storage.save(network, path, format) == path.stat().st_size
    again = storage.load(path)
    assert again.architecture() == network.architecture()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in network.state_dict().items())


@pytest.mark.skipif(convolution.available() is not None, reason=f"no sparse kernels here: {convolution.available()}")
@few
@given(networks(), st.floats(0.3, 0.97), st.sampled_from((1, 3, 9)))
def test_sparse_execution_gives_what_dense_gives(network, sparsity, batch):
    masks.uniform(network, sparsity).apply(network)
    images = inputs_of(network, batch)
    with torch.no_grad():
        dense = network(images)
    found = convolution.compile_sparse(network, plan={})(images)  # every layer sparse, whatever is faster
    assert (found - dense).abs().max() <= 1e-4 * dense.abs().max().clamp(min=1e-3)


@pytest.mark.parametrize("name", NAMED)
def test_scores_scans_and_training_take_every_family(name):
    torch.manual_seed(1)
    network = models.VGG(7, models.scaled(NAMED[name], 32), (9,), image_size=64, dropout=0.0)
    split = data.Split(images_of(network, 21), torch.arange(21) % 7)
    inputs = data.normalize(split.images, network.normalization)
    for method in ("snip", "grasp", "synflow"):
        pruned = saliency.prune(network, method, inputs, split.labels, 0.7, rounds=2, keep_at_least=1)
        assert pruned.kept == pruned.total - round(0.7 * pruned.total)
    curves = scan.scan(network, split, sparsities=(0.5, 0.9), dtype=torch.float32)
    sensitivity.plan(network, curves, 0.8)
    logs = training.fit(network, split, training.Recipe(1, 7, 0.01), val=split, hook=masks.MaskHook(pruned))
    assert len(logs) == 1 and masks.Masks.from_zeros(network).kept <= pruned.kept
