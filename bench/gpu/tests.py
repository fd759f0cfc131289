"""The repository's CUDA tests on the card, with nothing skipped; each failure is a row as it comes.

As a plugin of pytest (-p tests) this module writes the rows.
"""

from __future__ import annotations

import collections
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from facts import ROOT
from record import Record, Row, Skip, Steps

EVERY = 50  # tests between two rows that count them
counts: collections.Counter[str] = collections.Counter()


def _write(row: Row) -> None:
    Record(Path(os.environ["CBK_ROWS"]), "tests").add(row)


def _count() -> None:
    note = ", ".join(f"{number} {outcome}" for outcome, number in sorted(counts.items()))
    _write(Row("tests/cuda", "so far", counts["passed"], "passed", note=note))


def pytest_runtest_logreport(report: Any) -> None:
    """A test's part has ended."""
    if report.when == "call" or report.outcome != "passed":
        counts[report.outcome] += 1
        if report.outcome == "failed":
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = " ".join(str(crash.message if crash else report.longrepr).split())
            _write(Row(report.nodeid, "failed", note=reason[:200], ok=False))
        if sum(counts.values()) % EVERY == 0:
            _count()


def pytest_sessionfinish() -> None:
    """The rest, when all have run."""
    _count()


def steps(context: Any) -> Steps:
    context.card()
    if importlib.util.find_spec("pytest") is None:
        raise Skip("pytest is not installed")

    def run() -> Iterator[Row]:
        environment = {
            **os.environ, "CBOKERNELS_REQUIRE_GPU": "1", "CBK_ROWS": str(context.out / "rows.jsonl"),
            "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(Path(__file__).parent)]),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # what others have installed beside it
        }  # fmt: skip
        command = [sys.executable, "-m", "pytest", "-q", "-c", ROOT / "pyproject.toml", "-p", "tests"]
        command += ["-p", "no:cacheprovider", ROOT / "tests" / "cuda"]
        status = subprocess.run(command, env=environment).returncode
        yield Row("tests/cuda", "exit status", status, ok=status == 0, note="see tests.log" if status else "")

    return {"tests/cuda": run}
