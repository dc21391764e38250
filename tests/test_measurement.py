"""What a network costs is read, not guessed: hand counts, known histories, and a reason wherever nothing can be read."""

import copy
import importlib.util
import sys
import time
import types

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from helpers import data, measurement, models


def small_network(classes=10) -> models.VGG:
    torch.manual_seed(0)
    return models.VGG(classes, models.scaled(models.VGG16, 8), (64, 64)).eval()


class Residual(nn.Module):
    """Somebody's own network: 3 → 4 channels, two convolutions with a path around them, a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second = (nn.Conv2d(c, 4, 3, padding=1, bias=False) for c in (3, 4, 4))
        self.head = nn.Linear(4, 5, bias=False)

    def forward(self, images):
        x = self.stem(images).relu()
        return self.head((x + self.second(self.first(x).relu())).relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("classes", "mib", "aten", "closed_form"), [(10, 58.25, 314_003_466, 313_725_952), (100, 58.43, 314_049_636, 313_772_032)]
)
def test_size_and_macs_of_the_dense_networks(classes, mib, aten, closed_form, capfd):
    network = models.VGG(classes).eval()
    assert measurement.file_size(network) == pytest.approx(mib, abs=0.005)
    assert measurement.macs_aten(network) == aten
    assert models.macs(network) == closed_form
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 32, 32))
    assert counter.get_total_flops() // 2 == closed_form
    # ptflops adds one a value that batch norm touches, and one a bias of a linear layer
    touched = sum(
        layer.output_size[0] * layer.output_size[1] ** 2 for layer in models.layer_table(network) if layer.kind == "conv"
    )
    assert aten == closed_form + touched + 512 + 512 + classes
    assert capfd.readouterr() == ("", "")


def test_counting_macs_leaves_the_network_and_the_imports_as_they_were():
    network = small_network().train()
    before = sys.modules.get("torchvision")
    measurement.macs_aten(network)
    assert network.training and not network.features._forward_hooks
    assert sys.modules.get("torchvision") is before and ("torchvision" in sys.modules) == (before is not None)


def test_without_ptflops_all_but_macs_is_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "ptflops", None)
    spec = importlib.util.spec_from_file_location("helpers.fresh", measurement.__file__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    assert fresh.file_size(small_network()) > 0
    with pytest.raises(ImportError, match="pip install ptflops"):
        fresh.macs_aten(small_network())


def test_a_network_that_is_no_vgg_is_measured_alike():
    network, batch = Residual().eval(), torch.zeros(2, 3, 8, 8)
    parameters = 4 * 27 + 2 * 4 * 36 + 20
    assert measurement.macs_aten(network, image_size=8) == 64 * (4 * 27 + 2 * 4 * 36) + 20
    assert measurement.macs_aten(network) == 1024 * (4 * 27 + 2 * 4 * 36) + 20  # 32 × 32 where the network names no size
    assert 4 * parameters < measurement.file_size(network) * measurement.MIB < 4 * parameters + 4096
    used = measurement.memory(network, batch)
    assert used.peak_mib * measurement.MIB >= 4 * (parameters + batch.numel() + 2 * 2 * 4 * 64)
    assert measurement.latency({"": network}, batch, min_seconds=0.01, rounds=1)[""].median_ms > 0


def testlive_bytes_of_a_known_history():
    # 100 bytes for 1 unit of time, 300 for 2, 200 for 1, nothing for 1: (100 + 600 + 200) / 5
    events = [(10, 100), (11, 200), (13, -100), (14, -200), (15, 0)]
    assert measurement.live_bytes(list(reversed(events))) == (300, pytest.approx(180))
    assert measurement.live_bytes([]) == (0, 0.0)


def test_memory_on_a_cpu_is_the_bytes_of_weights_input_and_live_activations():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 16 * 16, 4, bias=False)).eval()
    batch = torch.randn(64, 3, 16, 16)
    first, second = measurement.memory(network, batch), measurement.memory(network, batch)
    weights = 4 * (8 * 3 * 9 + 4 * 8 * 16 * 16)
    activations = 4 * 64 * 8 * 16 * 16
    least = (weights + 4 * batch.numel() + activations) / measurement.MIB
    assert least <= first.peak_mib <= least + 2  # oneDNN may hold copies of input and weights beside it
    assert first.peak_mib == second.peak_mib
    assert 0 < first.average_mib <= first.peak_mib
    assert "allocator" in first.method


def test_memory_grows_with_the_batch_and_falls_with_the_width():
    wide, narrow = small_network(), models.VGG(10, models.scaled(models.VGG16, 16), (32, 32)).eval()
    batch = torch.randn(32, 3, 32, 32)
    peaks = [measurement.memory(n, b).peak_mib for n, b in ((narrow, batch), (wide, batch), (wide, batch.repeat(2, 1, 1, 1)))]
    assert peaks[0] < peaks[1] < peaks[2]


def test_memory_counts_shared_weights_once_and_is_for_modules():
    shared = nn.Linear(256, 256, bias=False)
    batch = torch.zeros(1, 256)
    once, twice = (measurement.memory(nn.Sequential(*layers), batch) for layers in ([shared], [shared, shared]))
    assert 0 <= twice.peak_mib - once.peak_mib < 4 * 256 * 256 / measurement.MIB
    with pytest.raises(TypeError, match="torch.nn.Module.*function"):
        measurement.memory(lambda images: images, batch)


def test_memory_on_a_gpu_counts_weights_input_and_the_pass_and_nothing_else(monkeypatch):
    network, batch = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.zeros(2, 4)
    held = 4 * (16 + 4 + 8)
    for others in (0, 7 * measurement.MIB):  # of another network on the same device
        clock = iter([0.0, 1.0, 4.0])  # before, after the linear layer, after the ReLU
        allocated = iter([0, 0, 40 * measurement.MIB, 20 * measurement.MIB])  # at the start, then the three

        def now(device, allocated=allocated, others=others):
            return next(allocated) + others + held

        def peak(device, others=others):
            return 64 * measurement.MIB + others + held

        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", peak)
        monkeypatch.setattr(torch.cuda, "memory_allocated", now)
        monkeypatch.setattr(measurement.time, "perf_counter", lambda clock=clock: next(clock))
        peak_bytes, average_bytes, method = measurement._on_cuda(network, batch, held)
        assert peak_bytes == 64 * measurement.MIB + held
        assert average_bytes == pytest.approx((40 * 1 + 20 * 3) / 4 * measurement.MIB + held)
        assert "CUDA" in method and not network[0]._forward_hooks


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_memory_on_a_real_gpu_does_not_depend_on_what_else_lies_there():
    network, batch = small_network().cuda(), torch.zeros(32, 3, 32, 32, device="cuda")
    alone = measurement.memory(network, batch)
    others = torch.zeros(50 * measurement.MIB, device="cuda")
    beside = measurement.memory(network, batch)
    assert others.is_cuda and beside.peak_mib == pytest.approx(alone.peak_mib, rel=0.01)
    assert measurement.file_size(network) / 2 < alone.average_mib < alone.peak_mib


def test_latency_interleaves_and_orders_what_it_times():
    order = []

    def sleeper(name, seconds):
        def call(batch):
            order.append(name)
            time.sleep(seconds)

        return call

    timed = measurement.latency(
        {"short": sleeper("short", 0.001), "long": sleeper("long", 0.004)}, torch.zeros(1), min_seconds=0.1, rounds=4
    )
    assert 1 <= timed["short"].median_ms < timed["long"].median_ms
    assert all(latency.median_ms <= latency.p90_ms and latency.runs >= 4 for latency in timed.values())
    changes = sum(a != b for a, b in zip(order, order[1:], strict=False))
    # in the warm-up, after it, and once in each round: a round begins with the one that ended the last
    assert changes == 1 + 1 + 4
    assert sum(latency.runs for latency in timed.values()) <= len(order)


def test_latency_gives_each_its_own_batch():
    got = {"first": set(), "second": set()}
    calls = {name: lambda batch, name=name: got[name].add(int(batch)) for name in got}
    measurement.latency(calls, {"first": torch.tensor(1), "second": torch.tensor(2)}, min_seconds=0.001, rounds=1)
    assert got == {"first": {1}, "second": {2}}


def test_latency_uses_torchs_threads_and_evaluates():
    seen = set()

    class Network(nn.Module):
        def forward(self, batch):
            seen.add((torch.get_num_threads(), self.training, torch.is_inference_mode_enabled()))
            return batch.sum()

    before, network = torch.get_num_threads(), Network().train()
    measurement.latency({"network": network}, torch.zeros(10), min_seconds=0.01, rounds=1)
    assert seen == {(before, False, True)}
    assert torch.get_num_threads() == before and network.training


class NVMLError(Exception):
    pass


class GpuBatch:
    """Stands in for a batch of four images on a GPU."""

    is_cuda, device = True, torch.device("cuda:0")

    def __len__(self):
        return 4


@pytest.fixture
def gpu(monkeypatch):
    """A fake pynvml whose counter gains 2 J a reading; returns the module."""
    module = types.ModuleType("pynvml")
    joules = iter(range(0, 1000, 2))
    module.NVMLError = NVMLError
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetHandleByUUID = lambda uuid: {"GPU-abc": "handle"}[uuid]
    module.nvmlDeviceGetTotalEnergyConsumption = lambda handle: 1000 * next(joules)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid="abc"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    return module


def test_energy_by_nvml_is_the_counter_over_the_images_of_the_window(gpu):
    calls = []
    spent, method = measurement.energy(calls.append, GpuBatch(), seconds=0.05)
    images = 4 * (len(calls) - 1)  # the first call warms up, before the first reading
    assert spent == pytest.approx(2000 / images) and "NVML" in method


def test_energy_says_why_it_was_not_measured(gpu, monkeypatch, tmp_path):
    def refuse(handle):
        raise NVMLError("Not Supported")

    gpu.nvmlDeviceGetTotalEnergyConsumption = refuse
    assert measurement.energy(lambda b: b, GpuBatch()) == (
        None,
        "not measured: NVML gives no energy counter of this GPU (Not Supported)",
    )
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "nvidia-ml-py" in measurement.energy(lambda b: b, GpuBatch())[1]
    spent, reason = measurement.energy(lambda b: b, torch.zeros(1), powercap=tmp_path / "absent")
    assert spent is None and reason.startswith("not measured: no energy counter")


def powercap(root, **zones):
    """A tree like /sys/class/powercap: zone → (name, µJ, range)."""
    for zone, (name, microjoules, span) in zones.items():
        folder = root / zone.replace("_", ":")
        folder.mkdir(parents=True)
        (folder / "name").write_text(name + "\n")
        (folder / "energy_uj").write_text(f"{microjoules}\n")
        (folder / "max_energy_range_uj").write_text(f"{span}\n")
    return root


def test_energy_by_rapl_adds_packages_only_and_survives_a_wrap(tmp_path):
    root = powercap(
        tmp_path,
        **{"intel-rapl_0": ("package-0", 900, 999), "intel-rapl_0_0": ("core", 5, 999), "intel-rapl_1": ("psys", 5, 999)},
    )
    read, method = measurement._rapl(root)
    assert read() == 0 and "RAPL" in method
    (root / "intel-rapl:0" / "energy_uj").write_text("100")  # 900 → 999 → 0 → 100
    (root / "intel-rapl:1" / "energy_uj").write_text("900")
    assert read() == pytest.approx(200e-6)

    def run(batch):
        counter = root / "intel-rapl:0" / "energy_uj"
        counter.write_text(str((int(counter.read_text()) + 10) % 1000))

    spent, _ = measurement.energy(run, torch.zeros(5), seconds=0.001, powercap=root)
    assert spent is not None and 0 < spent <= 1e3 * 10e-6 / 5 + 1e-9
    assert measurement.energy(lambda b: b, torch.zeros(5), seconds=0.001, powercap=root)[1].endswith("did not move in 0.001 s")


def test_a_counter_for_root_only_is_named(tmp_path, monkeypatch):
    root = powercap(tmp_path, **{"intel-rapl_0": ("package-0", 900, 999)})
    original = type(root).read_text

    def guarded(path, *args, **kwargs):
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *args, **kwargs)

    monkeypatch.setattr(type(root), "read_text", guarded)
    spent, reason = measurement.energy(lambda b: b, torch.zeros(1), powercap=root)
    assert spent is None and "Permission denied" in reason and "intel-rapl:0/energy_uj" in reason


@pytest.fixture(scope="module")
def split():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (50, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return data.Split(images, torch.randint(0, 10, (50,), generator=generator))


def test_measuring_leaves_every_bit_of_the_network_and_orders_what_must_be_ordered(split):
    network = small_network()
    weights = copy.deepcopy(network.state_dict())
    one, many = (measurement.images_for(network, split, count) for count in (1, measurement.BATCH))
    single, batched = (measurement.latency({"": network}, batch, min_seconds=0.05)[""] for batch in (one, many))
    assert 0 < single.median_ms < batched.median_ms
    assert measurement.memory(network, many).peak_mib > measurement.file_size(network) > 0
    spent, reason = measurement.energy(network, many, seconds=0.05)
    assert spent is None and reason.startswith("not measured: ") or spent > 0
    assert measurement.macs_aten(network) > 0
    assert all(torch.equal(weights[name], tensor) for name, tensor in network.state_dict().items())


def test_images_are_repeated_where_the_split_has_fewer(split):
    network = small_network()
    batch = measurement.images_for(network, split, 128)
    assert batch.shape == (128, 3, 32, 32)
    assert torch.equal(batch[:50], data.normalize(split.images, network.normalization)) and torch.equal(batch[100:], batch[:28])
