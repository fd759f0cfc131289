"""The rows that a run on a card writes one by one, and the summary made of them."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import goals

SKIPPED = "whole stage"
BEGUN, ENDS = "begun", ("raised", "skipped", "died")  # what is written of a step itself
HEAD = ("name", "driver_version", "CUDA of the driver", "date", "commit", "numpy", "torch", "cupy", "Python")
FIGURES = ("targets", "times", "peers")  # stages whose rows share one table


@dataclasses.dataclass
class Row:
    """One finding: a check (`ok` says how it went) or a figure (`value` in `unit`)."""

    item: str
    what: str
    value: float | None = None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    share: float | None = None  # per cent
    of: str = ""  # of which limit
    ok: bool | None = None
    note: str = ""
    stage: str = ""


class Record:
    """Appends a stage's rows to a file; what was appended stays when the process is killed."""

    def __init__(self, path: Path, stage: str) -> None:
        self._path, self._stage = path, stage

    def add(self, row: Row) -> None:
        """Write a row through to the disk."""
        row.stage = row.stage or self._stage
        with open(self._path, "a") as file:
            file.write(json.dumps(dataclasses.asdict(row)) + "\n")
            file.flush()
            os.fsync(file.fileno())


def rows(path: Path) -> list[Row]:
    """All rows of all runs into this file; a later one replaces an earlier one of the same name."""
    found: dict[tuple[str, str, str], Row] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = Row(**json.loads(line))
        except ValueError:  # a line that was cut off
            continue
        if row.what == BEGUN:  # how the same step ended before is told no more
            for end in ENDS:
                found.pop((row.stage, row.item, end), None)
        else:
            found[row.stage, row.item, row.what] = row
    return list(found.values())


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(text)
    os.replace(draft, path)


def number(value: float) -> str:
    """Four digits, without an exponent where it can be read without."""
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e12 else f"{value:.4g}"


def shown(row: Row) -> str:
    """A row's result in words."""
    words = []
    if row.value is not None:
        words.append(f"{number(row.value)} {row.unit}".strip())
    if row.low is not None and row.high is not None:
        words.append(f"({number(row.low)} to {number(row.high)})")
    if row.share is not None:
        words.append(f"{row.share:.0f} % of {row.of}")
    if row.ok is not None:
        words.append("ok" if row.ok else "**failed**")
    return " ".join([*words, row.note]).replace("|", "\\|").replace("\n", " ").strip()


def table(head: str, lines: Iterator[tuple[str, ...]]) -> list[str]:
    """A Markdown table under its names, which | divides."""
    names = head.split("|")
    body = ["| " + " | ".join(line) + " |" for line in lines]
    return ["", "| " + " | ".join(names) + " |", "|" + "---|" * len(names), *body] if body else []


def figures(found: list[Row]) -> Iterator[tuple[str, ...]]:
    """Ours beside the peers, and how often our best time goes into the best peer's."""
    for item in dict.fromkeys(row.item for row in found):
        own = [row for row in found if row.item == item]
        best: dict[bool, float] = {}
        for row in own:
            if row.value and row.unit == "µs":
                mine = row.what.startswith("cb")
                best[mine] = min(best.get(mine, math.inf), row.value)
        ratio = f"{best[False] / best[True]:.1f}" if len(best) == 2 else ""
        for row in own:
            yield item, row.what, shown(row), ratio
            ratio = ""


def summary(found: list[Row], title: str, judged: bool = True) -> str:
    """Markdown: what was aimed at, whether it was reached where that is `judged`, how the stages ended, what
    failed, and then everything."""
    of: Callable[..., list[Row]] = lambda *stages: [r for r in found if r.stage in stages]  # noqa: E731
    facts = {row.what: row.note for row in of("facts") if row.what in HEAD}
    lines = [f"# {title}", "", ", ".join(f"{name} {facts[name]}" for name in HEAD if name in facts)]
    lines += ["", "## What was aimed at"]
    lines += table("target|measured|verdict", goals.verdicts(found, shown, judged))
    lines += ["", "## Stages"]
    lines += table("stage|ended", ((r.item, shown(r)) for r in of("stages")))
    failed = [r for r in found if r.ok is False]
    lines += ["", f"## Failed: {len(failed)}"]
    lines += table("stage|item|what|result", ((r.stage, r.item, r.what, shown(r)) for r in failed))
    lines += ["", "## Figures"]
    lines += table("item|contestant|result|best peer / our best", figures(of(*FIGURES)))
    for stage in dict.fromkeys(r.stage for r in found):
        if stage not in (*FIGURES, "stages"):
            lines += ["", f"## {stage.capitalize()}"]
            lines += table("item|what|result", ((r.item, r.what, shown(r)) for r in of(stage)))
    return "\n".join(lines) + "\n"


def described(error: BaseException, most: int = 200) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:most]


class Skip(Exception):
    """A step that cannot be done here; the message says why."""


Steps = dict[str, Callable[[], Iterator[Row]]]
Options = dict[str, Any]
