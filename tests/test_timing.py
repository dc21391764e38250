"""The timing pass: all networks in one run, and times of two runs never beside each other."""

from dataclasses import replace

import numpy as np
import pytest
import tiny

from helpers import data, measurement, models, results, settings, timing
from helpers.pruning import masks

NAMES = ("dense", "layerwise_magnitude-s80.33", "lasso_channels", "snip-s80")
PLANNED = tiny.experiments(NAMES)
DENSE, MAGNITUDE = (next(e for e in PLANNED if e.name == name) for name in NAMES[:2])
FAST = replace(tiny.PROFILE, timing_seconds=0.0)


@pytest.fixture(autouse=True)
def quick(own_folders, monkeypatch):
    """Folders of its own, and clocks that count the runs."""
    clock = iter(range(1, 1000))
    monkeypatch.setattr(data, "load", tiny.splits)
    monkeypatch.setattr(timing.kernels, "available", lambda: "no compiler")
    monkeypatch.setattr(measurement, "energy", lambda *_, **__: (None, "not measured: no counter"))
    monkeypatch.setattr(measurement, "memory", lambda *_: measurement.Memory(3.0, 2.0, "by hand"))

    def latency(runs, *_, **__):
        return {run: measurement.Latency(next(clock), next(clock), 3) for run in runs}

    monkeypatch.setattr(measurement, "latency", latency)


def store(experiment, experiment_of_network=None, **columns):
    """A result and its network, as `study.compute` leaves them."""
    network = tiny.network()
    if experiment.prune is not None and hasattr(experiment.prune, "sparsity"):
        masks.uniform(network, experiment.prune.sparsity).apply(network)
        columns["size_bitmask_mib"] = 0.1
    made_by = (experiment_of_network or experiment).hash
    models.save(network, settings.network_path("demo", "digits", experiment.name), experiment=made_by)
    columns |= {"correct": results.pack_bits(np.ones(40, bool)), "commit": "first", "reasons": timing.pending(experiment)}
    return results.save(experiment, {"top1_pct": 50.0, **columns})


def timed(experiment) -> dict:
    return results.load(experiment)


def test_it_fills_the_costs_and_nothing_else(monkeypatch):
    before = {e: store(e) for e in PLANNED}
    monkeypatch.setattr(results, "commit", lambda: "a later commit")
    timing.measure(FAST, PLANNED)
    for e, old in before.items():
        new = timed(e)
        assert new["commit"] == old["commit"] != new["timed_commit"] == "a later commit"
        assert new["latency_ms"] > 0 and new["latency_batch128_ms"] > new["latency_ms"] and new["peak_memory_mib"] == 3.0
        allowed = {*timing.COLUMNS, "device", "threads", "dtype", "timed_at", "timed_commit", "timed_torch", "reasons"}
        assert {name for name in new if old.get(name) != new[name]} <= allowed
        for name in timing.COLUMNS:
            assert (name in new) != (name in new["reasons"])


def test_a_network_with_zeros_runs_sparsely_and_one_without_folded(monkeypatch):
    for e in PLANNED:
        store(e)
    timing.measure(FAST, PLANNED)
    for e in PLANNED:
        with_zeros = e.name in NAMES[1::2]
        assert ("folded_latency_ms" in timed(e)) != with_zeros
        why = timed(e)["reasons"]["sparse_latency_ms"]
        assert why == "not measured: no compiler" and "sparse_latency_ms" not in timed(e)


def test_one_result_without_times_has_all_timed_again_in_one_run(monkeypatch):
    together, measure = [], timing._measure
    monkeypatch.setattr(timing, "_measure", lambda profile, wanted: together.append(set(wanted)) or measure(profile, wanted))
    store(DENSE)
    timing.measure(FAST, PLANNED)
    store(MAGNITUDE)
    timing.measure(FAST, PLANNED)
    assert together == [{DENSE}, {DENSE, MAGNITUDE}]
    timing.measure(FAST, PLANNED)
    assert len(together) == 2
    timing.measure(FAST, PLANNED, again=True)
    assert len(together) == 3
    assert len({timed(e)["timed_at"] for e in (DENSE, MAGNITUDE)}) == 1


def test_results_of_two_runs_are_timed_together(monkeypatch):
    for e in (DENSE, MAGNITUDE):
        store(e)
        timing.measure(FAST, [e])
    assert len({timed(e)["timed_at"] for e in (DENSE, MAGNITUDE)}) == 2
    timing.measure(FAST, PLANNED)
    assert len({timed(e)["timed_at"] for e in (DENSE, MAGNITUDE)}) == 1


def test_what_is_not_to_be_timed_or_lies_elsewhere_is_left_out():
    untimed = replace(MAGNITUDE, timed=False)
    store(untimed)
    store(DENSE, experiment_of_network=MAGNITUDE)
    timing.measure(FAST, [untimed, DENSE])
    assert all("latency_ms" not in timed(e) for e in (untimed, DENSE))
    assert timed(untimed)["reasons"]["latency_ms"] == timing.NOT_TIMED
    assert timed(DENSE)["reasons"]["latency_ms"] == timing.LATER


def test_nothing_to_time_is_no_error():
    timing.measure(FAST, PLANNED)
    timing.measure(FAST, [], again=True)


# One run in the frame -----------------------------------------------------------------------------------------------


def test_times_of_another_run_than_the_dense_network_s_are_not_shown():
    for chosen in ([DENSE], PLANNED[1:]):
        for e in chosen:
            store(e)
        timing.measure(FAST, chosen)
    shown = timing.of_one_run(results.frame(tiny.PROFILE)).set_index("method")
    assert shown.latency_ms.notna().to_dict() == {e.method: e == DENSE for e in PLANNED}
    others = shown.drop(index="dense")
    assert others[list(timing.COLUMNS)].isna().all(axis=None) and (others.top1_pct == 50.0).all()
    for reasons in others.reasons:
        assert {reasons[name] for name in timing.COLUMNS} == {timing.OTHER_RUN} or "no counter" in reasons["energy_mj"]
    assert "latency_ms" not in shown.reasons["dense"]
    timing.measure(FAST, PLANNED)
    assert timing.of_one_run(results.frame(tiny.PROFILE)).latency_ms.notna().all()


def test_without_a_dense_network_the_run_that_timed_most_is_shown():
    for chosen in (PLANNED[1:3], PLANNED[3:]):
        for e in chosen:
            store(e)
        timing.measure(FAST, chosen)
    shown = timing.of_one_run(results.frame(tiny.PROFILE))
    assert shown.latency_ms.notna().tolist() == [True, True, False]


def test_a_frame_without_times_or_without_results_passes():
    assert len(timing.of_one_run(results.frame(tiny.PROFILE))) == 0
    store(DENSE)
    shown = timing.of_one_run(results.frame(tiny.PROFILE))
    assert shown.latency_ms.isna().all() and shown.reasons[0]["latency_ms"] == timing.LATER


def test_the_frame_that_was_given_is_left_as_it_is():
    for chosen in ([DENSE], [MAGNITUDE]):
        store(chosen[0])
        timing.measure(FAST, chosen)
    frame = results.frame(tiny.PROFILE)
    timing.of_one_run(frame)
    assert frame.latency_ms.notna().all() and all("latency_ms" not in reasons for reasons in frame.reasons)
