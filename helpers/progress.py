"""Progress of long work: a bar where a person watches, plain lines in a headless build, nothing in its pages."""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized

from tqdm.auto import tqdm

EVERY_SECONDS = 15.0


def track(items: Iterable, label: str) -> Iterator:
    """Iterate over `items` and show how far it is.

    In a terminal or a notebook a bar is drawn; elsewhere, in a pipe, a log or a headless build (which sets $PLAIN_PROGRESS),
    a line every 15 seconds goes to standard error.
    """
    if not os.environ.get("PLAIN_PROGRESS") and (sys.stderr.isatty() or _in_notebook()):
        yield from tqdm(items, desc=label, leave=False)
        return
    total = len(items) if isinstance(items, Sized) else None
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last >= EVERY_SECONDS:
            last = time.monotonic()
            say(f"{label}: {done}{f'/{total}' if total else ''}")


def say(line: str) -> None:
    """One plain line to the console, never into the output of a notebook that a person steps through."""
    if os.environ.get("PLAIN_PROGRESS") or not _in_notebook():
        print(line, file=sys.stderr, flush=True)


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return shell is not None and hasattr(shell, "kernel")
