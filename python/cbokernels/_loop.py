"""The loop that every run goes through, whatever its method and whatever it minimises."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from . import _cpu
from ._checkpoint import Checkpoint, Snapshot
from ._extras import extra
from ._method import Method, Problem, Stepper
from ._watch import Watch
from .errors import ConsensusError
from .network import TwoLayer
from .result import Result, State

Row = dict[str, Any]  # a row of the history, by column


@dataclasses.dataclass
class Options:
    """A run's arguments that concern neither its method nor its problem."""

    epochs: int
    threads: int
    progress: bool = False
    callback: Callable[[State], object] | None = None
    checkpoint: Checkpoint | None = None
    net: TwoLayer | None = None
    warn_collapse: bool = True


def run(problem: Problem, method: Method, stepper: Stepper, options: Options) -> Result:
    """Run to the last epoch, or until the callback says True. To be called by the public function itself:
    the warnings point at its caller."""
    began = time.perf_counter()
    records = Records(stepper, options)
    records.resume(method)
    began -= records.seconds
    collapse = options.warn_collapse and method._contracts
    watch = Watch(stepper.particles, records.initial_variance, collapse=collapse)
    step = method._first_step + records.epochs * problem.steps_per_epoch
    with progress_bar(options, records.epochs, problem.steps_per_epoch) as show:
        for epoch in range(records.epochs, options.epochs):
            values = method._values(epoch, options.epochs)
            stepper.begin(values)
            try:
                nonfinite = stepper.epoch(problem, epoch, step)
            except ConsensusError as error:
                raise ConsensusError(f"epoch {epoch + 1}, {error}") from error
            step += problem.steps_per_epoch
            report = stepper.report(problem)
            row = {
                "epoch": epoch + 1,
                "risk": report.pop("risk"),
                "alpha": stepper.alpha,
                "ess": stepper.ess,
                "variance": _cpu.variance(stepper.particles, options.threads),
                "seconds": time.perf_counter() - began,
                **report,
            }
            records.append(row, values)
            risk = _middle(row["risk"])
            watch.look(epoch + 1, nonfinite, row["variance"], risk, records.first_risk)
            show(risk, _middle(row["ess"]))
            stop = options.callback is not None and _says_stop(options.callback, stepper, row)
            records.save(stop)
            if stop:
                break
    return records.result()


def _middle(value: Any) -> float:
    """A number as it is (as it is for most methods, every epoch), the median of several tasks' numbers."""
    return value if isinstance(value, float) else float(np.median(value))


def _says_stop(callback: Callable[[State], object], stepper: Stepper, row: Row) -> bool:
    particles = stepper.particles.view()
    particles.flags.writeable = False
    risk, alpha, ess = (np.copy(row[n]) if np.ndim(row[n]) else row[n] for n in ("risk", "alpha", "ess"))
    state = State(row["epoch"], particles, stepper.point.copy(), risk, alpha, ess, row["variance"])
    answer = callback(state)
    return isinstance(answer, (bool, np.bool_)) and bool(answer)


class Records:
    """What a run leaves behind: history, result, checkpoints."""

    def __init__(self, stepper: Stepper, options: Options) -> None:
        self._stepper, self._options = stepper, options
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
        checkpoint, stepper = self._options.checkpoint, self._stepper
        snapshot = checkpoint.load(method, self._options.epochs) if checkpoint else None
        if snapshot is None:
            self.initial_variance = _cpu.variance(stepper.particles, self._options.threads)
            return
        self.initial_variance = snapshot.initial_variance
        np.copyto(stepper.particles, snapshot.result.particles)
        np.copyto(stepper.point, snapshot.result.parameters)
        stepper.load_state_dict(snapshot.state)
        self._columns = {name: list(column) for name, column in snapshot.result.history.items()}
        self._values = {name: values.tolist() for name, values in snapshot.values.items()}

    def append(self, row: Row, values: dict[str, float]) -> None:
        for record, entries in ((self._columns, row), (self._values, values)):
            for name, entry in entries.items():
                record.setdefault(name, []).append(entry)

    def save(self, stopped: bool) -> None:
        """Write the checkpoint if this epoch is one of those to keep."""
        checkpoint = self._options.checkpoint
        if checkpoint is None:
            return
        if stopped or self.epochs == self._options.epochs or self.epochs % checkpoint.every == 0:
            values = {name: np.array(column) for name, column in self._values.items()}
            state = self._stepper.state_dict()
            checkpoint.save(Snapshot(self.result(), state, values, self.initial_variance))

    def result(self) -> Result:
        history = {name: np.array(column) for name, column in self._columns.items()}
        return Result(self._stepper.point.copy(), self._stepper.particles, history, self._options.net)


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
