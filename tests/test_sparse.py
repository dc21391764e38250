"""A network run on its non-zeros gives what dense execution gives, on every build, or says in one line why it does not run."""

import math
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from helpers import models
from helpers.sparse import kernels, layers, network

needs_kernels = pytest.mark.usefixtures("built")  # no mark that builds: processes with other flags import this file as well
X86 = platform.machine() in ("x86_64", "AMD64")
BATCHES = (0, 1, 7, 8, 33)
WHOLE = bytes(range(256)) * 40  # of a library that nobody opens
QUICK = (("-O0", "-march=native"), ("-O0",))  # compile in a second


@pytest.fixture(scope="session")
def built():
    """The kernels of this machine; the test skips where there are none."""
    if reason := kernels.available():
        pytest.skip(reason)


@pytest.fixture
def anew(tmp_path, monkeypatch):
    """Kernels are looked for again, in an empty cache."""
    monkeypatch.setenv("SPARSE_CACHE", str(tmp_path))
    kernels._loaded.cache_clear()
    yield tmp_path
    kernels._loaded.cache_clear()


def pruned(
    density: float = 0.2, widths=(5, 6, "M", 9, "M", 7, 8, "M"), hidden=(11,), side: int = 16, seed: int = 0
) -> models.VGG:
    torch.manual_seed(seed)
    net = models.VGG(4, widths, hidden, image_size=side).eval()
    with torch.no_grad():
        for layer in models.weight_layers(net).values():
            layer.weight *= torch.rand(layer.weight.shape) < density
            layer.bias.normal_()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.normal_()
    return net


def sparse_conv2d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, layout: str, **options) -> torch.Tensor:
    """The convolution on the non-zeros of `weight` alone, with what is fused into it."""
    op = layers.Operation("", weight, bias, **options)
    enter, leave = network.CONVERSIONS[layout]
    return leave(network.SPARSE_STEP[layout](op, *x.shape[1:])(enter(x)))[: len(x)]


def close(ours: torch.Tensor, expected: torch.Tensor) -> bool:
    """Within 1e-4 of the largest value, and of the same shape."""
    scale = expected.abs().max().clamp(min=1e-6) if expected.numel() else 1
    return ours.shape == expected.shape and bool(((ours - expected).abs() <= 1e-4 * scale).all())


@needs_kernels
@settings(max_examples=100, deadline=None)
@given(
    batch=st.sampled_from(BATCHES),
    layout=st.sampled_from([layers.IMAGES, layers.POSITIONS]),
    channels=st.integers(1, 40),
    filters=st.integers(1, 20),
    height=st.integers(1, 19),
    width=st.integers(1, 19),
    kernel=st.sampled_from([1, 2, 3, 5]),
    stride=st.sampled_from([1, 2]),
    padding=st.integers(0, 3),
    density=st.sampled_from([0.0, 0.05, 0.2, 0.6, 1.0]),
    seed=st.integers(0, 999),
)
def test_convolution_equals_dense(batch, layout, channels, filters, height, width, kernel, stride, padding, density, seed):
    if min(height, width) + 2 * padding < kernel:
        return
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, height, width, generator=generator)
    weight = torch.randn(filters, channels, kernel, kernel, generator=generator)
    weight *= torch.rand(weight.shape, generator=generator) < density
    weight[seed % filters] = 0  # one filter is always empty
    bias = torch.randn(filters, generator=generator)
    ours = sparse_conv2d(x, weight, bias, layout, stride=stride, padding=padding)
    assert close(ours, F.conv2d(x, weight, bias, stride, padding))


@needs_kernels
@pytest.mark.parametrize("layout", [layers.IMAGES, layers.POSITIONS])
@pytest.mark.parametrize("size", [(3, 130), (70, 5), (1, 200)])
def test_wide_and_high_maps(layout, size):
    x, weight, bias = torch.randn(3, 3, *size), torch.randn(4, 3, 3, 3), torch.randn(4)
    assert close(sparse_conv2d(x, weight, bias, layout, padding=1), F.conv2d(x, weight, bias, padding=1))


