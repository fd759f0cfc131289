"""What train writes while it runs: a bar where it is asked for, nothing else."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest

import cbokernels as cbk

NET = cbk.TwoLayer(1, 12, 1)
X, Y = np.linspace(0, 1, 6)[:, None], np.linspace(1, 0, 6)


def test_progress_writes_a_bar(capfd):
    cbk.train(NET, X, Y, cbk.CBO(particles=4), epochs=3, progress=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "3/3" in shown.err
    assert all(word in shown.err for word in ("risk", "ess", "steps/s"))


BAR = """
import time, numpy as np, cbokernels as cbk
cbk.train(
    cbk.TwoLayer(1, 2, 1), np.ones((3, 1)), np.ones(3), cbk.Adam(), epochs=400, progress=True,
    callback=lambda state: time.sleep(0.005),
)
"""


@pytest.mark.parametrize(("where", "lines"), [("pipe", (4, 9)), ("dumb", (4, 9)), ("terminal", (12, 400))])
def test_the_bar_is_written_seldom_where_nothing_draws_it_in_place(where, lines):
    """Of two seconds: ten times each in a terminal, else after a tenth and then twice as late each time."""
    reader, writer = os.pipe() if where == "pipe" else os.openpty()
    if where != "pipe":
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))
    environment = {**os.environ, "TERM": "dumb" if where == "dumb" else "xterm", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", BAR], stderr=writer, env=environment)
    os.close(writer)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal tells that nobody writes any more
        while part := os.read(reader, 4096):
            shown += part
    os.close(reader)
    assert process.wait() == 0
    assert lines[0] <= shown.count(b"epoch/s") <= lines[1], shown.decode()
    assert b"400/400" in shown
    assert b"<" in shown  # the time left
    assert b"ess" not in shown  # Adam has none


def test_the_library_prints_nothing(capfd):
    cbk.train(NET, X, Y, cbk.CBO(particles=4), epochs=3)
    assert capfd.readouterr() == ("", "")


def test_progress_without_tqdm_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"progress=True needs tqdm: pip install 'cbokernels\[plots\]'"):
        cbk.train(NET, X, Y, cbk.CBO(particles=4), epochs=1, progress=True)


def test_without_a_console_there_is_no_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert cbk.train(NET, X, Y, cbk.CBO(particles=4), epochs=3, progress=True).nit == 3
