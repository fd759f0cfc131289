"""CBO as a value, and its steps against the public kernels called by hand."""

from __future__ import annotations

import dataclasses
import math
import pickle

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels import _cpu

NET = cbk.TwoLayer(2, 7, 1, activation="tanh")


def data(samples=23, seed=1, dtype="float32"):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, 2)).astype(dtype)
    return x, (x[:, 0] * x[:, 1]).astype(dtype)


def shuffled(samples, seed, epoch):
    order = np.empty(samples, np.int64)
    _cpu.permutation(order, samples, seed, epoch, 2)
    return order


def test_defaults_are_the_papers():
    method = cbk.CBO()
    assert method.particles == 200
    assert method.alpha == cbk.Tenfold(1e5, every=100, cap=1e7)
    assert (method.drift, method.diffusion, method.dt) == (1.0, 1.6**0.5, 0.1)
    assert (method.noise, method.floor, method.radius) == ("anisotropic", 0.0, None)
    assert (method.particle_batch, method.move) == (None, "all")


def test_frozen_hashable_picklable():
    method = cbk.CBO(particles=10, alpha=math.inf, floor=cbk.Exponential(0.1, 0.001))
    assert pickle.loads(pickle.dumps(method)) == method
    assert hash(method) == hash(cbk.CBO(particles=10, alpha=math.inf, floor=cbk.Exponential(0.1, 0.001)))
    assert dataclasses.replace(method, particles=20).particles == 20
    with pytest.raises(AttributeError):
        method.alpha = 1.0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"particles": 0}, ValueError, r"particles must be an integer in \[1,"),
        ({"particles": 2.0}, TypeError, r"particles must be an integer, got 2.0"),
        ({"alpha": -1.0}, ValueError, r"alpha must lie in \[0, inf\], got -1.0"),
        ({"alpha": math.nan}, ValueError, r"alpha"),
        ({"alpha": "1e5"}, TypeError, r"alpha must be a real number, got '1e5'"),
        ({"alpha": cbk.Tenfold}, TypeError, r"alpha must be a real number"),
        ({"drift": math.inf}, ValueError, r"drift"),
        ({"diffusion": -0.1}, ValueError, r"diffusion must lie in \[0, inf\), got -0.1"),
        ({"diffusion": cbk.TargetEss(0.5)}, TypeError, r"diffusion .* which is for alpha"),
        ({"dt": -1}, ValueError, r"dt"),
        ({"floor": -1}, ValueError, r"floor"),
        ({"noise": "gaussian"}, ValueError, r"noise must be one of 'anisotropic', .* got 'gaussian'"),
        ({"noise": "truncated"}, ValueError, r"radius is required"),
        ({"radius": 1.0}, ValueError, r"radius must be None unless"),
        ({"noise": "truncated", "radius": 0.0}, ValueError, r"radius must lie in \(0, inf\]"),
        ({"noise": "isotropic", "floor": 0.1}, ValueError, r"floor must be 0 unless"),
        ({"particle_batch": 0}, ValueError, r"particle_batch"),
        ({"move": "some"}, ValueError, r"move must be one of 'all', 'batch', got 'some'"),
        ({"sigma": 1.0}, TypeError, r"sigma"),
    ],
)
def test_bad_parameters(arguments, error, message):
    with pytest.raises(error, match=message):
        cbk.CBO(**arguments)


def test_none_stands_only_where_it_is_the_default():
    taken = []
    for kind in {type(method) for method in METHODS}:
        defaults = {field.name: field.default for field in dataclasses.fields(kind)}
        for name in kind._parameters:
            if defaults[name] is None:
                taken.append(getattr(kind(**{name: None}), name))
            else:
                with pytest.raises(TypeError, match=f"{name} must be a real number, got None"):
                    kind(**{name: None})
    assert taken
    assert set(taken) == {None}


