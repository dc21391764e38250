"""What one would do instead of pruning: the same network in ONNX Runtime and OpenVINO, in float32, bfloat16 and int8.

Each engine runs in a process of its own, so that no thread pool disturbs another's, and they take turns. Batch norms are
folded, shapes are fixed for each batch size, and what an engine compiles or allocates at a first call is not timed.

Without VNNI a processor adds pairs of 8-bit products in 16 bits, where large ones saturate: the same int8 file then answers
otherwise. With 7-bit weights nothing saturates. Top-1 of an int8 network is that of the processor it was measured on.
"""

import contextlib
import copy
import importlib.util
import io
import logging
import multiprocessing
import os
import pickle
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from helpers import machine, models, settings
from helpers.measurement import BATCH, MIB, Latency, Name, in_turns
from helpers.sparse import quantised
from helpers.sparse.network import compile_sparse, operations

Call = Callable[[np.ndarray], np.ndarray]  # float32 (batch, 3, H, W) → logits (batch, classes)
Built = tuple[Callable[[int], Call], int | None]  # a call for each batch size; the bytes of the engine's file, if it has one
WARM_UP = 3  # calls, before the first that is timed; 1 at every later turn
PACKAGES = {"ONNX": ("onnxruntime", "onnx"), "OpenVINO": ("openvino", "nncf", "onnx")}
INSTALL = "in the project's folder: .venv/bin/python -m pip install -e '.[engines]'"
NO_TELEMETRY = {"CI": "true", "NNCF_CI": "1"}  # else importing OpenVINO and calling NNCF is reported to their makers
ONNX_IR, ONNX_OPSET = 10, 20  # versions of the file's format and of its operations that both engines have read since 2024
VNNI = {"avx512_vnni", "avx_vnni"}


class Unavailable(RuntimeError):
    """An engine that does not run here; the message is one line that says why."""


class Engine:
    """A network in one of `ENGINES`, in a process of its own until `close`; also a context manager.

    Args:
        name: one of `ENGINES`.
        network: a VGG.
        calibration: normalised training images (N, 3, H, W) from which int8 engines take the range of each activation.

    `size_mib` is the size of the file that the engine loads, None where it takes the network as it is. Raises Unavailable
    where the engine is not installed or the processor lacks its instructions, ValueError for an unknown name.
    """

    def __init__(self, name: str, network: models.VGG, calibration: Tensor):
        models.require_vgg(network)
        if reason := unavailable(name):
            raise Unavailable(reason)
        plain = copy.deepcopy(network).to("cpu", torch.float32).eval()
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        try:  # bytes: as tensors the weights would go through shared memory, which containers often lack
            size = self._ask(_start, name, pickle.dumps(plain), calibration.cpu().numpy(), torch.get_num_threads())
        except BaseException:
            self.close()
            raise
        self.size_mib = None if size is None else size / MIB

    def _ask(self, function: Callable, *arguments: object):
        return self._pool.submit(function, *arguments).result()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown(cancel_futures=True)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised float32 (N, 3, H, W) → logits (N, classes), `BATCH` images at a time."""
        return torch.from_numpy(self._ask(_run, images.cpu().numpy()))

    def times(self, images: Tensor, seconds: float) -> list[float]:
        """Milliseconds of single calls on `images`, after a warm-up, for so many seconds; of one call at least."""
        return self._ask(_time, images.cpu().numpy(), seconds)


def unavailable(name: str) -> str | None:
    """Why an engine does not run on this machine, in one line; None where it does. ValueError for an unknown name."""
    settings.choose("engine", name, ENGINES)
    for package in PACKAGES.get(name.split()[0], ()):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed ({INSTALL})"
    if name == "zeros skipped int8":
        return quantised.available()
    if "bf16" in name and not machine.BF16_FLAGS.keys() & machine.processor_flags():
        return "this processor has no bfloat16 instructions"
    return None


def saturates(name: str) -> bool:
    """Whether an engine's 8-bit products may saturate on this processor."""
    return name in ("ONNX Runtime int8", "OpenVINO int8") and not VNNI & machine.processor_flags()


def latency(engines: Mapping[Name, Engine], images: Tensor, *, min_seconds: float = 2.0, rounds: int = 5) -> dict[Name, Latency]:
    """Time of a call of each on `images`, at least `min_seconds` each, as `measurement.in_turns` does."""
    return in_turns(engines, lambda name, seconds: engines[name].times(images, seconds), min_seconds, rounds)


# In the engine's own process ------------------------------------------------------------------------------------------

_compile: Callable[[int], Call]
_calls: dict[int, Call] = {}


def _start(name: str, network: bytes, images: np.ndarray, threads: int) -> int | None:
    """Build the engine; the bytes of its file."""
    global _compile
    os.environ |= NO_TELEMETRY
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):  # progress bars
        _compile, size = ENGINES[name](pickle.loads(network), images, threads, Path(folder))
    return size


def _call(batch: int) -> Call:
    if batch not in _calls:
        _calls[batch] = _compile(batch)
    return _calls[batch]


def _run(images: np.ndarray) -> np.ndarray:
    padded = np.concatenate([images, np.zeros((-len(images) % BATCH, *images.shape[1:]), images.dtype)])
    return np.concatenate([_call(BATCH)(part) for part in padded.reshape(-1, BATCH, *images.shape[1:])])[: len(images)]


