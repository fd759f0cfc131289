"""Losses that are C functions: against built-in losses of the same formula, on every path of risks."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import scipy
from own_losses import IN_PYTHON, Library

import cbokernels as cbk

RNG = np.random.default_rng(11)
SHAPES = {  # inputs, width, outputs, particles, samples, share of inputs that are not 0
    "direct": (2, 30, 1, 20, 90, 1.0),
    "long": (1, 40, 1, 3, 3000, 1.0),
    "products": (60, 9, 3, 7, 75, 1.0),
    "many": (20, 100, 12, 3, 40, 1.0),
    "lists": (300, 40, 2, 300, 50, 0.02),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return Library(tmp_path_factory.mktemp("losses"))


def problem(shape, loss, dtype):
    inputs, width, outputs, particles, samples, share = SHAPES[shape]
    net = cbk.TwoLayer(inputs, width, outputs, activation="tanh")
    x = RNG.normal(size=(samples, inputs)) * (RNG.random((samples, inputs)) < share)
    y = RNG.normal(size=(samples, outputs)).astype(dtype)
    if loss in ("cross_entropy", "poisson"):
        y = RNG.integers(0, outputs if loss == "cross_entropy" else 9, samples)
    return net, net.uniform(particles, seed=3, dtype=dtype), x.astype(dtype), y


def test_shapes_take_the_paths_that_they_are_for():
    for shape, path in (("direct", "direct"), ("products", "products"), ("lists", "lists")):
        inputs, width, outputs, particles, samples, share = SHAPES[shape]
        net = cbk.TwoLayer(inputs, width, outputs, activation="tanh")
        assert cbk.plan(net, particles, samples, density=share).path == path


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("shape", SHAPES)
def test_risks_are_those_of_the_built_in_loss(shape, loss, weighted, dtype, library):
    net, theta, x, y = problem(shape, loss, dtype)
    own, rel = library[loss, dtype], 2e-6 if dtype == "float32" else 1e-12
    weights = RNG.exponential(size=len(x)) * (RNG.random(len(x)) > 0.3) if weighted else None
    how = {"sample_weight": None if weights is None else weights.astype(dtype)}
    found = cbk.risk(net, theta, x, y, loss=own, **how)
    np.testing.assert_allclose(found, cbk.risk(net, theta, x, y, loss=loss, **how), rtol=rel, atol=rel)
    np.testing.assert_array_equal(cbk.risk(net, theta, x, y, loss=own, num_threads=3, **how), found)
    np.testing.assert_array_equal(cbk.risk(net, theta, x, y, loss=scipy.LowLevelCallable(own), **how), found)
    ys = np.stack([y, y[::-1]])
    np.testing.assert_allclose(
        cbk.task_risks(net, theta, x, ys, loss=own, **how),
        cbk.task_risks(net, theta, x, ys, loss=loss, **how),
        rtol=rel, atol=rel,
    )  # fmt: skip
    few = theta[:4]
    np.testing.assert_allclose(
        cbk.atom_risks(net, few[0], few, x, y, loss=own, **how),
        cbk.atom_risks(net, few[0], few, x, y, loss=loss, **how),
        rtol=10 * rel, atol=rel,
    )  # fmt: skip


@pytest.mark.parametrize("loss", ["log_cosh", "poisson"])
def test_a_loss_that_is_not_built_in(loss, dtype, library):
    net, theta, x, y = problem("direct", loss, dtype)
    np.testing.assert_allclose(
        cbk.risk(net, theta, x, y, loss=library[loss, dtype]),
        cbk.reference.risk(net, theta, x, y, loss=IN_PYTHON[loss]),
        rtol=2e-6 if dtype == "float32" else 1e-12,
    )


METHODS = {
    "CBO": cbk.CBO(particles=20, alpha=10),
    "tasks": cbk.MultiTaskCBO(particles=20, alpha=10),
    "hopping": cbk.ConsensusHopping(particles=20, weights=cbk.TargetEss(0.5)),
    "atoms": cbk.ConsensusHopping(particles=20, scope="atom", weights=cbk.TargetEss(0.5)),
    "rank": cbk.ConsensusHopping(particles=20, rank=2, weights=cbk.TargetEss(0.5)),
    "atoms of rank": cbk.ConsensusHopping(particles=20, rank=1, scope="atom", weights=cbk.TargetEss(0.5)),
    "transport": cbk.TransportCBO(particles=10, alpha=10),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_training_goes_where_the_built_in_loss_leads(loss, method, weighted, library):
    net, _, x, y = problem("products", loss, "float64")
    weights = RNG.exponential(size=len(x)) if weighted else None
    y = y[None] if method == "tasks" else y
    run = {"epochs": 3, "batch_size": 32, "dtype": "float64", "weight_decay": 0.01, "sample_weight": weights}
    own, built_in = (
        cbk.train(net, x, y, METHODS[method], loss=given, **run) for given in (library[loss, "float64"], loss)
    )
    np.testing.assert_allclose(own.particles, built_in.particles, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(own.history["risk"], built_in.history["risk"], rtol=1e-6)


def test_nan_touches_one_particle_alone(library):
    net, theta, x, y = problem("direct", "mse", "float64")
    found = cbk.risk(net, theta, x, y, loss=library["nan_above", "float64"])
    bad = (cbk.forward(net, theta, x)[..., 0] > 0.1).any(axis=1)
    assert bad.any()
    assert not bad.all()
    np.testing.assert_array_equal(np.isnan(found), bad)
    np.testing.assert_allclose(found[~bad], cbk.risk(net, theta, x, y)[~bad], rtol=1e-12)


def test_numbers_must_be_of_the_particles_type(library):
    net, theta, x, y = problem("direct", "mse", "float32")
    with pytest.raises(TypeError, match=r"loss must take numbers of .* float32, got .* of double"):
        cbk.risk(net, theta, x, y, loss=library["mse", "float64"])
    with pytest.raises(TypeError, match=r"loss must take numbers of .* float64, got .* of float"):
        cbk.train(net, x, y, METHODS["CBO"], loss=library["mse", "float32"], dtype="float64", epochs=1)


def test_signatures(library):
    net, theta, x, y = problem("direct", "mse", "float32")
    own = library["mse", "float32"]
    expected = cbk.risk(net, theta, x, y, loss=own)
    for signature in (
        "double (float *, float *, long)",
        "double (const float *outputs, float const *target, int64_t C)",
        "double(float*,float*,npy_intp)",
    ):
        low_level = scipy.LowLevelCallable(own, signature=signature)
        np.testing.assert_array_equal(cbk.risk(net, theta, x, y, loss=low_level), expected)
    for signature in (
        "double (float *, double *, long)",
        "float (float *, float *, long)",
        "double (float *, float *)",
        "double (float *, float *, int)",
        "double (float *, float *, long, void *)",
    ):
        with pytest.raises(ValueError, match=r"loss must be a C function double\(const T \*outputs.* got"):
            cbk.risk(net, theta, x, y, loss=scipy.LowLevelCallable(own, signature=signature))
    data = ctypes.c_int(3)
    with_data = scipy.LowLevelCallable(own, ctypes.cast(ctypes.pointer(data), ctypes.c_void_p))
    with pytest.raises(ValueError, match="without user_data"):
        cbk.risk(net, theta, x, y, loss=with_data)
    own.restype = ctypes.c_float
    with pytest.raises(ValueError, match="loss must be a C function"):
        cbk.risk(net, theta, x, y, loss=own)


def test_what_numba_gives(library):
    """Numba's cfunc has `address` and `ctypes`, and is callable."""

    class CFunc:
        ctypes = library["mse", "float32"]
        address = 1

        def __call__(self, *arguments):
            raise AssertionError("the Python function, and not the compiled one")

    net, theta, x, y = problem("direct", "mse", "float32")
    np.testing.assert_allclose(
        cbk.risk(net, theta, x, y, loss=CFunc()), cbk.risk(net, theta, x, y), rtol=2e-6
    )


