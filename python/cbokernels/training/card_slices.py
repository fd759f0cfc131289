"""Runs whose ranks have a card each, where their slices of the particles stay.

The steps are those of `card.py`. In the middle of one, where points depend on all particles, the compiled run
asks for what the other ranks know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .._arrays import Array
from .._ranks import Ranks, combine_moments
from ..methods.base import Done, Method, Numbers, Plan, Setting
from ..methods.merging import State, alphas_for_ess, checked, combiner, length, split, unnormalised
from .card import DeviceStepper
from .card_ranks import card_of
from .data import Data, Orders
from .metrics import Evaluation


class Exchange:
    """What a step asks of all ranks; csrc/training/training_cuda.hpp says when, and which arrays of the run's
    are meant.

    The points' sums of D numbers for each task go through host memory, with the few numbers of a rank's
    weights in one allreduce. An MPI that takes addresses on a card adds them there itself. It cannot scale
    them, so that the few numbers come first.
    """

    def __init__(self, ranks: Ranks, plan: Plan, tasks: int, size: int) -> None:
        self._ranks, self._plan, self._tasks = ranks, plan, tasks
        self._epoch, self._alpha = 0, np.zeros(tasks)
        self._all = np.empty(tasks * (3 + size))
        self._few = self._all[: 3 * tasks].reshape(3, tasks)
        self._sums = self._all[3 * tasks :].reshape(tasks, size)

    def begin(self, epoch: int, alpha: float) -> None:
        """An epoch: its alpha, or the effective sample size to solve it for."""
        self._epoch = epoch
        self._target = alpha
        self._alpha[:] = alpha

    def __call__(self, run: Any, what: str, scored: int, step: int) -> list[float]:
        self._when = f"epoch {self._epoch + 1}, step {step}: "
        answer: Callable[[Any, int], list[float]] = getattr(self, f"_{what}")
        return answer(run, scored)

    def _alphas(self, run: Any, scored: int) -> list[float]:
        """Those at which all ranks' particles have the effective sample size."""
        risk = np.empty((scored, self._tasks))
        if scored:
            run.read("risk", risk)
        subsets = self._plan.more.get("subset", 0) > 0
        self._alpha[:] = alphas_for_ess(self._ranks, risk, self._target, subsets)
        run.write("alphas", self._alpha)
        return []

    def _weigh(self, run: Any, scored: int) -> list[float]:
        """What this rank's means weigh among all ranks', where they are added on the cards."""
        if not self._ranks.cuda_aware:
            return []
        run.read("state", self._few)
        mine = self._state(0)
        every, *others = self._ranks.tell(mine)
        for other in others:
            combiner(self._alpha)(other, every)
        own, found = split(mine, self._tasks), self._found(every)
        run.write("state", self._few)
        scale = unnormalised(own.least[None], found.least, self._alpha)[0]
        factors: list[float] = (scale * own.total / found.total).tolist()
        return factors

    def _sum(self, run: Any, scored: int) -> list[float]:
        """All ranks' means."""
        if self._ranks.cuda_aware:
            self._ranks.add_on_card(run.address("sums"), self._sums.size)
            return []
        run.read("exchange", self._all)
        state = self._state(self._sums.shape[1])
        found = self._found(self._ranks.merge(lambda a, b: state, combiner(self._alpha)))
        with np.errstate(over="ignore", invalid="ignore"):  # of an ensemble that overflows
            np.divide(found.sums, found.total[:, None], out=self._sums)
        run.write("exchange", self._all)
        return []

    def _state(self, size: int) -> Array:
        """This rank's, as those of methods/merging.py; size 0: without sums."""
        state = np.zeros(length(self._tasks, size))
        part = split(state, self._tasks)
        part.least[:], part.total[:], part.squares[:] = self._few
        part.least[part.total == 0] = np.inf
        if size:
            with np.errstate(over="ignore", invalid="ignore"):
                np.multiply(self._sums, part.total[:, None], out=part.sums)
        return state

    def _found(self, state: Array) -> State:
        """All ranks' state, whose effective sample sizes are what the run is told first."""
        found = checked(split(state, self._tasks), self._plan.scored, self._when)
        self._few[0] = found.total**2 / found.squares
        return found


