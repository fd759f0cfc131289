"""Runs that tests interrupt: `python faults.py CASE PATH THREADS EVERY` tells its epochs on stdout."""

from __future__ import annotations

import sys

import numpy as np

import cbokernels as cbk

EPOCHS = 200
NET = cbk.TwoLayer(2, 8, 1)
X = np.random.default_rng(8).uniform(-1, 1, (200, 2))
Y = np.sin(3 * X[:, 0]) * X[:, 1]
YS = np.stack([Y, Y**2])
CASES = {
    "cbo": cbk.CBO(particles=20, floor=0.1, particle_batch=15),
    "heavy ball form": cbk.CBO(particles=20, diffusion=0.5, friction=4.0, floor=0.02),
    "adam": cbk.Adam(particles=3, lr=0.01),
    "hybrid": cbk.Hybrid(particles=20),
    "multitask": cbk.MultiTaskCBO(particles=20, diffusion=0.5, floor=0.1),
    "transport": cbk.TransportCBO(particles=5, diffusion=0.1, iterations=2),
    "hopping": cbk.ConsensusHopping(particles=20, spread=0.1, lr=0.05),
    "heavy ball": cbk.HeavyBall(particles=3, temperature=1e-3),
    "flow": cbk.GradientFlow(particles=3, temperature=1e-3),
    "minimize": cbk.CBO(diffusion=0.5),
    "minimize by hopping": cbk.ConsensusHopping(particles=20, spread=0.1, lr=0.05),
}


def rastrigin(theta):
    return (theta**2 - 10 * np.cos(2 * np.pi * theta) + 10).sum(axis=1)


def run(name, epochs=EPOCHS, **arguments):
    """One of the cases; the same bits whatever it is interrupted by."""
    method = CASES[name]
    if name.startswith("minimize"):
        particles = 1 if "hopping" in name else 20
        theta = np.random.default_rng(3).uniform(-3, 3, (particles, 4))
        return cbk.minimize(rastrigin, theta, method, steps=epochs, seed=7, **arguments)
    y = YS if name == "multitask" else Y
    return cbk.train(NET, X, y, method, epochs=epochs, batch_size=20, seed=7, **arguments)


def assert_same(a, b):
    np.testing.assert_array_equal(a.parameters, b.parameters)
    np.testing.assert_array_equal(a.particles, b.particles)
    assert list(a.history) == list(b.history)
    for name in a.history.keys() - {"seconds"}:
        np.testing.assert_array_equal(a.history[name], b.history[name])


if __name__ == "__main__":
    case, path, threads, every = sys.argv[1:]
    run(
        case,
        checkpoint=path,
        resume=True,
        num_threads=int(threads),
        every=int(every),
        callback=lambda state: print(state.epoch, flush=True),
    )
