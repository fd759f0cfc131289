"""Work for tests of processes and threads: kernels and runs of every kind, told as one text."""

from __future__ import annotations

import hashlib

import numpy as np

import cbokernels as cbk


def digest(seed: int, num_threads: int | None = 2) -> str:
    """Of the bits of all results; the same in every process and for any number of threads."""
    rng = np.random.default_rng(seed)
    cores = {"num_threads": num_threads}
    net = cbk.TwoLayer(3, 20, 1)
    theta = net.uniform(40, seed=seed, **cores)
    x, y = rng.normal(size=(300, 3)).astype("f4"), rng.normal(size=300).astype("f4")
    risk, gradient = cbk.risk_gradient(net, theta, x, y, **cores)
    consensus = cbk.consensus(theta, risk, alpha=10.0, **cores)
    moved = cbk.cbo_update(theta, consensus.point, seed=seed, **cores)
    atoms = net.atoms(theta).astype(float)
    runs = [
        cbk.train(net, x, y, method, epochs=2, batch_size=100, seed=seed, **cores)
        for method in (cbk.CBO(particles=20), cbk.Adam(particles=3), cbk.TransportCBO(particles=4))
    ]
    runs.append(cbk.minimize(lambda t: (t**2).sum(axis=1), theta, steps=3, seed=seed, **cores))
    arrays = [
        cbk.forward(net, theta, x, **cores),
        cbk.risk(net, theta, x, y, **cores),
        gradient,
        consensus.point,
        moved,
        cbk.assign(atoms, atoms[0], **cores).cost,
        cbk.sinkhorn(atoms[:3], atoms[0], epsilon=1.0, **cores).cost,
        cbk.standard_normal(10, 100, seed=seed, **cores),
        *(array for run in runs for array in (run.parameters, run.particles)),
    ]
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()
