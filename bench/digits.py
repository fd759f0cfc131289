"""Accuracy on held-out digits and seconds: consensus hopping with noise of rank 1 beside Adam, with the same
weight decay. Networks of signs or steps, and of weights that are rounded, have no gradient: there the
straight-through estimator, which makes one up, takes Adam's place.

    python bench/digits.py --data DIR [--width 20] [--weight-decay 0.1] [--seeds 3] [--held-out first]
                           [--particles 100] [--activation sign] [--weights ternary] [--device cuda]

DIR has MNIST's t10k files (IDX, gzip). 8,000 of the 10,000 digits are learned from, 2,000 are held out: the
last, the first, those between, or every fifth. Inputs are centred; 30 epochs of minibatches of 100.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

import cbokernels as cbk
from cbokernels.experiments._straight_through import JUMPS, StraightThrough
from cbokernels.experiments.mnist import load

EPOCHS, BATCH, HELD_OUT = 30, 100, 2000
SPLITS = {  # which are held out
    "last": slice(-HELD_OUT, None),
    "first": slice(HELD_OUT),
    "second": slice(HELD_OUT, 2 * HELD_OUT),
    "third": slice(2 * HELD_OUT, 3 * HELD_OUT),
    "fourth": slice(3 * HELD_OUT, 4 * HELD_OUT),
    **{f"fifth-{k}": slice(k, None, 5) for k in range(5)},
}
RATE = cbk.Exponential(0.1, 0.001)
HOPPING = cbk.ConsensusHopping(scope="atom", rank=1, directions="batch", spread=0.1, lr=RATE)
JUMPING = HOPPING.set_params(spread=cbk.Exponential(0.3, 0.1))  # of jumps less is seen from nearby


def methods(told: argparse.Namespace) -> dict[str, Any]:
    """By name."""
    jumps, weights = told.activation in JUMPS, told.weights
    hopping = (JUMPING if jumps else HOPPING).set_params(particles=told.particles)
    if not jumps and weights is None:
        return {"consensus hopping": hopping, "Adam": cbk.Adam(lr=RATE)}
    if weights is not None:  # full noise: what is rounded is formed
        hopping = hopping.set_params(
            weights=weights, rank=None, directions="free", spread=cbk.Exponential(0.3, 0.1)
        )
    return {
        "consensus hopping": hopping,
        "straight-through estimator": StraightThrough(lr=RATE, weights=weights),
    }


def halves(folder: Path, held_out: str) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Centred inputs and labels: 8,000 to learn from, 2,000 held out."""
    x, y = load(folder)
    out = np.zeros(len(x), bool)
    out[SPLITS[held_out]] = True
    x = x - x[~out].mean(axis=0)
    return (x[~out], y[~out]), (x[out], y[out])


def accuracy(net: cbk.TwoLayer, theta: Any, x: Any, y: Any) -> float:
    """Per cent."""
    return 100 * float((cbk.forward(net, theta[None], x)[0].argmax(axis=1) == y).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--width", type=int, default=20)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--held-out", choices=SPLITS, default="last")
    parser.add_argument("--particles", type=int, default=HOPPING.particles)
    parser.add_argument("--activation", default="relu")
    parser.add_argument("--weights", choices=["ternary", "int8"])
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--num-threads", type=int)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    told = parser.parse_args()
    learned, out = halves(told.data, told.held_out)
    # a mean of jumps would be small beside what the weight decay leaves of the second layer
    scaling = "none" if told.activation in JUMPS else "mean"
    net = cbk.TwoLayer(learned[0].shape[1], told.width, 10, told.activation, scaling)
    print(f"{net}, weight decay {told.weight_decay}, {cbk.isa()}, held out: {told.held_out}")
    for name, method in methods(told).items():
        rows = []

        def run(seed: int, method: Any = method) -> Any:
            return cbk.train(
                net, *learned, method, epochs=EPOCHS, batch_size=BATCH, seed=seed,
                weight_decay=told.weight_decay, num_threads=told.num_threads,
                device="cpu" if isinstance(method, StraightThrough) else told.device,
            ).parameters  # fmt: skip

        if told.device == "cuda":
            run(0)  # what a process does once on a card is none of a run's
        for seed in range(told.first_seed, told.first_seed + told.seeds):
            began = time.perf_counter()
            theta = run(seed)
            seconds = time.perf_counter() - began
            rows.append((accuracy(net, theta, *out), accuracy(net, theta, *learned), seconds))
        held, known, seconds = np.median(rows, axis=0)
        each = ", ".join(f"{row[0]:.2f}" for row in rows)
        error = np.std([row[0] for row in rows], ddof=1) / len(rows) ** 0.5 if len(rows) > 1 else np.nan
        mean = f"mean {np.mean(rows, axis=0)[0]:.2f} +- {error:.2f}"
        print(
            f"{name}: held out {held:.2f} % ({each}; {mean}), learned {known:.2f} %, {seconds:.2f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
