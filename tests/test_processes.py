"""The library in threads and in processes of every kind: always the same bits, never a hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import threading
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import calls
import fuzz
import numpy as np
import pytest
from work import digest

import cbokernels as cbk

SEEDS = [3, 4]
LIMIT = 60  # seconds after which a child that hangs is ended
# Python warns of a fork of a process with threads, which is what is tried here.
forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(scope="module")
def expected():
    """Digests of this process, which has used its threads by then."""
    return [digest(seed) for seed in SEEDS]


def fork_and_work(expected):
    """Exit status of a forked child: 0 if it found the same digest."""
    child = os.fork()
    if child == 0:
        signal.alarm(LIMIT)
        os._exit(digest(SEEDS[0]) != expected[0])
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_any_number_of_threads(expected):
    assert [digest(SEEDS[0], threads) for threads in (1, 3, None)] == [expected[0]] * 3
    assert expected[0] != expected[1]


@forks
def test_a_fork_after_use(expected):
    assert fork_and_work(expected) == 0


@forks
def test_forks_while_threads_are_at_work(expected):
    done = threading.Event()

    def work():
        while not done.is_set():
            digest(SEEDS[0])

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        assert [fork_and_work(expected) for _ in range(4)] == [0] * 4
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_no_property_has_a_lock_that_a_fork_may_inherit():
    """functools.cached_property has one for all objects of a class, up to Python 3.11."""
    source = Path(cbk.__file__).parent
    users = [path for path in source.rglob("*.py") if "@functools.cached_property" in path.read_text()]
    assert users == []


@forks
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(expected, method):
    with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
        assert list(pool.map(digest, SEEDS, timeout=LIMIT)) == expected


@forks
def test_loky(expected):
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    results = joblib.Parallel(n_jobs=2, backend="loky", timeout=LIMIT)(
        joblib.delayed(digest)(s) for s in SEEDS
    )
    assert results == expected
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown()


class Outputs:
    """A data set whose samples are computed by kernels, in the workers of a loader."""

    net = cbk.TwoLayer(3, 50, 2)
    theta = net.uniform(20, seed=0)
    x = np.random.default_rng(1).normal(size=(4, 500, 3)).astype("f4")

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return cbk.forward(self.net, self.theta, self.x[i], num_threads=2)


@forks
def test_workers_of_a_data_loader():
    data = pytest.importorskip("torch.utils.data", reason="PyTorch is not installed")
    own = Outputs()
    expected = np.stack([own[i] for i in range(len(own))])
    loader = data.DataLoader(own, batch_size=2, num_workers=2, timeout=LIMIT)
    np.testing.assert_array_equal(np.concatenate([batch.numpy() for batch in loader]), expected)


def test_eight_threads_at_once(expected):
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(digest, SEEDS * 8))
    assert results == expected * 8


def test_four_threads_in_the_same_kernel():
    """Neighbours have other numbers than each other: memory that two calls shared would show."""
    tables = [calls.calls(seed, 2)[1] for seed in SEEDS]
    with warnings.catch_warnings(), ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("ignore", cbk.CboWarning)
        for name in tables[0]:
            work = [partial(lambda call: calls.digest(call()), table[name]) for table in tables]
            alone = [call() for call in work]
            assert list(pool.map(lambda call: call(), work * 2)) == alone * 2, name
            assert alone[0] != alone[1], name


SUBINTERPRETER = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
if sys.argv[1] == "after":
    import cbokernels
code = f'''
import sys
sys.path[:0] = {sys.path!r}
try:
    import cbokernels
except ImportError as error:
    print(error, flush=True)
'''
interpreters.run_string(interpreters.create(), code)
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_sub_interpreters_are_told(when):
    run = subprocess.run(
        [sys.executable, "-c", SUBINTERPRETER, when],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    expected = "cbokernels must be imported in the main interpreter of a process, got a sub-interpreter"
    assert (run.returncode, run.stderr) == (0, "")
    assert expected in run.stdout


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="needs a free-threaded Python")
def test_free_threading_stays():
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import sys, cbokernels; print(sys._is_gil_enabled())"],
        capture_output=True, text=True, timeout=LIMIT, check=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHON_GIL"},
    )  # fmt: skip
    assert run.stdout.split() == ["False"]


def test_eight_threads_make_random_calls(monkeypatch):
    """All kernels at once, each against its reference; the seed is in the message."""
    faults = []
    # catch_warnings is for one thread; whole runs, which look for warnings, are left out
    quiet = SimpleNamespace(catch_warnings=nullcontext, simplefilter=lambda *_: None)
    monkeypatch.setattr(fuzz, "warnings", quiet)

    def work(first):
        try:
            fuzz.fuzz(33, (n for n in range(first, 160, 8) if n % fuzz.RUN_EVERY != fuzz.RUN_EVERY - 1))
        except fuzz.Disagreement as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(8)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cbk.CboWarning)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert faults == []
