"""The straight-through estimator for networks of signs or steps, in NumPy: hopping is held against it.

Forward, the activation jumps. Backward, its derivative is taken for 1 where |z| <= window, else for 0
[Bengio, Leonard, Courville 2013; Hubara et al. 2016]. Adam with decoupled weight decay moves the parameters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import cbokernels as cbk

JUMPS = {"sign": -1, "step": 0}  # the value below 0; it is 1 from there up


def train(
    net: cbk.TwoLayer, x: Any, labels: Any, lr: Any, *, epochs: int, batch_size: int, seed: int,
    weight_decay: float, window: float = 1.0,
) -> Any:  # fmt: skip
    """theta [1, D] after training by cross entropy from uniform(-1, 1), as hopping starts."""
    theta = net.uniform(1, seed=seed)
    w, b, c, _ = (part if part is None else part[0] for part in net.unpack(theta))
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    scale = np.float32(1 / net.width if net.scaling == "mean" else 1)
    rng, step = np.random.default_rng(seed), 0
    for epoch in range(epochs):
        rate, order = lr(epoch, epochs), rng.permutation(len(x))
        for start in range(0, len(x), batch_size):
            rows = order[start : start + batch_size]
            z = x[rows] @ w.T + b
            hidden = np.where(z < 0, np.float32(JUMPS[net.activation]), np.float32(1))
            slope = _softmax(scale * hidden @ c.T)
            slope[np.arange(len(rows)), labels[rows]] -= 1
            slope *= scale / len(rows)
            delta = (slope @ c) * (np.abs(z) <= window)
            gradient = net.pack(delta.T @ x[rows], delta.sum(0), slope.T @ hidden)[None]
            step += 1
            theta -= np.float32(weight_decay * rate) * theta
            cbk.adam_update(theta, gradient, first, second, step=step, lr=rate, num_threads=1, out=theta)
    return theta


def _softmax(g: Any) -> Any:
    e = np.exp(g - g.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)
