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
    free directions b, the minibatch x [S, d] for directions in its span, which are free too where S >= d,
    where x x^T + ridge is singular, and where the ridge is below 1e-300, or below 1e-68 with a float32 x.
    """
    key = {"seed": seed, "step": step, "first_particle": first_particle}
    xi = standard_normal(draws, net.size, **key)
    if rank is None:
        return xi
    signs, b = _signs(net, draws, rank, key), _directions(net, draws, rank, batch, key)
    if b.shape[-1] != net.inputs:
        b = b @ np.linalg.solve(_root(batch), np.asarray(batch, float))
    first = np.einsum("pkm,pkd->pmd", signs, b) / np.sqrt(rank)
    xi[:, : first[0].size] = first.reshape(draws, -1)
    return xi


def least_squares_weights(
    net: TwoLayer,
    risk: Any,
    *,
    rank: int = 1,
    batch: Any = None,
    seed: int,
    step: int = 0,
    first_particle: int = 0,
) -> Any:
    """Weights [P, M] of the noise of P pairs whose drift fits the differences of their risks [2 P, M].

    Neuron by neuron K delta' = delta. delta are the differences of c - s xi and c + s xi, rows 2p + 1 and
    2p, made of length 1, and delta' is made of length 1 too. K is the Gram matrix of the pairs' noise, over
    the length of a direction in the first layer and over 10 in the rest, and 0.02 more on the diagonal. A
    pair with a difference that is not finite has no part in it. The other arguments are `hopping_noise`'s.
    """
    risk = np.asarray(risk, float)
    draws = len(risk) // 2
    key = {"seed": seed, "step": step, "first_particle": first_particle}
    signs, e = _signs(net, draws, rank, key), _directions(net, draws, rank, batch, key)
    rest = standard_normal(draws, net.size, **key)[:, net.width * net.inputs :]
    rest = rest[:, : net.width * (1 + net.outputs)].reshape(draws, 1 + net.outputs, net.width)
    grams = np.einsum("pki,qli->pkql", e, e) / e.shape[-1] / rank
    with np.errstate(invalid="ignore", over="ignore"):
        differences = risk[1::2] - risk[::2]
    weights = np.zeros((draws, net.width))
    for m, delta in enumerate(differences.T):
        counts = np.isfinite(delta)
        own = rest[..., m]
        gram = np.einsum("pk,pkql,ql->pq", signs[..., m], grams, signs[..., m]) + 0.1 * own @ own.T
        gram = (gram + 0.02 * np.eye(draws))[np.ix_(counts, counts)]
        if counts.any() and np.any(delta[counts]):
            delta = delta[counts] / np.abs(delta[counts]).max()
            found = np.linalg.solve(gram, delta / np.linalg.norm(delta))
            weights[counts, m] = found / np.linalg.norm(found)
    return weights


def _signs(net: TwoLayer, draws: int, rank: int, key: dict[str, int]) -> Any:
    """a [draws, rank, M]."""
    count = rank * -(-net.width // 32)
    w = words(draws, 4 * count, stream=_SIGNS, **key)[:, :count, None]
    bits = (w >> np.arange(32, dtype=np.uint32)) & np.uint32(1)
    return 1.0 - 2.0 * bits.reshape(draws, rank, -1)[..., : net.width]


def _directions(net: TwoLayer, draws: int, rank: int, batch: Any, key: dict[str, int]) -> Any:
    """b [draws, rank, d], or e [draws, rank, S] where these are in the batch's span."""
    free = batch is None or _root(batch) is None
    length = net.inputs if free else len(batch)
    return standard_normal(draws, rank * length, stream=_DIRECTIONS, **key).reshape(draws, rank, -1)


def _root(x: Any) -> Any:
    """L with L L^T = x x^T + ridge, None where directions are free."""
    least = 1e-68 if np.asarray(x).dtype == np.float32 else 1e-300
    x = np.asarray(x, float)
    if len(x) >= x.shape[1]:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        gram = x @ x.T
        ridge = _RIDGE * (np.diag(gram) / len(x)).sum()
        if not least <= ridge < np.inf:
            return None
        try:
            return np.linalg.cholesky(gram + ridge * np.eye(len(x)))
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
