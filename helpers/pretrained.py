"""Trained VGG16-BN networks for CIFAR, from a local file or the public release; nothing is executed from either."""

import json
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from helpers import files, models, settings

SOURCES = ("local", "hub")
RELEASE = "https://github.com/chenyaofo/pytorch-cifar-models/releases/download/vgg"
RELEASED = {"cifar10": "cifar10_vgg16_bn-6ee7ea24.pt", "cifar100": "cifar100_vgg16_bn-7d8c4031.pt"}  # the name ends in its hash


def load(dataset: str, source: str = "local") -> models.VGG:
    """VGG16-BN trained on "cifar10" or "cifar100", in eval mode, with the normalisation that belongs to its weights.

    `source` is "local" (a safetensors state dict in $WEIGHTS_DIR whose header names the normalisation) or "hub"
    (the release of chenyaofo/pytorch-cifar-models, a download checked against its hash). Raises FileNotFoundError with the
    way out,
    files.CorruptFile for a damaged file, ValueError for weights of another network.
    """
    settings.choose("source of weights", source, SOURCES)
    classes = {"cifar10": 10, "cifar100": 100}[settings.choose("data set", dataset, ("cifar10", "cifar100"))]
    if source == "hub":
        tensors = _from_hub(dataset)
        normalization = models.NORMALIZATIONS[dataset]
    else:
        tensors, normalization = _from_file(settings.weights_path(dataset))
    network = models.VGG(classes, normalization=normalization)
    outputs = tensors["classifier.6.bias"].numel() if "classifier.6.bias" in tensors else None
    if outputs is not None and outputs != classes:
        raise ValueError(f"the weights for {dataset} have {outputs} classes, not {classes}: is it the file of another data set?")
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(
            f"the weights for {dataset} are not those of a VGG16-BN: {str(error).splitlines()[-1].strip()}"
        ) from None
    return network.eval()


def training_of(dataset: str) -> str | None:
    """How the local weights were trained, in the words of their file's header; None where it says nothing."""
    try:
        with safe_open(settings.weights_path(dataset), framework="pt") as handle:
            said = json.loads((handle.metadata() or {}).get("training", "null"))
    except (SafetensorError, OSError, ValueError):
        return None
    return said if isinstance(said, str) else None


def _from_file(path: Path) -> tuple[dict[str, Tensor], models.Normalization]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: put trained weights there, point WEIGHTS_DIR at them, or use source='hub'")
    try:
        with safe_open(path, framework="pt") as handle:
            described = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name).clone() for name in handle.keys()}  # noqa: SIM118
        values = json.loads(described["normalisation"])
        normalization = models.Normalization(path.stem, tuple(map(float, values["mean"])), tuple(map(float, values["std"])))
    except (KeyError, TypeError, ValueError):
        raise files.CorruptFile(
            f"{path}: its header must name the normalisation (mean and std) its weights were trained with"
        ) from None
    except (SafetensorError, OSError, RuntimeError) as error:
        raise files.CorruptFile(f"{path} is not a readable safetensors file ({error}); fetch it again") from None
    return tensors, normalization


def _from_hub(dataset: str) -> dict[str, Tensor]:
    # the state dict alone: torch.hub.load would run the repository's code
    stored = Path(torch.hub.get_dir()) / "checkpoints" / RELEASED[dataset]
    try:
        return torch.hub.load_state_dict_from_url(
            f"{RELEASE}/{RELEASED[dataset]}", map_location="cpu", check_hash=True, progress=False, weights_only=True
        )
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        if stored.is_file():
            raise files.CorruptFile(f"{stored} is not the state dict it should be; delete it to have it fetched again") from None
        raise FileNotFoundError(
            f"the released weights for {dataset} could not be fetched ({str(error)[:120]}); use local ones"
        ) from None
