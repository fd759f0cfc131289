"""Weight decay of every method, and inputs that are centred and scaled inside a run."""

from __future__ import annotations

import math

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels import reference
from cbokernels._ranks import Ranks

NET = cbk.TwoLayer(3, 6, 1, "tanh")
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 3)), RNG.normal(size=40)
THETA = NET.uniform(8, seed=1, dtype="float64")
ONE = THETA[:1]


def run(method, theta=THETA, x=X, y=Y, **options):
    options = {"epochs": 1, "dtype": "float64", "theta": theta, "seed": 2, **options}
    return cbk.train(NET, x, y, method, **options).particles


def test_adam_is_adamw():
    """Loshchilov, Hutter 2019, algorithm 2; PyTorch's torch.optim.AdamW."""
    rate, decay, beta1, beta2 = 0.05, 0.3, 0.9, 0.999
    theta, s, r = ONE.copy(), 0.0, 0.0
    for t in range(1, 8):
        g = reference.risk_gradient(NET, theta, X, Y)[1]
        theta *= 1 - rate * decay
        s, r = beta1 * s + (1 - beta1) * g, beta2 * r + (1 - beta2) * g**2
        theta -= rate * (s / (1 - beta1**t)) / (np.sqrt(r / (1 - beta2**t)) + 1e-8)
    got = run(cbk.Adam(lr=rate), ONE, epochs=7, weight_decay=decay)
    np.testing.assert_allclose(got, theta, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [1, 3])
def test_cbo(dtype, threads):
    theta, dt, decay = THETA.astype(dtype), 0.1, 2.0
    point = cbk.consensus(theta, cbk.risk(NET, theta, X.astype(dtype), Y.astype(dtype)), alpha=30.0).point
    shrunk = theta - theta * np.array(decay * dt, dtype)
    expected = cbk.cbo_update(shrunk, point, dt=dt, diffusion=0.7, seed=2, step=0)
    method = cbk.CBO(alpha=30.0, dt=dt, diffusion=0.7)
    got = run(method, theta, dtype=dtype, weight_decay=decay, num_threads=threads)
    np.testing.assert_allclose(got, expected, rtol=1e-5 if dtype == "float32" else 1e-12)


def test_hybrid():
    risk, gradient = cbk.risk_gradient(NET, THETA, X, Y)
    point, moments = cbk.consensus(THETA, risk, alpha=30.0).point, np.zeros((2, *THETA.shape))
    method = cbk.Hybrid(alpha=30.0, dt=0.1, mix=0.6, diffusion=0.7)
    expected = cbk.hybrid_update(
        THETA * (1 - 0.1 * 2.0), point, gradient, *moments, mix=0.6, dt=0.1, diffusion=0.7, seed=2, step=1
    )
    np.testing.assert_allclose(run(method, weight_decay=2.0), expected, rtol=1e-12)


NO_MOVE = {"drift": 0.0, "diffusion": 0.0, "dt": 0.25}


@pytest.mark.parametrize(
    "method",
    [
        cbk.CBO(**NO_MOVE),
        cbk.CBO(**NO_MOVE, particle_batch=5),
        cbk.CBO(**NO_MOVE, friction=1.0),
        cbk.TransportCBO(**NO_MOVE),
        cbk.MultiTaskCBO(**NO_MOVE),
    ],
)
def test_every_consensus_decays_by_its_dt(method):
    """Three steps that move nothing else."""
    y = Y[None] if isinstance(method, cbk.MultiTaskCBO) else Y
    np.testing.assert_allclose(run(method, y=y, epochs=3), THETA, rtol=1e-12)
    got = run(method, y=y, epochs=3, weight_decay=0.4)
    np.testing.assert_allclose(got, THETA * (1 - 0.4 * 0.25) ** 3, rtol=1e-12)


def test_only_the_particles_that_move_decay():
    method = cbk.CBO(**NO_MOVE, particle_batch=3, move="batch")
    got = run(method, weight_decay=0.4)
    ratios = (got / THETA).mean(axis=1)
    assert sorted(np.round(ratios, 12)) == [0.9] * 3 + [1.0] * 5


