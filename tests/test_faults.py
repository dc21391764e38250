"""A study that is killed, crowded, out of space or stopped: nothing is lost, nothing half-written is read, one clear line."""

import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
import torch

from helpers import files, models

KILLS = 20
FORK = multiprocessing.get_context("forkserver")  # torch is imported once, every child is forked from there
FORK.set_forkserver_preload(["helpers.study"])


@dataclass(frozen=True)
class Folders:
    """Where one study keeps its files."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"BUILD_DIR": str(self.root / "build"), "RESULTS_DIR": str(self.root / "results")}

    def rows(self) -> dict[str, dict]:
        """Row id → all of a row that does not differ from run to run; a damaged one raises."""
        found = sorted((self.root / "results" / "demo" / "digits").glob("*.json"))
        return {path.stem: tiny.steady(files.load_json(path)) for path in found}

    def networks(self) -> dict[str, str]:
        """Row id → digest of its network's tensors."""
        found = sorted((self.root / "build" / "demo" / "networks" / "digits").glob("*.safetensors"))
        return {path.stem: files.digest_of(models.load(path).state_dict()) for path in found}

    def events(self) -> list[str]:
        """What happened in the last study here."""
        return json.loads((self.root / "events.json").read_text())

    def said(self) -> str:
        """All that the study has said so far."""
        path = self.root / "said.txt"
        return path.read_text() if path.is_file() else ""


def study(folders: Folders, keys=tiny.KEYS, *, event: int | None = None, number: int = signal.SIGKILL, quota: int | None = None):
    """Start the tiny study as `python -m helpers.study` does, in a process that gets signal `number` at event `event`."""
    folders.root.mkdir(parents=True, exist_ok=True)
    child = FORK.Process(target=_study, args=(folders, keys, event, number, quota))
    child.start()
    return child


def _study(folders: Folders, keys: tuple, event: int | None, number: int, quota: int | None) -> None:
    os.environ.update(folders.environment)
    said = os.open(folders.root / "said.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(said, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tiny.install(keys)
    _watch(event, number, folders.root / "events.json")
    if quota is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (quota, quota))
    tiny.run_as_main("helpers.study")


def _watch(event: int | None, number: int, log: Path) -> None:
    """Note every optimiser step and every stage of a write, and send this process signal `number` at event `event`."""
    step, fsync, replace = torch.optim.SGD.step, os.fsync, os.replace
    seen: list[str] = []

    def happen(what: str) -> bool:
        seen.append(what)
        with open(log, "w") as handle:
            json.dump(seen, handle)
        return len(seen) == event

    def stepped(*arguments, **options):
        if happen("training"):
            os.kill(os.getpid(), number)
        return step(*arguments, **options)

    def flushed(descriptor):
        if happen("half written"):
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), number)
        return fsync(descriptor)

    def renamed(source, target):
        if happen("before the rename"):
            os.kill(os.getpid(), number)
        replace(source, target)
        if happen("after the rename"):
            os.kill(os.getpid(), number)

    torch.optim.SGD.step, os.fsync, os.replace = stepped, flushed, renamed


def status_of(child, seconds: float = 300) -> int:
    child.join(seconds)
    assert child.exitcode is not None, "it hangs"
    return child.exitcode


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Folders:
    """A study that nothing disturbed."""
    folders = Folders(tmp_path_factory.mktemp("unbroken"))
    assert status_of(study(folders)) == 0, folders.said()
    assert set(folders.rows()) == {key.row_id for key in tiny.KEYS}
    return folders


def assert_same(found: Folders, reference: Folders, keys=tiny.KEYS) -> None:
    """The rows and networks of `keys` are there and those of `reference`, and nothing else is."""
    wanted = {key.row_id for key in keys}
    for kind in (Folders.rows, Folders.networks):
        assert kind(found) == {row_id: value for row_id, value in kind(reference).items() if row_id in wanted}


def assert_one_line(folders: Folders, wanted: str) -> None:
    """The study ended with a line that says `wanted`, and not in a traceback."""
    assert "Traceback" not in folders.said()
    assert wanted in folders.said().splitlines()[-1]


def test_killed_at_twenty_moments_it_ends_with_the_same_rows(unbroken, tmp_path):
    """Each restart runs into the next kill until the study is whole; then a new one begins."""
    draw, kills, studies, where = random.Random(0), 0, 0, set()
    while kills < KILLS:
        folders = Folders(tmp_path / str(studies))
        while (status := status_of(study(folders, event=draw.randint(1, len(unbroken.events()) // 2)))) != 0:
            assert status == -signal.SIGKILL, folders.said()
            kills += 1
            where.add(folders.events()[-1])
            assert folders.rows().keys() <= unbroken.rows().keys()  # reading them finds no half-written one
        assert_same(folders, unbroken)
        studies += 1
    assert where == {"training", "half written", "before the rename", "after the rename"}


FEW = tiny.KEYS[:3]


def test_two_studies_at_once_make_every_row_once(unbroken, tmp_path):
    folders = Folders(tmp_path)
    for child in [study(folders, FEW) for _ in range(2)]:
        assert status_of(child) == 0, folders.said()
    for key in FEW:
        assert folders.said().count(f"{key.row_id}: making the row") == 1
    assert_same(folders, unbroken, FEW)


def test_ctrl_c_is_one_line_and_the_study_goes_on_later(unbroken, tmp_path):
    folders = Folders(tmp_path)
    for event in (3, 7, 11):
        assert status_of(study(folders, FEW, event=event, number=signal.SIGINT)) not in (0, None)
        assert_one_line(folders, "run it again")
    assert status_of(study(folders, FEW)) == 0
    assert_same(folders, unbroken, FEW)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 200 kB; needs the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no right to mount a small disk: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_is_one_line_and_the_study_goes_on_later(unbroken, small_disk):
    folders = Folders(small_disk)
    assert status_of(study(folders, FEW)) == 1
    assert_one_line(folders, "No space left on device")
    subprocess.run(["mount", "-o", "remount,size=50m", small_disk], check=True)
    assert status_of(study(folders, FEW)) == 0, folders.said()
    assert_same(folders, unbroken, FEW)


def test_a_quota_is_one_line_and_the_study_goes_on_later(unbroken, tmp_path):
    folders = Folders(tmp_path)
    assert status_of(study(folders, FEW, quota=20_000)) == 1
    assert_one_line(folders, "could not be written: ")
    assert not list((tmp_path / "build" / "demo").rglob("*.tmp"))
    assert status_of(study(folders, FEW)) == 0, folders.said()
    assert_same(folders, unbroken, FEW)


def test_a_results_folder_that_cannot_be_written_is_one_line_and_loses_nothing(unbroken, tmp_path):
    folders, results = Folders(tmp_path), tmp_path / "results"
    results.write_text("a file where a folder should be")
    assert status_of(study(folders, FEW)) == 1
    assert_one_line(folders, str(results))
    results.unlink()
    results.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", results], capture_output=True).returncode == 0:
        try:
            assert status_of(study(folders, FEW)) == 1
            assert_one_line(folders, "Read-only file system")
        finally:
            subprocess.run(["umount", "-l", results], check=True)
    assert status_of(study(folders, FEW)) == 0, folders.said()
    assert_same(folders, unbroken, FEW)
