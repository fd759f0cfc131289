"""Products on tensor cores: fragments in the layout of PTX, sums that are cut, against NumPy in float64.

An output is scale * sum_m c_m sigma(w_m x + b_m). Rounding all factors of both layers to p bits changes a
product of them by four times 2^-p at most, so that outputs of a network without activation differ by so much
of the same sums over absolute values.
"""

from __future__ import annotations

import numpy as np
import pytest
from libraries import host, put

import cbokernels as cbk
from cbokernels import reference

# float32: sums are rounded to 24 bits, a few times; tf32: factors to 11 bits; bf16: to 8, then to 11
UNIT = {"float32": 2**-20, "tf32": 4 * 2**-11, "bf16": 2 * 2**-8 + 2 * 2**-11}


def numbers(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def magnitudes(net, theta, x):
    """The same sums over absolute values."""
    return reference.forward(net, np.abs(theta), np.abs(x))


NETWORKS = [
    cbk.TwoLayer(16, 3, 2, "identity"),
    cbk.TwoLayer(17, 20, 10, "identity", output_bias=True),
    cbk.TwoLayer(38, 1, 9, "identity", scaling="none"),
    cbk.TwoLayer(33, 150, 3, "identity"),
    cbk.TwoLayer(20, 6, 75, "identity"),
]


@pytest.fixture(params=["warps", "groups"])
def engine(cuda, request):
    """Who multiplies: warps (mma), or groups of them (wgmma) on cards of sm_90; others fall back on warps."""
    emulated = hasattr(cuda, "set_capability")
    if request.param == "groups":
        if emulated:
            cuda.set_capability(9)
            assert cuda.testing.has_warp_groups()
        built = cuda.testing.use_warp_groups(True) == cuda.testing.has_warp_groups()
        assert built, "the build has no code for sm_90a"
    else:
        cuda.testing.use_warp_groups(False)
    yield
    cuda.testing.use_warp_groups(True)
    if emulated:
        cuda.set_capability(8)


@pytest.mark.parametrize("precision", UNIT)
@pytest.mark.parametrize("net", NETWORKS, ids=str)
@pytest.mark.parametrize(("particles", "samples"), [(7, 35), (2, 259)])
def test_outputs(cuda, engine, net, particles, samples, precision):
    theta, x = numbers((particles, net.size)), numbers((samples, net.inputs), 1)
    expected, size = reference.forward(net, theta, x), magnitudes(net, theta, x)
    result = host(cbk.forward(net, put(theta), put(x), precision=precision))
    error = np.abs(result - expected) / size
    assert error.max() <= UNIT[precision]
    if precision != "float32":  # the format was used
        assert error.max() > UNIT["float32"]


@pytest.mark.parametrize("precision", UNIT)
@pytest.mark.parametrize(
    "net", [cbk.TwoLayer(21, 9, 3, "tanh", output_bias=True), cbk.TwoLayer(40, 130, 2, "gelu")]
)
def test_risks_and_gradients(cuda, engine, net, precision):
    particles, samples = 3, 70
    theta, x = numbers((particles, net.size)), numbers((samples, net.inputs), 1)
    theta[:, : net.width * net.inputs] /= net.inputs**0.5
    ys, labels = (
        numbers((2, samples, net.outputs), 2),
        np.random.default_rng(3).integers(0, net.outputs, (2, samples)),
    )
    on, exact = (put(theta), put(x)), 4 * UNIT[precision]
    for y, loss in ((ys, "mse"), (labels, "cross_entropy")):
        expected = reference.task_risks(net, theta, x, y, loss=loss)
        result = host(cbk.task_risks(net, *on, put(y), loss=loss, precision=precision))
        np.testing.assert_allclose(result, expected, rtol=exact)
        one = put(y[0].copy())
        np.testing.assert_array_equal(
            host(cbk.risk(net, *on, one, loss=loss, precision=precision)), result[:, 0]
        )
        risks, gradient = reference.risk_gradient(net, theta, x, y[0], loss=loss)
        result = cbk.risk_gradient(net, *on, one, loss=loss, precision=precision)
        np.testing.assert_allclose(host(result[0]), risks, rtol=exact)
        np.testing.assert_allclose(host(result[1]), gradient, rtol=0, atol=exact * np.abs(gradient).max())


def test_sums_of_one_sign_do_not_drift(cuda, engine):
    """A sum that is cut after every 8 terms would lose more than 1e-6 here."""
    net = cbk.TwoLayer(1500, 2, 1, "identity")
    rng = np.random.default_rng(5)
    theta, x = (rng.uniform(size=shape).astype("float32") for shape in ((1, net.size), (20, net.inputs)))
    result = host(cbk.forward(net, put(theta), put(x)))
    np.testing.assert_allclose(result, reference.forward(net, theta, x), rtol=4e-7)


@pytest.mark.parametrize("inputs", [16, 18, 19])
def test_any_alignment(cuda, inputs):
    """Rows of 4, 2 and 1 numbers' alignment, and views that begin anywhere."""
    net = cbk.TwoLayer(inputs, 4, 2, "tanh")
    theta, x = numbers((3, net.size)), numbers((30, inputs), 1)
    expected = host(cbk.forward(net, put(theta), put(x)))
    np.testing.assert_allclose(expected, reference.forward(net, theta, x), rtol=0, atol=3e-6)
    for shift in (1, 2):
        moved = []
        for a in (theta, x):
            room = np.zeros(a.size + shift + 4, a.dtype)
            start = shift - room.ctypes.data // 4 % 4 & 3
            moved.append(room[start : start + a.size].reshape(a.shape))
            moved[-1][...] = a
            assert moved[-1].ctypes.data % 16 == 4 * shift
        np.testing.assert_array_equal(host(cbk.forward(net, *map(put, moved))), expected)


@pytest.mark.parametrize("precision", UNIT)
def test_cards_without_these_formats_use_their_own(emulated, precision):
    net = cbk.TwoLayer(40, 9, 3, "tanh")
    theta, x, y = numbers((4, net.size)), numbers((50, net.inputs), 1), numbers((50, 3), 2)
    emulated.module.set_capability(7)
    try:
        result = cbk.risk_gradient(net, *map(put, (theta, x, y)), precision=precision)
    finally:
        emulated.module.set_capability(8)
    for a, b in zip(result, reference.risk_gradient(net, theta, x, y), strict=True):
        np.testing.assert_allclose(host(a), b, rtol=2e-5, atol=2e-6 * np.abs(b).max())


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_order_of_threads_is_free(emulated, order):
    net = cbk.TwoLayer(24, 9, 3, "tanh")
    arrays = [put(numbers(shape)) for shape in ((20, net.size), (40, 24), (40, 3))]
    expected = cbk.risk_gradient(net, *arrays)
    try:
        emulated.module.set_order(order)
        for a, b in zip(cbk.risk_gradient(net, *arrays), expected, strict=True):
            np.testing.assert_array_equal(host(a), host(b))
    finally:
        emulated.module.set_order(0)


def test_float64_has_one_precision(cuda):
    net = cbk.TwoLayer(3, 2, 1)
    theta, x = put(np.zeros((2, net.size))), put(np.zeros((4, 3)))
    for precision in ("tf32", "bf16"):
        with pytest.raises(
            ValueError, match=f"precision must be 'float32' for float64 arrays, got '{precision}'"
        ):
            cbk.forward(net, theta, x, precision=precision)


@pytest.mark.parametrize("shape", [(20, 3, 2), (6, 3, 1)], ids=str)
def test_gradients_in_passes(emulated, dtype, shape):
    """More particles and samples than the memory for pre-activations, or for slopes, holds."""
    net = cbk.TwoLayer(*shape, "tanh", output_bias=True)
    shapes = (3, net.size), (1100, net.inputs), (1100, net.outputs)
    theta, x, y = (numbers(s, i).astype(dtype) for i, s in enumerate(shapes))
    expected = reference.risk_gradient(net, theta, x, y)
    try:
        for particles in (2, 1, 0.1):
            emulated.module.set_gradient_bytes(int(particles * 1100 * 5 * theta.itemsize))
            result = cbk.risk_gradient(net, *map(put, (theta, x, y)))
            for a, b in zip(result, expected, strict=True):
                np.testing.assert_allclose(host(a), b, rtol=3e-6, atol=1e-6 * np.abs(b).max())
    finally:
        emulated.module.set_gradient_bytes(64 << 20)
