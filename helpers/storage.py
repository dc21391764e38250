"""A pruned VGG as one file: dense, COO, CSR or bitmask; its values in float32, rounded to fp16 or quantised to int8.

A weight is *kept* when its 32 bits are not all zero, so -0.0 and NaN are kept and every fp32 format returns the
network bit for bit. Only convolution and linear weights are stored sparsely; biases and batch norms stay dense.

| format | a layer of n weights, k of them kept | bytes |
| --- | --- | --- |
| dense | fp32 values | 4 n |
| coo | int64 flat index and fp32 value of each kept weight | 12 k |
| csr | int32 row starts (a row is a filter), int32 columns, fp32 values | 8 k + 4 rows |
| bitmask | one bit a weight, fp32 values | n / 8 + 4 k |
| bitmask_int8 | one bit a weight, int8 values, one fp32 scale a filter: lossy | n / 8 + k + 4 rows |
| bitmask_int8_zstd | the same, bits and values entropy-coded by Zstandard | what their statistics allow |

Quantised, a weight is a whole number from -127 to 127 times its filter's scale, the filter's largest weight over 127; what
rounds to 0 is not kept. Pruning, quantisation and entropy coding in this order are Deep Compression (Han et al. 2016), here
without its shared values. A scale a filter stands before the batch norm, so nothing needs to be folded.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import zstandard
from torch import Tensor, nn

from helpers import files, models, settings

# the tensors that a format holds of each weight
PARTS = {"dense": ("values",), "coo": ("indices", "values"), "csr": ("starts", "columns", "values")}
PARTS["bitmask"] = ("bits", "values")
FORMATS = tuple(PARTS)
QUANTISED = ("bitmask_int8", "bitmask_int8_zstd")
PARTS |= dict.fromkeys(QUANTISED, ("bits", "values", "scales"))
CODED = {"bits": torch.uint8, "values": torch.int8}  # what Zstandard codes, by the dtype it gives back
CODING_LEVEL = 19  # a second a network, for one per cent
FILE_KIND = "sparse-vgg-1"
# a file of kept weights may stand for a far larger network; beyond these limits it is refused before memory is taken
MOST_LAYERS, FREE_DENSE_BYTES, MOST_EXPANSION = 1024, 256 * 2**20, 1024


class _Malformed(Exception):
    """What is wrong with the contents; `load` adds the file's name."""


def _require(condition: object, message: str) -> None:
    if not condition:
        raise _Malformed(message)


def _kept(weight: Tensor) -> np.ndarray:
    """Whether the bits of a weight are not all zero: bool, flat."""
    return weight.detach().cpu().contiguous().flatten().numpy().view(np.uint32) != 0


