"""forward, risk and task_risks against an independent float64 truth, PyTorch and their own invariances."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.special
from hypothesis import assume, given
from hypothesis import strategies as st
from losses import beside, fits, targets, torch_value, true_risk
from turns import in_turn

import cbokernels as cbk
from cbokernels import reference
from cbokernels._kinds import LOSSES

ACTIVATIONS = {
    "relu": lambda z: np.where(z > 0, z, 0.0),
    "tanh": np.tanh,
    "sigmoid": scipy.special.expit,
    "gelu": lambda z: z * scipy.special.ndtr(z),
    "softplus": lambda z: np.where(z > 0, z, 0) + np.log1p(np.exp(-np.abs(z))),
    "identity": lambda z: z,
    "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
    "silu": lambda z: z * scipy.special.expit(z),
    "sin": np.sin,
    "erf": scipy.special.erf,
    "sign": lambda z: 2 * np.heaviside(z, 1.0) - 1,
    "step": lambda z: np.heaviside(z, 1.0),
}
TOLERANCE = {"float32": 3e-6, "float64": 1e-12}
SAMPLES = [1, 2, 15, 16, 17, 31, 32, 33, 63, 65, 127, 129, 800, 1025]
# (d, M, C)
SHAPES = [
    (1, 100, 1), (1, 1, 1), (1, 7, 3), (2, 16, 1), (3, 17, 2), (5, 33, 1), (7, 1, 10),
    (16, 64, 1), (17, 31, 5), (40, 20, 1), (784, 20, 10), (785, 3, 1),
]  # fmt: skip


def problem(net, particles, samples, dtype, loss, *, seed=0, tasks=(), spread=1.0):
    """theta, x and targets."""
    rng = np.random.default_rng([seed, particles, samples, net.size])
    theta = (spread * rng.uniform(-1, 1, (particles, net.size))).astype(dtype)
    x = rng.normal(size=(samples, net.inputs)).astype(dtype)
    return theta, x, targets(rng, loss, (*tasks, samples), net.outputs, dtype)


def true_outputs(net, theta, x):
    """[N, S, C], written neuron by neuron from the formula of the network."""
    d, m, c = net.inputs, net.width, net.outputs
    theta, x = theta.astype(float), x.astype(float)
    out = np.zeros((len(theta), len(x), c))
    for neuron in range(m):
        w = theta[:, neuron * d : (neuron + 1) * d]
        z = np.einsum("nd,sd->ns", w, x) + theta[:, m * d + neuron, None]
        outgoing = theta[:, m * (d + 1) + neuron + m * np.arange(c)]
        out += ACTIVATIONS[net.activation](z)[:, :, None] * outgoing[:, None, :]
    if net.scaling == "mean":
        out /= m
    if net.output_bias:
        out += theta[:, None, -c:]
    return out


def torch_activation(torch, activation):
    """PyTorch's own, a function of tensors."""
    one, zero = torch.tensor(1.0), torch.tensor(0.0)
    functions = {
        "softplus": torch.nn.Softplus(threshold=50),  # torch takes z itself from 20 on
        "identity": torch.nn.Identity(),
        "leaky_relu": torch.nn.LeakyReLU(),
        "silu": torch.nn.SiLU(),
        "gelu": torch.nn.GELU(),
        "sin": torch.sin,
        "erf": torch.erf,
        "sign": lambda z: torch.where(z >= 0, one.to(z.dtype), -one.to(z.dtype)),
        "step": lambda z: torch.where(z >= 0, one.to(z.dtype), zero.to(z.dtype)),
    }
    return functions.get(activation) or getattr(torch, activation)


def error(result, truth):
    """Relative to the largest true value; absolute where the truth is 0 (cross entropy of one output)."""
    return np.abs(result - truth).max() / (np.abs(truth).max() or 1.0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@in_turn("activation, loss", beside(ACTIVATIONS, LOSSES))
def test_shapes_and_activations(shape, loss, activation, dtype):
    if not fits(loss, shape[2]):
        return
    case = SHAPES.index(shape) + 3 * list(ACTIVATIONS).index(activation)
    scaling = ("mean", "none")[case % 2]
    net = cbk.TwoLayer(*shape, activation=activation, scaling=scaling, output_bias=case % 3 == 0)
    theta, x, y = problem(net, 1 + case % 5, SAMPLES[case % len(SAMPLES)], dtype, loss, seed=case)
    if activation == "sin":  # the roundings of large arguments are errors of its small values
        x *= min(1.0, 4 / net.inputs**0.5)
    outputs = true_outputs(net, theta, x)
    result = cbk.forward(net, theta, x)
    assert result.shape == outputs.shape
    assert result.dtype == dtype
    assert error(result, outputs) < TOLERANCE[dtype]
    risks = cbk.risk(net, theta, x, y, loss=loss)
    assert risks.shape == (len(theta),)
    assert risks.dtype == np.float64
    truth = true_risk(outputs, y, loss)
    assert error(risks, truth) < TOLERANCE[dtype]
    np.testing.assert_allclose(reference.risk(net, theta, x, y, loss=loss), truth, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(1, 50, 1), (3, 9, 4), (20, 40, 7)], ids=str)
