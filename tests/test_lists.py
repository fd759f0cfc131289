"""Batches with many zeros, whose zeros are skipped where enough particles share them."""

from __future__ import annotations

import numpy as np
import pytest
from losses import beside

import cbokernels as cbk
from cbokernels import reference
from cbokernels._kinds import ACTIVATIONS

DENSITIES = (0.0, 0.01, 0.1, 0.3, 0.45, 0.6)
SOME = slice(None, None, -7)  # of the particles, from the last on: every place in blocks of 2, 4, 8, ...


def batch(samples, inputs, density, seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(samples, inputs)) * (rng.random((samples, inputs)) < density)).astype(dtype)


def agree(net, theta, x, y, loss, tolerance):
    exact = reference.risk(net, theta[SOME], x, y, loss=loss)
    np.testing.assert_allclose(cbk.risk(net, theta, x, y, loss=loss)[SOME], exact, rtol=tolerance)
    exact = reference.forward(net, theta[SOME], x)
    assert np.abs(cbk.forward(net, theta, x)[SOME] - exact).max() <= tolerance * 20


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("width", [1, 3, 20, 33, 100])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 3e-6), (np.float64, 1e-13)])
def test_risks_and_outputs_whatever_the_density(density, width, dtype, tolerance):
    net = cbk.TwoLayer(101, width, 3, output_bias=True)
    theta = net.uniform(259, seed=width, dtype=dtype)
    x = batch(67, 101, density, 5, dtype)
    labels = np.random.default_rng(6).integers(0, 3, 67)
    agree(net, theta, x, labels, "cross_entropy", tolerance)


@pytest.mark.parametrize(("activation", "samples"), beside(ACTIVATIONS, [1, 15, 16, 17, 127, 128, 129, 300]))
def test_odd_numbers_of_samples(activation, samples):
    net = cbk.TwoLayer(784, 20, 2, activation=activation)
    theta = net.uniform(128, seed=1)
    y = np.random.default_rng(samples).normal(size=(samples, 2)).astype("f")
    agree(net, theta, batch(samples, 784, 0.19, samples), y, "mse", 1e-5)


def test_tasks_share_the_lists():
    net = cbk.TwoLayer(200, 20, 1)
    theta, x = net.uniform(200, seed=2), batch(90, 200, 0.1, 3)
    ys = np.random.default_rng(4).normal(size=(5, 90)).astype("f")
    exact = reference.task_risks(net, theta, x, ys)
    np.testing.assert_allclose(cbk.task_risks(net, theta, x, ys), exact, rtol=3e-6)


def test_the_same_bits_for_any_number_of_threads():
    net = cbk.TwoLayer(784, 20, 10)
    theta, x = net.uniform(400, seed=2), batch(500, 784, 0.19, 3)
    y = np.random.default_rng(4).integers(0, 10, 500)
    one, *others = (cbk.risk(net, theta, x, y, loss="cross_entropy", num_threads=n) for n in (1, 2, 3, 7))
    for other in others:
        np.testing.assert_array_equal(one, other)


def test_nan_is_not_a_zero_and_a_skipped_zero_hides_infinity():
    net = cbk.TwoLayer(400, 20, 1)
    theta = net.uniform(300, seed=2)
    assert cbk.plan(net, 300, 40, density=0.1).path == "lists"
    x = batch(40, 400, 0.1, 3)
    x[:, 7] = 0
    y = np.zeros(40, np.float32)
    usual = cbk.risk(net, theta, x, y)
    theta[5, 7] = np.inf  # the first neuron's weight of input 7, which is 0 throughout
    np.testing.assert_array_equal(cbk.risk(net, theta, x, y), usual)
    x[3, 50] = np.nan
    assert np.isnan(cbk.risk(net, theta, x, y)).all()


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("width", [3, 20, 33])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-6), (np.float64, 1e-14)])
def test_gradients_whatever_the_density(density, width, dtype, tolerance):
    net = cbk.TwoLayer(101, width, 3, activation="tanh", output_bias=True)
    theta = net.uniform(259, seed=width, dtype=dtype)
    x = batch(150, 101, density, 5, dtype)
    labels = np.random.default_rng(6).integers(0, 3, 150)
    risks, gradient = cbk.risk_gradient(net, theta, x, labels, loss="cross_entropy")
    exact, slopes = reference.risk_gradient(net, theta[SOME], x, labels, loss="cross_entropy")
    np.testing.assert_allclose(risks[SOME], exact, rtol=tolerance)
    assert np.abs(gradient[SOME] - slopes).max() <= tolerance * np.abs(slopes).max()


def test_gradients_in_several_chunks_and_threads():
    net = cbk.TwoLayer(128, 20, 1)
    theta, x = net.uniform(300, seed=2), batch(2500, 128, 0.05, 3)
    y = np.random.default_rng(4).normal(size=2500).astype("f")
    risks, gradient = cbk.risk_gradient(net, theta, x, y, num_threads=1)
    exact, slopes = reference.risk_gradient(net, theta[SOME], x, y)
    np.testing.assert_allclose(risks[SOME], exact, rtol=2e-6)
    assert np.abs(gradient[SOME] - slopes).max() <= 2e-6 * np.abs(slopes).max()
    for threads in (2, 5):
        again = cbk.risk_gradient(net, theta, x, y, num_threads=threads)
        np.testing.assert_array_equal(again[0], risks)
        np.testing.assert_array_equal(again[1], gradient)
