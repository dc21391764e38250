"""Progress goes where it is asked for: to a log, else to standard error, never into what is iterated."""

import pytest

from helpers import progress


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.0)


def test_a_log_gets_plain_lines(tmp_path, monkeypatch, capsys, always):
    monkeypatch.setenv("PROGRESS_LOG", str(tmp_path / "log"))
    assert list(progress.track("ab", "spelling")) == ["a", "b"]
    progress.say("done")
    assert (tmp_path / "log").read_text().splitlines() == ["spelling: 1/2", "spelling: 2/2", "done"]
    assert capsys.readouterr() == ("", "")


def test_without_one_lines_go_to_standard_error(monkeypatch, capsys, always):
    monkeypatch.delenv("PROGRESS_LOG", raising=False)
    assert list(progress.track(iter("ab"), "spelling")) == ["a", "b"]
    assert capsys.readouterr() == ("", "spelling: 1\nspelling: 2\n")


def test_a_line_in_between_is_rare(monkeypatch, capsys):
    monkeypatch.delenv("PROGRESS_LOG", raising=False)
    assert len(list(progress.track(range(1000), "counting"))) == 1000
    assert capsys.readouterr().err == ""
