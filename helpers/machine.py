"""The machine work runs on: its device, its processor in words, and the number format it multiplies fastest.

Environment override: DEVICE.
"""

import functools
import os
import platform
import re
from pathlib import Path

import torch


def device() -> torch.device:
    """$DEVICE if set, else a GPU if there is one, else the CPU."""
    return torch.device(os.environ.get("DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu"))


@functools.cache
def processor_flags() -> frozenset[str]:
    """Instruction sets of this processor as Linux names them; empty where they cannot be read."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(match.group(1).split()) if match else frozenset()


def fast_dtype(on: torch.device | None = None) -> torch.dtype:
    """bfloat16 where the processor multiplies it natively (GPU, AMX, AVX-512 bf16), float32 elsewhere.

    On a CPU without such instructions bfloat16 trains more than ten times slower than float32.
    """
    if (on or device()).type == "cuda":
        return torch.bfloat16
    return torch.bfloat16 if processor_flags() & {"amx_bf16", "avx512_bf16"} else torch.float32


@functools.cache
def processor() -> str:
    """The device in words, to stand beside every figure measured on it."""
    if device().type == "cuda":
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    try:
        match = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        name = match.group(1).strip() if match else name
    except OSError:
        pass
    matrix = [label for flag, label in (("amx_bf16", "AMX"), ("avx512_bf16", "bf16")) if flag in processor_flags()]
    return ", ".join([name, torch.backends.cpu.get_cpu_capability(), *matrix])
