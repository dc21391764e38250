"""Experiments: every decision is a field and counts, compared ones differ in what they are compared for and in nothing else."""

import functools
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace

import pytest

from helpers import experiments, plan, settings
from helpers.experiments import Channels, Experiment, Magnitude, New, Repair, Saliency, Scan, Stages, Trained
from helpers.training import Recipe

PROFILES = [replace(profile, ranks="ABC", without=()) for profile in settings.PROFILES.values() if not profile.methods]
BESIDES = {"label", "timed"}  # what any two experiments may differ in


def differences(a, b) -> set[str]:
    """Paths of the fields in which two of a kind differ; of a part that one lacks or has of another kind, the part's."""
    found = set()
    for field in fields(a):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if is_dataclass(one) and type(one) is type(other):
            found |= {f"{field.name}.{path}" for path in differences(one, other)}
        elif one != other:
            found.add(field.name)
    return found


def changed(part) -> Iterator[tuple[str, object]]:
    """(path, the same with another value there) for every field of a dataclass and of its parts."""
    for field in fields(part):
        value = getattr(part, field.name)
        if is_dataclass(value):
            for path, other in changed(value):
                yield f"{field.name}.{path}", replace(part, **{field.name: other})
            continue
        if field.name == "method":
            other = next(method for method in experiments.METHODS if method != value)
        else:
            kinds = {bool: lambda v: not v, str: lambda v: v + "x", tuple: lambda v: (*v, 0.99), type(None): lambda _: 1}
            other = kinds.get(type(value), lambda v: v + 1)(value)
        yield field.name, replace(part, **{field.name: other})


@functools.cache
def whole(profile: settings.Profile) -> list[Experiment]:
    return plan.experiments(profile)


def planned(profile, *, method: str, label: str = "", seed: int = 0, dataset: str | None = None) -> list[Experiment]:
    chosen = dataset or profile.datasets[0]
    wanted = (method, label, seed, chosen)
    return [e for e in whole(profile) if (e.method, e.label, e.seed, e.dataset) == wanted]


def main(profile, method: str, dataset: str | None = None) -> Experiment:
    [experiment] = planned(profile, method=method, dataset=dataset)
    return experiment


# The plan ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: p.name)
def test_every_experiment_has_its_own_file_and_every_method_is_whole(profile):
    everything = whole(profile)
    assert len({(e.dataset, e.name) for e in everything}) == len({e.hash for e in everything}) == len(everything)
    assert {e.method for e in everything} == set(experiments.METHODS)
    by_topic = [plan.experiments(profile, topic) for topic in experiments.TOPICS]
    assert sum(map(len, by_topic)) == len(everything) and all(by_topic)


def test_a_name_says_method_sparsity_label_and_seed():
    start = New(1, 0, 0.0)
    pruned = Experiment("demo", "digits", "snip", start, label="shuffled", prune=Saliency("snip", 0.8033, 1), seed=2)
    assert pruned.name == "snip-s80.33-shuffled-seed2" and pruned.sparsity_pct == 80.33
    assert Experiment("demo", "digits", "dense", start).name == "dense"
    assert Experiment("demo", "digits", "lasso_channels", start, label="macs=4x").name == "lasso_channels-macs-4x"


def test_a_repair_says_what_its_counts_come_from():
    how = {"choice": "magnitude", "sparsity": 0.8, "images": 10, "positions": 1}
    with pytest.raises(ValueError, match="did you mean 'curves'"):
        Repair(allocation="curve", **how)
    for allocation, scan in (("layerwise", None), ("curves", Scan(10))):
        with pytest.raises(ValueError, match="takes a scan"):
            Repair(allocation=allocation, scan=scan, **how)


def test_unknown_names_get_the_nearest_known_one():
    with pytest.raises(ValueError, match="did you mean 'synflow'"):
        Experiment("demo", "digits", "sinflow", New(1, 0, 0.0))
    with pytest.raises(ValueError, match="did you mean 'channels'"):
        plan.experiments(PROFILES[0], "chanels")


@pytest.mark.parametrize("sparsity", [0.85, 0.9])
def test_another_sparsity_changes_the_sparsities_of_the_main_networks_alone(monkeypatch, sparsity):
    demo = settings.PROFILES["demo"]
    usual, main = whole(demo), {demo.magnitude_sparsity_pct / 100, demo.saliency_sparsity_pct / 100}
    monkeypatch.setenv("SPARSITY", str(sparsity))
    other = plan.experiments(settings.profile("demo"))

    def moved(experiment: Experiment) -> Experiment:
        if getattr(experiment.prune, "sparsity", None) not in main or experiment.label == "curve":
            return experiment
        return replace(experiment, prune=replace(experiment.prune, sparsity=sparsity))

    assert set(other) - set(usual) and set(usual) - set(other)
    assert len({e.hash for e in other}) == len({e.name for e in other}) == len(other)
    assert {e.hash for e in other} <= {moved(e).hash for e in usual}
    assert {moved(e).hash for e in usual if moved(e) != e} <= {e.hash for e in other}


