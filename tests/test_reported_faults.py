"""Faults that were reported, by the very inputs of the reports; the kinds are in the families' own tests."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import test_transport_scales as scales
import ulps

import cbokernels as cbk

EXPONENTS = [-300, -155, -154, -9, 0, 9, 153, 154, 155, 300]


def normals():
    return np.random.default_rng(0).standard_normal


def brute_force(costs):
    """The least mean over permutations of one axis of a small matrix."""
    rows = np.arange(len(costs))
    return min(costs[rows, list(p)].mean() for p in itertools.permutations(rows))


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_distances_of_ensembles(exponent):
    """wasserstein_over_wasserstein(r((4, 5, 3)) * 1e155, r((4, 5, 3)) * 1e155) ended the process."""
    r = normals()
    a, b = (r((4, 5, 3)) * 10.0**exponent for _ in range(2))
    apart = np.array([[brute_force(scales.exact_costs(x, y)) for y in b] for x in a])
    expected = brute_force(np.where(apart > np.finfo(float).max, np.inf, apart))  # as wasserstein2 has them
    found = cbk.wasserstein_over_wasserstein(a, b)
    assert found == pytest.approx(float(expected), rel=1e-12, abs=1e-320)


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("size", [33, 2])
def test_barycenters(size, exponent):
    """Of r((4, 7, 33)) * 1e155 it ended the process, of r((4, 7, 2)) * 1e154 it never ended itself."""
    x = normals()((4, 7, size)) * 10.0**exponent
    found = cbk.barycenter(x, np.ones(4), iterations=2)
    plain = cbk.barycenter(normals()((4, 7, size)), np.ones(4), iterations=2)
    np.testing.assert_array_equal(found.match, plain.match)
    np.testing.assert_allclose(found.support / 10.0**exponent, plain.support, rtol=1e-12, atol=1e-14)
    means = np.mean([atoms[np.argsort(m)] for atoms, m in zip(x, found.match, strict=True)], axis=0)
    np.testing.assert_allclose(found.support, means, rtol=1e-12, atol=1e-14 * 10.0**exponent)


@pytest.mark.parametrize(
    ("dtype", "factor"),
    [
        *[("float32", factor) for factor in (1e-30, 1e-20, 1e-9, 1.0, 1e9, 1e18)],
        *[("float64", factor) for factor in (1e-300, 1e-20, 1e-9, 1.0, 1e9, 1e20, 1e155, 1e300)],
    ],
)
def test_prices_of_a_call_before(dtype, factor):
    """At 1e-20 float32 wrote out of bounds; at 1e-9 the cost was twice the optimum, with a gap of 0."""
    r = normals()
    a, b = r((4, 5, 3)).astype(dtype), r((5, 3)).astype(dtype)
    d = np.zeros((4, 5))
    m = cbk.assign(a, b, duals=d).match
    a, b = (part * np.array(factor, dtype) for part in (a, b))
    result = cbk.assign(a, b, match=m[::-1].copy(), duals=d, certificate=True)
    scales.check(a, b, result, scales.SLACK[dtype])


def test_saturated_tanh():
    """In float32 it stayed at 0.99999964, its slope at 7.2e-7."""
    z = np.array([8, 9, 20, -8, -9, -20], np.float32)
    for path in ulps.PATHS:
        truth = np.tanh(z.astype(float))
        assert ulps.ulps(ulps.values("tanh", z, path), truth, np.float32).max() <= 2
        slope = 1 / np.cosh(z.astype(float)) ** 2
        np.testing.assert_allclose(ulps.slopes("tanh", z, path), slope, rtol=1e-5)


def test_saturated_weights_stay(dtype):
    """50 steps of Adam pulled them from 20 to 18.3."""
    net = cbk.TwoLayer(1, 8, 1, activation="tanh", scaling="none")
    theta = np.full((1, net.size), 20, dtype)
    theta[0, net.width : 2 * net.width] = 0  # biases
    start, x = theta, np.linspace(1, 2, 30, dtype=dtype)[:, None]
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    for step in range(50):
        gradient = cbk.risk_gradient(net, theta, x, np.zeros_like(x))[1]
        hidden = slice(0, 2 * net.width)  # weights and biases in front of tanh
        assert np.abs(gradient[0, hidden]).max() < 1e-12
        theta = cbk.adam_update(theta, gradient, first, second, step=step + 1)
    assert np.abs(theta - start)[0, hidden].max() < 1e-2


def test_sinkhorn_far_apart():
    x, y = np.array([0.0, 5, 0])[None, :, None] * 1e7, np.array([3.0, 2, 3])[:, None] * 1e7
    result = cbk.sinkhorn(x, y)
    assert result.cost[0] >= cbk.assign(x, y).cost[0]
    np.testing.assert_allclose(result.projection[0, :, 0], [2.5e7, 3e7, 2.5e7], rtol=1e-3)


def test_sinkhorn_on_a_line():
    """The cost was below the exact optimum in 343 of 6000 runs that had converged."""
    r = normals()
    x, y = r((6000, 8, 1)), r((8, 1))
    best = np.square(np.sort(x[:, :, 0]) - np.sort(y[:, 0])).mean(1)
    result = cbk.sinkhorn(x, y, epsilon=0.1, iterations=2000, tolerance=0.01)
    assert (result.error <= 0.01).all()
    assert (result.cost >= best * (1 - 1e-13)).all()


def test_sinkhorn_of_large_clouds():
    """N(0, 1) 1e8, M = 20: 135 of 200 were wrong by more than 1 % and told an error of at most 1e-3."""
    r = normals()
    for _ in range(200):
        x, y = r((1, 20, 3)) * 1e8, r((20, 3)) * 1e8
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = cbk.sinkhorn(x, y, iterations=200)
        best = cbk.assign(x, y).cost[0]
        assert result.cost[0] >= best * (1 - 1e-13)
        assert result.cost[0] <= 1.01 * best or (result.error[0] > 1e-3 and caught)


@pytest.mark.parametrize(("theta", "floor"), [(1e20, 0.1), (1e-25, 1e-25), (1e37, 1e-30), (1e-37, 1e-37)])
def test_floors(theta, floor):
    """In float32 theta = 1e20 became infinite, and theta = 1e-25 with a floor of 1e-25 had no noise."""
    one, none = np.array([[theta]], np.float32), np.zeros(1, np.float32)
    found = cbk.cbo_update(one, none, drift=0.0, diffusion=1.0, dt=1.0, floor=floor, seed=1)[0, 0]
    noise = np.hypot(theta, floor) * float(cbk.standard_normal(1, 1, seed=1)[0, 0])
    assert found - theta == pytest.approx(noise, rel=1e-6, abs=1e-6 * theta)
    assert found != one[0, 0]


def test_costs_beyond_float64_have_no_nan():
    """At coordinates from 1e154 on the cost was infinite, and the gap NaN."""
    r = normals()
    a, b = r((4, 5, 3)), r((5, 3))
    for scale in (1e153, 1e154, 1e155, 1e300):
        scales.check(a * scale, b * scale, cbk.assign(a * scale, b * scale, certificate=True), 1e-9)


def test_an_isotropic_ensemble_that_flies_apart_is_told():
    """It went to 6e68 without a word."""
    rng = np.random.default_rng(0)
    method = cbk.CBO(noise="isotropic", diffusion=5.0, dt=0.1, alpha=1.0)
    with pytest.warns(cbk.CboWarning, match="flying apart"):
        result = cbk.minimize(lambda t: (t**2).sum(1), rng.standard_normal((50, 20)), method, steps=100)
    assert np.abs(result.particles).max() > 1e6
