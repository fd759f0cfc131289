"""What stops a run, what it says of that, and the best point; resumed runs stop where whole ones do."""

from __future__ import annotations

import os
import signal
import warnings

import faults
import numpy as np
import pytest
from faults import assert_same

import cbokernels as cbk
from cbokernels import _files, _records

NET = cbk.TwoLayer(2, 9, 1)
rng = np.random.default_rng(6)
X, X_NEW = rng.normal(size=(40, 2)), rng.normal(size=(23, 2))
Y, Y_NEW = np.sin(X.sum(axis=1)), np.sin(X_NEW.sum(axis=1)) + 0.1
METHOD = cbk.CBO(particles=20, alpha=50.0)


def train(method=METHOD, epochs=40, **arguments):
    return cbk.train(NET, X, Y, method, epochs=epochs, batch_size=15, **arguments)


def stalled(risks, patience, tolerance=0.0):
    """The epoch that ends a run with these risks by patience, in plain words; None: none does."""
    level, since = np.inf, 0
    for epoch, risk in enumerate(risks, 1):
        if risk < level - tolerance:
            level, since = risk, epoch
        elif epoch - since >= patience:
            return epoch
    return None


WHOLE = train()


def test_without_arguments_all_epochs_are_done():
    assert (WHOLE.stopped, WHOLE.message, WHOLE.success) == ("epochs", "all 40 epochs are done", True)
    risks = WHOLE.history["risk"]
    assert (WHOLE.best_risk, WHOLE.best_epoch) == (risks.min(), risks.argmin() + 1)
    assert WHOLE.best_epoch < 40  # or the next lines say nothing
    part = train(epochs=WHOLE.best_epoch)
    np.testing.assert_array_equal(WHOLE.best, part.parameters)
    np.testing.assert_array_equal(part.best, part.parameters)
    assert WHOLE.method == METHOD
    assert (WHOLE.nit, WHOLE.nfev, WHOLE.fun) == (40, 0, WHOLE.best_risk)
    assert WHOLE.x is WHOLE.best
    np.testing.assert_array_equal(WHOLE.predict(X, best=True), part.predict(X))
    assert f"best_epoch={WHOLE.best_epoch}, stopped='epochs'" in repr(WHOLE)


@pytest.mark.parametrize("at", [1, 7, 40])
def test_target_stops_at_the_first_epoch_that_reaches_it(at):
    lowest = np.minimum.accumulate(WHOLE.history["risk"])
    target = lowest[at - 1]
    expected = int(np.argmax(lowest <= target)) + 1
    result = train(target=target)
    assert (result.nit, result.stopped, result.success) == (expected, "target", True)
    assert result.message == f"the risk reached the target {target} in epoch {expected}"
    assert result.best_risk == target
    np.testing.assert_array_equal(result.particles, train(epochs=expected).particles)


def test_a_target_that_is_missed_is_no_success():
    result = train(target=WHOLE.best_risk / 2)
    assert (result.nit, result.stopped, result.success) == (40, "epochs", False)


@pytest.mark.parametrize(
    ("patience", "tolerance"), [(1, 0.0), (3, 0.0), (5, 0.0), (5, 0.01), (4, 1e9), (39, 0.0)]
)
def test_patience_stops_where_the_history_tells(patience, tolerance):
    expected = stalled(WHOLE.history["risk"], patience, tolerance)
    result = train(patience=patience, tolerance=tolerance)
    assert result.nit == expected or (expected is None and result.nit == 40)
    assert result.stopped == ("epochs" if expected is None else "patience")
    assert result.success
    np.testing.assert_array_equal(result.history["risk"], WHOLE.history["risk"][: result.nit])
    if expected:
        since = expected - patience
        assert result.message.endswith(f"more than {tolerance} for {patience} epochs, since epoch {since}")


def test_the_validation_is_watched_where_there_is_one():
    whole = train(validation=(X_NEW, Y_NEW))
    risks = whole.history["validation_risk"]
    assert (whole.best_risk, whole.best_epoch) == (risks.min(), risks.argmin() + 1)
    assert whole.best_epoch != WHOLE.best_epoch  # or it may be the training's
    np.testing.assert_array_equal(whole.best, train(epochs=whole.best_epoch).parameters)
    expected = stalled(risks, 4)
    result = train(validation=(X_NEW, Y_NEW), patience=4)
    assert (result.nit, result.stopped) == (expected, "patience")
    assert result.message.startswith("the validation risk has not fallen")


