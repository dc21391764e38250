"""Facts: what pages show of a data set and no single result holds, computed once from its images and networks and stored.

A page rendered where neither lies says the same as one rendered where both do. A part is made again when what it comes
from has changed, and stays as it is where that is not at hand.
"""

import numpy as np
import torch
from torch import Tensor

from helpers import data, files, making, models, plan, progress, results, settings
from helpers.experiments import Experiment, Saliency, Stages
from helpers.pruning import channels, comparison, masks, regression, scores
from helpers.pruning.masks import Masks
from helpers.settings import Profile

AT_ONCE = (0.0001, 0.01, 0.1, 0.4, 0.8)  # shares of the weights of a new network removed together
ONE_LAYER = 5  # the sixth convolution: in the blocks that do most of the work
ONE_LAYER_IMAGES = 1000
RANDOM_ORDERS = 5
BINS = 60  # of a histogram of weights


def store(profile: Profile, dataset: str) -> dict:
    """Make the parts that are missing or outdated and return all of them."""
    path = settings.facts_path(profile.name, dataset)
    with files.lock(settings.lock_path(profile.name, f"{dataset}-facts")):
        stored = files.intact(path, files.load_json) or {}
        made = {**stored, "made_from": dict(stored.get("made_from", {}))}
        for name, (source, make) in PARTS.items():
            made_from = source(profile, dataset)
            if made_from is None or made["made_from"].get(name) == made_from:
                continue
            try:
                made[name] = make(profile, dataset)
            except FileNotFoundError as error:
                progress.say(f"{dataset}: {name} stays as it is: {error}")
                continue
            made["made_from"][name] = made_from
        if made != stored:
            files.save_json(path, made)
    return made


def _new_network(profile: Profile, dataset: str) -> tuple[Experiment, Saliency]:
    """The experiment whose start, images and seed the gradient norms are taken on, and how it prunes."""
    planned = (e for e in plan.experiments(profile) if (e.dataset, e.method, e.label) == (dataset, "grasp", ""))
    return next((e, e.prune) for e in planned if isinstance(e.prune, Saliency))


def _at_once(profile: Profile, dataset: str) -> dict:
    """Gradient norm after a share of a new network's weights is removed together, over the norm before.

    GraSP's promise is for one weight at a time; this is what is left of it for many, at the score's own temperature:
    `left` over the weights that are left, and `promised` to first order (over the removed ones as well).
    """
    experiment, how = _new_network(profile, dataset)
    network, images, labels = making.scoring(experiment)
    score = scores.grasp(network, images, labels, temperature=how.temperature)
    rankings = {
        "signed": score,
        "absolute": {name: part.abs() for name, part in score.items()},
        "random": scores.random(network, images, labels, seed=experiment.seed),
    }

    def norm(chosen: Masks | None = None) -> float:
        return comparison.gradient_norm(network, images, labels, chosen, temperature=how.temperature)

    before = norm()
    found: dict = {"shares": list(AT_ONCE), "images": len(images), "left": {rule: [] for rule in rankings}}
    found["promised"] = []
    for share in AT_ONCE:
        for rule, ranking in rankings.items():
            chosen = scores.prune(network, lambda *_, ranking=ranking: ranking, images, labels, share, keep_at_least=1)
            found["left"][rule].append(norm(chosen) / before)
            if rule == "signed":
                gain = -2 * sum(float(score[name][~mask].double().sum()) for name, mask in chosen.items())
                found["promised"].append(max(0.0, 1 + gain / before**2) ** 0.5)
    return found


