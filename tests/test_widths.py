import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from helpers import models
from helpers.measurement import macs_aten
from helpers.pruning import widths

FULL = models.VGG(10)
NARROW = models.scaled(models.VGG16, 4)


def falling(network: models.VGG) -> dict[str, torch.Tensor]:
    """Error curves that fall from 1 to 0, faster in deeper layers."""
    convs = [(name, w) for name, w in models.weight_layers(network).items() if isinstance(w, torch.nn.Conv2d)]
    return {name: (1 - torch.linspace(0, 1, conv.out_channels + 1)) ** (2 + depth) for depth, (name, conv) in enumerate(convs)}


def test_dense_networks_count_as_published():
    assert widths.macs(FULL) == models.macs(FULL) == 313_725_952
    assert widths.macs_with_batch_norm(FULL) == 314_003_466
    assert widths.macs(models.VGG(100)) == 313_772_032
    assert widths.macs_with_batch_norm(models.VGG(100)) == 314_049_636


@pytest.mark.parametrize(
    "network",
    [
        models.VGG(10, NARROW),
        models.VGG(7, models.scaled(models.VGG11, 8), image_size=64),
        models.VGG(100, (5, "M", 11, 8, "M"), hidden=(), image_size=16),
    ],
    ids=["vgg16", "vgg11-64px", "odd"],
)
def test_closed_forms_agree_with_the_counters(network):
    assert widths.macs(network) == models.macs(network)
    assert widths.macs_with_batch_norm(network) == macs_aten(network)


@pytest.mark.parametrize("rule", widths.RULES)
@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("budget", [157_000_000, 78_500_000, 41_782_000, 26_100_000])
def test_never_above_the_budget_and_close_to_it(rule, multiple, budget):
    found = widths.for_budget(FULL, budget, rule=rule, multiple=multiple, errors=falling(FULL))
    convs = [w for w in found if w != "M"]
    assert [w == "M" for w in found] == [w == "M" for w in models.VGG16]
    assert all(w % multiple == 0 and multiple <= w <= full for w, full in zip(found, models.VGG16, strict=True) if w != "M")
    assert len(convs) == 13
    assert 0.93 * budget < widths.macs_with_batch_norm(FULL, found) <= budget


@hypothesis_settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([models.VGG11, models.VGG13, models.VGG16, models.VGG19]),
    st.floats(0.1, 1.1),
    st.sampled_from(widths.RULES),
    st.sampled_from([1, 4, 8]),
)
def test_any_vgg_any_share(shape, share, rule, multiple):
    network = models.VGG(10, models.scaled(shape, 4))
    budget = int(share * widths.macs(network))
    found = widths.for_budget(network, budget, rule=rule, multiple=multiple, errors=falling(network), counter=widths.macs)
    assert widths.macs(network, found) <= budget
    assert models.macs(models.VGG(10, found)) == widths.macs(network, found)


def test_uniform_keeps_one_share_and_he_keeps_deep_layers_wider():
    uniform = widths.for_budget(FULL, 41_782_000, rule="uniform", multiple=1)
    shares = [w / full for w, full in zip(uniform, models.VGG16, strict=True) if w != "M"]
    assert max(shares) - min(shares) < 1 / 64
    he = widths.for_budget(FULL, 41_782_000, rule="he", multiple=1)
    shares = [w / full for w, full in zip(he, models.VGG16, strict=True) if w != "M"]
    assert all(deep / shallow == pytest.approx(1.5, abs=0.05) for deep in shares[7:] for shallow in shares[2:7])


def test_marginal_spares_the_layer_whose_error_grows_fastest():
    network = models.VGG(10, (32, 32, "M", 32, "M"), image_size=16)
    steep = 1 - torch.linspace(0, 1, 33)
    errors = {"features.0": steep**8, "features.3": steep**0.5, "features.7": steep**8}
    found = widths.for_budget(network, widths.macs(network) // 2, rule="marginal", multiple=4, errors=errors)
    assert found[1] > max(found[0], found[3])


def test_a_budget_that_is_no_constraint_changes_nothing():
    for rule in widths.RULES:
        assert widths.for_budget(FULL, 314_003_466, rule=rule, errors=falling(FULL)) == models.VGG16


def test_impossible_budgets_and_wrong_arguments_are_named():
    narrowest = widths.macs_with_batch_norm(FULL, tuple("M" if w == "M" else 8 for w in models.VGG16))
    with pytest.raises(ValueError, match=f"{narrowest:,}"):
        widths.for_budget(FULL, narrowest - 1)
    assert widths.macs_with_batch_norm(FULL, widths.for_budget(FULL, narrowest)) == narrowest
    with pytest.raises(ValueError, match="rule"):
        widths.for_budget(FULL, 10**8, rule="best")
    with pytest.raises(ValueError, match="errors"):
        widths.for_budget(FULL, 10**8, rule="marginal")
