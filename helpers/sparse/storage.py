"""A pruned network as one file: dense, COO, CSR or bitmask.

A weight is *kept* when its 32 bits are not all zero, so -0.0 and NaN are kept and every fp32 format returns the
network bit for bit. Only convolution and linear weights are stored sparsely; biases and batch norms stay dense.

| format | a layer of n weights, k of them kept | bytes |
| --- | --- | --- |
| dense | fp32 values | 4 n |
| coo | int64 flat index and fp32 value of each kept weight | 12 k |
| csr | int32 row starts (a row is a filter), int32 columns, fp32 values | 8 k + 4 rows |
| bitmask | one bit a weight, fp32 values | n / 8 + 4 k |
| bitmask_fp16 | one bit a weight, fp16 values: lossy | n / 8 + 2 k |
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from helpers import files, models

FORMATS = ("dense", "coo", "csr", "bitmask", "bitmask_fp16")
FILE_KIND = "sparse-vgg-1"
MOST_LAYERS = 1024
# a file of kept weights may stand for a far larger network; beyond both limits it is refused before memory is taken
FREE_DENSE_BYTES, MOST_EXPANSION = 256 * 2**20, 1024

Parts = dict[str, Tensor]


class _Malformed(Exception):
    """What is wrong with the contents; `load` adds the file's name."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise _Malformed(message)


def _kept(flat: Tensor) -> np.ndarray:
    """Flat indices (int64, increasing) of the weights whose bits are not all zero."""
    return np.flatnonzero(flat.numpy().view(np.uint32))


def _to_coo(weight: Tensor) -> Parts:
    flat = weight.flatten()
    kept = torch.from_numpy(_kept(flat))
    return {"indices": kept, "values": flat[kept]}


def _to_csr(weight: Tensor) -> Parts:
    rows, flat = weight.flatten(1), weight.flatten()
    kept = _kept(flat)
    starts = np.searchsorted(kept, np.arange(rows.shape[0] + 1) * rows.shape[1])
    columns = torch.from_numpy((kept % rows.shape[1]).astype(np.int32))
    return {"starts": torch.from_numpy(starts.astype(np.int32)), "columns": columns, "values": flat[torch.from_numpy(kept)]}


def _to_bitmask(weight: Tensor) -> Parts:
    flat = weight.flatten()
    bits = flat.numpy().view(np.uint32) != 0
    return {"bits": torch.from_numpy(np.packbits(bits, bitorder="little")), "values": flat[torch.from_numpy(bits)]}


def _to_bitmask_fp16(weight: Tensor) -> Parts:
    parts = _to_bitmask(weight)
    half = parts["values"].half()
    if (torch.isinf(half) & ~torch.isinf(parts["values"])).any():
        raise ValueError(f"a weight is beyond the fp16 range of ±{torch.finfo(torch.float16).max:.0f}; use bitmask")
    return {**parts, "values": half}


def _vector(parts: Parts, name: str, dtype: torch.dtype, length: int | None = None) -> Tensor:
    tensor = parts[name]
    _require(tensor.dtype == dtype and tensor.dim() == 1, f"its {name} are not a vector of {dtype}")
    _require(length is None or len(tensor) == length, f"its {name} hold {len(tensor)} entries, not {length}")
    return tensor


def _filled(shape: torch.Size, kept: Tensor, values: Tensor) -> Tensor:
    dense = torch.zeros(math.prod(shape))
    dense[kept] = values.float()
    return dense.view(shape)


def _from_coo(parts: Parts, shape: torch.Size) -> Tensor:
    values = _vector(parts, "values", torch.float32)
    indices = _vector(parts, "indices", torch.int64, len(values))
    in_order = not len(indices) or bool(indices[0] >= 0 and indices[-1] < math.prod(shape) and (indices.diff() > 0).all())
    _require(in_order, "its indices are out of range or out of order")
    return _filled(shape, indices, values)


def _from_csr(parts: Parts, shape: torch.Size) -> Tensor:
    rows, width = shape[0], math.prod(shape[1:])
    values = _vector(parts, "values", torch.float32)
    columns = _vector(parts, "columns", torch.int32, len(values)).long()
    counts = _vector(parts, "starts", torch.int32, rows + 1).long().diff()
    whole = parts["starts"][0] == 0 and parts["starts"][-1] == len(values) and (counts >= 0).all()
    _require(bool(whole), "its row starts do not match the number of values")
    _require(not len(columns) or bool(columns.min() >= 0 and columns.max() < width), "a column is out of range")
    indices = torch.repeat_interleave(torch.arange(rows) * width, counts) + columns
    _require(bool((indices.diff() > 0).all()), "its columns are out of order")
    return _filled(shape, indices, values)


