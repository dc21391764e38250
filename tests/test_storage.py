"""Stored networks come back bit for bit, and a damaged or hostile file is one clear error."""

import json
import random

import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from helpers import files, models, storage
from helpers import settings as project
from helpers.pruning import masks


def small(seed: int = 0, sparsity: float = 0.8, widths=(6, "M", 5, "M"), hidden=(7,), classes: int = 3) -> models.VGG:
    torch.manual_seed(seed)
    network = models.VGG(classes, widths, hidden, image_size=8, normalization=models.NORMALIZATIONS["half"]).eval()
    with torch.no_grad():
        for weight in models.weights(network).values():
            weight[torch.rand(weight.shape) < sparsity] = 0
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.num_batches_tracked += 7
    return network


def same_bits(a: models.VGG, b: models.VGG) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    bits = lambda t: t.flatten().view(torch.uint8)  # noqa: E731
    return list(ours) == list(theirs) and all(torch.equal(bits(ours[name]), bits(theirs[name])) for name in ours)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    sparsity=st.sampled_from([0.0, 0.5, 0.8, 0.97, 1.0]),
    widths=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    hidden=st.lists(st.integers(1, 9), max_size=2),
    format=st.sampled_from(storage.FORMATS),
)
def test_round_trip_is_exact(tmp_path_factory, seed, sparsity, widths, hidden, format):
    network = small(seed, sparsity, [*widths, "M"], hidden)
    path = tmp_path_factory.mktemp("stored") / "network"
    size = storage.save(network, path, format)
    loaded = storage.load(path)
    assert size == path.stat().st_size
    assert same_bits(network, loaded) and not loaded.training
    assert loaded.architecture() == network.architecture() and loaded.normalization == network.normalization
    assert all(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize("format", storage.FORMATS)
def test_negative_zero_and_not_a_number_keep_their_bits(tmp_path, format):
    network = small()
    with torch.no_grad():
        network.features[0].weight.flatten()[:5] = torch.tensor([-0.0, float("nan"), float("-inf"), 1e-45, 0.0])
    storage.save(network, tmp_path / "n", format)
    assert same_bits(network, storage.load(tmp_path / "n"))


def test_loading_leaves_the_random_numbers_alone(tmp_path):
    storage.save(small(), tmp_path / "n", "csr")
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    storage.load(tmp_path / "n")
    assert torch.equal(torch.rand(3), expected)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    sparsity=st.sampled_from([0.0, 0.8, 1.0]),
    widths=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    format=st.sampled_from(storage.QUANTISED),
)
def test_a_quantised_network_is_exactly_its_whole_numbers_times_a_scale_a_filter(
    tmp_path_factory, seed, sparsity, widths, format
):
    network = small(seed, sparsity, [*widths, "M"])
    with torch.no_grad():
        network.features[0].weight[0] = 0  # a filter of which nothing is left
    folder = tmp_path_factory.mktemp("stored")
    storage.save(network, folder / "once", format)
    loaded = storage.load(folder / "once")
    for name, weight in models.weights(network).items():
        stored = models.weights(loaded)[name]
        for row, original in zip(stored.flatten(1), weight.flatten(1), strict=True):
            scale = original.abs().max() / 127
            whole = (original / scale).round() if scale else torch.zeros_like(original)
            assert torch.equal(row, whole * scale) and whole.abs().max() <= 127
            assert not row[original == 0].any()
        models.weights(network)[name].data.copy_(stored)
    assert same_bits(network, loaded)  # all that is not quantised kept its bits
    storage.save(loaded, folder / "twice", format)
    once, twice = (files.load_tensors(folder / name)[0] for name in ("once", "twice"))
    assert once.keys() == twice.keys() and all(torch.equal(tensor, twice[name]) for name, tensor in once.items())


