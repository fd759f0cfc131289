"""The loop that every run goes through, whatever its method and whatever it minimises."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from ._arrays import Array
from ._checkpoint import Checkpoint, Snapshot
from ._extras import extra
from ._method import Done, Method
from ._watch import Watch
from .network import TwoLayer
from .result import Result, State

Row = dict[str, Any]  # a row of the history, by column


@dataclasses.dataclass
class Options:
    """A run's arguments that concern neither its method nor its problem."""

    epochs: int
    progress: bool = False
    callback: Callable[[State], object] | None = None
    checkpoint: Checkpoint | None = None
    net: TwoLayer | None = None
    warn_collapse: bool = True

    def holds(self, epoch: int) -> bool:
        """Whether someone looks at the ensemble as it is after an epoch (from 1)."""
        return self.callback is not None or epoch == self.epochs or self.saves(epoch)

    def saves(self, epoch: int) -> bool:
        """Whether an epoch is one of those that end with a checkpoint."""
        return self.checkpoint is not None and (epoch == self.epochs or epoch % self.checkpoint.every == 0)


class Runner(Protocol):
    """A method at work, on the CPU (`Stepper`) or on a card."""

    @property
    def particles(self) -> Array:
        """[N, D], as they are now."""

    @property
    def point(self) -> Array:
        """What the run reports as its parameters, as it is now."""

    def epochs(
        self, problem: Any, method: Method, first: int, last: int, hold: Callable[[int], bool]
    ) -> Iterator[Done]:
        """Do the epochs from `first` up to `last`. Where hold(epoch), from 1, the ensemble must be as that
        epoch left it when it is handed out; else later ones may be on their way."""

    def variance(self) -> float:
        """Of the particles as they are now."""

    def watch(self, initial_variance: float, collapse: bool) -> Watch:
        """What warns of trouble in this run."""

    def state_dict(self) -> dict[str, Array]:
        """What a later step depends on besides particles and point."""

    def restore(self, particles: Array, point: Array, state: dict[str, Array]) -> None:
        """Take up where another run of the same kind stopped."""


def run(problem: Any, method: Method, runner: Runner, options: Options) -> Result:
    """Run to the last epoch, or until the callback says True. To be called by the public function itself:
    the warnings point at its caller."""
    began = time.perf_counter()
    records = Records(runner, options)
    records.resume(method)
    began -= records.seconds
    watch = runner.watch(records.initial_variance, options.warn_collapse and method._contracts)
    with progress_bar(options, records.epochs, problem.steps_per_epoch) as show:
        for done in runner.epochs(problem, method, records.epochs, options.epochs, options.holds):
            first = {name: done.row.pop(name) for name in ("risk", "alpha", "ess", "variance")}
            row = {"epoch": records.epochs + 1, **first, "seconds": time.perf_counter() - began, **done.row}
            records.append(row, done.values)
            risk = _middle(row["risk"])
            watch.look(row["epoch"], done.nonfinite, row["variance"], risk, records.first_risk)
            show(risk, _middle(row["ess"]))
            stop = options.callback is not None and _says_stop(options.callback, runner, row)
            records.save(stop)
            if stop:
                break
    return records.result()


def _middle(value: Any) -> float:
    """A number as it is (as it is for most methods, every epoch), the median of several tasks' numbers."""
    return value if isinstance(value, float) else float(np.median(value))


class _Now(State):
    """A `State` whose particles are fetched when they are looked at: from a card that is a copy."""

    _runner: Runner

    def __init__(self, runner: Runner, row: Row) -> None:
        names = ("epoch", "risk", "alpha", "ess", "variance")
        self.__dict__.update({n: np.copy(row[n]) if np.ndim(row[n]) else row[n] for n in names})
        self.__dict__.update(point=runner.point.copy(), _runner=runner)

    def __getattr__(self, name: str) -> Array:
        if name != "particles":
            raise AttributeError(name)
        particles = self._runner.particles.view()
        particles.flags.writeable = False
        self.__dict__[name] = particles
        return particles


def _says_stop(callback: Callable[[State], object], runner: Runner, row: Row) -> bool:
    answer = callback(_Now(runner, row))
    return isinstance(answer, (bool, np.bool_)) and bool(answer)


class Records:
    """What a run leaves behind: history, result, checkpoints."""

    def __init__(self, runner: Runner, options: Options) -> None:
        self._runner, self._options = runner, options
        self._columns: dict[str, list[Any]] = {}
        self._values: dict[str, list[float]] = {}
        self.initial_variance = math.nan

    @property
    def epochs(self) -> int:
        return len(self._columns.get("epoch", ()))

    @property
    def first_risk(self) -> float:
        return _middle(self._columns["risk"][0])

    @property
    def seconds(self) -> float:
        return float(self._columns["seconds"][-1]) if self._columns else 0.0

    def resume(self, method: Method) -> None:
        """Take up the checkpoint's run where there is one to continue."""
        checkpoint = self._options.checkpoint
        snapshot = checkpoint.load(method, self._options.epochs) if checkpoint else None
        if snapshot is None:
            self.initial_variance = self._runner.variance()
            return
        self.initial_variance = snapshot.initial_variance
        self._runner.restore(snapshot.result.particles, snapshot.result.parameters, snapshot.state)
        self._columns = {name: list(column) for name, column in snapshot.result.history.items()}
        self._values = {name: values.tolist() for name, values in snapshot.values.items()}

    def append(self, row: Row, values: dict[str, float]) -> None:
        for record, entries in ((self._columns, row), (self._values, values)):
            for name, entry in entries.items():
                record.setdefault(name, []).append(entry)

    def save(self, stopped: bool) -> None:
        """Write the checkpoint if this epoch is one of those to keep."""
        checkpoint = self._options.checkpoint
        if checkpoint is not None and (stopped or self._options.saves(self.epochs)):
            values = {name: np.array(column) for name, column in self._values.items()}
            state = self._runner.state_dict()
            checkpoint.save(Snapshot(self.result(), state, values, self.initial_variance))

    def result(self) -> Result:
        history = {name: np.array(column) for name, column in self._columns.items()}
        return Result(self._runner.point.copy(), self._runner.particles, history, self._options.net)


@contextlib.contextmanager
def progress_bar(options: Options, done: int, steps_per_epoch: int) -> Any:
    """A function to call after each epoch; with progress it moves a tqdm bar."""
    if not options.progress:
        yield lambda risk, ess: None
        return
    tqdm = extra("tqdm.auto", "progress=True")
    with tqdm.tqdm(total=options.epochs, initial=done, unit="epoch") as bar:
        began = time.perf_counter()

        def show(risk: float, ess: float) -> None:
            steps = (bar.n + 1 - done) * steps_per_epoch
            rate = steps / max(time.perf_counter() - began, 1e-9)
            bar.set_postfix_str(f"risk {risk:.3g}, ess {ess:.3g}, {rate:.0f} steps/s", refresh=False)
            bar.update()

        yield show
