"""Build the report: execute every notebook, write each as a page that needs nothing else, then the first page.

    python -m helpers.report [--profile demo|study|paper] [--only 01] [--timeout SECONDS]

A cell that fails, a kernel that dies and a time-out end the build with one line; what the notebook had shown so far is
kept beside the build as NAME.partial.ipynb and NAME.partial.html, and pages written earlier stay as they were.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import torch
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from helpers import files, machine, results, settings, timing
from helpers.report import index, pages, summary
from helpers.report.pages import NOTEBOOKS

TIMEOUT_S = 3600  # a cell
INTERRUPTED = 130
FOREIGN = ("MPLBACKEND", "PYTHONSTARTUP")  # what a reader has set for other work


class Failed(RuntimeError):
    """A notebook that could not be executed to its end; the message is one line for the console."""


# Execute ---------------------------------------------------------------------------------------------------------


class _ThisPython(AsyncKernelManager):
    """A kernel of the interpreter that runs the build, whatever else is registered as "python3"."""

    @property
    def kernel_spec(self) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--IPKernelApp.log_level=50"]
        return KernelSpec(argv=command, display_name="Python", language="python")


class _Client(NotebookClient):
    """Executes one notebook; knows the cell it is at, sends standard error to the console, stops when the build is told to."""

    cell = -1
    stopped = False

    @contextlib.asynccontextmanager
    async def async_setup_kernel(self, **options: Any) -> AsyncIterator[None]:
        async with super().async_setup_kernel(**options):
            for number in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(RuntimeError, ValueError):  # only the main thread may set handlers
                    asyncio.get_running_loop().add_signal_handler(number, self._stop, asyncio.current_task())
            yield

    def _stop(self, task: asyncio.Task | None) -> None:
        self.stopped = bool(task and task.cancel())

    def output(self, outs: list, msg: dict, display_id: str | None, cell_index: int) -> NotebookNode | None:
        if msg["msg_type"] == "stream" and msg["content"]["name"] == "stderr":
            print(msg["content"]["text"], end="", file=sys.stderr, flush=True)
            return None
        return super().output(outs, msg, display_id, cell_index)


def execute(notebook: NotebookNode, name: str, profile: str, timeout: float = TIMEOUT_S, folder: Path = NOTEBOOKS) -> str:
    """Execute a notebook in a fresh kernel; its outputs are in it afterwards. Why it stopped early, or "".

    The kernel sees none of a reader's own IPython start-up files and settings, and no matplotlibrc. Raises
    KeyboardInterrupt when the build is told to stop.
    """
    client = _Client(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        coalesce_streams=True,
        kernel_manager_class=_ThisPython,
        resources={"metadata": {"path": str(folder)}},
    )

    def start(cell: NotebookNode, cell_index: int) -> None:
        client.cell = cell_index
        progress = f"cell {cell_index + 1}/{len(notebook.cells)}  {time.monotonic() - began:.0f} s"
        print(f"{name}  {progress}", file=sys.stderr, flush=True)

    client.on_cell_start, began = start, time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "matplotlibrc").touch()
        own = {"PROFILE": profile, "PLAIN_PROGRESS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        own |= {"IPYTHONDIR": scratch, "MATPLOTLIBRC": f"{scratch}/matplotlibrc"}
        own |= {"PYTHONPATH": os.pathsep.join(filter(None, [str(settings.ROOT), os.environ.get("PYTHONPATH")]))}
        try:
            client.execute(env={key: value for key, value in os.environ.items() if key not in FOREIGN} | own)
        except (CellExecutionError, CellTimeoutError, RuntimeError, asyncio.CancelledError) as error:
            if client.stopped:
                raise KeyboardInterrupt from None
            return f"{name}.ipynb, cell {client.cell + 1}: {_reason(error, timeout)}"
        return ""


def _reason(error: BaseException, timeout: float) -> str:
    """Why an execution ended early, in one line."""
    if isinstance(error, CellExecutionError):
        return f"{error.ename}: {' '.join(error.evalue.split())}"
    if isinstance(error, CellTimeoutError):
        return f"took longer than {timeout:g} s"
    if isinstance(error, DeadKernelError):
        return "the kernel died (out of memory?)"
    return f"no kernel to execute it ({' '.join(str(error).split())})"


# Command line ----------------------------------------------------------------------------------------------------


def build(
    profile: str,
    only: Sequence[str] = (),
    timeout: float = TIMEOUT_S,
    folder: Path = NOTEBOOKS,
) -> list[Path]:
    """Execute the notebooks in `folder`, write their pages, the first page and, for the study, the tables in Markdown.

    Returns the pages written. Raises Failed at the first notebook that does not run to its end, files.Busy while another
    build writes to the same folder.
    """
    out, aside = settings.report_dir(profile), settings.build_dir(profile)
    paths = sorted(folder.glob("*.ipynb"))
    site = [pages.describe(path) for path in paths]
    chosen = [path for path in paths if not only or path.stem.startswith(tuple(only))]
    if not chosen:
        raise Failed(f"no notebook in {folder} begins with {' or '.join(only)}" if only else f"no notebook in {folder}")
    notebooks = {path: nbformat.read(path, as_version=4) for path in chosen}
    written = []
    with files.lock(aside / "build.lock", wait=False):
        for path, notebook in notebooks.items():
            failure = execute(notebook, path.stem, profile, timeout, folder)
            current = site[paths.index(path)]
            words = provenance(_results(profile), profile)
            text = pages.page(*pages.contents(notebook, out), current, site, out, failure=failure, **words)
            partial = aside / f"{path.stem}.partial.html"
            if failure:
                files.save_text(partial, text)
                files.save_text(partial.with_suffix(".ipynb"), nbformat.writes(notebook))
                raise Failed(f"{failure} (what it had shown so far: {partial})")
            for left in (partial, partial.with_suffix(".ipynb")):
                left.unlink(missing_ok=True)
            files.save_text(out / current.file, text)
            written.append(out / current.file)
        frame = _results(profile)
        first = pages.page(index.body(frame, profile, site), [], None, site, out, failure="", **provenance(frame, profile))
        files.save_text(out / "index.html", first)
        if out == settings.ROOT / "reports":
            for path, text in summary.texts(frame).items():
                files.save_text(path, text)
    return [*written, out / "index.html"]


def provenance(frame: pd.DataFrame, profile: str) -> dict:
    """What the pages are made from, for their head and foot alike."""

    def each(values: Iterable[str]) -> str:
        return "; ".join(sorted(set(values))) or "no result yet"

    made = {
        "Data": each(frame["data_source"].dropna()),
        "Results measured on": each(frame["device"][frame["latency_ms"].notna()].dropna()),
        "Cells run on": f"{machine.processor()}, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}",
        "Commit": results.commit(),
        "Built": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
    }
    return {"provenance": made, "badge": "" if profile == "study" else profile}


def _results(profile: str) -> pd.DataFrame:
    return timing.of_one_run(results.frame(settings.profile(profile)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the pages of a profile; the exit status: 0, 1 with one line on standard error, or 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m helpers.report", description="Build the report's pages.")
    parser.add_argument("--profile", help="demo (default), study or paper; else $PROFILE")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only notebooks whose name begins so")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="SECONDS", help="for one cell")
    parser.add_argument("--notebooks", type=Path, default=NOTEBOOKS, metavar="FOLDER", help="where they are")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        profile = settings.profile(options.profile).name
        written = build(profile, options.only, options.timeout, options.notebooks)
    except (Failed, files.Busy, files.CorruptFile, ValueError, OSError) as error:
        print(f"build failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("build stopped; start it again to go on from the stored results", file=sys.stderr)
        return INTERRUPTED
    print(f"{len(written)} pages in {time.monotonic() - began:.0f} s: {written[-1]}")
    return 0
