"""The plan: which experiments a profile has, and in which order they are made."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from helpers import settings
from helpers.experiments import TOPICS, Channels, Experiment, Magnitude, New, Repair, Saliency, Scan, Stages, Trained
from helpers.pruning import repair, scores
from helpers.settings import Profile
from helpers.sparse import quantised
from helpers.training import Recipe

WRONG_NORMALIZATIONS = ("none", "half", "imagenet")
CURVE_PCT = (50.0, 75.0, 80.0, 87.5, 93.75, 96.875)  # 2×, 4×, 5×, 8×, 16×, 32× fewer weights
FINETUNED_CURVE_PCT = (50.0, 75.0, 87.5, 93.75)
FEWER_MACS = {"macs=2x": 2.0, "macs=4x": 4.0, "macs=7.5x": None, "macs=12x": 12.0}  # None: the main result's budget of MACs
OFTEN = ("dense_from_scratch", "snip")  # methods with more than two starts, for the noise between them
MAIN_PCT = 0.0  # stands for the profile's own sparsity
BY_SCAN = {"allocation": "layerwise"}
OF_MAGNITUDE = {"choice": "magnitude", **BY_SCAN}
REPAIRED: tuple[tuple[str, str, tuple[float, ...], dict[str, Any]], ...] = (
    # rank, label, sparsities in percent, how it differs from the first; "epochs": of fine-tuning afterwards
    ("B", "", (MAIN_PCT, 90.0, 95.0), {}),
    ("B", "magnitude", (MAIN_PCT, 90.0, 95.0), OF_MAGNITUDE),
    ("C", "", (97.0,), {}),
    ("C", "magnitude", (97.0,), OF_MAGNITUDE),
    ("C", "wanda", (MAIN_PCT,), {"choice": "wanda", **BY_SCAN}),
    ("C", "scan", (MAIN_PCT,), BY_SCAN),
    ("C", "macs", (MAIN_PCT,), {"alpha": 0.5}),
    ("C", "blocks", (MAIN_PCT, 90.0), {"block": quantised.BLOCK}),
    ("C", "blocks_macs", (MAIN_PCT,), {"block": quantised.BLOCK, "alpha": 0.75}),
    *(("C", f"images={images}", (90.0,), {"images": images}) for images in (10, 100, 5000)),
    ("C", "finetuned", (95.0,), {"epochs": 1}),
    ("C", "blocks_finetuned", (95.0,), {"block": quantised.BLOCK, "epochs": 1}),
    ("C", "magnitude_finetuned", (95.0,), {**OF_MAGNITUDE, "epochs": 1}),
)
FAR = Recipe(  # the work of ten full-size epochs: how far do they get?
    13, peak_lr=0.15, label_smoothing=0.2, small_epochs=7, linear=True, norm_bias_lr=16.0, alternating=True
)
STAGE_SCORES = {  # label of iterative GraSP → its score before training, and during it
    "": ("grasp", "grasp_preserving"),
    "preserving": ("grasp_absolute", "grasp_preserving"),
    "signed": ("grasp", "grasp"),
}


def experiments(profile: Profile, topic: str | None = None) -> list[Experiment]:
    """All experiments of a profile (or those of one topic), the most important first, then by data set."""
    if topic is not None:
        settings.choose("topic", topic, TOPICS)
    ranked = [pair for dataset in profile.datasets for pair in _Planner(profile, dataset).experiments()]
    ranked.sort(key=lambda pair: pair[0])  # stable: within a rank the order below stands
    planned = [experiment for rank, experiment in ranked if rank in profile.ranks and topic in (None, experiment.topic)]
    named = set(profile.methods)
    wanted = [e for e in planned if not named or named & {e.method, f"{e.method} {e.label}"}]
    return [experiment for experiment in wanted if not {experiment.method, experiment.label} & set(profile.without)]


def dense(profile: Profile, dataset: str) -> Experiment:
    """The experiment of the dense network that every method after training starts from."""
    return _Planner(profile, dataset).dense


Ranked = tuple[str, Experiment]  # rank "A" carries the report, "B" deepens it, "C" are ablations and checks


class _Planner:
    def __init__(self, profile: Profile, dataset: str):
        self.profile, self.dataset, self.seed = profile, dataset, profile.seeds[0]
        self.first = dataset == profile.datasets[0]  # ablations are made on that alone
        if profile.weights == "given":
            self.dense = self._experiment("dense", Trained(profile.dropout), timed=True)
            self.trained = Trained(profile.dropout)
        else:
            recipe = Recipe(profile.dense_epochs, profile.batch_size, profile.scratch_lr, seed=self.seed)
            self.dense = self._experiment("dense", self._new(self.seed), recipe=recipe, timed=True)
            self.trained = Trained(profile.dropout, self.dense)

    def _experiment(self, method: str, start: New | Trained, **decisions) -> Experiment:
        return Experiment(self.profile.name, self.dataset, method, start, **{"seed": self.seed, **decisions})

    def _new(self, seed: int) -> New:
        start = self.profile.start_of(self.dataset)
        return New(self.profile.width_divisor, seed, start.dropout, start.large_head)

    def _tuning(self, epochs: int, seed: int) -> Recipe:
        return Recipe(epochs, self.profile.batch_size, self.profile.finetune_lr, seed=seed)

    def experiments(self) -> Iterator[Ranked]:
        yield "A", self.dense
        for name in WRONG_NORMALIZATIONS:
            label = f"normalization={name}"
            yield "A", self._experiment("dense", self.trained, label=label, normalization=name)
            if name == "half" or self.first:
                yield "B" if name == "half" else "C", self._finetuned(self.seed, label=label, normalization=name, timed=False)
        for seed in self.profile.seeds:
            rank = "A" if seed == self.seed else "B"
            yield rank, self._finetuned(seed)
            yield rank, self._magnitude("layerwise", self.profile.magnitude_sparsity_pct, seed=seed)
            yield rank, self._channels("lasso", seed=seed)
            yield rank, self._channels("l1", seed=seed, reconstruct=False)
        yield from self._magnitudes()
        yield from self._repaired()
        yield from self._channel_experiments()
        yield from self._from_nothing()

    def _finetuned(self, seed: int, **decisions) -> Experiment:
        recipe = self._tuning(self.profile.finetune_epochs, seed)
        decisions = {"timed": seed == self.seed, **decisions}
        return self._experiment("dense_finetuned", self.trained, recipe=recipe, seed=seed, **decisions)

    def _magnitude(self, allocated: str, pct: float, epochs: int | None = None, *, seed: int | None = None, **more) -> Experiment:
        seed, label = self.seed if seed is None else seed, more.get("label", "")
        recipe = more.pop("recipe", None)
        if epochs != 0 and recipe is None:
            recipe = self._tuning(epochs or self.profile.finetune_epochs, seed)
        scan = Scan(self.profile.scan_images) if allocated == "layerwise" else None
        pruning = Magnitude(allocated, pct / 100, scan, retrain=more.pop("retrain", None))
        timed = seed == self.seed and (not label or (label == "curve" and allocated == "layerwise"))
        method = f"{allocated}_magnitude"
        return self._experiment(method, self.trained, prune=pruning, recipe=recipe, seed=seed, timed=timed, **more)

    def _magnitudes(self) -> Iterator[Ranked]:
        for allocated in ("layerwise", "global", "uniform"):
            for pct in CURVE_PCT:
                yield "B", self._magnitude(allocated, pct, 0, label="curve")
        for allocated in ("global", "uniform"):
            yield "B", self._magnitude(allocated, self.profile.magnitude_sparsity_pct)
        for pct in FINETUNED_CURVE_PCT:
            yield "B", self._magnitude("layerwise", pct, self.profile.curve_epochs, label="curve_finetuned")
        starts = {"reinitialized": self._new(self.seed + 1000)}
        if self.profile.weights == "trained":  # only then the weights that the dense network began with are at hand
            starts["rewound"] = self._new(self.seed)
        for label, start in starts.items():
            pct, recipe = self.profile.magnitude_sparsity_pct, self._from_nothing_recipe(self.seed)
            yield "C", self._magnitude("layerwise", pct, label=label, recipe=recipe, retrain=start)

    def _repaired(self) -> Iterator[Ranked]:
        """The weights that stay are solved for; nothing is trained, or one epoch afterwards."""
        main_pct = self.profile.magnitude_sparsity_pct
        images = min(repair.SAMPLES.images, self.profile.statistics_images)
        common = {"choice": "together", "allocation": "curves", "images": images, "positions": self.profile.positions}
        for rank, label, sparsities, changed in REPAIRED:
            how: dict[str, Any] = common | changed
            epochs = how.pop("epochs", 0)
            scan = Scan(self.profile.scan_images) if how["allocation"] == "layerwise" else None
            for pct in dict.fromkeys(pct or main_pct for pct in sparsities):  # the demo's own may be one of the others
                name, recipe = label if pct == main_pct else label or "curve", self._tuning(epochs, self.seed) if epochs else None
                pruning = Repair(sparsity=pct / 100, scan=scan, **how)
                yield rank, self._experiment("repaired", self.trained, label=name, prune=pruning, recipe=recipe)
        for choice in ("l1", "random"):
            yield "B", self._channels(choice, 0, label="solved")

    def _channels(self, choice: str, epochs: int | None = None, *, seed: int | None = None, label: str = "", **how) -> Experiment:
        seed = self.seed if seed is None else seed
        start, method = self.trained, {"lasso": "lasso_channels", "l1": "l1_filters", "random": "random_channels"}[choice]
        recipe = None if epochs == 0 else self._tuning(epochs or self.profile.channel_epochs, seed)
        if how.get("retrain"):
            method = "lasso_channels_from_scratch"
            recipe = Recipe(self.profile.channel_scratch_epochs, self.profile.batch_size, self.profile.scratch_lr, seed=seed)
        how = {"macs_share": self.profile.macs_share, "multiple": self.profile.width_multiple, **how}
        pruning = Channels(choice, images=self.profile.statistics_images, positions=self.profile.positions, **how)
        timed = seed == self.seed and (not label or choice == "lasso")
        return self._experiment(method, start, prune=pruning, recipe=recipe, label=label, seed=seed, timed=timed)

    def _channel_experiments(self) -> Iterator[Ranked]:
        yield "A", self._channels("lasso", retrain=self._new(self.seed))
        yield "B", self._channels("random", reconstruct=False)
        for label, fewer in FEWER_MACS.items():
            share = 1 / fewer if fewer else self.profile.macs_share
            yield "B", self._channels("lasso", self.profile.macs_curve_epochs, label=label, macs_share=share)
        yield "C", self._channels("lasso", 2 * self.profile.channel_epochs, label="longer")
        if not self.first:
            return
        yield "B", self._channels("lasso", label="unrounded", multiple=1)
        yield "C", self._channels("lasso", label="no_reconstruction", reconstruct=False)
        yield "C", self._channels("lasso", label="symmetric", asymmetric=False)
        for rule in ("uniform", "he"):
            yield "C", self._channels("lasso", label=f"widths={rule}", rule=rule)

    def _from_nothing_recipe(self, seed: int) -> Recipe:
        profile = self.profile
        lr = profile.scratch_lr if profile.init_lr is None else profile.init_lr
        recipe = Recipe(profile.init_epochs, profile.init_batch_size, lr, seed=seed)
        return replace(recipe, label_smoothing=profile.label_smoothing, small_epochs=profile.small_epochs)

    def _from_nothing(self) -> Iterator[Ranked]:
        """Methods that prune before or while they train, and their dense control: same start, budget and order of images."""
        for number, seed in enumerate(self.profile.init_seeds):
            turn = min(number, 2)
            for rank, experiment in self._early(seed):
                often = experiment.method in OFTEN and not experiment.label
                if (rank != "C" or self.first, rank != "C", often)[turn]:  # checks are made once
                    yield (rank, "B", "C")[turn], experiment
        start = New(self.profile.width_divisor, self.seed, dropout=0.0, identities=True, whitened=True)
        yield "C", self._experiment("dense_from_scratch", start, label="fast", recipe=FAR)

    def _early(self, seed: int) -> Iterator[Ranked]:
        sparsity, recipe, start = self.profile.saliency_sparsity_pct / 100, self._from_nothing_recipe(seed), self._new(seed)
        shared = {"recipe": recipe, "timed": seed == self.seed, "seed": seed}
        yield "A", self._experiment("dense_from_scratch", start, **shared)
        for label, (first, later) in STAGE_SCORES.items():
            stages = Stages(first, later, sparsity, self.profile.pruning_stages)
            rank = {"": "A", "preserving": "B", "signed": "C"}[label]
            yield rank, self._experiment("grasp_iterative", start, label=label, prune=stages, **shared)
        for score in ("snip", "random", "grasp", "synflow", "magnitude_init"):
            pruning = Saliency(score, sparsity, scores.ROUNDS.get(score, 1))
            yield "A" if score in ("snip", "random") else "B", self._experiment(score, start, prune=pruning, **shared)
            if score not in ("snip", "grasp"):
                continue
            checks: dict[str, dict[str, Any]] = {
                "shuffled": {"shuffled": True},
                "reinitialized": {"retrain": self._new(seed + 1000)},
                "inverted": {"inverted": True},
            }
            for label, changed in checks.items():
                checked = replace(pruning, **changed)
                yield "C", self._experiment(score, start, label=label, prune=checked, recipe=recipe, seed=seed)
