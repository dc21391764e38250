"""JupyterLab as `make lab` starts it: the first cells of a notebook through the server's own interface, and in a browser.

The server stands on a copy of the notebooks, since JupyterLab saves what it runs; its kernel has the tiny study.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from helpers import settings

websocket = pytest.importorskip("websocket", reason="websocket-client, which comes with Jupyter's server, is not installed")

NOTEBOOK = "notebooks/01_sensitivity.ipynb"
CELLS, IN_BROWSER = 10, 6  # code cells, from the first on
TABLES, FIGURES, LINES = (3, 6, 8), (7,), (4, 5, 9, 10)  # which code cell shows what; the others show nothing
FOLDERS = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
OVERRIDES = ("PROFILE", "SPARSITY", "RESULTS_DIR", "REPORT_DIR")  # a caller's own
BEGUN, ENDED = re.compile(r"[*\d]"), re.compile(r"\d")  # a prompt in JupyterLab: [*], [7]
SECONDS = 120  # to wait for anything


def command() -> list[str]:
    """What `make lab` runs, on any free port of this machine alone, without opening a browser."""
    asked = ["make", "--dry-run", "--no-print-directory", "lab"]
    printed = subprocess.run(asked, cwd=settings.ROOT, capture_output=True, text=True, check=True).stdout
    words = shlex.split(printed.replace("\\\n", " "))
    options = words[words.index("jupyterlab") + 1 :]
    return [sys.executable, "-m", "jupyterlab", *options, "--no-browser", "--ip=127.0.0.1", "--port=0"]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[dict]:
    """A running server as its own file describes it (url, port, token, root_dir); it and its kernels are gone afterwards."""
    root, own = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("jupyter")
    shutil.copytree(settings.ROOT / "notebooks", root / "notebooks", ignore=shutil.ignore_patterns(".*"))
    startup = own / "IPYTHONDIR" / "profile_default" / "startup" / "00_tiny.py"
    startup.parent.mkdir(parents=True)
    startup.write_text("import notebook_run\nnotebook_run.install()\n")
    around = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", *OVERRIDES))}
    around |= {name: str(own / name) for name in FOLDERS} | {"BUILD_DIR": str(own / "build"), "OMP_NUM_THREADS": "1"}
    around |= {"PYTHONPATH": str(settings.ROOT / "tests"), "PYTHONDONTWRITEBYTECODE": "1"}
    with open(own / "log", "w") as log:
        running = psutil.Popen(command(), cwd=root, env=around, stdout=log, stderr=log)
    family = [running]
    try:
        yield described(running, own)
        family += running.children(recursive=True)
    finally:
        running.terminate()
        _, left = psutil.wait_procs(family, timeout=20)
        for process in left:
            process.kill()
    assert not left


def described(running: psutil.Popen, own: Path) -> dict:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until and running.poll() is None:
        for path in (own / "JUPYTER_RUNTIME_DIR").glob("jpserver-*.json"):
            text = path.read_text()
            if text and listens(json.loads(text)["port"]):  # the file may be there before the server listens
                return json.loads(text)
        time.sleep(0.1)
    pytest.fail((own / "log").read_text()[-2000:])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ask(server: dict, path: str, body: dict | None = None) -> dict:
    """The answer of the server's REST interface."""
    headers = {"Authorization": f"token {server['token']}", "Content-Type": "application/json"}
    request = urllib.request.Request(server["url"] + path, json.dumps(body).encode() if body else None, headers)
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return json.load(answer)


def execute(channels, source: str) -> tuple[str, str, str]:
    """Run a cell: its status (with the error, if it failed), its standard output, and what it displays as HTML."""
    header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "username": "", "session": "test", "version": "5.3"}
    content = {"code": source, "silent": False, "store_history": True, "allow_stdin": False}
    channels.send(json.dumps({"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content}))
    status, printed, shown, idle = "", "", "", False
    while not (idle and status):
        message = json.loads(channels.recv())
        if message["parent_header"].get("msg_id") != header["msg_id"]:
            continue
        part = message["content"]
        idle |= part.get("execution_state") == "idle"
        shown += part.get("data", {}).get("text/html", "")
        if message["msg_type"] == "execute_reply":
            status = " ".join([part["status"], *part.get("traceback", [])])
        elif message["msg_type"] == "stream" and part["name"] == "stdout":
            printed += part["text"]
    return status, printed, shown


def test_the_first_cells_run_through_the_server(server):
    cells = [c["source"] for c in ask(server, f"api/contents/{NOTEBOOK}")["content"]["cells"] if c["cell_type"] == "code"]
    session = ask(server, "api/sessions", {"path": NOTEBOOK, "name": "", "type": "notebook", "kernel": {"name": "python3"}})
    at = f"ws://127.0.0.1:{server['port']}/api/kernels/{session['kernel']['id']}/channels?token={server['token']}"
    with closing(websocket.create_connection(at, timeout=SECONDS)) as channels:
        ended = [execute(channels, source) for source in cells[:CELLS]]
    assert [status for status, *_ in ended] == ["ok"] * CELLS
    printed, shown = ({n: cell[part] for n, cell in enumerate(ended, start=1) if cell[part]} for part in (1, 2))
    assert tuple(printed) == LINES and sorted(shown) == sorted(TABLES + FIGURES)
    assert all("<table" in shown[number] for number in TABLES) and all("<img" in shown[number] for number in FIGURES)

    shares = {number: [float(share) for share in re.findall(r"([\d.]+) ?%", text)] for number, text in printed.items()}
    assert all(found and min(found) >= 0 and max(found) <= 100 for found in shares.values())
    assert shares[10][0] == shares[4][0]  # the dense network's top-1
    assert int(re.search(r"of (\d+) test images", printed[4])[1]) == 40  # the tiny study's


def test_the_first_cells_run_in_the_browser(server, browser):
    cells = len(json.loads((settings.ROOT / NOTEBOOK).read_text())["cells"])
    with closing(browser.new_context(viewport={"width": 1280, "height": 800})) as context:
        page = context.new_page()
        page.set_default_timeout(1000 * SECONDS)
        page.goto(f"{server['url']}lab/tree/{NOTEBOOK}?token={server['token']}")
        page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for()  # a cell that is run earlier starts one more kernel
        code = [page.locator(".jp-NotebookPanel .jp-CodeCell").nth(number) for number in range(IN_BROWSER)]
        code[0].locator(".jp-InputPrompt").click()
        for _ in range(cells):  # one after the other, Markdown cells too, until the last of ours has begun
            if code[-1].locator(".jp-InputPrompt", has_text=BEGUN).count():
                break
            page.keyboard.press("Shift+Enter")
        code[-1].locator(".jp-InputPrompt", has_text=ENDED).wait_for(state="attached")
        outputs = [cell.locator(".jp-OutputArea-output") for cell in code]
        texts = ["".join(output.all_text_contents()).strip() for output in outputs]
        tables = [output.locator("table").count() for output in outputs]
        errors = page.locator("[data-mime-type='application/vnd.jupyter.stderr']").all_text_contents()
    assert not errors
    assert [number for number, text in enumerate(texts, start=1) if text] == sorted(TABLES[:2] + LINES[:2])
    assert [number for number, count in enumerate(tables, start=1) if count] == list(TABLES[:2])
