"""What decides which code runs: the device, the number format, the cores. Each decision is forced on any machine."""

import os

import pytest
import torch

from helpers import machine

F32, BF16 = torch.float32, torch.bfloat16
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("no_decisions")


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        ("", {}, F32),
        ("avx2", {}, F32),
        ("avx2 avx512f", {}, F32),
        ("avx512f avx512_bf16", {}, BF16),
        ("avx512f avx512_bf16 amx_bf16", {}, BF16),
        ("avx512_bf16", {"ATEN_CPU_CAPABILITY": "default"}, F32),
        ("amx_bf16", {"ATEN_CPU_CAPABILITY": "avx2"}, F32),
        ("avx512_bf16", {"ATEN_CPU_CAPABILITY": "avx512"}, BF16),
        ("avx512_bf16", {"ONEDNN_MAX_CPU_ISA": "AVX2"}, F32),
        ("amx_bf16", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, F32),
        ("amx_bf16", {"ONEDNN_MAX_CPU_ISA": "avx2_vnni_2"}, F32),
        ("amx_bf16", {"DNNL_MAX_CPU_ISA": "SSE41"}, F32),
        ("amx_bf16", {"ONEDNN_MAX_CPU_ISA": "avx512_core_bf16"}, BF16),
        ("amx_bf16", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX_FP16"}, BF16),
        ("amx_bf16", {"ONEDNN_MAX_CPU_ISA": "AVX10_1_512"}, BF16),
        ("amx_bf16", {"ONEDNN_MAX_CPU_ISA": "DEFAULT"}, BF16),
        ("avx2", {"DTYPE": "bfloat16", "ATEN_CPU_CAPABILITY": "default"}, BF16),
        ("amx_bf16", {"DTYPE": "float32"}, F32),
    ],
)
def test_the_number_format_follows_flags_limits_and_the_switch(monkeypatch, flags, environment, expected):
    monkeypatch.setattr(machine, "processor_flags", lambda: frozenset(flags.split()))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert machine.dtype(CPU) == machine.dtype() == expected


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_is_asked_whether_it_multiplies_bfloat16_itself(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    monkeypatch.setattr(machine, "processor_flags", lambda: frozenset({"amx_bf16"}))
    assert machine.dtype(torch.device("cuda")) == (BF16 if native else F32)
    assert machine.dtype(torch.device("mps")) == F32  # the processor's flags say nothing of another device
    monkeypatch.setenv("DTYPE", "float32")
    assert machine.dtype(torch.device("cuda")) == F32


@pytest.mark.parametrize("value", ["bf16", "float16", "FLOAT32"])
def test_another_number_format_is_one_line(monkeypatch, value):
    monkeypatch.setenv("DTYPE", value)
    with pytest.raises(ValueError, match=f"DTYPE '{value}'") as refused:
        machine.dtype()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("value", "way_out"),
    [
        ("gpu", "'cuda'"),
        ("CPU", "'cpu'"),
        ("cuda", "DEVICE=cpu"),
        ("cuda:1", "DEVICE=cpu"),
        ("mps", "DEVICE=cpu"),
        ("tpu", "'cpu'"),
    ],
)
def test_a_device_that_is_not_there_is_one_line(monkeypatch, value, way_out):
    monkeypatch.setenv("DEVICE", value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=way_out) as refused:
        machine.device()
    assert "\n" not in str(refused.value)


def test_a_device_that_is_there_is_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for value in ("cpu", "cuda", "cuda:1"):
        monkeypatch.setenv("DEVICE", value)
        assert machine.device() == torch.device(value)
    monkeypatch.delenv("DEVICE")
    for available in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert machine.device().type == ("cuda" if available else "cpu")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot bind a process to a core")
def test_cores_are_those_this_process_may_use():
    allowed = os.sched_getaffinity(0)
    assert machine.cores() <= len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert machine.cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_the_processor_has_a_name():
    assert torch.backends.cpu.get_cpu_capability() in machine.processor()
