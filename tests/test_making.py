"""What makes a network does what the experiment says: each decision arrives where it is carried out, each label is true."""

import copy
import inspect
import shutil
from collections import defaultdict
from dataclasses import dataclass, is_dataclass, replace

import numpy as np
import pytest
import tiny
import torch

from helpers import data, files, machine, maker, making, models, plan, pretrained, results, settings, training
from helpers.experiments import Experiment, New, Trained
from helpers.pruning import allocation, channels, comparison, errors, masks, repair, scores, sensitivity, wanda, widths
from helpers.pruning.masks import Masks

PROFILE = tiny.PROFILE
DENSE = plan.dense(PROFILE, "digits")
SPIED = (  # what carries out decisions
    *((scores, "prune"), (channels, "prune"), (widths, "for_budget"), (sensitivity, "scan"), (allocation, "allocate")),
    *((errors, "allocate"), (wanda, "prune"), (repair, "together"), (repair, "least_squares")),
    *((training, "recalibrate"), (data, "load"), (data, "class_balanced"), (channels, "error_curves")),
)


def planned(name: str) -> Experiment:
    [experiment] = tiny.experiments([name])
    return experiment


def changed(part, path: str, value):
    """The dataclass with another value at "field.field"."""
    name, _, rest = path.partition(".")
    return replace(part, **{name: changed(getattr(part, name), rest, value) if rest else value})


