"""How each method makes the network of its row: load or initialise, prune, train.

A maker composes the floors below into an `Outcome`; it neither measures nor stores.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

from helpers import machine, models, plan, pretrained, settings, training
from helpers.context import PER_CLASS, Context
from helpers.models import VGG
from helpers.pruning import channels, comparison, saliency, schedule, sensitivity
from helpers.pruning.masks import MaskHook, Masks, global_magnitude, magnitude, uniform


@dataclass
class Outcome:
    """What a method made: a network, the masks on it if any, and what its row tells beyond the columns."""

    network: VGG
    masks: Masks | None = None
    untrained: training.Accuracy | None = None  # on the test images, before any training
    trained: dict = field(default_factory=dict)  # what `Context.fit` told of its training, if there was one
    weights: str = ""
    extras: dict = field(default_factory=dict)


def _dense(context: Context) -> Outcome:
    network = context.dense()
    if context.key.variant.startswith("normalization="):
        network.normalization = _named_normalization(context.key.variant)
    extras = {"weights_digest": context.weights_digest}
    if context.profile.weights == "local" and (training_of := pretrained.training_of(context.key.dataset)):
        extras["weights_training"] = training_of
    return Outcome(network, trained=context.dense_trained, weights=context.weights_name, extras=extras)


def _dense_finetuned(context: Context) -> Outcome:
    outcome = _dense(context)
    outcome.untrained = training.evaluate(outcome.network, context.splits.test)
    outcome.trained = context.fit(outcome.network)
    return outcome


def _fit_masked(context: Context, outcome: Outcome, masks: Masks) -> None:
    """Train the outcome's network under `masks`; a training that is continued keeps the masks it was begun with."""
    hook = MaskHook(masks)
    outcome.trained = context.fit(outcome.network, hook)
    outcome.masks = hook.masks


def _named_normalization(variant: str) -> models.Normalization:
    name = variant.removeprefix("normalization=")
    return models.NORMALIZATIONS[settings.choose("normalisation", name, models.NORMALIZATIONS)]


def _magnitude(context: Context) -> Outcome:
    network, key = context.dense(), context.key
    sparsity, extras = key.sparsity_pct / 100, {"weights_digest": context.weights_digest}
    if key.method == "layerwise_magnitude":
        curves = context.sensitivity_scan(network)
        allocation = sensitivity.plan(network, curves, sparsity)
        masks = magnitude(network, allocation.kept)
        extras |= {"scan": curves.to_dict(), "allocation": asdict(allocation)}
    elif key.method == "global_magnitude":
        masks = global_magnitude(network, sparsity)
    else:
        masks = uniform(network, sparsity)
    outcome = Outcome(network, masks, weights=context.weights_name, extras=extras)
    if key.variant in ("reinitialized", "rewound"):  # the lottery ticket's question: do the masks alone suffice?
        start = replace(key, seed=context.profile.seeds[0] if key.variant == "rewound" else key.seed + 1000)
        outcome.network = Context(context.profile, start).new_network()
        outcome.weights = f"initialised, seed {start.seed}"
        _fit_masked(context, outcome, masks)
        return outcome
    masks.apply(network)
    outcome.untrained = training.evaluate(network, context.splits.test)
    if key.variant != "curve":
        _fit_masked(context, outcome, masks)
    return outcome


def _from_initialization(context: Context) -> Outcome:
    """Every method that prunes before or while it trains, and their dense control: same start, budget and data order."""
    key, network = context.key, context.new_network()
    outcome = Outcome(network, weights=f"initialised, seed {key.seed}")
    if key.method == "dense_from_scratch":
        outcome.trained = context.fit(network)
        return outcome
    sparsity = key.sparsity_pct / 100
    if key.method == "grasp_iterative":
        stages = schedule.stages(context.profile.init_epochs, sparsity, count=context.profile.pruning_stages)
        first, later = plan.STAGE_SCORES[key.variant]
        hook = schedule.IterativeHook(
            network, context.splits.train, stages, first, PER_CLASS, key.seed, later=later, keep_at_least=1
        )
        outcome.trained = context.fit(network, hook)
        outcome.masks = hook.masks
        outcome.extras["schedule"] = [asdict(stage) for stage in stages]
        return outcome
    images, labels = context.scoring_batch(network)
    before = comparison.gradient_norm(network, images, labels)
    start = time.perf_counter()
    masks = saliency.prune(
        network, key.method, images, labels, sparsity, seed=key.seed, inverted=key.variant == "inverted", keep_at_least=1
    )
    outcome.extras["scoring_seconds"] = time.perf_counter() - start
    if key.variant == "shuffled":
        masks = masks.shuffled(key.seed)
    elif key.variant == "reinitialized":
        start = replace(key, seed=key.seed + 1000)
        network = outcome.network = Context(context.profile, start).new_network()
        outcome.weights = f"initialised, seed {start.seed}"
        before = comparison.gradient_norm(network, images, labels)  # of the network that is trained, as "after" is
    masks.apply(network)
    outcome.extras["gradient_norm"] = {"before": before, "after": comparison.gradient_norm(network, images, labels, masks)}
    _fit_masked(context, outcome, masks)
    return outcome


def _channels(context: Context) -> Outcome:
    key, network = context.key, context.dense()
    images, samples = context.splits.train.images, context.samples()
    small, reports = channels.prune(
        network,
        images,
        context.chosen_widths(network),
        method={"lasso_channels": "lasso", "l1_filters": "l1", "random_channels": "random"}[key.method],
        seed=key.seed,
        reconstruct=key.method == "lasso_channels" and key.variant != "no_reconstruction",
        asymmetric=key.variant != "symmetric",
        samples=samples,
    )
    small.to(machine.device())
    training.recalibrate_batch_norm(small, context.splits.train, seed=key.seed)
    outcome = Outcome(small, weights=context.weights_name)
    outcome.untrained = training.evaluate(small, context.splits.test)
    outcome.extras = {
        "weights_digest": context.weights_digest,
        "widths": list(small.widths),
        "channel_reports": [report.as_dict() for report in reports],
    }
    outcome.trained = context.fit(small)
    return outcome


def _channels_from_scratch(context: Context) -> Outcome:
    small = context.new_network(context.chosen_widths(context.dense()))
    outcome = Outcome(small, weights=f"initialised, seed {context.key.seed}", extras={"widths": list(small.widths)})
    outcome.trained = context.fit(small)
    return outcome


MAKERS: dict[str, Callable[[Context], Outcome]] = {
    "dense": _dense,
    "dense_finetuned": _dense_finetuned,
    **dict.fromkeys(("layerwise_magnitude", "global_magnitude", "uniform_magnitude"), _magnitude),
    **dict.fromkeys(
        ("dense_from_scratch", "grasp_iterative", "grasp", "snip", "synflow", "magnitude_init", "random"), _from_initialization
    ),
    **dict.fromkeys(("lasso_channels", "l1_filters", "random_channels"), _channels),
    "lasso_channels_from_scratch": _channels_from_scratch,
}
