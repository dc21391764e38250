"""Progress goes to standard error, as a bar or as plain lines, never into what is iterated."""

import io
import sys

import pytest

from helpers import progress


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.0)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("plain", ["", "1"])
def test_a_terminal_gets_a_bar_and_a_headless_build_plain_lines(monkeypatch, always, plain):
    monkeypatch.setenv("PLAIN_PROGRESS", plain)
    monkeypatch.setattr(sys, "stderr", terminal := _Terminal())
    assert list(progress.track("ab", "spelling")) == ["a", "b"]
    progress.say("done")
    lines = terminal.getvalue().splitlines()
    assert lines[-1].endswith("done") and (lines[:-1] == ["spelling: 1/2", "spelling: 2/2"]) == bool(plain)


def test_elsewhere_lines_go_to_standard_error(monkeypatch, capsys, always):
    monkeypatch.delenv("PLAIN_PROGRESS", raising=False)
    assert list(progress.track(iter("ab"), "spelling")) == ["a", "b"]
    assert capsys.readouterr() == ("", "spelling: 1\nspelling: 2\n")


def test_a_line_in_between_is_rare(monkeypatch, capsys):
    monkeypatch.delenv("PLAIN_PROGRESS", raising=False)
    assert len(list(progress.track(range(1000), "counting"))) == 1000
    assert capsys.readouterr().err == ""
