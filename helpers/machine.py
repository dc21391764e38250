"""The machine work runs on: its device, its number format, its cores, and its processor in words.

Environment overrides: DEVICE, DTYPE.
"""

import functools
import os
import platform
import re
from pathlib import Path

import joblib
import torch

from helpers import settings

DEVICES = ("cpu", "cuda", "mps", "meta")
ALIASES = {"gpu": "cuda", "nvidia": "cuda", "metal": "mps"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BF16_FLAGS = {"amx_bf16": "AMX", "avx512_bf16": "bf16"}
# names oneDNN knows for the instruction sets that multiply bfloat16 ("" and the first two: no limit)
BF16_LIMITS = ("", "ALL", "DEFAULT", "AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX", "AVX10_")


def device() -> torch.device:
    """$DEVICE if set, else a GPU if there is one, else the CPU. ValueError where $DEVICE names none of this machine's."""
    wanted = os.environ.get("DEVICE")
    if not wanted:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = wanted.partition(":")
    nearest = ALIASES.get(kind.lower(), kind.lower())
    if nearest != kind and nearest in DEVICES:
        raise ValueError(f"DEVICE={wanted} is not a device's name: did you mean {nearest!r}?")
    settings.choose("device", kind, DEVICES)
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(kind, 1)
    if not (index or "0").isdecimal() or int(index or 0) >= count:
        raise ValueError(f"DEVICE={wanted}: this machine has {count} of {kind!r}; use DEVICE=cpu or leave it unset")
    return torch.device(wanted.rstrip(":"))


def _cpuinfo(field: str) -> str:
    """What Linux says of the processor under the name of a field; empty where it cannot be read."""
    try:
        match = re.search(rf"^(?:{field})\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match.group(1).strip() if match else ""


@functools.cache
def processor_flags() -> frozenset[str]:
    """Instruction sets of this processor as Linux names them."""
    return frozenset(_cpuinfo("flags|Features").split())


def dtype(on: torch.device | None = None) -> torch.dtype:
    """The number format to train and to scan in on a device (default: `device()`).

    $DTYPE (float32 or bfloat16) decides where it is set. Otherwise bfloat16 where the device multiplies it: a GPU that says
    so, a processor with AMX or AVX-512 bf16 unless ATEN_CPU_CAPABILITY or ONEDNN_MAX_CPU_ISA keeps torch from those
    instructions. Without them bfloat16 trains more than ten times slower than float32. ValueError for another $DTYPE.
    """
    if wanted := os.environ.get("DTYPE"):
        return DTYPES[settings.choose("number format in DTYPE", wanted, DTYPES)]
    kind = (on or device()).type
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = kind == "cpu" and _multiplies_bfloat16()
    return torch.bfloat16 if native else torch.float32


def _multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16 and torch is allowed to use them."""
    if os.environ.get("ATEN_CPU_CAPABILITY") in ("default", "avx2"):
        return False
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    allowed = limit.upper() in BF16_LIMITS or limit.upper().startswith(BF16_LIMITS[3:])
    return allowed and bool(processor_flags() & BF16_FLAGS.keys())


def cores() -> int:
    """Cores this process may use: what affinity and a container's quota leave of the machine's."""
    return joblib.cpu_count()


@functools.cache
def processor() -> str:
    """The device in words, to stand beside every figure measured on it."""
    if device().type == "cuda":
        return torch.cuda.get_device_name()
    name = re.sub(r"\((R|TM)\)| (Processor|CPU)\b", "", _cpuinfo("model name")) or platform.processor() or platform.machine()
    matrix = [label for flag, label in BF16_FLAGS.items() if flag in processor_flags()]
    return ", ".join([name, torch.backends.cpu.get_cpu_capability(), *matrix[:1]])  # the first has the others
