"""assign: optimal against SciPy on random and degenerate problems, starts, threads, arguments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

import cbokernels as cbk
from cbokernels import reference

TOLERANCE = {"float32": 1e-5, "float64": 1e-9}
KINDS = [
    "normal", "grid", "one atom", "duplicates", "collinear", "one point", "same", "small", "large", "offset",
    "clusters", "tiny values",
]  # fmt: skip


def measures(kind, particles, count, size, seed, dtype="float64"):
    """Atoms [N, M, K] and a support [M, K]."""
    rng = np.random.default_rng([seed, particles, count, size])
    a = rng.normal(size=(particles + 1, count, size))
    if kind == "grid":
        a = np.round(a)
    elif kind == "one atom":
        a[:] = a[:, :1]
    elif kind == "duplicates":
        a = a[:, rng.integers(0, 1 + count // 3, count)]
    elif kind == "collinear":
        a = a[..., :1] * rng.normal(size=size)
    elif kind == "one point":
        a[:] = a[0, 0]
    elif kind == "same":
        a[:] = a[0]
        for b in a:
            rng.shuffle(b)
    elif kind in ("small", "large"):
        a *= {"small": 1e-6, "large": 1e6}[kind]
    elif kind == "offset":
        a = 1e3 * a + 1e6
    elif kind == "clusters":
        a = 1e-3 * a + np.round(2 * a)
    elif kind == "tiny values":
        a *= 1e-30
    a = a.astype(dtype)
    return a[:-1], a[-1]


def best_cost(x, y):
    costs = cdist(x.astype(float), y.astype(float), "sqeuclidean")
    return costs[linear_sum_assignment(costs)].mean()


def check(x, y, result, tolerance):
    particles, count, _ = x.shape
    assert result.match.shape == (particles, count)
    assert result.match.dtype.kind == "i"
    assert result.cost.dtype == np.float64
    np.testing.assert_array_equal(np.sort(result.match, axis=1), np.tile(np.arange(count), (particles, 1)))
    for n in range(particles):
        difference = x[n].astype(float) - y[result.match[n]].astype(float)
        np.testing.assert_allclose(result.cost[n], (difference**2).sum(-1).mean(), rtol=1e-12)
        np.testing.assert_allclose(result.cost[n], best_cost(x[n], y), rtol=tolerance, atol=1e-300)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 17])
def test_small_problems_are_optimal(kind, size, dtype):
    for count in [*range(1, 20), 31, 32, 33]:
        x, y = measures(kind, 3, count, size, 0, dtype)
        check(x, y, cbk.assign(x, y), TOLERANCE[dtype])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [100, 257, 513])
def test_large_problems_are_optimal(kind, count, dtype):
    x, y = measures(kind, 2, count, 3, 1, dtype)
    check(x, y, cbk.assign(x, y), TOLERANCE[dtype])


@settings(max_examples=300)
@given(
    kind=st.sampled_from(KINDS),
    count=st.integers(1, 40),
    size=st.integers(1, 6),
    seed=st.integers(0, 2**32),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_any_problem_is_optimal(kind, count, size, seed, dtype):
    x, y = measures(kind, 2, count, size, seed, dtype)
    check(x, y, cbk.assign(x, y), TOLERANCE[dtype])


@settings(max_examples=200)
@given(
    values=st.lists(st.integers(-3, 3), min_size=2, max_size=60),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_integers_on_a_line_are_sorted(values, dtype):
    # On the line the monotone coupling is optimal.
    half = len(values) // 2
    x, y = np.array(values[:half], float), np.array(values[half : 2 * half], float)
    cost = cbk.assign(x[None, :, None].astype(dtype), y[:, None].astype(dtype)).cost[0]
    assert cost == pytest.approx(((np.sort(x) - np.sort(y)) ** 2).mean(), rel=1e-12)


@pytest.mark.parametrize("count", [1, 2, 7, 30])
def test_reference_is_optimal(count):
    x, y = measures("normal", 3, count, 3, 2)
    check(x, y, reference.assign(x, y), 1e-12)
    x, y = measures("grid", 3, count, 2, 2)
    check(x, y, reference.assign(x, y), 1e-12)


def test_order_of_the_neurons_does_not_matter(dtype):
    x, y = measures("normal", 5, 64, 3, 3, dtype)
    rng = np.random.default_rng(3)
    order, points = rng.permutation(64), rng.permutation(64)
    first, second = cbk.assign(x, y), cbk.assign(x[:, order], y[points])
    np.testing.assert_allclose(second.cost, first.cost, rtol=1e-12)
    np.testing.assert_array_equal(points[second.match], first.match[:, order])
    np.testing.assert_array_equal(cbk.assign(x[:, order], x[0]).cost[0], 0.0)


@pytest.mark.parametrize("kind", ["normal", "grid", "duplicates", "one point"])
def test_bits_do_not_depend_on_threads(kind, dtype):
    x, y = measures(kind, 9, 50, 3, 4, dtype)
    one = cbk.assign(x, y, num_threads=1)
    for num_threads in (2, 3, 5, None):
        again = cbk.assign(x, y, num_threads=num_threads)
        np.testing.assert_array_equal(again.match, one.match)
        np.testing.assert_array_equal(again.cost, one.cost)
    alone = cbk.assign(x[4:5], y)
    np.testing.assert_array_equal(alone.match[0], one.match[4])
