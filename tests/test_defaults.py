"""What `ConsensusHopping()`, `train` and `minimize` choose by themselves, and what that reaches."""

from __future__ import annotations

import numpy as np
import pytest

import cbokernels as cbk


def chosen(inputs, width, outputs, batch, particles=200, output_bias=False, scaling="mean", **given):
    net = cbk.TwoLayer(inputs, width, outputs, output_bias=output_bias, scaling=scaling)
    m = cbk.ConsensusHopping(particles, **given).resolved(net, batch)
    start = float(m._values(0, 10)["lr"])
    return m.scope, m.rank, m.directions, float(m._values(9, 10)["spread"]), pytest.approx(start)


@pytest.mark.parametrize(
    ("shape", "more", "expected"),
    [
        ((1, 100, 1, 800), {}, ("network", None, "free", 0.01, 0.3)),  # the sine: few parameters
        ((1, 100, 1, 800), {"particles": 10}, ("network", None, "free", 0.01, 0.3)),  # and few particles
        ((10, 20, 1, 32), {}, ("network", None, "free", 0.01, 0.3)),  # diabetes
        ((30, 20, 2, 25), {}, ("network", None, "free", 0.01, 0.3)),  # breast cancer
        ((64, 20, 10, 400), {}, ("atom", None, "free", 0.1, 0.2)),  # digits of 8 x 8
        ((784, 20, 10, 100), {}, ("atom", 1, "batch", 0.1, 0.1)),  # digits of 28 x 28
        ((784, 20, 10, 1000), {}, ("atom", 1, "free", 0.1, 0.3)),  # more samples than inputs
        ((784, 20, 10, 100), {"output_bias": True}, ("network", 1, "batch", 0.1, 0.05)),
        ((784, 20, 10, 1000), {"output_bias": True}, ("network", 1, "free", 0.1, 0.1)),
        ((784, 20, 10, 100), {"scaling": "none"}, ("atom", 1, "batch", 0.1, 0.01)),
        ((784, 20, 10, 100), {"rank": None}, ("atom", None, "free", 0.1, 0.1)),
        ((784, 20, 10, 100), {"directions": "free"}, ("atom", 1, "free", 0.1, 0.1)),
        ((784, 20, 10, 100), {"scope": "network", "rank": 2}, ("network", 2, "batch", 0.1, 0.05)),
        ((784, 20, 10, 100), {"lr": 0.7, "spread": 0.2}, ("atom", 1, "batch", 0.2, 0.7)),
        ((5, 4, 1, 3), {"scope": "atom"}, ("atom", None, "free", 0.1, 0.1)),
        ((5, 4, 1, 3), {"directions": "batch"}, ("network", 1, "batch", 0.1, 0.05)),
    ],
)
def test_the_rule_of_consensus_hopping(shape, more, expected):
    assert chosen(*shape, **more) == expected


def test_the_result_names_what_was_chosen():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 120)).astype(np.float32), rng.integers(0, 3, 60)
    net = cbk.TwoLayer(120, 10, 3)
    method = cbk.ConsensusHopping(particles=20)
    options = {"epochs": 2, "batch_size": 30, "seed": 1}
    result = cbk.train(net, x, y, method, **options)
    assert result.method == method.resolved(net, 30)
    assert (result.method.scope, result.method.rank, result.method.directions) == ("atom", 1, "batch")
    again = cbk.train(net, x, y, result.method, **options)
    np.testing.assert_array_equal(again.parameters, result.parameters)
    whole = cbk.train(net, x, y, method, epochs=1).method  # one batch of 60 samples, still fewer than inputs
    assert whole == method.resolved(net, 60)


def test_train_without_a_method_needs_no_gradient():
    rng = np.random.default_rng(1)
    x = rng.random((2000, 1))
    y = np.sin(2 * np.pi * x[:, 0])
    result = cbk.train(cbk.TwoLayer(1, 50), x, y, epochs=60, batch_size=200, seed=0)
    assert result.method == cbk.ConsensusHopping().resolved(cbk.TwoLayer(1, 50), 200)
    assert result.history["risk"][-1] < 5e-3 < 0.1 * y.var()


def rastrigin(theta):
    return (theta**2 - 10 * np.cos(2 * np.pi * theta) + 10).sum(axis=1)


def test_minimize_without_a_method_leaves_local_minima():
    """Rastrigin in 20 dimensions has about 7^20 local minima in the cube that particles start in."""
    solved = {"default": 0, "paper": 0}
    for seed in range(100, 105):
        theta = np.random.default_rng(seed).uniform(-3, 3, (200, 20))
        for name, method in (("default", None), ("paper", cbk.CBO())):
            result = cbk.minimize(rastrigin, theta, method, seed=seed)
            solved[name] += int(result.best_risk < 0.1)  # the best local minimum has 0.995
    assert solved["default"] >= 4
    assert solved["paper"] == 0


def test_minimize_from_one_point():
    result = cbk.minimize(lambda t: ((t - 1) ** 2).sum(axis=1), np.zeros((1, 5)), steps=300)
    assert isinstance(result.method, cbk.ConsensusHopping)
    np.testing.assert_allclose(result.x, 1, atol=0.01)
