"""`make(experiment)`: the one way from an experiment to its network: start, prune, train. It neither measures nor stores.

Each kind of pruning in `experiments` has one function here; to add a kind is to add a dataclass there and a function here.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from helpers import files, machine, models, plan, pretrained, settings, training
from helpers.experiments import Channels, Experiment, Magnitude, New, Repair, Saliency, Stages, Trained
from helpers.maker import Maker
from helpers.models import VGG
from helpers.pruning import allocation, channels, comparison, errors, masks, regression, repair, schedule, scores, wanda
from helpers.pruning.masks import MaskHook, Masks


@dataclass
class Made:
    """A network, the masks on it if any, and what its result tells beyond the columns."""

    network: VGG
    masks: Masks | None = None
    untrained: training.Accuracy | None = None  # on the test images, after pruning and before training
    trained: dict = field(default_factory=dict)  # who trained, how long, one log an epoch; empty where nothing was trained
    weights: str = ""  # where the weights come from, in words
    dense_params: int | None = None  # parameters before channels were cut, where some were
    details: dict = field(default_factory=dict)


def make(experiment: Experiment) -> Made:
    """Make an experiment's network; an interrupted training goes on from its last checkpoint."""
    return _MAKERS[type(experiment.prune)](Maker(experiment), experiment.prune)


def dense_network(profile: settings.Profile, dataset: str) -> VGG:
    """The dense network that pruning starts from, trained once where the profile says so; see `pretrained.load` for errors."""
    maker = Maker(plan.dense(profile, dataset))
    return maker.dense() if isinstance(maker.experiment.start, Trained) else maker.trained_once()[0]


def scoring(experiment: Experiment) -> tuple[VGG, torch.Tensor, torch.Tensor]:
    """The new network that a saliency experiment starts from, and the normalised images and labels it is scored on."""
    maker, start, how = Maker(experiment), experiment.start, experiment.prune
    if not isinstance(start, New) or not isinstance(how, Saliency | Stages):
        raise TypeError(f"{experiment.name} scores no new network")
    network = maker.new(start)
    return network, *maker.scoring_batch(network, how.per_class)


# One function a kind of pruning -------------------------------------------------------------------------------------


def _fit_masked(maker: Maker, made: Made, chosen: Masks) -> Made:
    """Train under masks; a training that is continued keeps the masks it was begun with."""
    hook = MaskHook(chosen)
    chosen.apply(made.network)
    made.trained = maker.fit(made.network, hook)
    made.masks = hook.masks
    return made


def _unpruned(maker: Maker, _: None) -> Made:
    """The dense network: trained from nothing, as it is, or trained on."""
    wanted = maker.experiment
    if isinstance(wanted.start, New):
        network, trained = maker.trained_once()
        details = {"weights_digest": files.digest_of(network.state_dict())}
        return Made(network, trained=trained, weights=f"initialised, seed {_start(maker).seed}", details=details)
    network = maker.dense()
    if wanted.normalization:
        network.normalization = models.NORMALIZATIONS[wanted.normalization]
    made = Made(network, weights=maker.weights_name, details=maker.details)
    if wanted.recipe is not None:
        made.untrained = training.evaluate(network, maker.splits.test)
        made.trained = maker.fit(network)
    elif wanted.start.dense is None and (described := pretrained.training_of(wanted.dataset)):
        made.details["weights_training"] = described
    return made


def _magnitude(maker: Maker, how: Magnitude) -> Made:
    network = maker.dense()
    details = maker.details
    if how.scan is not None:  # the allocation is "layerwise"
        curves = maker.scan(network, how.scan)
        shares = allocation.allocate(network, curves, how.sparsity, slope=how.slope, least_density=how.least_density)
        chosen = masks.magnitude(network, shares.kept)
        details |= {"scan": curves.to_dict(), "allocation": asdict(shares)}
    else:
        chosen = {"global": masks.global_magnitude, "uniform": masks.uniform}[how.allocation](network, how.sparsity)
    if how.retrain is not None:
        weights = f"initialised, seed {how.retrain.seed}"
        return _fit_masked(maker, Made(maker.new(how.retrain), weights=weights, details=details), chosen)
    chosen.apply(network)
    untrained = training.evaluate(network, maker.splits.test)
    made = Made(network, chosen, untrained, weights=maker.weights_name, details=details)
    return _fit_masked(maker, made, chosen) if maker.experiment.recipe else made


