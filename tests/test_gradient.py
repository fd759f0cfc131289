"""risk_gradient against finite differences, PyTorch, the reference and its own invariances."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import sets
from hypothesis import assume, given
from hypothesis import strategies as st
from losses import SLOPED, beside, corner_distance, fits, targets, torch_value, zeros
from test_risk import torch_activation
from turns import in_turn

import cbokernels as cbk
from cbokernels import reference

ACTIVATIONS = list(reference.DERIVATIVES)  # those with a gradient
TOLERANCE = {"float32": 6e-6, "float64": 1e-13}
SAMPLES = [1, 2, 15, 16, 17, 31, 32, 33, 63, 65, 127, 129, 800, 1025]
# (d, M, C); one output and up to 48 inputs take a way of their own, in parts of 1 to 8 inputs
SHAPES = [
    (1, 100, 1), (1, 1, 1), (2, 16, 1), (3, 17, 1), (4, 31, 1), (5, 33, 1), (6, 9, 1), (7, 10, 1), (8, 21, 1),
    (9, 12, 1), (14, 8, 1), (23, 9, 1), (48, 11, 1), (49, 10, 1), (1, 7, 3), (3, 15, 2), (7, 1, 10),
    (15, 32, 17), (16, 64, 1), (17, 31, 5), (32, 16, 16), (33, 15, 33), (100, 100, 3), (784, 20, 10),
]  # fmt: skip


def problem(net, particles, samples, dtype, loss, *, seed=0):
    """theta, x and targets."""
    rng = np.random.default_rng([seed, particles, samples, net.size])
    theta = rng.uniform(-1, 1, (particles, net.size)).astype(dtype)
    x = (min(1.0, 10 / net.inputs**0.5) * rng.normal(size=(samples, net.inputs))).astype(dtype)
    return theta, x, targets(rng, loss, (samples,), net.outputs, dtype)


def errors(net, gradient, truth):
    """Of the parts w, b, c, a, relative to their layer's largest true value (absolute where all are 0).

    The sums of one part alone may cancel."""
    parts, of = net.unpack(gradient), net.unpack(truth)
    largest = [0.0 if t is None else np.abs(t).max() for t in of]
    layers = [max(largest[:2]) or 1.0, max(largest[2:]) or 1.0]
    pairs = enumerate(zip(parts, of, strict=True))
    return [np.abs(g - t).max() / layers[i // 2] for i, (g, t) in pairs if g is not None]


def check(net, theta, x, y, loss):
    dtype = str(theta.dtype)
    risk, gradient = cbk.risk_gradient(net, theta, x, y, loss=loss)
    assert risk.dtype == np.float64
    assert gradient.dtype == dtype
    assert risk.shape == (len(theta),)
    assert gradient.shape == theta.shape
    true_risk, truth = reference.risk_gradient(net, theta, x, y, loss=loss)
    assert max(errors(net, gradient, truth)) < TOLERANCE[dtype]
    scale = np.abs(true_risk).max() or 1.0  # cross entropy of one output is 0
    for other in (true_risk, cbk.risk(net, theta, x, y, loss=loss)):
        assert np.abs(risk - other).max() < {"float32": 3e-6, "float64": 1e-13}[dtype] * scale
    return risk, gradient


def assert_same(results, expected):
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, wanted)


def central_differences(net, theta, x, y, loss, h=1e-3):
    """Fourth order, from the risks of theta [D] moved along each coordinate."""
    moves = h * np.eye(net.size)
    far, near = (cbk.risk(net, theta + k * moves, x, y, loss=loss) for k in (2, 1))
    back, farther = (cbk.risk(net, theta - k * moves, x, y, loss=loss) for k in (1, 2))
    return (8 * (near - back) - (far - farther)) / (12 * h)


@pytest.mark.parametrize(
    "shape", [(1, 5, 1), (3, 7, 1), (4, 6, 1), (5, 6, 1), (20, 6, 1), (2, 7, 3), (9, 33, 4)], ids=str
)
@in_turn("activation, loss", beside(ACTIVATIONS, SLOPED))
def test_finite_differences(shape, loss, activation):
    if not fits(loss, shape[2]):
        return
    for scaling, output_bias in (("mean", False), ("none", True)):
        net = cbk.TwoLayer(*shape, activation=activation, scaling=scaling, output_bias=output_bias)
        theta, x, y = problem(net, 1, 200, "float64", loss)
        if activation in ("relu", "leaky_relu"):  # the differences must not step over a corner
            w, b, *_ = net.unpack(theta[0])
            x, y = (a[(np.abs(x @ w.T + b) > 0.012).all(axis=1)] for a in (x, y))
        away = corner_distance(loss, cbk.forward(net, theta, x)[0], y) > 0.02
        x, y = x[away], y[away]
        assert len(x) > 50
        _, gradient = cbk.risk_gradient(net, theta, x, y, loss=loss)
        truth = central_differences(net, theta[0], x, y, loss)
        scale = np.abs(truth).max() or 1.0  # cross entropy of one output is 0
        assert np.abs(gradient[0] - truth).max() < 1e-8 * scale


@pytest.mark.parametrize("shape", [(1, 20, 1), (6, 11, 4)], ids=str)
@in_turn("activation, loss", beside(ACTIVATIONS, SLOPED))
def test_agrees_with_pytorch(shape, activation, loss, dtype):
    if not fits(loss, shape[2]):
        return
    torch = pytest.importorskip("torch")
    module = torch_activation(torch, activation)
    net = cbk.TwoLayer(*shape, activation=activation, scaling="none", output_bias=True)
    theta, x, y = problem(net, 1, 57, dtype, loss)
    first, last = torch.nn.Linear(*shape[:2]), torch.nn.Linear(*shape[1:])
    model = torch.nn.Sequential(first, last).to(getattr(torch, dtype))
    torch.nn.utils.vector_to_parameters(torch.from_numpy(theta[0]), model.parameters())
    outputs = last(module(first(torch.from_numpy(x))))
    value = torch_value(torch, loss, outputs, y)
    value.backward()
    truth = torch.nn.utils.parameters_to_vector([p.grad for p in model.parameters()]).numpy()
    risk, gradient = cbk.risk_gradient(net, theta, x, y, loss=loss)
    assert risk[0] == pytest.approx(value.item(), rel=TOLERANCE[dtype])
    assert np.abs(gradient[0] - truth).max() <= 2 * TOLERANCE[dtype] * np.abs(truth).max()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@in_turn("activation, loss", beside(ACTIVATIONS, SLOPED))
def test_shapes_and_activations(shape, loss, activation, dtype):
    if not fits(loss, shape[2]):
        return
    case = SHAPES.index(shape) + 3 * ACTIVATIONS.index(activation)
    scaling = ("mean", "none")[case % 2]
    net = cbk.TwoLayer(*shape, activation=activation, scaling=scaling, output_bias=case % 3 == 0)
    theta, x, y = problem(
        net, (1, 2, 5, 16)[case % 4], SAMPLES[case % 12], dtype, loss, seed=case + SLOPED.index(loss)
    )
    check(net, theta, x, y, loss)


@pytest.mark.parametrize("loss", SLOPED)
@pytest.mark.parametrize("shape", [(1, 50, 1), (3, 9, 4), (20, 40, 7)], ids=str)
@in_turn("samples", SAMPLES)
def test_samples_and_threads(shape, loss, samples, dtype):
    if not fits(loss, shape[2]):
        return
    scaling = ("mean", "none")[samples % 2]
    net = cbk.TwoLayer(*shape, activation="tanh", scaling=scaling, output_bias=samples % 3 == 0)
    for particles in (1, 17) if samples < 200 else (3,):
        theta, x, y = problem(net, particles, samples, dtype, loss)
        expected = check(net, theta, x, y, loss)
        for num_threads in (1, 3):
            assert_same(cbk.risk_gradient(net, theta, x, y, loss=loss, num_threads=num_threads), expected)


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12)),
    particles=st.integers(1, 20),
    samples=st.integers(1, 150),
    activation=st.sampled_from(ACTIVATIONS),
    scaling=st.sampled_from(["mean", "none"]),
    output_bias=st.booleans(),
    loss=st.sampled_from(SLOPED),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 1000),
)
def test_any_shape(shape, particles, samples, activation, scaling, output_bias, loss, dtype, seed):
    assume(fits(loss, shape[2]))
    net = cbk.TwoLayer(*shape, activation=activation, scaling=scaling, output_bias=output_bias)
    theta, x, y = problem(net, particles, samples, dtype, loss, seed=seed)
    risk, gradient = cbk.risk_gradient(net, theta, x, y, loss=loss)
    true_risk, truth = reference.risk_gradient(net, theta, x, y, loss=loss)
    scale = max(np.abs(truth).max(), 0.1 / net.width if scaling == "mean" else 0.1)
    assert np.abs(gradient - truth).max() < TOLERANCE[dtype] * scale
    np.testing.assert_allclose(risk, true_risk, rtol=3e-6 if dtype == "float32" else 1e-13, atol=1e-6)


@pytest.mark.parametrize(("particles", "samples"), [(1, 20_011), (3, 3000), (15, 3000), (17, 3000)])
@pytest.mark.parametrize("shape", [(1, 12, 1), (2, 8, 2), (12, 10, 3)], ids=str)
def test_many_samples(shape, particles, samples, dtype):
    # Few particles: the samples are divided among the threads; many: every thread walks through all.
    net = cbk.TwoLayer(*shape, activation="tanh", output_bias=True)
    theta, x, y = problem(net, particles, samples, dtype, "mse")
    expected = check(net, theta, x, y, "mse")
    for num_threads in (1, 3):
        assert_same(cbk.risk_gradient(net, theta, x, y, num_threads=num_threads), expected)


@pytest.mark.parametrize("width", [1000, 4096])
@pytest.mark.parametrize("inputs", [1, 5, 16])
def test_wide_networks(inputs, width, dtype):
    net = cbk.TwoLayer(inputs, width, 1, activation="tanh")
    check(net, *problem(net, 3, 70, dtype, "mse"), "mse")


@pytest.mark.parametrize(
    ("activation", "loss"), [*(("relu", loss) for loss in SLOPED), ("gelu", "mse"), ("gelu", "cross_entropy")]
)
@pytest.mark.parametrize(("inputs", "width"), [(2, 515), (7, 1100), (12, 1100), (48, 600)])
def test_wide_networks_of_few_inputs(inputs, width, loss, activation, dtype):
    # 515 neurons: a tile of samples is held where numbers are small, and blocks of neurons where they are not
    net = cbk.TwoLayer(inputs, width, 1, activation=activation, output_bias=True)
    check(net, *problem(net, 2, 333, dtype, loss), loss)


@pytest.mark.parametrize("density", [0.0, 0.02, 0.2, 0.9])
@pytest.mark.parametrize("shape", [(784, 20, 10), (3, 20, 2), (2, 20, 1)], ids=str)
def test_zeros_of_x(shape, density, dtype):
    net = cbk.TwoLayer(*shape)
    theta, x, y = problem(net, 6, 130, dtype, "cross_entropy")
    x *= np.random.default_rng(1).random(x.shape) < density
    x[5] = 0
    check(net, theta, x, y, "cross_entropy")


@pytest.mark.parametrize("size", [1e-6, 1e-3, 30.0, 3000.0])
@in_turn("activation", ACTIVATIONS)
def test_derivatives_at_the_ends(activation, size, dtype):
    # w = 0, c = 1 and a target at distance 1/2: the slope by b is the activation's derivative.
    net = cbk.TwoLayer(1, 1, 1, activation=activation)
    z = (size * np.linspace(-1, 1, 101)).astype(dtype)
    zero = np.zeros((1, 1), dtype)
    for value in z:
        theta = np.array([[0, value, 1]], dtype)
        output = cbk.forward(net, theta, zero)[0]
        target = output - np.dtype(dtype).type(0.5)
        distance = float(output[0, 0]) - float(target[0, 0])  # 1/2 is lost where the output is large
        slope = cbk.risk_gradient(net, theta, zero, target)[1][0, 1]
        truth = 2 * distance * reference.DERIVATIVES[activation](float(value))
        assert slope == pytest.approx(truth, abs=1e-6 if dtype == "float32" else 1e-14)


def test_derivative_at_a_corner_is_zero(dtype):
    net = cbk.TwoLayer(1, 2, 1)
    theta = np.array([[1, 1, 0, -1, 1, 1]], dtype)  # z = x and x - 1
    _, gradient = cbk.risk_gradient(net, theta, np.array([[0.0], [1.0]], dtype), np.ones(2, dtype))
    assert gradient[0, 2] == -0.25  # from x = 1 alone: (1/S) (1/M) 2 (1/2 - 1)
    assert gradient[0, 3] == 0
    _, plain = reference.risk_gradient(net, theta, np.array([[0.0], [1.0]]), np.ones(2))
    np.testing.assert_array_equal(gradient, plain)


@pytest.mark.parametrize("shape", [(1, 3, 1), (2, 3, 1), (5, 3, 1), (1, 3, 2), (5, 17, 3)], ids=str)
@in_turn("activation, loss", beside(ACTIVATIONS, SLOPED))
def test_padded_samples_do_not_leak(shape, loss, activation, dtype):
    if not fits(loss, shape[2]):
        return
    # Samples of zeros, with which the kernels fill up their blocks, would have outputs that overflow.
    net = cbk.TwoLayer(*shape, activation=activation, scaling="none", output_bias=True)
    huge = 1e15 if dtype == "float32" else 1e120
    for samples in (1, 3, 17, 33):
        theta = np.zeros((2, net.size), dtype)
        w, b, c, _ = net.unpack(theta)
        w[..., 0], b[...], c[...] = -huge, huge, np.linspace(1, 2, net.outputs)[:, None] * huge
        x = np.zeros((samples, net.inputs), dtype)
        x[:, 0] = 1  # z = 0
        y = zeros(loss, samples, net.outputs, dtype, 1)
        risk, gradient = cbk.risk_gradient(net, theta, x, y, loss=loss)
        assert np.isfinite(risk).all()
        assert np.isfinite(gradient).all()
        _, truth = reference.risk_gradient(net, theta, x, y, loss=loss)
        assert max(errors(net, gradient, truth)) < TOLERANCE[dtype]


def test_particles_do_not_touch_each_other(dtype):
    for shape in [(3, 8, 2), (2, 9, 1)]:
        net = cbk.TwoLayer(*shape)
        theta, x, y = problem(net, 9, 40, dtype, "mse")
        whole = cbk.risk_gradient(net, theta, x, y)
        theta[4] = np.nan
        theta[5] = np.inf
        risk, gradient = cbk.risk_gradient(net, theta, x, y)
        assert not np.isfinite(risk[4:6]).any()
        assert np.isnan(gradient[4]).all()
        np.testing.assert_array_equal(np.delete(risk, [4, 5]), np.delete(whole[0], [4, 5]))
        np.testing.assert_array_equal(np.delete(gradient, [4, 5], 0), np.delete(whole[1], [4, 5], 0))


@pytest.mark.parametrize("loss", SLOPED)
def test_gradients_of_two_batches_average(loss, dtype):
    net = cbk.TwoLayer(4, 21, 3 if fits(loss, 3) else 1, activation="gelu", output_bias=True)
    theta, x, y = problem(net, 5, 90, dtype, loss)
    whole, low, high = (
        cbk.risk_gradient(net, theta, x[part], y[part], loss=loss)[1]
        for part in (slice(None), slice(30), slice(30, None))
    )
    assert max(errors(net, (low.astype(float) + 2 * high) / 3, whole)) < TOLERANCE[dtype]


@pytest.mark.parametrize("shape", [(1, 100, 1), (5, 33, 4)], ids=str)
def test_permuting_neurons_permutes_the_gradient(shape, dtype):
    net = cbk.TwoLayer(*shape, activation="softplus")
    theta, x, y = problem(net, 6, 90, dtype, "mse")
    order = np.random.default_rng(2).permutation(net.width)
    _, gradient = cbk.risk_gradient(net, theta, x, y)
    _, permuted = cbk.risk_gradient(net, net.from_atoms(net.atoms(theta)[:, order]), x, y)
    assert max(errors(net, permuted, net.from_atoms(net.atoms(gradient)[:, order]))) < TOLERANCE[dtype]


@pytest.mark.parametrize("label", [0, 9])
def test_big_logits_do_not_overflow(label, dtype):
    net = cbk.TwoLayer(4, 6, 10, scaling="none")
    theta, x, _ = problem(net, 5, 50, dtype, "cross_entropy")
    theta *= 100
    check(net, theta, x, np.full(50, label), "cross_entropy")


@pytest.mark.parametrize("kind", ["int8", "uint16", "int32", "uint64"])
def test_labels_of_any_integer_dtype(kind):
    net = cbk.TwoLayer(2, 3, 5)
    theta, x, y = problem(net, 4, 33, "float32", "cross_entropy")
    expected = cbk.risk_gradient(net, theta, x, y, loss="cross_entropy")
    assert_same(cbk.risk_gradient(net, theta, x, y.astype(kind), loss="cross_entropy"), expected)


def test_arrays_of_any_layout_and_library(dtype):
    net = cbk.TwoLayer(3, 5, 1, activation="tanh")
    theta, x, y = problem(net, 6, 20, dtype, "mse")
    expected = cbk.risk_gradient(net, theta, x, y)
    for other in (
        cbk.risk_gradient(net, theta, x, y[:, 0]),
        cbk.risk_gradient(net, *map(strided, (theta, x, y))),
    ):
        assert_same(other, expected)
    assert type(expected) is tuple
    assert not any(np.shares_memory(result, a) for result in expected for a in (theta, x, y))
    torch = pytest.importorskip("torch")
    tensors = cbk.risk_gradient(net, *map(torch.from_numpy, (theta, x, y)))
    for tensor, b in zip(tensors, expected, strict=True):
        assert isinstance(tensor, torch.Tensor)
        np.testing.assert_array_equal(tensor.numpy(), b)


def strided(a):
    """The same values with gaps, read-only."""
    wide = np.zeros([2 * n for n in a.shape], a.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    view.flags.writeable = False
    return view


BATTERY = """
import json
import numpy as np
import cbokernels as cbk
from cbokernels import reference
from losses import SLOPED, fits, targets