@needs_kernels
@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("side", [8, 12, 16, 20])
def test_network_equals_dense(density, side):
    net = pruned(density, side=side)
    ours = network.compile_sparse(net, plan={})
    for batch in BATCHES:
        x = torch.randn(batch, 3, side, side)
        with torch.no_grad():
            assert close(ours(x), net(x)), batch


@needs_kernels
@settings(max_examples=20, deadline=None)
@given(
    blocks=st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=2), min_size=1, max_size=3),
    hidden=st.lists(st.integers(1, 9), max_size=2),
    side=st.integers(8, 13),
    batch=st.sampled_from(BATCHES),
    mixed=st.integers(0, 2**9 - 1),
)
def test_any_architecture_with_any_mixture_of_dense_and_sparse_layers(blocks, hidden, side, batch, mixed):
    net = pruned(0.3, [width for block in blocks for width in (*block, "M")], hidden, side)
    kinds = {name: "dense" if mixed >> i & 1 else "sparse" for i, name in enumerate(models.weight_layers(net))}
    ours = network.compile_sparse(net, plan=dict.fromkeys(network.SPARSE_STEP, kinds))
    x = torch.randn(batch, 3, side, side)
    with torch.no_grad():
        assert close(ours(x), net(x))


@needs_kernels
@pytest.mark.parametrize("batch", [3, 16])
def test_threads_images_and_calls_do_not_depend_on_each_other(batch):
    ours = network.compile_sparse(pruned(0.3), plan={})
    x = torch.randn(batch, 3, 16, 16)
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
@pytest.mark.parametrize("layout", [layers.IMAGES, layers.POSITIONS])
def test_not_a_number_stays_one_through_relu_and_pool(layout):
    weight, bias = torch.ones(1, 1, 1, 1), torch.zeros(1)
    for place in range(16):
        x = torch.randn(9, 1, 4, 4)
        x[4].view(-1)[place] = math.nan
        ours = sparse_conv2d(x, weight, bias, layout, relu=True, pool=True)
        assert torch.equal(ours.isnan(), F.max_pool2d(x.relu(), 2).isnan()), place
        x = torch.full((9, 1, 2, 2), -1.0)  # the whole map is one product
        x[4].view(-1)[place % 4] = math.nan
        ours = sparse_conv2d(x, weight, bias, layout, relu=True, pool=True)
        assert ours[4].isnan().all() and not ours[[0, 8]].any()


@needs_kernels
def test_a_spoilt_image_gives_no_number_and_leaves_its_neighbours_alone():
    net = pruned(1.0)
    ours = network.compile_sparse(net, plan={})
    for batch in (3, 16):
        x = torch.randn(batch, 3, 16, 16)
        whole = ours(x)
        x[1, 0, 5, 5] = math.nan
        assert ours(x)[1].isnan().all() and torch.equal(ours(x)[2:], whole[2:])


def test_only_non_zeros_are_listed():
    weight = torch.randn(7, 10, 3, 3) * (torch.rand(7, 10, 3, 3) < 0.2)
    weight[3] = 0
    parts = layers.lists(weight, 4, lambda c, ky, kx: 9 * c + 3 * ky + kx)
    assert len(parts["values"]) == len(parts["offsets"]) == int((weight != 0).sum()) == int(parts["starts"][-1])
    again = torch.zeros(7, 12, 3, 3)
    for block in range(3):
        for f in range(7):
            begin, end = parts["starts"][block * 7 + f : block * 7 + f + 2]
            again[f, 4 * block : 4 * block + 4].view(-1)[parts["offsets"][begin:end].long()] = parts["values"][begin:end]
    assert torch.equal(again[:, :10], weight) and not again[:, 10:].any()


