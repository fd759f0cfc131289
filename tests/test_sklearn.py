"""scikit-learn's own checks of estimators, and its tools around them."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest

import cbokernels as cbk

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from sklearn import base, datasets
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from cbokernels.sklearn import CBOClassifier, CBORegressor

METHODS = ["adam", "hopping", "hybrid", "cbo"]
CHECKED = [
    *(CBOClassifier(method, width=20, num_threads=1) for method in ("adam", "hybrid")),
    *(CBORegressor(method, width=20, num_threads=1) for method in ("adam", "hopping")),
    CBOClassifier(ensemble=3, width=10, early_stopping=True, validation_fraction=0.3),
    CBORegressor(cbk.ConsensusHopping(particles=20), width=10, early_stopping=True),
]
# The checks are of what estimators do around the training, which is the same for all methods.
OTHERS = [
    *(CBOClassifier(method, width=20, num_threads=1) for method in ("hopping", "cbo")),
    *(CBORegressor(method, width=20, num_threads=1) for method in ("hybrid", "cbo")),
]


@pytest.fixture(autouse=True)
def quiet():
    """A collapsed ensemble is no concern of these tests, most of which train on a handful of samples."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "epoch .* the ensemble has collapsed", cbk.CboWarning)
        yield


@parametrize_with_checks(CHECKED)
def test_checks_of_scikit_learn(estimator, check):
    if check.func.__name__ == "check_sample_weight_equivalence_on_dense_data":
        # As for its own estimators that work on batches; test_weights_repeat_samples has what is left of it.
        pytest.xfail(
            "batches hold so many samples, whatever these weigh, and risks of float32 round differently"
        )
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(OTHERS)
def test_checks_of_scikit_learn_with_other_methods(estimator, check):
    test_checks_of_scikit_learn(estimator, check)


def split(load, seed=0):
    x, y = load(return_X_y=True)
    return train_test_split(x, y, test_size=0.25, random_state=seed)


@pytest.mark.parametrize("method", METHODS)
def test_regression_is_as_good_as_a_linear_model(method):
    x, x_new, y, y_new = split(datasets.load_diabetes)
    score = CBORegressor(method, random_state=0).fit(x, y).score(x_new, y_new)
    assert score > Ridge().fit(x, y).score(x_new, y_new) - 0.05


@pytest.mark.parametrize(
    ("method", "load"),
    [
        *[(method, datasets.load_wine) for method in METHODS],
        *[(method, datasets.load_breast_cancer) for method in METHODS[:-1]],
        pytest.param(METHODS[-1], datasets.load_breast_cancer, marks=pytest.mark.slow),
    ],
)
def test_classification_is_as_good_as_a_linear_model(method, load):
    x, x_new, y, y_new = split(load)
    score = CBOClassifier(method, random_state=0).fit(x, y).score(x_new, y_new)
    linear = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)
    assert score > linear.score(x_new, y_new) - 0.05