# The hash ----------------------------------------------------------------------------------------------------------

START = New(4, 0, 0.1)
DENSE = Experiment("demo", "digits", "dense", START, recipe=Recipe(3))
FULL = [  # together they have every kind of part, filled in
    Experiment("demo", "digits", "layerwise_magnitude", Trained(0.1, DENSE), prune=prune, recipe=Recipe(2))
    for prune in (
        Magnitude("layerwise", 0.8, Scan(100), retrain=START),
        Saliency("snip", 0.8, 1, retrain=START),
        Stages("grasp", "grasp", 0.8, 5),
        Channels("lasso", 0.2, 50, 10, retrain=START),
    )
]


@pytest.mark.parametrize("experiment", FULL, ids=lambda e: type(e.prune).__name__)
def test_every_field_of_every_part_counts_in_the_hash_but_not_whether_it_is_timed(experiment):
    others = list(changed(experiment))
    free = {path for path, other in others if other.hash == experiment.hash}
    assert free == {"timed", "start.dense.timed"}
    hashes = {path: other.hash for path, other in others if path not in free}
    assert len(set(hashes.values())) == len(hashes)
    for part in ("start", "prune", "recipe"):
        lacking = replace(experiment, **{part: Trained(0.1) if part == "start" else None})
        assert lacking.hash not in {experiment.hash, *hashes.values()}


def test_kinds_of_pruning_with_equal_fields_are_told_apart():
    one, other = (replace(FULL[0], prune=kind("a", "b", 0.8, 1)) for kind in (Stages, _Imitation))
    assert one.hash != other.hash


class _Imitation(Stages):
    """Another kind with the same fields."""


def test_decisions_that_were_constants_once_are_fields():
    paths = {path for experiment in FULL for path, _ in changed(experiment)}
    wanted = {"prune.per_class", "prune.temperature", "prune.rounds", "prune.slope", "prune.least_density"}
    wanted |= {"prune.scan.sparsities", "prune.scan.undecided", "recipe.crop_padding", "split_seed", "validation_images"}
    assert wanted <= paths


# What is compared --------------------------------------------------------------------------------------------------

RETRAINED = {"prune.retrain", "recipe"}
LABELLED = {  # (method, label) → the fields in which it differs from the method's main experiment, any of a recipe's as one
    **{("dense_finetuned", f"normalization={name}"): {"normalization"} for name in plan.WRONG_NORMALIZATIONS},
    **{(f"{name}_magnitude", "curve"): {"prune.sparsity", "recipe"} for name in ("layerwise", "global", "uniform")},
    ("layerwise_magnitude", "curve_finetuned"): {"prune.sparsity", "recipe"},
    ("layerwise_magnitude", "reinitialized"): RETRAINED,
    ("layerwise_magnitude", "rewound"): RETRAINED,
    **{("lasso_channels", f"macs={fewer}"): {"prune.macs_share", "recipe"} for fewer in ("2x", "4x", "12x")},
    ("lasso_channels", "macs=7.5x"): {"recipe"},
    ("lasso_channels", "longer"): {"recipe"},
    ("lasso_channels", "unrounded"): {"prune.multiple"},
    ("lasso_channels", "no_reconstruction"): {"prune.reconstruct"},
    ("lasso_channels", "symmetric"): {"prune.asymmetric"},
    ("lasso_channels", "widths=uniform"): {"prune.rule"},
    ("lasso_channels", "widths=he"): {"prune.rule"},
    ("dense_from_scratch", "fast"): {"start.identities", "start.whitened", "recipe"},
    ("repaired", "curve"): set(),
    ("repaired", "magnitude"): {"prune.choice", "prune.allocation", "prune.scan"},
    ("repaired", "wanda"): {"prune.choice", "prune.allocation", "prune.scan"},
    ("repaired", "scan"): {"prune.allocation", "prune.scan"},
    ("repaired", "macs"): {"prune.alpha"},
    ("repaired", "blocks"): {"prune.block"},
    ("repaired", "finetuned"): {"recipe"},
    ("repaired", "blocks_finetuned"): {"prune.block", "recipe"},
    ("repaired", "magnitude_finetuned"): {"prune.choice", "prune.allocation", "prune.scan", "recipe"},
    **{("repaired", f"images={images}"): {"prune.images"} for images in (10, 100, 5000)},
    ("repaired", "blocks_macs"): {"prune.block", "prune.alpha"},
    **{(method, "solved"): {"prune.reconstruct", "recipe"} for method in ("l1_filters", "random_channels")},
    ("grasp_iterative", "preserving"): {"prune.first"},
    ("grasp_iterative", "signed"): {"prune.later"},
    **{(score, "shuffled"): {"prune.shuffled"} for score in ("snip", "grasp")},
    **{(score, "inverted"): {"prune.inverted"} for score in ("snip", "grasp")},
    **{(score, "reinitialized"): {"prune.retrain"} for score in ("snip", "grasp")},
}