class SliceStepper(DeviceStepper):
    """A method at work on this rank's particles, on its card."""

    def __init__(
        self, method: Method, theta: Array, setting: Setting, data: Data, orders: Orders,
        evaluation: Evaluation | None = None,
    ) -> None:  # fmt: skip
        ranks = self._ranks = setting.ranks
        super().__init__(method, theta, setting, data, orders, evaluation, card_of(ranks))
        self._own = self._networks  # risks in the rows of this rank, where networks have one each
        self._exchange: Exchange | None = None
        if self._plan.points:
            self._exchange = Exchange(ranks, self._plan, setting.tasks, theta.shape[1])
            self._reported[:] = 0
        else:
            self._networks, self._reported[0] = ranks.total, theta[0]
        self._run.share(ranks.first, self._exchange)
        self._mean = np.empty(theta.shape[1])

    @property
    def point(self) -> Array:
        """A copy of what is reported, as the first rank has it."""
        return self.reported.copy()

    def variance(self) -> float:
        """Of all ranks' particles."""
        return self._ranks.variance(self.particles, self._setting.threads)

    def shared(self) -> dict[str, int]:
        """As `Stepper.shared`."""
        return {"particles": 0, **{name: self._plan.axes.get(name, 0) for name in self._plan.state}}

    def restore(self, particles: Array, point: Array, state: dict[str, Array]) -> None:
        """As `Stepper.restore`."""
        super().restore(particles, point, state)
        self._reported[:] = point

    def epochs(
        self, orders: Orders, method: Method, first: int, last: int, hold: Callable[[int], bool]
    ) -> Iterator[Done]:
        """As `Stepper.epochs`. Ranks exchange something after each epoch, so that none is begun ahead."""
        return super().epochs(orders, method, first, last, lambda epoch: True)

    def _numbers(self, values: Numbers, epoch: int) -> Numbers:
        numbers = super()._numbers(values, epoch)
        if self._exchange is not None:
            self._exchange.begin(epoch, numbers["alpha"])
        return numbers

    def _done(self, epoch: int, raw: Array, values: Numbers) -> Done:
        """An epoch's row of history, from those of all ranks' runs."""
        ranks, of_tasks = self._ranks, 2 * self._setting.tasks
        risks, between, further = np.split(raw, [self._own, self._own + of_tasks + 5])
        between[of_tasks], between[of_tasks + 2] = self._moments(between[of_tasks], between[of_tasks + 2])
        if not self._plan.points:
            risks = ranks.gather(risks)
            further = ranks.gather(further.reshape(-1, self._own).T).T.ravel() if further.size else further
        elif ranks.size > 1:
            risks = np.array(ranks.lead(risks.tolist))
        if not self._plan.points or ranks.cuda_aware:  # whose sums need not have the same bits on all ranks
            ranks.spread(self._reported)
        return super()._done(epoch, np.concatenate([risks, between, further]), values)

    def _moments(self, variance: float, nonfinite: float) -> tuple[float, float]:
        """The variance of all ranks' particles, and how many risks were not finite."""
        self._run.read("mean", self._mean)
        count = self._shape[0]
        state = np.concatenate([[count, 2 * count * variance], self._mean, [nonfinite]])

        def combine(other: Array, into: Array) -> None:
            into[-1] += other[-1]
            combine_moments(other[:-1], into[:-1])

        with np.errstate(over="ignore", invalid="ignore"):  # of an ensemble that overflows
            found = self._ranks.merge(lambda a, b: state, combine)
        return found[1] / (2 * self._ranks.total), found[-1]
