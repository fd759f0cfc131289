"""The loop that every run goes through, whatever its method and whatever it minimises."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Protocol

import numpy as np

from .._arrays import Array
from .._extras import progress_bar as tqdm_bar
from .._files import reading
from .._ranks import ALONE, Ranks, common
from .._records import Snapshot
from ..errors import CboWarning
from ..methods.base import Done, Method
from ..network import TwoLayer
from ..result import Result, State, lowest
from .checkpoint import Checkpoint
from .metrics import Evaluation
from .stopping import Best, Stopping
from .watch import Watch, Watched

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
    stopping: Stopping = dataclasses.field(default_factory=Stopping)
    evaluation: Evaluation | None = None
    returns: bool = False  # whether Ctrl-C returns the result of the whole epochs
    unit: str = "epoch"
    state: dict[str, Array] = dataclasses.field(
        default_factory=dict
    )  # the problem's counts, kept in checkpoints
    ranks: Ranks = ALONE
    arguments: dict[str, str] = dataclasses.field(default_factory=dict)  # which must be the same on all ranks

    @property
    def validated(self) -> bool:
        """Whether the watched risk is a validation's."""
        return self.evaluation is not None and self.evaluation.validation is not None

    @property
    def interval(self) -> int:
        """Epochs from one evaluation to the next."""
        return 1 if self.evaluation is None else self.evaluation.every

    def holds(self, epoch: int) -> bool:
        """Whether the ensemble must be available after this epoch (from 1)."""
        told = self.stopping.stops and (not self.validated or epoch % self.interval == 0)
        return told or self.callback is not None or epoch == self.epochs or self.saves(epoch)

    def saves(self, epoch: int) -> bool:
        """Whether an epoch is one of those that end with a checkpoint."""
        return self.checkpoint is not None and (epoch == self.epochs or epoch % self.checkpoint.every == 0)


class Runner(Watched, Protocol):
    """A method at work, on the CPU (`Stepper`) or on a card."""

    finishes: ClassVar[bool]  # whether submitted epochs complete even after an error

    @property
    def point(self) -> Array:
        """What the run reports as its parameters, as it is now."""

    @property
    def reported(self) -> Array:
        """The same as it was after the epoch that was handed out last; valid until the next one is."""

    def epochs(
        self, problem: Any, method: Method, first: int, last: int, hold: Callable[[int], bool]
    ) -> Iterator[Done]:
        """Do the epochs from `first` up to `last`. Where hold(epoch), from 1, the ensemble must be as that
        epoch left it when it is handed out; else later ones may be on their way."""

    def variance(self) -> float:
        """Of the particles as they are now."""

    def state_dict(self) -> dict[str, Array]:
        """What a later step depends on besides particles and point."""

    def shared(self) -> dict[str, int]:
        """Which of particles and state the ranks have a part of each, and along which axis."""

    def restore(self, particles: Array, point: Array, state: dict[str, Array]) -> None:
        """Take up where another run of the same kind stopped; ValueError for a state that no run has."""

    def finish(self, done: int) -> Iterator[Done]:
        """Where an exception ended the run after `done` epochs: yield the later epochs that still complete."""


