"""Rows and verdicts, as Markdown and JSON."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from workloads import Item

OURS = "cbokernels"
MEMORY = 16.0  # MB above inputs and outputs that an item may need


@dataclass
class Row:
    """A contestant's figures at an item."""

    contestant: str
    samples: list[float]  # milliseconds per unit of work
    error: float | None = None  # largest relative one, against float64
    memory: float | None = None  # MB above inputs and outputs
    share: float | None = None  # of the multiply-add rate

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        if len(self.samples) < 2:
            return self.samples[0], self.samples[0]
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return low, high


@dataclass
class Verdict:
    """What must hold, by how much, and what was measured."""

    item: str
    what: str
    goal: float
    measured: float
    at_most: bool = False

    @property
    def reached(self) -> bool:
        return self.measured <= self.goal if self.at_most else self.measured >= self.goal


def verdicts(item: Item, rows: list[Row], faster_with: str | None = None) -> list[Verdict]:
    """The item's goals against these rows. faster_with: our row with the lesser instruction set."""
    ours = next(row for row in rows if row.contestant == OURS)
    peers = [row for row in rows if not row.contestant.startswith(OURS)]
    found = []
    for goal in item.goals:
        rivals = [row for row in peers if any(fnmatch(row.contestant, p) for p in goal.against)]
        if rivals:
            best = min(rivals, key=lambda row: row.median)
            found.append(
                Verdict(item.name, f"as fast as {best.contestant}", goal.ratio, best.median / ours.median)
            )
    if item.share is not None and ours.share is not None:
        found.append(Verdict(item.name, "share of the multiply-add rate", item.share, ours.share))
    if ours.memory is not None:
        found.append(Verdict(item.name, "MB above inputs and outputs", MEMORY, ours.memory, at_most=True))
    lesser = next((row for row in rows if row.contestant == faster_with), None)
    if lesser is not None and item.kind in ("risk", "gradient"):
        found.append(Verdict(item.name, f"speed of {lesser.contestant}", 0.6, ours.median / lesser.median))
    return found


def figure(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return ""
    return (
        f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.001 or value == 0 else f"{value:.0e}"
    )


def markdown(heading: dict[str, Any], table: dict[str, list[Row]], found: list[Verdict]) -> str:
    lines = [f"{name}: {value}" for name, value in heading.items() if isinstance(value, str)]
    lines = ["; ".join(lines), ""]
    names = "item | contestant | median ms | quartiles | times ours | error | MB beside data | of FMA rate"
    lines += [f"| {names} |"]
    lines += ["|---|---|---:|---:|---:|---:|---:|---:|"]
    for item, rows in table.items():
        ours = next(row for row in rows if row.contestant == OURS)
        for row in rows:
            cells = [
                item, row.contestant, figure(row.median), "-".join(map(figure, row.quartiles)),
                "" if row is ours else f"{row.median / ours.median:.1f}",
                "" if row.error is None else f"{row.error:.0e}",
                "" if row.memory is None else f"{row.memory:.1f}",
                "" if row.share is None else f"{row.share:.0%}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| item | what | goal | measured | reached |", "|---|---|---:|---:|---|"]
    for v in found:
        bound = f"{'at most ' if v.at_most else ''}{v.goal:g}"
        lines.append(
            f"| {v.item} | {v.what} | {bound} | {figure(v.measured)} | {'yes' if v.reached else 'no'} |"
        )
    return "\n".join(lines)


def record(heading: dict[str, Any], table: dict[str, list[Row]], found: list[Verdict]) -> dict[str, Any]:
    """For JSON; every sample is in it."""
    return {
        **heading,
        "rows": [
            {
                "item": item, "contestant": row.contestant, "median_ms": row.median,
                "quartiles_ms": row.quartiles, "samples_ms": row.samples, "error": row.error,
                "memory_mb": row.memory, "share": row.share,
            }
            for item, rows in table.items() for row in rows
        ],
        "goals": [
            {"item": v.item, "what": v.what, "goal": v.goal, "at_most": v.at_most, "measured": v.measured,
             "reached": v.reached}
            for v in found
        ],
    }  # fmt: skip
