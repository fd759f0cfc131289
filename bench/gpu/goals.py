"""What the first run on a card is to show, and whether its rows show it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any


@dataclasses.dataclass(frozen=True)
class Goal:
    """A row's item and the beginning of its `what`; a bound on its value or share, or none: it went well."""

    name: str
    item: str
    what: str = "cbokernels"
    most: float | None = None  # value
    least: float | None = None  # share of a limit, per cent

    def reached(self, row: Any) -> bool | None:
        """None where the row says nothing."""
        if self.most is not None:
            return None if row.value is None else bool(row.value <= self.most)
        if self.least is not None:
            return None if row.share is None else bool(row.share >= self.least)
        return row.ok


GOALS = [
    Goal("A, a step of train, at most 10 µs", "A whole step", "cbk.train, float32", most=10),
    Goal("B, risk in float32, at most 0.45 ms", "B risk float32", most=450),
    Goal("B, risk in tf32, at most 0.15 ms", "B risk tf32", most=150),
    Goal("B, risk in bf16, at most 0.10 ms", "B risk bf16", most=100),
    Goal("B, update, at least 80 % of copying", "B update", least=80),
    Goal("B, consensus, at least 80 % of reading", "B consensus, full read", least=80),
    Goal("A, 100,000 stored particles", "A, stored particles", "cbk.train"),
    Goal("A, 10,000,000 particles in hopping", "A, particles in hopping", "cbk.train"),
    Goal("784-20-10, 2,400 steps of hopping, at most 1 s", "784-20-10, hopping", "cbk.train", most=1),
    Goal("784-100-10, 2,400 steps of hopping, at most 1 s", "784-100-10, hopping", "cbk.train", most=1),
    Goal("noise has the CPU's bits", "noise", "all"),
    Goal("noise of low rank has the CPU's bits, its risks are those of formed networks", "low rank", "all"),
    Goal("updates have the CPU's bits", "updates", "all"),
    Goal("A, risks within 1e-6", "A risk", "error of float32", most=1e-6),
    Goal("B, risks within 1e-6", "B risk", "error of float32 by warps", most=1e-6),
    Goal("a particle of NaN changes no other one", "NaN", "all"),
]


def verdicts(
    rows: list[Any], shown: Callable[[Any], str], judged: bool = True
) -> Iterator[tuple[str, str, str]]:
    """Each goal's name, its best form as measured, and: reached, not reached, not judged, not run."""
    for goal in GOALS:
        own = [r for r in rows if r.item == goal.item and r.what.startswith(goal.what)]
        told = [(r, goal.reached(r)) for r in own if goal.reached(r) is not None]
        if not told:
            yield goal.name, "; ".join(r.note for r in own if r.note), "not run"
            continue
        row, reached = min(told, key=lambda pair: (not pair[1], _rank(goal, pair[0])))
        verdict = "**reached**" if reached else "**not reached**"
        yield goal.name, f"{row.what}: {shown(row)}", verdict if judged else "not judged"


def _rank(goal: Goal, row: Any) -> float:
    value = row.value if goal.least is None else -(row.share or 0)
    return math.inf if value is None else float(value)
