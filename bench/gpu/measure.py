"""Times on a card: device events behind a queue filled beforehand, medians; the card's own limits."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from record import Row, described

Call = Callable[[int], object]


class Clock:
    """Microseconds a call.

    The stream is first given something that takes longer than Python needs to enqueue the calls, so that the
    card finds all of them waiting: what is measured is the card. Whether it was so is looked at each time.
    """

    def __init__(self, library: Any, rounds: int) -> None:
        self.library, self.rounds = library, rounds

    def row(self, item: str, what: str, call: Call, inner: int = 10, *, waits: bool = False) -> Row:
        """What a contestant takes, or a note why it cannot. waits: each call waits for its result."""
        try:
            for i in range(3):
                call(i)
            self.library.synchronize()
            return self._row(item, what, self._waited if waits else self._queued, call, inner)
        except Exception as error:  # one contestant's trouble must not end the table
            return Row(item, what, note=described(error), ok=_ours(what))

    def graph(self, item: str, what: str, call: Call, copies: int = 8) -> Row:
        """The same of a CUDA graph of several calls."""
        try:
            replay = self.library.graph(call, copies)
        except Exception as error:
            return Row(item, f"{what}, graph", note=described(error), ok=_ours(what))
        row = self.row(item, f"{what}, graph", lambda _: replay(), 2)
        for name in ("value", "low", "high"):
            value = getattr(row, name)
            setattr(row, name, value and value / copies)
        return row

    def _row(self, item: str, what: str, once: Callable[..., Any], call: Call, inner: int) -> Row:
        began = time.perf_counter()
        for i in range(inner):
            call(i)
        self._busy = 2e3 * (time.perf_counter() - began) + 0.2
        self.library.synchronize()
        self._seen = True  # the queue was full
        times = [once(call, turn * inner, inner) for turn in range(self.rounds)]
        note = "" if self._seen else "the queue ran dry: Python's speed counts"
        return Row(item, what, statistics.median(times), "µs", min(times), max(times), note=note)

    def _queued(self, call: Call, first: int, inner: int) -> float:
        library = self.library
        for _ in range(4):
            library.busy(self._busy)
            start = library.event()
            for i in range(inner):
                call(first + i)
            full = not library.passed(start)
            end = library.event()
            time_ = library.between(start, end) / inner
            if full:
                return float(time_)
            self._busy = min(2 * self._busy, 200.0)
        self._seen = False
        return float(time_)

    def _waited(self, call: Call, first: int, inner: int) -> float:
        began = time.perf_counter()
        for i in range(inner):
            call(first + i)
        return (time.perf_counter() - began) / inner * 1e6


def _ours(what: str) -> bool | None:
    """How a row of ours, or of a peer, went that could not be measured."""
    return False if what.startswith("cb") else None


def bandwidths(clock: Clock, count: int) -> Iterator[Row]:
    """Bytes a second of copying (read and written) and of reading, of so many float32 numbers."""
    source, target = clock.library.filled(count), clock.library.filled(count)
    ways: list[tuple[str, float, Call]] = [
        ("copy", 8.0 * count, lambda _: clock.library.copy(target, source)),
        ("read", 4.0 * count, lambda _: source.sum()),
    ]
    for name, amount, call in ways:
        row = clock.row("limit", name, call, 3)
        if row.value:
            row.value, row.low, row.high = (
                amount / t / 1e6 for t in (row.value, row.high or 1, row.low or 1)
            )
            row.unit = "TB/s"
        yield row


def products(clock: Clock, side: int) -> Iterator[Row]:
    """FLOP a second of PyTorch's matrix products."""
    torch = clock.library.torch
    a, b = (torch.randn(side, side, device="cuda") for _ in range(2))
    for name, setting, dtype in (
        ("float32", "highest", torch.float32),
        ("tf32", "high", torch.float32),
        ("bf16", "highest", torch.bfloat16),
    ):
        with matmul_precision(setting):
            u, v = a.to(dtype), b.to(dtype)
            row = clock.row("limit", name, lambda _, u=u, v=v: u @ v, 2)
        if row.value:
            work = 2e-6 * side**3
            row.value, row.low, row.high = (work / t for t in (row.value, row.high or 1, row.low or 1))
            row.unit = "TFLOP/s"
        yield row


class matmul_precision:
    """A context with PyTorch's setting for float32 matrix products."""

    def __init__(self, setting: str) -> None:
        self._setting = setting

    def __enter__(self) -> None:
        import torch

        self._before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self._setting)

    def __exit__(self, *error: Any) -> None:
        import torch

        torch.set_float32_matmul_precision(self._before)
