"""The CUDA kernels' logic on the host: NumPy in float64, and the CPU's bits where they must agree."""

from __future__ import annotations

import numpy as np
import pytest
from libraries import EXACT, array, host, numbers, put

import cbokernels as cbk
from cbokernels import reference

RUN = (0, 0, "float32")  # device, stream, precision


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 37, 300, 1026])
def test_normals_are_the_cpus_bits(cuda, dtype, size):
    out = put(np.empty((5, size), dtype))
    cuda.standard_normal(array(out), (2**63 + 7, 1, 3, 2**31), RUN)
    expected = cbk.standard_normal(
        5, size, seed=2**63 + 7, step=3, stream=1, first_particle=2**31, dtype=dtype
    )
    np.testing.assert_array_equal(host(out), expected)


def test_many_normals_are_the_cpus_bits(cuda, dtype):
    out = put(np.empty((64, 4096), dtype))
    cuda.standard_normal(array(out), (11, 0, 0, 0), RUN)
    np.testing.assert_array_equal(host(out), cbk.standard_normal(64, 4096, seed=11, dtype=dtype))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_order_of_threads_is_free(emulated, order):
    theta, risk = numbers((300, 7), "float32"), np.random.default_rng(1).uniform(size=300)
    expected = host(cbk.consensus(put(theta), put(risk), alpha=2.0).point)
    try:
        emulated.module.set_order(order)
        np.testing.assert_array_equal(host(cbk.consensus(put(theta), put(risk), alpha=2.0).point), expected)
    finally:
        emulated.module.set_order(0)


@pytest.mark.parametrize("size", [1, 6, 37, 64])
@pytest.mark.parametrize(
    "law",
    [{}, {"floor": 0.3}, {"noise": "additive"}, {"noise": "none"}, {"diffusion": 0.0}, {"first_particle": 9}],
    ids=str,
)
def test_updates_are_the_cpus_bits(cuda, dtype, law, size):
    theta, point = numbers((5, size), dtype), numbers(size, dtype, 1)
    expected = cbk.cbo_update(theta, point, seed=3, step=4, **law)
    result = cbk.cbo_update(put(theta), put(point), seed=3, step=4, **law)
    np.testing.assert_array_equal(host(result), expected)


@pytest.mark.parametrize("floor", [1e-25, 1e-100, 1e25])
def test_floors_of_any_size_are_the_cpus_bits(cuda, dtype, floor):
    theta = numbers((6, 16), dtype) * np.array([[0, 1e-30, 1e-25, 1, 1e20, 1e37]], dtype).T
    expected = cbk.cbo_update(theta, np.zeros(16, dtype), floor=floor, seed=3)
    result = cbk.cbo_update(put(theta), put(np.zeros(16, dtype)), floor=floor, seed=3)
    np.testing.assert_array_equal(host(result), expected)


@pytest.mark.parametrize("law", [{"noise": "isotropic"}, {"noise": "truncated", "radius": 5.0}], ids=str)
def test_updates_by_distance(cuda, dtype, law):
    theta, point = numbers((5, 37), dtype), numbers(37, dtype, 1)
    expected = reference.cbo_update(theta, point, seed=3, step=4, **law)
    result = cbk.cbo_update(put(theta), put(point), seed=3, step=4, **law)
    np.testing.assert_allclose(host(result), expected, rtol=0, atol=EXACT[dtype])


def test_updates_by_task(cuda, dtype):
    theta, points = numbers((5, 6), dtype), numbers((3, 6), dtype, 1)
    task = np.array([2, 0, 1, 1, 2])
    expected = cbk.cbo_update(theta, points, task=task, seed=3)
    result = cbk.cbo_update(put(theta), put(points), task=put(task), seed=3)
    np.testing.assert_array_equal(host(result), expected)
    for wrong in (3, -1):
        task[1] = wrong
        result = host(cbk.cbo_update(put(theta), put(points), task=put(task), seed=3))
        assert np.isnan(result[1]).all()
        np.testing.assert_array_equal(np.delete(result, 1, 0), np.delete(expected, 1, 0))