METHODS = [
    cbk.CBO(noise="truncated", radius=2, alpha=cbk.TargetEss(0.5), drift=lambda epoch, epochs: 1.0),
    cbk.MultiTaskCBO(particles=4, task=np.array([0, 1, 1, 0])),
    cbk.TransportCBO(task=[0, 1], iterations=np.int64(2)),
    cbk.Adam(lr=np.float32(0.1)),
    cbk.Hybrid(mix=1),
    cbk.ConsensusHopping(weights=cbk.TargetEss(0.5)),
    cbk.HeavyBall(temperature=cbk.Constant(0.1)),
    cbk.GradientFlow(),
]
by_name = pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)


@by_name
def test_parameters_as_a_dictionary(method):
    parameters = method.get_params()
    assert list(parameters) == [field.name for field in dataclasses.fields(method)]
    assert parameters == method.get_params(deep=False)
    assert type(method)(**parameters) == method
    settings = {"particles": 6, "dt" if "dt" in parameters else "beta1": 0.5}
    changed = method.set_params(**settings)
    assert type(changed) is type(method)
    assert changed.get_params() == {**parameters, **settings}
    assert method.get_params() == parameters  # it is frozen
    assert method.set_params() == method


@by_name
def test_the_constructor_keeps_the_objects_of_get_params(method):
    """Which `sklearn.base.clone` insists on."""
    again = type(method)(**method.get_params()).get_params()
    for name, value in method.get_params().items():
        assert again[name] is value, name


@by_name
def test_clone_of_scikit_learn(method):
    base = pytest.importorskip("sklearn.base", reason="scikit-learn is not installed")
    assert base.clone(method) == method
    assert base.clone(base.clone(method)) == method


def test_set_params_refuses_what_there_is_not():
    with pytest.raises(ValueError, match=r"parameters of CBO must be some of particles, alpha, .*, got 'lr'"):
        cbk.CBO().set_params(dt=0.5, lr=0.1)
    with pytest.raises(ValueError, match=r"got 'alpha__start'"):
        cbk.CBO().set_params(alpha__start=1.0)
    with pytest.raises(ValueError, match=r"dt must lie in \[0, inf\), got -1"):
        cbk.CBO().set_params(dt=-1)
    with pytest.raises(TypeError, match=r"alpha must be a real number, got '1'"):
        cbk.CBO().set_params(alpha="1")


@pytest.mark.parametrize("batch_size", [None, 5, 8, 23, 100])
def test_steps_are_the_public_kernels(batch_size, dtype):
    """Batches in their order, noise counters, the point before the update: bit for bit."""
    x, y = data(dtype=dtype)
    seed, epochs = 2**40 + 3, 3
    schedule = cbk.Geometric(1e3, 10.0)
    method = cbk.CBO(
        particles=9, alpha=schedule, drift=0.8, diffusion=lambda e, n: 1.0 + e / n, dt=0.2, floor=0.01
    )
    result = cbk.train(NET, x, y, method, epochs=epochs, batch_size=batch_size, seed=seed, dtype=dtype)

    theta = NET.uniform(9, seed=seed, dtype=dtype)
    step = 0
    for epoch in range(epochs):
        order = np.arange(23) if batch_size is None else shuffled(23, seed, epoch)
        for start in range(0, 23, batch_size or 23):
            rows = order[start : start + (batch_size or 23)]
            risk = cbk.risk(NET, theta, x[rows], y[rows])
            point, _, ess = cbk.consensus(theta, risk, alpha=schedule(epoch, epochs))
            sigma = 1.0 + epoch / epochs
            cbk.cbo_update(
                theta, point, drift=0.8, diffusion=sigma, dt=0.2, floor=0.01, seed=seed, step=step, out=theta
            )
            step += 1
    np.testing.assert_array_equal(result.parameters, point)
    np.testing.assert_array_equal(result.particles, theta)
    assert result.history["ess"][-1] == ess
    assert result.history["risk"][-1] == cbk.risk(NET, point[None], x, y)[0]


