"""The compiled half of sparse execution, built at first use and cached by what it was built from.

`convolution.cpp` computes in float32, `quantised.cpp` in whole numbers.
"""

import ctypes
import functools
import hashlib
import math
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path

import torch
from torch import Tensor

from helpers import files, machine, settings

SOURCE = Path(__file__).parent / "convolution.cpp"
QUANTISED = SOURCE.with_name("quantised.cpp")
BASE = ("-std=c++17", "-fopenmp", "-fPIC", "-shared")
FLAGS = (("-O3", "-march=native", "-fno-math-errno"), ("-O3",))  # the second where the compiler refuses the first
UNCONTRACTED = "-ffp-contract=off"  # whole numbers are rounded as torch rounds them, after each operation
FUNCTIONS = ("conv_images", "product_images", "conv_positions", "product_single")


class Layer(ctypes.Structure):
    """What a kernel knows of a layer; keep in step with `Layer` in convolution.cpp."""

    POINTERS = "values offsets starts bias"
    NUMBERS = "filters blocks block channels height width kernel stride padding out_height out_width rows columns lanes relu pool"
    _fields_ = [(name, ctypes.c_void_p) for name in POINTERS.split()] + [(name, ctypes.c_int64) for name in NUMBERS.split()]


def cache_dir() -> Path:
    """$SPARSE_CACHE, else in $BUILD_DIR or a project that can be written, else the user's cache (RuntimeError without a home)."""
    if "SPARSE_CACHE" in os.environ:
        return Path(os.environ["SPARSE_CACHE"])
    if os.environ.get("BUILD_DIR") or os.access(settings.ROOT, os.W_OK):
        return settings.cache_path("sparse")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pruning-report"


def processor() -> str:
    """What a binary, and a time taken on this machine, depend on: the processor and what torch may use of it."""
    limit = torch.backends.cpu.get_cpu_capability()
    return " ".join([platform.machine(), machine.processor(), limit, *sorted(machine.processor_flags())])


def _flags() -> list[tuple[str, ...]]:
    """Compiler flags to try: no wider vectors than torch takes, also where ATEN_CPU_CAPABILITY tells it to take less."""
    native, plain = FLAGS
    limit = torch.backends.cpu.get_cpu_capability() if platform.machine() in ("x86_64", "AMD64") else ""
    return [plain] if limit == "DEFAULT" else [(*native, "-mno-avx512f") if limit == "AVX2" else native, plain]


def _build(compiler: list[str], flags: tuple[str, ...], source: Path | None = None) -> Path:
    """The library of these flags; compiled where it is missing or damaged, as the SHA-256 in the file beside it tells."""
    source = source or SOURCE
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout
    built_from = "\0".join([source.read_text(), *BASE, *flags, *compiler, version, processor()])
    library = cache_dir() / f"{source.stem}-{hashlib.sha256(built_from.encode()).hexdigest()[:16]}.so"
    beside = library.with_suffix(".sha256")
    with files.lock(library.with_name("build.lock")):
        if not library.is_file() or not beside.is_file() or beside.read_bytes() != _digest(library):
            with files.atomic(library) as temporary:
                command = [*compiler, *BASE, *flags, str(source), "-o", str(temporary)]
                subprocess.run(command, capture_output=True, text=True, check=True)
            with files.atomic(beside) as temporary:
                temporary.write_bytes(_digest(library))
    return library


def _digest(library: Path) -> bytes:
    return hashlib.sha256(library.read_bytes()).hexdigest().encode()


@functools.cache
def _loaded(source: Path | None = None) -> ctypes.CDLL | str:
    """The compiled functions, or in one line why there are none; tried once a process, since a failing build takes long."""
    compiler = shlex.split(os.environ.get("CXX") or "c++")
    if shutil.which(compiler[0]) is None:
        return f"sparse kernels need the compiler {compiler[0]}, which is not installed: networks run dense"
    reasons: list[str] = []
    for flags in _flags():
        flags = (*flags, UNCONTRACTED) if source == QUANTISED else flags
        try:
            opened = ctypes.CDLL(str(_build(compiler, flags, source)))
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            lines = [line for line in (getattr(error, "stderr", None) or "").splitlines() if "error" in line]
            reasons.append((lines or str(error).splitlines())[0])
            continue
        for name in FUNCTIONS:
            getattr(opened, name).argtypes = [*[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 2]
        for name in ("to_images", "from_images") if source is None else ():
            getattr(opened, name).argtypes = [*[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 4]
        return opened
    return f"sparse kernels could not be built ({reasons[0][:200]}): networks run dense"


def available(source: Path | None = None) -> str | None:
    """None when networks run sparsely, else one line that says why not. Builds the kernels at the first call."""
    loaded = _loaded(source)
    return loaded if isinstance(loaded, str) else None


def load(source: Path | None = None) -> ctypes.CDLL:
    """The compiled functions; RuntimeError with the reason where there are none."""
    loaded = _loaded(source)
    if isinstance(loaded, str):
        raise RuntimeError(loaded)
    return loaded


def to_images(x: Tensor) -> Tensor:
    """(N, C, H, W) or (N, C) → (⌈N / lanes⌉, C, H, W, lanes), the last block filled up with zeros."""
    x, lanes = (x[:, :, None, None] if x.dim() == 2 else x).contiguous(), load().widest()
    out = x.new_empty(-(-len(x) // lanes), *x.shape[1:], lanes)
    load().to_images(x.data_ptr(), out.data_ptr(), len(x), math.prod(x.shape[1:]), lanes, torch.get_num_threads())
    return out


def from_images(x: Tensor) -> Tensor:
    """(blocks, C, H, W, lanes) → (blocks × lanes, C, H, W)."""
    blocks, *size, lanes = x.shape
    out = x.new_empty(blocks * lanes, *size)
    load().from_images(x.data_ptr(), out.data_ptr(), len(out), math.prod(size), lanes, torch.get_num_threads())
    return out
