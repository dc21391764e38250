"""A Dask cluster makes what `study.compute` makes, once each, and says in one line what it cannot do."""

import threading
import time
from dataclasses import replace

import dask
import distributed
import pytest
import tiny
import torch
from distributed import Client, LocalCluster

from helpers import cluster, files, models, plan, results, settings, study
from helpers.maker import source_of

NAMES = ("dense", "dense-normalization-half", "global_magnitude-s80.33", "lasso_channels", "snip-s80", "dense_from_scratch")
SHORT = dict.fromkeys(("dense_epochs", "finetune_epochs", "init_epochs", "channel_epochs"), 1)
PROFILE = replace(tiny.PROFILE, batch_size=500, init_batch_size=500, **SHORT)
PLANNED = tiny.experiments(NAMES)
DENSE = next(e for e in PLANNED if e.name == "dense")
FINETUNED = next(e for e in PLANNED if e.name == "global_magnitude-s80.33")


def folders(root) -> dict[str, str]:
    return {"BUILD_DIR": str(root / "build"), "RESULTS_DIR": str(root / "results")}


@pytest.fixture
def in_process(own_folders, request):
    """A scheduler and one worker with four threads (or as many as the test says) in this process: (cluster, its client)."""
    options = {"processes": False, "protocol": "tcp://", "host": "127.0.0.1", "dashboard_address": ":0"}
    with (
        LocalCluster(n_workers=1, threads_per_worker=getattr(request, "param", 4), memory_limit=0, **options) as started,
        Client(started) as client,
    ):
        yield started, client


@pytest.fixture
def computed(monkeypatch) -> list:
    """What was computed, in order; nothing is trained, and results are not stored by the worker."""
    order = []

    def compute(e):
        order.append(e)
        if e == DENSE:
            network = models.VGG(10, (2, "M"), (4,))
            models.save(network, settings.network_path("demo", "digits", "dense"), experiment=e.hash)
        digest = {} if source_of(e) is None and e != DENSE else {"weights_digest": "the same"}
        return {"version": results.VERSION, "hash": e.hash, "top1_pct": 50.0, "correct": {}, **digest}

    monkeypatch.setattr(study, "compute", compute)
    return order


def test_one_worker_of_this_machine_makes_everything(tmp_path, monkeypatch):
    """It has folders of its own: results, masks and small networks come back, the dense network goes there and back."""
    tiny.FORK.Process(target=int).start()  # workers are forked from where torch is loaded
    here, there = folders(tmp_path / "here"), folders(tmp_path / "there")
    for name, folder in here.items():
        monkeypatch.setenv(name, folder)
    names = ("dense", "global_magnitude-s80.33", "l1_filters", "snip-s80")
    planned = [e for e in plan.experiments(PROFILE) if e.name in names]
    how = {"nanny.environ": dict.fromkeys(there, ""), "worker.multiprocessing-method": "forkserver", "worker.preload": ["tiny"]}
    options = {"threads_per_worker": 1, "memory_limit": 0, "dashboard_address": ":0", "env": there | {"OMP_NUM_THREADS": "1"}}
    with (
        dask.config.set({f"distributed.{name}": value for name, value in how.items()}),
        LocalCluster(n_workers=1, host="127.0.0.1", **options) as started,
    ):
        assert cluster.make(planned, started.scheduler_address) == 0
    stored = {e.name: results.load(e) for e in planned}
    for name, result in stored.items():
        assert result["threads"] == 1
        original = tmp_path / "there/results/demo/digits" / f"{name}.json"
        assert tiny.steady(files.load_json(original)) == tiny.steady(result)
    kept = {name for name in names if settings.kept_path("demo", "digits", name).is_file()}
    assert kept == {"global_magnitude-s80.33", "l1_filters", "snip-s80"}
    dense = models.load(settings.network_path("demo", "digits", "dense"))
    digests = {name: result.get("weights_digest") for name, result in stored.items()}
    assert digests == dict.fromkeys(names[:3], files.digest_of(dense.state_dict())) | {"snip-s80": None}


@pytest.mark.parametrize("in_process", [1], indirect=True)  # of several threads any may be the first at the lock
def test_the_dense_network_comes_first_then_the_longest(in_process, computed):
    assert cluster._make(in_process[1], PLANNED, 5) == 0
    assert computed[0] == DENSE and sorted(e.name for e in computed) == sorted(NAMES)
    for started in (None, DENSE):
        epochs = [e.cost for e in computed[1:] if source_of(e) == started]
        assert len(epochs) >= 2 and epochs == sorted(epochs, reverse=True)
    computed.clear()
    assert cluster._make(in_process[1], PLANNED, 5) == 0
    assert computed == []  # all are stored


def test_a_dense_network_that_lies_here_is_sent_and_not_made_by_another(in_process, computed, monkeypatch):
    path = settings.network_path("demo", "digits", "dense")
    models.save(models.VGG(10, (2, "M"), (4,)), path, experiment=DENSE.hash)
    content, sent, submit = path.read_bytes(), [], Client.submit
    monkeypatch.setattr(Client, "submit", lambda self, call, *a, **k: sent.append(a) or submit(self, call, *a, **k))
    assert cluster._make(in_process[1], [DENSE, FINETUNED], 5) == 0
    sent_along, carried = sent.pop(), sent.pop()
    assert sent == [(DENSE, content)] and carried == (path.read_bytes(),) and sent_along[0] == FINETUNED
    models.save(models.VGG(10, (2, "M"), (4,)), path, experiment="another")
    settings.result_path("demo", "digits", "dense").unlink()
    sent.clear()
    assert cluster._make(in_process[1], [DENSE], 5) == 0
    assert sent == [(DENSE, None)]