@pytest.mark.parametrize("move", ["all", "batch"])
def test_particle_batches(move):
    x, y = data()
    method = cbk.CBO(particles=12, alpha=1e2, particle_batch=5, move=move)
    result = cbk.train(NET, x, y, method, epochs=4, seed=6)

    theta = NET.uniform(12, seed=6)
    rows = np.empty(5, np.int64)
    seen = set()
    for step in range(4):
        _cpu.permutation(rows, 12, 6, step, 3)
        rows.sort()
        seen.add(tuple(rows.tolist()))
        risk = cbk.risk(NET, theta[rows], x, y)
        point, _, _ = cbk.consensus(theta[rows], risk, alpha=1e2)
        moved = cbk.cbo_update(theta, point, seed=6, step=step)
        if move == "all":
            theta = moved
        else:
            theta[rows] = moved[rows]
    assert len(seen) > 1
    np.testing.assert_array_equal(result.parameters, point)
    np.testing.assert_array_equal(result.particles, theta)


@pytest.mark.parametrize("move", ["all", "batch"])
def test_a_batch_of_all_particles_is_no_batch(move):
    x, y = data()
    whole = cbk.train(NET, x, y, cbk.CBO(particles=6), epochs=3)
    batch = cbk.train(NET, x, y, cbk.CBO(particles=6, particle_batch=6, move=move), epochs=3)
    np.testing.assert_array_equal(whole.particles, batch.particles)


def test_particle_batch_is_measured_by_the_particles_at_hand():
    x, y = data()
    with pytest.raises(ValueError, match=r"particle_batch must be at most N = 4 particles, got 6"):
        cbk.train(NET, x, y, cbk.CBO(particle_batch=6), theta=NET.uniform(4, seed=0), epochs=1)
    theta = NET.uniform(300, seed=0)
    cbk.train(NET, x, y, cbk.CBO(particles=10, particle_batch=250), theta=theta, epochs=1)


@pytest.mark.parametrize(
    "extra",
    [
        {"noise": "isotropic"},
        {"noise": "truncated", "radius": 0.5},
        {"noise": "truncated", "radius": cbk.Exponential(0.5, 0.1)},
        {"noise": "additive"},
        {"noise": "none"},
    ],
)
def test_noises_reach_the_kernel(extra):
    x, y = data()
    result = cbk.train(NET, x, y, cbk.CBO(particles=6, alpha=10.0, **extra), epochs=1, seed=3)
    theta = NET.uniform(6, seed=3)
    point = cbk.consensus(theta, cbk.risk(NET, theta, x, y), alpha=10.0).point
    if "radius" in extra:
        extra = {**extra, "radius": 0.5}
    np.testing.assert_array_equal(result.particles, cbk.cbo_update(theta, point, seed=3, **extra))


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_target_ess(fraction):
    x, y = data()
    method = cbk.CBO(particles=40, alpha=cbk.TargetEss(fraction))
    history = cbk.train(NET, x, y, method, epochs=5, batch_size=10).history
    np.testing.assert_allclose(history["ess"], 40 * fraction, rtol=1e-6)
    assert np.isfinite(history["alpha"]).all()
    assert (history["alpha"] != fraction).all()


def test_target_ess_counts_the_scored_particles_and_at_least_one():
    x, y = data()
    batch = cbk.CBO(particles=40, alpha=cbk.TargetEss(0.5), particle_batch=8)
    np.testing.assert_allclose(cbk.train(NET, x, y, batch, epochs=3).history["ess"], 4.0, rtol=1e-6)
    least = cbk.train(NET, x, y, cbk.CBO(particles=40, alpha=cbk.TargetEss(1e-6)), epochs=1)
    assert least.history["ess"][0] == pytest.approx(1.0, abs=1e-6)


def test_infinite_alpha_takes_the_best_particle():
    x, y = data()
    theta = NET.uniform(30, seed=1)
    result = cbk.train(NET, x, y, cbk.CBO(alpha=math.inf), theta=theta, epochs=1)
    np.testing.assert_array_equal(result.parameters, theta[cbk.risk(NET, theta, x, y).argmin()])
    assert result.history["alpha"][0] == math.inf
    assert result.history["ess"][0] == 1.0
