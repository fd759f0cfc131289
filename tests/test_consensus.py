"""Gibbs weights and the consensus point: exact weights, limits of alpha, tasks, risks that are not finite."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turns import in_turn

import cbokernels as cbk
from cbokernels import _cpu, reference

POINT_ERROR = {"float32": 1.5e-7, "float64": 1e-14}


def exact_weights(risk, alpha):
    """Weights from the exact differences of the given doubles."""
    least = Fraction(min(risk))
    weights = [math.exp(-float(Fraction(alpha) * (Fraction(r) - least))) for r in risk]
    total = math.fsum(weights)
    return np.array(weights) / total


def ensemble(particles, size, dtype, *, tasks=None, seed=0):
    rng = np.random.default_rng([seed, particles, size])
    theta = rng.normal(size=(particles, size)).astype(dtype)
    return theta, rng.random(particles if tasks is None else (particles, tasks))


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e6, -1e6])
@pytest.mark.parametrize("particles", [2, 50, 1001])
def test_weights_are_exact_at_large_alpha(particles, offset, dtype):
    rng = np.random.default_rng(particles)
    theta = rng.normal(size=(particles, 3)).astype(dtype)
    risk = offset + 1e-7 * rng.integers(0, 60, particles)
    result = cbk.consensus(theta, risk, alpha=1e7)
    weights = exact_weights(risk, 1e7)
    np.testing.assert_allclose(result.weights, weights, rtol=1e-9, atol=0)
    assert result.ess == pytest.approx(1 / (weights**2).sum(), rel=1e-9)
    assert result.weights.sum() == pytest.approx(1, abs=1e-13)


@given(
    risk=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40),
    alpha=st.floats(0, 1e8),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_any_risks(risk, alpha, dtype):
    theta, _ = ensemble(len(risk), 5, dtype)
    result = cbk.consensus(theta, np.array(risk), alpha=alpha)
    weights = exact_weights(risk, alpha)
    np.testing.assert_allclose(result.weights, weights, rtol=1e-9, atol=1e-300)
    truth = weights @ theta.astype(float)
    np.testing.assert_allclose(result.point, truth, rtol=0, atol=POINT_ERROR[dtype] * 4)
    expected = reference.consensus(theta, np.array(risk), alpha=alpha)
    np.testing.assert_allclose(result.weights, expected.weights, rtol=1e-12, atol=1e-300)
    assert result.ess == pytest.approx(expected.ess, rel=1e-12)


@pytest.mark.parametrize("particles", [1, 2, 7, 12, 15, 16, 17, 200])
@in_turn("alpha", [0.0, 3.0, 1e5])
@in_turn("size", [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 257, 1023, 1024, 1025, 15910])
def test_point_is_the_weighted_mean(particles, size, alpha, dtype):
    theta, risk = ensemble(particles, size, dtype)
    result = cbk.consensus(theta, risk, alpha=alpha)
    assert result.point.shape == (size,)
    assert result.point.dtype == dtype
    assert result.weights.shape == (particles,)
    assert result.weights.dtype == np.float64
    assert type(result.ess) is float
    truth = result.weights @ theta.astype(float)
    assert np.abs(result.point - truth).max() <= POINT_ERROR[dtype] * np.abs(theta).max()


@pytest.mark.parametrize(
    ("particles", "size"), [*[(n, d) for n in (3, 601) for d in (1, 2, 3, 8, 9, 20, 32, 33)], (70_003, 3)]
)
def test_rows_side_by_side_do_not_touch(particles, size, dtype):
    """Short rows are read as whole vectors: what stands beside a row has no part in its sum."""
    theta, risk = ensemble(particles, size, dtype, tasks=3)
    risk[:, 1] *= 0.01
    lost = np.random.default_rng(size).permutation(particles)[: particles // 3]
    risk[lost], theta[lost] = math.nan, np.tile([math.nan, math.inf], size)[:size]
    with pytest.warns(cbk.CboWarning, match=f"{len(lost)} of {particles} particles"):
        result = cbk.consensus(theta, risk, alpha=300.0)
    theta[lost] = 0
    for t in range(3):
        weights = np.exp(-300 * (risk[:, t] - np.nanmin(risk[:, t])))
        weights = np.where(np.isfinite(weights), weights, 0)
        weights /= math.fsum(weights)
        np.testing.assert_allclose(result.weights[:, t], weights, rtol=1e-13, atol=0)
        assert result.ess[t] == pytest.approx(1 / math.fsum(weights**2), rel=1e-13)
        truth = [math.fsum(column) for column in (weights[:, None] * theta).T]
        np.testing.assert_allclose(
            result.point[t], truth, rtol=0, atol=POINT_ERROR[dtype] * np.abs(theta).max()
        )
        if t != 1:
            continue
        with pytest.warns(cbk.CboWarning):
            single = cbk.consensus(theta, risk[:, t].copy(), alpha=300.0)
        np.testing.assert_array_equal(single.point, result.point[t])
        np.testing.assert_array_equal(single.weights, result.weights[:, t])


def test_weights_down_to_the_smallest_number():
    """Each exponential to its last digit but one, and below the normal numbers to their smallest step."""
    exponent = np.concatenate(
        [[0.0], np.linspace(40, 760, 2011), [708.39, 708.4, 744.4, 745.1, 745.2, 746.0]]
    )
    weights = cbk.consensus(np.zeros((len(exponent), 1)), exponent, alpha=1.0).weights
    expected = np.array([math.exp(-x) for x in exponent])
    assert math.fsum(expected) == 1  # nothing is lost in a division
    np.testing.assert_allclose(weights, expected, rtol=3e-16, atol=5e-324)
    assert (weights[exponent >= 746] == 0).all()


def test_is_a_tuple_with_names(dtype):
    theta, risk = ensemble(4, 3, dtype)
    result = cbk.consensus(theta, risk)
    point, weights, ess = result
    assert point is result.point
    assert weights is result.weights
    assert ess is result.ess
    assert isinstance(result, tuple)
    assert type(result).__name__ == "Consensus"
    close = 1e-5 * risk  # so that all particles have a weight at the default alpha, 1e5
    np.testing.assert_array_equal(
        cbk.consensus(theta, close).weights, cbk.consensus(theta, close, alpha=1e5).weights
    )
    assert 1 < cbk.consensus(theta, close).ess < 4


def test_alpha_zero_is_the_mean(dtype):
    theta, risk = ensemble(10, 4, dtype)
    risk[:2] = -1e308, 1e308  # whose difference is no double
    result = cbk.consensus(theta, risk, alpha=0.0)
    np.testing.assert_allclose(result.weights, 0.1, rtol=1e-15)
    assert result.ess == pytest.approx(10)
    np.testing.assert_allclose(result.point, theta.mean(axis=0, dtype=float), atol=3e-7)


@pytest.mark.parametrize("winners", [[3], [0, 9], [1, 2, 5, 7]])
def test_alpha_infinity_is_the_mean_of_the_best(winners, dtype):
    theta, risk = ensemble(10, 4, dtype)
    risk[winners] = -0.25
    risk[8] = np.nextafter(-0.25, 0)  # all but equal is not equal
    result = cbk.consensus(theta, risk, alpha=math.inf)
    expected = np.zeros(10)
    expected[winners] = 1 / len(winners)
    np.testing.assert_array_equal(result.weights, expected)
    assert result.ess == pytest.approx(len(winners), rel=1e-15)
    np.testing.assert_allclose(result.point, theta[winners].mean(axis=0, dtype=float), rtol=2e-7)
    if len(winners) == 1:
        np.testing.assert_array_equal(result.point, theta[winners[0]])


def test_unshifted_weights_would_vanish(dtype):
    theta, _ = ensemble(3, 4, dtype)
    result = cbk.consensus(theta, np.array([1.0, 1.0, 2.0]), alpha=1e5)  # exp(-1e5) is 0
    np.testing.assert_array_equal(result.weights, [0.5, 0.5, 0])


@pytest.mark.parametrize("tasks", [1, 2, 5, 100])
def test_tasks_are_separate_consensus_points(tasks, dtype):
    theta, risk = ensemble(30, 19, dtype, tasks=tasks)
    result = cbk.consensus(theta, risk, alpha=20.0)
    assert result.point.shape == (tasks, 19)
    assert result.point.dtype == dtype
    assert result.weights.shape == (30, tasks)
    assert result.ess.shape == (tasks,)
    for t in range(tasks):
        single = cbk.consensus(theta, risk[:, t], alpha=20.0)
        np.testing.assert_allclose(result.point[t], single.point, rtol=0, atol=4 * POINT_ERROR[dtype])
        np.testing.assert_array_equal(result.weights[:, t], single.weights)
        assert result.ess[t] == single.ess


@pytest.mark.parametrize("alpha", [0.0, 40.0, math.inf])
@pytest.mark.parametrize("particles", [7, 8, 1002])
def test_tasks_have_the_bits_of_each_alone(particles, alpha):
    theta, risk = ensemble(particles, 3, "float64", tasks=7)
    risk = np.round(risk, 2)  # some are equal
    risk[::3, 1] = [math.nan, math.inf, -math.inf][particles % 3]
    with pytest.warns(cbk.CboWarning, match=f"{len(risk[::3])} of {particles} particles"):
        found = [cbk.consensus(theta, risk, alpha=alpha, num_threads=n) for n in (1, 2, 5)]
    for t in range(7):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", cbk.CboWarning)
            single = cbk.consensus(theta, risk[:, t].copy(), alpha=alpha)
        for result in found:
            np.testing.assert_array_equal(result.weights[:, t], single.weights)
            np.testing.assert_array_equal(result.point[t], single.point)
            assert result.ess[t] == single.ess


@pytest.mark.parametrize("shape", [(200, 300), (1000, 1901), (3, 100_003)])
def test_bits_do_not_depend_on_threads(shape, dtype):
    theta, risk = ensemble(*shape, dtype)
    one = cbk.consensus(theta, risk, alpha=2.0, num_threads=1)
    for num_threads in (2, 3, 5, None):
        again = cbk.consensus(theta, risk, alpha=2.0, num_threads=num_threads)
        np.testing.assert_array_equal(again.point, one.point)
        np.testing.assert_array_equal(again.weights, one.weights)
        assert again.ess == one.ess


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("alpha", [0.0, 5.0, 1e7, math.inf])
@pytest.mark.parametrize("function", [cbk.consensus, reference.consensus])
def test_particles_without_a_finite_risk_are_never_read(function, bad, alpha, dtype):
    theta, risk = ensemble(10, 6, dtype)
    risk[[2, 7, 8]] = bad
    theta[[2, 7, 8]] = np.nan
    keep = np.isfinite(risk)
    with pytest.warns(cbk.CboWarning, match="3 of 10 particles") as caught:
        result = function(theta, risk, alpha=alpha)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert (result.weights[~keep] == 0).all()
    rest = function(theta[keep], risk[keep], alpha=alpha)
    np.testing.assert_allclose(result.weights[keep], rest.weights, rtol=1e-14)
    np.testing.assert_allclose(result.point, rest.point, rtol=1e-6)


def test_particles_of_zero_weight_are_never_read(dtype):
    theta, risk = ensemble(5, 40, dtype)
    risk[:] = [1.0, 0.0, 2.0, 0.0, 3.0]
    theta[[0, 2, 4]] = np.nan
    for alpha in (1e5, math.inf):
        result = cbk.consensus(theta, risk, alpha=alpha)
        np.testing.assert_allclose(result.point, theta[[1, 3]].mean(axis=0, dtype=float), atol=3e-7)


def test_lost_particles_are_counted_once_over_tasks(dtype):
    theta, risk = ensemble(6, 3, dtype, tasks=3)
    risk[1] = math.nan
    risk[4, 2] = math.inf
    with pytest.warns(cbk.CboWarning, match="2 of 6 particles") as caught:
        result = cbk.consensus(theta, risk, alpha=1.0)
    assert len(caught) == 1
    assert (result.weights == 0).tolist() == (~np.isfinite(risk)).tolist()


def test_finite_risks_do_not_warn(dtype):
    theta, risk = ensemble(6, 3, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cbk.consensus(theta, risk)


@pytest.mark.parametrize("function", [cbk.consensus, reference.consensus])
def test_no_finite_risk_is_an_error(function, dtype):
    theta, risk = ensemble(4, 3, dtype, tasks=2)
    with pytest.raises(cbk.ConsensusError, match="finite risk"):
        function(theta, np.array([math.nan, math.inf, -math.inf, math.nan]))
    risk[:, 1] = math.nan
    with pytest.raises(cbk.CboError, match="finite risk"):
        function(theta, risk)


THETA, RISK = np.zeros((4, 3), "f4"), np.zeros(4)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"theta": THETA[0]}, ValueError, ["theta", "[N, D]", "[3]"]),
        ({"theta": THETA[:0], "risk": RISK[:0]}, ValueError, ["theta", "no size 0", "[0, 3]"]),
        ({"theta": THETA.astype(int)}, TypeError, ["theta", "float32 or float64", "int64"]),
        ({"risk": RISK[1:]}, ValueError, ["risk", "[4]", "[3]"]),
        ({"risk": RISK[None]}, ValueError, ["risk", "[4, T]", "[1, 4]"]),
        ({"risk": np.zeros((4, 0))}, ValueError, ["risk", "[4, T]", "no size 0", "[4, 0]"]),
        ({"risk": RISK.astype("f4")}, TypeError, ["risk must be float64, got float32"]),
        ({"risk": [0.0] * 4}, TypeError, ["risk", "array", "list"]),
        ({"alpha": -1.0}, ValueError, ["alpha", "[0, inf]", "-1.0"]),
        ({"alpha": math.nan}, ValueError, ["alpha", "[0, inf]", "nan"]),
        ({"alpha": True}, TypeError, ["alpha", "real", "True"]),
        ({"alpha": "1e5"}, TypeError, ["alpha", "real", "'1e5'"]),
        ({"alpha": 1j}, TypeError, ["alpha", "real", "1j"]),
        ({"num_threads": 0}, ValueError, ["num_threads", "[1, ", "got 0"]),
    ],
)
def test_wrong_arguments_are_named(change, error, words):
    with pytest.raises(error) as caught:
        cbk.consensus(**{"theta": THETA, "risk": RISK, **change})
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("alpha", [np.float32(2), np.float64(2), np.int64(2), 2, Fraction(2)])
def test_alpha_of_any_real_type(alpha):
    theta, risk = ensemble(4, 3, "float64")
    np.testing.assert_array_equal(
        cbk.consensus(theta, risk, alpha=alpha).weights, cbk.consensus(theta, risk, alpha=2.0).weights
    )


@pytest.mark.parametrize("kind", ["normal", "shifted", "first far away", "equal"])
@in_turn("particles", [1, 2, 7, 8, 9, 24, 203])
@in_turn("size", [1, 15, 16, 17, 1024, 2500])
def test_variance_is_the_two_pass_one(particles, size, kind, dtype):
    theta, _ = ensemble(particles, size, dtype)
    if kind == "shifted":
        theta += 100
    if kind == "first far away":
        theta[0] += 1e9
    if kind == "equal":
        theta[:] = 0.1
    wide = theta.astype(np.longdouble)
    truth = float(np.square(wide - wide.mean(axis=0)).sum() / (2 * particles))
    found = _cpu.variance(theta, 1)
    assert found == pytest.approx(truth, rel=1e-12, abs=1e-28 * size)
    assert _cpu.variance(theta, 3) == found


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_variance_of_what_is_not_finite_is_nan(bad, dtype):
    theta, _ = ensemble(20, 40, dtype)
    theta[13, 39] = bad
    assert math.isnan(_cpu.variance(theta, 1))
