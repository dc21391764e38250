"""Three disjoint, stratified splits; one's own images; CIFAR as people have it; augmentation that only moves pixels."""

import hashlib
import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tiny
import torch
from PIL import Image

from helpers import cifar, data, files, models, settings
from helpers.data import Splits

needs_cifar = pytest.mark.skipif(not os.environ.get("CIFAR_DIR"), reason="CIFAR_DIR is not set: no real CIFAR here")
CPU = torch.device("cpu")


def pixels(split: data.Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


# Splits -----------------------------------------------------------------------------------------------------------


def test_digits_are_split_the_same_every_time_and_share_no_image():
    first, second = data.load("digits"), data.load("digits")
    assert [len(s) for s in (first.train, first.val, first.test)] == [1097, 300, 400]
    assert torch.equal(first.train.images, second.train.images)
    assert first.val.labels.bincount().min() >= 28  # stratified
    assert not pixels(first.train) & (pixels(first.val) | pixels(first.test))
    assert (first.train.mirrors, first.val.mirrors) == (False, True)


def test_validation_size_and_seed_change_validation_alone():
    usual, other = data.load("digits"), data.load("digits", validation_images=100, split_seed=1)
    assert (len(other.train), len(other.val)) == (1297, 100)
    assert torch.equal(other.test.images, usual.test.images)
    assert pixels(other.train) | pixels(other.val) == pixels(usual.train) | pixels(usual.val)
    assert not torch.equal(data.load("digits", split_seed=1).val.images, usual.val.images)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.rand(4, 3, 8, 8), torch.arange(4), "uint8"),
        (torch.zeros(4, 3, 8, 8, dtype=torch.int64), torch.arange(4), "uint8"),
        (torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4), "three times"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), torch.arange(3), "N, 3, H, W"),
        (torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(3), "one an image"),
        (torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4).float(), "int64"),
    ],
)
def test_a_split_takes_nothing_else_than_bytes_and_classes(images, labels, message):
    with pytest.raises(ValueError, match=message) as refused:
        data.Split(images, labels)
    assert "\n" not in str(refused.value)


def test_images_from_0_to_1_are_refused_wherever_they_come_in():
    scaled = torch.rand(10, 3, 8, 8)
    with pytest.raises(ValueError, match=r"255 \* images"):
        Splits.of(scaled, torch.arange(10) % 2)
    with pytest.raises(ValueError, match=r"255 \* images"):
        data.normalize(scaled, models.NORMALIZATIONS["half"])


# One's own images -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["tensor", "array", "channels last"])
@pytest.mark.parametrize(("classes", "size"), [(2, 8), (7, 20), (33, 5)])
def test_own_images_of_any_size_and_class_count(layout, classes, size):
    whole = tiny.images(20 * classes, size, classes)
    images = whole.images if layout == "tensor" else whole.images.numpy()
    images = images.transpose(0, 2, 3, 1) if layout == "channels last" else images
    splits = Splits.of(images, whole.labels.numpy().astype(np.int16), device=CPU)
    parts = splits.train, splits.val, splits.test
    assert sum(map(len, parts)) == 20 * classes and set.union(*map(pixels, parts)) == pixels(whole)
    for part in parts:  # as many of each class as can be
        assert part.labels.bincount().max() - part.labels.bincount().min() <= 1
    assert len(splits.test) == 4 * classes and len(splits.val) == -(-16 * classes // 10)
    assert splits.classes == tuple(map(str, range(classes)))
    again, other = Splits.of(images, whole.labels, device=CPU), Splits.of(images, whole.labels, seed=1, device=CPU)
    assert torch.equal(again.train.images, splits.train.images) and not torch.equal(other.train.images, splits.train.images)


def test_own_held_out_images_are_taken_as_they_are():
    train, val, test = tiny.images(30, 8, 3), tiny.images(9, 8, 3), tiny.images(12, 8, 3)
    names = ("cat", "dog", "owl")
    splits = Splits.of(
        train.images,
        train.labels,
        val=(val.images, val.labels),
        test=(test.images, test.labels),
        classes=names,
        mirrors=False,
        device=CPU,
    )
    for given, taken in ((train, splits.train), (val, splits.val), (test, splits.test)):
        assert torch.equal(given.images, taken.images) and torch.equal(given.labels, taken.labels)
    assert (splits.classes, splits.train.mirrors) == (names, False)
    assert len(Splits.of(train.images, train.labels, val=3, test=6, device=CPU).train) == 21


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((20, 3, 8, 9), np.uint8)}, "squares"),
        ({"images": np.zeros((20, 8, 8), np.uint8)}, "N, 3, H, W"),
        ({"images": np.zeros((20, 1, 8, 8), np.uint8)}, "three times"),
        ({"images": np.zeros((19, 3, 8, 8), np.uint8)}, "one an image"),
        ({"images": np.zeros((20, 8, 8, 3), np.float32)}, "uint8"),
        ({"labels": np.array(["cat", "dog"] * 10)}, "whole numbers"),
        ({"labels": np.arange(20) % 2 / 2}, "whole numbers"),
        ({"labels": np.arange(20) % 2 - 1}, "from 0"),
        ({"classes": ["one"]}, "from 0 to 0"),
        ({"labels": np.arange(20)}, "class"),
        ({"test": (np.zeros((4, 3, 9, 9), np.uint8), np.zeros(4, int))}, "different sizes"),
    ],
)
def test_own_images_of_another_kind_are_one_line(change, message):
    given = {"images": np.zeros((20, 3, 8, 8), np.uint8), "labels": np.arange(20) % 2} | change
    with pytest.raises(ValueError, match=message) as refused:
        Splits.of(given.pop("images"), given.pop("labels"), **given)
    assert "\n" not in str(refused.value)


