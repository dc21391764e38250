"""Inference of a pruned VGG16-BN on its non-zeros, against every dense and sparse way that PyTorch offers.

All sides run in turns in one process, in fp32 unless named otherwise, on the same images:

    eager      the masked network as it is
    folded     batch norm folded, channels_last
    compiled   the same through torch.compile with frozen weights
    csr        torch.sparse CSR weights on unfolded inputs
    unpacked   weights kept sparse (COO) and turned dense in every forward pass, as in the assignment
    bf16       folded, channels_last, bfloat16
    sparse     helpers.sparse

The ratio is the strongest fp32 dense median over ours. The bound is what no multiply-add but those of kept weights would
give at the dense speed: MACs / effective MACs. Efficiency is ratio / bound.
"""

import functools
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import models, plan, pretrained, results, settings
from helpers.pruning import masks, sensitivity
from helpers.pruning.allocation import allocate
from helpers.sparse import kernels, layers
from helpers.sparse import network as execution

GOALS = {
    **{("layerwise", 0.8033, 128): 2.0, ("layerwise", 0.8033, 1): 1.3},
    **{("uniform", 0.8, 128): 2.5, ("uniform", 0.9, 128): 3.5},
}
STRONGEST = ("folded", "compiled")  # of the dense fp32 sides
SLOW = ("csr", "unpacked", "eager")  # measured in every fifth round
BREAK_EVEN_GOAL = 0.6
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


def trained() -> tuple[models.VGG, str]:
    """VGG16-BN with trained weights where they are, else as initialised; and which."""
    try:
        return pretrained.load("cifar10"), "trained weights"
    except FileNotFoundError:
        torch.manual_seed(0)
        return models.VGG(10).eval(), "untrained weights"


@functools.cache
def weights() -> str:
    """Which weights the network has, for a note."""
    return trained()[1]


def pruned(allocation: str, sparsity: float) -> tuple[models.VGG, float]:
    """The network with its smallest weights at zero, and the share of MACs that is left.

    "uniform" prunes every layer alike, "global" ranks all weights together, which keeps the early layers dense, and
    "layerwise" shares the zeros out by the study's sensitivity scan.
    """
    network, _ = trained()
    if allocation == "layerwise":
        mask = masks.magnitude(network, allocate(network, sensitivity.Scan(**scanned()), sparsity).kept)
    else:
        mask = {"uniform": masks.uniform, "global": masks.global_magnitude}[allocation](network, sparsity)
    mask.apply(network)
    return network, masks.effective_macs(network, mask) / models.macs(network)


def scanned() -> dict | None:
    """The scan in the study's result of layer-wise magnitude pruning on CIFAR-10, if that result is there."""
    wanted = "cifar10", "layerwise_magnitude", "", 0
    planned = plan.experiments(settings.PROFILES["study"])
    made = results.load(next(e for e in planned if (e.dataset, e.method, e.label, e.seed) == wanted))
    return made and made["scan"]


class CsrConvolution(nn.Module):
    """A convolution as one product of a CSR matrix and unfolded inputs, or a linear layer."""

    def __init__(self, layer: nn.Conv2d | nn.Linear):
        super().__init__()
        self.layer, self.weight = layer, layer.weight.detach().flatten(1).to_sparse_csr()

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.layer, nn.Linear):
            return (self.weight @ x.T).T + self.layer.bias
        columns = F.unfold(x, self.layer.kernel_size, padding=self.layer.padding).transpose(0, 1).flatten(1)
        return (self.weight @ columns).view(-1, len(x), *x.shape[2:]).transpose(0, 1) + self.layer.bias[:, None, None]


class UnpackedConvolution(nn.Module):
    """A layer that keeps its weight as COO and makes it dense in every forward pass."""

    def __init__(self, layer: nn.Conv2d | nn.Linear):
        super().__init__()
        self.layer, self.weight = layer, layer.weight.detach().to_sparse()

    def forward(self, x: Tensor) -> Tensor:
        return torch.func.functional_call(self.layer, {"weight": self.weight.to_dense()}, (x,))


