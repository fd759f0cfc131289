"""Lists, frames, narrow and integer arrays, labels and columns: what people have, and what they are told."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels._inputs import readable
from cbokernels.cbx import objective

RNG = np.random.default_rng(3)
X = RNG.integers(-3, 4, (24, 3)).astype(float)  # exact in every dtype below
VALUES = RNG.integers(-2, 3, 24).astype(float)
LABELS = np.arange(24) % 2
NET, TWO = cbk.TwoLayer(3, 4, activation="tanh"), cbk.TwoLayer(3, 4, 2, "tanh")
PAIR = cbk.TwoLayer(2, 3, 2)
FRAMES = ["pandas", "polars"]


def trained(net, x, y, **arguments):
    method = cbk.CBO(particles=6)
    return cbk.train(net, x, y, method, epochs=3, batch_size=8, **{"loss": "mse", **arguments}).particles


def labelled(x, y):
    return trained(TWO, x, y, loss=None)


def frame_of(library, columns):
    return pytest.importorskip(library, reason=f"{library} is not installed").DataFrame(columns)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int8", "int64", ">f8"])
def test_x_and_values_of_any_real_dtype(kind):
    expected = trained(NET, X, VALUES)
    np.testing.assert_array_equal(trained(NET, X.astype(kind), VALUES.astype(kind)), expected)


def test_booleans_are_inputs_and_values():
    flags = X > 0
    expected = trained(NET, flags.astype(float), flags[:, 0].astype(float))
    np.testing.assert_array_equal(trained(NET, flags, flags[:, 0]), expected)


def test_lists_and_tuples():
    expected = trained(NET, X, VALUES)
    np.testing.assert_array_equal(trained(NET, X.tolist(), VALUES.tolist()), expected)
    np.testing.assert_array_equal(trained(NET, tuple(map(tuple, X)), tuple(VALUES)), expected)
    np.testing.assert_array_equal(labelled(X.tolist(), LABELS.tolist()), labelled(X, LABELS))


@pytest.mark.parametrize("library", FRAMES)
def test_frames(library, tmp_path):
    frame = frame_of(
        library, {"a": X[:, 0], "b": X[:, 1].astype(int), "c": X[:, 2], "y": VALUES, "l": LABELS}
    )
    expected = trained(NET, X, VALUES)
    inputs = frame[["a", "b", "c"]]
    np.testing.assert_array_equal(trained(NET, inputs, frame["y"]), expected)
    np.testing.assert_array_equal(trained(NET, inputs, frame[["y"]]), expected)
    np.testing.assert_array_equal(labelled(inputs, frame["l"]), labelled(X, LABELS))
    saved = trained(NET, inputs, frame["y"], checkpoint=tmp_path / "run.cbk")
    np.testing.assert_array_equal(saved, expected)
    other = {"validation": (inputs, frame["y"]), "metrics": ["r2", "mae"]}
    result = cbk.train(NET, X, VALUES, cbk.CBO(particles=6), epochs=1, **other)
    same = cbk.train(NET, X, VALUES, cbk.CBO(particles=6), epochs=1, validation=(X, VALUES), metrics=["r2"])
    for name in ("validation_risk", "validation_r2"):
        np.testing.assert_array_equal(result.history[name], same.history[name])
    np.testing.assert_array_equal(result.predict(inputs), result.predict(X))
    np.testing.assert_array_equal(result.predict(X.tolist()), result.predict(X))


@pytest.mark.parametrize("library", FRAMES)
def test_frames_of_numbers_and_booleans(library):
    frame = frame_of(library, {"a": X[:, 0], "b": X[:, 1] > 0, "c": X[:, 2].astype(int)})
    expected = np.column_stack([X[:, 0], X[:, 1] > 0, X[:, 2]])
    np.testing.assert_array_equal(readable(frame, "x"), expected)
    assert readable(frame, "x").dtype == np.float64


@pytest.mark.parametrize("library", FRAMES)
def test_frames_that_hold_no_numbers_are_refused(library):
    frame = frame_of(library, {"a": [1.0, 2.0], "b": ["1.5", "tall"], "c": [0, 1]})
    with pytest.raises(TypeError, match=rf"x must hold numbers, got '1.5' in a {library}"):
        cbk.train(NET, frame, [0.0, 1.0], cbk.CBO())


def test_missing_values_are_told():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame({n: pandas.array([1, None, 3], dtype="Int64") for n in "abc"})
    with pytest.raises(ValueError, match=r"x must be finite as float32, got nan at \[1, 0\]"):
        cbk.train(NET, frame, [0.0, 1.0, 2.0], cbk.CBO())
    dates = pandas.DataFrame({"day": pandas.to_datetime(["2020-01-01"]), "size": [1.0]})
    with pytest.raises(TypeError, match=r"x must hold numbers, got Timestamp"):
        cbk.train(NET, dates, [0.0], cbk.CBO())


def test_ragged_lists_are_told():
    with pytest.raises(ValueError, match="x must have rows of equal length, got a ragged list"):
        cbk.train(NET, [[1.0, 2.0, 3.0], [1.0]], [0.0, 1.0], cbk.CBO())


def test_kernels_read_lists_and_frames_into_thetas_dtype(dtype):
    theta = NET.uniform(5, seed=1, dtype=dtype)
    expected = cbk.risk_gradient(NET, theta, X.astype(dtype), VALUES.astype(dtype))
    for library in [None, *FRAMES]:
        x, y = X.tolist(), VALUES.tolist()
        if library is not None:
            frame = frame_of(library, {"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "y": VALUES})
            x, y = frame[["a", "b", "c"]], frame["y"]
        for a, b in zip(cbk.risk_gradient(NET, theta, x, y), expected, strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(cbk.risk(NET, theta, x, y), expected[0], rtol=1e-6)
    two = TWO.uniform(5, seed=1, dtype=dtype)
    found = cbk.risk(TWO, two, X.tolist(), LABELS.tolist(), loss="cross_entropy")
    np.testing.assert_array_equal(found, cbk.risk(TWO, two, X.astype(dtype), LABELS, loss="cross_entropy"))
    np.testing.assert_array_equal(
        cbk.forward(NET, theta, X.tolist()), cbk.forward(NET, theta, X.astype(dtype))
    )
    ys = [VALUES.tolist(), X[:, 0].tolist()]
    expected = cbk.task_risks(NET, theta, X.astype(dtype), np.array(ys, dtype))
    np.testing.assert_array_equal(cbk.task_risks(NET, theta, X.tolist(), ys), expected)


def test_kernels_cast_no_arrays():
    theta = NET.uniform(5, seed=1)
    for kind in ("float16", "float64", "int64"):
        with pytest.raises(TypeError, match=f"x must be float32 as theta is, got {kind}"):
            cbk.risk(NET, theta, X.astype(kind), VALUES.astype("f4"))


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint8, np.uint64, np.int64, ">i4"])
def test_labels_of_any_integer_or_boolean_dtype(kind):
    labels = LABELS.astype(kind)
    np.testing.assert_array_equal(labelled(X, labels), labelled(X, LABELS))
    theta, x = TWO.uniform(5, seed=1), X.astype("f4")
    expected = cbk.reference.risk(TWO, theta.astype(float), X, LABELS, loss="cross_entropy")
    np.testing.assert_allclose(cbk.risk(TWO, theta, x, labels, loss="cross_entropy"), expected, rtol=1e-5)


def test_columns_are_no_tables_of_targets():
    """[S, 1] means [S], and never an outer difference [S, S]."""
    np.testing.assert_array_equal(trained(NET, X, VALUES[:, None]), trained(NET, X, VALUES))
    np.testing.assert_array_equal(labelled(X, LABELS[:, None]), labelled(X, LABELS))
    np.testing.assert_array_equal(trained(NET, X[:1], VALUES[:1, None]), trained(NET, X[:1], VALUES[:1]))
    np.testing.assert_array_equal(labelled(X[:1], LABELS[:1, None]), labelled(X[:1], LABELS[:1]))
    theta, x, two = NET.uniform(5, seed=1), X.astype("f4"), TWO.uniform(5, seed=1)
    expected = cbk.reference.risk(NET, theta.astype(float), X, VALUES)
    np.testing.assert_allclose(cbk.risk(NET, theta, x, VALUES[:, None].astype("f4")), expected, rtol=1e-5)
    expected = cbk.risk(TWO, two, x, LABELS, loss="cross_entropy")
    np.testing.assert_array_equal(cbk.risk(TWO, two, x, LABELS[:, None], loss="cross_entropy"), expected)
    for y in (VALUES[None], np.stack([VALUES, VALUES], 1)):
        with pytest.raises(ValueError, match=r"y must have shape \[24(, 1)?\], got"):
            trained(NET, X, y)
    with pytest.raises(
        ValueError, match=r"y must have shape \[24\], got int64 \[24, 2\]: integers are labels"
    ):
        labelled(X, np.stack([LABELS, LABELS], 1))


def test_a_column_of_labels_is_one_task_for_transport():
    method = cbk.TransportCBO(particles=5)
    a, b = (cbk.train(TWO, X, y, method, epochs=2).parameters for y in (LABELS, LABELS[:, None]))
    np.testing.assert_array_equal(a, b)


def test_float_labels_are_told_of_integers():
    theta, x = TWO.uniform(2, seed=0), X.astype("f4")
    for call in (
        lambda: trained(TWO, X, LABELS.astype(float), loss=None),
        lambda: cbk.risk(TWO, theta, x, LABELS.astype("f4")),
        lambda: cbk.risk_gradient(TWO, theta, x, LABELS.astype(float).tolist()),
    ):
        message = r"y must have shape \[24, 2\], or hold integers as labels for 'cross_entropy', got float"
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("y", [LABELS, LABELS > 0, 2 * LABELS - 1, np.arange(24) % 5, LABELS[:, None]])
def test_class_labels_of_one_output_are_told_of_two(y):
    message = r"y holds (integers|booleans).* outputs=2 .*cross_entropy.* loss='mse'"
    with pytest.warns(cbk.CboWarning, match=message) as w:
        warned = trained(NET, X, y, loss=None)
    assert len(w) == 1
    assert w[0].filename == __file__  # where `train` was called
    np.testing.assert_array_equal(warned, trained(NET, X, y))  # which says mse, and nothing is warned of


@pytest.mark.parametrize("y", [VALUES, VALUES.astype(int), 3 * LABELS, np.arange(24), LABELS + 1])
def test_other_integers_are_values(y):
    trained(NET, X, y, loss=None)


def changed(column, values):
    x = X / X.std(axis=0)
    x[:, column] = values
    return x


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (changed(1, 1000 * X[:, 1]), r"x is not scaled: column 1 of size 2.*divide them"),
        (1000 * X, r"x is not scaled: columns 0, 1, 2 of size"),
        (1e-5 * X, r"x is not scaled: no column is larger than 2.*e-05"),
        (changed(2, 5.0), r"x is all but constant in column 2, far from 0: .*left out"),
        (changed(0, 200 + 0.1 * X[:, 0]), r"x is all but constant in column 0"),
        (np.full((24, 3), 1e30), r"x is not scaled"),
    ],
)
def test_columns_that_are_not_scaled_are_told_once(x, message):
    with pytest.warns(cbk.CboWarning, match=message) as caught:
        trained(NET, x, VALUES)
    found = [w for w in caught if str(w.message).startswith("x is")]
    assert len(found) == 1
    assert found[0].filename == __file__


@pytest.mark.parametrize(
    ("size", "message"),
    [(1e200, r"columns 0, 1, 2 of size 1e\+200:"), (1e-200, r"no column is larger than 1e-200:")],
)
def test_sizes_whose_squares_are_no_numbers(size, message):
    with pytest.warns(cbk.CboWarning, match="x is not scaled: " + message):
        trained(NET, np.full((24, 3), size), VALUES, dtype="float64")


def test_targets_that_are_not_scaled_are_told():
    with pytest.warns(cbk.CboWarning, match=r"y is of size 1.*e\+03, which a network reaches slowly"):
        trained(NET, X, 1000 * VALUES)


@pytest.mark.parametrize(
    "x",
    [
        X,
        changed(0, 0.0),
        changed(0, 1.0),  # a column for the intercept
        RNG.integers(0, 256, (24, 3)).astype("uint8"),
        np.where(RNG.random((24, 3)) < 0.05, 1.0, 0.0),
        20 + X,
    ],
)
def test_nothing_is_said_of_columns_that_train(x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(NET, x, VALUES)


def test_integers_that_are_no_labels_are_told_of_floats():
    x, theta = np.random.default_rng(0).random((6, 2)).astype("f4"), PAIR.uniform(3, seed=0)
    hot = np.eye(2, dtype=int)[[0, 1, 0, 1, 1, 0]]

    def own(outputs, y):
        return ((outputs - y) ** 2).mean(axis=(1, 2))

    message = (
        r"y must have shape \[6\], got int64 \[6, 2\]: integers are labels, one a sample, for '{}'; values "
    )
    message += "must be floats{}$"
    usual = message.format("cross_entropy", ", or with loss='mse'")
    with pytest.raises(ValueError, match=usual):
        cbk.train(PAIR, x, hot, cbk.CBO(particles=4), epochs=1)
    with pytest.raises(ValueError, match=usual):
        cbk.risk(PAIR, theta, x, hot, loss="cross_entropy")
    for call in (
        lambda: cbk.train(PAIR, x, hot, cbk.CBO(particles=4), epochs=1, loss=own),
        lambda: cbk.risk(PAIR, theta, x, hot, loss=own),
    ):
        with pytest.raises(ValueError, match=message.format("the Python function .*own", "")):
            call()
    cbk.train(PAIR, x, hot, cbk.CBO(particles=4), epochs=1, loss="mse")


def test_labels_for_the_squared_error_are_told_of_the_cross_entropy():
    x, labels = np.random.default_rng(0).random((6, 2)).astype("f4"), np.array([0, 1, 0, 1, 1, 0])
    message = r"y must have shape \[6, 2\].* got int64 \[6\]: for labels say loss='cross_entropy'"
    for call in (
        lambda: cbk.train(PAIR, x, labels, cbk.CBO(particles=4), epochs=1, loss="mse"),
        lambda: cbk.risk(PAIR, PAIR.uniform(3, seed=0), x, labels),
        lambda: objective(PAIR, x, labels),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_missing_labels_are_told():
    x, labels = np.random.default_rng(0).random((6, 2)), [0, 1, math.nan, 1, math.nan, 0]
    with pytest.raises(
        ValueError, match=r"got float64 \[6\]: labels with missing values .*\(2 of them NaN\)"
    ):
        cbk.train(PAIR, x, labels, cbk.CBO(particles=4), epochs=1)


def test_two_classes_of_one_output_are_told_of_the_logistic_loss():
    x, labels = np.random.default_rng(0).random((6, 2)), np.array([0, 1, 0, 1, 1, 0])
    with pytest.raises(ValueError, match=r"y must hold .*for two classes take outputs=2, or loss 'logistic'"):
        cbk.train(cbk.TwoLayer(2, 3), x, labels, cbk.CBO(particles=4), epochs=1, loss="cross_entropy")
    with pytest.warns(cbk.CboWarning, match="for classes make them 0 and 1, take outputs=2"):
        cbk.train(cbk.TwoLayer(2, 3), x, 2 * labels - 1, cbk.CBO(particles=4), epochs=1)


def test_sparse_matrices_and_lazy_frames_are_told_of_their_methods():
    sparse = pytest.importorskip("scipy.sparse", reason="SciPy is not installed")
    for x in (sparse.csr_matrix(X), sparse.coo_array(X)):
        with pytest.raises(TypeError, match=r"x must be an array, got scipy.sparse.*: take x.toarray\(\)"):
            trained(NET, x, VALUES)
    lazy = frame_of("polars", {"a": [1.0, 2.0]}).lazy()
    with pytest.raises(TypeError, match=r"x must be an array, got polars.*LazyFrame: take x.collect\(\)"):
        trained(NET, lazy, VALUES)
