"""Checkpoints: the same bits as never having stopped, whole files, and no other configuration."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels import _files
from cbokernels.training.checkpoint import Checkpoint

NET = cbk.TwoLayer(1, 8, 1)
rng = np.random.default_rng(4)
X = rng.random((40, 1))
Y = np.sin(2 * np.pi * X[:, 0])
METHOD = cbk.CBO(particles=10, alpha=cbk.Tenfold(1e3, every=2), particle_batch=6)


def train(method=METHOD, *, net=NET, x=X, y=Y, epochs=7, batch_size=15, **arguments):
    return cbk.train(net, x, y, method, epochs=epochs, batch_size=batch_size, **arguments)


def assert_same(a, b):
    np.testing.assert_array_equal(a.parameters, b.parameters)
    np.testing.assert_array_equal(a.particles, b.particles)
    assert a.particles.dtype == b.particles.dtype
    assert a.net == b.net
    assert list(a.history) == list(b.history)
    for name in a.history:
        assert a.history[name].dtype == b.history[name].dtype
        if name != "seconds":
            np.testing.assert_array_equal(a.history[name], b.history[name])


def test_resumed_runs_have_the_same_bits(tmp_path, dtype):
    path = tmp_path / "run"
    whole = train(dtype=dtype)
    for stop in (1, 3, 4):
        part = train(dtype=dtype, checkpoint=path, resume=True, callback=lambda s, stop=stop: s.epoch == stop)
        assert len(part.history["epoch"]) == stop
    resumed = train(dtype=dtype, checkpoint=path, resume=True)
    assert_same(resumed, whole)
    assert (np.diff(resumed.history["seconds"]) > 0).all()
    assert_same(train(dtype=dtype, checkpoint=path, resume=True), whole)


def test_a_shorter_run_is_the_beginning_of_a_longer_one(tmp_path):
    path = tmp_path / "run.npz"
    train(epochs=3, checkpoint=str(path))
    assert_same(train(checkpoint=path, resume=True), train())


def test_own_particles_and_full_batch_resume(tmp_path):
    path = tmp_path / "run.npz"
    theta = NET.uniform(5, seed=9)
    method = cbk.CBO(alpha=cbk.TargetEss(0.5), floor=lambda epoch, epochs: 0.1 / (1 + epoch))
    arguments = {"theta": theta, "batch_size": None}
    train(method, epochs=4, checkpoint=path, **arguments)
    assert_same(train(method, checkpoint=path, resume=True, **arguments), train(method, **arguments))


def test_no_file_yet_just_starts(tmp_path):
    path = tmp_path / "run.npz"
    assert_same(train(checkpoint=path, resume=True), train())
    assert path.exists()


def test_without_resume_the_run_starts_anew(tmp_path):
    path = tmp_path / "run.npz"
    train(epochs=3, seed=5, checkpoint=path)
    assert_same(train(checkpoint=path), train())


@pytest.mark.parametrize(("every", "saved"), [(1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6, 7]), (50, [7])])
def test_written_every_so_often_and_at_the_end(tmp_path, monkeypatch, every, saved):
    path = tmp_path / "run.npz"
    lengths = []
    save = Checkpoint.save

    def count(self, *arguments):
        save(self, *arguments)
        lengths.append(len(cbk.Result.load(path).history["epoch"]))

    monkeypatch.setattr(Checkpoint, "save", count)
    result = train(checkpoint=path, every=every)
    assert lengths == saved
    assert_same(cbk.Result.load(path), result)


def test_a_failed_write_leaves_the_last_checkpoint_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    train(epochs=2, checkpoint=path)
    before = path.read_bytes()

    def fail(file, **members):
        file.write(b"half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr(_files.np, "savez", fail)
    message = r"epoch 7: .*run.npz.* could not be written, .* of epoch 2: .*no space"
    with pytest.warns(cbk.CboWarning, match=message) as caught:
        assert_same(train(checkpoint=path, resume=True), train())
    assert caught[0].filename == __file__
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["run.npz"]
    assert_same(train(checkpoint=path, resume=True), train())


LONG = """
import sys
import cbokernels as cbk, numpy as np
x = np.linspace(0, 1, 40)[:, None]
def tell(state):
    if state.epoch == 5:
        print("ready", flush=True)
