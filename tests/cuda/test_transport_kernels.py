"""Assignments, barycenters and transport steps on the GPU: SciPy, the reference, and the CPU's bits."""

from __future__ import annotations

import numpy as np
import pytest
from libraries import EXACT, host, numbers, put

import cbokernels as cbk
from cbokernels import reference


@pytest.mark.parametrize("count", [1, 2, 9, 40, 65])
def test_assignments_are_optimal(cuda, dtype, count):
    from scipy.optimize import linear_sum_assignment

    atoms, support = numbers((2, count, 3), dtype), numbers((count, 3), dtype, 1)
    if count > 2:
        atoms[1, : count // 4] = atoms[1, 0]  # equal rows, and equal columns
        support[1] = support[0]
    result = cbk.assign(put(atoms), put(support))
    for x, match, cost in zip(atoms.astype(float), host(result.match), host(result.cost), strict=True):
        costs = ((x[:, None] - support.astype(float)) ** 2).sum(-1)
        best = costs[linear_sum_assignment(costs)].mean()
        np.testing.assert_array_equal(np.sort(match), np.arange(count))
        np.testing.assert_allclose(costs[np.arange(count), match].mean(), best, rtol=1e-13)
        np.testing.assert_allclose(cost, best, rtol=1e-13)


def test_distances_of_measures(cuda, dtype):
    a, b = numbers((3, 6, 2), dtype), numbers((2, 6, 2), dtype, 1)
    result = host(cbk.wasserstein2(put(a), put(b)))
    np.testing.assert_allclose(result, reference.wasserstein2(a, b), rtol=1e-13)


def test_assignments_follow_guesses_and_prices(cuda, dtype):
    """Among equally good assignments the guess decides; a start from the last optimum stays there."""
    line = np.zeros((2, 4, 2), dtype)
    line[:, :2, 0] = line[:, 2:, 0] = [0, 1]
    support = line[0].copy()
    for guess in ([0, 1, 2, 3], [2, 3, 0, 1], [0, 3, 2, 1]):
        match = np.array([guess] * 2)
        result = cbk.assign(put(line), put(support), match=put(match))
        np.testing.assert_array_equal(host(result.match), match)
        np.testing.assert_array_equal(match, [guess] * 2)  # the caller's own stays

    atoms, support = numbers((3, 30, 3), dtype), numbers((30, 3), dtype, 1)
    prices = put(np.zeros((3, 30)))
    first = cbk.assign(put(atoms), put(support), duals=prices, certificate=True)
    assert np.abs(host(first.gap)).max() <= 1e-14 * host(first.cost).max()
    assert np.abs(host(prices)).max() > 0
    costs = ((atoms[:, :, None].astype(float) - support.astype(float)) ** 2).sum(-1)
    dual = (costs - host(prices)[:, None]).min(2).mean(1) + host(prices).mean(1)
    np.testing.assert_allclose(
        dual, host(first.cost), rtol=1e-13
    )  # no assignment costs less than any prices' bound
    again = cbk.assign(put(atoms), put(support), match=first.match, duals=prices, certificate=True)
    np.testing.assert_array_equal(host(again.match), host(first.match))
    moved = put((atoms + 0.05 * numbers(atoms.shape, dtype, 2)).astype(dtype))
    warm = cbk.assign(moved, put(support), match=first.match, duals=prices, certificate=True)
    cold = cbk.assign(moved, put(support))
    np.testing.assert_allclose(host(warm.cost), host(cold.cost), rtol=1e-13)
    assert np.abs(host(warm.gap)).max() <= 1e-14


@pytest.mark.parametrize("guess", [[0, 0, 0, 1], [-3, 7, 1, 0], [2**40, 0, 1, 2]], ids=str)
def test_guesses_that_are_no_permutations(cuda, guess):
    atoms, support = numbers((1, 4, 2), "float64"), numbers((4, 2), "float64", 1)
    result = cbk.assign(put(atoms), put(support), match=put(np.array([guess])))
    expected = cbk.assign(atoms, support)
    np.testing.assert_array_equal(host(result.match), expected.match)


def test_prices_that_are_not_finite(cuda):
    atoms, support = numbers((2, 4, 2), "float64"), numbers((4, 2), "float64", 1)
    prices = np.zeros((2, 4))
    prices[1] = np.nan
    result = cbk.assign(put(atoms), put(support), duals=put(prices), certificate=True)
    np.testing.assert_array_equal(np.isnan(host(result.cost)), [False, True])
    np.testing.assert_array_equal(np.isnan(host(result.gap)), [False, True])


@pytest.mark.parametrize("given", [False, True])
def test_barycenters(cuda, dtype, given):
    atoms, weights = numbers((7, 12, 3), dtype), np.array([0.2, 0, 1.5, 1.5, 0.1, 0, 0.3])
    support = numbers((12, 3), dtype, 1) if given else None
    expected = reference.barycenter(atoms, weights, support=support, iterations=3)
    on = None if support is None else put(support.copy())
    result = cbk.barycenter(put(atoms), put(weights), support=on, iterations=3)
    np.testing.assert_allclose(host(result.support), expected.support, rtol=0, atol=EXACT[dtype])
    np.testing.assert_array_equal(host(result.match), expected.match)
    assert host(result.history).shape == (3,)
    np.testing.assert_allclose(
        host(result.history)[: len(expected.history)], expected.history, rtol=EXACT[dtype]
    )
    assert host(result.objective).shape == ()
    assert host(result.objective) == host(result.history)[-1]
    assert (np.diff(host(result.history)) <= 1e-14).all()
    if given:
        np.testing.assert_array_equal(host(on), support)


@pytest.mark.parametrize("weights", [[0, 0, 0], [1, -1, 1], [1, np.nan, 1], [1, np.inf, 1]], ids=str)
def test_weights_that_are_no_weights(cuda, weights):
    atoms = numbers((3, 4, 2), "float64")
    result = cbk.barycenter(put(atoms), put(np.array(weights, float)))
    assert np.isnan(host(result.support)).all()
    assert np.isnan(host(result.objective))


def test_particles_of_weight_zero_do_not_move_barycenters(cuda, dtype):
    atoms = numbers((3, 5, 2), dtype)
    expected = cbk.barycenter(put(atoms[:2].copy()), put(np.array([1.0, 2.0])), iterations=2)
    atoms[2] = np.nan
    result = cbk.barycenter(put(atoms), put(np.array([1.0, 2.0, 0.0])), iterations=2)
    np.testing.assert_array_equal(host(result.support), host(expected.support))


def test_distances_of_ensembles(cuda, dtype):
    a, b = numbers((4, 6, 2), dtype), numbers((4, 6, 2), dtype, 1)
    result = cbk.wasserstein_over_wasserstein(put(a), put(b))
    assert type(result) is float
    assert result == pytest.approx(reference.wasserstein_over_wasserstein(a, b), rel=1e-13)


def test_assignments_that_memory_holds_elsewhere(cuda):
    atoms = numbers((1, 1200, 1), "float64")
    match = host(cbk.assign(put(atoms), put(np.sort(atoms[0], 0))).match)
    np.testing.assert_array_equal(match[0], np.argsort(np.argsort(atoms[0, :, 0])))


def test_atoms_that_are_not_finite(cuda, dtype):
    atoms, support = numbers((3, 5, 2), dtype), numbers((5, 2), dtype, 1)
    atoms[0, 2, 1], atoms[2, 4, 0] = np.nan, np.inf
    result = cbk.assign(put(atoms), put(support))
    np.testing.assert_array_equal(np.isnan(host(result.cost)), [True, False, True])
    np.testing.assert_array_equal(host(result.match)[0], np.arange(5))


@pytest.mark.parametrize("shape", [(4, 5, 3), (2, 8, 4), (1, 1, 1)], ids=str)
def test_transport_steps_are_the_cpus_bits(cuda, dtype, shape):
    atoms, support = numbers(shape, dtype), numbers(shape[1:], dtype, 1)
    match = np.stack([np.random.default_rng(n).permutation(shape[1]) for n in range(shape[0])])
    expected = cbk.transport_update(atoms, support, match, seed=3, step=4, first_particle=2)
    result = cbk.transport_update(put(atoms), put(support), put(match), seed=3, step=4, first_particle=2)
    np.testing.assert_array_equal(host(result), expected)


@pytest.mark.parametrize("shape", [(2, 7, 7, 3), (1, 12, 9, 2), (3, 1, 5, 1), (2, 5, 1, 4)], ids=str)
@pytest.mark.parametrize("epsilon", [3.0, 100.0])
def test_entropic_transport(cuda, dtype, shape, epsilon):
    """Beside the reference; float32 atoms are converted first."""
    particles, count, points, size = shape
    atoms, support = 3 * numbers((particles, count, size), dtype), numbers((points, size), dtype, 1)
    limits = {"epsilon": epsilon, "tolerance": 1e-8, "iterations": 5000}
    expected = reference.sinkhorn(atoms, support, **limits)
    result = cbk.sinkhorn(put(atoms), put(support), **limits)
    assert (host(result.error) <= 1e-8).all()
    np.testing.assert_allclose(host(result.cost), expected.cost, rtol=1e-6)
    assert host(result.projection).dtype == dtype
    np.testing.assert_allclose(host(result.projection), expected.projection, atol=1e-5)


def test_entropic_transport_stops_where_it_is_told(cuda):
    atoms, support = numbers((2, 8, 2), "float64"), numbers((8, 2), "float64", 1)
    atoms[0, 3, 1] = np.nan
    for iterations in (1, 2, 30):
        result = cbk.sinkhorn(put(atoms), put(support), epsilon=1e-3, tolerance=0.0, iterations=iterations)
        np.testing.assert_array_equal(np.isnan(host(result.cost)), [True, False])
        with pytest.warns(cbk.CboWarning, match="1 of 1 couplings"):
            expected = cbk.sinkhorn(atoms[1:], support, epsilon=1e-3, tolerance=0.0, iterations=iterations)
        np.testing.assert_allclose(host(result.error)[1:], expected.error, rtol=1e-8)
        np.testing.assert_allclose(host(result.cost)[1:], expected.cost, rtol=1e-9)
        np.testing.assert_allclose(host(result.projection)[1:], expected.projection, rtol=1e-9, atol=1e-12)


def test_entropic_transport_of_huge_coordinates(cuda):
    """Squares of the largest distances overflow; those that are coupled, and the cost, do not."""
    rng = np.random.default_rng(5)
    support = rng.uniform(-1, 1, (8, 3))
    atoms = support[None, ::-1] + 0.1 * rng.uniform(-1, 1, (2, 8, 3))
    plain = cbk.sinkhorn(put(atoms), put(support), epsilon=0.05, tolerance=1e-8)
    huge = 2.0**511
    scaled = cbk.sinkhorn(put(atoms * huge), put(support * huge), epsilon=0.05 * huge * huge, tolerance=1e-8)
    assert (host(plain.error) < 1e-3).all()
    np.testing.assert_allclose(host(scaled.error), host(plain.error), rtol=1e-9)
    np.testing.assert_allclose(host(scaled.cost), host(plain.cost) * huge * huge, rtol=1e-12)
    np.testing.assert_allclose(host(scaled.projection), host(plain.projection) * huge, rtol=1e-12)


@pytest.mark.parametrize("exponent", [-300, -150, 153, 155, 300])
def test_assignments_at_any_scale(cuda, exponent):
    atoms, support = numbers((2, 9, 3), "float64"), numbers((9, 3), "float64", 1)
    plain, scale = cbk.assign(atoms, support), 2.0 ** round(exponent / np.log10(2))
    prices = put(np.zeros((2, 9)))
    for _ in range(2):
        result = cbk.assign(put(atoms * scale), put(support * scale), duals=prices, certificate=True)
        np.testing.assert_array_equal(host(result.match), plain.match)
        with np.errstate(over="ignore"):
            np.testing.assert_allclose(host(result.cost), plain.cost * scale * scale, rtol=1e-13)
            assert (host(result.gap) <= 1e-14 * scale * scale).all()
        assert (host(result.gap) >= 0).all()
        assert np.isfinite(host(prices)).all()
    ours = cbk.barycenter(put(atoms * scale), put(np.ones(2)), iterations=3)
    expected = reference.barycenter(atoms, np.ones(2), iterations=3)
    np.testing.assert_array_equal(host(ours.match), expected.match)
    np.testing.assert_allclose(host(ours.support) / scale, expected.support, atol=1e-14)
    with np.errstate(over="ignore"):
        history = expected.history * scale * scale
    np.testing.assert_allclose(host(ours.history)[: len(history)], history, rtol=1e-13)


@pytest.mark.parametrize("factor", [1e-9, 1e-20])
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e30])
def test_prices_of_another_scale(cuda, dtype, factor, offset):
    atoms, support = numbers((4, 5, 3), dtype), numbers((5, 3), dtype, 1)
    prices = put(np.zeros((4, 5)))
    match = host(cbk.assign(put(atoms), put(support), duals=prices).match)
    far = put(host(prices) + offset)
    x, y = (a * np.array(factor, dtype) for a in (atoms, support))
    result = cbk.assign(put(x), put(y), match=put(match[::-1].copy()), duals=far, certificate=True)
    best = reference.assign(x, y).cost
    np.testing.assert_allclose(host(result.cost), best, rtol=1e-9)
    assert (host(result.gap) <= 1e-9 * best).all()


