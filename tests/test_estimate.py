"""What `estimate` says beforehand, beside what runs then take."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import time

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels.methods.base import Setting, Shape

SMALL = cbk.TwoLayer(3, 8, 2)
METHODS = [
    cbk.CBO(particles=300),
    cbk.CBO(particles=300, friction=4.0),
    cbk.CBO(particles=300, particle_batch=100),
    cbk.MultiTaskCBO(particles=300),
    cbk.TransportCBO(particles=300),
    cbk.ConsensusHopping(particles=300),
    cbk.Adam(particles=300),
    cbk.Hybrid(particles=300),
    cbk.HeavyBall(particles=300),
    cbk.GradientFlow(particles=300),
]


def arrays_of(thing):
    """The memory of all arrays that an object holds, each once."""
    found = {}
    for value in [*vars(thing).values(), *thing.state_dict().values()]:
        for array in value if isinstance(value, tuple) else [value]:
            if isinstance(array, np.ndarray):
                while isinstance(array.base, np.ndarray):
                    array = array.base
                found[id(array)] = array.nbytes
    return sum(found.values())


of_methods = pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)


@pytest.mark.parametrize(
    ("method", "tasks"),
    [(method, 1) for method in METHODS] + [(cbk.MultiTaskCBO(), 3), (cbk.TransportCBO(), 3)],
    ids=lambda value: getattr(type(value), "__name__", value),
)
def test_the_formulas_are_of_the_arrays_that_there_are(method, tasks, dtype):
    method = method._for(Shape(SMALL))
    theta = method._initial(SMALL, 0, np.dtype(dtype), 1, slice(0, method._drawn()))
    held = arrays_of(method._stepper(theta, Setting(0, 1, SMALL, tasks, tasks > 1)))
    told = cbk.estimate(SMALL, method, 10, 2, tasks=tasks, dtype=dtype)
    assert told.particles == theta.nbytes
    expected = told.particles + told.arrays
    if isinstance(method, cbk.TransportCBO):  # counts what a row of history takes for a moment
        expected -= theta.size * (theta.itemsize + 24)
    assert held == pytest.approx(expected, rel=0.05, abs=2000)


# Peak of a run above what the process had before x and y; a small run has warmed it up.
PEAK = """
import sys, warnings
import numpy as np
import cbokernels as cbk

def peak():
    # of this program: getrusage starts from the peak of the process that forked it
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024

net, method, samples, epochs, options = eval(sys.argv[1])
warnings.simplefilter("ignore")
small = cbk.TwoLayer(net.inputs, 2, net.outputs)
cbk.train(small, np.ones((9, net.inputs)), np.ones((9, net.outputs)), cbk.Adam(), epochs=2)
before = peak()
x = np.random.default_rng(0).random((samples, net.inputs), np.float32)
y = np.ones((samples, net.outputs), np.float32)
cbk.train(net, x, y, method, epochs=epochs, num_threads=2, **options)
print(peak() - before)
"""


RUNS = {
    "cbo": "cbk.TwoLayer(784, 20, 10), cbk.CBO(particles=1000), 50, 2, {}",
    "heavy ball form": "cbk.TwoLayer(784, 20, 10), cbk.CBO(particles=500, friction=4.0), 50, 2, {}",
    "adam": "cbk.TwoLayer(784, 20, 10), cbk.Adam(particles=300), 50, 2, {}",
    "heavy ball": "cbk.TwoLayer(784, 20, 10), cbk.HeavyBall(particles=300), 50, 2, {}",
    "transport": "cbk.TwoLayer(2, 100, 1), cbk.TransportCBO(particles=2500), 20, 2, {}",
    "hopping": "cbk.TwoLayer(784, 20, 10), cbk.ConsensusHopping(particles=4000), 10, 1, {}",
    "batches": "cbk.TwoLayer(60, 4, 1), cbk.CBO(particles=4), 200_000, 2, {'batch_size': 50_000}",
    "knots": "cbk.TwoLayer(1, 4, 1), cbk.CBO(particles=400), 400_000, 1, {}",
    "history": "cbk.TwoLayer(1, 2, 1), cbk.Adam(particles=10_000), 10, 200, {}",
}


FEW = ("cbo", "hopping", "batches")  # each takes most of another kind: particles, draws, data


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FEW else [pytest.mark.slow]) for name in RUNS]
)
def test_memory_is_what_a_run_takes(name):
    """Within a factor of 1.25 and 8 MiB, which is more than is taken for workspaces."""
    run = subprocess.run(
        [sys.executable, "-c", PEAK, RUNS[name]], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    measured = int(run.stdout)
    net, method, samples, epochs, options = eval(RUNS[name])
    told = cbk.estimate(net, method, samples, epochs, num_threads=2, **options)
    assert told.memory == told.particles + told.arrays + told.data + told.scratch + told.history
    assert told.fits
    print(f"{name}: measured {measured / 2**20:.1f} MiB, told {told.memory / 2**20:.1f} MiB")
    assert (measured - 2**23) / 1.25 < told.memory < 1.25 * measured + 2**23, told


def test_seconds_are_those_of_a_run():
    """Within a factor of 3, in one of twenty attempts: others may use the machine."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((400, 3)), rng.standard_normal((400, 2))
    ratios = []
    for _ in range(20):
        told = cbk.estimate(SMALL, cbk.CBO(), 400, 200, batch_size=50, num_threads=1)
        began = time.perf_counter()
        cbk.train(SMALL, x, y, cbk.CBO(floor=0.1), epochs=200, batch_size=50, num_threads=1)
        ratios.append(told.seconds / (time.perf_counter() - began))
        if 1 / 3 < ratios[-1] < 3:
            return
    raise AssertionError(ratios)


