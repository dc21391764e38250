"""What several test files share: the demo's pages, built once a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import settings

OVERRIDES = ("PROFILE", "DEVICE", "RESULTS_DIR", "REPORT_DIR", "BUILD_DIR")


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
