"""GraSP's idea on a network small enough to remove every weight in turn, and on a real one many weights at once."""

from dataclasses import dataclass

import torch
from IPython.display import Markdown

from helpers import data, models
from helpers.context import Context
from helpers.pruning import comparison, saliency
from helpers.pruning.masks import Masks, kept_count
from helpers.pruning.scores import TEMPERATURE
from helpers.report import style
from helpers.report.statistics import signed
from helpers.report.tables import number_text
from helpers.results import RowKey
from helpers.settings import Profile

AT_ONCE = (0.0001, 0.01, 0.1, 0.4, 0.8)  # shares of all weights


@dataclass(frozen=True)
class Toy:
    """GraSP's score of every weight of a tiny network, and how the squared gradient norm changes without that weight."""

    score: torch.Tensor
    change: torch.Tensor

    @property
    def correlation(self) -> float:
        return float(torch.corrcoef(torch.stack([self.score, self.change]))[0, 1])


def toy() -> Toy:
    """A network of one convolution and two linear layers, every weight set to zero in turn; no approximation in `change`."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = models.VGG(3, (4, "M"), (6,), image_size=4).eval()
        images, labels = torch.randn(200, 3, 4, 4), torch.arange(200) % 3
    score = saliency.grasp_score(network, images, labels, batch_norm="eval")
    layers = models.weight_layers(network).values()
    before, changes = _squared_gradient(network, images, labels), []
    for layer in layers:
        weights = layer.weight.data.view(-1)
        for i, weight in enumerate(weights.tolist()):
            weights[i] = 0
            changes.append(_squared_gradient(network, images, labels) - before)
            weights[i] = weight
    flat = torch.cat([part.flatten() for part in score.values()])
    return Toy(flat / before, torch.tensor(changes) / before)


def _squared_gradient(network: models.VGG, images: torch.Tensor, labels: torch.Tensor) -> float:
    return comparison.gradient_norm(network, images, labels, batch_norm="eval", temperature=TEMPERATURE) ** 2


def toy_seen(toy: Toy) -> Markdown:
    """Does the score say what happens when the weight goes?"""
    first = toy.score >= toy.score.quantile(0.8)
    last = toy.score <= toy.score.quantile(0.2)
    agrees = toy.change[last].mean() < toy.change[first].mean()
    kept = (
        "GraSP keeps the weights without which the gradient would shrink most; as a guide to single weights it is a rough one."
        if agrees
        else "Here the score misleads."
    )
    return Markdown(
        f"**What is seen.** Over {len(toy.score)} weights, score and measured change correlate at "
        f"{number_text(toy.correlation, 2)}. Removing one of the fifth with the largest scores, which GraSP removes first, "
        f"changes the squared gradient norm by {signed(100 * float(toy.change[first].mean()), 1)} % on average "
        f"({int((toy.change[first] > 0).sum())} of those {int(first.sum())} raise it); removing one of "
        f"the fifth with the smallest, by {signed(100 * float(toy.change[last].mean()), 1)} %. {kept} "
        "It says nothing of the loss itself."
    )


@dataclass(frozen=True)
class AtOnce:
    """A freshly initialised network: the gradient norm after removing a share of its weights together, over the norm before."""

    dataset: str
    images: int
    shares: tuple[float, ...]
    left: dict[str, list[float]]  # rule → at each share, over the weights that are left
    counted_all: list[float]  # of the signed score, over the removed weights as well: what the promise speaks of
    promised: list[float]  # of the signed score, to first order


def at_once(profile: Profile) -> AtOnce | None:
    """GraSP's promise is for one weight; here is what is left of it for many, on the profile's network and first data set.

    The norm is taken at the temperature of the score, which is that of the promise. None where the images are not at hand.
    """
    if not data.at_hand(profile.datasets[0]):
        return None
    context = Context(profile, RowKey(profile.datasets[0], "grasp", profile.saliency_sparsity_pct, profile.seeds[0]))
    network = context.new_network()
    images, labels = context.scoring_batch(network)
    score = saliency.grasp(network, images, labels)
    rankings = {
        "signed": score,
        "absolute": {name: part.abs() for name, part in score.items()},
        "random": saliency.random(network, seed=context.key.seed),
    }
    full = Masks.of(network)
    before = comparison.gradient_norm(network, images, labels, temperature=TEMPERATURE)
    left, counted_all, promised = {rule: [] for rule in rankings}, [], []
    for share in AT_ONCE:
        for rule, ranking in rankings.items():
            masks = saliency.global_masks(network, ranking, kept_count(full.total, share), full, keep_at_least=1)
            after = comparison.gradient_norm(network, images, labels, masks, temperature=TEMPERATURE)
            left[rule].append(after / before)
            if rule == "signed":
                norm = comparison.gradient_norm(network, images, labels, masks, over="all", temperature=TEMPERATURE)
                counted_all.append(norm / before)
                gain = -2 * sum(float(score[name][~mask].double().sum()) for name, mask in masks.items())
                promised.append(max(0.0, 1 + gain / before**2) ** 0.5)
    return AtOnce(context.key.dataset, len(images), AT_ONCE, left, counted_all, promised)


def at_once_seen(found: AtOnce | None, share: float = 0.4) -> Markdown:
    """Does the promise for one weight hold for many?"""
    if found is None:
        return Markdown("*The images are not on this machine: the figure above is the stored one.*")
    at = found.shares.index(share)
    left = {rule: f"{100 * values[at]:.0f} %" for rule, values in found.left.items()}
    holds = found.counted_all[at] >= 1
    best = max(found.left, key=lambda rule: found.left[rule][at])
    verdict = (
        "So far from a single weight the promise still points the right way."
        if holds
        else "A promise for one weight at a time says nothing of that many together."
    )
    return Markdown(
        f"**What is seen.** On {style.dataset(found.dataset)}, with {100 * share:.0f} % of the weights removed at once, the "
        f"signed score leaves {left['signed']} of the gradient norm ({100 * found.counted_all[at]:.0f} % with the removed "
        f"weights counted as well, where the first order promised {100 * found.promised[at]:.0f} %); the absolute score leaves "
        f"{left['absolute']}, chance {left['random']}. {verdict} "
        f"Most is left by the {best} choice."
    )
