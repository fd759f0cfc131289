"""Consensus hopping: risks of an ensemble that is never stored, its drift, and what it learns."""

from __future__ import annotations

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels import _cpu, reference
from cbokernels.experiments import sine
from cbokernels.hopping import rank_weights


def problem(inputs, width, outputs, samples, dtype, **more):
    rng = np.random.default_rng([inputs, width, outputs, samples])
    net = cbk.TwoLayer(inputs, width, outputs, **more)
    x = rng.normal(size=(samples, inputs)).astype(dtype)
    y = rng.normal(size=(samples, outputs)).astype(dtype)
    return net, rng.normal(size=net.size).astype(dtype), x, y, rng.integers(0, outputs, samples)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize(
    ("shape", "more"),
    [
        ((1, 7, 1, 33), {}),
        ((3, 17, 2, 100), {"activation": "tanh", "output_bias": True}),
        ((20, 70, 3, 17), {"activation": "gelu", "scaling": "none"}),
        ((784, 20, 10, 15), {}),
    ],
)
def test_atom_risks_are_those_of_the_centre_with_one_neuron_replaced(shape, more, loss, dtype):
    net, center, x, y, labels = problem(*shape, dtype, **more)
    theta = net.uniform(9, seed=3, dtype=dtype)
    target = labels if loss == "cross_entropy" else y
    got = cbk.atom_risks(net, center, theta, x, target, loss=loss)
    w, b, c, _ = net.unpack(theta)
    for neuron in range(0, net.width, 3):
        swapped = np.tile(center, (9, 1))
        to_w, to_b, to_c, _ = net.unpack(swapped)
        to_w[:, neuron], to_b[:, neuron], to_c[..., neuron] = w[:, neuron], b[:, neuron], c[..., neuron]
        truth = reference.risk(net, swapped, x, target, loss=loss)
        np.testing.assert_allclose(got[:, neuron], truth, rtol=5e-6 if dtype == "float32" else 1e-11)


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("atoms", [True, False])
def test_drawn_risks_are_those_of_the_stored_ensemble(mirrored, atoms):
    net, center, x, y, _ = problem(2, 11, 2, 50, "float32")
    drawn = np.empty((30, 11 if atoms else 1))
    _cpu.hopping_risk(net._kernel, center, 30, 0.1, mirrored, 5, 7, x, y, atoms, drawn, 2)
    xi = cbk.standard_normal(15 if mirrored else 30, net.size, seed=5, step=7)
    step = np.float32(0.1) * xi
    theta = np.concatenate([center + step, center - step]) if mirrored else center + step
    stored = cbk.atom_risks(net, center, theta, x, y) if atoms else cbk.risk(net, theta, x, y)[:, None]
    np.testing.assert_allclose(drawn, stored, rtol=2e-6)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_drift_is_the_weighted_sum_of_the_noise(threads):
    rng = np.random.default_rng(0)
    net = cbk.TwoLayer(5, 60, 2)
    weights = rng.normal(size=(2500, 60))
    out, first = np.empty(net.size), np.empty(net.size)
    _cpu.noise_drift(weights, net._atom_index, 3, 4, True, out, threads)
    xi = cbk.standard_normal(2500, net.size, seed=3, step=4).astype(np.float64)
    np.testing.assert_allclose(out, (weights[:, net._atom_index] * xi).sum(axis=0), atol=1e-10)
    _cpu.noise_drift(weights, net._atom_index, 3, 4, True, first, 1)
    np.testing.assert_array_equal(out, first)


def test_rank_weights():
    weights = rank_weights(6)
    raw = [np.log(3.5) - np.log(r) for r in (1, 2, 3)]
    np.testing.assert_allclose(weights, [*(np.array(raw) / sum(raw)), 0, 0, 0], atol=1e-15)


