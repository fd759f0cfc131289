"""Least squares of the pairs' differences on CUDA kernels, beside the reference and the CPU's steps."""

from __future__ import annotations

import numpy as np
import pytest
from libraries import array, host, put
from low_rank import KEY, problem
from test_low_rank_kernels import assert_close, assert_ends_without_a_finite_risk, both, data

import cbokernels as cbk
from cbokernels import reference

RUN = (0, 0, "float32")
NEAR = {"float32": 3e-5, "float64": 1e-12}


def fit(cuda, net, x, risk, rank=1, batch=True):
    """Weights [P, M] and ess [M] of risks [2P, M] in pairs, one row after the other."""
    draws = len(risk) // 2
    weights, ess = put(np.full((draws, net.width), np.nan)), put(np.full(net.width, np.nan))
    halves = put(np.concatenate([risk[::2], risk[1::2]]))
    arrays = [array(a) for a in (put(x), halves)]
    cuda.testing.weights_by_least_squares(
        net._kernel, *arrays, KEY, rank, batch, array(weights), array(ess), RUN
    )
    return host(weights), host(ess)


def truth(net, x, risk, rank=1, batch=True):
    how = {"batch": x if batch else None, "seed": KEY[0], "step": KEY[2]}
    return reference.least_squares_weights(net, risk, rank=rank, **how)


def risks(draws, width, seed=1):
    return np.random.default_rng(seed).normal(size=(2 * draws, width))


SHAPES = [  # inputs, width, outputs, samples; pairs, rank, in the span
    ((9, 1, 1, 4), 1, 1, True),
    ((9, 3, 2, 4), 15, 1, True),
    ((9, 3, 2, 4), 16, 2, False),
    ((20, 70, 17, 15), 17, 1, True),
    ((33, 2, 40, 30), 33, 3, True),
    ((12, 2, 3, 20), 100, 1, True),  # without a span
    ((120, 2, 10, 100), 100, 2, True),
    ((7, 1, 2, 5), 256, 1, False),
    ((3, 2, 1, 2), 4, 600, True),  # a larger Gram matrix than is kept
]


@pytest.mark.parametrize(("shape", "draws", "rank", "batch"), SHAPES)
def test_weights_are_the_references(cuda, shape, draws, rank, batch, dtype):
    net, _, x, _, _ = problem(*shape, dtype)
    risk = risks(draws, net.width)
    got, ess = fit(cuda, net, x, risk, rank, batch)
    np.testing.assert_allclose(got, truth(net, x, risk, rank, batch), rtol=0, atol=NEAR[dtype])
    np.testing.assert_allclose((got**2).sum(axis=0), 1, rtol=1e-12)
    np.testing.assert_array_equal(ess, 2 * draws)


def test_weights_fit_the_differences_of_a_line(cuda):
    """A risk that is linear in parameters, of which there are fewer than pairs: the drift is its slope, in
    the fit's metric of 1/d in the first layer and 1/10 in the rest."""
    net, _, x, _, _ = problem(3, 2, 1, 4)
    xi = reference.hopping_noise(net, 200, rank=1, seed=KEY[0], step=KEY[2])
    slope = np.random.default_rng(4).normal(size=net.size)
    atom = net._atom_index
    ahead = np.stack([xi[:, atom == m] @ slope[atom == m] for m in range(2)], axis=1)
    weights, _ = fit(cuda, net, x, np.stack([ahead, -ahead], axis=1).reshape(400, 2), batch=False)
    drift = (weights[:, atom] * xi).sum(axis=0)
    for m in range(2):
        own, wanted = drift[atom == m] * ([1 / 3] * 3 + [0.1] * 2), -slope[atom == m]
        assert own @ wanted / np.linalg.norm(own) / np.linalg.norm(wanted) > 1 - 1e-6


