"""Training with noise of low rank: where directions are free, checkpoints, accuracy, wrong parameters."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from low_rank import problem

import cbokernels as cbk

METHOD = cbk.ConsensusHopping(particles=20, scope="atom", rank=1, directions="batch", spread=0.1, lr=0.05)


@pytest.mark.filterwarnings("ignore:x is not scaled")
@pytest.mark.parametrize("drift", ["mean", "least_squares"])
@pytest.mark.parametrize(
    ("size", "samples", "dtype"),
    [(1, 30, "float32"), (0, 12, "float32"), (1e-36, 12, "float32"), (1e-42, 12, "float32"),
     (1e-170, 12, "float64"), (1e200, 12, "float64")],
)  # fmt: skip
def test_directions_are_free_where_there_is_no_span_and_that_is_said_once(size, samples, dtype, drift):
    """With as many samples as inputs, all of them 0, or where the inverse or the squares overflow."""
    net, _, x, _, labels = problem(20, 5, 3, 60)
    x = (x * size).astype(dtype)
    method = {**METHOD.get_params(), "drift": drift}
    free = cbk.ConsensusHopping(**{**method, "directions": "free"})
    options = {"epochs": 3, "batch_size": samples, "seed": 1, "dtype": dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="x is not scaled")
        expected = cbk.train(net, x, labels, free, **options)
    with pytest.warns(cbk.CboWarning, match="fewer samples in a minibatch than inputs") as caught:
        got = cbk.train(net, x, labels, cbk.ConsensusHopping(**method), **options)
    said = [w.filename for w in caught if "fewer samples" in str(w.message)]
    assert said == [__file__]
    np.testing.assert_array_equal(got.parameters, expected.parameters)


def test_a_run_that_is_continued(tmp_path):
    net, _, x, _, labels = problem(40, 5, 3, 60, "float32")
    options = {"batch_size": 20, "seed": 3, "weight_decay": 0.1, "standardize": True, "every": 1}
    whole = cbk.train(net, x, labels, METHOD, epochs=6, **options)
    path = tmp_path / "run.npz"
    cbk.train(net, x, labels, METHOD, epochs=4, checkpoint=path, **options)
    rest = cbk.train(net, x, labels, METHOD, epochs=6, checkpoint=path, resume=True, num_threads=1, **options)
    np.testing.assert_array_equal(rest.parameters, whole.parameters)
    np.testing.assert_array_equal(rest.history["risk"], whole.history["risk"])
    other = {**options, "weight_decay": 0.2}
    with pytest.raises(ValueError, match=r"weight_decay is 0\.1 in the checkpoint and 0\.2 now"):
        cbk.train(net, x, labels, METHOD, epochs=7, checkpoint=path, resume=True, **other)


def test_it_learns_where_free_directions_are_slow():
    rng = np.random.default_rng(4)
    net = cbk.TwoLayer(200, 10, 3)
    axes = rng.normal(size=(3, 200))
    y = rng.integers(0, 3, 600)
    x = (axes[y] + rng.normal(size=(600, 200)) * 2).astype(np.float32)
    method = cbk.ConsensusHopping(
        particles=50, scope="atom", rank=1, directions="batch", spread=0.1, lr=cbk.Exponential(0.1, 0.01)
    )
    result = cbk.train(net, x, y, method, epochs=5, batch_size=50, seed=0, metrics="accuracy")
    assert result.history["accuracy"][-1] > 0.95


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank must be"),
        (
            {"rank": None, "directions": "batch"},
            r"rank must be given, such as rank=1, for directions='batch', got None",
        ),
        ({"rank": 1, "directions": "span"}, "directions must be"),
    ],
)
def test_wrong_parameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        cbk.ConsensusHopping(**arguments)


def test_no_rank_for_a_function():
    with pytest.raises(ValueError, match="rank must be None for a function, got 1"):
        cbk.minimize(lambda t: (t**2).sum(axis=1), np.zeros((1, 3)), cbk.ConsensusHopping(rank=1), steps=1)
    with pytest.raises(TypeError, match="rank"):
        cbk.ConsensusHopping(rank=1.5)