@in_turn("samples", SAMPLES)
def test_samples_and_threads(shape, loss, samples, dtype):
    if not fits(loss, shape[2]):
        return
    scaling = ("mean", "none")[samples % 2]
    net = cbk.TwoLayer(*shape, activation="tanh", scaling=scaling, output_bias=samples % 3 == 0)
    theta, x, y = problem(net, 7, samples, dtype, loss)
    risks = cbk.risk(net, theta, x, y, loss=loss, num_threads=1)
    outputs = cbk.forward(net, theta, x, num_threads=1)
    truth = true_outputs(net, theta, x)
    assert error(outputs, truth) < TOLERANCE[dtype]
    assert error(risks, true_risk(truth, y, loss)) < TOLERANCE[dtype]
    for num_threads in (2, 5):
        np.testing.assert_array_equal(cbk.risk(net, theta, x, y, loss=loss, num_threads=num_threads), risks)
        np.testing.assert_array_equal(cbk.forward(net, theta, x, num_threads=num_threads), outputs)


@pytest.mark.parametrize("particles", [1, 4])
def test_threads_that_pack_samples_for_themselves(particles, dtype):
    """Few networks and more samples than threads pack at a time, the last of them a part of a chunk."""
    net = cbk.TwoLayer(300, 20, 4)
    theta, x, y = problem(net, particles, 5001, dtype, "mse")
    weights = np.random.default_rng(3).integers(0, 3, 5001).astype(dtype)
    risks = [
        cbk.risk(net, theta, x, y, loss="mse", sample_weight=weights, num_threads=threads)
        for threads in (1, 2, 5)
    ]
    outputs = [cbk.forward(net, theta, x, num_threads=threads) for threads in (1, 2, 5)]
    truth = true_outputs(net, theta, x)
    squares = ((truth - y) ** 2).sum(axis=2)
    assert error(outputs[0], truth) < TOLERANCE[dtype]
    assert error(risks[0], squares @ weights / weights.sum()) < TOLERANCE[dtype]
    for other in (1, 2):
        np.testing.assert_array_equal(risks[other], risks[0])
        np.testing.assert_array_equal(outputs[other], outputs[0])


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12)),
    particles=st.integers(1, 12),
    samples=st.integers(1, 150),
    tasks=st.integers(1, 5),
    activation=st.sampled_from(list(ACTIVATIONS)),
    scaling=st.sampled_from(["mean", "none"]),
    output_bias=st.booleans(),
    loss=st.sampled_from(LOSSES),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 1000),
)
def test_any_shape(shape, particles, samples, tasks, activation, scaling, output_bias, loss, dtype, seed):
    assume(fits(loss, shape[2]))
    net = cbk.TwoLayer(*shape, activation=activation, scaling=scaling, output_bias=output_bias)
    theta, x, ys = problem(net, particles, samples, dtype, loss, seed=seed, tasks=(tasks,))
    outputs = true_outputs(net, theta, x)
    scale = max(1.0, np.abs(outputs).max())
    assert np.abs(cbk.forward(net, theta, x) - outputs).max() < TOLERANCE[dtype] * scale
    risks = cbk.task_risks(net, theta, x, ys, loss=loss)
    assert risks.shape == (particles, tasks)
    assert risks.dtype == np.float64
    truth = np.stack([true_risk(outputs, y, loss) for y in ys], axis=1)
    scale = max(1.0, np.abs(truth).max())
    assert np.abs(risks - truth).max() < TOLERANCE[dtype] * scale
    np.testing.assert_allclose(
        reference.task_risks(net, theta, x, ys, loss=loss), truth, rtol=0, atol=1e-12 * scale
    )
    single = cbk.risk(net, theta, x, ys[-1], loss=loss)
    np.testing.assert_allclose(risks[:, -1], single, rtol=TOLERANCE[dtype])


def test_task_risks_do_not_depend_on_threads(dtype):
    net = cbk.TwoLayer(1, 100, 1)
    theta, x, ys = problem(net, 20, 801, dtype, "mse", tasks=(100,))
    one = cbk.task_risks(net, theta, x, ys[:, :, 0], num_threads=1)
    truth = np.stack([true_risk(true_outputs(net, theta, x), y, "mse") for y in ys], axis=1)
    assert error(one, truth) < TOLERANCE[dtype]
    for num_threads in (2, 3, 5):
        np.testing.assert_array_equal(cbk.task_risks(net, theta, x, ys, num_threads=num_threads), one)


