"""Results: whole or refused, never used for other decisions, folded into one frame."""

import json
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny

from helpers import files, machine, plan, results, settings

[EXPERIMENT] = tiny.experiments(["layerwise_magnitude-s80.33"])
CORRECT = np.random.default_rng(0).random(43) < 0.7
DAMAGES = 300


@pytest.fixture(autouse=True)
def here(own_folders):
    return own_folders


def store(experiment=EXPERIMENT, **columns) -> dict:
    return results.save(experiment, {"correct": results.pack_bits(CORRECT), **columns})


def path_of(experiment=EXPERIMENT):
    return settings.result_path(experiment.profile, experiment.dataset, experiment.name)


def test_a_result_comes_back_as_it_was_stored():
    stored = store(top1_pct=91.25, log=[{"epoch": 0, "lr": 1e-3}], sparsity_pct=None)
    assert results.load(EXPERIMENT) == stored
    assert stored["hash"] == EXPERIMENT.hash and stored["top1_pct"] == 91.25 and "sparsity_pct" not in stored
    assert stored["experiment"]["recipe"]["epochs"] == EXPERIMENT.recipe.epochs
    assert stored["experiment"]["prune"]["slope"] == EXPERIMENT.prune.slope
    assert results.load(replace(EXPERIMENT, timed=not EXPERIMENT.timed)) == stored


def test_there_is_none_before_one_is_stored(capsys):
    assert results.load(EXPERIMENT) is None and capsys.readouterr().err == ""


def test_other_decisions_are_named_and_the_result_is_not_used(capsys):
    store()
    other = replace(EXPERIMENT, recipe=replace(EXPERIMENT.recipe, epochs=9), split_seed=4)
    assert results.load(other) is None
    assert "(recipe, split_seed)" in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused_and_nothing_is_written(value):
    with pytest.raises(ValueError, match="JSON"):
        store(top1_pct=value)
    assert not path_of().exists()


def test_an_unknown_column_is_refused_by_name():
    with pytest.raises(ValueError, match="'top2_pct' is not a column"):
        store(top2_pct=1.0)


def test_a_damaged_result_is_told_or_is_the_same(capsys):
    stored, whole = store(top1_pct=91.25, log=[{"epoch": 0, "lr": 1e-3}]), path_of().read_bytes()
    told = 0
    for broken in tiny.damaged(whole, DAMAGES):
        path_of().write_bytes(broken)
        found = results.load(EXPERIMENT)
        assert found in (None, stored)
        if found is None:
            assert EXPERIMENT.name in capsys.readouterr().err
            told += 1
    assert told > 0.95 * DAMAGES


@pytest.mark.parametrize("version", [0, results.VERSION + 1, None, "2"])
def test_a_result_of_another_version_is_named_and_not_used(capsys, version):
    store()
    whole = files.load_json(path_of())
    files.save_json(path_of(), whole | {"version": version})
    assert results.load(EXPERIMENT) is None
    assert f"version {version}" in capsys.readouterr().err
    assert len(results.frame(tiny.PROFILE)) == 0


def test_code_in_a_file_is_never_executed(here):
    path_of().parent.mkdir(parents=True)
    path_of().write_bytes(tiny.trap(here / "executed"))
    with pytest.raises(files.CorruptFile, match=EXPERIMENT.name):
        results.read(path_of())
    assert not (here / "executed").exists()


# The frame ---------------------------------------------------------------------------------------------------------


def test_the_frame_has_a_line_a_result_in_the_plan_s_order():
    chosen = plan.experiments(tiny.PROFILE)[::7]
    for experiment in reversed(chosen):
        store(experiment, top1_pct=50.0, log=[{"epoch": 0}], threads=2, weights="given")
    frame = results.frame(tiny.PROFILE)
    assert tuple(frame.columns) == results.COLUMNS
    assert list(zip(frame.method, frame.label, frame.seed, strict=True)) == [(e.method, e.label, e.seed) for e in chosen]
    for name in (*results.NUMBERS, "target_sparsity_pct"):
        assert frame[name].dtype == float
    for number, e in enumerate(chosen):
        line = frame.iloc[number]
        assert np.isnan(line.target_sparsity_pct) if e.sparsity_pct is None else line.target_sparsity_pct == e.sparsity_pct
        assert line.correct.dtype == bool and np.array_equal(line.correct, CORRECT)
        assert (line.recipe is None) == (e.recipe is None)
        assert line.experiment["prune"] == json.loads(json.dumps(e.decisions))["prune"]
        assert line.top1_pct == 50.0 and np.isnan(line.latency_ms) and line.threads == 2 and line.log == [{"epoch": 0}]
        assert line.scan is None and np.isnan(line.gradient_left)


def test_a_frame_without_results_has_the_columns():
    frame = results.frame(tiny.PROFILE)
    assert len(frame) == 0 and tuple(frame.columns) == results.COLUMNS
    assert pd.api.types.is_float_dtype(frame.top1_pct)


def test_a_result_of_other_decisions_is_not_in_the_frame():
    store()
    assert len(results.frame(tiny.PROFILE)) == 1
    assert len(results.frame(replace(tiny.PROFILE, finetune_epochs=9))) == 0


@pytest.mark.parametrize("count", [0, 1, 8, 1003])
def test_bits_of_correct_images_survive_packing(count):
    correct = np.random.default_rng(count).random(count) < 0.7
    assert np.array_equal(results.unpack_bits(json.loads(json.dumps(results.pack_bits(correct)))), correct)


def test_facts_are_empty_before_they_are_computed():
    assert results.facts(tiny.PROFILE, "digits") == results.facts("demo", "digits") == {}
    files.save_json(settings.facts_path("demo", "digits"), {"classes": ["0"]})
    assert results.facts("demo", "digits") == {"classes": ["0"]}


# Where it comes from -----------------------------------------------------------------------------------------------


def git(place, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *who, *arguments], cwd=place, check=True, capture_output=True)


@pytest.fixture
def checkout(here, monkeypatch):
    """A folder as the project's root."""
    place = here / "checkout"
    (place / "helpers").mkdir(parents=True)
    (place / "helpers/module.py").write_text("")
    monkeypatch.setattr(settings, "ROOT", place.resolve())
    results.commit.cache_clear()
    yield place
    results.commit.cache_clear()


def test_the_commit_says_whether_the_code_differs(checkout):
    git(checkout, "init", "-q")
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "one")
    (checkout / "notes.txt").write_text("no code")
    clean = results.commit()
    assert len(clean) == 12 and int(clean, 16) >= 0
    results.commit.cache_clear()
    (checkout / "helpers/module.py").write_text("changed = True")
    assert results.commit() == f"{clean}+changes"


def test_without_a_repository_of_its_own_the_commit_is_unknown(checkout, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(checkout.parent))
    assert results.commit() == "unknown (no repository)"
    results.commit.cache_clear()
    monkeypatch.delenv("GIT_CEILING_DIRECTORIES")
    git(checkout.parent, "init", "-q")
    assert results.commit() == "unknown (inside another repository)"
    results.commit.cache_clear()
    monkeypatch.setenv("PATH", "")
    assert results.commit() == "unknown (no git)"


def test_provenance_names_device_threads_and_versions():
    assert {"device", "threads", "dtype", "torch", "commit"} == results.provenance().keys()
    assert results.provenance()["device"] == machine.processor()
