"""The build on small notebooks: whole pages, and one clear line with everything kept when something goes wrong."""

import os
import re
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from helpers import files, settings
from helpers.report import build, pages


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder of notebooks, with pages and rows beside it."""
    monkeypatch.setenv("BUILD_DIR", str(tmp_path / "build"))
    for name in ("PROFILE", "REPORT_DIR", "RESULTS_DIR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def write(place, name: str, *cells: str) -> None:
    """A notebook whose code cells are `cells`, under a title and a heading."""
    notebook = new_notebook(cells=[new_markdown_cell(f"# {name}\n\nWhy?"), *map(new_code_cell, cells)])
    nbformat.write(notebook, place / "notebooks" / f"{name}.ipynb")


def run(place, *options: str) -> int:
    return build.main(["--notebooks", str(place / "notebooks"), *options])


def page(place, name: str) -> BeautifulSoup:
    return BeautifulSoup((settings.report_dir("demo") / f"{name}.html").read_text(), "html.parser")


def test_a_notebook_becomes_a_page(place, capfd):
    write(place, "00_first", "import sys\nprint('to the page')\nprint('to the console', file=sys.stderr)", "sum(range(5))")
    nbformat.write(
        new_notebook(
            cells=[new_markdown_cell("# Second\n\nAnd?\n\n## Part\n\nSo $a_1 < b$ as [before](00_first.ipynb#why)\n\n## Part")]
        ),
        place / "notebooks" / "01_second.ipynb",
    )
    assert run(place) == 0
    first, second = page(place, "00_first"), page(place, "01_second")
    assert [pre.get_text(strip=True) for pre in first.select("pre.text")] == ["to the page", "10"]
    assert "to the console" not in first.main.get_text().replace(first.select_one("details.code").get_text(), "")
    assert len(first.select("details.code:not([open]) pre")) == 2
    assert first.select_one('a[rel="next"]')["href"] == "01_second.html" == first.select("header nav a")[1]["href"]
    assert second.select_one("math mo, math mi") and second.select_one("main a")["href"] == "00_first.html#why"
    assert [h["id"] for h in second.find_all("h2")] == ["part", "part-2"] == [a["href"][1:] for a in second.select(".toc nav a")]
    for soup in (first, second, page(place, "index")):
        terms = {dt.get_text() for dt in soup.select(".provenance dt")}
        assert terms == {"Profile", "Data", "Measured on", "Commit", "Built"}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("1 / 0", r"ZeroDivisionError: division by zero"),
        ("import os\nos.kill(os.getpid(), 9)", r"the kernel died"),
        ("import time\ntime.sleep(60)", r"took longer than 3 s"),
    ],
    ids=["failing cell", "dead kernel", "time-out"],
)
def test_a_failure_is_one_line_and_keeps_what_there_is(place, capfd, source, said):
    write(place, "00_good", "'fine'")
    write(place, "01_bad", "print('shown before')", source, "print('never')")
    assert run(place, "--only", "00") == 0
    earlier = (settings.report_dir("demo") / "00_good.html").read_bytes()
    capfd.readouterr()
    assert run(place, "--only", "01", "--timeout", "3") == 1
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("build failed")]
    assert len(told) == 1 and re.search(r"01_bad\.ipynb, cell 3: " + said, told[0])
    partial = page(place, "01_bad.partial")
    assert "shown before" in partial.get_text() and "cell 3" in partial.select_one(".failure").get_text()
    assert not (settings.report_dir("demo") / "01_bad.html").exists()
    assert (settings.report_dir("demo") / "00_good.html").read_bytes() == earlier

    write(place, "01_bad", "print('mended')")
    assert run(place, "--only", "01") == 0
    assert "mended" in page(place, "01_bad").get_text() and not (settings.report_dir("demo") / "01_bad.partial.html").exists()


def test_a_second_build_refuses(place, capfd):
    write(place, "00_good", "'fine'")
    with files.lock(settings.build_dir("demo") / "build.lock"):
        assert run(place) == 1
    assert "held by another process" in capfd.readouterr().err
    assert not (settings.report_dir("demo") / "00_good.html").exists()


@pytest.mark.parametrize("options", [["--profile", "dmo"], ["--only", "07"]], ids=["profile", "notebook"])
def test_what_is_not_there_is_one_line(place, capfd, options):
    write(place, "00_good", "'fine'")
    assert run(place, *options) == 1
    told = capfd.readouterr().err.strip().splitlines()
    assert len(told) == 1 and re.search(r"did you mean 'demo'|begins with 07", told[0])


def test_ctrl_c_stops_the_build_and_its_kernel(place):
    write(place, "00_long", "import os, time, pathlib\npathlib.Path('started').write_text(str(os.getpid()))\ntime.sleep(120)")
    command = [sys.executable, "-m", "helpers.report", "--notebooks", str(place / "notebooks")]
    child = subprocess.Popen(command, cwd=settings.ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    started, deadline = place / "notebooks" / "started", time.monotonic() + 120
    while not (started.is_file() and started.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    kernel = int(started.read_text())
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert [line for line in err.splitlines() if line.startswith("build")] == [
        "build stopped; start it again to go on from the stored rows"
    ]
    while _alive(kernel) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(kernel)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_formulas_leave_code_and_prices_alone():
    notebook = new_notebook(cells=[new_markdown_cell("`$x$` costs $5 and $6; $$\\sum_i x_i$$ but $y$.")])
    soup = BeautifulSoup(pages.body(notebook).html, "html.parser")
    assert [m["display"] for m in soup.find_all("math")] == ["block", "inline"]
    assert soup.code.get_text() == "$x$" and "costs $5 and $6;" in soup.get_text()
