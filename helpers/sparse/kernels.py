"""The compiled half of sparse execution: `convolution.cpp`, built at first use and cached by what it was built from."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from helpers import files

SOURCE = Path(__file__).parent / "convolution.cpp"
FLAGS = (("-O3", "-march=native", "-fopenmp", "-fno-math-errno"), ("-O3", "-fopenmp"))
NARROW = {"AVX2": ("-mno-avx512f",)}  # no wider vectors than torch takes, also when told to by ATEN_CPU_CAPABILITY
NAME = "sparse_convolution"
FUNCTIONS = ("conv_images", "product_images", "conv_positions", "product_single")


class Unavailable(RuntimeError):
    """The kernels cannot be built here; the message says why in one line."""


class Layer(ctypes.Structure):
    """What a kernel knows of a layer; keep in step with `Layer` in convolution.cpp."""

    POINTERS = ("values", "offsets", "starts", "bias")
    NUMBERS = (
        *("filters", "blocks", "block", "channels", "height", "width", "kernel", "stride", "padding"),
        *("out_height", "out_width", "rows", "columns", "lanes", "relu", "pool"),
    )
    _fields_ = [*((name, ctypes.c_void_p) for name in POINTERS), *((name, ctypes.c_int64) for name in NUMBERS)]


def cache_dir() -> Path:
    """$SPARSE_CACHE, else `build/` of the project where it can be written, else the user's cache."""
    if "SPARSE_CACHE" in os.environ:
        return Path(os.environ["SPARSE_CACHE"])
    project = Path(__file__).resolve().parents[2]
    if os.access(project, os.W_OK):
        return project / "build" / "sparse"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pruning-report"


def processor() -> str:
    """What the binary and the timings of this machine depend on, as one line."""
    cpuinfo = Path("/proc/cpuinfo")
    first = cpuinfo.read_text().split("\n\n")[0].splitlines() if cpuinfo.exists() else []
    kept = [line.split(":", 1)[1].strip() for line in first if line.startswith(("flags", "Features", "model name"))]
    return " ".join([platform.machine(), platform.processor(), torch.backends.cpu.get_cpu_capability(), *kept])


def _compiler() -> str:
    return os.environ.get("CXX", "c++")


def _fingerprint(flags: tuple[str, ...]) -> str:
    """Source, flags, compiler, torch and processor."""
    version = subprocess.run([_compiler(), "--version"], capture_output=True, text=True, check=True).stdout
    parts = [SOURCE.read_text(), *flags, version, torch.__version__, processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _build(library: Path, flags: tuple[str, ...]) -> None:
    """Compile in a directory of this process alone; the finished library takes its name in one step."""
    from torch.utils import cpp_extension  # slow to import, and needed once a machine

    with tempfile.TemporaryDirectory(dir=library.parent, prefix="building-") as directory:
        arguments = {"extra_cflags": list(flags), "extra_ldflags": ["-fopenmp"], "build_directory": directory}
        cpp_extension.load(NAME, [str(SOURCE)], **arguments, is_python_module=False)
        (built,) = Path(directory).glob("*.so")  # torch numbers the names of all but a process's first build
        os.replace(built, library)


def _opened(library: Path) -> ctypes.CDLL:
    opened = ctypes.CDLL(str(library))
    for name in ("widest", "most_accumulators"):
        getattr(opened, name).restype = ctypes.c_int64
    for name in FUNCTIONS:
        getattr(opened, name).argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    for name in ("to_images", "from_images"):
        getattr(opened, name).argtypes = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3]
    return opened


@functools.cache
def _found() -> ctypes.CDLL | str:
    """The compiled functions, or in one line why there are none; tried once a process, since a failing build takes long."""
    beside = str(Path(sys.executable).parent)  # where pip puts ninja, also when the environment was never activated
    if beside not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), beside])
    for tool in (_compiler(), "ninja"):
        if shutil.which(tool) is None:
            return f"sparse kernels need {tool}, which is not installed: networks run dense"
    reason = ""
    narrow = NARROW.get(torch.backends.cpu.get_cpu_capability(), ())
    for flags in [(*FLAGS[0], *narrow), *FLAGS[1:]]:
        try:
            directory = cache_dir()
            library = directory / f"{NAME}-{_fingerprint(flags)}.so"
            directory.mkdir(parents=True, exist_ok=True)
            with files.lock(directory / "build.lock"):
                if not library.exists():
                    _build(library, flags)
            return _opened(library)
        except (RuntimeError, OSError, AttributeError, subprocess.SubprocessError) as error:
            reason = reason or next((line for line in str(error).splitlines() if "error" in line), str(error).split("\n")[0])
    return f"sparse kernels could not be built ({reason[:200]}): networks run dense"


def load() -> ctypes.CDLL:
    """The compiled functions; Unavailable when there is no compiler, no ninja or the build fails."""
    found = _found()
    if isinstance(found, str):
        raise Unavailable(found)
    return found


def available() -> str | None:
    """None when networks run sparsely, else one line that says why not. Builds the kernels at the first call."""
    found = _found()
    return found if isinstance(found, str) else None


def to_images(x: Tensor, lanes: int) -> Tensor:
    """(N, C, H, W) or (N, C) → (⌈N / lanes⌉, C, H, W, lanes), the last block filled up with zeros."""
    x = (x[:, :, None, None] if x.dim() == 2 else x).contiguous()
    out = x.new_empty(-(-len(x) // lanes), *x.shape[1:], lanes)
    load().to_images(x.data_ptr(), out.data_ptr(), len(x), x[0].numel(), lanes)
    return out


def from_images(x: Tensor, count: int | None = None) -> Tensor:
    """(blocks, C, H, W, lanes) → (count, C, H, W); all lanes where no count is given."""
    count = len(x) * x.shape[-1] if count is None else count
    out = x.new_empty(count, *x.shape[1:-1])
    load().from_images(x.data_ptr(), out.data_ptr(), count, x[0].numel() // x.shape[-1], x.shape[-1])
    return out
