"""What the goals (goals.py) are about: the card's limits, then each goal's item."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from facts import said
from items import PRECISIONS, Ours
from measure import bandwidths, products
from record import Row, Steps


def steps(context: Any) -> Steps:
    ours = Ours(context)

    def limits() -> Iterator[Row]:
        yield from bandwidths(ours.clock, 2**12 if ours.small else 2**29)
        if hasattr(ours.library, "torch"):
            yield from products(ours.clock, 8192)
            clocks = "--query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw"
            yield Row("limit", "clocks behind them", note=said("nvidia-smi", clocks, "--format=csv,noheader"))

    table: Steps = {"limits": limits, "A step": lambda: ours.steps("A")}
    for name in (*(f"B risk {p}" for p in PRECISIONS), "B update", "B consensus, full read"):
        table[name] = lambda n=name: ours.rows(n)
    return {**table, "stored": ours.stored, "hopping": ours.hopping, "digits": ours.digits}
