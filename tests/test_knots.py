"""Risks of one-input ReLU networks from their knots, where that is cheaper, against the float64 reference."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
from losses import beside

import cbokernels as cbk
from cbokernels import _cpu, reference

SOME = slice(None, None, -3)  # of the particles, from the last on: every place in blocks of 2, 4, 8, ...


def inputs(kind, samples, rng):
    if kind == "normal":
        return rng.normal(size=samples)
    if kind == "repeated":
        return rng.integers(0, 5, samples).astype(float)
    if kind == "one value":
        return np.full(samples, 0.3)
    if kind == "clustered":
        return np.append(rng.random(samples - 1) * 1e-4, 1e3)
    if kind == "crowded":  # a dozen samples in each of few places, zeros of both signs among them
        return np.append(np.repeat(rng.normal(size=samples // 12), 12), [0.0, -0.0] * samples)[:samples]
    return rng.random(samples)


def ensemble(kind, net, rng):
    """So many that knots pay with any instruction set: an ensemble of narrow networks has to be large."""
    particles = max(60, 1800 // net.width)
    theta = rng.normal(size=(particles, net.size)).astype(np.float32)
    w, b, c, _ = net.unpack(theta)
    if kind == "constant neurons":
        w[:, ::2] = 0
    if kind == "zero":
        theta[:30] = 0
    if kind == "wild":
        theta *= rng.choice([1, 1e3, 1e6, 1e12], size=(particles, 1)).astype(np.float32)
    if kind == "out of reach":  # enormous, but active on no sample
        w[:, :10, 0], b[:, :10], c[:, 0, :10] = 1e10, -1e12, 1e15
        w[:, 10:20, 0], b[:, 10:20], c[:, 0, 10:20] = -1e10, -1e12, 1e15
    return theta


@pytest.mark.parametrize("samples", [450, 1025])
@pytest.mark.parametrize("width", [3, 100])
@pytest.mark.parametrize(
    ("x_kind", "theta_kind"),
    [
        ("uniform", "normal"),
        ("normal", "normal"),
        ("repeated", "normal"),
        ("one value", "normal"),
        ("clustered", "normal"),
        ("uniform", "constant neurons"),
        ("uniform", "zero"),
        ("uniform", "wild"),
        ("uniform", "out of reach"),
    ],
)
@pytest.mark.parametrize("output_bias", [False, True])
def test_against_the_reference(x_kind, theta_kind, width, samples, output_bias):
    rng = np.random.default_rng([width, samples])
    net = cbk.TwoLayer(1, width, 1, output_bias=output_bias)
    theta = ensemble(theta_kind, net, rng)
    x = inputs(x_kind, samples, rng).astype(np.float32)[:, None]
    y = np.sin(6 * x[:, 0])
    assert cbk.plan(net, len(theta), samples).path == "knots"
    result = cbk.risk(net, theta, x, y)
    # of one sample the residual may be as small as float32's rounding of the output
    atol = 1e-6 if x_kind == "one value" else 0
    np.testing.assert_allclose(result[SOME], reference.risk(net, theta[SOME], x, y), rtol=3e-6, atol=atol)
    np.testing.assert_array_equal(result, cbk.risk(net, theta, x, y, num_threads=1))


X_KINDS = ("uniform", "normal", "repeated", "clustered")
THETA_KINDS = ("normal", "constant neurons", "zero", "wild", "out of reach")
COMMON = beside(THETA_KINDS, X_KINDS)


@pytest.mark.parametrize("width", [3, 100])
@pytest.mark.parametrize(
    ("theta_kind", "x_kind"),
    [
        pytest.param(*pair, marks=[] if pair in COMMON else [pytest.mark.slow])
        for pair in itertools.product(THETA_KINDS, X_KINDS)
    ],
)
@pytest.mark.parametrize("output_bias", [False, True])
def test_gradients_against_the_reference(x_kind, theta_kind, width, output_bias):
    rng = np.random.default_rng([width, 5])
    net = cbk.TwoLayer(1, width, 1, output_bias=output_bias)
    theta = ensemble(theta_kind, net, rng)
    x = inputs(x_kind, 900, rng).astype(np.float32)[:, None]
    y = np.sin(6 * x[:, 0])
    risks, gradients = cbk.risk_gradient(net, theta, x, y)
    for one, two in zip((risks, gradients), cbk.risk_gradient(net, theta, x, y, num_threads=1), strict=True):
        np.testing.assert_array_equal(one, two)
    expected, slopes = reference.risk_gradient(net, theta[SOME], x, y)
    risks, gradients = risks[SOME], gradients[SOME]
    np.testing.assert_allclose(risks, expected, rtol=3e-6)
    fits = np.abs(slopes) < np.finfo(np.float32).max
    assert np.isinf(gradients[~fits]).all()
    largest = np.abs(slopes).max(axis=1, keepdims=True, where=fits, initial=0)
    assert (np.abs(gradients - slopes) <= 3e-6 * largest)[fits].all()


@pytest.mark.parametrize("exact", [True, False])
def test_gradients_with_samples_at_the_knots(exact):
    """A sample at the rounded knot is active, inactive or, with derivative 0, neither."""
    rng = np.random.default_rng(6)
    net = cbk.TwoLayer(1, 40, 1)
    theta = net.uniform(50, seed=7)
    w, b, _, _ = net.unpack(theta)
    if exact:
        w[:], b[:] = rng.choice([-1, -0.5, 0.5, 1], w.shape), np.round(b * 16) / 16
    knots = (-b / w[..., 0]).ravel()
    x = np.append(rng.random(300), rng.choice(knots[np.abs(knots) < 4], 700)).astype(np.float32)[:, None]
    y = np.sin(6 * x[:, 0])
    _, gradients = cbk.risk_gradient(net, theta, x, y)
    _, slopes = reference.risk_gradient(net, theta, x, y)
    largest = np.abs(slopes).max(axis=1, keepdims=True)
    assert (np.abs(gradients - slopes) <= 3e-7 * largest).all()


@pytest.mark.parametrize("samples", [12, 20, 64])
@pytest.mark.parametrize("x_kind", ["uniform", "repeated", "clustered"])
def test_gradients_of_small_batches(x_kind, samples):
    """A pass over so few samples costs more than knots, for what it does once for each neuron."""
    rng = np.random.default_rng(samples)
    net = cbk.TwoLayer(1, 40, 1)
    theta = ensemble("normal", net, rng)
    x = inputs(x_kind, samples, rng).astype(np.float32)[:, None]
    y = np.sin(6 * x[:, 0])
    risks, gradients = cbk.risk_gradient(net, theta, x, y)
    np.testing.assert_allclose(risks, reference.risk(net, theta, x, y), rtol=3e-6)
    _, slopes = reference.risk_gradient(net, theta, x, y)
    assert (np.abs(gradients - slopes) <= 3e-6 * np.abs(slopes).max(axis=1, keepdims=True)).all()
    # sums between knots do not know a batch's order, and a pass adds it up in turn
    np.testing.assert_allclose(cbk.risk_gradient(net, theta, x[::-1], y[::-1])[0], risks, rtol=1e-9)


@pytest.mark.parametrize("samples", [450, 4096, 4097])
@pytest.mark.parametrize("x_kind", ["uniform", "repeated", "clustered", "crowded"])
def test_the_order_of_a_batch_is_of_no_consequence(x_kind, samples):
    rng = np.random.default_rng(samples)
    net = cbk.TwoLayer(1, 40, 1)
    theta = ensemble("normal", net, rng)
    x = inputs(x_kind, samples, rng).astype(np.float32)[:, None]
    y = np.sin(6 * x[:, 0])
    assert cbk.plan(net, len(theta), samples).path == "knots"
    expected, slopes = cbk.risk_gradient(net, theta, x, y, num_threads=1)
    np.testing.assert_allclose(expected, reference.risk(net, theta, x, y), rtol=3e-6)
    for order in (np.argsort(x[:, 0]), np.argsort(-x[:, 0]), rng.permutation(samples)):
        risks, gradients = cbk.risk_gradient(net, theta, x[order], y[order])
        np.testing.assert_allclose(risks, expected, rtol=1e-9)
        np.testing.assert_allclose(gradients, slopes, rtol=1e-4, atol=1e-6 * np.abs(slopes).max())
        np.testing.assert_allclose(cbk.risk(net, theta, x[order], y[order]), expected, rtol=1e-9)
    for num_threads in (2, 3):
        risks, gradients = cbk.risk_gradient(net, theta, x, y, num_threads=num_threads)
        np.testing.assert_array_equal(risks, expected)
        np.testing.assert_array_equal(gradients, slopes)
        np.testing.assert_array_equal(cbk.risk(net, theta, x, y, num_threads=num_threads), expected)


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_inputs_that_are_not_finite(value):
    net = cbk.TwoLayer(1, 100, 1)
    theta = net.uniform(60, seed=1)
    x = np.linspace(-1, 1, 300, dtype=np.float32)[:, None]
    for place in (0, 17, 299):
        wild = x.copy()
        wild[place] = value
        assert not np.isfinite(cbk.risk(net, theta, wild, x[:, 0])).any()


@pytest.mark.parametrize("tasks", [2, 16, 37])
def test_tasks(tasks):
    rng = np.random.default_rng(1)
    net = cbk.TwoLayer(1, 100, 1, output_bias=True)
    theta, x = net.uniform(50, seed=2), rng.random((800, 1)).astype(np.float32)
    ys = rng.normal(size=(tasks, 800)).astype(np.float32)
    result = cbk.task_risks(net, theta, x, ys)
    np.testing.assert_allclose(result, reference.task_risks(net, theta, x, ys), rtol=1e-6)
    np.testing.assert_array_equal(result, cbk.task_risks(net, theta, x, ys, num_threads=1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("own_x", [False, True])
@pytest.mark.parametrize("kind", ["knots", "declined", "labels"])
def test_each_network_on_its_own_task(kind, own_x, dtype):
    rng = np.random.default_rng(8)
    net = cbk.TwoLayer(1, 30, 1) if kind != "labels" else cbk.TwoLayer(3, 5, 4)
    theta = net.uniform(9, seed=9, dtype=dtype)
    if kind == "declined":
        theta *= rng.choice([1, 1e6], size=(9, 1)).astype(dtype)
    x = rng.random((9, 600, net.inputs)).astype(dtype)
    ys = (
        rng.integers(0, 4, (9, 600)).astype(np.int32)
        if kind == "labels"
        else rng.normal(size=(9, 600, 1)).astype(dtype)
    )
    loss = "cross_entropy" if kind == "labels" else "mse"
    out = np.empty(9)
    _cpu.own_risks(net._kernel, theta, x if own_x else x[0], ys, loss, out, 0)
    expected = [
        reference.risk(net, theta[t : t + 1], x[t if own_x else 0], ys[t], loss=loss)[0] for t in range(9)
    ]
    np.testing.assert_allclose(out, expected, rtol=3e-6 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 9, 10, 19, 20, 29])
def test_parameters_that_are_not_finite(value, place):
    """Infinite neurons that are active nowhere give NaN in the reference too: 0 times infinity."""
    rng = np.random.default_rng(3)
    net = cbk.TwoLayer(1, 10, 1)
    theta = net.uniform(400, seed=4)
    theta[::3, place] = value
    x = rng.random((900, 1)).astype(np.float32)
    y = x[:, 0].copy()
    with np.errstate(all="ignore"):
        expected = reference.risk(net, theta, x, y)
    result = cbk.risk(net, theta, x, y)
    np.testing.assert_array_equal(np.isfinite(result), np.isfinite(expected))
    finite = np.isfinite(expected)
    np.testing.assert_allclose(result[finite], expected[finite], rtol=3e-6)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_can_go_on():
    net = cbk.TwoLayer(1, 100, 1)
    theta = net.uniform(200, seed=0)
    x = np.linspace(0, 1, 800, dtype=np.float32)[:, None]
    expected = cbk.risk(net, theta, x, x[:, 0].copy(), num_threads=2)
    child = os.fork()
    if child == 0:
        same = np.array_equal(expected, cbk.risk(net, theta, x, x[:, 0].copy(), num_threads=2))
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