def test_adam_and_hybrid_are_the_cpus_bits(cuda, dtype):
    theta, point, gradient = (numbers(shape, dtype, i) for i, shape in enumerate([(4, 11), 11, (4, 11)]))
    for step in (1, 7):
        plain = [np.abs(numbers((4, 11), dtype, 5)), np.abs(numbers((4, 11), dtype, 6))]
        moments = [put(a.copy()) for a in plain]
        expected = cbk.adam_update(theta, gradient, *plain, step=step)
        result = cbk.adam_update(put(theta), put(gradient), *moments, step=step)
        np.testing.assert_array_equal(host(result), expected)
        rates = np.array([0.1, 0.0, 0.3, 1.0])
        expected = cbk.adam_update(theta, gradient, *plain, step=step, lr=rates)
        result = cbk.adam_update(put(theta), put(gradient), *moments, step=step, lr=put(rates))
        np.testing.assert_array_equal(host(result), expected)
        expected = cbk.hybrid_update(theta, point, gradient, *plain, step=step, seed=8)
        result = cbk.hybrid_update(put(theta), put(point), put(gradient), *moments, step=step, seed=8)
        np.testing.assert_array_equal(host(result), expected)
        for a, b in zip(moments, plain, strict=True):
            np.testing.assert_array_equal(host(a), b)


@pytest.mark.parametrize("alpha", [0.0, 3.0, 1e5, np.inf])
@pytest.mark.parametrize("particles", [1, 33, 1500])
@pytest.mark.filterwarnings("ignore:.*not finite")
def test_consensus(cuda, dtype, particles, alpha):
    rng = np.random.default_rng(particles)
    theta = numbers((particles, 7), dtype)
    risk = rng.uniform(size=(particles, 3))
    if particles > 1:
        risk[3] = np.nan, np.inf, -np.inf
        theta[3] = np.nan  # of weight 0 in every task: never read
        risk[7, 1] = risk[11, 1] = -1  # a tie
    expected = reference.consensus(theta, risk, alpha=alpha)
    result = cbk.consensus(put(theta), put(risk), alpha=alpha)
    np.testing.assert_allclose(host(result.weights), expected.weights, rtol=1e-13)
    np.testing.assert_allclose(host(result.ess), expected.ess, rtol=1e-12)
    np.testing.assert_allclose(host(result.point), expected.point, rtol=0, atol=EXACT[dtype])
    one = cbk.consensus(put(theta), put(risk[:, 1].copy()), alpha=alpha)
    np.testing.assert_array_equal(host(one.point), host(result.point)[1])
    assert host(one.ess).shape == ()


def test_consensus_without_a_finite_risk(cuda):
    risk = np.full((4, 2), np.nan)
    risk[:, 1] = 1
    result = cbk.consensus(put(numbers((4, 3), "float32")), put(risk))
    np.testing.assert_array_equal(host(result.ess), [0, 4])
    assert np.isnan(host(result.point)[0]).all()
    assert np.isfinite(host(result.point)[1]).all()


NETWORKS = [
    cbk.TwoLayer(1, 9, 1, output_bias=True),
    cbk.TwoLayer(1, 140, 1, "softplus"),
    cbk.TwoLayer(3, 7, 1, "tanh", scaling="none"),
    cbk.TwoLayer(4, 1, 1, "gelu"),
    cbk.TwoLayer(21, 5, 3, "gelu", output_bias=True),
    cbk.TwoLayer(2, 150, 2, "sigmoid"),
    cbk.TwoLayer(9, 6, 2, "tanh"),
    cbk.TwoLayer(33, 3, 70, "identity"),
    cbk.TwoLayer(1, 20, 1, "leaky_relu"),
    cbk.TwoLayer(3, 7, 1, "sin"),
    cbk.TwoLayer(17, 20, 3, "silu", output_bias=True),
    cbk.TwoLayer(20, 9, 2, "erf"),
]


