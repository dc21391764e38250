"""What the making of one row starts from: its data, its dense network, its scans and widths, its training."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import torch

from helpers import budget, data, files, machine, models, plan, pretrained, progress, results, settings, training
from helpers.models import VGG
from helpers.pruning import channels, scan, widths
from helpers.results import RowKey, settings_hash
from helpers.settings import Profile

PER_CLASS = 10  # images a class for saliency scores (Wang et al. 2020, section 5)


class Context:
    """One row in the making: its data, its dense network, its recipes and its files."""

    def __init__(self, profile: Profile, key: RowKey):
        self.profile, self.key = profile, key
        self.weights_digest: str | None = None  # of the dense network, once the row has asked for it
        self.dense_trained: dict = {}  # what `fit` told of that network, where its file knows it

    @cached_property
    def splits(self) -> data.Splits:
        return data.load(self.key.dataset)

    def new_network(self, widths: Sequence[int | str] | None = None) -> VGG:
        """Freshly initialised by the row's seed; with the given widths instead of the profile's."""
        start = self.profile.start_of(self.key.dataset)
        with torch.random.fork_rng():
            torch.manual_seed(self.key.seed)
            hidden = tuple(width // self.profile.width_divisor for width in (512, 512))
            network = VGG(
                len(self.splits.classes),
                widths or models.scaled(models.VGG16, self.profile.width_divisor),
                hidden,
                dropout=start.dropout,
                normalization=models.NORMALIZATIONS.get(self.key.dataset, models.NORMALIZATIONS["half"]),
            )
            if start.large_head:
                network.draw_large_head()
        return network.to(machine.device())

    def dense(self) -> VGG:
        """The trained dense network every method after training starts from; trained once where the profile says so."""
        if self.profile.weights == "local":
            return self._ready(self._given())
        path = settings.network_path(self.profile.name, self.key.dataset, "dense")
        main = Context(self.profile, budget.dense_key(self.profile, self.key.dataset))
        made_with = main.made_with
        # not the lock of the row "dense", which its maker holds while it calls this
        with files.lock(settings.lock_path(self.profile.name, self.key.dataset, "dense-weights")):
            if models.is_of(path, made_with):
                try:
                    return self._stored(path)
                except files.CorruptFile as error:
                    progress.say(f"{error}; it is trained again")
            network = main.new_network()
            trained = main.fit(network)
            models.save(network, path, settings_hash=made_with, trained=json.dumps(trained))
            main.checkpoint_path.unlink(missing_ok=True)
            return self._stored(path)

    def _given(self) -> VGG:
        """The network of the local weights file; ValueError when the rows that exist were made from another."""
        network = pretrained.load(self.key.dataset)
        row = results.load_row(self.profile.name, budget.dense_key(self.profile, self.key.dataset))
        if row and row.get("weights_digest", digest := files.digest_of(network.state_dict())) != digest:
            raise ValueError(
                f"{settings.weights_path(self.key.dataset)} is not the network that the rows in "
                f"{settings.results_dir(self.profile.name)} start from; put that file back, or set RESULTS_DIR and BUILD_DIR to "
                "new folders to study another network"
            )
        return network

    def _stored(self, path: Path) -> VGG:
        network = models.load(path)
        self.dense_trained = json.loads(models.metadata(path).get("trained", "{}"))
        return self._ready(network)

    def _ready(self, network: VGG) -> VGG:
        self.weights_digest = files.digest_of(network.state_dict())
        network.set_dropout(self.profile.dropout)
        return network.to(machine.device())

    @property
    def weights_name(self) -> str:
        return f"given, {self.key.dataset}" if self.profile.weights == "local" else f"trained, {self.profile.dense_epochs} epochs"

    @property
    def made_with(self) -> str:
        """The hash of every setting that decides the row's network."""
        return settings_hash(budget.made_with(self.profile, self.key))

    @property
    def checkpoint_path(self) -> Path:
        return settings.checkpoint_path(self.profile.name, self.key.dataset, self.key.row_id)

    def fit(self, network: VGG, hook: training.Hook | None = None) -> dict:
        """Train for the row's budget, resumable, and return what the row tells of it: who trained, how long, one log an epoch.

        Whoever stores the network removes the file at `checkpoint_path`.
        """
        dtype = budget.train_dtype(self.key)
        made_by = {"commit": results.commit(), "train_device": machine.processor()}
        made_by["train_dtype"] = str(dtype).removeprefix("torch.")
        logs = training.fit(
            network,
            self.splits.train,
            budget.recipe(self.profile, self.key),
            val=self.splits.val,
            hook=hook,
            checkpoint=self.checkpoint_path,
            # the row's hash is known before the network is and cannot tell which one the training starts from
            made_with=" ".join(filter(None, (self.made_with, self.weights_digest))),
            made_by=made_by,
            dtype=dtype,
            label=f"{self.key.dataset} {self.key.row_id}",
        )
        return made_by | {"train_seconds": sum(log.seconds for log in logs), "log": [asdict(log) for log in logs]}

    def scoring_batch(self, network: VGG) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = data.class_balanced(self.splits.train, PER_CLASS, self.key.seed)
        return data.normalize(chosen.images, network.normalization), chosen.labels

    def sensitivity_scan(self, network: VGG) -> scan.Scan:
        """The sensitivity scan of the dense network: made once a data set, kept for every sparsity and seed."""
        path = settings.scan_path(self.profile.name, f"{self.key.dataset}.json")
        with files.lock(settings.lock_path(self.profile.name, "scans", self.key.dataset)):
            val = self.splits.val.subset(torch.arange(min(self.profile.scan_images, len(self.splits.val))))
            return scan.scan(network, val, path=path, dtype=machine.fast_dtype())

    def samples(self) -> channels.Samples:
        """The rows channel selection is solved from."""
        return channels.Samples(self.profile.statistics_images, self.profile.positions, seed=self.key.seed)

    def chosen_widths(self, network: VGG) -> widths.Widths:
        """The widths of a row: the same for every method at one budget, chosen from reconstruction errors on training images."""
        variant, profile = self.key.variant, self.profile
        dense_macs = widths.macs_with_batch_norm(network)
        fewer = plan.MACS_CURVE.get(variant)
        macs_budget = int(dense_macs / fewer) if fewer else int(dense_macs * profile.macs_share)
        rule = variant.removeprefix("widths=") if variant.startswith("widths=") else "marginal"
        multiple = 1 if variant == "unrounded" else max(1, 8 // profile.width_divisor)
        errors = self._error_curves(network) if rule == "marginal" else None
        return widths.for_budget(network, macs_budget, rule=rule, multiple=multiple, errors=errors)

    def _error_curves(self, network: VGG) -> dict[str, torch.Tensor]:
        """Reconstruction error by channels kept, a layer at a time; made once a data set."""
        path = settings.scan_path(self.profile.name, f"{self.key.dataset}-channels.safetensors")
        samples = channels.Samples(self.profile.statistics_images, self.profile.positions, seed=self.profile.seeds[0])
        made_with = {"made_with": json.dumps([asdict(samples), files.digest_of(network.state_dict())])}
        with files.lock(settings.lock_path(self.profile.name, "scans", f"{self.key.dataset}-channels")):
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


def dense_network(profile: Profile, dataset: str) -> VGG:
    """The dense network that rows start from: the stored one, else the given one; FileNotFoundError where neither is."""
    path = settings.network_path(profile.name, dataset, "dense")
    if models.is_of(path, settings_hash(budget.made_with(profile, budget.dense_key(profile, dataset)))):
        return models.load(path)
    if profile.weights == "train":
        raise FileNotFoundError(f"{path} is missing or was made with other settings; the row `dense` makes it")
    return pretrained.load(dataset)
