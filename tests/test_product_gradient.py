"""Gradients by products: blocks of neurons and outputs, chunks of samples, against the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
from losses import beside

import cbokernels as cbk
from cbokernels import reference

ACTIVATIONS = list(reference.DERIVATIVES)  # those with a gradient
# particles, width, inputs, outputs, samples
SHAPES = [(2, 600, 15, 1, 7), (3, 1001, 16, 1, 600), (17, 65, 32, 5, 1100), (2, 1300, 9, 7, 300)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("activation", "shape"), beside(ACTIVATIONS, SHAPES), ids=str)
def test_against_the_reference(shape, activation, dtype):
    particles, width, inputs, outputs, samples = shape
    rng = np.random.default_rng([particles, width])
    net = cbk.TwoLayer(inputs, width, outputs, activation=activation, output_bias=width % 2 == 1)
    theta = net.uniform(particles, seed=1, dtype=dtype)
    x = rng.normal(size=(samples, inputs)).astype(dtype)
    if activation in ("relu", "leaky_relu"):  # at a corner float32 may be on the other side
        w, b, _, _ = net.unpack(theta[:3].astype(np.float64))
        z = x.astype(np.float64) @ np.swapaxes(w, 1, 2) + b[:, None, :]
        x = x[(np.abs(z) > 1e-5).all(axis=(0, 2))]
    loss = "cross_entropy" if outputs == 7 else "mse"
    y = (
        rng.integers(outputs, size=len(x))
        if outputs == 7
        else rng.normal(size=(len(x), outputs)).astype(dtype)
    )
    risks, gradients = cbk.risk_gradient(net, theta, x, y, loss=loss)
    expected, slopes = reference.risk_gradient(net, theta[:3], x, y, loss=loss)
    accuracy = 2e-6 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(risks[:3], expected, rtol=accuracy)
    assert (np.abs(gradients[:3] - slopes) <= accuracy * np.abs(slopes).max(axis=1, keepdims=True)).all()
    for one, two in zip(
        (risks, gradients), cbk.risk_gradient(net, theta, x, y, loss=loss, num_threads=1), strict=True
    ):
        np.testing.assert_array_equal(one, two)