def _encode(weight: Tensor, format: str) -> dict[str, Tensor]:
    weight = weight.detach().cpu().contiguous()
    if format == "dense":
        return {"values": weight}
    if format in QUANTISED:
        return _quantised(weight, coded=format.endswith("zstd"))
    kept = _kept(weight)
    values = weight.flatten()[torch.from_numpy(kept)]
    if format == "bitmask":
        return {"bits": torch.from_numpy(np.packbits(kept, bitorder="little")), "values": values}
    indices = np.flatnonzero(kept)
    if format == "coo":
        return {"indices": torch.from_numpy(indices), "values": values}
    width = weight[0].numel()
    csr = {"starts": np.searchsorted(indices, np.arange(len(weight) + 1) * width), "columns": indices % width}
    return {name: torch.from_numpy(part.astype(np.int32)) for name, part in csr.items()} | {"values": values}


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 of the weight's shape, float32 scale of each filter): the weight is nearly their product, and loaded it is exactly.

    Quantised again, such a product gives the same two. ValueError for a weight that is not finite.
    """
    rows = weight.detach().flatten(1)
    if not rows.isfinite().all():
        raise ValueError("a weight that is not finite cannot be quantised")
    scales = rows.abs().amax(1) / 127
    values = (rows / scales.where(scales > 0, 1).unsqueeze(1)).round().clamp(-127, 127)  # clamped: scales near 0 are rounded
    return values.to(torch.int8).view(weight.shape), scales


def _quantised(weight: Tensor, coded: bool) -> dict[str, Tensor]:
    values, scales = quantise(weight)
    parts = {"bits": torch.from_numpy(np.packbits(values.numpy() != 0, bitorder="little")), "values": values[values != 0]}
    if coded:
        compress = zstandard.ZstdCompressor(level=CODING_LEVEL).compress
        frames = {name: bytearray(compress(part.numpy().tobytes())) for name, part in parts.items()}
        parts = {name: torch.frombuffer(frame, dtype=torch.uint8) for name, frame in frames.items()}
    return parts | {"scales": scales}


def _uncoded(coded: Tensor, dtype: torch.dtype, most: int) -> Tensor:
    """A vector of at most so many bytes; `_Malformed` where it is not one whole frame of them, before memory is taken."""
    frame = coded.numpy().tobytes()
    try:
        _require(0 <= zstandard.frame_content_size(frame) <= most, "a coded part has another length")
        whole = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise _Malformed(f"a coded part cannot be decoded ({error})") from None
    return torch.frombuffer(bytearray(whole), dtype=dtype) if whole else torch.zeros(0, dtype=dtype)


def _decode(parts: Mapping[str, Tensor], shape: torch.Size, format: str) -> Tensor:
    """The dense weight; `_Malformed` where dtypes, counts or indices are not those of one."""

    def vector(name: str, dtype: torch.dtype, length: int | None = None) -> Tensor:
        tensor = parts[name]
        whole = tensor.dtype == dtype and tensor.dim() == 1 and length in (None, len(tensor))
        _require(whole, f"its {name} are not a vector of {'some' if length is None else length} {dtype}")
        return tensor

    if format == "dense":
        return parts["values"]
    count = math.prod(shape)
    if format.endswith("zstd"):
        parts = {**parts, **{name: _uncoded(vector(name, torch.uint8), dtype, count) for name, dtype in CODED.items()}}
    values = vector("values", torch.int8 if format in QUANTISED else torch.float32)
    if format == "coo":
        kept = vector("indices", torch.int64, len(values))
    elif format == "csr":
        rows, width = shape[0], count // shape[0]
        starts, columns = vector("starts", torch.int32, rows + 1).long(), vector("columns", torch.int32, len(values)).long()
        whole = starts[0] == 0 and starts[-1] == len(values) and (starts.diff() >= 0).all()
        _require(whole, "its row starts do not match the number of values")
        _require(((columns >= 0) & (columns < width)).all(), "a column is out of range")
        kept = torch.repeat_interleave(torch.arange(rows) * width, starts.diff()) + columns
    else:
        bits = np.unpackbits(vector("bits", torch.uint8, -(-count // 8)).numpy(), bitorder="little").view(bool)
        _require(not bits[count:].any(), "its bits go on past the last weight")
        _require(bits.sum() == len(values), f"{bits.sum()} bits are set but {len(values)} values are stored")
        kept = torch.from_numpy(np.flatnonzero(bits))
    in_order = not len(kept) or (kept[0] >= 0 and kept[-1] < count and (kept.diff() > 0).all())
    _require(in_order, "its indices are out of range or out of order")
    weight = torch.zeros(count).index_put_((kept,), values.float()).view(shape)
    if format in QUANTISED:
        weight *= vector("scales", torch.float32, shape[0]).view(-1, *[1] * (len(shape) - 1))
    return weight


def _require_proportion(weights: Mapping[str, Tensor], file_bytes: int) -> None:
    dense_bytes = sum(4 * weight.numel() for weight in weights.values())
    most = max(FREE_DENSE_BYTES, MOST_EXPANSION * file_bytes)
    _require(dense_bytes <= most, f"{file_bytes} bytes claim to hold {dense_bytes} bytes of weights")


def _described(metadata: Mapping[str, str]) -> models.VGG:
    """The network that a file's metadata describe, on the meta device (without memory), in eval mode."""
    try:
        architecture = json.loads(metadata["architecture"])
        _require(len(architecture["widths"]) + len(architecture["hidden"]) <= MOST_LAYERS, "it has too many layers")
        with torch.device("meta"):
            return models.build(architecture).eval()
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, RecursionError, OverflowError) as error:
        raise _Malformed(f"its architecture is not one of a VGG ({type(error).__name__}: {str(error)[:200]!r})") from None