def test_predictions_are_those_of_the_networks():
    """Means and standard deviations, from the plain formula of the reference."""
    x, x_new, y, _ = split(datasets.load_diabetes)
    model = CBORegressor(ensemble=5, width=9, activation="tanh", epochs=3, random_state=0).fit(x, y)
    assert model.net_ == cbk.TwoLayer(10, 9, 1, "tanh", scaling="none", output_bias=True)
    assert model.theta_.shape == (5, model.net_.size)
    scaled = (x_new - x.mean(axis=0)) / x.std(axis=0)
    each = y.mean() + y.std() * cbk.reference.forward(model.net_, model.theta_, scaled)[..., 0]
    mean, spread = model.predict(x_new, return_std=True)
    np.testing.assert_allclose(mean, each.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(spread, each.std(axis=0), rtol=1e-9)
    np.testing.assert_array_equal(model.predict(x_new), mean)
    assert spread.min() > 0


def test_probabilities_are_those_of_the_networks():
    x, x_new, y, _ = split(datasets.load_wine)
    model = CBOClassifier(ensemble=4, width=9, epochs=3, random_state=0).fit(x, y)
    scaled = (x_new - x.mean(axis=0)) / x.std(axis=0)
    outputs = np.exp(cbk.reference.forward(model.net_, model.theta_, scaled))
    each = outputs / outputs.sum(axis=-1, keepdims=True)
    mean, spread = model.predict_proba(x_new, return_std=True)
    np.testing.assert_allclose(mean, each.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(spread, each.std(axis=0), rtol=1e-8)
    np.testing.assert_array_equal(model.predict(x_new), mean.argmax(axis=1))


def test_an_ensemble_is_its_networks_alone():
    """Independent: the first of five is the one that is trained by itself."""
    x, x_new, y, _ = split(datasets.load_diabetes)
    many, one = (CBORegressor(ensemble=n, epochs=5, random_state=1).fit(x, y) for n in (5, 1))
    np.testing.assert_array_equal(many.theta_[0], one.theta_[0])
    assert len(np.unique(many.theta_[:, 0])) == 5
    many.set_params(ensemble=50).fit(x, y)
    assert many.predict(x_new, return_std=True)[1].shape == (len(x_new),)


def test_large_predictions_are_made_in_blocks(monkeypatch):
    x, _, y, _ = split(datasets.load_wine)
    model = CBOClassifier(ensemble=4, width=5, epochs=2, random_state=0).fit(x, y)
    whole = model.predict_proba(x)
    monkeypatch.setattr("cbokernels.sklearn._BLOCK", 7 * 4 * 3)
    np.testing.assert_allclose(model.predict_proba(x), whole, rtol=1e-12)


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["ham", "spam"]),
        np.array(["ham", "spam"], object),
        np.array([False, True]),
        np.array([-1, 7]),
    ],
)
def test_labels_of_any_kind(labels):
    x, x_new, y, y_new = split(datasets.load_breast_cancer)
    model = CBOClassifier(width=10, epochs=10, random_state=0).fit(x, labels[y])
    assert model.classes_.tolist() == labels.tolist()
    found = model.predict(x_new)
    assert found.dtype == labels.dtype
    assert (found == labels[y_new]).mean() > 0.9
    assert model.score(x_new, labels[y_new]) > 0.9
    np.testing.assert_allclose(model.predict_proba(x_new).sum(axis=1), 1)


def test_several_outputs():
    x, _, y, _ = split(datasets.load_diabetes)
    both = np.column_stack([y, -1000 * y + 5])
    model = CBORegressor(width=30, random_state=0).fit(x, both)
    found = model.predict(x)
    assert found.shape == both.shape
    assert model.score(x, both) > 0.5
    mean, spread = model.predict(x, return_std=True)
    assert mean.shape == spread.shape == both.shape
    # The second output is the first one turned around, a thousand times as wide.
    assert np.corrcoef(found.T)[0, 1] < -0.95


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(library):
    frames = pytest.importorskip(library, reason=f"{library} is not installed")
    x, x_new, y, _ = split(datasets.load_breast_cancer)
    names = [f"column {i}" for i in range(x.shape[1])]
    frame, other = (frames.DataFrame(dict(zip(names, part.T, strict=True))) for part in (x, x_new))
    labels = frames.Series(np.array(["no", "yes"])[y].tolist())
    found, plain = (
        CBOClassifier(width=8, epochs=3, random_state=0).fit(a, b) for a, b in ((frame, labels), (x, y))
    )
    assert found.feature_names_in_.tolist() == names
    np.testing.assert_array_equal(found.predict(other) == "yes", plain.predict(x_new) == 1)


