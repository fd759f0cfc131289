"""Rows of few coordinates are computed several together, with the bits of the first ones of long rows.

On every instruction set, each in a process of its own.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import sets

import cbokernels as cbk
from cbokernels import _cpu

WIDE = 300  # computed row by row
SIZES = (*range(1, 11), 13, 16, 19, 20, 21, 31, 63, 64, 65, 100, 255, 256, 257)


def counts(size: int) -> tuple[int, ...]:
    """One row, few, and around what is drawn together: 256 blocks of four coordinates."""
    together = max(1, 256 // -(-size // 4))
    return tuple({1, 3, together - 1, together, together + 1, 2 * together + 5} - {0})


def results(arrays: Any, task: Any, size: int) -> dict[str, Any]:
    """Of the arrays' first `size` columns."""
    theta, points, gradient, first, second = (a[:, :size].copy() for a in arrays)
    key: Any = {"seed": 2**63 + 5, "step": 2**31 + 9, "first_particle": 11}
    found = {"normals": cbk.standard_normal(len(theta), size, dtype=theta.dtype, **key)}
    noises: Any = ({}, {"floor": 0.1}, {"noise": "additive"}, {"noise": "none"})
    for noise in noises:
        found[f"{noise}, tasks"] = cbk.cbo_update(theta, points, task=task, **noise, **key)
        found[f"{noise}"] = cbk.cbo_update(theta, points[0], num_threads=3, **noise, **key)
    found["hybrid"] = cbk.hybrid_update(theta, points, gradient, first, second, task=task, **key)
    partners = np.zeros((len(theta), 1), np.int32)
    found["transport"] = cbk.transport_update(theta[:, None], points[:1], partners, **key)[:, 0]
    drawn, drift = (key["seed"], 0, key["step"], key["first_particle"]), np.empty(size)
    moved, law = np.empty_like(theta[:, None]), (0.9, 1.1, 0.1, "additive", 0.0, 0.0)
    tasks = task.astype(np.int32)
    _cpu.transport_update(theta[:, None], points[:, None], tasks, partners, law, drawn, moved, 2)
    found["transport, tasks"] = moved[:, 0]
    for mirrored in (False, True):
        ensemble = np.empty((2 * len(theta), size), theta.dtype)
        _cpu.draw_ensemble(points[0], 0.3, mirrored, drawn, ensemble, 2)
        found[f"hopping's ensemble, mirrored: {mirrored}"] = ensemble
    for weights, atom in (
        (np.arange(len(theta))[:, None] % 3 - 1.0, None),
        (np.cos(np.arange(2.0 * len(theta))).reshape(-1, 2), np.arange(size, dtype=np.int32) % 2),
    ):
        _cpu.noise_drift(weights, atom, drawn, theta.dtype == "f4", drift, 2)
        found[f"hopping's drift, atoms: {atom is not None}"] = drift[None].copy()
    return {**found, "first moment": first, "second moment": second}


@functools.lru_cache(maxsize=6)  # the numbers of rows of one size, and often of the next
def of_long_rows(count: int, dtype: str) -> tuple[Any, Any, dict[str, Any]]:
    rng = np.random.default_rng(count)
    arrays = [rng.random((n, WIDE)).astype(dtype) for n in (count, 3, count, count, count)]
    task = rng.integers(0, 3, count)
    return arrays, task, results(arrays, task, WIDE)


def check(size: int, dtype: str) -> None:
    for count in counts(size):
        arrays, task, wide = of_long_rows(count, dtype)
        for name, result in results(arrays, task, size).items():
            where = f"{name}: {count} rows of {size}, {dtype}"
            np.testing.assert_array_equal(result, wide[name][:, :size], err_msg=where)


def check_rows(size: int, dtype: str) -> None:
    """Some particles move as among all, and the others stay."""
    rng = np.random.default_rng(size)
    theta, point = (rng.standard_normal((n, size)).astype(dtype) for n in (700, 1))
    rows = np.sort(rng.permutation(700)[:300]).astype(np.int64)
    out, law = theta.copy(), (1.0, 1.1, 0.1, "isotropic", 0.0, 0.0)
    _cpu.cbo_update(out, point, None, rows, law, (3, 0, 4, 0), out, 2)
    every = cbk.cbo_update(theta, point[0], diffusion=1.1, noise="isotropic", seed=3, step=4)
    expected = theta.copy()
    expected[rows] = every[rows]
    np.testing.assert_array_equal(out, expected, err_msg=f"rows of {size}, {dtype}")


def check_uniform(size: int, dtype: str) -> None:
    """By the words themselves."""
    rows, seed, step, stream, first = 300, 2**63 + 5, 9, 1, 11
    out = np.empty((rows, size), dtype)
    _cpu.uniform(out, -1.5, 2.0, (seed, stream, step, first), 3)
    blocks = -(-size // 4)
    number, block = (a.ravel() for a in np.indices((rows, blocks)))
    counter = np.stack(
        [np.full_like(block, stream), np.full_like(block, step), first + number, block], axis=1
    )
    key = np.broadcast_to(np.array([seed % 2**32, seed >> 32], np.uint32), (len(block), 2))
    words = cbk.philox4x32(counter.astype(np.uint32), np.ascontiguousarray(key)).reshape(rows, -1)[:, :size]
    np.testing.assert_array_equal(out, (-1.5 + 3.5 * ((words + 0.5) * 2.0**-32)).astype(dtype))


@pytest.mark.parametrize("isa", sets.EACH)
def test_short_rows_have_the_bits_of_long_ones(isa):
    done = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "CBOKERNELS_ISA": isa}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stdout.split()) == (0, [isa]), done.stderr


if __name__ == "__main__":
    for kind in ("float32", "float64"):
        for length in SIZES:
            check(length, kind)
            check_rows(length, kind)
            check_uniform(length, kind)
    print(cbk.isa())


def test_rows_without_coordinates_are_refused():
    """By the compiled module itself, which would divide by their length."""
    none, key, law = np.empty((3, 0), "f4"), (0, 0, 0, 0), (1.0, 1.1, 0.1, "anisotropic", 0.0, 0.0)
    calls = [
        lambda: _cpu.standard_normal(none, key, 1),
        lambda: _cpu.uniform(none, 0.0, 1.0, key, 1),
        lambda: _cpu.langevin_drift(none, none, none, 1.0, 1.0, 0.5, 1e-3, key, 1),
        lambda: _cpu.cbo_update(none, none, None, None, law, key, none, 1),
        lambda: _cpu.noise_drift(np.ones((2, 1)), None, key, True, np.empty(0), 1),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"none of them 0|must not be empty"):
            call()
