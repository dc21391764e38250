"""Sparse execution gives what dense execution gives, for any shape, density and batch, and falls back without a compiler."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import models
from helpers.sparse import choice, convolution, kernels, layers

needs_kernels = pytest.mark.skipif(kernels.available() is not None, reason=str(kernels.available()))
BATCHES = (1, 3, 8, 17)


def pruned(
    density: float = 0.2, widths=(5, 6, "M", 9, "M", 7, 8, "M"), hidden=(11,), side: int = 16, seed: int = 0
) -> models.VGG:
    torch.manual_seed(seed)
    network = models.VGG(4, widths, hidden, image_size=side).eval()
    with torch.no_grad():
        for layer in models.weight_layers(network).values():
            layer.weight *= torch.rand(layer.weight.shape) < density
            layer.bias.normal_()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.normal_()
    return network


def sparse_conv2d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int = 1, padding: int = 0) -> torch.Tensor:
    """F.conv2d on the non-zeros of `weight` alone, in the layout that suits the number of images."""
    op = layers.Operation("", weight, bias, stride, padding)
    if layers.layout_of(len(x)) == layers.POSITIONS:
        return layers.positions_step(op, *x.shape[1:])(x)
    return kernels.from_images(layers.images_step(op, *x.shape[1:])(kernels.to_images(x, layers.lanes_of())), len(x))


def close(ours: torch.Tensor, expected: torch.Tensor) -> bool:
    """Within 1e-4 of the largest value, and of the same shape."""
    scale = expected.abs().max().clamp(min=1e-6) if expected.numel() else 1
    return ours.shape == expected.shape and bool(((ours - expected).abs() <= 1e-4 * scale).all())


@needs_kernels
@settings(max_examples=150, deadline=None)
@given(
    batch=st.sampled_from([1, 3, 7, 8, 9, 17, 33]),
    channels=st.integers(1, 40),
    filters=st.integers(1, 20),
    height=st.integers(1, 19),
    width=st.integers(1, 19),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2]),
    padding=st.integers(0, 3),
    density=st.sampled_from([0.0, 0.05, 0.2, 0.6, 1.0]),
    seed=st.integers(0, 999),
)
def test_convolution_equals_dense(batch, channels, filters, height, width, kernel, stride, padding, density, seed):
    if min(height, width) + 2 * padding < kernel:
        return
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, height, width, generator=generator)
    weight = torch.randn(filters, channels, kernel, kernel, generator=generator)
    weight *= torch.rand(weight.shape, generator=generator) < density
    weight[seed % filters] = 0  # one filter is always empty
    bias = torch.randn(filters, generator=generator)
    assert close(sparse_conv2d(x, weight, bias, stride, padding), F.conv2d(x, weight, bias, stride, padding))


@needs_kernels
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("size", [(3, 130), (70, 5), (1, 200)])
def test_wide_and_high_maps(batch, size):
    x, weight, bias = torch.randn(batch, 3, *size), torch.randn(4, 3, 3, 3), torch.randn(4)
    assert close(sparse_conv2d(x, weight, bias, padding=1), F.conv2d(x, weight, bias, padding=1))


@needs_kernels
@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("side", [8, 12, 16, 20])
def test_network_equals_dense(density, side):
    network = pruned(density, side=side)
    ours = convolution.compile_sparse(network, plan={})
    for batch in BATCHES:
        x = torch.randn(batch, 3, side, side)
        with torch.no_grad():
            assert close(ours(x), network(x)), batch


@needs_kernels
@settings(max_examples=25, deadline=None)
@given(
    widths=st.lists(st.one_of(st.integers(1, 12), st.just("M")), min_size=1, max_size=7).filter(lambda w: w.count("M") <= 3),
    hidden=st.lists(st.integers(1, 9), max_size=2),
    side=st.integers(8, 13),
    batch=st.sampled_from(BATCHES),
    mixed=st.integers(0, 2**18 - 1),
)
def test_any_architecture_with_any_mixture_of_dense_and_sparse_layers(widths, hidden, side, batch, mixed):
    network = pruned(0.3, widths, hidden, side)
    names = list(models.weight_layers(network))
    kinds = {name: "dense" if mixed >> i & 1 else "sparse" for i, name in enumerate(names)}
    ours = convolution.compile_sparse(network, plan={layout: kinds for layout in choice.BATCH})
    x = torch.randn(batch, 3, side, side)
    with torch.no_grad():
        assert close(ours(x), network(x))


@needs_kernels
def test_threads_images_and_calls_do_not_depend_on_each_other():
    network = pruned(0.3)
    ours = convolution.compile_sparse(network, plan={})
    x = torch.randn(16, 3, 16, 16)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = ours(x)
        torch.set_num_threads(3)
        assert torch.equal(ours(x), one)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(ours(x.flip(0)).flip(0), one)
    assert torch.equal(ours(x.to(memory_format=torch.channels_last)), one)


@needs_kernels
def test_only_non_zeros_are_listed():
    network = pruned(0.2)
    kept = {name: int((layer.weight != 0).sum()) for name, layer in models.weight_layers(network).items()}
    for op in layers.operations(network):
        if isinstance(op, layers.Operation):
            assert int((op.weight != 0).sum()) == kept[op.name]
            if not op.linear:
                pairs = layers.lists.of_convolution(op.weight, 4, lambda c, ky, kx: 9 * c + 3 * ky + kx)
                assert len(pairs.values) == kept[op.name] and bool((pairs.values != 0).all())


@needs_kernels
def test_plan_is_measured_once_and_its_path_is_the_cheapest(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSE_CACHE", str(tmp_path))
    network = pruned(0.2, widths=(4, "M"), hidden=(), side=8)
    first = choice.table(network)
    monkeypatch.setattr(choice, "_measure", lambda *_: pytest.fail("measured again"))
    assert choice.table(network) == first
    assert [row.name for row in first if row.layout == "images"] == list(models.weight_layers(network))
    assert convolution.compile_sparse(network).plan == choice.plan(network)
    dense = {"dense_ms": 1.0, "sparse_ms": 2.0, "convert_ms": 0.5}
    sparse = {"dense_ms": 9.0, "sparse_ms": 1.0, "convert_ms": 0.5}
    assert choice._cheapest([dense, sparse, dense]) == ["dense", "sparse", "dense"]
    # two conversions cost more than they save
    assert choice._cheapest([dense, {**sparse, "dense_ms": 1.5, "convert_ms": 3.0}, dense]) == ["dense"] * 3


def test_wrong_input_and_wrong_plans_are_named():
    network = convolution.compile_sparse(pruned(), plan={})
    with pytest.raises(ValueError, match="float64"):
        network(torch.zeros(1, 3, 16, 16, dtype=torch.float64))
    with pytest.raises(ValueError, match="empty"):
        network(torch.zeros(0, 3, 16, 16))
    with pytest.raises(ValueError, match="features.99"):
        convolution.compile_sparse(pruned(), plan={"images": {"features.99": "dense"}})


def test_a_network_that_is_not_on_the_cpu_is_refused_by_name():
    network = models.VGG(4, (5, "M"), (), image_size=8).to("meta")
    for refused in (convolution.compile_sparse, choice.table, lambda n: convolution.compile_sparse(n, plan={})):
        with pytest.raises(ValueError, match="on the CPU, this one is on meta"):
            refused(network)


@pytest.mark.parametrize(("kept", "bucket"), [(0, 1), (1, 1), (200, 4), (201, 5), (950, 19), (999, 20), (1000, 20)])
def test_a_density_is_measured_as_the_next_twentieth(kept, bucket):
    weight = torch.zeros(10, 100)
    weight.view(-1)[:kept] = 1
    key = choice._key(layers.Operation("", weight, torch.zeros(10)), (100, 1, 1), "images")
    assert key.endswith(f"density {bucket}/20")


def _run(code: str, **environment: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_without_a_compiler_everything_runs_dense(tmp_path):
    code = """