def test_patience_counts_epochs_where_some_are_not_evaluated():
    risks = train(validation=(X_NEW, Y_NEW)).history["validation_risk"]
    seen = {epoch: risks[epoch - 1] for epoch in range(3, 41, 3)}
    level, since = np.inf, 0
    for epoch, risk in seen.items():
        if risk < level:
            level, since = risk, epoch
        elif epoch - since >= 4:
            break
    result = train(validation=(X_NEW, Y_NEW), every_epochs=3, patience=4)
    assert (result.nit, result.stopped) == (epoch, "patience")
    assert result.message.endswith(f"by more than 0.0 for {epoch - since} epochs, since epoch {since}")
    best = min(seen, key=lambda e: seen[e] if e <= epoch else np.inf)
    assert (result.best_risk, result.best_epoch) == (seen[best], best)
    np.testing.assert_array_equal(result.best, train(epochs=best).parameters)


def stop(state):
    if state.epoch == 4:
        raise StopIteration


def test_a_callback_may_raise_stop_iteration():
    result = train(callback=stop)
    assert (result.nit, result.stopped) == (4, "callback")
    assert result.message == "the callback stopped the run after epoch 4"
    np.testing.assert_array_equal(result.particles, train(epochs=4).particles)
    assert cbk.minimize(faults.rastrigin, np.eye(3, 2), callback=stop).nit == 4


def test_a_stop_iteration_of_another_function_is_told():
    def ended(*_):
        return next(iter(()))

    for call in (
        lambda: cbk.minimize(ended, np.eye(3, 2), steps=2),
        lambda: train(loss=ended, method=cbk.CBO(particles=4)),
        lambda: train(method=cbk.CBO(particles=4, dt=ended)),
    ):
        with pytest.raises(cbk.CboError, match="schedule raised StopIteration, by which only a callback"):
            call()


def test_a_callback_that_says_neither_is_named():
    with pytest.raises(TypeError, match=r"callback must return what is true or false, got numpy.ndarray"):
        train(callback=lambda state: np.ones(3))


def test_metrics_and_weight_decay_of_none_are_left_out():
    result, plain = train(metrics=None, weight_decay=None), train()
    assert list(result.history) == list(plain.history)
    np.testing.assert_array_equal(result.particles, plain.particles)


@pytest.mark.filterwarnings("ignore:.*overflowed:cbokernels.CboWarning")
@pytest.mark.filterwarnings("ignore:.*NaN or infinite:cbokernels.CboWarning")
def test_a_risk_that_is_no_number_is_never_the_best():
    """Networks that blow up after a while."""
    method = cbk.Adam(lr=lambda epoch, epochs: 0.01 if epoch < 5 else 1e30)
    result = train(method, epochs=9)
    risks = result.history["risk"]
    assert not np.isfinite(risks[5:]).any()
    assert result.best_risk == risks[:5].min()
    assert np.isfinite(result.best).all()
    assert result.success
    assert "risks were NaN or infinite, in" in result.message
    result = train(method, epochs=9, target=-1.0, patience=3)
    assert (result.nit, result.stopped, result.success) == (result.best_epoch + 3, "patience", False)


@pytest.mark.filterwarnings("ignore:.*NaN or infinite:cbokernels.CboWarning")
def test_no_number_at_all():
    fun = lambda t: np.full(len(t), np.nan) if len(t) == 1 else np.arange(len(t), dtype=float)  # noqa: E731
    result = cbk.minimize(fun, np.eye(4, 2), cbk.CBO(alpha=1.0), steps=3, patience=2)
    assert (result.nit, result.stopped, result.success) == (2, "patience", False)
    assert np.isnan(result.best_risk)
    assert result.best_epoch == 0
    np.testing.assert_array_equal(result.best, result.parameters)


