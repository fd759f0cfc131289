"""Heavy balls: neurons with velocities, the first-order flow beside them, and CBO with friction."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels import _cpu
from cbokernels.experiments import sine

NET = cbk.TwoLayer(1, 9, 1, activation="tanh")
SAMPLES = 24
METHODS = {
    "heavy ball": cbk.HeavyBall(particles=3, temperature=0.01),
    "flow": cbk.GradientFlow(particles=3, temperature=0.01),
    "cbo": cbk.CBO(particles=7, alpha=1e3, friction=0.5),
    "cbo batch": cbk.CBO(particles=7, alpha=1e3, friction=0.5, particle_batch=4, move="batch"),
}


def data(dtype="float32"):
    x = np.random.default_rng(3).random((SAMPLES, 1))
    return x.astype(dtype), np.sin(2 * np.pi * x[:, 0]).astype(dtype)


X, Y = data()


def rows_of(batch_size, seed, epoch):
    order = np.arange(SAMPLES)
    _cpu.permutation(order, SAMPLES, seed, epoch, 2)
    return order.reshape(-1, batch_size)


def test_defaults():
    ball, flow = cbk.HeavyBall(), cbk.GradientFlow()
    assert (ball.friction, ball.temperature, ball.dt, ball.particles) == (0.2, 0.0, 0.1, 1)
    assert (flow.temperature, flow.dt, flow.particles) == (0.0, 0.1, 1)
    assert cbk.CBO().friction is None
    for method in METHODS.values():
        assert pickle.loads(pickle.dumps(method)) == method


@pytest.mark.parametrize("temperature", [0.0, 0.01])
def test_full_batch_steps_are_langevin_steps(temperature, dtype):
    x, y = data(dtype)
    friction = cbk.Exponential(1.0, 0.1)
    method = cbk.HeavyBall(particles=4, friction=friction, temperature=temperature, dt=0.2)
    result = cbk.train(NET, x, y, method, epochs=5, seed=8, dtype=dtype)

    theta = NET.uniform(4, seed=8, dtype=dtype)
    velocity = np.zeros_like(theta)
    kinetic, dissipated = np.zeros(4), np.zeros(4)
    for step in range(5):
        risk = cbk.langevin_step(
            NET, theta, velocity, x, y, friction=friction(step, 5), temperature=temperature, dt=0.2, seed=8,
            step=step,
        )  # fmt: skip
        before, kinetic = kinetic, (velocity.astype(float) ** 2).sum(axis=1) / (2 * NET.width)
        dissipated += friction(step, 5) * 0.2 * (before + kinetic)
    history = result.history
    np.testing.assert_array_equal(result.particles, theta)
    np.testing.assert_array_equal(result.parameters, theta[0])
    np.testing.assert_allclose(history["risks"][-1], risk, rtol=1e-6)
    np.testing.assert_array_equal(history["risks"][-1], cbk.risk(NET, theta, x, y))
    np.testing.assert_allclose(history["energies"][-1], history["risks"][-1] + kinetic, rtol=1e-12)
    assert history["kinetic"][-1] == pytest.approx(kinetic[0], rel=1e-12)
    assert history["dissipated"][-1] == pytest.approx(dissipated[0], rel=1e-12)
    assert history["energy"][-1] == history["energies"][-1, 0]
    assert history["risk"][-1] == history["risks"][-1, 0]
    columns = ["risks", "kinetic", "energy", "dissipated", "energies"]
    assert list(history) == ["epoch", "risk", "alpha", "ess", "variance", "seconds", *columns]
    assert history["energies"].shape == (5, 4)
    assert history["energy"].shape == (5,)


def test_a_minibatch_step_takes_one_gradient():
    """The gradient at a step's end, on its batch, opens the next step."""
    result = cbk.train(NET, X, Y, cbk.HeavyBall(temperature=0.1), epochs=2, batch_size=8, seed=1)
    theta = NET.uniform(1, seed=1)
    velocity, net, width = np.zeros_like(theta), NET._kernel, NET.width
    rows = np.concatenate([rows_of(8, 1, epoch) for epoch in range(2)])
    gradient = cbk.risk_gradient(NET, theta, X[rows[0]], Y[rows[0]])[1]
    for step, batch in enumerate(rows):
        _cpu.langevin_drift(theta, velocity, gradient, width, 0.2, 0.1, 0.1, (1, 0, step, 0), 0)
        _cpu.risk_gradient(net, theta, X[batch], Y[batch, None], "mse", np.empty(1), gradient, 0)
        _cpu.langevin_kick(velocity, gradient, width, 0.1, 0)
    np.testing.assert_array_equal(result.particles, theta)


