"""Facts: what pages show of images and networks, computed once and kept where those are absent."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from helpers import data, experiments, facts, files, making, models, results, settings
from helpers.pruning.masks import Masks

PROFILE = tiny.PROFILE
METHODS = ("snip-s80", "random-s80")


def keep_masks(names=METHODS) -> None:
    """Results of methods that prune a new network, and their masks."""
    for e in tiny.experiments(names):
        results.save(e, {"correct": results.pack_bits(np.ones(40, bool))})
        network, images, labels = making.scoring(e)
        chosen = {name: torch.rand(w.shape) < (0.2 if e.method == "snip" else 0.5) for name, w in models.weights(network).items()}
        Masks(network, chosen).save(settings.kept_path("demo", "digits", e.name))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with the facts of the tiny study, and the facts."""
    place = tmp_path_factory.mktemp("facts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BUILD_DIR", str(place / "BUILD_DIR"))
        patch.setenv("RESULTS_DIR", str(place / "RESULTS_DIR"))
        patch.setattr(data, "load", tiny.splits)
        torch.manual_seed(0)
        keep_masks()
        return place, facts.store(PROFILE, "digits")


@pytest.fixture
def stored(whole, own_folders, monkeypatch) -> dict:
    """The same facts, networks and masks in folders of this test's own."""
    for name in ("BUILD_DIR", "RESULTS_DIR"):
        shutil.copytree(whole[0] / name, own_folders / name)
    monkeypatch.setattr(data, "load", tiny.splits)
    return whole[1]


def sources(monkeypatch, **changed) -> list[str]:
    """Names of the parts that are made from now on, with other sources for some; what is made is its name."""
    made: list[str] = []
    for name, (source, _) in facts.PARTS.items():

        def make(profile, dataset, name=name):
            made.append(name)
            return name

        monkeypatch.setitem(facts.PARTS, name, (changed.get(name, source), make))
    return made


def test_every_part_is_there_and_stored(whole):
    place, found = whole
    assert found.keys() == {*facts.PARTS, "made_from"}
    assert files.load_json(place / "RESULTS_DIR/demo/digits-facts.json") == found
    assert found["classes"] == [str(i) for i in range(10)]


def test_gradient_norms_at_once_are_ratios_by_share(whole):
    at_once = whole[1]["at_once"]
    assert at_once["shares"] == list(facts.AT_ONCE) and at_once["images"] == 100
    assert at_once["left"].keys() == {"signed", "absolute", "random"}
    for curve in (*at_once["left"].values(), at_once["promised"]):
        assert len(curve) == len(facts.AT_ONCE) and min(curve) >= 0
    assert at_once["left"]["absolute"][0] == pytest.approx(1, abs=0.05)  # one weight in ten thousand goes
    assert 1 < at_once["promised"][0] < at_once["promised"][1]  # the first to go are those that hold it down


def test_errors_of_one_layer_fall_with_the_channels_that_are_kept(whole):
    one = whole[1]["one_layer"]
    channels = len(one["errors"]["L1, solved"]) - 1
    assert channels > 7 and one["layer"] == "features.17"
    assert len(one["errors"]) == 4 and one["images"] == PROFILE.statistics_images
    for name, curve in one["errors"].items():
        assert len(curve) == channels + 1 and curve[0] == pytest.approx(1)
        if "solved" in name:  # the ridge costs a little
            assert all(b <= a + 5e-3 for a, b in zip(curve, curve[1:], strict=False))
    solved, old = one["errors"]["LASSO, solved"], one["errors"]["LASSO, old weights"]
    assert all(a <= b + 5e-3 for a, b in zip(solved, old, strict=True))


def test_histograms_hold_the_weights_of_each_layer(stored):
    network = making.dense_network(PROFILE, "digits")
    for histogram, (name, layer) in zip(stored["weights"], models.weight_layers(network).items(), strict=True):
        weights = layer.weight.detach().abs().flatten()
        assert histogram["layer"] == name and len(histogram["heights"]) == facts.BINS
        assert sum(histogram["heights"]) == int((weights <= histogram["limit"]).sum())
        below = float((weights < histogram["cut"]).float().mean())
        assert below == pytest.approx(PROFILE.magnitude_sparsity_pct / 100, abs=2 / len(weights))


def test_mask_overlap_is_of_the_main_results(stored):
    overlap = stored["mask_overlap"]
    assert overlap.keys() == {"snip", "random"}
    assert overlap["snip"]["snip"]["jaccard"] == 1
    assert overlap["snip"]["random"]["jaccard"] == pytest.approx(0.1 / 0.6, abs=0.03)
    assert overlap["snip"]["random"]["by_chance"] == pytest.approx(0.1 / 0.6, abs=0.03)


# Made once, kept where images are absent ----------------------------------------------------------------------------


def test_what_is_there_is_not_made_again(stored, monkeypatch):
    made = sources(monkeypatch)
    before = settings.facts_path("demo", "digits").stat().st_mtime_ns
    assert facts.store(PROFILE, "digits") == stored and made == []
    assert settings.facts_path("demo", "digits").stat().st_mtime_ns == before


def test_what_comes_from_something_else_now_is_made_again(stored, monkeypatch):
    made = sources(monkeypatch)
    found = facts.store(replace(PROFILE, magnitude_sparsity_pct=70.0), "digits")
    assert set(made) == {"weights", "one_layer"} and found["at_once"] == stored["at_once"]
    made.clear()
    facts.store(replace(PROFILE, dense_epochs=9), "digits")
    assert set(made) == {"weights", "one_layer"}


def test_without_images_and_weights_the_stored_facts_stay(stored, monkeypatch, capsys):
    def absent(*_, **__):
        raise FileNotFoundError("no images here")

    monkeypatch.setattr(data, "load", absent)
    monkeypatch.setattr(making, "dense_network", absent)
    assert facts.store(PROFILE, "digits") == stored
    other = replace(PROFILE, magnitude_sparsity_pct=70.0, init_epochs=9)
    assert facts.store(other, "digits") == stored
    assert capsys.readouterr().err.count("stays as it is: no images here") == 3
    assert results.facts("demo", "digits") == stored


def test_without_the_masks_the_stored_overlap_stays(stored, monkeypatch):
    made = sources(monkeypatch)
    settings.kept_path("demo", "digits", METHODS[0]).unlink()
    assert facts.store(PROFILE, "digits") == stored
    for name in METHODS:
        settings.result_path("demo", "digits", name).unlink()
    assert facts.store(PROFILE, "digits") == stored and made == []


def test_a_method_more_has_the_overlap_made_again(stored, monkeypatch):
    made = sources(monkeypatch)
    keep_masks(["synflow-s80"])
    facts.store(PROFILE, "digits")
    assert made == ["mask_overlap"]


def test_damaged_facts_are_told_and_made_again(stored, monkeypatch, capsys):
    made = sources(monkeypatch)
    path = settings.facts_path("demo", "digits")
    path.write_bytes(path.read_bytes()[:-30])
    found = facts.store(PROFILE, "digits")
    assert path.name in capsys.readouterr().err
    assert set(made) == set(facts.PARTS) and results.facts("demo", "digits") == found


def test_every_profile_has_the_network_that_gradient_norms_are_taken_on():
    for profile in settings.PROFILES.values():
        for dataset in profile.datasets:
            e, _ = facts._new_network(profile, dataset)
            assert isinstance(e.prune, experiments.Saliency) and e.seed == profile.seeds[0]
