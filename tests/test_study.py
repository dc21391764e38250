"""A study: every result is made once and whole, whoever is killed, crowded, out of space or stopped."""

import multiprocessing.process
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import tiny
import torch

from helpers import (
    cluster,
    data,
    experiments,
    facts,
    files,
    machine,
    maker,
    making,
    models,
    plan,
    results,
    settings,
    storage,
    study,
    timing,
    training,
)
from helpers.measurement import macs_aten
from helpers.pruning.masks import Masks

MOMENTS = ("training", "half written", "before the rename", "after the rename")
NAMES = ("dense", "l1_filters", "snip-s80")
FEW = ("dense", "snip-s80")


def planned(name: str) -> experiments.Experiment:
    [experiment] = tiny.experiments([name])
    return experiment


def network_of(name: str) -> models.VGG:
    return models.load(settings.network_path("demo", "digits", name))


@pytest.fixture
def home(own_folders, monkeypatch) -> Path:
    """Folders of its own, few images, and the tiny plan as the demo's."""
    monkeypatch.setattr(data, "load", tiny.splits)
    monkeypatch.setitem(settings.PROFILES, "demo", tiny.PROFILE)
    return own_folders


# One result ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """Results of one experiment of every kind, and where they lie."""
    place = tmp_path_factory.mktemp("computed")
    names = ("dense", "dense-normalization-none", "layerwise_magnitude-s80.33", "global_magnitude-s50-curve")
    names += ("lasso_channels", "snip-s80", "grasp_iterative-s80")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", tiny.splits)
        for name in ("BUILD_DIR", "RESULTS_DIR"):
            patch.setenv(name, str(place / name))
        yield place, {e.name: study.compute(e) for e in tiny.experiments(names)}


@pytest.fixture
def there(computed, monkeypatch) -> dict[str, dict]:
    """These results, with the folders they lie in."""
    for name in ("BUILD_DIR", "RESULTS_DIR"):
        monkeypatch.setenv(name, str(computed[0] / name))
    return computed[1]


def test_a_result_says_what_it_is(there):
    for name, result in there.items():
        e = planned(name)
        correct = results.unpack_bits(result["correct"])
        assert len(correct) == 40 and 100 * correct.mean() == pytest.approx(result["top1_pct"])
        assert len(result["class_top1_pct"]) == 10 and result["top5_pct"] >= result["top1_pct"]
        assert len(result["log"]) == result["epochs"] == (e.recipe.epochs if e.recipe else 0)
        assert "latency_ms" not in result and result["reasons"]["latency_ms"].startswith("not measured")
        assert result["val_top1_pct"] >= 0 and result["data_source"] and result["device"] == machine.processor()
        assert (result["train_seconds"] > 0) == (e.recipe is not None)
        assert sum(layer["macs"] for layer in result["layers"]) == models.macs(network_of(name))


@pytest.mark.parametrize("name", ["layerwise_magnitude-s80.33", "snip-s80", "grasp_iterative-s80", "global_magnitude-s50-curve"])
def test_a_masked_result_counts_its_weights(there, name):
    result, e = there[name], planned(name)
    total, kept = (sum(layer[key] for layer in result["layers"]) for key in ("total", "kept"))
    assert kept == total - round(total * e.prune.sparsity)
    assert result["sparsity_pct"] == pytest.approx(100 * (1 - kept / total))
    assert result["sparsity_pct"] + result["density_pct"] == pytest.approx(100)
    assert result["size_mib"] == result["size_bitmask_mib"] < result["size_csr_mib"]
    assert result["effective_macs"] < result["macs"] and result["nonzero_params"] < result["params"]
    network = network_of(name)
    assert Masks.from_zeros(network).kept <= kept


def test_fewer_channels_are_fewer_parameters(there):
    small, dense = there["lasso_channels"], there["dense"]
    assert small["macs"] <= tiny.PROFILE.macs_share * dense["macs"]
    assert small["density_pct"] == pytest.approx(100 * small["params"] / dense["params"])
    assert small["size_mib"] == small["size_dense_mib"] < dense["size_mib"]
    assert len(small["channel_reports"]) == 13 and len(small["widths"]) == 18
    assert small["macs"] == macs_aten(network_of("lasso_channels"))


