"""Imports follow the floors that docs/architecture.md draws, and never go in circles."""

import ast
import graphlib
import re
from pathlib import Path

from helpers import settings

PACKAGE = settings.ROOT / "helpers"
FLOORS = {
    name: int(floor)
    for floor, name in re.findall(r"^\| (\d) \| `(\w+)` \|", (settings.ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(settings.ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imports(path: Path) -> set[str]:
    """Modules of this package that a file imports at its top level (a function may look up later, to start fast)."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("helpers"):
            found |= {
                f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in MODULES else node.module for alias in node.names
            }
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("helpers.")}
    return found - {"helpers"}


def floor(module: str) -> int:
    return FLOORS[module.split(".")[1]]


def test_every_module_has_a_floor_and_every_floor_a_module():
    parts = {name.split(".")[1] for name in MODULES if name.count(".")}
    assert parts == set(FLOORS)


def test_arrows_point_down():
    upward = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        if name != "helpers"
        for other in imports(path)
        if floor(other) > floor(name)
    ]
    assert not upward


def test_no_import_goes_in_a_circle():
    graph = {name: imports(path) - {name} for name, path in MODULES.items()}
    list(graphlib.TopologicalSorter(graph).static_order())