def test_hopping_decays_its_centre():
    method = cbk.ConsensusHopping(particles=20, lr=0.05, spread=0.1)
    gradient = reference.hopping_gradient(NET, ONE[0], X, Y, particles=20, spread=0.1, seed=2, step=0)
    expected = cbk.adam_update(
        ONE * (1 - 0.05 * 0.4), gradient[None], *np.zeros((2, 1, NET.size)), lr=0.05, delta=1e-12
    )
    np.testing.assert_allclose(run(method, ONE, weight_decay=0.4), expected, rtol=1e-9)


@pytest.mark.parametrize("friction", [0.0, 0.7])
def test_mean_field_dynamics(friction):
    if friction:
        theta, velocity = THETA * (1 - 0.1 * 0.4), np.zeros_like(THETA)
        # the step's first half kick has the gradient before the decay
        gradient = reference.risk_gradient(NET, THETA, X, Y)[1]
        r = velocity - 0.05 * NET.width * gradient
        q = theta + 0.05 * r
        expected = q + 0.05 * math.exp(-friction * 0.1) * r
        method = cbk.HeavyBall(friction=friction, temperature=0.0, dt=0.1)
    else:
        gradient = reference.risk_gradient(NET, THETA, X, Y)[1]
        expected = THETA * (1 - 0.1 * 0.4) - 0.1 * NET.width * gradient
        method = cbk.GradientFlow(temperature=0.0, dt=0.1)
    np.testing.assert_allclose(run(method, weight_decay=0.4), expected, rtol=1e-9, atol=1e-12)


def test_hybrid_on_several_ranks_decays_as_on_one():
    class Apart(Ranks):
        alone = False

        def merge(self, leaf, combine, rows=None):
            return leaf(0, self.total)

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 2)), rng.normal(size=30)
    run = {"epochs": 3, "batch_size": 10, "weight_decay": 0.5, "dtype": "float64"}
    method = cbk.Hybrid(particles=6, alpha=10)
    one, several = (cbk.train(cbk.TwoLayer(2, 5), x, y, method, comm=comm, **run) for comm in (None, Apart()))
    np.testing.assert_allclose(several.particles, one.particles, rtol=1e-8)


def test_wrong_decays():
    with pytest.raises(ValueError, match="weight_decay"):
        run(cbk.CBO(), weight_decay=-0.1)
    with pytest.raises(TypeError, match="weight_decay must be a real number"):
        run(cbk.CBO(), weight_decay="much")
    with pytest.raises(ValueError, match=r"weight_decay times the step's rate must be .* 1, got 1\.1 in"):
        run(cbk.CBO(dt=0.1), weight_decay=11.0)


METHODS = [
    cbk.CBO(particles=8),
    cbk.Adam(particles=2),
    cbk.Hybrid(particles=8),
    cbk.ConsensusHopping(particles=20),
    cbk.TransportCBO(particles=8),
    cbk.HeavyBall(particles=2),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_standardised_inputs_are_those_of_a_run_on_them(method, dtype):
    """The run is the one on inputs that the caller has centred and scaled, its parameters those for x."""
    x = X * [1.0, 30.0, 0.2] + [2.0, -50.0, 0.0]
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    options = {"epochs": 4, "batch_size": 16, "seed": 3, "dtype": dtype, "validation": (x[:7], Y[:7])}
    got = cbk.train(NET, x, Y, method, standardize=True, metrics="r2", **options)
    options["validation"] = (scaled[:7], Y[:7])
    expected = cbk.train(NET, scaled, Y, method, metrics="r2", **options)
    for name in ("risk", "validation_risk", "r2", "validation_r2", "variance"):
        np.testing.assert_array_equal(got.history[name], expected.history[name])
    rtol = 1e-4 if dtype == "float32" else 1e-11
    for best in (False, True):
        outputs = got.predict(x.astype(dtype), best=best), expected.predict(scaled.astype(dtype), best=best)
        np.testing.assert_allclose(*outputs, rtol=rtol, atol=rtol * np.abs(outputs[1]).max())
    given = cbk.forward(NET, got.particles, x.astype(dtype))
    np.testing.assert_allclose(
        given,
        cbk.forward(NET, expected.particles, scaled.astype(dtype)),
        rtol=rtol,
        atol=rtol * np.abs(given).max(),
    )


def test_a_constant_column_is_centred_and_not_scaled():
    x = X.copy()
    x[:, 1] = 7.0
    got = cbk.train(NET, x, Y, cbk.CBO(particles=8), epochs=2, dtype="float64", standardize=True)
    scaled = (x - x.mean(axis=0)) / np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0)
    expected = cbk.train(NET, scaled, Y, cbk.CBO(particles=8), epochs=2, dtype="float64")
    np.testing.assert_allclose(got.predict(x), expected.predict(scaled), rtol=1e-12)


