"""The sensitivity scan: the figures of whole pruned networks, in every number format, from where it was stopped."""

import copy
import json

import numpy as np
import pytest
import torch

from helpers import data, models, training
from helpers.pruning import allocation, masks, sensitivity
from helpers.pruning.sensitivity import Scan


@pytest.fixture(scope="module")
def digits() -> data.Split:
    return data.class_balanced(data.load("digits", torch.device("cpu")).val, 12, seed=0)


@pytest.fixture(scope="module")
def network(digits) -> models.VGG:
    """A small network that knows the digits a little, so that pruning a layer costs images."""
    torch.manual_seed(0)
    made = models.VGG(10, (8, "M", 12, 16, "M", 16, "M"), (16,), dropout=0.0)
    training.fit(made, digits, training.Recipe(epochs=12, batch_size=24, peak_lr=0.05), dtype=torch.float32)
    return made.eval()


@pytest.fixture(scope="module")
def wide() -> tuple[models.VGG, data.Split]:
    """A network of 128 channels and images labelled as it classifies them in float32, half of which it hardly tells apart.

    Its second logit is a sum of about 5, less 5. What bfloat16 rounds off the sum is more than 16 of the images differ by,
    which are one but for the last bit of some pixels.
    """
    torch.manual_seed(0)
    network = models.VGG(2, (128, "M", 128, "M"), (), image_size=8).eval()
    images = torch.randint(0, 252, (24, 3, 8, 8), dtype=torch.uint8)
    images[:16] = images[0] + (torch.rand(16, 3, 8, 8) < 0.05)
    with torch.no_grad():
        inputs, last = data.normalize(images, network.normalization), network.classifier[-1]
        last.weight.abs_()[0] = 0
        last.bias.zero_()
        last.weight.mul_(5 / network(inputs[0:1])[0, 1])
        last.bias[1] = -network(inputs[:16])[:, 1].quantile(0.5)
        return network, data.Split(images, network(inputs).argmax(1))


def test_the_scan_equals_running_every_whole_pruned_network(network, digits):
    sparsities = (0.3, 0.6, 0.9)
    scanned = sensitivity.scan(network, digits, sparsities=sparsities, dtype=torch.float32)
    expected = np.empty((len(scanned.layers), len(sparsities)))
    for i, name in enumerate(scanned.layers):
        for j, sparsity in enumerate(sparsities):
            pruned = copy.deepcopy(network)
            weight = models.weight_layers(pruned)[name].weight
            kept = masks.keep_largest(weight.abs(), weight.numel() - round(weight.numel() * sparsity))
            weight.data.masked_fill_(~kept, 0)
            expected[i, j] = training.evaluate(pruned, digits).top1_pct
    one_image = 100 / len(digits)  # float32 sums in another order may turn one undecided image
    assert np.abs(np.array(scanned.top1_pct) - expected).max() <= one_image + 1e-9
    assert scanned.baseline_top1_pct == training.evaluate(network, digits).top1_pct
    assert len(np.unique(expected)) > 5  # the network is not at chance throughout
    assert scanned.images == len(digits) and scanned.layers == tuple(models.weight_layers(network))


def test_batches_of_any_size_give_the_same_figures(network, digits, monkeypatch):
    whole = sensitivity.scan(network, digits, sparsities=(0.5, 0.9), dtype=torch.float32)
    monkeypatch.setattr(sensitivity, "BATCH", 17)  # 120 images: the last batch is short
    assert np.abs(sensitivity.scan(network, digits, sparsities=(0.5, 0.9), dtype=torch.float32).drops - whole.drops).max() < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("undecided", [0.0, 0.1, float("inf")])
def test_any_number_of_images_may_be_undecided(wide, monkeypatch, dtype, undecided):
    """None, some, all, in batches of which the last holds one image: the figures are float32's where all are run again."""
    network, split = wide
    exact = sensitivity.scan(network, split, sparsities=(0.5, 0.9), dtype=torch.float32)
    monkeypatch.setattr(sensitivity, "BATCH", 23)
    scanned = sensitivity.scan(network, split, sparsities=(0.5, 0.9), undecided=undecided, dtype=dtype)
    assert np.isfinite(scanned.drops).all() and np.abs(scanned.drops - exact.drops).max() < 50
    if dtype == torch.float32 or undecided == float("inf"):
        assert np.abs(scanned.drops - exact.drops).max() <= 100 / len(split) + 1e-9


