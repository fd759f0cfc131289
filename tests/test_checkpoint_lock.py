"""One run at a time has a checkpoint, and whoever is killed leaves it to the next."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import faults
import pytest
from faults import assert_same

import cbokernels as cbk

HEAD = f"""
import os, sys, time
sys.path.insert(0, {str(Path(faults.__file__).parent)!r})
import faults
import cbokernels as cbk
path = sys.argv[1]

def attempt():
    try:
        faults.run("cbo", 2, checkpoint=path)
    except cbk.CboError as error:
        return str(error)
    return "went on"

def tell(text):
    os.write(1, (str(text) + os.linesep).encode())  # a line at a time, whoever else writes
"""
# A run that never ends; after its first epoch it does `what`.
RUN = (
    HEAD
    + """
def callback(state):
    if state.epoch == 1:
        {what}
        tell("begun")
    time.sleep(0.01)

faults.run("cbo", 10**6, checkpoint=path, every=1, callback=callback)
"""
)
FORK = """
        child = os.fork()
        if not child:
            tell(attempt())
            time.sleep(60)
            os._exit(0)
        tell(child)
"""


class Child:
    """A script on a checkpoint, at its end killed."""

    def __init__(self, code, path):
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
        )

    def line(self):
        return self._process.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


def refused(path):
    message = f"{str(path)!r} must be of one run at a time, and another run writes it"
    return pytest.raises(cbk.CboError, match=re.escape(message))


@pytest.mark.parametrize("name", ["cbo", "minimize"])
def test_another_process_has_it_until_it_is_killed(tmp_path, name):
    path = tmp_path / "run"
    with Child(RUN.format(what="pass"), path) as child:
        assert child.line() == "begun"
        for resume in (False, True):
            with refused(path):
                faults.run(name, 2, checkpoint=path, resume=resume)
        faults.run(name, 2, checkpoint=tmp_path / "another")
    assert ".run.lock" in os.listdir(tmp_path)  # whose lock the system took back
    assert_same(faults.run(name, 5, checkpoint=path), faults.run(name, 5))
    assert sorted(os.listdir(tmp_path)) == ["another", "run"]


def test_of_two_runs_in_a_process_one_has_it(tmp_path):
    path, refusals = tmp_path / "run", []

    def attempt():
        try:
            faults.run("adam", 3, checkpoint=path, resume=True)
        except cbk.CboError as error:
            refusals.append(str(error))

    def callback(state):
        attempt()
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
        with Child(HEAD + "tell(attempt())", path) as child:  # the refused ones have not given it back
            refusals.append(child.line())

    result = faults.run("cbo", 2, checkpoint=path, every=1, callback=callback)
    assert len(refusals) == 6
    assert all("another run writes it" in text for text in refusals), refusals
    assert_same(cbk.Result.load(path), result)
    assert os.listdir(tmp_path) == ["run"]


def test_a_fork_has_no_part_in_it(tmp_path):
    """Neither while the run goes on nor when it was killed and the fork lives."""
    path = tmp_path / "run"
    with Child(RUN.format(what=FORK), path) as child:
        lines = [child.line() for _ in range(3)]
        refusal = next(line for line in lines if "another run writes it" in line)
        assert str(path) in refusal
        assert "begun" in lines
    fork = next(int(line) for line in lines if line.isdecimal())
    os.kill(fork, 0)  # it lives
    try:
        faults.run("cbo", 2, checkpoint=path)
    finally:
        os.kill(fork, 9)
    assert os.listdir(tmp_path) == ["run"]


LEAVES = """
        child = os.fork()
        if not child:
            raise ZeroDivisionError
        os.waitpid(child, 0)
        tell(cbk.Result.load(path).history["epoch"].size if os.path.exists(path) else "no file")
"""


def test_a_fork_that_leaves_the_run_neither_writes_nor_unlocks(tmp_path):
    path = tmp_path / "run"
    with Child(RUN.format(what=LEAVES), path) as child:
        assert child.line() == "no file"
        assert child.line() == "begun"
        with refused(path):
            faults.run("cbo", 2, checkpoint=path)


def test_runs_that_fail_leave_no_lock(tmp_path):
    path = tmp_path / "run"
    faults.run("cbo", 2, checkpoint=path)
    with pytest.raises(ValueError, match="must come from the same configuration"):
        faults.run("adam", 2, checkpoint=path, resume=True)

    def callback(state):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        faults.run("cbo", 2, checkpoint=path, callback=callback)
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_file_systems_without_locks(tmp_path, monkeypatch, number):
    def lockf(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.lockf", lockf)
    faults.run("cbo", 2, checkpoint=tmp_path / "run")
    assert os.listdir(tmp_path) == ["run"]