def save(network: models.VGG, path: str | Path, format: str) -> int:
    """Write `network` in one of FORMATS or QUANTISED, with its architecture and normalisation; return the bytes on disk.

    Raises ValueError, before anything is written, for an unknown format, a network that `load` could not give back (not fp32,
    or another than it was built, see `models.require_plain`), weights beyond fp16's range and, quantised, not finite ones.
    """
    settings.choose("format", format, PARTS)
    models.require_plain(network)
    weights = models.weights(network)
    shapes = json.dumps({name: list(weight.shape) for name, weight in weights.items()})
    metadata = {"kind": FILE_KIND, "format": format, "architecture": json.dumps(network.architecture()), "shapes": shapes}
    tensors = {name: tensor for name, tensor in network.state_dict().items() if name not in weights}
    try:
        _described(metadata)
        for name, weight in weights.items():
            _require(weight.dtype == torch.float32, f"{name} is {weight.dtype}, and weights are stored as float32")
            tensors |= {f"{name}.{part}": tensor for part, tensor in _encode(weight, format).items()}
        _require_proportion(weights, sum(tensor.nbytes for tensor in tensors.values()))
    except _Malformed as error:
        raise ValueError(f"no {format} file could give this network back: {error}") from None
    files.save_tensors(path, tensors, metadata)
    return Path(path).stat().st_size


def load(path: str | Path) -> models.VGG:
    """Read what `save` wrote, in eval mode.

    Raises FileNotFoundError, or files.CorruptFile when the bytes, the counts, the indices or the shapes are not those of a
    network; memory is taken only for what the file's own size can account for.
    """
    tensors, metadata = files.load_tensors(path)
    try:
        kind, format = metadata.get("kind"), metadata.get("format", "")
        _require(kind == FILE_KIND and format in PARTS, f"it holds {kind!r} as {format!r}, not {FILE_KIND!r} in a known format")
        network = _described(metadata)
        weights, state = models.weights(network), network.state_dict()
        shapes = json.dumps({name: list(weight.shape) for name, weight in weights.items()})
        _require(metadata.get("shapes") == shapes, "its shapes are not the architecture's")
        _require_proportion(weights, Path(path).stat().st_size)
        expected = {name for name in state if name not in weights} | {f"{w}.{part}" for w in weights for part in PARTS[format]}
        for odd in expected ^ set(tensors):
            raise _Malformed(f"{odd} is {'missing' if odd in expected else 'not expected'}")
        for name, skeletal in state.items():
            parts = {part: tensors[f"{name}.{part}"] for part in PARTS[format]} if name in weights else {}
            tensor = _decode(parts, skeletal.shape, format) if parts else tensors[name]
            _require(tensor.dtype == skeletal.dtype and tensor.shape == skeletal.shape, f"{name} has the wrong dtype or shape")
            state[name] = tensor
    except _Malformed as error:
        raise files.CorruptFile(f"{path}: {error}; delete it to have it made again") from None
    network.load_state_dict(state, assign=True)
    return network


def committed(dataset: str, name: str, profile: str = "study") -> models.VGG:
    """A pruned network that lies with a profile's results, ready to classify: float32 on the CPU, in eval mode.

    `name` is that of its result: "lasso_channels", "layerwise_magnitude-s80.33". Raises FileNotFoundError where it is not
    kept, naming the nearest that is; files.CorruptFile for a damaged file.
    """
    path = settings.kept_path(profile, dataset, name)
    kept = sorted(other for other in path.parent.glob("*.safetensors") if models.metadata(other).get("kind") == FILE_KIND)
    try:
        settings.choose("network", name, [other.stem for other in kept])
    except ValueError as error:
        raise FileNotFoundError(f"{error} (of those in {path.parent}; make study makes more)") from None
    return load(path)


def entropy_bytes(network: nn.Module) -> int:
    """Mask entropy plus raw 32-bit values, in bytes; biases and batch norms stay dense.

    A layer with k of n weights kept takes log2(n over k) bits to say which, if they lie without a pattern. A file can be
    smaller: masks and values of trained networks have structure that a compressor finds.
    """
    weights = models.weights(network)
    dense = sum(tensor.nbytes for name, tensor in network.state_dict().items() if name not in weights)
    bits = 0.0
    for weight in weights.values():
        n, k = weight.numel(), int(_kept(weight).sum())
        bits += (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2) + 32 * k
    return dense + math.ceil(bits / 8)
