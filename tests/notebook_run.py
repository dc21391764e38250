"""Run a notebook's code cells in this process, on the tiny study: `python tests/notebook_run.py '{"01_sensitivity": [{…}, …]}'`.

Each notebook runs once for every dict of settings, which stand behind the cell tagged "parameters". What ends a cell is
shown as a page would show it. A cell may refuse a setting with a ValueError of one sentence: that is printed and ends the run.
"""

import ast
import json
import os
import sys
from collections.abc import Mapping

import nbformat

from helpers import settings


def run(name: str, given: Mapping[str, object]) -> str:
    """ "" where every cell holds; else the sentence with which one refuses the settings."""
    from helpers.report import build

    notebook = nbformat.read(settings.ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    if unknown := given.keys() - build.parameters(notebook):
        raise KeyError(f"{name} has no setting {sorted(unknown)}")
    build.override(notebook, given)
    space: dict = {"__name__": "__main__"}
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        tree = ast.parse(cell.source)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        try:
            exec(compile(tree, name, "exec"), space)
            shown = eval(compile(ast.Expression(last.value), name, "eval"), space) if last else None
            if hasattr(shown, "_repr_html_"):
                shown._repr_html_()
        except ValueError as error:
            if given and "\n" not in str(error):
                return str(error)
            raise
    return ""


def main(wanted: Mapping[str, list[dict]]) -> None:
    import matplotlib

    matplotlib.use("agg")
    if os.environ.get("NO_GLIBC"):  # as where the C library is another one
        import ctypes

        ctypes.CDLL = lambda *_, **__: object()
    import tiny

    settings.PROFILES["demo"] = tiny.PROFILE
    tiny.data.load = tiny.splits
    for name, runs in wanted.items():
        for given in runs:
            print(json.dumps([name, given, run(name, given)]), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