def without_detail(paths: set[str]) -> set[str]:
    return {"recipe" if path.startswith("recipe.") else path for path in paths} - BESIDES


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: p.name)
def test_a_labelled_experiment_differs_from_the_main_one_as_its_name_says(profile):
    labelled = [e for e in whole(profile) if e.label]
    for experiment in labelled:
        of_method = main(profile, experiment.method, experiment.dataset)
        if experiment.method == "dense":  # where the main one trains it, the others read that network
            expected = {"normalization"} | ({"start", "recipe"} if profile.weights == "trained" else set())
        else:
            expected = LABELLED[experiment.method, experiment.label]
        also = {"prune.sparsity"} if experiment.method == "repaired" else set()  # each label at every sparsity
        also |= {"start.dropout", "start.large_head"} if experiment.label == "fast" else set()  # never with these
        assert without_detail(differences(of_method, experiment)) - also == expected - also, experiment.name
    lacking = {e for e in LABELLED if e not in {(e.method, e.label) for e in labelled}}
    assert lacking == ({("layerwise_magnitude", "rewound")} if profile.weights == "given" else set())


VALUES = {  # label → the field it names, and that field's value
    "normalization=none": ("normalization", "none"),
    "normalization=half": ("normalization", "half"),
    "normalization=imagenet": ("normalization", "imagenet"),
    "widths=uniform": ("prune.rule", "uniform"),
    "widths=he": ("prune.rule", "he"),
    "unrounded": ("prune.multiple", 1),
    "no_reconstruction": ("prune.reconstruct", False),
    "symmetric": ("prune.asymmetric", False),
    "shuffled": ("prune.shuffled", True),
    "inverted": ("prune.inverted", True),
    "scan": ("prune.allocation", "layerwise"),
    "macs": ("prune.alpha", 0.5),
    "magnitude": ("prune.choice", "magnitude"),
    "wanda": ("prune.choice", "wanda"),
    "preserving": ("prune.first", "grasp_absolute"),
    "signed": ("prune.later", "grasp"),
    "macs=2x": ("prune.macs_share", 1 / 2),
    "macs=4x": ("prune.macs_share", 1 / 4),
    "macs=12x": ("prune.macs_share", 1 / 12),
}


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: p.name)
def test_a_label_says_the_value_too(profile):
    for experiment in whole(profile):
        if experiment.label in VALUES:
            path, value = VALUES[experiment.label]
            found = experiment
            for name in path.split("."):
                found = getattr(found, name)
            assert found == value, experiment.name


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: p.name)
@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("dense_finetuned", "layerwise_magnitude", {"prune"}),
        ("layerwise_magnitude", "global_magnitude", {"prune.allocation", "prune.scan"}),
        ("global_magnitude", "uniform_magnitude", {"prune.allocation"}),
        ("lasso_channels", "l1_filters", {"prune.choice", "prune.reconstruct"}),
        ("l1_filters", "random_channels", {"prune.choice"}),
        ("lasso_channels", "lasso_channels_from_scratch", RETRAINED),
        ("dense_from_scratch", "snip", {"prune"}),
        ("dense_from_scratch", "grasp_iterative", {"prune"}),
        ("snip", "grasp", {"prune.score"}),
        ("snip", "random", {"prune.score"}),
        ("snip", "magnitude_init", {"prune.score"}),
        ("snip", "synflow", {"prune.score", "prune.rounds"}),
    ],
)
def test_compared_methods_start_and_train_alike(profile, one, other, expected):
    for dataset in profile.datasets:
        found = differences(main(profile, one, dataset), main(profile, other, dataset))
        assert without_detail(found) - {"method"} == expected


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: p.name)
def test_seeds_of_a_method_differ_in_the_seed_alone(profile):
    for e in whole(profile):
        if e.seed != profile.seeds[0]:
            assert differences(main(profile, e.method, e.dataset), e) - BESIDES == {"seed", "recipe.seed"}