@pytest.mark.parametrize("samples", [20_000, 100_003])
@pytest.mark.parametrize("shape", [(3, 10, 2), (1, 12, 1)], ids=str)
def test_many_samples(shape, samples, dtype):
    net = cbk.TwoLayer(*shape, activation="sigmoid")
    theta, x, y = problem(net, 3, samples, dtype, "mse")
    outputs = true_outputs(net, theta, x)
    assert error(cbk.forward(net, theta, x), outputs) < TOLERANCE[dtype]
    one = cbk.risk(net, theta, x, y, num_threads=1)
    assert error(one, true_risk(outputs, y, "mse")) < TOLERANCE[dtype]
    np.testing.assert_array_equal(cbk.risk(net, theta, x, y, num_threads=3), one)


@pytest.mark.parametrize("width", [1000, 4096])
def test_wide_networks(width, dtype):
    net = cbk.TwoLayer(16, width, 1, activation="tanh")
    theta, x, y = problem(net, 3, 70, dtype, "mse")
    outputs = true_outputs(net, theta, x)
    assert error(cbk.forward(net, theta, x), outputs) < TOLERANCE[dtype]
    assert error(cbk.risk(net, theta, x, y), true_risk(outputs, y, "mse")) < TOLERANCE[dtype]


@pytest.mark.parametrize("density", [0.0, 0.02, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(784, 20, 10), (64, 81, 3), (3, 20, 2)], ids=str)
def test_zeros_of_x(shape, density, dtype):
    net = cbk.TwoLayer(*shape)
    theta, x, y = problem(net, 6, 130, dtype, "cross_entropy")
    x *= np.random.default_rng(1).random(x.shape) < density
    x[5] = 0
    outputs = true_outputs(net, theta, x)
    assert error(cbk.forward(net, theta, x), outputs) < TOLERANCE[dtype]
    one = cbk.risk(net, theta, x, y, loss="cross_entropy", num_threads=1)
    assert error(one, true_risk(outputs, y, "cross_entropy")) < TOLERANCE[dtype]
    np.testing.assert_array_equal(cbk.risk(net, theta, x, y, loss="cross_entropy", num_threads=2), one)


@pytest.mark.parametrize("size", [1e-6, 1e-3, 30.0, 3000.0])
@in_turn("activation", ACTIVATIONS)
def test_activations_at_the_ends(activation, size, dtype):
    # One neuron with w = 1, b = 0, c = 1: the output is the activation itself.
    net = cbk.TwoLayer(1, 1, 1, activation=activation)
    x = (size * np.linspace(-1, 1, 4001)).astype(dtype)[:, None]
    result = cbk.forward(net, np.array([[1, 0, 1]], dtype), x)[0, :, 0]
    with np.errstate(under="ignore", over="ignore"):
        truth = ACTIVATIONS[activation](x[:, 0].astype(float))
    assert error(result, truth) < TOLERANCE[dtype] / 3


def test_reference_gelu_keeps_its_negative_tail():
    z = np.linspace(-30, -1, 30)
    np.testing.assert_allclose(reference.ACTIVATIONS["gelu"](z), z * scipy.special.ndtr(z), rtol=1e-12)


