"""Validation, metrics, stopping and the best point of runs on a card, beside the CPU's."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from libraries import host, put

import cbokernels as cbk
from cbokernels import _records

NET = cbk.TwoLayer(2, 5, 1, "tanh")
CLASSES = cbk.TwoLayer(3, 4, 3)
rng = np.random.default_rng(1)
X, X_NEW = rng.normal(size=(23, 2)), rng.normal(size=(11, 2))
Y, Y_NEW = np.sin(X.sum(axis=1)), np.sin(X_NEW.sum(axis=1)) + 0.1
XC, XC_NEW = rng.normal(size=(23, 3)), rng.normal(size=(11, 3))
LABELS, LABELS_NEW = rng.integers(0, 3, 23), rng.integers(0, 3, 11)
METHOD = cbk.CBO(6, alpha=50.0, floor=0.5)
METHODS = {
    "cbo": METHOD,
    "hopping": cbk.ConsensusHopping(10),
    "transport": cbk.TransportCBO(6, alpha=5.0, diffusion=0.3),
    "adam": cbk.Adam(3),
    "heavy ball": cbk.HeavyBall(particles=2),
}


def run(method=METHOD, device="cuda", x=X, y=Y, net=NET, epochs=11, **keywords):
    keywords = {"batch_size": 9, "dtype": "float64", "seed": 3, **keywords}
    return cbk.train(net, x, y, method, device=device, epochs=epochs, **keywords)


@pytest.mark.parametrize("name", METHODS)
def test_each_epochs_point_is_evaluated_though_others_are_on_their_way(cuda, name):
    asked = {"validation": (X_NEW, Y_NEW), "metrics": ("mae", "r2")}
    result, expected = (run(METHODS[name], device, **asked) for device in ("cuda", "cpu"))
    assert list(result.history) == list(expected.history)
    for column in ("validation_risk", "mae", "validation_mae", "r2", "validation_r2"):
        np.testing.assert_allclose(
            result.history[column], expected.history[column], rtol=1e-8, err_msg=column
        )
    assert result.best_epoch == expected.best_epoch
    np.testing.assert_allclose(result.best, expected.best, rtol=1e-8)
    np.testing.assert_array_equal(result.best, run(METHODS[name], epochs=result.best_epoch).parameters)


def test_it_is_the_kernels_risk(cuda):
    result = run(validation=(X_NEW, Y_NEW))
    theta, x, y = put(result.parameters[None].copy()), put(X_NEW), put(Y_NEW)
    assert result.history["validation_risk"][-1] == host(cbk.risk(NET, theta, x, y))[0]


@pytest.mark.parametrize("where", [lambda a: a, put], ids=["host", "card"])
@pytest.mark.parametrize("of_run", [lambda a: a, put], ids=["host", "card"])
def test_labels_wherever_they_lie(cuda, where, of_run):
    result = cbk.train(
        CLASSES, of_run(XC), of_run(LABELS), METHOD, epochs=3, dtype="float64", device="cuda",
        validation=(where(XC_NEW), where(LABELS_NEW)), metrics=("accuracy", {"n": lambda y, o: len(y)}),
    )  # fmt: skip
    for column, x, y in (("accuracy", XC, LABELS), ("validation_accuracy", XC_NEW, LABELS_NEW)):
        assert result.history[column][-1] == np.mean(result.predict(x).argmax(axis=1) == y)
    assert (result.history["n"][0], result.history["validation_n"][0]) == (23, 11)
    risk = cbk.risk(CLASSES, result.parameters[None], XC_NEW, LABELS_NEW, loss="cross_entropy")[0]
    np.testing.assert_allclose(result.history["validation_risk"][-1], risk, rtol=1e-12)


@pytest.mark.parametrize("own", [False, True])
def test_tasks(cuda, own):
    ys, ys_new = np.stack([Y, Y**2, -Y]), np.stack([Y_NEW, Y_NEW**2, -Y_NEW])
    x_new = np.stack([X_NEW, 2 * X_NEW, -X_NEW]) if own else X_NEW
    asked = {"validation": (x_new, ys_new), "metrics": "mae", "every_epochs": 2, "y": ys}
    method = cbk.MultiTaskCBO(9, alpha=5.0)
    result, expected = (run(method, device, epochs=4, **asked) for device in ("cuda", "cpu"))
    for column in ("validation_risk", "mae", "validation_mae"):
        np.testing.assert_allclose(
            result.history[column], expected.history[column], rtol=1e-8, err_msg=column
        )
    assert result.best_epoch == expected.best_epoch
    np.testing.assert_allclose(result.best, expected.best, rtol=1e-8)


@pytest.mark.parametrize(
    "asked", [{}, {"validation": (X_NEW, Y_NEW)}, {"validation": (X_NEW, Y_NEW), "every_epochs": 2}], ids=len
)
def test_runs_stop_at_the_epoch_that_says_so(cuda, asked):
    risks = run(epochs=14, **asked).history["validation_risk" if asked else "risk"]
    known = np.isfinite(risks)
    target = np.nanmin(risks[: len(risks) // 2]) * (1 + 1e-9)  # for the CPU's sums too
    for limits in ({"target": target}, {"patience": 2, "tolerance": 1e-3}):
        result = run(epochs=14, **asked, **limits)
        assert result.stopped in limits
        assert result.nit < 14
        assert known[result.nit - 1]
        np.testing.assert_array_equal(result.history["risk"], run(epochs=result.nit).history["risk"])
        np.testing.assert_array_equal(result.particles, run(epochs=result.nit).particles)
        expected = run(device="cpu", epochs=14, **asked, **limits)
        assert (result.nit, result.stopped, result.best_epoch) == (
            expected.nit, expected.stopped, expected.best_epoch,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["cbo", "adam"])
def test_resumed_runs_stop_where_whole_ones_do(cuda, tmp_path, name):
    path = tmp_path / "run"
    asked = {"validation": (X_NEW, Y_NEW), "patience": 3, "tolerance": 1e-2, "metrics": "mae"}
    whole = run(METHODS[name], epochs=16, **asked)
    for epochs in (2, 5, 16, 16):
        part = run(METHODS[name], epochs=epochs, checkpoint=path, resume=True, **asked)
    for field in ("best_risk", "best_epoch", "stopped", "message", "nit"):
        assert getattr(part, field) == getattr(whole, field)
    np.testing.assert_array_equal(part.best, whole.best)
    np.testing.assert_array_equal(part.particles, whole.particles)
    for column in whole.history.keys() - {"seconds"}:
        np.testing.assert_array_equal(part.history[column], whole.history[column])


def test_ctrl_c_returns_the_epochs_that_are_done(cuda):
    def look(state):
        if state.epoch == 4:
            os.kill(os.getpid(), signal.SIGINT)

    result = run(callback=look, on_interrupt="return")
    assert (result.nit, result.stopped) == (4, "interrupt")
    np.testing.assert_array_equal(result.particles, run(epochs=4).particles)

    def dt(epoch, epochs):
        if epoch == 10:
            raise KeyboardInterrupt
        return 0.1

    method = cbk.CBO(6, alpha=50.0, floor=0.5, dt=dt)
    result = run(
        method, epochs=20, on_interrupt="return", validation=(X_NEW, Y_NEW)
    )  # with epochs on their way
    assert result.nit == 10
    expected = run(epochs=10, validation=(X_NEW, Y_NEW))
    np.testing.assert_array_equal(result.particles, expected.particles)
    np.testing.assert_array_equal(result.history["validation_risk"], expected.history["validation_risk"])
    np.testing.assert_array_equal(result.best, expected.best)


def test_resumed_prices_of_any_size_count(cuda, tmp_path):
    path, method = tmp_path / "run", METHODS["transport"]
    whole = run(method, epochs=8)
    run(method, epochs=3, checkpoint=path)
    *_, (header, arrays) = _records.records(path)
    arrays["state.prices"] = np.full_like(arrays["state.prices"], 1e300)
    with open(path, "wb") as file:
        _records.write_record(file, header, arrays)
    resumed = run(method, epochs=8, checkpoint=path, resume=True)
    np.testing.assert_array_equal(resumed.particles, whole.particles)
    np.testing.assert_array_equal(resumed.best, whole.best)
    assert (resumed.best_epoch, resumed.message) == (whole.best_epoch, whole.message)


def test_the_data_are_sent_once(emulated, monkeypatch):
    sent = []

    def count(address, values, on):
        sent.append(values.shape)
        emulated.module.write_memory(address, values, on)

    monkeypatch.setattr(emulated, "write_memory", count, raising=False)
    run(validation=(X_NEW, Y_NEW), metrics="mae", epochs=5)
    points = [shape for shape in sent if shape == (NET.size,)]
    assert sorted(set(sent) - {(NET.size,)}) == [(1, 11, 1), (1, 23, 1), (11, 2), (23, 2)]
    assert len(sent) == 4 + len(points)


def test_the_error_of_a_metric_is_the_runs(cuda, tmp_path):
    def fails(y, outputs):
        calls.append(len(y))
        if len(calls) == 3:
            raise ZeroDivisionError("mine")
        return 1 / (len(calls) < 3)

    calls = []
    with pytest.raises(ZeroDivisionError, match="mine") as error:
        run(metrics={"mine": fails}, checkpoint=tmp_path / "run")
    assert error.value.__context__ is None