def test_minimize_says_what_scipy_does():
    calls = []

    def fun(theta):
        calls.append(len(theta))
        return (theta**2).sum(axis=1)

    theta = np.random.default_rng(0).uniform(-3, 3, (30, 3))
    whole = cbk.minimize(fun, theta, cbk.CBO(alpha=20.0), steps=60)
    assert whole.evaluations == whole.nfev == sum(calls)
    assert (whole.nit, whole.stopped, whole.message) == (60, "epochs", "all 60 steps are done")
    assert whole.fun == whole.history["risk"].min() == (whole.x**2).sum()
    assert whole.best_step == whole.history["risk"].argmin() + 1
    target = whole.history["risk"][20]
    expected = int(np.argmax(whole.history["risk"] <= target)) + 1
    result = cbk.minimize(fun, theta, cbk.CBO(alpha=20.0), steps=60, target=target)
    assert (result.nit, result.stopped) == (expected, "target")
    assert result.message == f"the risk reached the target {target} in step {expected}"
    result = cbk.minimize(fun, theta, cbk.CBO(alpha=20.0), steps=60, patience=3, tolerance=0.1)
    assert result.nit == stalled(whole.history["risk"], 3, 0.1)
    np.testing.assert_array_equal(result.history["risk"], whole.history["risk"][: result.nit])


def same_end(a, b):
    assert_same(a, b)
    np.testing.assert_array_equal(a.best, b.best)
    for name in ("best_risk", "best_epoch", "stopped", "message", "success", "evaluations"):
        assert getattr(a, name) == getattr(b, name)


@pytest.mark.parametrize("name", faults.CASES)
@pytest.mark.parametrize(
    "limits", [{}, {"patience": 6}, {"patience": 6, "tolerance": 0.05}, {"target": 0.9}], ids=str
)
def test_resumed_runs_stop_where_whole_ones_do(tmp_path, name, limits):
    """However often they are taken up; and when they have stopped, nothing more happens."""
    path = tmp_path / "run"
    whole = faults.run(name, epochs=30, **limits)
    for epochs in (4, 9, 30, 30):
        part = faults.run(name, epochs=epochs, checkpoint=path, resume=True, every=3, **limits)
    same_end(part, whole)
    loaded = cbk.Result.load(path)
    assert_same(loaded, whole)
    np.testing.assert_array_equal(loaded.best, whole.best)
    assert (loaded.best_risk, loaded.evaluations) == (whole.best_risk, whole.evaluations)
    assert loaded.stopped == "checkpoint"


def test_more_patience_goes_on(tmp_path):
    path = tmp_path / "run"
    first = train(checkpoint=path, patience=3)
    assert first.stopped == "patience"
    same_end(train(checkpoint=path, resume=True, patience=3), first)
    same_end(train(checkpoint=path, resume=True), WHOLE)


def test_resumed_prices_of_any_size_count(tmp_path):
    """A checkpoint's prices only tell an assignment where to start."""
    path = tmp_path / "run"
    whole = faults.run("transport", epochs=12)
    faults.run("transport", epochs=5, checkpoint=path)
    *_, (header, arrays) = _records.records(path)
    arrays["state.prices"] = np.full_like(arrays["state.prices"], 1e300)
    with open(path, "wb") as file:
        _records.write_record(file, header, arrays)
    same_end(faults.run("transport", epochs=12, checkpoint=path, resume=True), whole)


def test_checkpoints_of_before_there_was_a_best_point_are_refused(tmp_path):
    path = tmp_path / "run"
    train(epochs=3, checkpoint=path)
    *_, (header, arrays) = _records.records(path)
    del arrays["state.best"]
    with open(path, "wb") as file:
        _records.write_record(file, header, arrays)
    with pytest.raises(
        ValueError, match=r"is of an earlier version, which kept no best point: start the run anew"
    ):
        train(checkpoint=path, resume=True)
    loaded = cbk.Result.load(path)
    assert loaded.best_epoch == 0
    np.testing.assert_array_equal(loaded.best, loaded.parameters)


def test_saved_results_keep_it_and_former_files_load(tmp_path):
    path = tmp_path / "result"
    result = train(target=WHOLE.history["risk"][5])
    result.save(path)
    same_end(cbk.Result.load(path), result)
    header, arrays = _files.read_arrays(path)
    _files.write_arrays(path, {"net": header["net"]}, {n: a for n, a in arrays.items() if n != "best"})
    loaded = cbk.Result.load(path)
    assert_same(loaded, result)
    assert np.isnan(loaded.best_risk)
    np.testing.assert_array_equal(loaded.best, loaded.parameters)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stopped": 3}, "its stopped is 3"),
        ({"best_risk": "low"}, "its best_risk is 'low'"),
        ({"more": 1}, "more"),
    ],
)
def test_crafted_results_are_refused(tmp_path, change, message):
    path = tmp_path / "result"
    WHOLE.save(path)
    header, arrays = _files.read_arrays(path)
    _files.write_arrays(path, {"net": header["net"], "run": {**header["run"], **change}}, arrays)
    with pytest.raises(ValueError, match=f"must be a file written by cbokernels: .*{message}"):
        cbk.Result.load(path)