def test_a_folder_of_images_has_a_class_a_folder(tmp_path):
    for name, shade in (("cats", 40), ("dogs", 200)):
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.new("RGB", (12, 8), (shade, i, 0)).save(tmp_path / name / f"{i}.png")
    splits = Splits.of_folder(tmp_path, size=8, val=0.25, device=CPU)
    assert splits.classes == ("cats", "dogs") and splits.name == tmp_path.name
    for split in (splits.train, splits.val, splits.test):
        assert split.images.shape[1:] == (3, 8, 8)
        assert split.images[:, 0, 0, 0].tolist() == [(40, 200)[label] for label in split.labels]
    with pytest.raises(ValueError, match="squares"):
        Splits.of_folder(tmp_path)
    Image.new("L", (9, 9)).save(tmp_path / "cats" / "grey.png")
    with pytest.raises(ValueError, match="size=32"):
        Splits.of_folder(tmp_path)
    Image.fromarray(np.full((8, 8), 1000, np.uint16)).save(tmp_path / "cats" / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png has more than 8 bits"):
        Splits.of_folder(tmp_path, size=8)
    (tmp_path / "cats" / "deep.png").unlink()
    (tmp_path / "cats" / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"notes\.txt is no image"):
        Splits.of_folder(tmp_path, size=8)
    with pytest.raises(FileNotFoundError, match="one a class"):
        Splits.of_folder(tmp_path / "nowhere")


# A batch at a time ------------------------------------------------------------------------------------------------


def test_normalize_is_the_formula():
    images = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    torch.testing.assert_close(data.normalize(images, models.NORMALIZATIONS["half"]), images / 127.5 - 1)
    own = models.Normalization("own", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (own.mean, own.std))
    torch.testing.assert_close(data.normalize(images, own), (images / 255 - mean) / std)
    assert data.normalize(images, own, torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("padding", [4, 1, 0])
def test_a_crop_is_a_window_of_the_padded_image_and_every_image_has_its_own(padding):
    image = torch.arange(1, 3 * 32 * 32 + 1).remainder(251).to(torch.uint8).view(1, 3, 32, 32)
    batch = data.augment(image.repeat(200, 1, 1, 1), torch.Generator().manual_seed(1), padding=padding)
    windows, places = set(), range(2 * padding + 1)
    for flip in (False, True):
        padded = torch.nn.functional.pad(image.flip(3) if flip else image, [padding] * 4)[0]
        windows |= {padded[:, y : y + 32, x : x + 32].numpy().tobytes() for y in places for x in places}
    made = {one.numpy().tobytes() for one in batch}
    assert made <= windows and len(windows) == 2 * len(places) ** 2
    assert len(made) > min(60, len(windows) - 1)  # 200 draws
    straight = data.augment(image.repeat(200, 1, 1, 1), torch.Generator().manual_seed(1), padding=padding, mirrors=False)
    assert len({one.numpy().tobytes() for one in straight}) <= len(places) ** 2
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    told = data.augment(image.repeat(4, 1, 1, 1), generators[0], padding=padding, mirrors=torch.tensor([True, False] * 2))
    as_is = data.augment(torch.cat([image.flip(3), image] * 2), generators[1], padding=padding, mirrors=False)
    assert torch.equal(told, as_is)


def test_images_are_padded_by_four_pixels_unless_told():
    images = tiny.images(50).images
    usual, four = (data.augment(images, torch.Generator().manual_seed(2), **o) for o in ({}, {"padding": 4}))
    assert torch.equal(usual, four) and data.augment(images[:0], torch.Generator()).shape == (0, 3, 32, 32)


def test_a_balanced_draw_has_as_many_of_each_class():
    drawn = data.class_balanced(data.load("digits").train, 7, seed=3)
    assert drawn.labels.bincount().tolist() == [7] * 10
    with pytest.raises(ValueError, match="are wanted"):
        data.class_balanced(data.load("digits").train, 1000, seed=3)


# CIFAR ------------------------------------------------------------------------------------------------------------


@needs_cifar
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_real_cifar_has_its_published_means(name):
    if (found := cifar.find(name)) is None:
        pytest.skip(f"no {name} in CIFAR_DIR")
    part = cifar._part(name, found[1], "test")  # a sixth of the time that all images take
    assert part.images.shape == (10_000, 3, 32, 32)
    assert np.allclose(part.images.double().mean((0, 2, 3)) / 255, models.NORMALIZATIONS[name].mean, atol=4e-3)


def encoded(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), shade, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def parquet(path, count: int, classes: int = 10, image: str = "img", label: str = "label", cell=None, **options) -> bytes:
    """`count` plain images, image i of shade i, in the layout of the public hub."""
    cell = cell or (lambda i: {"bytes": encoded(i), "path": f"{i}.png"})
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table({image: [cell(i) for i in range(count)], label: [i % classes for i in range(count)]})
    pyarrow.parquet.write_table(table, path, **options)
    return path.read_bytes()


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, and numpy's module by its old name: as the authors' batches are."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

    def save_global(self, value, name=None):
        self.write(
            pickle.GLOBAL + value.__module__.replace("numpy._core", "numpy.core").encode() + f"\n{value.__name__}\n".encode()
        )

    dispatch[bytes] = save_bytes


def batch(path, shades: list[int], **labels: list[int]) -> None:
    rows = np.repeat(np.array(shades, np.uint8)[:, None], 3072, axis=1)
    with open(path, "wb") as handle:
        Python2Pickler(handle, protocol=2).dump({"data": rows, "batch_label": "one", **labels})


def batches(folder, name: str) -> None:
    """20 training and 10 test images of CIFAR-10, or 200 and 100 of CIFAR-100, as the authors' archive has them."""
    folder.mkdir(parents=True)
    if name == "cifar10":
        for i in range(5):
            batch(folder / f"data_batch_{i + 1}", [4 * i + k for k in range(4)], labels=[(4 * i + k) % 10 for k in range(4)])
        batch(folder / "test_batch", list(range(10)), labels=list(range(10)))
    else:
        batch(folder / "train", list(range(200)), fine_labels=[i % 100 for i in range(200)], coarse_labels=[0] * 200)
        batch(folder / "test", list(range(100)), fine_labels=list(range(100)), coarse_labels=[0] * 100)


@pytest.fixture
def small_cifar(own_folders, monkeypatch):
    """CIFAR is looked for in an empty folder and has 20 training and 10 test images."""
    monkeypatch.setattr(cifar, "IMAGES", {"train": 20, "test": 10})
    monkeypatch.setenv("CIFAR_DIR", str(own_folders / "cifar"))
    (own_folders / "cifar").mkdir()
    return own_folders / "cifar"


HUB = "plain_text/train-00000-of-00001.parquet"
PLACES = ["cifar10/train.parquet", f"cifar10/{HUB}", HUB, "train.parquet", "cifar10/data/train-00000-of-00001.parquet"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("image", "label"), [("img", "label"), ("image", "labels")])
def test_parquet_is_found_where_people_have_it(small_cifar, place, image, label):
    with pytest.raises(FileNotFoundError, match="CIFAR_DIR=.* holds no cifar10"):
        data.load("cifar10")
    parquet(small_cifar / place, 20, image=image, label=label)
    parquet(small_cifar / place.replace("train", "test"), 10, image=image, label=label)
    assert cifar.find("cifar10") and not cifar.find("cifar100")
    splits = data.load("cifar10", CPU, validation_images=10)
    shades = torch.cat([splits.train.images, splits.val.images])[:, 0, 0, 0]
    assert sorted(shades.tolist()) == list(range(20)) and splits.test.images[:, 2, 5, 9].tolist() == list(range(10))
    assert (shades % 10).tolist() == torch.cat([splits.train.labels, splits.val.labels]).tolist()
    assert splits.classes[3] == "cat" and "all images pixel-exact, validation images drawn here" in splits.source


def test_the_other_data_set_is_not_taken_for_this_one(small_cifar):
    parquet(small_cifar / "cifar100" / "train-00000-of-00001.parquet", 200, 100, label="fine_label")
    assert cifar.find("cifar100") and not cifar.find("cifar10")
    parquet(small_cifar / "train.parquet", 200, 100, label="fine_label")
    assert not cifar.find("cifar10")


CELLS = {
    "bytes": encoded,
    "lossy": lambda i: {"bytes": encoded(i), "path": f"{i}.jpg" if i < 3 else None},
}


@pytest.mark.parametrize("cell", CELLS)
def test_images_are_bytes_alone_or_in_a_struct(small_cifar, cell):
    for split, count in (("train", 20), ("test", 10)):
        parquet(small_cifar / f"{split}.parquet", count, cell=CELLS[cell])
    splits = data.load("cifar10", CPU, validation_images=10)
    assert splits.test.images[:, 1, 7, 7].tolist() == list(range(10))
    assert ("80.0 % of images pixel-exact" in splits.source) == (cell == "lossy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": "picture"}, "columns picture, label, none called img or image"),
        ({"label": "class"}, "none called label or labels"),
        ({"cell": lambda i: np.full((32, 32, 3), i).tolist()}, "TypeError"),
        ({"cell": lambda i: b"no image"}, "UnidentifiedImageError"),
        ({"classes": 9}, "equal classes"),
    ],
)
def test_parquet_of_another_kind_names_what_is_wrong(small_cifar, options, message):
    parquet(small_cifar / "cifar10" / "train.parquet", 20, **options)
    parquet(small_cifar / "cifar10" / "test.parquet", 10)
    with pytest.raises(files.CorruptFile, match=message) as refused:
        data.load("cifar10")
    assert "train.parquet" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("label", [-1, 10, 2**40])
