"""Trained VGG16-BN networks for CIFAR, from a local file or the public release; nothing is executed from either."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from helpers import files, models, settings
from helpers.models import Normalization

SOURCES = ("local", "hub")
CLASSES = {"cifar10": 10, "cifar100": 100}
RELEASE = "https://github.com/chenyaofo/pytorch-cifar-models/releases/download/vgg"
RELEASED = {"cifar10": "cifar10_vgg16_bn-6ee7ea24.pt", "cifar100": "cifar100_vgg16_bn-7d8c4031.pt"}  # the name ends in its hash
# what the released networks were trained with, from that repository's training logs; CIFAR-10's is not the data set's own
RELEASED_NORMALIZATIONS = {
    "cifar10": Normalization("cifar10-released", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": Normalization("cifar100-released", (0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)),
}


def load(dataset: str, source: str = "local") -> models.VGG:
    """VGG16-BN trained on "cifar10" or "cifar100", in eval mode, with the normalisation that belongs to its weights.

    `source` is "local", a file in $WEIGHTS_DIR (one written by `models.save`, or a safetensors state dict whose header names
    the normalisation), or "hub", the release of chenyaofo/pytorch-cifar-models, checked against the hash in its name.
    Raises FileNotFoundError with the way out, files.CorruptFile for a damaged file, ValueError for another network's weights.
    """
    settings.choose("source of weights", source, SOURCES)
    classes = CLASSES[settings.choose("data set", dataset, CLASSES)]
    path = settings.weights_path(dataset)
    if source == "local" and models.metadata(path).get("kind") == models.FILE_KIND:
        network = models.load(path)
    elif source == "local":
        network = _network(dataset, *_from_file(path))
    else:
        network = _network(dataset, _from_hub(dataset), RELEASED_NORMALIZATIONS[dataset])
    if network.num_classes != classes:
        raise ValueError(f"the weights for {dataset} have {network.num_classes} classes, not {classes}")
    for name, tensor in network.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(f"the weights for {dataset} hold values that are not finite, in {name}: fetch or train them again")
    return network.eval()


def training_of(dataset: str) -> str | None:
    """How the local weights were trained, in the words of their file's header; None where it says nothing."""
    try:
        training = json.loads(models.metadata(settings.weights_path(dataset)).get("training", "null"))
    except ValueError:
        return None
    return training if isinstance(training, str) else None


def _network(dataset: str, tensors: dict[str, Tensor], normalization: Normalization) -> models.VGG:
    """VGG16-BN with these tensors and as many classes as they have."""
    outputs = tensors["classifier.6.bias"].numel() if "classifier.6.bias" in tensors else CLASSES[dataset]
    network = models.VGG(outputs, normalization=normalization)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()[:200]
        raise ValueError(f"the weights for {dataset} are not those of a VGG16-BN: {reason}") from None
    return network


def _from_file(path: Path) -> tuple[dict[str, Tensor], Normalization]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: put trained weights there, point WEIGHTS_DIR at them, or use source='hub'")
    try:
        with safe_open(path, framework="pt") as handle:
            header = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name).clone() for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise files.CorruptFile(f"{path} is not a readable safetensors file ({error}); fetch it again") from None
    try:
        values = json.loads(header["normalisation"])
        normalization = Normalization(path.stem, tuple(map(float, values["mean"])), tuple(map(float, values["std"])))
    except (KeyError, TypeError, ValueError) as error:
        raise files.CorruptFile(
            f"{path}: its header must name the normalisation (mean and std) its weights were trained with ({error})"
        ) from None
    return tensors, normalization


def _from_hub(dataset: str) -> dict[str, Tensor]:
    """The released state dict, read as tensors alone: torch.hub.load would run the repository's code."""
    name = RELEASED[dataset]
    stored = Path(torch.hub.get_dir()) / "checkpoints" / name
    wanted = Path(name).stem.rpartition("-")[2]
    if stored.is_file() and not hashlib.sha256(stored.read_bytes()).hexdigest().startswith(wanted):
        raise files.CorruptFile(
            f"{stored} is not the file of that name (its SHA-256 differs); delete it to have it fetched again"
        )
    try:
        return torch.hub.load_state_dict_from_url(
            f"{RELEASE}/{name}", map_location="cpu", check_hash=True, progress=False, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        reason = str(error)[:120]
        raise FileNotFoundError(f"the released weights for {dataset} could not be fetched ({reason}); use local ones") from None
