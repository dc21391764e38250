"""The study's plan is fair, and a row is made once, whole, and measured apart."""

from dataclasses import replace

import pytest
import torch

from helpers import budget, measurement, methods, plan, quiet, results, settings, study, training
from helpers.context import Context
from helpers.pruning import schedule
from helpers.results import RowKey

TINY = replace(
    settings.profile("demo"),
    width_divisor=16,
    dense_epochs=1,
    finetune_epochs=1,
    init_epochs=2,
    channel_epochs=1,
    channel_scratch_epochs=1,
    scan_images=50,
    statistics_images=60,
)


@pytest.fixture
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("BUILD_DIR", str(tmp_path / "build"))
    monkeypatch.setenv("RESULTS_DIR", str(tmp_path / "results"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.parametrize("name", settings.PROFILES)
def test_every_planned_row_has_its_own_file_and_a_maker(name):
    profile = settings.profile(name)
    planned = plan.plan(profile)
    assert len({(row.key.dataset, row.key.row_id) for row in planned}) == len(planned)
    assert {row.key.method for row in planned} == set(results.METHODS) == set(methods.MAKERS)
    assert [row.tier for row in planned] == sorted(row.tier for row in planned)


@pytest.mark.parametrize("name", settings.PROFILES)
def test_compared_methods_have_the_same_budget(name):
    profile = settings.profile(name)
    main = [row for row in plan.plan(profile) if not row.key.variant and row.key.seed == profile.seeds[0]]

    def recipes(*chosen: str) -> set:
        return {budget.recipe(profile, row.key) for row in main if row.key.method in chosen}

    assert len(recipes(*plan.INIT_METHODS)) == 1
    assert len(recipes("layerwise_magnitude", "global_magnitude", "uniform_magnitude", "dense_finetuned")) == 1
    assert len(recipes("lasso_channels", "l1_filters", "random_channels")) == 1


def test_settings_that_decide_a_network_change_its_hash():
    key = RowKey("digits", "grasp_iterative", 80.0)
    made = [
        budget.made_with(replace(TINY, **change), key)
        for change in ({}, {"init_epochs": 3}, {"pruning_stages": 2}, {"start": settings.Start(dropout=0.5)})
    ]
    assert len({results.settings_hash(m) for m in made}) == 4
    assert budget.made_with(TINY, key) == budget.made_with(replace(TINY, scan_images=7), key)


@pytest.mark.parametrize(
    ("method", "sparsity"),
    [("layerwise_magnitude", 80.33), ("grasp_iterative", 80.0), ("snip", 80.0), ("lasso_channels", None)],
)
def test_a_row_is_made_once_and_says_what_it_is(own_folders, monkeypatch, method, sparsity):
    key = RowKey("digits", method, sparsity)
    row = study.compute(TINY, key)
    assert row["latency_ms"] is None and row["reasons"]["latency_ms"].startswith("not measured")
    assert row["test_images"] == 400 and 100 * int(results.unpack_bits(row["correct"], 400).sum()) / 400 == row["top1_pct"]
    assert len(row["log"]) == row["epochs"] and row["settings"]["recipe"]["epochs"] == row["epochs"]
    if sparsity is not None:
        total = sum(layer["total"] for layer in row["layers"])
        kept = sum(layer["kept"] for layer in row["layers"])
        assert kept == total - round(total * sparsity / 100)
        assert row["size_bitmask_mib"] < row["size_csr_mib"] < row["size_dense_mib"]
        assert row["effective_macs"] < row["macs"]
    else:
        assert row["macs"] <= TINY.macs_share * measurement.macs_aten(Context(TINY, key).new_network())
    monkeypatch.setitem(methods.MAKERS, method, lambda _: pytest.fail("made twice"))
    assert study.compute(TINY, key) == row


def test_without_training_the_test_images_are_read_once(own_folders, monkeypatch):
    real, read = training.evaluate, []
    monkeypatch.setattr(training, "evaluate", lambda net, split, **rest: read.append(len(split)) or real(net, split, **rest))
    row = study.compute(TINY, RowKey("digits", "global_magnitude", 80.0, variant="curve"))
    assert read.count(400) == 1 and row["pruned_top1_pct"] == row["top1_pct"] and row["log"] == []
    read.clear()
    trained = study.compute(TINY, RowKey("digits", "global_magnitude", 80.33))
    assert read.count(400) == 2 and len(trained["log"]) == 1


def test_variants_of_iterative_grasp_differ_in_the_scores_of_their_stages(monkeypatch):
    used, prune = [], schedule.saliency.prune
    monkeypatch.setattr(
        schedule.saliency, "prune", lambda net, method, *a, **k: used.append(method) or prune(net, method, *a, **k)
    )
    monkeypatch.setattr(Context, "fit", lambda self, network, hook: [hook.before_epoch(network, epoch) for epoch in (0, 1)])
    for variant in ("", "preserving", "signed"):
        methods.MAKERS["grasp_iterative"](Context(TINY, RowKey("digits", "grasp_iterative", 80.0, variant=variant)))
    assert used == ["grasp", "grasp_preserving", "grasp_absolute", "grasp_preserving", "grasp", "grasp"]


def test_an_unknown_variant_is_refused_and_the_nearest_named(own_folders):
    with pytest.raises(ValueError, match="did you mean 'shuffled'"):
        study.compute(TINY, RowKey("digits", "snip", 80.0, variant="shufled"))


def test_a_dense_network_of_other_settings_is_trained_again(own_folders):
    key = RowKey("digits", "dense")
    first = Context(TINY, key).dense()
    same, longer = Context(TINY, key).dense(), Context(replace(TINY, dense_epochs=2), key).dense()
    assert all(torch.equal(first.state_dict()[name], tensor) for name, tensor in same.state_dict().items())
    assert not torch.equal(first.features[0].weight, longer.features[0].weight)


def test_the_quiet_pass_fills_the_costs_and_nothing_else(own_folders):
    keys = [RowKey("digits", "dense"), RowKey("digits", "layerwise_magnitude", 80.33)]
    before = [study.compute(TINY, key) for key in keys]
    quiet.measure(TINY, keys, seconds=0.01)
    for key, old in zip(keys, before, strict=True):
        row = results.load_row("demo", key)
        assert row["latency_ms"] > 0 and row["latency_batch128_ms"] > row["latency_ms"] and row["peak_memory_mib"] > 0
        assert (row["sparse_latency_ms"] is None) == ("sparse_latency_ms" in row["reasons"])
        assert row["energy_mj"] is None or row["energy_mj"] > 0
        assert {name for name in old if old[name] != row[name]} <= set(quiet.CHANGED)


def test_larger_profiles_say_what_is_missing_instead_of_training(own_folders, monkeypatch):
    monkeypatch.setattr(study, "compute", lambda *_: pytest.fail("trained"))
    paper = settings.profile("paper")
    assert study.rows(paper, "saliency") == []
    assert len(study.missing(paper)) == len(plan.plan(paper))