def test_methods_before_training_are_compared_by_several_starts_that_all_share():
    profile = settings.PROFILES["quarter"]
    found = whole(profile)
    starts: dict[tuple[str, str], set[int]] = {}
    for e in (e for e in found if not e.label):
        starts.setdefault((e.dataset, e.method), set()).add(e.seed)
    assert {method for _, method in starts} == {method for method in profile.methods if " " not in method}
    assert all(seeds == ({0, 1, 2} if method in plan.OFTEN else {0, 1}) for (_, method), seeds in starts.items())
    early = [e for e in found if e.method != "layerwise_magnitude"]
    checks = [e for e in early if e.label in ("shuffled", "reinitialized", "inverted", "signed")]
    assert len(checks) == 7 and {(e.dataset, e.seed) for e in checks} == {("cifar10", 0)}
    tickets = {(e.dataset, e.label): (e.recipe, e.prune.retrain) for e in found if e not in early}
    assert {label for _, label in tickets} == {"rewound", "reinitialized"} and len(tickets) == 4
    [dense] = planned(profile, method="dense_from_scratch", seed=0, label="", dataset="cifar10")
    assert all(recipe == dense.recipe for recipe, _ in tickets.values())
    assert tickets["cifar10", "rewound"][1] == dense.start != tickets["cifar10", "reinitialized"][1]
    for e in early:
        [dense] = planned(profile, method="dense_from_scratch", seed=e.seed, dataset=e.dataset)
        [first] = planned(profile, method=e.method, label=e.label, dataset=e.dataset)
        assert (e.start, e.recipe) == (dense.start, dense.recipe)
        assert differences(first, e) - BESIDES == ({"seed", "start.seed", "recipe.seed"} if e.seed else set())


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: p.name)
def test_masks_and_widths_on_another_network_train_as_a_network_from_nothing(profile):
    scratch = main(profile, "dense_from_scratch")
    for method in ("snip", "grasp", "layerwise_magnitude"):
        [again] = planned(profile, method=method, label="reinitialized")
        assert again.recipe == scratch.recipe
        assert differences(again.prune.retrain, scratch.start) == {"seed"}
    if profile.weights == "trained":
        [rewound] = planned(profile, method="layerwise_magnitude", label="rewound")
        assert rewound.prune.retrain == main(profile, "dense").start and rewound.recipe == scratch.recipe
    assert main(profile, "lasso_channels_from_scratch").prune.retrain == scratch.start


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: p.name)
def test_curves_differ_from_the_main_training_in_length_alone(profile):
    for e in whole(profile):
        if e.label.startswith("macs=") or e.label == "curve_finetuned":
            assert differences(main(profile, e.method, e.dataset).recipe, e.recipe) == {"epochs"}
        if e.label.startswith("macs="):
            assert e.recipe == main(profile, "dense_finetuned", e.dataset).recipe
        untrained = e.label in ("curve", "solved") or (e.method == "repaired" and "finetuned" not in e.label)
        assert (e.recipe is None) == (untrained or (e.method == "dense" and isinstance(e.start, Trained)))


# Defaults that conclusions rest on ---------------------------------------------------------------------------------


def values(field: str) -> set:
    """All values of a field of `prune` in all plans."""
    every = (e.prune for profile in PROFILES for e in whole(profile))
    return {getattr(prune, field) for prune in every if hasattr(prune, field)}


def test_scores_see_ten_images_a_class():
    assert values("per_class") == {10}


def test_scores_have_temperature_200():
    assert values("temperature") == {200.0}


def test_synflow_takes_a_hundred_rounds_and_every_other_score_one():
    rounds = {(e.prune.score, e.prune.rounds) for p in PROFILES for e in whole(p) if isinstance(e.prune, Saliency)}
    assert {score for score, count in rounds if count == 1} == {"snip", "grasp", "random", "magnitude_init"}
    assert ("synflow", 100) in rounds and len(rounds) == 5


def test_batch_norms_are_averaged_over_5000_images_after_channels_went():
    assert values("recalibration_images") == {5000}


def test_the_scan_asks_float32_where_bfloat16_is_undecided_by_a_tenth():
    assert {scan.undecided for scan in values("scan") if scan} == {0.1}


def test_iterative_pruning_has_five_stages():
    assert values("count") == {5}
