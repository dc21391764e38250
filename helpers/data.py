"""CIFAR and digits as uint8 tensors: loaded once, kept whole in memory, normalised and augmented a batch at a time."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from helpers import files, machine, parquet, settings
from helpers.models import Normalization

SPLIT_SEED = 0
VALIDATION_IMAGES = 5000
DRAWN = ", validation images drawn here"
CROP_PADDING = 4
DOWNLOADED = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}  # torchvision's folders


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, 3, H, W) and labels int64 (N,), on one device; a mirrored image is of its class unless said."""

    images: Tensor
    labels: Tensor
    mirrors: bool = True

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> "Split":
        return Split(self.images[index], self.labels[index], self.mirrors)


@dataclass(frozen=True)
class Splits:
    """train fits weights, val makes every decision, test makes none: a row reads it at its end, one that trains a pruned or
    given network also before."""

    name: str
    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    source: str


DATASETS = ("cifar10", "cifar100", "digits")


def load(name: str, device: torch.device | None = None) -> Splits:
    """The three splits of "cifar10", "cifar100" (45,000 / 5,000 / 10,000) or "digits" (1,097 / 300 / 400).

    CIFAR comes from $CIFAR_DIR in the Parquet layout of the sets uoft-cs/cifar10 and uoft-cs/cifar100, else from
    torchvision's download. Raises FileNotFoundError or files.CorruptFile naming the file and the way out.
    """
    settings.choose("data set", name, DATASETS)
    device = device or machine.device()
    if name == "digits":
        splits = _digits()
    else:
        directory = settings.cifar_dir()
        splits = _from_parquet(name, directory / name) if directory else _from_torchvision(name)

    def move(split: Split) -> Split:
        return Split(split.images.to(device), split.labels.to(device), split.mirrors)

    return Splits(name, move(splits.train), move(splits.val), move(splits.test), splits.classes, splits.source)


def at_hand(name: str) -> bool:
    """Whether `load(name)` needs no network."""
    return name == "digits" or settings.cifar_dir() is not None or (settings.download_dir() / DOWNLOADED[name]).is_dir()


