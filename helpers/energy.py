"""Energy of inference, read from the counter of the device that does the work."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from helpers.memory import evaluating

POWERCAP = Path("/sys/class/powercap")


class Unreadable(RuntimeError):
    """No energy counter can be read; the message says why."""


def energy(
    network: Callable[[Tensor], Tensor], batch: Tensor, *, seconds: float = 3.0, powercap: Path = POWERCAP
) -> tuple[float | None, str]:
    """(mJ an image, how it was read), or (None, "not measured: why").

    The counter of the device that holds `batch` is read around a window of at least `seconds`, since NVML's moves only
    every 20 to 100 ms. All that the device draws in the window counts, its idle power included.
    """
    try:
        read, method = _nvml(batch.device) if batch.is_cuda else _rapl(powercap)
        with torch.inference_mode(), evaluating(network):
            network(batch)
            _wait(batch)
            begun, before, calls = time.perf_counter(), read(), 0
            while time.perf_counter() - begun < seconds:
                network(batch)
                _wait(batch)
                calls += 1
            spent = read() - before
    except Unreadable as error:
        return None, f"not measured: {error}"
    if spent <= 0:
        return None, f"not measured: {method} did not move in {seconds:g} s"
    return 1e3 * spent / (calls * len(batch)), method


def _wait(batch: Tensor) -> None:
    if batch.is_cuda:
        torch.cuda.synchronize(batch.device)


def _nvml(device: torch.device) -> tuple[Callable[[], float], str]:
    """A reader of the GPU's total energy in joules."""
    try:
        import pynvml
    except ImportError:
        raise Unreadable("pynvml (package nvidia-ml-py) is not installed") from None
    try:
        pynvml.nvmlInit()
        # by UUID, for NVML ignores CUDA_VISIBLE_DEVICES
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError as error:
        raise Unreadable(f"NVML gives no energy counter of this GPU ({error})") from None
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3, "NVML total energy counter"


def _rapl(root: Path) -> tuple[Callable[[], float], str]:
    """A reader of the processor packages' energy in joules, counted on from the first reading."""
    zones = []
    for zone in sorted(root.glob("intel-rapl:*")) if root.is_dir() else []:
        try:
            if (zone / "name").read_text().startswith("package"):  # the others lie within a package or around it
                (zone / "energy_uj").read_text()
                zones.append((zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())))
        except PermissionError:
            raise Unreadable(f"{zone / 'energy_uj'} is readable by root only") from None
        except OSError as error:
            raise Unreadable(f"{zone} cannot be read ({error.strerror})") from None
    if not zones:
        raise Unreadable(f"no energy counter of the processor under {root} and no GPU in use")
    last = [int(path.read_text()) for path, _ in zones]
    total = [0]

    def read() -> float:
        for i, (path, span) in enumerate(zones):
            now = int(path.read_text())
            total[0] += (now - last[i]) % (span + 1)  # the counter wraps
            last[i] = now
        return total[0] / 1e6

    return read, "RAPL energy counter of the processor packages"
