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

SMALL = {"03_channel_pruning": {"COUNT": 4, "IMAGES": 60, "EPOCHS": 1, "LAYER": "features.10"}}
CHANGED = {
    "00_baseline": [{"LAYER": "classifier.0", "IMAGE": 7}, {"LAYER": "features.40", "BATCHES": (2,)}, {"SEED": 3}],
    "01_sensitivity": [
        {"SPARSITY": 0.5, "LAYER": "classifier.3"},
        {"SPARSITY": 0.95, "OTHER_LAYER": "features.0", "SEED": 2},
        {"SPARSITY": 0.0, "EPOCHS": 1},
    ],
    "02_grasp": [
        {"SCORE": "grasp", "SPARSITY": 0.9},
        {"SCORE": "synflow", "PER_CLASS": 2, "STAGES": 2},
        {"SPARSITY": 0.3, "SEED": 4},
    ],
    "03_channel_pruning": [
        {"COUNT": 1, "MACS_SHARE": 0.3},
        {"LAYER": "features.0", "COUNT": 2, "SEED": 5},
        {"LAYER": "features.40", "COUNT": 16, "IMAGES": 30},
    ],
    "04_analysis": [
        {"OURS": ("lasso_channels", ""), "THEIRS": ("l1_filters", "")},
        {"COST": "size_mib", "SEED": 9},
        {"OURS": ("snip", ""), "THEIRS": ("snip", ""), "RESAMPLES": 50},
    ],
}


def run(folder, wanted: dict, **environment: str) -> list:
    """(notebook, settings, refusal) of each run, in a process of its own with this environment."""
    around = {name: value for name, value in os.environ.items() if name not in ("RESULTS_DIR", "REPORT_DIR", "PROFILE")}
    around |= {"BUILD_DIR": str(folder), "OMP_NUM_THREADS": "1", "DEVICE": "cpu", "PYTHONPATH": str(settings.ROOT), **environment}
    command = [sys.executable, "tests/notebook_run.py", json.dumps(wanted)]
    done = subprocess.run(command, cwd=settings.ROOT, env=around, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder where the results of the tiny study are made once, by the notebooks themselves as they are committed."""
    folder = tmp_path_factory.mktemp("notebooks")
    ran = run(folder, {path.stem: [SMALL.get(path.stem, {})] for path in PATHS})
    assert [name for name, _, _ in ran] == [path.stem for path in PATHS] and not any(refusal for *_, refusal in ran)
    return folder


@by_name
def test_other_settings_hold_or_are_refused_in_one_sentence(made, path):
    wanted = [{**SMALL.get(path.stem, {}), **given} for given in CHANGED[path.stem]]
    for _, given, refusal in run(made, {path.stem: wanted}):
        assert not refusal or 20 < len(refusal) < 300, (given, refusal)


PATHS_OF_A_MACHINE = {
    "bfloat16": {"DTYPE": "bfloat16"},
    "no vectors, no compiler, no glibc": {
        "DTYPE": "float32",
        "ATEN_CPU_CAPABILITY": "default",
        "CXX": "no-such-compiler",
        "NO_GLIBC": "1",
        "ACCELERATE": "0",
    },  # fmt: skip
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}


@pytest.mark.parametrize("environment", PATHS_OF_A_MACHINE.values(), ids=PATHS_OF_A_MACHINE)
def test_every_path_of_a_machine_runs_the_notebooks(tmp_path, environment):
    """Notebooks 00 to 03 from nothing, all cells, all results that they ask for."""
    ran = run(tmp_path, {path.stem: [SMALL.get(path.stem, {})] for path in PATHS[:4]}, **environment)
    assert len(ran) == 4 and not any(refusal for *_, refusal in ran)
