"""Trained networks: a local file, someone else's checkpoint, or the public release. Nothing in a file is executed.

python -m helpers.pretrained FILE --mean 0.49 0.48 0.45 --std 0.25 0.24 0.26 --out weights/vgg16_bn_cifar10.safetensors
python -m helpers.pretrained hub:cifar10 --out …        the public release, whose normalisation is known
"""

import argparse
import hashlib
import json
import pickle
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from helpers import files, models, progress, settings
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
WRAPPERS = ("state_dict", "model_state_dict", "net", "model")  # what training checkpoints keep the tensors under


def load(dataset: str, source: str = "local") -> models.VGG:
    """A VGG trained on "cifar10" or "cifar100", in eval mode, with the normalisation that belongs to its weights.

    `source` is "local", a file in $WEIGHTS_DIR (one written by `models.save`, or a safetensors state dict whose header names
    the normalisation), or "hub", the release of chenyaofo/pytorch-cifar-models, checked against the hash in its name.
    Raises FileNotFoundError with the way out, files.CorruptFile for a damaged file, ValueError for another network's weights.
    """
    settings.choose("source of weights", source, SOURCES)
    classes = CLASSES[settings.choose("data set", dataset, CLASSES)]
    network = _local(settings.weights_path(dataset)) if source == "local" else _released(dataset)
    if network.num_classes != classes:
        raise ValueError(f"the weights for {dataset} have {network.num_classes} classes, not {classes}")
    return _finite(f"the weights for {dataset}", network)


def training_of(dataset: str) -> str | None:
    """How the local weights were trained, in the words of their file's header; None where it says nothing."""
    try:
        training = json.loads(models.metadata(settings.weights_path(dataset)).get("training", "null"))
    except ValueError:
        return None
    return training if isinstance(training, str) else None


def convert(
    path: str | Path,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    widths: Sequence[int | str] | None = None,
    image_size: int = 32,
) -> models.VGG:
    """Someone else's trained VGG with batch norm, in eval mode; `models.save` then makes a weights file of it.

    Args:
        path: a state dict of torch.save or safetensors, alone or inside a training checkpoint, under any names: layers are
            matched by order and shape. Biases that it lacks are 0.
        mean, std: what its images, scaled to 0…1, were normalised with: no state dict says it.
        widths: output channels a convolution and "M" for a max-pool, where it is no VGG11, 13, 16 or 19 of any width.
        image_size: of its input, which decides how many inputs the head has.

    A state dict does not say what lies between its layers: evaluate the network before you rely on it. Raises
    FileNotFoundError, files.CorruptFile for what is no state dict, ValueError naming the first layer that does not fit.
    """
    path, normalization = Path(path), Normalization(Path(path).stem, tuple(mean), tuple(std))
    return _finite(f"the weights in {path.name}", _network(path, _read(path)[0], normalization, widths, image_size))


def _finite(weights: str, network: models.VGG) -> models.VGG:
    for name, tensor in network.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(f"{weights} hold values that are not finite, in {name}: fetch or train them again")
    return network.eval()


def _local(path: Path) -> models.VGG:
    command = "convert a checkpoint by python -m helpers.pretrained FILE --mean … --std … --out …"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: put trained weights there, point WEIGHTS_DIR at them, or {command}")
    if models.metadata(path).get("kind") == models.FILE_KIND:
        return models.load(path)
    tensors, header = _read(path)
    try:
        values = json.loads(header["normalisation"])
        normalization = Normalization(path.stem, tuple(map(float, values["mean"])), tuple(map(float, values["std"])))
    except (KeyError, TypeError, ValueError) as error:
        raise files.CorruptFile(
            f"{path}: its header must name the normalisation (mean and std) its weights were trained with ({error}): {command}"
        ) from None
    return _network(path, tensors, normalization)


