"""What all test files share: folders of their own, and the demo's pages, built once a run."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from helpers import files, settings

FOLDERS = ("PROFILE", "SPARSITY", "RESULTS_DIR", "REPORT_DIR")
DECISIONS = ("DTYPE", "ACCELERATE", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


def pytest_configure(config):
    """Before any test is collected: what they compare is counted and timed on the CPU, and leaves no timing behind."""
    config.sparse_cache = tempfile.TemporaryDirectory(prefix="sparse-cache-")
    os.environ |= {"DEVICE": "cpu", "SPARSE_CACHE": config.sparse_cache.name}
    if os.environ.get("PYTEST_XDIST_WORKER"):  # one core each
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)


def pytest_unconfigure(config):
    config.sparse_cache.cleanup()


@pytest.fixture(scope="session")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(autouse=True)
def outside_the_checkout(scratch, monkeypatch):
    """No test writes into the checkout, whatever profile and folders the caller has set; its committed results can be read."""
    for name in FOLDERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BUILD_DIR", str(scratch))


@pytest.fixture
def own_folders(tmp_path, monkeypatch) -> Path:
    """This test alone writes there."""
    for name in ("BUILD_DIR", "RESULTS_DIR", "WEIGHTS_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


@pytest.fixture
def no_decisions(monkeypatch):
    """Nothing in the environment decides which code runs."""
    for name in DECISIONS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    """The folder of the demo's pages, built by the command a user calls.

    $DEMO_PAGES names a folder with pages that are built already, to try tests again without building.
    """
    if os.environ.get("DEMO_PAGES"):
        return Path(os.environ["DEMO_PAGES"])
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if os.environ.get("PYTEST_XDIST_WORKER") else folder) / "build"
    with files.lock(folder / "demo.lock"):  # the first of several test processes builds it
        if not (folder / "demo-is-built").exists():
            _build(folder)
            (folder / "demo-is-built").touch()
    return folder / "demo"


def _build(folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in (*FOLDERS, "DEVICE")}
    command = [sys.executable, "-m", "helpers.report"]
    environment |= {"BUILD_DIR": str(folder)}
    done = subprocess.run(command, cwd=settings.ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="session")
def sites(demo) -> list[Path]:
    """Every folder of pages there is: the demo's, and the study's where they are committed."""
    committed = settings.ROOT / "reports"
    return [demo, *([committed] if (committed / "index.html").is_file() else [])]