cbk.train(cbk.TwoLayer(1, 8, 1), x, x, cbk.CBO(particles=10, floor=0.1), epochs=2**31, checkpoint=sys.argv[1],
          every=1, callback=tell)
"""


def test_interrupt_ends_the_run_and_keeps_the_checkpoint(tmp_path):
    path = tmp_path / "run.npz"
    process = subprocess.Popen(
        [sys.executable, "-c", LONG, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
    assert os.listdir(tmp_path) == ["run.npz"]
    assert len(cbk.Result.load(path).history["epoch"]) >= 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": cbk.CBO(particles=10, alpha=1e3, particle_batch=6)}, r"CBO.alpha is Tenfold.* now"),
        ({"method": cbk.CBO(particles=10, alpha=METHOD.alpha)}, r"CBO.particle_batch is 6 .* and None now"),
        ({"method": cbk.CBO(particles=12, alpha=METHOD.alpha, particle_batch=6)}, r"theta is .*\[12, 24\]"),
        ({"net": cbk.TwoLayer(1, 8, 1, activation="tanh")}, r"net is .*relu.* in the checkpoint and .*tanh"),
        ({"seed": 1}, r"seed is 0 in the checkpoint and 1 now"),
        ({"batch_size": 16}, r"batch_size is 15 in the checkpoint and 16 now"),
        ({"x": X + 1}, r"x is .* digest"),
        ({"y": Y + 1}, r"y is .* digest"),
        ({"dtype": "float64"}, r"dtype is float32 in the checkpoint and float64 now"),
        ({"theta": NET.uniform(10, seed=1)}, r"theta is .* digest"),
        ({"epochs": 2}, r"epochs is 2 now and the checkpoint has 4 already"),
    ],
)
def test_another_configuration_is_refused(tmp_path, change, message):
    path = tmp_path / "run.npz"
    train(epochs=4, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        train(**{"method": METHOD, "checkpoint": path, "resume": True, **change})
    assert path.read_bytes() == before


@pytest.mark.parametrize("particles", [22, 200])
def test_hopping_goes_on_with_as_many_particles(tmp_path, particles):
    """Its theta, the centre, does not tell how many there are."""
    path = tmp_path / "run.npz"
    method = cbk.ConsensusHopping(particles=20)
    train(method=method, epochs=2, checkpoint=path)
    with pytest.raises(ValueError, match=rf"particles is 20 in the checkpoint and {particles} now"):
        train(method=method.set_params(particles=particles), epochs=4, checkpoint=path, resume=True)


def test_another_method_is_all_that_is_told(tmp_path):
    path = tmp_path / "run.npz"
    train(method=cbk.ConsensusHopping(particles=20), epochs=2, checkpoint=path)
    with pytest.raises(ValueError, match=r"but method is ConsensusHopping in the checkpoint and CBO now$"):
        train(epochs=4, checkpoint=path, resume=True)


def test_schedules_over_the_run_make_another_length_another_run(tmp_path):
    path = tmp_path / "run.npz"
    method = cbk.CBO(particles=10, floor=cbk.Exponential(0.1, 0.001))
    train(method, epochs=4, checkpoint=path)
    with pytest.raises(ValueError, match=r"floor was 0.02\d* at epoch 1 .* number of epochs"):
        train(method, epochs=8, checkpoint=path, resume=True)


def test_callables_are_told_apart_by_their_values(tmp_path):
    path = tmp_path / "run.npz"

    def method(slope):
        return cbk.CBO(particles=10, dt=lambda epoch, epochs: 0.1 + slope * epoch)

    train(method(0.0), epochs=4, checkpoint=path)
    assert_same(train(method(0.0), checkpoint=path, resume=True), train(method(0.0)))
    train(method(0.0), epochs=4, checkpoint=path)
    with pytest.raises(ValueError, match=r"dt was 0.1 at epoch 1 in the checkpoint, now 0.11"):
        train(method(0.01), checkpoint=path, resume=True)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "run.npz"
    train(epochs=1).save(path)
    with pytest.raises(ValueError, match=r"checkpoint must be one of train or minimize, got a saved Result"):
        train(checkpoint=path, resume=True)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"must be a file written by cbokernels"):
        train(checkpoint=path, resume=True)
    assert path.read_bytes() == b"something else"