@pytest.mark.parametrize("label", [0, 9])
def test_big_logits_do_not_overflow(label, dtype):
    net = cbk.TwoLayer(4, 6, 10, scaling="none")
    theta, x, _ = problem(net, 5, 50, dtype, "cross_entropy", spread=100.0)
    y = np.full(50, label)
    outputs = true_outputs(net, theta, x)
    assert np.abs(outputs).max() > 1e4
    risks = cbk.risk(net, theta, x, y, loss="cross_entropy")
    truth = true_risk(outputs, y, "cross_entropy")
    assert np.isfinite(risks).all()
    assert error(risks, truth) < TOLERANCE[dtype]
    equal = cbk.risk(net, np.zeros_like(theta), x, y, loss="cross_entropy")
    np.testing.assert_allclose(equal, math.log(10), rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("shape", [(1, 100, 1), (5, 33, 4)], ids=str)
def test_permuting_neurons_changes_nothing(shape, dtype):
    net = cbk.TwoLayer(*shape, activation="gelu")
    theta, x, y = problem(net, 6, 90, dtype, "mse")
    order = np.random.default_rng(2).permutation(net.width)
    permuted = net.from_atoms(net.atoms(theta)[:, order])
    assert not np.array_equal(permuted, theta)
    np.testing.assert_allclose(
        cbk.risk(net, permuted, x, y), cbk.risk(net, theta, x, y), rtol=TOLERANCE[dtype]
    )


def test_particles_do_not_touch_each_other(dtype):
    net = cbk.TwoLayer(3, 8, 2, activation="relu")
    theta, x, y = problem(net, 9, 40, dtype, "mse")
    whole = cbk.risk(net, theta, x, y)
    theta[4] = np.nan
    theta[5] = np.inf
    risks = cbk.risk(net, theta, x, y)
    assert not np.isfinite(risks[4:6]).any()
    np.testing.assert_array_equal(np.delete(risks, [4, 5]), np.delete(whole, [4, 5]))


@pytest.mark.parametrize("part", ["w", "b", "c", "a"])
@pytest.mark.parametrize("shape", [(1, 20, 2), (1, 20, 1), (9, 20, 2)], ids=str)
@in_turn("activation, loss", beside(ACTIVATIONS, LOSSES))
def test_nan_parameters_give_nan_risks(shape, loss, part, activation, dtype):
    if not fits(loss, shape[2]):
        return
    net = cbk.TwoLayer(*shape, activation=activation, output_bias=True)
    theta, x, y = problem(net, 3, 40, dtype, loss)
    parts = dict(zip("wbca", net.unpack(theta), strict=True))
    parts[part][1].flat[0] = np.nan
    assert np.isnan(cbk.risk(net, theta, x, y, loss=loss)).tolist() == [False, True, False]


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_labels_of_any_integer_dtype(kind):
    net = cbk.TwoLayer(2, 3, 5)
    theta, x, y = problem(net, 4, 33, "float32", "cross_entropy")
    expected = cbk.risk(net, theta, x, y, loss="cross_entropy")
    np.testing.assert_array_equal(cbk.risk(net, theta, x, y.astype(kind), loss="cross_entropy"), expected)
    tasks = cbk.task_risks(net, theta, x, np.stack([y, y[::-1]]).astype(kind), loss="cross_entropy")
    np.testing.assert_allclose(tasks[:, 0], expected, rtol=3e-6)
    assert not np.allclose(tasks[:, 1], expected)


def test_targets_with_and_without_the_axis_of_one_output(dtype):
    net = cbk.TwoLayer(2, 3, 1)
    theta, x, y = problem(net, 4, 33, dtype, "mse")
    np.testing.assert_array_equal(cbk.risk(net, theta, x, y[:, 0]), cbk.risk(net, theta, x, y))
    ys = np.stack([y, 2 * y])
    np.testing.assert_array_equal(
        cbk.task_risks(net, theta, x, ys[:, :, 0]), cbk.task_risks(net, theta, x, ys)
    )


@in_turn("activation, loss", beside(ACTIVATIONS, LOSSES))
def test_agrees_with_pytorch(activation, loss, dtype):
    torch = pytest.importorskip("torch")
    module = torch_activation(torch, activation)
    outputs = 4 if fits(loss, 4) else 1
    net = cbk.TwoLayer(6, 11, outputs, activation=activation, scaling="none", output_bias=True)
    theta, x, y = problem(net, 1, 57, dtype, loss)
    first, last = torch.nn.Linear(6, 11), torch.nn.Linear(11, outputs)
    model = torch.nn.Sequential(first, last).to(getattr(torch, dtype))
    torch.nn.utils.vector_to_parameters(torch.from_numpy(theta[0]), model.parameters())
    with torch.no_grad():
        outputs = last(module(first(torch.from_numpy(x))))
        value = torch_value(torch, loss, outputs, y)
    assert error(cbk.forward(net, theta, x)[0], outputs.numpy()) < 2 * TOLERANCE[dtype]
    assert cbk.risk(net, theta, x, y, loss=loss)[0] == pytest.approx(value.item(), rel=2 * TOLERANCE[dtype])


MEMORY = """
import numpy as np
import cbokernels as cbk

def peak():  # MB; ru_maxrss would be that of the parent process where it is larger
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

def problem(n, m, s):
    net = cbk.TwoLayer(inputs=2, width=m, outputs=2, activation="relu")
    return net, np.ones((n, net.size), "f4"), np.ones((s, 2), "f4"), np.zeros(s, np.int32)

cbk.risk(*problem(20, 10, 50), loss="cross_entropy")
big = problem(200, 1000, 5000)
with open("/proc/self/clear_refs", "w") as reset:
    reset.write("5")
before = peak()
cbk.risk(*big, loss="cross_entropy")
grown = peak() - before
hidden = np.ones((1000, 5000), "f4")  # one particle's hidden activations, 19 MB: the measure must see them
print(grown, peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_hidden_activations_are_not_stored():
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    grown, control = map(float, run.stdout.split())
    assert grown < 6
    assert control > 12
