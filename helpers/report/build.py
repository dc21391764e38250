"""Build the report: execute every notebook in order and write one page each, then the first page.

    python -m helpers.report [--profile demo|study|paper] [--only 01] [--timeout SECONDS] [--notebooks FOLDER]

A cell that fails, a kernel that dies and a time-out end the build with exit status 1 and one line that names the
notebook and the cell; what the notebook had shown so far is kept as `<notebook>.partial.html`, pages written earlier
stay as they were. Rows already stored are not computed again, so the next build goes on where this one stopped.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from helpers import files, results, settings
from helpers.report import console, index, pages

NOTEBOOKS = settings.ROOT / "notebooks"
TIMEOUT_S = {"demo": 3600, "study": 24 * 3600, "paper": 14 * 24 * 3600}  # a cell
INTERRUPTED = 130


class Failed(RuntimeError):
    """A notebook that could not be executed to its end; the message is one line for the console."""


class Client(NotebookClient):
    """Executes one notebook; knows the cell it is at, and ends its kernel when the build is told to stop."""

    current = -1
    stopped = False

    @contextlib.asynccontextmanager
    async def async_setup_kernel(self, **options):
        async with super().async_setup_kernel(**options):
            loop, task = asyncio.get_running_loop(), asyncio.current_task()

            def stop() -> None:
                self.stopped = True
                task.cancel()

            for number in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(RuntimeError, ValueError):  # only the main thread may set handlers
                    loop.add_signal_handler(number, stop)
            yield


def execute(path: Path, profile: str, timeout: float, advance=lambda cell, of: None) -> tuple[nbformat.NotebookNode, str]:
    """Execute the notebook at `path` in a fresh kernel: (the notebook with its outputs, why it stopped early or "").

    `advance(cell, of)` is called as each cell starts. Raises KeyboardInterrupt when the build is told to stop.
    """
    notebook = nbformat.read(path, as_version=4)
    client = Client(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--IPKernelApp.log_level=50"],  # the console shows progress, and a failure in one line
    )

    def start(cell, cell_index: int) -> None:
        client.current = cell_index
        advance(cell_index + 1, len(notebook.cells))

    client.on_cell_start = start
    place = os.environ.get("PYTHONPATH")
    environment = {
        **os.environ,
        "PROFILE": profile,
        "PYTHONPATH": os.pathsep.join([str(settings.ROOT), *([place] if place else [])]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        client.execute(env=environment)
    except (CellExecutionError, CellTimeoutError, RuntimeError, asyncio.CancelledError) as error:
        if client.stopped:
            raise KeyboardInterrupt from None
        return notebook, f"{path.name}, cell {client.current + 1}: {_reason(error, timeout)}"
    return notebook, ""


def _reason(error: BaseException, timeout: float) -> str:
    """Why an execution ended early, in one line."""
    if isinstance(error, CellExecutionError):
        return f"{error.ename}: {' '.join(error.evalue.split())}"
    if isinstance(error, CellTimeoutError):
        return f"took longer than {timeout:g} s"
    if isinstance(error, DeadKernelError):
        return "the kernel died (out of memory?)"
    return f"no kernel to execute it ({' '.join(str(error).split())})"


def build(profile: str, only: Sequence[str] = (), timeout: float | None = None, folder: Path = NOTEBOOKS) -> list[Path]:
    """Execute the notebooks in `folder` and write their pages and the first page; returns the files written.

    Raises Failed at the first notebook that does not run to its end, files.Busy while another build holds the folder.
    """
    out = settings.report_dir(profile)
    paths = sorted(folder.glob("*.ipynb"))
    chosen = [path for path in paths if not only or any(path.stem.startswith(prefix) for prefix in only)]
    if not chosen:
        raise Failed(f"no notebook in {folder} begins with {' or '.join(only)}" if only else f"no notebook in {folder}")
    site = [pages.describe(path) for path in paths]
    written = []
    with files.lock(settings.build_dir(profile) / "build.lock", wait=False):
        for path in chosen:
            page = site[paths.index(path)]
            with console.progress(path.stem) as advance:
                notebook, failure = execute(path, profile, timeout or TIMEOUT_S[profile], advance)
            partial = out / f"{path.stem}.partial.html"
            target = partial if failure else out / page.file
            content = pages.body(notebook)
            pages.write(
                target, pages.render(content, page, site, profile=profile, provenance=provenance(profile), failure=failure)
            )
            if failure:
                raise Failed(f"{failure} (what it had shown so far: {target})")
            partial.unlink(missing_ok=True)
            written.append(target)
        first = out / "index.html"
        pages.write(first, index.page(profile, site, provenance(profile)))
        written.append(first)
    return written


def provenance(profile: str) -> dict[str, str]:
    """What made the pages: commit, profile, device, data source, versions, date."""
    frame = results.frame(profile)
    sources = sorted(set(frame["data_source"].dropna())) if len(frame) else []
    devices = sorted(set(frame["device"][frame["latency_ms"].notna()].dropna())) if len(frame) else []
    return {
        "Profile": profile,
        "Data": "; ".join(sources) or "no row yet",
        "Measured on": "; ".join(devices) or "no row yet",
        "Commit": results.commit(),
        "Built": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the pages of a profile; the exit status: 0, 1 with one line on standard error, or 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m helpers.report", description="Build the report's pages.")
    parser.add_argument("--profile", default=None, help="demo (default), study or paper; else $PROFILE")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only notebooks whose name begins so")
    parser.add_argument("--timeout", type=float, default=None, metavar="SECONDS", help="for one cell")
    parser.add_argument("--notebooks", type=Path, default=NOTEBOOKS, metavar="FOLDER", help="where they are")
    options = parser.parse_args(arguments)
    try:
        profile = settings.profile(options.profile).name
        began = time.monotonic()
        written = build(profile, options.only, options.timeout, options.notebooks)
    except (Failed, files.Busy, files.CorruptFile, ValueError, OSError) as error:
        print(f"build failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("build stopped; start it again to go on from the stored rows", file=sys.stderr)
        return INTERRUPTED
    print(f"{len(written)} pages in {time.monotonic() - began:.0f} s: {written[-1]}")
    return 0
