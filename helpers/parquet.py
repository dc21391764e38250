"""CIFAR in the Parquet layout of the sets uoft-cs/cifar10 and uoft-cs/cifar100: one file, decoded once."""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch
from PIL import Image
from torch import Tensor

from helpers import files, settings

LABEL_COLUMNS = {"cifar10": "label", "cifar100": "fine_label"}
CIFAR100_CLASSES = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
    lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal
    shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
    telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()  # noqa: SIM905
)
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Images:
    """All of one file: images uint8 (N, 3, 32, 32), labels int64 (N,), how many images are lossy copies, class names."""

    images: Tensor
    labels: Tensor
    lossy: int
    classes: tuple[str, ...]


def read(name: str, path: Path, expected: int) -> Images:
    """The `expected` images of one file of "cifar10" or "cifar100"; decoded once, then cached under the file's digest.

    Raises FileNotFoundError or files.CorruptFile naming the file and the way out.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: point CIFAR_DIR at a folder with {name}/train.parquet, or unset it to download"
        )
    cache = settings.cache_path(f"{name}-{path.stem}-{_digest(path)}.safetensors")
    if cache.is_file():
        try:
            tensors, meta = files.load_tensors(cache)
            return Images(tensors["images"], tensors["labels"], int(meta["lossy"]), tuple(meta["classes"].split("\n")))
        except (files.CorruptFile, KeyError):
            pass  # a damaged cache is only a cache
    decoded = decode(name, path, expected)
    meta = {"lossy": str(decoded.lossy), "classes": "\n".join(decoded.classes)}
    files.save_tensors(cache, {"images": decoded.images, "labels": decoded.labels}, meta)
    return decoded


def decode(name: str, path: Path, expected: int) -> Images:
    """The same without the cache."""
    advice = f"{path} is damaged or of another layout"
    try:
        table = pyarrow.parquet.read_table(path, page_checksum_verification=True)  # where it has checksums
        column = "img" if "img" in table.column_names else "image"
        stored = table[column].to_pylist()
        labels = torch.tensor(table[LABEL_COLUMNS[name]].to_pylist(), dtype=torch.int64)
        arrays = [np.asarray(Image.open(io.BytesIO(item["bytes"])).convert("RGB")) for item in stored]
        images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    except (pyarrow.ArrowException, OSError, KeyError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())[:120]
        raise files.CorruptFile(f"{advice} ({type(error).__name__}: {reason}); fetch it again") from None
    classes = _class_names(name, table.schema.metadata or {})
    counts = torch.bincount(labels.clamp(-1, len(classes)) + 1, minlength=len(classes) + 2)  # both ends: no class
    if images.shape != (expected, 3, 32, 32) or counts.tolist() != [0, *[expected // len(classes)] * len(classes), 0]:
        raise files.CorruptFile(
            f"{advice}: expected {expected} images of 32×32 in {len(classes)} equal classes, "
            f"found {tuple(images.shape)}; fetch it again"
        )
    lossy = sum(str(item.get("path") or "").endswith(".jpg") for item in stored)
    return Images(images, labels, lossy, classes)


def _class_names(name: str, metadata: dict[bytes, bytes]) -> tuple[str, ...]:
    """Names from the Hugging Face schema where the file carries it, else the published ones in label order."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return tuple(features[LABEL_COLUMNS[name]]["names"])
    except (KeyError, ValueError, TypeError):
        return CIFAR10_CLASSES if name == "cifar10" else CIFAR100_CLASSES


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()[:16]
