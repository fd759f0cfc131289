"""Checkpoints of a run: no save is lost to a later one that fails, and another configuration is refused.

Records are appended until they take half as much as the first one; then the file is written anew, as a single
record.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _cpu, _version
from .._arrays import Array
from .._checks import WORD, boolean, integer
from .._files import checked_path, naming, nobody_else, reading, sweep, try_writing, write_whole
from .._ranks import ALONE, Ranks
from .._records import Columns, Snapshot, is_checkpoint, pack_run, read, write_record
from .._shards import remove_shards, save_shards
from ..errors import CboWarning
from ..methods.base import Method

if TYPE_CHECKING:
    from pathlib import Path


def fingerprint(array: Array) -> str:
    """Text that tells arrays apart by dtype, shape and contents."""
    return fingerprint_of(array.shape, array.dtype, [array])


def fingerprint_of(shape: tuple[int, ...], dtype: np.dtype[Any], parts: Iterable[Array]) -> str:
    """The same of an array that is given part by part."""
    import hashlib

    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(np.ascontiguousarray(part).data)
    return f"{dtype} {list(shape)} with digest {digest.hexdigest()}"


@dataclasses.dataclass
class Checkpoint:
    """Where, how often and for which configuration a run is saved."""

    path: Path
    every: int
    resume: bool
    configuration: dict[str, str] = dataclasses.field(default_factory=dict)
    net: dict[str, Any] | None = None
    epochs: int = 0  # done in the last record
    ranks: Ranks = ALONE
    shared: dict[str, int] = dataclasses.field(
        default_factory=dict
    )  # arrays that the ranks have parts of: axes

    def __post_init__(self) -> None:
        self._first = 0  # bytes of the first record, once it is this run's
        self._known: tuple[int, ...] = ()  # the file as this run left it
        self._process = os.getpid()

    def open(self) -> None:
        """OSError, before the run, where it cannot be written; remove what killed runs left behind."""
        sweep(self.path)
        try_writing(self.path)

    def save(self, epochs: int, state: Columns, rows: Callable[[int], tuple[Columns, Columns]]) -> None:
        """Save the run after `epochs`; rows(first) is its history and values from that epoch on."""
        if os.getpid() != self._process:
            raise OSError(errno.EPERM, "this process is a fork of the one whose run it is", str(self.path))
        if not self.ranks.alone:
            history = rows(0)
            save_shards(
                self.path, self.ranks, self.shared, epochs, state,
                lambda rest, shards: self._begin({"shards": shards}, pack_run(rest, *history)),
            )  # fmt: skip
            self.epochs = epochs
            return
        size = self._size()
        grown = size - self._first + sum(a.nbytes for a in state.values())
        if size and 2 * grown <= self._first:
            self._append(size, pack_run(state, *rows(self.epochs)))
        else:
            self._begin({}, pack_run(state, *rows(0)))
            remove_shards(self.path)
        self.epochs, self._known = epochs, _identity(self.path)

    def _begin(self, more: dict[str, Any], arrays: Columns) -> None:
        """Write the file anew, as a single record."""
        header = {"configuration": self.configuration, "made by": _maker(), "net": self.net, **more}
        write_whole(self.path, lambda file: write_record(file, header, arrays))
        self._first = self.path.stat().st_size

    def _size(self) -> int:
        """Of the file; 0 where it is not the one that this run wrote last."""
        with contextlib.suppress(OSError):
            if _identity(self.path) == self._known:
                return self._known[-1]
        return 0

    def _append(self, size: int, arrays: Columns) -> None:
        try:
            with naming(self.path), open(self.path, "r+b") as file:
                file.seek(size)
                write_record(file, {}, arrays)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):  # the rest of a record does no harm
                os.truncate(self.path, size)
            raise

    def load(self, method: Method, epochs: int, state: Columns) -> Snapshot | None:
        """The run to continue, None where there is none; ValueError if it is no beginning of this one.

        state: the run's arrays at its start, as the saved ones must be.
        """
        if not self.resume or not self.path.exists():
            return None
        header, snapshot = read(self.path, None if self.ranks.alone else self.ranks, self.shared)
        with reading(self.path):
            saved, maker = (_texts(header[name]) for name in ("configuration", "made by"))
            done = _check_history(snapshot)
        differences = self._differences(saved, snapshot, method, epochs, done)
        if differences:
            raise ValueError(
                f"checkpoint {str(self.path)!r} must come from the same configuration, but "
                + "; ".join(differences)
            )
        with reading(self.path):
            _check_like(snapshot.state, state)
        if maker != _maker():
            warnings.warn(
                f"checkpoint {str(self.path)!r} was written by {_text(maker)} and is continued by "
                f"{_text(_maker())}: the results may differ from those of either alone",
                CboWarning,
                stacklevel=5,  # load, Records.begin, run, the public function, its caller
            )
        return snapshot

    def _differences(
        self, saved: dict[str, str], snapshot: Snapshot, method: Method, epochs: int, done: int
    ) -> list[str]:
        mine = self.configuration
        other_method = saved.get("method") != mine.get("method")  # whose parameters need not be told
        differences = [
            f"{name} is {saved.get(name, 'absent')} in the checkpoint and {mine.get(name, 'absent')} now"
            for name in (["method"] if other_method else sorted({*saved, *mine}))
            if saved.get(name) != mine.get(name)
        ]
        if done > epochs:
            differences.append(f"epochs is {epochs} now and the checkpoint has {done} already")
        if differences:
            return differences
        # A longer run is the same run as long as its schedules took the same values up to here.
        numbers = {name for name in snapshot.values if not callable(getattr(method, name, None))}
        for epoch in range(done if len(numbers) < len(snapshot.values) else 1):
            now = method._values(epoch, epochs)
            for name, values in snapshot.values.items():
                if name not in now or values[epoch] != now[name]:
                    return [
                        f"{name} was {values[epoch]} at epoch {epoch} in the checkpoint, now {now.get(name)} "
                        f"(its schedule, or the number of epochs it spans, is another)"
                    ]
        return []


def checkpoint(path: Any, every: Any, resume: Any) -> Checkpoint | None:
    """The caller's three arguments, checked; the configuration is filled in later."""
    every = integer(every, "every", 1, WORD)
    if path is None:
        if boolean(resume, "resume"):
            raise ValueError("resume=True expects checkpoint to be a path, got None")
        return None
    path, resume = checked_path(path, "checkpoint"), boolean(resume, "resume")
    if not resume and path.exists() and path.stat().st_size and not is_checkpoint(path):
        raise ValueError(
            f"checkpoint must be a new file, or one that a run may write over, got {str(path)!r}, which is "
            "no checkpoint"
        )
    return Checkpoint(path, every, resume)


