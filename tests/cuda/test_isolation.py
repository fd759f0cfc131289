"""A particle's results depend on that particle alone, though it shares tiles of products with others.

Some are made bad (NaN, infinite, or so large that they overflow). Every other result must keep the bits it
has where all particles are good: numbers that are multiplied by zeros and added would show, for 0 NaN is NaN.
"""

from __future__ import annotations

import numpy as np
import pytest
from libraries import host, numbers, put

import cbokernels as cbk
from cbokernels import reference

PRECISIONS = ("float32", "tf32", "bf16")
BAD = {"nan": np.nan, "infinite": np.inf, "overflowing": 1e38}
# neurons of 5, 12 and 20 end within a tile of 8, 130 within one of 128; up to 2, 8, 16 outputs and more
SHAPES = [(17, 20, 10), (17, 5, 17), (16, 12, 3), (17, 20, 1), (18, 130, 2)]


def same_but(bad, result, expected):
    """That results [particles, ...] are the same bits, but for the bad ones'."""
    for a, b in zip(result, expected, strict=True):
        assert np.isfinite(b).all(), "the good particles are not good"
        np.testing.assert_array_equal(np.delete(host(a), bad, 0), np.delete(b, bad, 0))


def everything(net, theta, x, targets, precision):
    """Results [particles, ...] of every function that takes particles together."""
    y, labels = targets
    on, kind = (put(theta), put(x)), {"precision": precision}
    results = [cbk.forward(net, *on, **kind), *cbk.risk_gradient(net, *on, put(y[0].copy()), **kind)]
    results.append(cbk.task_risks(net, *on, put(y), loss="mse", **kind))
    if net.outputs > 1:
        results.append(cbk.risk(net, *on, put(labels), loss="cross_entropy", **kind))
    return results


@pytest.fixture(params=["warps", "groups"])
def engine(cuda, request):
    """Who multiplies, as in test_precision.py."""
    emulated = hasattr(cuda, "set_capability")
    if request.param == "groups":
        if emulated:
            cuda.set_capability(9)
        built = cuda.testing.use_warp_groups(True) == cuda.testing.has_warp_groups()
        assert built, "the build has no code for sm_90a"
    else:
        cuda.testing.use_warp_groups(False)
    yield request.param
    cuda.testing.use_warp_groups(True)
    if emulated:
        cuda.set_capability(8)


def check_neighbours(shape, precision):
    """Every third particle is bad, each of them in turn, so that every good one stands beside a bad one."""
    net = cbk.TwoLayer(*shape, "tanh" if shape[1] % 2 else "relu", output_bias=shape[2] > 1)
    particles = 8 if net.width <= 20 else 4  # 6 of 20 neurons are a tile
    theta, x = numbers((particles, net.size), "float32"), numbers((9, net.inputs), "float32", 1)
    targets = numbers((2, 9, net.outputs), "float32", 2), np.arange(9) % net.outputs
    expected = [host(r).copy() for r in everything(net, theta, x, targets, precision)]
    for first in range(3):
        bad = theta.copy()
        for n, value in zip(
            range(first, particles, 3), list(BAD.values())[first:] + [np.nan] * 2, strict=False
        ):
            bad[n] = value
        same_but(range(first, particles, 3), everything(net, bad, x, targets, precision), expected)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bad_particles_are_alone(cuda, engine, shape, precision):
    check_neighbours(shape, precision)


