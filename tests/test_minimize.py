"""minimize: it finds minima, calls the function as promised, and refuses what is none."""

from __future__ import annotations

import math

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels import _cpu


def quadratic(theta):
    return ((theta - 1.0) ** 2).sum(axis=1)


def rastrigin(theta):
    return (theta**2 - 10 * np.cos(2 * np.pi * theta) + 10).sum(axis=1)


def start(particles=50, size=3, dtype="float64", scale=3.0, seed=0):
    return np.random.default_rng(seed).uniform(-scale, scale, (particles, size)).astype(dtype)


@pytest.mark.parametrize(("alpha", "distance"), [(cbk.CBO().alpha, 2e-2), (math.inf, 1e-5)])
def test_finds_the_minimum_of_a_quadratic(alpha, distance, dtype):
    theta = start(100, 4, dtype)
    before = theta.copy()
    result = cbk.minimize(quadratic, theta, cbk.CBO(alpha=alpha), steps=400)
    np.testing.assert_allclose(result.parameters, 1.0, atol=distance)
    assert result.particles.dtype == result.parameters.dtype == dtype
    assert result.net is None
    np.testing.assert_array_equal(theta, before)


@pytest.mark.parametrize("seed", range(3))
def test_finds_the_global_minimum_of_rastrigin(seed):
    method = cbk.CBO(alpha=1e3, diffusion=5.0, dt=0.01)
    result = cbk.minimize(rastrigin, start(300, 5, seed=seed), method, steps=1000, seed=seed)
    np.testing.assert_allclose(result.parameters, 0.0, atol=1e-2)


def test_steps_are_the_public_kernels(dtype):
    theta = start(dtype=dtype)
    method = cbk.CBO(alpha=cbk.Geometric(1.0, 2.0), diffusion=0.5)
    result = cbk.minimize(quadratic, theta, method, steps=4, seed=11)
    for step in range(4):
        consensus = cbk.consensus(theta, quadratic(theta).astype(np.float64), alpha=2.0**step)
        theta = cbk.cbo_update(theta, consensus.point, diffusion=0.5, seed=11, step=step)
    np.testing.assert_array_equal(result.particles, theta)
    np.testing.assert_array_equal(result.parameters, consensus.point)


def test_consensus_hopping_finds_the_minimum(dtype):
    center, method = start(1, 4, dtype), cbk.ConsensusHopping(particles=50, spread=0.1, lr=0.1)
    before = center.copy()
    calls = []

    def fun(theta):
        calls.append(theta.shape)
        return quadratic(theta)

    result = cbk.minimize(fun, center, method, steps=200)
    np.testing.assert_allclose(result.parameters, 1.0, atol=0.05)
    assert result.parameters.dtype == result.particles.dtype == dtype
    assert result.particles.shape == (1, 4)
    np.testing.assert_array_equal(center, before)
    # once a step with all particles, once with the centre for the history
    assert calls == [(50, 4), (1, 4)] * 200
    assert np.isfinite(result.history["ess"]).all()


@pytest.mark.parametrize(
    "method", [cbk.ConsensusHopping(mirrored=False, particles=9), cbk.ConsensusHopping()]
)
def test_consensus_hopping_takes_the_same_steps_as_in_train(method):
    rng = np.random.default_rng(2)
    net, x = cbk.TwoLayer(1, 7, 1, activation="tanh"), rng.random((20, 1)).astype(np.float32)
    center = net.uniform(1, seed=3)
    fun = lambda theta: cbk.risk(net, theta, x, x[:, 0])  # noqa: E731
    trained = cbk.train(net, x, x[:, 0], method, theta=center, epochs=5, seed=4)
    result = cbk.minimize(fun, center, method, steps=5, seed=4, num_threads=2)
    np.testing.assert_array_equal(result.parameters, trained.parameters)
    np.testing.assert_array_equal(result.history["ess"], trained.history["ess"])


def test_consensus_hopping_with_ess_weights_where_values_are_not_finite():
    method = cbk.ConsensusHopping(weights=cbk.TargetEss(0.25), lr=cbk.Exponential(0.2, 0.01))
    fun = lambda t: np.where(t[:, 0] > 0, quadratic(t), np.nan)  # noqa: E731
    with pytest.warns(cbk.CboWarning, match="NaN or infinite"):
        result = cbk.minimize(fun, np.full((1, 3), 0.1), method, steps=100)
    np.testing.assert_allclose(result.parameters, 1.0, atol=0.05)
    assert (result.history["alpha"] > 0).all()


