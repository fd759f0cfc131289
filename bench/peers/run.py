"""The tournament: which peers, in which environments; rounds; errors; memory; the checks of the machine."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy_
from install import PACKAGES, missing
from limits import Limits
from report import OURS, Row, Verdict, markdown, record, verdicts
from workers import PeerFailed, Worker
from workloads import ITEMS, Array, Item, workload

import cbokernels as cbk

ROWS = {"A": 200, "At": 200, "B": 16, "B dense": 16, "C": 4}  # particles whose results are checked
TURN, SLOW, FEW = 0.02, 5.0, 3  # seconds of a turn; slower than SLOW times the best peer: only FEW rounds
ATTEMPTS = 3  # at an item, for a time without other load


@dataclass(frozen=True)
class Peer:
    """A module, the kinds of items that it takes part in, and an environment with its mark on the names."""

    module: str
    kinds: tuple[str, ...]
    mark: str = ""
    settings: dict[str, str] = field(default_factory=dict)


def peers(threads: int) -> list[Peer]:
    kernels = ("risk", "gradient", "update", "consensus")
    bound = {"OMP_PROC_BIND": "true"}
    keep = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776:glibc.malloc.top_pad=67108864"
    found = [
        Peer("ours", (*kernels, "step", "assign"), settings=bound),
        Peer("numpy_", kernels),
        Peer("torch_", (*kernels, "step")),
        Peer("torch_", (*kernels, "step"), ", malloc tuned", {"GLIBC_TUNABLES": keep}),
        Peer("jax_", (*kernels, "step")),
        Peer("numba_", ("risk", "gradient", "update", "step")),
        Peer("cbx_", ("step",)),
        Peer("scipy_", ("assign",)),
    ]
    if threads > 1:
        found.append(Peer("numpy_", ("risk", "gradient"), settings={"OPENBLAS_NUM_THREADS": "1"}))
    if "avx512f" in Path("/proc/cpuinfo").read_text():
        found.append(Peer("numpy_", kernels, ", SkylakeX", {"OPENBLAS_CORETYPE": "SkylakeX"}))
    if cbk.isa().startswith("avx512"):
        found.append(Peer("ours", ("risk", "gradient"), ", AVX2", {**bound, "CBOKERNELS_ISA": "avx2"}))
    return found


class Tournament:
    def __init__(self, threads: int, rounds: int, anyway: bool) -> None:
        self.threads, self.rounds, self.anyway = threads, rounds, anyway
        self.limits = Limits(threads)
        self.checks = [self.limits.measure("copy")]
        absent = set(missing(Path(sys.executable), list(PACKAGES)))
        self.absent = sorted(PACKAGES[name] for name in absent)
        needs = {"torch_": "torch", "jax_": "jax", "numba_": "numba", "cbx_": "cbx", "scipy_": "lap"}
        self._peers = [peer for peer in peers(threads) if needs.get(peer.module) not in absent]
        self._workers: dict[int, Worker] = {}

    def worker(self, index: int) -> Worker:
        if index not in self._workers:
            self._workers[index] = Worker(
                self._peers[index].module, self._peers[index].settings, self.threads
            )
        return self._workers[index]

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()

    def play(self, item: Item) -> tuple[list[Row], bool]:
        """An item's rows, and whether the threads had their cores before and after."""
        field_ = self._enter(item)
        quiet = False
        for _ in range(1 if self.anyway else ATTEMPTS):
            before = self._check(patience=0 if self.anyway else 20)
            samples = self._rounds(field_)
            quiet = before and self._check()
            if quiet:
                break
        rows = []
        for name, (worker, own, _, error) in field_.items():
            row = Row(name, [1e3 * s for s in samples[name]], error, worker.ask("memory", own) / 1e6)
            if item.kind == "risk":
                fastest = 1e9 * max(check["fma"][1] for check in self.checks)
                row.share = 2 * workload_multiply_adds(item) / fastest / (row.median / 1e3)
            if name == OURS:
                row.memory = self._fresh_memory(item)
            elif "processes" in name:
                row.memory = None  # theirs is not this process's
            rows.append(row)
        for worker in {entry[0] for entry in field_.values()}:
            worker.ask("clear")
        return rows, quiet

    def _check(self, patience: int = 0) -> bool:
        """Whether the threads have their cores; with patience, after so many seconds at the latest."""
        for _ in range(patience + 1):
            self.checks.append(self.limits.measure())
            if self.limits.reached(self.checks[-1]):
                return True
            print(f"load beside this: {self.checks[-1]}", file=sys.stderr, flush=True)
            time.sleep(1 if patience else 0)
        return False

    def _enter(self, item: Item) -> dict[str, tuple[Worker, str, float, float | None]]:
        """By name: worker, the name there, seconds of a call, error."""
        truth = reference(item)
        field_ = {}
        for index, peer in enumerate(self._peers):
            if item.kind not in peer.kinds:
                continue
            try:
                worker = self.worker(index)
                for own in worker.ask("prepare", item):
                    seconds, found = worker.ask("warm", own, checked_rows(item))
                    field_[own + peer.mark] = worker, own, seconds, largest_error(found, truth)
            except PeerFailed as failure:
                if peer.module == "ours":
                    raise
                print(f"{peer.module}{peer.mark} fails at {item.name}: {failure}", file=sys.stderr)
        return field_

    def _rounds(self, field_: dict[str, tuple[Worker, str, float, float | None]]) -> dict[str, list[float]]:
        rivals = [seconds for name, (_, _, seconds, _) in field_.items() if not name.startswith(OURS)]
        slow = SLOW * min(rivals, default=float("inf"))
        samples: dict[str, list[float]] = {name: [] for name in field_}
        for turn in range(self.rounds):
            for name, (worker, own, seconds, _) in field_.items():
                if turn < FEW or seconds < slow:
                    calls = max(1, min(200, int(TURN / seconds)))
                    samples[name].append(worker.ask("time", own, turn, calls))
        return samples

    def _fresh_memory(self, item: Item) -> float:
        """MB of a first call in a new process: what the library keeps from call to call is counted."""
        worker = Worker(self._peers[0].module, self._peers[0].settings, self.threads)
        try:
            worker.ask("prepare", item)
            return float(worker.ask("memory", OURS)) / 1e6
        finally:
            worker.close()