BAD = {"nan": (np.nan, 1.0), "infinity": (1.0, np.inf), "both": (np.inf, np.inf), "too far": (1e308, -1e308)}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("draws", [5, 40])
def test_a_pair_without_a_difference_has_no_part(cuda, kind, draws, dtype):
    net, _, x, _, _ = problem(30, 4, 3, 12, dtype)
    clean = risks(draws, net.width)
    risk = clean.copy()
    for pair in (0, draws // 2, draws - 1):
        risk[2 * pair : 2 * pair + 2, 1] = BAD[kind]
    risk[:, 3] = np.nan
    got, ess = fit(cuda, net, x, risk)
    np.testing.assert_allclose(got, truth(net, x, risk), rtol=0, atol=NEAR[dtype])
    np.testing.assert_array_equal(got[[0, draws // 2, draws - 1], 1], 0)
    np.testing.assert_array_equal(got[:, 3], 0)
    np.testing.assert_array_equal(ess, [2 * draws, 2 * draws - 6, 2 * draws, 0])
    others, _ = fit(cuda, net, x, clean)
    np.testing.assert_array_equal(got[:, [0, 2]], others[:, [0, 2]])


@pytest.mark.parametrize("power", [-1000, 1000])
def test_the_size_of_differences_does_not_matter(cuda, power, dtype):
    net, _, x, _, _ = problem(30, 3, 3, 12, dtype)
    risk = risks(20, net.width)
    expected, _ = fit(cuda, net, x, risk)
    got, _ = fit(cuda, net, x, np.ldexp(risk, power))
    np.testing.assert_array_equal(got, expected)


def test_equal_risks_have_no_drift(cuda):
    net, _, x, _, _ = problem(30, 3, 3, 12, "float32")
    weights, ess = fit(cuda, net, x, np.full((14, 3), 0.3))
    np.testing.assert_array_equal(weights, 0)
    np.testing.assert_array_equal(ess, 14)


@pytest.mark.parametrize(("draws", "rank"), [(40, 1), (3, 700)])
def test_the_order_of_threads_is_free(emulated, draws, rank):
    net, _, x, _, _ = problem(30, 2, 3, 12, "float32")
    risk = risks(draws, net.width)
    expected, _ = fit(emulated.module, net, x, risk, rank)
    try:
        for order in (1, 2, 3):
            emulated.module.set_order(order)
            got, _ = fit(emulated.module, net, x, risk, rank)
            np.testing.assert_array_equal(got, expected)
    finally:
        emulated.module.set_order(0)


METHODS = {
    f"rank {rank}, {directions}": cbk.ConsensusHopping(
        10,
        scope="atom",
        rank=rank,
        directions=directions,
        drift="least_squares",
        spread=0.1,
        lr=cbk.Exponential(0.1, 0.01),
    )
    for rank in (1, 2)
    for directions in ("free", "batch")
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("loss", ["labels", "values"])
def test_runs_are_the_cpus(cuda, name, loss):
    net, x, y, labels = data()
    assert_close(*both(net, x, labels if loss == "labels" else y, METHODS[name], weight_decay=0.3))


def test_float32(cuda):
    net, x, _, labels = data()
    got, expected = both(net, x, labels, METHODS["rank 1, batch"], dtype="float32")
    assert_close(got, expected, rtol=2e-4)


@pytest.mark.parametrize("particles", [512, 514, 1200])
def test_it_fits_in_blocks(cuda, particles):
    """Of 256 pairs at most, as equal as can be."""
    net, x, _, labels = data(samples=3)
    method = cbk.ConsensusHopping(**{**METHODS["rank 1, batch"].get_params(), "particles": particles})
    assert_close(*both(net, x, labels, method, batch_size=None, epochs=1))


def test_it_is_not_the_mean(cuda):
    net, x, _, labels = data()
    method = METHODS["rank 1, batch"]
    mean = cbk.ConsensusHopping(**{**method.get_params(), "drift": "mean"})
    options = {"epochs": 1, "batch_size": 9, "seed": 3, "device": "cuda"}
    got, other = (cbk.train(net, x, labels, m, **options) for m in (method, mean))
    assert got.history["ess"][-1] == 10
    assert np.abs(got.parameters - other.parameters).max() > 1e-3


def test_replayed_steps_have_the_bits_of_direct_ones(cuda, tmp_path):
    """A run's first epoch is not a replayed graph: so is the first one of a run that is continued."""
    net, x, _, labels = data()
    method = cbk.ConsensusHopping(**{**METHODS["rank 1, batch"].get_params(), "lr": 0.05})
    options = {"batch_size": 9, "seed": 3, "weight_decay": 0.1, "device": "cuda"}
    whole = cbk.train(net, x, labels, method, epochs=3, **options)
    saved = {"checkpoint": tmp_path / "run.npz", "every": 1}
    for epochs in (1, 2, 3):
        direct = cbk.train(net, x, labels, method, epochs=epochs, resume=epochs > 1, **saved, **options)
    np.testing.assert_array_equal(direct.parameters, whole.parameters)
    np.testing.assert_array_equal(direct.history["risk"], whole.history["risk"])


def test_neurons_without_a_finite_risk_are_not_fitted(cuda):
    assert_ends_without_a_finite_risk(METHODS["rank 1, batch"])
