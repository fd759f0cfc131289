"""NumPy as a good user writes it: one particle at a time, so that its activations stay in cache, or all first
layers as one matrix product. Functions keep the arrays' dtype: with float64 they are the errors' reference.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from workloads import SMALL, Array, Contestant, Item, Workload, workload


def mean_loss(out: Array, y: Array) -> float:
    """out [S, C] is overwritten."""
    if out.shape[1] == 1:
        error = out[:, 0]
        error -= y
        return float(np.dot(error, error) / len(y))
    out -= out.max(axis=1, keepdims=True)
    chosen = out[np.arange(len(y)), y].copy()
    return float((np.log(np.exp(out, out=out).sum(axis=1)) - chosen).mean())


def hidden_layer(work: Workload, w: Array, b: Array, x: Array, hidden: Array) -> None:
    if work.inputs == 1:
        np.multiply(x, w.T, out=hidden)
    else:
        np.matmul(x, w.T, out=hidden)
    hidden += b
    np.maximum(hidden, 0, out=hidden) if work.activation == "relu" else np.tanh(hidden, out=hidden)


def risks(work: Workload, theta: Array, x: Array, y: Array) -> Array:
    """[N], one particle at a time."""
    out: Array = np.empty(len(theta))
    hidden = np.empty((len(x), work.width), theta.dtype)
    for n, t in enumerate(theta):
        w, b, c = work.unpack(t)
        hidden_layer(work, w, b, x, hidden)
        g = hidden @ c.T
        g *= 1 / work.width
        out[n] = mean_loss(g, y)
    return out


def product(work: Workload, theta: Array, x: Array, y: Array) -> Array:
    """[N], all first layers as one product; cross entropy."""
    n, m = len(theta), work.width
    w, b, c = work.unpack(theta)
    hidden = x @ w.reshape(n * m, -1).T
    hidden += b.reshape(-1)
    np.maximum(hidden, 0, out=hidden) if work.activation == "relu" else np.tanh(hidden, out=hidden)
    logits = np.matmul(hidden.reshape(len(x), n, m).transpose(1, 0, 2), c.transpose(0, 2, 1))
    logits *= 1 / m
    logits -= logits.max(axis=2, keepdims=True)
    chosen = np.take_along_axis(logits, np.broadcast_to(y[None, :, None], (n, len(x), 1)), 2)[..., 0]
    total: Array = np.log(np.exp(logits, out=logits).sum(axis=2)) - chosen
    risk: Array = total.mean(axis=1)
    return risk


def gradients(work: Workload, theta: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Risks [N] and their gradients [N, D], one particle at a time."""
    risk, out = np.empty(len(theta)), np.empty_like(theta)
    hidden, back = np.empty((2, len(x), work.width), theta.dtype)
    for n, t in enumerate(theta):
        w, b, c = work.unpack(t)
        hidden_layer(work, w, b, x, hidden)
        g = hidden @ c.T
        g *= 1 / work.width
        if work.outputs == 1:
            error = g - y[:, None]
            risk[n], slope = float(np.square(error).mean()), 2 * error
        else:
            g -= g.max(axis=1, keepdims=True)
            slope = np.exp(g)
            total = slope.sum(axis=1, keepdims=True)
            rows = np.arange(len(y))
            risk[n] = float((np.log(total[:, 0]) - g[rows, y]).mean())
            slope /= total
            slope[rows, y] -= 1
        slope *= 1 / (len(x) * work.width)
        np.matmul(slope, c, out=back)
        gw, gb, gc = work.unpack(out[n])
        np.matmul(slope.T, hidden, out=gc)
        if work.activation == "relu":
            back *= hidden > 0
        else:
            np.multiply(hidden, hidden, out=hidden)
            np.subtract(1, hidden, out=hidden)
            back *= hidden
        np.sum(back, axis=0, out=gb)
        np.matmul(back.T, x, out=gw)
    return risk, out


def update(theta: Array, point: Array, noise: Array) -> None:
    """theta moves by (sigma sqrt(dt) noise - lambda dt) (theta - point)."""
    noise *= SMALL[1]
    noise -= SMALL[0]
    noise *= theta - point
    theta += noise


def consensus(theta: Array, risk: Array, alpha: float) -> Array:
    weights = np.exp(-alpha * (risk - risk.min()))
    weights /= weights.sum()
    point: Array = weights.astype(theta.dtype) @ theta
    return point


def shared(function: Callable[..., Any], pool: ThreadPoolExecutor, parts: int) -> Callable[..., list[Any]]:
    """`function` with the particles divided among threads; NumPy releases the interpreter's lock."""

    def call(work: Workload, theta: Array, x: Array, y: Array) -> list[Any]:
        return list(pool.map(lambda part: function(work, part, x, y), np.array_split(theta, parts)))

    return call


def joined(results: Iterable[Any]) -> list[Array]:
    """The arrays of `shared`."""
    parts = list(results)
    return (
        [np.concatenate(a) for a in zip(*parts, strict=True)]
        if isinstance(parts[0], tuple)
        else [np.concatenate(parts)]
    )


def contestants(item: Item, threads: int) -> dict[str, Contestant]:
    if item.kind not in ("risk", "gradient", "update", "consensus"):
        return {}
    work = workload(item.workload)
    (x, y), thetas = work.batch(), work.thetas
    alone = threads > 1 and os.environ.get("OPENBLAS_NUM_THREADS") == "1"
    if item.kind in ("risk", "gradient"):
        loop = risks if item.kind == "risk" else gradients
        if alone:
            divided = shared(loop, ThreadPoolExecutor(threads), threads)
            return {
                f"NumPy loop in {threads} Python threads": Contestant(
                    lambda i: divided(work, thetas[i % len(thetas)], x, y),
                    lambda: joined(divided(work, thetas[0], x, y)),
                )
            }
        found = {"NumPy loop": Contestant(lambda i: loop(work, thetas[i % len(thetas)], x, y))}
        if item.kind == "risk" and work.outputs > 1:
            found["NumPy product"] = Contestant(lambda i: product(work, thetas[i % len(thetas)], x, y))
        return found
    if alone:
        return {}
    if item.kind == "update":
        theta, point, rng = thetas[0].copy(), thetas[0].mean(axis=0), np.random.default_rng(1)

        def check() -> Array:
            moved = thetas[0].copy()
            update(moved, point, np.zeros_like(moved))
            return moved

        draw = lambda: rng.standard_normal(theta.shape, np.float32)  # noqa: E731
        return {"NumPy": Contestant(lambda _: update(theta, point, draw()), check, in_place=True)}
    risk, (alpha,) = work.risks(), item.setting
    return {"NumPy": Contestant(lambda i: consensus(thetas[i % len(thetas)], risk[i % 8], alpha))}


def truth(item: Item, particles: int) -> list[Array]:
    """What the item's check ought to return for the first particles, in float64; empty: not known."""
    if item.kind not in ("risk", "gradient", "update", "consensus"):
        return []
    work = workload(item.workload)
    (x, y), first = work.batch(), work.thetas[0].astype(float)
    if work.outputs == 1:
        y = y.astype(float)
    if item.kind == "risk":
        return [risks(work, first[:particles], x.astype(float), y)]
    if item.kind == "gradient":
        return list(gradients(work, first[:particles], x.astype(float), y))
    if item.kind == "update":
        # the point itself is float32 in every contestant
        point = work.thetas[0].mean(axis=0).astype(float)
        update(first, point, np.zeros_like(first))
        return [first[:particles]]
    return [consensus(first, work.risks()[0], *item.setting)[None]]