def test_consensus_hopping_refuses():
    with pytest.raises(ValueError, match=r"scope='atom' expects a network .* got a function"):
        cbk.minimize(quadratic, start(1), cbk.ConsensusHopping(scope="atom"), steps=1)
    with pytest.raises(
        ValueError, match=r"theta must have shape \[1, D\] for ConsensusHopping, got \[50, 3\]"
    ):
        cbk.minimize(quadratic, start(), cbk.ConsensusHopping(), steps=1)
    with pytest.raises(cbk.ConsensusError, match=r"epoch 1, step 0: no particle has a finite risk"):
        cbk.minimize(lambda t: np.full(len(t), np.inf), start(1), cbk.ConsensusHopping(), steps=1)


def test_history_has_a_row_per_step():
    result = cbk.minimize(quadratic, start(), steps=6)
    assert [len(column) for column in result.history.values()] == [6] * 6
    np.testing.assert_array_equal(result.history["epoch"], np.arange(1, 7))
    assert result.history["risk"][-1] == quadratic(result.parameters[None])[0]


def test_default_method_follows_the_best():
    a = cbk.minimize(quadratic, start(), steps=3)
    b = cbk.minimize(quadratic, start(), cbk.CBO(alpha=np.inf, diffusion=10**0.5), steps=3)
    assert a.method == b.method
    np.testing.assert_array_equal(a.particles, b.particles)


def test_the_function_sees_the_scored_particles_read_only_and_the_point():
    calls = []

    def fun(theta):
        assert not theta.flags.writeable
        assert theta.dtype == np.float32
        calls.append(theta.shape)
        return np.arange(len(theta))

    cbk.minimize(fun, start(10, 3, "float32"), cbk.CBO(particle_batch=4, alpha=1.0), steps=2)
    assert calls == [(4, 3), (1, 3), (4, 3), (1, 3)]


@pytest.mark.parametrize("batch", [None, 4])
def test_a_point_that_is_a_particle_is_not_evaluated_again(dtype, batch):
    calls = []

    def fun(theta):
        calls.append(theta.copy())
        return quadratic(theta)

    result = cbk.minimize(fun, start(dtype=dtype), cbk.CBO(particle_batch=batch, alpha=math.inf), steps=9)
    assert len(calls) == 9
    assert result.evaluations == result.nfev == 9 * (batch or 50)
    assert (calls[-1] == result.parameters).all(axis=1).any()
    assert result.history["risk"].tolist() == [quadratic(theta).min() for theta in calls]


@pytest.mark.parametrize("keep", [lambda t: t, lambda t: t[:, 1], lambda t: memoryview(t)])
@pytest.mark.parametrize("batch", [None, 30])
def test_what_the_function_keeps_stays(keep, batch):
    kept, copies = [], []

    def fun(theta):
        if len(copies) % 3:  # not always, so that memory is used again in between
            kept.append((keep(theta), np.array(keep(theta))))
        copies.append(theta.copy())
        return quadratic(theta)

    method = cbk.CBO(particle_batch=batch)
    result = cbk.minimize(fun, start(), method, steps=20)
    for array, then in kept:
        np.testing.assert_array_equal(array, then)
    assert len({np.asarray(array).tobytes() for array, _ in kept}) > 14  # the best particle may stay the best
    np.testing.assert_array_equal(
        result.particles, cbk.minimize(quadratic, start(), method, steps=20).particles
    )


def test_an_ensemble_that_is_not_kept_is_shown_in_the_same_memory():
    places = set()

    def fun(theta):
        places.add((len(theta), theta.ctypes.data))
        return quadratic(theta)

    cbk.minimize(fun, start(), cbk.CBO(), steps=50)
    assert len(places) == 2


