"""Losses of every kind and weights of samples on CUDA kernels, beside the reference and the CPU's."""

from __future__ import annotations

import numpy as np
import pytest
from libraries import host, put
from losses import ALL, fits, targets

import cbokernels as cbk
from cbokernels import reference
from cbokernels._kinds import loss_of, takes_labels

pytestmark = pytest.mark.usefixtures("cuda")

TOLERANCE = {"float32": 6e-6, "float64": 1e-12}
# few inputs and one output, tiles of products, tensor cores where there are any
SHAPES = [(1, 12, 1), (4, 9, 1), (5, 9, 3), (70, 17, 10)]


def problem(shape, loss, dtype, samples=77):
    rng = np.random.default_rng([*shape, samples])
    net = cbk.TwoLayer(*shape, activation="tanh", output_bias=True)
    theta = rng.uniform(-1, 1, (4, net.size)).astype(dtype)
    x = (min(1.0, 5 / net.inputs**0.5) * rng.normal(size=(samples, net.inputs))).astype(dtype)
    y = targets(rng, loss, (samples,), net.outputs, dtype)
    w = (rng.exponential(size=samples) * (rng.random(samples) > 0.3)).astype(dtype)
    return net, theta, x, y, w


def error(result, expected):
    return np.abs(result - expected).max() / (np.abs(expected).max() or 1.0)


@pytest.mark.parametrize("loss", ALL, ids=repr)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_risks_and_gradients(shape, loss, dtype):
    if not fits(loss, shape[2]):
        return
    net, theta, x, y, w = problem(shape, loss, dtype)
    y32 = y.astype(np.int32) if takes_labels(loss_of(loss, net.outputs)) else y
    arrays = [put(a) for a in (theta, x, y32)]
    for weights in (None, w):
        options = {"loss": loss, "sample_weight": None if weights is None else put(weights)}
        plain = {"loss": loss, "sample_weight": weights}
        risk = host(cbk.risk(net, *arrays, **options))
        assert error(risk, reference.risk(net, theta, x, y, **plain)) < TOLERANCE[dtype]
        ys = np.stack([y32, y32[::-1]])
        risks = host(cbk.task_risks(net, *arrays[:2], put(ys), **options))
        assert error(risks, reference.task_risks(net, theta, x, ys, **plain)) < TOLERANCE[dtype]
        if loss == "zero_one":
            continue
        risk, gradient = map(host, cbk.risk_gradient(net, *arrays, **options))
        expected, slope = reference.risk_gradient(net, theta, x, y, **plain)
        assert error(risk, expected) < TOLERANCE[dtype]
        assert error(gradient, slope) < 2 * TOLERANCE[dtype]


@pytest.mark.parametrize("loss", ALL, ids=repr)
def test_atom_risks(loss, dtype):
    net, theta, x, y, w = problem((5, 9, 3 if fits(loss, 3) else 1), loss, dtype)
    y32 = y.astype(np.int32) if takes_labels(loss_of(loss, net.outputs)) else y
    arrays = [put(a) for a in (theta[0], theta[1:], x, y32)]
    for weights in (None, w):
        on = None if weights is None else put(weights)
        risks = host(cbk.atom_risks(net, *arrays, loss=loss, sample_weight=on))
        expected = reference.atom_risks(net, theta[0], theta[1:], x, y, loss=loss, sample_weight=weights)
        assert error(risks, expected) < TOLERANCE[dtype]


def test_many_samples_go_in_chunks():
    net, theta, x, y, w = problem((2, 3, 1), "mae", "float64", samples=9001)
    risk, gradient = map(
        host, cbk.risk_gradient(net, *map(put, (theta, x, y)), loss="mae", sample_weight=put(w))
    )
    expected, slope = reference.risk_gradient(net, theta, x, y, loss="mae", sample_weight=w)
    assert error(risk, expected) < 1e-12
    assert error(gradient, slope) < 1e-11


def test_labels_and_weights_that_are_none_make_the_risk_nan():
    net, theta, x, y, w = problem((4, 9, 1), "hinge", "float32")
    on = [put(theta), put(x)]
    late = y.astype(np.int32)
    late[7] = 2
    assert np.isnan(host(cbk.risk(net, *on, put(late), loss="hinge"))).all()
    for wrong in (-1.0, np.nan, np.inf):
        w[7] = wrong
        risk = host(cbk.risk(net, *on, put(y.astype(np.int32)), loss="hinge", sample_weight=put(w)))
        assert np.isnan(risk).all()
    zero = host(
        cbk.risk(net, *on, put(y.astype(np.int32)), loss="hinge", sample_weight=put(0 * np.ones_like(w)))
    )
    assert not zero.any()


METHODS = {
    "CBO": cbk.CBO(particles=20, alpha=10),
    "hopping": cbk.ConsensusHopping(particles=20, spread=0.1, lr=0.1),
    "atoms": cbk.ConsensusHopping(particles=20, scope="atom", spread=0.1, lr=0.1),
    "transport": cbk.TransportCBO(particles=10, alpha=10),
    "Adam": cbk.Adam(particles=2, lr=0.05),
    "Hybrid": cbk.Hybrid(particles=20),
    "HeavyBall": cbk.HeavyBall(particles=2, dt=0.1),
    "GradientFlow": cbk.GradientFlow(particles=2, dt=0.05),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("loss", ["mse", cbk.Huber(0.3), "logistic"], ids=repr)
def test_training_is_the_cpus(loss, method):
    net, _, x, y, w = problem((2, 6, 1), loss, "float64", samples=50)
    net = cbk.TwoLayer(2, 6, 1, activation="tanh")
    options = {"loss": loss, "epochs": 3, "dtype": "float64", "seed": 2, "validation": (x, y)}
    for weights in (None, w):
        for batch in (None, 20):
            run = {**options, "sample_weight": weights, "batch_size": batch}
            card = cbk.train(net, x, y, METHODS[method], device="cuda", **run)
            cpu = cbk.train(net, x, y, METHODS[method], **run)
            np.testing.assert_allclose(card.particles, cpu.particles, rtol=1e-6, atol=1e-8)
            for column in ("risk", "validation_risk"):
                np.testing.assert_allclose(card.history[column], cpu.history[column], rtol=1e-8)
