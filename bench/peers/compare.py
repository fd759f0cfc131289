"""Times cbokernels beside what a good user would write with NumPy and CBXpy, in one run, interleaved.

    pip install cbx && python bench/peers/compare.py [--rounds 15] [--threads 2] [--items A B overhead]

Prints a Markdown table: medians in milliseconds with their range, and the ratio of the medians. Every timing
of an item takes its turn in every round, and the ensemble changes between rounds. Workloads: A (sine) N=200,
M=100, d=1, C=1, S=800, ReLU, squared error; B (mnist) N=1000, M=20, d=784, C=10, S=1000, ReLU, cross entropy,
19 % of the pixels non-zero.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np

import cbokernels as cbk
from cbokernels import _cpu

Timings = dict[str, list[float]]


def interleave(
    rounds: int, contestants: dict[str, Callable[[int], object]], inner: dict[str, int]
) -> Timings:
    """Milliseconds per call of each contestant, `inner[name]` calls at a time, one turn each per round."""
    timings: Timings = {name: [] for name in contestants}
    for turn in range(-1, rounds):  # the first turn warms up
        for name, call in contestants.items():
            calls = inner.get(name, 1)
            began = time.perf_counter()
            for i in range(calls):
                call(max(turn, 0) * calls + i)
            if turn >= 0:
                timings[name].append((time.perf_counter() - began) / calls * 1e3)
    return timings


def workload_a() -> tuple[cbk.TwoLayer, list[np.ndarray], np.ndarray, np.ndarray]:
    net = cbk.TwoLayer(1, 100, 1)
    x = np.random.default_rng(1).random((800, 1), np.float32)
    y = np.sin(2 * np.pi * x[:, 0]).astype(np.float32)
    return net, [net.uniform(200, seed=s) for s in range(5)], x, y


def workload_b() -> tuple[cbk.TwoLayer, list[np.ndarray], np.ndarray, np.ndarray]:
    net = cbk.TwoLayer(784, 20, 10)
    rng = np.random.default_rng(2)
    x = (rng.random((1000, 784)) * (rng.random((1000, 784)) < 0.19)).astype(np.float32)
    return net, [net.uniform(1000, seed=s) for s in range(2)], x, rng.integers(0, 10, 1000).astype(np.int32)


def numpy_loop(net: cbk.TwoLayer, theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """One particle at a time: its hidden activations stay in cache."""
    out = np.empty(len(theta))
    m = net.width
    hidden = np.empty((len(x), m), np.float32)
    for n, t in enumerate(theta):
        np.multiply(x, t[:m], out=hidden)
        hidden += t[m : 2 * m]
        np.maximum(hidden, 0, out=hidden)
        error = hidden @ t[2 * m :]
        error *= 1 / m
        error -= y
        out[n] = np.dot(error, error) / len(x)
    return out


def numpy_product(net: cbk.TwoLayer, theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """All particles' first layers as one matrix product."""
    m, c, n = net.width, net.outputs, len(theta)
    w, b, v, _ = net.unpack(theta)
    hidden = x @ w.reshape(n * m, -1).T
    hidden += b.reshape(-1)
    np.maximum(hidden, 0, out=hidden)
    logits = np.matmul(hidden.reshape(len(x), n, m).transpose(1, 0, 2), v.transpose(0, 2, 1))
    logits *= 1 / m
    logits -= logits.max(axis=2, keepdims=True)
    total = np.log(np.exp(logits).sum(axis=2))
    total -= np.take_along_axis(logits, np.broadcast_to(y[None, :, None], (n, len(x), 1)), 2)[..., 0]
    assert logits.shape == (n, len(x), c)
    return total.mean(axis=1)


def our_steps(
    net: cbk.TwoLayer, theta: np.ndarray, steps: int, threads: int | None
) -> Callable[[int], object]:
    """`steps` training steps of workload A through `train`, at 10 minibatches of 800 an epoch."""
    rng = np.random.default_rng(3)
    x = rng.random((8000, 1), np.float32)
    y = np.sin(2 * np.pi * x[:, 0]).astype(np.float32)
    method = cbk.CBO(alpha=1e5, floor=0.01)
    return lambda _: cbk.train(
        net, x, y, method, epochs=steps // 10, batch_size=800, theta=theta, num_threads=threads
    )