@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_images_that_are_undecided_are_run_in_float32(wide, count):
    network, split = wide
    reader = sensitivity._Reader(network, split, torch.bfloat16, 0.0)
    best = sensitivity._run(reader.stages, reader.inputs[0]).topk(2).values
    margins = (best[:, 0] - best[:, 1]).sort().values
    reader.undecided = float(margins[:count].sum() and (margins[count - 1] + margins[count]) / 2)
    again, normalized = [], reader._normalized
    reader._normalized = lambda images: again.append(len(images)) or normalized(images)
    with torch.inference_mode():
        assert 0 <= reader.top1_pct() <= 100
    assert again == [count]


def test_an_image_is_undecided_below_a_tenth(wide):
    """By default bfloat16 gives float32's figures; with next to no margin it does not."""
    network, split = wide
    sparsities = (0.0001, 0.001)  # so few that the images stay between the classes
    exact = sensitivity.scan(network, split, sparsities=sparsities, dtype=torch.float32).top1_pct
    one_image = 100 / len(split) + 1e-9  # float32 sums in another order may turn one

    def apart(**given) -> float:
        scanned = sensitivity.scan(network, split, sparsities=sparsities, dtype=torch.bfloat16, **given)
        return np.abs(np.subtract(scanned.top1_pct, exact)).max()

    assert apart() <= one_image and apart(undecided=0.1) <= one_image
    assert apart(undecided=1e-9) > 2 * one_image


@pytest.mark.parametrize("format", ["float32", "bfloat16"])
def test_the_format_is_the_machine_s_unless_given(wide, monkeypatch, format):
    monkeypatch.setenv("DTYPE", format)
    formats, stages = [], sensitivity._stages
    monkeypatch.setattr(sensitivity, "_stages", lambda net, dtype: formats.append(dtype) or stages(net, dtype))
    sensitivity.scan(*wide, sparsities=(0.5,))
    assert formats[0] == getattr(torch, format)


def test_the_sparsities_of_the_study_are_scanned_by_default(wide, monkeypatch):
    asked = []
    monkeypatch.setattr(sensitivity._Reader, "top1_pct", lambda self, *given: asked.append(given[1:]) or 50.0)
    scanned = sensitivity.scan(*wide, dtype=torch.float32)
    assert scanned.sparsities == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    assert asked == [(s,) for _ in scanned.layers for s in scanned.sparsities] + [()]


def test_the_scan_leaves_the_network_alone(network, digits):
    before = copy.deepcopy(network)
    network.train()
    sensitivity.scan(network, digits, sparsities=(0.9,), dtype=torch.float32)
    assert network.training and all(parameter.requires_grad for parameter in network.parameters())
    network.eval()
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in before.state_dict().items())