def workload_multiply_adds(item: Item) -> float:
    return workload(item.workload).multiply_adds


def checked_rows(item: Item) -> int:
    """Of the arrays that a check returns; a consensus is one point."""
    return 10**9 if item.kind in ("consensus", "assign") else ROWS[item.workload]


def reference(item: Item) -> list[Array]:
    if item.kind == "assign":
        import scipy_

        return scipy_.truth(item)
    return numpy_.truth(item, checked_rows(item))


def largest_error(found: list[Array], truth: list[Array]) -> float | None:
    """Over all rows, the norm of the difference by the norm of the truth."""
    errors = []
    for a, t in zip(found, truth, strict=False):
        rows = t.reshape(len(t), -1)
        gap = np.linalg.norm(a.reshape(rows.shape) - rows, axis=1)
        errors.append(float((gap / np.linalg.norm(rows, axis=1)).max()))
    return max(errors, default=None)


def heading(tournament: Tournament) -> dict[str, Any]:
    """Where, with what and when: the report's strings, and for JSON all checks of the machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = dict([word.strip() for word in line.split(":", 1)] for line in lines if ":" in line)
    command = [os.environ.get("CXX", "c++"), "--version"]
    compiler = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    packages = sorted(set(PACKAGES.values()) - {*tournament.absent})
    first = tournament.checks[0]
    return {
        "machine": f"{cpu.get('model name', platform.machine())}, family {cpu.get('cpu family', '?')}, "
        f"{os.cpu_count()} processors",
        "threads": str(tournament.threads),
        "instruction set": cbk.isa(),
        "on 1 and all threads": "{:.0f} and {:.0f} GFLOP/s of multiply-adds, ".format(*first["fma"])
        + "{:.0f} and {:.0f} GB/s of copying".format(*first["copy"]),
        "compiler": compiler,
        "versions": f"cbokernels {cbk.__version__}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages),
        "date": time.strftime("%Y-%m-%d"),
        "checks": tournament.checks,
    }


def run(options: argparse.Namespace) -> int:
    """The command; its exit status."""
    words = [word.strip() for word in options.items.split(",") if word.strip()]
    items = [item for item in ITEMS if item.chosen(words)]
    if not items:
        print(
            f"no item is called {options.items}; there are: {', '.join(i.name for i in ITEMS)}",
            file=sys.stderr,
        )
        return 2
    tournament = Tournament(options.threads, options.rounds, options.anyway)
    table: dict[str, list[Row]] = {}
    found: list[Verdict] = []
    loud = []
    try:
        for item in items:
            print(f"{item.name} ...", file=sys.stderr, flush=True)
            table[item.name], quiet = tournament.play(item)
            found += verdicts(item, table[item.name], f"{OURS}, AVX2")
            if not quiet:
                loud.append(item.name)
    finally:
        tournament.close()
    head = heading(tournament)
    if loud:
        where = ", ".join(loud)
        text = f"{options.threads} threads did not reach {options.threads} times one thread's multiply-adds"
        head["NOT TO BE BELIEVED"] = f"{text} before and after {where}"
        if not options.anyway:
            print(f"nothing is reported: {text} before and after {where} (--anyway reports)", file=sys.stderr)
            return 1
    if tournament.absent:
        head["absent"] = ", ".join(tournament.absent)
    print(markdown(head, table, found))
    if options.json:
        options.json.write_text(json.dumps(record(head, table, found), indent=1) + "\n")
    return 0