def alone(store: Checkpoint | None) -> contextlib.AbstractContextManager[None]:
    """Around a run: CboError where another one has the same checkpoint."""
    return contextlib.nullcontext() if store is None else nobody_else(store.path)


def _identity(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size


def _maker() -> dict[str, str]:
    """What the bits of a run depend on besides its configuration."""
    return {"cbokernels": _version.number(), "instruction set": _cpu.isa()}


def _text(maker: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in maker.items())


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(f"its header must hold texts, got {value!r:.80}")
    return value


def _check_history(snapshot: Snapshot) -> int:
    """The number of epochs done; ValueError for columns that are not of so many."""
    done = len(snapshot.history["epoch"])
    if done == 0 or not np.array_equal(snapshot.history["epoch"], np.arange(1, done + 1)):
        raise ValueError("its epochs are not 1, 2, 3, ...")
    seconds = snapshot.history["seconds"]
    if seconds.shape != (done,) or not np.isfinite(seconds).all():
        raise ValueError("its seconds are not finite numbers")
    for columns, dimensions in ((snapshot.history, (1, 2)), (snapshot.values, (1,))):
        for name, column in columns.items():
            if column.ndim not in dimensions or len(column) != done:
                raise ValueError(f"its {name} has shape {list(column.shape)} for {done} epochs")
    return done


def _check_like(saved: Columns, state: Columns) -> None:
    """ValueError unless there are the same arrays, of the same kind."""
    if "best" not in saved:
        raise ValueError("it is of an earlier version, which kept no best point: start the run anew")
    if saved.keys() != state.keys():
        raise ValueError(f"its state must be {', '.join(state)}, got {', '.join(saved)}")
    for name, a in state.items():
        kinds = [f"{x.dtype} {list(x.shape)}" for x in (a, saved[name])]
        if kinds[0] != kinds[1]:
            raise ValueError(f"its {name} must be {kinds[0]}, got {kinds[1]}")
