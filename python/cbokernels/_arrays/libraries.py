"""What the kernels ask of a library whose arrays lie in CUDA memory: its stream, new arrays, copies.

PyTorch, CuPy and Numba put work and memory in the order of streams that can be asked for: the kernels join
in, and nobody waits. Of any other library (JAX) the streams are not known. Its arrays are ordered before the
kernel by its own export, and the call waits for the kernel: only then may the library reuse an input's memory
or hand out the result.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np

from .._checks import kind
from .host import is_torch

_ORDERED = ("torch", "cupy", "numba")
_CURRENT = ("torch", "cupy")  # all arrays of a device on one stream, the current one


def is_ordered(value: Any) -> bool:
    """Whether this library's work and memory follow the order of streams that are known here."""
    return _name(value) in _ORDERED


def share_stream(a: Any, b: Any) -> bool:
    """Whether two arrays on one device have the same stream for sure."""
    return _name(a) == _name(b) and _name(a) in _CURRENT


def _name(value: Any) -> str:
    cls: Any = type(value)
    return _name_of(cls)


@functools.cache  # several times an array
def _name_of(cls: type[Any]) -> str:
    """A library's name; of a class derived from a known library's, that library's."""
    roots = [base.__module__.partition(".")[0] for base in cls.__mro__]
    return next((root for root in roots if root in _ORDERED), roots[0])


def _library(value: Any) -> Any:
    return sys.modules.get(_name(value))


def stream_of(value: Any) -> int | None:
    """Handle of the stream that orders work on this array, 0 for CUDA's default one; None: none is told."""
    name, library = _name(value), _library(value)
    handle: int | None
    if name == "torch":
        handle = library.cuda.current_stream(value.device).cuda_stream
    elif name == "cupy":
        with value.device:
            handle = library.cuda.get_current_stream().ptr
    else:
        handle = getattr(value, "__cuda_array_interface__", {}).get("stream")
        if handle is None:
            return 0 if name == "numba" else None
    return 0 if handle == 1 else int(handle)  # 1 is the default stream's other name


def empty(source: Any, dtype: np.dtype[Any], shape: tuple[int, ...], device: int) -> Any:
    """A new array of the source's library, on its device and stream.

    JAX's arrays do not change: nobody has seen this one, and it is written before anybody does.
    """
    name, library = _name(source), _library(source)
    if name == "torch":
        return library.empty(shape, dtype=getattr(library, dtype.name), device=source.device)
    if name == "cupy":
        with library.cuda.Device(device):
            return library.empty(shape, dtype)
    if name == "numba":
        stream = stream_of(source)
        with library.cuda.gpus[device]:
            return library.cuda.device_array(
                shape, dtype, stream=library.cuda.external_stream(stream) if stream else 0
            )
    if hasattr(source, "__array_namespace__"):
        namespace = source.__array_namespace__()
        return namespace.empty(shape, dtype=getattr(namespace, dtype.name), device=source.device)
    raise TypeError(f"results cannot be returned as {kind(source)}: its library has no array namespace")


def copied(value: Any, name: str) -> Any:
    """A C-contiguous copy by the array's own library."""
    if is_torch(value):
        return value.clone(memory_format=_library(value).contiguous_format)
    if _name(value) == "cupy":
        return value.copy(order="C")
    if hasattr(value, "__array_namespace__"):
        return value.__array_namespace__().asarray(value, copy=True)
    raise ValueError(
        f"{name} must be C-contiguous, aligned and apart from what is written, got {kind(value)}"
    )


def cast(value: Any, name: str, dtype: np.dtype[Any]) -> Any:
    """A copy of this dtype by the array's own library."""
    if is_torch(value):
        return value.to(getattr(_library(value), dtype.name), copy=True)
    if _name(value) == "cupy":
        return value.astype(dtype)
    if hasattr(value, "__array_namespace__"):
        namespace = value.__array_namespace__()
        return namespace.astype(value, getattr(namespace, dtype.name), copy=True)
    raise TypeError(f"{name} must be {dtype}, which {kind(value)} cannot be turned into here")
