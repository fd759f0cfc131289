"""Consensus points of an ensemble in parts: what a part says of itself, and how two such states become one.

A part's state has, for each of T tasks, its least risk m, with w_n = exp(-alpha (R_n - m)) the sums Σ w,
Σ w² and Σ w theta, and the number of its particles whose risks are not finite. The part whose m is larger is
scaled by exp(-alpha (m - m')), which is at most 1: no exponential is unshifted. Where that is 0 the part adds
nothing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .. import _cpu
from .._arrays import Array
from .._ranks import Combine, Ranks, common
from ..errors import ConsensusError
from .base import no_consensus


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
    least, total, squares, weighted = state[1 : 1 + 4 * tasks].reshape(4, tasks)
    return State(state[:1], least, total, squares, weighted, state[1 + 4 * tasks :].reshape(tasks, -1))


def unnormalised(risk: Array, least: Array, alpha: Array) -> Array:
    """exp(-alpha (R - least)) of risks [n, T], 0 where they are not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        weights: Array = np.exp(-alpha * (risk - least))
    if not (weights <= 1).all():  # infinity times 0, or what is not finite
        weights[risk == least] = 1
        weights[~np.isfinite(risk)] = 0
    return weights


def state_of(theta: Array | None, risk: Array, alpha: Array, size: int, threads: int) -> Array:
    """The state of particles [n, D] with risks [n, T]; theta None: without sums, and size 0."""
    tasks, count = risk.shape[1], len(risk)
    state = np.zeros(length(tasks, size))
    part, finite = split(state, tasks), np.isfinite(risk)
    if finite.all():
        risk.min(axis=0, initial=np.inf, out=part.least)
    else:
        part.nonfinite[0] = count - np.count_nonzero(finite.all(axis=1))
        np.min(risk, axis=0, initial=np.inf, where=finite, out=part.least)
    weights = unnormalised(risk, part.least, alpha)
    weights.sum(axis=0, out=part.total)
    np.einsum("nt,nt->t", weights, weights, out=part.squares)
    part.weighted[:] = np.count_nonzero(weights, axis=0)
    if theta is not None and count:
        _cpu.weighted_sums(theta, weights, part.sums, threads)
    return state


def alphas_for_ess(ranks: Ranks, risk: Array, target: float, uneven: bool) -> list[float]:
    """Each task's alpha at which all ranks' particles have that effective sample size; this one's have the
    risks [n, T]. uneven: they are some of its particles."""
    every = ranks.gather(risk, uneven)
    return [_cpu.alpha_for_ess(np.ascontiguousarray(column), target) for column in every.T]


def checked(state: State, particles: int, when: str = "") -> State:
    """The state of all ranks' particles, so many; an error on all of them where a task has no weight."""
    if (state.total == 0).any():
        where = f" in task {state.total.argmin()}" if len(state.total) > 1 else ""
        raise common(ConsensusError(when + no_consensus(particles, where)))
    return state


def combiner(alpha: Array) -> Combine:
    """The combination of two such states, at the alphas [T] that they were formed with."""
    alphas = alpha.tolist()

    def combine(other: Array, into: Array) -> None:
        a, b = split(other, len(alphas)), split(into, len(alphas))
        b.nonfinite[0] += a.nonfinite[0]
        for t, factor in enumerate(alphas):
            of_a, of_b = a.least.item(t), b.least.item(t)
            least = min(of_a, of_b)
            scale_a, scale_b = _scale(of_a, least, factor), _scale(of_b, least, factor)
            b.least[t] = least
            b.total[t] = scale_a * a.total.item(t) + scale_b * b.total.item(t)
            b.squares[t] = scale_a**2 * a.squares.item(t) + scale_b**2 * b.squares.item(t)
            b.weighted[t] = (scale_a > 0) * a.weighted.item(t) + (scale_b > 0) * b.weighted.item(t)
            _add_scaled(a.sums[t], scale_a, b.sums[t], scale_b)

    return combine


def _scale(least: float, common: float, alpha: float) -> float:
    """exp(-alpha (least - common)); 0 for a part without a finite risk."""
    if not math.isfinite(least):
        return 0.0
    return 1.0 if least == common or alpha == 0 else math.exp(-alpha * (least - common))


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
