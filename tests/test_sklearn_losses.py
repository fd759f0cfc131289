"""Weights and losses of scikit-learn's estimators."""

from __future__ import annotations

import numpy as np
import pytest

import cbokernels as cbk

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from sklearn import base, datasets
from test_sklearn import METHODS, quiet, split  # noqa: F401 - a fixture

from cbokernels.sklearn import CBOClassifier, CBORegressor


@pytest.mark.parametrize("method", METHODS)
def test_weights_repeat_samples(method):
    """Of one batch of all samples, weights are what repetition is, up to rounding."""
    x, _, y, _ = split(datasets.load_wine)
    weights = np.random.default_rng(3).integers(0, 4, len(x))
    repeated = np.repeat(np.arange(len(x)), weights)
    given = {"width": 5, "epochs": 3, "batch_size": None, "random_state": 0}
    for model, target in ((CBOClassifier, y), (CBORegressor, x[:, :2])):
        told = model(method, **given).fit(x, target, sample_weight=weights)
        plain = model(method, **given).fit(x[repeated], target[repeated])
        np.testing.assert_allclose(told.scaler_.mean_, plain.scaler_.mean_)
        np.testing.assert_allclose(told.loss_curve_, plain.loss_curve_, rtol=2e-3)
        assert not np.allclose(told.loss_curve_, model(method, **given).fit(x, target).loss_curve_, rtol=2e-3)


def test_weights_with_early_stopping():
    x, _, y, _ = split(datasets.load_wine)
    model = CBOClassifier(width=10, early_stopping=True, random_state=0)
    held = model.fit(x, y, sample_weight=np.where(y == 0, 1.0, 0.01)).validation_curve_
    assert held != model.fit(x, y).validation_curve_
    assert (model.fit(x, y, sample_weight=np.where(y == 0, 1.0, 1e-9)).predict(x) == 0).mean() > 0.5


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (np.zeros(133), ValueError, "must not be 0 everywhere|at least one non-zero number"),
        (-np.ones(133), ValueError, "sample_weight must be finite and not negative"),
        (np.ones(5), ValueError, "sample_weight"),
    ],
)
def test_wrong_weights(weights, error, message):
    x, _, y, _ = split(datasets.load_wine)
    with pytest.raises(error, match=message):
        CBOClassifier().fit(x, y, sample_weight=weights)


def test_quantiles():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (600, 1))
    y = 10 + 5 * x[:, 0] + rng.exponential(size=600)
    for q in (0.1, 0.9):
        model = CBORegressor(loss=cbk.Pinball(q), width=20, epochs=100, random_state=0).fit(x[:400], y[:400])
        assert (y[400:] < model.predict(x[400:])).mean() == pytest.approx(q, abs=0.07)


@pytest.mark.parametrize("loss", ["mae", "huber", cbk.Huber(0.5)], ids=repr)
def test_robust_losses_ignore_what_is_far_off(loss):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (200, 1))
    truth = np.sin(3 * x[:, 0])
    y = truth + 20 * (rng.random(200) < 0.1)
    errors = [
        np.abs(CBORegressor(loss=given, width=20, random_state=0).fit(x, y).predict(x) - truth).mean()
        for given in (loss, None)
    ]
    assert errors[0] < errors[1] / 2


def test_losses_of_labels():
    x, x_new, y, y_new = split(datasets.load_wine)
    hinge = CBOClassifier(loss="hinge", width=20, random_state=0).fit(x, y)
    assert hinge.score(x_new, y_new) > 0.9
    assert not hasattr(hinge, "predict_proba")
    assert hasattr(CBOClassifier(), "predict_proba")
    counted = CBOClassifier("hopping", loss="zero_one", width=20, epochs=20, random_state=0).fit(x, y)
    assert counted.score(x_new, y_new) > 0.8
    assert counted.loss_curve_[-1] == pytest.approx(1 - counted.score(x, y))


def test_losses_of_ones_own():
    def brier(outputs, labels):
        likely = np.exp(outputs - outputs.max(axis=2, keepdims=True))
        likely /= likely.sum(axis=2, keepdims=True)
        likely[:, np.arange(len(labels)), labels] -= 1
        return (likely**2).sum(axis=2).mean(axis=1, dtype=float)

    x, x_new, y, y_new = split(datasets.load_wine)
    model = CBOClassifier("hopping", loss=brier, width=20, epochs=25, random_state=0)
    assert model.fit(x, y).score(x_new, y_new) > 0.8
    assert not hasattr(model, "predict_proba")
    assert base.clone(model).loss is brier
    model.set_params(epochs=2, early_stopping=True)
    assert len(model.fit(x, y).validation_curve_) == 2


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (CBOClassifier(loss="mse"), ValueError, "loss must be one of labels for CBOClassifier, .* got 'mse'"),
        (CBORegressor(loss="hinge"), ValueError, "loss must be one of values for CBORegressor, .* 'hinge'"),
        (CBORegressor(loss="l1"), ValueError, "loss must be one of 'mse'"),
        (CBORegressor(loss=3), TypeError, "loss must be one of 'mse'.* got 3"),
        (CBOClassifier(loss="logistic"), ValueError, "loss must be 'cross_entropy' .* the same model"),
        (CBOClassifier(loss="zero_one"), ValueError, "a gradient needs a loss"),
    ],
    ids=repr,
)
def test_wrong_losses(model, error, message):
    x, _, y, _ = split(datasets.load_wine)
    with pytest.raises(error, match=message):
        model.fit(x, y)