def normalize(images: Tensor, normalization: Normalization, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 (N, 3, H, W) → float of mean 0 and standard deviation 1 a channel, in `dtype`."""
    scale = 1 / (255 * torch.tensor(normalization.std, device=images.device)).view(1, -1, 1, 1)
    shift = (torch.tensor(normalization.mean, device=images.device) / torch.tensor(normalization.std, device=images.device)).view(
        1, -1, 1, 1
    )
    return (images * scale - shift).to(dtype)


def augment(images: Tensor, generator: torch.Generator, *, mirrors: bool = True) -> Tensor:
    """Each image mirrored with probability ½ (if it may be) and cropped at a random place after zero padding by 4 pixels."""
    count, _, height, width = images.shape
    drawn = torch.rand(3, count, generator=generator).to(images.device)
    flipped = torch.where((drawn[0] < 0.5).view(-1, 1, 1, 1), images.flip(3), images) if mirrors else images
    padded = torch.nn.functional.pad(flipped, [CROP_PADDING] * 4)
    top, left = (drawn[1:] * (2 * CROP_PADDING + 1)).long()
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view (N, 3, 9, 9, H, W), nothing copied
    return windows[torch.arange(count, device=images.device), :, top, left]


def class_balanced(split: Split, per_class: int, seed: int) -> Split:
    """`per_class` random images of each class; ValueError when a class has fewer."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed)).to(split.labels.device)
    labels, picked = split.labels[order], []
    for label in split.labels.unique():
        of_class = order[labels == label][:per_class]
        if len(of_class) < per_class:
            raise ValueError(f"class {int(label)} has {len(of_class)} images, {per_class} are wanted")
        picked.append(of_class)
    return split.subset(torch.cat(picked))


# Sources ----------------------------------------------------------------------------------------------------------


def _divide(images: Tensor, labels: Tensor, held_out: np.ndarray) -> tuple[Split, Split]:
    """(all other images, held-out images), each in the order of the source."""
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[torch.from_numpy(held_out)] = True
    return Split(images[~mask], labels[~mask]), Split(images[mask], labels[mask])


def _stratified(labels: Tensor, count: int) -> np.ndarray:
    _, held_out = train_test_split(np.arange(len(labels)), test_size=count, stratify=labels.numpy(), random_state=SPLIT_SEED)
    return held_out


def _digits() -> Splits:
    """scikit-learn's 1,797 scanned digits, enlarged from 8×8 to 32×32 and repeated over three channels."""
    bundle = load_digits()
    small = torch.from_numpy(bundle.images).float().unsqueeze(1) * (255 / 16)
    large = torch.nn.functional.interpolate(small, size=32, mode="bilinear", align_corners=False).round().to(torch.uint8)
    images, labels = large.repeat(1, 3, 1, 1), torch.from_numpy(bundle.target).long()
    rest, test = _divide(images, labels, _stratified(labels, 400))
    train, val = _divide(rest.images, rest.labels, _stratified(rest.labels, 300))
    train = replace(train, mirrors=False)  # a mirrored 2 is no 2
    return Splits(
        "digits", train, val, test, tuple(map(str, range(10))), "digits that ship inside scikit-learn, enlarged to 32×32"
    )


def _from_parquet(name: str, directory: Path) -> Splits:
    train = parquet.read(name, directory / "train.parquet", 50_000)
    test = parquet.read(name, directory / "test.parquet", 10_000)
    listed = directory / "validation.csv"
    drawn = not listed.is_file()  # a network trained elsewhere may have seen images that are held out only here
    held_out = _stratified(train.labels, VALIDATION_IMAGES) if drawn else _listed_rows(listed, len(train.labels))
    kept, val = _divide(train.images, train.labels, held_out)
    total, lossy = len(train.labels) + len(test.labels), train.lossy + test.lossy
    # rounded down: 98.108 % must not read as "all but 1.9 %" of a larger figure
    exact = f"{int(1000 * (total - lossy) / total) / 10:.1f} % of images pixel-exact" if lossy else "all images pixel-exact"
    source = f"{name.upper().replace('CIFAR', 'CIFAR-')} from Parquet, {exact}{DRAWN if drawn else ''}"
    return Splits(name, kept, val, Split(test.images, test.labels), train.classes, source)


def _listed_rows(path: Path, count: int) -> np.ndarray:
    try:
        rows = np.loadtxt(path, skiprows=1, dtype=np.int64, ndmin=1)
    except ValueError as error:
        raise files.CorruptFile(f"{path} is not a list of row numbers ({error}); restore it or remove it") from None
    if len(np.unique(rows)) != len(rows) or rows.min(initial=0) < 0 or rows.max(initial=0) >= count or len(rows) == 0:
        raise files.CorruptFile(f"{path} must list different row numbers from 0 to {count - 1}; restore it or remove it")
    return rows


def _from_torchvision(name: str) -> Splits:
    kind = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}[name]
    root = settings.download_dir()
    try:
        dataset = getattr(_torchvision_datasets(), kind)
        parts = [dataset(root, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"{name} is neither in CIFAR_DIR nor could torchvision download it into {root} ({str(error)[:120]}); "
            f"set CIFAR_DIR to a folder with {name}/train.parquet and {name}/test.parquet"
        ) from None
    train, test = (Split(torch.from_numpy(p.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(p.targets)) for p in parts)
    kept, val = _divide(train.images, train.labels, _stratified(train.labels, VALIDATION_IMAGES))
    return Splits(
        name, kept, val, test, tuple(parts[0].classes), f"{name.upper().replace('CIFAR', 'CIFAR-')} from torchvision{DRAWN}"
    )


def _torchvision_datasets():
    """torchvision.datasets, also where its compiled operators cannot load (a CPU-only torch beside the stock wheel).

    Without them its import stops at two operators it wants to describe; declaring their schemas is enough, since
    data sets use none of them.
    """
    try:
        import torchvision.datasets
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision.datasets

        torchvision._schemas = library  # keeps the declarations alive
    return torchvision.datasets
