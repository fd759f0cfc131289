"""Times on a card: device events, medians; and the card's own limits."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch


@dataclasses.dataclass
class Row:
    """One contestant of one item; microseconds a call."""

    item: str
    contestant: str
    median: float | None = None
    low: float | None = None
    high: float | None = None
    share: str = ""  # of a limit
    note: str = ""


class Clock:
    """Microseconds a call, by device events; on the CPU, for rehearsals, by the wall's clock."""

    def __init__(self, rounds: int, cuda: bool) -> None:
        self.rounds, self.cuda = rounds, cuda

    def times(self, call: Callable[[int], object], inner: int = 10) -> list[float]:
        """Each entry the mean of `inner` calls, which get consecutive numbers; warmed up."""
        for i in range(3):
            call(i)
        self._wait()
        times = []
        for turn in range(self.rounds):
            times.append(self._once(call, turn * inner, inner))
        return times

    def row(self, item: str, contestant: str, call: Callable[[int], object], inner: int = 10) -> Row:
        """What a contestant takes; what it cannot do becomes a note."""
        try:
            times = self.times(call, inner)
        except Exception as error:  # one contestant's trouble must not end the table
            return Row(item, contestant, note=f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
        return Row(item, contestant, statistics.median(times), min(times), max(times))

    def _once(self, call: Callable[[int], object], first: int, inner: int) -> float:
        if not self.cuda:
            began = time.perf_counter()
            for i in range(inner):
                call(first + i)
            return (time.perf_counter() - began) / inner * 1e6
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for i in range(inner):
            call(first + i)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / inner * 1e3

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


def replayed(call: Callable[[int], object], copies: int = 8) -> Callable[[int], object]:
    """`copies` calls, on as many ensembles, as one CUDA graph; a call of it counts as one of them."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for i in range(3):
            call(i)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [call(i) for i in range(copies)]  # outputs live as long as the graph

    def replay(i: int) -> object:
        if i % copies == 0:
            graph.replay()
        return kept

    return replay


def limits(clock: Clock, device: str, scale: float) -> Iterator[tuple[str, float]]:
    """Bytes a second of copies (read and written) and of reading; FLOP a second of products by precision."""
    n = max(int(2**29 * scale), 1024)
    yield from _bandwidths(clock, n, torch.ones(n, device=device), torch.empty(n, device=device))
    side = max(int(8192 * scale**0.5) // 64 * 64, 64)
    a, b = (torch.randn(side, side, device=device) for _ in range(2))
    for name, setting, dtype in (
        ("float32", "highest", torch.float32),
        ("tf32", "high", torch.float32),
        ("bf16", "highest", torch.bfloat16),
    ):
        with matmul_precision(setting):
            u, v = a.to(dtype), b.to(dtype)
            times = clock.times(lambda _, u=u, v=v: u @ v, 2)
        yield name, 2 * side**3 / statistics.median(times) * 1e6


def _bandwidths(
    clock: Clock, n: int, source: torch.Tensor, target: torch.Tensor
) -> Iterator[tuple[str, float]]:
    yield "copy", 2 * 4 * n / statistics.median(clock.times(lambda _: target.copy_(source), 3)) * 1e6
    yield "read", 4 * n / statistics.median(clock.times(lambda _: source.sum(), 3)) * 1e6


class matmul_precision:
    """A context with PyTorch's setting for float32 matrix products."""

    def __init__(self, setting: str) -> None:
        self._setting = setting

    def __enter__(self) -> None:
        self._before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self._setting)

    def __exit__(self, *error: Any) -> None:
        torch.set_float32_matmul_precision(self._before)
