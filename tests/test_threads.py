"""How many threads a call uses where the user gives no number, and how they wait."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

BEGIN = """
import os
import numpy as np
import cbokernels as cbk

def count():
    return len(os.listdir("/proc/self/task"))

before = count()
"""
SMALL = """
theta = np.zeros((20, 20))
cbk.minimize(lambda p: (p**2).sum(axis=1), theta, steps=3, seed=1)
net = cbk.TwoLayer(2, 10, 1)
x = np.random.default_rng(0).random((60, 2), np.float32)
methods = [cbk.CBO(20)]
methods += [cbk.Adam(4), cbk.Hybrid(20), cbk.ConsensusHopping(), cbk.TransportCBO(5), cbk.HeavyBall()]
for method in methods:
    cbk.train(net, x, x[:, 0], method, epochs=2, batch_size=20)
cbk.consensus(theta, np.arange(20.0))
cbk.wasserstein2(np.random.default_rng(0).random((3, 5, 2)), np.random.default_rng(1).random((3, 5, 2)))
cbk.sinkhorn(np.random.default_rng(0).random((3, 5, 2)), np.random.default_rng(1).random((5, 2)), epsilon=0.1)
print(count() - before)
cbk.standard_normal(600, 3, seed=0, num_threads=2)
print(count() - before)
"""
CROWDED = """
import time

def ran(thread):
    fields = open(f"/proc/self/task/{thread}/stat").read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
mine = set(os.listdir("/proc/self/task"))
cbk.standard_normal(300, 1000, seed=0, num_threads=2)
(other,) = set(os.listdir("/proc/self/task")) - mine
began = time.process_time()
while time.process_time() - began < 2:
    cbk.standard_normal(300, 1000, seed=0, dtype="float64")
print(ran(other), ran(os.getpid()))
"""


def child(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {n: v for n, v in os.environ.items() if not n.startswith(("OMP_", "GOMP_", "KMP_"))}
    settings |= {"OMP_NUM_THREADS": "2", **environment}
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code], env=settings, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done


linux = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")


@linux
def test_small_calls_start_no_thread_and_a_number_is_obeyed():
    assert child(SMALL).stdout.split() == ["0", "1"]


@linux
def test_a_thousand_threads_are_not_started():
    """More than 64 only where there are more cores."""
    code = "cbk.standard_normal(5000, 300, seed=0, num_threads=1000)\nprint(count() - before)"
    assert int(child(code).stdout) == max(64, os.cpu_count()) - 1


@linux
def test_threads_that_share_a_core_are_given_up():
    other, main = map(int, child(CROWDED).stdout.split())
    assert other < main / 2, (other, main)  # about equal where both are always used


@pytest.mark.parametrize("user", [{}, {"GOMP_SPINCOUNT": "77"}, {"OMP_WAIT_POLICY": "active"}])
def test_threads_wait_for_a_short_time_unless_the_user_says_how(user):
    show = 'print([n for n in os.environ if n.startswith(("GOMP_", "KMP_"))])'
    done = child(show, OMP_DISPLAY_ENV="verbose", **user)
    assert done.stdout.strip() == str([n for n in user if n.startswith("GOMP_")])
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("not GCC's OpenMP")
    shown = done.stderr.partition("GOMP_SPINCOUNT = '")[2].partition("'")[0]
    assert (shown == "5000") == (not user)
    assert (shown == "77") == ("GOMP_SPINCOUNT" in user)
