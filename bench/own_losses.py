"""What a C function as the loss costs beside built-in losses, on workloads A and B.

    python bench/own_losses.py        # needs a C compiler

Least of many calls on one thread, interleaved. On workload A "mse" goes by knots, which know this loss alone;
"mae" goes through the samples, as a loss of one's own does.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import cbokernels as cbk

SOURCE = r"""
#include <math.h>
#include <stdint.h>
double squares(const float *g, const float *y, int64_t count) {
  double sum = 0;
  for (int64_t c = 0; c < count; ++c) sum += ((double)g[c] - y[c]) * ((double)g[c] - y[c]);
  return sum;
}
double entropy(const float *g, const float *label, int64_t count) {
  float top = g[0], sum = 0;
  for (int64_t c = 1; c < count; ++c) top = g[c] > top ? g[c] : top;
  for (int64_t c = 0; c < count; ++c) sum += expf(g[c] - top);
  return logf(sum) + top - g[(int64_t)*label];
}
"""


def compiled(name: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "losses.c"), Path(folder, "losses.so")
        source.write_text(SOURCE)
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", source, "-o", library, "-lm"], check=True)
        function = ctypes.CDLL(str(library))[name]
    pointer = ctypes.POINTER(ctypes.c_float)
    function.restype, function.argtypes = ctypes.c_double, (pointer, pointer, ctypes.c_int64)
    return function


def main() -> None:
    rng = np.random.default_rng(0)
    x = {"A": rng.uniform(-1, 1, (800, 1)).astype("f4"), "B": rng.random((1000, 784), "f4")}
    y = {"A": np.sin(3 * x["A"][:, 0]), "B": rng.integers(0, 10, 1000)}
    workloads: dict[str, tuple[Any, int, int, dict[str, Any]]] = {
        "A": (cbk.TwoLayer(1, 100), 200, 500, {"mae": "mae", "mse": "mse", "own mse": compiled("squares")}),
        "B": (
            cbk.TwoLayer(784, 20, 10), 1000, 5,
            {"cross_entropy": "cross_entropy", "own cross_entropy": compiled("entropy")},
        ),
    }  # fmt: skip
    print("| workload | loss | ms | of the first |\n|---|---|---|---|")
    for name, (net, particles, calls, losses) in workloads.items():
        ensembles = [net.uniform(particles, seed=seed) for seed in range(4)]
        least = dict.fromkeys(losses, float("inf"))
        for call in range(calls):
            for told, loss in losses.items():
                began = time.perf_counter()
                cbk.risk(net, ensembles[call % 4], x[name], y[name], loss=loss, num_threads=1)
                least[told] = min(least[told], time.perf_counter() - began)
        first = next(iter(least.values()))
        for told, seconds in least.items():
            print(f"| {name} | {told} | {1e3 * seconds:.3f} | {seconds / first:.2f} |", flush=True)


if __name__ == "__main__":
    main()