def test_whole_numbers_from_the_lowest_to_the_highest_are_read(tmp_path):
    network = small()
    torch.nn.init.ones_(network.features[0].weight)
    storage.save(network, tmp_path / "n", "bitmask_int8")
    tensors, metadata = files.load_tensors(tmp_path / "n")
    tensors["features.0.weight.values"].copy_(torch.arange(162) % 256 - 128)
    tensors["features.0.weight.scales"].fill_(0.5)
    files.save_tensors(tmp_path / "n", tensors, metadata)
    weight = storage.load(tmp_path / "n").features[0].weight
    assert torch.equal(weight.flatten(), (torch.arange(162) % 256 - 128) / 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_cannot_be_quantised(tmp_path, value):
    network = small()
    with torch.no_grad():
        network.features[0].weight[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="finite"):
        storage.save(network, tmp_path / "n", "bitmask_int8")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tiny", [1e-45, 2.5e-43, 1e-38])
def test_weights_near_zero_keep_their_sign_or_vanish(tiny):
    values, scales = storage.quantise(torch.tensor([[tiny, -tiny, tiny / 2], [0.0, 0.0, 0.0]]))
    assert values[0, 0] == -values[0, 1] >= values[0, 2] >= 0 and not values[1].any()
    assert (values * scales.unsqueeze(1))[0].abs().max() <= 1.001 * tiny


def test_sizes_are_those_of_the_formats(tmp_path):
    network = small(widths=(32, "M", 64, "M"), hidden=(64,))
    n = sum(w.numel() for w in models.weights(network).values())
    k = sum(int((w != 0).sum()) for w in models.weights(network).values())
    rest = sum(t.nbytes for name, t in network.state_dict().items() if name not in models.weights(network))
    sizes = {name: storage.save(network, tmp_path / name, name) for name in storage.PARTS}
    coded = sizes.pop("bitmask_int8_zstd")
    payload = {"dense": 4 * n, "coo": 12 * k, "csr": 8 * k, "bitmask": n / 8 + 4 * k}
    payload["bitmask_int8"] = n / 8 + k
    for name, expected in payload.items():
        assert 0 <= sizes[name] - rest - expected < 6000, name  # names, shapes, digest, row starts
    # a mask of 20 % ones takes 0.72 bits a weight; normal values without those near 0 about 7 bits each
    assert 0.7 * n / 8 + 0.8 * k < coded - rest < sizes["bitmask_int8"] - rest - 0.2 * n / 8
    assert sizes["bitmask_int8"] < storage.entropy_bytes(network) < sizes["bitmask"] < sizes["csr"] < sizes["coo"]


def test_the_entropy_of_a_mask_is_the_number_of_its_patterns():
    network = models.VGG(2, (1, "M"), (), image_size=2)
    with torch.no_grad():
        for weight in models.weights(network).values():
            weight.zero_()
        network.features[0].weight.flatten()[:9] = 1  # 9 of 27; nothing of the 2 of the linear layer
    rest = sum(t.nbytes for name, t in network.state_dict().items() if name not in models.weights(network))
    # 27 over 9 is 4,686,825, between 2^22 and 2^23: 9 · 32 + 22.2 bits are 39 bytes
    assert storage.entropy_bytes(network) == rest + 39


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="zip.*bitmask"):
        storage.save(small(), tmp_path / "n", "zip")
    assert not list(tmp_path.iterdir())


class Subclass(models.VGG):
    pass


def replaced(part: str, place: int, layer: nn.Module):
    return lambda n: getattr(n, part).__setitem__(place, layer)


def pruned_by_torch(network: models.VGG) -> None:
    prune.l1_unstructured(network.features[0], "weight", 0.5)


# what load could not give back → (how the network is changed, what the error names); a change may return another network
NOT_REBUILDABLE = {
    "double": (lambda n: n.double(), "features.0.weight is torch.float64"),
    "pruned by torch": (pruned_by_torch, "features.0.weight"),
    "folded": (models.fold_batch_norm, "features"),
    "compiled": (lambda n: torch.compile(n, backend="eager"), "OptimizedModule"),
    "another head": (replaced("classifier", 3, nn.Linear(7, 4)), "classifier.3"),
    "head without bias": (replaced("classifier", 3, nn.Linear(7, 3, bias=False)), "classifier.3"),
    "another pool": (replaced("features", 3, nn.MaxPool2d(3, 2, 1)), "features.3"),
    "subclass": (lambda n: Subclass(3), "Subclass"),
    "residual": (lambda n: nn.Sequential(nn.Conv2d(3, 4, 3)), "Sequential"),
}


@pytest.mark.parametrize("case", NOT_REBUILDABLE)
def test_what_could_not_be_loaded_again_is_refused_by_name_before_anything_is_written(tmp_path, case):
    network = small()
    change, named = NOT_REBUILDABLE[case]
    returned = change(network)
    network = network if returned is None else returned
    with pytest.raises(ValueError, match=named) as caught:
        storage.save(network, tmp_path / "n", "coo")
    assert not list(tmp_path.iterdir()) and "\n" not in str(caught.value)


def test_masks_made_permanent_are_stored(tmp_path):
    network = small(sparsity=0)
    pruned_by_torch(network)
    prune.remove(network.features[0], "weight")
    storage.save(network, tmp_path / "n", "bitmask")
    assert int((storage.load(tmp_path / "n").features[0].weight == 0).sum()) == 81


def test_too_little_left_for_a_format_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "FREE_DENSE_BYTES", 0)
    monkeypatch.setattr(storage, "MOST_EXPANSION", 2)
    network = small(sparsity=1.0, widths=(32, "M", 64, "M"), hidden=(64,))
    with pytest.raises(ValueError, match="coo"):
        storage.save(network, tmp_path / "n", "coo")
    assert not list(tmp_path.iterdir())
    storage.save(network, tmp_path / "n", "dense")


