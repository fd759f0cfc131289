"""Each activation by itself, against SciPy and NumPy, and its slope where it is close to a limit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ulps
from test_risk import ACTIVATIONS

import cbokernels as cbk
from cbokernels import reference

# of values, in units in the last place
LARGEST = {"relu": 0, "tanh": 2, "sigmoid": 2, "gelu": 8, "softplus": 2, "identity": 0}
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
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_slopes_keep_their_digits(activation, dtype, path):
    assert ulps.worst_slope(activation, dtype, path=path) <= RELATIVE[dtype]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_references_slopes_keep_their_digits(activation):
    z = np.concatenate([np.linspace(-38, 38, 2001), [-750, -100, 100, 750]])
    truth = ulps.SLOPES[activation](z.astype(np.longdouble)).astype(float)
    np.testing.assert_allclose(reference.DERIVATIVES[activation](z), truth, rtol=2e-13, atol=1e-300)


def test_the_paths_are_those_that_are_meant():
    for name, (inputs, width, outputs, density) in ulps.PATHS.items():
        net = cbk.TwoLayer(inputs, width, outputs)
        assert cbk.plan(net, 1000, 40, density=density / 40).path == name


@pytest.mark.parametrize("isa", cbk.isas())
def test_on_every_instruction_set(isa):
    code = "import json, ulps, cbokernels as cbk; print(json.dumps([cbk.isa(), ulps.everything()]))"
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "CBOKERNELS_ISA": isa, "PYTHONPATH": path}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    used, found = json.loads(process.stdout)
    assert used == isa
    assert len(found) == 2 * 6 * 2 * 2
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
    }
    for activation, (low, high) in limits.items():
        found = ulps.values(activation, z, path)
        np.testing.assert_allclose(found, [low, high, np.nan], rtol=0, atol=1e-37, err_msg=activation)
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
