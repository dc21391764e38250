"""Least squares and LASSO for one layer, from sums over its sampled inputs (He, Zhang and Sun 2017).

A layer is a matrix product Y = X Wᵀ + b. A row of X is what it reads at one position of one image: nine taps of all channels
for a 3×3 convolution, all positions of the map for a linear layer that reads maps, one tap for any other. Columns stand tap by
tap, so W is (outputs, taps · channels). XᵀX, XᵀY (about the means) and the means are all that LASSO and least squares need.
"""

import copy
import functools
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import lars_path_gram
from torch import Tensor, nn
from torch.nn import functional as F

RIDGE = 1e-3  # of the mean diagonal of XᵀX
ROUNDING = 1e-5  # of sums in float32, relative: of 1,000 equal rows about 1e-6, on some processors a little more
DEAD = 1e-7  # a channel with less than this share of the largest one's energy carries nothing
Layer = nn.Conv2d | nn.Linear
STEPS = 8  # that a LASSO path may take for each channel


@dataclass(frozen=True)
class Samples:
    """How many rows a layer is solved from: images, and random positions an image (all of a map that has fewer).

    Channels of wide layers are chosen from about `selection_rows`: one coefficient a channel needs fewer rows than nine
    weights a channel and output do, and XᵀX of all channels costs most.
    """

    images: int = 5000
    positions: int = 10
    seed: int = 0
    selection_rows: int = 2000

    def choose(self, images: Tensor) -> Tensor:
        """At most `images` of the given ones, without replacement, in their order."""
        chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.seed))[: self.images]
        return images[chosen.sort().values.to(images.device)]

    @functools.lru_cache(maxsize=8)  # noqa: B019 - samples are small, and every chunk of images asks again
    def positions_of(self, count: int, side: int) -> Tensor:
        """(count, p) flat positions in the side × side maps of `count` images; the same for every map of that size."""
        generator = torch.Generator().manual_seed(self.seed * 65537 + side)
        return torch.rand(count, side * side, generator=generator).topk(min(self.positions, side * side), dim=1).indices


