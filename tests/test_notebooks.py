"""The notebooks as they are committed: short cells, no results, one order."""

import ast
import re

import nbformat
import pytest

from helpers import settings

PATHS = sorted((settings.ROOT / "notebooks").glob("*.ipynb"))
LONGEST_CELL = 12
by_name = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def code(path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_five_notebooks_stand_in_order():
    assert [path.stem for path in PATHS] == ["00_baseline", "01_sensitivity", "02_grasp", "03_channel_pruning", "04_analysis"]


@by_name
def test_nothing_executed_is_committed(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


@by_name
def test_cells_are_short_and_define_nothing(path):
    for source in code(path):
        assert len(source.splitlines()) <= LONGEST_CELL, source
        tree = ast.parse(source)
        assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda) for node in ast.walk(tree)), source
    lengths = sorted(len(source.splitlines()) for source in code(path))
    assert lengths[len(lengths) // 2] <= 5


@by_name
def test_first_cells_say_what_the_notebook_is_for(path):
    first, second = nbformat.read(path, as_version=4).cells[:2]
    assert first.cell_type == "markdown" and re.match(r"# \d · \S", first.source)
    assert "?" in first.source, "the question"
    for word in ("Reads", "Writes", "Minutes"):
        assert word in first.source
    assert second.cell_type == "code" and "environment.table(profile)" in second.source


@by_name
def test_code_follows_words(path):
    """Every heading's first cell is prose, so that a reader knows why before seeing what."""
    cells = nbformat.read(path, as_version=4).cells
    for cell in cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            assert len(cell.source.split("\n\n", 1)) == 2, f"{cell.source!r} has no words under it"
