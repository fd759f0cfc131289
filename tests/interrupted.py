"""Long calls of every kernel, which a signal interrupts: `python interrupted.py` tells how stdin's end.

Arrays that are long enough for seconds of work are `folded`: many addresses, little memory.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import sys
import threading
import time
from unittest import mock

import numpy as np

import cbokernels as cbk
from cbokernels import _cpu

DELAY = 0.12  # seconds from the start of a call to its signal
CASES = {}
EMPTY = np.empty
CHUNK = 1 << 24  # bytes of memory that a folded array is made of
NORMALS = np.random.default_rng(1).standard_normal(CHUNK // 8).astype("float32")


def folded(shape, dtype="float32", pattern=None):
    """An array of standard normals, or of a pattern, that repeat every 16 MB, as its memory does."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    file = os.memfd_create("folded")
    pattern = NORMALS if pattern is None else pattern
    os.write(file, np.resize(pattern, CHUNK // np.dtype(dtype).itemsize).astype(dtype).tobytes())
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    whole = -(-size // CHUNK) * CHUNK
    start = libc.mmap(None, whole, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    assert start not in (None, ctypes.c_void_p(-1).value)
    fixed = 0x10
    for at in range(start, start + whole, CHUNK):
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        assert libc.mmap(at, CHUNK, protection, mmap.MAP_SHARED | fixed, file, 0) == at
    os.close(file)
    return np.frombuffer((ctypes.c_char * size).from_address(start), dtype).reshape(shape)


def is_long(shape, dtype):
    return np.prod(shape, dtype=float) * np.dtype(dtype).itemsize > 4 * CHUNK


def empty(shape, dtype=float, **options):
    return folded(shape, dtype) if is_long(shape, dtype) else EMPTY(shape, dtype, **options)


def normals(*shape, dtype="float32"):
    if is_long(shape, dtype):
        return folded(shape, dtype)
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def case(call):
    """call(large) prepares the call that is interrupted, or a small one, whose result must not change."""
    CASES[call.__name__] = call
    return call


@case
def standard_normal(large):
    return lambda: cbk.standard_normal(4, 1 << 31 if large else 50, seed=1)


@case
def short_rows_of_normals(large):
    return lambda: cbk.standard_normal(1 << 30 if large else 50, 4, seed=1, dtype="float64")


@case
def uniform(large):
    return lambda: cbk.TwoLayer(1, 1000, 1).uniform(2_000_000 if large else 10, seed=3)


@case
def philox4x32(large):
    count = 1 << 30 if large else 10
    counter, key = ((np.arange(1 << 20, dtype="uint32"), (count, words)) for words in (4, 2))
    counter, key = (folded(shape, "uint32", pattern) for pattern, shape in (counter, key))
    return lambda: cbk.philox4x32(counter, key)


@case
def permutation(large):
    out = folded(1 << 27, "int64") if large else np.empty(50, np.int64)
    return lambda: _cpu.permutation(out, len(out), 5, 1, 2) or out


def update(noise):
    def call(large):
        theta = folded((100_000, 25_000)) if large else normals(10, 7)
        radius = {"radius": 1.0} if noise == "truncated" else {}
        point = theta[1].copy()
        return lambda: cbk.cbo_update(theta, point, noise=noise, seed=2, out=theta, num_threads=2, **radius)

    call.__name__ = f"{noise}_update"
    return case(call)


for kind in ("anisotropic", "isotropic", "truncated"):
    update(kind)


@case
def short_rows(large):
    theta = folded((1 << 30, 3), "float64") if large else normals(10, 3, dtype="float64")
    return lambda: cbk.cbo_update(theta, theta[1].copy(), seed=2, out=theta, num_threads=2)


@case
def adam_update(large):
    theta, gradient, first, second = (
        folded((100_000, 25_000)) if large else abs(normals(10, 7)) for _ in range(4)
    )
    return lambda: cbk.adam_update(theta, gradient, first, second, step=3, out=theta, num_threads=2)


@case
def hybrid_update(large):
    theta, gradient, first, second = (
        folded((100_000, 25_000)) if large else abs(normals(10, 7)) for _ in range(4)
    )
    return lambda: cbk.hybrid_update(
        theta, theta[0].copy(), gradient, first, second, out=theta, num_threads=2
    )


@case
def consensus(large):
    theta = folded((20_000, 1_000_000)) if large else normals(10, 7)
    return lambda: cbk.consensus(theta, np.linspace(1, 2, len(theta)), alpha=1.0, num_threads=2)


@case
def short_consensus(large):
    theta = folded((1 << 29, 2)) if large else normals(10, 2)
    risk = folded(len(theta), "float64") if large else np.linspace(1, 2, len(theta))
    return lambda: cbk.consensus(theta, risk, alpha=1e3, num_threads=2)


@case
def consensus_at_ess(large):
    count = 1 << 28 if large else 50
    theta = folded((count, 1)) if large else normals(count, 1)
    risk, weights = (folded(count, "float64") if large else normals(count, dtype="float64") for _ in range(2))
    ess, alpha, point = np.empty(()), np.empty(1), np.empty(1, "float32")
    return lambda: _cpu.consensus_at_ess(theta, risk, 0.3 * count, alpha, point, weights, ess, 2) and alpha


@case
def variance(large):
    theta = folded((20_000, 2_000_000)) if large else normals(10, 7)
    return lambda: _cpu.variance(theta, 2)


def network(inputs, width, outputs=1, activation="tanh", **options):
    return cbk.TwoLayer(inputs, width, outputs, activation=activation, **options)


def small_of(net):
    options = {name: getattr(net, name) for name in ("activation", "scaling", "output_bias")}
    return cbk.TwoLayer(min(net.inputs, 800), min(net.width, 100), net.outputs, **options)


def score(name, whole, large_shape, sparse=False, function=cbk.risk, dtype="float32", tasks=None):
    """Risks of N particles on S samples."""

    def call(large):
        n, s = large_shape if large else (3, 20)
        net = whole if large else small_of(whole)
        theta = folded((n, net.size), dtype) if large else normals(n, net.size, dtype=dtype)
        x = normals(s, net.inputs, dtype=dtype)
        if sparse:
            x[x < 1.9] = 0
        if function is cbk.forward:
            return lambda: cbk.forward(net, theta, x, num_threads=2)
        y = normals(*tasks or (), s, net.outputs, dtype=dtype)
        return lambda: function(net, theta, x, y[..., 0] if net.outputs == 1 else y, num_threads=2)

    call.__name__ = name
    return case(call)


score("risk_direct", network(3, 500), (5000, 20_000))
score("risk_wide", network(1, 3_000_000), (2, 20_000))
score("risk_products", network(100, 512, 10), (2000, 8000))
score("risk_large_network", network(5000, 4000, 2), (2, 4000), dtype="float64")
score("risk_many_inputs", network(1_000_000, 1000, 2), (2, 10))
score("risk_lists", network(784, 100, 10, "relu"), (20_000, 3000), sparse=True)
score("risk_by_knots", network(1, 1000, activation="relu"), (2_000_000, 10_000))
score("task_risks_by_knots", network(1, 1000, activation="relu"), (1_000_000, 1000), function=cbk.task_risks,
      tasks=(20,))  # fmt: skip
score("task_risks", network(3, 100), (20_000, 10_000), function=cbk.task_risks, tasks=(10,))
score("forward", network(3, 1000), (500, 100_000), function=cbk.forward)
score("gradient_direct", network(3, 100), (20_000, 20_000), function=cbk.risk_gradient)
score("gradient_wide", network(1, 3_000_000), (2, 20_000), function=cbk.risk_gradient)
score("gradient_products", network(100, 512, 10), (1000, 8000), function=cbk.risk_gradient)
score("gradient_few_inputs", network(20, 10_000), (100, 20_000), function=cbk.risk_gradient)
score("gradient_lists", network(784, 100, 10, "relu"), (10_000, 3000), sparse=True,
      function=cbk.risk_gradient)  # fmt: skip
score("gradient_by_knots", network(1, 1000, activation="relu"), (2_000_000, 10_000),
      function=cbk.risk_gradient)  # fmt: skip


@case
def atom_risks(large):
    net, (n, s) = network(3, 100, 2), (20_000, 20_000) if large else (3, 20)
    theta, x, y = normals(n, net.size), normals(s, 3), normals(s, 2)
    return lambda: cbk.atom_risks(net, theta[0], theta, x, y, num_threads=2)


def training(name, method, whole=None, sample_count=100_000, **options):
    whole = whole or network(2, 100)

    def call(large):
        net = whole if large else small_of(whole)
        s = sample_count if large else 20
        x, y = normals(s, net.inputs), normals(s)
        small = {"particles": 4} if not large else {}
        chosen = type(method)(**{**vars(method), **small})
        batch_size = options.get("batch_size") if large else 7
        return lambda: cbk.train(net, x, y, chosen, epochs=1, num_threads=2, batch_size=batch_size).parameters

    call.__name__ = name
    return case(call)


training("train_cbo", cbk.CBO(particles=2000))
training("train_adam", cbk.Adam(particles=500), batch_size=1000)
training("train_hybrid", cbk.Hybrid(particles=500))
training("train_hopping", cbk.ConsensusHopping(particles=10_000_000), sample_count=100)
training("train_hopping_atoms", cbk.ConsensusHopping(particles=1_000_000, scope="atom"), sample_count=100)
training(
    "train_hopping_low_rank", cbk.ConsensusHopping(particles=300_000), network(784, 100), sample_count=100
)
training("train_transport", cbk.TransportCBO(particles=20), network(1, 4000), sample_count=100)
training("train_heavy_ball", cbk.HeavyBall(particles=500, temperature=0.1))


@case
def minimize(large):
    theta = normals(1_000_000 if large else 10, 10)
    steps = 200 if large else 5
    return lambda: cbk.minimize(lambda x: x.sum(1), theta, cbk.CBO(), steps=steps, num_threads=2).parameters


@case
def draw_ensemble(large):
    out = folded((4_000_000, 3000)) if large else normals(10, 5)
    center = normals(out.shape[1])
    return lambda: _cpu.draw_ensemble(center, 0.1, True, (3, 0, 4, 0), out, 2) or out


@case
def assign(large):
    m = 6000 if large else 9
    x, y = normals(1, m, 3, dtype="float64"), normals(m, 3, dtype="float64")
    return lambda: cbk.assign(x, y[::-1] ** 3, certificate=True, num_threads=2)


@case
def assign_many_coordinates(large):
    x, y = normals(1, 5000 if large else 9, 40), normals(5000 if large else 9, 40)
    return lambda: cbk.assign(x, y[::-1] ** 3, num_threads=2)


@case
def assign_many(large):
    x = normals(2_000_000 if large else 9, 10, 3)
    return lambda: cbk.assign(x, x[1], num_threads=2)


@case
def assign_matrix(large):
    n = 3000 if large else 9
    costs, match = np.outer(np.arange(n), np.arange(n)).astype(float), np.empty(n, "int32")
    return lambda: _cpu.assign_matrix(costs, match) or match


@case
def barycenter(large):
    x = normals(3, 3000 if large else 9, 3)
    return lambda: cbk.barycenter(x, np.ones(3), iterations=9, num_threads=2)


@case
def barycenter_of_many(large):
    x = normals(300_000 if large else 7, 5, 3)
    return lambda: cbk.barycenter(x, np.ones(len(x)), iterations=100, num_threads=2)


@case
def wasserstein2(large):
    x = normals(3000 if large else 9, 10, 3)
    return lambda: cbk.wasserstein2(x, x[::-1].copy(), num_threads=2)


@case
def wasserstein_over_wasserstein(large):
    x = normals(3000 if large else 9, 5, 3)
    return lambda: cbk.wasserstein_over_wasserstein(x, x[::-1] ** 3, num_threads=2)


@case
def transport_update(large):
    x = folded((100_000, 1024, 30)) if large else normals(7, 5, 3)
    match = np.arange(x.shape[1], dtype="int32")
    match = folded(x.shape[:2], "int32", match) if large else np.broadcast_to(match, x.shape[:2]).copy()
    return lambda: cbk.transport_update(x, x[0].copy(), match, out=x, num_threads=2)


@case
def sinkhorn(large):
    x, y = normals(1, 3000 if large else 9, 3), normals(3000 if large else 9, 3)
    return lambda: cbk.sinkhorn(x, y, tolerance=0.0 if large else 0.5, iterations=1_000_000, num_threads=2)


@case
def sinkhorn_of_few(large):
    x, y = normals(1, 20 if large else 9, 3), normals(20 if large else 9, 3)
    return lambda: cbk.sinkhorn(x, y, tolerance=0.0 if large else 0.5, iterations=100_000_000, num_threads=2)


@case
def sinkhorn_barycenter(large):
    x, iterations = normals(2, 1000 if large else 9, 3), 1000 if large else 1
    return lambda: cbk.sinkhorn_barycenter(x, np.ones(2), iterations=iterations, tolerance=0.5, num_threads=2)


@case
def langevin_step(large):
    net = network(1, 1000, scaling="mean")
    shape = (4_000_000 if large else 3, net.size)
    theta, velocity, gradient = (folded(shape) if large else normals(*shape) for _ in range(3))
    x, y = normals(5, 1), normals(5)
    return lambda: cbk.langevin_step(
        net, theta, velocity, x, y, temperature=0.1, gradient=gradient, num_threads=2
    )


def interrupted(call, number=signal.SIGINT):
    """What a call raises that gets a signal, and how long that takes, by the clock and of the processor.

    A machine that ends the call before its signal makes it again.
    """
    sent, ended = [], threading.Event()

    def send():
        if not ended.wait(DELAY):
            sent[:] = time.perf_counter(), time.process_time()
            os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    try:
        with mock.patch("numpy.empty", empty):
            sender.start()
            while not sent:
                call()
            sender.join()
            raised = "nothing"
    except BaseException as error:
        raised = type(error).__name__
    clock, work = time.perf_counter(), time.process_time()
    ended.set()
    sender.join()
    return raised, clock - sent[0] if sent else -1, work - sent[1] if sent else -1


def plain(result):
    """A result's bytes."""
    parts = result if isinstance(result, tuple) else (result,)
    return [np.asarray(part).tobytes().hex() for part in parts if part is not None]


if __name__ == "__main__":
    for name in map(str.strip, sys.stdin):
        small = plain(CASES[name](False)())
        large = CASES[name](True)
        print("begin", flush=True)
        raised, clock, work = interrupted(large)
        large = None
        same = plain(CASES[name](False)()) == small
        told = {"name": name, "raised": raised, "clock": clock, "work": work, "same": same}
        print(json.dumps(told), flush=True)
