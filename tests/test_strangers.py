"""Networks the project was not written around: other depths, widths, heads, class counts and image sizes, from end to end."""

import pytest
import tiny
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from helpers import data, measurement, models, storage, training
from helpers.pruning import allocation, channels, masks, regression, scores, sensitivity, widths

FAMILIES = {
    "vgg11": models.VGG11,
    "vgg13": (64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "vgg16": models.VGG16,
    "vgg19": (64, 64, "M", 128, 128, "M", *([256] * 4), "M", *([512] * 4), "M", *([512] * 4), "M"),
}
few = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@st.composite
def networks(draw) -> models.VGG:
    """A VGG of any list of widths that fits the image."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    size = draw(st.sampled_from((32, 64)))
    blocks = draw(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=2), min_size=2, max_size=4))
    layout = tuple(width for block in blocks for width in (*block, "M"))
    layout = layout[:-1] if draw(st.booleans()) else layout  # the last map may come without a pool
    side = size // 2 ** layout.count("M")
    assume(side * side * layout[-1 if layout[-1] != "M" else -2] <= 2048)
    hidden = tuple(draw(st.lists(st.integers(2, 17), max_size=2)))
    return models.VGG(draw(st.integers(2, 21)), layout, hidden, image_size=size).eval()


@few
@given(networks(), st.floats(0, 0.9))
def test_masks_are_exact_nested_and_ordered(network, sparsity):
    total = masks.Masks.of(network).total
    for prune in (masks.uniform, lambda *how: masks.global_magnitude(*how, keep_at_least=1)):
        pruned, less = prune(network, sparsity), prune(network, sparsity / 2)
        assert pruned.kept == total - round(total * sparsity)
        assert all((pruned[name] <= less[name]).all() for name in pruned)
        for name, layer in models.weight_layers(network).items():
            gone, kept = (layer.weight[side].abs() for side in (~pruned[f"{name}.weight"], pruned[f"{name}.weight"]))
            assert not len(gone) or not len(kept) or gone.max() <= kept.min()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_goes_through_everything(name, tmp_path):
    torch.manual_seed(1)
    network = models.VGG(7, models.scaled(FAMILIES[name], 32), (9,), image_size=64, dropout=0.0)
    split = tiny.images(21, size=64, classes=7)
    inputs = data.normalize(split.images, network.normalization)
    for score in ("snip", "grasp", "synflow"):
        pruned = scores.prune(network, score, inputs, split.labels, 0.7, rounds=2, keep_at_least=1)
        assert pruned.kept == pruned.total - round(0.7 * pruned.total)
    curves = sensitivity.scan(network, split, sparsities=(0.5, 0.9), dtype=torch.float32)
    assert masks.magnitude(network, allocation.allocate(network, curves, 0.8).kept).sparsity == pytest.approx(0.8, abs=1e-3)
    logs = training.fit(network, split, training.Recipe(1, 7, 0.01), val=split, hook=masks.MaskHook(pruned))
    assert len(logs) == 1 and masks.Masks.from_zeros(network).kept <= pruned.kept
    storage.save(network, tmp_path / "network", "bitmask")
    assert storage.load(tmp_path / "network").architecture() == network.architecture()
    layout = widths.for_budget(network, widths.macs_with_batch_norm(network) // 2, rule="uniform", multiple=1)
    small, reports = channels.prune(network, split.images, layout, samples=regression.Samples(21, 4), dtype=torch.float32)
    assert small.widths == layout and len(reports) == sum(width != "M" for width in layout)
    assert measurement.macs_aten(small) == widths.macs_with_batch_norm(small) <= widths.macs_with_batch_norm(network) // 2
    assert small(inputs[:2]).shape == (2, 7)
