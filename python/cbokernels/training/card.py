"""Runs of `train` on a card: data and particles stay there, and epochs are on their way while the host looks
at earlier ones."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

from .. import _cpu, cuda
from .._arrays import Array, Values
from .._arrays.memory import DeviceArray
from ..errors import CboWarning, ConsensusError
from ..methods.base import Done, Method, Numbers, Setting, no_consensus
from ..network import TwoLayer
from .data import Data, Orders
from .metrics import Evaluation
from .watch import frozen_limit


class CardScored:
    """Data on a card to evaluate points on. Arrays of the host's are copied there, once.

    on: device and stream for these; arrays that lie on a card have their own.
    """

    def __init__(self, net: TwoLayer, data: Data, precision: str, on: tuple[int, int]) -> None:
        self._module, self._data = cuda.module(), data
        self._on = data.call.on if data.call.on_device else on
        self.x, self.y = self._there(data.x), self._there(data.y)
        self.weights = None if data.weights is None else self._there(data.weights)  # of a run, not of these
        self._net, self._outputs = net._kernel, (data.samples, net.outputs)
        self._theta = self.new((1, net.size), data.x.dtype)
        self._risk = self.new((1,), np.dtype(np.float64))
        self._run = (*self._on, precision)
        self.targets = data.call.host(data.y).view()
        self.targets.flags.writeable = False

    def new(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        memory = self._module.Memory(self._on[0], math.prod(shape) * dtype.itemsize)
        return DeviceArray(memory.address, shape, dtype, memory, "a run's array")

    def _there(self, a: Values) -> DeviceArray:
        return a if isinstance(a, DeviceArray) else self._sent(np.ascontiguousarray(a))

    def _sent(self, values: Array) -> DeviceArray:
        a = self.new(values.shape, values.dtype)
        self._module.write_memory(a.pointer, values, self._on)
        return a

    def _read(self, a: DeviceArray, out: Array) -> None:
        self._module.read_memory(a.pointer, out, self._on)

    def _tasks(self, theta: Array) -> Iterator[tuple[int, DeviceArray]]:
        """Each task with its inputs, while its theta [D] of theta [T, D] is on the card."""
        for t, row in enumerate(theta):
            self._module.write_memory(self._theta.pointer, np.ascontiguousarray(row), self._on)
            yield t, self.x if self.x.ndim == 2 else self.x[t]

    def risks(self, theta: Array) -> Array:
        """Risks [T] of theta [T, D], row t on task t."""
        out = np.empty(len(theta))
        for t, x in self._tasks(theta):
            arrays = self._theta, x, self.y[t]
            self._module.risk(self._net, *arrays, self._data.loss, self._risk, self._run)
            self._read(self._risk, out[t : t + 1])
        return out

    def outputs(self, theta: Array) -> Array:
        """Outputs [T, S, C] of theta [T, D], row t at the inputs of task t."""
        out = np.empty((len(theta), *self._outputs), theta.dtype)
        on_card = self.new((1, *self._outputs), theta.dtype)
        for t, x in self._tasks(theta):
            self._module.forward(self._net, self._theta, x, on_card, self._run)
            self._read(on_card, out[t])
        return out


class DeviceStepper:
    """A method at work on a card; as `Stepper`, but arrays are copies, made when they are asked for."""

    finishes: ClassVar[bool] = True

    def __init__(
        self, method: Method, theta: Array, setting: Setting, data: Data, orders: Orders,
        evaluation: Evaluation | None = None, on: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        plan = self._plan = method._on_card(theta, setting)
        module = cuda.module()
        self._shape, self._dtype, self._setting = theta.shape, theta.dtype, setting
        self._networks = setting.tasks if method._consensus else len(theta)  # that a row has risks of
        self._consensus = method._consensus
        x, y, weights = data.x, data.y, data.weights
        held = None if evaluation is None else evaluation.training
        if isinstance(held, CardScored):  # they are sent once
            x, y, weights = held.x, held.y, held.weights
        more = {**plan.more, "decays": setting.weight_decay > 0}
        self._run = module.start(
            setting.network._kernel, plan.kernel, x, y, weights, data.loss, orders.batch_size, theta,
            plan.task, setting.seed, plan.noise, plan.solve, more, (data, held),
            (*(on or data.call.on), setting.precision),
        )  # fmt: skip
        for name, values in plan.arrays.items():
            self._run.write(name, values)
        self._reported = np.empty((setting.tasks if plan.points else 1, theta.shape[1]), theta.dtype)
        self._first = 0  # this run's first epoch, from 0
        self._values: dict[int, Numbers] = {}  # of epochs on their way
        self._limit = frozen_limit(_cpu.variance(theta, setting.threads), theta.shape[1])
        self._frozen = 0.0
        self._told = False  # what the plan warns of

    @property
    def particles(self) -> Array:
        """A copy of the particles [N, D]."""
        return self._read("theta", self._shape, self._dtype)

    @property
    def point(self) -> Array:
        """A copy of what is reported: the points, or network 0."""
        if not self._plan.points:
            first: Array = self.particles[0]
            return first
        points = self._read("points", (self._setting.tasks, self._shape[1]), self._dtype)
        return points if self._setting.task_axis else points[0]

    @property
    def reported(self) -> Array:
        """As `Runner.reported`, in the same memory each time."""
        return self._reported if self._plan.points and self._setting.task_axis else self._reported[0]

    def _read(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        out = np.empty(shape, dtype)
        self._run.read(name, out)
        return out

    def variance(self) -> float:
        """Of the particles, (1/2N) Σ |theta_n - mean|²."""
        return _cpu.variance(self.particles, self._setting.threads)

    @property
    def frozen(self) -> float:
        """As `Runner.frozen`, after the last epoch that was handed out."""
        return self._frozen if self._shape[0] > 1 else 0.0

    def state_dict(self) -> dict[str, Array]:
        """As `Stepper.state_dict`."""
        return {name: self._read(name, *kind) for name, kind in self._plan.state.items()}

    def shared(self) -> dict[str, int]:
        """As `Stepper.shared`."""
        return {}

    def restore(self, particles: Array, point: Array, state: dict[str, Array]) -> None:
        """As `Stepper.restore`."""
        self._plan.check(state)
        arrays = {"theta": particles, **state}
        if self._plan.points:
            arrays["points"] = point
        for name, values in arrays.items():
            self._run.write(name, np.ascontiguousarray(values))

    def epochs(
        self, orders: Orders, method: Method, first: int, last: int, hold: Callable[[int], bool]
    ) -> Iterator[Done]:
        """As `Stepper.epochs`; epochs are submitted ahead unless one has to be looked at first."""
        step = method._first_step + first * orders.steps_per_epoch
        self._first = given = first
        for epoch in range(first, last):
            values = method._values(epoch, last)
            numbers = self._numbers(values, epoch)
            subsets = self._plan.subsets(step, orders.steps_per_epoch)
            self._values[epoch] = values
            self._values.pop(epoch - 2 * self._run.in_flight, None)
            self._run.submit(orders.order(epoch), subsets, step, numbers)
            step += orders.steps_per_epoch
            most = 0 if hold(epoch + 1) else self._run.in_flight - 1
            while given + most <= epoch:
                yield self._row(given)
                given += 1

    def _numbers(self, values: Numbers, epoch: int) -> Numbers:
        """An epoch's, as the compiled run calls them."""
        decay = self._setting.decay(values, epoch)
        return {**self._plan.numbers(values), "limit": self._limit, "decay": decay}

    def finish(self, done: int) -> Iterator[Done]:
        """As `Runner.finish`: epochs that were submitted cannot be stopped."""
        for epoch in range(done, self._first + self._run.submitted):
            yield self._row(epoch)

    def _row(self, epoch: int) -> Done:
        row = self._run.row(epoch - self._first)
        self._run.point(epoch - self._first, self._reported)
        return self._done(epoch, row, self._values[epoch])

    def _done(self, epoch: int, raw: Array, values: Numbers) -> Done:
        """An epoch's row of history, from the compiled run's."""
        plan, tasks = self._plan, self._setting.tasks
        risks, alphas, ess, rest = np.split(raw, np.cumsum([self._networks, tasks, tasks]))
        variance, self._frozen, nonfinite, failed_step, failed_task, *further = rest.tolist()
        if failed_step >= 0:
            where, atoms = f" in task {failed_task:.0f}" if tasks > 1 else "", plan.more.get("atoms", False)
            what = plan.breakdown if failed_task < 0 else no_consensus(plan.scored, where, bool(atoms))
            raise ConsensusError(f"epoch {epoch + 1}, step {failed_step:.0f}: {what}")
        if not self._told and (message := plan.told(further)):
            self._told = True
            warnings.warn(message, CboWarning, stacklevel=6)  # _row, epochs, run, the function, its caller
        row: dict[str, Any] = {"risk": risks[0].item(), "alpha": math.nan, "ess": math.nan, "risks": risks}
        if self._consensus:
            alpha = alphas if plan.solve else values.get("alpha", math.nan)
            row = {"risk": risks, "alpha": alpha, "ess": ess}
            if not self._setting.task_axis:
                row = {name: np.asarray(value).item() for name, value in row.items()}
        return Done(values, int(nonfinite), {**row, "variance": variance, **plan.columns(risks, further)})