def test_masks_and_small_networks_are_kept_beside_the_results(there):
    def kept(name):
        return settings.kept_path("demo", "digits", name)

    masked = ("layerwise_magnitude-s80.33", "snip-s80", "grasp_iterative-s80")
    assert {name for name in there if kept(name).is_file()} == {*masked, "lasso_channels"}
    for name in masked:
        masks, network = Masks.load(kept(name)), network_of(name)
        assert [layer.kept for layer in masks.table()] == [layer["kept"] for layer in there[name]["layers"]]
        assert all(not weight[~masks[key]].any() for key, weight in models.weights(network).items())
    small, whole = storage.load(kept("lasso_channels")), network_of("lasso_channels")
    assert small.widths == whole.widths
    for name, tensor in whole.state_dict().items():
        if name in models.weights(whole):
            values, scales = storage.quantise(tensor)
            tensor = values * scales.view(-1, *[1] * (tensor.dim() - 1))
        assert torch.equal(small.state_dict()[name], tensor)
    assert there["lasso_channels"]["size_int8_mib"] == kept("lasso_channels").stat().st_size / 2**20
    assert abs(there["lasso_channels"]["int8_top1_pct"] - there["lasso_channels"]["top1_pct"]) < 2


def test_a_result_names_the_dense_network_that_it_starts_from(there):
    digest = files.digest_of(network_of("dense").state_dict())
    for name, result in there.items():
        assert result.get("weights_digest") == (None if name in ("snip-s80", "grasp_iterative-s80") else digest)


def test_what_is_stored_is_not_made_again(there, monkeypatch):
    monkeypatch.setattr(making, "make", lambda _: pytest.fail("made twice"))
    assert all(study.compute(planned(name)) == result for name, result in there.items())


def test_no_checkpoint_outlives_what_it_was_for(there):
    assert not list(settings.checkpoint_path("demo", "digits", "any").parent.glob("*"))


def test_without_training_the_test_images_are_read_once(home, monkeypatch):
    evaluate, read = training.evaluate, []
    monkeypatch.setattr(training, "evaluate", lambda net, split, **rest: read.append(len(split)) or evaluate(net, split, **rest))
    result = study.compute(planned("global_magnitude-s75-curve"))
    assert read.count(40) == 1 and result["pruned_top1_pct"] == result["top1_pct"] and result["log"] == []
    assert result["epochs"] == result["train_seconds"] == 0 and "train_device" not in result
    read.clear()
    trained = study.compute(planned("global_magnitude-s80.33"))
    assert read.count(40) == 2 and len(trained["log"]) == tiny.PROFILE.finetune_epochs


def test_making_a_result_needs_nothing_of_the_report(home):
    absent = ("ptflops", "latex2mathml", "dask", "matplotlib", "seaborn", "statsmodels", "nbconvert", "jupyterlab")
    code = f"""
import sys
sys.modules |= dict.fromkeys({absent})
sys.path.insert(0, "tests")
import tiny
from helpers import plan, study
study.compute(next(e for e in plan.experiments(tiny.PROFILE) if e.name == "dense"))
"""
    subprocess.run([sys.executable, "-c", code], cwd=settings.ROOT, check=True)
    assert results.load(planned("dense"))["macs"] > 0


