"""Rows: named by what they are, whole or refused, never reused under other settings."""

import json

import numpy as np
import pytest

from helpers import files, results
from helpers.results import RowKey

KEY = RowKey("digits", "layerwise_magnitude", 80.33, seed=2, variant="normalization=half")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS_DIR", str(tmp_path))


def test_a_row_id_says_what_the_row_is():
    assert KEY.row_id == "layerwise_magnitude-s80.33-normalization-half-seed2"
    assert RowKey("digits", "dense").row_id == "dense"
    assert RowKey("digits", "lasso_channels", variant="macs=4x").row_id == "lasso_channels-macs-4x"


def test_rows_come_back_and_fold_into_exactly_the_columns():
    results.save_row("demo", KEY, {"top1_pct": 91.5, "sparsity_pct": 80.3301, "log": [1, 2]}, {"epochs": 3})
    row = results.load_row("demo", KEY, {"epochs": 3})
    assert (row["top1_pct"], row["latency_ms"], row["log"], row["target_sparsity_pct"]) == (91.5, None, [1, 2], 80.33)
    frame = results.frame("demo")
    assert tuple(frame.columns) == results.COLUMNS and len(frame) == 1
    assert frame.sparsity_pct[0] == 80.3301 and frame.variant[0] == "normalization=half"


def test_other_settings_are_named_and_the_row_is_not_used(capsys):
    results.save_row("demo", KEY, {}, {"epochs": 3, "lr": 0.1})
    assert results.load_row("demo", KEY, {"epochs": 4, "lr": 0.1}) is None
    assert "other settings (epochs)" in capsys.readouterr().err


def test_a_row_of_another_version_or_without_a_column_is_refused(tmp_path):
    results.save_row("demo", KEY, {}, {})
    path = next(tmp_path.glob("demo/*/*.json"))
    whole = files.load_json(path)
    files.save_json(path, whole | {"version": 0})
    with pytest.raises(files.CorruptFile, match="version 0"):
        results.read(path)
    files.save_json(path, {name: value for name, value in whole.items() if name != "macs"})
    with pytest.raises(files.CorruptFile, match="macs"):
        results.read(path)
    path.write_text(json.dumps(whole))
    assert results.rows("demo") == []


def test_bits_of_correct_images_survive_packing():
    correct = np.random.default_rng(0).random(1003) < 0.7
    assert np.array_equal(results.unpack_bits(results.pack_bits(correct), 1003), correct)


@pytest.mark.parametrize("sparsity", [-0.1, 100, float("nan")])
def test_a_sparsity_out_of_range_is_refused(sparsity):
    with pytest.raises(ValueError, match="sparsity_pct"):
        RowKey("digits", "snip", sparsity)


def test_the_nearest_method_is_suggested():
    with pytest.raises(ValueError, match="did you mean 'synflow'"):
        RowKey("digits", "sinflow", 80)
