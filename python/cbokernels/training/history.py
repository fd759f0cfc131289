"""What a run leaves behind: its history, its checkpoints and its result."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from .._arrays import Array
from .._files import reading
from .._records import Snapshot
from ..errors import CboWarning
from ..methods.base import Done, Method
from ..result import Result, lowest
from .checkpoint import Checkpoint
from .options import Options, Row, Runner
from .stopping import Best
from .watch import Watch


def middle(value: Any) -> float:
    """A number as it is (as it is for most methods, every epoch), the median of several tasks' numbers."""
    return value if isinstance(value, float) else float(np.median(value))


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
        return middle(earlier["risk"][0] if self._before else self._rows[0][0][self._names[0].index("risk")])

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
