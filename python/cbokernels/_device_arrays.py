"""Arrays in CUDA memory: what a kernel needs to know of them, results in the caller's own array type.

Inputs come through `__cuda_array_interface__` or DLPack, and the kernels run on the stream on which the
library of the first array works. Nothing here moves an array to another device or waits for one.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from . import _dlpack, cuda
from ._arrays import CUDA_TYPES, Array, check_shape, dlpack_device, is_torch
from ._checks import PRECISIONS, choice, kind
from .network import TwoLayer

_INT32 = np.dtype(np.int32)


@dataclasses.dataclass(frozen=True)
class DeviceArray:
    """A C-contiguous array in CUDA memory; `source` is the library's array, `owner` keeps the memory."""

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read_only: bool
    owner: Any
    source: Any
    name: str

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def is_integer(self) -> bool:
        """Whether it holds labels or the like."""
        return self.dtype.kind in "iu"

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, i: int) -> DeviceArray:
        """Entry i of the first axis."""
        rest = self.shape[1:]
        pointer = self.pointer + i * math.prod(rest) * self.dtype.itemsize
        return dataclasses.replace(self, pointer=pointer, shape=rest)

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


class Changed:
    """An array that a kernel changes in place: `work`."""

    def __init__(self, name: str, work: DeviceArray) -> None:
        self.name, self.work = name, work

    def finish(self) -> None:
        """Nothing is left to do, as on the CPU there may be."""


