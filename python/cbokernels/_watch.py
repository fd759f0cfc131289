"""What a run warns of."""

from __future__ import annotations

import math
import warnings

import numpy as np

from ._arrays import Array
from .errors import CboWarning

# Collapsed: the spread of nine coordinates in ten has fallen by _SPREAD and the risk has not by _RISK. The
# variance cannot tell: multiplicative noise keeps it large in a few coordinates of a frozen ensemble.
FROZEN, _SPREAD, _RISK = 0.9, 1e-6, 1e-6


def frozen_share(particles: Array, initial_variance: float) -> float:
    """Share of the coordinates whose standard deviation is below 1e-6 of the initial one.

    The initial one is a root mean square over coordinates, from the variance (1/2N) Σ |theta - mean|².
    """
    spread = particles.std(axis=0, dtype=np.float64)
    return float((spread <= frozen_limit(initial_variance, particles.shape[1])).mean())


def frozen_limit(initial_variance: float, size: int) -> float:
    """Standard deviation of a coordinate below which it counts as frozen."""
    return _SPREAD * math.sqrt(2 * initial_variance / size)


class Watch:
    """Looks at each epoch of a run and warns, of each kind of trouble once."""

    def __init__(self, particles: Array, initial_variance: float, *, collapse: bool) -> None:
        self._particles = particles
        self._initial_variance = initial_variance
        self._given: set[str] = set() if collapse else {"collapse"}

    def look(self, epoch: int, nonfinite: int, variance: float, risk: float, first_risk: float) -> None:
        """See to an epoch (from 1) that ended with this variance and risk."""
        if nonfinite and self._is_new("risks"):
            _warn(
                f"epoch {epoch}: {nonfinite} risks were NaN or infinite; such a particle has weight 0 in a "
                f"consensus"
            )
        if not math.isfinite(variance):
            if self._is_new("overflow"):
                particles = self._ensemble()
                broken = len(particles) - int(np.isfinite(particles).all(axis=1).sum())
                _warn(
                    f"epoch {epoch}: the ensemble has overflowed, {broken} of {len(particles)} particles "
                    f"hold NaN or infinities: take a smaller diffusion, dt or lr, or float64"
                )
        elif risk > _RISK * first_risk and "collapse" not in self._given and self._collapsed():
            self._given.add("collapse")
            _warn(
                f"epoch {epoch}: the ensemble has collapsed at risk {risk:.3g}, its particles are the same "
                f"in most coordinates and can move little further: take a floor > 0 for the noise, a larger "
                f"alpha (up to infinity) or a larger diffusion"
            )

    def _ensemble(self) -> Array:
        return self._particles

    def _collapsed(self) -> bool:
        particles, initial = self._particles, self._initial_variance
        if len(particles) < 2:
            return False
        # Two particles nearly always tell that there is nothing to tell, at a fraction of the price.
        apart = np.abs(particles[0] - particles[len(particles) // 2])
        if (apart <= 10 * frozen_limit(initial, particles.shape[1])).mean() < FROZEN:
            return False
        return frozen_share(particles, initial) >= FROZEN

    def _is_new(self, what: str) -> bool:
        new = what not in self._given
        self._given.add(what)
        return new


def _warn(message: str) -> None:
    # _warn, look, run, the public function, its caller.
    warnings.warn(message, CboWarning, stacklevel=5)
