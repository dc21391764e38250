"""A sweep on a real scheduler: every row arrives once, whoever dies; and what it refuses."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from distributed import Client

from helpers import budget, cluster, files, models, plan, results, settings, sweep
from helpers.results import RowKey

TESTS = Path(__file__).parent
PROFILE = replace(tiny.PROFILE, init_epochs=25)  # long enough to die in
KEYS = [*tiny.KEYS[:3], *(RowKey("digits", method, 80.0) for method in ("snip", "random", "magnitude_init"))]


@pytest.fixture
def start(tmp_path):
    """Start `dask scheduler` or `dask worker` on loopback in a process with folders of its own; all are stopped at the end."""
    started = []

    def starter(kind: str, name: str, *options: str) -> subprocess.Popen:
        folders = {"BUILD_DIR": str(tmp_path / name / "build"), "RESULTS_DIR": str(tmp_path / name / "results")}
        place = os.pathsep.join([str(settings.ROOT), str(TESTS)])
        environment = os.environ | folders | {"PYTHONPATH": place, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "dask", kind, "--scheduler-file", str(tmp_path / "scheduler.json"), "--no-dashboard"]
        with open(tmp_path / f"{name}.log", "w") as log:
            started.append(subprocess.Popen([*command, *options], env=environment, cwd=tmp_path, stdout=log, stderr=log))
        return started[-1]

    yield starter
    for process in started:
        process.kill()
        process.wait()


def test_a_worker_killed_in_mid_row_costs_no_row(start, tmp_path, monkeypatch):
    """Three machines without a shared folder: two workers, of which one dies while it trains, and the one that asks."""
    start("scheduler", "scheduler", "--host", "127.0.0.1", "--port", "0")
    options = ("--nthreads", "1", "--resources", "row=1", "--memory-limit", "0", "--no-nanny", "--preload", "tiny")
    workers = {name: start("worker", name, *options, "--name", name) for name in ("first", "second")}
    monkeypatch.setenv("BUILD_DIR", str(tmp_path / "asking" / "build"))
    monkeypatch.setenv("RESULTS_DIR", str(tmp_path / "asking" / "results"))
    arrived, killed = Counter(), []

    def kill_one_in_mid_row() -> None:
        while not (found := list(tmp_path.glob("*/build/demo/checkpoints/digits/*-s80.safetensors"))):
            time.sleep(0.005)
        name = found[0].relative_to(tmp_path).parts[0]
        workers[name].kill()
        workers[name].wait()
        killed.append((name, found[0]))

    def save_row(profile, key, *others, _save=results.save_row):
        arrived[key] += 1
        return _save(profile, key, *others)

    monkeypatch.setattr(results, "save_row", save_row)
    with Client(scheduler_file=str(tmp_path / "scheduler.json"), timeout=120, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=120)
        cluster.require_workers(client.scheduler_info(n_workers=-1)["workers"])
        threading.Thread(target=kill_one_in_mid_row, daemon=True).start()
        assert sweep.sweep(PROFILE, KEYS, client, networks=True) == {}
        assert sweep.sweep(PROFILE, KEYS, client) == {}  # all are here: nothing is asked for again
    assert arrived == Counter(KEYS)
    [(victim, checkpoint)] = killed
    assert checkpoint.exists()  # it died before the end of that row
    survivor = next(name for name in workers if name != victim)
    by_survivor = tmp_path / survivor / "results" / "demo" / "digits" / f"{checkpoint.stem}.json"
    assert files.load_json(by_survivor) == files.load_json(settings.row_path("demo", "digits", checkpoint.stem))
    assert all(settings.network_path("demo", "digits", key.row_id).is_file() for key in KEYS)
    dense = list(tmp_path.glob("*/build/demo/networks/digits/dense.safetensors"))
    assert len(dense) >= 2 and len({files.digest_of(models.load(path).state_dict()) for path in dense}) == 1


def test_rows_of_other_code_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS_DIR", str(tmp_path))
    row = results.save_row("demo", KEYS[3], {}, {"something": "else"})
    with pytest.raises(sweep.Foreign, match="one commit"):
        sweep._accept(PROFILE, KEYS[3], row, None, {})


def test_rows_of_another_dense_network_than_the_first_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS_DIR", str(tmp_path))
    digests = {}
    for key, digest in zip(KEYS[:3], ("one", "one", "another"), strict=True):
        made_with = budget.made_with(PROFILE, key)
        row = {"version": results.VERSION, "settings_hash": results.settings_hash(made_with), "weights_digest": digest}
        if digest == "another":
            with pytest.raises(sweep.Foreign, match="same weights"):
                sweep._accept(PROFILE, key, row, None, digests)
        else:
            sweep._accept(PROFILE, key, row, None, digests)
        assert (results.load_row("demo", key) is None) == (digest == "another")
    assert digests == {"digits": "one"}


def test_a_network_that_arrives_replaces_one_of_other_settings(tmp_path, monkeypatch):
    for name in ("RESULTS_DIR", "BUILD_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    settings_hash = results.settings_hash(budget.made_with(PROFILE, KEYS[3]))
    row = {"version": results.VERSION, "settings_hash": settings_hash}
    path = settings.network_path("demo", "digits", KEYS[3].row_id)
    models.save(models.VGG(10, (2, "M"), (4,)), path, settings_hash=settings_hash)
    sent = path.read_bytes()
    models.save(models.VGG(10, (2, "M"), (4,)), path, settings_hash="another")
    sweep._accept(PROFILE, KEYS[3], row, sent, {})
    assert path.read_bytes() == sent
    models.save(models.VGG(10, (2, "M"), (4,)), path, settings_hash=settings_hash)  # as where both share a folder
    sweep._accept(PROFILE, KEYS[3], row, sent, {})
    assert path.read_bytes() != sent


def test_a_stale_workers_row_is_named_and_the_others_are_stored(tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS_DIR", str(tmp_path / "worker"))
    made = {key: results.save_row("demo", key, {}, budget.made_with(PROFILE, key)) for key in KEYS[3:]}
    stale = KEYS[3]
    made[stale] = results.save_row("demo", stale, {}, {"something": "else"})
    monkeypatch.setenv("RESULTS_DIR", str(tmp_path / "asking"))
    monkeypatch.setattr(sweep, "cost", lambda profile, key: float(key == stale))  # it comes first
    monkeypatch.setattr(sweep, "make", lambda profile, key, dense=None, networks=False: (made[key], None))
    one = {"processes": False, "n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with Client(**one, resources={"row": 1}, set_as_default=False) as client:
        failed = sweep.sweep(PROFILE, KEYS[3:], client)
    assert list(failed) == [stale] and "one commit" in failed[stale]
    for key in KEYS[3:]:
        assert (results.load_row("demo", key) is None) == (key == stale)


def test_a_dense_network_of_other_settings_is_not_sent(tmp_path, monkeypatch):
    monkeypatch.setenv("BUILD_DIR", str(tmp_path))
    assert sweep.stored_dense(PROFILE, "digits") is None
    path = settings.network_path("demo", "digits", "dense")
    made_with = budget.made_with(PROFILE, RowKey("digits", "dense"))
    models.save(models.VGG(10, (2, "M"), (4,)), path, settings_hash=results.settings_hash(made_with))
    assert sweep.stored_dense(PROFILE, "digits") == path.read_bytes()
    assert sweep.stored_dense(replace(PROFILE, dense_epochs=3), "digits") is None


@pytest.mark.parametrize("resources", [{}, {"GPU": 1}, {"row": 2}])
def test_workers_that_take_no_row_or_several_at_once_are_named_with_the_command(resources):
    with pytest.raises(ValueError, match=r'--nthreads 1 --resources "row=1"'):
        cluster.require_workers({"tcp://127.0.0.1:1": {"resources": resources}})


def test_no_scheduler_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sweep", "--scheduler", "tcp://127.0.0.1:9", "--wait", "1"])
    said = sweep._guarded()
    assert "127.0.0.1:9" in said and "\n" not in said


def test_the_projection_is_the_longest_first_schedule():
    paper = settings.profile("paper")
    keys = [item.key for item in plan.plan(paper)]
    total = sum(sweep.cost(paper, key) for key in keys) + paper.dense_epochs * len(paper.datasets)
    hours = [sweep.projection(paper, keys, 36.0, workers) for workers in (1, 2, 4, 1000)]
    assert hours[0] == pytest.approx(total / 100)
    assert hours == sorted(hours, reverse=True)
    assert hours[1] < 1.1 * hours[0] / 2 and hours[2] < 1.2 * hours[0] / 4
    chain = paper.dense_epochs + max(sweep.cost(paper, key) for key in keys if budget.starts_from_dense(paper, key))
    assert hours[3] == pytest.approx(chain / 100)