def python_share(net: cbk.TwoLayer, theta: np.ndarray, rounds: int, threads: int | None) -> Timings:
    """Milliseconds per step of `train` inside and outside compiled code, by clocks around its calls."""
    steps, names = 1000, ("risk", "cbo_epoch", "permutation", "variance")
    kernels = {name: getattr(_cpu, name) for name in names}
    inside = 0.0

    def timed(kernel: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            nonlocal inside
            began = time.perf_counter()
            result = kernel(*args)
            inside += time.perf_counter() - began
            return result

        return call

    timings: Timings = {"cbk.train step, compiled": [], "cbk.train step, Python": []}
    run = our_steps(net, theta, steps, threads)
    run(0)
    try:
        for name, kernel in kernels.items():
            setattr(_cpu, name, timed(kernel))
        for _ in range(rounds):
            inside, began = 0.0, time.perf_counter()
            run(0)
            total = time.perf_counter() - began
            timings["cbk.train step, compiled"].append(inside / steps * 1e3)
            timings["cbk.train step, Python"].append((total - inside) / steps * 1e3)
    finally:
        for name, kernel in kernels.items():
            setattr(_cpu, name, kernel)
    return timings


def cbxpy_steps(
    net: cbk.TwoLayer, theta: np.ndarray, x: np.ndarray, y: np.ndarray
) -> Callable[[int], object]:
    """One step of CBXpy on the NumPy loop's risk, which is the faster of its forms."""
    from cbx.dynamics import CBO

    dynamic = CBO(
        lambda particles: numpy_loop(net, particles.astype(np.float32, copy=False), x, y),
        f_dim="2D", x=theta[None].copy(), noise="anisotropic", dt=0.1, alpha=1e5, sigma=1.6**0.5, lamda=1.0,
        max_it=10**9, verbosity=0,
    )  # fmt: skip
    return lambda _: dynamic.step()


def compare(
    rounds: int, threads: int | None, items: list[str]
) -> Iterator[tuple[str, Timings, list[tuple[str, str]]]]:
    """(item, timings, pairs to divide: peer by ours)."""
    a, ensembles, x, y = workload_a()
    if "A" in items:
        timings = interleave(
            rounds,
            {
                "NumPy loop": lambda i: numpy_loop(a, ensembles[i % 5], x, y),
                "cbk.risk": lambda i: cbk.risk(a, ensembles[i % 5], x, y, num_threads=threads),
            },
            {"cbk.risk": 20},
        )
        yield "A risk", timings, [("NumPy loop", "cbk.risk")]
        timings = interleave(
            rounds,
            {
                "CBXpy step": cbxpy_steps(a, ensembles[0], x, y),
                "100 steps of cbk.train": our_steps(a, ensembles[0], 100, threads),
            },
            {},
        )
        timings["cbk.train step"] = [t / 100 for t in timings.pop("100 steps of cbk.train")]
        yield "A whole step", timings, [("CBXpy step", "cbk.train step")]
    if "overhead" in items:
        yield "A whole step", python_share(a, ensembles[0], rounds, threads), []
    if "B" in items:
        b, ensembles, x, y = workload_b()
        timings = interleave(
            max(rounds // 3, 3),
            {
                "NumPy product": lambda i: numpy_product(b, ensembles[i % 2], x, y),
                "cbk.risk": lambda i: cbk.risk(
                    b, ensembles[i % 2], x, y, loss="cross_entropy", num_threads=threads
                ),
            },
            {},
        )
        yield "B risk", timings, [("NumPy product", "cbk.risk")]


def errors() -> Iterator[tuple[str, str, float]]:
    """(item, contestant, largest relative error of the risks against the float64 reference)."""
    for item, (net, ensembles, x, y), loss, peer in (
        ("A risk", workload_a(), "mse", numpy_loop),
        ("B risk", workload_b(), "cross_entropy", numpy_product),
    ):
        theta = ensembles[0][:50]
        truth = cbk.reference.risk(net, theta, x, y, loss=loss)
        yield item, peer.__name__, float(np.abs(peer(net, theta, x, y) / truth - 1).max())
        ours = cbk.risk(net, theta, x, y, loss=loss)
        yield item, "cbk.risk", float(np.abs(ours / truth - 1).max())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--items", nargs="+", default=["A", "overhead", "B"], choices=["A", "overhead", "B"])
    args = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} processors, {args.threads or _cpu.max_threads()} threads, "
        f"{cbk.isa()}, NumPy {np.__version__}, cbokernels {cbk.__version__}\n"
    )
    print("| item | contestant | median ms | min-max | ratio |\n|---|---|---|---|---|")
    for item, timings, pairs in compare(args.rounds, args.threads, args.items):
        middle = {name: statistics.median(values) for name, values in timings.items()}
        ratios = {ours: f"{middle[peer] / middle[ours]:.1f}" for peer, ours in pairs}
        for name, values in timings.items():
            spread = f"{min(values):.3f}-{max(values):.3f}"
            print(f"| {item} | {name} | {middle[name]:.3f} | {spread} | {ratios.get(name, '')} |", flush=True)
    print("\n| item | contestant | largest relative error |\n|---|---|---|")
    for item, contestant, error in errors():
        print(f"| {item} | {contestant} | {error:.1e} |")


if __name__ == "__main__":
    main()
