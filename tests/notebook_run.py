"""Run a notebook's code cells in this process, on the tiny study: `python tests/notebook_run.py '{"01_sensitivity": [{…}, …]}'`.

Each notebook runs once for every dict of settings, which stand behind the cell tagged "parameters". What ends a cell is
shown as a page would show it. A cell may refuse a setting with a ValueError of one sentence: that is printed and ends the run.
"""

import ast
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace

import nbformat

from helpers import plan, settings

DENSE = ("dense", *(f"dense-normalization-{name}" for name in plan.WRONG_NORMALIZATIONS))
NAMES = (  # one of each kind; pages leave out what needs others
    *(*DENSE, "dense_finetuned", "layerwise_magnitude-s80.33", "lasso_channels", "l1_filters"),
    *("repaired-s80.33", "repaired-s80.33-magnitude", "layerwise_magnitude-s50-curve"),
    *("layerwise_magnitude-s50-curve_finetuned", "lasso_channels-macs-2x"),
    *("dense_from_scratch", "grasp_iterative-s80", "grasp-s80", "snip-s80"),
)


def run(name: str, given: Mapping[str, object]) -> str:
    """ "" where every cell holds; else the sentence with which one refuses the settings."""
    notebook = nbformat.read(settings.ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    space: dict = {"__name__": "__main__"}
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        tree = ast.parse(cell.source)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        try:
            exec(compile(tree, name, "exec"), space)
            shown = eval(compile(ast.Expression(last.value), name, "eval"), space) if last else None
            if hasattr(shown, "_repr_html_"):
                shown._repr_html_()
            if "parameters" in cell.metadata.get("tags", ()):
                if unknown := given.keys() - space.keys():
                    raise KeyError(f"{name} has no setting {sorted(unknown)}")
                space |= given
        except ValueError as error:
            if given and "\n" not in str(error):
                return str(error)
            raise
    return ""


def install() -> None:
    """The tiny study in place of the demo, for this whole process."""
    import tiny

    settings.PROFILES["demo"] = replace(tiny.PROFILE, width_divisor=16)  # the least at which every budget can be met
    tiny.data.load = tiny.splits
    whole = plan.experiments
    plan.experiments = lambda profile, topic=None: [e for e in whole(profile, topic) if e.name in NAMES]


def main(wanted: Mapping[str, list[dict]]) -> None:
    import matplotlib

    matplotlib.use("agg")
    if os.environ.get("NO_GLIBC"):  # as where the C library is another one
        import ctypes

        class Other(ctypes.CDLL):
            def __getattr__(self, name):
                if name in ("mallopt", "gnu_get_libc_version"):
                    raise AttributeError(name)
                return super().__getattr__(name)

        ctypes.CDLL = Other
    install()
    for name, runs in wanted.items():
        for given in runs:
            print(json.dumps([name, given, run(name, given)]), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
