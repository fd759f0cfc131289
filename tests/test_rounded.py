"""Consensus hopping of networks whose weights are rounded: what is scored, what comes back, what it takes."""

from __future__ import annotations

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels import _cpu, reference

NAMES = ("ternary", "int8")
NET = cbk.TwoLayer(6, 5, 3, output_bias=True)


def data(samples=40, inputs=6, outputs=3):
    rng = np.random.default_rng(samples)
    kinds = rng.normal(size=(outputs, inputs))
    labels = rng.integers(0, outputs, samples)
    return kinds[labels] + 0.7 * rng.normal(size=(samples, inputs)), labels


def levels(net, theta):
    """The distinct weights of each layer."""
    w, _, c, _ = net.unpack(theta)
    return [np.unique(part) for part in (w, c)]


@pytest.mark.parametrize("size", [1, 15, 16, 33])
def test_rows_are_rounded_to_the_nearest_level(size, dtype):
    values = np.array([0.0, 0.2, -0.25, 0.74, 0.76, -1.25, 9.0, -np.inf, np.nan, 1.5, -5e-324, 3e38])
    expected = np.array([0.0, 0.0, 0.0, 0.5, 1.0, -1.0, 1.0, -1.0, np.nan, 1.0, 0.0, 1.0])
    theta = np.resize(values, (7, size)).astype(dtype)
    truth = np.resize(expected, (7, size)).astype(dtype)
    whole = theta.copy()
    _cpu.round_rows(theta, np.full(size, 0.5, dtype), 2, 2)  # halves to even: 0.25 is nearest 0, 1.25 is 1
    np.testing.assert_array_equal(theta, truth)
    kept = whole.copy()
    _cpu.round_rows(kept, np.full(size, -1, dtype), 2, 2)
    np.testing.assert_array_equal(kept, whole)
    nothing = np.ones_like(whole)
    _cpu.round_rows(nothing, np.zeros(size, dtype), 2, 2)
    assert not nothing.any()
    unknown = whole.copy()
    _cpu.round_rows(unknown, np.full(size, np.nan, dtype), 2, 2)
    assert np.isnan(unknown).all()


def test_round_rows_checks_its_arrays():
    with pytest.raises(ValueError, match=r"theta has shape \[2, 3\], expected \[2, 4\]"):
        _cpu.round_rows(np.zeros((2, 3)), np.zeros(4), 1, 1)


