"""Each activation by itself, against SciPy and NumPy, and its slope where it is close to a limit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sets
import ulps
from test_risk import ACTIVATIONS

import cbokernels as cbk
from cbokernels import _cpu, reference

# of values, in units in the last place
LARGEST = {
    "relu": 0, "tanh": 2, "sigmoid": 2, "gelu": 5, "softplus": 2, "identity": 0, "leaky_relu": 1, "silu": 3,
    "sin": 2, "erf": 3, "sign": 0, "step": 0,
}  # fmt: skip
RELATIVE = {"float32": 1e-5, "float64": 1e-12}  # of slopes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_values(activation, dtype):
    # one neuron with weight 1 is the activation itself: dense in the middle, tiny numbers, and far out
    net = cbk.TwoLayer(1, 1, 1, activation=activation, scaling="none")
    near = np.linspace(-30, 30, 60_001)
    tiny = np.geomspace(1e-30, 1, 3000)
    z = np.concatenate([near, tiny, -tiny, [-1e30, -1e4, 1e4, 1e30]]).astype(dtype)
    found = cbk.forward(net, np.array([[1, 0, 1]], dtype), z[:, None])[0, :, 0].astype(float)
    truth = ACTIVATIONS[activation](z.astype(float))
    allowed = 4e-7 if dtype == "float32" else 2e-15
    assert (np.abs(found - truth) <= allowed * np.maximum(1, np.abs(truth))).all()


@pytest.mark.parametrize("path", ["direct", "products"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_values_in_units_in_the_last_place(activation, dtype, path):
    assert ulps.worst_value(activation, dtype, path=path) <= LARGEST[activation]


@pytest.mark.parametrize("path", ulps.PATHS)
@pytest.mark.parametrize("activation", ulps.SLOPES)
def test_slopes_keep_their_digits(activation, dtype, path):
    assert ulps.worst_slope(activation, dtype, path=path) <= RELATIVE[dtype]


@pytest.mark.parametrize("activation", reference.DERIVATIVES)
def test_the_references_slopes_keep_their_digits(activation):
    z = np.concatenate([np.linspace(-38, 38, 2001), [-750, -100, 100, 750]])
    truth = ulps.SLOPES[activation](z.astype(np.longdouble)).astype(float)
    np.testing.assert_allclose(reference.DERIVATIVES[activation](z), truth, rtol=2e-13, atol=1e-300)


def test_the_paths_are_those_that_are_meant():
    for name, (inputs, width, outputs, density) in ulps.PATHS.items():
        net = cbk.TwoLayer(inputs, width, outputs)
        assert cbk.plan(net, 1000, 40, density=density / 40).path == name


@pytest.mark.parametrize("isa", sets.OTHERS)
def test_on_every_instruction_set(isa):
    code = "import json, ulps, cbokernels as cbk; print(json.dumps([cbk.isa(), ulps.everything()]))"
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "CBOKERNELS_ISA": isa, "PYTHONPATH": path}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    used, found = json.loads(process.stdout)
    assert used == isa
    assert len(found) == (len(ACTIVATIONS) + len(reference.DERIVATIVES)) * 2 * 2
    for case, error in found.items():
        what, activation, dtype, _ = case.split()
        assert error <= (LARGEST[activation] if what == "worst_value" else RELATIVE[dtype]), case


@pytest.mark.parametrize("path", ["direct", "products"])
def test_infinity_and_nan(dtype, path):
    z = np.array([-np.inf, np.inf, np.nan], dtype)
    limits = {
        "tanh": (-1, 1),
        "sigmoid": (0, 1),
        "gelu": (0, np.inf),
        "softplus": (0, np.inf),
        "relu": (0, np.inf),
        "silu": (0, np.inf),
        "erf": (-1, 1),
        "leaky_relu": (-np.inf, np.inf),
        "sin": (np.nan, np.nan),
        "sign": (-1, 1),
        "step": (0, 1),
    }
    for activation, (low, high) in limits.items():
        found = ulps.values(activation, z, path)
        np.testing.assert_allclose(found, [low, high, np.nan], rtol=0, atol=1e-37, err_msg=activation)
        if activation not in ulps.SLOPES or not np.isfinite(low):
            continue
        # where the value is infinite the risk is, and its gradient says nothing of the slope
        finite = z[:1] if np.isinf(high) else z[:2]
        np.testing.assert_allclose(
            ulps.slopes(activation, finite, path), 0, rtol=0, atol=1.1e-30, err_msg=activation
        )
        assert np.isnan(ulps.slopes(activation, z[2:], path)).all() or activation == "relu"


@pytest.mark.parametrize("path", ["direct", "products"])
def test_tanh_of_small_numbers_is_the_number(dtype, path):
    smallest, tiny = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).tiny
    z = np.concatenate([np.arange(100) * smallest, np.geomspace(tiny, 1e-10, 1000)]).astype(dtype)
    z = np.concatenate([z, -z])
    np.testing.assert_array_equal(ulps.values("tanh", z, path), z)


@pytest.mark.parametrize("path", ["direct", "products"])
def test_tanh_saturates(dtype, path):
    z = np.array(
        [9.2, 10, 20, 30, 50, 1e3, 1e30, np.inf] if dtype == "float32" else [19.2, 30, 1e3, 1e300, np.inf]
    )
    z = z.astype(dtype)
    np.testing.assert_array_equal(ulps.values("tanh", z, path), np.ones_like(z))
    np.testing.assert_array_equal(ulps.values("tanh", -z, path), -np.ones_like(z))


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_saturated_neurons_stay(activation, dtype, outputs):
    """50 of Adam's steps on weights of 20: the slopes are below 1e-8, and so are the steps."""
    net = cbk.TwoLayer(2, 8, outputs, activation=activation)
    theta = np.zeros((3, net.size), dtype)
    theta[:, : 2 * net.width] = 20
    theta[:, 3 * net.width :] = 1
    x = np.array([[1, 1], [-1, -1], [2, 1], [-1, -2]], dtype)
    y = np.full((4, outputs), 0.3, dtype)
    start, m, v = theta.copy(), np.zeros_like(theta), np.zeros_like(theta)
    for step in range(50):
        gradient = cbk.risk_gradient(net, theta, x, y)[1]
        theta = cbk.adam_update(theta, gradient, m, v, step=step + 1, lr=0.1)
    hidden = slice(0, 3 * net.width)
    np.testing.assert_allclose(theta[:, hidden], start[:, hidden], rtol=0, atol=1e-5)
    assert (theta[:, 3 * net.width :] != start[:, 3 * net.width :]).all()


