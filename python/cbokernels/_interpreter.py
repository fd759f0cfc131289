"""Imported first of all: refuses a sub-interpreter, in which the compiled module never finishes loading."""

from __future__ import annotations

import importlib
from typing import Any


def _python() -> Any:
    """Python's own module about interpreters, by the names it has had; None in a build without it."""
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


_interpreters = _python()
if _interpreters is not None and _interpreters.get_current() != _interpreters.get_main():
    raise ImportError(
        "cbokernels must be imported in the main interpreter of a process, got a sub-interpreter: take "
        "threads or processes"
    )