def interrupting(epoch):
    def look(state):
        if state.epoch == epoch:
            os.kill(os.getpid(), signal.SIGINT)

    return look


@pytest.mark.parametrize("name", faults.CASES)
def test_ctrl_c_returns_the_epochs_that_are_whole(tmp_path, name):
    result = faults.run(name, epochs=30, on_interrupt="return", callback=interrupting(6))
    assert (result.nit, result.stopped, result.success) == (6, "interrupt", False)
    assert result.message.startswith("Ctrl-C ended the run after")
    expected = faults.run(name, epochs=6)
    assert_same(result, expected)
    np.testing.assert_array_equal(result.best, expected.best)
    path = tmp_path / "run"
    saved = faults.run(name, epochs=30, on_interrupt="return", callback=interrupting(6), checkpoint=path)
    assert_same(saved, expected)
    same_end(faults.run(name, epochs=9, checkpoint=path, resume=True), faults.run(name, epochs=9))


def test_ctrl_c_within_an_epoch_returns_the_one_before(tmp_path):
    calls = []

    def fun(theta):
        calls.append(len(theta))
        if len(calls) == 14:
            raise KeyboardInterrupt
        return faults.rastrigin(theta)

    theta = np.random.default_rng(0).uniform(-3, 3, (30, 3))
    method = cbk.CBO(alpha=1.0)  # two calls a step
    result = cbk.minimize(fun, theta, method, steps=20, on_interrupt="return")
    assert_same(result, cbk.minimize(faults.rastrigin, theta, method, steps=6))
    assert result.evaluations == 6 * 31
    calls[:] = [0] * 12
    with pytest.raises(KeyboardInterrupt):  # no step is whole
        cbk.minimize(fun, theta, method, steps=20, on_interrupt="return")
    path = tmp_path / "run"
    calls[:] = [0] * 20
    cbk.minimize(fun, theta, method, steps=5, checkpoint=path)
    calls[:] = [0] * 12
    resumed = cbk.minimize(fun, theta, method, steps=20, on_interrupt="return", checkpoint=path, resume=True)
    assert_same(resumed, cbk.minimize(faults.rastrigin, theta, method, steps=5))


def test_ctrl_c_raises_where_nothing_else_is_asked_for():
    with pytest.raises(KeyboardInterrupt):
        train(callback=interrupting(3))


def test_thirty_runs_that_collapse_are_told_of_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        results = [train(cbk.CBO(particles=20, diffusion=0.3), 400, seed=seed) for seed in range(5)]
    assert len(caught) == 1
    assert sum("the ensemble had collapsed in epoch" in r.message for r in results) > 1


def test_predict_all_tells_of_every_network():
    result = train(cbk.Adam(particles=3), 3)
    outputs = result.predict_all(X)
    assert outputs.shape == (3, 40, 1)
    np.testing.assert_array_equal(outputs[0], result.predict(X))
    np.testing.assert_array_equal(outputs, cbk.forward(NET, result.particles, X.astype(np.float32)))
    with pytest.raises(ValueError, match="predict_all expects the result of training a network"):
        cbk.minimize(faults.rastrigin, np.eye(3, 2), steps=1).predict_all(X)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"target": "low"}, TypeError, r"target must be a real number, got 'low'"),
        ({"target": np.nan}, ValueError, r"target must lie in"),
        ({"patience": 0}, ValueError, r"patience must be an integer in \[1"),
        ({"patience": 2.0}, TypeError, r"patience must be an integer"),
        ({"tolerance": -1.0}, ValueError, r"tolerance must lie in \[0, inf\), got -1.0"),
        ({"on_interrupt": "stop"}, ValueError, r"on_interrupt must be one of 'raise', 'return', got 'stop'"),
    ],
)
def test_bad_arguments(change, error, message):
    with pytest.raises(error, match=message):
        train(**change)
    with pytest.raises(error, match=message):
        cbk.minimize(faults.rastrigin, np.eye(3, 2), **change)
