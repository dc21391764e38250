"""The accelerated training step computes what torch's own does, for any number of images, and leaves nothing behind."""

import ast
import contextlib
import copy
import ctypes
import os
import resource
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn
from torch.nn import functional as F

from helpers import machine, models, settings, training
from helpers.accelerate import accelerate, convolutions, heap, winograd

F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16
TAP, UNFOLDED = convolutions.tap_convolution, convolutions.unfolded_convolution
DENSE, TILED = convolutions.dense_convolution, convolutions.tiled_convolution
IN_HALF = [(rewrite, size) for size in [(4, 4), (1, 1), (1, 3), (3, 2), (8, 5), (2, 2)] for rewrite in (TAP, UNFOLDED)] + [
    (DENSE, (2, 2))
]
REWRITES = [*IN_HALF, *((TILED, size) for size in [(4, 4), (8, 4), (12, 16)])]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def name_of(value) -> str:
    return getattr(value, "__name__", str(value))


def gradients(convolution, tensors, upstream):
    """Output and gradients for inputs, weight and, where there is one, bias."""
    leaves = [None if t is None else t.clone().requires_grad_() for t in tensors]
    outputs = convolution(*leaves)
    outputs.backward(upstream.to(outputs.dtype))
    return [outputs.detach(), *[leaf.grad for leaf in leaves if leaf is not None]]


def relative(ours, exact):
    """Error norm over norm; a wholly masked layer's zeros must be zeros."""
    error = float((ours.double() - exact).norm())
    return error and error / float(exact.norm())


def plain(inputs, weight, bias):
    return F.conv2d(inputs, weight, bias, padding=1)


# The rewrites -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("rewrite", "size"), REWRITES, ids=name_of)
def test_every_rewrite_is_the_convolution(rewrite, size, bias, layout):
    torch.manual_seed(0)
    for count, channels, outputs in ((5, 37, 11), (1, 3, 8), (3, 1, 1), (0, 4, 5)):
        inputs = torch.randn(count, channels, *size, dtype=F64).contiguous(memory_format=layout)
        weight = torch.randn(outputs, channels, 3, 3, dtype=F64).contiguous(memory_format=layout)
        weight *= torch.rand_like(weight) < 0.5  # as a mask leaves it
        tensors = [inputs, weight, torch.randn(outputs, dtype=F64) if bias else None]
        upstream = torch.randn(count, outputs, *size, dtype=F64).contiguous(memory_format=layout)
        exact = gradients(plain, tensors, upstream)
        single = [None if t is None else t.float() for t in tensors]
        for ours, wanted in zip(gradients(rewrite, single, upstream), exact, strict=True):
            assert ours.shape == wanted.shape
            assert relative(ours, wanted) < 1e-5


@pytest.mark.parametrize("count", [16, 1, 0])
@pytest.mark.parametrize(("rewrite", "size"), IN_HALF, ids=name_of)
def test_bfloat16_is_no_less_exact_than_the_plain_convolution(rewrite, size, count):
    torch.manual_seed(0)
    half = [torch.randn(s).bfloat16() for s in ((count, 64, *size), (48, 64, 3, 3), (48,))]
    upstream = torch.randn(count, 48, *size).bfloat16().double()
    exact = gradients(plain, [t.double() for t in half], upstream)
    theirs = gradients(plain, half, upstream)
    for ours, other, wanted in zip(gradients(rewrite, half, upstream), theirs, exact, strict=True):
        assert relative(ours, wanted) <= max(0.004, 1.1 * relative(other, wanted))


def test_tiles_done_in_parts_are_the_same_convolution(monkeypatch):
    torch.manual_seed(0)
    shapes = (5, 6, 8, 4), (9, 6, 3, 3), (9,)
    tensors, upstream = [torch.randn(s, dtype=F64) for s in shapes], torch.randn(5, 9, 8, 4, dtype=F64)
    exact = gradients(plain, tensors, upstream)
    monkeypatch.setattr(winograd, "BUFFER", 2 * 36 * 9 * 2)  # two images of two tiles
    assert len(list(winograd.parts(tensors[0].permute(0, 2, 3, 1), 9))) == 3
    for ours, wanted in zip(gradients(TILED, tensors, upstream), exact, strict=True):
        torch.testing.assert_close(ours, wanted)


