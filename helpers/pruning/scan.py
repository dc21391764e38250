"""How much validation accuracy each layer loses when it alone is pruned.

Han et al. (2015), "Learning both weights and connections", section 3 and figure 6: one layer is pruned by magnitude at
growing sparsity while all others stay dense, nothing is trained, and top-1 is read on validation images.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from helpers import data, files, models, progress, settings
from helpers.pruning import masks

SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
BATCH = 250


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
    64 channels in bfloat16). The classifier always runs in float32, where equal logits do not occur by rounding.

    With a `path` each finished layer is stored there, and a scan that was stopped goes on behind the last one; what
    another network, other images or other sparsities left there is not used.

    Raises ValueError for no sparsities, one outside [0, 1), or no images.
    """
    if not sparsities or not len(split.labels):
        raise ValueError("a scan needs at least one sparsity and one image")
    device = next(network.parameters()).device
    dtype = dtype or settings.fast_dtype(device)
    stages = _stages(network, dtype)
    key = _fingerprint(network, split, sparsities, dtype)
    rows = _stored(path, key)
    with torch.inference_mode():
        inputs, labels = _batches(network, split, dtype), split.labels.to(device).split(BATCH)
        for i, (name, _) in enumerate(progress.track(stages, "sensitivity scan, layer")):
            if i >= len(rows):
                rows.append(_scan_layer(network, name, [s for _, s in stages[i:]], inputs, labels, sparsities))
                if path is not None:
                    files.save_json(path, {"key": key, "top1_pct": rows})
            for b, images in enumerate(inputs):  # replaced one by one, so that two layers' activations never coexist
                inputs[b] = stages[i][1](images)
        correct = sum(_correct(logits, truth) for logits, truth in zip(inputs, labels, strict=True))
    images = len(split.labels)
    return Scan(
        100 * int(correct) / images, tuple(n for n, _ in stages), tuple(sparsities), tuple(tuple(row) for row in rows), images
    )


def _scan_layer(
    network: models.VGG,
    name: str,
    tail: list[nn.Module],
    inputs: list[Tensor],
    labels: Sequence[Tensor],
    sparsities: Sequence[float],
) -> list[float]:
    """Top-1 (%) at every sparsity of the layer that `tail` begins with."""
    weight = models.weight_layers(network)[name].weight
    order = masks.ranks(weight.abs())  # by the weights as they are: folding scales each filter
    layer, correct = tail[0][0], []
    dense = layer.weight
    for sparsity in sparsities:
        kept = masks.kept_count(weight.numel(), sparsity)
        layer.weight = nn.Parameter(dense.masked_fill(order >= kept, 0), requires_grad=False)
        correct.append(sum(_correct(_run(tail, x), y) for x, y in zip(inputs, labels, strict=True)))
    layer.weight = dense
    return [100 * int(count) / sum(map(len, labels)) for count in correct]


def _run(modules: list[nn.Module], x: Tensor) -> Tensor:
    for module in modules:
        x = module(x)
    return x


def _correct(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(1) == labels).sum()


class _Flatten(nn.Module):
    """To the classifier's float32 vectors."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).float()


def _stages(network: models.VGG, dtype: torch.dtype) -> list[tuple[str, nn.Sequential]]:
    """The folded network cut in front of every weight layer: (layer name, that layer and what follows it)."""
    folded = models.fold_batch_norm(network).requires_grad_(False)
    folded.features.to(dtype, memory_format=torch.channels_last)
    names = {module: name for name, module in models.weight_layers(folded).items()}
    stages: list[tuple[str, nn.Sequential]] = []
    for module in [*folded.features, _Flatten(), *folded.classifier]:
        if module in names:
            stages.append((names[module], nn.Sequential(module)))
        elif not isinstance(module, nn.Identity | nn.Dropout):
            stages[-1][1].append(module)
    return stages


def _batches(network: models.VGG, split: data.Split, dtype: torch.dtype) -> list[Tensor]:
    """The normalised images, in batches."""
    device = next(network.parameters()).device
    return [
        data.normalize(images.to(device), network.normalization, dtype).contiguous(memory_format=torch.channels_last)
        for images in split.images.split(BATCH)
    ]


def _stored(path: Path | None, key: str) -> list[list[float]]:
    """The layers finished under the same key; none when the file is damaged or of another scan."""
    if path is None or not Path(path).is_file():
        return []
    try:
        payload = files.load_json(path)
    except files.CorruptFile as error:
        progress.say(f"{error}; the scan starts again")
        return []
    return list(payload["top1_pct"]) if payload.get("key") == key else []


def _fingerprint(network: models.VGG, split: data.Split, sparsities: Sequence[float], dtype: torch.dtype) -> str:
    """SHA-256 of all that the figures depend on."""
    made_with = {"architecture": repr(network.architecture()), "sparsities": repr(tuple(sparsities)), "dtype": str(dtype)}
    return files.digest_of({**network.state_dict(), "images": split.images, "labels": split.labels}, made_with)
