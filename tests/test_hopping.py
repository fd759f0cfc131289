"""Consensus hopping: risks of an ensemble that is never stored, its drift, and what it learns."""

from __future__ import annotations

import inspect
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from losses import fits, targets

import cbokernels as cbk
from cbokernels import _cpu, reference
from cbokernels._kinds import LOSSES
from cbokernels.experiments import sine


def problem(inputs, width, outputs, samples, dtype, **more):
    rng = np.random.default_rng([inputs, width, outputs, samples])
    net = cbk.TwoLayer(inputs, width, outputs, **more)
    x = rng.normal(size=(samples, inputs)).astype(dtype)
    y = rng.normal(size=(samples, outputs)).astype(dtype)
    return net, rng.normal(size=net.size).astype(dtype), x, y, rng.integers(0, outputs, samples)


@pytest.mark.parametrize("loss", LOSSES)
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
    if not fits(loss, shape[2]):
        return
    net, center, x, *_ = problem(*shape, dtype, **more)
    theta = net.uniform(9, seed=3, dtype=dtype)
    target = targets(np.random.default_rng(shape), loss, (shape[3],), net.outputs, dtype)
    got = cbk.atom_risks(net, center, theta, x, target, loss=loss)
    w, b, c, _ = net.unpack(theta)
    for neuron in range(0, net.width, 3):
        swapped = np.tile(center, (9, 1))
        to_w, to_b, to_c, _ = net.unpack(swapped)
        to_w[:, neuron], to_b[:, neuron], to_c[..., neuron] = w[:, neuron], b[:, neuron], c[..., neuron]
        truth = reference.risk(net, swapped, x, target, loss=loss)
        np.testing.assert_allclose(got[:, neuron], truth, rtol=5e-6 if dtype == "float32" else 1e-11)
    if loss == "mse":  # the reference takes neurons in turn whatever the loss
        whole = reference.atom_risks(net, center, theta, x, target, loss=loss)
        np.testing.assert_allclose(got, whole, rtol=5e-6 if dtype == "float32" else 1e-11)