def test_an_interrupted_scan_goes_on_behind_the_last_finished_layer(network, digits, tmp_path, monkeypatch):
    path, sparsities = tmp_path / "scan.json", (0.5, 0.9)
    unbroken = sensitivity.scan(network, digits, sparsities=sparsities, dtype=torch.float32)
    arguments = {"path": path, "sparsities": sparsities, "dtype": torch.float32}
    real, done = sensitivity._Reader.top1_pct, []

    def interrupted(reader, *point):
        if len(done) == 5:  # in the middle of the third layer
            raise KeyboardInterrupt
        done.append(reader.position)
        return real(reader, *point)

    monkeypatch.setattr(sensitivity._Reader, "top1_pct", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sensitivity.scan(network, digits, **arguments)
    done.append("stopped")
    assert sensitivity.scan(network, digits, **arguments) == unbroken
    layers = len(unbroken.layers)
    again = [position for position in range(2, layers) for _ in sparsities]
    assert done == [0, 0, 1, 1, 2, "stopped", *again, layers]  # no finished layer twice; at the end, the baseline
    monkeypatch.setattr(sensitivity, "_Reader", None)  # a whole scan is read without running the network, on any processor
    for dtype in (torch.float32, torch.bfloat16):
        assert sensitivity.scan(network, digits, **arguments | {"dtype": dtype}) == unbroken


def test_what_other_arguments_left_is_not_used(network, digits, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(sensitivity._Reader, "top1_pct", lambda *_: calls.append(1) or 50.0)
    arguments = {"path": tmp_path / "scan.json", "sparsities": (0.5,), "dtype": torch.float32}
    sensitivity.scan(network, digits, **arguments)
    whole = len(calls)
    sensitivity.scan(network, digits, **arguments | {"undecided": 0.1})
    assert len(calls) == whole
    other = copy.deepcopy(network)
    other.features[0].weight.data[0, 0, 0, 0] += 1e-3
    fewer = digits.subset(torch.arange(60))
    changes = [(other, digits, {}), (network, fewer, {}), (network, digits, {"sparsities": (0.6,)})]
    for net, images, changed in (*changes, (network, digits, {"undecided": 0.2})):
        before = len(calls)
        sensitivity.scan(net, images, **arguments | changed)
        assert len(calls) == before + whole


def test_a_stored_scan_keeps_its_key():
    """The key of scans stored before `undecided` was an argument: whoever changes it makes every stored scan anew."""
    network = models.VGG(2, (2, "M"), (), image_size=4, normalization=models.NORMALIZATIONS["half"])
    for i, tensor in enumerate(network.state_dict().values()):
        tensor.fill_(i)
    split = data.Split(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.arange(2))
    key = sensitivity._fingerprint(network, split, (0.5, 0.9), sensitivity.UNDECIDED)
    assert key == "e5dcdf4350ecc5a104dc5441057b4340954c00a030b25cf02639b6bb0fc6ff30"


def test_damaged_progress_is_named_and_made_again(network, digits, tmp_path, monkeypatch, capfd):
    path, arguments = tmp_path / "scan.json", dict(sparsities=(0.5,), dtype=torch.float32)
    monkeypatch.delenv("PLAIN_PROGRESS", raising=False)
    whole = sensitivity.scan(network, digits, path=path, **arguments)
    intact = path.read_text()
    for damaged in (intact[: len(intact) // 2], intact.replace("top1_pct", "top1_pcu", 1), "[]", ""):
        path.write_text(damaged)
        assert sensitivity.scan(network, digits, path=path, **arguments) == whole
        assert "scan.json" in capfd.readouterr().err
        assert path.read_text() == intact


def test_a_scan_needs_images_sparsities_in_range_and_a_vgg(network, digits):
    with pytest.raises(ValueError, match="at least one sparsity and one image"):
        sensitivity.scan(network, digits, sparsities=(), dtype=torch.float32)
    with pytest.raises(ValueError, match="at least one sparsity and one image"):
        sensitivity.scan(network, digits.subset(torch.arange(0)), dtype=torch.float32)
    with pytest.raises(ValueError, match="fraction from 0"):
        sensitivity.scan(network, digits, sparsities=(95.0,), dtype=torch.float32)
    with pytest.raises(TypeError, match="Sequential"):
        sensitivity.scan(torch.nn.Sequential(*network.features), digits)


def test_a_scan_survives_json():
    scanned = Scan(90.0, ("features.0", "classifier.0"), (0.5, 0.9), ((89.0, 70.0), (90.0, 10.0)), 100)
    back = Scan(**json.loads(json.dumps(scanned.to_dict())))
    assert back.to_dict() == json.loads(json.dumps(scanned.to_dict())) and np.array_equal(back.drops, [[1, 20], [0, 80]])


def test_the_result_ends_to_end(network, digits):
    """Scan, allocate, prune: the layers' own fragility decides better than one share for all."""
    scanned = sensitivity.scan(network, digits, dtype=torch.float32)
    pruned = copy.deepcopy(network)
    masks.magnitude(network, allocation.allocate(network, scanned, 0.6).kept).apply(pruned)
    uniformly = copy.deepcopy(network)
    masks.uniform(network, 0.6).apply(uniformly)
    assert masks.Masks.from_zeros(pruned).kept == masks.Masks.from_zeros(uniformly).kept
    assert training.evaluate(pruned, digits).top1_pct >= training.evaluate(uniformly, digits).top1_pct
