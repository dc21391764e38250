"""Every benchmark, one table: both sides' medians, their ratio, the goal, the machine.

    python -m bench [--quick] [--only training]

`results/bench.json` keeps what was measured and where, so one benchmark can be repeated without the others.
Each script runs in a process of its own, so that none finds the memory or the threads of another. A script that fails
has its line in the table too, and the exit status is then 1.
"""

import argparse
import importlib
import multiprocessing
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from helpers import files, results, settings

HERE = Path(__file__).parent
UNITS = ((1e3, "s", 1e-3), (1.0, "ms", 1.0), (0.0, "µs", 1e3))


def scripts() -> list[str]:
    """The names of all benchmarks, sorted."""
    return sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))


def measured(name: str, quick: bool) -> list[dict]:
    """The rows of one benchmark."""
    return importlib.import_module(f"bench.{name}").run(quick)


def in_own_process(name: str, quick: bool) -> list[dict]:
    """The rows of one benchmark from a fresh process; one row that says why when it fails."""
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(measured, name, quick).result()
    except Exception as error:  # whatever a benchmark dies of belongs in its line
        reason = " ".join(str(error).split())[:200]
        return [{"name": name, "failed": f"{type(error).__name__}: {reason}"}]


def duration(ms: float | None) -> str:
    """Three digits with a unit; a dash for what was not measured."""
    if ms is None:
        return "—"
    _, unit, factor = next(line for line in UNITS if abs(ms) >= line[0])
    return f"{ms * factor:.3g} {unit}" if abs(ms * factor) < 1000 else f"{ms * factor:.0f} {unit}"


def met(row: dict) -> bool | None:
    """Whether a line reached its goal: as its benchmark says, else by its ratio; None where there is no goal to reach."""
    goal = row.get("goal")
    return row.get("met", row["ratio"] >= goal if isinstance(goal, float) else None)


def cells(row: dict) -> list[str]:
    """One row of the table: benchmark, ours, theirs, ratio, goal, how."""
    if "failed" in row:
        return [row["name"], "—", "—", "—", "—", f"**failed**: {row['failed']}"]
    ratio, goal = row.get("ratio"), row.get("goal")
    shown = "—" if goal is None else f"≥ {goal:g}×" if isinstance(goal, float) else goal
    verdict = {True: ", met", False: ", **missed**", None: ""}[met(row)]
    times = [duration(row.get("ours_ms")), duration(row.get("theirs_ms")), "—" if ratio is None else f"{ratio:.2f}×"]
    return [row["name"], *times, shown + verdict, row.get("note", "")]


def markdown(rows: Iterable[dict]) -> list[str]:
    """A table's lines."""
    lines = ["| benchmark | ours | theirs | ratio | goal | how |", "| --- | ---: | ---: | ---: | --- | --- |"]
    for row in rows:
        lines.append("| " + " | ".join(" ".join(str(cell).replace("|", "\\|").split()) for cell in cells(row)) + " |")
    return lines


@dataclass(frozen=True)
class Run:
    """What one benchmark measured, and where and when."""

    rows: list[dict]
    machine: str

    @classmethod
    def now(cls, rows: list[dict], seconds: float) -> "Run":
        made = results.provenance()
        where = f"{made['device']}; torch {made['torch']}, {made['threads']} threads; commit {made['commit']}"
        return cls(rows, f"{where}; {date.today().isoformat()}, {seconds / 60:.0f} min")


def table(runs: Mapping[str, Run], quick: bool) -> str:
    """The whole page: what has a goal (or failed) first, then every other line, and what each benchmark was measured on."""
    rows = [row for run in runs.values() for row in run.rows]
    first = [row for row in rows if "failed" in row or met(row) is not None]
    short = " These are short runs: their figures say that a benchmark works, not how fast anything is." if quick else ""
    return "\n".join(
        [
            "# Benchmarks",
            "",
            "Both sides of a line were timed in one run, taking turns; times are medians, the ratio is theirs over ours, so that "
            f"more than 1 is faster than the alternative.{short}",
            "",
            "## Against the goals",
            "",
            *markdown(first),
            "",
            "## Everything else that was timed",
            "",
            *markdown(row for row in rows if row not in first),
            "",
            "## Measured on",
            "",
            *(f"- `bench.{name}`: {run.machine}" for name, run in runs.items()),
            "",
        ]
    )


def stored(path: Path) -> dict[str, Run]:
    """The runs of an earlier table, none where it is missing or damaged."""
    try:
        return {name: Run(**run) for name, run in files.load_json(path).items()}
    except (FileNotFoundError, files.CorruptFile):
        return {}


def main(arguments: Iterable[str] | None = None) -> int:
    """Run the benchmarks and write results/bench.md, whose other lines stay; exit status 1 when one failed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="short runs, written to build/ instead")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="one benchmark; may be repeated")
    options = parser.parse_args(arguments)
    names = [settings.choose("benchmark", name, scripts()) for name in options.only] or scripts()
    path = settings.ROOT / ("build" if options.quick else "results") / "bench.md"
    runs = stored(path.with_suffix(".json"))
    for name in names:
        print(f"{name} …", file=sys.stderr, flush=True)
        began = time.monotonic()
        runs[name] = Run.now(in_own_process(name, options.quick), time.monotonic() - began)
        runs = {known: runs[known] for known in scripts() if known in runs}
        files.save_json(path.with_suffix(".json"), {known: asdict(run) for known, run in runs.items()})
        files.save_text(path, table(runs, options.quick))  # after each, so that a stop loses none that is done
    print(path.read_text(encoding="utf-8"))
    return 1 if any("failed" in row for name in names for row in runs[name].rows) else 0


if __name__ == "__main__":
    from bench import __main__ as itself  # the processes of the benchmarks find its functions by the module's name

    try:
        sys.exit(itself.main())
    except KeyboardInterrupt:
        sys.exit("stopped; the benchmarks that were done are in the table")
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
