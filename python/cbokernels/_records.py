"""Files of a run that goes on, as a row of records.

Each record holds the run's state after some epoch and the history since the record before, so that what a
save writes does not grow with the run. A record that was not finished, at the end of a file, does not count.
"""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ._arrays import Array
from ._files import pack, reading, unpack
from ._shards import Part, part_of, read_shards

if TYPE_CHECKING:
    from pathlib import Path

_FRAME = struct.Struct("<8sQ")  # before each record: the mark and the record's length, 0 until it is whole
_MARK = b"cbkstate"
_STATE, _VALUES, _HISTORY = "state.", "values.", "history."

Columns = dict[str, Array]  # arrays by name


@dataclasses.dataclass
class Snapshot:
    """A run after some epoch: what the continuation needs."""

    state: Columns  # "particles", "point", and the stepper's own
    history: Columns
    values: Columns  # the float parameters' values in each epoch done


def pack_run(state: Columns, history: Columns, values: Columns) -> Columns:
    """The arrays of a record."""
    groups = ((_STATE, state), (_HISTORY, history), (_VALUES, values))
    return {prefix + name: a for prefix, group in groups for name, a in group.items()}


def is_checkpoint(path: Path) -> bool:
    """Whether a file begins as checkpoints do."""
    with open(path, "rb") as file:
        return file.read(len(_MARK)) == _MARK


def read(
    path: Path, part: Part | None = None, axes: dict[str, int] | None = None
) -> tuple[dict[str, Any], Snapshot]:
    """The first record's header, and the run as the last record has it; ValueError for another file.

    part: only these particles of the arrays that have an axis of them, as `axes` says of a file of all.
    """
    if not is_checkpoint(path):
        with reading(path):
            unpack(path.read_bytes())
        raise ValueError(f"checkpoint must be one of train or minimize, got a saved Result in {str(path)!r}")
    with reading(path):
        header: dict[str, Any] = {}
        parts: dict[str, list[Array]] = {}
        for number, (own, arrays) in enumerate(records(path)):
            header = header or own
            state = {name: a for name, a in arrays.items() if name.startswith(_STATE)}
            rows = {name: a for name, a in arrays.items() if name.startswith((_HISTORY, _VALUES))}
            if number and rows.keys() != parts.keys():
                raise ValueError("its records have other columns than the first")
            for name, a in rows.items():
                parts.setdefault(name, []).append(a)
        columns = {name: np.concatenate(chunks) for name, chunks in parts.items()}
        snapshot = Snapshot(_group(state, _STATE), _group(columns, _HISTORY), _group(columns, _VALUES))
    if "shards" in header:
        snapshot.state.update(read_shards(path, header["shards"], part))
    elif part is not None:
        for name, axis in (axes or {}).items():
            if name in snapshot.state:
                snapshot.state[name] = part_of(snapshot.state[name], axis, part.first, part.last)
    return header, snapshot


def _group(arrays: Columns, prefix: str) -> Columns:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def records(path: Path) -> Iterator[tuple[dict[str, Any], Columns]]:
    """The records that were finished."""
    with open(path, "rb") as file:
        size, first = os.fstat(file.fileno()).st_size, True
        while len(frame := file.read(_FRAME.size)) == _FRAME.size:
            mark, length = _FRAME.unpack(frame)
            last = file.tell() + length >= size
            try:
                if mark != _MARK or not 0 < length <= size - file.tell():
                    raise ValueError("a record is not whole")
                record = unpack(file.read(length))
            except (OSError, MemoryError):
                raise
            except Exception:
                if first or not (last or length == 0):
                    raise
                return
            yield record
            first = False
        if first:
            raise ValueError("it ends before its first record")


def write_record(file: BinaryIO, header: dict[str, Any], arrays: Columns) -> None:
    start = file.tell()
    file.write(_FRAME.pack(_MARK, 0))
    pack(file, header, arrays)
    end = file.tell()
    file.seek(start)
    file.write(_FRAME.pack(_MARK, end - start - _FRAME.size))
    file.seek(end)
