"""Images as uint8 tensors: loaded once, kept whole in memory, normalised and augmented a batch at a time."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from helpers import cifar, files, machine, settings
from helpers.models import Normalization

DATASETS = ("cifar10", "cifar100", "digits")
VALIDATION_IMAGES, DIGITS_VALIDATION_IMAGES, DIGITS_TEST_IMAGES = 5000, 300, 400
SPLIT_SEED = 0
CROP_PADDING = 4

Images = np.ndarray | Tensor
Pair = tuple[Images, Images | Sequence[int]]  # images and their labels


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, 3, H, W) and labels int64 (N,), on one device; `mirrors`: a mirrored image is of its class.

    ValueError for anything else, images scaled to 0…1 above all.
    """

    images: Tensor
    labels: Tensor
    mirrors: bool = True

    def __post_init__(self):
        require_uint8(self.images)
        if self.images.ndim != 4 or self.images.shape[1] != 3:
            raise ValueError(f"images must be (N, 3, H, W), not {tuple(self.images.shape)}; repeat a single channel three times")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels must be int64, one an image ({len(self.images)},), not {self.labels.dtype} {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> "Split":
        return replace(self, images=self.images[index], labels=self.labels[index])

    def to(self, device: torch.device) -> "Split":
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True)
class Splits:
    """`train` fits weights, `val` makes every decision, `test` makes none: it is read for a result alone.

    `source` is where the images come from, in words.
    """

    name: str
    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    source: str

    def to(self, device: torch.device) -> "Splits":
        return replace(self, **{part: getattr(self, part).to(device) for part in ("train", "val", "test")})

    @classmethod
    def of(
        cls,
        images: Images,
        labels: Images | Sequence[int],
        *,
        test: Pair | float | int = 0.2,
        val: Pair | float | int = 0.1,
        classes: Sequence[str] | None = None,
        seed: int = SPLIT_SEED,
        mirrors: bool = True,
        name: str = "own",
        device: torch.device | None = None,
    ) -> "Splits":
        """Splits of one's own images: uint8, (N, 3, H, W) or (N, H, W, 3), square, of any size; arrays or tensors.

        Args:
            labels: whole numbers from 0, one an image.
            test, val: (images, labels), or how many of the images to hold out for it, a share or a number, as many of each
                class as there are in all. The test images are drawn first.
            classes: names in the order of the labels; default: the numbers.
            seed: of the draws.
            mirrors: whether training may mirror an image (not a digit, say).

        ValueError where images or labels are of another kind, or a class has too few images to be divided.
        """
        rest, parts = _own(images, labels), {}
        for part, wanted in (("test", test), ("val", val)):
            if isinstance(wanted, tuple):
                parts[part] = _own(*wanted)
            else:
                rest, parts[part] = _divide(rest, _stratified(rest.labels, wanted, seed))
        parts["train"] = Split(rest.images, rest.labels, mirrors)
        if len({split.images.shape[1:] for split in parts.values()}) > 1:
            raise ValueError(f"images of different sizes: {', '.join(f'{k} {tuple(v.images.shape)}' for k, v in parts.items())}")
        highest = max(int(split.labels.max()) for split in parts.values())
        names = tuple(classes) if classes is not None else tuple(map(str, range(highest + 1)))
        if highest >= len(names) or min(int(split.labels.min()) for split in parts.values()) < 0:
            raise ValueError(f"labels must be from 0 to {len(names) - 1}, one a class; the highest is {highest}")
        return cls(name, **parts, classes=names, source=f"{name}: one's own images").to(device or machine.device())

    @classmethod
    def of_folder(cls, path: str | Path, *, size: int | None = None, **options) -> "Splits":
        """Splits of a folder of images with one folder a class, in the order of their names; for `options` see `of`.

        `size`: each image is cropped to a square in its middle and scaled to `size`×`size`; without it all must be squares of
        one size. FileNotFoundError where there are no such folders, ValueError for a file that is no image.
        """
        path = Path(path)
        folders = sorted(folder for folder in path.iterdir() if folder.is_dir()) if path.is_dir() else []
        listed = [(file, label) for label, folder in enumerate(folders) for file in sorted(folder.iterdir()) if file.is_file()]
        if not listed:
            raise FileNotFoundError(f"{path} holds no folders of images, one a class")
        images = [_image(file, size) for file, _ in listed]
        if len({image.shape for image in images}) > 1:
            raise ValueError(f"the images in {path} have different sizes; size=32 brings them to 32×32")
        labels = [label for _, label in listed]
        return cls.of(np.stack(images), labels, **{"classes": [f.name for f in folders], "name": path.name} | options)


