"""Three disjoint, stratified splits; augmentation that only moves pixels; sources that say what is wrong."""

import io
import os

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from helpers import data, files, models, parquet, settings
from helpers.report import baseline

needs_cifar = pytest.mark.skipif(not os.environ.get("CIFAR_DIR"), reason="CIFAR_DIR is not set: no real CIFAR here")


def rows_of(split: data.Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


def test_digits_are_split_the_same_every_time_and_share_no_image():
    first, second = data.load("digits"), data.load("digits")
    assert [len(s) for s in (first.train, first.val, first.test)] == [1097, 300, 400]
    assert torch.equal(first.train.images, second.train.images)
    assert first.val.labels.bincount().min() >= 28  # stratified
    assert not rows_of(first.train) & (rows_of(first.val) | rows_of(first.test))


@needs_cifar
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_has_its_published_splits_and_means(name):
    splits = data.load(name)
    classes = len(splits.classes)
    for split, size in ((splits.train, 45_000), (splits.val, 5_000), (splits.test, 10_000)):
        assert split.images.shape == (size, 3, 32, 32)
        assert split.labels.bincount().tolist() == [size // classes] * classes
    images = torch.cat([splits.train.images, splits.val.images]).double() / 255
    published = models.NORMALIZATIONS[name]
    assert np.allclose(images.mean((0, 2, 3)), published.mean, atol=3e-4)
    assert "pixel-exact" in splits.source


def test_normalize_is_the_formula():
    images = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    half = models.NORMALIZATIONS["half"]
    torch.testing.assert_close(data.normalize(images, half), images / 127.5 - 1)


def test_a_crop_is_a_window_of_the_padded_image_and_every_image_has_its_own():
    image = torch.arange(1, 3 * 32 * 32 + 1).remainder(251).to(torch.uint8).view(1, 3, 32, 32)
    batch = data.augment(image.repeat(200, 1, 1, 1), torch.Generator().manual_seed(1))
    windows = set()
    for flip in (False, True):
        padded = torch.nn.functional.pad(image.flip(3) if flip else image, [4] * 4)[0]
        windows |= {padded[:, y : y + 32, x : x + 32].numpy().tobytes() for y in range(9) for x in range(9)}
    made = {one.numpy().tobytes() for one in batch}
    assert made <= windows
    assert len(made) > 60  # of 162 possible, 200 draws
    straight = data.augment(image.repeat(200, 1, 1, 1), torch.Generator().manual_seed(1), mirrors=False)
    assert len({one.numpy().tobytes() for one in straight}) <= 81


def test_a_balanced_draw_has_as_many_of_each_class():
    drawn = data.class_balanced(data.load("digits").train, 7, seed=3)
    assert drawn.labels.bincount().tolist() == [7] * 10
    with pytest.raises(ValueError, match="are wanted"):
        data.class_balanced(data.load("digits").train, 1000, seed=3)


def encoded(colour: int) -> dict:
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), colour, np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": f"{colour}.png"}


def test_parquet_is_decoded_once_and_faults_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("BUILD_DIR", str(tmp_path / "build"))
    path = tmp_path / "train.parquet"
    with pytest.raises(FileNotFoundError, match="CIFAR_DIR"):
        parquet.read("cifar10", path, 20)
    labels = [i % 10 for i in range(20)]
    table = pyarrow.table({"img": [encoded(10 * i) for i in range(20)], "label": labels})
    pyarrow.parquet.write_table(table, path)
    found = parquet.read("cifar10", path, 20)
    assert found.images[:, 0, 0, 0].tolist() == [10 * i for i in range(20)]
    assert (found.lossy, found.classes, found.labels.tolist()) == (0, parquet.CIFAR10_CLASSES, labels)
    monkeypatch.setattr(parquet, "decode", lambda *_: pytest.fail("decoded twice"))
    assert torch.equal(parquet.read("cifar10", path, 20).images, found.images)
    monkeypatch.undo()
    monkeypatch.setenv("BUILD_DIR", str(tmp_path / "other"))
    with pytest.raises(files.CorruptFile, match="expected 30 images"):
        parquet.read("cifar10", path, 30)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(files.CorruptFile, match=r"train\.parquet"):
        parquet.read("cifar10", path, 20)


def test_no_network_and_no_folder_is_one_clear_error(tmp_path, monkeypatch):
    class Unreachable:
        def __init__(self, *_args, **_options):
            raise OSError("no route to host")

    monkeypatch.delenv("CIFAR_DIR", raising=False)
    monkeypatch.setattr(data, "_torchvision_datasets", lambda: type("datasets", (), {"CIFAR10": Unreachable}))
    monkeypatch.setattr(settings, "download_dir", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match="set CIFAR_DIR"):
        data.load("cifar10")
    assert not data.at_hand("cifar10")  # the folder that a failed download leaves behind is no data set
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert data.at_hand("cifar10") and not data.at_hand("cifar100")


def test_a_page_loads_no_data_set_that_is_not_at_hand(monkeypatch):
    monkeypatch.setattr(data, "at_hand", lambda name: False)
    monkeypatch.setattr(data, "load", lambda name: pytest.fail("it would be downloaded"))
    assert baseline.classes_seen([{"dataset": "cifar10", "method": "dense", "variant": ""}]).data == ""


def test_torchvision_data_sets_can_be_imported_beside_a_cpu_only_torch():
    assert data._torchvision_datasets().CIFAR100.tgz_md5
