"""Consensus points of an ensemble in parts: what a part says of itself, and how two such states become one.

A part's state has, for each of T tasks, its least risk m, with w_n = exp(-alpha (R_n - m)) the sums Σ w,
Σ w² and Σ w theta, and the number of its particles whose risks are not finite. The part whose m is larger is
scaled by exp(-alpha (m - m')), which is at most 1: no exponential is unshifted. Where that is 0 the part adds
nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import _cpu
from .._arrays import Array
from .._ranks import Combine


class State(NamedTuple):
    """A state's parts, views of one float64 vector."""

    nonfinite: Array  # [1]
    least: Array  # [T]
    total: Array  # [T]
    squares: Array  # [T]
    weighted: Array  # [T], particles of a weight above 0, at most so many
    sums: Array  # [T, D]


def length(tasks: int, size: int) -> int:
    """Of the vector."""
    return 1 + tasks * (4 + size)


def split(state: Array, tasks: int) -> State:
    """The parts of a vector."""
    nonfinite, least, total, squares, weighted, sums = np.split(state, 1 + tasks * np.arange(5))
    return State(nonfinite, least, total, squares, weighted, sums.reshape(tasks, -1))


def unnormalised(risk: Array, least: Array, alpha: Array) -> Array:
    """exp(-alpha (R - least)) of risks [n, T], 0 where they are not finite."""
    above = np.where(np.isfinite(risk) & (risk > least), risk - least, 0.0)
    with np.errstate(invalid="ignore", under="ignore"):  # infinity times 0, of the best
        weights = np.where(above > 0, np.exp(-alpha * above), 1.0)
    found: Array = np.where(np.isfinite(risk), weights, 0.0)
    return found


def state_of(theta: Array | None, risk: Array, alpha: Array, size: int, threads: int) -> Array:
    """The state of particles [n, D] with risks [n, T]; theta None: without sums, and size 0."""
    tasks = risk.shape[1]
    state = np.zeros(length(tasks, size))
    part, finite = split(state, tasks), np.isfinite(risk)
    part.nonfinite[0] = len(risk) - int(finite.all(axis=1).sum())
    part.least[:] = np.where(finite, risk, np.inf).min(axis=0, initial=np.inf)
    weights = unnormalised(risk, part.least, alpha)
    part.total[:], part.squares[:] = weights.sum(axis=0), np.square(weights).sum(axis=0)
    part.weighted[:] = (weights > 0).sum(axis=0)
    if theta is not None and len(theta):
        _cpu.weighted_sums(theta, weights, part.sums, threads)
    return state


def combiner(alpha: Array) -> Combine:
    """The combination of two such states, at the alphas [T] that they were formed with."""
    tasks = len(alpha)

    def combine(other: Array, into: Array) -> None:
        a, b = split(other, tasks), split(into, tasks)
        least = np.minimum(a.least, b.least)
        scale_a, scale_b = _scale(a.least, least, alpha), _scale(b.least, least, alpha)
        b.nonfinite[:] += a.nonfinite
        b.least[:] = least
        b.total[:] = scale_a * a.total + scale_b * b.total
        b.weighted[:] = (scale_a > 0) * a.weighted + (scale_b > 0) * b.weighted
        b.squares[:] = scale_a**2 * a.squares + scale_b**2 * b.squares
        for t in range(tasks):
            _add_scaled(a.sums[t], scale_a[t], b.sums[t], scale_b[t])

    return combine


def _scale(least: Array, common: Array, alpha: Array) -> Array:
    """exp(-alpha (least - common)); 0 for a part without a finite risk."""
    above = np.where(least > common, least, 0.0) - np.where(least > common, common, 0.0)
    with np.errstate(invalid="ignore", under="ignore"):
        scale = np.where(above > 0, np.exp(-alpha * above), 1.0)
    found: Array = np.where(np.isfinite(least), scale, 0.0)
    return found


def _add_scaled(other: Array, by: float, into: Array, keep: float) -> None:
    """into = by other + keep into; what is scaled by 0 is not looked at."""
    if keep == 0:
        into[:] = 0
    elif keep != 1:
        into *= keep
    if by == 1:
        into += other
    elif by != 0:
        into += by * other
