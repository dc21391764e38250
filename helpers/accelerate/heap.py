"""Freed memory that stays with the process while it trains, instead of going back to the system after every tensor.

A training step of VGG16-BN frees and asks again for hundreds of MiB in blocks of up to 40 MiB. The C library gives such
blocks back at once, and the system then has to find and clear their pages anew: 100,000 page faults a step, which took
a quarter of its time. Results do not change.
"""

import contextlib
import ctypes
from collections.abc import Iterator

# glibc's malloc.h: parameters of mallopt, and what holds again afterwards. The thresholds are those that a process which
# has freed large blocks arrives at by itself; setting one ends that adjustment.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
KEPT = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1}
USUAL = {MMAP_MAX: 65_536, MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 64 * 2**20}


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Within the context memory that is freed waits for the next tensor; then it is returned.

    Holds for the whole process, and is not to be nested. Does nothing where the C library is not glibc.
    """
    library = _glibc()
    if library is None:
        yield
        return
    _set(library, KEPT)
    try:
        yield
    finally:
        _set(library, USUAL)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library with the settings above; None elsewhere (macOS, musl, Windows)."""
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    return library if hasattr(library, "gnu_get_libc_version") else None


def _set(library: ctypes.CDLL, values: dict[int, int]) -> None:
    for parameter, value in values.items():
        library.mallopt(parameter, value)
