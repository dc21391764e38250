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
    assert widths.macs_with_batch_norm(FULL) == 314_003_466
    assert widths.macs_with_batch_norm(models.VGG(100)) == 314_049_636


@pytest.mark.parametrize(
    "network",
    [
        models.VGG(10, NARROW),
        models.VGG(7, models.scaled(models.VGG11, 8), image_size=64),
        models.VGG(100, (5, "M", 11, 8, "M"), hidden=(), image_size=16),
        models.VGG(3, ("M", 5, "M", "M", 7), hidden=(9,), image_size=20),
    ],
    ids=["vgg16", "vgg11-64px", "odd", "a pool first"],
)
def test_the_closed_form_agrees_with_the_counter(network):
    assert widths.macs_with_batch_norm(network) == macs_aten(network)


def test_a_count_by_hand():
    network = models.VGG(2, (3, "M", 5), hidden=(), image_size=4)
    assert widths.macs_with_batch_norm(network) == 16 * 3 * (9 * 3 + 1) + 4 * 5 * (9 * 3 + 1) + 2 * (5 * 2 * 2 + 1)
    assert widths.macs_with_batch_norm(network, (1, "M", 2)) == 16 * (9 * 3 + 1) + 4 * 2 * (9 + 1) + 2 * (2 * 2 * 2 + 1)


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
    budget = int(share * widths.macs_with_batch_norm(network))
    found = widths.for_budget(network, budget, rule=rule, multiple=multiple, errors=falling(network))
    assert widths.macs_with_batch_norm(network, found) <= budget
    assert macs_aten(models.VGG(10, found)) == widths.macs_with_batch_norm(network, found)


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
    found = widths.for_budget(network, widths.macs_with_batch_norm(network) // 2, rule="marginal", multiple=4, errors=errors)
    assert found[1] > max(found[0], found[3])


def test_the_rules_differ_and_multiples_of_one_are_not_rounded():
    fine, coarse = (
        [widths.for_budget(FULL, 41_782_000, rule=rule, multiple=multiple, errors=falling(FULL)) for rule in widths.RULES]
        for multiple in (1, 8)
    )
    assert all(any(width % 8 for width in found if width != "M") for found in fine)
    assert not any(width % 8 for found in coarse for width in found if width != "M")
    assert len(set(fine)) == len(set(coarse)) == 3
    assert widths.for_budget(FULL, 41_782_000) == coarse[widths.RULES.index("uniform")]


def test_marginal_takes_the_cheapest_error_first_by_hand():
    # two layers of 2 channels; without batch norm or bias a channel less saves as many MACs in each, but the first costs nothing
    network = models.VGG(2, (2, 2), hidden=(), image_size=1)
    errors = {"features.0": torch.tensor([1.0, 0.0, 0.0]), "features.3": torch.tensor([1.0, 0.5, 0.0])}
    below = widths.macs_with_batch_norm(network) - 1
    assert widths.for_budget(network, below, rule="marginal", multiple=1, errors=errors) == (1, 2)
    assert widths.for_budget(
        network,
        below,
        rule="marginal",
        multiple=1,
        errors=errors | {"features.0": errors["features.3"], "features.3": errors["features.0"]},
    ) == (2, 1)


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
    with pytest.raises(ValueError, match="multiples of 1 or more"):
        widths.for_budget(FULL, 10**8, multiple=0)
    others = falling(models.VGG(10, NARROW))
    for errors in (None, {}, others, {**falling(FULL), "features.0": torch.ones(3)}):
        with pytest.raises(ValueError, match="errors of this network"):
            widths.for_budget(FULL, 10**8, rule="marginal", errors=errors)
    with pytest.raises(TypeError, match="helpers.models.VGG"):
        widths.for_budget(torch.nn.Linear(2, 2), 10**8)
