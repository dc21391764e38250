"""Files that are whole or absent: written under a temporary name and renamed, read back against a SHA-256 digest.

Tensors live in safetensors files and results in JSON, so reading a file never executes anything from it.
"""

import contextlib
import errno
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import filelock
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from helpers import progress

Content = TypeVar("Content")
DIGEST = "sha256"
AGAIN = "delete it to have it made again"


class CorruptFile(ValueError):
    """A file that is truncated, altered or of another kind; the message names it and the way out."""


class Busy(RuntimeError):
    """Another process holds the lock."""


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success flush it to disk and rename it, on failure remove it.

    OSError naming `path` when it cannot be written: a full disk, a read-only folder.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk in its own way
        number, reason = getattr(error, "errno", None) or errno.EIO, getattr(error, "strerror", None) or str(error)
        raise OSError(number, f"{path} could not be written: {reason}; make room or choose another folder, then go on") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def digest_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] = {}) -> str:
    """SHA-256 over names, dtypes, shapes, values and metadata, in sorted order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    for key in sorted(metadata):
        digest.update(f"{key}={metadata[key]}|".encode())
    return digest.hexdigest()


def save_tensors(path: str | os.PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] = {}) -> None:
    """Write a safetensors file whose metadata holds a digest of everything in it; tensors go to the CPU."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as temporary:
        save_file(plain, temporary, {**metadata, DIGEST: digest_of(plain, metadata)})


def load_tensors(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `save_tensors` wrote: (tensors on the CPU, metadata without the digest).

    Raises FileNotFoundError, or CorruptFile when the bytes do not match the digest.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = dict(handle.metadata() or {})
            # cloned: the file is memory-mapped, and a tensor must not change when the file is replaced
            tensors = {name: handle.get_tensor(name).clone() for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError, OSError, RuntimeError) as error:
        raise CorruptFile(f"{path} is not a readable safetensors file ({error}); {AGAIN}") from None
    if metadata.pop(DIGEST, "none") != digest_of(tensors, metadata):
        raise CorruptFile(f"{path} does not match the {DIGEST} digest of a file of this project; {AGAIN}")
    return tensors, metadata


def _json_digest(payload: dict) -> str:
    canonical = json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def save_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_json(path: str | os.PathLike, payload: dict) -> None:
    """Write `payload` (no NaN, no infinity) as readable JSON with a digest field."""
    text = json.dumps({**payload, DIGEST: _json_digest(payload)}, indent=1, allow_nan=False, ensure_ascii=False)
    save_text(path, text + "\n")


def load_json(path: str | os.PathLike) -> dict:
    """Read what `save_json` wrote, without the digest; CorruptFile when it does not match."""
    try:
        payload = json.loads(Path(path).read_text(encoding="utf-8"))
        intact = payload.pop(DIGEST) == _json_digest(payload)  # NaN is JSON to Python, never to us: ValueError
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CorruptFile(f"{path} is not a whole JSON file of this project ({type(error).__name__}); {AGAIN}") from None
    if not intact:
        raise CorruptFile(f"{path} does not match its {DIGEST} digest; {AGAIN}")
    return payload


def intact(path: Path, read: Callable[[Path], Content]) -> Content | None:
    """What `read` makes of a file; None where there is none or, after one line that says so, where it is damaged."""
    try:
        return read(path) if path.is_file() else None
    except CorruptFile as error:
        progress.say(f"{error}")
        return None


@contextmanager
def lock(path: str | os.PathLike, *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on `path` (released by the system when the process dies); Busy when `wait` is off and it is held.

    OSError with the way out where `path` cannot be written, as in a checkout of another user.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(path, blocking=wait).acquire()
    except filelock.Timeout:
        raise Busy(f"{path} is held by another process; wait for it to end or stop it") from None
    except OSError as error:
        raise OSError(error.errno, f"{path} cannot be written ({error.strerror}): set BUILD_DIR to a folder that can") from None
    with held:
        yield