def test_a_worker_takes_one_at_a_time_on_the_threads_it_was_given(in_process, monkeypatch):
    under_way, most, threads, lock = 0, 0, set(), threading.Lock()

    def compute(e):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        threads.add(torch.get_num_threads())
        time.sleep(0.05)
        under_way -= 1
        raise ValueError("enough")

    monkeypatch.setattr(study, "compute", compute)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    before = torch.get_num_threads()
    assert cluster._make(in_process[1], [e for e in PLANNED if source_of(e) is None], 5) == 1
    torch.set_num_threads(before)
    assert most == 1 and threads == {3}


# What goes wrong --------------------------------------------------------------------------------------------------


def test_one_that_fails_is_named_and_the_others_are_stored(in_process, computed, monkeypatch, capsys):
    compute = study.compute
    monkeypatch.setattr(study, "compute", lambda e: 1 / 0 if e.name == "snip-s80" else compute(e))
    assert cluster._make(in_process[1], PLANNED, 5) == 1
    assert {e.name for e in PLANNED if results.load(e) is None} == {"snip-s80"}
    assert "digits snip-s80: division by zero" in capsys.readouterr().err


def test_without_the_dense_network_what_starts_from_it_is_missing(in_process, computed, monkeypatch):
    compute = study.compute
    monkeypatch.setattr(study, "compute", lambda e: 1 / 0 if e == DENSE else compute(e))
    assert cluster._make(in_process[1], PLANNED, 5) == 1
    assert {e.name for e in PLANNED if results.load(e)} == {"snip-s80", "dense_from_scratch"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"hash": "another"}, "one commit"), ({"version": 0}, "one commit"), ({"weights_digest": "another"}, "same weights")],
)
def test_a_result_that_does_not_belong_here_is_refused(in_process, computed, monkeypatch, capsys, changes, reason):
    compute = study.compute
    monkeypatch.setattr(study, "compute", lambda e: compute(e) | (changes if e.name == "lasso_channels" else {}))
    assert cluster._make(in_process[1], PLANNED, 5) == 1
    assert {e.name for e in PLANNED if results.load(e) is None} == {"lasso_channels"}
    [line] = [line for line in capsys.readouterr().err.splitlines() if "refused" in line]
    assert reason in line and "lasso_channels" in line


def test_a_result_stored_here_decides_which_dense_network_counts(in_process, computed, monkeypatch):
    assert cluster._make(in_process[1], [DENSE], 5) == 0
    compute = study.compute
    monkeypatch.setattr(study, "compute", lambda e: compute(e) | {"weights_digest": "another"})
    settings.network_path("demo", "digits", "dense").unlink()
    assert cluster._make(in_process[1], [e for e in PLANNED if source_of(e)], 5) == 1
    assert not any(results.load(e) for e in PLANNED if source_of(e))


def test_when_all_workers_are_gone_it_ends(in_process, computed):
    started, client = in_process
    started.scale(0)
    while client.scheduler_info()["workers"]:
        time.sleep(0.05)
    with pytest.raises(ConnectionError, match="workers are gone"):
        cluster._make(client, PLANNED, 0.3)


def test_nobody_at_the_address_is_one_line():
    began = time.monotonic()
    with pytest.raises(ConnectionError, match=r"^tcp://127\.0\.0\.1:9 was asked for a scheduler [^\n]*$"):
        cluster.make(PLANNED, "tcp://127.0.0.1:9", wait=0.5)
    assert time.monotonic() - began < 5


def test_a_scheduler_without_workers_is_one_line():
    refused = pytest.raises(ConnectionError, match=r"^[^\n]*asked for a worker for 0.5 seconds[^\n]*$")
    with LocalCluster(n_workers=0, processes=False, protocol="tcp://", dashboard_address=":0") as started, refused:
        cluster._check(started.scheduler_address, 0.5)


@pytest.fixture
def strangers(monkeypatch, request):
    """A cluster of which the part named by the parameter answers as one that was set up otherwise."""
    kind, part = request.param
    cls = {"scheduler": distributed.Scheduler, "worker": distributed.Worker}[part]
    if kind == "version":
        monkeypatch.setattr(cls, "versions", lambda *_, **__: {"packages": {"distributed": "2024.5.0"}})
    else:
        other = {"scheduler": (distributed.Worker, "run"), "worker": (distributed.Scheduler, "run_function")}[part]
        fine = {"status": "OK"}

        async def imported(*_, **__):
            return fine

        monkeypatch.setattr(*other, imported)
        monkeypatch.setattr(cluster, "__name__", "helpers.nothing")
    options = {"processes": False, "protocol": "tcp://", "host": "127.0.0.1", "dashboard_address": ":0"}
    with LocalCluster(n_workers=1, threads_per_worker=1, memory_limit=0, **options) as started:
        yield started, part


@pytest.mark.parametrize("strangers", [("version", "scheduler"), ("version", "worker")], indirect=True)
def test_another_version_of_dask_is_one_line(strangers):
    started, part = strangers
    with pytest.raises(ValueError, match=r"^[^\n]* runs Dask 2024\.5\.0, not [^\n]*$") as refused:
        cluster._check(started.scheduler_address, 5)
    assert (part == "scheduler") == str(refused.value).startswith("the scheduler")


@pytest.mark.parametrize("strangers", [("import", "scheduler"), ("import", "worker")], indirect=True)
def test_code_that_cannot_be_imported_is_one_line(strangers):
    started, part = strangers
    with pytest.raises(ValueError, match=r"^[^\n]* cannot import this program: [^\n]*nothing[^\n]*$") as refused:
        cluster._check(started.scheduler_address, 5)
    assert (part == "scheduler") == str(refused.value).startswith("the scheduler")