def _released(dataset: str) -> models.VGG:
    """Read as tensors alone: torch.hub.load would run the repository's code."""
    stored = Path(torch.hub.get_dir()) / "checkpoints" / RELEASED[dataset]
    wanted = stored.stem.rpartition("-")[2]
    if not stored.is_file():
        stored.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(f"{RELEASE}/{stored.name}", str(stored), wanted, progress=False)
        except (OSError, RuntimeError) as error:
            reason = str(error)[:120]
            raise FileNotFoundError(
                f"the weights released for {dataset} could not be fetched ({reason}); use local weights"
            ) from None
    if not hashlib.sha256(stored.read_bytes()).hexdigest().startswith(wanted):
        raise files.CorruptFile(
            f"{stored} is not the file of that name (its SHA-256 differs); delete it to have it fetched again"
        )
    return _network(stored, _read(stored)[0], RELEASED_NORMALIZATIONS[dataset])


# Checkpoints from elsewhere ---------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a state dict in forward order, and the header of a safetensors file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as handle:  # it keeps no order: sorted by name, numbers by value
            names = sorted(handle.keys(), key=lambda name: [part.zfill(9) for part in re.split(r"(\d+)", name)])
            return {name: handle.get_tensor(name).clone() for name in names}, handle.metadata() or {}
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        reason = str(error)
    try:
        with open(path, "rb") as handle:  # by its content: torch would go by the name
            loaded = torch.load(handle, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes torch raise
        more = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if more is None:
            raise files.CorruptFile(f"{path} is neither a whole safetensors file ({reason}) nor one of torch.save") from None
        raise files.CorruptFile(
            f"{path} holds code besides tensors ({more[1]}), as a whole network does, which reading would execute: where that "
            "code is at hand, torch.save(network.state_dict(), FILE), and bring that file"
        ) from None
    inside = loaded if isinstance(loaded, Mapping) else {}
    for tensors in (inside, *(inside[key] for key in WRAPPERS if key in inside)):
        if isinstance(tensors, Mapping) and tensors and all(isinstance(tensor, Tensor) for tensor in tensors.values()):
            return {str(name): tensor for name, tensor in tensors.items()}, {}
    held = ", ".join(map(str, inside))[:80] or type(loaded).__name__
    raise files.CorruptFile(f"{path} holds no state dict, alone or under {', '.join(WRAPPERS)}, but {held}")


def _network(
    path: Path,
    tensors: Mapping[str, Tensor],
    normalization: Normalization,
    widths: Sequence[int | str] | None = None,
    image_size: int = 32,
) -> models.VGG:
    """A VGG with these tensors, matched by order and shape."""
    layers = _layers(tensors)
    channels, outputs = ([len(parts["weight"]) for parts in layers[kind].values()] for kind in (nn.Conv2d, nn.Linear))
    if not len(channels) == len(layers[nn.BatchNorm2d]) > 0 < len(outputs):
        counts = ", ".join(f"{len(found)} {kind.__name__}" for kind, found in layers.items())
        raise ValueError(f"{path.name} has {counts}: a VGG has a batch norm after every convolution, then linear layers")
    chosen = tuple(widths or _known(channels))
    if len(chosen) - chosen.count("M") != len(channels):
        raise ValueError(
            f"{path.name} has {len(channels)} convolutions and is no VGG11, 13, 16 or 19: give widths, with max-pools"
        )
    network = models.VGG(outputs[-1], chosen, outputs[:-1], image_size=image_size, normalization=normalization)
    ours = {kind: [(own, module) for own, module in network.named_modules() if type(module) is kind] for kind in layers}
    pairs = [(theirs, *own) for kind, found in layers.items() for theirs, own in zip(found, ours[kind], strict=True)]
    _compare_names(path.name, {theirs: own for theirs, own, _ in pairs})
    for theirs, own, module in pairs:
        state, given = module.state_dict(), layers[type(module)][theirs]
        missing = [part for part in state if part not in given and part.startswith("running")]
        if odd := [*missing, *(part for part in given if part not in state)]:
            raise ValueError(f"{odd[0]} of {theirs} in {path.name} is {'missing' if missing else f'not expected in {own}'}")
        for part, place in state.items():
            tensor = given.get(part, torch.full_like(place, part == "weight"))  # no bias adds 0, no scale multiplies by 1
            if tensor.shape != place.shape or tensor.is_floating_point() != place.is_floating_point():
                theirs = f"{part} of {theirs} in {path.name} is {tensor.dtype} {tuple(tensor.shape)}"
                raise ValueError(f"{theirs}; {tuple(place.shape)} fits {own}: widths or image_size may be others")
            place.copy_(tensor)
    return network


def _layers(tensors: Mapping[str, Tensor]) -> dict[type[nn.Module], dict[str, dict[str, Tensor]]]:
    """{kind: {layer: {"weight": …}}} in their order; ValueError for a tensor of any other layer."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        parts.setdefault(layer, {})[part] = tensor
    layers: dict[type[nn.Module], dict[str, dict[str, Tensor]]] = {nn.Conv2d: {}, nn.BatchNorm2d: {}, nn.Linear: {}}
    of_dimensions = {4: nn.Conv2d, 2: nn.Linear}
    for layer, found in parts.items():
        kind = of_dimensions.get(found["weight"].dim() if "weight" in found else 0, nn.BatchNorm2d)
        if kind is nn.BatchNorm2d and not {"running_mean", "running_var"} & found.keys():
            raise ValueError(f"{layer} ({', '.join(found)}) is no convolution, batch norm or linear layer")
        layers[kind][layer] = found
    return layers


def _known(channels: Sequence[int]) -> list[int | str]:
    """Where VGG11, 13, 16 or 19 has its max-pools, if it has so many convolutions; [] where channels change elsewhere."""
    for known in (models.VGG11, models.VGG13, models.VGG16, models.VGG19):
        if len(known) - known.count("M") == len(channels):
            left = iter(channels)
            widths = ["M" if width == "M" else next(left) for width in known]
            return widths if all(a == b or "M" in (a, b) for a, b in pairwise(widths)) else []
    return []


def _compare_names(file: str, ours: Mapping[str, str]) -> None:
    """Say where names differ; ValueError where the numbers of one nn.Sequential tell another order or other max-pools."""
    places = {name.rpartition(".")[::2]: own.rpartition(".")[2] for name, own in ours.items() if own.startswith("features")}
    if len({sequence for sequence, _ in places}) == 1:
        for (sequence, place), own in places.items():
            if place.isdigit() and place != own:
                place, own = f"{sequence}.{place}", f"{sequence}.{own}"
                raise ValueError(f"{file}: {place} would be {own} if it were convolution, batch norm, ReLU and these max-pools")
    if changed := [f"{name} is {own} here" for name, own in ours.items() if name != own]:
        progress.say(f"{file}: matched by order and shape ({changed[0]}); evaluate the network before you rely on it")


def main(arguments: Iterable[str] | None = None) -> None:
    """Convert a checkpoint, or fetch the public release, into a weights file."""
    parser = argparse.ArgumentParser(prog="python -m helpers.pretrained", description=main.__doc__)
    parser.add_argument("file", help="a checkpoint, or hub:cifar10, hub:cifar100")
    for name in ("--mean", "--std"):
        parser.add_argument(name, nargs=3, type=float, default=(), help="of its images, scaled to 0…1")
    parser.add_argument("--widths", nargs="+", type=lambda w: w if w == "M" else int(w), help="64 64 M 128 …")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--out", required=True, type=Path)
    given = vars(parser.parse_args(arguments))
    file, out = given.pop("file"), given.pop("out")
    try:
        network = load(file[4:], "hub") if file.startswith("hub:") else convert(file, **given)
        models.save(network, out)
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    progress.say(f"{out}: {network.num_classes} classes, widths {' '.join(map(str, network.widths))}")


if __name__ == "__main__":
    main()