def test_a_label_that_is_no_class_is_told(small_cifar, label):
    path = small_cifar / "train.parquet"
    parquet(path, 20)
    table = pyarrow.parquet.read_table(path)
    labels = pyarrow.array([label, *table["label"].to_pylist()[1:]])
    pyarrow.parquet.write_table(table.set_column(1, "label", labels), path)
    with pytest.raises(files.CorruptFile, match=r"train\.parquet"):
        data.load("cifar10")


def test_parquet_is_decoded_once_and_its_other_half_is_missed(small_cifar, monkeypatch):
    parquet(small_cifar / "train.parquet", 20)
    with pytest.raises(FileNotFoundError, match=r"test\.parquet is missing"):
        data.load("cifar10")
    parquet(small_cifar / "test.parquet", 10)
    decoded, decode = [], cifar._decode
    monkeypatch.setattr(cifar, "_decode", lambda name, path: decoded.append(path.name) or decode(name, path))
    loaded = [data.load("cifar10", CPU, validation_images=10) for _ in range(2)]
    assert decoded == ["test.parquet"]  # the other half was decoded before
    for cached in settings.cache_path(".").glob("*.safetensors"):
        cached.write_bytes(cached.read_bytes()[:-4])
    loaded.append(data.load("cifar10", CPU, validation_images=10))
    assert decoded == ["test.parquet", "train.parquet", "test.parquet"]  # a damaged cache is only a cache
    monkeypatch.setenv("BUILD_DIR", str(small_cifar / "train.parquet"))  # where no cache can be written
    loaded.append(data.load("cifar10", CPU, validation_images=10))
    assert len(decoded) == 5
    parquet(small_cifar / "test.parquet", 10, cell=lambda i: encoded(i + 100))
    loaded.append(data.load("cifar10", CPU, validation_images=10))
    assert all(torch.equal(splits.train.images, loaded[0].train.images) for splits in loaded)
    assert [int(splits.test.images[0, 0, 0, 0]) for splits in loaded] == [0, 0, 0, 0, 100]