import torch
from helpers import models
from helpers.sparse import choice, convolution
reason = convolution.available()
assert reason and "no-such-compiler" in reason and "\\n" not in reason, reason
network = models.VGG(3, (4, "M"), (5,), image_size=8).eval()
ours = convolution.compile_sparse(network)
assert ours.reason == reason and choice.table(network) == []
assert {kind for layout in ours.plan.values() for kind in layout.values()} == {"dense"}
for batch in (1, 17):
    x = torch.randn(batch, 3, 8, 8)
    torch.testing.assert_close(ours(x), network(x).detach(), rtol=1e-4, atol=1e-5)
"""
    _run(code, CXX="no-such-compiler", SPARSE_CACHE=str(tmp_path))


@needs_kernels
def test_a_failing_build_is_one_line_and_is_not_tried_again(tmp_path):
    code = """
from helpers.sparse import kernels
tried = []
def fail(library, flags):
    tried.append(flags)
    raise RuntimeError("an error: no\\nmore")
kernels._build = fail
reasons = {kernels.available() for _ in range(3)}
assert reasons == {"sparse kernels could not be built (an error: no): networks run dense"}, reasons
assert len(tried) == len(kernels.FLAGS)
"""
    _run(code, SPARSE_CACHE=str(tmp_path))


def test_a_compiler_that_does_not_run_is_one_line(tmp_path):
    code = "from helpers.sparse import kernels; reason = kernels.available(); assert '\\n' not in reason; print(reason)"
    assert "could not be built" in _run(code, CXX="false", SPARSE_CACHE=str(tmp_path))


@needs_kernels
def test_flags_that_the_compiler_refuses_leave_the_next_ones(tmp_path):
    code = """
