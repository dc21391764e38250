"""CIFAR VGG networks with batch norm, of any width list.

State dicts are compatible name by name with the public `cifar10_vgg16_bn` / `cifar100_vgg16_bn` releases of
chenyaofo/pytorch-cifar-models (`features.N`, `classifier.N`, head 512-512-classes).
"""

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from helpers import files

VGG11 = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
VGG13 = (64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")
VGG19 = (64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M")
FILE_KIND = "vgg-1"


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of the three channels of images scaled to [0, 1]; ValueError where they cannot be that."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        if len(self.mean) != 3 or not all(math.isfinite(value) and 0 <= value <= 1 for value in self.mean):
            raise ValueError(f"the mean of a normalisation is three values from 0 to 1, of images scaled to 0…1, not {self.mean}")
        if len(self.std) != 3 or not all(math.isfinite(value) and 0 < value <= 1 for value in self.std):
            raise ValueError(f"the standard deviation of a normalisation is three values above 0, at most 1, not {self.std}")


_KNOWN = (
    Normalization("none", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    Normalization("half", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    Normalization("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    Normalization("cifar10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    Normalization("cifar100", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
)
NORMALIZATIONS = {known.name: known for known in _KNOWN}


class VGG(nn.Module):
    """A VGG with batch norm after every convolution.

    Args:
        num_classes: outputs of the last linear layer.
        widths: output channels a convolution, "M" for a 2×2 max-pool.
        hidden: widths of the hidden linear layers.
        image_size: height and width of the input; the last map is flattened into the first linear layer.
        dropout: probability after each hidden linear layer.
        normalization: what the input images are normalised with; travels with copies and files.

    Input (N, 3, image_size, image_size) float, output (N, num_classes) logits.
    """

    def __init__(
        self,
        num_classes: int,
        widths: Sequence[int | str] = VGG16,
        hidden: Sequence[int] = (512, 512),
        *,
        image_size: int = 32,
        dropout: float = 0.5,
        normalization: Normalization = NORMALIZATIONS["cifar10"],
    ):
        super().__init__()
        self.num_classes, self.widths, self.hidden = num_classes, tuple(widths), tuple(hidden)
        self.image_size, self.dropout, self.normalization = image_size, dropout, normalization
        layers: list[nn.Module] = []
        head: list[nn.Module] = []
        channels, side = 3, image_size
        for width in widths:
            if width == "M":
                layers.append(nn.MaxPool2d(2))
                side //= 2
            else:
                convolution = nn.Conv2d(channels, int(width), 3, padding=1)
                channels = convolution.out_channels
                layers += [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        if side < 1:
            raise ValueError(f"{self.widths.count('M')} max-pools leave nothing of a {image_size}×{image_size} image")
        self.features = nn.Sequential(*layers)
        inputs = channels * side * side
        for width in hidden:
            head += [nn.Linear(inputs, width), nn.ReLU(inplace=True), nn.Dropout(dropout)]
            inputs = width
        self.classifier = nn.Sequential(*head, nn.Linear(inputs, num_classes))
        self.apply(_initialize)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).flatten(1))

    def set_dropout(self, probability: float) -> None:
        """Change the dropout of the head, in place."""
        self.dropout = probability
        for module in self.classifier:
            if isinstance(module, nn.Dropout):
                module.p = probability

    def architecture(self) -> dict:
        """What `VGG(**architecture)` needs to build the same network, as plain JSON."""
        sizes = {"num_classes": self.num_classes, "widths": list(self.widths), "hidden": list(self.hidden)}
        return sizes | {"image_size": self.image_size, "dropout": self.dropout, "normalization": asdict(self.normalization)}


def _initialize(module: nn.Module) -> None:
    """Convolutions as He et al. (2015), by fan-out; the head stays as torch draws it."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]


def build(architecture: dict) -> VGG:
    """A freshly initialised network from `VGG.architecture()`; ValueError when the description is not one."""
    try:
        options = dict(architecture)
        normalization = options.pop("normalization")
        normalization = Normalization(normalization["name"], tuple(normalization["mean"]), tuple(normalization["std"]))
        sizes = [*options["widths"], *options["hidden"], options["num_classes"], options["image_size"]]
        if not all(isinstance(size, int) and 0 < size <= 65536 for size in sizes if size != "M"):
            raise ValueError("every width must be a whole number from 1 to 65536")
        return VGG(**options, normalization=normalization)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not the architecture of a VGG: {type(error).__name__} {error}") from None


def require_vgg(network: nn.Module) -> None:
    """TypeError where `network` is none of this module's: it does not know its image size, widths and normalisation."""
    if not isinstance(network, VGG):
        raise TypeError(
            f"this is for networks built by helpers.models.VGG, not for a {type(network).__name__}: masks, scores, training, "
            "evaluation, file size, memory, latency and MACs by ptflops take any network"
        )


def require_plain(network: nn.Module) -> None:
    """ValueError naming the first part of `network` that was changed after it was built, so that its file would hold another one.

    Folded, compiled, under torch.nn.utils.prune, with a layer exchanged: what the architecture does not say is lost in a file.
    """
    if type(network) is not VGG:
        raise ValueError(f"only a helpers.models.VGG as it was built can be stored and read back, not a {type(network).__name__}")
    with torch.random.fork_rng(devices=[]):
        ours, built = _parts(network), _parts(build(network.architecture()))
    if changed := [name for name in [*built, *ours] if ours.get(name) != built.get(name)]:
        raise ValueError(f"this network cannot be stored: {changed[0]} was changed after it was built; undo it or store it first")


def _parts(network: nn.Module) -> dict[str, tuple]:
    """Shapes of all tensors and what the layers compute, by name; no file holds a hook or a forward of a layer's own."""
    asked = ["kernel_size", "stride", "padding", "dilation", "ceil_mode", "groups", "padding_mode", "eps", "track_running_stats"]
    asked += ["_forward_hooks", "_forward_pre_hooks"]
    layers = {n: (type(m), "forward" in vars(m), *(getattr(m, o, None) for o in asked)) for n, m in network.named_modules()}
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} | layers


def scaled(widths: Sequence[int | str], divisor: int) -> tuple[int | str, ...]:
    """The same network at 1/divisor of its width."""
    return tuple(w if w == "M" else max(1, int(w) // divisor) for w in widths)


def weight_layers(network: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """The prunable layers, in forward order, by their state-dict prefix ("features.0", …)."""
    return {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


def weights(network: nn.Module) -> dict[str, nn.Parameter]:
    """What can be pruned, in forward order: state-dict name ("features.0.weight") → the parameter itself, not a copy.

    ValueError where one is no parameter but computed from others at every forward pass.
    """
    found: dict[str, nn.Parameter] = {}
    for name, layer in weight_layers(network).items():
        if not isinstance(layer.weight, nn.Parameter):
            raise ValueError(
                f"{name}.weight is computed anew at every forward pass (torch.nn.utils.prune, weight_norm), which would undo "
                "masks; make it a parameter first, as torch.nn.utils.prune.remove(layer, 'weight') does"
            )
        found[f"{name}.weight"] = layer.weight
    return found


@dataclass(frozen=True)
class Layer:
    """One prunable layer at batch 1; a MAC is one multiply-add, biases and batch norm are not counted."""

    name: str
    kind: str
    weight_shape: tuple[int, ...]
    parameters: int
    macs: int
    output_size: tuple[int, ...]


def layer_table(network: VGG) -> list[Layer]:
    """Shapes, parameters (weight and bias) and MACs of every prunable layer, from one forward pass of one zero image."""
    require_vgg(network)
    table: list[Layer] = []
    names = {module: name for name, module in weight_layers(network).items()}

    def record(module: nn.Conv2d | nn.Linear, _inputs: tuple, output: Tensor) -> None:
        kind, parameters = "conv" if isinstance(module, nn.Conv2d) else "linear", sum(p.numel() for p in module.parameters())
        work = module.weight.numel() * output[0, 0].numel()  # every weight at every position; a linear layer has one
        table.append(Layer(names[module], kind, tuple(module.weight.shape), parameters, work, tuple(output.shape[1:])))

    handles = [module.register_forward_hook(record) for module in names]
    training, image = network.training, next(network.parameters()).new_zeros(1, 3, network.image_size, network.image_size)
    try:
        with torch.no_grad():
            network.eval()(image)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return table


def macs(network: VGG) -> int:
    """Multiply-adds of the convolutions and linear layers for one image, in closed form."""
    return sum(layer.macs for layer in layer_table(network))


def fold_batch_norm(network: VGG) -> VGG:
    """A copy in eval mode whose batch norms are folded into the convolutions before them (and are `nn.Identity`)."""
    require_vgg(network)
    folded = copy.deepcopy(network).eval()
    for i, (before, module) in enumerate(pairwise(folded.features)):
        if isinstance(module, nn.BatchNorm2d) and isinstance(before, nn.Conv2d):
            folded.features[i], folded.features[i + 1] = nn.utils.fusion.fuse_conv_bn_eval(before, module), nn.Identity()
    return folded


def save(network: VGG, path: str | Path, **metadata: str) -> None:
    """Write the state dict with its architecture and normalisation as one checksummed safetensors file.

    ValueError for a network that could not be read back, see `require_plain`.
    """
    require_plain(network)
    described = {"kind": FILE_KIND, "architecture": json.dumps(network.architecture()), **metadata}
    files.save_tensors(path, network.state_dict(), described)


def load(path: str | Path) -> VGG:
    """Read what `save` wrote; files.CorruptFile when it is not a whole network of this kind."""
    tensors, metadata = files.load_tensors(path)
    if metadata.get("kind") != FILE_KIND:
        raise files.CorruptFile(f"{path} holds {metadata.get('kind', 'something else')!r}, not a network ({FILE_KIND!r})")
    try:
        network = build(json.loads(metadata["architecture"]))
        network.load_state_dict(tensors)
    except (KeyError, ValueError, RuntimeError) as error:
        raise files.CorruptFile(f"{path} does not hold the network it describes ({str(error).splitlines()[0]})") from None
    return network.eval()


def metadata(path: str | Path) -> dict[str, str]:
    """The metadata a network was saved with, its weights unread; empty where there is no readable safetensors file."""
    try:
        with safe_open(path, framework="pt") as handle:
            return dict(handle.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def is_of(path: str | Path, experiment: str) -> bool:
    """Whether the network of an experiment lies at `path`: one saved with `experiment`, its hash."""
    return metadata(path).get("experiment") == experiment
