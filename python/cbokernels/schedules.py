"""Parameters that change over a run: callables of (epoch from 0, epochs).

Any callable of that form serves wherever a method takes a float parameter; these are the usual ones,
frozen and therefore comparable, hashable and picklable.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

from ._checks import WORD, integer, positive, real

Schedule: TypeAlias = Callable[[int, int], float]
Parameter: TypeAlias = float | Schedule
_finite_positive = functools.partial(positive, infinite=False)
_LARGEST = math.log(sys.float_info.max)


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same value in every epoch, as the plain number would be."""

    value: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", real(self.value, "value", infinite=True))

    def __call__(self, epoch: int, epochs: int) -> float:
        return self.value


@dataclasses.dataclass(frozen=True)
class Tenfold:
    """min(start · 10^⌊epoch / every⌋, cap), the papers' alpha [De Deyn, Herty, Samaey 2025, section 4].

    start: above 0 and finite; every: epochs, at least 1; cap: at least start, may be infinite.
    """

    start: float
    every: int = 100
    cap: float = math.inf

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", _finite_positive(self.start, "start"))
        object.__setattr__(self, "every", integer(self.every, "every", 1, WORD))
        object.__setattr__(self, "cap", real(self.cap, "cap", self.start, infinite=True))

    def __call__(self, epoch: int, epochs: int) -> float:
        return min(_power(self.start, 10.0, epoch // self.every), self.cap)


@dataclasses.dataclass(frozen=True)
class Geometric:
    """start · factor^⌊epoch / every⌋, as the papers' diffusion with factor 0.9, every 100.

    start, factor: above 0 and finite; every: epochs, at least 1.
    """

    start: float
    factor: float
    every: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", _finite_positive(self.start, "start"))
        object.__setattr__(self, "factor", _finite_positive(self.factor, "factor"))
        object.__setattr__(self, "every", integer(self.every, "every", 1, WORD))

    def __call__(self, epoch: int, epochs: int) -> float:
        return _power(self.start, self.factor, epoch // self.every)


@dataclasses.dataclass(frozen=True)
class Exponential:
    """From start in the first epoch to stop in the last, by the same factor from each epoch to the next.

    start, stop: above 0 and finite. A run of one epoch has start. It depends on how long the run is.
    """

    start: float
    stop: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", _finite_positive(self.start, "start"))
        object.__setattr__(self, "stop", _finite_positive(self.stop, "stop"))

    def __call__(self, epoch: int, epochs: int) -> float:
        if epoch <= 0 or epochs < 2:
            return self.start
        if epoch >= epochs - 1:
            return self.stop
        part = epoch / (epochs - 1)
        exponent = (1 - part) * math.log(self.start) + part * math.log(self.stop)
        return math.exp(min(exponent, _LARGEST))


@dataclasses.dataclass(frozen=True)
class TargetEss:
    """Only for alpha: solved at each step so that the effective sample size is a fraction of the particles.

    fraction: in (0, 1], of the particles that compute risks at the step. Bisection in log alpha; where so
    many risks are tied at the minimum that no alpha reaches the target, alpha is infinite. Called, it
    returns the fraction.
    """

    fraction: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "fraction", positive(self.fraction, "fraction", 1.0))

    def __call__(self, epoch: int, epochs: int) -> float:
        return self.fraction


LIBRARY = (Constant, Tenfold, Geometric, Exponential, TargetEss)


def parameter(value: Any, name: str, check: Callable[[Any, str], float]) -> Parameter:
    """A method's float parameter: a number that passes `check`, or a callable to be checked in each epoch."""
    if isinstance(value, type) or not callable(value):
        return check(value, name)
    if isinstance(value, TargetEss) and name != "alpha":
        raise TypeError(f"{name} must be a number or a schedule of it, got {value!r}, which is for alpha")
    schedule: Schedule = value
    return schedule


def evaluate(
    value: Parameter, name: str, check: Callable[[Any, str], float], epoch: int, epochs: int
) -> float:
    """The value of a parameter in an epoch; what a callable returns is checked like a plain number."""
    if not callable(value):
        return value
    return check(value(epoch, epochs), f"{name} at epoch {epoch} ({describe(value)})")


def describe(value: Any) -> str:
    """Text that tells parameters apart, except a user's callables, which have no text that lasts."""
    return "a callable" if callable(value) and not isinstance(value, LIBRARY) else repr(value)


def _power(start: float, factor: float, exponent: int) -> float:
    """start · factor^exponent; infinite, or zero, only where that is out of range, not the power alone."""
    with contextlib.suppress(OverflowError):
        power = factor**exponent
        if power >= sys.float_info.min:
            return float(start * power)
    import decimal

    wide = decimal.Context(prec=30, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX, traps=[])
    return float(wide.multiply(decimal.Decimal(start), wide.power(decimal.Decimal(factor), int(exponent))))


__all__ = ["Constant", "Exponential", "Geometric", "Parameter", "Schedule", "TargetEss", "Tenfold"]
