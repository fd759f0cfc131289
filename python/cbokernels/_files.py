"""Files that are written whole or not at all, and arrays with a JSON header in NumPy's npz format."""

from __future__ import annotations

import json
import os
import secrets
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ._arrays import Array

_VERSION = 1
_HEADER = "cbokernels"


def checked_path(value: Any, name: str) -> Path:
    """A path in an existing directory; better to fail before a long run than at its end."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, got {value!r}")
    path = Path(value)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{name} must lie in an existing directory, got {str(path)!r}")
    if path.is_dir():
        raise IsADirectoryError(f"{name} must be a file, got the directory {str(path)!r}")
    return path


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a new file beside `path`, then put it in path's place.

    Whatever interrupts it, also Ctrl-C, the file at `path` is the old one or the new one and nothing else
    is left behind.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(beside, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_arrays(path: Path, header: dict[str, Any], arrays: dict[str, Array]) -> None:
    """Arrays and a JSON header, as an npz file without pickles."""
    text = json.dumps({"version": _VERSION, **header})
    members: dict[str, Any] = {_HEADER: np.array(text), **arrays}
    write_whole(path, lambda file: np.savez(file, **members))


def read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """What `write_arrays` wrote; ValueError for any other file."""
    try:
        # NumPy leaves its own handle open when it finds a damaged archive, hence ours.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as members:
            arrays = {name: members[name] for name in members.files}
        header = json.loads(str(arrays.pop(_HEADER)))
    except (zipfile.BadZipFile, EOFError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} must be a file written by cbokernels: {error}") from error
    if not isinstance(header, dict) or header.get("version") != _VERSION:
        raise ValueError(f"{str(path)!r} must be of format version {_VERSION}, got {header!r:.80}")
    return header, arrays
