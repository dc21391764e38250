"""CIFAR-10 and CIFAR-100 as people have them on disk: Parquet files, or the batches of the authors' archive.

Environment override: CIFAR_DIR.
"""

import contextlib
import hashlib
import io
import os
import pickle
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch
from PIL import Image
from torch import Tensor

from helpers import files, progress, settings

IMAGES = {"train": 50_000, "test": 10_000}
IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = {"cifar10": ("label", "labels"), "cifar100": ("fine_label", "fine_labels")}
LAYOUTS = ("train.parquet", "{part}", "plain_text/{part}", "{name}/{part}", "data/{part}")  # the later ones: a hub's download
HUB_PART = "train-00000-of-00001.parquet"
BATCHES = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}  # the archive's folder, torchvision's too
BATCH_FILES = {
    ("cifar10", "train"): [f"data_batch_{i}" for i in range(1, 6)],
    ("cifar10", "test"): ["test_batch"],
    ("cifar100", "train"): ["train"],
    ("cifar100", "test"): ["test"],
}
AUTHORS = "https://www.cs.toronto.edu/~kriz/cifar-"
ARCHIVES = {  # address and SHA-256
    "cifar10": (f"{AUTHORS}10-python.tar.gz", "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"),
    "cifar100": (f"{AUTHORS}100-python.tar.gz", "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"),
}
CLASSES = {
    "cifar10": "airplane automobile bird cat deer dog frog horse ship truck",
    "cifar100": """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
    lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal
    shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
    telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm""",
}


@dataclass(frozen=True)
class Part:
    """The training or the test images: uint8 (N, 3, 32, 32), labels int64 (N,), and how many images are lossy copies."""

    images: Tensor
    labels: Tensor
    lossy: int = 0
    kind: str = "batches"


def find(name: str) -> tuple[Path, Path] | None:
    """The folder of "cifar10" or "cifar100" and what it holds, the training file (Parquet) or a folder of batches; else None.

    Looked for in $CIFAR_DIR, else where downloads go; either may hold both data sets or be the folder of one.
    """
    base = settings.cifar_dir() or settings.download_dir()
    for folder in (base / name, base):
        for layout in LAYOUTS:
            path = folder / layout.format(name=name, part=HUB_PART)
            if path.is_file() and (folder != base or _is_of(name, path)):
                return folder, path
        batches = folder if folder.name == BATCHES[name] else folder / BATCHES[name]
        if batches.is_dir():
            return folder, batches
    return None


def load(name: str) -> tuple[Part, Part, Path | None]:
    """Training images, test images, and the file that lists the training images to validate with, where there is one.

    Downloads the authors' archive where $CIFAR_DIR is not set and nothing was downloaded before. Raises FileNotFoundError or
    files.CorruptFile naming the file and the way out.
    """
    found = find(name)
    if found is None and (base := settings.cifar_dir()) is not None:
        raise FileNotFoundError(
            f"CIFAR_DIR={base} holds no {name}: neither {name}/train.parquet, a hub's {name}/plain_text/{HUB_PART} nor "
            f"{BATCHES[name]}/; unset CIFAR_DIR to download"
        )
    folder, place = found or _download(name)
    train, test = (_part(name, place, split) for split in IMAGES)
    listed = folder / "validation.csv"
    return train, test, listed if listed.is_file() else None


def _part(name: str, place: Path, split: str) -> Part:
    if place.is_dir():
        return _from_batches(name, place, split)
    return _from_parquet(name, place.with_name(place.name.replace("train", split)), split)


