"""Arrays in CUDA memory, as their libraries tell of them.

They come through `__cuda_array_interface__` from libraries with known streams and where there is nothing
else, otherwise through DLPack, whose producer orders its work before the stream that it is told.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from .._checks import kind
from . import dlpack, libraries
from .host import CUDA_TYPES, NO_GRAD, NOT_MAPPED, dlpack_device, is_mapped, is_torch


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceArray:
    """A C-contiguous array in CUDA memory; `source` is the library's array, which its call keeps.

    The compiled module reads pointer, shape and dtype."""

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    source: Any
    name: str
    offset: int = 0  # in bytes, of entries of `source`

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, i: int) -> DeviceArray:
        """Entry i of the first axis."""
        rest = self.shape[1:]
        step = i * math.prod(rest) * self.dtype.itemsize
        return dataclasses.replace(self, pointer=self.pointer + step, offset=self.offset + step, shape=rest)

    def reshape(self, *shape: int) -> DeviceArray:
        """The same memory in another shape, as NumPy's with at most one -1."""
        known = -math.prod(shape)
        sizes = tuple(math.prod(self.shape) // known if size == -1 else size for size in shape)
        return dataclasses.replace(self, shape=sizes)

    @property
    def end(self) -> int:
        """First address behind it."""
        return self.pointer + math.prod(self.shape) * self.dtype.itemsize


def on_cuda(value: Any) -> bool:
    """Whether an array lies in CUDA memory."""
    if type(value) is np.ndarray:
        return False
    if is_torch(value):
        return bool(value.is_cuda)
    device = dlpack_device(value)
    return hasattr(value, "__cuda_array_interface__") if device is None else device in CUDA_TYPES


class Memory(NamedTuple):
    """Where an array lies; strides in bytes, None where it is C-contiguous; `owner` keeps the memory."""

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    typestr: str
    read_only: bool
    owner: Any

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """The same addresses as NumPy's, to compare and never to read."""
        return {
            "version": 3,
            "shape": self.shape,
            "strides": self.strides,
            "typestr": self.typestr,
            "data": (self.pointer, True),
        }


def memory_of(value: Any, name: str, stream: int) -> Memory:
    """Where an array lies, for use on `stream`."""
    if is_torch(value) and value.requires_grad:
        raise TypeError(f"{name} {NO_GRAD}")
    try:
        exports = not libraries.is_ordered(value) and hasattr(value, "__dlpack__")
        interface = None if exports else getattr(value, "__cuda_array_interface__", None)
        if interface is None:
            return _exported(value, stream or 1)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        if is_torch(value) and is_mapped(value):
            raise TypeError(f"{name} {NOT_MAPPED}") from error
        raise TypeError(f"{name} cannot be read, got {kind(value)}: {error}") from error
    if interface.get("mask") is not None:
        raise TypeError(f"{name} must be an array without a mask, got {kind(value)}")
    if interface.get("stream") == 0:
        raise ValueError(f"{name} has stream 0, which __cuda_array_interface__ leaves undefined")
    pointer, read_only = interface["data"]
    strides = interface.get("strides")
    return Memory(pointer, tuple(interface["shape"]), strides, interface["typestr"], bool(read_only), value)


def _exported(value: Any, stream: int) -> Memory:
    made = dlpack.export(value, stream)
    strides = None if made.strides is None else tuple(s * made.itemsize for s in made.strides)
    return Memory(made.pointer, made.shape, strides, made.typestr, made.read_only, (value, made.capsule))


def is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None, itemsize: int) -> bool:
    """Whether entries lie in C's order without gaps."""
    if strides is None:
        return True
    expected = itemsize
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True
