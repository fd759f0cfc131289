"""Gibbs weights and the consensus point [Pinnau, Totzeck, Tse, Martin 2017;
De Deyn, Herty, Samaey 2025, eq. 21].

    beta_n = exp(-alpha R_n) / sum_k exp(-alpha R_k),    v = sum_n beta_n theta_n
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from ._arrays import call_of, check_array
from ._checks import FLOATS, real
from .errors import CboWarning

_RISK = (np.dtype(np.float64),)


class Consensus(NamedTuple):
    """A consensus point [D] of theta's dtype, float64 weights [N] and the effective sample size 1/sum beta^2.

    With T tasks: point [T, D], weights [N, T], ess [T].
    """

    point: Any
    weights: Any
    ess: Any


def consensus(theta: Any, risk: Any, *, alpha: float = 1e5, num_threads: int | None = None) -> Consensus:
    """Consensus of particles theta [N, D] under risks [N], or [N, T] for one point per task.

    theta float32 or float64, risk float64; alpha in [0, inf] (default 1e5), where inf gives equal weights to
    exactly equal minima. The least risk is subtracted first, so that no alpha overflows. A particle whose
    risk is NaN or infinite has weight 0 (for that task), and one whose weight is 0 is never read; one
    CboWarning gives the number of particles with such a risk.

    On a card nothing is waited for: no warning is given; where no risk is finite weights are NaN and ess is
    0; ess is always an array.

    TypeError for dtypes, ValueError for shapes, alpha outside [0, inf] and num_threads below 1;
    ConsensusError where no particle has a finite risk (in some task).
    """
    call = call_of(theta, "theta")
    particles = call.array(theta, "theta", FLOATS, ("N", "D"))
    count, size = particles.shape
    risks = call.view(risk, "risk")
    axes = risks.shape[1:]
    check_array(risks, "risk", _RISK, (count, "T") if axes else (count,))
    alpha, run = real(alpha, "alpha", 0.0, infinite=True), call.run(num_threads)
    point, weights = call.empty((*axes, size), particles.dtype), call.empty((count, *axes), np.float64)
    ess = call.empty(axes, np.float64)
    lost = call.kernels.consensus(particles, risks, alpha, point, weights, ess, run)
    if lost:
        warnings.warn(non_finite(lost, count), CboWarning, stacklevel=2)
    found = call.result(ess) if axes else call.number(ess)
    return Consensus(call.result(point), call.result(weights), found)


def non_finite(lost: int, count: int) -> str:
    """Text of the warning about particles whose risk is NaN or infinite."""
    return f"{lost} of {count} particles have a risk that is not finite; their weight is 0"
