"""Consensus-based optimization of several tasks by one ensemble, as a method."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from .._arrays import HOST, Array
from .._checks import WORD
from ..schedules import Parameter, Tenfold
from .base import Plan, Problem, Setting, Stepper
from .cbo import CBO, CBOStepper

_ALPHA = Tenfold(1e4, every=100, cap=1e7)


@dataclasses.dataclass(frozen=True)
class MultiTaskCBO(CBO):
    """CBO of T related tasks by one ensemble [De Deyn, Herty, Samaey 2025, eq. 27-28].

    y is [T, S] (one output, or labels) or [T, S, C]; x is [S, d], or [T, S, d] where each task has its own
    inputs (minibatches then take the same samples' numbers in every task). Every particle is scored on every
    task, in one forward pass where they share x and in T where not; each task has its own consensus point,
    from all particles; each particle moves towards the point of its task. Memory is N·D + T·D.

    The parameters are those of `CBO`, with the paper's values for its multi-task example as defaults, and
    task: [N] integers in [0, T), the task of each particle; None: floor(n T / N), consecutive equal shares.
        Kept as a tuple.

    A result's parameters are the points [T, D], its predictions [T, S, C]; "risk" (each task's, of its own
    point) and "ess" in the history are [E, T], and so is "alpha" if it is a `TargetEss`. Only for `train`.
    """

    alpha: Parameter = _ALPHA
    diffusion: Parameter = 1.8**0.5
    dt: Parameter = 0.2
    task: Any = None

    _any_function: ClassVar[bool] = False
    _contracts: ClassVar[bool] = False
    _task_axes: ClassVar[tuple[str, ...]] = ("T",)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "task", kept_task(self.task))

    def _stepper(self, theta: Array, setting: Setting) -> Stepper:
        return MultiTaskStepper(self, theta, setting, own_tasks(self.task, theta, setting))

    def _on_card(self, theta: Array, setting: Setting) -> Plan:
        task = own_tasks(self.task, theta, setting)
        return dataclasses.replace(super()._on_card(theta, setting), task=task)


def kept_task(task: Any) -> tuple[int, ...] | None:
    """A method's `task`, checked as far as it can be before the ensemble and the tasks are known."""
    if task is None:
        return None
    array = np.asarray(task) if isinstance(task, (list, tuple)) else task
    kept = tuple(HOST.host(HOST.integers(array, "task", ("N",), WORD // 2, "tasks")).tolist())
    same = isinstance(task, tuple) and all(type(t) is int for t in task)
    return task if same else kept  # scikit-learn's `clone` wants back the object that it gave


def tasks_of(task: tuple[int, ...] | None, particles: int, tasks: int) -> Array:
    """Each particle's task [N], int32."""
    if task is None:
        return (np.arange(particles, dtype=np.int64) * tasks // particles).astype(np.int32)
    return HOST.host(HOST.integers(np.array(task), "task", (particles,), tasks, "tasks"))


def own_tasks(task: tuple[int, ...] | None, theta: Array, setting: Setting) -> Array:
    """The tasks of this rank's particles."""
    ranks = setting.ranks
    return ranks.part(tasks_of(task, ranks.all_of(len(theta)), setting.tasks))


class MultiTaskStepper(CBOStepper):
    """The steps of `MultiTaskCBO`: those of `CBO`, reported for every task."""

    def __init__(self, method: CBO, theta: Array, setting: Setting, task: Array) -> None:
        super().__init__(method, theta, setting, task)
        self.point = self._points

    def _tell(self, values: Array) -> Any:
        return values.copy()

    def report(self, problem: Problem) -> dict[str, Any]:
        return {"risk": self._ranks.lead(lambda: problem.risks(self._points))}
