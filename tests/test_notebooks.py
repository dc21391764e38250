"""The notebooks as they are committed, and what happens when a reader changes their settings or runs them on another machine."""

import ast
import json
import os
import re
import shutil
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

SMALL = {"03_channel_pruning": {"COUNT": 6, "MACS_SHARE": 0.2}}  # the tiny network has few channels
ALL = ("00_baseline", "01_sensitivity", "02_grasp", "03_channel_pruning", "04_analysis")
CHANGES = {
    "00_baseline": [
        {"LAYER": "classifier.0", "IMAGE": 7, "BATCHES": (3,)},
        {"LAYER": "features.0", "SEED": 3},
        {"IMAGE": 39, "BATCHES": (1, 2, 5)},
    ],
    "01_sensitivity": [
        {"SPARSITY": 0.99, "LAYER": "classifier.3", "EPOCHS": 1},
        {"SPARSITY": 0.5, "OTHER_LAYER": "features.0", "EPOCHS": 1},
        {"SPARSITY": 0.9, "SEED": 7, "EPOCHS": 1},
    ],
    "02_grasp": [
        {"SPARSITY": 0.95, "SCORE": "synflow", "EPOCHS": 1},
        {"PER_CLASS": 3, "STAGES": 2, "EPOCHS": 1},
        {"SCORE": "grasp", "SEED": 5, "EPOCHS": 1},
    ],
    "03_channel_pruning": [
        {"COUNT": 1, "LAYER": "features.3", "EPOCHS": 1, "MACS_SHARE": 0.2},
        {"COUNT": 32, "LAYER": "features.40", "EPOCHS": 1, "MACS_SHARE": 0.5},
        {"COUNT": 9, "IMAGES": 60, "SEED": 2, "EPOCHS": 1, "MACS_SHARE": 0.3},
    ],
    "04_analysis": [
        {"OURS": ("snip", ""), "COST": "size_mib", "SEED": 4},
        {"THEIRS": ("dense", ""), "RESAMPLES": 200},
        {"OURS": ("lasso_channels", ""), "COST": "latency_batch128_ms"},
    ],
}
IMPOSSIBLE = {
    "00_baseline": [{"LAYER": "features.1"}, {"IMAGE": 40}],
    "01_sensitivity": [{"LAYER": "features.2"}, {"SPARSITY": 1.5}],
    "02_grasp": [{"SCORE": "snap"}, {"PER_CLASS": 1000}],
    "03_channel_pruning": [{"COUNT": 1000}, {"LAYER": "classifier.0"}, {"MACS_SHARE": 1e-6}],
    "04_analysis": [{"OURS": ("snap", "")}, {"COST": "price"}],
}


def run(folder, wanted: dict, **environment) -> list:
    """Run notebooks on the tiny study in a process of its own: [name, settings, the sentence that refuses them] each."""
    around = {name: value for name, value in os.environ.items() if name not in ("RESULTS_DIR", "REPORT_DIR", "PROFILE")}
    around |= {"BUILD_DIR": str(folder), "OMP_NUM_THREADS": "1", "DEVICE": "cpu", "PYTHONPATH": str(settings.ROOT)}
    command = [sys.executable, "tests/notebook_run.py", json.dumps(wanted)]
    done = subprocess.run(command, cwd=settings.ROOT, env=around | environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["0')]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The tiny study's results in float32 on one thread, which further runs find there, and how making them ended."""
    folder = tmp_path_factory.mktemp("made")
    return folder, run(folder, {name: [SMALL.get(name, {})] for name in ALL}, DTYPE="float32")


def test_notebooks_run_from_nothing(made):
    """All cells, and all results that they ask for."""
    assert [(name, refused) for name, _, refused in made[1]] == [(name, "") for name in ALL]


def test_notebooks_run_from_nothing_in_bfloat16(tmp_path):
    ended = run(tmp_path, {name: [SMALL.get(name, {})] for name in ALL[:4]}, DTYPE="bfloat16")
    assert [refused for *_, refused in ended] == [""] * 4


@pytest.mark.parametrize(
    "environment",
    [
        {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "AVX2", "NO_GLIBC": "1"},
        {"ATEN_CPU_CAPABILITY": "avx2", "CXX": "no-such-compiler", "SPARSE_CACHE": "{folder}/empty", "OMP_NUM_THREADS": "2"},
    ],
    ids=["no vector extensions, other C library", "AVX2, no compiler, two threads"],
)
def test_notebooks_run_on_lesser_machines(made, tmp_path, environment):
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    environment = {name: value.format(folder=tmp_path) for name, value in environment.items()}
    ended = run(tmp_path, {name: [SMALL.get(name, {})] for name in ALL[:4]}, **environment)
    assert [refused for *_, refused in ended] == [""] * 4


@pytest.mark.parametrize("name", ALL)
def test_a_reader_may_change_the_settings(made, name):
    """Every cell holds with other settings, or refuses in one sentence what cannot be."""
    ended = run(made[0], {name: CHANGES[name] + IMPOSSIBLE[name]})
    assert [refused for *_, refused in ended[:3]] == [""] * 3
    refusals = [refused for *_, refused in ended[3:]]
    assert len(refusals) == len(IMPOSSIBLE[name]) and all(refusals)
