"""Checkpoints of a run: written whole or not at all, and refused by a run of another configuration."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ._arrays import Array
from ._checks import WORD, boolean, integer
from ._files import checked_path, read_arrays, write_arrays
from ._method import Method
from .result import Result, pack_net

_STATE, _VALUES = "state.", "values."


def fingerprint(array: Array) -> str:
    """Text that tells arrays apart by dtype, shape and contents."""
    digest = hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).hexdigest()
    return f"{array.dtype} {list(array.shape)} with digest {digest}"


@dataclasses.dataclass
class Snapshot:
    """A run after some epoch: its result so far, and what only the continuation needs."""

    result: Result
    state: dict[str, Array]  # the stepper's own
    values: dict[str, Array]  # the float parameters' values in each epoch done
    initial_variance: float


@dataclasses.dataclass
class Checkpoint:
    """Where, how often and for which configuration a run is saved."""

    path: Path
    every: int
    resume: bool
    configuration: dict[str, str]

    def save(self, snapshot: Snapshot) -> None:
        """Replace the file."""
        header = {
            "kind": "checkpoint",
            "configuration": self.configuration,
            "initial_variance": snapshot.initial_variance,
            "net": pack_net(snapshot.result.net),
        }
        arrays = snapshot.result._arrays()
        arrays.update({_STATE + name: a for name, a in snapshot.state.items()})
        arrays.update({_VALUES + name: a for name, a in snapshot.values.items()})
        write_arrays(self.path, header, arrays)

    def load(self, method: Method, epochs: int) -> Snapshot | None:
        """The run to continue, None where there is none; ValueError if it is no beginning of this one."""
        if not self.resume or not self.path.exists():
            return None
        header, arrays = read_arrays(self.path)
        if header.get("kind") != "checkpoint":
            raise ValueError(
                f"checkpoint must be a checkpoint of train, got a saved Result in {str(self.path)!r}"
            )
        snapshot = Snapshot(
            Result._from_arrays(header, arrays),
            {name.removeprefix(_STATE): a for name, a in arrays.items() if name.startswith(_STATE)},
            {name.removeprefix(_VALUES): a for name, a in arrays.items() if name.startswith(_VALUES)},
            header["initial_variance"],
        )
        differences = self._differences(header["configuration"], snapshot, method, epochs)
        if differences:
            raise ValueError(
                f"checkpoint {str(self.path)!r} must come from the same configuration, but "
                + "; ".join(differences)
            )
        return snapshot

    def _differences(
        self, saved: dict[str, str], snapshot: Snapshot, method: Method, epochs: int
    ) -> list[str]:
        mine = self.configuration
        differences = [
            f"{name} is {saved.get(name, 'absent')} in the checkpoint and {mine.get(name, 'absent')} now"
            for name in sorted({*saved, *mine})
            if saved.get(name) != mine.get(name)
        ]
        done = len(snapshot.result.history["epoch"])
        if done > epochs:
            differences.append(f"epochs is {epochs} now and the checkpoint has {done} already")
        # A longer run is the same run as long as its schedules took the same values up to here.
        for epoch in range(0 if differences else done):
            now = method._values(epoch, epochs)
            for name, values in snapshot.values.items():
                if values[epoch] != now[name]:
                    return [
                        f"{name} was {values[epoch]} at epoch {epoch} in the checkpoint, now {now[name]} "
                        f"(its schedule, or the number of epochs it spans, is another)"
                    ]
        return differences


def checkpoint(path: Any, every: Any, resume: Any) -> Checkpoint | None:
    """The caller's three arguments, checked; the configuration is filled in later."""
    every = integer(every, "every", 1, WORD)
    if path is None:
        if boolean(resume, "resume"):
            raise ValueError("resume=True expects checkpoint to be a path, got None")
        return None
    return Checkpoint(checked_path(path, "checkpoint"), every, boolean(resume, "resume"), {})
