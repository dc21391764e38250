"""The build on tiny notebooks: whole pages, nothing of a reader's own set-up in them, and one clear line when it fails."""

import contextlib
import json
import os
import re
import signal
import sys
import time

import nbformat
import pytest
import sample
import tiny
from bs4 import BeautifulSoup

from helpers import files, settings
from helpers.report import build, pages


@pytest.fixture
def place(own_folders):
    """An empty folder of notebooks, with pages and results beside it."""
    (own_folders / "notebooks").mkdir()
    return own_folders


def write(place, name: str, *cells: str, text: str = "") -> None:
    """A notebook whose code cells are `cells`, under a title and a question; or `text` as `sample.notebook` reads it."""
    whole = text or "\n".join([f"# {name}\n\nWhy?", *(cell if cell.startswith("%%") else f"%%\n{cell}" for cell in cells)])
    nbformat.write(sample.notebook(whole), place / "notebooks" / f"{name}.ipynb")


def run(place, *options: str) -> int:
    return build.main(["--notebooks", str(place / "notebooks"), *options])


def page(place, name: str) -> BeautifulSoup:
    return BeautifulSoup((settings.report_dir("demo") / f"{name}.html").read_text(), "html.parser")


def shown(place, name: str) -> list[str]:
    return [pre.get_text(strip=True) for pre in page(place, name).select("pre.text")]


def told(capfd) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("build")]


def test_notebooks_become_pages(place, capfd):
    write(place, "00_first", "import sys\nprint('to the page')\nprint('to the console', file=sys.stderr)", "sum(range(5))")
    second = (
        "# Second\n\nAnd?\n\n## Part\n\nSo $a_1 < b$ as [before](00_first.ipynb#why), [elsewhere](../docs/trials.md)\n\n## Part"
    )
    write(place, "01_second", text=second)
    assert run(place) == 0
    first, second = page(place, "00_first"), page(place, "01_second")
    assert shown(place, "00_first") == ["to the page", "10"]
    assert "to the console" not in str(first.main).replace(str(first.select_one("details.code")), "")
    assert len(first.select("details.code:not([open]) pre")) == 2
    assert first.select_one('a[rel="next"]')["href"] == "01_second.html" == first.select("header nav a")[1]["href"]
    before, elsewhere = (link["href"] for link in second.select(".prose a"))
    assert second.select_one("math mo") and before == "00_first.html#why"
    assert (settings.report_dir("demo") / elsewhere).resolve() == settings.ROOT / "docs" / "trials.md"
    assert [h["id"] for h in second.find_all("h2")] == ["part", "part-2"] == [a["href"][1:] for a in second.select(".toc nav a")]
    assert page(place, "index").select(".contents a")[1]["href"] == "01_second.html"


def test_a_section_without_results_is_not_shown(place):
    text = "# Title\n\nWhy?\n%% markdown\n### One\n\nText.\n%%\nNone\n%% markdown\n### Two\n\nText.\n%%\n'here'"
    notebook = sample.notebook(text)
    for cell in notebook.cells[1::2]:
        cell.metadata["tags"] = ["measured"]
    notebook.cells[4].outputs = [nbformat.v4.new_output("stream", text="here")]
    soup = BeautifulSoup(pages.contents(notebook, place)[0], "html.parser")
    assert [head.get_text() for head in soup.select("h3")] == ["Two"] and len(soup.select("details.code")) == 1


FAILURES = {
    "failing cell": ("1 / 0", r"ZeroDivisionError: division by zero"),
    "dead kernel": ("import os\nos.kill(os.getpid(), 9)", r"the kernel died"),
    "time-out": ("import time\ntime.sleep(60)", r"took longer than 2 s"),
}


@pytest.mark.parametrize(("source", "said"), FAILURES.values(), ids=FAILURES)
def test_a_failure_is_one_line_and_keeps_what_there_is(place, capfd, source, said):
    earlier = settings.report_dir("demo") / "01_bad.html"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("earlier")
    write(place, "01_bad", "print('shown before')", source, "print('never')")
    assert run(place, "--timeout", "2") == 1
    (line,) = told(capfd)
    assert re.search(r"01_bad\.ipynb, cell 3: " + said, line)
    partial = settings.build_dir("demo") / "01_bad.partial.html"
    soup = BeautifulSoup(partial.read_text(), "html.parser")
    assert "shown before" in soup.get_text() and "cell 3" in soup.select_one(".failure").get_text()
    kept = nbformat.read(partial.with_suffix(".ipynb"), as_version=4)
    assert kept.cells[1].outputs[0].text == "shown before\n" and not kept.cells[3].outputs
    assert earlier.read_text() == "earlier"