@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize("temperature", [0.0, 0.02])
def test_flow_is_euler_maruyama(batch_size, temperature, dtype):
    x, y = data(dtype)
    method = cbk.GradientFlow(particles=3, temperature=temperature, dt=0.05)
    result = cbk.train(NET, x, y, method, epochs=3, batch_size=batch_size, seed=2, dtype=dtype)
    theta = NET.uniform(3, seed=2, dtype=dtype)
    step = 0
    for epoch in range(3):
        for rows in [slice(None)] if batch_size is None else rows_of(8, 2, epoch):
            gradient = cbk.risk_gradient(NET, theta, x[rows], y[rows])[1]
            xi = cbk.standard_normal(3, NET.size, seed=2, step=step, dtype=dtype)
            theta = theta - 0.05 * NET.width * gradient + math.sqrt(2 * temperature * 0.05) * xi
            theta = theta.astype(dtype)
            step += 1
    np.testing.assert_allclose(result.particles, theta, atol=1e-5 if dtype == "float32" else 1e-13, rtol=0)
    assert list(result.history)[-1] == "risks"
    assert np.isnan(result.history["ess"]).all()


@pytest.mark.parametrize("method", ["cbo", "cbo batch"])
def test_cbo_with_friction(method, dtype):
    """Half-implicit velocities, whose push is the step that cbo_update would make."""
    x, y = data(dtype)
    batch = METHODS[method].particle_batch
    result = cbk.train(NET, x, y, METHODS[method], epochs=4, seed=6, dtype=dtype)
    theta = NET.uniform(7, seed=6, dtype=dtype)
    velocity = np.zeros_like(theta)
    for step in range(4):
        rows = np.arange(7)
        if batch:
            rows = np.empty(batch, np.int64)
            _cpu.permutation(rows, 7, 6, step, 3)
            rows.sort()
        point = cbk.consensus(theta[rows], cbk.risk(NET, theta[rows], x, y), alpha=1e3).point
        push = cbk.cbo_update(theta, point, seed=6, step=step) - theta
        velocity[rows] = (velocity[rows] + push[rows]) / theta.dtype.type(1 + 0.5 * 0.1)
        theta[rows] += theta.dtype.type(0.1) * velocity[rows]
    np.testing.assert_array_equal(result.particles, theta)
    np.testing.assert_array_equal(result.parameters, point)


def test_cbo_without_mass_is_not_the_default_and_minimises():
    theta = np.random.default_rng(0).uniform(-3, 3, (200, 4))
    method = cbk.CBO(alpha=math.inf, diffusion=0.4, dt=0.5, friction=0.5)
    result = cbk.minimize(lambda t: ((t - 1) ** 2).sum(axis=1), theta, method, steps=400)
    np.testing.assert_allclose(result.parameters, 1.0, atol=1e-2)
    assert (result.history["variance"][-1]) < 1e-3


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("batch_size", [None, 10])
def test_resumed_runs_have_the_same_bits(tmp_path, name, batch_size, dtype):
    path, method = tmp_path / "run", METHODS[name]
    arguments = {"epochs": 7, "batch_size": batch_size, "dtype": dtype}
    whole = cbk.train(NET, X, Y, method, **arguments)
    for stop in (1, 4):
        cbk.train(
            NET, X, Y, method, checkpoint=path, resume=True, callback=lambda s, stop=stop: s.epoch == stop,
            **arguments,
        )  # fmt: skip
    resumed = cbk.train(NET, X, Y, method, checkpoint=path, resume=True, **arguments)
    np.testing.assert_array_equal(resumed.particles, whole.particles)
    assert list(resumed.history) == list(whole.history)
    for column in set(whole.history) - {"seconds"}:
        np.testing.assert_array_equal(resumed.history[column], whole.history[column])


