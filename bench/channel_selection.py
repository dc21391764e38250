"""Channel selection and reconstruction of a whole VGG16-BN: sufficient statistics against the reference procedure.

The reference is the procedure of He, Zhang and Sun (2017) with scikit-learn, layer by layer on the same rows: λ is
bisected with `Lasso` on at most 400 sampled rows until the wanted number of channels survives (up to 10 % more are
accepted, then the weakest go), and `LinearRegression` is fitted to all rows of the channels that stay. The rows of Y are
collected once by the same code on both sides; the rows of X come from a pass over the images for each layer, as in the
published code, but no further than that layer. Both sides keep the same number of channels and run in a fresh process
each, so that the peak of memory is each side's own. The goal is for selection and reconstruction; the passes over the
network, which both need, are timed apart and make the second row. Errors are compared where both can be judged alike: on
the rows that they were solved from, and as the distance of the pruned network's logits from the dense network's on unseen
images.
"""

import copy
import multiprocessing
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from sklearn.linear_model import Lasso, LinearRegression
from torch import Tensor, nn

from helpers import data, machine, models, pretrained, settings
from helpers.pruning import channels, regression, widths
from helpers.pruning.channels import Activations, Unit
from helpers.pruning.regression import Samples

SHARE = 41.782 / 314.003466
LASSO_ROWS, ACCEPTED_MORE = 400, 0.1
GOAL = 10.0
MIB = 2**20


@dataclass(frozen=True)
class Outcome:
    """One side: seconds with and without the passes over the network and processor seconds, peak of memory above what stood
    before, relative errors a layer and of unseen images' logits."""

    seconds: float
    solving_seconds: float
    cpu_seconds: float
    peak_mib: float
    layer_errors: list[float]
    unseen_error: float


def rows_of(stream: Activations, number: int, samples: Samples) -> Tensor:
    """All sampled inputs of a unit's layer, (rows, taps, channels)."""
    done, parts = 0, []
    for maps in stream.inputs(number):
        if isinstance(stream.units[number].layer, nn.Linear):
            parts.append(maps.flatten(2).transpose(1, 2))
        else:
            at = samples.positions_of(stream.count, maps.shape[-1])[done : done + len(maps)]
            parts.append(regression.patches(maps, at))
        done += len(maps)
    return torch.cat(parts)


