"""train's validation and metrics: what is evaluated, on which data, in which epochs."""

from __future__ import annotations

import numpy as np
import pytest

import cbokernels as cbk

NET = cbk.TwoLayer(2, 9, 1)
CLASSES = cbk.TwoLayer(3, 5, 4)
rng = np.random.default_rng(6)
X, X_NEW = rng.normal(size=(40, 2)), rng.normal(size=(23, 2))
Y, Y_NEW = np.sin(X.sum(axis=1)), np.sin(X_NEW.sum(axis=1)) + 0.1
XC, XC_NEW = rng.normal(size=(40, 3)), rng.normal(size=(23, 3))
LABELS, LABELS_NEW = XC.argmax(axis=1), rng.integers(0, 4, 23)


def points(method, net, x, y, epochs, **arguments):
    """The parameters after each epoch."""
    kept = []
    cbk.train(net, x, y, method, epochs=epochs, callback=lambda s: kept.append(s.point), **arguments)
    return kept


METHODS = {
    "cbo": cbk.CBO(particles=8, alpha=10.0),
    "hopping": cbk.ConsensusHopping(particles=8),
    "hybrid": cbk.Hybrid(particles=8),
    "transport": cbk.TransportCBO(particles=6, alpha=10.0),
    "adam": cbk.Adam(particles=3),
    "heavy ball": cbk.HeavyBall(particles=3),
    "flow": cbk.GradientFlow(particles=3),
}


@pytest.mark.parametrize("name", METHODS)
def test_validation_risk_is_the_risk_of_the_parameters_on_the_validation(name, dtype):
    result = cbk.train(
        NET, X, Y, METHODS[name], epochs=4, batch_size=15, dtype=dtype, validation=(X_NEW, Y_NEW)
    )
    x, y = X_NEW.astype(dtype), Y_NEW.astype(dtype)
    found = result.history["validation_risk"]
    assert found.dtype == np.float64
    assert found[-1] == cbk.risk(NET, result.parameters[None], x, y)[0]
    expected = [
        cbk.risk(NET, point[None], x, y)[0]
        for point in points(METHODS[name], NET, X, Y, 4, batch_size=15, dtype=dtype)
    ]
    assert found.tolist() == expected


@pytest.mark.parametrize("name", ["cbo", "adam", "hopping"])
def test_a_validation_changes_nothing_else(name):
    plain = cbk.train(NET, X, Y, METHODS[name], epochs=5, batch_size=15)
    seen = cbk.train(
        NET, X, Y, METHODS[name], epochs=5, batch_size=15, validation=(X_NEW, Y_NEW), metrics=("r2", "mae")
    )
    np.testing.assert_array_equal(seen.particles, plain.particles)
    for column in plain.history.keys() - {"seconds"}:
        np.testing.assert_array_equal(seen.history[column], plain.history[column])
    assert list(seen.history)[len(plain.history) :] == [
        "validation_risk", "r2", "validation_r2", "mae", "validation_mae",
    ]  # fmt: skip


def test_accuracy_is_numpys():
    result = cbk.train(
        CLASSES, XC, LABELS, METHODS["cbo"], epochs=5, metrics="accuracy", validation=(XC_NEW, LABELS_NEW)
    )
    kept = points(METHODS["cbo"], CLASSES, XC, LABELS, 5)
    for column, x, y in (("accuracy", XC, LABELS), ("validation_accuracy", XC_NEW, LABELS_NEW)):
        outputs = [cbk.forward(CLASSES, p[None], x.astype(np.float32))[0] for p in kept]
        expected = [np.mean(np.argmax(o, axis=1) == y) for o in outputs]
        assert result.history[column].tolist() == expected
        assert np.mean(result.predict(x).argmax(axis=1) == y) == result.history[column][-1]


def test_accuracy_of_indicators():
    indicators = np.eye(4)[LABELS]
    result = cbk.train(CLASSES, XC, indicators, METHODS["cbo"], epochs=2, metrics=["accuracy"])
    assert result.history["accuracy"][-1] == np.mean(result.predict(XC).argmax(axis=1) == LABELS)


def test_r2_and_mae_are_the_textbooks():
    y = np.stack([X[:, 0], np.full(40, 3.0), X.sum(axis=1) ** 2], axis=1)
    net = cbk.TwoLayer(2, 9, 3, output_bias=True)
    result = cbk.train(net, X, y, METHODS["cbo"], epochs=2, metrics=("r2", "mae"), dtype="float64")
    outputs = result.predict(X)
    residual = ((y - outputs) ** 2).sum(axis=0)
    total = ((y - y.mean(axis=0)) ** 2).sum(axis=0)
    expected = [1 - residual[0] / total[0], 0.0, 1 - residual[2] / total[2]]  # the second is constant
    assert result.history["r2"][-1] == pytest.approx(np.mean(expected), rel=1e-12)
    assert result.history["mae"][-1] == pytest.approx(np.abs(y - outputs).mean(), rel=1e-12)


