"""Optimal transport between measures of M equal atoms [De Deyn, Herty, Samaey 2025, eq. 29-31, 38-40].

    W2^2(mu, nu) = min over permutations pi of (1/M) sum_i |x_i - y_pi(i)|^2

A particle is a measure: the atoms of a two-layer network are its neurons (w, b, c), in any order. Assignments
are exact: shortest augmenting paths [Jonker, Volgenant 1987] on squared distances computed from coordinates.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, overload

import numpy as np

from . import _cpu
from ._arrays import HOST, Array, Call, Values, call_of
from ._checks import FLOATS, boolean, counter, integer, real
from ._checks import first_particle as check_first_particle
from ._checks import seed as check_seed

AS_ATOMS = " as atoms are"
_DOUBLE = (np.dtype(np.float64),)


class Assignment(NamedTuple):
    """match [N, M], int64: atoms[n, i] goes to support[match[n, i]]; cost [N], float64: W2 squared, inf where
    it is above float64's range."""

    match: Any
    cost: Any


class Barycenter(NamedTuple):
    """A Wasserstein barycenter.

    support [M, K], of the atoms' dtype, after the last update; match [N, M], int64, the coupling it was
    computed with; objective = sum_n beta_n (1/M) sum_i |x_{n,i} - y_match(n,i)|^2 of that pair; history, the
    objective after each iteration [iterations done].
    """

    support: Any
    match: Any
    objective: float
    history: Any


class CertifiedAssignment(NamedTuple):
    """An `Assignment` and its certificate gap [N], float64: the cost is at most so far above the optimum.

    The gap is the cost less the dual bound, both computed from the coordinates in float64: not negative, and
    0 but for rounding.
    """

    match: Any
    cost: Any
    gap: Any


@overload
def assign(
    atoms: Any,
    support: Any,
    *,
    match: Any = None,
    duals: Any = None,
    certificate: Literal[False] = False,
    num_threads: int | None = None,
) -> Assignment: ...
@overload
def assign(
    atoms: Any,
    support: Any,
    *,
    match: Any = None,
    duals: Any = None,
    certificate: Literal[True],
    num_threads: int | None = None,
) -> CertifiedAssignment: ...
def assign(
    atoms: Any,
    support: Any,
    *,
    match: Any = None,
    duals: Any = None,
    certificate: bool = False,
    num_threads: int | None = None,
) -> Assignment | CertifiedAssignment:
    """Optimal assignments of atoms [N, M, K] to support [M, K] under squared Euclidean cost.

    Both float32 or both float64. match, integers [N, M], is a first guess: each row a permutation of
    range(M), for instance the last step's. duals, float64 [N, M], are the prices of the support points,
    updated in place: zeros before the first call, then those of the call before. With a guess and prices
    that nearly hold only the atoms that changed partner cost more than one look at all pairs. The cost is
    optimal whatever the start; among equally good assignments the start decides. Prices that are far from
    any optimum's, or so large that rounding them would show in the cost, are not used. certificate=True adds
    gap [N].

    Coordinates may be of any size: they are scaled, by a power of two. A cost above float64's range is inf
    (coordinates of 1e154 and more), one below it 0; the match is optimal all the same. Prices that float64
    does not hold come back as zeros.

    The cost is float64's optimum for float64 atoms, and within 4e-6 of it for float32 atoms.

    On a card each assignment is one block's and many go at once; a single large one uses little of it and
    is better given as CPU arrays. Values are not checked there: where one is not finite, the match is the
    identity and the cost NaN; a match that is no permutation is used as far as it is one.

    TypeError for kinds and dtypes; ValueError for shapes, NaN or infinite atoms, support or duals, a match
    that is not a permutation, and num_threads below 1.
    """
    call = call_of(atoms, "atoms")
    x, y, most = _measures(call, atoms, "atoms", support, "support")
    count, m, _ = x.shape
    run = call.run(num_threads)
    prices = None if duals is None else call.changed(duals, "duals", (count, m), _DOUBLE[0])
    work = None if prices is None else prices.work
    if work is not None:
        largest(call, work, "duals")
    if match is None:
        found = call.empty((count, m), np.int64)
    else:
        if not call.on_device:
            _permutations(call, match, count, m)
        found = call.own_integers(match, "match", (count, m))
    if work is not None:
        x, y = call.apart(x, work), call.apart(y, work)
    cost = call.empty((count,), np.float64)
    gap = call.empty((count,), np.float64) if boolean(certificate, "certificate") else None
    call.kernels.assign(x, y, most, work, match is not None, found, cost, gap, run)
    if prices is not None:
        prices.finish()
    result = Assignment(call.result(found), call.result(cost))
    return result if gap is None else CertifiedAssignment(*result, call.result(gap))