def bisect(X: Tensor, Y: Tensor, W: Tensor, count: int, generator: np.random.Generator) -> Tensor:
    """`count` channels by bisection of λ with scikit-learn's coordinate descent."""
    taps, total = X.shape[1:]
    if count == total:
        return torch.arange(total)
    picked = torch.from_numpy(generator.integers(0, len(X), min(LASSO_ROWS, len(X) // 20)))
    by_channel = torch.einsum("rtc,otc->roc", X[picked], W.view(len(W), taps, total)).flatten(0, 1).numpy()
    target = Y[picked].flatten().numpy()
    solver = Lasso(alpha=1e-4, warm_start=True, selection="random", random_state=0)

    def beta(penalty: float) -> np.ndarray:
        solver.alpha = penalty
        return solver.fit(by_channel, target).coef_.copy()

    low, high = 0.0, 1e-4
    while np.count_nonzero(found := beta(high)) >= count:
        high *= 2
    most = count * (1 + ACCEPTED_MORE)
    for _ in range(60):
        middle = (low + high) / 2
        survivors = np.count_nonzero(found := beta(middle))
        if count <= survivors <= most:
            break
        low, high = (middle, high) if survivors > most else (low, middle)
    return torch.from_numpy(np.sort(np.argsort(-np.abs(found), kind="stable")[:count]))


@torch.no_grad()
def reference(network: models.VGG, images: Tensor, wanted: widths.Widths, samples: Samples) -> tuple[models.VGG, list[float]]:
    """The reference procedure: (smaller network, relative error a layer)."""
    sliced = copy.deepcopy(network).eval()
    counts = [width for width in wanted if width != "M"]
    known = channels.targets(sliced, images, samples)
    errors, generator = [], np.random.default_rng(samples.seed)
    for number, count in enumerate(counts):
        stream = Activations(sliced, images)  # from the images again, as the published code does, but no further than needed
        reader = stream.units[number + 1]
        X, Y = rows_of(stream, number + 1, samples), known.pop(reader.name)
        taps = X.shape[1]
        kept = bisect(X, Y - reader.layer.bias, regression.matrix(reader.layer.weight, taps), count, generator)
        X, Y = X[:, :, kept].flatten(1).numpy(), Y.numpy()
        fitted = LinearRegression().fit(X, Y)
        errors.append(float(np.square(Y - fitted.predict(X)).sum() / np.square(Y - Y.mean(0)).sum()))
        stream.keep(number, kept)
        regression.assign(reader.layer, torch.from_numpy(fitted.coef_), torch.from_numpy(fitted.intercept_), taps)
    return channels.rebuilt(network, sliced), errors


def ours(network: models.VGG, images: Tensor, wanted: widths.Widths, samples: Samples) -> tuple[models.VGG, list[float]]:
    small, reports = channels.prune(network, images, wanted, samples=samples)
    return small, [report.error_after for report in reports]


# Each side in its own process -------------------------------------------------------------------------------------


def prepared(quick: bool) -> tuple[models.VGG, Tensor, Tensor, str]:
    """(network, images to solve from, unseen images, what they are): trained weights on CIFAR-10 where both are at hand."""
    samples = 1000 if quick else 5000
    if not quick and settings.cifar_dir() and settings.weights_path("cifar10").is_file():
        splits = data.load("cifar10", torch.device("cpu"))
        chosen = Samples(samples).choose(splits.train.images)
        return pretrained.load("cifar10"), chosen, splits.val.images[:1000], "trained VGG16-BN on CIFAR-10"
    torch.manual_seed(0)
    splits = data.load("digits", torch.device("cpu"))
    network = models.VGG(10, models.scaled(models.VGG16, 4) if quick else models.VGG16).eval()
    several = data.augment(splits.train.images.repeat(5, 1, 1, 1), torch.Generator().manual_seed(0))[:samples]
    return network, several, splits.val.images, f"untrained VGG16-BN{' at quarter width' if quick else ''} on digits"


def side(name: str, quick: bool, threads: int) -> Outcome:
    """Run one side; called in a fresh process."""
    torch.set_num_threads(threads)
    network, images, unseen, _ = prepared(quick)
    budget = int(SHARE * widths.macs_with_batch_norm(network))
    wanted = widths.for_budget(network, budget, rule="uniform", multiple=2 if quick else 8)
    run_side = {"ours": ours, "reference": reference}[name]
    with _PeakMemory() as memory, _network_passes() as passes:
        start, cpu = time.perf_counter(), time.process_time()
        small, errors = run_side(network, images, wanted, Samples(len(images), 10))
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return Outcome(seconds, seconds - sum(passes), cpu, memory.peak_mib, errors, _logit_error(network, small, unseen))


@torch.no_grad()
def _logit_error(network: models.VGG, small: models.VGG, images: Tensor) -> float:
    batches = [data.normalize(chunk, network.normalization) for chunk in images.split(250)]
    truth, found = (torch.cat([net(batch) for batch in batches]) for net in (network.eval(), small.eval()))
    return float((found - truth).square().sum() / (truth - truth.mean(0)).square().sum())


@contextmanager
def _network_passes() -> Iterator[list[float]]:
    """Collect the seconds spent in the network's own layers, through which both sides go."""
    seconds: list[float] = []
    originals = [(owner, name, getattr(owner, name)) for owner, name in ((Unit, "outputs"), (nn.Sequential, "forward"))]

    def timed(function):
        def call(*arguments):
            start = time.perf_counter()
            result = function(*arguments)
            seconds.append(time.perf_counter() - start)
            return result

        return call

    for owner, name, function in originals:
        setattr(owner, name, timed(function))
    try:
        yield seconds
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)


class _PeakMemory:
    """Highest resident memory of this process inside the block, above what it was before; read 50 times a second."""

    def __enter__(self) -> "_PeakMemory":
        self._process, self._stop = psutil.Process(), threading.Event()
        self._before = self._highest = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self._highest = max(self._highest, self._process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.peak_mib = (self._highest - self._before) / MIB


def run(quick: bool) -> list[dict]:
    """Two rows in milliseconds for the whole network, medians over turns; the reference runs between two turns of ours."""
    threads = torch.get_num_threads()
    outcomes: dict[str, list[Outcome]] = {"ours": [], "reference": []}
    context = multiprocessing.get_context("spawn")
    for name in ("ours", "reference", "ours"):
        with context.Pool(1) as pool:
            outcomes[name].append(pool.apply(side, (name, quick, threads)))
    mine, theirs = outcomes["ours"][0], outcomes["reference"][0]
    mean = {name: statistics.fmean(o.layer_errors) for name, o in (("ours", mine), ("theirs", theirs))}
    dtype = str(machine.dtype(torch.device("cpu"))).removeprefix("torch.")
    peak = max(outcome.peak_mib for outcome in outcomes["ours"])
    note = (
        f"{prepared(quick)[3]}; peak memory {peak:.0f} MiB against {theirs.peak_mib:.0f} MiB; "
        f"relative error, mean of the layers, {mean['ours']:.4f} against {mean['theirs']:.4f}; of the logits on unseen images "
        f"{mine.unseen_error:.4f} against {theirs.unseen_error:.4f}; processor time {mine.cpu_seconds:.0f} s against "
        f"{theirs.cpu_seconds:.0f} s; maps in {dtype} and float32, {threads} threads, {machine.processor()}"
    )
    rows = []
    for name, column in (
        ("channel selection and reconstruction", "solving_seconds"),
        ("the same with the passes over the network", "seconds"),
    ):
        ours_ms, theirs_ms = (1e3 * statistics.median(getattr(o, column) for o in turns) for turns in outcomes.values())
        ratio = theirs_ms / ours_ms
        rows.append({"name": name, "ours_ms": ours_ms, "theirs_ms": theirs_ms, "ratio": ratio, "note": note})
    reached = rows[0]["ratio"] >= GOAL and mean["ours"] <= mean["theirs"]
    return [rows[0] | {"goal": f"≥ {GOAL:g}× at an error no worse", "met": reached}, rows[1]]