MAPS, PRODUCTS, WEIGHT = (3, 8, 12, 5), (36, 18, 7), (7, 5, 3, 3)


@pytest.mark.parametrize(
    ("transform", "adjoint", "shape"),
    [
        (winograd.transform_weight, winograd.weight_gradient, WEIGHT),
        (winograd.transform_inputs, lambda y: winograd.inputs_gradient(y, 8, 12), MAPS),
        (lambda x: winograd.transform_outputs(x, 8, 12), winograd.outputs_gradient, PRODUCTS),
    ],
    ids=["weight", "inputs", "outputs"],
)
def test_every_gradient_of_tiles_is_the_adjoint_of_its_transform(transform, adjoint, shape):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=F64)
    y = torch.randn_like(transform(x))
    back = adjoint(y)
    assert back.shape == x.shape
    torch.testing.assert_close((transform(x) * y).sum(), (x * back).sum())


def test_parts_hold_every_image_once_and_fit_the_buffer():
    maps = torch.empty(1000, 16, 16, 1)
    for channels in (64, 512):
        parts = list(winograd.parts(maps, channels))
        assert [i for part in parts for i in range(*part.indices(1000))] == list(range(1000))
        assert max(part.stop - part.start for part in parts) * 36 * 16 * channels <= winograd.BUFFER
    assert list(winograd.parts(torch.empty(2, 512, 512, 1), 512)) == [slice(0, 1), slice(1, 2)]


# Which one runs ---------------------------------------------------------------------------------------------------

PROCESSORS = {
    "AVX2": (set(), "AVX2"),
    "AVX-512 with bf16": ({"avx512_bf16"}, "AVX512"),
    "AMX": ({"avx512_bf16", "amx_bf16"}, "AVX512"),
    "none of them": (set(), "DEFAULT"),
}


@pytest.mark.parametrize(
    ("processor", "size", "outputs", "channels", "dtype", "expected"),
    [
        ("AVX2", (16, 16), 128, 64, F32, TILED),
        ("AVX2", (32, 32), 64, 64, F32, None),  # too few channels for tiles
        ("AVX2", (6, 6), 256, 256, F32, TAP),
        ("none of them", (6, 6), 256, 256, F32, TAP),
        ("AVX-512 with bf16", (6, 6), 256, 256, F32, None),
        ("AVX-512 with bf16", (4, 4), 512, 512, BF16, TAP),
        ("AVX-512 with bf16", (4, 4), 512, 512, F32, TILED),
        ("AVX-512 with bf16", (4, 4), 128, 512, BF16, None),
        ("AMX", (4, 4), 512, 512, BF16, UNFOLDED),
        ("AMX", (3, 3), 512, 512, BF16, UNFOLDED),
        ("AMX", (2, 2), 512, 512, BF16, DENSE),
        ("AVX2", (2, 2), 512, 512, F32, DENSE),
        ("AVX2", (8, 8), 512, 512, F64, None),
    ],
)
def test_the_rewrite_follows_shape_dtype_and_processor(monkeypatch, processor, size, outputs, channels, dtype, expected):
    flags, capability = PROCESSORS[processor]
    monkeypatch.setattr(machine, "processor_flags", lambda: frozenset(flags))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert convolutions.rewrite.__wrapped__(size, outputs, channels, dtype, 128) is expected


def test_a_small_batch_has_too_few_tiles():
    assert convolutions.rewrite((4, 4), 512, 512, F32, 127) is not TILED
    assert convolutions.rewrite((8, 8), 512, 512, F32, 32) is TILED


# Networks ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def every_rewrite(monkeypatch):
    """Each convolution takes a rewrite where one exists, however small it is."""
    monkeypatch.setattr(convolutions, "MIN_CHANNELS", 1)
    monkeypatch.setattr(convolutions, "MIN_TILES", 0)
    monkeypatch.setattr(convolutions, "MIN_TILED", 1)
    uncached = convolutions.rewrite.__wrapped__
    taken = []

    def recorded(size, outputs, channels, dtype, images):
        taken.append(uncached(size, outputs, channels, dtype, images))
        return taken[-1]

    monkeypatch.setattr(convolutions, "rewrite", recorded)
    return taken


