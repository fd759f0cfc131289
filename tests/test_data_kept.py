"""A run trains on its data as they were when it began."""

import numpy as np
import pytest
from faults import assert_same

import cbokernels as cbk


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_data_are_as_they_were_fingerprinted(tmp_path, loss):
    rng = np.random.default_rng(1)
    net = cbk.TwoLayer(2, 4, 3)
    x = rng.normal(size=(30, 2)).astype(np.float32)
    y = (
        rng.integers(0, 3, 30, dtype=np.int32)
        if loss == "cross_entropy"
        else rng.normal(size=(30, 3)).astype("f4")
    )
    before = x.copy(), y.copy()

    def callback(state):
        x[:], y[:] = 5, 1

    settings = {"epochs": 6, "loss": loss, "checkpoint": tmp_path / "run"}
    method = cbk.CBO(particles=6, floor=0.1)
    result = cbk.train(net, x, y, method, callback=callback, **settings)
    assert_same(result, cbk.train(net, *before, method, epochs=6, loss=loss))
    assert_same(result, cbk.train(net, *before, method, resume=True, **settings))


def test_labels_that_change_are_never_read():
    """They are checked once, at the start."""
    x, y = np.ones((30, 2), np.float32), np.zeros(30, np.int32)

    def callback(state):
        y[:] = 2**30

    net, method = cbk.TwoLayer(2, 4, 3), cbk.CBO(particles=6, floor=0.1)
    expected = cbk.train(net, x, y, method, epochs=4)
    assert_same(cbk.train(net, x, y, method, epochs=4, callback=callback), expected)
