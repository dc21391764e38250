"""How much validation accuracy each layer loses when it alone is pruned.

Han et al. (2015), "Learning both weights and connections", section 3 and figure 6: one layer is pruned by magnitude at
growing sparsity while all others stay dense, nothing is trained, and top-1 is read on validation images.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from helpers import data, files, machine, models, progress
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
    layers: Sequence[str]
    sparsities: Sequence[float]
    top1_pct: Sequence[Sequence[float]]
    images: int

    def to_dict(self) -> dict:
        """Plain JSON, of which `Scan(**…)` makes the scan again."""
        return asdict(self)

    @property
    def drops(self) -> np.ndarray:
        """(layers, sparsities) points of top-1 lost against the baseline; negative where pruning helped."""
        return self.baseline_top1_pct - np.array(self.top1_pct)


def scan(
    network: models.VGG,
    split: data.Split,
    *,
    sparsities: Sequence[float] = SPARSITIES,
    undecided: float = UNDECIDED,
    path: Path | None = None,
    dtype: torch.dtype | None = None,
) -> Scan:
    """Prune every layer alone to every sparsity and read top-1 on all images of `split`.

    The figures are those of running the whole pruned network in float32, and most of that work is saved: batch norms are
    folded, the activations that enter a layer are computed once and serve all its sparsities, and only the layers from
    there to the end run again. They take images × widest layer input in `dtype` (0.66 GB for 5,000 CIFAR images and 64
    channels in bfloat16).

    Args:
        undecided: where `dtype` is not float32, an image whose two largest logits lie closer than this, so that rounding might
            have swapped them, is run again, whole, in float32.
        path: where each finished layer is stored, so that a scan that was stopped goes on behind the last one, in whatever
            format it was begun; what another network, other images or other arguments left there is not used.
        dtype: what convolutions compute in; by default `machine.dtype()`.

    ValueError for no sparsities, one outside [0, 1), or no images; TypeError for a network that is no `models.VGG`.
    """
    models.require_vgg(network)
    if not sparsities or not len(split):
        raise ValueError("a scan needs at least one sparsity and one image")
    device = next(network.parameters()).device
    dtype, split = dtype or machine.dtype(device), split.to(device)
    layers = models.weight_layers(network)
    key = _fingerprint(network, split, sparsities, undecided)
    stored = {"key": key, "top1_pct": []} | _stored(path, key)
    top1 = stored["top1_pct"]
    if "baseline_top1_pct" not in stored:
        with torch.inference_mode():
            reader = _Reader(network, split, dtype, undecided)
            for i, layer in enumerate(progress.track(layers.values(), "sensitivity scan, layer")):
                if i >= len(top1):
                    top1.append([reader.top1_pct(layer.weight, sparsity) for sparsity in sparsities])
                    _store(path, stored)
                reader.advance()
            stored["baseline_top1_pct"] = reader.top1_pct()
        _store(path, stored)
    return Scan(stored["baseline_top1_pct"], tuple(layers), tuple(sparsities), tuple(map(tuple, top1)), len(split))


class _Reader:
    """A network cut in front of every weight layer, and the activations of all images at one of the cuts."""

    def __init__(self, network: models.VGG, split: data.Split, dtype: torch.dtype, undecided: float):
        self.stages = _stages(network, dtype)
        self.exact = self.stages if dtype == torch.float32 else _stages(network, torch.float32)
        self.images, self.labels = split.images.split(BATCH), split.labels.split(BATCH)
        self.normalization, self.undecided, self.position = network.normalization, undecided, 0
        self.inputs = [self._normalized(images) for images in self.images]

    def advance(self) -> None:
        """Go on to the next layer; batches are replaced one by one, so that two layers' activations never coexist."""
        for b, inputs in enumerate(self.inputs):
            self.inputs[b] = _run(self.stages[self.position :][:1], inputs)
        self.position += 1

    def top1_pct(self, weight: Tensor | None = None, sparsity: float = 0.0) -> float:
        """Share of images classified correctly, the layer come to pruned by `weight`, its weight before folding."""
        stages, exact = self.stages, self.exact
        if weight is not None:  # ranked as it is: folding scales each filter
            kept = masks.keep_largest(weight.abs(), masks.kept_count(weight.numel(), sparsity))
            stages, exact = (self._pruned(stages, kept) for stages in (stages, exact))
        correct = 0
        for images, labels, inputs in zip(self.images, self.labels, self.inputs, strict=True):
            logits = _run(stages[self.position :], inputs)
            if self.exact is not self.stages:
                best = logits.topk(2).values
                close = best[:, 0] - best[:, 1] < self.undecided
                logits[close] = _run(exact, self._normalized(images[close]))
            correct += (logits.argmax(1) == labels).sum()
        return 100 * int(correct) / sum(map(len, self.labels))

    def _pruned(self, stages: list[nn.Sequential], kept: Tensor) -> list[nn.Sequential]:
        """The stages with zeros in the layer come to where `kept` is False."""
        stage = copy.deepcopy(stages[self.position])
        next(iter(models.weights(stage).values())).masked_fill_(~kept, 0)
        return [*stages[: self.position], stage, *stages[self.position + 1 :]]

    def _normalized(self, images: Tensor) -> Tensor:
        return data.normalize(images, self.normalization).contiguous(memory_format=torch.channels_last)


def _run(stages: Sequence[nn.Sequential], x: Tensor) -> Tensor:
    for stage in stages:
        x = stage(x.to(next(stage.parameters()).dtype))
    return x


def _stages(network: models.VGG, dtype: torch.dtype) -> list[nn.Sequential]:
    """The folded network, its convolutions in `dtype`, its head in float32, cut in front of every weight layer."""
    folded = models.fold_batch_norm(network).requires_grad_(False)
    folded.features.to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    stages: list[nn.Sequential] = []
    for module in [*folded.features, nn.Flatten(), *folded.classifier]:
        if isinstance(module, nn.Conv2d | nn.Linear):
            stages.append(nn.Sequential())
        if not isinstance(module, nn.Identity | nn.Dropout):
            stages[-1].append(module)
    return stages


def _stored(path: Path | None, key: str) -> dict:
    """What a scan with the same key left at `path`; empty where there is none or the file is damaged."""
    stored = files.intact(path, files.load_json) if path is not None else None
    return stored if stored and stored.get("key") == key else {}


def _store(path: Path | None, stored: dict) -> None:
    if path is not None:
        files.save_json(path, stored)


def _fingerprint(network: models.VGG, split: data.Split, sparsities: Sequence[float], undecided: float) -> str:
    """SHA-256 of all that the figures depend on: not of the number format, in which they are those of float32."""
    made_with = {"architecture": repr(network.architecture()), "sparsities": repr(tuple(sparsities))}
    if undecided != UNDECIDED:  # scans stored before it was an argument have this one
        made_with["undecided"] = repr(undecided)
    return files.digest_of({**network.state_dict(), "images": split.images, "labels": split.labels}, made_with)