def load(
    name: str,
    device: torch.device | None = None,
    *,
    validation_images: int = VALIDATION_IMAGES,
    split_seed: int = SPLIT_SEED,
) -> Splits:
    """The three splits of "cifar10", "cifar100" (45,000 / 5,000 / 10,000) or "digits" (1,097 / 300 / 400).

    Args:
        device: where the tensors go, default `machine.device()`.
        validation_images: how many of the training images are held out to validate with, as many of each class; of the
            digits at most 300. Where CIFAR's folder lists them (validation.csv), the list holds and nothing is drawn.
        split_seed: of that draw.

    CIFAR comes from $CIFAR_DIR or from a download, see `cifar.load`. Raises FileNotFoundError or files.CorruptFile naming the
    file and the way out, ValueError for a size or seed that a listed validation split does not have.
    """
    settings.choose("data set", name, DATASETS)
    splits = _digits(validation_images, split_seed) if name == "digits" else _cifar(name, validation_images, split_seed)
    return splits.to(device or machine.device())


def require_uint8(images: Tensor) -> None:
    """ValueError where images are not uint8: numbers from 0 to 1 taken for 0 to 255 would be black."""
    if images.dtype != torch.uint8:
        raise ValueError(
            f"images must be uint8 from 0 to 255, not {images.dtype}; of images from 0 to 1 (as ToTensor gives them) make "
            "(255 * images).round().to(torch.uint8)"
        )


@functools.cache
def _scale_and_shift(normalization: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (normalization.mean, normalization.std))
    return 1 / (255 * std), mean / std