def patches(maps: Tensor, positions: Tensor, size: int = 3) -> Tensor:
    """(N · p, size², C): the size × size neighbourhoods in `maps` (N, C, H, H) at flat `positions` (N, p), zeros outside."""
    side, positions = maps.shape[-1], positions.to(maps.device)
    padded = F.pad(maps, [size // 2] * 4).permute(0, 2, 3, 1)
    image, offset = (torch.arange(length, device=maps.device) for length in (len(maps), size))
    row = (positions // side)[..., None, None] + offset.unsqueeze(1)
    column = (positions % side)[..., None, None] + offset
    return padded[image.view(-1, 1, 1, 1), row, column].flatten(2, 3).flatten(0, 1)


class Statistics:
    """Sums over rows of X (taps · channels) and Y (outputs): `add` rows, then call `centred` once.

    Then `xx` is XᵀX, `xy` is XᵀY and `yy` the sum of squares of each output, all about the means `x_mean` and `y_mean`.
    """

    def __init__(self, taps: int, channels: int, outputs: int, device: torch.device | None = None):
        self.taps, self.channels, self.rows = taps, channels, 0
        self.xx = torch.zeros(taps * channels, taps * channels, device=device)
        self.xy = torch.zeros(taps * channels, outputs, device=device)
        self.x_mean = torch.zeros(taps * channels, device=device, dtype=torch.float64)
        self.y_mean, self.yy = torch.zeros(2, outputs, device=device, dtype=torch.float64)

    def add(self, X: Tensor, Y: Tensor | None = None) -> None:
        """Add rows X (R, taps, channels) and, where they are known, Y (R, outputs)."""
        X, c = X.flatten(1).float(), self.channels
        for tap in range(0, len(self.xx), c):  # with itself and later taps alone: XᵀX is symmetric
            self.xx[tap : tap + c, tap:].addmm_(X[:, tap : tap + c].T, X[:, tap:])
        self.rows, self.x_mean = self.rows + len(X), self.x_mean + X.sum(0, dtype=torch.float64)
        if Y is not None:
            self.xy.addmm_(X.T, Y.float())
            self.y_mean += Y.sum(0, dtype=torch.float64)
            self.yy += Y.double().square().sum(0)

    def centred(self) -> "Statistics":
        """Turn the sums into sums about the means. Raises ValueError without rows, and where a sum is not a finite number."""
        if self.rows == 0:
            raise ValueError("no rows were added")
        self.xx = self.xx.triu_() + self.xx.triu(1).T
        self.x_mean, self.y_mean = self.x_mean / self.rows, self.y_mean / self.rows
        x_mean, y_mean = self.x_mean.float(), self.y_mean.float()
        self.xx.addr_(x_mean, x_mean, alpha=-self.rows)
        self.xy.addr_(x_mean, y_mean, alpha=-self.rows)
        self.yy -= self.rows * self.y_mean.square()
        return self._finite()

    def explained_by(self, W: Tensor, bias: Tensor | None) -> "Statistics":
        """These statistics (centred) with Y = X Wᵀ + bias, for which no row of Y is needed."""
        self.xy = self.xx @ W.T
        self.yy = (W.T * self.xy).sum(0, dtype=torch.float64)
        self.y_mean = W.double() @ self.x_mean + (0 if bias is None else bias)
        return self._finite()

    def _finite(self) -> "Statistics":
        for what, sums in (("inputs", (self.xx, self.x_mean)), ("outputs", (self.xy, self.yy, self.y_mean))):
            if not all(math.isfinite(part.sum()) for part in sums):  # NaN would read as a perfect fit later on
                raise ValueError(f"the {what} of this layer are not finite numbers: look for NaN or overflow in the network")
        return self

    @property
    def constant(self) -> bool:
        """Whether X does not vary: what is left of XᵀX (centred) is rounding."""
        return bool(self.xx.diagonal().mean() <= ROUNDING * self.rows * self.x_mean.square().mean())

    def columns(self, channels: Tensor) -> Tensor:
        """The columns of X that belong to `channels`, tap by tap."""
        return torch.cat([tap * self.channels + channels for tap in range(self.taps)])

    def restricted(self, channels: Tensor) -> "Statistics":
        """The same (centred) for some of the channels."""
        at, part = self.columns(channels.to(self.xx.device)), copy.copy(self)
        part.channels, part.xx, part.xy, part.x_mean = len(channels), self.xx[at][:, at], self.xy[at], self.x_mean[at]
        return part


@torch.no_grad()
def collect(
    inputs: Iterable[Tensor], layer: Layer, samples: Samples, count: int, targets: Tensor | None = None, rows: int | None = None
) -> Statistics:
    """Statistics of any 3×3 convolution (padding 1) or linear layer.

    Args:
        inputs: what enters the layer, a chunk (N, C, H, H) or (N, C) at a time, for `count` images in all.
        targets: Y at the sampled positions, (images · positions, outputs); by default what the layer itself gives.
        rows: about so many, the same number from each image, and from no more images than that takes.
    """
    per_image = max(1, rows // count) if rows else samples.positions
    statistics: Statistics | None = None
    done, Y = 0, None if targets is None else targets.view(count, -1, len(layer.weight))[:, :per_image]
    for maps in inputs:
        here = slice(done, done + len(maps))
        if isinstance(layer, nn.Linear):
            X = maps.flatten(2).transpose(1, 2) if maps.dim() > 2 else maps.unsqueeze(1)
        else:
            X = patches(maps, samples.positions_of(count, maps.shape[-1])[here, :per_image])
        statistics = statistics or Statistics(X.shape[1], X.shape[2], len(layer.weight), maps.device)
        statistics.add(X, None if Y is None else Y[here].flatten(0, 1))
        done += len(maps)
        if rows and statistics.rows >= rows:
            break
    if statistics is None:
        raise ValueError("a layer needs images to be solved from")
    found = statistics.centred()
    return found if targets is not None else found.explained_by(matrix(layer.weight, found.taps), layer.bias)


def matrix(weight: Tensor, taps: int) -> Tensor:
    """A layer's weight, or a mask of it, as W (outputs, taps · channels)."""
    return weight.detach().reshape(len(weight), -1, taps).transpose(1, 2).flatten(1)


def unmatrix(W: Tensor, taps: int, shape: torch.Size) -> Tensor:
    """The inverse of `matrix`: a weight or a mask of that shape."""
    return W.view(len(W), taps, -1).transpose(1, 2).reshape(shape)


def assign(layer: Layer, W: Tensor, bias: Tensor, taps: int) -> None:
    """Give the layer the weights W (outputs, taps · channels) and the bias (outputs,), in place."""
    layer.weight, layer.bias = nn.Parameter(unmatrix(W, taps, layer.weight.shape)), nn.Parameter(bias)


@dataclass(frozen=True)
class Path:
    """min over β of 1/(2N) ‖Y − Σᵢ βᵢ Xᵢ Wᵢᵀ‖² + λ ‖β‖₁, one coefficient a channel, for every λ.

    `penalties` are λ at the knots, falling, and `beta` (channels, knots) is linear in between. `gram` and `correlation` are
    ZᵀZ and ZᵀY over channels, where column i of Z is channel i's contribution Xᵢ Wᵢᵀ, all outputs stacked.
    """

    penalties: np.ndarray
    beta: np.ndarray
    gram: np.ndarray
    correlation: np.ndarray
    whole: bool = True  # or followed only as far as a count of channels needs

    @property
    def order(self) -> Tensor:
        """All channels in the order in which they come in for good; those that never do follow by what they could explain."""
        knots, active = self.beta.shape[1], self.beta != 0
        # a channel may leave the path and come back: what counts is its last zero
        entered = np.where(active, -1, np.arange(knots)).max(axis=1)
        gain = (self.correlation - self.gram @ self.beta[:, -1]) ** 2 / np.maximum(np.diag(self.gram), 1e-30)
        return torch.from_numpy(np.lexsort((np.arange(len(gain)), -gain, entered)).copy())

    def keep(self, count: int) -> tuple[Tensor, float]:
        """(`count` channels, ascending, and the smallest λ at which the path holds exactly so many).

        Any count from 1 to all, or up to where the path was followed; else ValueError. A path that never holds so many, as
        with dead or equal channels, is completed from `order` at λ = 0.
        """
        sizes = (self.beta != 0).sum(axis=0)
        most = len(self.gram) if self.whole else sizes.max()
        if not 1 <= count <= most:
            raise ValueError(f"cannot keep {count} channels, only 1 to {most}{'' if self.whole else ' of a path with a count'}")
        exact = np.flatnonzero(sizes == count)
        if len(exact):
            return torch.from_numpy(np.flatnonzero(self.beta[:, exact[-1]])), float(self.penalties[exact[-1]])
        return self.order[:count].sort().values, 0.0


def path(statistics: Statistics, W: Tensor, count: int | None = None) -> Path:
    """The LASSO path of a layer with weights W, by least-angle regression (Efron et al. 2004).

    The whole path, or with `count` only until it holds more channels than that.
    """
    taps, c = statistics.taps, statistics.channels
    sums = ((W.T @ W) * statistics.xx).view(taps, c, taps, c).sum((0, 2), dtype=torch.float64)
    gram = ((sums + sums.T) / 2).cpu().numpy()  # symmetric to the last bit
    correlation = (W.T * statistics.xy).view(taps, c, -1).sum((0, 2), dtype=torch.float64).cpu().numpy()
    alive = np.flatnonzero(np.diag(gram) > DEAD * np.diag(gram).max())
    if not len(alive):
        return Path(np.zeros(1), np.zeros((c, 1)), gram, correlation)
    most, seen, whole = STEPS * len(alive), 0, False
    steps = min(most, count + count // 4 + 8) if count else most
    while not whole and (count is None or seen <= count):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # an early end, where channels are equal: see Path.keep
            of_alive = correlation[alive], gram[np.ix_(alive, alive)]
            penalties, _, found = lars_path_gram(*of_alive, n_samples=statistics.rows, max_iter=steps, method="lasso")
        seen, whole = (found != 0).sum(axis=0).max(), steps == most or len(penalties) <= steps
        steps = min(most, 2 * steps)  # channels left the path on the way: go further
    beta = np.zeros((c, len(penalties)))
    beta[alive] = found
    return Path(np.asarray(penalties), beta, gram, correlation, whole)


def random_order(total: int, seed: int) -> Tensor:
    """All channels in a random order."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Solution:
    """A layer solved on some channels: W (outputs, taps · kept), bias (outputs,), and how it was solved."""

    W: Tensor
    bias: Tensor
    solver: str


def solve(statistics: Statistics, channels: Tensor, W: Tensor, *, ridge: float = RIDGE) -> Solution:
    """min over V of ‖Y − X_K Vᵀ‖² + ρ ‖V − W‖²: least squares with a small ridge that pulls towards W.

    W (outputs, taps · kept) are the weights so far, so a layer that loses nothing keeps them up to rounding. ρ is `ridge`
    times the mean diagonal of XᵀX, up to a thousandfold where rounding needs more (`solver` says so); else ValueError.
    """
    part = statistics.restricted(channels)
    solved, solver = W, "none: the kept channels are constant"
    if not part.constant:
        factor, used = _cholesky(part.xx, ridge)
        solved, solver = W + torch.cholesky_solve(part.xy - part.xx @ W.T, factor).T, f"cholesky, ridge {used:.0e}"
    return Solution(solved, (part.y_mean - solved.double() @ part.x_mean).to(W.dtype), solver)


def _cholesky(xx: Tensor, ridge: float) -> tuple[Tensor, float]:
    """(L with L Lᵀ = XᵀX + ridge · its mean diagonal, the ridge used)."""
    for used in (ridge, 10 * ridge, 100 * ridge, 1000 * ridge):
        damped = xx.clone()
        damped.diagonal().add_(used * xx.diagonal().mean())
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            return factor, used
    raise ValueError("the sums of this layer are singular: give a larger ridge")


def relative_error(statistics: Statistics, channels: Tensor, W: Tensor) -> float:
    """‖Y − X_K Wᵀ‖² / ‖Y‖² about the means: 0 is exact, 1 is no better than a constant. ValueError when W is not finite."""
    part = statistics.restricted(channels)
    explained = 2 * (W.T * part.xy).sum(dtype=torch.float64) - ((W @ part.xx) * W).sum(dtype=torch.float64)
    error = 1 - float(explained / part.yy.sum().clamp(min=1e-30))
    if not math.isfinite(error):
        raise ValueError("the error of this layer is not a finite number: look for NaN or overflow in its weights")
    return max(0.0, error)


def error_curve(statistics: Statistics, order: Tensor, *, ridge: float = RIDGE) -> Tensor:
    """Relative error of least squares on the first k channels of `order`, for k = 0 … len(order), from one factorisation.

    With XᵀX = L Lᵀ in that order, the sum of squares explained by the first columns is that of the first rows of L⁻¹XᵀY.
    """
    if statistics.constant:
        return torch.ones(len(order) + 1, dtype=torch.float64)
    at = statistics.columns(order.to(statistics.xx.device)).view(statistics.taps, -1).T.flatten()  # channel by channel
    factor, _ = _cholesky(statistics.xx[at][:, at], ridge)
    explained = torch.linalg.solve_triangular(factor, statistics.xy[at], upper=False).square().sum(1, dtype=torch.float64)
    left = 1 - explained.view(len(order), -1).sum(1).cumsum(0) / statistics.yy.sum().clamp(min=1e-30)
    return torch.cat([left.new_ones(1), left.clamp(min=0)]).cpu()
