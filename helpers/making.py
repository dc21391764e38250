"""`make(experiment)`: the one way from an experiment to its network: start, prune, train. It neither measures nor stores.

Each kind of pruning in `experiments` has one function here; to add a kind is to add a dataclass there and a function here.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from helpers import data, experiments, files, machine, models, pretrained, progress, results, settings, training
from helpers.experiments import Experiment, New, Trained
from helpers.models import VGG
from helpers.pruning import allocation, channels, comparison, masks, regression, schedule, scores, sensitivity, widths
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
    return _MAKERS[type(experiment.prune)](_Maker(experiment))


def dense_network(profile: settings.Profile, dataset: str) -> VGG:
    """The dense network that pruning starts from, trained once where the profile says so; see `pretrained.load` for errors."""
    maker = _Maker(experiments.dense(profile, dataset))
    return maker.dense() if isinstance(maker.experiment.start, Trained) else maker.trained_once()[0]


def scoring(experiment: Experiment) -> tuple[VGG, torch.Tensor, torch.Tensor]:
    """The new network that a saliency experiment starts from, and the normalised images and labels it is scored on."""
    maker = _Maker(experiment)
    network = maker.new(experiment.start)
    return network, *maker.scoring_batch(network, experiment.prune.per_class)


class _Maker:
    """One experiment in the making: its images, its networks, its files."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.details: dict = {}

    @cached_property
    def splits(self) -> data.Splits:
        wanted = self.experiment
        return data.load(wanted.dataset, validation_images=wanted.validation_images, split_seed=wanted.split_seed)

    def new(self, start: New, chosen: Sequence[int | str] | None = None) -> VGG:
        """A newly initialised network, with the `chosen` widths instead of VGG16's."""
        with torch.random.fork_rng():
            torch.manual_seed(start.seed)
            network = VGG(
                len(self.splits.classes),
                chosen or models.scaled(models.VGG16, start.width_divisor),
                tuple(width // start.width_divisor for width in (512, 512)),
                dropout=start.dropout,
                normalization=models.NORMALIZATIONS.get(self.experiment.dataset, models.NORMALIZATIONS["half"]),
            )
            if start.large_head:
                network.draw_large_head()
        return network.to(machine.device())

    def dense(self) -> VGG:
        """The trained dense network, ready to be pruned."""
        start = self.experiment.start
        network = self._given() if start.dense is None else _Maker(start.dense).trained_once()[0]
        self.details["weights_digest"] = files.digest_of(network.state_dict())
        network.set_dropout(start.dropout)
        return network.to(machine.device())

    def _given(self) -> VGG:
        """The network of the weights file; ValueError when the results that exist were made from another."""
        network, dataset, profile = pretrained.load(self.experiment.dataset), self.experiment.dataset, self.experiment.profile
        stored = results.load(experiments.dense(settings.PROFILES[profile], dataset))
        if stored and stored.get("weights_digest", digest := files.digest_of(network.state_dict())) != digest:
            raise ValueError(
                f"{settings.weights_path(dataset)} is not the network that the results in {settings.results_dir(profile)} start "
                "from; put that file back, or set RESULTS_DIR and BUILD_DIR to new folders to study another network"
            )
        return network

    def trained_once(self) -> tuple[VGG, dict]:
        """The network of a dense experiment: read where it lies, else trained and stored under a lock of its own."""
        at = self.experiment.profile, self.experiment.dataset
        path = settings.network_path(*at, self.experiment.name)
        with files.lock(settings.lock_path(*at, f"{self.experiment.name}-weights")):
            if models.is_of(path, self.experiment.hash):
                try:
                    return models.load(path), json.loads(models.metadata(path).get("trained", "{}"))
                except files.CorruptFile as error:
                    progress.say(f"{error}; it is trained again")
            network = self.new(self.experiment.start)
            trained = self.fit(network)
            models.save(network, path, experiment=self.experiment.hash, trained=json.dumps(trained))
            self.checkpoint_path.unlink(missing_ok=True)
            return models.load(path), trained

    @property
    def weights_name(self) -> str:
        dense = self.experiment.start.dense
        return f"given, {self.experiment.dataset}" if dense is None else f"trained, {dense.recipe.epochs} epochs"

    @property
    def checkpoint_path(self) -> Path:
        return settings.checkpoint_path(self.experiment.profile, self.experiment.dataset, self.experiment.name)

    def fit(self, network: VGG, hook: training.Hook | None = None) -> dict:
        """Train by the experiment's recipe: who trained, how long, one log an epoch.

        Whoever stores the network removes the checkpoint.
        """
        if self.experiment.recipe is None:
            return {}
        wanted = self.experiment
        dtype = getattr(torch, wanted.number_format) if wanted.number_format else machine.dtype()
        made_by = {"commit": results.commit(), "train_device": machine.processor(), "train_dtype": str(dtype).split(".")[1]}
        logs = training.fit(
            network,
            self.splits.train,
            wanted.recipe,
            val=self.splits.val,
            hook=hook,
            checkpoint=self.checkpoint_path,
            # the hash is known before the network is and cannot tell which weights the training starts from
            made_with=" ".join(filter(None, (wanted.hash, self.details.get("weights_digest")))),
            made_by=made_by,
            dtype=dtype,
            label=f"{wanted.dataset} {wanted.name}",
        )
        return made_by | {"train_seconds": sum(log.seconds for log in logs), "log": [asdict(log) for log in logs]}

    def fit_masked(self, made: Made, chosen: Masks) -> Made:
        """Train under masks; a training that is continued keeps the masks it was begun with."""
        hook = MaskHook(chosen)
        chosen.apply(made.network)
        made.trained = self.fit(made.network, hook)
        made.masks = hook.masks
        return made

    def scoring_batch(self, network: VGG, per_class: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised training images, `per_class` of each class, and their labels."""
        chosen = data.class_balanced(self.splits.train, per_class, self.experiment.seed)
        return data.normalize(chosen.images, network.normalization), chosen.labels

    def scan(self, network: VGG, how: experiments.Scan) -> sensitivity.Scan:
        """The sensitivity scan of the dense network: made once a data set, kept for every sparsity and seed."""
        at = self.experiment.profile, self.experiment.dataset
        with files.lock(settings.lock_path(at[0], "scans", at[1])):
            images = self.splits.val.subset(torch.arange(min(how.images, len(self.splits.val))))
            path, dtype = settings.scan_path(at[0], f"{at[1]}.json"), machine.dtype()
            return sensitivity.scan(network, images, sparsities=how.sparsities, undecided=how.undecided, path=path, dtype=dtype)

    def widths(self, network: VGG) -> widths.Widths:
        """The widths for the experiment's budget of MACs: the same for every method at one budget."""
        how = self.experiment.prune
        budget = int(widths.macs_with_batch_norm(network) * how.macs_share)
        errors = self._error_curves(network) if how.rule == "marginal" else None
        return widths.for_budget(network, budget, rule=how.rule, multiple=how.multiple, errors=errors)

    def _error_curves(self, network: VGG) -> dict[str, torch.Tensor]:
        """Reconstruction error by channels kept, a layer at a time, from training images; made once a data set."""
        at, how = (self.experiment.profile, self.experiment.dataset), self.experiment.prune
        path = settings.scan_path(at[0], f"{at[1]}-channels.safetensors")
        samples = regression.Samples(how.images, how.positions, seed=settings.PROFILES[at[0]].seeds[0])
        made_with = {"made_with": json.dumps([asdict(samples), files.digest_of(network.state_dict())])}
        with files.lock(settings.lock_path(at[0], "scans", f"{at[1]}-channels")):
            if path.is_file():
                try:
                    curves, described = files.load_tensors(path)
                    if described == made_with:
                        return curves
                except files.CorruptFile as error:
                    progress.say(f"{error}; the errors are measured again")
            curves = channels.error_curves(network, self.splits.train.images, samples=samples)
            files.save_tensors(path, curves, made_with)
        return curves


# One function a kind of pruning -------------------------------------------------------------------------------------


def _unpruned(maker: _Maker) -> Made:
    """The dense network: trained from nothing, as it is, or trained on."""
    wanted = maker.experiment
    if isinstance(wanted.start, New):
        network, trained = maker.trained_once()
        details = {"weights_digest": files.digest_of(network.state_dict())}
        return Made(network, trained=trained, weights=f"initialised, seed {wanted.start.seed}", details=details)
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


def _magnitude(maker: _Maker) -> Made:
    how, network = maker.experiment.prune, maker.dense()
    details = maker.details
    if how.allocation == "layerwise":
        curves = maker.scan(network, how.scan)
        shares = allocation.allocate(network, curves, how.sparsity, slope=how.slope, least_density=how.least_density)
        chosen = masks.magnitude(network, shares.kept)
        details |= {"scan": curves.to_dict(), "allocation": asdict(shares)}
    else:
        chosen = {"global": masks.global_magnitude, "uniform": masks.uniform}[how.allocation](network, how.sparsity)
    if how.retrain is not None:
        weights = f"initialised, seed {how.retrain.seed}"
        return maker.fit_masked(Made(maker.new(how.retrain), weights=weights, details=details), chosen)
    chosen.apply(network)
    untrained = training.evaluate(network, maker.splits.test)
    made = Made(network, chosen, untrained, weights=maker.weights_name, details=details)
    return maker.fit_masked(made, chosen) if maker.experiment.recipe else made


def _saliency(maker: _Maker) -> Made:
    wanted, how = maker.experiment, maker.experiment.prune
    network = maker.new(wanted.start)
    images, labels = maker.scoring_batch(network, how.per_class)
    start = time.perf_counter()
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
    seconds = time.perf_counter() - start
    if how.shuffled:
        chosen = chosen.shuffled(wanted.seed)
    if how.retrain is not None:
        network = maker.new(how.retrain)
    before, after = (comparison.gradient_norm(network, images, labels, under) for under in (None, chosen))
    norms = {"before": before, "after": after}
    weights = f"initialised, seed {(how.retrain or wanted.start).seed}"
    return maker.fit_masked(Made(network, weights=weights, details={"scoring_seconds": seconds, "gradient_norm": norms}), chosen)


def _stages(maker: _Maker) -> Made:
    wanted, how, network = maker.experiment, maker.experiment.prune, maker.new(maker.experiment.start)
    stages = schedule.stages(wanted.recipe.epochs, how.sparsity, count=how.count)
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
    return Made(network, hook.masks, trained=trained, weights=f"initialised, seed {wanted.start.seed}", details=details)


def _channels(maker: _Maker) -> Made:
    wanted, how, network = maker.experiment, maker.experiment.prune, maker.dense()
    chosen, dense_params = maker.widths(network), sum(p.numel() for p in network.parameters())
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
    details = maker.details | {"widths": list(small.widths), "channel_reports": [report.as_dict() for report in reports]}
    untrained = training.evaluate(small, maker.splits.test)
    made = Made(small, None, untrained, weights=maker.weights_name, dense_params=dense_params, details=details)
    made.trained = maker.fit(small)
    return made


_MAKERS = {
    type(None): _unpruned,
    experiments.Magnitude: _magnitude,
    experiments.Saliency: _saliency,
    experiments.Stages: _stages,
    experiments.Channels: _channels,
}