@dataclass
class Trace:
    """A network that was made without training, and with which arguments."""

    made: making.Made
    calls: dict[str, list[dict]]  # function → arguments of every call
    begun: dict[str, torch.Tensor]  # the network as its training found it


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the dense network and the scans of this file lie."""
    place = tmp_path_factory.mktemp("making")
    with pytest.MonkeyPatch.context() as patch:
        at_home(patch, place)
        making.dense_network(PROFILE, "digits")
    return place


def at_home(patch, place) -> None:
    patch.setenv("BUILD_DIR", str(place))
    patch.setenv("RESULTS_DIR", str(place / "results"))
    patch.setattr(data, "load", tiny.splits)
    patch.setattr(results, "commit", lambda: "tiny")


@pytest.fixture
def home(folder, monkeypatch):
    at_home(monkeypatch, folder)
    return folder


@pytest.fixture(scope="module")
def trace(folder):
    """Make an experiment, once; a training does what its hook does before each epoch."""
    found: dict[Experiment, Trace] = {}

    def make(experiment: Experiment) -> Trace:
        if experiment not in found:
            calls, begun = defaultdict(list), {}

            def spy(module, name):
                function, signature = getattr(module, name), inspect.signature(getattr(module, name))

                def called(*arguments, **options):
                    bound = signature.bind(*arguments, **options)
                    bound.apply_defaults()
                    calls[f"{module.__name__.split('.')[-1]}.{name}"].append(dict(bound.arguments))
                    return function(*arguments, **options)

                patch.setattr(module, name, called)

            def fit(network, train, recipe, *, hook=None, **options):
                calls["fit"].append({"recipe": recipe, "images": len(train), **options})
                calls["fit"][-1]["normalization"] = network.normalization
                begun.update(copy.deepcopy(network.state_dict()))
                for epoch in range(recipe.epochs if hook else 0):
                    hook.before_epoch(network, epoch)
                return []

            with pytest.MonkeyPatch.context() as patch:
                at_home(patch, folder)
                patch.setattr(training, "fit", fit)
                for module, name in SPIED:
                    spy(module, name)
                found[experiment] = Trace(making.make(experiment), calls, begun)
        return found[experiment]

    return make


# Every decision arrives --------------------------------------------------------------------------------------------

MAIN = {kind: planned(name) for kind, name in {
    "layerwise": "layerwise_magnitude-s80.33", "global": "global_magnitude-s80.33", "snip": "snip-s80", "synflow": "synflow-s80",
    "grasp": "grasp-s80", "random": "random-s80", "iterative": "grasp_iterative-s80", "lasso": "lasso_channels",
    "repair": "repaired-s80.33", "solved": "repaired-s80.33-magnitude",
    "wanda": "repaired-s80.33-wanda", "l1": "l1_filters", "scratch": "dense_from_scratch", "finetuned": "dense_finetuned",
}.items()}  # fmt: skip
MAIN["large"] = changed(MAIN["lasso"], "prune.macs_share", 0.9)
ARRIVALS = [  # experiment, its field, another value, function, argument, what arrives there
    ("layerwise", "prune.scan.images", 20, "sensitivity.scan", "split", lambda split: len(split) == 20),
    ("layerwise", "prune.scan.sparsities", (0.5, 0.9), "sensitivity.scan", "sparsities", (0.5, 0.9)),
    ("layerwise", "prune.scan.undecided", 0.2, "sensitivity.scan", "undecided", 0.2),
    ("layerwise", "prune.slope", 0.02, "allocation.allocate", "slope", 0.02),
    ("layerwise", "prune.least_density", 0.02, "allocation.allocate", "least_density", 0.02),
    ("layerwise", "prune.sparsity", 0.7, "allocation.allocate", "sparsity", 0.7),
    ("repair", "prune.sparsity", 0.7, "errors.allocate", "sparsity", 0.7),
    ("repair", "prune.alpha", 1.0, "errors.allocate", "alpha", 1.0),
    ("repair", "prune.images", 20, "repair.together", "samples", lambda samples: samples.images == 20),
    ("repair", "prune.positions", 3, "repair.together", "samples", lambda samples: samples.positions == 3),
    ("repair", "prune.ridge", 0.2, "repair.together", "ridge", 0.2),
    ("repair", "prune.rho", 1.0, "repair.together", "rho", 1.0),
    ("repair", "prune.rounds", 3, "repair.together", "rounds", 3),
    ("repair", "seed", 3, "repair.together", "samples", lambda samples: samples.seed == 3),
    ("solved", "prune.ridge", 0.2, "repair.least_squares", "ridge", 0.2),
    ("solved", "prune.scan.images", 20, "sensitivity.scan", "split", lambda split: len(split) == 20),
    ("random", "seed", 3, "scores.prune", "seed", 3),
    ("snip", "seed", 3, "data.class_balanced", "seed", 3),
    ("snip", "prune.score", "grasp", "scores.prune", "score", "grasp"),
    ("snip", "prune.sparsity", 0.7, "scores.prune", "sparsity", 0.7),
    ("snip", "prune.per_class", 4, "scores.prune", "labels", lambda labels: labels.bincount().tolist() == [4] * 10),
    ("snip", "prune.inverted", True, "scores.prune", "inverted", True),
    ("grasp", "prune.temperature", 7.0, "scores.prune", "temperature", 7.0),
    ("synflow", "prune.rounds", 2, "scores.prune", "rounds", 2),
    ("iterative", "prune.first", "snip", "scores.prune", "score", "snip"),
    ("iterative", "prune.sparsity", 0.7, "scores.prune", "sparsity", lambda sparsity: sparsity < 0.6),
    ("iterative", "prune.count", 1, "scores.prune", "sparsity", 0.8),
    ("iterative", "prune.per_class", 4, "scores.prune", "labels", lambda labels: labels.bincount().tolist() == [4] * 10),
    ("iterative", "prune.temperature", 7.0, "scores.prune", "temperature", 7.0),
    ("iterative", "seed", 3, "scores.prune", "seed", 3),
    ("lasso", "prune.choice", "random", "channels.prune", "method", "random"),
    ("lasso", "prune.reconstruct", False, "channels.prune", "reconstruct", False),
    ("lasso", "prune.asymmetric", False, "channels.prune", "asymmetric", False),
    ("lasso", "prune.images", 20, "channels.prune", "samples", lambda samples: samples.images == 20),
    ("lasso", "prune.positions", 3, "channels.prune", "samples", lambda samples: samples.positions == 3),
    ("lasso", "seed", 3, "channels.prune", "samples", lambda samples: samples.seed == 3),
    ("lasso", "prune.rule", "he", "widths.for_budget", "rule", "he"),
    ("large", "prune.multiple", 2, "widths.for_budget", "multiple", 2),
    ("lasso", "prune.macs_share", 0.5, "widths.for_budget", "macs", None),
    ("lasso", "prune.recalibration_images", 11, "training.recalibrate", "images", 11),
    ("finetuned", "recipe.crop_padding", 2, "fit", "recipe", lambda recipe: recipe.crop_padding == 2),
    ("finetuned", "recipe.epochs", 5, "fit", "recipe", lambda recipe: recipe.epochs == 5),
    ("finetuned", "number_format", "float32", "fit", "dtype", torch.float32),
    ("finetuned", "number_format", "bfloat16", "fit", "dtype", torch.bfloat16),
    ("finetuned", "validation_images", 200, "data.load", "options", lambda options: options["validation_images"] == 200),
    ("finetuned", "split_seed", 5, "data.load", "options", lambda options: options["split_seed"] == 5),
]


@pytest.mark.parametrize(
    ("kind", "path", "value", "function", "argument", "arrives"),
    ARRIVALS,
    ids=lambda value: "" if callable(value) else str(value)[:30],
)
def test_a_decision_arrives_where_it_is_carried_out(trace, kind, path, value, function, argument, arrives):
    def calls(experiment):
        return trace(experiment).calls[function][0][argument]

    found = calls(changed(MAIN[kind], path, value))
    if arrives is None:
        assert found != calls(MAIN[kind])
    else:
        assert arrives(found) if callable(arrives) else found == arrives


@pytest.mark.parametrize(
    ("path", "value", "differs"),
    [
        ("width_divisor", 16, lambda a, b: [2 * w if w != "M" else w for w in a.widths] == list(b.widths)),
        ("dropout", 0.4, lambda a, b: (a.classifier[2].p, b.classifier[2].p) == (0.0, 0.4)),
        ("seed", 9, lambda a, b: not torch.equal(a.features[0].weight, b.features[0].weight)),
        ("large_head", True, lambda a, b: b.classifier[-1].weight.std() > 2 * a.classifier[-1].weight.std()),
    ],
)
def test_a_new_network_is_begun_as_its_start_says(trace, path, value, differs):
    plain, other = (trace(e).made.network for e in (MAIN["snip"], changed(MAIN["snip"], f"start.{path}", value)))
    assert differs(plain, other)


def test_the_trained_network_gets_the_dropout_of_its_start(trace):
    assert trace(changed(MAIN["finetuned"], "start.dropout", 0.3)).made.network.classifier[2].p == 0.3


# Repair --------------------------------------------------------------------------------------------------------------


def test_a_repaired_network_trains_nothing_and_has_exactly_its_zeros(trace):
    for kind in ("repair", "solved", "wanda"):
        made = trace(MAIN[kind]).made
        assert not made.trained and "fit" not in trace(MAIN[kind]).calls
        assert made.masks.kept == masks.kept_count(made.masks.total, 0.8033)
        weights = models.weights(made.network)
        assert all((weights[name] == 0)[~mask].all() for name, mask in made.masks.items())


def test_fine_tuning_goes_on_from_the_repaired_network_under_its_masks(trace):
    repaired, tuned = trace(MAIN["repair"]), trace(changed(MAIN["repair"], "recipe", MAIN["layerwise"].recipe))
    assert same(repaired.made.masks, tuned.made.masks) and "fit" in tuned.calls and tuned.made.trained
    assert 0 < tuned.made.details["repaired_top1_pct"] <= 100
    weights = models.weights(tuned.made.network)
    assert all((weights[name] == 0)[~mask].all() for name, mask in tuned.made.masks.items())


def test_repairs_of_one_allocation_differ_in_which_weights_stay(trace):
    solved, wanda = trace(MAIN["solved"]).made, trace(MAIN["wanda"]).made
    counts = [{name: int(mask.sum()) for name, mask in made.masks.items()} for made in (solved, wanda)]
    assert counts[0] == counts[1] and not same(solved.masks, wanda.masks)
    magnitude = trace(MAIN["layerwise"]).made
    assert same(solved.masks, magnitude.masks)
    assert (solved.untrained.correct == magnitude.untrained.correct).all()  # before anything is solved


# What the labels say ------------------------------------------------------------------------------------------------


def labelled(method: str, label: str) -> tuple[Experiment, Experiment]:
    """(the method's main experiment, the labelled one) of the tiny plan."""
    main, other = ([e for e in plan.experiments(PROFILE) if (e.method, e.label) == (method, x)] for x in ("", label))
    return main[0], other[0]


def made_with(trace, function: str, method: str, label: str) -> tuple[Trace, Trace, set[str]]:
    """Both traces, and the names of plain arguments in which the calls of a function differ."""
    main, other = map(trace, labelled(method, label))
    [(one, two)] = zip(main.calls[function], other.calls[function], strict=True)
    plain = {name for name, value in one.items() if isinstance(value, str | float | int | bool | tuple | None)}
    return main, other, {name for name in plain if one[name] != two[name]}


def same(a: Masks, b: Masks) -> bool:
    return all(torch.equal(mask, b[name]) for name, mask in a.items())


@pytest.mark.parametrize("score", ["snip", "grasp"])
def test_inverted_keeps_the_lowest_scores(trace, home, score):
    main, inverted, differing = made_with(trace, "scores.prune", score, "inverted")
    assert differing == {"inverted"} and inverted.calls["scores.prune"][0]["inverted"] is True
    network, images, labels = making.scoring(labelled(score, "inverted")[1])
    given = scores.SCORES[score](network, images, labels)
    values = torch.cat([given[name].flatten() for name in main.made.masks])
    best, worst = (torch.cat([m.flatten() for m in t.made.masks.values()]) for t in (main, inverted))
    layers = len(main.made.masks)  # each keeps one weight in any case
    assert (values[best] < values[~best].max()).sum() <= layers
    assert (values[worst] > values[~worst].min()).sum() <= layers


@pytest.mark.parametrize("score", ["snip", "grasp"])
def test_shuffled_keeps_as_many_of_each_layer_elsewhere(trace, score):
    main, shuffled, differing = made_with(trace, "scores.prune", score, "shuffled")
    assert not differing and main.made.masks.table() == shuffled.made.masks.table()
    assert not same(main.made.masks, shuffled.made.masks)
    assert same(main.made.masks.shuffled(MAIN["snip"].seed), shuffled.made.masks)


def begun_from(trace: Trace, start: New) -> bool:
    """Whether training found the network that `start` begins, under the masks."""
    network = maker.Maker(replace(DENSE, start=start)).new(start)
    trace.made.masks.apply(network)
    return all(torch.equal(tensor, trace.begun[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("score", ["snip", "grasp"])
def test_reinitialized_puts_the_same_masks_on_other_weights(trace, home, score):
    main, other, differing = made_with(trace, "scores.prune", score, "reinitialized")
    assert not differing and same(main.made.masks, other.made.masks)
    assert begun_from(main, DENSE.start) and begun_from(other, replace(DENSE.start, seed=1000))
    assert other.made.weights == "initialised, seed 1000"


@pytest.mark.parametrize(("label", "seed"), [("reinitialized", 1000), ("rewound", 0)])
def test_the_lottery_ticket_s_masks_go_onto_a_new_network(trace, home, label, seed):
    main, other = map(trace, labelled("layerwise_magnitude", label))
    assert same(main.made.masks, other.made.masks)
    assert begun_from(other, replace(DENSE.start, seed=seed)) and not begun_from(main, DENSE.start)
    assert other.made.weights == f"initialised, seed {seed}" and other.made.untrained is None


def test_rewound_weights_are_those_that_the_dense_network_began_with(trace):
    began = trace(replace(DENSE, label="again")).begun  # another name: its network is not there yet
    _, rewound = map(trace, labelled("layerwise_magnitude", "rewound"))
    for name, mask in rewound.made.masks.items():
        assert torch.equal(rewound.begun[name], began[name] * mask)


def test_no_reconstruction_leaves_the_kept_weights(trace, home):
    main, other, differing = made_with(trace, "channels.prune", "lasso_channels", "no_reconstruction")
    assert differing == {"reconstruct"}
    solvers = [{report["solver"] for report in t.made.details["channel_reports"]} for t in (main, other)]
    assert solvers[1] == {"none"} and "none" not in solvers[0]
    dense = set(making.dense_network(PROFILE, "digits").features[3].weight.flatten().tolist())
    assert set(other.begun["features.3.weight"].flatten().tolist()) <= dense
    assert not set(main.begun["features.3.weight"].flatten().tolist()) <= dense


def test_symmetric_solves_for_another_target(trace):
    main, other, differing = made_with(trace, "channels.prune", "lasso_channels", "symmetric")
    assert differing == {"asymmetric"}
    reports = [t.made.details["channel_reports"] for t in (main, other)]
    assert all("none" not in {report["solver"] for report in part} for part in reports)
    late = [[report["error_after"] for report in part[4:]] for part in reports]
    assert late[0] != late[1]


@pytest.mark.parametrize("rule", ["uniform", "he"])
def test_widths_follow_the_rule_in_the_label(trace, home, rule):
    main, other, differing = made_with(trace, "widths.for_budget", "lasso_channels", f"widths={rule}")
    call = other.calls["widths.for_budget"][0]
    assert differing == {"rule"} and call["rule"] == rule and main.calls["widths.for_budget"][0]["rule"] == "marginal"
    assert other.made.network.widths == widths.for_budget(call["network"], call["macs"], rule=rule, multiple=call["multiple"])
    assert other.made.network.widths != main.made.network.widths
    assert not other.calls["channels.error_curves"]


def test_unrounded_widths_are_no_multiples(trace):
    wide = replace(PROFILE, width_divisor=4, width_multiple=2)
    start = Trained(0.0, replace(DENSE, label="wide", start=replace(DENSE.start, width_divisor=4)))
    found = {}
    for e in plan.experiments(wide):
        if e.method == "lasso_channels" and e.label in ("", "unrounded"):
            found[e.label] = trace(replace(e, start=start)).made.network.widths
    assert all(width == "M" or width % 2 == 0 for width in found[""])
    assert any(width != "M" and width % 2 for width in found["unrounded"])


def test_float32_is_the_format_of_the_training(trace, monkeypatch):
    monkeypatch.setenv("DTYPE", "bfloat16")
    formats = {"": torch.bfloat16, "float32": torch.float32}
    for wanted, dtype in formats.items():
        label = f"format={wanted}"
        made = trace(replace(MAIN["scratch"], label=label, number_format=wanted))
        assert [call["dtype"] for call in made.calls["fit"]] == [dtype]
        assert made.made.trained["train_dtype"] == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("name", plan.WRONG_NORMALIZATIONS)
def test_images_are_normalised_as_the_label_says(trace, home, name):
    wanted = models.NORMALIZATIONS[name]
    dense, tuned = (trace(labelled(method, f"normalization={name}")[1]) for method in ("dense", "dense_finetuned"))
    plain = making.dense_network(PROFILE, "digits")
    assert dense.made.network.normalization == tuned.made.network.normalization == wanted
    assert [call["normalization"] for call in tuned.calls["fit"]] == [wanted]
    state = dense.made.network.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in plain.state_dict().items())
    if name != "half":  # what the digits' own network was trained with
        losses = [training.evaluate(network, tiny.splits().test).loss for network in (plain, dense.made.network)]
        assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("label", "used"),
    [("", ["grasp", "grasp_preserving"]), ("preserving", ["grasp_absolute", "grasp_preserving"]), ("signed", ["grasp", "grasp"])],
)
def test_stages_of_iterative_grasp_use_the_scores_of_the_label(trace, label, used):
    main, other = map(trace, labelled("grasp_iterative", label))
    calls = other.calls["scores.prune"]
    assert [call["score"] for call in calls] == used
    total = other.made.masks.total
    assert [call["sparsity"] for call in calls] == pytest.approx([1 - 0.2**0.5, 0.8])
    assert other.made.masks.kept == total - round(0.8 * total)
    assert same(main.made.masks, other.made.masks) == (label == "")


# Trainings, masks and what they start from --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["global", "snip"])
def test_masks_are_those_that_the_training_was_begun_with(home, monkeypatch, kind):
    other = {}

    def resumed(network, train, recipe, *, hook=None, **_):
        other.update({name: mask.roll(1) for name, mask in hook.state_dict().items()})
        hook.load_state_dict(other)
        return []

    monkeypatch.setattr(training, "fit", resumed)
    assert same(making.make(MAIN[kind]).masks, other)


def test_gradient_norms_are_of_the_network_that_is_trained(trace, home):
    experiment = labelled("snip", "reinitialized")[1]
    made = trace(experiment).made
    _, images, labels = making.scoring(experiment)
    start = maker.Maker(experiment).new(experiment.prune.retrain)
    norms = made.details["gradient_norm"]
    assert norms["before"] == comparison.gradient_norm(start, images, labels)
    assert norms["after"] == pytest.approx(comparison.gradient_norm(start, images, labels, made.masks))


def test_a_training_is_real_and_keeps_its_masks(home):
    made = making.make(MAIN["global"])
    assert len(made.trained["log"]) == MAIN["global"].recipe.epochs and made.trained["train_seconds"] > 0
    assert made.trained["train_device"] == machine.processor() and made.trained["commit"] == "tiny"
    dense = making.dense_network(PROFILE, "digits")
    for name, weight in models.weights(made.network).items():
        assert not weight[~made.masks[name]].any()
        assert not torch.equal(weight, models.weights(dense)[name] * made.masks[name])
    assert same(made.masks, masks.global_magnitude(dense, 0.8033))
    assert made.untrained.correct.shape == (40,)


def test_the_dense_network_is_trained_once_and_again_for_other_decisions(folder, own_folders, monkeypatch):
    monkeypatch.setattr(data, "load", tiny.splits)
    path = settings.network_path("demo", "digits", "dense")
    path.parent.mkdir(parents=True)
    shutil.copy(folder / "demo/networks/digits/dense.safetensors", path)
    first, _ = maker.Maker(DENSE).trained_once()
    monkeypatch.setattr(training, "fit", lambda *_, **__: pytest.fail("trained"))
    assert files.digest_of(maker.Maker(DENSE).trained_once()[0].state_dict()) == files.digest_of(first.state_dict())
    with pytest.raises(pytest.fail.Exception, match="trained"):
        maker.Maker(changed(DENSE, "recipe.epochs", 7)).trained_once()
    monkeypatch.undo()


def test_a_damaged_dense_network_is_told_and_trained_again(own_folders, monkeypatch, capsys):
    monkeypatch.setattr(data, "load", tiny.splits)
    monkeypatch.setattr(training, "fit", lambda *_, **__: [])
    path = settings.network_path("demo", "digits", "dense")
    whole = making.dense_network(PROFILE, "digits").state_dict()
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert files.digest_of(making.dense_network(PROFILE, "digits").state_dict()) == files.digest_of(whole)
    assert "dense.safetensors" in capsys.readouterr().err


def test_damaged_error_curves_are_told_and_measured_again(folder, own_folders, monkeypatch, capsys):
    at_home(monkeypatch, folder)
    maker.Maker(MAIN["lasso"]).narrowed(making.dense_network(PROFILE, "digits"), MAIN["lasso"].prune)
    path = settings.scan_path("demo", "digits-channels.safetensors")
    curves, _ = files.load_tensors(path)
    path.write_bytes(path.read_bytes()[:-5])
    maker.Maker(MAIN["lasso"]).narrowed(making.dense_network(PROFILE, "digits"), MAIN["lasso"].prune)
    assert path.name in capsys.readouterr().err
    assert files.digest_of(files.load_tensors(path)[0]) == files.digest_of(curves)


GIVEN = replace(PROFILE, weights="given")


@pytest.fixture
def given(own_folders, monkeypatch) -> models.VGG:
    """The network that a weights file holds."""
    network = tiny.network(models.scaled(models.VGG16, 32), (16, 16))
    monkeypatch.setattr(data, "load", tiny.splits)
    monkeypatch.setattr(pretrained, "load", lambda dataset: copy.deepcopy(network))
    monkeypatch.setitem(settings.PROFILES, "demo", GIVEN)
    return network


def test_a_training_is_not_continued_from_another_dense_network(given, monkeypatch):
    begun = []
    monkeypatch.setattr(training, "fit", lambda *_, **options: begun.append(options["made_with"]) or [])
    [tuned] = [e for e in plan.experiments(GIVEN) if e.method == "dense_finetuned" and not e.label]
    for _ in range(2):
        making.make(tuned)
        maker.Maker(MAIN["scratch"]).fit(tiny.network())
        with torch.no_grad():
            given.features[0].weight.add_(1)
    assert begun[0] != begun[2] and begun[1] == begun[3] == MAIN["scratch"].hash


def test_another_weights_file_does_not_mix_with_the_results_that_exist(given):
    dense = plan.dense(GIVEN, "digits")
    made = making.make(dense)
    correct = results.pack_bits(np.ones(4, bool))
    results.save(dense, {"weights_digest": made.details["weights_digest"], "correct": correct})
    making.make(dense)
    with torch.no_grad():
        given.features[0].weight.add_(1)
    with pytest.raises(ValueError, match="is not the network that the results in .* start from"):
        making.make(dense)


def test_every_kind_of_pruning_has_a_maker():
    kinds = {type(e.prune) for profile in settings.PROFILES.values() for e in plan.experiments(profile)}
    assert kinds == making._MAKERS.keys() and all(is_dataclass(kind) for kind in kinds - {type(None)})