@pytest.mark.parametrize("net", NETWORKS, ids=str)
@pytest.mark.parametrize(("particles", "samples"), [(1, 1), (3, 150), (30, 9)])
def test_outputs_risks_and_gradients(cuda, dtype, net, particles, samples):
    theta, x = numbers((particles, net.size), dtype), numbers((samples, net.inputs), dtype, 1)
    ys = numbers((2, samples, net.outputs), dtype, 2)
    labels = np.random.default_rng(3).integers(0, net.outputs, (2, samples))
    exact = EXACT[dtype] * net.inputs**0.5
    on = put(theta), put(x)
    expected = reference.forward(net, theta, x)
    np.testing.assert_allclose(host(cbk.forward(net, *on)), expected, rtol=exact, atol=exact)
    for y, loss in ((ys, "mse"), (labels, "cross_entropy")):
        expected = reference.task_risks(net, theta, x, y, loss=loss)
        result = host(cbk.task_risks(net, *on, put(y), loss=loss))
        np.testing.assert_allclose(result, expected, rtol=exact, atol=exact / 10)
        one = put(y[0].copy())
        np.testing.assert_allclose(host(cbk.risk(net, *on, one, loss=loss)), result[:, 0], rtol=1e-13)
        risks, gradient = reference.risk_gradient(net, theta, x, y[0], loss=loss)
        result = cbk.risk_gradient(net, *on, one, loss=loss)
        np.testing.assert_allclose(host(result[0]), risks, rtol=exact, atol=exact / 10)
        scale = np.abs(gradient).max() + 1e-3
        np.testing.assert_allclose(host(result[1]), gradient, rtol=0, atol=exact * scale)


@pytest.mark.parametrize(
    "net", [cbk.TwoLayer(1, 4, 1), cbk.TwoLayer(13, 150, 1, "tanh", output_bias=True)], ids=str
)
def test_many_samples(cuda, dtype, net):
    theta, y = numbers((2, net.size), dtype), numbers(1100, dtype, 2)
    x = numbers((1100, net.inputs), dtype, 1)
    expected = reference.risk_gradient(net, theta, x, y)
    result = cbk.risk_gradient(net, put(theta), put(x), put(y))
    np.testing.assert_allclose(host(result[0]), expected[0], rtol=EXACT[dtype])
    np.testing.assert_allclose(host(result[1]), expected[1], rtol=0, atol=EXACT[dtype])
    np.testing.assert_allclose(
        host(cbk.risk(net, put(theta), put(x), put(y))), expected[0], rtol=EXACT[dtype]
    )


def test_tasks_with_inputs_of_their_own(cuda, dtype):
    net = cbk.TwoLayer(3, 5, 2, "tanh")
    theta, x = numbers((4, net.size), dtype), numbers((3, 20, 3), dtype, 1)
    labels = np.random.default_rng(3).integers(0, 2, (3, 20))
    for ys, loss in ((numbers((3, 20, 2), dtype, 2), "mse"), (labels, "cross_entropy")):
        result = host(cbk.task_risks(net, *map(put, (theta, x, ys)), loss=loss))
        for t in range(3):
            expected = reference.risk(net, theta, x[t], ys[t], loss=loss)
            np.testing.assert_allclose(result[:, t], expected, rtol=EXACT[dtype])


def test_labels_out_of_range_make_the_risk_nan(cuda):
    net = cbk.TwoLayer(3, 5, 2)
    theta, x = put(numbers((2, net.size), "float32")), put(numbers((9, 3), "float32"))
    for wrong in (-1, 2):
        labels = np.zeros(9, np.int64)
        labels[4] = wrong
        assert np.isnan(host(cbk.risk(net, theta, x, put(labels), loss="cross_entropy"))).all()
        assert np.isnan(host(cbk.risk_gradient(net, theta, x, put(labels), loss="cross_entropy")[0])).all()


@pytest.mark.parametrize("net", [cbk.TwoLayer(1, 9, 1), cbk.TwoLayer(6, 5, 2, "tanh")], ids=str)
@pytest.mark.parametrize("mirrored", [False, True])
def test_drawn_ensembles(cuda, dtype, net, mirrored):
    center, x = numbers(net.size, dtype), numbers((140, net.inputs), dtype, 1)
    y = numbers((140, net.outputs), dtype, 2)
    xi = reference.standard_normal(6, net.size, seed=5, step=2)
    steps = np.concatenate([xi[:3], -xi[:3]]) if mirrored else xi
    expected = reference.risk(net, center + 0.1 * steps, x, y)
    out, (c, inputs, targets) = put(np.empty((6, 1))), [array(put(a)) for a in (center, x, y)]
    key = (5, 0, 2, 0)
    cuda.hopping_risk(net._kernel, c, 6, 0.1, mirrored, key, inputs, targets, "mse", False, array(out), RUN)
    np.testing.assert_allclose(host(out)[:, 0], expected, rtol=EXACT[dtype])


