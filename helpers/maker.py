"""One experiment in the making: its images, the networks it starts from, its training, and what is measured once a data set."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import torch

from helpers import checkpoint, data, experiments, files, machine, models, plan, pretrained, results, settings, starts, training
from helpers.experiments import Experiment, New, Trained
from helpers.models import VGG
from helpers.pruning import channels, errors, regression, sensitivity, widths


def source_of(e: Experiment) -> Experiment | None:
    """The experiment that trains the network which this one starts from, if one does."""
    return e.start.dense if isinstance(e.start, Trained) else None


CHECKPOINT_SECONDS = 60.0  # a state of VGG16-BN has 131 MiB: on a GPU, writing it takes as long as an epoch


class Maker:
    """One experiment in the making: its images, its networks, its files."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.details: dict = {}

    @cached_property
    def splits(self) -> data.Splits:
        wanted = self.experiment
        return data.load(wanted.dataset, validation_images=wanted.validation_images, split_seed=wanted.split_seed)

    def new(self, start: New | Trained, chosen: Sequence[int | str] | None = None) -> VGG:
        """A newly initialised network, with the `chosen` widths instead of VGG16's; TypeError for a trained start."""
        if not isinstance(start, New):
            raise TypeError(f"{self.experiment.name} starts from a trained network, not from a new one")
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
                starts.draw_large_head(network)
            if start.identities:
                starts.add_identities(network)
        network.to(machine.device())
        if start.whitened:
            starts.whiten(network, self.scoring_batch(network, experiments.PER_CLASS)[0])
        return network

    def dense(self) -> VGG:
        """The trained dense network, ready to be pruned."""
        dense = source_of(self.experiment)
        network = Maker(dense).trained_once()[0] if dense else self._given()
        self.details["weights_digest"] = files.digest_of(network.state_dict())
        network.set_dropout(self.experiment.start.dropout)
        return network.to(machine.device())

    def _given(self) -> VGG:
        """The network of the weights file; ValueError when the results that exist were made from another."""
        network, dataset, profile = pretrained.load(self.experiment.dataset), self.experiment.dataset, self.experiment.profile
        stored = results.load(plan.dense(settings.PROFILES[profile], dataset))
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
            if models.is_of(path, self.experiment.hash) and (stored := files.intact(path, models.load)):
                return stored, json.loads(models.metadata(path).get("trained", "{}"))
            network = self.new(self.experiment.start)
            trained = self.fit(network)
            models.save(network, path, experiment=self.experiment.hash, trained=json.dumps(trained))
            self.checkpoint_path.unlink(missing_ok=True)
            return models.load(path), trained

    @property
    def weights_name(self) -> str:
        dense = source_of(self.experiment)
        return f"trained, {dense.recipe.epochs} epochs" if dense and dense.recipe else f"given, {self.experiment.dataset}"

    @property
    def checkpoint_path(self) -> Path:
        return settings.checkpoint_path(self.experiment.profile, self.experiment.dataset, self.experiment.name)

    def fit(self, network: VGG, hook: checkpoint.Hook | None = None) -> dict:
        """Train by the experiment's recipe: who trained, how long, one log an epoch.

        Whoever stores the network removes the checkpoint.
        """
        wanted = self.experiment
        if wanted.recipe is None:
            return {}
        dtype = getattr(torch, wanted.number_format) if wanted.number_format else machine.dtype()
        made_by = {"commit": results.commit(), "train_device": machine.processor(), "train_dtype": str(dtype).split(".")[1]}
        logs = training.fit(
            network,
            self.splits.train,
            wanted.recipe,
            val=self.splits.val,
            hook=hook,
            checkpoint=self.checkpoint_path,
            checkpoint_seconds=CHECKPOINT_SECONDS,
            # the hash is known before the network is and cannot tell which weights the training starts from
            made_with=" ".join(filter(None, (wanted.hash, self.details.get("weights_digest")))),
            made_by=made_by,
            dtype=dtype,
            label=f"{wanted.dataset} {wanted.name}",
        )
        return made_by | {"train_seconds": sum(log.seconds for log in logs), "log": [asdict(log) for log in logs]}

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

    @contextmanager
    def _measured_once(self, path: Path, network: VGG, samples: regression.Samples) -> Iterator[tuple[Path, list]]:
        """The file of what is measured once a data set and kept with the results, locked, and what it has to be made with."""
        with files.lock(settings.lock_path(self.experiment.profile, "scans", path.stem)):
            yield path, [asdict(samples), files.digest_of(network.state_dict())]

    def weight_errors(self, network: VGG, samples: regression.Samples) -> dict[str, errors.Curve]:
        """What pruning each layer alone costs its output once it is solved again."""
        file = settings.errors_path(self.experiment.profile, self.experiment.dataset, samples.images)
        with self._measured_once(file, network, samples) as (path, made_with):
            stored = files.intact(path, files.load_json) or {}
            if stored.get("made_with") != made_with:
                curves = errors.curves(network, self.splits.train.images, samples=samples)
                stored = {"made_with": made_with, "curves": {name: asdict(curve) for name, curve in curves.items()}}
                files.save_json(path, stored)
        return {name: errors.Curve(**curve) for name, curve in stored["curves"].items()}

    def narrowed(self, network: VGG, how: experiments.Channels) -> widths.Widths:
        """The widths for the experiment's budget of MACs: the same for every method at one budget."""
        budget = int(widths.macs_with_batch_norm(network) * how.macs_share)
        curves = self._channel_errors(network, how) if how.rule == "marginal" else None
        return widths.for_budget(network, budget, rule=how.rule, multiple=how.multiple, errors=curves)

    def _channel_errors(self, network: VGG, how: experiments.Channels) -> dict[str, torch.Tensor]:
        """Reconstruction error by channels kept, a layer at a time, from training images."""
        samples = regression.Samples(how.images, how.positions, seed=settings.PROFILES[self.experiment.profile].seeds[0])
        file = settings.scan_path(self.experiment.profile, f"{self.experiment.dataset}-channels.safetensors")
        with self._measured_once(file, network, samples) as (path, made_with):
            described = {"made_with": json.dumps(made_with)}
            curves, stored = files.intact(path, files.load_tensors) or ({}, {})
            if stored != described:
                curves = channels.error_curves(network, self.splits.train.images, samples=samples)
                files.save_tensors(path, curves, described)
        return curves