def test_metrics_of_ones_own():
    seen = []

    def worst(y, outputs):
        seen.append((y, outputs.shape))
        return np.abs(y - outputs).max()

    result = cbk.train(
        NET, X, Y, METHODS["cbo"], epochs=2, metrics=({"worst": worst}, "mae"), validation=(X_NEW, Y_NEW)
    )
    assert [(y.shape, outputs) for y, outputs in seen[:2]] == [((40, 1), (40, 1)), ((23, 1), (23, 1))]
    assert not any(y.flags.writeable for y, _ in seen)
    expected = np.abs(Y_NEW.astype(np.float32) - result.predict(X_NEW)[:, 0]).max()
    assert result.history["validation_worst"][-1] == pytest.approx(expected, rel=1e-6)
    assert {"worst", "mae", "validation_mae"} <= result.history.keys()


def test_epochs_without_an_evaluation_are_nan():
    arguments = {"epochs": 7, "validation": (X_NEW, Y_NEW), "metrics": "mae"}
    every = cbk.train(NET, X, Y, METHODS["cbo"], **arguments)
    some = cbk.train(NET, X, Y, METHODS["cbo"], every_epochs=3, **arguments)
    np.testing.assert_array_equal(some.history["risk"], every.history["risk"])
    for column in ("validation_risk", "mae", "validation_mae"):
        expected = every.history[column].copy()
        expected[[0, 1, 3, 4, 6]] = np.nan
        np.testing.assert_array_equal(some.history[column], expected)


@pytest.mark.parametrize("own", [False, True])
def test_each_task_has_its_values(own):
    ys, ys_new = np.stack([Y, Y**2, -Y]), np.stack([Y_NEW, Y_NEW**2, -Y_NEW])
    x_new = np.stack([X_NEW, 2 * X_NEW, -X_NEW]) if own else X_NEW
    result = cbk.train(
        NET, X, ys, cbk.MultiTaskCBO(particles=9), epochs=3, metrics="mae", validation=(x_new, ys_new)
    )
    assert result.history["validation_risk"].shape == result.history["mae"].shape == (3, 3)
    outputs = result.predict(x_new.astype(np.float32))
    expected = ((ys_new[:, :, None].astype(np.float32) - outputs) ** 2).sum(axis=2).mean(axis=1)
    np.testing.assert_allclose(result.history["validation_risk"][-1], expected, rtol=1e-5)
    expected = np.abs(ys_new[:, :, None] - outputs).mean(axis=(1, 2))
    np.testing.assert_allclose(result.history["validation_mae"][-1], expected, rtol=1e-5)
    means = result.history["validation_risk"].mean(axis=1)
    assert (result.best_risk, result.best_epoch) == (means.min(), means.argmin() + 1)
    assert result.best.shape == (3, NET.size)


def test_an_axis_of_one_task_stays_one():
    result = cbk.train(
        NET,
        X,
        Y[None],
        cbk.MultiTaskCBO(particles=6),
        epochs=2,
        validation=(X_NEW, Y_NEW[None]),
        metrics="mae",
    )
    assert result.history["validation_risk"].shape == result.history["mae"].shape == (2, 1)


def test_what_a_callback_sees_of_them():
    states = []
    result = cbk.train(
        NET, X, Y, METHODS["cbo"], epochs=2, validation=(X_NEW, Y_NEW), metrics="mae", callback=states.append
    )
    for name in ("validation_risk", "mae", "validation_mae"):
        assert [s.metrics[name] for s in states] == result.history[name].tolist()
    assert "validation_risk=" in repr(states[0])


def test_arrays_that_change_later_are_not_the_validation():
    x, y = X_NEW.astype(np.float32), Y_NEW.astype(np.float32)

    def spoil(state):
        x[:], y[:] = 0, 0

    expected = cbk.train(NET, X, Y, METHODS["cbo"], epochs=3, validation=(X_NEW, Y_NEW))
    result = cbk.train(NET, X, Y, METHODS["cbo"], epochs=3, validation=(x, y), callback=spoil)
    np.testing.assert_array_equal(result.history["validation_risk"], expected.history["validation_risk"])


