"""Imports run downward only: a module knows what it is made of, never what is made of it."""

import ast

import pytest

from tests.conftest import ROOT

# Each may import what stands in a line below its own, and its neighbours; what is in no line is a command, at the top.
LAYERS = [
    {"quickstart", "report"},
    {"experiments"},
    {"annotate", "judge"},
    {"teachers", "preferences"},
    {"sampling", "probe", "training", "fast"},
    {"scores", "command"},
    {"pocket"},
    {"model", "runs"},
    {"records"},
    {"formats", "tasks"},
    {"files", "paper", "ranks"},
    {"errors"},
]
DEPTH = {name: depth for depth, layer in enumerate(LAYERS) for name in layer}
MODULES = sorted((ROOT / "selfrefine").rglob("*.py"))


def imported(source: str) -> set[str]:
    """The parts of this package that a module imports, wherever in it: "tasks" for selfrefine.tasks.splits."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("selfrefine.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_import_runs_up(path):
    own = path.relative_to(ROOT / "selfrefine").parts[0].removesuffix(".py")
    runs_it = path.name == "pretrain.py"  # a command, though it stands with what it makes
    depth = -1 if runs_it else DEPTH.get(own, -1)
    up = {name for name in imported(path.read_text(encoding="utf-8")) if DEPTH.get(name, -1) < depth}
    assert not up, f"{path} imports {up}, which LAYERS has above it (or has not yet)"


def test_an_import_that_runs_up_is_seen():
    assert imported("def f():\n    from selfrefine.pocket import STUDENT") == {"pocket"}
    assert imported("from selfrefine import report") == {"report"}
    assert DEPTH["pocket"] < DEPTH["tasks"]