@pytest.mark.parametrize("name", METHODS)
def test_same_bits_for_any_number_of_threads(name):
    runs = [
        cbk.train(NET, X, Y, METHODS[name], epochs=3, batch_size=8, num_threads=threads)
        for threads in (None, 1, 2, 5)
    ]
    for run in runs[1:]:
        np.testing.assert_array_equal(run.particles, runs[0].particles)


def test_energy_falls_and_is_what_friction_took():
    x, y = sine.samples(200)
    net = cbk.TwoLayer(1, 40, 1, activation="tanh")
    arguments = {"epochs": 400, "theta": net.uniform(4, seed=0, dtype="float64"), "dtype": "float64"}
    errors = []
    for dt in (0.1, 0.05):
        history = cbk.train(net, x, y, cbk.HeavyBall(dt=dt), **arguments).history
        assert np.diff(history["energies"], axis=0).max() < 1e-5
        lost = history["energy"][0] - history["energy"]
        errors.append(np.abs(lost - (history["dissipated"] - history["dissipated"][0])).max())
        assert errors[-1] < 0.02 * lost[-1]
    assert errors[1] < errors[0] / 2.5


def test_a_broken_network_does_not_touch_the_others():
    net = cbk.TwoLayer(1, 9, 1)
    theta = net.uniform(3, seed=1)
    theta[0] = 1e30
    for method in (cbk.HeavyBall(temperature=0.1), cbk.GradientFlow(temperature=0.1)):
        with pytest.warns(cbk.CboWarning, match=r"risks were NaN|overflowed, 1 of 3"):
            result = cbk.train(net, X, Y, method, theta=theta, epochs=3)
        assert np.isfinite(result.particles[1:]).all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cbk.HeavyBall(friction=-1), ValueError, r"friction must lie in \[0, inf\), got -1"),
        (lambda: cbk.HeavyBall(temperature=math.inf), ValueError, r"temperature"),
        (lambda: cbk.HeavyBall(dt="a"), TypeError, r"dt must be a real number"),
        (lambda: cbk.HeavyBall(particles=0), ValueError, r"particles"),
        (lambda: cbk.HeavyBall(mass=1), TypeError, r"mass"),
        (lambda: cbk.GradientFlow(friction=1), TypeError, r"friction"),
        (lambda: cbk.GradientFlow(dt=math.nan), ValueError, r"dt"),
        (lambda: cbk.CBO(friction=-0.1), ValueError, r"friction must lie in \[0, inf\), got -0.1"),
        (lambda: train(cbk.HeavyBall(), scaling="none"), ValueError, r"net must have scaling='mean'"),
        (lambda: train(cbk.GradientFlow(), output_bias=True), ValueError, r"net must have .* no output_bias"),
        (lambda: cbk.minimize(np.sum, np.ones((3, 2)), cbk.HeavyBall()), TypeError, r"got HeavyBall"),
        (lambda: cbk.minimize(np.sum, np.ones((3, 2)), cbk.GradientFlow()), TypeError, r"got GradientFlow"),
    ],
)
def test_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make()


def train(method, **shape):
    return cbk.train(cbk.TwoLayer(1, 4, 1, **shape), X, Y, method, epochs=1)


def test_second_order_beats_first_on_the_sine():
    """100 neurons, 1000 samples, t = 100, five networks [Krichene, Caluya, Halder 2020]."""
    x, y = sine.samples(1000)
    heavy, flow = (
        cbk.train(sine.NET, x, y, method, epochs=1000).history["risks"][-1]
        for method in (cbk.HeavyBall(particles=5), cbk.GradientFlow(particles=5))
    )
    assert heavy.max() <= 4e-3
    assert (heavy <= flow / 20).all()


@pytest.mark.filterwarnings("ignore:.*has collapsed:cbokernels.CboWarning")
def test_cbo_with_friction_learns_the_sine():
    x, y = sine.samples(2000)
    method = cbk.CBO(alpha=1e7, friction=4.0, dt=0.5, diffusion=2.5)
    risks = [
        cbk.train(sine.NET, x, y, method, epochs=100, batch_size=200, seed=seed).history["risk"][-1]
        for seed in range(3)
    ]
    assert np.median(risks) <= 5e-3