def _repaired(maker: Maker, how: Repair) -> Made:
    wanted, network = maker.experiment, maker.dense()
    images, samples = maker.splits.train.images, regression.Samples(how.images, how.positions, seed=wanted.seed)
    kept, untrained = _counts(maker, how, network), None
    if how.choice == "together":
        repaired, chosen = repair.together(
            network, kept, images, samples=samples, ridge=how.ridge, rho=how.rho, rounds=how.rounds, block=how.block
        )
    else:
        seen = wanda.squares(network, samples.choose(images)) if how.choice == "wanda" else {}
        chosen = wanda.prune(network, kept, seen) if seen else masks.magnitude(network, kept)
        repaired = repair.least_squares(network, chosen, images, samples=samples, ridge=how.ridge)
    if how.choice != "together":  # what the masks do alone, and with batch norms averaged anew
        chosen.apply(network)
        untrained = training.evaluate(network, maker.splits.test)
        training.recalibrate(network, maker.splits.train, seed=wanted.seed)
        maker.details["recalibrated_top1_pct"] = training.evaluate(network, maker.splits.test).top1_pct
    made = Made(repaired, chosen, untrained, weights=maker.weights_name, details=maker.details)
    if wanted.recipe is None:
        return made
    made.details["repaired_top1_pct"] = training.evaluate(repaired, maker.splits.test).top1_pct
    return _fit_masked(maker, made, chosen)


def _counts(maker: Maker, how: Repair, network: VGG) -> dict[str, int]:
    """Weight name → weights that stay, by a repair's allocation."""
    if how.scan is not None:
        return dict(allocation.allocate(network, maker.scan(network, how.scan), how.sparsity).kept)
    samples = regression.Samples(min(how.images, errors.SAMPLES.images), how.positions, seed=maker.experiment.seed)
    return errors.allocate(network, maker.weight_errors(network, samples), how.sparsity, alpha=how.alpha)


def _start(maker: Maker) -> New:
    """What a method that prunes before or during training begins with."""
    if not isinstance(start := maker.experiment.start, New):
        raise TypeError(f"{maker.experiment.name} begins with a trained network; its method prunes new ones")
    return start


def _saliency(maker: Maker, how: Saliency) -> Made:
    wanted, start = maker.experiment, _start(maker)
    network = maker.new(start)
    images, labels = maker.scoring_batch(network, how.per_class)
    chosen = scores.prune(
        network,
        how.score,
        images,
        labels,
        how.sparsity,
        seed=wanted.seed,
        inverted=how.inverted,
        keep_at_least=1,
        temperature=how.temperature,
        rounds=how.rounds,
    )
    if how.shuffled:
        chosen = chosen.shuffled(wanted.seed)
    if how.retrain is not None:
        network = maker.new(how.retrain)
    before, after = (comparison.gradient_norm(network, images, labels, under) for under in (None, chosen))
    norms = {"before": before, "after": after}
    weights = f"initialised, seed {(how.retrain or start).seed}"
    return _fit_masked(maker, Made(network, weights=weights, details={"gradient_norm": norms}), chosen)


def _stages(maker: Maker, how: Stages) -> Made:
    wanted, start = maker.experiment, _start(maker)
    network = maker.new(start)
    stages = schedule.stages(wanted.epochs, how.sparsity, count=how.count)
    hook = schedule.IterativeHook(
        network,
        maker.splits.train,
        stages,
        how.first,
        how.per_class,
        wanted.seed,
        later=how.later,
        keep_at_least=1,
        temperature=how.temperature,
    )
    trained = maker.fit(network, hook)
    details = {"schedule": [asdict(stage) for stage in stages]}
    return Made(network, hook.masks, trained=trained, weights=f"initialised, seed {start.seed}", details=details)


def _channels(maker: Maker, how: Channels) -> Made:
    wanted, network = maker.experiment, maker.dense()
    chosen, dense_params = maker.narrowed(network, how), sum(p.numel() for p in network.parameters())
    if how.retrain is not None:
        small = maker.new(how.retrain, chosen)
        made = Made(small, weights=f"initialised, seed {how.retrain.seed}", dense_params=dense_params)
        made.details, made.trained = {"widths": list(small.widths)}, maker.fit(small)
        return made
    small, reports = channels.prune(
        network,
        maker.splits.train.images,
        chosen,
        method=how.choice,
        seed=wanted.seed,
        reconstruct=how.reconstruct,
        asymmetric=how.asymmetric,
        samples=regression.Samples(how.images, how.positions, seed=wanted.seed),
    )
    small.to(machine.device())
    training.recalibrate(small, maker.splits.train, images=how.recalibration_images, seed=wanted.seed)
    plain = [{name: value for name, value in asdict(report).items() if name != "kept"} for report in reports]
    details = maker.details | {"widths": list(small.widths), "channel_reports": plain}
    untrained = training.evaluate(small, maker.splits.test)
    made = Made(small, None, untrained, weights=maker.weights_name, dense_params=dense_params, details=details)
    made.trained = maker.fit(small)
    return made


_MAKERS: dict[type, Callable[[Maker, Any], Made]] = {
    type(None): _unpruned,
    Magnitude: _magnitude,
    Repair: _repaired,
    Saliency: _saliency,
    Stages: _stages,
    Channels: _channels,
}