def with_one_neuron(net, center, theta, x, y, loss):
    """The definition: the centre with only neuron m taken from theta[n]."""
    risks = np.empty((len(theta), net.width))
    for m in range(net.width):
        mixed = np.repeat(center[None].astype(float), len(theta), 0)
        for to, source in zip(net.unpack(mixed)[:2], net.unpack(theta)[:2], strict=True):
            to[:, m] = source[:, m]
        net.unpack(mixed)[2][..., m] = net.unpack(theta)[2][..., m]
        risks[:, m] = reference.risk(net, mixed, x, y, loss=loss)
    return risks


@pytest.mark.parametrize("net", NETWORKS, ids=str)
def test_atom_risks(cuda, dtype, net):
    center, theta, x = (
        numbers(shape, dtype, i) for i, shape in enumerate([net.size, (3, net.size), (40, net.inputs)])
    )
    labels = np.random.default_rng(3).integers(0, net.outputs, 40)
    exact = EXACT[dtype] * net.inputs**0.5
    for y, loss in ((numbers((40, net.outputs), dtype, 4), "mse"), (labels, "cross_entropy")):
        expected = with_one_neuron(net, center, theta, x, y, loss)
        result = cbk.atom_risks(net, *map(put, (center, theta, x, y)), loss=loss)
        np.testing.assert_allclose(host(result), expected, rtol=exact, atol=exact / 10)


def test_atom_risks_of_a_drawn_ensemble(cuda, dtype):
    net = cbk.TwoLayer(2, 3, 1, "tanh")
    center, x, y = numbers(net.size, dtype), numbers((150, 2), dtype, 1), numbers((150, 1), dtype, 2)
    theta = center + 0.1 * reference.standard_normal(4, net.size, seed=5, step=2)
    out, (c, inputs, targets) = put(np.empty((4, 3))), [array(put(a)) for a in (center, x, y)]
    key = (5, 0, 2, 0)
    cuda.hopping_risk(net._kernel, c, 4, 0.1, False, key, inputs, targets, "mse", True, array(out), RUN)
    np.testing.assert_allclose(host(out), with_one_neuron(net, center, theta, x, y, "mse"), rtol=EXACT[dtype])


@pytest.mark.parametrize("rows", [1, 70])
@pytest.mark.parametrize("atoms", [1, 3])
def test_noise_drift(cuda, dtype, rows, atoms):
    weights = np.random.default_rng(0).normal(size=(rows, atoms))
    weights[0] = 0
    atom = (np.arange(11) % atoms).astype(np.int32)
    out, on = put(np.empty(11)), [array(put(a)) for a in (weights, atom)]
    cuda.noise_drift(on[0], on[1] if atoms > 1 else None, (7, 0, 3, 0), dtype == "float32", array(out), RUN)
    xi = cbk.standard_normal(rows, 11, seed=7, step=3, dtype=dtype).astype(float)
    np.testing.assert_allclose(host(out), (weights[:, atom] * xi).sum(0), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("given", [False, True])
def test_langevin_steps(cuda, dtype, given):
    net = cbk.TwoLayer(2, 6, 1, "tanh")
    start, velocity = numbers((3, net.size), dtype), numbers((3, net.size), dtype, 1)
    x, y = numbers((20, 2), dtype, 2), numbers(20, dtype, 3)
    plain = [start.copy(), velocity.copy()]
    gradient = reference.risk_gradient(net, start, x, y)[1]
    expected = reference.langevin_step(net, *plain, x, y, temperature=0.5, seed=4, gradient=gradient.copy())
    moved, flown = put(start.copy()), put(velocity.copy())
    force = put(gradient.astype(dtype)) if given else None
    risk = cbk.langevin_step(net, moved, flown, put(x), put(y), temperature=0.5, seed=4, gradient=force)
    np.testing.assert_allclose(host(risk), expected, rtol=EXACT[dtype])
    np.testing.assert_allclose(host(moved), plain[0], rtol=0, atol=EXACT[dtype])
    np.testing.assert_allclose(host(flown), plain[1], rtol=0, atol=10 * EXACT[dtype])
