"""Least squares from sufficient statistics: XᵀX, XᵀY and the means of a layer's sampled rows say all that is needed.

Weights stand as matrices W (outputs, taps · channels), columns ordered tap by tap, so that Y = X Wᵀ. All sums are
about the means: the bias is solved for by itself, as mean(Y) − W mean(X).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

RIDGE = 1e-3  # of the mean diagonal of XᵀX
RIDGE_GROWTH, RIDGE_STEPS = 10.0, 3


class Statistics:
    """Sums over rows of X (taps · channels) and Y (outputs); `centred()` makes them sums about the means."""

    def __init__(self, taps: int, channels: int, outputs: int, device: torch.device | None = None):
        self.taps, self.channels, self.outputs, self.rows = taps, channels, outputs, 0
        self.xx = torch.zeros(taps * channels, taps * channels, device=device)
        self.xy = torch.zeros(taps * channels, outputs, device=device)
        self.x_mean = torch.zeros(taps * channels, device=device, dtype=torch.float64)
        self.y_mean = torch.zeros(outputs, device=device, dtype=torch.float64)
        self.yy = torch.zeros(outputs, device=device, dtype=torch.float64)

    def add(self, X: Tensor, Y: Tensor | None, taps: Sequence[int] | None = None) -> None:
        """Add rows X (R, len(taps), channels) and Y (R, outputs) if known; taps that are not named hold zeros in these rows."""
        taps = range(self.taps) if taps is None else taps
        c, flat = self.channels, X.reshape(len(X), -1)
        for i, t in enumerate(taps):
            rows, at = X[:, i], slice(t * c, (t + 1) * c)
            # the upper half only, in runs of neighbouring taps: XᵀX is symmetric
            for first, last in _runs(taps, i):
                self.xx[at, taps[first] * c : (taps[last] + 1) * c].addmm_(rows.T, flat[:, first * c : (last + 1) * c])
            if Y is not None:
                self.xy[at].addmm_(rows.T, Y)
            self.x_mean[at] += rows.sum(0, dtype=torch.float64)
        if Y is not None:
            self.y_mean += Y.sum(0, dtype=torch.float64)
            self.yy += Y.double().square().sum(0)
        self.rows += len(X)

    def centred(self) -> "Statistics":
        """Mirror the upper half, turn sums into means, and subtract the products of the means. Call it once, at the end.

        Raises ValueError without rows, and when a sum is not a finite number.
        """
        if self.rows == 0:
            raise ValueError("no rows were added")
        c = self.channels
        for t in range(self.taps):
            below = slice((t + 1) * c, None)
            self.xx[below, t * c : (t + 1) * c] = self.xx[t * c : (t + 1) * c, below].T
        self.x_mean /= self.rows
        self.y_mean /= self.rows
        self.yy -= self.rows * self.y_mean.square()
        x_mean = self.x_mean.float()
        self.xx.addr_(x_mean, x_mean, alpha=-self.rows)
        self.xy.addr_(x_mean, self.y_mean.float(), alpha=-self.rows)
        return self._finite()

    def explained_by(self, W: Tensor, bias: Tensor) -> "Statistics":
        """These statistics (centred) with Y = X Wᵀ + bias, for which no row of Y is needed."""
        self.xy = self.xx @ W.T
        self.yy = (W.T * self.xy).sum(0, dtype=torch.float64)
        self.y_mean = W.double() @ self.x_mean + bias
        return self._finite()

    def _finite(self) -> "Statistics":
        """These statistics; ValueError when a sum is not a finite number, which would read as a perfect fit later on."""
        for what, sums in (("inputs", (self.xx, self.x_mean)), ("outputs", (self.xy, self.yy, self.y_mean))):
            if not all(bool(part.isfinite().all()) for part in sums):
                raise ValueError(f"the {what} of this layer are not finite numbers: look for NaN or overflow in the network")
        return self

    def columns(self, channels: Tensor) -> Tensor:
        """The columns of XᵀX that belong to `channels`, tap by tap."""
        offsets = torch.arange(self.taps, device=channels.device) * self.channels
        return (offsets.unsqueeze(1) + channels).flatten()

    def restricted(self, channels: Tensor) -> tuple[Tensor, Tensor]:
        """(XᵀX, XᵀY) of some channels."""
        at = self.columns(channels.to(self.xx.device))
        return self.xx[at][:, at], self.xy[at]


def _runs(taps: Sequence[int], start: int) -> list[tuple[int, int]]:
    """Positions in `taps` from `start` on, as runs (first, last) of consecutive tap numbers."""
    runs: list[list[int]] = []
    for position in range(start, len(taps)):
        if runs and taps[runs[-1][1]] == taps[position] - 1:
            runs[-1][1] = position
        else:
            runs.append([position, position])
    return [(first, last) for first, last in runs]


def matrix(layer: nn.Conv2d | nn.Linear, taps: int) -> Tensor:
    """The layer's weight as (outputs, taps · channels), tap by tap; a linear layer's columns are (channel, tap) in its file."""
    weight = layer.weight.detach()
    return weight.reshape(len(weight), -1, taps).transpose(1, 2).reshape(len(weight), -1)


def unmatrix(W: Tensor, layer: nn.Conv2d | nn.Linear, taps: int) -> Tensor:
    """The inverse of `matrix`, for any number of channels."""
    weight = W.reshape(len(W), taps, -1).transpose(1, 2)
    return weight.reshape(len(W), -1, *layer.weight.shape[2:]) if layer.weight.dim() > 2 else weight.flatten(1)


def relative_error(statistics: Statistics, channels: Tensor, W: Tensor) -> float:
    """‖Y − X_K Wᵀ‖² / ‖Y‖² about the means: 0 is exact, 1 is no better than a constant. ValueError when W is not finite."""
    xx, xy = statistics.restricted(channels)
    explained = 2 * (W.T * xy).sum(dtype=torch.float64) - ((W @ xx) * W).sum(dtype=torch.float64)
    error = 1 - float(explained / statistics.yy.sum().clamp(min=1e-30))
    if not math.isfinite(error):
        raise ValueError("the error of this layer is not a finite number: look for NaN or overflow in its weights")
    return max(0.0, error)


@dataclass(frozen=True)
class Solution:
    """A layer solved on some channels: W (outputs, taps · kept), bias (outputs,), and how it was solved."""

    W: Tensor
    bias: Tensor
    solver: str


def bias_for(statistics: Statistics, channels: Tensor, W: Tensor) -> Tensor:
    """The bias with which the mean output is the target's."""
    x_mean = statistics.x_mean[statistics.columns(channels.to(W.device))]
    return (statistics.y_mean - W.double() @ x_mean).to(W.dtype)


