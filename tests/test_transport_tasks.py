"""CBO of networks as measures for several tasks: steps against the reference, what one task more changes."""

from __future__ import annotations

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels import reference

NET = cbk.TwoLayer(1, 7, 1)
TWO = cbk.TwoLayer(1, 5, 2)
TASKS, SAMPLES, PARTICLES = 3, 30, 10


def data(dtype="float64", own=False):
    x = np.random.default_rng(5).random((TASKS, SAMPLES, 1) if own else (SAMPLES, 1))
    return x.astype(dtype), (x[..., 0] ** 2 + np.arange(-1.0, 2.0)[:, None]).astype(dtype)


X, YS = data()


def train(method, *, net=NET, x=X, ys=YS, dtype="float64", **settings):
    return cbk.train(net, x, ys, method, dtype=dtype, **settings)


@pytest.mark.parametrize("own", [False, True], ids=["shared x", "own x"])
@pytest.mark.parametrize("alpha", [5.0, cbk.TargetEss(0.5), np.inf], ids=["5", "ess", "inf"])
@pytest.mark.parametrize("iterations", [1, 3])
def test_steps_are_the_references(alpha, own, iterations, dtype):
    x, ys = data(own=own)
    method = cbk.TransportCBO(
        particles=PARTICLES, alpha=alpha, diffusion=0.3, drift=0.8, iterations=iterations
    )
    rows = []
    result = train(
        method, x=x, ys=ys, dtype=dtype, epochs=4, seed=11, callback=lambda s: rows.append(s.particles.copy())
    )
    history, tolerance = result.history, 1e-12 if dtype == "float64" else 2e-5
    theta, supports = NET.uniform(PARTICLES, seed=11, dtype=dtype), [None] * TASKS
    task, before = np.arange(PARTICLES) * TASKS // PARTICLES, np.tile(np.arange(7), (PARTICLES, 1))
    for epoch in range(4):
        theta = theta.astype(float)
        atoms, moved = NET.atoms(theta), np.empty((PARTICLES, 7, 3))
        risks = reference.task_risks(NET, theta, x, ys)
        spread, match = np.empty(PARTICLES), np.empty_like(before)
        for t in range(TASKS):
            alphas = np.broadcast_to(history["alpha"][epoch], TASKS)
            weights = reference.consensus(theta, risks[:, t], alpha=alphas[t]).weights
            start = atoms[risks[:, t].argmin()] if supports[t] is None else supports[t]
            found = reference.barycenter(atoms, weights, support=start, iterations=iterations)
            supports[t], mine = found.support, task == t
            step = reference.transport_update(
                atoms, found.support, found.match, drift=0.8, diffusion=0.3, seed=11, step=epoch
            )
            moved[mine], match[mine] = step[mine], found.match[mine]
            spread[mine] = ((atoms - found.support[found.match]) ** 2).sum(-1).mean(-1)[mine]
            assert history["objective"][epoch, t] == pytest.approx(
                found.objective, rel=100 * tolerance, abs=1e-20
            )
            assert history["ess"][epoch, t] == pytest.approx(1 / (weights**2).sum(), rel=1e-3)
        np.testing.assert_allclose(rows[epoch], NET.from_atoms(moved), rtol=tolerance, atol=tolerance)
        assert history["wasserstein_variance"][epoch] == pytest.approx(spread.mean() / 2, rel=100 * tolerance)
        assert history["moved"][epoch] == (match != before).sum()
        theta, before = rows[epoch], match  # rounding must not part them
    points = NET.from_atoms(np.stack(supports))
    np.testing.assert_allclose(result.parameters, points, rtol=tolerance, atol=tolerance)
    expected = reference.task_risks(NET, points, x, ys).diagonal()
    np.testing.assert_allclose(history["risk"][-1], expected, rtol=100 * tolerance)


def test_shapes_of_targets_and_results():
    rng = np.random.default_rng(6)
    method = cbk.TransportCBO(particles=6, alpha=cbk.TargetEss(0.5))
    for net, ys in (
        (NET, rng.normal(size=(TASKS, SAMPLES))),
        (NET, rng.normal(size=(TASKS, SAMPLES, 1))),
        (TWO, rng.normal(size=(TASKS, SAMPLES, 2))),
        (TWO, rng.integers(0, 2, (TASKS, SAMPLES))),
    ):
        states = []
        result = train(method, net=net, ys=ys, epochs=2, callback=states.append)
        assert result.parameters.shape == states[0].point.shape == (TASKS, net.size)
        assert result.predict(X).shape == (TASKS, SAMPLES, net.outputs)
        for name in ("risk", "ess", "alpha", "objective"):
            assert result.history[name].shape == (2, TASKS)
        for name in ("variance", "wasserstein_variance", "moved"):
            assert result.history[name].shape == (2,)
        np.testing.assert_array_equal(states[1].risk, result.history["risk"][1])
    for net, y in (
        (NET, YS[0]),
        (NET, YS[0][:, None]),
        (TWO, rng.normal(size=(SAMPLES, 2))),
        (TWO, rng.integers(0, 2, SAMPLES)),
    ):
        result = train(method, net=net, ys=y, epochs=2)
        assert result.parameters.shape == (net.size,)
        assert all(column.shape == (2,) for column in result.history.values())