def test_distances_that_are_not_finite(cuda):
    atoms = numbers((3, 4, 2), "float64")
    atoms[1, 2, 0] = np.nan
    with pytest.raises(ValueError, match="atoms_a must be finite"):
        cbk.wasserstein_over_wasserstein(put(atoms), put(atoms))


def test_entropic_transport_tells_the_truth(cuda):
    """Where the entropy is below what float64 holds, and on the line, where sorting couples best."""
    x, y = np.array([[[0.0], [5.0], [0.0]]]) * 1e7, np.array([[3.0], [2.0], [3.0]]) * 1e7
    result = cbk.sinkhorn(put(x), put(y))
    np.testing.assert_allclose(host(result.cost), 17e14 / 3, rtol=1e-3)
    np.testing.assert_allclose(host(result.projection)[0, :, 0], [2.5e7, 3e7, 2.5e7], rtol=1e-3)
    for count in range(2, 10):
        x, y = numbers((5, count, 1), "float64"), numbers((count, 1), "float64", 1)
        best = np.square(np.sort(x[..., 0], axis=1) - np.sort(y[:, 0])).mean(1)
        for iterations in (1, 100):
            result = cbk.sinkhorn(put(x), put(y), epsilon=0.02, iterations=iterations)
            assert (host(result.cost) >= best * (1 - 1e-13)).all()
            means = host(result.projection).mean((1, 2))
            np.testing.assert_allclose(means, np.full(5, y.mean()), atol=1e-13)


@pytest.mark.parametrize("exponent", [-300, 300])
def test_entropic_transport_at_any_scale(cuda, exponent):
    atoms, support = numbers((2, 6, 3), "float64"), numbers((5, 3), "float64", 1)
    scale = 2.0**exponent
    plain = cbk.sinkhorn(put(atoms), put(support), epsilon=1.0, tolerance=1e-8)
    for offset in (0.0, 2.0**20):
        x, y = (atoms + offset) * scale, (support + offset) * scale
        moved = cbk.sinkhorn(put(x), put(y), epsilon=scale * scale, tolerance=1e-8)
        np.testing.assert_allclose(host(moved.cost), host(plain.cost) * scale * scale, rtol=1e-8)
        np.testing.assert_allclose(host(moved.projection) / scale - offset, host(plain.projection), atol=1e-8)
