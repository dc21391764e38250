"""What a headless build shows on standard error: how far a notebook is, and what its work says; nothing of it in a page."""

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm


@contextlib.contextmanager
def progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function (cell, of) that shows how far the notebook is: a bar in a terminal, plain lines elsewhere.

    Lines that the work in the kernel says (`helpers.progress`) arrive through the file $PROGRESS_LOG names.
    """
    terminal, began = sys.stderr.isatty(), time.monotonic()
    bar = tqdm(desc=name, unit="cell", leave=True, disable=not terminal)
    over = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "progress.log"
        log.touch()
        os.environ["PROGRESS_LOG"] = str(log)

        def follow() -> None:
            with open(log, encoding="utf-8") as handle:
                while True:
                    ended = over.is_set()  # read before the lines: none written until then is lost
                    for line in handle:
                        bar.write(f"{name}  {line.rstrip()}", file=sys.stderr)
                    if ended:
                        return
                    over.wait(0.5)

        def advance(cell: int, of: int) -> None:
            if terminal:
                bar.total = of
                bar.update(cell - bar.n)
            else:
                print(f"{name}  cell {cell}/{of}  {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield advance
        finally:
            over.set()
            follower.join()
            bar.close()
            os.environ.pop("PROGRESS_LOG", None)
    print(f"{name}  {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
