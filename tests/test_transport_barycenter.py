"""barycenter, transport_update and distances of ensembles: theorems, limits and the reference."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

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


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1),
        (5, 7, 3),
        (3, 100, 3),
        (2, 2000, 7),
        (9, 16, 1),
        (600, 1, 2),
        (600, 2, 1),
        (200, 3, 4),
        (99, 4, 5),
    ],
)
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


def test_fresh_distances_contract_too():
    # V with solved W2 and barycenters iterated to the end.
    x = ensemble(8, 15, 2, "float64", seed=6)
    weights, previous = np.ones(8), None
    center = None
    for _ in range(8):
        result = cbk.barycenter(x, weights, support=center, iterations=200)
        center = result.support
        variance = cbk.wasserstein2(x, center[None]).mean() / 2
        if previous is not None:
            assert variance <= 0.9**2 * previous + 1e-9
        previous = variance
        x = cbk.transport_update(x, center, result.match, dt=0.1, diffusion=0.0)


def test_order_of_the_neurons_does_not_matter(dtype):
    x = ensemble(6, 40, 3, dtype, seed=7)
    rng = np.random.default_rng(7)
    shuffled = np.stack([a[rng.permutation(40)] for a in x])
    weights, start = rng.random(6), ensemble(1, 40, 3, dtype, seed=8)[0]
    first = cbk.barycenter(x, weights, support=start, iterations=4)
    second = cbk.barycenter(shuffled, weights, support=start, iterations=4)
    np.testing.assert_array_equal(second.support, first.support)
    np.testing.assert_allclose(second.history, first.history, rtol=1e-12)


def test_heaviest_particle_is_the_start(dtype):
    x = ensemble(4, 10, 3, dtype)
    result = cbk.barycenter(x, np.array([1.0, 3.0, 3.0, 2.0]))
    np.testing.assert_array_equal(result.match[1], np.arange(10))
    from_first = cbk.barycenter(x, np.array([1.0, 3.0, 3.0, 2.0]), support=x[1])
    np.testing.assert_array_equal(from_first.support, result.support)
    # weights are normalised, however large or small
    for scale in (1e-300, 1e300):
        again = cbk.barycenter(x, scale * np.array([1.0, 3.0, 3.0, 2.0]))
        np.testing.assert_allclose(again.support, result.support, rtol=1e-6)


def test_objective_is_that_of_the_result(dtype):
    x = ensemble(5, 25, 3, dtype)
    weights = np.array([0.1, 0.0, 0.4, 0.3, 0.2])
    result = cbk.barycenter(x, weights, iterations=2)
    distances = ((x.astype(float) - result.support[result.match].astype(float)) ** 2).sum(-1).mean(-1)
    assert result.objective == pytest.approx(weights @ distances, rel=1e-6)
    moved = np.take_along_axis(x, np.argsort(result.match, axis=1)[..., None], axis=1)
    np.testing.assert_allclose(result.support, np.tensordot(weights, moved, 1), atol=1e-6)


def test_bits_do_not_depend_on_threads(dtype):
    x = ensemble(9, 60, 3, dtype)
    weights = np.random.default_rng(4).random(9)
    one = cbk.barycenter(x, weights, iterations=4, num_threads=1)
    moved = cbk.transport_update(x, one.support, one.match, num_threads=1)
    distances = cbk.wasserstein2(x, x[:4], num_threads=1)
    for num_threads in (2, 3, None):
        again = cbk.barycenter(x, weights, iterations=4, num_threads=num_threads)
        for a, b in zip(again, one, strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(
            cbk.transport_update(x, one.support, one.match, num_threads=num_threads), moved
        )
        np.testing.assert_array_equal(cbk.wasserstein2(x, x[:4], num_threads=num_threads), distances)


@pytest.mark.parametrize("where", ["same", "ahead", "behind", "reversed", "support"])
def test_overlapping_out_changes_nothing(where, dtype):
    n, m, k = 4, 9, 3
    buffer = np.random.default_rng(5).normal(size=3 * n * m * k).astype(dtype)
    block = lambda start: buffer[start : start + n * m * k].reshape(n, m, k)  # noqa: E731
    x, y = block(m), buffer[-m * k :].reshape(m, k)
    out = {
        "same": x,
        "ahead": block(m + 1),
        "behind": block(0),
        "reversed": x[::-1],
        "support": block(2 * n * m * k),
    }[where]
    match = cbk.assign(x.copy(), y.copy()).match
    expected = cbk.transport_update(x.copy(), y.copy(), match, seed=2)
    assert cbk.transport_update(x, y, match, seed=2, out=out) is out
    np.testing.assert_array_equal(out, expected)


def test_distance_of_ensembles_is_an_assignment_of_particles():
    a, b = ensemble(6, 8, 2, "float64"), ensemble(6, 8, 2, "float64", seed=3)
    costs = cbk.wasserstein2(a, b)
    rows, columns = linear_sum_assignment(costs)
    assert cbk.wasserstein_over_wasserstein(a, b) == pytest.approx(costs[rows, columns].mean(), rel=1e-12)
    shuffled = b[np.random.default_rng(0).permutation(6)]
    assert cbk.wasserstein_over_wasserstein(a, shuffled) == pytest.approx(
        cbk.wasserstein_over_wasserstein(a, b), rel=1e-12
    )
    np.testing.assert_allclose(cbk.wasserstein2(a, a), cbk.wasserstein2(a, a).T, rtol=1e-12)


X, W = np.zeros((3, 4, 2), "f4"), np.ones(3)
MATCH = np.tile(np.arange(4), (3, 1))


def spoiled(a, index, value):
    a = a.copy()
    a[index] = value
    return a


SPOILED = X.copy()
SPOILED[2, 1, 1] = np.inf


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: cbk.barycenter(X[0], W), ValueError, ["atoms", "[N, M, K]", "[4, 2]"]),
        (lambda: cbk.barycenter(SPOILED, W), ValueError, ["atoms must be finite", "inf", "[2, 1, 1]"]),
        (lambda: cbk.barycenter(X, W[1:]), ValueError, ["weights", "[3]", "[2]"]),
        (lambda: cbk.barycenter(X, W.astype("f4")), TypeError, ["weights", "float64", "float32"]),
        (
            lambda: cbk.barycenter(X, np.array([1, -2.0, 1])),
            ValueError,
            ["weights", "negative", "-2.0 at [1]"],
        ),
        (
            lambda: cbk.barycenter(X, np.array([1, 2, np.nan])),
            ValueError,
            ["weights", "finite", "nan at [2]"],
        ),
        (lambda: cbk.barycenter(X, np.zeros(3)), ValueError, ["weights", "positive sum", "3 zeros"]),
        (lambda: cbk.barycenter(X, W, support=X[0, 1:]), ValueError, ["support", "[4, 2]", "[3, 2]"]),
        (lambda: cbk.barycenter(X, W, support=SPOILED[2]), ValueError, ["support must be finite", "inf"]),
        (lambda: cbk.barycenter(X, W, iterations=0), ValueError, ["iterations", "[1, 2^31)", "0"]),
        (lambda: cbk.barycenter(X, W, iterations=1.0), TypeError, ["iterations", "integer", "1.0"]),
        (lambda: cbk.transport_update(X, X[0], MATCH[:2]), ValueError, ["match", "[3, 4]", "[2, 4]"]),
        (lambda: cbk.transport_update(X, X[0], 0 * MATCH), ValueError, ["match", "permutation", "row 0"]),
        (lambda: cbk.transport_update(X, X[0], MATCH, dt=-1.0), ValueError, ["dt", "-1"]),
        (lambda: cbk.transport_update(X, X[0], MATCH, diffusion=np.nan), ValueError, ["diffusion", "nan"]),
        (
            lambda: cbk.transport_update(spoiled(X, (1, 2, 0), np.nan), X[0], MATCH),
            ValueError,
            ["atoms must be finite", "nan", "[1, 2, 0]"],
        ),
        (
            lambda: cbk.transport_update(X, spoiled(X[0], (3, 1), np.inf), MATCH),
            ValueError,
            ["support must be finite", "inf", "[3, 1]"],
        ),
        (lambda: cbk.transport_update(X, X[0], MATCH, step=-1), ValueError, ["step", "-1"]),
        (lambda: cbk.transport_update(X, X[0], MATCH, out=X[0]), ValueError, ["out", "[3, 4, 2]", "[4, 2]"]),
        (lambda: cbk.wasserstein2(X, X[:, 1:]), ValueError, ["atoms_b", "[N', 4, 2]", "[3, 3, 2]"]),
        (lambda: cbk.wasserstein2(X, X.astype("f8")), TypeError, ["atoms_b must be float32 as atoms_a are"]),
        (lambda: cbk.wasserstein2(SPOILED, X), ValueError, ["atoms_a must be finite", "inf"]),
        (lambda: cbk.wasserstein_over_wasserstein(X, X[1:]), ValueError, ["atoms_b", "3", "2"]),
    ],
)
def test_wrong_arguments_are_named(call, error, words):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


def test_tensors_in_tensors_out(dtype):
    torch = pytest.importorskip("torch")
    x = ensemble(3, 10, 2, dtype)
    plain = cbk.barycenter(x, np.ones(3))
    result = cbk.barycenter(torch.from_numpy(x), torch.ones(3, dtype=torch.float64))
    assert isinstance(result.objective, float)
    for a, b in zip(result, plain, strict=True):
        np.testing.assert_array_equal(np.asarray(a), b)
    moved = cbk.transport_update(torch.from_numpy(x), result.support, result.match, seed=1)
    assert isinstance(moved, torch.Tensor)
    np.testing.assert_array_equal(moved.numpy(), cbk.transport_update(x, plain.support, plain.match, seed=1))


NAMES = {
    "assign": ["atoms", "support"],
    "barycenter": ["atoms", "weights"],
    "transport_update": ["atoms", "support", "match"],
    "wasserstein2": ["atoms_a", "atoms_b"],
    "wasserstein_over_wasserstein": ["atoms_a", "atoms_b"],
    "sinkhorn": ["atoms", "support"],
    "sinkhorn_barycenter": ["atoms", "weights"],
}


@pytest.mark.parametrize("name", NAMES)
def test_everything_after_the_arrays_is_keyword_only(name):
    kernel, plain = (inspect.signature(getattr(m, name)).parameters for m in (cbk, reference))
    assert [p for p in kernel if kernel[p].kind is not inspect.Parameter.KEYWORD_ONLY] == NAMES[name]
    assert set(plain) == set(kernel) - {"out", "num_threads"}
    assert all((plain[p].kind, plain[p].default) == (kernel[p].kind, kernel[p].default) for p in plain)