def test_random_corruptions_are_told_every_time(tmp_path):
    """Flipped bits, overwritten runs, cut and lengthened files: 700 of them, none accepted, none another error."""
    random.seed(5)
    path = tmp_path / "n"
    for format in storage.PARTS:
        storage.save(small(), path, format)
        whole = path.read_bytes()
        for _ in range(100):
            broken = bytearray(whole)
            where, kind = random.randrange(len(whole)), random.randrange(4)
            if random.random() < 0.3:
                where %= 2048  # the header is small and the most delicate
            if kind == 0:
                broken[where] ^= 1 << random.randrange(8)
            elif kind == 1:
                broken[where : where + 16] = random.randbytes(16)
            elif kind == 2:
                del broken[where:]
            else:
                broken += random.randbytes(1 + where % 64)
            if bytes(broken) == whole:
                continue
            path.write_bytes(broken)
            with pytest.raises(files.CorruptFile, match=path.name):
                storage.load(path)


def _parts(format: str) -> tuple[dict, dict]:
    """Tensors and metadata of a small stored network, to be tampered with and signed anew."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as directory:
        storage.save(small(), Path(directory) / "n", format)
        return files.load_tensors(Path(directory) / "n")


W = "features.0.weight"


def _more(name, value):
    return lambda t, m: t.update({name: torch.cat([t[name], torch.tensor([value], dtype=t[name].dtype)])})


def _at(name, place, value):
    return lambda t, m: t[name].__setitem__(place, value)


def _architecture(**changes):
    return lambda t, m: m.update(architecture=json.dumps({**json.loads(m["architecture"]), **changes}))


def _coded(whole: bytes, known: bool = True) -> torch.Tensor:
    compressed = zstandard.ZstdCompressor(write_content_size=known).compress(whole)
    return torch.frombuffer(bytearray(compressed), dtype=torch.uint8)


HOSTILE = {
    "a value too many": ("bitmask", _more(f"{W}.values", 1.0)),
    "all bits set": ("bitmask", lambda t, m: t[f"{W}.bits"].fill_(255)),
    "bits cut": ("bitmask", lambda t, m: t.update({f"{W}.bits": t[f"{W}.bits"][:-1].clone()})),
    "bits past the end": ("bitmask", lambda t, m: t["classifier.3.weight.bits"].__setitem__(-1, 255)),
    "bits of another dtype": ("bitmask", lambda t, m: t.update({f"{W}.bits": t[f"{W}.bits"].short()})),
    "values in two dimensions": ("bitmask", lambda t, m: t.update({f"{W}.values": t[f"{W}.values"][None]})),
    "double values": ("bitmask", lambda t, m: t.update({f"{W}.values": t[f"{W}.values"].double()})),
    "single values for whole numbers": ("bitmask_int8", lambda t, m: t.update({f"{W}.values": t[f"{W}.values"].float()})),
    "a scale too few": ("bitmask_int8", lambda t, m: t.update({f"{W}.scales": t[f"{W}.scales"][1:].clone()})),
    "a code of nothing": ("bitmask_int8_zstd", lambda t, m: t.update({f"{W}.values": torch.zeros(0, dtype=torch.uint8)})),
    "no code": ("bitmask_int8_zstd", lambda t, m: t[f"{W}.values"].zero_()),
    "a code cut": ("bitmask_int8_zstd", lambda t, m: t.update({f"{W}.values": t[f"{W}.values"][:-1].clone()})),
    "a code that goes on": ("bitmask_int8_zstd", _more(f"{W}.values", 0)),
    "a code of too much": ("bitmask_int8_zstd", lambda t, m: t.update({f"{W}.values": _coded(b"\1" * 10**6)})),
    "a code of unknown length": ("bitmask_int8_zstd", lambda t, m: t.update({f"{W}.bits": _coded(b"\1" * 21, known=False)})),
    "a code of too little": ("bitmask_int8_zstd", lambda t, m: t.update({f"{W}.values": _coded(b"\1")})),
    "index out of range": ("coo", _at(f"{W}.indices", -1, 10**15)),
    "negative index": ("coo", _at(f"{W}.indices", 0, -1)),
    "index twice": ("coo", lambda t, m: t[f"{W}.indices"].__setitem__(1, t[f"{W}.indices"][0])),
    "an index too few": ("coo", lambda t, m: t.update({f"{W}.indices": t[f"{W}.indices"][1:].clone()})),
    "column out of range": ("csr", _at(f"{W}.columns", 0, 2**31 - 1)),
    "negative column": ("csr", _at(f"{W}.columns", 0, -5)),
    "starts that fall": ("csr", _at(f"{W}.starts", 1, 2**31 - 1)),
    "starts that end early": ("csr", _at(f"{W}.starts", -1, 0)),
    "starts that begin late": ("csr", _at(f"{W}.starts", 0, 1)),
    "too few starts": ("csr", lambda t, m: t.update({f"{W}.starts": t[f"{W}.starts"][:-1].clone()})),
    "dense of another shape": ("dense", lambda t, m: t.update({f"{W}.values": t[f"{W}.values"][:1].clone()})),
    "bias of another shape": ("coo", lambda t, m: t.update({"features.0.bias": torch.zeros(99)})),
    "a tensor missing": ("coo", lambda t, m: t.pop("features.0.bias")),
    "a tensor too many": ("coo", lambda t, m: t.update(extra=torch.zeros(1))),
    "enormous layers": ("coo", _architecture(widths=[65536, 65536, "M"])),
    "enormous image": ("coo", _architecture(image_size=65536)),
    "enormous in every way": ("coo", _architecture(image_size=65536, widths=[65536], hidden=[65536])),
    "endless layers": ("coo", _architecture(widths=[1] * 100_000)),
    "negative width": ("coo", _architecture(widths=[-6, "M", 5, "M"])),
    "width of words": ("coo", _architecture(widths="many")),
    "dropout of words": ("coo", _architecture(dropout="half")),
    "unknown key": ("coo", _architecture(run="rm")),
    "no normalisation": ("coo", _architecture(normalization=None)),
    "mean of words": ("coo", _architecture(normalization={"name": "x", "mean": ["a"] * 3, "std": [1.0] * 3})),
    "mean that is not a number": ("coo", _architecture(normalization={"name": "x", "mean": [float("nan")] * 3, "std": [1] * 3})),
    "architecture that is no JSON": ("coo", lambda t, m: m.update(architecture="{")),
    "architecture that is deep": ("coo", lambda t, m: m.update(architecture="[" * 100_000)),
    "shapes of another network": ("coo", lambda t, m: m.update(shapes="{}")),
    "shapes missing": ("coo", lambda t, m: m.pop("shapes")),
    "unknown format": ("coo", lambda t, m: m.update(format="pickle")),
    "another kind": ("coo", lambda t, m: m.update(kind="vgg-1")),
    "another version": ("coo", lambda t, m: m.update(kind="sparse-vgg-2")),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_with_a_right_digest_is_told(tmp_path, case):
    format, tamper = HOSTILE[case]
    tensors, metadata = _parts(format)
    tamper(tensors, metadata)
    files.save_tensors(tmp_path / "n", tensors, metadata)
    with pytest.raises(files.CorruptFile) as caught:
        storage.load(tmp_path / "n")
    assert str(tmp_path / "n") in str(caught.value) and "\n" not in str(caught.value)


def test_a_tiny_file_cannot_ask_for_a_large_network(tmp_path):
    """Consistent in every count, 20 layers of 1024 × 1024 × 9 without one kept weight: 750 MB from a few hundred kB."""
    with torch.device("meta"):
        network = models.VGG(2, [1024] * 21 + ["M"], (), image_size=2)
    weights = models.weights(network)
    tensors = {name: torch.zeros(t.shape, dtype=t.dtype) for name, t in network.state_dict().items() if name not in weights}
    for name in weights:
        tensors |= {f"{name}.indices": torch.zeros(0, dtype=torch.int64), f"{name}.values": torch.zeros(0)}
    described = {"kind": storage.FILE_KIND, "format": "coo", "architecture": json.dumps(network.architecture())}
    shapes = json.dumps({name: list(weight.shape) for name, weight in weights.items()})
    files.save_tensors(tmp_path / "n", tensors, {**described, "shapes": shapes})
    with pytest.raises(files.CorruptFile, match="bytes claim to hold"):
        storage.load(tmp_path / "n")


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        storage.load(tmp_path / "nowhere")


def test_a_kept_network_is_loaded_by_its_name(own_folders):
    network = small()
    path = lambda name: project.kept_path("study", "cifar10", name)  # noqa: E731
    with pytest.raises(FileNotFoundError, match="cifar10"):
        storage.committed("cifar10", "lasso_channels")
    masks.Masks.from_zeros(network).save(path("snip-s80"))
    with pytest.raises(FileNotFoundError, match="unknown network 'snip-s80'"):  # only its masks are kept
        storage.committed("cifar10", "snip-s80")
    storage.save(network, path("lasso_channels"), "bitmask_int8_zstd")
    kept = storage.committed("cifar10", "lasso_channels")
    assert same_bits(kept, storage.load(path("lasso_channels"))) and not kept.training
    with pytest.raises(FileNotFoundError, match="did you mean 'lasso_channels'"):
        storage.committed("cifar10", "lasso_chanels")
