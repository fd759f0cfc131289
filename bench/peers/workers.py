"""One process for each peer and setting of its environment, stopped while another has its turn."""

from __future__ import annotations

import ctypes
import gc
import importlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from workloads import Array, Contestant, Item

_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG


class PeerFailed(Exception):
    """A contestant raised; the message is its traceback."""


def die_with_parent() -> None:
    """A stopped process would outlive the one that stopped it."""
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)


@contextmanager
def environment(settings: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def cores(count: int) -> set[int]:
    """So many processors that share no core, as far as there are such."""
    allowed = sorted(os.sched_getaffinity(0))

    def siblings(cpu: int) -> str:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        return path.read_text() if path.exists() else str(cpu)

    first = {siblings(cpu): cpu for cpu in reversed(allowed)}
    chosen = sorted(first.values()) + [cpu for cpu in allowed if cpu not in first.values()]
    return set(chosen[:count])


class Worker:
    """A process with one peer's contestants, stopped between requests, for its threads may spin when idle."""

    def __init__(self, module: str, settings: dict[str, str], threads: int) -> None:
        counts = ("OMP", "OPENBLAS", "MKL", "NUMBA")
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        with environment({**{f"{name}_NUM_THREADS": str(threads) for name in counts}, **settings}):
            self._process = spawn.Process(target=serve, args=(theirs, module, threads))
            self._process.start()
        theirs.close()
        self._answer()

    def ask(self, *request: Any) -> Any:
        os.kill(self._process.pid or 0, signal.SIGCONT)
        self._pipe.send(request)
        return self._answer()

    def _answer(self) -> Any:
        try:
            done, answer = self._pipe.recv()
        except EOFError:
            raise PeerFailed("the process ended, perhaps for want of memory") from None
        os.kill(self._process.pid or 0, signal.SIGSTOP)
        if not done:
            raise PeerFailed(answer)
        return answer

    def close(self) -> None:
        """Let it end by itself, so that its peer can tidy up."""
        if self._process.is_alive():
            os.kill(self._process.pid or 0, signal.SIGCONT)
            self._pipe.send(())
        self._process.join(10)
        self._process.kill()
        self._process.join()
        self._pipe.close()


def serve(pipe: Any, module: str, threads: int) -> None:
    """The worker's side: answers requests until it is killed."""
    die_with_parent()
    os.dup2(2, 1)  # a peer's messages are no part of the report
    os.sched_setaffinity(0, cores(threads))
    desk: Desk | None = None
    request: tuple[Any, ...] = ("start",)
    while request:
        try:
            desk = desk or Desk(module, threads)
            pipe.send((True, getattr(desk, request[0])(*request[1:])))
        except Exception:
            pipe.send((False, traceback.format_exc(limit=-3)))
        request = pipe.recv()


class Desk:
    """What a worker can be asked."""

    def __init__(self, module: str, threads: int) -> None:
        self._peer, self._threads = importlib.import_module(module), threads
        self._contestants: dict[str, Contestant] = {}

    def start(self) -> None:
        """Nothing: the peer has been imported."""

    def prepare(self, item: Item) -> list[str]:
        """Make an item's data; the contestants' names."""
        self._contestants = self._peer.contestants(item, self._threads)
        return list(self._contestants)

    def clear(self) -> None:
        self._contestants = {}
        gc.collect()

    def warm(self, name: str, rows: int) -> tuple[float, list[Array]]:
        """Seconds of a second call, and the first so many rows of the arrays to check."""
        contestant = self._contestants[name]
        contestant.call(0)
        began = time.perf_counter()
        contestant.call(1)
        seconds = time.perf_counter() - began
        return seconds, [a[:rows] for a in arrays((contestant.check or (lambda: contestant.call(0)))())]

    def time(self, name: str, turn: int, calls: int) -> float:
        """Seconds per unit of work; a turn of several calls begins with one that is not counted."""
        contestant = self._contestants[name]
        if calls > 1:
            contestant.call(turn * (calls + 1))
        began = time.perf_counter()
        for call in range(calls):
            contestant.call(turn * (calls + 1) + call + 1)
        return (time.perf_counter() - began) / (calls * contestant.units)

    def memory(self, name: str) -> int:
        """Bytes by which a call's peak is above its inputs and outputs."""
        contestant = self._contestants[name]
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = status("VmRSS")
        result = contestant.call(1)
        peak = status("VmHWM")
        made = 0 if contestant.in_place else sum(a.nbytes for a in arrays(result))
        return max(0, peak - before - made)


def arrays(result: Any) -> list[Array]:
    """The NumPy arrays of a result."""
    parts: Iterable[Any] = result if isinstance(result, (tuple, list)) else (result,)
    if isinstance(result, list):  # of a divided call
        parts = (a for part in result for a in arrays(part))
    return [np.asarray(part) for part in parts if part is not None and np.ndim(part) > 0]


def status(name: str) -> int:
    """Bytes that /proc/self/status gives under this name."""
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith(name))
    return int(line.split()[1]) * 1024
