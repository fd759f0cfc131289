"""Memory and time of one ensemble for T tasks beside an ensemble for each, on the paper's hundred sines.

    python bench/multitask_memory.py [--tasks 1 10 100] [--particles 200] [--threads 2]

Sines shifted by -1 to 1, 8000 shared samples, 800 a step, M=100, N particles in each ensemble. Prints a
Markdown table. Each figure comes from a process of its own; memory is its peak beyond that of an epoch on one
task with two particles before, so that data, code and libraries do not count. Separate ensembles are trained
one after the other and all of them are kept.
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

NET = cbk.TwoLayer(inputs=1, width=100, outputs=1)


def peak() -> float:
    """Peak resident memory so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(tasks: int, particles: int, threads: int, shared: bool, epochs: int = 5) -> None:
    """Print MB above the data and seconds an epoch of all tasks."""
    x = np.random.default_rng(0).random((8000, 1), np.float32)
    ys = np.empty((tasks, 8000), np.float32)
    for y, shift in zip(ys, np.linspace(-1, 1, tasks), strict=True):  # without temporaries of that size
        y[:] = np.sin(2 * np.pi * x[:, 0]) + shift
    more = {"epochs": epochs, "batch_size": 800, "num_threads": threads}
    multi = cbk.MultiTaskCBO(particles=particles)
    single = cbk.CBO(particles=particles, alpha=multi.alpha, diffusion=multi.diffusion, dt=multi.dt)
    cbk.train(NET, x, ys[:1], cbk.MultiTaskCBO(particles=2), epochs=1, batch_size=800, num_threads=threads)
    before, began = peak(), time.perf_counter()
    if shared:
        kept = [cbk.train(NET, x, ys, multi, **more)]
    else:
        kept = [cbk.train(NET, x, y, single, seed=task, **more) for task, y in enumerate(ys)]
    seconds = time.perf_counter() - began
    print(peak() - before, seconds / epochs, len(kept))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--particles", type=int, default=200)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--child", choices=["shared", "separate"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure(options.tasks[0], options.particles, options.threads, options.child == "shared")
        return
    print(f"N={options.particles}, {cbk.isa()}, {options.threads} threads\n")
    print("| tasks | one ensemble: MB | s an epoch | an ensemble each: MB | s an epoch |")
    print("|---:|---:|---:|---:|---:|")
    for tasks in options.tasks:
        cells = []
        for kind in ("shared", "separate"):
            command = [sys.executable, __file__, "--child", kind, "--tasks", str(tasks)]
            command += ["--particles", str(options.particles), "--threads", str(options.threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            memory, seconds, _ = map(float, done.stdout.split())
            cells.append(f"{memory:.1f} | {seconds:.3g}")
        print(f"| {tasks} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
