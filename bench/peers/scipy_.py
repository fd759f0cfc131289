"""SciPy's linear_sum_assignment, alone and in processes that hold the data already, and lapx's batched
solver. A peer's time includes its matrix of squared distances (SciPy's cdist, the fastest way to it).
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import lap
import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from workers import die_with_parent
from workloads import Array, Contestant, Item, measures

_held: dict[tuple[Any, ...], tuple[Array, Array]] = {}


def scipy_columns(matrix: Array) -> Any:
    return linear_sum_assignment(matrix)[1]


def lapx_columns(matrix: Array) -> Any:
    return lap.lapjv(matrix, return_cost=False)[0]


def costs(atoms: Array, support: Array, columns: Callable[[Array], Any] = scipy_columns) -> Array:
    """[N], one particle at a time."""
    y, rows, out = support.astype(float), np.arange(len(support)), np.empty(len(atoms))
    for n, x in enumerate(atoms):
        matrix = cdist(x, y, "sqeuclidean")
        out[n] = matrix[rows, columns(matrix)].mean()
    return out


def batched(atoms: Array, support: Array, threads: int) -> Array:
    """[N] by lapx's batch solver."""
    n, m, k = atoms.shape
    matrix = cdist(atoms.reshape(n * m, k), support, "sqeuclidean").reshape(n, m, m)
    total: Any = lap.lapjvx_batch(matrix, return_cost=True, n_threads=threads)[0]
    return np.asarray(total, float) / m


def part(task: tuple[tuple[Any, ...], int, int, int]) -> Array:
    """One process's share of the particles."""
    setting, turn, index, parts = task
    if setting not in _held:
        _held[setting] = measures(*setting)
    atoms, support = _held[setting]
    return costs(np.array_split(atoms[turn % 3], parts)[index], support)


class Pool:
    """Started once; kept as long as this process lives."""

    pool: Any = None

    @classmethod
    def costs(cls, setting: tuple[Any, ...], turn: int, parts: int) -> Array:
        if cls.pool is None:
            cls.pool = multiprocessing.get_context("spawn").Pool(parts, die_with_parent)
        tasks = [(setting, turn, index, parts) for index in range(parts)]
        return np.concatenate(cls.pool.map(part, tasks, 1))


def contestants(item: Item, threads: int) -> dict[str, Contestant]:
    if item.kind != "assign":
        return {}
    atoms, support = measures(*item.setting)
    return {
        "SciPy": Contestant(lambda i: costs(atoms[i % 3], support)),
        f"SciPy on {threads} processes": Contestant(lambda i: Pool.costs(item.setting, i, threads)),
        "lapx": Contestant(lambda i: costs(atoms[i % 3], support, lapx_columns)),
        f"lapx, batch on {threads} threads": Contestant(lambda i: batched(atoms[i % 3], support, threads)),
    }


def truth(item: Item) -> list[Array]:
    atoms, support = measures(*item.setting)
    return [costs(atoms[0], support)]
