"""Rows on two workers of a Dask cluster against one, on this machine: six equal rows, one thread a worker.

Both sides make the same rows in folders of their own, after every worker has imported what it needs; the ratio cannot
exceed 2, nor the share of two cores that the machine has free.
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace
from unittest import mock

from distributed import Client

from helpers import cluster, machine, settings, sweep
from helpers.results import RowKey

METHODS = ("snip", "random", "magnitude_init")


def run(quick: bool) -> list[dict]:
    """One row: medians in milliseconds a row made, two workers (ours) against one (theirs)."""
    profile = replace(settings.PROFILES["demo"], width_divisor=16, init_epochs=1 if quick else 4)
    keys = [RowKey("digits", method, 80.0, seed) for method in METHODS for seed in (0, 1)]
    turns = (1, 2) if quick else (1, 2, 2, 1)
    times: dict[int, list[float]] = {1: [], 2: []}
    spent: dict[int, list[float]] = {1: [], 2: []}  # processor seconds a row, which a busy machine does not stretch
    loads = [os.getloadavg()[0]]
    for workers in turns:
        with tempfile.TemporaryDirectory() as folder:
            folders = {"BUILD_DIR": f"{folder}/build", "RESULTS_DIR": f"{folder}/results"}
            with (
                mock.patch.dict(os.environ, folders),
                cluster.local(workers, threads=1) as own,
                Client(own, set_as_default=False) as client,
            ):
                client.wait_for_workers(workers)
                client.run(sweep.cost, profile, keys[0])  # imports
                used = sum(client.run(time.process_time).values())
                start = time.perf_counter()
                failed = sweep.sweep(profile, keys, client)
                times[workers].append(1e3 * (time.perf_counter() - start) / len(keys))
                spent[workers].append((sum(client.run(time.process_time).values()) - used) / len(keys))
        if failed:
            raise RuntimeError(f"{len(failed)} rows failed: {next(iter(failed.values()))}")
        loads.append(os.getloadavg()[0])
    one, two = (statistics.median(times[workers]) for workers in (1, 2))
    note = (
        f"a row of {len(keys)}, {profile.init_epochs} epochs of a 1/{profile.width_divisor}-width VGG16 on the digits; "
        f"{statistics.median(spent[2]):.2f} processor seconds a row on two, {statistics.median(spent[1]):.2f} on one; "
        f"load {min(loads):.1f} to {max(loads):.1f} on {os.cpu_count()} cores; {machine.processor()}"
    )
    row = {"name": "rows on two workers, against one", "ours_ms": two, "theirs_ms": one, "ratio": one / two}
    return [row | {"goal": None, "note": f"near 2 on two free cores; {note}"}]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one epoch a row, one turn a side")
    for row in run(parser.parse_args().quick):
        print(f"{row['name']}: {row['ours_ms']:.0f} ms a row, {row['theirs_ms']:.0f} ms on one, {row['ratio']:.2f}×")
        print(f"  goal {row['goal']}\n  {row['note']}")
