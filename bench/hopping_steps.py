"""How near the drift of consensus hopping is to the minibatch's gradient, by the number of particles: their
cosine, a mean over the neurons' first layers. Scope "atom", pairs, noise of rank 1, directions in the batch's
span.

    python bench/hopping_steps.py --data DIR

Data and networks are those of bench/digits.py with 20 neurons, after 3 and 20 epochs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from digits import HOPPING, halves

import cbokernels as cbk
from cbokernels import _cpu

DRIFTS = ("mean", "least_squares")


def cosine(net: cbk.TwoLayer, center: Any, x: Any, y: Any, particles: int, drift: str, step: int) -> float:
    """At a centre [D], on a minibatch; the drift of `ConsensusHopping` by `drift`."""
    gradient, found = (
        cbk.risk_gradient(net, center[None], x, y, loss="cross_entropy")[1][0],
        np.empty_like(center),
    )
    _cpu.low_rank_gradient(
        net._kernel, center, particles, 0.1, True, (9, 0, step, 0), x, y.astype(np.int32), "cross_entropy", 1,
        True, True, 0.0, drift == "least_squares", found, 1,
    )  # fmt: skip
    own, of = net.unpack(found)[0], net.unpack(gradient)[0]
    length = np.linalg.norm(own, axis=1) * np.linalg.norm(of, axis=1)
    return float(((own * of).sum(axis=1) / np.maximum(length, 1e-300)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    (x, y), _ = halves(parser.parse_args().data, "second")
    net = cbk.TwoLayer(x.shape[1], 20, 10)
    for epochs in (3, 20):
        options: Any = {"epochs": epochs, "batch_size": 100, "seed": 5, "weight_decay": 0.1, "num_threads": 1}
        center = cbk.train(net, x, y, HOPPING, **options).parameters.astype(float)
        for batch in range(2):
            rows = np.random.default_rng(batch).choice(len(x), 100, replace=False)
            for particles in (100, 200, 1000):
                given = (net, center, x[rows].astype(float), y[rows], particles)
                told = ", ".join(f"{drift} {cosine(*given, drift, epochs):.2f}" for drift in DRIFTS)
                print(f"epoch {epochs}, minibatch {batch}, N = {particles}: {told}", flush=True)


if __name__ == "__main__":
    main()