@pytest.mark.parametrize("shape", [(9, 5, 3), (2, 7, 1), (3, 70, 2)], ids=str)
def test_bad_particles_of_few_inputs_are_alone(cuda, shape):
    check_neighbours(shape, "float32")


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
@pytest.mark.parametrize("part", ["weights", "biases", "output weights"])
def test_a_bad_part_of_a_particle_is_alone(cuda, part, value):
    """An infinite weight may well give good activations, and good ones may meet a bad weight."""
    net = cbk.TwoLayer(17, 20, 10, "tanh")
    theta, x = numbers((3, net.size), "float32"), numbers((9, net.inputs), "float32", 1)
    targets = numbers((2, 9, 10), "float32", 2), np.arange(9) % 10
    first, second = 17 * 20, 17 * 20 + 20
    places = {
        "weights": slice(0, first),
        "biases": slice(first, second),
        "output weights": slice(second, None),
    }
    for precision in PRECISIONS:
        expected = [host(r).copy() for r in everything(net, theta, x, targets, precision)]
        bad = theta.copy()
        bad[1, places[part]] = value
        same_but([1], everything(net, bad, x, targets, precision), expected)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_particle_is_the_same_wherever_it_stands(cuda, engine, precision):
    """Among others, last of a partial tile, or on its own."""
    net = cbk.TwoLayer(17, 20, 10, "relu")
    theta, x = numbers((9, net.size), "float32"), numbers((9, net.inputs), "float32", 1)
    labels = put(np.arange(9) % 10)
    kind = {"loss": "cross_entropy", "precision": precision}
    expected = host(cbk.risk(net, put(theta), put(x), labels, **kind))
    for last in (1, 7):  # 6 particles are a tile
        few = host(cbk.risk(net, put(theta[:last].copy()), put(x), labels, **kind))
        np.testing.assert_array_equal(few, expected[:last])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("neurons", [1, 20, 130])
def test_a_bad_sample_is_alone(cuda, engine, neurons, precision):
    """Columns without a neuron, whose weights are 0, do not count where x is infinite and tanh is not."""
    net = cbk.TwoLayer(17, neurons, 3, "tanh")
    theta, x = numbers((2, net.size), "float32"), numbers((9, net.inputs), "float32", 1)
    expected = host(cbk.forward(net, put(theta), put(x), precision=precision))
    for value in (np.nan, 1e38, np.inf):
        bad = x.copy()
        bad[4, 2] = value
        result = host(cbk.forward(net, put(theta), put(bad), precision=precision))
        np.testing.assert_array_equal(np.delete(result, 4, 1), np.delete(expected, 4, 1))
    if precision != "float32":  # which takes infinity apart, to NaN
        limit = reference.forward(net, theta, bad)
        np.testing.assert_allclose(result[:, 4], limit[:, 4], rtol=0, atol=0.01)


@pytest.mark.parametrize("shape", [(17, 5, 3), (4, 5, 2), (2, 7, 1), (1, 130, 1)], ids=str)
def test_atom_risks_of_a_bad_particle_are_alone(cuda, dtype, shape):
    net = cbk.TwoLayer(*shape, "tanh")
    center, theta, x, y = (
        numbers(s, dtype, i) for i, s in enumerate([net.size, (4, net.size), (9, shape[0]), (9, shape[2])])
    )
    expected = host(cbk.atom_risks(net, *map(put, (center, theta, x, y))))
    for at, value in enumerate((np.nan, np.inf, 1e38 if dtype == "float32" else 1e308, -np.inf)):
        bad = theta.copy()
        bad[at] = value
        same_but([at], [cbk.atom_risks(net, *map(put, (center, bad, x, y)))], [expected])
        bad = theta.copy()
        bad[at, : shape[0]] = value  # one neuron's weights: the other neurons' risks are theirs
        result = host(cbk.atom_risks(net, *map(put, (center, bad, x, y))))
        np.testing.assert_array_equal(result[at, 1:], expected[at, 1:])


@pytest.mark.parametrize("shape", [(2, 6, 1), (2, 6, 2), (4, 6, 3), (5, 6, 2)], ids=str)
def test_infinite_weights_have_the_gradient_of_the_limit(cuda, dtype, shape):
    """sigma(w x) with w infinite is flat: the gradient is finite, unless samples that are not there count."""
    net = cbk.TwoLayer(*shape, "tanh")
    theta = numbers((3, net.size), dtype)
    x, y = np.abs(numbers((9, shape[0]), dtype, 1)), numbers((9, shape[2]), dtype, 2)
    far = theta.copy()
    theta[1, : shape[0]], far[1, : shape[0]] = np.inf, 1e6
    expected = [host(r).copy() for r in cbk.risk_gradient(net, put(far), put(x), put(y))]
    result = cbk.risk_gradient(net, put(theta), put(x), put(y))
    for a, b in zip(result, expected, strict=True):
        np.testing.assert_array_equal(host(a), b)
