"""The notebooks as they are committed, and what happens when a reader changes their settings or runs them on another machine."""

import ast
import json
import os
import re
import subprocess
import sys

import nbformat
import pytest

from helpers import settings

PATHS = sorted((settings.ROOT / "notebooks").glob("*.ipynb"))
LONGEST_CELL = 20  # lines
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
def test_cells_do_the_work_in_sight(path):
    """Cells are short, and mostly more than one line; functions in them are a few lines long."""
    cells = code(path)
    assert all(len(source.splitlines()) <= LONGEST_CELL for source in cells)
    assert sum(len(source.splitlines()) < 2 for source in cells) < len(cells) / 3
    functions = [node for source in cells for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    assert all(node.end_lineno - node.lineno <= 4 for node in functions)


@by_name
def test_the_parts_of_a_notebook(path):
    cells = nbformat.read(path, as_version=4).cells
    assert re.match(r"# \d · \S", cells[0].source) and "?" in cells[0].source, "title and question"
    assert "parameters" in cells[1].metadata.tags
    assert all(isinstance(node, ast.Assign) for node in ast.parse(cells[1].source).body), "settings are plain assignments"
    headings = [line for cell in cells if cell.cell_type == "markdown" for line in cell.source.splitlines() if line[:3] == "## "]
    parts = ["## By hand", "## Do it", "## What it gives", "## What we see", "## Exercises"]
    assert [next(h for h in headings if h.startswith(part)) for part in parts] == headings
    assert "<details><summary>Answers" in cells[-1].source


# Run ---------------------------------------------------------------------------------------------------------------


def test_the_first_notebooks_run_from_nothing(tmp_path):
    """00 and 01 on the tiny study, all cells, all results that they ask for, in a process of their own."""
    around = {name: value for name, value in os.environ.items() if name not in ("RESULTS_DIR", "REPORT_DIR", "PROFILE")}
    around |= {"BUILD_DIR": str(tmp_path), "OMP_NUM_THREADS": "1", "DEVICE": "cpu", "PYTHONPATH": str(settings.ROOT)}
    wanted = json.dumps({"00_baseline": [{}], "01_sensitivity": [{}]})
    command = [sys.executable, "tests/notebook_run.py", wanted]
    done = subprocess.run(command, cwd=settings.ROOT, env=around, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [json.loads(line)[2] for line in done.stdout.splitlines() if line.startswith('["0')] == ["", ""]
