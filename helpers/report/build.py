"""Build the report: execute every notebook, write each as a page that needs nothing else, then the first page.

    python -m helpers.report [--profile demo|study|paper] [--only 01] [--set SPARSITY=0.9] [--timeout SECONDS]

A cell that fails, a kernel that dies and a time-out end the build with one line; what the notebook had shown so far is
kept beside the build as NAME.partial.ipynb and NAME.partial.html, and pages written earlier stay as they were.
"""

import argparse
import ast
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import nbformat
import torch
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from helpers import files, machine, results, settings
from helpers.report import index, pages
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
    """Executes one notebook; knows the cell it is at, prints what the work says, and stops when the build is told to."""

    cell = -1
    stopped = False
    progress_log: Path  # lines of `helpers.progress`, which a page does not show

    @contextlib.asynccontextmanager
    async def async_setup_kernel(self, **options) -> AsyncIterator[None]:
        async with super().async_setup_kernel(**options):
            loop, task = asyncio.get_running_loop(), asyncio.current_task()

            def stop() -> None:
                self.stopped = True
                task.cancel()

            for number in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(RuntimeError, ValueError):  # only the main thread may set handlers
                    loop.add_signal_handler(number, stop)
            follower = asyncio.create_task(self._follow())
            try:
                yield
            finally:
                follower.cancel()

    async def _follow(self) -> None:
        with open(self.progress_log, encoding="utf-8") as lines:
            while True:
                for line in lines:
                    print(f"  {line.rstrip()}", file=sys.stderr, flush=True)
                await asyncio.sleep(0.5)


def execute(notebook: NotebookNode, name: str, profile: str, timeout: float = TIMEOUT_S, folder: Path = NOTEBOOKS) -> str:
    """Execute a notebook in a fresh kernel; its outputs are in it afterwards. Why it stopped early, or "".

    The kernel sees none of a reader's own IPython start-up files and settings, and no matplotlibrc. Raises
    KeyboardInterrupt when the build is told to stop.
    """
    with tempfile.TemporaryDirectory() as scratch:
        client = _Client(
            notebook,
            timeout=timeout,
            kernel_name="python3",
            kernel_manager_class=_ThisPython,
            resources={"metadata": {"path": str(folder)}},
        )
        client.progress_log = Path(scratch, "progress.log")
        for file in (client.progress_log, Path(scratch, "matplotlibrc")):
            file.touch()

        def start(cell: NotebookNode, cell_index: int) -> None:
            client.cell = cell_index
            print(
                f"{name}  cell {cell_index + 1}/{len(notebook.cells)}  {time.monotonic() - began:.0f} s",
                file=sys.stderr,
                flush=True,
            )

        client.on_cell_start, began = start, time.monotonic()
        place = [str(settings.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {key: value for key, value in os.environ.items() if key not in FOREIGN} | {
            **{"PROFILE": profile, "PYTHONPATH": os.pathsep.join(place), "PYTHONDONTWRITEBYTECODE": "1", "IPYTHONDIR": scratch},
            **{"MATPLOTLIBRC": f"{scratch}/matplotlibrc", "PROGRESS_LOG": str(client.progress_log)},
        }
        try:
            client.execute(env=environment)
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


def parameters(notebook: NotebookNode) -> set[str]:
    """The names that cells tagged "parameters" assign."""
    cells = [cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    nodes = [node for source in cells for node in ast.walk(ast.parse(source))]
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def override(notebook: NotebookNode, given: Mapping[str, object]) -> None:
    """Insert a cell that assigns what is given, of the notebook's own parameters, behind the cell tagged "parameters"."""
    lines = [f"{name} = {given[name]!r}" for name in given if name in parameters(notebook)]
    if lines:
        position = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
        cell = new_code_cell("\n".join(lines), id="injected", metadata={"tags": ["injected-parameters"]})
        notebook.cells.insert(position + 1, cell)


# Command line ----------------------------------------------------------------------------------------------------


def build(
    profile: str,
    only: Sequence[str] = (),
    given: Mapping[str, object] = {},
    timeout: float = TIMEOUT_S,
    folder: Path = NOTEBOOKS,
) -> list[Path]:
    """Execute the notebooks in `folder` and write their pages and the first page; returns the files written.

    Raises Failed at the first notebook that does not run to its end, ValueError for a parameter that no notebook has,
    files.Busy while another build writes to the same folder.
    """
    out, aside = settings.report_dir(profile), settings.build_dir(profile)
    paths = sorted(folder.glob("*.ipynb"))
    site = [pages.describe(path) for path in paths]
    chosen = [path for path in paths if not only or path.stem.startswith(tuple(only))]
    if not chosen:
        raise Failed(f"no notebook in {folder} begins with {' or '.join(only)}" if only else f"no notebook in {folder}")
    notebooks = {path: nbformat.read(path, as_version=4) for path in chosen}
    for name in given:
        settings.choose("parameter", name, sorted(set().union(*map(parameters, notebooks.values()))))
    written = []
    with files.lock(aside / "build.lock", wait=False):
        for path, notebook in notebooks.items():
            override(notebook, given)
            failure = execute(notebook, path.stem, profile, timeout, folder)
            current, words = site[paths.index(path)], provenance(profile)
            text = pages.page(*pages.contents(notebook, out), current, site, out, failure=failure, **words)
            partial = aside / f"{path.stem}.partial.html"
            if failure:
                _write(partial, text)
                _write(partial.with_suffix(".ipynb"), nbformat.writes(notebook))
                raise Failed(f"{failure} (what it had shown so far: {partial})")
            for left in (partial, partial.with_suffix(".ipynb")):
                left.unlink(missing_ok=True)
            _write(out / current.file, text)
            written.append(out / current.file)
        first = index.body(results.frame(settings.profile(profile)), profile, site)
        _write(out / "index.html", pages.page(first, [], None, site, out, failure="", **provenance(profile)))
    return [*written, out / "index.html"]


def provenance(profile: str) -> dict:
    """What the pages are made from, for their head and foot alike."""
    frame = results.frame(settings.profile(profile))

    def each(values: Iterable[str]) -> str:
        return "; ".join(sorted(set(values))) or "no result yet"

    made = {
        "Data": each(frame["data_source"].dropna()),
        "Results measured on": each(frame["device"][frame["latency_ms"].notna()].dropna()),
        "Cells run on": f"{machine.processor()}, {torch.get_num_threads()} threads",
        "Commit": results.commit(),
        "Built": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
    }
    return {"provenance": made, "badge": "" if profile == "study" else profile}


def _write(path: Path, text: str) -> None:
    with files.atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _assignment(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the pages of a profile; the exit status: 0, 1 with one line on standard error, or 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m helpers.report", description="Build the report's pages.")
    parser.add_argument("--profile", help="demo (default), study or paper; else $PROFILE")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only notebooks whose name begins so")
    parser.add_argument(
        "--set", action="append", default=[], type=_assignment, metavar="NAME=VALUE", help="a notebook's parameter"
    )
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="SECONDS", help="for one cell")
    parser.add_argument("--notebooks", type=Path, default=NOTEBOOKS, metavar="FOLDER", help="where they are")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        profile = settings.profile(options.profile).name
        written = build(profile, options.only, dict(options.set), options.timeout, options.notebooks)
    except (Failed, files.Busy, files.CorruptFile, ValueError, OSError) as error:
        print(f"build failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("build stopped; start it again to go on from the stored results", file=sys.stderr)
        return INTERRUPTED
    print(f"{len(written)} pages in {time.monotonic() - began:.0f} s: {written[-1]}")
    return 0