from helpers.sparse import kernels
kernels.FLAGS, kernels.NARROW = (("-O0", "-fopenmp", "-fno-such-flag"), ("-O0", "-fopenmp")), {}
assert kernels.available() is None, kernels.available()
print(kernels.load().widest())
"""
    assert _run(code, SPARSE_CACHE=str(tmp_path)).strip().endswith("4")
    assert len(list(tmp_path.glob("*.so"))) == 1 and not list(tmp_path.glob("building-*"))


@needs_kernels
def test_two_processes_build_into_one_cache(tmp_path):
    code = "from helpers.sparse import kernels; kernels.FLAGS = (('-O0', '-fopenmp'),); print(kernels.load().widest())"
    environment = {**os.environ, "SPARSE_CACHE": str(tmp_path)}
    both = [subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    assert [p.communicate()[0].strip() for p in both] == [b"4"] * 2  # the widest of a build for no processor in particular
    assert len(list(tmp_path.glob("*.so"))) == 1 and not list(tmp_path.glob("building-*"))


NARROWER = """
import torch, torch.nn.functional as F
from helpers import models
from helpers.pruning import masks
from helpers.sparse import convolution, kernels
assert torch.backends.cpu.get_cpu_capability() == "AVX2" and kernels.load().widest() == {widest}
torch.manual_seed(0)
for widths, size, classes in (((5, "M", 19, 33, "M"), 12, 3), ((16, 17, "M", 40), 10, 2), ((64, "M", 72, "M", 9), 32, 10)):
    network = models.VGG(classes, widths, (21,), image_size=size).eval()
    masks.uniform(network, 0.7).apply(network)
    fast = convolution.compile_sparse(network, plan={{}})
    for batch in (1, 3, 16, 37):
        x = torch.randn(batch, 3, size, size)
        torch.testing.assert_close(fast(x), network(x).detach(), rtol=1e-4, atol=1e-4)
"""


@needs_kernels
@pytest.mark.parametrize(("flags", "widest"), [("kernels.FLAGS", 8), ("(('-O1', '-fopenmp'),)", 4)], ids=["AVX2", "plain"])
def test_kernels_of_lesser_processors_give_the_same(tmp_path, flags, widest):
    code = f"from helpers.sparse import kernels; kernels.FLAGS = {flags}\n" + NARROWER.format(widest=widest)
    _run(code, SPARSE_CACHE=str(tmp_path), ATEN_CPU_CAPABILITY="avx2")
