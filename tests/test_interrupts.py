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
    """A process that is told cases, one after the other; one that does not answer is replaced by the next."""

    process = None

    def _line(self, seconds):
        return self.process.stdout.readline() if self.lines.select(seconds) else ""

    def tell(self, name):
        """What became of a case, or what a process wrote that did not answer."""
        if not self.process:
            self.process = subprocess.Popen(
                [sys.executable, interrupted.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            self.lines = selectors.DefaultSelector()
            self.lines.register(self.process.stdout, selectors.EVENT_READ)
        print(name, file=self.process.stdin, flush=True)
        line = self._line(START) and self._line(interrupted.DELAY + BUSY)
        return json.loads(line) if line else self.end()

    def end(self):
        process, self.process = self.process, None
        process.kill()
        return process.communicate()[1][-2000:]


@pytest.fixture(scope="module")
def child():
    """One for all cases of a worker of pytest-xdist."""
    child = Child()
    yield child
    if child.process:
        child.end()


@pytest.mark.skipif(sys.platform != "linux", reason="folded arrays are Linux's")
@pytest.mark.parametrize("name", interrupted.CASES)
def test_a_call_ends_soon_after_ctrl_c(child, name):
    found = child.tell(name)
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


def sent_after(seconds, number, sent):
    """Send this process a signal; the thread that does.

    `sent` has when by the clock, and by this process's work.
    """

    def send():
        time.sleep(seconds)
        sent[:] = time.perf_counter(), time.process_time()
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    return sender


ATOMS = interrupted.normals(1, 400, 3)


def entropic(iterations):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cbk.CboWarning)
        return cbk.sinkhorn(ATOMS, ATOMS[0] ** 2, tolerance=0.0, iterations=iterations, num_threads=2)


def signalled(number, sent):
    """A call without end that gets a signal."""
    sent_after(0.1, number, sent)
    entropic(10**9)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_what_a_handler_raises_comes_out_of_the_call(number):
    def handler(number, frame):
        raise Said(number)

    sent = []
    with handled(number, handler), pytest.raises(Said, match=str(int(number))):
        signalled(number, sent)
    assert time.perf_counter() - sent[0] < BUSY


def test_a_handler_that_raises_nothing_runs_while_the_call_goes_on():
    """It may call kernels itself."""
    iterations, after, small = 500, 0.0, entropic(3)

    def handler(number, frame):
        seen.append((time.process_time(), entropic(3)))

    while after < SOON:  # a call with so much work to do after its signal
        iterations, seen, sent = 2 * iterations, [], []
        with handled(signal.SIGUSR1, handler):
            sender = sent_after(0.1, signal.SIGUSR1, sent)
            result = entropic(iterations)
            ended = time.process_time()
            sender.join()
        after = ended - sent[1]
    [(when, inside)] = seen
    assert when < ended - after / 2
    for mine, right in ((result, entropic(iterations)), (inside, small)):
        for part, other in zip(mine, right, strict=True):
            np.testing.assert_array_equal(part, other)


def test_only_the_main_threads_call_is_interrupted():
    def handler(number, frame):
        raise Said

    iterations, went_on = 250, False
    while not went_on:  # a call of the other thread that lasts beyond the signal
        iterations, results = 2 * iterations, []
        other = threading.Thread(target=lambda n=iterations, out=results: out.append(entropic(n)))
        other.start()
        with handled(signal.SIGUSR1, handler), pytest.raises(Said):
            signalled(signal.SIGUSR1, [])
        went_on = other.is_alive()
        other.join()
        [result] = results
    for part, right in zip(result, entropic(iterations), strict=True):
        np.testing.assert_array_equal(part, right)