def replaced(network: models.VGG, by: type[nn.Module]) -> models.VGG:
    """`network` with every prunable layer wrapped."""
    for part in (network.features, network.classifier):
        for i, module in enumerate(part):
            if isinstance(module, nn.Conv2d | nn.Linear):
                part[i] = by(module)
    return network


@functools.cache
def compiled(batch: int) -> Callable[[Tensor], Tensor]:
    """The dense network through torch.compile with frozen weights: once a batch size, since its time does not depend on
    the weights' values and compiling it takes a minute."""
    from torch import _inductor

    _inductor.config.freezing = True
    return torch.compile(models.fold_batch_norm(trained()[0]).to(memory_format=torch.channels_last), dynamic=False)


def sides(network: models.VGG, batch_compiled: int | None) -> dict[str, Callable[[Tensor], Tensor]]:
    folded = models.fold_batch_norm(network).to(memory_format=torch.channels_last)
    bf16 = models.fold_batch_norm(network).to(dtype=torch.bfloat16, memory_format=torch.channels_last)
    csr, unpacked = (replaced(models.fold_batch_norm(network), kind) for kind in (CsrConvolution, UnpackedConvolution))
    last = lambda x: x.to(memory_format=torch.channels_last)  # noqa: E731
    calls = {
        "eager": network,
        "folded": lambda x: folded(last(x)),
        "csr": csr,
        "unpacked": unpacked,
        "sparse": execution.compile_sparse(network),
    }
    if torch.backends.cpu.get_cpu_capability() != "AVX2":  # where bfloat16 is emulated, twenty times slower than float32
        calls["bf16"] = lambda x: bf16(last(x).bfloat16()).float()
    if batch_compiled:
        frozen = compiled(batch_compiled)
        calls["compiled"] = lambda x: frozen(last(x))
    return calls


