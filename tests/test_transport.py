"""assign: optimal against SciPy on random and degenerate problems, starts, threads, arguments."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from turns import in_turn

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
@in_turn("size", [1, 2, 3, 5, 17])
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


@pytest.mark.parametrize("kind", ["normal", "grid", "duplicates", "collinear", "one point", "clusters"])
def test_lists_change_no_bits(kind, dtype):
    """64 threads have no room for all costs and keep lists of the cheapest columns; one thread has."""
    x, y = measures(kind, 64, 190, 20, 14, dtype)
    prices = [np.zeros((64, 190)) for _ in range(2)]
    results = [
        cbk.assign(x, y, duals=duals, certificate=True, num_threads=threads)
        for duals, threads in zip(prices, (1, 64), strict=True)
    ]
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(*prices)
    check(x[:3], y, cbk.Assignment(*(part[:3] for part in results[1][:2])), TOLERANCE[dtype])


def test_many_points_of_many_coordinates(dtype):
    x, y = measures("normal", 1, 1500, 100, 15, dtype)
    result = cbk.assign(x, y, certificate=True)
    check(x, y, result, TOLERANCE[dtype])
    assert 0 <= result.gap[0] <= (1e-14 if dtype == "float64" else 4e-6) * result.cost[0]


@pytest.mark.parametrize("kind", KINDS)
def test_certificate_bounds_the_cost(kind, dtype):
    for count in (1, 2, 17, 120):
        x, y = measures(kind, 3, count, 3, 5, dtype)
        result = cbk.assign(x, y, certificate=True)
        check(x, y, result, TOLERANCE[dtype])
        assert result._fields == ("match", "cost", "gap")
        scale = max(np.abs(x).max(), np.abs(y).max()).astype(float) ** 2
        assert (result.gap >= 0).all()
        rounding = 1e-15 * scale if dtype == "float64" else 4e-6 * result.cost
        assert (result.gap <= rounding).all()


def test_certificate_of_the_reference():
    x, y = measures("normal", 3, 20, 3, 5)
    result = reference.assign(x, y, certificate=True)
    assert (result.gap < 1e-14).all()
    np.testing.assert_allclose(result.cost, cbk.assign(x, y).cost, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_any_start_leads_to_the_optimum(kind, dtype):
    x, y = measures(kind, 4, 40, 3, 6, dtype)
    rng = np.random.default_rng(6)
    best = cbk.assign(x, y).cost
    for match in (None, np.stack([rng.permutation(40) for _ in x]), cbk.assign(x, y).match):
        for duals in (None, np.zeros((4, 40)), rng.normal(size=(4, 40)) * np.abs(x).max().astype(float) ** 2):
            result = cbk.assign(x, y, match=match, duals=duals, certificate=True)
            check(x, y, result, TOLERANCE[dtype])
            np.testing.assert_allclose(result.cost, best, rtol=TOLERANCE[dtype], atol=1e-300)


def test_prices_prove_the_optimum():
    # c_ij - v_j >= c_{i,match} - v_match for all i, j
    x, y = measures("normal", 3, 50, 3, 7)
    duals = np.zeros((3, 50))
    result = cbk.assign(x, y, duals=duals)
    assert np.abs(duals).max() > 0
    for n in range(3):
        reduced = cdist(x[n], y, "sqeuclidean") - duals[n]
        slack = reduced[np.arange(50), result.match[n]] - reduced.min(axis=1)
        assert slack.max() < 1e-14
    again = cbk.assign(x, y, match=result.match, duals=duals)
    np.testing.assert_array_equal(again.match, result.match)


def test_prices_follow_moving_atoms(dtype):
    x, y = measures("normal", 6, 80, 3, 8, dtype)
    duals, match = np.zeros((6, 80)), None
    rng = np.random.default_rng(8)
    for _ in range(10):
        match, cost = cbk.assign(x, y, match=match, duals=duals)
        np.testing.assert_allclose(cost, cbk.assign(x, y).cost, rtol=TOLERANCE[dtype])
        x = (x + 0.2 * (y[match] - x) + 0.02 * rng.normal(size=x.shape)).astype(dtype)


def test_close_measures_keep_their_partners(dtype):
    rng = np.random.default_rng(9)
    y = rng.normal(size=(200, 3)).astype(dtype)
    x = (y + 1e-4 * rng.normal(size=(5, 200, 3))).astype(dtype)
    np.testing.assert_array_equal(cbk.assign(x, y).match, np.tile(np.arange(200), (5, 1)))
    np.testing.assert_array_equal(cbk.assign(x[:, ::-1], y).match, np.tile(np.arange(200)[::-1], (5, 1)))


@pytest.mark.parametrize("size", [1, 2, 3, 17])
@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-3, 0.03, 0.1, 0.5])
def test_company_changes_no_bits(spread, size, dtype):
    # from its second problem on a support has distances between its points: they spare rows of close measures
    rng = np.random.default_rng([13, size])
    y = rng.normal(size=(60, size))
    y[50:] = y[:10]  # the same points twice
    x = y + spread * rng.normal(size=(6, 60, size))
    x, y = x.astype(dtype), y.astype(dtype)
    start = 0.1 * rng.normal(size=(6, 60)) * [[0], [0], [1], [1], [1e-3], [1e-3]]
    duals, alone = start.copy(), start.copy()
    together = cbk.assign(x, y, duals=duals, num_threads=1)
    check(x, y, together, TOLERANCE[dtype])
    for n in range(6):
        np.testing.assert_array_equal(
            cbk.assign(x[n : n + 1], y, duals=alone[n : n + 1]).match[0], together.match[n]
        )
    np.testing.assert_array_equal(alone, duals)


@pytest.mark.parametrize(("dtype", "exponents"), [("float32", [-18, 18]), ("float64", [-150, -50, 50, 150])])
def test_extreme_scales(dtype, exponents):
    x, y = measures("normal", 2, 60, 3, 10, dtype)
    plain = cbk.assign(x, y)
    for exponent in exponents:
        factor = np.array(2.0, dtype) ** (exponent * 3)
        np.testing.assert_array_equal(cbk.assign(x * factor, y * factor).match, plain.match)


def test_many_coordinates(dtype):
    for count, size in ((50, 200), (9, 1000), (33, 794)):
        x, y = measures("normal", 2, count, size, 11, dtype)
        check(x, y, cbk.assign(x, y), TOLERANCE[dtype])


def test_a_start_is_not_written(dtype):
    x, y = measures("normal", 2, 20, 3, 12, dtype)
    match = np.tile(np.arange(20)[::-1], (2, 1))
    match.flags.writeable = False
    for kind in ("int8", "uint32", "int64"):
        check(x, y, cbk.assign(x, y, match=match.astype(kind)), TOLERANCE[dtype])
    cbk.assign(x, y, match=match)
    wide = np.zeros((4, 40))
    expected = np.zeros((2, 20))
    cbk.assign(x, y, duals=wide[::2, ::2])
    cbk.assign(x, y, duals=expected)
    np.testing.assert_array_equal(wide[::2, ::2], expected)
    assert (wide[1::2] == 0).all()


def test_tensors_in_tensors_out(dtype):
    torch = pytest.importorskip("torch")
    x, y = measures("normal", 3, 20, 3, 13, dtype)
    result = cbk.assign(torch.from_numpy(x), torch.from_numpy(y))
    assert all(isinstance(part, torch.Tensor) for part in result)
    np.testing.assert_array_equal(result.match.numpy(), cbk.assign(x, y).match)
    assert torch.from_numpy(y)[result.match].shape == (3, 20, 3)


X, Y = np.zeros((2, 4, 3), "f4"), np.zeros((4, 3), "f4")
SPOILED = X.copy()
SPOILED[1, 2, 0] = np.nan
TWICE = np.array([[0, 1, 2, 3], [0, 1, 1, 3]])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"atoms": Y}, ValueError, ["atoms", "[N, M, K]", "[4, 3]"]),
        ({"atoms": X[:, :0]}, ValueError, ["atoms", "no size 0", "[2, 0, 3]"]),
        ({"atoms": X.astype(int)}, TypeError, ["atoms", "float32 or float64", "int64"]),
        ({"atoms": SPOILED}, ValueError, ["atoms must be finite", "nan", "[1, 2, 0]"]),
        ({"support": Y[1:]}, ValueError, ["support", "[4, 3]", "[3, 3]"]),
        ({"support": Y.astype("f8")}, TypeError, ["support must be float32 as atoms are, got float64"]),
        ({"support": Y + np.float32(np.inf)}, ValueError, ["support must be finite", "inf", "[0, 0]"]),
        ({"match": TWICE}, ValueError, ["match", "permutation", "row 1 without 2"]),
        ({"match": TWICE + 1}, ValueError, ["match", "[0, 4)", "4 at [0, 3]"]),
        ({"match": TWICE[:1]}, ValueError, ["match", "[2, 4]", "[1, 4]"]),
        ({"match": TWICE.astype(float)}, TypeError, ["match", "integers", "float64"]),
        ({"duals": np.zeros((2, 3))}, ValueError, ["duals", "[2, 4]", "[2, 3]"]),
        ({"duals": np.zeros((2, 4), "f4")}, TypeError, ["duals", "float64", "float32"]),
        ({"duals": np.full((2, 4), np.nan)}, ValueError, ["duals must be finite", "nan"]),
        ({"certificate": 1}, TypeError, ["certificate", "True or False", "1"]),
        ({"num_threads": 0}, ValueError, ["num_threads", "0"]),
    ],
)
def test_wrong_arguments_are_named(change, error, words):
    with pytest.raises(error) as caught:
        cbk.assign(**{"atoms": X, "support": Y, **change})
    for word in words:
        assert word in str(caught.value)


BATTERY = """
import hashlib
import numpy as np
import cbokernels as cbk
digest = hashlib.sha256()
for dtype in ("float32", "float64"):
    rng = np.random.default_rng(0)
    for count, size in ((1, 1), (7, 2), (33, 3), (100, 3), (65, 5)):
        for grid in (False, True):
            x = rng.normal(size=(5, count, size))
            x = (np.round(x) if grid else x).astype(dtype)
            duals = np.zeros((5, count))
            result = cbk.assign(x, x[0], duals=duals, certificate=True)
            center = cbk.barycenter(x, np.arange(5.0), iterations=3)
            moved = cbk.transport_update(x, center.support, center.match, seed=3)
            for part in (*result, duals, center.support, center.match, center.history, moved):
                digest.update(np.ascontiguousarray(part).tobytes())
            digest.update(cbk.wasserstein2(x, x).tobytes())
    x = rng.normal(size=(64, 190, 20)).astype(dtype)
    for part in cbk.assign(x, x[0], certificate=True, num_threads=64):
        digest.update(part.tobytes())
print(cbk.isa(), digest.hexdigest())
"""


def test_bits_do_not_depend_on_the_instruction_set():
    digests = {}
    for isa in cbk.isas():
        environment = {**os.environ, "CBOKERNELS_ISA": isa}
        process = subprocess.run(
            [sys.executable, "-c", BATTERY], env=environment, capture_output=True, text=True
        )
        assert process.returncode == 0, process.stderr
        used, digests[isa] = process.stdout.split()
        assert used == isa
    assert len(set(digests.values())) == 1


def test_an_enormous_particle_leaves_the_others_exact():
    net = cbk.TwoLayer(1, 12, 1)
    atoms = net.atoms(net.uniform(4, seed=0))
    support = atoms[1].copy()
    atoms[2] *= np.float32(1e25)
    found, exact = cbk.assign(atoms, support), reference.assign(atoms, support)
    for n in (0, 1, 3):
        assert found.cost[n] == pytest.approx(exact.cost[n], rel=1e-5, abs=1e-12)
