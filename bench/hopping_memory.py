"""Memory and time of consensus hopping by the number of particles, on the sine (M=100, 800 samples a step).

    python bench/hopping_memory.py [--particles 200 10000 1000000 10000000] [--threads 2]

Prints a Markdown table. Each row is a process of its own; memory is its peak beyond the peak of a step with
200 particles before, so that data, code and libraries do not count.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time

import numpy as np

import cbokernels as cbk


def peak() -> float:
    """Peak resident memory so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(particles: int, scope: str, threads: int) -> None:
    """Print MB and seconds of a step with so many particles."""
    net = cbk.TwoLayer(inputs=1, width=100, outputs=1)
    x = np.random.default_rng(0).random((800, 1), np.float32)
    y = np.sin(2 * np.pi * x[:, 0])

    def run(count: int, steps: int) -> float:
        ends: list[float] = []
        method = cbk.ConsensusHopping(particles=count, scope=scope)
        cbk.train(
            net, x, y, method, epochs=steps, num_threads=threads,
            callback=lambda state: ends.append(time.perf_counter()),
        )  # fmt: skip
        return float(np.median(np.diff(ends)))

    run(200, 3)
    before = peak()
    seconds = run(particles, 2 if particles > 100_000 else 30)
    print(peak() - before, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--particles", type=int, nargs="+", default=[200, 10_000, 1_000_000])
    parser.add_argument("--scope", choices=["network", "atom"], default="network")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure(options.particles[0], options.scope, options.threads)
        return
    print(f"scope {options.scope}, {cbk.isa()}, {options.threads} threads\n")
    print("| particles | MB above the data | seconds a step | particles a second |")
    print("|---:|---:|---:|---:|")
    for particles in options.particles:
        command = [sys.executable, __file__, "--child", "--particles", str(particles)]
        command += ["--scope", options.scope, "--threads", str(options.threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        memory, seconds = map(float, done.stdout.split())
        print(f"| {particles:,} | {memory:.1f} | {seconds:.3g} | {particles / seconds:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
