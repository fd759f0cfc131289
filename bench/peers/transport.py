"""Times assignments beside SciPy (and lap, lapx where they are installed), in one run, interleaved.

    python bench/peers/transport.py [--rounds 7] [--threads 2] [--atoms 10 50 100 200 1000]
        [--coordinates 3]

Prints a Markdown table: medians in milliseconds with their range, how often the peer's time is ours, and the
largest relative difference of the costs. Workload D: N=100 measures of M atoms in R^3, or R^K for another
number of coordinates (N=8 from M=1000 on, 2 from M=2000 on), float32, assigned to one support; "random" is
uniform on [-1, 1]^K, "near" within 0.01 of the support. A peer's time includes its matrix of squared
distances (SciPy's cdist, the fastest way to it); "2 processes" share the particles between two workers that
hold the data already.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

import cbokernels as cbk
from cbokernels import _cpu

Solver = Callable[[np.ndarray], np.ndarray]
ENSEMBLES = 3
_shared: dict[tuple[int, int, str], tuple[np.ndarray, np.ndarray]] = {}


def workload(count: int, size: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Atoms [ENSEMBLES, N, M, K] and a support [M, K]."""
    rng = np.random.default_rng([count, kind == "near"])
    support = rng.uniform(-1, 1, (count, size))
    shape = (ENSEMBLES, 100 if count < 1000 else 8 if count < 2000 else 2, count, size)
    atoms = support + 0.01 * rng.normal(size=shape) if kind == "near" else rng.uniform(-1, 1, shape)
    return atoms.astype(np.float32), support.astype(np.float32)


def scipy_columns(costs: np.ndarray) -> np.ndarray:
    return np.asarray(linear_sum_assignment(costs)[1])


def other_solvers() -> dict[str, Solver]:
    """lap (which lapx provides too), where it is installed."""
    try:
        lap: Any = importlib.import_module("lap")
    except ImportError:
        return {}
    name = "lapx" if "lapx" in {d.metadata["Name"] for d in importlib.metadata.distributions()} else "lap"
    return {name: lambda costs: np.asarray(lap.lapjv(costs)[1])}


def one_by_one(solver: Solver, atoms: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Costs [N]."""
    y, out = support.astype(float), np.empty(len(atoms))
    for n, x in enumerate(atoms):
        costs = cdist(x, y, "sqeuclidean")
        out[n] = costs[np.arange(len(y)), solver(costs)].mean()
    return out


def half(task: tuple[int, int, str, int, int]) -> np.ndarray:
    """One worker's share of the particles."""
    count, size, kind, turn, part = task
    if (count, size, kind) not in _shared:
        _shared[count, size, kind] = workload(count, size, kind)
    atoms, support = _shared[count, size, kind]
    return one_by_one(scipy_columns, np.array_split(atoms[turn], 2)[part], support)


def contestants(
    count: int, size: int, kind: str, threads: int | None, pool: Any
) -> dict[str, Callable[[int], np.ndarray]]:
    atoms, support = workload(count, size, kind)
    calls: dict[str, Callable[[int], np.ndarray]] = {
        "SciPy": lambda i: one_by_one(scipy_columns, atoms[i % ENSEMBLES], support),
        "SciPy, 2 processes": lambda i: np.concatenate(
            pool.map(half, [(count, size, kind, i % ENSEMBLES, part) for part in (0, 1)], 1)
        ),
    }
    for name, solver in other_solvers().items():
        calls[name] = lambda i, solver=solver: one_by_one(solver, atoms[i % ENSEMBLES], support)  # type: ignore[misc]
    calls["cbk.assign, 1 thread"] = lambda i: cbk.assign(atoms[i % ENSEMBLES], support, num_threads=1).cost
    calls["cbk.assign"] = lambda i: cbk.assign(atoms[i % ENSEMBLES], support, num_threads=threads).cost
    return calls


def compare(
    counts: list[int], size: int, rounds: int, threads: int | None, pool: Any
) -> Iterator[tuple[str, str, list[float], float]]:
    """(item, contestant, milliseconds, largest relative difference of its costs from SciPy's)."""
    for count in counts:
        for kind in ("random", "near"):
            calls = contestants(count, size, kind, threads, pool)
            truth = calls["SciPy"](0)
            errors = {name: float(np.abs(call(0) / truth - 1).max()) for name, call in calls.items()}
            timings: dict[str, list[float]] = {name: [] for name in calls}
            for turn in range(rounds):
                for name, call in calls.items():
                    began = time.perf_counter()
                    call(turn + 1)
                    timings[name].append((time.perf_counter() - began) * 1e3)
            for name, values in timings.items():
                yield f"D {kind} M={count} K={size}", name, values, errors[name]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--atoms", type=int, nargs="+", default=[10, 50, 100, 200, 1000])
    parser.add_argument("--coordinates", type=int, default=3)
    args = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} processors, {args.threads or _cpu.max_threads()} threads, "
        f"{cbk.isa()}, NumPy {np.__version__}, SciPy {importlib.metadata.version('scipy')}, "
        f"cbokernels {cbk.__version__}\n"
    )
    print(
        "| item | contestant | median ms | min-max | peer / ours | cost's difference |\n"
        "|---|---|---|---|---|---|"
    )
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        rows = list(compare(args.atoms, args.coordinates, args.rounds, args.threads, pool))
    ours = {item: statistics.median(values) for item, name, values, _ in rows if name == "cbk.assign"}
    for item, name, values, error in rows:
        middle = statistics.median(values)
        print(
            f"| {item} | {name} | {middle:.3f} | {min(values):.3f}-{max(values):.3f} | "
            f"{middle / ours[item]:.1f} | {error:.0e} |"
        )


if __name__ == "__main__":
    main()
