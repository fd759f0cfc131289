"""Entropic optimal transport, for measures of more atoms than exact assignments can serve.

    min over couplings P of sum P_ij |x_i - y_j|^2 + epsilon KL(P | 1/(M M'))

by Sinkhorn's iteration in the logarithmic domain [Cuturi 2013; Peyré, Cuturi 2019, section 4.4]. It takes
time proportional to M M' and memory proportional to M + M', and measures may differ in their number of
atoms. Beyond the papers that `transport` follows: its results tend to the exact ones as epsilon goes to 0.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._arrays import HOST, Call, Values, call_of, like
from ._checks import integer, positive, real
from .errors import CboWarning
from .transport import AS_ATOMS, check_atoms, check_weights, largest

if TYPE_CHECKING:
    from ._cpu import Execution


class Sinkhorn(NamedTuple):
    """Entropic transport of N measures to one.

    cost [N], float64, is sum P_ij |x_i - y_j|^2 without the entropy: not below the exact optimum, but for
    rounding. projection [N, M, K], of the atoms' dtype, holds the means M sum_j P_ij y_j of where each atom
    goes. Both are of a coupling: what the iteration leaves too heavy or too light is balanced [Altschuler,
    Weed, Rigollet 2017, algorithm 2]. error [N], float64, is sum_j |sum_i P_ij - 1/M'| before that, the share
    of the mass that stands in a wrong place, counted twice; rows have their masses then.
    """

    cost: Any
    projection: Any
    error: Any


class SinkhornBarycenter(NamedTuple):
    """support [M', K], of the atoms' dtype; error [N], float64: of each coupling of the last iteration, as in
    `Sinkhorn`, and 0 where the weight is 0."""

    support: Any
    error: Any


def sinkhorn(
    atoms: Any,
    support: Any,
    *,
    epsilon: float = 0.01,
    iterations: int = 1000,
    tolerance: float = 1e-3,
    num_threads: int | None = None,
) -> Sinkhorn:
    """Entropic transport of atoms [N, M, K] to support [M', K].

    Both float32 or both float64. epsilon, above 0, is in units of squared distances; it is reached from
    larger ones. It stops where error is at most tolerance, or after so many iterations in all: a `CboWarning`
    then says how many measures are further off. The arithmetic is float64 on centred and scaled coordinates;
    below 2^-33 of the largest squared distance, where its digits end, epsilon is taken as that. A cost above
    float64's range is inf.

    On a card each measure is one block's and many go at once. Nothing is waited for there, so that no
    warning is given, and values that are not finite give NaN.

    TypeError for kinds and dtypes; ValueError for shapes, NaN or infinite values, epsilon not in (0, inf),
    iterations below 1, tolerance below 0 and num_threads below 1.
    """
    call = call_of(atoms, "atoms")
    x = check_atoms(call, atoms, "atoms")
    y = call.array(support, "support", (x.dtype,), ("M'", x.shape[2]), AS_ATOMS)
    for value, name in ((x, "atoms"), (y, "support")):
        largest(call, value, name)
    limits = _epsilon(epsilon), real(tolerance, "tolerance", 0.0), integer(iterations, "iterations", 1, 2**31)
    result = _solve(call, x, y, *limits, call.run(num_threads))
    if not call.on_device:
        _warn(result[2], *limits[1:])
    return Sinkhorn(*(call.result(part) for part in result))


def sinkhorn_barycenter(
    atoms: Any,
    weights: Any,
    *,
    epsilon: float = 0.01,
    tolerance: float = 1e-3,
    support: Any = None,
    iterations: int = 1,
    num_threads: int | None = None,
) -> SinkhornBarycenter:
    """Support [M', K] and error of the weighted entropic barycenter of atoms [N, M, K]: as `barycenter`, with
    `sinkhorn`'s projections in place of partners [Cuturi, Doucet 2014].

    Each iteration moves every support point to the weighted mean of where the particles' couplings take it.
    weights and support are as in `barycenter`, but M' may be another number than M; epsilon and tolerance as
    in `sinkhorn`, at most 1000 of whose iterations are done for each coupling; a `CboWarning` tells of those
    in the last iteration whose error is above tolerance. TypeError and ValueError as there.
    """
    x = HOST.host(check_atoms(HOST, atoms, "atoms"))
    largest(HOST, x, "atoms")
    beta = check_weights(weights, len(x))
    if support is None:
        y = x[int(beta.argmax())]
    else:
        y = HOST.host(HOST.array(support, "support", (x.dtype,), ("M'", x.shape[2]), AS_ATOMS))
        largest(HOST, y, "support")
    limits = _epsilon(epsilon), real(tolerance, "tolerance", 0.0), 1000, HOST.run(num_threads)
    error = np.zeros(len(x))
    for _ in range(integer(iterations, "iterations", 1, 2**31)):
        total = np.zeros(y.shape)
        for n in np.flatnonzero(beta):
            _, projection, error[n : n + 1] = map(HOST.host, _solve(HOST, y[None], x[n], *limits))
            total += beta[n] * projection[0]
        y = total.astype(x.dtype)
    _warn(error, *limits[1:3])
    return SinkhornBarycenter(like(atoms, y), like(atoms, error))


def _warn(error: Any, tolerance: float, iterations: int) -> None:
    above = int(np.count_nonzero(~(error <= tolerance)))
    if above:
        warnings.warn(
            f"the error of {above} of {len(error)} couplings is above tolerance={tolerance:g}, up to "
            f"{error.max():.3g} after at most {iterations} iterations: take a larger epsilon or do more",
            CboWarning,
            stacklevel=3,
        )


def _epsilon(value: Any) -> float:
    return positive(value, "epsilon", infinite=False)


def _solve(
    call: Call, x: Values, y: Values, epsilon: float, tolerance: float, iterations: int, run: Execution
) -> tuple[Values, Values, Values]:  # fmt: skip
    cost, error = (call.empty((len(x),), np.float64) for _ in range(2))
    projection = call.empty(x.shape, x.dtype)
    call.kernels.sinkhorn(x, y, epsilon, tolerance, iterations, cost, error, projection, run)
    return cost, projection, error


__all__ = ["Sinkhorn", "SinkhornBarycenter", "sinkhorn", "sinkhorn_barycenter"]
