"""What all test files share: folders of their own, a browser."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

FOLDERS = ("PROFILE", "SPARSITY", "RESULTS_DIR", "REPORT_DIR")
DECISIONS = ("DTYPE", "ACCELERATE", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def pytest_configure(config):
    """Before any test is collected: what they compare is counted and timed on the CPU, and leaves no timing behind."""
    config.sparse_cache = tempfile.TemporaryDirectory(prefix="sparse-cache-")
    os.environ |= {"DEVICE": "cpu", "SPARSE_CACHE": config.sparse_cache.name}
    if os.environ.get("PYTEST_XDIST_WORKER"):  # one core each
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """The slowest file begins first, so that the cores end together (`--no-loadscope-reorder` keeps this order)."""
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")


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


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, the machine's or else playwright's own."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_api.sync_playwright() as playwright:
        found = found or (playwright.chromium.executable_path if Path(playwright.chromium.executable_path).exists() else None)
        if found is None:
            pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()
