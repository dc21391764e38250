"""A network in whole numbers gives, bit for bit, what plain sums of 32-bit integers give, on every build of the kernels."""

import os
import platform
import shlex
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import models
from helpers.sparse import kernels, layers, quantised
from helpers.sparse.layers import Operation
from helpers.sparse.quantised import Quantised

needs_kernels = pytest.mark.usefixtures("built")  # no mark that builds: processes with other flags import this file as well
LAYOUTS = (layers.IMAGES, layers.POSITIONS)
BATCHES = (0, 1, 2, 7, 8, 9, 16, 33)


@pytest.fixture(scope="module")
def built():
    """The kernels of this machine; the test skips where there are none."""
    if reason := quantised.available():
        pytest.skip(reason)


def plain(q: Quantised, x: torch.Tensor) -> torch.Tensor:
    """Sums of whole numbers (in float64, which holds all of them), then one multiplication, one addition, one rounding."""
    if q.op.linear:
        sums = x.flatten(1).double() @ q.weight.double().T
    else:
        sums = F.conv2d(F.pad(x.double(), [q.op.padding] * 4, value=float(q.zero)), q.weight.double())
    shape = 1, -1, *[1] * (sums.dim() - 2)
    y = sums.to(torch.int32).float() * q.scale.view(shape) + q.bias.view(shape)
    if q.floats:
        return y
    y = y.round().clamp(0, 127)
    return (F.max_pool2d(y, 2) if q.op.pool else y).to(torch.uint8)


def ours(q: Quantised, x: torch.Tensor, layout: str) -> torch.Tensor:
    """The same by a kernel, from images (N, C, H, W) of bytes."""
    step = quantised.STEPS[layout](q, *x.shape[1:])
    out = step(quantised.elements(x, layout))
    if q.floats:
        return out[: len(x), : len(q.weight)]
    out = out.permute(0, 4, 1, 2, 3).flatten(0, 1) if layout == layers.IMAGES else out
    own = out.clone(memory_format=torch.contiguous_format).unsqueeze(-1).view(torch.uint8)
    own = own.permute(0, 1, 4, 2, 3).flatten(1, 2)[: len(x), : len(q.weight)]
    return own.flatten(1) if q.op.linear else own


def layer(shape: tuple[int, ...], density: float, seed: int, *, pool: bool = False, padding: int = 0, **options) -> Quantised:
    """Random weights from −128 to 127, of the first filter none and of the last only −128, with scales that fill the bytes."""
    torch.manual_seed(seed)
    weight = torch.randint(-128, 128, shape, dtype=torch.int8) * (torch.rand(shape) < density)
    weight[-1] = torch.where(weight[-1] != 0, -128, 0)
    weight[0] = 0
    op = Operation("a layer", torch.zeros(shape), torch.zeros(shape[0]), 1, padding, True, pool)
    scale = torch.rand(shape[0]) / (1 + 20 * weight[0].numel() ** 0.5)
    return Quantised(op, weight, scale, 100 * torch.randn(shape[0]), **options)


def cases(draws: int):
    return settings(max_examples=draws, deadline=None)