def solve(statistics: Statistics, channels: Tensor, W: Tensor, *, ridge: float = RIDGE) -> Solution:
    """min over V of ‖Y − X_K Vᵀ‖² + ρ ‖V − W‖²: least squares with a small ridge that pulls towards W.

    W (outputs, taps · kept) are the weights so far, so a layer that loses nothing keeps them up to rounding. ρ is `ridge`
    times the mean diagonal of XᵀX; where the system stays singular it grows tenfold, at most three times, and then the
    pseudo-inverse decides; `Solution.solver` says which it was.
    """
    xx, xy = statistics.restricted(channels)
    scale = float(xx.diagonal().mean())
    residual = xy - xx @ W.T
    if scale <= 0:
        return Solution(W.clone(), bias_for(statistics, channels, W), "none: the kept channels are constant")
    for step in range(RIDGE_STEPS + 1):
        rho = ridge * RIDGE_GROWTH**step
        damped = xx.clone()
        damped.diagonal().add_(rho * scale)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            solved = W + torch.cholesky_solve(residual, factor).T
            return Solution(solved, bias_for(statistics, channels, solved), f"cholesky, ridge {rho:.0e}")
    solved = W + (torch.linalg.pinv(xx.double(), hermitian=True, rtol=1e-6) @ residual.double()).T.to(W.dtype)
    return Solution(solved, bias_for(statistics, channels, solved), "pseudo-inverse")


def error_curve(statistics: Statistics, order: Tensor, *, ridge: float = RIDGE) -> Tensor:
    """Relative error of least squares on the first k channels of `order`, for k = 0 … len(order), from one factorisation.

    With XᵀX = L Lᵀ in that order, the sum of squares explained by the first columns is that of the first rows of L⁻¹XᵀY.
    """
    channels, taps = len(order), statistics.taps
    at = statistics.columns(order.to(statistics.xx.device)).reshape(taps, channels).T.flatten()  # channel by channel
    damped = statistics.xx[at][:, at]
    scale = damped.diagonal().mean().clamp(min=1e-30)
    for step in range(RIDGE_STEPS + 1):
        damped.diagonal().add_(ridge * RIDGE_GROWTH**step * scale)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            break
    else:
        raise ValueError("the error curve cannot be computed: no ridge makes the sums of this layer positive definite")
    explained = torch.linalg.solve_triangular(factor, statistics.xy[at], upper=False).square().sum(1, dtype=torch.float64)
    total = statistics.yy.sum().clamp(min=1e-30)
    left = 1 - explained.reshape(channels, taps).sum(1).cumsum(0) / total
    return torch.cat([left.new_ones(1), left.clamp(min=0)]).cpu()
