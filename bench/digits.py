"""Accuracy on held-out digits and seconds: consensus hopping with noise of rank 1 beside Adam, with the same
weight decay.

    python bench/digits.py --data DIR [--width 20] [--weight-decay 0.1] [--seeds 3] [--held-out first]

DIR has MNIST's t10k files (IDX, gzip). 8,000 of the 10,000 digits are learned from, the last or the first
2,000 are held out; inputs are centred; 30 epochs of minibatches of 100.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import cbokernels as cbk
from cbokernels.experiments.mnist import load

EPOCHS, BATCH, HELD_OUT = 30, 100, 2000
RATE = cbk.Exponential(0.1, 0.001)
HOPPING = cbk.ConsensusHopping(scope="atom", rank=1, directions="batch", spread=0.1, lr=RATE)
METHODS = {"consensus hopping": HOPPING, "Adam": cbk.Adam(lr=RATE)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--width", type=int, default=20)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--held-out", choices=["last", "first"], default="last")
    parser.add_argument("--num-threads", type=int)
    told = parser.parse_args()
    x, y = load(told.data)
    out = slice(-HELD_OUT, None) if told.held_out == "last" else slice(HELD_OUT)
    learned = np.ones(len(x), bool)
    learned[out] = False
    x = x - x[learned].mean(axis=0)
    net = cbk.TwoLayer(x.shape[1], told.width, 10)
    print(f"784-{told.width}-10, weight decay {told.weight_decay}, {cbk.isa()}, held out: {told.held_out}")
    for name, method in METHODS.items():
        rows = []
        for seed in range(told.seeds):
            began = time.perf_counter()
            result = cbk.train(
                net, x[learned], y[learned], method, epochs=EPOCHS, batch_size=BATCH, seed=seed,
                weight_decay=told.weight_decay, num_threads=told.num_threads,
            )  # fmt: skip
            seconds = time.perf_counter() - began
            hits = [(result.predict(x[part]).argmax(axis=1) == y[part]).mean() for part in (learned, out)]
            rows.append((100 * hits[1], 100 * hits[0], seconds))
        held, known, seconds = np.median(rows, axis=0)
        each = ", ".join(f"{row[0]:.2f}" for row in rows)
        print(f"{name}: held out {held:.2f} % ({each}), learned {known:.2f} %, {seconds:.2f} s", flush=True)


if __name__ == "__main__":
    main()
