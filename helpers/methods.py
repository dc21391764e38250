"""How each method makes the network of its row: load or initialise, prune, train.

A maker composes the floors below into an `Outcome`; it neither measures nor stores.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

import torch

from helpers import data, files, models, plan, progress, settings, training
from helpers.models import VGG
from helpers.pruning import channels, comparison, saliency, scan, schedule, sensitivity, widths
from helpers.pruning.masks import MaskHook, Masks, global_magnitude, magnitude, uniform
from helpers.results import RowKey
from helpers.settings import Profile
from helpers.training import EpochLog, Recipe

PER_CLASS = 10  # images a class for saliency scores (Wang et al. 2020, section 5)


def recipe(profile: Profile, key: RowKey) -> Recipe | None:
    """How long and at which learning rate a row's network is trained; None for a row that trains nothing."""
    tune, scratch = profile.finetune_lr, profile.scratch_lr
    match key.method, key.variant:
        case ("dense", _):
            epochs, lr = profile.dense_epochs, scratch
        case ("dense_finetuned", _):
            epochs, lr = profile.finetune_epochs, tune
        case ("layerwise_magnitude" | "global_magnitude" | "uniform_magnitude", variant):
            if variant in ("reinitialized", "rewound"):
                epochs, lr = profile.init_epochs, scratch
            else:
                epochs, lr = {"curve": 0, "curve_finetuned": profile.curve_epochs}.get(variant, profile.finetune_epochs), tune
        case ("lasso_channels_from_scratch", _):
            epochs, lr = profile.channel_scratch_epochs, scratch
        case ("lasso_channels" | "l1_filters" | "random_channels", variant):
            epochs, lr = profile.macs_curve_epochs if variant.startswith("macs=") else profile.channel_epochs, tune
        case _:
            epochs, lr = profile.init_epochs, scratch
    return Recipe(epochs, profile.batch_size, lr, seed=key.seed) if epochs else None


def made_with(profile: Profile, key: RowKey) -> dict:
    """Every setting that decides what a row's network is; a row made with others is not reused."""
    budget = recipe(profile, key)
    shared = {
        "recipe": asdict(budget) if budget else None,
        "width_divisor": profile.width_divisor,
        "weights": profile.weights,
    }
    if budget:
        shared["dropout"] = profile.dropout
    if key.method == "layerwise_magnitude":
        shared["scan_images"] = profile.scan_images
    if key.method == "grasp_iterative":
        shared["pruning_stages"] = profile.pruning_stages
        shared["later_score"] = "grasp" if key.variant == "signed" else schedule.LATER["grasp"]
    if "channels" in key.method or key.method == "l1_filters":
        shared |= {
            "statistics_images": profile.statistics_images,
            "positions": profile.positions,
            "macs_share": profile.macs_share,
        }
    return shared


@dataclass
class Outcome:
    """What a method made: a network, the masks on it if any, and what its row tells beyond the columns."""

    network: VGG
    masks: Masks | None = None
    pruned_top1_pct: float | None = None
    logs: list[EpochLog] = field(default_factory=list)
    weights: str = ""
    extras: dict = field(default_factory=dict)


