"""How much validation accuracy each layer loses when it alone is pruned.

Han et al. (2015), "Learning both weights and connections", section 3 and figure 6: one layer is pruned by magnitude at
growing sparsity while all others stay dense, nothing is trained, and top-1 is read on validation images.
"""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from helpers import data, files, machine, models, progress
from helpers.frozen_convolution import frozen
from helpers.pruning import masks

SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
BATCH = 250
UNDECIDED = 0.1  # bfloat16 moved logits of the CIFAR networks by 0.007 on average and turned no margin above 0.04


@dataclass(frozen=True)
class Scan:
    """Validation top-1 (%) of a network with one layer pruned, for every layer and sparsity.

    `top1_pct[i][j]` belongs to `layers[i]` ("features.0") pruned to `sparsities[j]` (fraction of zeros);
    `baseline_top1_pct` to the network as it came. All from the same `images` validation images.
    """

    baseline_top1_pct: float
    layers: tuple[str, ...]
    sparsities: tuple[float, ...]
    top1_pct: tuple[tuple[float, ...], ...]
    images: int

    def to_dict(self) -> dict:
        """Plain JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, payload: dict) -> "Scan":
        """What `to_dict` gave, also after a trip through JSON."""
        return cls(
            float(payload["baseline_top1_pct"]),
            tuple(payload["layers"]),
            tuple(payload["sparsities"]),
            tuple(tuple(row) for row in payload["top1_pct"]),
            int(payload["images"]),
        )

    @property
    def drops(self) -> np.ndarray:
        """(layers, sparsities) points of top-1 lost against the baseline; negative where pruning helped."""
        return self.baseline_top1_pct - np.array(self.top1_pct)


def scan(
    network: models.VGG,
    split: data.Split,
    *,
    path: Path | None = None,
    sparsities: Sequence[float] = SPARSITIES,
    dtype: torch.dtype | None = None,
) -> Scan:
    """Prune every layer alone to every sparsity and read top-1 on all images of `split`.

    The figures are those of running the whole pruned network, and more than half of that work is saved: batch norms are
    folded, the activations that enter a layer are computed once and serve all its sparsities, and only the layers from
    there to the end run again. They take images × widest layer input in `dtype` (0.66 GB for 5,000 CIFAR images and
    64 channels in bfloat16). Where `dtype` is not float32, an image whose two largest logits lie closer than rounding
    can move them is run again, whole, in float32.

    With a `path` each finished layer is stored there, and a scan that was stopped goes on behind the last one, in whatever
    format it was begun; what another network, other images or other sparsities left there is not used.

    Raises ValueError for no sparsities, one outside [0, 1), or no images.
    """
    if not sparsities or not len(split.labels):
        raise ValueError("a scan needs at least one sparsity and one image")
    device = next(network.parameters()).device
    dtype = dtype or machine.fast_dtype(device)
    key = _fingerprint(network, split, sparsities)
    names = list(models.weight_layers(network))
    rows, baseline = _stored(path, key)
    if baseline is not None and len(rows) == len(names):
        return _scanned(baseline, names, sparsities, rows, len(split))
    with torch.inference_mode():
        reader = _Reader(network, data.Split(split.images.to(device), split.labels.to(device)), dtype)
        for i, name in enumerate(progress.track(names, "sensitivity scan, layer")):
            if i >= len(rows):
                rows.append(_scan_layer(reader, models.weight_layers(network)[name].weight, sparsities))
                if path is not None:
                    files.save_json(path, {"key": key, "top1_pct": rows})
            reader.advance()
        baseline = reader.top1_pct()
    if path is not None:
        files.save_json(path, {"key": key, "top1_pct": rows, "baseline_top1_pct": baseline})
    return _scanned(baseline, names, sparsities, rows, len(split))


def _scanned(baseline: float, names: list[str], sparsities: Sequence[float], rows: list[list[float]], images: int) -> Scan:
    return Scan(baseline, tuple(names), tuple(sparsities), tuple(tuple(row) for row in rows), images)


def _scan_layer(reader: "_Reader", weight: Tensor, sparsities: Sequence[float]) -> list[float]:
    """Top-1 (%) at every sparsity of the layer that the reader has come to, whose weight as given is `weight`."""
    order = masks.ranks(weight.abs())  # by the weights as they are: folding scales each filter
    top1 = []
    for sparsity in sparsities:
        with reader.pruned(order >= masks.kept_count(weight.numel(), sparsity)):
            top1.append(reader.top1_pct())
    return top1


class _Reader:
    """A network cut in front of every weight layer, and the activations of all images at one of the cuts."""

    def __init__(self, network: models.VGG, split: data.Split, dtype: torch.dtype):
        self.fast = _stages(network, dtype)
        self.exact = _stages(network, torch.float32) if dtype != torch.float32 else None
        self.split, self.normalization, self.position = split, network.normalization, 0
        self.inputs = [self._normalized(images, dtype) for images in split.images.split(BATCH)]

    def advance(self) -> None:
        """Go on to the next layer; batches are replaced one by one, so that two layers' activations never coexist."""
        for b, images in enumerate(self.inputs):
            self.inputs[b] = self.fast[self.position](images)
        self.position += 1

    @contextlib.contextmanager
    def pruned(self, gone: Tensor) -> Iterator[None]:
        """Inside, the layer come to has zeros where `gone` is True."""
        stages = [stages[self.position] for stages in (self.fast, self.exact) if stages is not None]
        dense = [stage[0] for stage in stages]
        for stage in stages:
            layer = copy.deepcopy(getattr(stage[0], "conv", stage[0]))
            layer.weight.masked_fill_(gone, 0)
            stage[0] = frozen(layer)
        yield
        for stage, layer in zip(stages, dense, strict=True):
            stage[0] = layer

    def top1_pct(self) -> float:
        """Share of images classified correctly, as the float32 network classifies them."""
        correct, undecided = 0, []
        for b, (x, labels) in enumerate(zip(self.inputs, self.split.labels.split(BATCH), strict=True)):
            logits = _run(self.fast[self.position :], x)
            right = logits.argmax(1) == labels
            if self.exact is not None:
                best = logits.topk(2).values
                close = best[:, 0] - best[:, 1] < UNDECIDED
                undecided.append(b * BATCH + close.nonzero().flatten())
                right &= ~close
            correct += right.sum()
        if undecided:
            for index in torch.cat(undecided).split(BATCH):
                chosen = self.split.subset(index)
                correct += (_run(self.exact, self._normalized(chosen.images)).argmax(1) == chosen.labels).sum()
        return 100 * int(correct) / len(self.split)

    def _normalized(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return data.normalize(images, self.normalization, dtype).contiguous(memory_format=torch.channels_last)


def _run(stages: Sequence[nn.Module], x: Tensor) -> Tensor:
    for stage in stages:
        x = stage(x)
    return x


class _Flatten(nn.Module):
    """To the classifier's float32 vectors."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).float()


def _stages(network: models.VGG, dtype: torch.dtype) -> list[nn.Sequential]:
    """The folded network, its convolutions in `dtype` (in float32 on the CPU by Winograd), cut in front of every weight layer."""
    folded = models.fold_batch_norm(network).requires_grad_(False)
    folded.features.to(dtype, memory_format=torch.channels_last)
    stages: list[nn.Sequential] = []
    for module in [*folded.features, _Flatten(), *folded.classifier]:
        if isinstance(module, nn.Conv2d | nn.Linear):
            stages.append(nn.Sequential(frozen(module)))
        elif not isinstance(module, nn.Identity | nn.Dropout):
            stages[-1].append(module)
    return stages


def _stored(path: Path | None, key: str) -> tuple[list[list[float]], float | None]:
    """The layers finished under the same key, and the baseline of a whole scan; none when the file is damaged or of another."""
    if path is None or not Path(path).is_file():
        return [], None
    try:
        payload = files.load_json(path)
    except files.CorruptFile as error:
        progress.say(f"{error}; the scan starts again")
        return [], None
    if payload.get("key") != key:
        return [], None
    return list(payload["top1_pct"]), payload.get("baseline_top1_pct")


def _fingerprint(network: models.VGG, split: data.Split, sparsities: Sequence[float]) -> str:
    """SHA-256 of all that the figures depend on: not of the number format, in which they are those of float32."""
    made_with = {"architecture": repr(network.architecture()), "sparsities": repr(tuple(sparsities))}
    return files.digest_of({**network.state_dict(), "images": split.images, "labels": split.labels}, made_with)
