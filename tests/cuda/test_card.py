"""What only a card can tell: streams, views, much noise, whole runs. Left out where none is required."""

from __future__ import annotations

import numpy as np
import pytest
from libraries import array, host, pointer, put

import cbokernels as cbk
from cbokernels._arrays.libraries import stream_of

NET = cbk.TwoLayer(784, 20, 10)


def ensemble(particles=64, samples=256, dtype="float32"):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, 784)).astype(dtype)
    return NET.uniform(particles, seed=1, dtype=dtype), x, rng.integers(0, 10, samples)


def test_kernels_follow_the_callers_stream(card):
    """The inputs are written on that stream, behind work that takes long."""
    theta, x, y = ensemble()
    expected = cbk.risk(NET, theta, x, y, loss="cross_entropy")
    on = [put(a) for a in (theta, x, y)]
    zeros = put(np.zeros_like(theta))
    with card.stream():
        card.work()
        zeros += on[0]
        result = cbk.risk(NET, zeros, *on[1:], loss="cross_entropy")
        np.testing.assert_allclose(host(result), expected, rtol=1e-5)


def test_a_stream_is_waited_for(card):
    with card.stream():
        card.work()
        card.module.synchronize((0, stream_of(put(np.zeros(1)))))
        assert card.is_idle()


def test_jax_arrays_behind_work(card, monkeypatch):
    """XLA's streams are its own: the kernel follows them, and has read and written when the call returns."""
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax = pytest.importorskip("jax")
    if jax.default_backend() == "cpu":
        pytest.skip("JAX finds no card")
    jax.config.update("jax_enable_x64", True)
    theta, x, y = ensemble()
    expected = cbk.risk(NET, theta, x, y, loss="cross_entropy")
    on, ones = [jax.device_put(a) for a in (theta, x, y)], jax.numpy.ones((8192, 8192), "float32")
    for _ in range(20):
        late = on[0] + 0 * (ones @ ones @ ones)[0, 0]
        result = cbk.risk(NET, late, *on[1:], loss="cross_entropy")
        del late
        spoiled = [jax.numpy.full(theta.shape, np.nan, "float32") for _ in range(4)]  # where the input lay
        np.testing.assert_allclose(np.asarray(result), expected, rtol=1e-5)
        jax.block_until_ready(spoiled)
    with pytest.raises(ValueError, match="out must be writable, got a read-only jax"):
        cbk.cbo_update(on[0], on[0][0], out=on[0])


@pytest.mark.parametrize("offset", [0, 1, 2, 3])
def test_views_that_are_not_aligned(card, offset):
    theta, x, y = ensemble()
    expected = cbk.risk(NET, theta, x, y, loss="cross_entropy")
    room = put(np.zeros(theta.size + 4, theta.dtype))
    view = room[offset : offset + theta.size].reshape(theta.shape)
    view[...] = put(theta)
    turned = put(np.asfortranarray(x))
    assert pointer(view) % 16 == 4 * offset
    result = cbk.risk(NET, view, turned, put(y), loss="cross_entropy")
    np.testing.assert_allclose(host(result), expected, rtol=1e-5)
    moved = cbk.cbo_update(view, view[0], seed=3, out=view)
    np.testing.assert_array_equal(host(moved), cbk.cbo_update(theta, theta[0], seed=3))


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_millions_of_normals_are_the_cpus_bits(card, dtype, seed):
    out = put(np.empty((4096, 4096), dtype))
    card.module.standard_normal(array(out), (seed, 0, 1, 0), (0, 0, "float32"))
    np.testing.assert_array_equal(host(out), cbk.standard_normal(4096, 4096, seed=seed, step=1, dtype=dtype))


def test_runs_train(card):
    """The sine, as far as the CPU's run comes."""
    x = np.random.default_rng(0).random((8000, 1))
    y = np.sin(2 * np.pi * x[:, 0])
    method = cbk.CBO(alpha=np.inf, floor=cbk.Exponential(0.1, 0.001))
    run = {"epochs": 200, "batch_size": 800, "seed": 1}
    risks = [
        cbk.train(cbk.TwoLayer(1, 100, 1), *data, method, device=device, **run).history["risk"][-1]
        for device, data in (("cpu", (x, y)), ("cuda", (x, y)), ("cuda", (put(x), put(y))))
    ]
    assert risks[1] == risks[2]
    assert max(risks) < 2e-3


@pytest.mark.parametrize("weights", ["rank", cbk.TargetEss(0.5)])
def test_hopping_weighs_in_blocks(card, weights):
    x = np.random.default_rng(0).random((40, 1))
    y = np.sin(2 * np.pi * x[:, 0])
    method = cbk.ConsensusHopping(300_000, weights=weights)
    results = [
        cbk.train(cbk.TwoLayer(1, 10, 1), x, y, method, epochs=2, dtype="float64", device=device)
        for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(results[1].parameters, results[0].parameters, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(results[1].history["ess"], results[0].history["ess"], rtol=1e-10)