class Context:
    """One row in the making: its data, its dense network, its recipes and its files."""

    def __init__(self, profile: Profile, key: RowKey):
        self.profile, self.key = profile, key

    @cached_property
    def splits(self) -> data.Splits:
        return data.load(self.key.dataset)

    def new_network(self) -> VGG:
        """Freshly initialised by the row's seed."""
        with torch.random.fork_rng():
            torch.manual_seed(self.key.seed)
            hidden = tuple(width // self.profile.width_divisor for width in (512, 512))
            network = VGG(
                len(self.splits.classes),
                models.scaled(models.VGG16, self.profile.width_divisor),
                hidden,
                dropout=self.profile.dropout,
                normalization=models.NORMALIZATIONS.get(self.key.dataset, models.NORMALIZATIONS["half"]),
            )
        return network.to(settings.device())

    def dense(self) -> VGG:
        """The trained dense network every method after training starts from; trained once where the profile says so."""
        if self.profile.weights == "local":
            return self._ready(models.pretrained(self.key.dataset))
        path = settings.network_path(self.profile.name, self.key.dataset, "dense")
        # not the lock of the row "dense", which its maker holds while it calls this
        with files.lock(settings.lock_path(self.profile.name, self.key.dataset, "dense-weights")):
            if path.is_file():
                try:
                    return self._ready(models.load(path))
                except files.CorruptFile as error:
                    progress.say(f"{error}; it is trained again")
            main = Context(self.profile, RowKey(self.key.dataset, "dense", seed=self.profile.seeds[0]))
            network = main.new_network()
            main.fit(network)
            models.save(network, path)
            return self._ready(models.load(path))

    def _ready(self, network: VGG) -> VGG:
        network.set_dropout(self.profile.dropout)
        return network.to(settings.device())

    @property
    def weights_name(self) -> str:
        return f"given, {self.key.dataset}" if self.profile.weights == "local" else f"trained, {self.profile.dense_epochs} epochs"

    def fit(self, network: VGG, hook: training.Hook | None = None) -> list[EpochLog]:
        """Train for the row's budget, resumable."""
        return training.fit(
            network,
            self.splits.train,
            recipe(self.profile, self.key),
            val=self.splits.val,
            hook=hook,
            checkpoint=settings.checkpoint_path(self.profile.name, self.key.dataset, self.key.row_id),
            label=f"{self.key.dataset} {self.key.row_id}",
        )

    def scoring_batch(self, network: VGG) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = data.class_balanced(self.splits.train, PER_CLASS, self.key.seed)
        return data.normalize(chosen.images, network.normalization), chosen.labels

    def scan(self, network: VGG) -> scan.Scan:
        """The sensitivity scan of the dense network: made once a data set, kept for every sparsity and seed."""
        path = settings.scan_path(self.profile.name, f"{self.key.dataset}.json")
        with files.lock(settings.lock_path(self.profile.name, "scans", self.key.dataset)):
            val = self.splits.val.subset(torch.arange(min(self.profile.scan_images, len(self.splits.val))))
            return scan.scan(network, val, path=path, dtype=settings.fast_dtype())


# Methods: Context → Outcome ----------------------------------------------------------------------------------------


def _dense(context: Context) -> Outcome:
    network = context.dense()
    if context.key.variant:
        network.normalization = _named_normalization(context.key.variant)
    return Outcome(network, weights=context.weights_name)


def _dense_finetuned(context: Context) -> Outcome:
    outcome = _dense(context)
    outcome.pruned_top1_pct = training.evaluate(outcome.network, context.splits.test).top1_pct
    outcome.logs = context.fit(outcome.network)
    return outcome


def _named_normalization(variant: str) -> models.Normalization:
    name = variant.removeprefix("normalization=")
    return models.NORMALIZATIONS[settings.choose("normalisation", name, models.NORMALIZATIONS)]


def _magnitude(context: Context) -> Outcome:
    network, key = context.dense(), context.key
    sparsity, extras = key.sparsity_pct / 100, {}
    if key.method == "layerwise_magnitude":
        curves = context.scan(network)
        allocation = sensitivity.plan(network, curves, sparsity)
        masks = magnitude(network, allocation.kept)
        extras = {"scan": curves.to_dict(), "allocation": asdict(allocation)}
    elif key.method == "global_magnitude":
        masks = global_magnitude(network, sparsity)
    else:
        masks = uniform(network, sparsity)
    outcome = Outcome(network, masks, weights=context.weights_name, extras=extras)
    if key.variant in ("reinitialized", "rewound"):  # the lottery ticket's question: do the masks alone suffice?
        start = replace(key, seed=context.profile.seeds[0] if key.variant == "rewound" else key.seed + 1000)
        outcome.network = Context(context.profile, start).new_network()
        outcome.weights = f"initialised, seed {start.seed}"
        outcome.logs = context.fit(outcome.network, MaskHook(masks))
        return outcome
    masks.apply(network)
    outcome.pruned_top1_pct = training.evaluate(network, context.splits.test).top1_pct
    if key.variant != "curve":
        outcome.logs = context.fit(network, MaskHook(masks))
    return outcome


def _from_initialization(context: Context) -> Outcome:
    """Every method that prunes before or while it trains, and their dense control: same start, budget and data order."""
    key, network = context.key, context.new_network()
    outcome = Outcome(network, weights=f"initialised, seed {key.seed}")
    if key.method == "dense_from_scratch":
        outcome.logs = context.fit(network)
        return outcome
    sparsity = key.sparsity_pct / 100
    if key.method == "grasp_iterative":
        stages = schedule.stages(context.profile.init_epochs, sparsity, count=context.profile.pruning_stages)
        later = "grasp" if key.variant == "signed" else None
        hook = schedule.IterativeHook(network, context.splits.train, stages, "grasp", PER_CLASS, key.seed, later=later)
        outcome.logs = context.fit(network, hook)
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
        masks = saliency.masks_shuffled(masks, key.seed)
    elif key.variant == "reinitialized":
        network = outcome.network = Context(context.profile, replace(key, seed=key.seed + 1000)).new_network()
    masks.apply(network)
    outcome.extras["gradient_norm"] = {"before": before, "after": comparison.gradient_norm(network, images, labels, masks)}
    outcome.masks, outcome.logs = masks, context.fit(network, MaskHook(masks))
    return outcome


def _channels(context: Context) -> Outcome:
    key, network = context.key, context.dense()
    images, samples = context.splits.train.images, _samples(context)
    small, reports = channels.prune(
        network,
        images,
        _widths(context, network),
        method={"lasso_channels": "lasso", "l1_filters": "l1", "random_channels": "random"}[key.method],
        seed=key.seed,
        reconstruct=key.method == "lasso_channels" and key.variant != "no_reconstruction",
        asymmetric=key.variant != "symmetric",
        samples=samples,
    )
    small.to(settings.device())
    training.recalibrate_batch_norm(small, context.splits.train, seed=key.seed)
    outcome = Outcome(small, weights=context.weights_name)
    outcome.pruned_top1_pct = training.evaluate(small, context.splits.test).top1_pct
    outcome.extras = {"widths": list(small.widths), "channel_reports": [report.as_dict() for report in reports]}
    outcome.logs = context.fit(small)
    return outcome


def _channels_from_scratch(context: Context) -> Outcome:
    network = context.new_network()
    with torch.random.fork_rng():
        torch.manual_seed(context.key.seed)
        small = models.build(network.architecture() | {"widths": list(_widths(context, context.dense()))}).to(settings.device())
    outcome = Outcome(small, weights=f"initialised, seed {context.key.seed}", extras={"widths": list(small.widths)})
    outcome.logs = context.fit(small)
    return outcome


def _samples(context: Context) -> channels.Samples:
    return channels.Samples(context.profile.statistics_images, context.profile.positions, seed=context.key.seed)


def _widths(context: Context, network: VGG) -> widths.Widths:
    """The widths of a row: the same for every method at one budget, chosen from reconstruction errors on training images."""
    variant, profile = context.key.variant, context.profile
    dense_macs = widths.macs_with_batch_norm(network)
    fewer = plan.MACS_CURVE.get(variant)
    budget = int(dense_macs / fewer) if fewer else int(dense_macs * profile.macs_share)
    rule = variant.removeprefix("widths=") if variant.startswith("widths=") else "marginal"
    multiple = 1 if variant == "unrounded" else max(1, 8 // profile.width_divisor)
    errors = _error_curves(context, network) if rule == "marginal" else None
    return widths.for_budget(network, budget, rule=rule, multiple=multiple, errors=errors)


def _error_curves(context: Context, network: VGG) -> dict[str, torch.Tensor]:
    """Reconstruction error by channels kept, a layer at a time; made once a data set."""
    path = settings.scan_path(context.profile.name, f"{context.key.dataset}-channels.safetensors")
    samples = channels.Samples(context.profile.statistics_images, context.profile.positions, seed=context.profile.seeds[0])
    made_with = {"made_with": json.dumps([asdict(samples), files.digest_of(network.state_dict())])}
    with files.lock(settings.lock_path(context.profile.name, "scans", f"{context.key.dataset}-channels")):
        if path.is_file():
            curves, described = files.load_tensors(path)
            if described == made_with:
                return curves
        curves = channels.error_curves(network, context.splits.train.images, samples=samples)
        files.save_tensors(path, curves, made_with)
    return curves


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
