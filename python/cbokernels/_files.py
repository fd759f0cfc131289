"""Files that are written whole or not at all, and arrays with a JSON header in NumPy's npz format."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import math
import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ._arrays import Array
from .errors import CboError

if TYPE_CHECKING:
    from pathlib import Path
    from zipfile import ZipFile

VERSION = 2  # of the format
_HEADER = "cbokernels"


def checked_path(value: Any, name: str) -> Path:
    """A file in an existing directory; better to fail before a long run than at its end.

    It is absolute and no symbolic link, so that neither `chdir` nor a replacement changes what it means.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, got {value!r}")
    if not os.fspath(value) or "\0" in os.fsdecode(value):
        raise ValueError(f"{name} must be the path of a file, got {value!r}")
    from pathlib import Path

    path = Path(os.path.realpath(Path(value)))
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{name} must lie in an existing directory, got {str(path)!r}")
    if path.is_dir():
        raise IsADirectoryError(f"{name} must be a file, got the directory {str(path)!r}")
    if path.exists() and not path.is_file():
        kind = "FIFO" if stat.S_ISFIFO(path.stat().st_mode) else "device or socket"
        raise ValueError(f"{name} must be a regular file, got the {kind} {str(path)!r}")
    return path


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the operating system say which file they are about: not all do, or they name a temporary."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror or error}, writing", str(path)) from error


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a new file beside `path`, then put it in path's place.

    Whatever interrupts it, also Ctrl-C, the file at `path` is the old one or the new one and nothing else
    is left behind, unless the process is killed: see `sweep`. OSError names the path.
    """
    with naming(path), _beside(path) as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
        os.replace(file.name, path)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[BinaryIO]:
    """A new file in path's directory, gone afterwards unless it was renamed, and locked as long as it is
    written."""
    while True:
        with open(path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp"), "xb") as file:
            try:
                with contextlib.suppress(OSError):  # the file system may have no locks
                    fcntl.flock(file, fcntl.LOCK_EX)
                if os.path.exists(file.name):  # else another process's `sweep` removed it
                    yield file
                    return
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(file.name)


def sweep(path: Path) -> None:
    """Remove the temporary files that killed processes left beside `path`; no living process's."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.tmp")
    with contextlib.suppress(OSError):  # of a folder that may not be listed
        for found in filter(ours.fullmatch, os.listdir(path.parent)):
            with contextlib.suppress(OSError), open(path.with_name(found), "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.with_name(found).unlink()


_holders: dict[Path, object] = {}  # of locks in this process; a fork holds none of its parent's
os.register_at_fork(after_in_child=_holders.clear)


@contextlib.contextmanager
def nobody_else(path: Path) -> Iterator[None]:
    """CboError where another `nobody_else` with this path is under way, in this process or in another.

    The lock is on a file beside `path`, which is removed at the end. The system gives a lock back when its
    process ends, whatever ends it, and a fork does not inherit it. None is taken where the file system has no
    locks.
    """
    lock, owner = path.with_name(f".{path.name}.lock"), os.getpid()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_alone_here(lock))
            stack.callback(os.close, _locked(lock, path))
        except BlockingIOError:
            raise CboError(f"{str(path)!r} must be of one run at a time, and another run writes it") from None
        try:
            yield
        finally:
            if os.getpid() == owner:
                with contextlib.suppress(OSError):
                    lock.unlink()


@contextlib.contextmanager
def _alone_here(lock: Path) -> Iterator[None]:
    """In this process, where closing a second descriptor of the file would give back the lock."""
    me = object()
    if _holders.setdefault(lock, me) is not me:
        raise BlockingIOError
    try:
        yield
    finally:
        _holders.pop(lock, None)


def _locked(lock: Path, path: Path) -> int:
    """The file `lock`, open and locked; BlockingIOError where another process has locked it."""
    while True:
        with naming(path):
            file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                os.close(file)
                raise BlockingIOError from error
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(lock), os.fstat(file)):
                return file
        os.close(file)  # its owner has removed it in between


def try_writing(path: Path) -> None:
    """OSError unless a file can be written where `path` is to be."""
    with naming(path), _beside(path) as file:
        file.write(bytes(4096))
        file.flush()
        os.fsync(file.fileno())


def write_arrays(path: Path, header: dict[str, Any], arrays: dict[str, Array]) -> None:
    """Arrays and a JSON header, as an npz file without pickles."""
    write_whole(path, lambda file: pack(file, header, arrays))


def pack(file: BinaryIO, header: dict[str, Any], arrays: dict[str, Array]) -> None:
    """Write them from where `file` stands."""
    import json

    text = json.dumps({"version": VERSION, **header}).encode()
    members: dict[str, Any] = {_HEADER: np.frombuffer(text, np.uint8), **arrays}
    np.savez(file, **members)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever is wrong with a file's contents is a ValueError that names it."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{str(path)!r} must be a file written by cbokernels: {reason}") from error


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """What `pack` wrote; some exception for anything else. Takes no more memory than a few times `data`."""
    import json
    from zipfile import ZIP_STORED

    arrays = {}
    with _opened(data) as members:
        infos = members.infolist()
        if f"{_HEADER}.npy" not in members.namelist():
            raise ValueError(f"it must have a member '{_HEADER}', got {members.namelist()!r:.80}")
        if any(i.compress_type != ZIP_STORED for i in infos):
            raise ValueError("its arrays are compressed")
        if sum(i.file_size for i in infos) > len(data):
            raise ValueError("its arrays announce more than it holds")
        for info in infos:
            with members.open(info) as member:
                arrays[info.filename.removesuffix(".npy")] = _array(member, info.file_size)
    header = json.loads(arrays.pop(_HEADER).tobytes())
    if not isinstance(header, dict) or header.get("version") != VERSION:
        raise ValueError(f"it must be of format version {VERSION}, got {header!r:.80}")
    return header, arrays


def _opened(data: bytes) -> ZipFile:
    from zipfile import BadZipFile, ZipFile

    try:
        return ZipFile(io.BytesIO(data))
    except BadZipFile:
        got = f"{len(data)} bytes that begin with {data[:16]!r}" if data else "nothing"
        raise ValueError(f"it must be a checkpoint or hold a whole npz archive, got {got}") from None


def _array(member: Any, size: int) -> Array:
    """The array in a member of `size` bytes."""
    formats = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran, dtype = formats[np.lib.format.read_magic(member)](member)
    announced = math.prod(shape) * dtype.itemsize
    if dtype.kind not in "fiu" or min(shape, default=0) < 0 or announced != size - member.tell():
        raise ValueError(f"it announces an array of {dtype} {list(shape)} and holds another")
    order: Any = "F" if fortran else "C"
    return np.ndarray(shape, dtype, member.read(), order=order).copy()


def read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """What `write_arrays` wrote; ValueError for any other file."""
    data = path.read_bytes()
    with reading(path):
        return unpack(data)