def test_damaged_parquet_is_told_or_holds_the_same_images(tmp_path):
    path = tmp_path / "train.parquet"
    noise = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)

    def cell(i: int) -> dict:
        buffer = io.BytesIO()
        Image.fromarray(noise[i] // 32 * 32).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": f"{i}.png"}

    whole = parquet(path, 10, cell=cell, write_page_checksum=True)
    intact, refused = cifar._decode("cifar10", path), 0
    for broken in tiny.damaged(whole, 300):
        path.write_bytes(broken)
        try:
            found = cifar._decode("cifar10", path)
        except files.CorruptFile as error:
            assert "train.parquet" in str(error) and "\n" not in str(error)
            refused += 1
        else:
            assert torch.equal(found.images, intact.images) and torch.equal(found.labels, intact.labels)
    assert refused > 200


@pytest.mark.filterwarnings("ignore:loadtxt")
def test_listed_validation_images_hold(small_cifar):
    for split, count in (("train", 20), ("test", 10)):
        parquet(small_cifar / f"{split}.parquet", count)
    listed = small_cifar / "validation.csv"
    listed.write_text("row\n3\n11\n")
    splits = data.load("cifar10", CPU)
    assert splits.val.images[:, 0, 0, 0].tolist() == [3, 11] and len(splits.train) == 18
    assert "drawn here" not in splits.source
    with pytest.raises(ValueError, match=r"validation\.csv names the validation images"):
        data.load("cifar10", split_seed=1)
    for wrong in ("row\n3\n3\n", "row\n20\n", "row\nthree\n", "row\n"):
        listed.write_text(wrong)
        with pytest.raises(files.CorruptFile, match=r"validation\.csv"):
            data.load("cifar10")


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
@pytest.mark.parametrize("place", ["{batches}", "{name}/{batches}", "."])
def test_the_authors_batches_are_found_and_nothing_in_them_is_executed(small_cifar, monkeypatch, name, classes, place):
    folder = small_cifar / place.format(name=name, batches=cifar.BATCHES[name])
    if place == ".":
        folder = small_cifar.parent / "elsewhere" / cifar.BATCHES[name]
        monkeypatch.setenv("CIFAR_DIR", str(folder))
    batches(folder, name)
    monkeypatch.setattr(cifar, "IMAGES", {"train": 2 * classes, "test": classes})
    splits = data.load(name, CPU, validation_images=classes)
    assert splits.test.images[:, 1, 2, 3].tolist() == list(range(classes)) == splits.test.labels.tolist()
    assert len(set(splits.classes)) == classes and "batches" in splits.source
    target = small_cifar / "executed"
    test_file = folder / cifar.BATCH_FILES[name, "test"][0]
    for content in (tiny.trap(target), b"", b"\x80", pickle.dumps({"labels": []}), pickle.dumps([1])):
        test_file.write_bytes(content)
        with pytest.raises(files.CorruptFile, match=test_file.name):
            data.load(name)
    assert not target.exists()


def test_a_download_is_whole_checked_and_kept(small_cifar, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("CIFAR_DIR")
    downloads = tmp_path / "downloads"
    monkeypatch.setattr(settings, "download_dir", lambda: downloads)
    batches(tmp_path / "packed" / cifar.BATCHES["cifar10"], "cifar10")
    archive = tmp_path / "archive.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "packed" / cifar.BATCHES["cifar10"], cifar.BATCHES["cifar10"])
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", (archive.as_uri(), "0" * 64))
    with pytest.raises(FileNotFoundError, match="could not be downloaded.*hash"):
        data.load("cifar10")
    assert not cifar.find("cifar10")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", (archive.as_uri(), digest))
    assert len(data.load("cifar10", validation_images=10).test) == 10
    archive.unlink()
    assert len(data.load("cifar10", validation_images=10).train) == 10
    assert "downloading cifar10" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="set CIFAR_DIR") as refused:
        monkeypatch.setitem(cifar.ARCHIVES, "cifar100", (archive.as_uri(), digest))
        data.load("cifar100")
    assert "\n" not in str(refused.value) and not cifar.find("cifar100")


def test_an_unknown_data_set_gets_the_nearest_one():
    with pytest.raises(ValueError, match="did you mean 'cifar100'"):
        data.load("cifar-100")
