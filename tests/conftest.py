"""What all test files share: folders of their own, and the demo's pages, built once a run."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from helpers import settings

OVERRIDES = ("PROFILE", "DEVICE", "RESULTS_DIR", "REPORT_DIR", "BUILD_DIR")


def pytest_configure(config):
    """Before any test is collected: what they compare is counted and timed on the CPU, and leaves no timing behind."""
    config.sparse_cache = tempfile.TemporaryDirectory(prefix="sparse-cache-")
    os.environ |= {"DEVICE": "cpu", "SPARSE_CACHE": config.sparse_cache.name}


def pytest_unconfigure(config):
    config.sparse_cache.cleanup()


@pytest.fixture(scope="session")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(autouse=True)
def outside_the_checkout(scratch, monkeypatch):
    """No test writes into the checkout, whatever profile and folders the caller has set; its committed rows can be read."""
    for name in ("PROFILE", "RESULTS_DIR", "REPORT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BUILD_DIR", str(scratch))


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    """The folder of the demo's pages, built by the command a user calls.

    $DEMO_PAGES names a folder with pages that are built already, to try tests again without building.
    """
    if os.environ.get("DEMO_PAGES"):
        return Path(os.environ["DEMO_PAGES"])
    folder = tmp_path_factory.mktemp("build")
    environment = {name: value for name, value in os.environ.items() if name not in OVERRIDES} | {"BUILD_DIR": str(folder)}
    command = [sys.executable, "-m", "helpers.report"]
    done = subprocess.run(command, cwd=settings.ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "demo"


@pytest.fixture(scope="session")
def sites(demo) -> list[Path]:
    """Every folder of pages there is: the demo's, and the study's where they are committed."""
    committed = settings.ROOT / "reports"
    return [demo, *([committed] if (committed / "index.html").is_file() else [])]