def test_what_a_callback_keeps_stays():
    particles, states = [], []

    def callback(state):
        particles.append(state.particles)
        states.append(state)

    cbk.minimize(quadratic, start(), steps=5, callback=callback)
    for step in range(1, 6):
        result = cbk.minimize(quadratic, start(), steps=step)
        np.testing.assert_array_equal(particles[step - 1], result.particles)
        np.testing.assert_array_equal(states[step - 1].particles, result.particles)
        np.testing.assert_array_equal(states[step - 1].point, result.parameters)


def test_misaligned_values(monkeypatch):
    met = []
    kernel = _cpu.hopping_gradient

    def look(*arguments):
        met.append(arguments[4])
        return kernel(*arguments)

    monkeypatch.setattr(_cpu, "hopping_gradient", look)

    def fun(theta):
        values = np.empty(8 * len(theta) + 1, np.uint8)[1:].view(np.float64)
        values[:] = quadratic(theta)
        assert not values.flags.aligned
        return values

    for method in (cbk.CBO(), cbk.ConsensusHopping()):
        theta = start(1 if isinstance(method, cbk.ConsensusHopping) else 50)
        a, b = (cbk.minimize(f, theta, method, steps=3) for f in (fun, quadratic))
        np.testing.assert_array_equal(a.particles, b.particles)
    assert len(met) == 6
    assert all(risk.flags.aligned and risk.flags.c_contiguous for risk in met)


def test_minus_infinity_is_no_best_value():
    theta = start(3, 2)
    fun = lambda t: np.array([-np.inf, 2.0, 1.0])[-len(t) :]  # noqa: E731
    with pytest.warns(cbk.CboWarning, match=r"epoch 1: 1 risks were NaN or infinite"):
        result = cbk.minimize(fun, theta, cbk.CBO(alpha=math.inf), steps=1)
    np.testing.assert_array_equal(result.parameters, theta[2])


def test_resumed_runs_have_the_same_bits(tmp_path, dtype):
    path = tmp_path / "run"
    theta, saved = start(dtype=dtype), {"checkpoint": path, "every": 3, "resume": True}
    method = cbk.CBO(alpha=cbk.TargetEss(0.5), friction=3.0, diffusion=0.5, particle_batch=20)
    whole = cbk.minimize(quadratic, theta, method, steps=20)
    cbk.minimize(quadratic, theta, method, steps=20, callback=lambda s: s.epoch == 7, **saved)
    cbk.minimize(quadratic, theta, method, steps=10, num_threads=3, **saved)
    resumed = cbk.minimize(quadratic, theta, method, steps=20, **saved)
    for result in (resumed, cbk.Result.load(path)):
        np.testing.assert_array_equal(result.particles, whole.particles)
        np.testing.assert_array_equal(result.parameters, whole.parameters)
        assert result.net is None
        for name in whole.history.keys() - {"seconds"}:
            np.testing.assert_array_equal(result.history[name], whole.history[name])
    for change, message in (
        ({"seed": 1}, "seed is 0 in the checkpoint and 1 now"),
        ({"steps": 5}, "epochs is 5 now and the checkpoint has 20 already"),
        ({"method": cbk.CBO()}, "CBO.alpha is TargetEss.* now"),
        ({"theta": theta + 1}, "theta is"),
    ):
        changed = {"theta": theta, "method": method, "steps": 30, **saved, **change}
        with pytest.raises(ValueError, match=message):
            cbk.minimize(quadratic, **changed)
    net = cbk.TwoLayer(1, 1, 1)
    with pytest.raises(ValueError, match="net is absent in the checkpoint"):
        cbk.train(net, np.ones((4, 1)), np.ones(4), method, theta=theta, dtype=dtype, **saved)


def test_values_are_cast_to_float64():
    """In float32 the two best would be tied, and infinite alpha would average them."""
    theta = start(3, 2, "float32")
    values = np.array([1.0, 1.0 + 1e-12, 2.0])
    result = cbk.minimize(lambda t: values[: len(t)], theta, cbk.CBO(alpha=math.inf), steps=1)
    np.testing.assert_array_equal(result.parameters, theta[0])


@pytest.mark.parametrize(
    "kind", [list, tuple, lambda v: v.astype(np.float32), lambda v: np.rint(v).astype(int)]
)
def test_values_of_any_real_kind(kind):
    cbk.minimize(lambda theta: kind(quadratic(theta)), start(), steps=2)