@pytest.mark.parametrize("estimator", [CBOClassifier, CBORegressor])
@pytest.mark.parametrize("method", [*METHODS, cbk.Adam(lr=0.01), cbk.CBO(particles=20)])
def test_same_seed_same_bits(estimator, method):
    x, _, y, _ = split(datasets.load_wine)
    arguments = {"width": 5, "epochs": 3, "early_stopping": True}
    first, again, other = (
        estimator(method, random_state=seed, num_threads=n, **arguments).fit(x, y).theta_
        for seed, n in ((3, 1), (3, 2), (4, 1))
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_clones_and_pickles():
    x, x_new, y, _ = split(datasets.load_wine)
    model = CBOClassifier(cbk.Hybrid(particles=10, mix=0.5), width=5, epochs=2, random_state=0).fit(x, y)
    found = pickle.loads(pickle.dumps(model)).predict_proba(x_new)
    np.testing.assert_array_equal(found, model.predict_proba(x_new))
    copy = base.clone(model)
    assert copy.method == model.method
    assert not hasattr(copy, "theta_")
    np.testing.assert_array_equal(copy.fit(x, y).theta_, model.theta_)


def test_parameters_of_the_method_are_set():
    model = CBORegressor("cbo").set_params(method__dt=0.2, width=7)
    assert model.width == 7
    assert isinstance(model.method, cbk.CBO)
    assert (model.method.dt, model.method.alpha) == (0.2, np.inf)  # the others are those that the name means
    given = cbk.Adam(lr=0.01)
    model = CBORegressor(given).set_params(method__beta1=0.5)
    assert model.method == cbk.Adam(lr=0.01, beta1=0.5)
    assert given.beta1 == 0.9
    assert CBORegressor().set_params(method="hopping", method__particles=6).method.particles == 6
    assert CBORegressor(given).get_params()["method__beta1"] == 0.9
    with pytest.raises(ValueError, match=r"parameters of Adam must be some of .* got 'alpha'"):
        CBORegressor("adam").set_params(method__alpha=1.0)
    with pytest.raises(ValueError, match="Invalid parameter 'lr'"):
        CBORegressor("adam").set_params(lr=1.0)


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_grid_search_in_a_pipeline_with_two_workers(backend):
    """Processes that start after kernels have run on several threads here, and then run them there."""
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    x, _, y, _ = split(datasets.load_breast_cancer)
    CBOClassifier(width=4, epochs=1, num_threads=2).fit(x, y)
    steps = make_pipeline(
        StandardScaler(), CBOClassifier("cbo", width=4, epochs=3, random_state=0, num_threads=1)
    )
    grid = {"cboclassifier__method__alpha": [10.0, 1e5], "cboclassifier__width": [3, 5]}
    searches = []
    for jobs in (1, 2):
        with joblib.parallel_config(backend=backend if jobs == 2 else "sequential"):
            searches.append(GridSearchCV(steps, grid, n_jobs=jobs, cv=2).fit(x, y))
    one, two = (search.cv_results_ for search in searches)
    assert one["params"] == two["params"]
    np.testing.assert_array_equal(one["mean_test_score"], two["mean_test_score"])
    assert len(np.unique(one["mean_test_score"])) > 1
    best = searches[1].best_estimator_[-1]
    assert best.method_.alpha == searches[1].best_params_["cboclassifier__method__alpha"]


def test_cross_validation_with_two_processes():
    x, y = datasets.load_diabetes(return_X_y=True)
    model = CBORegressor(epochs=20, random_state=0)
    np.testing.assert_array_equal(cross_val_score(model, x, y, n_jobs=2), cross_val_score(model, x, y))


def test_early_stopping_keeps_each_networks_best():
    x, _, y, _ = split(datasets.load_diabetes)
    arguments = {
        "ensemble": 4,
        "width": 50,
        "random_state": 0,
        "early_stopping": True,
        "validation_fraction": 0.3,
    }
    method = cbk.Adam(lr=0.02)
    model = CBORegressor(method, epochs=400, n_iter_no_change=5, **arguments).fit(x, y)
    assert model.n_iter_ == len(model.loss_curve_) == len(model.validation_curve_) < 400
    # Which part was kept back follows from the seed. No epoch alone is better than what was kept of all.
    seed = int(np.random.RandomState(0).randint(2**31))
    scaled = ((x - x.mean(axis=0)) / x.std(axis=0)).astype("f4")
    targets = ((y - y.mean()) / y.std())[:, None]
    _, held, _, expected = train_test_split(scaled, targets, test_size=0.3, random_state=seed)
    risks = cbk.reference.risk(model.net_, model.theta_, held, expected)
    assert risks.mean() <= min(model.validation_curve_) + 1e-6
    runs = [
        CBORegressor(method, epochs=400, **{**arguments, "ensemble": n}, n_iter_no_change=400) for n in (4, 1)
    ]
    four, one = (run.fit(x, y).theta_[0] for run in runs)
    np.testing.assert_array_equal(four, one)  # a network's best epoch is its own


def test_without_early_stopping_all_epochs_are_done():
    x, _, y, _ = split(datasets.load_diabetes)
    model = CBORegressor(epochs=7).fit(x, y)
    assert model.n_iter_ == 7
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    assert not hasattr(model, "validation_curve_")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"method": "sgd"},
            ValueError,
            "method must be one of 'adam', 'hopping', 'hybrid', 'cbo', got 'sgd'",
        ),
        ({"method": 3}, TypeError, r"method must be a name \('adam', .*\) or a method .*, got 3"),
        ({"method": None}, TypeError, "method must be a name .* or a method .*, got None"),
        ({"method": cbk.Adam}, TypeError, "method must be a name .* or a method .*, got the class Adam"),
        (
            {"method": cbk.Adam(particles=3), "ensemble": 2},
            ValueError,
            "ensemble must be left out .*=3, got 2",
        ),
        ({"early_stopping": "yes"}, TypeError, "early_stopping must be True or False, got 'yes'"),
        ({"tol": "small"}, TypeError, "tol must be a real number, got 'small'"),
        ({"tol": -1.0}, ValueError, "tol must lie in"),
        ({"method": cbk.GradientFlow()}, ValueError, "method must be one of Adam, .*, got GradientFlow"),
        ({"method": "cbo", "ensemble": 2}, ValueError, "ensemble must be 1 for method 'cbo', got 2"),
        ({"ensemble": 0}, ValueError, "ensemble must be an integer in"),
        ({"width": 0}, ValueError, "width must be an integer in"),
        ({"activation": "swish"}, ValueError, "activation must be one of"),
        ({"activation": "sign"}, ValueError, "a gradient needs an activation among .*got 'sign'"),
        ({"activation": "step", "method": "hybrid"}, ValueError, "a gradient needs .*got 'step'"),
        ({"epochs": 0}, ValueError, "epochs must be an integer in"),
        ({"batch_size": "all"}, TypeError, "batch_size must be an integer"),
        ({"early_stopping": True, "n_iter_no_change": 0}, ValueError, "n_iter_no_change must be"),
    ],
)
def test_bad_parameters_are_named_by_fit(arguments, error, message):
    x, _, y, _ = split(datasets.load_wine)
    with pytest.raises(error, match=message):
        CBOClassifier(**arguments).fit(x, y)


@pytest.mark.parametrize("activation", ["sign", "step", "silu", "sin", "erf", "leaky_relu"])
def test_activations_are_learned_by_hopping(activation):
    x, other, y, answers = split(datasets.load_wine)
    model = CBOClassifier("hopping", activation=activation, epochs=40, random_state=0).fit(x, y)
    assert model.score(other, answers) > 0.9


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="y must have at least two classes, got one class"):
        CBOClassifier().fit(np.eye(4), np.ones(4, int))


def test_constant_columns_and_one_row_bring_no_advice_to_scale():
    x = np.full((30, 2), 0.1)  # whose mean is not exact
    CBORegressor(epochs=2, width=3).fit(x, np.linspace(0, 1, 30))
    CBORegressor(epochs=2, width=3).fit(np.array([[1e6, 3.0]]), [1.0])