@needs_kernels
def test_the_faster_kind_is_measured_once_and_a_damaged_file_of_it_again(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSE_CACHE", str(tmp_path))
    monkeypatch.setattr(network, "TURNS", 1)
    net = pruned(1.0, widths=(4, "M"), hidden=(), side=8)
    with torch.no_grad():
        net.features[0].weight.view(-1)[:86] = 0  # 22 of 108 are left, a little more than four twentieths
    names = list(models.weight_layers(net))
    asked = []

    def faster(op, size, layout):
        asked.append((op.name, layout))
        return "dense" if layout == layers.IMAGES else "sparse"

    measure = network._faster
    monkeypatch.setattr(network, "_faster", faster)
    plan = network.compile_sparse(net).plan
    assert plan == {"images": dict.fromkeys(names, "dense"), "positions": dict.fromkeys(names, "sparse")}
    assert len(asked) == 4 and network.compile_sparse(net).plan == plan and len(asked) == 4
    (stored,) = tmp_path.glob("faster-*.json")
    assert stored.read_text().count("density 5/20") == 2 and stored.read_text().count("density 20/20") == 2
    stored.write_text("{")
    assert network.compile_sparse(net).plan == plan and len(asked) == 8
    monkeypatch.setattr(network, "_faster", measure)
    stored.unlink()
    kinds = {kind for layout in network.compile_sparse(net).plan.values() for kind in layout.values()}
    assert kinds <= {"dense", "sparse"}


@needs_kernels
@pytest.mark.parametrize("layout", [layers.IMAGES, layers.POSITIONS])
def test_the_much_faster_kind_is_chosen(monkeypatch, layout):
    monkeypatch.setattr(network, "TURNS", 1)
    op, enough = layers.Operation("", torch.ones(8, 3, 3, 3), torch.zeros(8), 1, 1), torch.zeros(1)
    slow = lambda x: sum(torch.rand(1_000_000) for _ in range(3)).sum() * x  # noqa: E731
    monkeypatch.setitem(network.CONVERSIONS, layout, (lambda x: x, lambda x: x))
    for kind, times in (("dense", (slow, lambda x: enough)), ("sparse", (lambda x: enough, slow))):
        monkeypatch.setitem(network.SPARSE_STEP, layout, lambda *_, call=times[0]: call)
        monkeypatch.setattr(layers, "dense_step", lambda _, call=times[1]: call)
        assert network._faster(op, (3, 8, 8), layout) == kind


def test_wrong_input_and_wrong_plans_are_named():
    ours = network.compile_sparse(pruned(), plan={})
    with pytest.raises(ValueError, match="float64"):
        ours(torch.zeros(1, 3, 16, 16, dtype=torch.float64))
    with pytest.raises(ValueError, match="3, 16, 16"):
        ours(torch.zeros(3, 16, 16))
    for plan in (
        {"images": {"features.99": "dense"}},
        {"pictures": {"features.0": "dense"}},
        {"images": {"features.0": "quick"}},
    ):
        with pytest.raises(ValueError, match="features"):
            network.compile_sparse(pruned(), plan=plan)
    with pytest.raises(RuntimeError):
        ours(torch.zeros(1, 4, 16, 16))


class Own(models.VGG):
    """A VGG that computes something else."""

    def forward(self, images):
        return super().forward(images) + 1


def replaced(part: str, place: int, module: nn.Module):
    return lambda net: getattr(net, part).__setitem__(place, module)


def reordered(net: models.VGG) -> None:
    net.features[1], net.features[2] = net.features[2], net.features[1]


def pruned_by_torch(net: models.VGG) -> None:
    prune.l1_unstructured(net.features[3], "weight", 0.5)


# features: 0 conv 5, 1 norm, 2 ReLU, 3 conv 6, 4 norm, 5 ReLU, 6 pool, …; classifier: 0 linear, 1 ReLU, 2 dropout, 3 linear
REFUSED = {
    "3×3 pool": (replaced("features", 6, nn.MaxPool2d(3, 2, 1)), "features.6 is MaxPool2d.*kernel_size=3"),
    "overlapping pool": (replaced("features", 6, nn.MaxPool2d(2, 1)), "features.6 .*stride=1"),
    "padded pool": (replaced("features", 6, nn.MaxPool2d(2, padding=1)), "features.6 .*padding=1"),
    "dilated pool": (replaced("features", 6, nn.MaxPool2d(2, dilation=2)), "features.6 .*dilation=2"),
    "pool in ceil mode": (replaced("features", 6, nn.MaxPool2d(2, ceil_mode=True)), "features.6 .*ceil_mode=True"),
    "average pool": (replaced("features", 6, nn.AvgPool2d(2)), "features.6 is AvgPool2d"),
    "pool after a pool": (replaced("features", 7, nn.MaxPool2d(2)), "features.7 is MaxPool2d"),
    "ReLU before batch norm": (reordered, "features.2 is BatchNorm2d"),
    "batch norm without statistics": (
        replaced("features", 1, nn.BatchNorm2d(5, track_running_stats=False)),
        "features.1 is BatchNorm2d.*track_running_stats=False",
    ),
    "batch norm in the head": (replaced("classifier", 2, nn.BatchNorm1d(11)), "classifier.2 is BatchNorm1d"),
    "another head": (lambda net: setattr(net, "classifier", nn.Linear(32, 4)), "classifier has .*forward"),
    "another activation": (replaced("features", 2, nn.LeakyReLU()), "features.2 is LeakyReLU"),
    "linear before the head": (replaced("features", 2, nn.Linear(16, 16)), "features.2 is Linear"),
    "nested": (replaced("features", 2, nn.Sequential(nn.ReLU())), "features.2 is Sequential"),
    "dilation": (replaced("features", 3, nn.Conv2d(5, 6, 3, padding=2, dilation=2)), "features.3 is Conv2d.*dilation"),
    "groups": (replaced("features", 0, nn.Conv2d(3, 6, 3, padding=1, groups=3)), "features.0 is Conv2d.*groups"),
    "uneven padding": (replaced("features", 3, nn.Conv2d(5, 6, 4, padding="same")), "features.3 is Conv2d.*padding=same"),
    "reflected": (replaced("features", 3, nn.Conv2d(5, 6, 3, padding=1, padding_mode="reflect")), "padding_mode=reflect"),
    "oblong": (replaced("features", 3, nn.Conv2d(5, 6, (3, 1), padding=(1, 0))), "features.3 is Conv2d"),
    "7×7": (replaced("features", 3, nn.Conv2d(5, 6, 7, padding=3)), "features.3 is Conv2d.*7, 7"),
    "7×7 of stride 2": (replaced("features", 3, nn.Conv2d(5, 6, 7, stride=2, padding=3)), "features.3 is Conv2d.*7, 7"),
    "4×4": (replaced("features", 3, nn.Conv2d(5, 6, 4, padding=1)), "features.3 is Conv2d.*4, 4"),
    "masks of torch": (pruned_by_torch, "features.3 has a hook.*prune.remove"),
    "hook": (lambda net: net.features[2].register_forward_hook(lambda *_: None) and None, "features.2 has a hook"),
    "hook of the network": (lambda net: net.register_forward_pre_hook(lambda *_: None) and None, "the network has a hook"),
    "a forward of a layer's own": (lambda net: setattr(net.features[2], "forward", torch.sigmoid), "features.2 has a .*forward"),
    "subclass": (lambda net: Own(4, (5, "M"), ()), "forward of its own"),
    "double": (lambda net: net.double(), "features.0.weight is torch.float64"),
    "another device": (lambda net: net.to("meta"), "CPU.*on meta"),
    "residual": (lambda net: nn.Sequential(nn.Conv2d(3, 4, 3)), "VGG.*Sequential"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_kernel_knows_is_refused_by_name(case):
    change, named = REFUSED[case]
    net = pruned()
    returned = change(net)
    for plan in ({}, None):
        with pytest.raises((ValueError, TypeError), match=named) as caught:
            network.compile_sparse(net if returned is None else returned, plan)
        assert "\n" not in str(caught.value)


def strided(net: models.VGG) -> None:
    net.features[3] = nn.Conv2d(5, 6, 5, stride=2, padding=2, bias=False)
    net.classifier[0] = nn.Linear(6 * 2 * 2, 11)


KNOWN = {
    "5×5 of stride 2": strided,
    "batch norm without scale": replaced("features", 1, nn.BatchNorm2d(5, affine=False)),
    "padding in words": replaced("features", 3, nn.Conv2d(5, 6, 5, padding="same")),
    "no ReLU": replaced("features", 2, nn.Identity()),
    "folded": models.fold_batch_norm,
    "in training mode": lambda net: net.train(),
}


@needs_kernels
@pytest.mark.parametrize("case", KNOWN)
def test_what_kernels_know_runs_right(case):
    net = pruned(0.3, widths=(5, 6, "M"), hidden=(11,), side=9)
    net = KNOWN[case](net) or net
    ours = network.compile_sparse(net, plan={})
    net.eval()
    for batch in (2, 9):
        x = torch.randn(batch, 3, 9, 9)
        with torch.no_grad():
            assert close(ours(x), net(x))


def test_without_a_compiler_everything_runs_dense_and_one_line_says_so(anew, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O9")
    reason = kernels.available()
    assert "no-such-compiler" in reason and "\n" not in reason
    net = pruned()
    ours = network.compile_sparse(net)
    assert ours.reason == reason and {kind for kinds in ours.plan.values() for kind in kinds.values()} == {"dense"}
    for batch in BATCHES:
        x = torch.randn(batch, 3, 16, 16)
        with torch.no_grad():
            assert close(ours(x), net(x))
    with pytest.raises(RuntimeError, match="no-such-compiler"):
        kernels.load()
    assert not list(anew.iterdir())


@pytest.mark.skipif(shutil.which("false") is None, reason="no program that always fails")
def test_a_compiler_that_does_not_run_is_one_line(anew, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    reason = kernels.available()
    assert "could not be built" in reason and "false" in reason and "\n" not in reason


@needs_kernels
def test_a_source_that_does_not_compile_is_one_line_and_is_not_tried_again(anew, monkeypatch):
    broken = anew / "broken.cpp"
    broken.write_text("int main() { return missing; }\n")
    monkeypatch.setattr(kernels, "SOURCE", broken)
    reason = kernels.available()
    assert "could not be built" in reason and "missing" in reason and "\n" not in reason
    monkeypatch.setattr(kernels, "_build", lambda *_: pytest.fail("tried again"))
    assert kernels.available() == reason and not list(anew.glob("*.so"))


def test_the_cache_lies_where_the_build_does_or_else_at_home(monkeypatch, tmp_path):
    monkeypatch.delenv("SPARSE_CACHE")
    monkeypatch.setenv("BUILD_DIR", str(tmp_path))
    assert kernels.cache_dir().is_relative_to(tmp_path)
    monkeypatch.delenv("BUILD_DIR")
    assert kernels.cache_dir().is_relative_to(kernels.settings.ROOT)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # a checkout that can only be read
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert kernels.cache_dir().is_relative_to(tmp_path / "home")


@needs_kernels
def test_a_cache_that_cannot_be_written_is_one_line(anew, monkeypatch):
    (anew / "file").write_text("")
    monkeypatch.setenv("SPARSE_CACHE", str(anew / "file" / "cache"))
    reason = kernels.available()
    assert "could not be built" in reason and "file" in reason and "\n" not in reason


@needs_kernels
def test_flags_that_the_compiler_refuses_leave_the_next_ones_in_a_path_with_spaces(anew, monkeypatch):
    folder = anew / "a folder with 'quotes'"
    folder.mkdir()
    monkeypatch.setattr(kernels, "SOURCE", shutil.copy(kernels.SOURCE, folder) and folder / kernels.SOURCE.name)
    monkeypatch.setattr(kernels, "FLAGS", (("-O0", "-fno-such-flag"), ("-O0",)))
    monkeypatch.setenv("SPARSE_CACHE", str(folder / "the cache"))
    assert kernels.available() is None, kernels.available()
    assert kernels.load().widest() == 4  # the widest of a build for no processor in particular
    (library,) = (folder / "the cache").glob("*.so")
    assert sorted(file.name for file in library.parent.iterdir() if file.name != "build.lock") == [
        library.with_suffix(".sha256").name,
        library.name,
    ]


@pytest.fixture
def compiled(anew, monkeypatch) -> list:
    """The calls of a compiler that writes the same bytes at once."""
    calls = []

    def run(command, **_):
        if "-o" in command:
            calls.append(command)
            Path(command[-1]).write_bytes(WHOLE)
        return subprocess.CompletedProcess(command, 0, "a compiler", "")

    monkeypatch.setattr(kernels.subprocess, "run", run)
    return calls


def test_a_damaged_library_is_built_again_before_it_is_opened(compiled):
    library = kernels._build(["c++"], ("-O0",))
    beside = library.with_suffix(".sha256")
    assert kernels._build(["c++"], ("-O0",)) == library and len(compiled) == 1
    flipped = WHOLE[:7000] + bytes([WHOLE[7000] ^ 16]) + WHOLE[7001:]
    damages = [(library, d) for d in (b"", WHOLE[:-1], WHOLE[:5000], WHOLE + b"0", flipped)]
    damages += [(beside, d) for d in (b"", b"\xff\xfe", b"0" * 64)]
    for count, (file, damage) in enumerate(damages, 2):
        file.write_bytes(damage)
        assert kernels._build(["c++"], ("-O0",)).read_bytes() == WHOLE and len(compiled) == count
    beside.unlink()  # as a process leaves it that was killed between the two
    assert kernels._build(["c++"], ("-O0",)) == library and len(compiled) == count + 1


def test_what_a_library_was_built_from_is_in_its_name(compiled, monkeypatch):
    library = kernels._build(["c++"], ("-O0",))
    assert len({library, kernels._build(["c++"], ("-O1",)), kernels._build(["g++"], ("-O0",))}) == 3
    monkeypatch.setattr(kernels, "processor", lambda: "another")
    assert kernels._build(["c++"], ("-O0",)) != library and len(compiled) == 4


def test_two_builds_at_once_compile_once(compiled):
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: kernels._build(["c++"], ("-O0",)), range(2)))
    assert both[0] == both[1] and len(compiled) == 1 and not list(both[0].parent.glob("*.tmp"))


@pytest.mark.parametrize(
    ("machine", "capability", "flags"),
    [
        ("x86_64", "AVX512", [("-n",), ("-p",)]),
        ("x86_64", "AVX2", [("-n", "-mno-avx512f"), ("-p",)]),
        ("x86_64", "DEFAULT", [("-p",)]),
        ("aarch64", "DEFAULT", [("-n",), ("-p",)]),
        ("aarch64", "SVE256", [("-n",), ("-p",)]),
    ],
)
def test_vectors_are_no_wider_than_torch_may_use(monkeypatch, machine, capability, flags):
    monkeypatch.setattr(kernels, "FLAGS", (("-n",), ("-p",)))
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert kernels._flags() == flags


def answer() -> None:
    """Print torch's limit, the lanes of the kernels, and what differs from dense execution: in a process of its own."""
    torch.set_num_threads(1)
    kernels.FLAGS = QUICK
    differ = []
    for widths, side, seed in (((5, "M", 19, 33, "M"), 12, 1), ((16, 17, "M", 40), 10, 2), ((64, "M", 72, "M", 9), 32, 3)):
        net = pruned(0.3, widths, (21,), side, seed)
        ours = network.compile_sparse(net, plan={})
        for batch in BATCHES:
            x = torch.randn(batch, 3, side, side)
            with torch.no_grad():
                differ += [] if close(ours(x), net(x)) else [(widths, batch)]
    print(torch.backends.cpu.get_cpu_capability(), kernels.load().widest(), differ)


@needs_kernels
@pytest.mark.skipif(not X86, reason=f"about vector extensions of x86, and this is {platform.machine()}")
def test_kernels_of_lesser_processors_give_the_same(tmp_path):
    command = [sys.executable, "-c", "import test_sparse; test_sparse.answer()"]
    environment = os.environ | {"SPARSE_CACHE": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    processes = [
        subprocess.Popen(command, env=environment | {"ATEN_CPU_CAPABILITY": limit}, stdout=subprocess.PIPE, text=True)
        for limit in ("avx2", "default")
    ]
    narrow, narrowest = [process.communicate(timeout=300)[0].strip() for process in processes]
    assert narrowest == "DEFAULT 4 []"
    assert narrow in ("AVX2 8 []", "DEFAULT 4 []")  # the second where the processor has no AVX2