def test_the_reference_has_the_kernels_under_their_names_and_arguments():
    names = ["forward", "risk", "task_risks", "risk_gradient", "atom_risks", "consensus", "cbo_update"]
    names += ["adam_update", "hybrid_update", "langevin_step", "standard_normal", "philox4x32"]
    for name in names:
        kernel, plain = (inspect.signature(getattr(m, name)).parameters for m in (cbk, reference))
        assert list(plain) == [p for p in kernel if p not in ("out", "precision", "num_threads")], name


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("atoms", [True, False])
def test_drawn_risks_are_those_of_the_stored_ensemble(mirrored, atoms):
    net, center, x, y, _ = problem(2, 11, 2, 50, "float32")
    drawn = np.empty((30, 11 if atoms else 1))
    _cpu.hopping_risk(net._kernel, center, 30, 0.1, mirrored, (5, 0, 7, 0), x, y, "mse", atoms, drawn, 2)
    step = np.float32(0.1) * cbk.standard_normal(15 if mirrored else 30, net.size, seed=5, step=7)
    theta = center + step
    if mirrored:  # pairs one after the other
        theta = np.stack([theta, center - step], axis=1).reshape(30, -1)
    stored = cbk.atom_risks(net, center, theta, x, y) if atoms else cbk.risk(net, theta, x, y)[:, None]
    np.testing.assert_allclose(drawn, stored, rtol=2e-6)


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("size", [1, 31, 32, 33, 300])
def test_the_ensemble_around_a_centre(mirrored, size, dtype):
    rng = np.random.default_rng(size)
    center, theta, same = rng.normal(size=size).astype(dtype), *np.empty((2, 14, size), dtype)
    _cpu.draw_ensemble(center, 0.3, mirrored, (5, 0, 7, 0), theta, 1)
    _cpu.draw_ensemble(center, 0.3, mirrored, (5, 0, 7, 0), same, 3)
    np.testing.assert_array_equal(theta, same)
    step = 0.3 * reference.standard_normal(7 if mirrored else 14, size, seed=5, step=7)
    expected = np.concatenate([center + step, center - step]) if mirrored else center + step
    np.testing.assert_allclose(theta, expected, atol=2e-6 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_drift_is_the_weighted_sum_of_the_noise(threads):
    rng = np.random.default_rng(0)
    net = cbk.TwoLayer(5, 60, 2)
    weights = rng.normal(size=(2500, 60))
    out, first = np.empty(net.size), np.empty(net.size)
    _cpu.noise_drift(weights, net._atom_index, (3, 0, 4, 0), True, out, threads)
    xi = cbk.standard_normal(2500, net.size, seed=3, step=4).astype(np.float64)
    np.testing.assert_allclose(out, (weights[:, net._atom_index] * xi).sum(axis=0), atol=1e-10)
    _cpu.noise_drift(weights, net._atom_index, (3, 0, 4, 0), True, first, 1)
    np.testing.assert_array_equal(out, first)


def rank_weights(risk):
    """Weights of risks [n] by rank (0 is the best); NaN and infinities come last and have none.

    Equal ones have the mean of theirs."""
    raw = np.maximum(0, np.log(len(risk) / 2 + 0.5) - np.log(np.arange(len(risk)) + 1.0))
    finite = np.where(np.isfinite(risk), risk, np.inf)
    first, last = scipy.stats.rankdata(finite, "min") - 1, scipy.stats.rankdata(finite, "max")
    weights = np.array([raw[int(a) : int(b)].mean() for a, b in zip(first, last, strict=True)])
    weights[~np.isfinite(risk)] = 0
    return weights / weights.sum()


def test_rank_weights_of_known_order():
    raw = np.log(3.5) - np.log([1, 2, 3])
    risk, ess = np.array([[5.0, 2.0, 9.0, 1.0, 7.0, 3.0]]).T, np.empty(1)
    assert _cpu.hopping_weights(risk, False, 0.0, ess, 1) == (0.0, 0)
    np.testing.assert_allclose(
        risk[:, 0], np.array([0, raw[1], 0, raw[0], 0, raw[2]]) / raw.sum(), rtol=1e-14
    )
    assert ess[0] == pytest.approx(1 / (risk**2).sum(), rel=1e-14)


@pytest.mark.parametrize("rows", [2, 3, 10, 1001])
@pytest.mark.parametrize("threads", [1, 3])
def test_weights_by_rank(rows, threads):
    rng = np.random.default_rng(rows)
    risk = rng.integers(0, rows, (rows, 7)).astype(float)  # with ties
    risk[rng.random(risk.shape) < 0.3] = np.nan
    risk[rng.random(risk.shape) < 0.1] = -np.inf
    risk[0], risk[:, 3] = 1.0, np.nan
    expected = np.stack([rank_weights(column) if c != 3 else 0 * column for c, column in enumerate(risk.T)]).T
    expected[:, 3] = 0
    bad, ess = int((~np.isfinite(risk)).any(axis=1).sum()), np.empty(7)
    if rows % 2 == 0:  # pairs one after the other
        pairs = risk.reshape(2, -1, 7).transpose(1, 0, 2).reshape(rows, 7).copy()
        assert _cpu.hopping_weights(pairs, True, 0.0, ess, threads) == (0.0, bad)
        pairs = pairs.reshape(-1, 2, 7).transpose(1, 0, 2).reshape(rows, 7)
        np.testing.assert_allclose(pairs, expected, rtol=1e-13, atol=1e-16)
    assert _cpu.hopping_weights(risk, False, 0.0, ess, threads) == (0.0, bad)
    np.testing.assert_allclose(risk, expected, rtol=1e-13, atol=1e-16)
    with np.errstate(divide="ignore"):
        truth = np.where(np.arange(7) == 3, 0, 1 / (expected**2).sum(axis=0))
    np.testing.assert_allclose(ess, truth, rtol=1e-13)


@pytest.mark.parametrize("far", [1.0, 1e9, 1e300, 1.7e308])
def test_risks_that_differ_by_little_beside_the_largest_are_ranked(far):
    rng = np.random.default_rng(8)
    risk = rng.permutation(1 + 1e-12 * np.arange(38.0))
    risk = np.concatenate([risk, [far, -far]])[:, None]
    expected, ess = reference.rank_weights(risk), np.empty(1)
    assert _cpu.hopping_weights(risk, False, 0.0, ess, 1) == (0.0, 0)
    np.testing.assert_allclose(risk, expected, rtol=1e-14)


def test_gibbs_weights_of_an_effective_sample_size():
    rng = np.random.default_rng(3)
    risk = rng.exponential(size=(300, 5)) * 10.0 ** np.arange(-3, 2)
    weights, ess, alphas = risk.copy(), np.empty(5), []
    mean, bad = _cpu.hopping_weights(weights, False, 0.25, ess, 3)
    assert bad == 0
    np.testing.assert_allclose(ess, 75, rtol=1e-6)
    for c in range(5):
        own = risk[:, c : c + 1].copy()
        alphas.append(_cpu.hopping_weights(own, False, 0.25, ess[c : c + 1], 1)[0])
        expected = reference.consensus(np.zeros((300, 1)), risk[:, c], alpha=alphas[-1])
        assert expected.ess == pytest.approx(75, rel=1e-6)
        np.testing.assert_allclose(weights[:, c], expected.weights, rtol=1e-12)
        np.testing.assert_array_equal(weights[:, c], own[:, 0])
    assert mean == pytest.approx(np.mean(alphas), rel=1e-12)


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("atoms", [True, False])
def test_gradient_is_the_definitions(mirrored, atoms):
    net, center, x, y, _ = problem(2, 11, 2, 50, "float64")
    particles, spread = 31 - mirrored, 0.1
    gradient, same = np.empty((2, net.size))
    arguments = (net._kernel, center, particles, spread, mirrored, (5, 0, 7, 0), x, y, "mse")
    index = net._atom_index if atoms else None
    ess, _, bad = _cpu.hopping_gradient(*arguments, index, 0.0, gradient, 1)
    assert _cpu.hopping_gradient(*arguments, index, 0.0, same, 4) == (ess, 0.0, bad)
    np.testing.assert_array_equal(gradient, same)

    xi = reference.standard_normal((particles + 1) // 2 if mirrored else particles, net.size, seed=5, step=7)
    xi = np.concatenate([xi, -xi]) if mirrored else xi
    theta = center + spread * xi
    risk = (
        reference.atom_risks(net, center, theta, x, y) if atoms else reference.risk(net, theta, x, y)[:, None]
    )
    # draws of a neuron that no sample reaches are level, which NumPy's sums are but for their last bits
    beta = np.stack([rank_weights(column.round(13)) for column in risk.T], axis=1)
    own = beta[:, net._atom_index] if atoms else beta
    np.testing.assert_allclose(gradient, -((own - 1 / particles) * xi).sum(axis=0), atol=1e-12)
    assert ess == pytest.approx((1 / (beta**2).sum(axis=0)).mean(), rel=1e-12)
    assert bad == 0


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_many_particles_are_weighed_in_blocks(mirrored, fraction):
    """The drift is the mean of those of blocks of at most 2^17 particles, in which pairs stay together."""
    particles, size, fold = 140_002 if mirrored else 140_001, 6, 2 if mirrored else 1
    rng = np.random.default_rng(1)
    risk = rng.normal(size=particles)
    risk[rng.random(particles) < 1e-3] = np.nan
    gradient = np.empty(size)
    given = np.zeros(size), 1.0, mirrored, (3, 0, 2, 0), risk, fraction
    ess, alpha, bad = _cpu.hopping_gradient(*given, gradient, 2)

    draws = particles // fold
    xi = cbk.standard_normal(draws, size, seed=3, step=2, dtype="float64")
    bounds = [0, draws // 2, draws]
    drift, squares, alphas = np.zeros(size), 0.0, 0.0
    for first, last in itertools.pairwise(bounds):
        rows = np.arange(first, last)
        rows = np.concatenate([rows, draws + rows]) if mirrored else rows
        assert len(rows) <= 2**17
        noise = np.concatenate([xi[first:last], -xi[first:last]]) if mirrored else xi[first:last]
        share = len(rows) / particles
        if fraction:
            own_alpha = _cpu.alpha_for_ess(risk[rows], fraction * len(rows))
            with pytest.warns(cbk.CboWarning):
                beta = cbk.consensus(noise, risk[rows], alpha=own_alpha).weights
            alphas += share * own_alpha
        else:
            beta = rank_weights(risk[rows])
        drift += share * ((beta - 1 / len(rows)) @ noise)
        squares += share**2 * (beta**2).sum()
    np.testing.assert_allclose(gradient, -drift, atol=1e-12)
    assert ess == pytest.approx(1 / squares, rel=1e-9)
    assert alpha == pytest.approx(alphas, rel=1e-9)
    assert bad == int(np.isnan(risk).sum())


@pytest.mark.slow
def test_blocks_of_drawn_particles_and_atoms():
    """What a step draws block by block are the particles of the one ensemble."""
    net, center, x, y, _ = problem(1, 3, 1, 4, "float32")
    particles = 2 * 2**17
    risk, gradient, same = np.empty((particles, 1)), *np.empty((2, net.size), np.float32)
    arguments = (net._kernel, center, particles, 0.5, True, (8, 0, 1, 0), x, y, "mse")
    _cpu.hopping_risk(*arguments, False, risk, 2)
    told = _cpu.hopping_gradient(*arguments, None, 0.0, gradient, 2)
    halves = risk.reshape(-1, 2).T.ravel()  # a function's risks: those of all c + s xi, then of all c - s xi
    assert told == _cpu.hopping_gradient(center, 0.5, True, (8, 0, 1, 0), halves, 0.0, same, 1)
    np.testing.assert_array_equal(gradient, same)

    _cpu.hopping_gradient(*arguments, net._atom_index, 0.0, gradient, 2)
    risk = np.empty((particles, 3))
    _cpu.hopping_risk(*arguments, True, risk, 2)
    for m in range(3):  # an atom's ranks are its own, in blocks of a third of 2^17
        draws, drift = particles // 2, np.zeros(net.size)
        blocks = -(-particles // (2**17 // 3))
        for b in range(blocks):
            first, last = b * draws // blocks, (b + 1) * draws // blocks
            pairs = risk[2 * first : 2 * last, m].reshape(-1, 2)
            plus, minus = np.split(rank_weights(pairs.T.ravel()), 2)
            xi = cbk.standard_normal(last - first, net.size, seed=8, step=1, first_particle=first)
            drift += (2 * (last - first) / particles) * ((plus - minus) @ xi.astype(float))
        own = net._atom_index == m
        np.testing.assert_allclose(gradient[own], -drift[own], rtol=1e-5, atol=1e-7)


MEMORY = """
import resource, numpy as np, cbokernels as cbk
net, x = cbk.TwoLayer(1, 10, 1), np.linspace(0, 1, 100)[:, None]
def peak(particles, scope):
    method = cbk.ConsensusHopping(particles=particles, scope=scope)
    cbk.train(net, x, x[:, 0], method, epochs=1, num_threads=2)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
for scope in ("network", "atom"):
    before = peak(200, scope)
    print(peak(1_000_000, scope) - before)
"""


def test_memory_does_not_grow_with_the_particles():
    """A million particles take at most 8 MB more than two hundred do; their risks alone would be 8 or 80."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert max(map(float, done.stdout.split())) <= 8


def test_a_step_is_adam_on_the_consensus_drift():
    net, center, x, y, _ = problem(2, 5, 1, 40, "float32")
    method = cbk.ConsensusHopping(particles=20, spread=0.2, lr=0.05)
    result = cbk.train(net, x, y, method, epochs=1, theta=center[None], seed=9)
    xi = cbk.standard_normal(10, net.size, seed=9).astype(np.float64)
    theta = np.concatenate([center + 0.2 * xi, center - 0.2 * xi]).astype(np.float32)
    beta = rank_weights(cbk.risk(net, theta, x, y))
    drift = (beta - 1 / 20) @ np.concatenate([xi, -xi])
    # Adam's first step moves every coordinate by lr, in the drift's direction
    np.testing.assert_allclose(result.parameters, center + 0.05 * np.sign(drift), atol=2e-6)
    np.testing.assert_array_equal(result.particles, result.parameters[None])


def test_no_finite_risk_at_all():
    net, center, x, y, _ = problem(1, 4, 1, 30, "float32", activation="identity")
    for scope, where in (("network", ""), ("atom", " at one of the neurons")):
        method = cbk.ConsensusHopping(particles=10, spread=1e30, scope=scope)
        message = rf"epoch 1, step 0: no particle has a finite risk{where} \(10 par"
        with pytest.raises(cbk.ConsensusError, match=message):
            cbk.train(net, x, y, method, theta=0 * center[None], epochs=1)


def test_learns_the_sine_to_the_noise_floor():
    x, y = sine.samples()
    method, options = cbk.ConsensusHopping(), {"epochs": 300, "batch_size": 800}
    runs = [cbk.train(sine.NET, x, y, method, **options, seed=seed) for seed in range(3)]
    risks = [run.history["risk"][-1] for run in runs]
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
        ({"particles": 1}, r"particles must be an integer in \[2,"),
        ({"particles": 0}, r"particles must be an integer in \[2,"),
        ({"rank": "1"}, "rank must be an integer, None or 'auto', got '1'"),
        ({"spread": 0.0}, "spread"),
        ({"spread": math.inf}, r"spread must lie in \(0, inf\), got inf"),
        ({"spread": -1.0}, "spread"),
        ({"lr": -0.1}, "lr"),
        ({"scope": "layer"}, "scope must be"),
        (
            {"weights": "best"},
            r"weights must be 'rank', 'ternary', 'int8' or a cbokernels.TargetEss, got 'best'",
        ),
        ({"beta1": 1.0}, r"beta1 must lie in \[0, 1\), got 1.0"),
        ({"beta2": math.nan}, r"beta2 must lie in \[0, 1\), got nan"),
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
    with pytest.raises(ValueError, match="precision must be 'float32' for CPU arrays, got 'bf16'"):
        cbk.atom_risks(net, center, center[None], x, y, precision="bf16")
    with pytest.raises(TypeError, match="center must be float32"):
        cbk.atom_risks(net, center.astype(np.float64), center[None], x, y)


@pytest.mark.parametrize("how", [{}, {"scope": "atom"}, {"scope": "atom", "rank": 1}, {"mirrored": False}])
def test_level_particles_move_nothing(how):
    """Where no draw is better than another there is no direction: the centre stays where it is."""
    rng = np.random.default_rng(0)
    net, x = cbk.TwoLayer(3, 5, 2), rng.normal(size=(40, 3))
    theta = net.uniform(1, seed=1, dtype="float64")
    y = np.argmax(cbk.forward(net, theta, x)[0], axis=1)  # none is wrong, here and close by
    method = cbk.ConsensusHopping(particles=20, spread=1e-9, lr=0.1, **how)
    result = cbk.train(net, x, y, method, loss="zero_one", theta=theta, dtype="float64", epochs=3)
    assert result.history["risk"][-1] == 0
    np.testing.assert_array_equal(result.parameters, theta[0])
