"""The objective for CBXpy against the risks of single networks, and in one of its dynamics."""

from __future__ import annotations

import contextlib
import io
import pickle

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels.cbx import objective

NET = cbk.TwoLayer(2, 6, 3, "tanh")
RNG = np.random.default_rng(5)
X, Y, LABELS = RNG.normal(size=(30, 2)), RNG.normal(size=(30, 3)), RNG.integers(0, 3, 30)
PARTICLES = RNG.uniform(-1, 1, (2, 5, NET.size))
TARGETS = {"mse": Y, "cross_entropy": LABELS}


@pytest.mark.parametrize("loss", TARGETS)
def test_risks_are_those_of_single_networks(loss, dtype):
    particles = PARTICLES.astype(dtype)
    found = objective(NET, X, TARGETS[loss], loss=loss)(particles)
    assert found.shape == (2, 5)
    assert found.dtype == np.float64
    for m, n in np.ndindex(2, 5):
        expected = cbk.reference.risk(NET, PARTICLES[m, n][None], X, TARGETS[loss], loss=loss)[0]
        assert found[m, n] == pytest.approx(expected, rel=1e-5 if dtype == "float32" else 1e-12)


def test_any_number_of_axes():
    f = objective(NET, X, Y)
    expected = f(PARTICLES)
    np.testing.assert_array_equal(f(PARTICLES[1]), expected[1])
    np.testing.assert_array_equal(f(PARTICLES[1, 2]), expected[1, 2])
    np.testing.assert_array_equal(
        f(PARTICLES[:, ::2]), expected[:, ::2]
    )  # what CBXpy passes for some particles
    np.testing.assert_array_equal(f(PARTICLES[None]), expected[None])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(f))(PARTICLES), expected)


def test_data_of_any_kind_are_read_once():
    expected = objective(NET, X.astype("f4"), Y)(PARTICLES)
    for x in (X.astype("f4").tolist(), X.astype("f4").astype("f8")):
        np.testing.assert_array_equal(objective(NET, x, Y.tolist())(PARTICLES), expected)
    whole = np.rint(10 * X)
    half = objective(NET, whole.astype("f2"), np.rint(Y).astype(int))(PARTICLES)
    np.testing.assert_array_equal(half, objective(NET, whole, np.rint(Y))(PARTICLES))


def test_tensors_give_tensors():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    found = objective(NET, X, torch.from_numpy(Y))(torch.from_numpy(PARTICLES))
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found.numpy(), objective(NET, X, Y)(PARTICLES))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"particles must have shape \[\.\.\., 36\], got \[2, 5, 35\]"):
        objective(NET, X, Y)(PARTICLES[..., 1:])
    with pytest.raises(TypeError, match="particles must be an array, got list"):
        objective(NET, X, Y)(PARTICLES.tolist())
    with pytest.raises(ValueError, match="loss must be one of 'mse'"):
        objective(NET, X, Y, loss="square")
    with pytest.raises(TypeError, match="net must be a"):
        objective("net", X, Y)
    with pytest.raises(ValueError, match=r"y must have shape \[30, 3\], got \[29, 3\]"):
        objective(NET, X, Y[1:])(PARTICLES)


def test_a_dynamic_of_cbxpy():
    """Two runs of CBXpy's own CBO on the risk, whose best energies are the risks of the best particles."""
    dynamics = pytest.importorskip("cbx.dynamics", reason="CBXpy is not installed")
    net = cbk.TwoLayer(1, 10, 1, "tanh")
    x = np.linspace(-1, 1, 40)[:, None]
    y = np.tanh(2 * x[:, 0])
    f = objective(net, x, y)
    np.random.seed(0)  # noqa: NPY002 - CBXpy draws from NumPy's global generator
    start = net.uniform(100, seed=1, dtype="float64").reshape(2, 50, net.size)
    with contextlib.redirect_stdout(io.StringIO()):
        run = dynamics.CBO(f, f_dim="3D", x=start, max_it=60, verbosity=0, seed=2)
        best = run.optimize()
    assert best.shape == (2, net.size)
    for m in range(2):
        expected = cbk.reference.risk(net, best[m][None], x, y)[0]
        assert run.best_energy[m] == pytest.approx(expected, rel=1e-9)
        assert expected < 0.3 * f(start[m]).min()


def test_weights_and_losses_of_ones_own():
    weights = np.arange(30.0)
    found = objective(NET, X, Y, sample_weight=weights.tolist())(PARTICLES.astype("f4"))
    flat = PARTICLES.reshape(-1, NET.size)
    expected = cbk.reference.risk(NET, flat, X, Y, sample_weight=weights)
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5)

    def largest(outputs, y):
        return np.abs(outputs - y).max(axis=(1, 2))

    found = objective(NET, X, Y, loss=largest)(PARTICLES)
    np.testing.assert_allclose(found.ravel(), largest(cbk.reference.forward(NET, flat, X), Y), rtol=1e-12)

    def wrong(outputs, labels):
        return (outputs.argmax(axis=2) != labels).mean(axis=1)

    found = objective(NET, X, LABELS, loss=wrong)(PARTICLES)
    np.testing.assert_array_equal(found, objective(NET, X, LABELS, loss="zero_one")(PARTICLES))
