"""The loop that every run goes through, whatever its method and whatever it minimises."""

from __future__ import annotations

import contextlib
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .._checks import kind
from .._extras import progress_bar as tqdm_bar
from .._ranks import ALONE, Ranks, common
from ..errors import CboError
from ..methods.base import Method
from ..result import Result, State
from .checkpoint import Checkpoint
from .history import Records, middle
from .options import Options, Row, Runner
from .watch import Watch


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
    if method._needs_spread and records.initial_variance == 0:
        watch.tell_of_one_point()
    bar = progress_bar(options, records.epochs, problem.steps_per_epoch)
    best = records.best
    stopped = best.stopped
    last = records.epochs if stopped else options.epochs  # the run that it continues may have stopped
    ranks = options.ranks
    with terminable(options.checkpoint, ranks) as signals, bar as show:
        try:
            for done in runner.epochs(problem, method, records.epochs, last, options.holds):
                row = records.append(done, time.perf_counter() - began)
                risk = middle(row["risk"])
                watch.look(row["epoch"], done.nonfinite, row["variance"], risk, records.first_risk)
                show(best.last, middle(row["ess"]))
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
            if isinstance(error, RuntimeError) and isinstance(error.__cause__, StopIteration):
                what = "the loss, fun or a schedule raised StopIteration, by which only a callback ends a run"
                raise CboError(what) from error.__cause__
            if not (options.returns and isinstance(error, KeyboardInterrupt) and records.whole_epochs):
                raise
            stopped = "interrupt"
    return records.result(method, stopped or "epochs", watch)


def _agreed(ranks: Ranks, stopped: str, signals: list[int], records: Records) -> str:
    """After an epoch: why the first rank stops the run. Where a rank got a signal, the run is saved, and all
    raise SystemExit."""
    told = ranks.tell((stopped, max(signals, default=0)))
    if number := max(one for _, one in told):
        records.save()
        raise common(SystemExit(128 + number))
    return told[0][0]


@contextlib.contextmanager
def terminable(checkpoint: Checkpoint | None, ranks: Ranks = ALONE) -> Iterator[list[int]]:
    """Where there is a checkpoint, SIGTERM raises SystemExit, and the run is saved. On several ranks the
    signal is noted in the list, and they save together after the epoch.

    Not where SIGTERM has a handler already, nor outside the main thread, which alone can set one.
    """
    signals: list[int] = []
    if checkpoint is None:
        yield signals
        return
    import signal
    import threading

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
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


def _says_stop(callback: Callable[[State], object], runner: Runner, row: Row, options: Options) -> bool:
    """Call the callback after an epoch; whether the run is to end."""
    own = {name: np.copy(value) if np.ndim(value) else value for name, value in row.items()}
    metrics = {} if options.evaluation is None else {name: own[name] for name in options.evaluation.columns}
    fields = {name: own[name] for name in ("epoch", "risk", "alpha", "ess", "variance")}
    state = State._later(lambda: runner.particles, point=runner.point.copy(), metrics=metrics, **fields)
    try:
        said = callback(state)
    except StopIteration:
        said = True
    try:
        stop = bool(said)
    except Exception as error:
        raise TypeError(f"callback must return what is true or false, got {kind(said)}") from error
    seen = weakref.ref(state)
    del state
    if (kept := seen()) is not None:
        _ = kept.particles  # the callback kept the state: copy its particles before they change
    return stop


@contextlib.contextmanager
def progress_bar(options: Options, done: int, steps_per_epoch: int) -> Any:
    """A function to call after each epoch; with progress it moves a tqdm bar."""
    if not options.progress or sys.stderr is None:  # as where there is no console
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
