"""A signal ends every kernel within half a second, and what comes after is right."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import warnings

import interrupted
import numpy as np
import pytest

import cbokernels as cbk

SOON = 0.5  # seconds
BUSY = 5.0  # the same by the clock, where other processes want the cores too
START = 60.0  # seconds that a process may take to begin, or a small call


class Child:
    """A process that goes through cases one after the other."""

    def __init__(self, names):
        self.process = subprocess.Popen(
            [sys.executable, interrupted.__file__, *names],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines = selectors.DefaultSelector()
        self.lines.register(self.process.stdout, selectors.EVENT_READ)

    def line(self, seconds):
        return self.process.stdout.readline() if self.lines.select(seconds) else ""

    def end(self):
        self.process.kill()
        return self.process.communicate()[1][-2000:]


@pytest.fixture(scope="module")
def told():
    """What became of each case; a process that does not tell is ended, and another one takes the rest."""
    results, left = {}, list(interrupted.CASES)
    while left:
        child = Child(left)
        while left:
            name = left.pop(0)
            line = child.line(START) and child.line(interrupted.DELAY + BUSY)
            results[name] = json.loads(line) if line else None
            if not line:
                results[name] = child.end()
                break
        else:
            child.end()
    return results


@pytest.mark.skipif(sys.platform != "linux", reason="folded arrays are Linux's")
@pytest.mark.parametrize("name", interrupted.CASES)
def test_a_call_ends_soon_after_ctrl_c(told, name):
    found = told[name]
    assert isinstance(found, dict), f"not within {BUSY} s: {found}"
    assert found["raised"] == "KeyboardInterrupt", found
    assert found["work"] <= SOON, found
    assert found["same"], "the next call's result is another one"


class Said(Exception):
    """What this test's handlers raise."""


@contextlib.contextmanager
def handled(number, handler):
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def sent_after(seconds, number):
    """Send this process a signal; when, once it is sent."""
    sent = []

    def send():
        time.sleep(seconds)
        sent.append(time.perf_counter())
        os.kill(os.getpid(), number)

    threading.Thread(target=send).start()
    return sent


ATOMS = interrupted.normals(1, 400, 3)


def seconds_of_work(seconds):
    """A call that takes about so long, by how often it iterates."""
    began, iterations = time.perf_counter(), 20
    entropic(iterations)
    return max(1, int(iterations * seconds / (time.perf_counter() - began)))


def entropic(iterations):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cbk.CboWarning)
        return cbk.sinkhorn(ATOMS, ATOMS[0] ** 2, tolerance=0.0, iterations=iterations, num_threads=2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_what_a_handler_raises_comes_out_of_the_call(number):
    def handler(number, frame):
        raise Said(number)

    with handled(number, handler):
        sent = sent_after(0.1, number)
        with pytest.raises(Said, match=str(int(number))):
            entropic(10**9)
    assert time.perf_counter() - sent[0] < BUSY


def test_a_handler_that_raises_nothing_runs_while_the_call_goes_on():
    """It may call kernels itself."""
    iterations, seen = seconds_of_work(1.5), []
    expected, small = entropic(iterations), entropic(3)

    def handler(number, frame):
        seen.append((time.perf_counter(), entropic(3)))

    with handled(signal.SIGUSR1, handler):
        sent = sent_after(0.1, signal.SIGUSR1)
        result = entropic(iterations)
        ended = time.perf_counter()
    [(when, inside)] = seen
    assert when < ended - 0.2
    assert when - sent[0] < BUSY
    for mine, right in ((result, expected), (inside, small)):
        for part, other in zip(mine, right, strict=True):
            np.testing.assert_array_equal(part, other)


def test_only_the_main_threads_call_is_interrupted():
    iterations, results = seconds_of_work(1.0), []
    expected = entropic(iterations)
    other = threading.Thread(target=lambda: results.append(entropic(iterations)))

    def handler(number, frame):
        raise Said

    with handled(signal.SIGUSR1, handler):
        other.start()
        sent_after(0.1, signal.SIGUSR1)
        with pytest.raises(Said):
            entropic(10**9)
        other.join()
    for part, right in zip(results[0], expected, strict=True):
        np.testing.assert_array_equal(part, right)