errors = {}
rng = np.random.default_rng(0)
for dtype in ("float32", "float64"):
    for activation in reference.DERIVATIVES:
        for shape in ((1, 100, 1), (4, 9, 1), (5, 33, 3), (70, 17, 10)):
            for loss in SLOPED:
                if not fits(loss, shape[2]):
                    continue
                net = cbk.TwoLayer(*shape, activation=activation, scaling="none", output_bias=True)
                theta = rng.uniform(-1, 1, (3, net.size)).astype(dtype)
                x = rng.normal(size=(77, net.inputs)).astype(dtype)
                y = targets(rng, loss, (77,), net.outputs, dtype)
                _, truth = reference.risk_gradient(net, theta, x, y, loss=loss)
                _, result = cbk.risk_gradient(net, theta, x, y, loss=loss)
                error = np.abs(result - truth).max() / max(1.0, np.abs(truth).max())
                errors[f"{activation} {shape} {loss} {dtype}"] = float(error)
print(json.dumps({"isa": cbk.isa(), "errors": errors}))
"""


@pytest.mark.parametrize("isa", sets.OTHERS)
def test_every_instruction_set(isa):
    here = os.path.dirname(__file__)
    paths = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "CBOKERNELS_ISA": isa, "PYTHONPATH": paths}
    command = [sys.executable, "-c", BATTERY]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    result = json.loads(run.stdout)
    assert result["isa"] == isa
    assert len(result["errors"]) == 2 * len(ACTIVATIONS) * (4 * len(SLOPED) - 2)  # one loss is of one output
    wrong = {case: e for case, e in result["errors"].items() if not e < TOLERANCE[case.split()[-1]]}
    assert not wrong