def run(problem: Any, method: Method, runner: Runner, options: Options) -> Result:
    """Run to the last epoch, or until something stops the run. To be called by the public function itself:
    the warnings point at its caller."""
    began = time.perf_counter()
    records = Records(runner, options)
    records.begin(method)
    began -= records.seconds
    watch = Watch(
        runner, records.initial_variance, collapse=options.warn_collapse and method._contracts,
        consensus=method._consensus,
    )  # fmt: skip
    bar = progress_bar(options, records.epochs, problem.steps_per_epoch)
    best = records.best
    stopped = best.stopped
    last = records.epochs if stopped else options.epochs  # the run that it continues may have stopped
    ranks = options.ranks
    with terminable(options.checkpoint, ranks) as signals, bar as show:
        try:
            for done in runner.epochs(problem, method, records.epochs, last, options.holds):
                row = records.append(done, time.perf_counter() - began)
                risk = _middle(row["risk"])
                watch.look(row["epoch"], done.nonfinite, row["variance"], risk, records.first_risk)
                show(best.last, _middle(row["ess"]))
                stopped = best.stopped
                told = options.callback if ranks.rank == 0 else None
                if told is not None and _says_stop(told, runner, row, options):
                    stopped = stopped or "callback"
                if not ranks.alone and (options.callback is not None or options.checkpoint is not None):
                    stopped = _agreed(ranks, stopped, signals, records)
                if stopped or options.saves(row["epoch"]):
                    records.save()
                if stopped:
                    break
                records.go_on()
        except BaseException as error:
            records.rescue(time.perf_counter() - began)
            ranks.end(error, records.saved())
            if not (options.returns and isinstance(error, KeyboardInterrupt) and records.whole_epochs):
                raise
            stopped = "interrupt"
    return records.result(method, stopped or "epochs", watch)


def _agreed(ranks: Ranks, stopped: str, signals: list[int], records: Records) -> str:
    """After an epoch: why the first rank stops the run. Where one was told to end, it is saved, and all raise
    SystemExit."""
    told = ranks.tell((stopped, max(signals, default=0)))
    if number := max(one for _, one in told):
        records.save()
        raise common(SystemExit(128 + number))
    return told[0][0]


@contextlib.contextmanager
def terminable(checkpoint: Checkpoint | None, ranks: Ranks = ALONE) -> Iterator[list[int]]:
    """Where there is a checkpoint, SIGTERM is a SystemExit for its run, which is then saved; of several ranks
    after the epoch, which they save together, and until then the signal is in the list.

    Not where someone handles it already, nor outside the main thread, which alone can.
    """
    signals: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    if checkpoint is None or not main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield signals
        return

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # one is enough
        signals.append(number)
        if ranks.alone:
            raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield signals
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _middle(value: Any) -> float:
    """A number as it is (as it is for most methods, every epoch), the median of several tasks' numbers."""
    return value if isinstance(value, float) else float(np.median(value))


def _says_stop(callback: Callable[[State], object], runner: Runner, row: Row, options: Options) -> bool:
    """Call the callback after an epoch; whether the run is to end."""
    own = {name: np.copy(value) if np.ndim(value) else value for name, value in row.items()}
    metrics = {} if options.evaluation is None else {name: own[name] for name in options.evaluation.columns}
    fields = {name: own[name] for name in ("epoch", "risk", "alpha", "ess", "variance")}
    state = State._later(lambda: runner.particles, point=runner.point.copy(), metrics=metrics, **fields)
    try:
        stop = bool(callback(state))
    except StopIteration:
        stop = True
    seen = weakref.ref(state)
    del state
    if (kept := seen()) is not None:
        _ = kept.particles  # the callback kept the state: copy its particles before they change
    return stop


