"""Times a step of workloads B and C (bench/README.md) on ranks with a card each, which more ranks share.

    mpiexec -n 1 python bench/mpi_cards.py         # also the run without comm, by turns
    mpiexec -n 2 python bench/mpi_cards.py

A line for each workload, with medians: seconds of an allreduce of as many numbers as a step sends, and of a
step of all particles. "apart" is how far the points are from a run's without comm, relative to their size.
With CBOKERNELS_CUDA_AWARE_MPI=0 sums go through the host, also where MPI is CUDA-aware.
"""

import dataclasses
import statistics
import time
import warnings

import numpy as np
from mpi import CASES, step_seconds
from mpi4py import MPI

import cbokernels as cbk
from cbokernels.distributed import Communicator

COMM, REPEATS, ON = MPI.COMM_WORLD, 5, "cuda"


def allreduce_seconds(numbers: int) -> float:
    values, out = np.ones(numbers), np.empty(numbers)
    began = time.perf_counter()
    for _ in range(20):
        COMM.Allreduce(values, out)
    return (time.perf_counter() - began) / 20


def main() -> None:
    warnings.simplefilter("ignore", cbk.CboWarning)
    for case in (dataclasses.replace(case, steps=200) for case in CASES if case.name in "BC"):
        told: dict[str, list[float]] = {"allreduce": [], "step": [], "step without comm": []}
        for _ in range(REPEATS):
            COMM.Barrier()
            told["allreduce"].append(allreduce_seconds(case.net.size))
            told["step"].append(step_seconds(case, case.particles, Communicator(COMM), ON))
            if COMM.size == 1:
                told["step without comm"].append(step_seconds(case, case.particles, None, ON))
        points, (x, y) = [], case.data()
        for comm in (Communicator(COMM), None):
            run = cbk.train(
                case.net, x.astype(float), y, case.method(case.particles), epochs=10, comm=comm, device=ON,
                dtype="float64",
            )  # fmt: skip
            points.append(run.parameters)
        apart = np.abs(points[0] - points[1]).max() / np.abs(points[1]).max()
        if COMM.rank == 0:
            text = ", ".join(f"{name} {statistics.median(t):.3g} s" for name, t in told.items() if t)
            aware = ", CUDA-aware MPI" if Communicator(MPI.COMM_SELF).cuda_aware else ""
            print(f"{case.name}: ranks {COMM.size}{aware}: {text}; apart {apart:.1e}", flush=True)


if __name__ == "__main__":
    main()
