"""Weights of many particles on the device: alphas at an effective sample size, and ranks."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from libraries import array, host, put

from cbokernels import _cpu

ON = 0, 0, "float32"  # device, stream, precision


def effective_size(risk, alpha):
    """Of the Gibbs weights, in float64."""
    risk = risk[np.isfinite(risk)]
    weights = np.exp(-alpha * (risk - risk.min()))
    return weights.sum() ** 2 / (weights**2).sum()


def alphas_for_ess(cuda, risk, target):
    out = put(np.empty(risk.shape[1]))
    wanted = put(np.array([float(target)]))
    cuda.testing.alphas_for_ess(array(put(risk)), array(wanted), array(out), ON)
    return host(out)


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.5, 0.95])
@pytest.mark.parametrize("particles", [2, 33, 200, 2048, 2049, 4500])
def test_alphas_at_an_effective_sample_size(cuda, particles, fraction):
    """Of a block's particles and of slices; each task with another spread of its risks."""
    rng = np.random.default_rng(particles)
    risk = rng.exponential(size=(particles, 3)) * [1e-6, 1.0, 1e9]
    risk[:, 2] **= 3
    if particles > 2:
        risk[1] = np.nan, np.inf, -np.inf
    target = max(1.5, fraction * particles)
    alphas = alphas_for_ess(cuda, risk, target)
    expected = [_cpu.alpha_for_ess(column.copy(), target) for column in risk.T]
    np.testing.assert_allclose(alphas, expected, rtol=1e-10)
    for column, alpha in zip(risk.T, alphas, strict=True):
        assert effective_size(column, alpha) == pytest.approx(target, rel=1e-9)


@pytest.mark.parametrize("particles", [5, 3000])
def test_alphas_that_no_search_finds(cuda, particles):
    """All equal; none finite; more best ones than are wanted; fewer finite ones than are wanted."""
    risk = np.random.default_rng(0).uniform(1, 2, (particles, 4))
    risk[:, 0] = 3
    risk[:, 1] = np.nan
    risk[:3, 2] = 0
    risk[2:, 3] = np.inf
    np.testing.assert_array_equal(alphas_for_ess(cuda, risk, 2.5), [np.inf, np.inf, np.inf, 0])


@pytest.mark.parametrize("particles", [6, 3000])
def test_alphas_of_far_outliers(cuda, particles):
    """The interval's upper end is far: one risk dwarfs the others' spread."""
    risk = np.random.default_rng(1).uniform(size=(particles, 2))
    risk[0] = 1e30, 1e200
    alphas = alphas_for_ess(cuda, risk, 3.0)
    expected = [_cpu.alpha_for_ess(column.copy(), 3.0) for column in risk.T]
    np.testing.assert_allclose(alphas, expected, rtol=1e-9)


def weights_by_rank(cuda, risk, mirrored):
    rows, columns = risk.shape
    weights, ess = put(np.empty((rows // 2 if mirrored else rows, columns))), put(np.empty(columns))
    cuda.testing.weights_by_rank(array(put(risk)), mirrored, array(weights), array(ess), ON)
    return host(weights), host(ess)


def expected_weights(risk):
    """Of all rows, by SciPy's ranks: equal risks have the mean of their weights."""
    rows = len(risk)
    raw = np.maximum(0, np.log(rows / 2 + 0.5) - np.log(np.arange(rows) + 1.0))
    weights = np.zeros(risk.shape)
    for own, column in zip(weights.T, risk.T, strict=True):
        r = np.where(np.isfinite(column), column, np.inf)
        first, last = (scipy.stats.rankdata(r, which).astype(int) for which in ("min", "max"))
        own[:] = [raw[a - 1 : b].mean() for a, b in zip(first, last, strict=True)]
        own[~np.isfinite(column)] = 0
    return weights / weights.sum(axis=0)


@pytest.mark.parametrize(("rows", "columns"), [(2, 1), (6, 3), (1000, 2), (4096, 1), (4098, 2), (12290, 1)])
def test_weights_by_rank(cuda, rows, columns):
    """Many are equal, within chunks that are sorted at once and between them; some are not finite."""
    rng = np.random.default_rng(rows)
    risk = rng.integers(0, max(2, rows // 8), (rows, columns)).astype(float)
    if rows > 6:
        risk[rng.integers(0, rows, rows // 9)] = np.nan
        risk[5] = -np.inf
    whole = expected_weights(risk)
    weights, ess = weights_by_rank(cuda, risk, False)
    np.testing.assert_allclose(weights, whole - 1 / rows, rtol=1e-12, atol=1e-16)
    np.testing.assert_allclose(ess, 1 / (whole**2).sum(axis=0), rtol=1e-12)
    weights, _ = weights_by_rank(cuda, risk, True)
    np.testing.assert_allclose(weights, whole[: rows // 2] - whole[rows // 2 :], rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("rows", [10, 5000])
def test_level_risks_weigh_alike(cuda, rows):
    risk = np.full((rows, 1), 0.25)
    weights, ess = weights_by_rank(cuda, risk, True)
    np.testing.assert_array_equal(weights, np.zeros((rows // 2, 1)))
    np.testing.assert_allclose(ess, rows, rtol=1e-12)
    weights, _ = weights_by_rank(cuda, risk, False)
    np.testing.assert_array_equal(weights, np.zeros((rows, 1)))


def test_the_number_of_launches_does_not_grow(emulated):
    """Ranks: sort, sums, ranks, sizes, draws. Alphas: one for few, else extremes and one a round."""
    module = emulated.module
    risk = np.random.default_rng(2).uniform(size=(20000, 1))

    def launches(call, *arguments):
        before = module.counts()["kernels"]
        call(module, *arguments)
        return module.counts()["kernels"] - before

    assert [launches(weights_by_rank, risk[:rows], True) for rows in (200, 20000)] == [5, 5]
    assert [launches(alphas_for_ess, risk[:rows], 50) for rows in (200, 20000)] == [1, 15]