def _one_layer(profile: Profile, dataset: str) -> dict:
    """One layer of the dense network: its LASSO path, and the error of the next layer's output by channels kept."""
    network = making.dense_network(profile, dataset)
    images = data.load(dataset, torch.device("cpu")).train.images
    samples = regression.Samples(min(ONE_LAYER_IMAGES, profile.statistics_images), profile.positions)
    statistics, W = channels.layer_statistics(network, images, ONE_LAYER, samples=samples)
    path = regression.path(statistics, W)
    conv = [layer for layer in models.weight_layers(network).values() if isinstance(layer, torch.nn.Conv2d)][ONE_LAYER]
    by_norm = conv.weight.detach().abs().sum((1, 2, 3)).argsort(descending=True, stable=True)
    drawn = [
        regression.error_curve(statistics, regression.random_order(statistics.channels, seed)) for seed in range(RANDOM_ORDERS)
    ]
    return {
        "layer": list(models.weight_layers(network))[ONE_LAYER],
        "images": samples.images,
        "errors": {
            "LASSO, old weights": _with_old_weights(statistics, W, path.order),
            "LASSO, solved": regression.error_curve(statistics, path.order).tolist(),
            "L1, solved": regression.error_curve(statistics, by_norm).tolist(),
            "random, solved": torch.stack(drawn).mean(0).tolist(),
        },
    }


def _with_old_weights(statistics: regression.Statistics, W: Tensor, order: Tensor) -> list[float]:
    columns = W.view(len(W), statistics.taps, -1)
    kept = (order[:count] for count in range(1, statistics.channels + 1))
    return [1.0, *(regression.relative_error(statistics, k, columns[:, :, k].flatten(1)) for k in kept)]


def _weights(profile: Profile, dataset: str) -> list[dict]:
    """A histogram of each layer of the dense network, and the magnitude below which the profile's sparsity of it lies."""
    share, histograms = profile.magnitude_sparsity_pct / 100, []
    for name, layer in models.weight_layers(making.dense_network(profile, dataset)).items():
        weights = layer.weight.detach().flatten().cpu().numpy()
        limit = float(np.quantile(np.abs(weights), 0.998))
        heights, _ = np.histogram(weights, bins=np.linspace(-limit, limit, BINS + 1))
        cut = float(np.quantile(np.abs(weights), share))
        histograms.append({"layer": name, "limit": limit, "heights": heights.tolist(), "cut": cut})
    return histograms


def _masked(profile: Profile, dataset: str) -> dict[str, Experiment]:
    """The main result of every method that prunes a new network, by method."""
    planned = (e for e in plan.experiments(profile) if e.dataset == dataset and not e.label)
    return {e.method: e for e in planned if isinstance(e.prune, Saliency | Stages) and results.load(e)}


def _masks_at_hand(profile: Profile, dataset: str) -> dict[str, str] | None:
    """The masks that are compared; None where some are not on this machine, so that the stored comparison stays."""
    found = _masked(profile, dataset)
    kept = (settings.kept_path(profile.name, dataset, e.name) for e in found.values())
    return {method: e.hash for method, e in found.items()} if found and all(path.is_file() for path in kept) else None


def _mask_overlap(profile: Profile, dataset: str) -> dict:
    """What the masks of every two methods have in common (`comparison.matrix`)."""
    paths = {m: settings.kept_path(profile.name, dataset, e.name) for m, e in _masked(profile, dataset).items()}
    return comparison.matrix({method: masks.Masks.load(path) for method, path in paths.items()})


def _dense_hash(profile: Profile, dataset: str) -> list:
    return [plan.dense(profile, dataset).hash, profile.magnitude_sparsity_pct]


PARTS = {  # name → (what it comes from, how it is made)
    "classes": (lambda profile, dataset: dataset, lambda profile, dataset: list(data.load(dataset).classes)),
    "at_once": (lambda profile, dataset: [_new_network(profile, dataset)[0].hash, *AT_ONCE], _at_once),
    "one_layer": (lambda profile, dataset: [*_dense_hash(profile, dataset), ONE_LAYER, ONE_LAYER_IMAGES], _one_layer),
    "weights": (_dense_hash, _weights),
    "mask_overlap": (_masks_at_hand, _mask_overlap),
}
