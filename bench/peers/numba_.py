"""numba: explicit loops, particles in parallel, samples innermost so that they vectorise (d = C = 1)."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import njit, prange
from workloads import ALPHA, DT, FLOOR, LAMBDA, SIGMA, SMALL, Array, Contestant, Item, Workload, workload


@njit(parallel=True, fastmath=True)
def risks(theta, x, y, m, relu):  # type: ignore[no-untyped-def]
    out = np.empty(len(theta))
    for n in prange(len(theta)):
        g = np.zeros_like(x)
        t = theta[n]
        for j in range(m):
            w, b, c = t[j], t[m + j], t[2 * m + j]
            if relu:
                for s in range(len(x)):
                    g[s] += c * max(w * x[s] + b, np.float32(0))
            else:
                for s in range(len(x)):
                    g[s] += c * np.tanh(w * x[s] + b)
        total = np.float32(0)
        for s in range(len(x)):
            total += (g[s] / m - y[s]) ** 2
        out[n] = total / len(x)
    return out


@njit(parallel=True, fastmath=True)
def gradients(theta, x, y, m, relu):  # type: ignore[no-untyped-def]
    risk, gradient = np.empty(len(theta)), np.empty_like(theta)
    for n in prange(len(theta)):
        g, hidden = np.zeros_like(x), np.empty((m, len(x)), np.float32)
        t = theta[n]
        for j in range(m):
            w, b, c = t[j], t[m + j], t[2 * m + j]
            if relu:
                for s in range(len(x)):
                    hidden[j, s] = max(w * x[s] + b, np.float32(0))
            else:
                for s in range(len(x)):
                    hidden[j, s] = np.tanh(w * x[s] + b)
            for s in range(len(x)):
                g[s] += c * hidden[j, s]
        total = np.float32(0)
        for s in range(len(x)):
            g[s] = g[s] / m - y[s]
            total += g[s] ** 2
            g[s] *= np.float32(2) / (m * len(x))
        risk[n] = total / len(x)
        for j in range(m):
            dw = db = dc = np.float32(0)
            for s in range(len(x)):
                h = hidden[j, s]
                dc += g[s] * h
                slope = np.float32(h > 0) if relu else 1 - h * h
                back = g[s] * slope
                db += back
                dw += back * x[s]
            c = t[2 * m + j]
            gradient[n, j], gradient[n, m + j], gradient[n, 2 * m + j] = c * dw, c * db, dc
    return risk, gradient


@njit(parallel=True, fastmath=True)
def update(theta, point, drift, diffusion):  # type: ignore[no-untyped-def]
    for n in prange(len(theta)):
        for j in range(theta.shape[1]):
            noise = np.float32(np.random.standard_normal())  # noqa: NPY002
            theta[n, j] += (diffusion * noise - drift) * (theta[n, j] - point[j])


@njit(parallel=True, fastmath=True)
def floored_update(theta, point, drift, diffusion, floor):  # type: ignore[no-untyped-def]
    for n in prange(len(theta)):
        for j in range(theta.shape[1]):
            away = theta[n, j] - point[j]
            noise = np.float32(np.random.standard_normal())  # noqa: NPY002
            theta[n, j] += np.sqrt((diffusion * away) ** 2 + floor**2) * noise - drift * away


def steps(work: Workload) -> Contestant:
    rng, batches = np.random.default_rng(3), len(work.x) // work.samples
    constants = np.array([LAMBDA * DT, SIGMA * DT**0.5, FLOOR * DT**0.5], np.float32)

    def call(turn: int) -> Array:
        theta = work.thetas[turn % len(work.thetas)].copy()
        for rows in rng.permutation(len(work.x)).reshape(batches, -1):
            risk = risks(theta, work.x[rows, 0], work.y[rows], work.width, work.activation == "relu")
            weights = np.exp(-ALPHA * (risk - risk.min()))
            floored_update(theta, (weights / weights.sum()).astype(np.float32) @ theta, *constants)
        return theta

    return Contestant(call, units=batches)


def contestants(item: Item, threads: int) -> dict[str, Contestant]:
    numba.set_num_threads(threads)
    if item.kind == "update":
        work = workload(item.workload)
        theta, point = work.thetas[0].copy(), work.thetas[0].mean(axis=0)
        small = np.array(SMALL, np.float32)

        def check() -> Array:
            moved = work.thetas[0].copy()
            update(moved, point, small[0], np.float32(0))
            return moved

        def move(_: int) -> Array:
            update(theta, point, *small)
            return theta

        return {"numba": Contestant(move, check, in_place=True)}
    if item.workload not in ("A", "At") or item.kind not in ("risk", "gradient", "step"):
        return {}
    work = workload(item.workload, whole_epoch=item.kind == "step")
    if item.kind == "step":
        return {"numba": steps(work)}
    function: Any = risks if item.kind == "risk" else gradients
    (x, y), thetas = work.batch(), work.thetas
    flat, relu = np.ascontiguousarray(x[:, 0]), work.activation == "relu"
    return {"numba": Contestant(lambda i: function(thetas[i % len(thetas)], flat, y, work.width, relu))}