def test_parameters_go_in_and_come_out_for_raw_inputs():
    x = X * 5 + 20
    risk = cbk.risk(NET, THETA, x, Y)
    still = cbk.CBO(**NO_MOVE)
    seen = []
    options = {"theta": THETA, "epochs": 1, "dtype": "float64", "standardize": True, "callback": seen.append}
    result = cbk.train(NET, x, Y, still, **options)
    np.testing.assert_allclose(result.particles, THETA, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(seen[0].particles, result.particles, rtol=0)
    np.testing.assert_allclose(seen[0].point, result.parameters, rtol=0)
    np.testing.assert_allclose(result.history["risk"][-1], risk.min(), rtol=1e-10)
    with pytest.raises(TypeError, match="standardize"):
        cbk.train(NET, x, Y, still, standardize="yes")
    with pytest.raises(ValueError, match="x must have shape"):
        cbk.train(NET, x[:, :2], Y, still, standardize=True)
    with pytest.raises(ValueError, match="x must be finite"):
        cbk.train(NET, x * [1, np.nan, 1], Y, still, standardize=True)


def test_a_checkpoint_of_standardised_inputs_loads_as_its_result(tmp_path):
    path, x = tmp_path / "run.npz", X * 5 + 20
    options = {"epochs": 3, "dtype": "float64", "standardize": True}
    result = cbk.train(NET, x, Y, cbk.CBO(particles=8), checkpoint=path, **options)
    loaded = cbk.Result.load(path)
    for name in ("parameters", "particles", "best"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(result, name))
    with pytest.raises(ValueError, match="standardize is True in the checkpoint and absent now"):
        cbk.train(NET, x, Y, cbk.CBO(particles=8), checkpoint=path, resume=True, epochs=3, dtype="float64")


@pytest.mark.parametrize(
    ("column", "words"), [(1e7, "mean 1e.07"), (1.6e9, "mean 1.6e.09"), (1e-40, "divided by")]
)
def test_columns_that_parameters_cannot_take_in_are_told(column, words):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(50, 3))
    x[:, 2] = x[:, 2] * column if column < 1 else x[:, 2] + column
    net, y = cbk.TwoLayer(3, 4), rng.normal(size=50)
    with pytest.warns(cbk.CboWarning, match=f"column 2 of x has .*{words}"):
        cbk.train(net, x, y, cbk.Adam(), epochs=1, standardize=True)
    if column == 1e7:
        cbk.train(net, x, y, cbk.Adam(), epochs=1, standardize=True, dtype="float64")  # without a warning


@pytest.mark.parametrize(
    ("bad", "message"), [(np.inf, r"inf at \[5, 1\]"), (np.nan, r"nan at \[5, 1\]"), (1e200, "column 1")]
)
def test_what_cannot_be_standardised_is_named(bad, message):
    x = np.random.default_rng(4).normal(size=(8, 3))
    x[5, 1] = bad
    with pytest.raises(ValueError, match=message):
        cbk.train(cbk.TwoLayer(3, 4), x, x[:, 0], cbk.Adam(), epochs=1, standardize=True)