@pytest.mark.parametrize("path", ulps.PATHS)
def test_jumps_are_taken_at_zero(dtype, path):
    """1 at both zeros, and from the smallest numbers on."""
    smallest = np.finfo(dtype).smallest_subnormal
    z = np.array([-np.inf, -3, -smallest, -0.0, 0.0, smallest, 3, np.inf], dtype)
    net = cbk.TwoLayer(1, 1, ulps.PATHS[path][2], activation="sign", scaling="none")
    theta = np.zeros((len(z), net.size), dtype)
    theta[:, 1], theta[:, 2] = z, 1
    for activation, below in (("sign", -1), ("step", 0)):
        net = cbk.TwoLayer(1, 1, net.outputs, activation=activation, scaling="none")
        found = cbk.forward(net, theta, np.zeros((1, 1), dtype))[:, 0, 0]
        np.testing.assert_array_equal(found, [below] * 3 + [1] * 5)
        np.testing.assert_array_equal(reference.ACTIVATIONS[activation](z), found)


@pytest.mark.parametrize("path", ["direct", "products"])
def test_sines_of_numbers_far_out(dtype, path):
    """Unscaled data: any finite number has its sine, beside others that have not in the same vector."""
    rng = np.random.default_rng(3)
    far = np.exp(rng.uniform(0, np.log(float(np.finfo(dtype).max) / 4), 4000)).astype(dtype)
    # the numbers that are closest to multiples of pi / 2 lose most: their neighbours
    close = (np.pi / 2 * rng.integers(1, 2**31, 4000)).astype(dtype)
    z = np.concatenate([far, -far, close, np.nextafter(close, np.dtype(dtype).type(0))])
    z[::7] = np.linspace(0, 6, len(z[::7]))
    truth = np.sin(z.astype(np.longdouble))
    assert ulps.ulps(ulps.values("sin", z, path), truth, dtype).max() <= LARGEST["sin"]
    slope = ulps.slopes("sin", z, path)
    exact = np.cos(z.astype(np.longdouble)).astype(float)
    seen = np.abs(exact) > 1e-30
    assert np.abs(slope / exact - 1)[seen].max() <= RELATIVE[dtype]


METHODS_WITH_GRADIENTS = [
    cbk.Adam(particles=3), cbk.Hybrid(particles=4), cbk.HeavyBall(particles=2), cbk.GradientFlow(particles=2),
]  # fmt: skip


@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS) - set(reference.DERIVATIVES)))
@pytest.mark.parametrize("outputs", [1, 2])
def test_gradients_of_jumps_are_refused(activation, outputs):
    net = cbk.TwoLayer(2, 3, outputs, activation=activation)
    theta, x, y = net.uniform(4, seed=0), np.ones((5, 2), np.float32), np.ones((5, outputs), np.float32)
    said = f"a gradient needs an activation among 'relu', .*got '{activation}', which has none: train it by"
    with pytest.raises(ValueError, match=said):
        cbk.risk_gradient(net, theta, x, y)
    with pytest.raises(ValueError, match=said):
        cbk.langevin_step(net, theta, np.zeros_like(theta), x, y)
    for method in METHODS_WITH_GRADIENTS:
        with pytest.raises(ValueError, match=said):
            cbk.train(net, x, y, method, epochs=1)
    with pytest.raises(ValueError, match="the activation has no gradient"):
        _cpu.risk_gradient(net._kernel, theta, x, y, "mse", np.empty(4), np.empty_like(theta), 1)


@pytest.mark.parametrize("activation", ["sign", "step"])
@pytest.mark.parametrize(
    ("loss", "scope", "rank"),
    [("cross_entropy", "network", None), ("cross_entropy", "atom", 1), ("zero_one", "network", None)],
)
def test_jumps_are_trained_without_gradients(activation, loss, scope, rank, dtype):
    """Four squares of a chessboard, which no single line divides."""
    x = np.random.default_rng(0).uniform(-1, 1, (400, 2)).astype(np.float32)
    labels = ((x[:, 0] > 0) == (x[:, 1] > 0)).astype(int)
    net = cbk.TwoLayer(2, 20, 2, activation=activation, scaling="none")
    spread, lr = cbk.Exponential(0.3, 0.1), cbk.Exponential(0.1, 0.001)
    method = cbk.ConsensusHopping(particles=100, scope=scope, rank=rank, spread=spread, lr=lr)
    result = cbk.train(net, x, labels, method, loss=loss, epochs=100, batch_size=100, dtype=dtype)
    assert (result.predict(x).argmax(-1) == labels).mean() > 0.93