def test_an_axis_of_one_task_changes_only_shapes(dtype):
    method = cbk.TransportCBO(particles=8, alpha=cbk.TargetEss(0.25), iterations=2)
    one, plain = (train(method, ys=y, dtype=dtype, epochs=4, batch_size=10) for y in (YS[:1], YS[0]))
    np.testing.assert_array_equal(one.particles, plain.particles)
    np.testing.assert_array_equal(one.parameters, plain.parameters[None])
    for name in ("risk", "ess", "alpha", "objective"):
        np.testing.assert_array_equal(one.history[name], plain.history[name][:, None])
    np.testing.assert_array_equal(one.history["moved"], plain.history["moved"])


def test_equal_tasks_are_one_task(dtype):
    """Every barycenter is that of all particles, whichever task they belong to."""
    method = cbk.TransportCBO(particles=8, alpha=cbk.TargetEss(0.5))
    same = np.broadcast_to(YS[0], YS.shape)
    many, plain = (train(method, ys=y, dtype=dtype, epochs=5) for y in (same, YS[0]))
    np.testing.assert_array_equal(many.particles, plain.particles)
    np.testing.assert_array_equal(many.parameters, np.broadcast_to(plain.parameters, many.parameters.shape))
    np.testing.assert_array_equal(many.history["moved"], plain.history["moved"])


def test_one_neuron_is_plain_cbo():
    net = cbk.TwoLayer(1, 1, 1)
    shared = dict(particles=12, alpha=10.0, diffusion=0.3, drift=1.0, dt=0.1, task=[0, 2, 1] * 4)
    methods = cbk.TransportCBO(**shared), cbk.MultiTaskCBO(**shared, noise="additive")
    one, two = (train(m, net=net, epochs=5, batch_size=10, seed=4) for m in methods)
    np.testing.assert_allclose(one.particles, two.particles, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(one.parameters, two.parameters, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(one.history["ess"], two.history["ess"], rtol=1e-12)


def test_same_bits_for_any_number_of_threads(dtype):
    net = cbk.TwoLayer(1, 60, 1)
    method = cbk.TransportCBO(particles=30, alpha=cbk.TargetEss(0.25))
    runs = [train(method, net=net, dtype=dtype, epochs=3, seed=1, num_threads=n) for n in (1, 3)]
    for part in ("particles", "parameters"):
        np.testing.assert_array_equal(getattr(runs[0], part), getattr(runs[1], part))
    for name in ("risk", "objective", "wasserstein_variance", "moved", "alpha"):
        np.testing.assert_array_equal(runs[0].history[name], runs[1].history[name])


def test_resuming_gives_the_same_bits(tmp_path):
    method = cbk.TransportCBO(particles=15, alpha=1e3, task=[0, 1, 2] * 5)
    settings = dict(batch_size=10, seed=3, dtype="float32")
    whole, path = train(method, epochs=8, **settings), tmp_path / "run.npz"
    train(method, epochs=5, checkpoint=path, every=3, **settings)
    resumed = train(method, epochs=8, checkpoint=path, resume=True, **settings)
    np.testing.assert_array_equal(resumed.particles, whole.particles)
    np.testing.assert_array_equal(resumed.parameters, whole.parameters)
    for name in whole.history:
        if name != "seconds":
            np.testing.assert_array_equal(resumed.history[name], whole.history[name])
    other = cbk.TransportCBO(particles=15, alpha=1e3)
    with pytest.raises(ValueError, match=r"TransportCBO.task is \(0, 1, 2"):
        train(other, epochs=8, checkpoint=path, resume=True, **settings)


@pytest.mark.parametrize(
    ("method", "ys", "error", "words"),
    [
        (cbk.TransportCBO(task=[0, 1]), YS, ValueError, r"task must have shape \[100\], got \[2\]"),
        (cbk.TransportCBO(task=[3] * 100), YS, ValueError, r"task .* in \[0, 3\)"),
        (cbk.TransportCBO(task=[1] * 100), YS[0], ValueError, r"task .* in \[0, 1\)"),
        (cbk.TransportCBO(), YS[:, 1:], ValueError, r"y must have shape \[T, 30\], got \[3, 29\]"),
        (cbk.TransportCBO(), YS[0][1:], ValueError, r"y must have shape \[30\], got \[29\]"),
        (cbk.TransportCBO(), YS[0][1:, None], ValueError, r"y must have shape \[30, 1\], got \[29, 1\]"),
    ],
)
def test_what_is_refused(method, ys, error, words):
    with pytest.raises(error, match=words):
        train(method, ys=ys)
    with pytest.raises(TypeError, match="task must hold integers"):
        cbk.TransportCBO(task=[0.5])


def test_it_learns_the_tasks():
    """x² shifted to five heights, eight networks each: most end below 0.3 of their first risk."""
    x = np.random.default_rng(1).random((300, 1))
    ys = x[:, 0] ** 2 + np.linspace(-0.5, 0.5, 5)[:, None]
    net = cbk.TwoLayer(1, 20, 1)
    theta = net.uniform(40, -2.0, 2.0, seed=0)
    history = cbk.train(net, x, ys, cbk.TransportCBO(), theta=theta, epochs=100, batch_size=100).history
    assert np.median(history["risk"][-1] / history["risk"][0]) < 0.3
