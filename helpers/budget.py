"""What a row is trained with, and every setting that decides what its network is."""

from dataclasses import asdict

import torch

from helpers import machine, models, plan
from helpers.results import RowKey
from helpers.settings import Profile
from helpers.training import Recipe


def recipe(profile: Profile, key: RowKey) -> Recipe | None:
    """How long and at which learning rate a row's network is trained; None for a row that trains nothing."""
    tune, scratch = (profile.batch_size, profile.finetune_lr), (profile.batch_size, profile.scratch_lr)
    init = profile.init_batch_size, profile.scratch_lr
    match key.method, key.variant:
        case ("dense", _):
            epochs, steps = profile.dense_epochs, scratch
        case ("dense_finetuned", _):
            epochs, steps = profile.finetune_epochs, tune
        case ("layerwise_magnitude" | "global_magnitude" | "uniform_magnitude", variant):
            if from_initialization(key.method, key.variant):
                epochs, steps = profile.init_epochs, init
            else:
                epochs, steps = {"curve": 0, "curve_finetuned": profile.curve_epochs}.get(variant, profile.finetune_epochs), tune
        case ("lasso_channels_from_scratch", _):
            epochs, steps = profile.channel_scratch_epochs, scratch
        case ("lasso_channels" | "l1_filters" | "random_channels", variant):
            epochs, steps = profile.macs_curve_epochs if variant.startswith("macs=") else profile.channel_epochs, tune
        case _:
            epochs, steps = profile.init_epochs, init
    return Recipe(epochs, *steps, seed=key.seed) if epochs else None


def train_dtype(key: RowKey) -> torch.dtype:
    """The number format a row's network is trained in: the processor's fastest, where the row is not about the format."""
    return torch.float32 if key.variant == plan.FLOAT32 else machine.fast_dtype()


def from_initialization(method: str, variant: str = "") -> bool:
    """Whether a row's training starts from new weights, not from the trained dense network."""
    if method in ("layerwise_magnitude", "global_magnitude", "uniform_magnitude"):
        return variant in ("reinitialized", "rewound")
    return method not in ("dense_finetuned", "lasso_channels", "l1_filters", "random_channels")


def dense_key(profile: Profile, dataset: str) -> RowKey:
    """The row of the dense network that every method after training starts from."""
    return RowKey(dataset, "dense", seed=profile.seeds[0])


def starts_from_dense(profile: Profile, key: RowKey) -> bool:
    """Whether a row needs a dense network that has to be trained first."""
    return profile.weights == "train" and key.method not in plan.INIT_METHODS


def made_with(profile: Profile, key: RowKey) -> dict:
    """Every setting that decides what a row's network is; a row made with others is not reused."""
    budget = recipe(profile, key)
    shared = {
        "recipe": asdict(budget) if budget else None,
        "width_divisor": profile.width_divisor,
        "weights": profile.weights,
    }
    if budget and from_initialization(key.method, key.variant):
        start = profile.start_of(key.dataset)
        shared |= {"dropout": start.dropout} | ({} if start.large_head else {"initialization": models.INITIALIZATION})
    elif budget:
        shared["dropout"] = profile.dropout
    if starts_from_dense(profile, key) and key != (dense := dense_key(profile, key.dataset)):
        shared["dense"] = made_with(profile, dense)
    if key.variant == plan.FLOAT32:
        shared["train_dtype"] = "float32"
    if key.method == "layerwise_magnitude":
        shared["scan_images"] = profile.scan_images
    if key.method == "grasp_iterative":
        shared["pruning_stages"] = profile.pruning_stages
        shared["later_score"] = plan.STAGE_SCORES[key.variant][1]
    if "channels" in key.method or key.method == "l1_filters":
        shared |= {
            "statistics_images": profile.statistics_images,
            "positions": profile.positions,
            "macs_share": profile.macs_share,
        }
    return shared