def test_seconds_grow_with_the_epochs():
    short, long = (cbk.estimate(SMALL, cbk.Adam(), 50, epochs, num_threads=1) for epochs in (1, 1000))
    assert 0 < short.seconds < long.seconds
    assert short.history < long.history


@of_methods
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_every_method_can_be_estimated(method, loss):
    told = cbk.estimate(SMALL, method, 9, 3, batch_size=4, loss=loss)
    assert told.seconds > 0


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        (cbk.CBO(particles=2**32), {}),
        (cbk.CBO(), {"epochs": 2**32 - 1}),
        (cbk.CBO(), {"samples": 2**39}),
        (cbk.Adam(particles=2**31), {}),
    ],
    ids=["particles", "epochs", "samples", "moments"],
)
def test_what_cannot_fit_is_told_and_not_tried(method, arguments):
    told = cbk.estimate(SMALL, method, **{"samples": 10, "epochs": 5, **arguments})
    assert not told.fits
    assert told.memory > told.available > 2**20
    assert math.isnan(told.seconds)


def test_sizes_that_overflow_are_a_memory_error():
    huge = cbk.TwoLayer(1, 2**30, 2**30)
    for make in (
        lambda: huge.uniform(2**32, seed=0),
        lambda: huge.torch_default(2**32, seed=0),
        lambda: cbk.standard_normal(2**32, 2**34, seed=0, dtype="float64"),
        lambda: cbk.train(
            huge, np.ones((2, 1)), np.zeros(2, int), cbk.CBO(particles=2**32), loss="cross_entropy"
        ),
    ):
        with pytest.raises(
            MemoryError, match=r"\[4294967296, \d+\] of float(32|64) would take \d.*e\+\d+ bytes"
        ):
            make()
    assert not cbk.estimate(huge, cbk.CBO(particles=2**32), 2, 5).fits


def test_a_limit_of_the_process_counts():
    code = (
        "import resource, cbokernels as cbk; resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33));"
        "print(cbk.estimate(cbk.TwoLayer(2, 3, 1), cbk.Adam(), 9, 2).available)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) <= 2**33


def test_it_is_a_value():
    told = cbk.estimate(SMALL, cbk.CBO(), 9, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        told.memory = 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"net": "net"}, TypeError, "net must be a cbokernels.TwoLayer, got 'net'"),
        ({"method": cbk.CBO}, TypeError, "method must be a method"),
        ({"samples": 0}, ValueError, r"samples must be an integer in \[1, 2\^40\), got 0"),
        ({"epochs": 1.5}, TypeError, "epochs must be an integer, got 1.5"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"tasks": 2}, ValueError, "tasks must be 1 for CBO, got 2"),
        ({"loss": "l1"}, ValueError, "loss must be one of"),
        ({"device": "tpu"}, ValueError, "device must be one of"),
        ({"dtype": "float16"}, TypeError, "dtype must be"),
        ({"num_threads": 0}, ValueError, "num_threads"),
    ],
)
def test_wrong_arguments_are_named(change, error, message):
    arguments = {"net": SMALL, "method": cbk.CBO(), "samples": 9, "epochs": 2, **change}
    with pytest.raises(error, match=message):
        cbk.estimate(**arguments)