def normalize(images: Tensor, normalization: Normalization, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 (N, 3, H, W) → float of mean 0 and standard deviation 1 a channel, in `dtype`; ValueError for other images."""
    require_uint8(images)
    scale, shift = _scale_and_shift(normalization, images.device)
    return (images * scale - shift).to(dtype)


def augment(images: Tensor, generator: torch.Generator, *, padding: int = CROP_PADDING, mirrors: bool | Tensor = True) -> Tensor:
    """Each image mirrored and cropped at a random place after zero padding, in pixels.

    mirrors: True, each with probability ½; False, none; or one bool an image.
    """
    count, _, height, width = images.shape
    drawn = torch.rand(3, count, generator=generator, device=generator.device).to(images.device)
    chosen = mirrors if isinstance(mirrors, Tensor) else (drawn[0] < 0.5) & mirrors
    flipped = torch.where(chosen.view(-1, 1, 1, 1), images.flip(3), images)
    padded = torch.nn.functional.pad(flipped, [padding] * 4)
    top, left = (drawn[1:] * (2 * padding + 1)).long()
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view (N, 3, 2p + 1, 2p + 1, H, W), nothing copied
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


def _divide(split: Split, held_out: np.ndarray) -> tuple[Split, Split]:
    """(all other images, held-out images), each in the order of `split`."""
    mask = torch.zeros(len(split), dtype=torch.bool)
    mask[torch.from_numpy(held_out)] = True
    return split.subset(~mask), split.subset(mask)


def _stratified(labels: Tensor, count: int | float, seed: int) -> np.ndarray:
    """Which images to hold out, as many of each class as there are in all."""
    _, held_out = train_test_split(np.arange(len(labels)), test_size=count, stratify=labels.numpy(), random_state=seed)
    return held_out


def _digits(validation_images: int, split_seed: int) -> Splits:
    """scikit-learn's 1,797 scanned digits, enlarged from 8×8 to 32×32 and repeated over three channels."""
    bundle = load_digits()
    small = torch.from_numpy(bundle.images).float().unsqueeze(1) * (255 / 16)
    large = torch.nn.functional.interpolate(small, size=32, mode="bilinear", align_corners=False).round().to(torch.uint8)
    whole = Split(large.repeat(1, 3, 1, 1), torch.from_numpy(bundle.target).long())
    rest, test = _divide(whole, _stratified(whole.labels, DIGITS_TEST_IMAGES, SPLIT_SEED))
    train, val = _divide(rest, _stratified(rest.labels, min(validation_images, DIGITS_VALIDATION_IMAGES), split_seed))
    train = Split(train.images, train.labels, mirrors=False)  # a mirrored 2 is no 2
    source = "digits that ship inside scikit-learn, enlarged to 32×32"
    return Splits("digits", train, val, test, tuple(map(str, range(10))), source)


def _cifar(name: str, validation_images: int, split_seed: int) -> Splits:
    train, test, listed = cifar.load(name)
    whole = Split(train.images, train.labels)
    if listed is not None and (validation_images, split_seed) != (VALIDATION_IMAGES, SPLIT_SEED):
        raise ValueError(f"{listed} names the validation images; remove it to draw others by size and seed")
    held_out = _stratified(whole.labels, validation_images, split_seed) if listed is None else _listed(listed, len(whole))
    kept, val = _divide(whole, held_out)
    total, lossy = len(whole) + len(test.labels), train.lossy + test.lossy
    # rounded down: 98.108 % must not read as "all but 1.9 %" of a larger figure
    exact = f"{int(1000 * (total - lossy) / total) / 10:.1f} % of images pixel-exact" if lossy else "all images pixel-exact"
    drawn = "" if listed else ", validation images drawn here"  # a network trained elsewhere may have been trained on them
    source = f"{name.upper().replace('CIFAR', 'CIFAR-')} from {train.kind}, {exact}{drawn}"
    return Splits(name, kept, val, Split(test.images, test.labels), tuple(cifar.CLASSES[name].split()), source)


def _listed(path: Path, count: int) -> np.ndarray:
    """The row numbers in a validation.csv."""
    try:
        rows = np.loadtxt(path, skiprows=1, dtype=np.int64, ndmin=1)
    except ValueError as error:
        raise files.CorruptFile(f"{path} is not a list of row numbers ({error}); restore it or remove it") from None
    if len(np.unique(rows)) != len(rows) or rows.min(initial=0) < 0 or rows.max(initial=0) >= count or len(rows) == 0:
        raise files.CorruptFile(f"{path} must list different row numbers from 0 to {count - 1}; restore it or remove it")
    return rows


def _own(images: Images, labels: Images | Sequence[int]) -> Split:
    """A reader's images (N, 3, H, W) or (N, H, W, 3) and labels, checked and copied."""
    images, labels = torch.tensor(np.asarray(images)), np.asarray(labels)
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be whole numbers, one a class from 0, not {labels.dtype}")
    if images.ndim == 4 and images.shape[1] != 3 and images.shape[3] == 3:
        images = images.permute(0, 3, 1, 2).contiguous()
    if images.ndim == 4 and images.shape[2] != images.shape[3]:
        raise ValueError(f"images must be squares, not {tuple(images.shape[2:])}: crop or pad them first")
    return Split(images, torch.tensor(labels.astype(np.int64)))


def _image(path: Path, size: int | None) -> np.ndarray:
    """(H, W, 3) uint8."""
    try:
        opened = Image.open(path)
        image = opened.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} is no image ({error}); remove it from the folder") from None
    if opened.mode.startswith(("I", "F")):  # Pillow would cut its pixels off at 255
        raise ValueError(f"{path} has more than 8 bits a pixel; scale it to 0…255 first")
    return np.asarray(image if size is None else ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR))
