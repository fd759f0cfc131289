"""What methods with consensus points share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _cpu
from .._arrays import Array
from .._checks import choice
from .._kinds import NOISES
from ..schedules import Parameter, TargetEss
from .base import Numbers, Plan, Problem, Setting, Stepper
from .merging import alphas_for_ess, checked, combiner, split, state_of, unnormalised


def check_noise(noise: Any, radius: Parameter | None) -> None:
    """The rules on a method's noise, its radius already checked by itself."""
    choice(noise, "noise", NOISES)
    if noise == "truncated" and radius is None:
        raise ValueError("radius is required for noise='truncated', got None")
    if noise != "truncated" and radius is not None:
        raise ValueError(f"radius must be None unless noise is 'truncated', got {radius!r}")


def target_ess(fraction: float, scored: int) -> float:
    """The effective sample size that a `TargetEss` is for."""
    return max(1.0, fraction * scored)


def consensus_plan(
    kernel: str, alpha: Parameter, scored: int, numbers: Callable[[Numbers], Numbers] = dict, **rest: Any
) -> Plan:
    """A plan with consensus points; `numbers` gets a target in the place of an alpha that is solved for."""
    solve = isinstance(alpha, TargetEss)

    def with_target(now: Numbers) -> Numbers:
        return numbers({**now, "alpha": target_ess(now["alpha"], scored)} if solve else now)

    return Plan(kernel, with_target, solve=solve, points=True, scored=scored, **rest)


class ConsensusStepper(Stepper):
    """What methods with consensus points share: weights, points, effective sample sizes, for T tasks.

    Everything a step needs is checked and allocated beforehand: a step only calls kernels.
    """

    _noise = "additive"  # of transport, which has no other

    def __init__(self, theta: Array, setting: Setting, alpha: Parameter, scored: int) -> None:
        super().__init__(theta, setting)
        tasks = setting.tasks
        self._solve_alpha = isinstance(alpha, TargetEss)
        self._points = np.zeros((tasks, theta.shape[1]), theta.dtype)
        own = (min(scored, len(theta)), tasks)
        self._count, self._risk, self._weights = scored, np.empty(own), np.empty(own)
        self._alpha, self._ess = np.empty(tasks), np.empty(tasks)
        self.point = self._points[0]
        self._of_function = setting.net is None
        self._known: float | None = None  # the point's risk, where ranks found that it is a particle

    def report(self, problem: Problem) -> dict[str, Any]:
        # One call of the function less where the point is a particle, whose value is known.
        if self._of_function:
            if self._ranks.alone and len(alone := np.flatnonzero(self._weights)) == 1:
                self._known = float(self._risk[alone[0], 0])
            if (known := self._known) is not None:
                self._known = None
                return {"risk": known}
        return super().report(problem)

    def _gather(self, scored: Array, rows: Array | None = None) -> int:
        """The points of particles `scored` from their risks; returns the number of non-finite ones. rows:
        where those are not all, their numbers."""
        if not self._ranks.alone:
            return self._merge(scored, rows, self._points.shape[1])
        found = (self._points, self._weights, self._ess, self._threads)
        if (target := self._target()) is not None:
            nonfinite = _cpu.consensus_at_ess(scored, self._risk, target, self._alpha, *found)
        else:
            nonfinite = _cpu.consensus(scored, self._risk, self._now["alpha"], *found)
        self._note()
        return nonfinite

    def _merge(self, scored: Array, rows: Array | None, size: int) -> int:
        """The same of the particles of all ranks; size 0: only the weights."""
        ranks, alpha = self._ranks, self._alpha
        risk = self._risk[: len(scored)]
        alpha[:] = self._now["alpha"]
        if (target := self._target()) is not None:
            alpha[:] = alphas_for_ess(ranks, risk, target, rows is not None)

        def leaf(a: int, b: int) -> Array:
            return state_of(scored[a:b] if size else None, risk[a:b], alpha, size, self._threads)

        found = checked(split(ranks.merge(leaf, combiner(alpha), rows), len(alpha)), self._count)
        self._ess[:] = found.total**2 / found.squares
        if size:
            with np.errstate(over="ignore"):  # the loop warns of an ensemble that overflows
                np.divide(found.sums, found.total[:, None], out=self._points, casting="same_kind")
        else:  # of transport
            self._weights[:] = unnormalised(risk, found.least, alpha) / found.total
        self._known = float(found.least[0]) if found.weighted[0] == 1 else None
        self._note()
        return int(found.nonfinite[0])

    def _found(self) -> tuple[float, float | None, Array, Array, Array, Array]:
        """What compiled epochs weigh with, and where they put what they find."""
        return self._now["alpha"], self._target(), self._alpha, self._points, self._weights, self._ess

    def _law(self, now: Numbers, part: float = 1.0) -> tuple[float, float, float, str, float, float]:
        """The numbers of a step's drift and noise, as the compiled module takes them; weighted by `part`."""
        moves = part * now["drift"], part * now["diffusion"], now["dt"]
        return *moves, self._noise, now.get("floor", 0.0), now.get("radius", 0.0)

    def _note(self) -> None:
        """Take down the last step's alpha and effective sample size."""
        self.alpha = self._tell(self._alpha) if self._solve_alpha else self._now["alpha"]
        self.ess = self._tell(self._ess)

    def _target(self) -> float | None:
        """The effective sample size to solve alpha for, if that is asked for."""
        return target_ess(self._now["alpha"], self._count) if self._solve_alpha else None

    def _tell(self, values: Array) -> Any:
        """What the history says of values [T]; with the one task of most methods, a number."""
        return values.item()
