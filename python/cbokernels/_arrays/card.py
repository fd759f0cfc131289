"""Arrays in CUDA memory: what a kernel needs to know of them, results in the caller's own array type.

The kernels run on the stream on which the library of the first array works. They follow what the other
arrays' libraries have been given, and these follow the kernels, so that memory is reused in order. A call
waits only where an array's library has no stream that is known here: `libraries` says which. Inputs
come through `__cuda_array_interface__` from libraries with known streams and where there is nothing else,
otherwise through DLPack, whose producer orders its work before the stream that it is told. Nothing here moves
an array to another device.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from .. import cuda
from .._checks import PRECISIONS, choice, kind
from . import dlpack, libraries
from .host import CUDA_TYPES, Array, check_shape, dlpack_device, is_torch

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


class _Memory(NamedTuple):
    """Where an array lies; strides in bytes, None where it is C-contiguous; `owner` keeps the memory."""

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    typestr: str
    read_only: bool
    owner: Any

    @property
    def host(self) -> Array:
        """A NumPy array of the same addresses, to compare and never to read."""
        interface = {
            "version": 3,
            "shape": self.shape,
            "strides": self.strides,
            "typestr": self.typestr,
            "data": (self.pointer, True),
        }
        return np.asarray(SimpleNamespace(__array_interface__=interface))


class Changed:
    """An array that a kernel changes: it works on `work`, then `finish` brings that back."""

    def __init__(self, name: str, work: DeviceArray, wanted: Any, memory: _Memory) -> None:
        self.name, self.work, self._wanted, self.memory = name, work, wanted, memory

    def finish(self) -> None:
        """Write the results into the caller's array where the kernel worked on a copy."""
        if self.work.source is not self._wanted:
            libraries.assign(self._wanted, self.work.source)


