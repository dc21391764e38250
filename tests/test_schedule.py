"""The iterative schedule and its training hook."""

import copy

import pytest
import torch

from helpers import data, models, training
from helpers.pruning import schedule, scores
from helpers.pruning.masks import Masks, kept_count
from helpers.pruning.schedule import IterativeHook, Stage

EPOCHS, SPARSITY = 6, 0.8
WIDTHS = (8, "M", 16, "M", 16, "M")
RECIPE = training.Recipe(epochs=EPOCHS, batch_size=40, peak_lr=0.02)


@pytest.fixture(scope="module")
def train():
    return data.class_balanced(data.load("digits", torch.device("cpu")).train, 20, seed=0)


@pytest.fixture(autouse=True)
def single_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fresh() -> models.VGG:
    torch.manual_seed(0)
    return models.VGG(10, WIDTHS, (32,), dropout=0.2)


def hook(network: models.VGG, train: data.Split, kind: type = IterativeHook) -> IterativeHook:
    return kind(network, train, schedule.stages(EPOCHS, SPARSITY, count=3), "grasp", 2, later="grasp_preserving")


@pytest.mark.parametrize(("epochs", "count"), [(1, 5), (3, 5), (6, 5), (10, 5), (10, 1), (160, 5), (161, 20)])
def test_stages_cover_the_first_half_and_fall_exponentially(epochs, count):
    planned = schedule.stages(epochs, SPARSITY, count=count)
    when = [stage.epoch for stage in planned]
    assert when[0] == 0 or len(planned) == 1
    assert when == sorted(set(when)) and when[-1] == epochs // 2
    assert len(planned) == min(count, epochs // 2 + 1)
    assert planned[-1].sparsity == SPARSITY
    densities = [1.0, *(1 - stage.sparsity for stage in planned)]
    ratios = [after / before for before, after in zip(densities, densities[1:], strict=False)]
    assert ratios == pytest.approx([(1 - SPARSITY) ** (1 / len(planned))] * len(planned))


@pytest.mark.parametrize("arguments", [(0, 0.8, 5), (10, 1.0, 5), (10, -0.1, 5), (10, float("nan"), 5), (10, 0.8, 0)])
def test_an_impossible_schedule_is_refused(arguments):
    epochs, sparsity, count = arguments
    with pytest.raises(ValueError, match="stage|sparsity"):
        schedule.stages(epochs, sparsity, count=count)


def test_stages_out_of_order_are_refused(train):
    for wrong in ([Stage(2, 0.5), Stage(1, 0.6)], [Stage(0, 0.5), Stage(1, 0.4)], [Stage(1, 0.5), Stage(1, 0.6)]):
        with pytest.raises(ValueError, match="stages must follow"):
            IterativeHook(fresh(), train, wrong, "grasp", later="grasp")


class Watched(IterativeHook):
    """Remembers the masks of every epoch, and what momentum had done to pruned weights before they were put back."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.history, self.revived = [], 0

    def before_epoch(self, network, epoch):
        super().before_epoch(network, epoch)
        self.history.append(self.masks)

    def after_step(self, network):
        self.revived += sum(int((network.get_parameter(n)[~m] != 0).sum()) for n, m in self.masks.items())
        super().after_step(network)
        assert all(not network.get_parameter(n)[~m].any() for n, m in self.masks.items())


def test_training_in_stages_is_nested_exact_and_revives_nothing(train):
    network = fresh()
    watched = hook(network, train, Watched)
    training.fit(network, train, RECIPE, hook=watched, dtype=torch.float32)
    planned = {stage.epoch: stage.sparsity for stage in watched.stages}
    total, sparsity = watched.masks.total, 0.0
    for epoch, masks in enumerate(watched.history):
        sparsity = planned.get(epoch, sparsity)
        assert masks.kept == kept_count(total, sparsity), f"epoch {epoch}"
    for earlier, later in zip(watched.history, watched.history[1:], strict=False):
        assert all((earlier[name] | ~later[name]).all() for name in later)
    assert watched.revived > 0  # the optimiser does move pruned weights: holding them at zero is work
    assert Masks.from_zeros(network).kept == kept_count(total, SPARSITY)


@pytest.mark.parametrize("score", ["grasp_preserving", "snip", "grasp"])
def test_a_stage_scores_the_network_as_it_then_is(train, score):
    """A later stage's masks are those of `later` on the trained network, within what the first left."""
    network = fresh()
    first = IterativeHook(network, train, [Stage(0, 0.3)], "grasp", 2, later="grasp")
    training.fit(network, train, training.Recipe(epochs=2, batch_size=40, peak_lr=0.02), hook=first, dtype=torch.float32)
    later = IterativeHook(network, train, [Stage(2, 0.6)], "grasp", 2, seed=5, later=score)
    later.load_state_dict(first.state_dict())
    images = data.class_balanced(train, 2, 5 * 100_003 + 2)
    inputs = data.normalize(images.images, network.normalization)
    expected = scores.prune(network, score, inputs, images.labels, 0.6, previous=first.masks)
    from_start = scores.prune(fresh(), score, inputs, images.labels, 0.6, previous=first.masks)
    later.before_epoch(network, 2)
    assert all(torch.equal(expected[name], later.masks[name]) for name in expected)
    assert any(not torch.equal(from_start[name], later.masks[name]) for name in expected)


class Killed(BaseException):
    pass


class Mortal(IterativeHook):
    """Dies in the middle of the epoch after the first two stages."""

    def before_epoch(self, network, epoch):
        super().before_epoch(network, epoch)
        self.steps_to_live = 3 if epoch == 2 else -1

    def after_step(self, network):
        super().after_step(network)
        self.steps_to_live -= 1
        if self.steps_to_live == 0:
            raise Killed


def test_killed_between_stages_it_resumes_to_the_same_masks_and_weights(train, tmp_path):
    """Only the checkpoint survives: the network and the hook are built anew, and end bit for bit as without a break."""
    unbroken = fresh()
    reference = hook(unbroken, train)
    training.fit(unbroken, train, RECIPE, hook=reference, dtype=torch.float32)

    checkpoint = tmp_path / "checkpoint.safetensors"
    victim = fresh()
    with pytest.raises(Killed):
        training.fit(victim, train, RECIPE, hook=hook(victim, train, Mortal), checkpoint=checkpoint, dtype=torch.float32)
    assert checkpoint.is_file()

    torch.manual_seed(99)  # what the new process has drawn before must not matter
    resumed = models.VGG(10, WIDTHS, (32,), dropout=0.2)
    second = hook(resumed, train, Watched)
    training.fit(resumed, train, RECIPE, hook=second, checkpoint=checkpoint, dtype=torch.float32)
    assert len(second.history) == EPOCHS - 2  # it went on, it did not start again
    assert all(torch.equal(reference.masks[name], second.masks[name]) for name in reference.masks)
    states = zip(unbroken.state_dict().items(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for (_, a), b in states)


@pytest.mark.parametrize("options", [{"temperature": 7.0}, {"score": "snip"}, {"per_class": 3}, {"seed": 1}])
def test_what_the_hook_is_given_decides_its_masks(train, monkeypatch, options):
    calls, prune = [], scores.prune
    monkeypatch.setattr(scores, "prune", lambda *a, **k: calls.append((*a, k)) or prune(*a, **k))
    network, made = fresh(), []
    for given in ({}, options):
        hook = IterativeHook(network, train, [Stage(0, 0.5)], **{"score": "grasp", "later": "grasp", "per_class": 2} | given)
        hook.before_epoch(copy.deepcopy(network), 0)
        made.append(hook.masks)
    assert any(not torch.equal(made[0][name], made[1][name]) for name in made[0])
    _, score, images, labels, sparsity, given = calls[0]
    defaults = {"temperature": 200.0, "seed": 0, "keep_at_least": 0}  # Wang et al. 2020
    assert (score, sparsity, len(images), labels.bincount().tolist()) == ("grasp", 0.5, 20, [2] * 10)
    assert {name: given[name] for name in defaults} == defaults


def test_masks_of_another_network_are_refused(train):
    network = fresh()
    other = Masks.of(models.VGG(10, (8, "M", 8, "M", 16, "M"), (32,)))
    with pytest.raises(ValueError, match=r"features\.4\.weight"):
        hook(network, train).load_state_dict(dict(other))
