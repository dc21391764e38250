"""Which input channels of a layer stay: the LASSO path of He, Zhang and Sun (2017), and two controls.

The LASSO weighs whole channels: min over β of 1/(2N) ‖Y − Σᵢ βᵢ Xᵢ Wᵢᵀ‖² + λ ‖β‖₁, with the weights W fixed. Its Gram
matrix over channels follows from XᵀX and W, so no row is looked at again.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import lars_path_gram
from torch import Tensor, nn

from helpers.pruning.masks import keep_largest
from helpers.pruning.reconstruction import Statistics

DEAD = 1e-7  # a channel whose contribution has less than this share of the largest one's energy carries nothing
WHOLE = 8  # steps a channel that a whole path may take


@dataclass(frozen=True)
class Path:
    """The LASSO path of one layer: λ at every knot, and β (channels, knots) there; β is linear in between."""

    lambdas: np.ndarray
    beta: np.ndarray
    gram: np.ndarray
    correlation: np.ndarray

    @property
    def order(self) -> Tensor:
        """All channels, in the order in which they come in for good; the ones that never do follow by what they could explain."""
        knots = self.beta.shape[1]
        active = self.beta != 0
        # a channel may leave the path and come back: count it from the knot after its last zero
        last_zero = np.where(active, -1, np.arange(knots)).max(axis=1)
        entered = np.where(active[:, -1], last_zero, knots)
        left_over = self.correlation - self.gram @ self.beta[:, -1]
        gain = left_over**2 / np.maximum(np.diag(self.gram), 1e-30)
        return torch.from_numpy(np.lexsort((np.arange(len(gain)), -gain, entered)).copy())

    def keep(self, count: int) -> tuple[Tensor, float]:
        """(`count` channels in ascending order, the smallest λ at which the path holds exactly so many).

        The smallest on the part of the path that was computed: one cut short (`path`) may hold as many again further on.
        A path that never holds `count` channels (dead or duplicate channels) is completed from `order`, at λ = 0.
        """
        if not 1 <= count <= len(self.gram):
            raise ValueError(f"cannot keep {count} of {len(self.gram)} channels")
        sizes = (self.beta != 0).sum(axis=0)
        exact = np.flatnonzero(sizes == count)
        if len(exact):
            return torch.from_numpy(np.flatnonzero(self.beta[:, exact[-1]])), float(self.lambdas[exact[-1]])
        return self.order[:count].sort().values, 0.0


def channel_gram(statistics: Statistics, W: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(ZᵀZ, ZᵀY) over channels in float64, where column i of Z is channel i's contribution Xᵢ Wᵢᵀ, all outputs stacked."""
    taps, c = statistics.taps, statistics.channels
    gram = torch.zeros(c, c, dtype=torch.float64, device=W.device)
    for t in range(taps):  # a tap at a time, and each pair of taps once: XᵀX is symmetric
        at, on = slice(t * c, (t + 1) * c), slice(t * c, None)
        blocks = ((W[:, at].T @ W[:, on]) * statistics.xx[at, on]).view(c, taps - t, c)
        later = blocks[:, 1:].sum(1, dtype=torch.float64)
        gram += blocks[:, 0] + later + later.T
    correlation = (W.T * statistics.xy).view(taps, c, -1).sum((0, 2), dtype=torch.float64)
    return ((gram + gram.T) / 2).cpu().numpy(), correlation.cpu().numpy()


def path(statistics: Statistics, W: Tensor, count: int | None = None) -> Path:
    """The LASSO path (least-angle regression, Efron et al. 2004) of a layer with weights W (outputs, taps · channels).

    The whole path, or with `count` only as far as needed to see more than `count` channels in it.
    """
    gram, correlation = channel_gram(statistics, W)
    diagonal = np.diag(gram)
    alive = np.flatnonzero(diagonal > DEAD * diagonal.max())
    beta = np.zeros((len(gram), 1))
    lambdas = np.zeros(1)
    if len(alive):
        steps = WHOLE * len(alive)
        knots = min(steps, count + count // 4 + 8) if count else steps
        while True:
            lambdas, of_alive = _lars(gram[np.ix_(alive, alive)], correlation[alive], statistics.rows, knots)
            if knots == steps or len(lambdas) <= knots or (of_alive != 0).sum(axis=0).max() > count:
                break
            knots = min(steps, 2 * knots)  # channels left the path on the way: go further
        beta = np.zeros((len(gram), len(lambdas)))
        beta[alive] = of_alive
    return Path(np.asarray(lambdas), beta, gram, correlation)


def _lars(gram: np.ndarray, correlation: np.ndarray, rows: int, knots: int) -> tuple[np.ndarray, np.ndarray]:
    """(λ, β at λ) for at most `knots` steps; fewer where the path ends, or where channels duplicate each other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an early end: `Path.keep` completes such a path
        lambdas, _, beta = lars_path_gram(correlation, gram, n_samples=rows, max_iter=knots, method="lasso")
    return lambdas, beta


def l1_filters(conv: nn.Conv2d, count: int) -> Tensor:
    """The `count` filters of the producing convolution with the largest ℓ1 norm (Li et al. 2017), ascending."""
    norms = conv.weight.detach().abs().sum((1, 2, 3))
    return keep_largest(norms, count).nonzero().squeeze(1).cpu()


def random_channels(total: int, count: int, seed: int) -> Tensor:
    """`count` of `total` channels drawn without replacement, ascending."""
    return random_order(total, seed)[:count].sort().values


def random_order(total: int, seed: int) -> Tensor:
    """All channels in a random order."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))
