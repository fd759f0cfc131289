"""Runs that are killed, interrupted or run out of disk lose nothing.

CBOKERNELS_KILLS=50 for more of them than the default.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import faults
import numpy as np
import pytest
from faults import assert_same

import cbokernels as cbk

KILLS = int(os.environ.get("CBOKERNELS_KILLS", "6"))
SEED = int(os.environ.get("CBOKERNELS_SEED", "17"))


def child(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@contextlib.contextmanager
def limited_files(size):
    """No file of this process may be longer: what a full disk is to a checkpoint."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_killed_runs_resume_to_the_same_bits(tmp_path):
    print(f"CBOKERNELS_SEED={SEED}")
    rng = random.Random(SEED)
    names = list(faults.CASES)
    rng.shuffle(names)
    whole = {name: faults.run(name, num_threads=1) for name in names}
    ended = dict.fromkeys(("SIGKILL", "SIGINT", "SIGTERM", "by itself"), 0)
    kills = 0
    for attempt in range(20 * KILLS):  # a run that ended before its signal is not one of them
        if kills == KILLS:
            break
        name = names[attempt % len(names)]
        path, every, threads = tmp_path / name, rng.choice([1, 3, 1000]), rng.choice([1, 2, 3])
        number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
        process = child(Path(faults.__file__), name, path, threads, every)
        began = process.stdout.readline()
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(number)
        out, errors = process.communicate(timeout=60)
        told = int((began + out).rsplit("\n", 2)[-2])
        saved = len(cbk.Result.load(path).history["epoch"]) if path.exists() else 0
        where = f"{name}, {number.name}, every {every}: {saved} of {told} epochs saved\n{errors}"
        if saved == faults.EPOCHS:
            assert_same(cbk.Result.load(path), whole[name])
            path.unlink()
        elif number == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL, where
            assert saved >= told // every * every - every, where  # the last save may be under way
        else:
            assert process.returncode in (-signal.SIGINT, 128 + signal.SIGTERM), where
            assert saved >= told, where
        ended["by itself" if saved == faults.EPOCHS else number.name] += 1
        kills += saved < faults.EPOCHS
    print(ended)  # shown where the test fails, as the seed is
    assert kills == KILLS
    for name in names:
        path = tmp_path / name
        resumed = faults.run(name, checkpoint=path, resume=True, num_threads=2, every=1000)
        assert_same(resumed, whole[name])
        assert_same(cbk.Result.load(path), resumed)
    assert sorted(os.listdir(tmp_path)) == sorted(names)


@pytest.mark.parametrize("name", ["cbo", "minimize"])
@pytest.mark.parametrize("size", [16, 4500, 30_000])
def test_a_disk_that_fills_costs_no_result(tmp_path, name, size):
    """16 bytes: not even the trial at the start; 4500: that alone; more: some saves too."""
    path = tmp_path / "run"
    with limited_files(size):
        if size == 16:
            with pytest.raises(OSError, match=rf"File too large.*{path}"):
                faults.run(name, checkpoint=path, every=1)
            assert os.listdir(tmp_path) == []
            return
        with pytest.warns(cbk.CboWarning, match=rf"{path}.* could not be written.*File too large") as caught:
            result = faults.run(name, checkpoint=path, every=1)
    assert len(caught) == 1
    assert_same(result, faults.run(name))
    assert os.listdir(tmp_path) == (["run"] if size > 4500 else [])
    assert not path.exists() or path.stat().st_size < size  # no rest of a record
    assert_same(faults.run(name, checkpoint=path, resume=True), result)


def test_a_result_that_cannot_be_saved_says_where(tmp_path):
    result = faults.run("cbo", 2)
    with limited_files(100), pytest.raises(OSError, match=rf"File too large.*{tmp_path}/result"):
        result.save(tmp_path / "result")
    assert os.listdir(tmp_path) == []


def test_a_full_file_system(tmp_path):
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)],
            capture_output=True,
            check=False,
        ).returncode
    ):
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        with pytest.warns(cbk.CboWarning, match=r"could not be written.*No space left"):
            result = faults.run("adam", checkpoint=tmp_path / "run", every=1)
        assert os.listdir(tmp_path) == ["run"]
        saved = cbk.Result.load(tmp_path / "run")
        done = len(saved.history["epoch"])
        assert 0 < done < faults.EPOCHS
        np.testing.assert_array_equal(saved.history["risk"], result.history["risk"][:done])
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


READ_ONLY = """
import ctypes, os
import faults
if os.geteuid() == 0:  # root without its capabilities: permissions bind it, its own folders stay reachable
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, none) == 0
faults.run("cbo", checkpoint="run", callback=lambda state: print("an epoch"))
"""


def test_a_folder_that_is_read_only_is_told_at_once(tmp_path):
    tmp_path.chmod(0o555)
    paths = [str(Path(faults.__file__).parent), *sys.path]
    process = child("-c", READ_ONLY, cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)})
    out, errors = process.communicate(timeout=60)
    assert out == ""
    assert f"PermissionError: [Errno 13] Permission denied, writing: '{tmp_path}/run'" in errors


@pytest.mark.parametrize("name", [name for name in faults.CASES if name.startswith("minimize")])
def test_what_fun_raises_leaves_the_last_whole_step(tmp_path, name, monkeypatch):
    path, calls, fun = tmp_path / "run", [], faults.rastrigin

    def failing(theta):
        calls.append(len(theta))
        if calls.count(20) == 20:  # the twentieth step's particles
            raise ZeroDivisionError
        return fun(theta)

    monkeypatch.setattr(faults, "rastrigin", failing)
    with pytest.raises(ZeroDivisionError):
        faults.run(name, checkpoint=path)
    monkeypatch.undo()
    assert_same(cbk.Result.load(path), faults.run(name, epochs=19))
    assert_same(faults.run(name, checkpoint=path, resume=True), faults.run(name))


def test_a_callback_that_fails_leaves_its_epoch(tmp_path):
    def callback(state):
        assert state.epoch < 5

    with pytest.raises(AssertionError):
        faults.run("adam", checkpoint=tmp_path / "run", every=100, callback=callback)
    assert_same(cbk.Result.load(tmp_path / "run"), faults.run("adam", epochs=5))


def test_the_handler_of_sigterm_is_the_callers(tmp_path):
    seen = []

    def look(state):
        seen.append(signal.getsignal(signal.SIGTERM))

    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    faults.run("cbo", epochs=1, callback=look)
    faults.run("cbo", epochs=1, callback=look, checkpoint=tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) == seen[0] == signal.SIG_DFL
    assert callable(seen[1])
    own = lambda number, frame: None  # noqa: E731
    signal.signal(signal.SIGTERM, own)
    try:
        faults.run("cbo", epochs=1, callback=look, checkpoint=tmp_path / "run")
        assert signal.getsignal(signal.SIGTERM) is seen[2] is own
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