@needs_kernels
@cases(150)
@given(
    batch=st.sampled_from(BATCHES),
    layout=st.sampled_from(LAYOUTS),
    channels=st.integers(1, 70),
    filters=st.integers(1, 37),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    kernel=st.sampled_from(quantised.KERNELS),
    padding=st.integers(0, 2),
    pool=st.booleans(),
    zero=st.sampled_from([0, 0, 61, 127]),
    density=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_a_convolution_is_exact(batch, layout, channels, filters, height, width, kernel, padding, pool, zero, density, seed):
    least = 2 if pool else 1
    if min(height, width) + 2 * padding - kernel + 1 < least:
        return
    q = layer((filters, channels, kernel, kernel), density, seed, pool=pool, padding=padding, zero=zero)
    x = torch.randint(0, 128, (batch, channels, height, width), dtype=torch.uint8)
    assert torch.equal(ours(q, x, layout), plain(q, x))


@needs_kernels
@cases(50)
@given(
    batch=st.sampled_from(BATCHES),
    layout=st.sampled_from(LAYOUTS),
    channels=st.integers(1, 40),
    side=st.integers(1, 3),
    outputs=st.integers(1, 37),
    floats=st.booleans(),
    density=st.sampled_from([0.0, 0.1, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_a_linear_layer_is_exact(batch, layout, channels, side, outputs, floats, density, seed):
    q = layer((outputs, channels * side * side), density, seed, floats=floats)
    x = torch.randint(0, 128, (batch, channels, side, side), dtype=torch.uint8)
    assert torch.equal(ours(q, x, layout), plain(q, x))


@needs_kernels
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [-128, 127])
def test_the_largest_sums_do_not_saturate(layout, value):
    q = layer((8, 512, 3, 3), 1.0, 0, padding=1, floats=False)
    q.weight.fill_(value)
    q.scale.fill_(1 / 600_000)
    q.bias.fill_(126.0 if value < 0 else 0.0)
    x = torch.full((9, 512, 4, 4), 127, dtype=torch.uint8)
    expected = plain(q, x)
    assert torch.equal(ours(q, x, layout), expected) and 0 < int(expected.max()) < 127


@needs_kernels
@pytest.mark.parametrize("layout", LAYOUTS)
def test_ties_go_to_the_even_byte_and_what_is_beyond_a_byte_saturates(layout):
    weight = torch.tensor([1, 1, 1, 1], dtype=torch.int8).view(4, 1, 1, 1)
    op = Operation("ties", weight.float(), torch.zeros(4), 1, 0, True)
    q = Quantised(op, weight, torch.full((4,), 0.5), torch.tensor([0.0, -1.0, 80.0, -500.0]))
    x = torch.tensor([0, 1, 2, 3, 5, 127], dtype=torch.uint8).view(1, 1, 2, 3).repeat(9, 1, 1, 1)
    expected = torch.tensor([[0, 0, 1, 2, 2, 64], [0, 0, 0, 0, 2, 62], [80, 80, 81, 82, 82, 127], [0] * 6])
    assert torch.equal(ours(q, x, layout)[0].flatten(1).long(), expected)


@needs_kernels
def test_a_block_of_zeros_is_not_listed():
    weight = torch.zeros(4, 9, 3, 3, dtype=torch.int8)
    weight[1, 3, 0, 0] = weight[1, 4, 0, 0] = weight[2, 8, 1, 2] = 5  # the ends of two blocks, and a block that is not full
    elements = quantised.packed(weight)
    assert elements.shape == (4, 3, 3, 3) and int(elements.count_nonzero()) == 3
    assert elements[1, 0, 0, 0] == 5 << 24 and elements[1, 1, 0, 0] == 5 and elements[2, 2, 1, 2] == 5


def vgg(density: float = 0.3, widths=(5, 6, "M", 9, "M", 7, 8, "M"), hidden=(11,), side: int = 16) -> models.VGG:
    torch.manual_seed(0)
    net = models.VGG(6, widths, hidden, image_size=side).train()
    for weight in models.weights(net).values():
        weight.data *= torch.rand(weight.shape) < density
    for _ in range(3):
        net(torch.randn(64, 3, side, side))  # batch norms of these activations
    return net.eval()


@needs_kernels
@pytest.mark.parametrize("side", [16, 24])  # the second has a 3×3 map before its first linear layer
def test_a_network_is_the_chain_of_its_plain_layers_and_near_the_network_in_float32(side):
    net, images = vgg(side=side), torch.randn(40, 3, side, side)
    compiled = quantised.compile_quantised(net, images)
    x = compiled.first.bytes(images)
    assert compiled.ops[0].zero > 0 and not any(q.zero for q in compiled.ops[1:])
    for q in compiled.ops:
        x = plain(q, x)
    for count in (40, 8, 7, 1):
        assert torch.equal(compiled(images[:count]), x[:count])
    with torch.no_grad():
        expected = net(images)
    assert (x - expected).norm() <= 0.05 * expected.norm()


@needs_kernels
def test_threads_do_not_change_a_bit():
    compiled, x = quantised.compile_quantised(vgg(), torch.randn(16, 3, 16, 16)), torch.randn(33, 3, 16, 16)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = compiled(x), compiled(x[:3])
        torch.set_num_threads(3)
        assert torch.equal(compiled(x), one[0]) and torch.equal(compiled(x[:3]), one[1])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(compiled(x.flip(0)).flip(0), one[0])


@needs_kernels
def test_what_is_not_run_is_refused_by_name():
    images = torch.randn(4, 3, 16, 16)
    without = vgg()
    without.features[2] = torch.nn.Identity()
    with pytest.raises(ValueError, match="features.0 has no ReLU"):
        quantised.compile_quantised(without, images)
    wide = vgg()
    wide.features[3] = torch.nn.Conv2d(5, 6, 5, padding=2)
    with pytest.raises(ValueError, match="features.3"):
        quantised.compile_quantised(wide, images)
    compiled = quantised.compile_quantised(vgg(), images)
    with pytest.raises(ValueError, match="float64"):
        compiled(images.double())


def test_a_processor_without_kernels_is_refused_in_one_line(monkeypatch):
    class Library:
        lanes = staticmethod(lambda: 0)

    monkeypatch.setattr(kernels, "_loaded", lambda source=None: Library())
    assert "AVX2" in quantised.available()
    with pytest.raises(RuntimeError, match="AVX2"):
        quantised.compile_quantised(vgg(), torch.randn(1, 3, 16, 16))
    monkeypatch.setattr(kernels, "_loaded", lambda source=None: "no compiler here")
    with pytest.raises(RuntimeError, match="no compiler here"):
        quantised.compile_quantised(vgg(), torch.randn(1, 3, 16, 16))


def answer(lanes: str) -> None:
    """Print the lanes of a build of the layouts of another processor, and which layers are not exact: in its own process."""
    torch.set_num_threads(1)
    kernels.FLAGS = (("-O1", f"-DPLAIN={lanes}"),) * 2
    differ = []
    for seed, (channels, filters, side, pool) in enumerate(
        [(3, 8, 9, False), (70, 9, 8, True), (13, 6, 2, True), (5, 7, 1, False)]
    ):
        for batch in (1, 9, 33):
            x = torch.randint(0, 128, (batch, channels, side, side), dtype=torch.uint8)
            made = [layer((filters, channels, 3, 3), 0.3, seed, pool=pool, padding=1, zero=z) for z in (0, 9)]
            made += [layer((filters, channels * side * side), 0.3, seed, floats=floats) for floats in (True, False)]
            for place, q in enumerate(made):
                differ += [(seed, batch, place) for layout in LAYOUTS if not torch.equal(ours(q, x, layout), plain(q, x))]
    print(quantised._library().lanes(), differ)


@needs_kernels
@pytest.mark.parametrize("lanes", ["8", "16"])
def test_layouts_of_processors_with_vnni_are_exact(tmp_path, lanes):
    """With the products written out: the instruction itself runs only where the processor has it."""
    command = [sys.executable, "-c", f"import test_quantised; test_quantised.answer('{lanes}')"]
    environment = os.environ | {"SPARSE_CACHE": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == f"{lanes} []", done.stderr[-2000:]


@needs_kernels
@pytest.mark.parametrize("flags", ["-mavx512f -mavx512bw -mavx512vl -mavx512vnni", "-mavx2 -mavxvnni", "-mavx2"])
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="instructions of x86")
def test_every_kind_of_processor_compiles(tmp_path, flags):
    compiler = shlex.split(os.environ.get("CXX") or "c++")
    command = [*compiler, *kernels.BASE, "-O1", *flags.split(), "-Werror", str(kernels.QUANTISED), "-o", str(tmp_path / "a.so")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if "unrecognized" in done.stderr or "unknown argument" in done.stderr:
        pytest.skip(f"this compiler does not know {flags}")
    assert done.returncode == 0, done.stderr[-2000:]
