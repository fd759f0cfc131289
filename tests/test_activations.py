"""Each activation by itself, against SciPy and NumPy in float64."""

import numpy as np
import pytest
from test_risk import ACTIVATIONS

import cbokernels as cbk


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


@pytest.mark.parametrize(("dtype", "allowed"), [("float32", 4e-7), ("float64", 2e-15)])
def test_tanh_is_relatively_exact_near_zero(dtype, allowed):
    net = cbk.TwoLayer(1, 1, 1, activation="tanh", scaling="none")
    z = np.geomspace(1e-30, 1, 3000).astype(dtype)
    found = cbk.forward(net, np.array([[1, 0, 1]], dtype), z[:, None])[0, :, 0].astype(float)
    np.testing.assert_allclose(found, np.tanh(z.astype(float)), rtol=allowed)