def test_torch_functions():
    torch = pytest.importorskip("torch")

    def fun(theta):
        return (torch.tensor(theta) - 1.0).pow(2).sum(dim=1)

    a = cbk.minimize(fun, start(), steps=3)
    b = cbk.minimize(fun, torch.tensor(start()), steps=3)
    np.testing.assert_array_equal(a.particles, b.particles)


def test_callback_and_threads():
    result = cbk.minimize(
        quadratic, start(), steps=50, callback=lambda state: state.epoch == 7, num_threads=3
    )
    assert len(result.history["epoch"]) == 7
    same = cbk.minimize(quadratic, start(), steps=7, num_threads=1)
    np.testing.assert_array_equal(result.particles, same.particles)


def test_progress(capfd):
    cbk.minimize(quadratic, start(), steps=3, progress=True)
    assert "3/3" in capfd.readouterr().err


def test_values_that_are_not_finite_are_warned_of_once():
    def fun(theta):
        values = quadratic(theta)
        values[1:3] = [np.nan, -np.inf] if len(theta) > 1 else 0
        return values

    with pytest.warns(cbk.CboWarning, match=r"epoch 1: 2 risks were NaN or infinite") as caught:
        result = cbk.minimize(fun, start(), cbk.CBO(alpha=10.0, diffusion=0.5), steps=5)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert np.isfinite(result.parameters).all()


def test_nowhere_finite():
    with pytest.raises(cbk.ConsensusError, match=r"epoch 1, step 0: "):
        cbk.minimize(lambda theta: np.full(len(theta), np.nan), start(), steps=5)


def test_convergence_is_no_collapse():
    result = cbk.minimize(lambda t: quadratic(t) + 5.0, start(), cbk.CBO(diffusion=0.1, alpha=1e3), steps=600)
    assert result.history["variance"][-1] < 1e-20


def test_errors_of_the_function_pass_through():
    def fun(theta):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        cbk.minimize(fun, start(), steps=2)
    with pytest.raises(ValueError, match="read-only"):
        cbk.minimize(lambda theta: theta.sort(), start(), steps=2)


@pytest.mark.parametrize(
    ("fun", "error", "message"),
    [
        (
            lambda theta: theta,
            ValueError,
            r"result of fun must have shape \[50\] for theta of shape \[50, 3\], got \[50, 3\]",
        ),
        (lambda theta: quadratic(theta)[:-1], ValueError, r"must have shape \[50\]"),
        (lambda theta: quadratic(theta)[:, None], ValueError, r"got \[50, 1\]"),
        (lambda theta: quadratic(theta).sum(), ValueError, r"got \[\]"),
        (lambda theta: 1.0, ValueError, r"got \[\]"),
        (lambda theta: quadratic(theta) + 0j, TypeError, r"must hold real numbers, got complex128"),
        (lambda theta: None, TypeError, r"the result of fun must be an array"),
        (lambda theta: "values", TypeError, r"the result of fun"),
        (3, TypeError, r"fun must be callable, got int"),
    ],
)
def test_bad_functions(fun, error, message):
    with pytest.raises(error, match=message):
        cbk.minimize(fun, start(), steps=2)


@pytest.mark.parametrize(
    ("theta", "change", "error", "message"),
    [
        (start()[0], {}, ValueError, r"theta must have shape \[N, D\], got \[3\]"),
        (start().astype(int), {}, TypeError, r"theta must be float32 or float64, got int64"),
        (start() * np.nan, {}, ValueError, r"theta must be finite"),
        (start(), {"steps": 0}, ValueError, r"steps"),
        (start(), {"steps": 2.5}, TypeError, r"steps must be an integer"),
        (start(), {"seed": -1}, ValueError, r"seed"),
        (start(), {"method": "CBO"}, TypeError, r"method must be a method"),
        (start(), {"callback": 1}, TypeError, r"callback must be callable"),
        (start(), {"progress": "yes"}, TypeError, r"progress"),
        (start(), {"num_threads": 0}, ValueError, r"num_threads"),
        (start(), {"epochs": 3}, TypeError, r"epochs"),
    ],
)
def test_bad_arguments(theta, change, error, message):
    with pytest.raises(error, match=message):
        cbk.minimize(quadratic, theta, **change)
