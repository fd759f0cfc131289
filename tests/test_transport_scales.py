"""Transport at any scale and from any prices: no crash and no false certificate."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import cbokernels as cbk
from cbokernels import _cpu

SLACK = {"float32": 4e-6, "float64": 1e-9}
LARGEST = np.finfo(float).max


def normals(*shape, seed=0, dtype="float64"):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def exact_costs(x, y):
    """Squared distances [M, M] in extended precision, whose exponents hold those of any float64."""
    return ((x.astype(np.longdouble)[:, None] - y.astype(np.longdouble)) ** 2).sum(-1)


def optimum(costs):
    """Mean of the best assignment."""
    scaled = (costs / (costs.max() or 1)).astype(float)
    return costs[linear_sum_assignment(scaled)].mean()


def check(x, y, result, slack):
    """Optimal matches; costs are theirs; the gap is no less than what a match is above the optimum."""
    for atoms, match, cost, gap in zip(x, *result, strict=True):
        costs = exact_costs(atoms, y)
        np.testing.assert_array_equal(np.sort(match), np.arange(len(match)))
        best, mine = optimum(costs), costs[np.arange(len(match)), match].mean()
        assert mine <= best * (1 + slack)
        if mine > LARGEST:
            assert cost == np.inf
        else:
            assert cost == pytest.approx(float(mine), rel=1e-12, abs=1e-320)
        assert gap >= 0
        assert gap + 1e-14 * costs.max() >= mine - best
        small = slack * mine + 1e-14 * costs.max() + 1e-320
        assert gap <= small or small > LARGEST


@pytest.mark.parametrize("exponent", [-300, -200, -160, -20, 20, 150, 153, 154, 155, 200, 300])
@pytest.mark.parametrize(("count", "size"), [(5, 3), (7, 33), (70, 2)])
def test_assignments_at_any_scale(exponent, count, size):
    scale = 10.0**exponent
    x, y = normals(3, count, size) * scale, normals(count, size, seed=1) * scale
    duals = np.zeros((3, count))
    for _ in range(3):
        result = cbk.assign(x, y, duals=duals, certificate=True)
        check(x, y, result, SLACK["float64"])
        assert np.isfinite(duals).all()
    assert np.abs(duals).max() > 0 or not -162 < exponent < 154


@pytest.mark.parametrize("exponent", [-300, -20, 20, 154, 155, 300])
@pytest.mark.parametrize("size", [2, 33])
def test_barycenters_at_any_scale(exponent, size):
    x, weights, scale = (
        normals(4, 7, size),
        np.array([0.1, 0.4, 0.3, 0.2]),
        2.0 ** round(exponent / np.log10(2)),
    )
    plain, result = (cbk.barycenter(a, weights, iterations=4) for a in (x, x * scale))
    np.testing.assert_array_equal(result.match, plain.match)
    np.testing.assert_allclose(result.support / scale, plain.support, rtol=1e-13)
    with np.errstate(over="ignore", under="ignore"):
        np.testing.assert_allclose(result.history, plain.history * scale * scale, rtol=1e-13)
    assert result.objective == result.history[-1]


@pytest.mark.parametrize("exponent", [-300, -100, 100, 150, 154, 155, 300])
def test_distances_at_any_scale(exponent):
    a, b = normals(4, 5, 3), normals(4, 5, 3, seed=1)
    scale = 2.0 ** round(exponent / np.log10(2))
    plain, scaled = cbk.wasserstein2(a, b), cbk.wasserstein2(a * scale, b * scale)
    with np.errstate(over="ignore", under="ignore"):
        np.testing.assert_allclose(scaled, plain * scale * scale, rtol=1e-13)
        both = cbk.wasserstein_over_wasserstein(a, b) * scale * scale
    assert cbk.wasserstein_over_wasserstein(a * scale, b * scale) == pytest.approx(both, rel=1e-13)


def test_distances_that_are_partly_beyond_float64():
    """A coupling of finite distances is found beside infinite ones, and its mean does not overflow."""
    near = np.array([[[0.0]], [[1.2e154]], [[3e154]]])
    far = near[[2, 0, 1]] + 1e153
    assert np.isinf(cbk.wasserstein2(near, far)).any()
    assert cbk.wasserstein_over_wasserstein(near, far) == pytest.approx(1e306, rel=1e-12)
    wide = np.array([[[0.0]], [[1e160]], [[2e160]]])
    apart = np.array([[[1.3e154]], [[1e160]], [[2e160]]])
    assert cbk.wasserstein_over_wasserstein(wide, apart) == pytest.approx(1.69e308 / 3, rel=1e-12)
    six = np.repeat(np.array([[[0.0]]]), 6, axis=0)
    assert cbk.wasserstein_over_wasserstein(six, six + 1.3e154) == pytest.approx(1.69e308, rel=1e-12)


def test_prices_of_another_scale(dtype):
    """Prices of a call before, of atoms that were 1e9 (1e20) times as large."""
    a, b, factor = (
        normals(4, 5, 3, dtype=dtype),
        normals(5, 3, seed=1, dtype=dtype),
        {"float32": 1e-20, "float64": 1e-9},
    )
    duals = np.zeros((4, 5))
    match = cbk.assign(a, b, duals=duals).match
    x, y = (part * np.array(factor[dtype], dtype) for part in (a, b))
    result = cbk.assign(x, y, match=match[::-1].copy(), duals=duals, certificate=True)
    check(x, y, result, SLACK[dtype])


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e6])
def test_any_prices_lead_to_the_optimum(offset, dtype):
    """Random scales, offsets, prices and guesses; seed printed where it fails."""
    for seed in range(150):
        rng = np.random.default_rng([17, seed])
        low, high = (-300, 290) if dtype == "float64" else (-40, 28)
        scale, count, size = (
            10 ** rng.uniform(low, high),
            int(rng.integers(1, 12)),
            int(rng.choice([1, 2, 3, 17])),
        )
        x = ((rng.standard_normal((2, count, size)) + offset) * scale).astype(dtype)
        y = ((rng.standard_normal((count, size)) + offset) * scale).astype(dtype)
        if seed % 5 == 0:  # another particle of another scale
            x[0] = (rng.standard_normal((count, size)) * 10 ** rng.uniform(low, high)).astype(dtype)
        prices = rng.standard_normal((2, count)) * 10 ** rng.uniform(-300, 300)
        if seed % 3:
            prices += 10 ** rng.uniform(-300, 300)
        match = np.stack([rng.permutation(count) for _ in x]) if seed % 2 else None
        try:
            check(x, y, cbk.assign(x, y, match=match, duals=prices, certificate=True), SLACK[dtype])
            assert np.isfinite(prices).all()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def test_prices_of_close_atoms_far_from_the_origin():
    """The largest coordinate bounds the costs, and says nothing of them."""
    y = 1 + 1e-9 * normals(30, 3)
    x = 1 + 1e-9 * normals(3, 30, 3, seed=1)
    result = cbk.assign(x, y, duals=normals(3, 30, seed=2), certificate=True)
    check(x, y, result, 1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [3, 20])
def test_values_that_are_not_finite_harm_no_memory(value, size, dtype):
    """The compiled module by itself: the identity, as on a card. Python refuses such values."""
    for count in (5, 40):
        x, y = normals(2, count, size, dtype=dtype), normals(count, size, seed=1, dtype=dtype)
        expected = cbk.assign(x[1:], y)
        x[0, count // 2, 1] = value
        duals, match, cost, gap = (
            np.zeros((2, count)),
            np.zeros((2, count), np.int64),
            np.zeros(2),
            np.zeros(2),
        )
        _cpu.assign(x, y, 5.0, duals, False, match, cost, gap, 1)
        np.testing.assert_array_equal(match[0], np.arange(count))
        assert not np.isfinite(cost[0])
        np.testing.assert_array_equal(match[1], expected.match[0])
        clean = x[1:].copy()
        _cpu.assign(clean, y, 5.0, np.full((1, count), value), False, match[:1], cost[:1], gap[:1], 1)
        np.testing.assert_array_equal(match[0], expected.match[0])
    with pytest.raises(ValueError, match="costs must be finite"):
        _cpu.assign_matrix(np.full((6, 6), value), np.zeros(6, np.int32))


def test_a_guess_that_is_no_permutation_harms_nothing():
    """The compiled module by itself."""
    x, y = normals(3, 9, 2), normals(9, 2, seed=1)
    match, cost = np.zeros((3, 9), np.int64), np.zeros(3)
    _cpu.assign(x, y, 5.0, None, True, match, cost, None, 1)
    np.testing.assert_array_equal(match, cbk.assign(x, y).match)
