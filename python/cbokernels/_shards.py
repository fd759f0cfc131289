"""Checkpoints of several ranks: a file with what all share, and a shard for each rank's particles.

A shard is written whole, under a name of its own epoch, before the file that names it, and removed after the
file that no longer does. So there is a checkpoint that is whole whenever the job ends.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ._arrays import Array
from ._files import read_arrays, reading, write_arrays
from ._ranks import Ranks

if TYPE_CHECKING:
    from pathlib import Path

Columns = dict[str, Array]


class Part(Protocol):
    """Particles [first, last)."""

    first: int
    last: int


def part_of(values: Array, axis: int, first: int, last: int) -> Array:
    """The entries [first, last) along an axis."""
    return values[(slice(None),) * axis + (slice(first, last),)]


def save_shards(
    path: Path, ranks: Ranks, axes: dict[str, int], epochs: int, state: Columns,
    write: Callable[[Columns, dict[str, Any]], None],
) -> None:  # fmt: skip
    """Save a run's state after so many epochs; write(the rest, what is said of the shards) writes the file.

    axes: the arrays that go into shards, and their axis of particles. OSError on all ranks where one cannot
    write.
    """
    axes = {name: axis for name, axis in axes.items() if name in state}
    own, failure = "", ""
    if axes:
        own = f".{path.name}.{epochs}.{ranks.first}-{ranks.last}.shard"
        header = {"epochs": epochs, "first": ranks.first, "last": ranks.last}
        failure = _failure(
            lambda: write_arrays(path.with_name(own), header, {name: state[name] for name in axes})
        )
    told = ranks.tell((own, ranks.first, ranks.last, failure))
    failure = next((failed for *_, failed in told if failed), "")
    files = [(name, first, last) for name, first, last, _ in told if name]
    rest = {name: a for name, a in state.items() if name not in axes}
    if not failure:
        shards = {"epochs": epochs, "axes": axes, "files": files}
        failure = ranks.lead(lambda: _failure(lambda: write(rest, shards)))
    if failure:
        if own:
            with contextlib.suppress(OSError):
                path.with_name(own).unlink()
        raise OSError(failure)
    if ranks.rank == 0:
        remove_shards(path, [name for name, *_ in files])


def _failure(write: Callable[[], None]) -> str:
    """What went wrong, if anything did."""
    try:
        write()
    except (OSError, MemoryError) as error:
        return str(error) or type(error).__name__
    return ""


def remove_shards(path: Path, but: list[str] | None = None) -> None:
    """Remove the shards of a checkpoint, those that it does not name."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.\d+\.\d+-\d+\.shard")
    with contextlib.suppress(OSError):  # of a folder that may not be listed
        for found in filter(ours.fullmatch, os.listdir(path.parent)):
            if found not in (but or []):
                with contextlib.suppress(OSError):
                    path.with_name(found).unlink()


def read_shards(path: Path, shards: dict[str, Any], part: Part | None) -> Columns:
    """The arrays of the shards of a checkpoint, put together: of all particles, or of a part."""
    with reading(path):
        axes, epochs = dict(shards["axes"]), shards["epochs"]
        files = [(str(name), int(first), int(last)) for name, first, last in shards["files"]]
    pieces: dict[str, list[Array]] = {name: [] for name in axes}
    for name, first, last in files:
        if os.path.basename(name) != name:
            raise ValueError(f"{str(path)!r} must name files beside it, got {name!r}")
        low, high = (first, last) if part is None else (max(first, part.first), min(last, part.last))
        if low >= high:
            continue
        header, arrays = read_arrays(path.with_name(name))
        with reading(path.with_name(name)):
            if (header["epochs"], header["first"], header["last"]) != (epochs, first, last):
                raise ValueError(
                    f"it must be of epoch {epochs} and particles [{first}, {last}), got {header}"
                )
            for array, axis in axes.items():
                pieces[array].append(part_of(arrays[array], axis, low - first, high - first))
    return {name: np.concatenate(parts, axis=axes[name]) for name, parts in pieces.items()}
