"""Packages that only some functions need."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

_SELDOM = 60.0  # seconds


def extra(module: str, user: str, name: str = "plots") -> Any:
    """Import a module that the extra `name` of this package brings; ImportError says so, and for what."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"{user} needs {package}: pip install 'cbokernels[{name}]'") from error


def progress_bar(user: str, **options: Any) -> Any:
    """A tqdm bar. Where no terminal and no notebook draws it in place, as in a log, it is a line at a time,
    at ever longer intervals, in the end once a minute."""
    kind = extra("tqdm.auto", user).tqdm
    notebook = any("notebook" in base.__module__ for base in kind.__mro__)
    if notebook or (sys.stderr.isatty() and os.environ.get("TERM") != "dumb"):
        return kind(**options)
    form = "{desc}{percentage:.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
    bar = kind(**options, bar_format=form, delay=1e-9)  # a bar without delay would draw itself at once
    ends = iter([""])

    def line(*_: Any, **__: Any) -> bool:
        bar.mininterval = bar.maxinterval = min(_SELDOM, bar.format_dict["elapsed"])
        bar.fp.write(next(ends, "\n") + str(bar))  # the last line is ended when the bar is closed
        bar.fp.flush()
        return True

    bar.display = line
    return bar
