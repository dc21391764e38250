"""The accelerated training step computes what the plain one does, and leaves nothing behind."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers import fast_convolution, machine, models, winograd
from helpers.fast_convolution import accelerate

ANY_SIZE = [fast_convolution.tap_convolution, fast_convolution.unfolded_convolution]
TWO_BY_TWO = [*ANY_SIZE, fast_convolution.dense_convolution]
IN_HALF = [(way, size) for size in [(4, 4), (1, 1), (1, 3), (3, 2), (8, 5)] for way in ANY_SIZE] + [
    (way, (2, 2)) for way in TWO_BY_TWO
]
WAYS = [*IN_HALF, *((fast_convolution.tiled_convolution, size) for size in [(4, 4), (8, 4), (12, 16)])]
FORMATS = [torch.contiguous_format, torch.channels_last]


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


@pytest.mark.parametrize("layout", FORMATS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("way", "size"), WAYS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_every_way_is_the_convolution(way, size, bias, layout):
    torch.manual_seed(0)
    for count, channels, outputs in ((5, 37, 11), (1, 3, 8), (3, 1, 1)):
        inputs = torch.randn(count, channels, *size, dtype=torch.float64).contiguous(memory_format=layout)
        weight = torch.randn(outputs, channels, 3, 3, dtype=torch.float64).contiguous(memory_format=layout)
        weight *= torch.rand_like(weight) < 0.5  # as a mask leaves it
        tensors = [inputs, weight, torch.randn(outputs, dtype=torch.float64) if bias else None]
        upstream = torch.randn(count, outputs, *size, dtype=torch.float64).contiguous(memory_format=layout)
        exact = gradients(plain, tensors, upstream)
        single = [None if t is None else t.float() for t in tensors]
        for ours, wanted in zip(gradients(way, single, upstream), exact, strict=True):
            assert ours.shape == wanted.shape
            assert relative(ours, wanted) < 1e-5


@pytest.mark.parametrize(("way", "size"), IN_HALF, ids=lambda value: getattr(value, "__name__", str(value)))
def test_bfloat16_is_no_less_exact_than_the_plain_convolution(way, size):
    torch.manual_seed(0)
    half = [torch.randn(s).bfloat16() for s in ((16, 64, *size), (48, 64, 3, 3), (48,))]
    upstream = torch.randn(16, 48, *size).bfloat16().double()
    exact = gradients(plain, [t.double() for t in half], upstream)
    theirs = gradients(plain, half, upstream)
    for ours, other, wanted in zip(gradients(way, half, upstream), theirs, exact, strict=True):
        assert relative(ours, wanted) < max(0.004, 1.1 * relative(other, wanted))


def test_tiles_done_in_parts_are_the_same_convolution(monkeypatch):
    torch.manual_seed(0)
    shapes = (5, 6, 8, 4), (9, 6, 3, 3), (9,)
    tensors, upstream = [torch.randn(s, dtype=torch.float64) for s in shapes], torch.randn(5, 9, 8, 4, dtype=torch.float64)
    exact = gradients(plain, tensors, upstream)
    monkeypatch.setattr(winograd, "BUFFER", 2 * 36 * 9 * 2)  # two images of two tiles
    assert len(list(winograd.parts(tensors[0].permute(0, 2, 3, 1), 9))) == 3
    for ours, wanted in zip(gradients(fast_convolution.tiled_convolution, tensors, upstream), exact, strict=True):
        torch.testing.assert_close(ours, wanted)


def network(divisor=2):
    torch.manual_seed(0)
    widths = (16, "M", 37, "M", "M", 512 // divisor, 512 // divisor, "M", 300, 256)
    return models.VGG(10, widths, (32,)).to(memory_format=torch.channels_last).train()


def train(trained, dtype, fast, steps=3):
    """A few steps, the last one with a short batch."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(trained.parameters(), 0.01, momentum=0.9)
    images, labels = torch.randn(8, 3, 32, 32).contiguous(memory_format=torch.channels_last), torch.arange(8)
    for step in range(steps):
        batch = slice(0, 8 if step + 1 < steps else 3)
        with accelerate(trained, dtype if fast else torch.float64), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(trained(images[batch]).float(), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return trained


def test_trains_like_the_plain_network_in_float32():
    start = network()
    exact = train(copy.deepcopy(start), torch.float32, fast=False).state_dict()
    ours = train(copy.deepcopy(start), torch.float32, fast=True).state_dict()
    assert list(ours) == list(exact)
    moved = sum(float((exact[k] - v).double().norm() ** 2) for k, v in start.state_dict().items() if k.endswith("weight")) ** 0.5
    apart = sum(float((exact[k] - ours[k]).double().norm() ** 2) for k in exact if k.endswith("weight")) ** 0.5
    assert 0 < apart < 1e-3 * moved  # batch norm on 12 values a channel enlarges rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_training_twice_gives_the_same_bits(dtype):
    once, twice = (train(network(), dtype, fast=True).state_dict() for _ in range(2))
    assert all(torch.equal(once[name], twice[name]) for name in once)


@pytest.fixture
def every_way_used(monkeypatch):
    """Record the channels, the width and the dtype of the inputs the accelerated ways were called with."""
    calls = []

    def record(module, name, channels_at):
        original = getattr(module, name)

        def recorded(inputs, *others):
            calls.append((inputs.shape[channels_at], inputs.shape[2], inputs.dtype))
            return original(inputs, *others)

        monkeypatch.setattr(module, name, recorded)

    record(fast_convolution, "tap_weight_gradient", 1)
    record(fast_convolution, "unfolded_weight_gradient", 1)
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_deep_layers_of_a_network_take_a_fast_way(every_way_used, dtype):
    train(network(), dtype, fast=True, steps=2)
    assert {*every_way_used} >= {(256, 4, dtype), (300, 2, dtype)}
    every_way_used.clear()
    train(network(), dtype, fast=False, steps=1)
    assert not every_way_used


def test_the_context_leaves_the_network_as_it_was():
    plain_network = network()
    before = {name: type(module) for name, module in plain_network.named_modules()}
    names = list(plain_network.state_dict())
    with pytest.raises(RuntimeError, match="interrupted"), accelerate(plain_network, torch.float32):
        assert isinstance(plain_network.features[0], fast_convolution.FastConv2d)
        assert list(plain_network.state_dict()) == names
        copied = copy.deepcopy(plain_network)
        raise RuntimeError("interrupted")
    assert {name: type(module) for name, module in plain_network.named_modules()} == before
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(copied.eval()(images), plain_network.eval()(images))


def test_other_convolutions_stay_plain():
    kinds = {"stride": 2, "dilation": 2, "groups": 2, "padding": 0, "padding_mode": "reflect"}
    others = nn.ModuleList(nn.Conv2d(8, 8, 3, **{"padding": 1, name: value}) for name, value in kinds.items())
    others.append(nn.Conv2d(8, 8, 1, padding=1))
    with accelerate(others, torch.float32):
        assert all(type(conv) is nn.Conv2d for conv in others)


def test_evaluation_inside_the_context_is_bit_identical():
    trained = train(network(), torch.float32, fast=True).eval()
    images = torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        outside = trained(images)
        with accelerate(trained, torch.float32):
            assert torch.equal(trained(images), outside)


TAP, UNFOLDED, DENSE, TILED = (getattr(fast_convolution, f"{name}_convolution") for name in ("tap", "unfolded", "dense", "tiled"))
PROCESSORS = {
    "AVX2": (set(), "AVX2"),
    "AVX-512 with bf16": ({"avx512_bf16"}, "AVX512"),
    "AMX": ({"avx512_bf16", "amx_bf16"}, "AVX512"),
}
F32, BF16 = torch.float32, torch.bfloat16


@pytest.mark.parametrize(
    ("processor", "size", "outputs", "channels", "dtype", "expected"),
    [
        ("AVX2", (16, 16), 128, 64, F32, TILED),
        ("AVX2", (32, 32), 64, 64, F32, None),  # too few channels for tiles
        ("AVX2", (6, 6), 256, 256, F32, TAP),
        ("AVX-512 with bf16", (6, 6), 256, 256, F32, None),
        ("AVX-512 with bf16", (4, 4), 512, 512, BF16, TAP),
        ("AVX-512 with bf16", (4, 4), 512, 512, F32, TILED),
        ("AVX-512 with bf16", (4, 4), 128, 512, BF16, None),
        ("AMX", (4, 4), 512, 512, BF16, UNFOLDED),
        ("AMX", (2, 2), 512, 512, BF16, UNFOLDED),
        ("AMX", (2, 2), 512, 512, F32, DENSE),
        ("AVX2", (2, 2), 512, 512, F32, DENSE),
        ("AVX2", (8, 8), 512, 512, torch.float64, None),
    ],
)
def test_the_way_follows_shape_dtype_and_processor(monkeypatch, processor, size, outputs, channels, dtype, expected):
    flags, capability = PROCESSORS[processor]
    monkeypatch.setattr(machine, "processor_flags", lambda: frozenset(flags))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert fast_convolution.way.__wrapped__(size, outputs, channels, dtype, 128) is expected
    assert machine.fast_dtype(torch.device("cpu")) == (BF16 if flags else F32)


def test_a_small_batch_has_too_few_tiles():
    assert fast_convolution.way((4, 4), 512, 512, F32, 127) is not TILED
    assert fast_convolution.way((8, 8), 512, 512, F32, 32) is TILED
