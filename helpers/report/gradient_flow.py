"""GraSP's idea on a network small enough to remove every weight in turn and look."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from IPython.display import Markdown

from helpers import models
from helpers.pruning import saliency
from helpers.report.statistics import signed
from helpers.report.tables import number_text


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
    weights = [layer.weight for layer in models.weight_layers(network).values()]
    loss = F.cross_entropy(network(images) / 200, labels)
    return float(sum(g.square().sum() for g in torch.autograd.grad(loss, weights)))


def toy_seen(toy: Toy) -> Markdown:
    """Does the score say what happens when the weight goes?"""
    first = toy.score >= toy.score.quantile(0.8)
    last = toy.score <= toy.score.quantile(0.2)
    agrees = toy.change[last].mean() < toy.change[first].mean()
    kept = "So GraSP keeps the weights without which the gradient would shrink most." if agrees else "Here the score misleads."
    return Markdown(
        f"**What is seen.** Over {len(toy.score)} weights, score and measured change correlate at "
        f"{number_text(toy.correlation, 2)}. Removing one of the fifth with the largest scores, which GraSP removes first, "
        f"changes the squared gradient norm by {signed(100 * float(toy.change[first].mean()), 1)} % on average; removing one of "
        f"the fifth with the smallest, by {signed(100 * float(toy.change[last].mean()), 1)} %. {kept} "
        "It says nothing of the loss itself."
    )