def network() -> models.VGG:
    """Maps of 16, 8, 4 and 2 pixels a side."""
    made = tiny.network((4, "M", 8, "M", 8, 16, "M", 16, 8), (8,), dropout=0.0, image_size=16)
    return made.to(memory_format=torch.channels_last).train()


def step(trained: nn.Module, dtype: torch.dtype, count: int, fast: bool = True) -> list[torch.Tensor]:
    """The gradients of one training step on `count` images."""
    split = tiny.images(max(count, 1), 16)
    images = (split.images[:count] / 255).contiguous(memory_format=torch.channels_last)
    trained.zero_grad()
    with accelerate(trained, dtype) if fast else contextlib.nullcontext(), torch.autocast("cpu", dtype, enabled=dtype != F32):
        logits = trained(images)
    F.cross_entropy(logits.float(), split.labels[:count], reduction="sum").backward()
    return [parameter.grad.clone() for parameter in trained.parameters()]


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("count", [9, 1, 0])
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_a_step_of_any_number_of_images_has_the_gradients_of_torch_s_own(monkeypatch, every_rewrite, processor, count, dtype):
    flags, capability = PROCESSORS[processor]
    monkeypatch.setattr(machine, "processor_flags", lambda: frozenset(flags))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    start = network()
    for module in start.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # of no image there are no statistics
    exact = step(copy.deepcopy(start), F32, count, fast=False)
    ours = step(copy.deepcopy(start), dtype, count)
    theirs = step(copy.deepcopy(start), dtype, count, fast=False)
    assert {rewrite for rewrite in every_rewrite if rewrite} == rewrites(processor, dtype)
    for mine, other, wanted in zip(ours, theirs, exact, strict=True):
        assert mine.shape == wanted.shape
        assert float((mine - wanted).norm()) <= 1e-4 * float(wanted.norm()) + 1.5 * float((other - wanted).norm())


def rewrites(processor: str, dtype: torch.dtype) -> set:
    if dtype == F32:
        return {TILED, DENSE}
    return {UNFOLDED if processor == "AMX" else TAP, DENSE}


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_deep_layers_of_a_training_take_a_rewrite(monkeypatch, dtype):
    taken, uncached = [], convolutions.rewrite.__wrapped__
    monkeypatch.setattr(convolutions, "rewrite", lambda *layer: taken.append(uncached(*layer)) or taken[-1])
    deep = models.VGG(10, (8, "M", "M", "M", 256, "M", 256), (), normalization=models.NORMALIZATIONS["half"])
    for switch in ("1", "0"):
        monkeypatch.setenv("ACCELERATE", switch)
        training.fit(deep, tiny.images(4), training.Recipe(1, batch_size=4), dtype=dtype)
        assert any(taken) == (switch == "1")
        taken.clear()


def test_the_context_leaves_the_network_as_it_was():
    plain_network = network()
    before = {name: type(module) for name, module in plain_network.named_modules()}
    names = list(plain_network.state_dict())
    with pytest.raises(RuntimeError, match="interrupted"), accelerate(plain_network, F32):
        assert isinstance(plain_network.features[0], convolutions.FastConv2d)
        assert list(plain_network.state_dict()) == names
        copied = copy.deepcopy(plain_network)
        raise RuntimeError("interrupted")
    assert {name: type(module) for name, module in plain_network.named_modules()} == before
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(copied.eval()(images), plain_network.eval()(images))


def test_other_convolutions_stay_plain():
    kinds = {"stride": 2, "dilation": 2, "groups": 2, "padding": 0, "padding_mode": "reflect"}
    others = nn.ModuleList(nn.Conv2d(8, 8, 3, **{"padding": 1, name: value}) for name, value in kinds.items())
    others.append(nn.Conv2d(8, 8, 1, padding=1))
    with accelerate(others, F32):
        assert all(type(conv) is nn.Conv2d for conv in others)


