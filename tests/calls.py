"""A call of every kernel and of every kind of run, of some milliseconds, for tests of memory and threads."""

from __future__ import annotations

import zlib

import numpy as np

import cbokernels as cbk


def calls(seed, threads):
    """What the calls read, all of it, and the calls by name; another seed gives other numbers."""
    normal = np.random.default_rng(seed).standard_normal
    count = 800
    a, b, weights = normal((3, count, 2)), normal((3, count, 2)), np.ones(3)
    wide = normal((4, 300_000))
    one, many = cbk.TwoLayer(1, 50, 1), normal((40, 5000)).astype("f4")
    theta, data = normal((2000, 150)).astype("f4"), normal((5000, 1)).astype("f4")
    broad, images = cbk.TwoLayer(784, 64, 10), normal((1000, 784)).astype("f4")
    nets, labels = (normal((64, broad.size)) / 20).astype("f4"), np.arange(1000, dtype="i4") % 10
    zeros = np.where(images > 2, images, 0).astype("f4")
    few = cbk.TwoLayer(20, 30_000, 1)
    large = normal((2, few.size)).astype("f4")
    twenty, points = normal((500, 20)).astype("f4"), normal((700, 1, 1))
    pair, crowd, atoms = normal((1, 2, 2)), normal((1, 30_000, 2)), normal((30, count, 30))
    crowds = crowd[0, :15_000].reshape(3000, 5, 2)
    order = np.tile(np.arange(count), (len(atoms), 1))
    tanh, triples = cbk.TwoLayer(1, 50, 1, activation="tanh"), wide.reshape(-1, 3)
    options = {"num_threads": threads}
    entropy = {"loss": "cross_entropy", **options}
    read = (a, b, wide, order, many, theta, data, images, nets, labels, zeros, large, twenty)
    read += (points, pair, crowd, atoms)

    def train(net, method, count=1000, **more):
        x, y = (images, labels) if net is broad else (data[:count], data[:count])
        result = cbk.train(net, x, y, method, epochs=1, seed=seed, **more)
        return result.parameters, result.particles

    def minimize(start, method, **more):
        result = cbk.minimize(lambda x: x.sum(1), start, method, steps=2, seed=seed, **more)
        return result.parameters, result.particles

    return read, {
        "standard_normal": lambda: cbk.standard_normal(100, 20000, seed=seed, **options),
        "uniform": lambda: cbk.TwoLayer(1, 20000, 1).uniform(40, seed=seed, **options),
        "philox4x32": lambda: cbk.philox4x32(np.zeros((400_000, 4), "u4"), np.full(2, seed, "u4")),
        "cbo_update": lambda: cbk.cbo_update(wide, wide[0], **options),
        "isotropic": lambda: cbk.cbo_update(wide, wide[0], noise="isotropic", **options),
        "adam_update": lambda: cbk.adam_update(wide, wide, wide.copy(), wide**2, **options),
        "hybrid_update": lambda: cbk.hybrid_update(wide, wide[0], wide, wide.copy(), wide**2, **options),
        "consensus": lambda: cbk.consensus(wide.reshape(-1, 2), np.arange(600_000.0), alpha=1e-6, **options),
        "forward": lambda: cbk.forward(one, theta[:400], data, **options),
        "risk": lambda: cbk.risk(one, theta, data, data, **options),
        "risk by products": lambda: cbk.risk(broad, nets[:4], images, labels, **entropy),
        "risk by lists": lambda: cbk.risk(broad, nets, zeros, labels, **entropy),
        "risk of crowded samples": lambda: cbk.risk(one, theta[:500], data**15, data, **options),
        "tanh": lambda: cbk.risk(tanh, theta[:200], data, data, **options),
        "task_risks": lambda: cbk.task_risks(one, theta, data, many, **options),
        "risk_gradient": lambda: cbk.risk_gradient(one, theta, data, data, **options),
        "gradient by products": lambda: cbk.risk_gradient(broad, nets[:4], images, labels, **entropy),
        "gradient by lists": lambda: cbk.risk_gradient(broad, nets, zeros, labels, **entropy),
        "wide gradient": lambda: cbk.risk_gradient(few, large, twenty, twenty[:, 0], **options),
        "atom_risks": lambda: cbk.atom_risks(broad, nets[0], nets, images[:200], labels[:200], **entropy),
        "langevin_step": lambda: cbk.langevin_step(one, theta.copy(), theta.copy(), data, data, **options),
        "assign": lambda: cbk.assign(a[:2], b[0], **options),
        "barycenter": lambda: cbk.barycenter(a, weights, iterations=2, **options),
        "barycenter of many": lambda: cbk.barycenter(crowds, np.ones(len(crowds)), iterations=2, **options),
        "wasserstein2": lambda: cbk.wasserstein2(a, b[:1], **options),
        "wasserstein_over_wasserstein": lambda: cbk.wasserstein_over_wasserstein(
            points[:500], points[:500] ** 3, **options
        ),
        "transport_update": lambda: cbk.transport_update(atoms, atoms[0], order, **options),
        "sinkhorn": lambda: cbk.sinkhorn(pair, crowd[0], epsilon=10.0, **options),
        "sinkhorn of as many": lambda: cbk.sinkhorn(a[:2], b[0], epsilon=1.0, tolerance=0.1, **options),
        "sinkhorn_barycenter": lambda: cbk.sinkhorn_barycenter(
            crowd, weights[:1], support=pair[0], epsilon=10.0, tolerance=0.5, **options
        ),
        "short rows": lambda: cbk.cbo_update(triples, triples[0], noise="isotropic", **options),
        "short rows of Adam": lambda: cbk.hybrid_update(
            triples, triples[0], triples, triples.copy(), triples**2, **options
        ),
        "short particles of transport": lambda: cbk.transport_update(
            triples[:, :, None], triples[0, :, None], np.tile(np.arange(3), (len(triples), 1)), **options
        ),
        "consensus of tasks": lambda: cbk.consensus(triples, triples, alpha=2.0, **options),
        "consensus of long rows": lambda: cbk.consensus(nets, np.arange(64.0) % 9, alpha=0.1, **options),
        "tasks of tanh": lambda: cbk.task_risks(tanh, theta[:50], data, many[:8], **options),
        "gradient of tanh": lambda: cbk.risk_gradient(tanh, theta[:100], data, data, **options),
        "train": lambda: train(broad, cbk.CBO(particles=64), batch_size=500, **entropy),
        "train on batches": lambda: train(one, cbk.CBO(particles=50), batch_size=50, **options),
        "train some": lambda: train(broad, cbk.CBO(particles=30, particle_batch=20), **entropy),
        "train by Adam": lambda: train(broad, cbk.Adam(particles=4), batch_size=500, **entropy),
        "train by both": lambda: train(broad, cbk.Hybrid(particles=9), **entropy),
        "train by transport": lambda: train(broad, cbk.TransportCBO(particles=10), **entropy),
        "train by a heavy ball": lambda: train(broad, cbk.HeavyBall(particles=4, temperature=1.0), **entropy),
        "train by hopping": lambda: train(one, cbk.ConsensusHopping(particles=80_000), 50, **options),
        "train by hopping of atoms": lambda: train(
            cbk.TwoLayer(1, 2000, 1), cbk.ConsensusHopping(particles=600, scope="atom"), 9, **options
        ),
        "train by hopping of low rank": lambda: train(
            broad, cbk.ConsensusHopping(particles=200), batch_size=200, **entropy
        ),
        "minimize": lambda: minimize(wide, cbk.CBO(), **options),
        "minimize by ess": lambda: minimize(triples[:100_000], cbk.CBO(alpha=cbk.TargetEss(0.5)), **options),
        "minimize by hopping": lambda: minimize(
            wide[:1], cbk.ConsensusHopping(particles=20, weights=cbk.TargetEss(0.5)), **options
        ),
        "minimize by short hops": lambda: minimize(
            triples[:1], cbk.ConsensusHopping(particles=200_000), **options
        ),
    }


def digest(result):
    """Of the bits of all parts of a call's result."""
    parts = result if isinstance(result, tuple) else (result,)
    return [zlib.crc32(np.ascontiguousarray(part)) for part in parts if part is not None]