def test_what_a_failure_left_goes_when_the_notebook_is_mended(place):
    left = [settings.build_dir("demo") / f"00_bad.partial.{ending}" for ending in ("html", "ipynb")]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("earlier")
    write(place, "00_bad", "print('mended')")
    assert run(place) == 0
    assert shown(place, "00_bad") == ["mended"] and not any(path.exists() for path in left)


def test_a_readers_own_set_up_changes_nothing(place, monkeypatch):
    """Another kernel registered as python3, IPython start-up files and settings, a matplotlibrc."""
    kernel, startup = place / "jupyter" / "kernels" / "python3", place / "ipython" / "profile_default" / "startup"
    for folder in (kernel, startup, place / "mpl"):
        folder.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "display_name": "other", "language": "python"}))
    (startup / "00.py").write_text("print('started'); sum = None")
    (startup.parent / "ipython_config.py").write_text("c.InteractiveShell.ast_node_interactivity = 'all'")
    (place / "mpl" / "matplotlibrc").write_text("text.usetex: True\nsavefig.transparent: True")
    (place / "startup.py").write_text("sum = None")
    foreign = {"JUPYTER_PATH": place / "jupyter", "IPYTHONDIR": place / "ipython", "PYTHONSTARTUP": place / "startup.py"}
    foreign |= {"MATPLOTLIBRC": place / "mpl", "MPLCONFIGDIR": place / "mpl", "MPLBACKEND": "svg"}
    for name, value in foreign.items():
        monkeypatch.setenv(name, str(value))
    used = "import matplotlib\nprint(matplotlib.rcParams['text.usetex'], matplotlib.get_backend().split('.')[-1])"
    write(place, "00_first", "import sys\nprint(sys.executable)", "1\nsum([1, 1])", used)
    assert run(place) == 0
    assert (
        shown(place, "00_first") == [sys.executable, "2", "False inline"] or shown(place, "00_first")[2] == "False backend_inline"
    )


def test_a_second_build_refuses(place, capfd):
    write(place, "00_good", "'fine'")
    with files.lock(settings.build_dir("demo") / "build.lock"):
        assert run(place) == 1
    assert "held by another process" in told(capfd)[0]
    assert not (settings.report_dir("demo") / "00_good.html").exists()


@pytest.mark.parametrize("options", [["--profile", "dmo"], ["--only", "07"]], ids=["profile", "notebook"])
def test_what_is_not_there_is_one_line(place, capfd, options):
    write(place, "00_good", "'fine'")
    assert run(place, *options) == 1
    (line,) = told(capfd)
    assert re.search(r"did you mean 'demo'|begins with 07", line)


def test_results_of_other_folders_overwrite_no_committed_page(place):
    """`place` sets BUILD_DIR and RESULTS_DIR."""

    def committed() -> dict:
        return {path: path.stat().st_mtime_ns for name in ("reports", "figures") for path in (settings.ROOT / name).glob("*")}

    before = committed()
    write(place, "00_good", "'fine'")
    assert run(place, "--profile", "study") == 0
    assert (settings.build_dir("study") / "00_good.html").is_file() and committed() == before


def _build(place) -> None:
    os.environ["BUILD_DIR"] = str(place / "BUILD_DIR")
    with contextlib.redirect_stderr(open(place / "err", "w")):
        sys.exit(run(place))


def test_ctrl_c_stops_the_build_and_its_kernel(place):
    write(place, "00_long", "import os, time, pathlib\npathlib.Path('started').write_text(str(os.getpid()))\ntime.sleep(120)")
    child = tiny.FORK.Process(target=_build, args=(place,))
    child.start()
    started, deadline = place / "notebooks" / "started", time.monotonic() + 120
    while not (started.is_file() and started.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    kernel = int(started.read_text())
    os.kill(child.pid, signal.SIGINT)
    child.join(30)
    assert child.exitcode == build.INTERRUPTED
    assert "build stopped; start it again to go on from the stored results" in (place / "err").read_text()
    while _alive(kernel) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(kernel)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_formulas_leave_code_and_prices_alone(place):
    text = "# Formulas\n\n`$x$` costs \\$5 and \\$6; $$\\left\\|\\sum_i x_i\\right\\|$$ but $y$."
    soup = BeautifulSoup(pages.contents(sample.notebook(text), place)[0], "html.parser")
    assert [m["display"] for m in soup.find_all("math")] == ["block", "inline"]
    assert soup.code.get_text() == "$x$" and "costs $5 and $6;" in soup.get_text()
    assert all(operator["stretchy"] == "false" for operator in soup.find_all("mo"))  # without a maths font they sink