def test_evaluation_inside_the_context_is_bit_identical():
    trained, images = network().eval(), torch.randn(4, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        outside = trained(images)
        with accelerate(trained, F32):
            assert torch.equal(trained(images), outside)


# The switch and the door ------------------------------------------------------------------------------------------


def fitted(dtype: torch.dtype = F32) -> dict[str, torch.Tensor]:
    trained = tiny.network((64, "M", 128, "M", "M", 128, "M", 64), (8,), dropout=0.0)
    training.fit(trained, tiny.images(64), training.Recipe(1, batch_size=32, peak_lr=0.01), dtype=dtype)
    return trained.state_dict()


def test_switched_off_it_is_torch_s_own_training_and_switched_on_the_same_to_rounding(monkeypatch):
    fast = fitted()
    monkeypatch.setenv("ACCELERATE", "0")
    kept = []
    monkeypatch.setattr(heap, "_set", lambda library, values: kept.append(values))
    off = fitted()
    assert not kept
    monkeypatch.setattr(
        training, "accelerate", lambda network, dtype: contextlib.nullcontext()
    )  # as if the folder were not there
    without = fitted()
    assert all(torch.equal(off[name], without[name]) for name in off)
    start = tiny.network((64, "M", 128, "M", "M", 128, "M", 64), (8,), dropout=0.0).state_dict()
    weights = [name for name in off if name.endswith("weight")]
    moved = sum(float((off[name] - start[name]).norm()) for name in weights)
    assert 0 < sum(float((off[name] - fast[name]).norm()) for name in weights) < 0.01 * moved


@pytest.mark.parametrize("value", ["off", "2", "true"])
def test_another_switch_is_one_line(monkeypatch, value):
    monkeypatch.setenv("ACCELERATE", value)
    with pytest.raises(ValueError, match=f"ACCELERATE={value}"), accelerate(network(), F32):
        pass


def test_training_alone_knows_the_door():
    users = set()
    for path in (settings.ROOT / "helpers").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            if any(module.startswith("helpers.accelerate") for module in modules):
                users.add(path.relative_to(settings.ROOT / "helpers"))
    assert {user for user in users if user.parts[0] != "accelerate"} == {Path("training.py")}


# Memory kept ------------------------------------------------------------------------------------------------------

SIZE = 64 * 2**20  # bytes, in blocks that the C library maps one by one
glibc = pytest.mark.skipif(heap._glibc() is None, reason="the C library is not glibc")


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def faults(rounds: int) -> int:
    """Page faults of filling and freeing a block `rounds` times, once the heap has come to rest (aligned blocks move in it)."""
    for _ in range(20):
        torch.empty(SIZE, dtype=torch.uint8).fill_(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.empty(SIZE, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@glibc
def test_kept_memory_is_used_again_and_then_given_back():
    pages = SIZE // os.sysconf("SC_PAGE_SIZE")
    with heap.kept():
        assert faults(10) < pages  # not even one block's in ten rounds
        while_kept = resident()
    assert resident() < while_kept - SIZE // 2


@glibc
@pytest.mark.parametrize("fails", [False, True])
def test_a_training_keeps_memory_and_puts_the_usual_settings_back_even_when_it_fails(monkeypatch, fails):
    were_set, trained = [], tiny.network((2, "M"), (4,))
    monkeypatch.setattr(heap, "_set", lambda library, values: were_set.append(values))
    if fails:
        monkeypatch.setattr(F, "cross_entropy", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext():
        training.fit(trained, tiny.images(16), training.Recipe(1, batch_size=16))
    assert were_set == [heap.KEPT, heap.USUAL]


def no_library(name):
    raise TypeError("bad argument type for built-in operation")  # what Windows says


@pytest.mark.parametrize("library", [no_library, lambda name: object()], ids=["Windows", "another C library"])
def test_without_glibc_s_settings_training_is_the_same(monkeypatch, library):
    usual = fitted()
    monkeypatch.setattr(ctypes, "CDLL", library)
    monkeypatch.setattr(heap, "_set", lambda *_: pytest.fail("settings that are not there"))
    assert heap._glibc() is None
    forced = fitted()
    assert all(torch.equal(usual[name], forced[name]) for name in usual)
