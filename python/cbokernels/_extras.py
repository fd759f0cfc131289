"""Packages that only some functions need."""

from __future__ import annotations

import importlib
from typing import Any


def extra(module: str, user: str, name: str = "plots") -> Any:
    """Import a module that the extra `name` of this package brings; ImportError says so, and for what."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"{user} needs {package}: pip install 'cbokernels[{name}]'") from error