class Call:
    """The arrays of one kernel's call: all on the device of the first, used on that array's stream.

    The methods are those of `dispatch.Call`, which serves CPU arrays.
    """

    on_device = True

    def __init__(self, first: Any, name: str) -> None:
        self.module = cuda.module()
        self._kept: list[Any] = []  # what the kernels use must outlive them, or their place in their streams
        self._producers: set[int] = set()  # other streams, which order the memory of some of the arrays
        self._waits = False
        self.first, self.name = first, name
        self.stream = libraries.stream_of(first) or 0
        memory = self._memory(first, name)
        self.device = self.module.device_of(memory.pointer)
        if self.device < 0 and math.prod(memory.shape):
            raise ValueError(f"{name} must lie in CUDA memory, got an address that no device knows")
        kernels = importlib.import_module(".kernels", __package__).Kernels
        self.kernels = kernels(self.module, self.on, self.launched)

    @property
    def on(self) -> tuple[int, int]:
        """Device and stream, as the compiled module takes them."""
        return self.device, self.stream

    def launched(self) -> None:
        """What is due after a kernel's launch: others use its arrays' memory after it."""
        for producer in self._producers:
            self.module.wait_for(self.device, producer, self.stream)
        if self._waits:
            self.module.synchronize(self.on)

    def view(self, value: Any, name: str) -> DeviceArray:
        """The array, or a contiguous copy made by its own library."""
        found = self._look(value, name)
        if found is None:
            value = libraries.copied(value, name)
            found = self._look(value, name)
        if found is None:
            raise ValueError(f"{name} must be C-contiguous and aligned, got {kind(value)} whose copy is not")
        self._kept.append(found.owner)
        return found

    def _look(self, value: Any, name: str) -> DeviceArray | None:
        """The array after all that its library has been given; None where its layout is not the kernels'."""
        if not on_cuda(value):
            raise TypeError(f"{name} must lie in CUDA memory as {self.name} does, got {kind(value)}")
        pointer, shape, strides, typestr, read_only, owner = self._memory(value, name)
        try:
            dtype = np.dtype(typestr)
        except TypeError:
            raise TypeError(f"{name} must be float32, float64 or integers, got {typestr}") from None
        device = self.module.device_of(pointer) if math.prod(shape) else self.device
        if device != self.device:
            raise ValueError(
                f"{name} must lie on CUDA device {self.device} as {self.name} does, got {device}"
            )
        self._follow(value)
        if not _is_contiguous(shape, strides, dtype.itemsize) or pointer % max(dtype.itemsize, 1):
            return None
        return DeviceArray(pointer, shape, dtype, read_only, owner, value, name)

    def _follow(self, value: Any) -> None:
        """Let the kernels follow what the array's library has been given."""
        if libraries.share_stream(self.first, value):
            return
        producer = libraries.stream_of(value)
        self._waits = self._waits or not libraries.is_ordered(value)
        if producer is not None and producer != self.stream:
            self.module.wait_for(self.device, self.stream, producer)
            self._producers.add(producer)

    def array(
        self,
        value: Any,
        name: str,
        dtypes: Sequence[np.dtype[Any]],
        shape: Sequence[int | str],
        why: str = "",
    ) -> DeviceArray:
        """Contiguous array of one of `dtypes`; `shape` as in `host.array`."""
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
        return a if a.dtype == _INT32 else self._cast(value, name, _INT32)

    def own_integers(self, value: Any, name: str, shape: Sequence[int | str]) -> DeviceArray:
        """A new contiguous int64 array of these integers."""
        a = self.view(value, name)
        if a.dtype.kind not in "iu":
            raise TypeError(f"{name} must hold integers, got {a.dtype}")
        check_shape(a, name, shape)
        return self._cast(value, name, np.dtype(np.int64))

    def changed(self, value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Changed:
        """An array of the caller's that the kernel changes; it must match exactly and may have any layout."""
        a = self.view(value, name)
        if a.dtype != dtype:
            raise TypeError(f"{name} must be {dtype}, got {a.dtype}")
        check_shape(a, name, shape)
        memory = self._memory(value, name)
        if memory.read_only:
            raise ValueError(f"{name} must be writable, got a read-only {kind(value)}")
        if a.source is not value and not libraries.can_assign(value):
            raise ValueError(f"{name} must be C-contiguous and aligned, got a {kind(value)} that is not")
        return Changed(name, a, value, memory)

    def changed_or_new(self, value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Changed:
        """The same, or for None a new one."""
        if value is not None:
            return self.changed(value, name, shape, dtype)
        a = self.empty(shape, dtype)
        return Changed(name, a, a.source, self._memory(a.source, name))

    def check_distinct(self, *changed: Changed) -> None:
        """ValueError where two of the arrays that a kernel changes share memory."""
        for i, b in enumerate(changed):
            for a in changed[:i]:
                if np.shares_memory(a.memory.host, b.memory.host):
                    raise ValueError(f"{b.name} must not share memory with {a.name}, got arrays that overlap")

    def floats(self, value: Any, name: str, dtype: np.dtype[Any]) -> DeviceArray:
        """Contiguous array of `dtype`, cast from any real dtype by the array's own library."""
        a = self.view(value, name)
        if a.dtype.kind not in "fiub":
            raise TypeError(f"{name} must hold real numbers, got {a.dtype} ({kind(value)})")
        return a if a.dtype == dtype else self._cast(value, name, dtype)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        """A new array of the first array's library."""
        wanted = np.dtype(dtype)
        return self._exact(libraries.empty(self.first, wanted, shape, self.device), "the result", wanted)

    def _cast(self, value: Any, name: str, dtype: np.dtype[Any]) -> DeviceArray:
        """A new array of these values in another dtype."""
        return self._exact(libraries.cast(value, name, dtype), name, dtype)

    def _exact(self, value: Any, name: str, dtype: np.dtype[Any]) -> DeviceArray:
        """An array that its library made here, which must have the dtype that was asked for."""
        a = self.view(value, name)
        if a.dtype != dtype:
            raise TypeError(
                f"{name} must be {dtype}, which {kind(value)} narrowed to {a.dtype}: allow 64-bit numbers "
                "there (JAX: jax.config.update('jax_enable_x64', True))"
            )
        return a

    def copy(self, a: DeviceArray) -> DeviceArray:
        """A new array of the same values."""
        whole = self.view(libraries.copied(a.source, a.name), a.name)
        return dataclasses.replace(whole, pointer=whole.pointer + a.offset, offset=a.offset, shape=a.shape)

    def apart(self, a: DeviceArray, *targets: DeviceArray) -> DeviceArray:
        """`a`, or a copy of it where writing to one of `targets` might change it."""
        return self.copy(a) if any(_overlap(a, target) for target in targets) else a

    def apart_or_same(self, a: DeviceArray, target: DeviceArray) -> DeviceArray:
        """As `apart`, but exactly the same memory needs no copy: each entry is read before it is written."""
        return a if a.pointer == target.pointer else self.apart(a, target)

    def precision(self, value: Any, dtype: np.dtype[Any]) -> None:
        """The arithmetic of the kernels' matrix products."""
        if choice(value, "precision", PRECISIONS) != "float32" and dtype == np.float64:
            raise ValueError(f"precision must be 'float32' for float64 arrays, got {value!r}")
        self.kernels.precision = value

    def check_finite(self, a: DeviceArray, name: str) -> None:
        """ValueError where an entry is not finite; waits for the stream."""
        bad = self.module.count_not_finite(self.on, a.dtype == np.float64, a.pointer, math.prod(a.shape))
        if bad:
            raise ValueError(f"{name} must be finite as {a.dtype}, got {bad} entries of NaN or infinity")

    def host(self, a: DeviceArray) -> Array:
        """The array as NumPy's, once the stream has done what it was given."""
        out = np.empty(a.shape, a.dtype)
        self.module.read_memory(self.on, a.pointer, out)
        return out

    def result(self, a: DeviceArray) -> Any:
        """The array as its library has it."""
        return a.source

    number = result

    def _memory(self, value: Any, name: str) -> _Memory:
        if is_torch(value) and value.requires_grad:
            raise TypeError(f"{name} must not require grad, got a tensor that does: detach it first")
        try:
            exports = not libraries.is_ordered(value) and hasattr(value, "__dlpack__")
            interface = None if exports else getattr(value, "__cuda_array_interface__", None)
            if interface is None:
                return _exported(value, self.stream or 1)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise TypeError(f"{name} cannot be read, got {kind(value)}: {error}") from error
        if interface.get("mask") is not None:
            raise TypeError(f"{name} must be an array without a mask, got {kind(value)}")
        if interface.get("stream") == 0:
            raise ValueError(f"{name} has stream 0, which __cuda_array_interface__ leaves undefined")
        pointer, read_only = interface["data"]
        strides = interface.get("strides")
        return _Memory(
            pointer, tuple(interface["shape"]), strides, interface["typestr"], bool(read_only), value
        )


def _exported(value: Any, stream: int) -> _Memory:
    made = dlpack.export(value, stream)
    strides = None if made.strides is None else tuple(s * made.itemsize for s in made.strides)
    return _Memory(made.pointer, made.shape, strides, made.typestr, made.read_only, (value, made.capsule))


def _overlap(a: DeviceArray, b: DeviceArray) -> bool:
    return a.pointer < b.end and b.pointer < a.end


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None, itemsize: int) -> bool:
    if strides is None:
        return True
    expected = itemsize
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True
