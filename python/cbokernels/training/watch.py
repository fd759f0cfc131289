"""What a run warns of."""

from __future__ import annotations

import math
import warnings
from typing import Protocol

import numpy as np

from .._arrays import Array
from ..errors import CboWarning

# Collapsed: the spread of nine coordinates in ten has fallen by _SPREAD and the risk has not by _RISK. The
# variance cannot tell: multiplicative noise keeps it large in a few coordinates of a frozen ensemble. What is
# compared are the risks' sizes, because losses of one's own may be below 0.
_FROZEN, _SPREAD, _RISK = 0.9, 1e-6, 1e-6
# Flying apart: the spread of most coordinates has grown by _FLOWN and the risk has not fallen by _RISK.
_FLOWN, _MOST = 1e8, 0.5


def frozen_share(particles: Array, initial_variance: float) -> float:
    """Share of the coordinates whose standard deviation is below 1e-6 of the initial one.

    The initial one is a root mean square over coordinates, from the variance (1/2N) Σ |theta - mean|².
    """
    spread = particles.std(axis=0, dtype=np.float64)
    return float((spread <= frozen_limit(initial_variance, particles.shape[1])).mean())


def frozen_limit(initial_variance: float, size: int) -> float:
    """Standard deviation of a coordinate below which it counts as frozen."""
    return _SPREAD * math.sqrt(2 * initial_variance / size)


class Watched(Protocol):
    """An ensemble at work."""

    @property
    def particles(self) -> Array:
        """[N, D], as they are now."""

    @property
    def frozen(self) -> float | None:
        """The share of the coordinates that are frozen, where that is known without looking at particles."""


class Watch:
    """Looks at each epoch of a run and warns, of each kind of trouble once.

    What most runs of a kind meet, a collapse, is warned of in the same words in each, so that Python shows it
    once for them all. `notes` has the numbers.
    """

    def __init__(self, runner: Watched, initial_variance: float, *, collapse: bool, consensus: bool) -> None:
        self._runner, self._initial_variance = runner, initial_variance
        self._consensus = consensus  # whether the risks weigh the particles
        self._flight = initial_variance * _FLOWN**2 or math.inf  # variance at which it may be flying apart
        self._given: set[str] = set() if collapse else {"collapse"}
        self._nonfinite, self._epochs = 0, 0  # risks, and epochs that had some
        self._notes: list[str] = []

    def look(self, epoch: int, nonfinite: int, variance: float, risk: float, first_risk: float) -> None:
        """See to an epoch (from 1) that ended with this variance and risk."""
        self._nonfinite += nonfinite
        self._epochs += nonfinite > 0
        if nonfinite and self._is_new("risks"):
            particle = "such a particle has weight 0 in a consensus"
            network = "such a network goes on alone, and its parameters may become NaN"
            _warn(
                f"epoch {epoch}: {nonfinite} risks were NaN or infinite; "
                f"{particle if self._consensus else network}"
            )
        gone = abs(risk) <= _RISK * abs(first_risk)
        if not math.isfinite(variance):
            if self._is_new("overflow"):
                self._warn_of_overflow(epoch)
        elif not gone and self._flies_apart(variance):
            self._notes.append(f"the ensemble was flying apart in epoch {epoch}")
            _warn(
                f"epoch {epoch}: the ensemble is flying apart, most coordinates spread {_FLOWN:g} times "
                f"as far as at the start: take a smaller diffusion or dt (isotropic noise needs it the "
                f"smaller the more coordinates there are)"
            )
        elif not gone and risk == risk and "collapse" not in self._given and self._collapsed():
            self._given.add("collapse")
            self._notes.append(f"the ensemble had collapsed in epoch {epoch}, at risk {risk:.3g}")
            _warn(
                "the ensemble has collapsed, its particles are the same in most coordinates and can move "
                "little further: take a floor > 0 for the noise, a larger alpha (up to infinity) or a larger "
                "diffusion (result.message says in which epoch)"
            )

    def tell_of_one_point(self) -> None:
        """The ensemble is at one point before the run, and moves by its spread alone."""
        self._given.add("collapse")
        self._notes.append("all particles were the same from the start")
        _warn(
            "all particles are the same, or there is one: each is its own consensus, and none can move: take "
            "particles that differ, or a floor > 0 for the noise"
        )

    def notes(self) -> list[str]:
        """What was warned of, with counts."""
        if not self._nonfinite:
            return self._notes
        return [f"{self._nonfinite} risks were NaN or infinite, in {self._epochs} epochs", *self._notes]

    def _flies_apart(self, variance: float) -> bool:
        """Whether most coordinates do, for the first time. A few may, under multiplicative noise, in a run
        that goes well; so the variance only tells when it is worth to look, each time it is 100 times as
        large as the last time."""
        if "flight" in self._given or variance <= self._flight:
            return False
        self._flight = 100 * variance
        particles, start = self._runner.particles, math.sqrt(2 * self._initial_variance)
        with np.errstate(over="ignore", invalid="ignore"):
            spread = particles.std(axis=0, dtype=np.float64)
        if (spread > _FLOWN * start / math.sqrt(len(spread))).mean() < _MOST:
            return False
        return self._is_new("flight")

    def _warn_of_overflow(self, epoch: int) -> None:
        self._notes.append(f"the ensemble had overflowed in epoch {epoch}")
        particles = self._runner.particles
        finite = np.isfinite(particles).all(axis=1)
        broken = len(particles) - int(finite.sum())
        if broken:
            what = (
                f"the ensemble has overflowed, {broken} of {len(particles)} particles hold NaN or infinities"
            )
        else:
            largest = float(np.abs(particles).max())
            what = f"the ensemble's variance has overflowed, its coordinates are as large as {largest:.2g}"
        wider = ", or float64" if particles.dtype == np.float32 else ""
        _warn(f"epoch {epoch}: {what}: take a smaller diffusion, dt or lr{wider}", 1)

    def _collapsed(self) -> bool:
        if (share := self._runner.frozen) is not None:
            return share >= _FROZEN
        particles, initial = self._runner.particles, self._initial_variance
        if len(particles) < 2:
            return False
        # Two particles nearly always suffice to rule it out, at a fraction of the cost.
        apart = np.abs(particles[0] - particles[len(particles) // 2])
        if (apart <= 10 * frozen_limit(initial, particles.shape[1])).mean() < _FROZEN:
            return False
        return frozen_share(particles, initial) >= _FROZEN

    def _is_new(self, what: str) -> bool:
        new = what not in self._given
        self._given.add(what)
        return new


def _warn(message: str, deeper: int = 0) -> None:
    # _warn, look, run, the public function, its caller.
    warnings.warn(message, CboWarning, stacklevel=5 + deeper)