class Call:
    """The arrays of one kernel's call: all on the device of the first, used on that array's stream.

    The methods are those of `_dispatch.Call`, which serves CPU arrays.
    """

    on_device = True

    def __init__(self, first: Any, name: str) -> None:
        self.module = cuda.module()
        self._kept: list[Any] = []  # copies made here must outlive the launch
        self.first, self.name = first, name
        self.stream = _current_stream(first)
        self.device = self.module.device_of(self._raw(first, name)[0])
        self.kernels = importlib.import_module("._device", __package__).Kernels(self.module, self.on)

    @property
    def on(self) -> tuple[int, int]:
        """Device and stream, as the compiled module takes them."""
        return self.device, self.stream

    def view(self, value: Any, name: str) -> DeviceArray:
        """The array, or a contiguous copy made by its own library."""
        if not on_cuda(value):
            raise TypeError(f"{name} must lie in CUDA memory as {self.name} does, got {kind(value)}")
        pointer, shape, strides, typestr, read_only, owner = self._raw(value, name)
        try:
            dtype = np.dtype(typestr)
        except TypeError:
            raise TypeError(f"{name} must be float32, float64 or integers, got {typestr}") from None
        device = self.module.device_of(pointer)
        if device != self.device:
            raise ValueError(
                f"{name} must lie on CUDA device {self.device} as {self.name} does, got {device}"
            )
        if not _is_contiguous(shape, strides, dtype.itemsize) or pointer % dtype.itemsize:
            return self.view(_copied(value, name), name)
        self._kept.append(owner)
        return DeviceArray(pointer, shape, dtype, read_only, owner, value, name)

    def array(
        self,
        value: Any,
        name: str,
        dtypes: Sequence[np.dtype[Any]],
        shape: Sequence[int | str],
        why: str = "",
    ) -> DeviceArray:
        """Contiguous array of one of `dtypes`; `shape` as in `_arrays.array`."""
        a = self.view(value, name)
        if a.dtype not in dtypes:
            raise TypeError(f"{name} must be {' or '.join(map(str, dtypes))}{why}, got {a.dtype}")
        check_shape(a, name, shape)
        return a

    def integers(
        self, value: Any, name: str, shape: Sequence[int | str], _stop: int = 0, _meaning: str = ""
    ) -> DeviceArray:
        """Contiguous int32 array; their range is the kernel's to check, since the host does not see them."""
        a = self.view(value, name)
        if a.dtype.kind not in "iu":
            raise TypeError(f"{name} must hold integers, got {a.dtype}")
        check_shape(a, name, shape)
        return a if a.dtype == _INT32 else self.view(_cast(value, name, _INT32), name)

    def own_integers(self, value: Any, name: str, shape: Sequence[int | str]) -> DeviceArray:
        """A new contiguous int64 array of these integers."""
        a = self.view(value, name)
        if a.dtype.kind not in "iu":
            raise TypeError(f"{name} must hold integers, got {a.dtype}")
        check_shape(a, name, shape)
        return self.view(_cast(value, name, np.dtype(np.int64)), name)

    def changed(self, value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Changed:
        """An array of the caller's that the kernel changes."""
        return Changed(name, self.output(value, dtype, shape, name))

    def changed_or_new(self, value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Changed:
        """The same, or for None a new one."""
        return Changed(
            name, self.empty(shape, dtype) if value is None else self.output(value, dtype, shape, name)
        )

    def check_distinct(self, *changed: Changed) -> None:
        """ValueError where two of the arrays that a kernel changes share memory."""
        for i, b in enumerate(changed):
            for a in changed[:i]:
                if a.work.pointer < b.work.end and b.work.pointer < a.work.end:
                    raise ValueError(f"{b.name} must not share memory with {a.name}, got arrays that overlap")

    def floats(self, value: Any, name: str, dtype: np.dtype[Any]) -> DeviceArray:
        """Contiguous array of `dtype`, cast from any real dtype by the array's own library."""
        a = self.view(value, name)
        if a.dtype.kind not in "fiub":
            raise TypeError(f"{name} must hold real numbers, got {a.dtype} ({kind(value)})")
        return a if a.dtype == dtype else self.view(_cast(value, name, dtype), name)

    def output(
        self, value: Any, dtype: np.dtype[Any], shape: tuple[int, ...], name: str = "out"
    ) -> DeviceArray:
        """An array of the caller's that the kernel writes; it must match exactly and be contiguous."""
        a = self.view(value, name)
        if a.dtype != dtype:
            raise TypeError(f"{name} must be {dtype}, got {a.dtype}")
        check_shape(a, name, shape)
        if a.read_only:
            raise ValueError(f"{name} must be writable, got a read-only {kind(value)}")
        if a.pointer != self._raw(value, name)[0]:
            raise ValueError(f"{name} must be C-contiguous and aligned in CUDA memory, got strides")
        return a

    def empty(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        """A new array of the first array's library."""
        wanted = np.dtype(dtype)
        a = self.view(_empty(self.first, wanted, shape, self.device), "the result")
        if a.dtype != wanted:
            raise TypeError(
                f"results are {wanted}, which {kind(self.first)} narrowed to {a.dtype}: allow "
                "64-bit numbers there (JAX: jax.config.update('jax_enable_x64', True))"
            )
        return a

    def copy(self, a: DeviceArray) -> DeviceArray:
        """A new array of the same values."""
        return self.view(_copied(a.source, a.name), a.name)

    def apart(self, a: DeviceArray, *targets: DeviceArray) -> DeviceArray:
        """`a`, or a copy where writing to a target might change it; the same memory exactly needs none."""
        for b in targets:
            overlap = a.pointer < b.end and b.pointer < a.end
            if overlap and (a.pointer, a.end) != (b.pointer, b.end):
                return self.copy(a)
        return a

    apart_or_same = apart

    def network(self, net: TwoLayer) -> Any:
        """The network as `kernels` takes it."""
        return importlib.import_module("._device", __package__)._network(net)

    def precision(self, value: Any, dtype: np.dtype[Any]) -> None:
        """The arithmetic of the kernels' matrix products."""
        if choice(value, "precision", PRECISIONS) != "float32" and dtype == np.float64:
            raise ValueError(f"precision must be 'float32' for float64 arrays, got {value!r}")
        self.kernels.precision = value

    def host(self, a: DeviceArray) -> Array:
        """The array as NumPy's, once the stream has done what it was given."""
        out = np.empty(a.shape, a.dtype)
        self.module.read_memory(self.on, a.pointer, out)
        return out

    def result(self, a: DeviceArray) -> Any:
        """The array as its library has it."""
        return a.source

    number = result

    def _raw(
        self, value: Any, name: str
    ) -> tuple[int, tuple[int, ...], tuple[int, ...] | None, str, bool, Any]:
        """Address, shape, strides in bytes, typestr, read-only flag and what keeps the memory."""
        if is_torch(value) and value.requires_grad:
            raise TypeError(f"{name} must not require grad, got a tensor that does: detach it first")
        try:
            interface = getattr(value, "__cuda_array_interface__", None)
        except (RuntimeError, TypeError) as error:
            raise TypeError(f"{name} cannot be read, got {kind(value)}: {error}") from error
        if interface is None:
            made = _dlpack.export(value, self.stream or 1)
            size = np.dtype(made.typestr).itemsize
            strides = None if made.strides is None else tuple(s * size for s in made.strides)
            return made.pointer, made.shape, strides, made.typestr, made.read_only, (value, made.capsule)
        if interface.get("mask") is not None:
            raise TypeError(f"{name} must be an array without a mask, got {kind(value)}")
        producer = interface.get("stream")
        if producer == 0:
            raise ValueError(f"{name} has stream 0, which __cuda_array_interface__ leaves undefined")
        if producer is not None and producer != (self.stream or 1):
            self.module.wait_for(getattr(self, "device", 0), self.stream, producer)
        pointer, read_only = interface["data"]
        strides = interface.get("strides")
        return pointer, tuple(interface["shape"]), strides, interface["typestr"], bool(read_only), value


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None, itemsize: int) -> bool:
    if strides is None:
        return True
    expected = itemsize
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def _library(value: Any) -> ModuleType:
    return sys.modules[type(value).__module__.partition(".")[0]]


def _current_stream(value: Any) -> int:
    """Handle of the stream that the array's library uses now; 0 is CUDA's default stream."""
    library = _library(value)
    if library.__name__ == "torch":
        return int(library.cuda.current_stream(value.device).cuda_stream)
    if library.__name__ == "cupy":
        return int(library.cuda.get_current_stream().ptr)
    try:
        interface = getattr(value, "__cuda_array_interface__", {})
    except (RuntimeError, TypeError):
        interface = {}
    return int(interface.get("stream") or 0)


def _empty(source: Any, dtype: np.dtype[Any], shape: tuple[int, ...], device: int) -> Any:
    library = _library(source)
    if library.__name__ == "torch":
        return library.empty(shape, dtype=getattr(library, dtype.name), device=source.device)
    if library.__name__ == "cupy":
        with library.cuda.Device(device):
            return library.empty(shape, dtype)
    if library.__name__ == "numba":
        return library.cuda.device_array(shape, dtype)
    if hasattr(source, "__array_namespace__"):
        namespace = source.__array_namespace__()
        return namespace.empty(shape, dtype=getattr(namespace, dtype.name), device=source.device)
    raise TypeError(f"results cannot be returned as {kind(source)}: its library has no array namespace")


def _copied(value: Any, name: str) -> Any:
    """A C-contiguous copy by the array's own library."""
    if is_torch(value):
        return value.clone(memory_format=_library(value).contiguous_format)
    if _library(value).__name__ == "cupy":
        return value.copy(order="C")
    if hasattr(value, "__array_namespace__"):
        return value.__array_namespace__().asarray(value, copy=True)
    raise ValueError(
        f"{name} must be C-contiguous, aligned and apart from what is written, got {kind(value)}"
    )


def _cast(value: Any, name: str, dtype: np.dtype[Any]) -> Any:
    """A copy of another type by the array's own library."""
    if is_torch(value):
        return value.to(getattr(_library(value), dtype.name), copy=True)
    if _library(value).__name__ == "cupy":
        return value.astype(dtype)
    if hasattr(value, "__array_namespace__"):
        namespace = value.__array_namespace__()
        return namespace.astype(value, getattr(namespace, dtype.name))
    raise TypeError(f"{name} must be {dtype}, which {kind(value)} cannot be turned into here")
