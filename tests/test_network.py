"""TwoLayer: what it accepts, the layout of theta, initial particles."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

import cbokernels as cbk
from cbokernels import reference

NETS = [
    cbk.TwoLayer(inputs=1, width=1, outputs=1),
    cbk.TwoLayer(inputs=3, width=5, outputs=2),
    cbk.TwoLayer(inputs=3, width=5, outputs=2, output_bias=True),
    cbk.TwoLayer(inputs=784, width=20, outputs=10, output_bias=True),
]


def test_defaults():
    net = cbk.TwoLayer(inputs=784, width=20, outputs=10)
    assert (net.activation, net.scaling, net.output_bias) == ("relu", "mean", False)


@pytest.mark.parametrize(("net", "size"), list(zip(NETS, [3, 30, 32, 20 * 795 + 10], strict=True)))
def test_size(net, size):
    assert net.size == size


@pytest.mark.parametrize("net", NETS)
def test_is_a_value(net):
    same = dataclasses.replace(net)
    assert same == net
    assert hash(same) == hash(net)
    assert same is not net
    assert dataclasses.replace(net, activation="tanh") != net
    with pytest.raises(dataclasses.FrozenInstanceError):
        net.width = 3


@pytest.mark.parametrize("used", [False, True])
def test_pickles_and_copies(used):
    net = cbk.TwoLayer(inputs=2, width=3, outputs=1, activation="gelu", scaling="none", output_bias=True)
    theta, x = np.ones((1, net.size)), np.ones((1, 2))
    if used:  # the compiled value is cached by then
        cbk.forward(net, theta, x)
    for again in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        assert again == net
        np.testing.assert_array_equal(cbk.forward(again, theta, x), cbk.forward(net, theta, x))


def test_numpy_integers_become_integers():
    net = cbk.TwoLayer(inputs=np.int64(2), width=np.uint8(3), outputs=np.int32(1), output_bias=np.True_)
    assert net == cbk.TwoLayer(inputs=2, width=3, outputs=1, output_bias=True)
    assert type(net.width) is int
    assert type(net.output_bias) is bool


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"inputs": 0}, ValueError, ["inputs", "[1, ", "got 0"]),
        ({"width": 0}, ValueError, ["width", "[1, ", "got 0"]),
        ({"outputs": -1}, ValueError, ["outputs", "[1, ", "got -1"]),
        ({"width": 2.0}, TypeError, ["width", "integer", "2.0"]),
        ({"width": True}, TypeError, ["width", "integer", "True"]),
        ({"activation": "selu"}, ValueError, ["activation", "'gelu'", "'selu'"]),
        ({"activation": None}, TypeError, ["activation", "string", "None"]),
        ({"scaling": "sum"}, ValueError, ["scaling", "'mean'", "'none'", "'sum'"]),
        ({"output_bias": 1}, TypeError, ["output_bias", "True or False", "1"]),
    ],
)
def test_wrong_arguments_are_named(arguments, error, words):
    with pytest.raises(error) as caught:
        cbk.TwoLayer(**{"inputs": 1, "width": 2, "outputs": 1, **arguments})
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("lead", [(), (4,), (2, 3), (0,)])
def test_unpack_gives_views_in_order(net, lead, dtype):
    d, m, c = net.inputs, net.width, net.outputs
    theta = np.arange(np.prod(lead) * net.size, dtype=dtype).reshape(*lead, net.size)
    w, b, v, a = net.unpack(theta)
    assert (w.shape, b.shape, v.shape) == ((*lead, m, d), (*lead, m), (*lead, c, m))
    parts = [w, b, v] if a is None else [w, b, v, a]
    assert (a is None) != net.output_bias
    rows = [part.reshape(-1, *part.shape[len(lead) :]) for part in parts] if theta.size else []
    for n, row in enumerate(theta.reshape(-1, net.size)):
        np.testing.assert_array_equal(np.concatenate([part[n].ravel() for part in rows]), row)
    if theta.size:
        assert all(np.shares_memory(part, theta) for part in parts)
        w[...] = -1
        assert (theta[..., : m * d] == -1).all()
    np.testing.assert_array_equal(net.pack(*net.unpack(theta)), theta)


def test_unpack_of_strided_particles_gives_views():
    net = NETS[2]
    theta = np.zeros((6, 2 * net.size))[::2, ::2]
    w, b, c, a = net.unpack(theta)
    w[...], b[...], c[...], a[...] = 1, 2, 3, 4
    np.testing.assert_array_equal(theta[1], [1] * 15 + [2] * 5 + [3] * 10 + [4] * 2)


@given(
    net=st.builds(cbk.TwoLayer, inputs=st.integers(1, 6), width=st.integers(1, 6), outputs=st.integers(1, 6)),
    lead=st.lists(st.integers(1, 3), max_size=3),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_atoms_and_back(net, lead, dtype):
    theta = np.arange(np.prod([*lead, net.size]), dtype=dtype).reshape(*lead, net.size)
    atoms = net.atoms(theta)
    assert atoms.shape == (*lead, net.width, net.inputs + 1 + net.outputs)
    assert atoms.dtype == dtype
    assert not np.shares_memory(atoms, theta)
    w, b, c, _ = net.unpack(theta)
    for neuron in range(net.width):
        expected = np.concatenate([w[..., neuron, :], b[..., neuron, None], c[..., :, neuron]], axis=-1)
        np.testing.assert_array_equal(atoms[..., neuron, :], expected)
    np.testing.assert_array_equal(net.from_atoms(atoms), theta)


def test_layout_errors_are_named():
    net, biased = NETS[1], NETS[2]
    theta = np.zeros((4, net.size))
    w, b, c, _ = net.unpack(theta)
    cases = [
        (lambda: net.unpack(theta[:, 1:]), ValueError, ["theta", "[..., 30]", "[4, 29]"]),
        (lambda: net.unpack(np.zeros(())), ValueError, ["theta", "[..., 30]", "[]"]),
        (lambda: net.unpack(theta.tolist()), TypeError, ["theta", "array", "list"]),
        (lambda: net.unpack(theta.astype(int)), TypeError, ["theta", "float32", "int64"]),
        (lambda: net.atoms(theta[:, 1:]), ValueError, ["theta", "[..., 30]", "[4, 29]"]),
        (lambda: net.pack(w[:, 1:], b, c), ValueError, ["w", "[..., 5, 3]", "[4, 4, 3]"]),
        (lambda: net.pack(w, b[:2], c), ValueError, ["b", "[4, 5]", "[2, 5]"]),
        (lambda: net.pack(w, b, c.swapaxes(1, 2)), ValueError, ["c", "[4, 2, 5]", "[4, 5, 2]"]),
        (lambda: net.pack(w, b.astype("f4"), c), TypeError, ["b", "float64", "float32"]),
        (lambda: net.pack(w, b, c, np.zeros((4, 2))), ValueError, ["a must be None", "got numpy.ndarray"]),
        (lambda: biased.pack(w, b, c), ValueError, ["a must have shape [..., 2]", "got None"]),
        (lambda: biased.atoms(np.zeros((4, 32))), ValueError, ["atoms", "output_bias"]),
        (lambda: biased.from_atoms(np.zeros((4, 5, 6))), ValueError, ["from_atoms", "output_bias"]),
        (lambda: net.from_atoms(np.zeros((4, 6, 5))), ValueError, ["atoms", "[..., 5, 6]", "[4, 6, 5]"]),
    ]
    for call, error, words in cases:
        with pytest.raises(error) as caught:
            call()
        assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("net", NETS)
def test_uniform_comes_from_stream_one(net, dtype):
    theta = net.uniform(6, low=-2.0, high=3.0, seed=11, dtype=dtype)
    assert theta.shape == (6, net.size)
    assert theta.dtype == dtype
    words = reference.words(6, net.size, seed=11, step=0, stream=1)[:, : net.size]
    expected = -2 + 5 * ((words + 0.5) * 2.0**-32)
    np.testing.assert_allclose(theta, expected, rtol=0, atol=1e-15 if dtype == "float64" else 5e-7)
    np.testing.assert_array_equal(net.uniform(2, low=-2.0, high=3.0, seed=11, dtype=dtype), theta[:2])


def test_uniform_defaults_and_range():
    net = cbk.TwoLayer(inputs=3, width=50, outputs=1)
    theta = net.uniform(2000, seed=0)
    assert theta.dtype == np.float32
    assert theta.min() >= -1
    assert theta.max() <= 1
    assert scipy.stats.kstest(theta[:400].ravel().astype(float), "uniform", (-1, 2)).pvalue > 1e-3
    np.testing.assert_array_equal(theta, net.uniform(2000, -1, 1, seed=0, num_threads=3))
    assert (net.uniform(1, 0.5, 0.5, seed=0) == 0.5).all()


def test_torch_default_is_that_of_linear_layers(dtype):
    net = cbk.TwoLayer(inputs=9, width=25, outputs=4, output_bias=True)
    theta = net.torch_default(300, seed=2, dtype=dtype)
    unit = net.uniform(300, seed=2, dtype=dtype)
    assert theta.dtype == dtype
    for part, whole, fan_in in zip(net.unpack(theta), net.unpack(unit), [9, 9, 25, 25], strict=True):
        np.testing.assert_allclose(part, whole / np.sqrt(fan_in), rtol=2e-7)
        assert 0.99 < np.abs(part).max() * np.sqrt(fan_in) <= 1


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"particles": 0}, ValueError, ["particles", "got 0"]),
        ({"low": 2.0}, ValueError, ["high", "low = 2.0", "got 1.0"]),
        ({"low": float("nan")}, ValueError, ["low", "nan"]),
        ({"high": float("inf")}, ValueError, ["high", "inf"]),
        ({"low": -1e308, "high": 1e308}, ValueError, ["high", "finite", "1e+308"]),
        ({"high": True}, TypeError, ["high", "real", "True"]),
        ({"low": "0"}, TypeError, ["low", "real", "'0'"]),
        ({"seed": -1}, ValueError, ["seed", "2^64", "-1"]),
        ({"dtype": "int32"}, TypeError, ["dtype", "'int32'"]),
    ],
)
def test_wrong_initialisation_is_named(arguments, error, words):
    with pytest.raises(error) as caught:
        NETS[1].uniform(**{"particles": 2, "seed": 0, **arguments})
    assert all(word in str(caught.value) for word in words), caught.value


def test_torch_tensors_unpack_to_views_and_pack():
    torch = pytest.importorskip("torch")
    net = NETS[2]
    theta = torch.arange(4 * net.size, dtype=torch.float32).reshape(4, net.size)
    parts = net.unpack(theta)
    assert all(isinstance(part, torch.Tensor) for part in parts)
    assert parts[2].untyped_storage().data_ptr() == theta.untyped_storage().data_ptr()
    packed = net.pack(*parts)
    assert isinstance(packed, torch.Tensor)
    assert torch.equal(packed, theta)
    plain = NETS[1]
    assert torch.equal(plain.from_atoms(plain.atoms(theta[:, :30])), theta[:, :30])


def test_functions_of_a_network_ask_for_one():
    with pytest.raises(TypeError, match=r"net must be a cbokernels.TwoLayer, got \(1, 2, 1\)"):
        cbk.forward((1, 2, 1), np.zeros((1, 6)), np.zeros((1, 1)))