def barycenter(
    atoms: Any, weights: Any, *, support: Any = None, iterations: int = 1, num_threads: int | None = None
) -> Barycenter:
    """Weighted Wasserstein-2 barycenter of atoms [N, M, K] by fixed-point iteration [Cuturi, Doucet 2014].

    Each iteration assigns every particle's atoms to the support and moves each support point to the weighted
    mean of its partners; the objective never increases. atoms float32 or float64. weights [N], float64, are
    normalised here; particles of weight 0 do not move the support. support [M, K], of the atoms' dtype, is
    the start, by default the heaviest particle, the first of equals. It stops early where the coupling
    repeats. Coordinates may be of any size; an objective above float64's range is inf.

    On a card nothing is waited for: all iterations are done, objective is an array, and values that are not
    finite or weights that are no weights give NaN.

    TypeError for kinds and dtypes; ValueError for shapes, NaN or infinite values, weights that are negative
    or all 0, iterations below 1 and num_threads below 1.
    """
    call = call_of(atoms, "atoms")
    x = check_atoms(call, atoms, "atoms")
    count, m, k = x.shape
    steps, run = integer(iterations, "iterations", 1, 2**31), call.run(num_threads)
    start = None if support is None else call.array(support, "support", (x.dtype,), (m, k), AS_ATOMS)
    found, history = call.empty((count, m), np.int64), call.empty((steps,), np.float64)
    objective = call.empty((), np.float64)
    beta: Values
    if call.on_device:
        beta = call.array(weights, "weights", _DOUBLE, (count,))
    else:
        beta = check_weights(weights, count)
    most = largest(call, x, "atoms")
    if start is not None:
        most = max(most, largest(call, start, "support"))
    y = call.empty((m, k), x.dtype) if start is None else call.copy(start)
    done = call.kernels.barycenter(x, beta, most, start is not None, y, found, history, objective, run)
    if not call.on_device:
        history = call.host(history)[:done].copy()
    return Barycenter(call.result(y), call.result(found), call.number(objective), call.result(history))


def transport_update(
    atoms: Any,
    support: Any,
    match: Any,
    *,
    drift: float = 1.0,
    diffusion: float = 1.2**0.5,
    dt: float = 0.1,
    seed: int = 0,
    step: int = 0,
    first_particle: int = 0,
    out: Any = None,
    num_threads: int | None = None,
) -> Any:
    """Atoms [N, M, K] after one step towards their partners in support [M, K].

        x <- x - drift dt (x - y_match) + diffusion sqrt(dt) xi     [De Deyn, Herty, Samaey 2025, eq. 54]

    rounded as fma(diffusion sqrt(dt), xi, fma(-drift dt, x - y_match, x)), with both factors computed in
    float64. match, integers [N, M], each row a permutation of range(M). The normals are exactly
    standard_normal(N, M * K, seed=seed, step=step, first_particle=first_particle, dtype=atoms.dtype), in
    atom order. out: an array of the atoms' shape and dtype, atoms itself included; it is returned. Where a
    signal's handler ends the call (Ctrl-C), what it holds is undefined.

    TypeError for kinds and dtypes; ValueError for shapes, atoms or a support that is not finite (on a card
    they are not looked at, and a NaN stays one), a match that is not a permutation, drift not finite,
    diffusion or dt negative or not finite, seed outside [0, 2^64), step outside [0, 2^32),
    first_particle + N above 2^32, and num_threads below 1.
    """
    call = call_of(atoms, "atoms")
    x = check_atoms(call, atoms, "atoms")
    count, m, k = x.shape
    y = call.array(support, "support", (x.dtype,), (m, k), AS_ATOMS)
    for values, name in ((x, "atoms"), (y, "support")):
        largest(call, values, name)
    partners = _permutations(call, match, count, m)
    scalars = real(drift, "drift"), real(diffusion, "diffusion", 0.0), real(dt, "dt", 0.0)
    law = *scalars, "additive", 0.0, 0.0
    key = check_seed(seed), 0, counter(step, "step"), check_first_particle(first_particle, count)
    run = call.run(num_threads)
    target = call.changed_or_new(out, "out", x.shape, x.dtype)
    x, y = call.apart_or_same(x, target.work), call.apart(y, target.work)
    partners = call.apart(partners, target.work)
    call.kernels.transport_update(x, y, None, partners, law, key, target.work, run)
    target.finish()
    return call.result(target.work) if out is None else out


def wasserstein2(atoms_a: Any, atoms_b: Any, *, num_threads: int | None = None) -> Any:
    """Squared Wasserstein-2 distances [N, N'], float64, of atoms_a [N, M, K] to atoms_b [N', M, K].

    Both float32 or both float64; a distance is a mean over atoms, and inf above float64's range. TypeError
    for kinds and dtypes; ValueError for shapes, NaN or infinite atoms, and num_threads below 1.
    """
    call = call_of(atoms_a, "atoms_a")
    return call.result(_pairs(call, atoms_a, atoms_b, num_threads))


