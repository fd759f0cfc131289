"""A learning rate for each network of an ensemble: each goes where it would go alone."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import cbokernels as cbk

RNG = np.random.default_rng(4)
NET = cbk.TwoLayer(3, 40)  # a row is no multiple of a vector
X, Y = RNG.uniform(-1, 1, (60, 3)), RNG.normal(size=60)
RATES = np.array([0.3, 0.0, 0.01, 0.1, 1.0])


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("lr", [RATES, RATES.tolist(), tuple(RATES), RATES.astype("f4")], ids=repr)
def test_each_network_goes_as_if_alone(lr, decay, dtype):
    theta = NET.torch_default(5, seed=1, dtype=dtype)
    run = {"epochs": 4, "batch_size": 25, "seed": 2, "dtype": dtype, "weight_decay": decay}
    whole = cbk.train(NET, X, Y, cbk.Adam(particles=5, lr=lr), theta=theta, **run)
    for n, rate in enumerate(lr):
        alone = cbk.train(NET, X, Y, cbk.Adam(lr=float(rate)), theta=theta[n : n + 1], **run)
        np.testing.assert_array_equal(whole.particles[n], alone.particles[0])
        np.testing.assert_array_equal(whole.history["risks"][:, n], alone.history["risk"])
    again = cbk.train(NET, X, Y, cbk.Adam(particles=5, lr=lr), theta=theta, num_threads=3, **run)
    np.testing.assert_array_equal(again.particles, whole.particles)


def test_the_update(dtype):
    theta, gradient = RNG.normal(size=(2, 5, 20000)).astype(dtype)
    moments = np.zeros((2, *theta.shape), dtype)
    moved = cbk.adam_update(theta, gradient, *moments, step=3, lr=RATES)
    for n, rate in enumerate(RATES):
        own = np.zeros((2, 1, 20000), dtype)
        alone = cbk.adam_update(theta[n : n + 1], gradient[n : n + 1], *own, step=3, lr=float(rate))
        np.testing.assert_array_equal(moved[n], alone[0])
        np.testing.assert_array_equal(moments[:, n], own[:, 0])
    plain = cbk.reference.adam_update(theta, gradient, *np.zeros((2, *theta.shape)), step=3, lr=RATES)
    near = 2e-6 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(moved, plain, rtol=near, atol=near)
    if dtype == "float64":  # the rates may lie where the result goes
        shared = np.abs(theta)
        wanted = cbk.adam_update(shared, gradient, *np.zeros_like(moments), lr=shared[:, 0].copy())
        cbk.adam_update(shared, gradient, *np.zeros_like(moments), lr=shared[:, 0], out=shared)
        np.testing.assert_array_equal(shared, wanted)
    for lr, error, message in (
        (RATES[:3], ValueError, r"lr must have shape \[5\], got \[3\]"),
        (RATES.astype("f4"), TypeError, "lr must be float64, got float32"),
        (-RATES, ValueError, r"lr\[0\] must lie in \[0, inf\), got -0.3"),
        (np.full(5, np.inf), ValueError, r"lr\[0\] must lie in \[0, inf\), got inf"),
    ):
        with pytest.raises(error, match=message):
            cbk.adam_update(theta, gradient, *moments, lr=lr)


def test_checkpoints(tmp_path):
    run = {"batch_size": 25, "checkpoint": tmp_path / "run"}
    cbk.train(NET, X, Y, cbk.Adam(particles=5, lr=RATES), epochs=2, **run)
    later = cbk.train(NET, X, Y, cbk.Adam(particles=5, lr=RATES), epochs=5, resume=True, **run)
    whole = cbk.train(NET, X, Y, cbk.Adam(particles=5, lr=RATES), epochs=5, batch_size=25)
    np.testing.assert_array_equal(later.particles, whole.particles)
    with pytest.raises(ValueError, match=r"Adam.lr is \(0.3, .* in the checkpoint and \(0.6, .* now"):
        cbk.train(NET, X, Y, cbk.Adam(particles=5, lr=2 * RATES), epochs=5, resume=True, **run)


def test_parameters():
    """Methods stay hashable, comparable and what scikit-learn's `clone` takes."""
    method = cbk.Adam(particles=5, lr=RATES)
    assert method.lr == tuple(RATES)
    assert method == cbk.Adam(particles=5, lr=RATES.tolist())
    assert hash(method) == hash(pickle.loads(pickle.dumps(method)))
    assert method.set_params(beta1=0.8).lr is method.lr
    assert cbk.Adam(**method.get_params()).lr is method.lr
    assert cbk.Adam(lr=np.float32(0.1)).lr == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cbk.Adam(lr=[]), ValueError, "lr must be a number, a schedule or an array"),
        (lambda: cbk.Adam(lr=np.ones((2, 2))), ValueError, "lr must be a number, a schedule or an array"),
        (lambda: cbk.Adam(lr=["a"]), ValueError, "lr must be a number, a schedule or an array"),
        (lambda: cbk.Adam(lr=[0.1, -1.0]), ValueError, r"lr\[1\] must lie in \[0, inf\), got -1.0"),
        (lambda: cbk.Adam(lr=[0.1, np.nan]), ValueError, r"lr\[1\] must lie in"),
        (lambda: cbk.Adam(beta1=[0.1, 0.2]), TypeError, "beta1 must be a real number"),
        (lambda: cbk.HeavyBall(dt=(0.1, 0.2)), TypeError, "dt must be a real number"),
        (lambda: cbk.CBO(alpha=[0.1, 0.2]), TypeError, "alpha must be a real number"),
        (
            lambda: cbk.train(NET, X, Y, cbk.Adam(particles=4, lr=RATES), epochs=1),
            ValueError,
            "lr must have a rate for each of the 4 networks, got 5",
        ),
        (
            lambda: cbk.train(NET, X, Y, cbk.Adam(particles=5, lr=RATES), epochs=1, weight_decay=2.0),
            ValueError,
            "weight_decay times the step's rate must be at most 1, got 2",
        ),
    ],
)
def test_wrong_rates(make, error, message):
    with pytest.raises(error, match=message):
        make()
