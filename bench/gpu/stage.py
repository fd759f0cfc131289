"""One stage in a process of its own: runs its steps, each with a limit, and writes their rows as they come.

    python stage.py OPTIONS             a JSON object, from first_run.py

A step that fails, hangs or takes the process with it does not stop the next: first_run.py starts the rest
anew.
"""

from __future__ import annotations

import faulthandler
import functools
import importlib
import json
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from record import BEGUN, SKIPPED, Options, Record, Row, Skip, described, rows


class Context:
    """What a stage's steps need to know."""

    def __init__(self, options: Options) -> None:
        self.rehearse: bool = options["rehearse"]
        self.out, self.work = Path(options["out"]), Path(options["work"])
        self.module = options.get("module")
        self.architectures: str = options.get("architectures") or "native"

    @functools.cached_property
    def arrays(self) -> Any:
        """The library whose arrays the kernels get; in rehearsals the emulation's."""
        import arrays

        return arrays.Emulated() if self.rehearse else self._checked(arrays.on_card())

    @functools.cached_property
    def timed(self) -> Any:
        """The library whose arrays are timed; in rehearsals NumPy's."""
        import arrays

        return arrays.Host() if self.rehearse else self.arrays

    def card(self) -> Any:
        """The library on the card; Skip in rehearsals."""
        if self.rehearse:
            raise Skip("needs a card")
        return self.arrays

    def program(self, name: str) -> Path:
        """Where one of tests/cuda's programs is, if it was built."""
        if self.rehearse:
            return Path(os.environ.get("CBOKERNELS_CUDA_EMULATION", "nowhere")) / name
        return next(
            (p for p in (self.work / name, self.work / "build" / name) if p.exists()), self.work / name
        )

    def limit(self, name: str) -> float | None:
        """What `targets` has measured of the card, in units a second."""
        for row in rows(self.out / "rows.jsonl"):
            if (row.stage, row.item, row.what) == ("targets", "limit", name):
                return row.value and row.value * 1e12
        return None

    def _checked(self, library: Any) -> Any:
        import cbokernels as cbk

        reason = cbk.cuda.unavailable_reason()
        if reason is not None:
            raise Skip(f"cbokernels: {reason}")
        return library

    def broken(self) -> bool:
        """Whether the card answers this process no more."""
        if self.rehearse or "arrays" not in self.__dict__:
            return False
        try:
            self.arrays.synchronize()
            self.arrays.put(self.arrays.host(self.arrays.filled(8)))
        except Exception:
            traceback.print_exc()
            return True
        return False


def run(options: Options) -> None:
    """Run the steps that come after `options["after"]`."""
    record, context = Record(Path(options["out"]) / "rows.jsonl", options["stage"]), Context(options)
    try:
        steps = importlib.import_module(options["import"]).steps(context)
    except Skip as reason:
        record.add(Row(SKIPPED, "skipped", note=str(reason)))
        return
    except Exception as error:
        record.add(Row(SKIPPED, "raised", note=described(error), ok=False))
        raise
    record.add(Row(SKIPPED, BEGUN))
    names = list(steps)
    first = names.index(options["after"]) + 1 if options["after"] in names else 0
    for name in names[first:]:
        record.add(Row(name, BEGUN))
        print(f"== {name}", flush=True)
        faulthandler.dump_traceback_later(options["step_limit"], exit=True)
        try:
            for row in steps[name]():
                record.add(row)
        except Skip as reason:
            record.add(Row(name, "skipped", note=str(reason)))
        except Exception as error:
            traceback.print_exc()
            record.add(Row(name, "raised", note=described(error), ok=False))
            if context.broken():
                sys.exit("the card answers this process no more")
        finally:
            faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    os.setpgrp()  # what it starts is ended with it
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take most of the memory
    warnings.simplefilter("ignore")  # ensembles that collapse while they are timed
    run(json.loads(sys.argv[1]))