def test_python_in_disguise_is_refused():
    """An exception in it would be lost."""
    pointer = ctypes.POINTER(ctypes.c_float)
    disguised = ctypes.CFUNCTYPE(ctypes.c_double, pointer, pointer, ctypes.c_int64)(lambda g, y, c: 0.0)
    net, theta, x, y = problem("direct", "mse", "float32")
    with pytest.raises(TypeError, match="or the Python function itself, got ctypes' wrapper of one"):
        cbk.risk(net, theta, x, y, loss=disguised)


def test_gradients_are_refused(library):
    net, theta, x, y = problem("direct", "mse", "float32")
    with pytest.raises(ValueError, match=r"a gradient needs a loss .*a compiled function of float"):
        cbk.risk_gradient(net, theta, x, y, loss=library["mse", "float32"])
    with pytest.raises(ValueError, match="a gradient needs a loss"):
        cbk.train(net, x, y, cbk.Adam(), loss=library["mse", "float32"], epochs=1)


def test_a_checkpoint_says_what_it_was(library, tmp_path):
    net, _, x, y = problem("direct", "mse", "float32")
    run = {"checkpoint": tmp_path / "run", "resume": True}
    cbk.train(net, x, y, METHODS["CBO"], loss=library["mse", "float32"], epochs=2, **run)
    later = cbk.train(net, x, y, METHODS["CBO"], loss=library["mse", "float32"], epochs=4, **run)
    whole = cbk.train(net, x, y, METHODS["CBO"], loss=library["mse", "float32"], epochs=4)
    np.testing.assert_array_equal(later.particles, whole.particles)
    with pytest.raises(
        ValueError, match="loss is a compiled function of float in the checkpoint and mse now"
    ):
        cbk.train(net, x, y, METHODS["CBO"], loss="mse", epochs=4, **run)
