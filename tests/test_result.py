"""Result: predictions, the plot, and files that come back as they went."""

from __future__ import annotations

import os
import stat
import sys

import matplotlib as mpl
import numpy as np
import pytest

import cbokernels as cbk
from cbokernels import _files

mpl.use("agg")
NET = cbk.TwoLayer(2, 6, 3)
rng = np.random.default_rng(5)
X = rng.normal(size=(20, 2))
Y = rng.normal(size=(20, 3))


@pytest.fixture
def result(dtype):
    return cbk.train(NET, X, Y, cbk.CBO(particles=7), epochs=3, dtype=dtype)


@pytest.fixture
def pyplot():
    plt = pytest.importorskip("matplotlib.pyplot")
    yield plt
    plt.close("all")


def test_predict(result, dtype):
    expected = cbk.forward(NET, result.parameters[None], X.astype(dtype))[0]
    outputs = result.predict(X)
    assert outputs.shape == (20, 3)
    assert outputs.dtype == dtype
    np.testing.assert_array_equal(outputs, expected)
    np.testing.assert_array_equal(result.predict(X, num_threads=1), expected)
    risk = ((outputs - Y) ** 2).sum(axis=1).mean()
    assert risk == pytest.approx(result.history["risk"][-1], rel=1e-5)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (X[:, :1], ValueError, r"x must have shape \[S, 2\], got \[20, 1\]"),
        (X * np.nan, ValueError, r"x must be finite"),
        ("x", TypeError, r"x must be an array"),
    ],
)
def test_predict_refuses(x, error, message):
    result = cbk.train(NET, X, Y, cbk.CBO(particles=7), epochs=1)
    with pytest.raises(error, match=message):
        result.predict(x)


def test_minimize_predicts_nothing():
    result = cbk.minimize(lambda theta: (theta**2).sum(axis=1), np.eye(3, 2), steps=1)
    with pytest.raises(ValueError, match=r"predict expects the result of training a network"):
        result.predict(X)


def test_plot(result, pyplot):
    ax = result.plot()
    assert isinstance(ax, mpl.axes.Axes)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), result.history["risk"])
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [1, 2, 3])
    assert ax.get_yscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "risk")
    assert result.plot(ax, label="again") is ax
    assert ax.lines[1].get_label() == "again"


def test_plot_of_negative_values_has_a_linear_axis(pyplot):
    result = cbk.minimize(lambda theta: -np.ones(len(theta)), np.eye(3, 2), steps=2)
    ax = result.plot()
    assert ax.get_yscale() == "linear"
    assert ax.get_xlabel() == "step"


def test_plot_without_matplotlib_names_the_extra(monkeypatch):
    result = cbk.train(NET, X, Y, cbk.CBO(particles=7), epochs=1)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"plot needs matplotlib: pip install 'cbokernels\[plots\]'"):
        result.plot()


def test_importing_the_package_imports_no_plotting():
    code = "import sys, cbokernels; assert not {'matplotlib', 'tqdm', 'torch'} & set(sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


@pytest.mark.parametrize("name", ["result.npz", "result", "a.b.c"])
def test_save_and_load(result, tmp_path, name):
    path = tmp_path / name
    result.save(path)
    assert os.listdir(tmp_path) == [name]
    loaded = cbk.Result.load(str(path))
    assert loaded.net == NET
    np.testing.assert_array_equal(loaded.parameters, result.parameters)
    np.testing.assert_array_equal(loaded.particles, result.particles)
    assert loaded.particles.dtype == result.particles.dtype
    assert list(loaded.history) == list(result.history)
    for column in result.history:
        np.testing.assert_array_equal(loaded.history[column], result.history[column])
    np.testing.assert_array_equal(loaded.predict(X), result.predict(X))


def test_save_of_minimize(tmp_path):
    result = cbk.minimize(lambda theta: (theta**2).sum(axis=1), np.eye(3, 2), steps=2)
    result.save(tmp_path / "r")
    assert cbk.Result.load(tmp_path / "r").net is None


def test_saved_files_follow_the_umask(tmp_path):
    result = cbk.minimize(lambda theta: (theta**2).sum(axis=1), np.eye(3, 2), steps=1)
    before = os.umask(0o027)
    try:
        result.save(tmp_path / "r")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "r").stat().st_mode) == 0o640


@pytest.mark.parametrize("where", ["write", "replace"])
def test_a_failed_save_changes_nothing(tmp_path, monkeypatch, where):
    first = cbk.minimize(lambda theta: (theta**2).sum(axis=1), np.eye(3, 2), steps=1)
    path = tmp_path / "r.npz"
    first.save(path)
    before = path.read_bytes()

    def interrupt(*arguments, **members):
        if where == "write":
            arguments[0].write(b"half")
        raise KeyboardInterrupt

    if where == "write":
        monkeypatch.setattr(_files.np, "savez", interrupt)
    else:
        monkeypatch.setattr(_files.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        first.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["r.npz"]


def test_load_refuses_other_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        cbk.Result.load(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError, match=r"path must lie in an existing directory"):
        cbk.Result.load(tmp_path / "no" / "none.npz")
    with pytest.raises(IsADirectoryError, match=r"path must be a file"):
        cbk.Result.load(tmp_path)
    text = tmp_path / "text"
    text.write_text("epoch,risk")
    whole = tmp_path / "whole"
    cbk.minimize(lambda theta: (theta**2).sum(axis=1), np.eye(3, 2), steps=1).save(whole)
    cut = tmp_path / "cut"
    cut.write_bytes(whole.read_bytes()[:-100])
    other = tmp_path / "other.npz"
    np.savez(other, a=np.ones(3))
    single = tmp_path / "single.npy"
    np.save(single, np.ones(3))
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, cbokernels=np.array({"version": 1}, dtype=object))
    for path in (text, cut, other, single, pickled):
        with pytest.raises(ValueError, match=r"must be a file written by cbokernels"):
            cbk.Result.load(path)
    _files.write_arrays(other, {"version": 99}, {})
    with pytest.raises(ValueError, match=r"must be of format version 2, got .*99"):
        cbk.Result.load(other)
