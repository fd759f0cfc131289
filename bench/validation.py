"""What validation, the best point and patience cost a step of workload A besides the evaluations themselves.

    python bench/validation.py --rounds 25

Runs of one step an epoch take turns with and without them, on one thread. The least processor time of a step
counts. An evaluation is a call of `cbk.risk`.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import cbokernels as cbk

NET = cbk.TwoLayer(1, 100, 1)
EPOCHS = 300


def data(seed: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).random((800, 1), dtype=np.float32)
    return x, np.sin(2 * np.pi * x[:, 0])


def seconds(work, *arguments, **keywords) -> float:
    began = time.process_time()
    work(*arguments, **keywords)
    return (time.process_time() - began) / EPOCHS


def evaluate(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    for _ in range(EPOCHS):
        cbk.risk(NET, theta, x, y, num_threads=1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=25)
    rounds = parser.parse_args().rounds
    (x, y), new = data(0), data(1)
    method = cbk.CBO(alpha=np.inf, floor=cbk.Exponential(0.1, 0.001))
    run = {"epochs": EPOCHS, "batch_size": 800, "num_threads": 1}
    theta = NET.uniform(1, seed=0)
    plain, watched, alone = [], [], []
    for _ in range(rounds):
        plain.append(seconds(cbk.train, NET, x, y, method, **run))
        watched.append(seconds(cbk.train, NET, x, y, method, validation=new, patience=10**6, **run))
        alone.append(seconds(evaluate, theta, *new))
    step, rest = min(plain), min(watched) - min(plain) - min(alone)
    print(
        f"a step {1e6 * step:.1f} us, an evaluation {1e6 * min(alone):.1f} us, "
        f"beside it {1e6 * rest:.1f} us: {100 * rest / step:.1f} %"
    )


if __name__ == "__main__":
    main()