def wasserstein_over_wasserstein(atoms_a: Any, atoms_b: Any, *, num_threads: int | None = None) -> float:
    """Squared Wasserstein distance between two ensembles of measures, under W2 between the measures.

    atoms_a and atoms_b [N, M, K], equal N; a mean over the pairs of the best assignment of particles
    [De Deyn, Herty, Samaey 2025, eq. 58]. A card computes the distances; they are waited for, and the CPU
    assigns the particles. It is inf above float64's range. TypeError and ValueError as in `wasserstein2`,
    and ValueError for unequal numbers of particles.
    """
    call = call_of(atoms_a, "atoms_a")
    costs = call.host(_pairs(call, atoms_a, atoms_b, num_threads))
    if costs.shape[0] != costs.shape[1]:
        raise ValueError(
            f"atoms_b must have as many particles as atoms_a, {len(costs)}, got {costs.shape[1]}"
        )
    if np.isnan(costs).any():  # from atoms on a card, which were not checked
        for value, name in ((atoms_a, "atoms_a"), (atoms_b, "atoms_b")):
            call.check_finite(call.view(value, name), name)
    beyond = np.isinf(costs)
    if beyond.any():  # as few infinite costs as possible: each counts more than all finite ones together
        most = costs[~beyond].max(initial=0.0) or 1.0
        comparable = np.where(beyond, 1.0, np.minimum(costs, most) / most / (2 * len(costs)))
    else:
        comparable = costs
    match = np.empty(len(costs), np.int32)
    _cpu.assign_matrix(comparable, match)
    best = costs[np.arange(len(costs)), match]
    unit = 2.0**-32 if best.max() > 1e290 else 1.0  # whose sum cannot overflow
    return float((best * unit).mean() / unit)


def check_atoms(call: Call, value: Any, name: str) -> Values:
    return call.array(value, name, FLOATS, ("N", "M", "K"))


def _measures(call: Call, a: Any, name: str, b: Any, other: str) -> tuple[Values, Values, float]:
    x = check_atoms(call, a, name)
    y = call.array(b, other, (x.dtype,), x.shape[1:], AS_ATOMS)
    return x, y, max(largest(call, x, name), largest(call, y, other))


def _pairs(call: Call, atoms_a: Any, atoms_b: Any, num_threads: int | None) -> Values:
    run = call.run(num_threads)
    a = check_atoms(call, atoms_a, "atoms_a")
    b = call.array(atoms_b, "atoms_b", (a.dtype,), ("N'", *a.shape[1:]), " as atoms_a are")
    most = max(largest(call, a, "atoms_a"), largest(call, b, "atoms_b"))
    out = call.empty((len(a), len(b)), np.float64)
    call.kernels.wasserstein2(a, b, most, out, run)
    return out


def largest(call: Call, a: Values, name: str) -> float:
    """As `_check_finite`; nothing is known of a card's arrays, and nothing needed."""
    return 0.0 if call.on_device else _check_finite(call.host(a), name)


def _check_finite(a: Array, name: str) -> float:
    """The largest magnitude in `a`."""
    most = _cpu.largest(a)
    if most == np.inf:
        where = np.unravel_index(int(np.argmin(np.isfinite(a))), a.shape)
        raise ValueError(f"{name} must be finite, got {a[where]} at [{', '.join(map(str, where))}]")
    return most


def check_weights(value: Any, count: int) -> Array:
    beta = HOST.host(HOST.array(value, "weights", _DOUBLE, (count,)))
    if not np.isfinite(beta).all() or beta.min() < 0:
        wrong = int(np.argmin(np.isfinite(beta) & (beta >= 0)))
        raise ValueError(f"weights must be finite and not negative, got {beta[wrong]} at [{wrong}]")
    largest = beta.max()
    if largest == 0:
        raise ValueError(f"weights must have a positive sum, got {count} zeros")
    beta = beta / largest  # whose sum cannot overflow
    return np.asarray(beta / beta.sum())


def _permutations(call: Call, value: Any, count: int, m: int) -> Values:
    """match as contiguous int32 [N, M] whose rows are permutations."""
    match = call.integers(value, "match", (count, m), m, "points of support")
    if call.on_device:
        return match
    row = _cpu.wrong_permutation(call.host(match))
    if row >= 0:
        missing = int(np.setdiff1d(np.arange(m), match[row])[0])
        raise ValueError(f"match must hold a permutation in each row, got row {row} without {missing}")
    return match


__all__ = [
    "Assignment",
    "Barycenter",
    "CertifiedAssignment",
    "assign",
    "barycenter",
    "transport_update",
    "wasserstein2",
    "wasserstein_over_wasserstein",
]