def test_a_result_names_all_who_trained_it(home, monkeypatch):
    e, save = planned("snip-s80"), models.save
    monkeypatch.setattr(results, "commit", lambda: "first")
    monkeypatch.setattr(maker, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(models, "save", lambda *_, **__: pytest.fail("interrupted"))
    with pytest.raises(pytest.fail.Exception):
        study.compute(e)
    monkeypatch.setattr(results, "commit", lambda: "second")
    monkeypatch.setattr(models, "save", save)
    result = study.compute(e)
    assert result["commit"] == "first; second" and result["train_device"] == machine.processor()
    assert result["train_dtype"] == str(machine.dtype()).removeprefix("torch.")


def test_of_a_dense_network_whose_training_is_unknown_nothing_is_told(home):
    e = planned("dense")
    study.compute(e)
    path = settings.network_path("demo", "digits", "dense")
    models.save(models.load(path), path, experiment=e.hash)
    settings.result_path("demo", "digits", "dense").unlink()
    result = study.compute(e)
    assert result["epochs"] == e.recipe.epochs and not {"log", "train_seconds", "train_device", "train_dtype"} & result.keys()


def test_code_in_a_checkpoint_is_never_executed_and_training_begins_again(home, capsys):
    e = planned("random-s80")
    path = settings.checkpoint_path("demo", "digits", e.name)
    path.parent.mkdir(parents=True)
    path.write_bytes(tiny.trap(home / "executed"))
    assert len(study.compute(e)["log"]) == e.recipe.epochs
    assert path.name in capsys.readouterr().err and not (home / "executed").exists()


# What is made, and what the frame shows ------------------------------------------------------------------------------


@pytest.fixture
def noted(home, monkeypatch) -> dict[str, list]:
    """What would be made, stored and timed."""
    done: dict[str, list] = {"computed": [], "facts": [], "timed": [], "cluster": []}
    monkeypatch.setattr(study, "compute", lambda e: done["computed"].append(e))
    monkeypatch.setattr(facts, "store", lambda profile, dataset: done["facts"].append(dataset))
    monkeypatch.setattr(timing, "measure", lambda profile, every, *, again=False: done["timed"].append((list(every), again)))
    monkeypatch.setattr(cluster, "make", lambda every, *where: done["cluster"].append((list(every), *where)) or 1)
    return done


@pytest.mark.parametrize("topic", [None, "grasp", "channels"])
def test_whatever_is_asked_for_everything_is_timed_together(noted, topic):
    everything = plan.experiments(tiny.PROFILE)
    assert study.main(["--profile", "demo", *(["--topic", topic] if topic else [])]) == 0
    assert noted["computed"] == [e for e in everything if topic in (None, e.topic)]
    assert noted["timed"] == [(everything, False)] and noted["facts"] == ["digits"]


def test_timing_again_makes_nothing(noted):
    assert study.main(["--profile", "demo", "--topic", "grasp", "--time"]) == 0
    assert noted["timed"] == [(plan.experiments(tiny.PROFILE), True)] and not noted["computed"]


def test_a_cluster_gets_the_same_plan_and_its_status_is_ours(noted):
    assert study.main(["--profile", "demo", "--topic", "baseline", "--scheduler", "tcp://h:8786"]) == 1
    assert noted["cluster"] == [(plan.experiments(tiny.PROFILE, "baseline"), "tcp://h:8786")] and not noted["computed"]


def test_a_list_says_what_is_there_and_makes_nothing(noted, capsys):
    e = planned("dense")
    results.save(e, {"correct": {"images": 0, "bits": ""}})
    assert study.main(["--profile", "demo", "--list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[1] for line in lines] == [e.name for e in plan.experiments(tiny.PROFILE)]
    assert [line[1] for line in lines if line[2] == "there"] == ["dense"] and not any(noted.values())


def test_of_two_data_sets_the_one_at_hand_is_made_to_its_end(noted, monkeypatch, capsys):
    profile = replace(settings.PROFILES["study"], datasets=("cifar10", "cifar100"))
    missing = {"cifar10"}

    def compute(experiment):
        if experiment.dataset in missing:
            raise FileNotFoundError(f"no images of {experiment.dataset}")
        noted["computed"].append(experiment)

    monkeypatch.setattr(study, "compute", compute)
    everything = plan.experiments(profile)
    study.make_missing(profile, everything)
    there = [e for e in everything if e.dataset == "cifar100"]
    assert noted["computed"] == there and noted["facts"] == ["cifar100"] and noted["timed"] == [(there, False)]
    assert capsys.readouterr().err.count("no images of cifar10") == 1
    missing.add("cifar100")
    with pytest.raises(FileNotFoundError, match="no images"):
        study.make_missing(profile, everything)
    assert noted["facts"] == ["cifar100"]


def test_two_processes_make_each_result_once(monkeypatch, own_folders, capfd):
    monkeypatch.setattr(study.facts, "store", lambda *_: None)
    monkeypatch.setattr(study.timing, "measure", lambda *_: None)
    wanted = [planned(name) for name in ("dense", "uniform_magnitude-s80.33", "snip-s80")]
    study.make_missing(tiny.PROFILE, wanted, processes=2)
    assert all(results.load(e) for e in wanted)
    assert {results.load(e)["threads"] for e in wanted} == {max(1, machine.cores() // 2)}
    said = capfd.readouterr().err
    assert all(said.count(f"{e.name}: making it") == 1 for e in wanted)


def test_nothing_is_begun_that_would_not_end_in_time(noted, monkeypatch):
    now, wanted = [0.0], [e for e in plan.experiments(tiny.PROFILE) if e.epochs][:6]

    def compute(experiment):
        now[0] += 30 * experiment.cost
        noted["computed"].append(experiment)

    monkeypatch.setattr(study.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(study, "compute", compute)
    study.make_missing(tiny.PROFILE, wanted, minutes=2.6)
    made = noted["computed"]
    assert made and now[0] < 156 and all(now[0] + 30 * e.cost >= 156 for e in wanted if e not in made)


def test_the_demo_makes_what_a_topic_lacks_and_shows_everything(noted):
    results.save(planned("snip-s80"), {"correct": {"images": 0, "bits": ""}, "top1_pct": 50.0})
    frame = study.frame("channels", tiny.PROFILE)
    dense, channels = (plan.experiments(tiny.PROFILE, topic) for topic in ("baseline", "channels"))
    assert noted["computed"] == [*dense, *channels]
    assert frame.method.tolist() == ["snip"] and tuple(frame.columns) == results.COLUMNS


def test_larger_profiles_show_what_is_there_instead_of_training(noted):
    assert len(study.frame(profile=settings.profile("paper"))) == 0 and not any(noted.values())


def test_the_dense_networks_go_by_the_name_of_their_images(home, monkeypatch):
    asked = []
    monkeypatch.setattr(making, "dense_network", lambda profile, dataset: asked.append((profile.name, dataset)))
    for name in ("digits", "cifar10", "cifar100"):
        study.dense_network(name)
    assert asked == [("demo", "digits"), ("study", "cifar10"), ("study", "cifar100")]


@pytest.mark.parametrize(
    ("call", "nearest"),
    [
        (lambda: study.dense_network("cifar-10"), "cifar10"),
        (lambda: study.main(["--profile", "demo", "--dataset", "digit"]), "digits"),
        (lambda: study.main(["--profile", "studdy"]), "study"),
    ],
)
def test_an_unknown_name_gets_the_nearest_known_one(home, call, nearest):
    with pytest.raises(ValueError, match=f"did you mean '{nearest}'"):
        call()


# Killed, crowded, out of space, stopped ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Folders:
    """Where one study keeps its files."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"BUILD_DIR": str(self.root / "build"), "RESULTS_DIR": str(self.root / "results")}

    def results(self) -> dict[str, dict]:
        """Name → all of a result that does not differ from run to run; a damaged one raises."""
        found = sorted((self.root / "results" / "demo" / "digits").glob("*.json"))
        return {path.stem: tiny.steady(files.load_json(path)) for path in found}

    def networks(self) -> dict[str, str]:
        """Name → digest of its network's tensors."""
        found = sorted((self.root / "build" / "demo" / "networks" / "digits").glob("*.safetensors"))
        return {path.stem: files.digest_of(models.load(path).state_dict()) for path in found}

    def kept(self) -> dict[str, str]:
        """Name → digest of its masks or small network."""
        found = sorted((self.root / "results" / "demo" / "networks" / "digits").glob("*.safetensors"))
        return {path.stem: files.digest_of(files.load_tensors(path)[0]) for path in found}

    def output(self) -> str:
        """All that the study has written to the console so far."""
        path = self.root / "output.txt"
        return path.read_text() if path.is_file() else ""


def start(folders: Folders, names=NAMES, *, at: tuple = ("never", 0), number: int = signal.SIGKILL, quota: int | None = None):
    """Start the tiny study as `python -m helpers.study` does, in a process that gets signal `number` at a moment's n-th time."""
    folders.root.mkdir(parents=True, exist_ok=True)
    child = tiny.FORK.Process(target=_study, args=(folders, names, at, number, quota))
    child.start()
    return child


def _study(folders: Folders, names: tuple, at: tuple, number: int, quota: int | None) -> None:
    os.environ.update(folders.environment)
    os.dup2(os.open(folders.root / "output.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tiny.install(names)
    _watch(*at, number)
    if quota is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (quota, quota))
    tiny.run_as_main("helpers.study")


def _watch(moment: str, count: int, number: int) -> None:
    """Send this process signal `number` the `count`-th time that a training or a write comes to a moment."""
    step, fsync, replace = torch.optim.SGD.step, os.fsync, os.replace
    left = count

    def comes(here: str) -> bool:
        nonlocal left
        left -= here == moment
        return here == moment and left == 0

    def stepped(*arguments, **options):
        if comes("training"):
            os.kill(os.getpid(), number)
        return step(*arguments, **options)

    def flushed(descriptor):
        if comes("half written"):
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), number)
        return fsync(descriptor)

    def renamed(source, target):
        if comes("before the rename"):
            os.kill(os.getpid(), number)
        replace(source, target)
        if comes("after the rename"):
            os.kill(os.getpid(), number)

    torch.optim.SGD.step, os.fsync, os.replace = stepped, flushed, renamed


def status_of(child: multiprocessing.process.BaseProcess, seconds: float = 300) -> int:
    child.join(seconds)
    assert child.exitcode is not None, "it hangs"
    return child.exitcode


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Folders:
    """A study that nothing disturbed."""
    folders = Folders(tmp_path_factory.mktemp("unbroken"))
    assert status_of(start(folders)) == 0, folders.output()
    assert set(folders.results()) == set(NAMES)
    return folders


def assert_same(found: Folders, reference: Folders, names=NAMES) -> None:
    """The results, networks and masks of these names are there and those of `reference`, and nothing else is."""
    for kind in (Folders.results, Folders.networks, Folders.kept):
        assert kind(found) == {name: value for name, value in kind(reference).items() if name in names}


def assert_one_line(folders: Folders, wanted: str) -> None:
    """The study ended with a line that says `wanted`, and not in a traceback."""
    assert "Traceback" not in folders.output()
    assert wanted in folders.output().splitlines()[-1]


def test_killed_again_and_again_it_ends_with_the_same_results(unbroken, tmp_path):
    draw, folders = random.Random(0), Folders(tmp_path)
    for moment in (*MOMENTS, "training"):
        assert status_of(start(folders, at=(moment, draw.randint(1, 3)))) == -signal.SIGKILL, folders.output()
        assert folders.results().keys() <= unbroken.results().keys()  # reading them finds no half-written one
    assert status_of(start(folders)) == 0, folders.output()
    assert_same(folders, unbroken)


def test_two_studies_at_once_make_everything_once(unbroken, tmp_path):
    folders = Folders(tmp_path)
    for child in [start(folders, FEW) for _ in range(2)]:
        assert status_of(child) == 0, folders.output()
    for name in FEW:
        assert folders.output().count(f" {name}: making it") == 1
    assert_same(folders, unbroken, FEW)


def test_ctrl_c_is_one_line_and_the_study_goes_on_later(unbroken, tmp_path):
    folders = Folders(tmp_path)
    assert status_of(start(folders, FEW, at=("training", 4), number=signal.SIGINT)) not in (0, None)
    assert_one_line(folders, "run it again")
    assert status_of(start(folders, FEW)) == 0
    assert_same(folders, unbroken, FEW)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 100 kB; needs the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no right to mount a small disk: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_is_one_line_and_the_study_goes_on_later(unbroken, small_disk):
    folders = Folders(small_disk)
    assert status_of(start(folders, FEW)) == 1
    assert_one_line(folders, "No space left on device")
    subprocess.run(["mount", "-o", "remount,size=50m", small_disk], check=True)
    assert status_of(start(folders, FEW)) == 0, folders.output()
    assert_same(folders, unbroken, FEW)


def test_a_quota_is_one_line_and_the_study_goes_on_later(unbroken, tmp_path):
    folders = Folders(tmp_path)
    assert status_of(start(folders, FEW, quota=20_000)) == 1
    assert_one_line(folders, "could not be written: ")
    assert not list((tmp_path / "build" / "demo").rglob("*.tmp"))
    assert status_of(start(folders, FEW)) == 0, folders.output()
    assert_same(folders, unbroken, FEW)


def test_a_results_folder_that_cannot_be_written_is_one_line_and_loses_nothing(unbroken, tmp_path):
    folders, place = Folders(tmp_path), tmp_path / "results"
    place.write_text("a file where a folder should be")
    assert status_of(start(folders, FEW)) == 1
    assert_one_line(folders, str(place))
    place.unlink()
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", place], capture_output=True).returncode == 0:
        try:
            assert status_of(start(folders, FEW)) == 1
            assert_one_line(folders, "Read-only file system")
        finally:
            subprocess.run(["umount", "-l", place], check=True)
    assert status_of(start(folders, FEW)) == 0, folders.output()
    assert_same(folders, unbroken, FEW)