def _checked(name: str, split: str, place: Path, part: Part) -> Part:
    """`part` where it has as many images of each class as the data set has; files.CorruptFile otherwise."""
    count, classes = IMAGES[split], len(CLASSES[name].split())
    counts = torch.bincount(part.labels.clamp(-1, classes) + 1, minlength=classes + 2)  # both ends: no class
    if part.images.shape != (count, 3, 32, 32) or counts.tolist() != [0, *[count // classes] * classes, 0]:
        raise files.CorruptFile(
            f"{place} is damaged or of another data set: expected {count} images of 32×32 in {classes} equal classes, "
            f"found {tuple(part.images.shape)}; fetch {name} again"
        )
    return part


# Parquet ----------------------------------------------------------------------------------------------------------


def _is_of(name: str, path: Path) -> bool:
    with contextlib.suppress(pyarrow.ArrowException, OSError):
        columns = set(pyarrow.parquet.read_schema(path).names)
        return (name == "cifar100") == bool(columns & {*LABEL_COLUMNS["cifar100"]})
    return False


def _from_parquet(name: str, path: Path, split: str) -> Part:
    """The images of one file, decoded once and then cached under the file's digest."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing beside its other half; fetch {name} again")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    cache = settings.cache_path(f"{name}-{split}-{digest}.safetensors")
    with contextlib.suppress(FileNotFoundError, files.CorruptFile, KeyError):  # a damaged cache is only a cache
        tensors, described = files.load_tensors(cache)
        return Part(tensors["images"], tensors["labels"], int(described["lossy"]), "Parquet")
    part = _checked(name, split, path, _decode(name, path))
    with contextlib.suppress(OSError):  # nor does one that cannot be written keep anybody from the images
        files.save_tensors(cache, {"images": part.images, "labels": part.labels}, {"lossy": str(part.lossy)})
    return part


def _decode(name: str, path: Path) -> Part:
    try:
        table = pyarrow.parquet.read_table(path, page_checksum_verification=True)  # where it has checksums
        cells = table[_column(table, IMAGE_COLUMNS)].to_pylist()
        labels = torch.tensor(table[_column(table, LABEL_COLUMNS[name])].to_pylist(), dtype=torch.int64)
        images = torch.from_numpy(np.stack([_pixels(cell) for cell in cells])).permute(0, 3, 1, 2).contiguous()
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())[:160]
        raise files.CorruptFile(f"{path} is damaged or of another layout ({type(error).__name__}: {reason})") from None
    lossy = sum(isinstance(cell, dict) and str(cell.get("path") or "").endswith(".jpg") for cell in cells)
    return Part(images, labels, lossy, "Parquet")


def _column(table: pyarrow.Table, wanted: tuple[str, ...]) -> str:
    present = [column for column in wanted if column in table.column_names]
    if not present:
        raise ValueError(f"it has the columns {', '.join(table.column_names)}, none called {' or '.join(wanted)}")
    return present[0]


def _pixels(cell: dict | bytes) -> np.ndarray:
    """(H, W, 3) uint8 from an encoded image, alone or in a struct."""
    encoded = cell["bytes"] if isinstance(cell, dict) else cell
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


# Batches ----------------------------------------------------------------------------------------------------------


class _ArraysOnly(pickle.Unpickler):
    """Reads arrays and plain values and refuses everything else, so that nothing in a file is executed."""

    def find_class(self, module: str, name: str):
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _from_batches(name: str, folder: Path, split: str) -> Part:
    images, labels = [], []
    for path in (folder / file for file in BATCH_FILES[name, split]):
        try:
            with open(path, "rb") as handle:
                batch = _ArraysOnly(handle, encoding="latin1").load()
            images.append(torch.from_numpy(batch["data"].reshape(-1, 3, 32, 32)))
            labels += batch["labels" if name == "cifar10" else "fine_labels"]
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} is missing; fetch {name} again") from None
        except (pickle.UnpicklingError, KeyError, ValueError, TypeError, AttributeError, EOFError, IndexError) as error:
            raise files.CorruptFile(
                f"{path} is not a batch of {name} ({type(error).__name__}: {error}); fetch it again"
            ) from None
    return _checked(name, split, folder, Part(torch.cat(images), torch.tensor(labels)))


def _download(name: str) -> tuple[Path, Path]:
    """What `find` gives, once the batches are there: from the authors' page, whole or not at all."""
    target, (address, digest) = settings.download_dir() / BATCHES[name], ARCHIVES[name]
    target.parent.mkdir(parents=True, exist_ok=True)
    with files.lock(target.with_suffix(".lock")), tempfile.TemporaryDirectory(dir=target.parent) as folder:
        if target.is_dir():  # another process has downloaded it meanwhile
            return target.parent, target
        progress.say(f"downloading {name} from {address} into {target.parent}")
        archive = Path(folder) / "archive.tar.gz"
        try:
            torch.hub.download_url_to_file(address, str(archive), digest, progress=False)
        except (OSError, RuntimeError) as error:  # the second for another digest
            raise FileNotFoundError(
                f"{name} is not on this machine and could not be downloaded ({str(error)[:120]}); set CIFAR_DIR to a folder "
                f"with {name}/train.parquet or {BATCHES[name]}/"
            ) from None
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        os.replace(Path(folder) / target.name, target)
    return target.parent, target
