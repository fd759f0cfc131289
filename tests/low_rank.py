"""Problems of consensus hopping with noise of low rank, and their risks by networks that are formed."""

from __future__ import annotations

import numpy as np

import cbokernels as cbk
from cbokernels import reference

KEY = (5, 0, 7, 0)


def problem(inputs, width, outputs, samples, dtype="float64", **more):
    rng = np.random.default_rng([inputs, width, outputs, samples])
    net = cbk.TwoLayer(inputs, width, outputs, **more)
    x = rng.normal(size=(samples, inputs)).astype(dtype)
    y = rng.normal(size=(samples, outputs)).astype(dtype)
    return net, rng.normal(size=net.size).astype(dtype), x, y, rng.integers(0, outputs, samples, np.int32)


def explicit(
    net, center, particles, spread, x, y, loss, rank, batch, atoms, mirrored=True, opposites_last=False
):
    """The risks of networks that are formed, from the reference's noise."""
    draws = particles // 2 if mirrored else particles
    xi = reference.hopping_noise(net, draws, rank=rank, batch=x if batch else None, seed=5, step=7)
    theta = center + spread * xi
    if mirrored:
        opposite = center - spread * xi
        theta = np.concatenate([theta, opposite]) if opposites_last else np.stack([theta, opposite], axis=1)
        theta = theta.reshape(particles, -1)
    if atoms:
        return reference.atom_risks(net, center, theta, x, y, loss=loss)
    return reference.risk(net, theta, x, y, loss=loss)[:, None]
