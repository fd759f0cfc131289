"""barycenter, transport_update and distances of ensembles: theorems, limits and the reference."""

from __future__ import annotations

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels import reference


def ensemble(particles, count, size, dtype, seed=0):
    return (
        np.random.default_rng([seed, particles, count, size])
        .normal(size=(particles, count, size))
        .astype(dtype)
    )


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (7, 20, 3), (4, 33, 5)])
@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_barycenter_is_the_reference(shape, iterations, dtype):
    x = ensemble(*shape, dtype)
    weights = np.random.default_rng(1).random(shape[0])
    ours = cbk.barycenter(x, weights, iterations=iterations)
    plain = reference.barycenter(x, weights, iterations=iterations)
    np.testing.assert_array_equal(ours.match, plain.match)
    np.testing.assert_allclose(ours.support, plain.support, atol=3e-6 if dtype == "float32" else 1e-13)
    np.testing.assert_allclose(ours.history, plain.history[: len(ours.history)], rtol=1e-6)
    assert ours.support.dtype == dtype
    assert isinstance(ours.objective, float)
    assert ours.history[-1] == ours.objective


def test_objective_never_increases(dtype):
    x = ensemble(12, 40, 3, dtype)
    weights = np.random.default_rng(2).random(12)
    result = cbk.barycenter(x, weights, support=ensemble(1, 40, 3, dtype, seed=9)[0], iterations=50)
    assert len(result.history) > 3
    assert (np.diff(result.history) <= 1e-6 * result.history[0]).all()
    again = cbk.barycenter(x, weights, support=result.support, iterations=3)
    assert again.objective <= result.objective * (1 + 1e-6)


def test_two_diracs_meet_in_the_middle(dtype):
    x = np.array([[[-1.0]], [[1.0]]], dtype)
    result = cbk.barycenter(x, np.ones(2))
    assert result.support.item() == 0
    assert result.objective == 1


def test_one_particle_is_its_own_barycenter(dtype):
    x = ensemble(5, 30, 3, dtype)
    result = cbk.barycenter(x[:1], np.array([3.0]))
    np.testing.assert_array_equal(result.support, x[0])
    assert result.objective == 0
    weights = np.array([0.0, 0.0, 2.0, 0.0, 0.0])
    far = cbk.barycenter(x, weights, support=x[4])
    np.testing.assert_array_equal(np.sort(far.support, axis=0), np.sort(x[2], axis=0))
    assert far.objective == 0
    np.testing.assert_array_equal(far.match, cbk.assign(x, x[4]).match)


def test_one_atom_is_plain_consensus(dtype):
    x = ensemble(20, 1, 4, dtype)
    plain = cbk.consensus(x[:, 0], np.random.default_rng(3).random(20), alpha=5.0)
    result = cbk.barycenter(x, plain.weights)
    np.testing.assert_allclose(result.support[0], plain.point, rtol=1e-6)
    moved = cbk.transport_update(x, result.support, result.match, seed=4, step=2)
    expected = cbk.cbo_update(
        x[:, 0], result.support[0], seed=4, step=2, noise="additive", diffusion=1.2**0.5
    )
    np.testing.assert_array_equal(moved[:, 0], expected)


@pytest.mark.parametrize("dt", [0.1, 0.5, 1.0])
def test_variance_contracts_at_the_proven_rate(dt):
    x = ensemble(10, 20, 3, "float64")
    weights = np.ones(10)
    result = cbk.barycenter(x, weights)
    before = result.objective / 2
    for _ in range(15):
        x = cbk.transport_update(x, result.support, result.match, dt=dt, diffusion=0.0)
        result = cbk.barycenter(x, weights, support=result.support)
        after = result.objective / 2
        assert after <= (1 - dt) ** 2 * before + 1e-9
        before = after


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 3), (3, 100, 3), (2, 2000, 7), (9, 16, 1)])
def test_update_is_the_reference(shape, dtype):
    x, y = ensemble(*shape, dtype), ensemble(1, *shape[1:], dtype)[0]
    rng = np.random.default_rng(5)
    match = np.stack([rng.permutation(shape[1]) for _ in range(shape[0])])
    arguments = {"drift": 0.9, "diffusion": 1.1, "dt": 0.2, "seed": 11, "step": 3, "first_particle": 2}
    result = cbk.transport_update(x, y, match, **arguments)
    truth = reference.transport_update(x, y, match, **arguments)
    np.testing.assert_allclose(result, truth, atol=5e-6 if dtype == "float32" else 1e-13)
    out = x.copy()
    assert cbk.transport_update(out, y, match, out=out, num_threads=3, **arguments) is out
    np.testing.assert_array_equal(out, result)


def test_noise_is_standard_normal(dtype):
    x = np.zeros((4, 30, 3), dtype)
    match = np.tile(np.arange(30), (4, 1))
    moved = cbk.transport_update(
        x, x[0], match, drift=0.0, diffusion=1.0, dt=1.0, seed=3, step=9, first_particle=5
    )
    xi = cbk.standard_normal(4, 90, seed=3, step=9, first_particle=5, dtype=dtype)
    np.testing.assert_array_equal(moved.reshape(4, 90), xi)


def test_distances_are_the_reference(dtype):
    a, b = ensemble(4, 12, 3, dtype), ensemble(4, 12, 3, dtype, seed=1)
    distances = cbk.wasserstein2(a, b[:3])
    assert distances.shape == (4, 3)
    np.testing.assert_allclose(distances, reference.wasserstein2(a, b[:3]), rtol=1e-6)
    both = cbk.wasserstein_over_wasserstein(a, b)
    assert isinstance(both, float)
    assert both == pytest.approx(reference.wasserstein_over_wasserstein(a, b), rel=1e-6)
    assert cbk.wasserstein_over_wasserstein(a, a[::-1]) == 0