def in_turns(calls: dict[str, Callable[[], Tensor]], seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each call, taken in turns until `seconds` have passed (three rounds at least), after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad():
        for call in calls.values():
            call()
        started, rounds = time.perf_counter(), 0
        while rounds < 3 or time.perf_counter() - started < seconds:
            for name, call in calls.items():
                if name in SLOW and rounds % 5:
                    continue
                before = time.perf_counter()
                call()
                times[name].append(1e3 * (time.perf_counter() - before))
            rounds += 1
    return times


def p90(times: list[float]) -> float:
    return sorted(times)[min(len(times) - 1, int(0.9 * len(times)))]


def whole(allocation: str, sparsity: float, batch: int, seconds: float, with_compiled: bool) -> list[dict]:
    """One row a side: how many times faster ours is; the strongest dense side's row carries the goal."""
    network, share = pruned(allocation, sparsity)
    images = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    calls = sides(network, batch if with_compiled else None)
    times = in_turns({name: lambda call=call: call(images) for name, call in calls.items()}, seconds)
    median = {name: statistics.median(values) for name, values in times.items()}
    strongest = min((name for name in STRONGEST if name in median), key=median.get)
    rows = []
    for name in [strongest, *(n for n in median if n not in (strongest, "sparse"))]:
        ratio = median[name] / median["sparse"]
        note = f"p90 {p90(times['sparse']):.2f} against {p90(times[name]):.2f} ms"
        if name == strongest:
            others = "" if with_compiled else " but torch.compile, which was not tried"
            note += f"; the strongest dense fp32{others}; MACs left {share:.1%}, bound {1 / share:.2f}x, "
            note += f"efficiency {ratio * share:.2f}; {weights()}"
        rows.append(
            {
                "name": f"{allocation} {sparsity:.2%}, batch {batch}, against {name}",
                "ours_ms": median["sparse"],
                "theirs_ms": median[name],
                "ratio": ratio,
                "goal": GOALS.get((allocation, sparsity, batch)) if name == strongest else None,
                "note": note,
                "allocation": allocation,
                "sparsity": sparsity,
                "batch": batch,
                "bound": 1 / share,
            }
        )
    return rows


def by_layer(sparsity: float, batch: int, seconds: float) -> list[dict]:
    """Every layer by itself, oneDNN in channels_last against ours, each in its own layout."""
    network, _ = pruned("uniform", sparsity)
    rows, x = [], torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    layout = execution.layout_of(x)
    for op in execution.operations(network):
        size = (*x.shape[1:], 1, 1)[:3]
        dense, last = layers.dense_step(op), x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
        sparse, ours = execution.SPARSE_STEP[layout](op, *size), execution.CONVERSIONS[layout][0](x)
        calls = {"dense": lambda dense=dense, last=last: dense(last), "sparse": lambda sparse=sparse, ours=ours: sparse(ours)}
        median = {name: statistics.median(times) for name, times in in_turns(calls, seconds).items()}
        ratio = median["dense"] / median["sparse"]
        density = int(op.weight.count_nonzero()) / op.weight.numel()
        rows.append(
            {
                "name": f"{op.name} {'x'.join(map(str, size))}, uniform {sparsity:.0%}, batch {batch}",
                "ours_ms": median["sparse"],
                "theirs_ms": median["dense"],
                "ratio": ratio,
                "note": f"bound {1 / density:.2f}x, efficiency {ratio * density:.2f}",
            }
        )
        x = dense(last)
    return rows


def break_even(rows: list[dict]) -> list[dict]:
    """The lowest measured uniform sparsity from which on ours is never slower, a batch size each."""
    found = []
    for batch in sorted({row["batch"] for row in rows}):
        curve = [r for r in rows if r["batch"] == batch and r["allocation"] == "uniform" and "strongest" in r["note"]]
        if not curve or min(row["sparsity"] for row in curve) > BREAK_EVEN_GOAL:
            continue  # too few sparsities to tell
        above = list(itertools.takewhile(lambda row: row["ratio"] >= 1, sorted(curve, key=lambda r: -r["sparsity"])))
        lowest = above[-1] if above else max(curve, key=lambda r: r["sparsity"])
        where = f"at or below {lowest['sparsity']:.0%}" if above else f"above {lowest['sparsity']:.0%}"
        name = f"break-even {where} uniform, batch {batch}"
        reached, goal = bool(above) and lowest["sparsity"] <= BREAK_EVEN_GOAL, f"at or below {BREAK_EVEN_GOAL:.0%}"
        found.append({**lowest, "name": name, "goal": goal, "met": reached, "note": "the lowest sparsity never slower"})
    return found


def run(quick: bool = False) -> list[dict]:
    """Rows with name, ours_ms, theirs_ms, ratio, goal (None where none is set) and note."""
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
    reason = kernels.available()
    if reason is not None:
        return [{"name": "sparse inference", "note": reason}]
    if quick:
        return networks((0.8,), (1, 128), 2, compile_dense=False) + by_layer(0.8, 128, 0.1)
    rows = networks((0.5, 0.6, 0.7, 0.8, 0.9, 0.95), (1, 16, 128), 4, compile_dense=True)
    for batch in (1, 128):
        rows += by_layer(0.8, batch, 0.5)
    return rows + (with_avx2_only() if torch.backends.cpu.get_cpu_capability() == "AVX512" else [])


def networks(uniform: Sequence[float], batches: Sequence[int], seconds: float, compile_dense: bool) -> list[dict]:
    """The whole network at these uniform sparsities and with the two uneven allocations, and where break-even lies."""
    cases = [("uniform", sparsity) for sparsity in uniform] + [("global", 0.8033)]
    if scanned() is not None:
        cases.append(("layerwise", 0.8033))
    rows = []
    for batch in batches:
        for allocation, sparsity in cases:
            rows += whole(allocation, sparsity, batch, seconds, compile_dense)
    return rows + break_even(rows)


def with_avx2_only() -> list[dict]:
    """The same in a process in which PyTorch, oneDNN and our kernels are held to AVX2, as on a processor without AVX-512."""
    code = "import json; from bench.sparse_inference import networks; rows = networks((0.6, 0.8, 0.9), (1, 128), 2, False)"
    command = [sys.executable, "-c", f"{code}; print(json.dumps(rows))"]
    done = subprocess.run(command, env=os.environ | AVX2, cwd=settings.ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return [row | {"name": f"{row['name']}, AVX2 only"} for row in json.loads(done.stdout.splitlines()[-1])]