def test_resumed_runs_have_the_same_columns(tmp_path):
    path = tmp_path / "run"
    run = {
        "validation": (X_NEW, Y_NEW),
        "metrics": ("mae", {"largest": lambda y, o: o.max()}),
        "every_epochs": 2,
    }
    whole = cbk.train(NET, X, Y, METHODS["cbo"], epochs=8, **run)
    cbk.train(NET, X, Y, METHODS["cbo"], epochs=3, checkpoint=path, **run)
    resumed = cbk.train(NET, X, Y, METHODS["cbo"], epochs=8, checkpoint=path, resume=True, **run)
    assert list(resumed.history) == list(whole.history)
    for name in whole.history.keys() - {"seconds"}:
        np.testing.assert_array_equal(resumed.history[name], whole.history[name])
    np.testing.assert_array_equal(resumed.best, whole.best)
    for change, message in (
        ({"validation": (X_NEW + 1, Y_NEW)}, r"validation x is .* now"),
        ({"validation": None}, r"validation x is .* absent now"),
        ({"metrics": "mae"}, r"metrics is mae, largest in the checkpoint and mae now"),
        ({"every_epochs": 1}, r"every_epochs is 2 in the checkpoint and 1 now"),
    ):
        with pytest.raises(ValueError, match=message):
            cbk.train(NET, X, Y, METHODS["cbo"], epochs=9, checkpoint=path, resume=True, **{**run, **change})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"validation": X}, TypeError, r"validation must be a pair \(x, y\), got numpy.ndarray$"),
        ({"validation": (X,)}, TypeError, r"validation must be a pair \(x, y\), got tuple of 1$"),
        (
            {"validation": (X[:, :1], Y)},
            ValueError,
            r"validation\[0\] must have shape \[S, 2\], got \[40, 1\]",
        ),
        ({"validation": (X, Y[:3])}, ValueError, r"validation\[1\] must have shape \[40\], got \[3\]"),
        ({"validation": (X * np.nan, Y)}, ValueError, r"validation\[0\] must be finite as float32"),
        ({"metrics": 3}, TypeError, r"metrics must be names, or a dict of names and functions, got 3"),
        ({"metrics": [3]}, TypeError, r"metrics must hold names and dicts of functions, got 3"),
        ({"metrics": "f1"}, ValueError, r"metrics must be among 'accuracy', 'r2', 'mae', got 'f1'"),
        ({"metrics": "accuracy"}, ValueError, r"metrics 'accuracy' expects labels, or several outputs"),
        ({"metrics": {"risk": min}}, ValueError, r"names of their own, got 'risk', which is taken"),
        ({"metrics": {"validation_x": min}}, ValueError, r"got 'validation_x', which is taken"),
        ({"metrics": ("mae", "mae")}, ValueError, r"got 'mae', which is taken"),
        ({"metrics": {"mine": 3}}, TypeError, r"metrics must map names to functions, got 'mine': 3"),
        (
            {"metrics": {"mine": lambda y, o: "a"}},
            TypeError,
            r"metric 'mine' must return a real number, got str",
        ),
        ({"metrics": {"mine": lambda y, o: o}}, TypeError, r"metric 'mine' must return a real number"),
        ({"metrics": "mae", "every_epochs": 0}, ValueError, r"every_epochs must be an integer in \[1"),
        (
            {"metrics": "mae", "every_epochs": 3},
            ValueError,
            r"every_epochs must be at most the 2 epochs, got 3",
        ),
    ],
)
def test_bad_arguments(change, error, message):
    with pytest.raises(error, match=message):
        cbk.train(NET, X, Y, METHODS["cbo"], epochs=2, **change)


def test_bad_arguments_of_labels_and_tasks():
    with pytest.raises(ValueError, match=r"metrics 'mae' expects values, got labels"):
        cbk.train(CLASSES, XC, LABELS, METHODS["cbo"], epochs=1, metrics="mae")
    with pytest.raises(ValueError, match=r"validation\[1\] must hold integers in \[0, 4\)"):
        cbk.train(CLASSES, XC, LABELS, METHODS["cbo"], epochs=1, validation=(XC, LABELS + 4))
    with pytest.raises(ValueError, match=r"validation\[1\] must have 2 tasks as y has, got 3"):
        cbk.train(
            NET, X, np.stack([Y, Y]), cbk.MultiTaskCBO(particles=6), epochs=1,
            validation=(X, np.stack([Y, Y, Y])),
        )  # fmt: skip


def test_the_bar_shows_the_watched_risk(capfd):
    result = cbk.train(NET, X, Y, METHODS["cbo"], epochs=3, validation=(X_NEW, Y_NEW), progress=True)
    assert f"risk {result.history['validation_risk'][-1]:.3g}," in capfd.readouterr().err
