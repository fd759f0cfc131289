"""Gibbs weights and the consensus point [Pinnau, Totzeck, Tse, Martin 2017;
De Deyn, Herty, Samaey 2025, eq. 21].

    beta_n = exp(-alpha R_n) / sum_k exp(-alpha R_k),    v = sum_n beta_n theta_n
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from . import _cpu
from ._arrays import array, like, view
from ._checks import FLOATS, real, threads
from ._dispatch import on_device_of
from .errors import CboWarning

_RISK = (np.dtype(np.float64),)


class Consensus(NamedTuple):
    """A consensus point [D] of theta's dtype, float64 weights [N] and the effective sample size 1/sum beta^2.

    With T tasks: point [T, D], weights [N, T], ess [T].
    """

    point: Any
    weights: Any
    ess: Any


@on_device_of("theta", 0)
def consensus(theta: Any, risk: Any, *, alpha: float = 1e5, num_threads: int | None = None) -> Consensus:
    """Consensus of particles theta [N, D] under risks [N], or [N, T] for one point per task.

    theta float32 or float64, risk float64; alpha in [0, inf] (default 1e5), where inf gives equal weights to
    exactly equal minima. The least risk is subtracted first, so that no alpha overflows. A particle whose
    risk is NaN or infinite has weight 0 (for that task), and one whose weight is 0 is never read; one
    CboWarning gives the number of particles with such a risk.

    TypeError for dtypes, ValueError for shapes, alpha outside [0, inf] and num_threads below 1;
    ConsensusError where no particle has a finite risk (in some task).
    """
    particles = array(theta, "theta", FLOATS, ("N", "D"))
    count, size = particles.shape
    single = view(risk, "risk").ndim == 1
    risks = array(risk, "risk", _RISK, (count,) if single else (count, "T"))
    alpha = real(alpha, "alpha", 0.0, infinite=True)
    workers = threads(num_threads)
    if single:
        risks = risks.reshape(count, 1)
    tasks = risks.shape[1]
    point = np.empty((tasks, size), particles.dtype)
    weights = np.empty((count, tasks))
    ess = np.empty(tasks)
    lost = _cpu.consensus(particles, risks, alpha, point, weights, ess, workers)
    if lost:
        warnings.warn(non_finite(lost, count), CboWarning, stacklevel=3)  # past the dispatch, to the caller
    if single:
        return Consensus(like(theta, point[0]), like(theta, weights.reshape(count)), float(ess[0]))
    return Consensus(like(theta, point), like(theta, weights), like(theta, ess))


def non_finite(lost: int, count: int) -> str:
    """Text of the warning about particles whose risk is NaN or infinite."""
    return f"{lost} of {count} particles have a risk that is not finite; their weight is 0"
