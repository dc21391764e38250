import math

import pytest

from helpers.report import published


def test_every_table_of_the_original_report_is_there():
    figures = published.ORIGINAL
    assert figures.groupby("task").size().to_dict() == {"Task 0": 2, "Task 1a": 2, "Task 1b": 2, "Task 2": 2}
    needed = ["size_mib", "macs", "peak_memory_mib", "latency_ms", "top1_pct"]
    assert figures[needed].notna().all(axis=None) and not figures.duplicated(["dataset", "method"]).any()


def test_a_figure_is_looked_up_or_nan():
    assert published.reported("cifar100", "grasp_iterative", "top1_pct") == 42.67
    assert published.reported("cifar10", "dense", "energy_mj") == 77_151
    assert published.reported("cifar10", "lasso_channels", "macs") == pytest.approx(41.782e6)
    for gap in (("cifar10", "lasso_channels", "sparsity_pct"), ("digits", "dense", "macs"), ("cifar10", "snip", "macs")):
        assert math.isnan(published.reported(*gap))
    assert math.isnan(published.reported("cifar10", "dense", "no_such_column"))


def test_its_own_figures_give_the_reductions_it_speaks_of():
    wide, small = (
        published.ORIGINAL.query(f"dataset == 'cifar10' and method == '{m}'").iloc[0] for m in ("dense", "lasso_channels")
    )
    assert 1 - small["macs"] / wide["macs"] == pytest.approx(0.87, abs=0.005)
    assert 1 - small["peak_memory_mib"] / wide["peak_memory_mib"] == pytest.approx(0.74, abs=0.005)


def test_every_published_figure_has_its_source():
    lines = published.ELSEWHERE
    assert lines["url"].str.startswith("https://").all() and lines[["source", "setting"]].notna().all(axis=None)
    top1 = lines.set_index("method")[["cifar10", "cifar100"]].stack().dropna()
    assert top1.between(50, 100).all() and set(lines["method"]) == set(top1.index.get_level_values(0)) and top1.index.is_unique
