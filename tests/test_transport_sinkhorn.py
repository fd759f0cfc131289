"""sinkhorn and sinkhorn_barycenter: the exact transport in the limit, its mass, the reference, arguments."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.spatial.distance import cdist

import cbokernels as cbk
from cbokernels import reference


def measures(particles, count, points, size, dtype="float64", seed=0):
    rng = np.random.default_rng([seed, particles, count, points, size])
    return rng.normal(size=(particles, count, size)).astype(dtype), rng.normal(size=(points, size)).astype(
        dtype
    )


@pytest.mark.parametrize("count", [2, 10, 33])
def test_tends_to_the_exact_transport(count):
    x, y = measures(3, count, count, 3)
    exact, farthest = cbk.assign(x, y), max(cdist(a, y, "sqeuclidean").max() for a in x)
    excess = []
    for epsilon in (1.0, 0.1, 0.01):
        result = cbk.sinkhorn(x, y, epsilon=epsilon, tolerance=1e-4, iterations=50000)
        # mass that is misplaced changes the cost by its amount times a distance at most
        rest = result.error * farthest
        assert (rest < 0.05).all()
        assert (result.cost >= exact.cost * (1 - 1e-12)).all()
        # the entropy of a coupling is at most log M above a permutation's
        assert (result.cost <= exact.cost + epsilon * np.log(count) + rest).all()
        excess.append((result.cost - exact.cost).max())
    assert excess[2] < 0.05 * excess[0] + 1e-3


def test_close_measures_are_projected_on_their_partners(dtype):
    _, y = measures(1, 30, 30, 3, dtype)
    order = np.random.default_rng(1).permutation(30)
    x = (y[order] + 0.01).astype(dtype)
    np.testing.assert_allclose(cbk.sinkhorn(x[None], y, epsilon=1e-3).projection[0], y[order], atol=1e-3)


@pytest.mark.parametrize("shape", [(2, 7, 7, 3), (1, 20, 13, 2), (3, 1, 5, 1), (2, 5, 1, 4), (1, 40, 64, 20)])
@pytest.mark.parametrize("epsilon", [1.0, 3.0, 100.0])
def test_is_the_reference(shape, epsilon, dtype):
    x, y = measures(*shape, dtype)
    arguments = {"epsilon": epsilon, "tolerance": 1e-8, "iterations": 5000}
    ours, plain = cbk.sinkhorn(x, y, **arguments), reference.sinkhorn(x, y, **arguments)
    assert (ours.error <= 1e-8).all()
    np.testing.assert_allclose(ours.cost, plain.cost, rtol=1e-6)
    assert ours.projection.dtype == dtype
    np.testing.assert_allclose(ours.projection, plain.projection, atol=1e-5)


def test_large_epsilon_forgets_the_pairing():
    x, y = measures(2, 30, 20, 3)
    result = cbk.sinkhorn(x, y, epsilon=1e6)
    np.testing.assert_allclose(result.projection, np.broadcast_to(y.mean(axis=0), x.shape), atol=1e-4)


def test_units_and_offsets(dtype):
    x, y = measures(2, 30, 30, 3, dtype)
    plain = cbk.sinkhorn(x, y, epsilon=1.0, tolerance=1e-8)
    scaled = cbk.sinkhorn(x * 1024, y * 1024, epsilon=1024.0**2, tolerance=1e-8)
    np.testing.assert_allclose(scaled.cost, plain.cost * 1024**2, rtol=1e-6)
    moved = cbk.sinkhorn(x + 64, y + 64, epsilon=1.0, tolerance=1e-8)
    np.testing.assert_allclose(moved.cost, plain.cost, rtol=1e-3 if dtype == "float32" else 1e-6)


def test_bits_do_not_depend_on_threads(dtype):
    x, y = measures(2, 200, 150, 3, dtype)
    one = cbk.sinkhorn(x, y, epsilon=0.1, num_threads=1)
    for num_threads in (2, 3, None):
        for a, b in zip(cbk.sinkhorn(x, y, epsilon=0.1, num_threads=num_threads), one, strict=True):
            np.testing.assert_array_equal(a, b)


def test_iterations_are_bounded():
    x, y = measures(1, 50, 50, 3)
    for iterations in (1, 2, 30):
        with pytest.warns(cbk.CboWarning, match=f"1 of 1 couplings .* at most {iterations} iterations"):
            result = cbk.sinkhorn(x, y, epsilon=1e-4, iterations=iterations, tolerance=0.0)
        assert result.error[0] > 0


def test_no_cost_is_below_the_optimum(dtype):
    """Whatever the error: on the line sorting couples best. A projection's mean is the support's."""
    rng = np.random.default_rng(11)
    for _ in range(150):
        count, epsilon, iterations = (
            rng.integers(2, 12),
            10 ** rng.uniform(-3, 0),
            int(rng.choice([1, 5, 1000])),
        )
        x, y = measures(1, count, count, 1, dtype, seed=int(rng.integers(1 << 30)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", cbk.CboWarning)
            result = cbk.sinkhorn(x, y, epsilon=epsilon, iterations=iterations)
        best = np.square(np.sort(x[0, :, 0].astype(float)) - np.sort(y[:, 0].astype(float))).mean()
        assert result.cost[0] >= best * (1 - 1e-13)
        assert result.projection.mean() == pytest.approx(y.mean(), abs=1e-6 if dtype == "float32" else 1e-13)


def test_huge_coordinates():
    """The entropy is below what float64 holds: the two atoms at 0 share their partners equally."""
    x, y = np.array([[[0.0], [5.0], [0.0]]]) * 1e7, np.array([[3.0], [2.0], [3.0]]) * 1e7
    result = cbk.sinkhorn(x, y)
    np.testing.assert_allclose(result.cost, 17e14 / 3, rtol=1e-3)
    np.testing.assert_allclose(result.projection[0, :, 0], [2.5e7, 3e7, 2.5e7], rtol=1e-3)
    assert result.cost[0] >= cbk.assign(x, y).cost[0] * (1 - 1e-14)
    assert 0 < result.error[0] <= 1e-3


def test_what_converges_at_large_scales_is_right():
    converged = 0
    for seed in range(40):
        x, y = (1e8 * a for a in measures(1, 20, 20, 3, seed=seed))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = cbk.sinkhorn(x, y)
        best = cbk.assign(x, y).cost
        assert (result.cost >= best * (1 - 1e-13)).all()
        assert bool(caught) == (result.error[0] > 1e-3)
        if not caught:
            converged += 1
            assert (result.cost <= 1.01 * best).all()
    assert converged > 5


@pytest.mark.parametrize("exponent", [-150, -40, 40, 150, 300])
def test_any_scale_and_offset(exponent):
    x, y = measures(2, 12, 9, 3)
    plain = cbk.sinkhorn(x, y, epsilon=1.0, tolerance=1e-8)
    unit = 2.0**exponent
    for offset in (0.0, 2.0**20):
        moved = cbk.sinkhorn((x + offset) * unit, (y + offset) * unit, epsilon=unit * unit, tolerance=1e-8)
        np.testing.assert_allclose(moved.cost, plain.cost * unit * unit, rtol=1e-8)
        np.testing.assert_allclose(moved.projection / unit - offset, plain.projection, atol=1e-8)
    # epsilon beyond all distances couples independently; below them all, as the exact assignment
    tiny, huge = cbk.sinkhorn(x * 1e-300, y * 1e-300), 1e200
    np.testing.assert_allclose(tiny.projection[0], np.broadcast_to(y.mean(0) * 1e-300, (12, 3)), rtol=1e-9)
    x, y = measures(1, 6, 6, 1)
    order = np.argsort(np.argsort(x[0, :, 0]))
    far = cbk.sinkhorn(x * huge, y * huge, tolerance=0.1, iterations=20000)
    np.testing.assert_allclose(far.projection[0, :, 0] / huge, np.sort(y[:, 0])[order], atol=0.2)
    assert far.cost[0] == np.inf


def test_one_point_costs_nothing(dtype):
    result = cbk.sinkhorn(np.full((1, 4, 2), 3e5, dtype), np.full((5, 2), 3e5, dtype))
    assert result.cost[0] == 0
    assert result.error[0] <= 1e-12
    np.testing.assert_array_equal(result.projection, np.full((1, 4, 2), 3e5))


def test_barycenters_tell_their_errors():
    x, _ = measures(3, 12, 12, 2)
    weights = np.array([1.0, 0.0, 2.0])
    with pytest.warns(cbk.CboWarning, match="of 3 couplings"):
        result = cbk.sinkhorn_barycenter(x, weights, epsilon=0.01, tolerance=0.0)
    assert result.error.shape == (3,)
    assert result.error[1] == 0
    assert result.error.max() > 0
    assert (cbk.sinkhorn_barycenter(x, weights, epsilon=1.0).error <= 1e-3).all()


def test_barycenter_tends_to_the_exact_one(dtype):
    x, _ = measures(4, 12, 12, 2, dtype, seed=2)
    weights = np.array([0.4, 0.3, 0.2, 0.1])
    exact = cbk.barycenter(x, weights)
    soft, error = cbk.sinkhorn_barycenter(x, weights, epsilon=1e-4, tolerance=0.02)
    assert (error <= 0.02).all()
    assert soft.dtype == dtype
    np.testing.assert_allclose(soft, exact.support, atol=2e-2)
    plain = reference.sinkhorn_barycenter(x, weights, epsilon=1.0, tolerance=1e-8, iterations=2)
    ours = cbk.sinkhorn_barycenter(x, weights, epsilon=1.0, tolerance=1e-8, iterations=2)
    np.testing.assert_allclose(ours.support, plain.support, atol=1e-5)
    assert (np.maximum(ours.error, plain.error) <= 1e-8).all()
    few = cbk.sinkhorn_barycenter(x, weights, support=x[0, :5], epsilon=0.1)
    assert few.support.shape == (5, 2)
    assert few.error.shape == (4,)


X, Y = np.zeros((2, 4, 3)), np.zeros((5, 3))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"atoms": X[0]}, ValueError, ["atoms", "[N, M, K]"]),
        ({"support": Y[:, 1:]}, ValueError, ["support", "[M', 3]", "[5, 2]"]),
        ({"support": Y + np.inf}, ValueError, ["support must be finite"]),
        ({"support": Y.astype("f4")}, TypeError, ["support", "float64 as atoms are"]),
        ({"epsilon": 0.0}, ValueError, ["epsilon must lie in (0, inf), got 0.0"]),
        ({"epsilon": np.inf}, ValueError, ["epsilon must lie in (0, inf), got inf"]),
        ({"epsilon": np.nan}, ValueError, ["epsilon must lie in (0, inf), got nan"]),
        ({"iterations": 0}, ValueError, ["iterations", "0"]),
        ({"tolerance": -1.0}, ValueError, ["tolerance", "-1"]),
        ({"num_threads": 0}, ValueError, ["num_threads", "0"]),
    ],
)
def test_wrong_arguments_are_named(change, error, words):
    with pytest.raises(error) as caught:
        cbk.sinkhorn(**{"atoms": X, "support": Y, **change})
    for word in words:
        assert word in str(caught.value)
