"""Noise of full and of low rank and the weights of consensus hopping, in plain NumPy float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._reference_random import standard_normal, words
from .network import TwoLayer

_SIGNS, _DIRECTIONS = 4, 5  # streams of the random numbers
_RIDGE = 1e-6  # of the Gram matrix's mean diagonal, added to its diagonal


def hopping_noise(
    net: TwoLayer,
    draws: int,
    *,
    rank: int | None = None,
    batch: Any = None,
    seed: int,
    step: int = 0,
    first_particle: int = 0,
) -> Any:
    """Noise xi [draws, D] of a step of `ConsensusHopping`.

    rank: None for independent normals, r for a first layer of (1 / sqrt r) sum_k a_k b_k^T. batch: None for
    free directions b, the minibatch x [S, d] for directions in its span, which are free too where S >= d or
    x x^T + ridge is singular.
    """
    key = {"seed": seed, "step": step, "first_particle": first_particle}
    xi = standard_normal(draws, net.size, **key)
    if rank is None:
        return xi
    w = words(draws, 4 * rank * -(-net.width // 32), stream=_SIGNS, **key)
    bits = (w[:, : rank * -(-net.width // 32), None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1)
    signs = 1.0 - 2.0 * bits.reshape(draws, rank, -1)[..., : net.width]
    lower = None if batch is None else _root(np.asarray(batch, float))
    if lower is None:
        b = standard_normal(draws, rank * net.inputs, stream=_DIRECTIONS, **key).reshape(draws, rank, -1)
    else:
        e = standard_normal(draws, rank * len(batch), stream=_DIRECTIONS, **key).reshape(draws, rank, -1)
        b = e @ np.linalg.solve(lower, np.asarray(batch, float))
    first = np.einsum("pkm,pkd->pmd", signs, b) / np.sqrt(rank)
    xi[:, : first[0].size] = first.reshape(draws, -1)
    return xi


def _root(x: Any) -> Any:
    """L with L L^T = x x^T + ridge, None where directions are free."""
    if len(x) >= x.shape[1]:
        return None
    gram = x @ x.T
    try:
        return np.linalg.cholesky(gram + _RIDGE * np.trace(gram) / len(x) * np.eye(len(x)))
    except np.linalg.LinAlgError:
        return None


def rank_weights(risk: Any) -> Any:
    """Weights of risks [N, columns], column by column: log(N/2 + 1/2) - log(rank + 1), not below 0,
    normalised; 0 for NaN and infinities. Equal risks share their weights equally."""
    risk = np.asarray(risk, float)
    order = np.argsort(np.where(np.isfinite(risk), risk, np.inf), axis=0, kind="stable")
    raw = np.maximum(0, np.log(len(risk) / 2 + 0.5) - np.log(np.arange(len(risk)) + 1.0))
    weights = np.empty_like(risk)
    np.put_along_axis(weights, order, np.broadcast_to(raw[:, None], risk.shape), axis=0)
    weights[~np.isfinite(risk)] = 0
    for own, column in zip(weights.T, risk.T, strict=True):
        _, level, count = np.unique(column, return_inverse=True, return_counts=True)
        own[:] = (np.bincount(level, own) / count)[level]
    return weights / weights.sum(axis=0)


def rounded(net: TwoLayer, theta: Any, weights: str, *, center: Any = None) -> Any:
    """theta [..., D] with each layer's weights as t clip(round(w / t), -q, q), halves to even.

    weights: "ternary", q = 1 and t the mean of |c|, or "int8", q = 127 and t = max |c| / 127, over the same
    layer of center [D]; None: theta [D] itself. Biases are not rounded.
    """
    theta = np.array(theta, float)
    center = theta if center is None else np.asarray(center, float)
    for part, of in zip(net.unpack(theta)[::2], net.unpack(center)[::2], strict=True):
        if weights == "ternary":
            q, t = 1, np.abs(of).mean()
        else:
            q, t = 127, np.abs(of).max() / 127
        part[...] = t * np.clip(np.round(part / t), -q, q) if t else 0.0
    return theta
