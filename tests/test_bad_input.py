"""Files that were damaged, forged or belong to something else, and figures out of range: one clear error, nothing lost."""

import io
import json
import pickle
import random
from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import save_file

from helpers import checkpoints, data, files, models, parquet, plan, pretrained, results, settings, study, training
from helpers.pruning import masks, schedule, sensitivity, widths
from helpers.results import RowKey
from helpers.sparse import storage

DAMAGES = 1000
IMAGES = 10


def damaged(whole: bytes, seed: int, count: int = DAMAGES) -> Iterator[bytes]:
    """`whole` with a bit flipped, a run overwritten, cut short, a piece lost or doubled; never `whole` itself."""
    draw = random.Random(seed)
    made = 0
    while made < count:
        at, length = draw.randrange(len(whole)), draw.randint(1, 16)
        kind = draw.choice(("flip", "flip", "overwrite", "cut", "lose", "double"))
        if kind == "flip":
            broken = whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :]
        elif kind == "overwrite":
            broken = whole[:at] + draw.randbytes(length) + whole[at + length :]
        elif kind == "cut":
            broken = whole[:at]
        elif kind == "lose":
            broken = whole[:at] + whole[at + length :]
        else:
            broken = whole[: at + length] + whole[at:]
        if broken != whole:
            made += 1
            yield broken


