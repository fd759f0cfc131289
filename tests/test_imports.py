"""How the package's modules import each other, and the paths by which users import from them."""

from __future__ import annotations

import ast
import graphlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import cbokernels as cbk

ROOT = Path(cbk.__file__).parent
FILES = {".".join(f.relative_to(ROOT).with_suffix("").parts): f for f in ROOT.rglob("*.py")}
MODULES = {name.removesuffix("__init__").rstrip("."): f for name, f in FILES.items()} | {
    "": ROOT / "__init__.py"
}


def imported(name: str) -> set[str]:
    """The modules that one imports, anywhere in it; importing a module runs its package too."""
    file, found = MODULES[name], set()
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            for alias in node.names:
                for path in (base, [*base, alias.name]):
                    parts = [part for part in path if part]
                    found |= {".".join(parts[:i]) for i in range(1, len(parts) + 1)} & MODULES.keys()
    return {other for other in found if other != name and not name.startswith(f"{other}.")}


def test_no_module_imports_itself_by_way_of_others():
    graph = {name: imported(name) for name in MODULES}
    assert graph["minimize"] >= {"methods", "methods.base", "training", "training.loop"}  # it does see them
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    ("module", "names"),
    {
        "hopping": ("ConsensusHopping", "atom_risks"),
        "methods": ("CBO", "Adam", "Hybrid", "MultiTaskCBO", "TransportCBO", "HeavyBall", "GradientFlow"),
        "minimize": ("minimize",),
        "result": ("Result", "State"),
        "schedules": ("Constant", "Exponential", "Geometric", "TargetEss", "Tenfold"),
        "training": ("train",),
    }.items(),
)
def test_public_names_are_found_by_their_paths(module, names):
    found = importlib.import_module(f"cbokernels.{module}")
    for name in names:
        assert getattr(found, name) is getattr(cbk, name)


def test_importing_loads_nothing_that_few_users_need():
    needless = ("cbokernels.reference", "decimal", "importlib.metadata", "json", "subprocess", "zipfile")
    code = (
        "import sys, numpy; before = set(sys.modules); import cbokernels; "
        f"print(*sorted((set(sys.modules) - before) & set({needless!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_what_is_imported_later_is_found_all_the_same():
    assert cbk.reference is importlib.import_module("cbokernels.reference")
    assert {"reference", "__version__", *cbk.__all__} <= set(dir(cbk))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cbk.nothing
