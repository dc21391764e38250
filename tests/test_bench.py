"""The table of the benchmarks: one can be repeated without losing the others, and a failure has its line."""

import ast
import importlib
import inspect
from types import ModuleType

import pytest

import bench.__main__ as bench
from bench import sparse_inference


def row(name: str, ours: float, theirs: float) -> dict:
    return {"name": name, "ours_ms": ours, "theirs_ms": theirs, "ratio": theirs / ours, "goal": 2.0, "note": "a | b"}


def test_one_benchmark_repeated_leaves_the_others_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(bench.settings, "ROOT", tmp_path)
    monkeypatch.setattr(bench.results, "commit", lambda: "a commit")  # there is no repository in that folder
    (tmp_path / "results").mkdir()
    found = {"training": [row("a step", 500.0, 1500.0)], "sweep": [row("a row", 0.25, 0.5)]}
    monkeypatch.setattr(bench, "in_own_process", lambda name, quick: found[name])
    monkeypatch.setattr(bench, "scripts", lambda: ["sweep", "training"])
    assert bench.main([]) == 0
    page = (tmp_path / "results/bench.md").read_text()
    assert "| a step | 500 ms | 1.5 s | 3.00× | ≥ 2×, met | a \\| b |" in page
    assert "| a row | 250 µs | 500 µs | 2.00× | ≥ 2×, met |" in page

    found["training"] = [{"name": "training", "failed": "OSError: gone"}]
    assert bench.main(["--only", "training"]) == 1
    page = (tmp_path / "results/bench.md").read_text()
    assert "a step" not in page and "**failed**: OSError: gone" in page and "| a row |" in page
    assert page.count("- `bench.") == 2

    (tmp_path / "results/bench.json").write_text("{")
    assert bench.main(["--only", "sweep"]) == 0
    assert "- `bench.training`" not in (tmp_path / "results/bench.md").read_text()


def test_lines_with_a_goal_come_first_with_their_verdict():
    slow, plain = row("slow", 500.0, 600.0), row("plain", 1.0, 3.0) | {"goal": None}
    judged = row("judged", 1.0, 9.0) | {"goal": "no worse", "met": False}
    page = bench.table({"one": bench.Run([plain, slow, judged], "here")}, quick=False)
    goals, others = page.split("## Everything else")
    assert "| 1.20× | ≥ 2×, **missed** |" in goals and "| 9.00× | no worse, **missed** |" in goals
    assert "plain" not in goals and "| plain | 1 ms | 3 ms | 3.00× | — |" in others and "slow" not in others


@pytest.mark.parametrize("name", bench.scripts())
def test_every_benchmark_can_be_run_and_asks_modules_for_what_they_have(name):
    script = importlib.import_module(f"bench.{name}")
    assert callable(script.run)
    nodes = list(ast.walk(ast.parse(inspect.getsource(script))))
    local = {node.arg for node in nodes if isinstance(node, ast.arg)}
    local |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id not in local:
            owner = getattr(script, node.value.id, None)
            assert not isinstance(owner, ModuleType) or hasattr(owner, node.attr), f"{node.value.id}.{node.attr}"


@pytest.mark.parametrize(
    ("ratios", "where", "met"),
    [
        ({0.5: 0.9, 0.6: 1.1, 0.8: 2.0}, "at or below 60%", True),
        ({0.5: 1.1, 0.6: 0.9, 0.8: 2.0}, "at or below 80%", False),  # slower again in between
        ({0.5: 0.5, 0.6: 0.6, 0.8: 0.9}, "above 80%", False),
    ],
)
def test_break_even_is_where_no_sparser_network_is_slower(ratios, where, met):
    base = {"allocation": "uniform", "batch": 1, "note": "the strongest dense fp32"}
    [found] = sparse_inference.break_even([base | {"sparsity": s, "ratio": ratio} for s, ratio in ratios.items()])
    assert found["name"] == f"break-even {where} uniform, batch 1" and found["met"] is met
    assert sparse_inference.break_even([base | {"sparsity": 0.8, "ratio": 2.0}]) == []  # too few sparsities to tell
