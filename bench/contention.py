"""Times runs with default threads and with one thread, alone and beside busy processes.

    python bench/contention.py [--beside 2] [--repeats 5]

Prints the least seconds of several turns of each, and their ratio. More than 1.2 means that threads cost
more than they gain.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import cbokernels as cbk


def example(threads: int | None) -> Any:
    """The README's."""
    x = np.random.default_rng(0).random((8000, 1), dtype=np.float32)
    y = np.sin(2 * np.pi * x[:, 0])
    net = cbk.TwoLayer(inputs=1, width=100, outputs=1)
    method = cbk.CBO(particles=200, alpha=np.inf, floor=cbk.Exponential(0.1, 0.001))
    return cbk.train(net, x, y, method, epochs=300, batch_size=800, seed=0, num_threads=threads)


def small_train(threads: int | None) -> Any:
    x = np.random.default_rng(0).random((100, 2), dtype=np.float32)
    net = cbk.TwoLayer(inputs=2, width=10, outputs=1)
    method = cbk.CBO(particles=20)
    return cbk.train(net, x, x[:, 0] * x[:, 1], method, epochs=200, batch_size=20, num_threads=threads)


def small_minimize(threads: int | None) -> Any:
    theta = np.random.default_rng(0).standard_normal((20, 20))
    return cbk.minimize(lambda p: (p**2).sum(axis=1), theta, steps=200, num_threads=threads)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Other processes that never rest."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def least(run: Callable[[int | None], Any], repeats: int) -> tuple[float, float]:
    """Seconds with default threads and with one, in turns."""
    seconds: dict[int | None, float] = {None: np.inf, 1: np.inf}
    for _ in range(repeats):
        for threads in seconds:
            start = time.perf_counter()
            run(threads)
            seconds[threads] = min(seconds[threads], time.perf_counter() - start)
    return seconds[None], seconds[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--beside", type=int, default=2, help="busy processes")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print("| run | busy processes | default threads (s) | one thread (s) | ratio |\n|---|---|---|---|---|")
    for count in (0, options.beside):
        with busy(count):
            for run in (small_minimize, small_train, example):
                default, one = least(run, options.repeats)
                cells = [run.__name__, str(count), f"{default:.3f}", f"{one:.3f}", f"{default / one:.2f}"]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
