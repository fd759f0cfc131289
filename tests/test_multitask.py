"""Multi-task CBO: its steps against the public kernels, what it reports, and the paper's hundred sines."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels import _cpu, reference
from cbokernels.experiments import sine

NET = cbk.TwoLayer(1, 6, 1)
TWO = cbk.TwoLayer(1, 6, 2)
TASKS, SAMPLES = 5, 30


def data(dtype="float32"):
    x = np.random.default_rng(3).random((SAMPLES, 1))
    ys = np.sin(2 * np.pi * x[:, 0]) + np.linspace(-1, 1, TASKS)[:, None]
    return x.astype(dtype), ys.astype(dtype)


X, YS = data()


def test_defaults_are_the_papers():
    method = cbk.MultiTaskCBO()
    assert (method.particles, method.dt, method.drift, method.diffusion) == (200, 0.2, 1.0, 1.8**0.5)
    assert method.alpha == cbk.Tenfold(1e4, every=100, cap=1e7)
    assert (method.noise, method.floor, method.task, method.friction) == ("anisotropic", 0.0, None, None)
    method = cbk.MultiTaskCBO(task=np.array([0, 1, 0]))
    assert method.task == (0, 1, 0)
    assert pickle.loads(pickle.dumps(method)) == method
    assert hash(method) == hash(cbk.MultiTaskCBO(task=[0, 1, 0]))


@pytest.mark.parametrize("particles", [3, 5, 12, 20])
@pytest.mark.parametrize("batch_size", [None, 8])
def test_steps_are_the_public_kernels(particles, batch_size, dtype):
    x, ys = data(dtype)
    method = cbk.MultiTaskCBO(particles=particles, alpha=1e3, floor=cbk.Exponential(0.1, 0.01))
    result = cbk.train(NET, x, ys, method, epochs=3, batch_size=batch_size, seed=4, dtype=dtype)

    theta = NET.uniform(particles, seed=4, dtype=dtype)
    task = np.array([n * TASKS // particles for n in range(particles)])
    step = 0
    for epoch in range(3):
        order = np.arange(SAMPLES)
        if batch_size is not None:
            _cpu.permutation(order, SAMPLES, 4, epoch, 2)
        for start in range(0, SAMPLES, batch_size or SAMPLES):
            rows = order[start : start + (batch_size or SAMPLES)]
            risk = cbk.task_risks(NET, theta, x[rows], np.ascontiguousarray(ys[:, rows]))
            points, _, ess = cbk.consensus(theta, risk, alpha=1e3)
            floor = cbk.Exponential(0.1, 0.01)(epoch, 3)
            cbk.cbo_update(
                theta,
                points,
                diffusion=1.8**0.5,
                dt=0.2,
                floor=floor,
                seed=4,
                step=step,
                task=task,
                out=theta,
            )
            step += 1
    np.testing.assert_array_equal(result.particles, theta)
    np.testing.assert_array_equal(result.parameters, points)
    np.testing.assert_array_equal(result.history["ess"][-1], ess)
    risks = cbk.task_risks(NET, points, x, ys).diagonal()
    np.testing.assert_allclose(result.history["risk"][-1], risks, rtol=1e-6)


@pytest.mark.parametrize("tasks", [1, 7, 8, 9, 17])
def test_each_tasks_risk_is_that_of_its_own_point(tasks):
    rng = np.random.default_rng(5)
    ys = rng.normal(size=(tasks, SAMPLES, 2))
    result = cbk.train(TWO, X, ys, cbk.MultiTaskCBO(particles=12), epochs=2, dtype="float64")
    assert result.history["risk"].shape == (2, tasks)
    for t in range(tasks):
        own = cbk.risk(TWO, result.parameters[t : t + 1], X.astype("float64"), ys[t])[0]
        assert result.history["risk"][-1, t] == pytest.approx(own, rel=1e-12)


def test_one_task_is_plain_cbo():
    one = cbk.MultiTaskCBO(particles=9, alpha=1e3)
    plain = cbk.CBO(particles=9, alpha=1e3, diffusion=1.8**0.5, dt=0.2)
    a = cbk.train(NET, X, YS[:1], one, epochs=4, batch_size=8)
    b = cbk.train(NET, X, YS[0], plain, epochs=4, batch_size=8)
    np.testing.assert_array_equal(a.particles, b.particles)
    np.testing.assert_array_equal(a.parameters, b.parameters[None])
    np.testing.assert_array_equal(a.history["risk"], b.history["risk"][:, None])


def test_tasks_of_the_callers_choice():
    task = np.array([4, 4, 4, 0, 1, 2], np.uint8)
    method = cbk.MultiTaskCBO(alpha=1e2, task=task)
    theta = NET.uniform(6, seed=1)
    result = cbk.train(NET, X, YS, method, theta=theta, epochs=1)
    points = cbk.consensus(theta, cbk.task_risks(NET, theta, X, YS), alpha=1e2).point
    moved = cbk.cbo_update(theta, points, diffusion=1.8**0.5, dt=0.2, task=task)
    np.testing.assert_array_equal(result.particles, moved)


@pytest.mark.parametrize("kind", ["values", "one output", "labels"])
def test_targets_and_predictions(kind):
    rng = np.random.default_rng(6)
    net = NET if kind == "one output" else TWO
    shape = (TASKS, SAMPLES) if kind == "labels" else (TASKS, SAMPLES, net.outputs)
    ys = rng.integers(0, 2, shape) if kind == "labels" else rng.normal(size=shape)
    states = []
    result = cbk.train(net, X, ys, cbk.MultiTaskCBO(particles=10), epochs=3, callback=states.append)
    assert result.parameters.shape == (TASKS, net.size)
    assert result.history["risk"].shape == result.history["ess"].shape == (3, TASKS)
    assert result.history["alpha"].shape == result.history["variance"].shape == (3,)
    outputs = result.predict(X)
    assert outputs.shape == (TASKS, SAMPLES, net.outputs)
    for t in range(TASKS):
        np.testing.assert_array_equal(outputs[t], cbk.forward(net, result.parameters, X)[t])
    np.testing.assert_array_equal(states[0].risk, result.history["risk"][0])
    np.testing.assert_array_equal(states[0].ess, result.history["ess"][0])
    assert states[2].point.shape == (TASKS, net.size)


def own_inputs(kind, dtype="float64"):
    """A network, and tasks with inputs of their own."""
    rng = np.random.default_rng(8)
    net = NET if kind == "one output" else TWO
    x = rng.random((TASKS, SAMPLES, 1)).astype(dtype)
    if kind == "labels":
        return net, x, rng.integers(0, 2, (TASKS, SAMPLES))
    shape = (TASKS, SAMPLES) if kind == "one output" else (TASKS, SAMPLES, 2)
    return net, x, rng.normal(size=shape).astype(dtype)


@pytest.mark.parametrize("kind", ["values", "one output", "labels"])
def test_tasks_with_inputs_of_their_own(kind, dtype):
    net, x, ys = own_inputs(kind, dtype)
    theta, loss = net.uniform(9, seed=2, dtype=dtype), "cross_entropy" if kind == "labels" else "mse"
    risks = cbk.task_risks(net, theta, x, ys, loss=loss)
    columns = [cbk.risk(net, theta, x[t], ys[t], loss=loss) for t in range(TASKS)]
    np.testing.assert_array_equal(risks, np.stack(columns, axis=1))
    truth = reference.task_risks(net, theta, x, ys, loss=loss)
    np.testing.assert_allclose(risks, truth, rtol=5e-6 if dtype == "float32" else 1e-12)

    method = cbk.MultiTaskCBO(particles=10, alpha=1e3)
    result = cbk.train(net, x, ys, method, epochs=3, batch_size=8, seed=4, dtype=dtype)
    theta, step = net.uniform(10, seed=4, dtype=dtype), 0
    for epoch in range(3):
        order = np.arange(SAMPLES)
        _cpu.permutation(order, SAMPLES, 4, epoch, 2)
        for start in range(0, SAMPLES, 8):
            rows = order[start : start + 8]
            risk = cbk.task_risks(net, theta, x[:, rows], np.ascontiguousarray(ys[:, rows]), loss=loss)
            points = cbk.consensus(theta, risk, alpha=1e3).point
            task = np.arange(10) // 2
            cbk.cbo_update(theta, points, diffusion=1.8**0.5, dt=0.2, seed=4, step=step, task=task, out=theta)
            step += 1
    np.testing.assert_array_equal(result.particles, theta)
    np.testing.assert_array_equal(result.parameters, points)
    own = [cbk.risk(net, points[t : t + 1], x[t], ys[t], loss=loss)[0] for t in range(TASKS)]
    np.testing.assert_array_equal(result.history["risk"][-1], own)

    outputs = result.predict(x)
    assert outputs.shape == (TASKS, SAMPLES, net.outputs)
    for t in range(TASKS):
        np.testing.assert_array_equal(outputs[t], cbk.forward(net, points[t : t + 1], x[t])[0])
    assert result.predict(x[0]).shape == outputs.shape


@pytest.mark.parametrize("batch_size", [None, 8])
def test_the_same_inputs_for_every_task_are_shared_inputs(batch_size):
    x, ys = data("float64")
    arguments = {"epochs": 3, "batch_size": batch_size, "dtype": "float64"}
    shared = cbk.train(NET, x, ys, cbk.MultiTaskCBO(particles=10, alpha=10.0), **arguments)
    copies = np.broadcast_to(x, (TASKS, *x.shape))
    own = cbk.train(NET, copies, ys, cbk.MultiTaskCBO(particles=10, alpha=10.0), **arguments)
    np.testing.assert_allclose(own.particles, shared.particles, rtol=1e-9)
    np.testing.assert_allclose(own.history["risk"], shared.history["risk"], rtol=1e-9)


def test_own_inputs_resume_and_refuse(tmp_path):
    net, x, ys = own_inputs("one output")
    method, path = cbk.MultiTaskCBO(particles=5), tmp_path / "run"
    whole = cbk.train(net, x, ys, method, epochs=4, batch_size=8)
    cbk.train(net, x, ys, method, epochs=4, batch_size=8, checkpoint=path, callback=lambda s: s.epoch == 2)
    resumed = cbk.train(net, x, ys, method, epochs=4, batch_size=8, checkpoint=path, resume=True)
    np.testing.assert_array_equal(resumed.particles, whole.particles)
    with pytest.raises(ValueError, match=r"y must have shape \[5, 30\], got \[4, 30\]"):
        cbk.train(net, x, ys[:4], method)
    with pytest.raises(ValueError, match=r"x must have shape \[T, S, 1\], got \[5, 30, 2\]"):
        cbk.train(net, np.repeat(x, 2, axis=2), ys, method)
    with pytest.raises(ValueError, match=r"x must have shape \[S, 1\], got \[5, 30, 1\]"):
        cbk.train(net, x, ys[0], cbk.CBO())
    with pytest.raises(ValueError, match=r"x must have shape \[5, S, 1\], got \[4, 30, 1\]"):
        whole.predict(x[:4])
    with pytest.raises(ValueError, match=r"ys must have shape \[5, 30\], got \[30\]"):
        cbk.task_risks(net, whole.particles, x.astype("float32"), ys[0].astype("float32"))


def test_target_ess_is_solved_for_every_task():
    method = cbk.MultiTaskCBO(particles=40, alpha=cbk.TargetEss(0.25))
    history = cbk.train(NET, X, YS, method, epochs=3).history
    np.testing.assert_allclose(history["ess"], 10, rtol=1e-6)
    assert history["alpha"].shape == (3, TASKS)


@pytest.mark.parametrize(
    "method",
    [
        cbk.MultiTaskCBO(particles=10, particle_batch=6),
        cbk.MultiTaskCBO(particles=10, alpha=cbk.TargetEss(0.5), friction=0.5),
    ],
    ids=["batch", "target"],
)
def test_resumed_runs_have_the_same_bits(tmp_path, method, dtype):
    path = tmp_path / "run"
    arguments = {"epochs": 6, "batch_size": 8, "dtype": dtype}
    whole = cbk.train(NET, X, YS, method, **arguments)
    cbk.train(NET, X, YS, method, checkpoint=path, callback=lambda s: s.epoch == 2, **arguments)
    resumed = cbk.train(NET, X, YS, method, checkpoint=path, resume=True, **arguments)
    np.testing.assert_array_equal(resumed.particles, whole.particles)
    np.testing.assert_array_equal(resumed.parameters, whole.parameters)
    for name in ("risk", "ess", "alpha", "variance"):
        np.testing.assert_array_equal(resumed.history[name], whole.history[name])
    loaded = cbk.Result.load(path)
    np.testing.assert_array_equal(loaded.history["risk"], whole.history["risk"])
    np.testing.assert_array_equal(loaded.predict(X), whole.predict(X))


def test_another_task_is_another_configuration(tmp_path):
    path = tmp_path / "run"
    cbk.train(NET, X, YS, cbk.MultiTaskCBO(particles=6), epochs=2, checkpoint=path)
    other = cbk.MultiTaskCBO(particles=6, task=[0, 1, 2, 3, 4, 0])
    with pytest.raises(ValueError, match=r"MultiTaskCBO.task is None in the checkpoint and \(0, 1, 2"):
        cbk.train(NET, X, YS, other, epochs=2, checkpoint=path, resume=True)


def test_progress_and_plot(capfd):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    result = cbk.train(NET, X, YS, cbk.MultiTaskCBO(particles=5), epochs=2, progress=True)
    assert "2/2" in capfd.readouterr().err
    assert len(result.plot().lines) == TASKS
    pyplot.close("all")
    assert "epochs=2" in repr(result)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cbk.MultiTaskCBO(task=[0.5]), TypeError, r"task must hold integers, got float64"),
        (lambda: cbk.MultiTaskCBO(task=3), TypeError, r"task must be an array"),
        (lambda: cbk.MultiTaskCBO(task=[[0]]), ValueError, r"task must have shape \[N\], got \[1, 1\]"),
        (lambda: cbk.MultiTaskCBO(task=[0, -1]), ValueError, r"task must hold integers in \[0, "),
        (
            lambda: run(cbk.MultiTaskCBO(particles=3, task=[0, 1, 5])),
            ValueError,
            r"task .* in \[0, 5\) .*got 5",
        ),
        (lambda: run(cbk.MultiTaskCBO(task=[0, 1])), ValueError, r"task must have shape \[200\], got \[2\]"),
        (lambda: run(ys=YS[0]), ValueError, r"y must have shape \[T, 30\], got \[30\]"),
        (lambda: run(ys=YS[:, 1:]), ValueError, r"y must have shape \[T, 30\], got \[5, 29\]"),
        (lambda: run(ys=YS[:0]), ValueError, r"y must have shape \[T, 30\]"),
        (lambda: run(cbk.CBO()), ValueError, r"y must have shape"),
        (
            lambda: cbk.minimize(np.sum, np.ones((3, 2)), cbk.MultiTaskCBO()),
            TypeError,
            r"method must be one that needs no network.*got MultiTaskCBO",
        ),
    ],
)
def test_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make()


def run(method=None, ys=YS):
    return cbk.train(NET, X, ys, method or cbk.MultiTaskCBO(), epochs=1)


@pytest.mark.slow
def test_learns_the_papers_hundred_sines():
    """One ensemble of 200, two particles per task [De Deyn, Herty, Samaey 2025, example 3]; with a quarter of
    the samples."""
    x = np.random.default_rng(0).random((2000, 1))
    ys = sine.truth(x[:, 0]) + np.linspace(-1, 1, 100)[:, None]
    risk = cbk.train(sine.NET, x, ys, cbk.MultiTaskCBO(), epochs=200, batch_size=200).history["risk"]
    assert np.median(risk[-1]) <= 6e-3
    assert risk[-1].max() <= 3e-2
