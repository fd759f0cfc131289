"""Problems of consensus hopping with noise of low rank, and their risks by networks that are formed."""

from __future__ import annotations

import dataclasses

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


@dataclasses.dataclass
class NearlyOff:
    """Draws around a centre whose neuron 0 is off, 0 on all samples that count, in some of their networks."""

    arguments: tuple
    off: np.ndarray  # [draws, signs]
    on: np.ndarray
    without: float  # the risk without the neuron

    def check(self, got):
        """The risks [draws, signs] with the neuron replaced."""
        off, on = got[self.off], got[self.on]
        assert min(len(off), len(on)) >= 10
        assert len(np.unique(off)) == 1
        np.testing.assert_allclose(off, self.without, rtol=2e-7 if self.arguments[1].dtype == "f4" else 1e-14)
        assert np.all(np.abs(on / self.without - 1) > 1e-9)


def nearly_off(activation, center_is, rank, batch, mirrored, dtype):
    net, center, x, _, labels = problem(100, 7, 5, 40, dtype, activation=activation)
    center *= 0.3
    x *= x.dtype.type(0.3)
    first, biases = net.unpack(center)[:2]
    z = x @ first[0]
    weights = np.ones(40, dtype)
    if center_is == "on where it does not count":
        weights[z.argmax()] = 0
    biases[0] = (-0.2 if center_is == "off" else 0.1) - z.max()
    draws, spread = 45 if mirrored else 90, 0.15
    xi = reference.hopping_noise(net, draws, rank=rank, batch=x if batch else None, seed=5, step=7)
    theta = np.stack([center + sign * spread * xi for sign in ((1, -1) if mirrored else (1,))], axis=1)
    w, b = net.unpack(theta.reshape(90, -1))[:2]
    highest = (w[:, 0] @ x[weights > 0].T + b[:, :1]).max(axis=1).reshape(draws, -1)
    without = center.copy()
    net.unpack(without)[2][:, 0] = 0
    risk = reference.risk(net, without[None], x, labels, loss="cross_entropy", sample_weight=weights)[0]
    arguments = (net, center, 90, spread, x, (labels, weights), "cross_entropy", rank, batch, True)
    return NearlyOff(arguments, highest < -1e-3, highest > 1e-3, risk)


# size of weights, spread, whether all classes have the same weights
LOST = [(1e4, 1e-10, True), (1e4, 1e-4, True), (1e5, 1e-3, True), (1e9, 1e-2, False), (1e13, 1e-10, True)]


def lost_differences(size, spread, alike, rank, dtype):
    """Arguments for outputs of 1e8 and more, with risks as uncertain, and the largest formed one."""
    net, center, x, _, _ = problem(8, 3, 4, 20, dtype, scaling="none")
    center *= center.dtype.type(size)
    if alike:
        net.unpack(center)[2][:] = net.unpack(center)[2][:1]
    labels = reference.forward(net, center[None], x)[0].argmax(axis=1).astype(np.int32)
    xi = reference.hopping_noise(net, 17, rank=rank, seed=5, step=7).astype(dtype)
    step = center.dtype.type(spread) * xi
    formed = cbk.atom_risks(
        net, center, np.concatenate([center + step, center - step]), x, labels, loss="cross_entropy"
    )
    assert np.isfinite(formed).all()
    return (net, center, 34, spread, x, labels, "cross_entropy", rank, False, True), formed.max()