def _time(images: np.ndarray, seconds: float) -> list[float]:
    times: list[float] = []
    known = len(images) in _calls
    call = _call(len(images))
    for _ in range(1 if known else WARM_UP):
        call(images)
    begun = time.perf_counter()
    while not times or time.perf_counter() - begun < seconds:
        before = time.perf_counter()
        call(images)
        times.append(1e3 * (time.perf_counter() - before))
    return times


def _torch(network: models.VGG, images: np.ndarray, threads: int, folder: Path, *, dtype: torch.dtype) -> Built:
    folded = models.fold_batch_norm(network).to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def call(x: np.ndarray) -> np.ndarray:
        return folded(torch.from_numpy(x).to(dtype=dtype, memory_format=torch.channels_last)).float().numpy()

    return lambda batch: call, None


def _skipping(network: models.VGG, images: np.ndarray, threads: int, folder: Path, *, int8: bool = False) -> Built:
    compiled = quantised.compile_quantised(network, torch.from_numpy(images)) if int8 else compile_sparse(network)
    return lambda batch: lambda x: compiled(torch.from_numpy(x)).numpy(), None


def _exported(network: models.VGG, path: Path) -> Path:
    """The folded network as an ONNX file for any batch size."""
    import onnx
    from onnx import helper, numpy_helper

    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def add(kind: str, *inputs: str, **attributes: int | list[int]) -> None:
        last = nodes[-1].output[0] if nodes else "images"
        nodes.append(helper.make_node(kind, [last, *inputs], [f"{kind} {len(nodes)}"], **attributes))

    for op in operations(network):
        names = f"{op.name}.weight", f"{op.name}.bias"
        weights += [numpy_helper.from_array(part.numpy(), name) for name, part in zip(names, (op.weight, op.bias), strict=True)]
        if op.linear:
            add("Flatten")
            add("Gemm", *names, transB=1)
        else:
            add("Conv", *names, strides=[op.stride] * 2, pads=[op.padding] * 4)
        if op.relu:
            add("Relu")
        if op.pool:
            add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    image = ["batch", 3, network.image_size, network.image_size]
    ends = {"images": image, nodes[-1].output[0]: ["batch", network.num_classes]}
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in ends.items()]
    graph = helper.make_graph(nodes, "network", values[:1], values[1:], weights)
    onnx.save(helper.make_model(graph, ir_version=ONNX_IR, opset_imports=[helper.make_opsetid("", ONNX_OPSET)]), path)
    return path


def _onnxruntime(network: models.VGG, images: np.ndarray, threads: int, folder: Path, *, weight_bits: int | None = None) -> Built:
    import onnxruntime
    from onnxruntime import quantization

    path = _exported(network, folder / "float32.onnx")
    if weight_bits is not None:
        kinds = {"activation_type": quantization.QuantType.QUInt8, "weight_type": quantization.QuantType.QInt8}
        parts = iter([{"images": part} for part in np.array_split(images, -(-len(images) // 50))])
        reader = type("Reader", (quantization.CalibrationDataReader,), {"get_next": lambda _: next(parts, None)})
        source, path = path, folder / "int8.onnx"
        quantization.quantize_static(source, path, reader(), per_channel=True, reduce_range=weight_bits == 7, **kinds)
    stored = path.read_bytes()

    def compiled(batch: int) -> Call:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_free_dimension_override_by_name("batch", batch)
        session = onnxruntime.InferenceSession(stored, options, providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"images": x})[0]

    return compiled, len(stored)


def _openvino(
    network: models.VGG,
    images: np.ndarray,
    threads: int,
    folder: Path,
    *,
    precision: str = "f32",
    weight_bits: int | None = None,
) -> Built:
    import openvino

    core = openvino.Core()
    model = core.read_model(_exported(network, folder / "float32.onnx"))
    if weight_bits is not None:
        import nncf

        fix = nncf.OverflowFix.ENABLE if weight_bits == 7 else nncf.OverflowFix.DISABLE
        advanced = nncf.AdvancedQuantizationParameters(overflow_fix=fix)
        singly = nncf.Dataset(list(images[:, None]))
        model = nncf.quantize(model, singly, subset_size=len(images), advanced_parameters=advanced)
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}

    def compiled(batch: int) -> Call:
        fixed = model.clone()
        fixed.reshape([batch, *images.shape[1:]])
        call = core.compile_model(fixed, "CPU", options)
        return lambda x: call([x])[0]

    return compiled, sum((folder / f"model.{part}").stat().st_size for part in ("xml", "bin"))


ENGINES: dict[str, Callable[[models.VGG, np.ndarray, int, Path], Built]] = {
    "PyTorch fp32": partial(_torch, dtype=torch.float32),
    "PyTorch bf16": partial(_torch, dtype=torch.bfloat16),
    "zeros skipped fp32": _skipping,
    "zeros skipped int8": partial(_skipping, int8=True),
    "ONNX Runtime fp32": _onnxruntime,
    "ONNX Runtime int8": partial(_onnxruntime, weight_bits=8),
    "ONNX Runtime int8, 7-bit weights": partial(_onnxruntime, weight_bits=7),
    "OpenVINO fp32": _openvino,
    "OpenVINO bf16": partial(_openvino, precision="bf16"),
    "OpenVINO int8": partial(_openvino, weight_bits=8),
    "OpenVINO int8, 7-bit weights": partial(_openvino, weight_bits=7),
}