def _from_bits(parts: Parts, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    count = math.prod(shape)
    packed = _vector(parts, "bits", torch.uint8, -(-count // 8))
    bits = np.unpackbits(packed.numpy(), bitorder="little").view(bool)
    _require(not bits[count:].any(), "its bits go on past the last weight")
    values = _vector(parts, "values", dtype)
    _require(int(bits.sum()) == len(values), f"{int(bits.sum())} bits are set but {len(values)} values are stored")
    return _filled(shape, torch.from_numpy(bits[:count]), values)


_WRITERS: dict[str, Callable[[Tensor], Parts]] = {
    "dense": lambda weight: {"values": weight},
    "coo": _to_coo,
    "csr": _to_csr,
    "bitmask": _to_bitmask,
    "bitmask_fp16": _to_bitmask_fp16,
}
_READERS: dict[str, tuple[tuple[str, ...], Callable[[Parts, torch.Size], Tensor]]] = {
    "dense": (("values",), lambda parts, shape: parts["values"]),
    "coo": (("indices", "values"), _from_coo),
    "csr": (("starts", "columns", "values"), _from_csr),
    "bitmask": (("bits", "values"), lambda parts, shape: _from_bits(parts, shape, torch.float32)),
    "bitmask_fp16": (("bits", "values"), lambda parts, shape: _from_bits(parts, shape, torch.float16)),
}


def _too_large(dense_bytes: int, file_bytes: int) -> bool:
    return dense_bytes > max(FREE_DENSE_BYTES, MOST_EXPANSION * file_bytes)


def save(network: models.VGG, path: str | Path, format: str) -> int:
    """Write `network` in one of FORMATS, with its architecture and normalisation; return the bytes on disk.

    Raises ValueError for an unknown format, weights that are not fp32, or (bitmask_fp16) weights beyond fp16's range.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; the formats are {', '.join(FORMATS)}")
    weights = models.weights(network)
    tensors = {name: tensor for name, tensor in network.state_dict().items() if name not in weights}
    for name, weight in weights.items():
        if weight.dtype != torch.float32:
            raise ValueError(f"{name} is {weight.dtype}; only fp32 networks are stored")
        parts = _WRITERS[format](weight.detach().cpu().contiguous())
        tensors |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
    if _too_large(sum(4 * w.numel() for w in weights.values()), sum(t.nbytes for t in tensors.values())):
        raise ValueError(f"so little is left of this network that {format} could not be told from a hostile file; use bitmask")
    metadata = {
        "kind": FILE_KIND,
        "format": format,
        "architecture": json.dumps(network.architecture()),
        "shapes": json.dumps({name: list(weight.shape) for name, weight in weights.items()}),
    }
    files.save_tensors(path, tensors, metadata)
    return Path(path).stat().st_size


def load(path: str | Path) -> models.VGG:
    """Read what `save` wrote, in eval mode.

    Raises FileNotFoundError, or files.CorruptFile when the bytes, the counts, the indices or the shapes are not those of a
    network; memory is taken only for what the file's own size can account for.
    """
    tensors, metadata = files.load_tensors(path)
    try:
        return _assemble(tensors, metadata, Path(path).stat().st_size)
    except _Malformed as error:
        raise files.CorruptFile(f"{path}: {error}; delete it to have it made again") from None


def _described(metadata: Mapping[str, str]) -> tuple[models.VGG, str]:
    """The network's skeleton on the meta device (no memory) and the format."""
    _require(metadata.get("kind") == FILE_KIND, f"it holds {metadata.get('kind', 'something else')!r}, not {FILE_KIND!r}")
    format = metadata.get("format", "")
    _require(format in FORMATS, f"its format {format!r} is unknown")
    try:
        architecture, shapes = json.loads(metadata["architecture"]), json.loads(metadata["shapes"])
        _require(len(architecture["widths"]) + len(architecture["hidden"]) <= MOST_LAYERS, "it has too many layers")
        with torch.device("meta"):
            network = models.build(architecture)
        numbers = [*network.normalization.mean, *network.normalization.std]
        _require(len(numbers) == 6 and all(math.isfinite(number) for number in numbers), "its normalisation is not one")
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, RecursionError, OverflowError) as error:
        reason = str(error).split("\n")[0][:200]
        raise _Malformed(f"its architecture is not one of a VGG ({type(error).__name__}: {reason})") from None
    expected = {name: list(weight.shape) for name, weight in models.weights(network).items()}
    _require(shapes == expected, "its shapes are not the architecture's")
    return network.eval(), format


def _assemble(tensors: dict[str, Tensor], metadata: Mapping[str, str], file_bytes: int) -> models.VGG:
    network, format = _described(metadata)
    part_names, read = _READERS[format]
    weights = models.weights(network)
    dense_bytes = sum(4 * weight.numel() for weight in weights.values())
    _require(not _too_large(dense_bytes, file_bytes), f"{file_bytes} bytes claim to hold {dense_bytes} bytes of weights")
    skeleton = network.state_dict()
    expected = {name for name in skeleton if name not in weights} | {f"{w}.{part}" for w in weights for part in part_names}
    odd = sorted(expected ^ set(tensors))
    _require(not odd, f"{odd[0] if odd else ''} is {'missing' if odd and odd[0] in expected else 'not expected'}")
    state = {}
    for name, skeletal in skeleton.items():
        if name in weights:
            try:
                tensor = read({part: tensors[f"{name}.{part}"] for part in part_names}, skeletal.shape)
            except _Malformed as error:
                raise _Malformed(f"{name}: {error}") from None
        else:
            tensor = tensors[name]
        _require(tensor.dtype == skeletal.dtype and tensor.shape == skeletal.shape, f"{name} has the wrong dtype or shape")
        state[name] = tensor
    network.load_state_dict(state, assign=True)
    return network


def entropy_bound(network: models.VGG) -> int:
    """Bytes that no lossless format with fp32 values can go below, for weights pruned without a pattern.

    A layer with k of n weights kept needs log2(n over k) bits to say which, and 32 bits a value; biases and batch norms
    stay dense.
    """
    weights = models.weights(network)
    dense = sum(tensor.nbytes for name, tensor in network.state_dict().items() if name not in weights)
    bits = 0.0
    for weight in weights.values():
        n, k = weight.numel(), len(_kept(weight.detach().cpu().contiguous().flatten()))
        bits += (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2) + 32 * k
    return dense + math.ceil(bits / 8)