def test_a_step_is_adam_on_the_consensus_drift():
    net, center, x, y, _ = problem(2, 5, 1, 40, "float32")
    method = cbk.ConsensusHopping(particles=20, spread=0.2, lr=0.05)
    result = cbk.train(net, x, y, method, epochs=1, theta=center[None], seed=9)
    xi = cbk.standard_normal(10, net.size, seed=9).astype(np.float64)
    theta = np.concatenate([center + 0.2 * xi, center - 0.2 * xi]).astype(np.float32)
    beta = np.zeros(20)
    beta[np.argsort(cbk.risk(net, theta, x, y))] = rank_weights(20)
    drift = (beta - 1 / 20) @ np.concatenate([xi, -xi])
    # Adam's first step moves every coordinate by lr, in the drift's direction
    np.testing.assert_allclose(result.parameters, center + 0.05 * np.sign(drift), atol=2e-6)
    np.testing.assert_array_equal(result.particles, result.parameters[None])


def test_learns_the_sine_to_the_noise_floor():
    x, y = sine.samples()
    risks = [
        cbk.train(sine.NET, x, y, cbk.ConsensusHopping(), epochs=300, batch_size=800, seed=seed).history[
            "risk"
        ][-1]
        for seed in range(4)
    ]
    assert np.median(risks) <= 1.4e-4
    assert max(risks) <= 3e-4


@pytest.mark.parametrize("more", [{"weights": cbk.TargetEss(0.5)}, {"scope": "atom"}, {"mirrored": False}])
def test_every_form_learns(more):
    x, y = sine.samples(2000)
    run = cbk.train(sine.NET, x, y, cbk.ConsensusHopping(**more), epochs=60, batch_size=400, seed=1)
    assert run.history["risk"][-1] < 0.3 * run.history["risk"][0]


@pytest.mark.parametrize("scope", ["network", "atom"])
def test_resume_gives_the_same_bits(tmp_path, scope):
    net, _, x, y, _ = problem(2, 5, 1, 40, "float32")
    method = cbk.ConsensusHopping(particles=20, scope=scope, lr=0.1, spread=0.1)
    whole = cbk.train(net, x, y, method, epochs=8, batch_size=16, seed=4)
    path = tmp_path / "run"
    cbk.train(net, x, y, method, epochs=5, batch_size=16, seed=4, checkpoint=path)
    resumed = cbk.train(net, x, y, method, epochs=8, batch_size=16, seed=4, checkpoint=path, resume=True)
    np.testing.assert_array_equal(whole.parameters, resumed.parameters)
    np.testing.assert_array_equal(whole.history["risk"], resumed.history["risk"])


def test_risks_that_are_not_finite():
    net, center, x, y, _ = problem(1, 4, 1, 30, "float32")
    with pytest.warns(cbk.CboWarning, match="risks were"):
        # some of the outputs pass float32's range, not all
        cbk.train(
            net, x, y, cbk.ConsensusHopping(particles=40, spread=1e19), theta=0 * center[None], epochs=1
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"particles": 7}, "particles must be even where mirrored, got 7"),
        ({"particles": 1}, "particles"),
        ({"spread": 0.0}, "spread"),
        ({"spread": -1.0}, "spread"),
        ({"lr": -0.1}, "lr"),
        ({"weights": "best"}, "weights must be"),
        ({"scope": "layer"}, "scope must be"),
        ({"beta1": 1.0}, r"beta1 must be in \[0, 1\), got 1.0"),
    ],
)
def test_wrong_parameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        cbk.ConsensusHopping(**arguments)


def test_wrong_networks_and_centres():
    net, center, x, y, _ = problem(2, 5, 1, 40, "float32", output_bias=True)
    with pytest.raises(ValueError, match="without output_bias"):
        cbk.train(net, x, y, cbk.ConsensusHopping(scope="atom"), epochs=1)
    with pytest.raises(ValueError, match=r"theta must have shape \[1, D\]"):
        cbk.train(net, x, y, cbk.ConsensusHopping(), theta=np.tile(center, (3, 1)), epochs=1)
    with pytest.raises(ValueError, match="center must have shape"):
        cbk.atom_risks(net, center[1:], center[None], x, y)
    with pytest.raises(TypeError, match="center must be float32"):
        cbk.atom_risks(net, center.astype(np.float64), center[None], x, y)
