"""Runs on the emulated device that end and go on: checkpoints, interrupts."""

from __future__ import annotations

import dataclasses

import pytest
from libraries import put
from test_device_training import METHODS, NET, assert_close, data

import cbokernels as cbk
from cbokernels import _records


@pytest.mark.parametrize(
    "name", ["cbo", "subset flies", "transport ess", "hybrid", "heavy ball", "steady hopping"]
)
def test_resumed_runs_are_whole_runs(cuda, tmp_path, name):
    x, y = data()
    run = {"batch_size": 9, "seed": 5, "device": "cuda", "dtype": "float64"}
    method = METHODS[name]
    expected = cbk.train(NET, x, y, method, epochs=6, **run)
    path = tmp_path / "run"
    cbk.train(NET, x, y, method, epochs=3, checkpoint=path, every=2, **run)
    result = cbk.train(NET, x, y, method, epochs=6, checkpoint=path, resume=True, **run)
    assert_close(result, expected, rtol=0 if name == "cbo" else 1e-14)


@pytest.mark.parametrize("name", ["cbo", "subset flies", "transport ess", "hybrid", "heavy ball", "adam"])
@pytest.mark.parametrize("epochs", [1, 12])
def test_interrupted_runs_are_saved_as_they_were(cuda, tmp_path, name, epochs):
    """With epochs on their way, whose rows nobody has asked for."""
    x, y = data()
    run = {"batch_size": 9, "seed": 5, "device": "cuda", "dtype": "float64"}

    def method(stop):
        def dt(epoch, total):
            if epoch == stop:
                raise KeyboardInterrupt
            return 0.1

        step = "lr" if name == "adam" else "dt"
        return dataclasses.replace(METHODS[name], **{step: dt})

    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        cbk.train(NET, x, y, method(epochs), epochs=20, checkpoint=path, every=100, **run)
    expected = cbk.train(NET, x, y, method(None), epochs=epochs, **run)
    saved = cbk.Result.load(path)
    assert saved.history["epoch"].tolist() == list(range(1, epochs + 1))
    assert_close(saved, expected, rtol=0 if name == "cbo" else 1e-14)
    result = cbk.train(NET, x, y, method(None), epochs=15, checkpoint=path, resume=True, **run)
    assert_close(result, cbk.train(NET, x, y, method(None), epochs=15, **run), rtol=1e-13)


@pytest.mark.parametrize("name", ["match", "partners"])
def test_checkpoints_without_partners_are_refused(cuda, tmp_path, name):
    x, y = data()
    path = tmp_path / "run"
    run = {"device": "cuda", "checkpoint": path, "resume": True}
    cbk.train(NET, x, y, METHODS["transport ess"], epochs=2, **run)
    (header, arrays), *_ = _records.records(path)
    arrays[f"state.{name}"].flat[0] = 10**6
    with open(path, "wb") as file:
        _records.write_record(file, header, arrays)
    with pytest.raises(ValueError, match=rf"{path}.*its {name} must be permutations"):
        cbk.train(NET, x, y, METHODS["transport ess"], epochs=4, **run)


def test_checkpoints_know_their_data(cuda, tmp_path):
    x, y = data()
    run = {"epochs": 2, "device": "cuda", "checkpoint": tmp_path / "run"}
    cbk.train(NET, x, y, cbk.CBO(4), **run)
    same = cbk.train(NET, put(x.astype("f4")), put(y.astype("f4")), cbk.CBO(4), resume=True, **run)
    assert len(same.history["epoch"]) == 2
    with pytest.raises(ValueError, match="same configuration, but y is"):
        cbk.train(NET, x, y + 1, cbk.CBO(4), resume=True, **run)