class Records:
    """What a run leaves behind: history, result, checkpoints."""

    def __init__(self, runner: Runner, options: Options) -> None:
        self._runner, self._options, self._store = runner, options, options.checkpoint
        self._earlier = Snapshot({}, {}, {})  # the run that this one continues
        self._before = 0  # its epochs
        # Of this one: the epochs' entries of the history and the parameters' values, in the order of _names.
        self._rows: list[tuple[tuple[Any, ...], tuple[float, ...]]] = []
        self._names: tuple[list[str], list[str]] = ([], [])
        # An epoch changes its arrays as it goes. They are an epoch's end while `_resting`, and those of the
        # last one are in `_kept`, after that many epochs.
        self._resting, self._kept_epochs = False, 0
        self._kept: dict[str, Array] = {}
        self._warned = False
        self.initial_variance = 0.0
        self.best = Best(options.stopping, options.validated, options.interval, runner.point)

    @property
    def epochs(self) -> int:
        return self._before + len(self._rows)

    @property
    def first_risk(self) -> float:
        earlier = self._earlier.history
        return _middle(earlier["risk"][0] if self._before else self._rows[0][0][self._names[0].index("risk")])

    @property
    def seconds(self) -> float:
        return float(self._earlier.history["seconds"][-1]) if self._before else 0.0

    def begin(self, method: Method) -> None:
        """See that a checkpoint can be written, and take up its run where there is one to continue."""
        ranks, snapshot = self._options.ranks, None
        if self._store is not None:
            self._store.ranks, self._store.shared = ranks, self._runner.shared()
            snapshot = self._store.load(method, self._options.epochs, self._arrays())
            if ranks.rank == 0:
                self._store.open()
        ranks.start({**self._options.arguments, "epochs": str(self._options.epochs)})
        self.initial_variance = self._runner.variance()
        if snapshot is not None and self._store is not None:
            particles, point, best = (snapshot.state.pop(name) for name in ("particles", "point", "best"))
            for name, array in self._options.state.items():
                count = snapshot.state.pop(name)
                np.copyto(array, count if ranks.rank == 0 else 0)  # of all ranks
            with reading(self._store.path):
                self._runner.restore(particles, point, snapshot.state)
                self.best.take_up(snapshot.history, best)
            self._earlier, self._before = snapshot, len(snapshot.history["epoch"])
            self._store.epochs = self._before
            self._resting = True
            self.go_on()

    def append(self, done: Done, seconds: float) -> Row:
        """Take down an epoch that is done."""
        first = {name: done.row.pop(name) for name in ("risk", "alpha", "ess", "variance")}
        row = {"epoch": self.epochs + 1, **first, "seconds": seconds, **done.row}
        point = self._runner.reported
        if self._options.evaluation is not None:
            evaluation = self._options.evaluation
            row.update(self._options.ranks.lead(lambda: evaluation.row(row["epoch"], point)))
        if not self._rows:
            self._names = list(row), list(done.values)
            self._check_continues(row, done.values)
        self._rows.append((tuple(row.values()), tuple(done.values.values())))
        self.best.look(row["epoch"], row, point)
        self._resting = True
        return row

    def _check_continues(self, row: Row, values: dict[str, float]) -> None:
        """ValueError where the checkpoint's rows are of another kind than this run's."""
        if self._store is None or not self._before:
            return
        for earlier, now in ((self._earlier.history, row), (self._earlier.values, values)):
            kinds = [{name: np.shape(entry) for name, entry in now.items()}]
            kinds.append({name: column.shape[1:] for name, column in earlier.items()})
            if kinds[0] != kinds[1]:
                raise ValueError(
                    f"checkpoint {str(self._store.path)!r} must have the history's columns {kinds[0]}, got "
                    f"{kinds[1]}"
                )

    def save(self) -> None:
        """Write the checkpoint."""
        if self._store is not None:
            self._write(self._store, self.epochs, self._arrays())

    def go_on(self) -> None:
        """The next epoch begins: keep what it will change, unless a checkpoint has it already."""
        if self._runner.finishes or (self._store is None and not self._options.returns):
            return
        if not self._options.ranks.alone:  # a failing rank cannot know how far the others are
            return
        if self._options.returns or (self._store is not None and self._store.epochs < self.epochs):
            arrays = self._arrays()
            self._kept = self._kept or {name: np.empty_like(a) for name, a in arrays.items()}
            for name, a in arrays.items():
                np.copyto(self._kept[name], a)
            self._kept_epochs = self.epochs
        self._resting = False

    def rescue(self, seconds: float) -> None:
        """The run ends by an exception: save it as it was after the last epoch that is whole."""
        if (self._store is None and not self._options.returns) or not self._options.ranks.alone:
            return
        try:
            for done in self._runner.finish(self.epochs):
                self.append(done, seconds)
        except Exception:  # on a card: the particles are not those of an epoch that was handed out
            self._kept_epochs = 0
            return
        if self._resting:
            self._kept_epochs, self._kept = self.epochs, self._arrays()
        if self._store is not None and self._kept_epochs > self._store.epochs:
            self._write(self._store, self._kept_epochs, self._kept)

    def saved(self) -> str:
        """Text about the checkpoint for the error's message."""
        if self._store is None:
            return ""
        done = f"has epoch {self._store.epochs}" if self._store.epochs else "was not written yet"
        return f"; the checkpoint {str(self._store.path)!r} {done}"

    @property
    def whole_epochs(self) -> int:
        """After `rescue`: the epochs whose end is known."""
        return self._kept_epochs

    def _write(self, store: Checkpoint, epochs: int, state: dict[str, Array]) -> None:
        """Save, or warn that it was not possible: the run and its result are worth more."""
        counts = {name: self._options.ranks.add(state[name]) for name in self._options.state}
        try:
            store.save(epochs, {**state, **counts}, lambda first: self._columns(first, epochs))
        except (OSError, MemoryError) as error:
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"epoch {epochs}: the checkpoint {str(store.path)!r} could not be written, and the last "
                    f"one stays, of epoch {store.epochs}: {error}",
                    CboWarning,
                    stacklevel=5,  # _write, save or rescue, run, the public function, its caller
                )

    def _arrays(self) -> dict[str, Array]:
        """All that the next epoch depends on, as it is now."""
        runner = self._runner
        shown = {"particles": runner.particles, "point": runner.point, "best": self.best.point}
        return {**shown, **self._options.state, **runner.state_dict()}

    def _columns(self, first: int, last: int) -> tuple[dict[str, Array], dict[str, Array]]:
        """History and parameters' values of the epochs from `first` up to `last`."""
        rows = self._rows[max(0, first - self._before) : last - self._before]
        groups = []
        for i, earlier in enumerate((self._earlier.history, self._earlier.values)):
            entries = zip(*(row[i] for row in rows), strict=True)
            columns = {name: np.array(column) for name, column in zip(self._names[i], entries, strict=False)}
            if first < self._before:
                columns = {n: np.concatenate([a, columns[n]]) if rows else a for n, a in earlier.items()}
            groups.append(columns)
        return groups[0], groups[1]

    def result(self, method: Method, stopped: str, watch: Watch) -> Result:
        """What the public function returns."""
        done, arrays = self.epochs, self._arrays()
        if stopped == "interrupt":
            done, arrays = self._kept_epochs, self._kept
        history, _ = self._columns(0, done)
        point = arrays["point"].copy()
        risk, epoch = lowest(history)
        return Result(
            point,
            arrays["particles"],
            history,
            self._options.net,
            method,
            best=arrays["best"].copy() if epoch else point,
            best_risk=risk,
            best_epoch=epoch,
            stopped=stopped,
            message="; ".join([self.best.sentence(stopped, done, self._options.unit), *watch.notes()]),
            success=self.best.success(stopped),
            evaluations=int(self._options.ranks.add(arrays["evaluations"])[0])
            if "evaluations" in arrays
            else 0,
        )


@contextlib.contextmanager
def progress_bar(options: Options, done: int, steps_per_epoch: int) -> Any:
    """A function to call after each epoch; with progress it moves a tqdm bar."""
    if not options.progress:
        yield lambda risk, ess: None
        return
    with tqdm_bar("progress=True", total=options.epochs, initial=done, unit="epoch") as bar:
        began = time.perf_counter()

        def show(risk: float, ess: float) -> None:
            steps = (bar.n + 1 - done) * steps_per_epoch
            rate = steps / max(time.perf_counter() - began, 1e-9)
            sizes = f"risk {risk:.3g}, " + (f"ess {ess:.3g}, " if ess == ess else "")
            bar.set_postfix_str(f"{sizes}{rate:.0f} steps/s", refresh=False)
            bar.update()

        yield show