def test_the_reference_rounds_layer_by_layer():
    net = cbk.TwoLayer(2, 2, 1, output_bias=True)
    theta = np.array([1.0, -0.2, 3.0, 0.0, 0.3, 0.4, -0.01, 0.02, 7.0])
    ternary = reference.rounded(net, theta, "ternary")  # means 1.05 and 0.015
    np.testing.assert_allclose(ternary, [1.05, 0, 1.05, 0, 0.3, 0.4, -0.015, 0.015, 7.0], rtol=1e-15)
    int8 = reference.rounded(net, theta, "int8")
    np.testing.assert_allclose(int8[:4], np.array([42, -8, 127, 0]) * 3 / 127, rtol=1e-15)
    np.testing.assert_allclose(int8[4:], [0.3, 0.4, -64 * 0.02 / 127, 0.02, 7.0], rtol=1e-15)
    other = reference.rounded(net, theta[::-1].copy(), "int8", center=theta)
    np.testing.assert_allclose(other[0], 3.0, rtol=1e-15)  # no more than 127 levels
    assert not reference.rounded(net, np.zeros(9), "ternary").any()


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("scope", ["network", "atom"])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_that_of_rounded_networks(name, scope, mirrored):
    """Round, score, rank, sum and move, all in the reference."""
    net = cbk.TwoLayer(6, 5, 3, "tanh", output_bias=scope == "network")
    x, labels = data()
    method = cbk.ConsensusHopping(
        particles=30, weights=name, scope=scope, spread=0.4, lr=0.05, mirrored=mirrored
    )
    start = net.uniform(1, seed=4, dtype="float64")
    result = cbk.train(net, x, labels, method, epochs=1, seed=9, dtype="float64", theta=start, weight_decay=2)

    center = start[0]
    xi = reference.hopping_noise(net, 15 if mirrored else 30, seed=9)
    signs = (1, -1) if mirrored else (1,)
    theta = np.concatenate([center + sign * 0.4 * xi for sign in signs])
    theta = reference.rounded(net, theta, name, center=center)
    if scope == "atom":
        base = reference.rounded(net, center, name)
        risks = reference.atom_risks(net, base, theta, x, labels, loss="cross_entropy")
        of = np.concatenate([np.repeat(np.arange(5), 6), np.arange(5), np.tile(np.arange(5), 3)])
    else:
        risks = reference.risk(net, theta, x, labels, loss="cross_entropy")[:, None]
        of = np.zeros(net.size, int)
    beta = reference.rank_weights(risks) - 1 / 30
    drift = (beta[:, of] * np.concatenate([sign * xi for sign in signs])).sum(axis=0)
    moved = center * (1 - 2 * 0.05) + 0.05 * drift / (np.abs(drift) + 1e-12)  # Adam's first step
    np.testing.assert_allclose(result.particles[0], moved, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(result.parameters, reference.rounded(net, moved, name), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scope", ["network", "atom"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_returned_is_rounded(name, scope, dtype):
    net = cbk.TwoLayer(6, 12, 3, "sign", "none")
    x, labels = data(200)
    method = cbk.ConsensusHopping(particles=60, weights=name, scope=scope, lr=0.05)
    points = []
    result = cbk.train(
        net, x, labels, method, epochs=40, batch_size=50, dtype=dtype, metrics="accuracy",
        callback=lambda state: points.append((state.point, state.risk)),
    )  # fmt: skip
    risks = [cbk.risk(net, p[None], x.astype(dtype), labels, loss="cross_entropy")[0] for p, _ in points]
    np.testing.assert_allclose(risks, result.history["risk"], rtol=1e-6)
    np.testing.assert_array_equal(points[-1][0], result.parameters)
    for theta in (result.parameters, result.best):
        for values in levels(net, theta):
            step = np.abs(values)[values != 0].min() if name == "ternary" else np.abs(values).max() / 127
            whole = values / step
            np.testing.assert_allclose(whole, np.round(whole), atol=1e-4)
            assert np.abs(np.round(whole)).max() <= {"ternary": 1, "int8": 127}[name]
    assert result.history["accuracy"][-1] > 0.7  # a guess is right in one of three
    assert len(np.unique(result.particles)) == net.size  # the centre is not rounded


def test_fine_levels_train_as_floats_do():
    x, labels = data(300)
    accuracies = [
        cbk.train(
            NET, x, labels, cbk.ConsensusHopping(particles=60, weights=weights, spread=0.1), epochs=60,
            batch_size=60, metrics="accuracy", seed=2,
        ).history["accuracy"][-1]
        for weights in ("rank", "int8")
    ]  # fmt: skip
    assert accuracies[1] == pytest.approx(accuracies[0], abs=0.03)


@pytest.mark.parametrize("scope", ["network", "atom"])
def test_bits_do_not_depend_on_threads_or_on_stops(scope, tmp_path):
    net = cbk.TwoLayer(6, 5, 3)
    x, labels = data(90)
    method = cbk.ConsensusHopping(particles=50, weights="ternary", scope=scope, spread=0.2, lr=0.1)
    runs = [
        cbk.train(net, x, labels, method, epochs=8, batch_size=30, num_threads=threads) for threads in (1, 3)
    ]
    path = tmp_path / "run.npz"
    for epochs in (3, 8):
        again = cbk.train(
            net, x, labels, method, epochs=epochs, batch_size=30, checkpoint=path, resume=epochs == 8
        )
    for other in (runs[1], again):
        np.testing.assert_array_equal(runs[0].parameters, other.parameters)
        np.testing.assert_array_equal(runs[0].particles, other.particles)
        np.testing.assert_array_equal(runs[0].history["risk"], other.history["risk"])


@pytest.mark.parametrize("scope", ["network", "atom"])
def test_losses_in_python_and_weights_of_samples(scope):
    net = cbk.TwoLayer(6, 5, 3)
    x, labels = data(50)
    y = np.eye(3)[labels]
    method = cbk.ConsensusHopping(particles=30, weights="int8", scope=scope, spread=0.2, lr=0.1)

    def loss(outputs, y):
        return np.square(outputs - y).sum(axis=2).mean(axis=1)

    own, named = (
        cbk.train(net, x, y, method, loss=loss, epochs=5, dtype="float64") for loss in (loss, "mse")
    )
    np.testing.assert_allclose(own.particles, named.particles, rtol=1e-8, atol=1e-10)
    weighted = cbk.train(net, x, y, method, epochs=5, dtype="float64", sample_weight=np.arange(50.0) < 25)
    half = cbk.train(net, x[:25], y[:25], method, epochs=5, dtype="float64")
    np.testing.assert_allclose(weighted.particles, half.particles, rtol=1e-8, atol=1e-10)


def test_bytes():
    net = cbk.TwoLayer(784, 20, 10)
    floats, int8, ternary = (
        cbk.ConsensusHopping(weights=name).network_bytes(net) for name in ("rank", "int8", "ternary")
    )
    assert floats == 4 * (784 * 20 + 20 + 200)
    assert int8 == 784 * 20 + 200 + 4 * (20 + 2)
    assert ternary == 784 * 20 // 4 + 200 // 4 + 4 * (20 + 2)
    odd = cbk.TwoLayer(1, 3, 1, output_bias=True)
    assert cbk.ConsensusHopping(weights="ternary").network_bytes(odd) == 1 + 1 + 4 * (3 + 1 + 2)


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_rounded(name):
    x, labels = data()
    with pytest.raises(ValueError, match=f"rank must be None for weights='{name}', got 1"):
        cbk.train(NET, x, labels, cbk.ConsensusHopping(weights=name, rank=1), epochs=1)
    with pytest.raises(ValueError, match=f"directions must be 'free' for weights='{name}', got 'batch'"):
        cbk.train(NET, x, labels, cbk.ConsensusHopping(weights=name, directions="batch"), epochs=1)
    with pytest.raises(ValueError, match=f"standardize must be False for weights='{name}', got True"):
        cbk.train(NET, x, labels, cbk.ConsensusHopping(weights=name), epochs=1, standardize=True)
    with pytest.raises(
        ValueError, match=f"weights must be 'rank' or a TargetEss for a function, got '{name}'"
    ):
        cbk.minimize(lambda theta: theta.sum(axis=1), np.zeros((1, 3)), cbk.ConsensusHopping(weights=name))
    method = cbk.ConsensusHopping(weights=name).resolved(cbk.TwoLayer(784, 20, 10), 100)
    assert (method.rank, method.directions, method.scope) == (None, "free", "atom")