@pytest.fixture
def own_folders(tmp_path, monkeypatch):
    for name in ("BUILD_DIR", "RESULTS_DIR", "WEIGHTS_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


# Damage -----------------------------------------------------------------------------------------------------------


def test_a_damaged_row_is_told_or_is_the_same_row(own_folders, capsys):
    key, made_with = RowKey("digits", "snip", 80.0), {"epochs": 3, "recipe": {"peak_lr": 0.1}}
    row = results.save_row("demo", key, {"top1_pct": 91.25, "log": [{"epoch": 0, "lr": 1e-3}], "correct": "q83v"}, made_with)
    path = settings.row_path("demo", "digits", key.row_id)
    told = 0
    for broken in damaged(path.read_bytes(), seed=1):
        path.write_bytes(broken)
        found = results.load_row("demo", key, made_with)
        if found is None:
            assert key.row_id in capsys.readouterr().err
            told += 1
        else:
            assert found == row
    assert told > 0.95 * DAMAGES
    assert results.rows("demo") in ([], [row])


def test_a_damaged_checkpoint_is_told_and_restores_nothing(tmp_path, capsys):
    network = models.VGG(4, (2, "M", 3, "M"), (), image_size=8)
    recipe = training.Recipe(3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    hook = masks.MaskHook(masks.uniform(network, 0.5))
    path = tmp_path / "checkpoint.safetensors"
    checkpoints.write(path, network, optimizer, hook, asdict(recipe), [{"epoch": 0}])
    other = models.VGG(4, (2, "M", 3, "M"), (), image_size=8)
    before, told = files.digest_of(other.state_dict()), 0
    for broken in damaged(path.read_bytes(), seed=2):
        path.write_bytes(broken)
        logs = checkpoints.resume(path, other, optimizer, masks.MaskHook(masks.Masks.of(other)), asdict(recipe))
        if logs:  # the damage lies in bytes that say nothing
            assert files.digest_of(other.state_dict()) == files.digest_of(network.state_dict())
            before = files.digest_of(network.state_dict())
        else:
            assert files.digest_of(other.state_dict()) == before
            assert "checkpoint.safetensors" in capsys.readouterr().err
            told += 1
    assert told > 0.95 * DAMAGES


def test_damaged_parquet_is_told_or_holds_the_same_images(tmp_path):
    path = tmp_path / "train.parquet"
    whole = parquet_file(path)
    intact = parquet.decode("cifar10", path, IMAGES)
    told = 0
    for broken in damaged(whole, seed=3):
        path.write_bytes(broken)
        try:
            found = parquet.decode("cifar10", path, IMAGES)
        except files.CorruptFile as error:
            assert "train.parquet" in str(error) and "\n" not in str(error)
            told += 1
        else:
            assert torch.equal(found.images, intact.images) and torch.equal(found.labels, intact.labels)
    assert told > 0.7 * DAMAGES


def parquet_file(path) -> bytes:
    """An image of noise for every class, written with checksums of the pages."""
    noise = np.random.default_rng(0).integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    stored = []
    for i, image in enumerate(noise):
        buffer = io.BytesIO()
        Image.fromarray(image // 32 * 32).save(buffer, "PNG")
        stored.append({"bytes": buffer.getvalue(), "path": f"{i}.png"})
    table = pyarrow.table({"img": stored, "label": [i % 10 for i in range(IMAGES)]})
    pyarrow.parquet.write_table(table, path, write_page_checksum=True)
    return path.read_bytes()


@pytest.mark.parametrize("label", [-1, 10, 2**40])
def test_a_label_that_is_no_class_is_told(tmp_path, label):
    path = tmp_path / "train.parquet"
    parquet_file(path)
    table = pyarrow.parquet.read_table(path)
    labels = pyarrow.array([label, *table["label"].to_pylist()[1:]])
    pyarrow.parquet.write_table(table.set_column(1, "label", labels), path)
    with pytest.raises(files.CorruptFile, match=r"train\.parquet"):
        parquet.decode("cifar10", path, IMAGES)


def test_scans_that_were_damaged_are_made_again(own_folders, monkeypatch, capsys):
    monkeypatch.setattr(data, "load", tiny.splits)
    small = replace(tiny.PROFILE, dense_epochs=1, channel_epochs=1)
    study.compute(small, RowKey("digits", "lasso_channels"))
    scans = sorted(settings.scan_path("demo", ".").glob("*.safetensors"))
    for path in scans:
        path.write_bytes(path.read_bytes()[:-5])
    settings.row_path("demo", "digits", "lasso_channels").unlink()
    study.compute(small, RowKey("digits", "lasso_channels"))
    assert scans and all(files.load_tensors(path) for path in scans)
    assert all(path.name in capsys.readouterr().err for path in scans)


# Forgery ----------------------------------------------------------------------------------------------------------


class Malicious:
    """Unpickling it creates a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


@pytest.fixture
def malicious(own_folders) -> Iterator[list[bytes]]:
    """Two files whose loading would run code: a plain pickle, and one in torch's own format."""
    target, buffer = own_folders / "executed", io.BytesIO()
    torch.save({"classifier.6.bias": Malicious(target)}, buffer)
    yield [pickle.dumps(Malicious(target)), buffer.getvalue()]
    assert not target.exists()


def test_the_trap_works(own_folders):
    target = own_folders / "executed"
    pickle.loads(pickle.dumps(Malicious(target))).close()
    assert target.exists()


@pytest.mark.parametrize("read", [files.load_tensors, models.load, storage.load, files.load_json, results.read])
def test_code_in_a_file_is_never_executed(malicious, own_folders, read):
    path = own_folders / "file"
    for content in malicious:
        path.write_bytes(content)
        with pytest.raises(files.CorruptFile, match=str(path)):
            read(path)


def test_code_in_weights_is_never_executed(malicious, own_folders, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(own_folders / "torch"))
    downloaded = own_folders / "torch" / "hub" / "checkpoints" / pretrained.RELEASED["cifar10"]
    local = settings.weights_path("cifar10")
    for path in (downloaded, local):
        path.parent.mkdir(parents=True)
    for content in malicious:
        downloaded.write_bytes(content)
        local.write_bytes(content)
        for source, path in (("hub", downloaded), ("local", local)):
            with pytest.raises(files.CorruptFile, match=str(path)):
                pretrained.load("cifar10", source)


def test_code_in_a_checkpoint_is_never_executed_and_training_goes_on(malicious, own_folders, monkeypatch, capsys):
    monkeypatch.setattr(data, "load", tiny.splits)
    key = RowKey("digits", "random", 80.0)
    path = settings.checkpoint_path("demo", "digits", key.row_id)
    path.parent.mkdir(parents=True)
    for content in malicious:
        path.write_bytes(content)
        settings.row_path("demo", "digits", key.row_id).unlink(missing_ok=True)
        assert len(study.compute(tiny.PROFILE, key)["log"]) == tiny.PROFILE.init_epochs
        assert "training starts again" in capsys.readouterr().err


# What belongs to something else -----------------------------------------------------------------------------------


def test_a_row_of_another_version_is_named_and_made_again(own_folders, monkeypatch, capsys):
    monkeypatch.setattr(data, "load", tiny.splits)
    key, fresh = RowKey("digits", "magnitude_init", 80.0), replace(tiny.PROFILE, init_epochs=1)
    row, path = study.compute(fresh, key), settings.row_path("demo", "digits", key.row_id)
    for version in (0, results.VERSION + 1, None, "1"):
        files.save_json(path, row | {"version": version})
        assert results.rows("demo") == [] and results.load_row("demo", key) is None
        assert capsys.readouterr().err.count(f"row of version {version}") == 2
    assert tiny.steady(study.compute(fresh, key)) == tiny.steady(row) == tiny.steady(results.read(path))


@pytest.mark.parametrize("outputs", [1, 9, 100])
def test_weights_of_the_wrong_class_count_are_named(own_folders, outputs):
    path = settings.weights_path("cifar10")
    path.parent.mkdir(parents=True)
    header = {"normalisation": json.dumps({"mean": [0.5] * 3, "std": [0.5] * 3})}
    save_file({"classifier.6.bias": torch.zeros(outputs)}, path, header)
    with pytest.raises(ValueError, match=f"{outputs} classes, not 10"):
        pretrained.load("cifar10")


# Figures out of range and names that are not known ----------------------------------------------------------------

NETWORK = models.VGG(10, (4, "M", 4, "M"), (), image_size=8)
SCAN = sensitivity.Scan(90.0, tuple(models.weight_layers(NETWORK)), (0.5, 0.9), ((89.0, 50.0),) * 3, 100)


@pytest.mark.parametrize("percent", [-0.1, 100.0, 250.0, float("nan"), float("inf"), float("-inf")])
def test_a_sparsity_out_of_range_is_refused_everywhere(percent):
    with pytest.raises(ValueError, match="sparsity"):
        RowKey("digits", "snip", percent)
    for prune in (masks.uniform, masks.global_magnitude, lambda n, s: sensitivity.plan(n, SCAN, s)):
        with pytest.raises(ValueError, match="sparsity"):
            prune(NETWORK, percent / 100)
    with pytest.raises(ValueError, match="sparsity"):
        schedule.stages(10, percent / 100)


def test_a_sparsity_that_kills_a_layer_names_the_reachable_range():
    with pytest.raises(ValueError, match=r"can be pruned from 0 to \d+\.?\d* %"):
        sensitivity.plan(NETWORK, SCAN, 0.999)


@pytest.mark.parametrize("budget", [-1, 0, 1])
def test_a_budget_of_macs_below_the_smallest_network_names_that_network(budget):
    smallest = widths.macs_with_batch_norm(NETWORK, (1, "M", 1, "M"))
    for below in (budget, smallest - 1):
        with pytest.raises(ValueError, match=f"narrowest network has {smallest:,}"):
            widths.for_budget(NETWORK, below, multiple=1)
    assert widths.for_budget(NETWORK, smallest, multiple=1) == (1, "M", 1, "M")


@pytest.mark.parametrize(
    ("call", "nearest"),
    [
        (lambda: settings.profile("studdy"), "study"),
        (lambda: data.load("cifar-100"), "cifar100"),
        (lambda: pretrained.load("cifar1O"), "cifar10"),
        (lambda: pretrained.load("cifar10", "locale"), "local"),
        (lambda: RowKey("digits", "lasso_chanels"), "lasso_channels"),
        (lambda: plan.plan(settings.profile("demo"), "magnitud"), "magnitude"),
        (lambda: study.main(["--profile", "demo", "--dataset", "digit"]), "digits"),
        (lambda: study.compute(tiny.PROFILE, RowKey("diggits", "dense")), "digits"),
        (
            lambda: study.compute(tiny.PROFILE, RowKey("digits", "dense", variant="normalization=imagnet")),
            "normalization=imagenet",
        ),
    ],
)
def test_an_unknown_name_gets_the_nearest_known_one(own_folders, monkeypatch, call, nearest):
    monkeypatch.setattr(training, "fit", lambda *_, **__: [])
    with pytest.raises(ValueError, match=f"did you mean '{nearest}'"):
        call()


def test_an_unknown_name_like_no_other_gets_the_list():
    with pytest.raises(ValueError, match="choose from 'demo', 'study', 'paper'"):
        settings.profile("qqq")
