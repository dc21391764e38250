"""The study's plan is fair, and a row is made once, whole, and measured apart."""

import shutil
from dataclasses import replace

import pytest
import torch

from helpers import (
    budget,
    context,
    files,
    machine,
    measurement,
    methods,
    models,
    plan,
    pretrained,
    quiet,
    results,
    settings,
    study,
    training,
)
from helpers.context import Context
from helpers.pruning import comparison, schedule
from helpers.pruning.masks import Masks
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


DENSE = RowKey("digits", "dense")


def dense_path():
    return settings.network_path("demo", "digits", "dense")


@pytest.fixture
def empty_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("BUILD_DIR", str(tmp_path / "build"))
    monkeypatch.setenv("RESULTS_DIR", str(tmp_path / "results"))


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """The file of the trained dense network that most rows start from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BUILD_DIR", str(tmp_path_factory.mktemp("dense")))
        Context(TINY, DENSE).dense()
        return dense_path()


@pytest.fixture
def own_folders(empty_folders, trained_once):
    dense_path().parent.mkdir(parents=True)
    shutil.copy(trained_once, dense_path())


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


@pytest.mark.parametrize("name", settings.PROFILES)
def test_the_dense_control_and_the_channel_curve_are_fine_tuned_alike(name):
    profile = settings.profile(name)
    dataset = profile.datasets[0]
    control = budget.recipe(profile, RowKey(dataset, "dense_finetuned"))
    for variant in plan.MACS_CURVE:
        assert budget.recipe(profile, RowKey(dataset, "lasso_channels", variant=variant)) == control


def test_the_shorter_row_is_the_main_row_s_network(own_folders):
    main, shorter = (Context(TINY, RowKey("digits", "lasso_channels", variant=v)) for v in ("", plan.SHORTER))
    assert main.chosen_widths(main.dense()) == shorter.chosen_widths(shorter.dense())


def test_an_unknown_variant_is_refused_and_the_nearest_named(own_folders):
    with pytest.raises(ValueError, match="did you mean 'shuffled'"):
        study.compute(TINY, RowKey("digits", "snip", 80.0, variant="shufled"))


def test_a_dense_network_of_other_settings_is_trained_again(own_folders):
    key = RowKey("digits", "dense")
    first = Context(TINY, key).dense()
    same, longer = Context(TINY, key).dense(), Context(replace(TINY, dense_epochs=2), key).dense()
    assert all(torch.equal(first.state_dict()[name], tensor) for name, tensor in same.state_dict().items())
    assert not torch.equal(first.features[0].weight, longer.features[0].weight)


def test_no_checkpoint_outlives_what_it_was_for(empty_folders):
    study.compute(TINY, RowKey("digits", "layerwise_magnitude", 80.33))  # trains the dense network on its way
    assert dense_path().is_file()
    assert not list(settings.checkpoint_path("demo", "digits", "any").parent.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("method", "variant"), [("global_magnitude", ""), ("layerwise_magnitude", "reinitialized"), ("snip", "")]
)
def test_a_row_tells_the_masks_its_training_was_begun_with(own_folders, monkeypatch, method, variant):
    other = {}

    def resumed(self, network, hook=None):
        other.update({name: mask.roll(1) for name, mask in hook.state_dict().items()})
        hook.load_state_dict(other)
        return {}

    monkeypatch.setattr(Context, "fit", resumed)
    masks = methods.MAKERS[method](Context(TINY, RowKey("digits", method, 80.0, variant=variant))).masks
    assert all(torch.equal(masks[name], mask) for name, mask in other.items())


def test_gradient_norms_of_a_reinitialized_row_are_both_of_the_network_that_is_trained(own_folders, monkeypatch):
    trained = []
    monkeypatch.setattr(Context, "fit", lambda self, network, hook: trained.append(network) or {})
    key = RowKey("digits", "snip", 80.0, variant="reinitialized")
    outcome = methods.MAKERS["snip"](Context(TINY, key))
    norms = outcome.extras["gradient_norm"]
    assert outcome.weights == "initialised, seed 1000"
    start = Context(TINY, replace(key, seed=key.seed + 1000)).new_network()
    assert norms["before"] == comparison.gradient_norm(start, *Context(TINY, key).scoring_batch(start))
    kept = Masks.from_zeros(trained[0])
    assert norms["after"] == pytest.approx(comparison.gradient_norm(start, *Context(TINY, key).scoring_batch(start), kept))


def test_a_row_names_the_settings_of_the_dense_network_it_starts_from():
    longer = replace(TINY, dense_epochs=9)
    for key in (RowKey("digits", "lasso_channels"), RowKey("digits", "dense", variant="normalization=half")):
        assert budget.made_with(TINY, key) != budget.made_with(longer, key)
    own = RowKey("digits", "snip", 80.0)
    assert budget.made_with(TINY, own) == budget.made_with(longer, own)


def test_another_weights_file_does_not_mix_with_the_rows_that_exist(own_folders, monkeypatch):
    given, key = replace(TINY, weights="local"), RowKey("digits", "dense")
    network = Context(given, key).new_network()
    monkeypatch.setattr(pretrained, "load", lambda dataset: network)
    assert study.compute(given, key)["weights_digest"]
    Context(given, RowKey("digits", "dense_finetuned")).dense()
    with torch.no_grad():
        network.features[0].weight.add_(1)
    with pytest.raises(ValueError, match="not the network that the rows in .* start from"):
        Context(given, RowKey("digits", "dense_finetuned")).dense()


def test_one_row_without_times_has_all_timed_again_in_one_run(own_folders, monkeypatch):
    keys = [RowKey("digits", "dense"), RowKey("digits", "layerwise_magnitude", 80.33)]
    for key in keys:
        study.compute(TINY, key)
        quiet.measure(TINY, [key], seconds=0.01)
    together = []
    timed_once = quiet._measure
    monkeypatch.setattr(quiet, "_measure", lambda *run: together.append(set(run[1])) or timed_once(*run))
    quiet.measure(TINY, keys, seconds=0.01)
    quiet.measure(TINY, keys, seconds=0.01)
    assert together == [set(keys)]


def test_times_of_another_run_than_the_dense_network_s_are_not_shown(own_folders, monkeypatch):
    keys = [RowKey("digits", "dense"), *(RowKey("digits", "layerwise_magnitude", s, variant="curve") for s in (50, 75))]
    for key in keys:
        study.compute(TINY, key)
    quiet.measure(TINY, keys[:1], seconds=0.01)
    quiet.measure(TINY, keys[1:], seconds=0.01)
    dense, *others = study.rows(TINY, compute_missing=False)
    assert dense["latency_ms"] > 0 and dense["reasons"].get("latency_ms") is None
    assert len(others) == 2
    for row in others:
        assert row["latency_ms"] is row["sparse_latency_batch128_ms"] is row["peak_memory_mib"] is None
        assert "two runs do not compare" in row["reasons"]["latency_ms"]
        assert row["top1_pct"] is not None
    quiet.measure(TINY, keys, seconds=0.01)
    assert all(row["latency_ms"] > 0 for row in study.rows(TINY, compute_missing=False))


def test_the_quiet_pass_fills_the_costs_and_nothing_else(own_folders, monkeypatch):
    keys = [RowKey("digits", "dense"), RowKey("digits", "layerwise_magnitude", 80.33)]
    before = [study.compute(TINY, key) for key in keys]
    monkeypatch.setattr(results, "commit", lambda: "a later commit")
    quiet.measure(TINY, keys, seconds=0.01)
    for key, old in zip(keys, before, strict=True):
        row = results.load_row("demo", key)
        assert row["commit"] == old["commit"] != row["timed_commit"] == "a later commit"
        assert (row["folded_latency_ms"] is None) == (row["method"] != "dense") == ("folded_latency_ms" in row["reasons"])
        assert row["latency_ms"] > 0 and row["latency_batch128_ms"] > row["latency_ms"] and row["peak_memory_mib"] > 0
        assert (row["sparse_latency_ms"] is None) == ("sparse_latency_ms" in row["reasons"])
        assert row["energy_mj"] is None or row["energy_mj"] > 0
        assert {name for name in row if old.get(name) != row[name]} <= set(quiet.CHANGED)


def test_a_network_of_other_settings_is_not_taken_for_the_row_s(own_folders, monkeypatch):
    key = RowKey("digits", "global_magnitude", 80.33)
    study.compute(TINY, key)
    other = Context(TINY, key).new_network()
    models.save(other, settings.network_path("demo", "digits", key.row_id), settings_hash="another")
    quiet.measure(TINY, [key], seconds=0.01)
    assert results.load_row("demo", key)["latency_ms"] is None
    assert context.dense_network(TINY, "digits").widths == other.widths
    models.save(other, dense_path(), settings_hash="another")
    with pytest.raises(FileNotFoundError, match="the row `dense` makes it"):
        context.dense_network(TINY, "digits")
    monkeypatch.setattr(pretrained, "load", lambda dataset: "the given one")
    assert context.dense_network(replace(TINY, weights="local"), "digits") == "the given one"


def test_layers_run_densely_in_an_earlier_pass_are_not_told_where_there_are_no_kernels(own_folders, monkeypatch):
    key = RowKey("digits", "layerwise_magnitude", 75.0, variant="curve")
    row = study.compute(TINY, key)
    results.save_row("demo", key, row | {"run_densely": {"images": ["features.0"]}}, row["settings"])
    monkeypatch.setattr(quiet.convolution, "available", lambda: "no compiler")
    quiet.measure(TINY, [key], seconds=0.01)
    row = results.load_row("demo", key)
    assert row["latency_ms"] > 0 and "no compiler" in row["reasons"]["sparse_latency_ms"] and "run_densely" not in row


@pytest.mark.parametrize("asked", [["--topic", "saliency"], ["--tier", "A", "--quiet"], []])
def test_whatever_rows_are_asked_for_all_are_timed_together(asked, monkeypatch):
    made, timed = [], []
    monkeypatch.setattr(study, "compute", lambda profile, key: made.append(key))
    monkeypatch.setattr(quiet, "measure", lambda profile, keys, *, again: timed.append((list(keys), again)))
    assert study.main(["--profile", "demo", *asked]) == 0
    planned = [item.key for item in plan.plan(settings.profile("demo"))]
    assert timed == [(planned, "--quiet" in asked)]
    assert made == ([] if "--quiet" in asked else planned if not asked else [key for key in planned if key in made])


def test_a_row_names_the_dense_network_that_it_starts_from(own_folders):
    digest = files.digest_of(models.load(dense_path()).state_dict())
    for key in (DENSE, RowKey("digits", "global_magnitude", 80.0, variant="curve"), RowKey("digits", "l1_filters")):
        assert study.compute(TINY, key)["weights_digest"] == digest
    for key in (RowKey("digits", "snip", 80.0), RowKey("digits", "lasso_channels_from_scratch")):
        assert "weights_digest" not in study.compute(TINY, key)


def test_a_training_is_not_continued_from_another_dense_network(own_folders, monkeypatch):
    given, made_with = replace(TINY, weights="local"), []
    network = Context(given, DENSE).new_network()
    monkeypatch.setattr(pretrained, "load", lambda dataset: network)
    monkeypatch.setattr(training, "fit", lambda *_, **options: made_with.append(options["made_with"]) or [])
    tuned, scratch = (Context(given, RowKey("digits", method)) for method in ("dense_finetuned", "dense_from_scratch"))
    for _ in range(2):
        tuned.fit(tuned.dense())
        scratch.fit(scratch.new_network())
        with torch.no_grad():
            network.features[0].weight.add_(1)
    assert made_with[0] != made_with[2] and made_with[1] == made_with[3] == scratch.made_with


def test_a_row_names_all_who_trained_it(own_folders, monkeypatch):
    key, save = RowKey("digits", "snip", 80.0), models.save
    monkeypatch.setattr(results, "commit", lambda: "first")
    monkeypatch.setattr(models, "save", lambda *_, **__: pytest.fail("interrupted"))
    with pytest.raises(pytest.fail.Exception):
        study.compute(TINY, key)
    monkeypatch.setattr(results, "commit", lambda: "second")
    monkeypatch.setattr(models, "save", save)
    row = study.compute(TINY, key)
    assert row["commit"] == "first; second" and row["train_device"] == machine.processor()
    assert row["train_dtype"] == str(machine.fast_dtype()).removeprefix("torch.")


def test_a_dense_row_tells_how_its_network_was_trained_or_null(own_folders):
    row = study.compute(TINY, DENSE)
    half = study.compute(TINY, replace(DENSE, variant="normalization=half"))
    assert len(row["log"]) == row["epochs"] == 1 and row["train_seconds"] > 0 and row["train_device"] == machine.processor()
    assert half["log"] == row["log"]
    curve = study.compute(TINY, RowKey("digits", "global_magnitude", 80.0, variant="curve"))  # trains nothing
    assert (curve["epochs"], curve["train_seconds"], curve["log"], curve["train_device"]) == (0, 0, [], None)
    settings.row_path("demo", "digits", "dense").unlink()
    models.save(models.load(dense_path()), dense_path(), settings_hash=row["settings_hash"])
    row = study.compute(TINY, DENSE)
    assert row["epochs"] == 1 and row["log"] is row["train_seconds"] is row["train_device"] is row["train_dtype"] is None


def test_larger_profiles_say_what_is_missing_instead_of_training(own_folders, monkeypatch):
    monkeypatch.setattr(study, "compute", lambda *_: pytest.fail("trained"))
    paper = settings.profile("paper")
    assert study.rows(paper, "saliency") == []
    assert len(study.missing(paper)) == len(plan.plan(paper))
