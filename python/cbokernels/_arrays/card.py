"""The arrays of a call whose first one lies in CUDA memory; results in the caller's own array type.

The kernels run on the stream on which the library of the first array works. They follow what the other
arrays' libraries have been given, and these follow the kernels, so that memory is reused in order. A call
waits only where an array's library has no stream that is known here: `libraries` says which.

A call is refused, and arrays share memory, as on the CPU, but for what follows. What the host would have to
see is left to the kernels: a label, a task or a match out of range makes its risk, particle or atom NaN;
`consensus` gives NaN weights and an ess of 0 where no particle has a finite risk, without a warning or an
error, and its ess is an array; atoms and prices that are not finite give the identity and a NaN cost
(`sinkhorn` a NaN result), weights that are no weights a NaN barycenter. A match that is no permutation is not
seen.

Only here a precision other than "float32" is known. Arrays whose library cannot copy them (Numba) must be
C-contiguous, aligned and apart from what is written.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import cuda
from .._checks import PRECISIONS, choice, kind, threads
from . import libraries
from .call import Array, BaseCall, Changed, check_shape
from .memory import DeviceArray, Memory, is_contiguous, memory_of, on_cuda

if TYPE_CHECKING:
    from .._cpu import Kernels


class _Launches:
    """The compiled kernels; after each, however it ended, its call does what is due."""

    def __init__(self, module: Any, launched: Callable[[], None]) -> None:
        self._module, self._launched = module, launched

    def __getattr__(self, name: str) -> Callable[..., Any]:
        kernel = getattr(self._module, name)

        def launch(*args: Any) -> Any:
            try:
                return kernel(*args)
            finally:
                self._launched()

        return launch


class CardCall(BaseCall[DeviceArray]):
    """Arrays in CUDA memory, used on the first one's stream."""

    on_device = True

    def __init__(self, first: Any, name: str) -> None:
        self.module = cuda.module()
        # Arrays by id: they keep memory that the kernels use, and its place in its stream's order.
        self._memories: dict[int, Memory] = {}
        self._producers: set[int] = set()  # other streams: those that some arrays' memory was made on
        self._waits = False
        self.first, self.name = first, name
        self._stream = libraries.stream_of(first) or 0
        memory = self._memory(first, name)
        self._device = self.module.device_of(memory.pointer)
        if self._device < 0 and math.prod(memory.shape):
            raise ValueError(f"{name} must lie in CUDA memory, got an address that no device knows")
        self.on = self._device, self._stream
        kernels: Any = _Launches(self.module, self._launched)
        self.kernels: Kernels[DeviceArray] = kernels

    def _launched(self) -> None:
        """After a kernel's launch: the arrays' other streams wait for it before they go on."""
        for producer in self._producers:
            self.module.wait_for(self._device, producer, self._stream)
        if self._waits:
            self.module.synchronize(self.on)

    def view(self, value: Any, name: str) -> DeviceArray:
        if isinstance(value, DeviceArray):
            return value
        found = self._look(value, name)
        if found is None:
            found = self._look(libraries.copied(value, name), name)
        if found is None:
            raise ValueError(f"{name} must be C-contiguous and aligned, got {kind(value)} whose copy is not")
        return found

    def _look(self, value: Any, name: str) -> DeviceArray | None:
        """The array after all that its library has been given; None where its layout is not the kernels'."""
        if not on_cuda(value):
            raise TypeError(f"{name} must lie in CUDA memory as {self.name} does, got {kind(value)}")
        pointer, shape, strides, typestr, _, _ = self._memory(value, name)
        try:
            dtype = np.dtype(typestr)
        except TypeError:
            raise TypeError(f"{name} must be float32, float64 or integers, got {typestr}") from None
        device = self.module.device_of(pointer) if math.prod(shape) else self._device
        if device != self._device:
            raise ValueError(
                f"{name} must lie on CUDA device {self._device} as {self.name} does, got {device}"
            )
        self._follow(value)
        if not is_contiguous(shape, strides, dtype.itemsize) or pointer % max(dtype.itemsize, 1):
            return None
        return DeviceArray(pointer, shape, dtype, value, name)

    def _memory(self, value: Any, name: str) -> Memory:
        """Where an array lies; its library is asked once."""
        if id(value) not in self._memories:
            self._memories[id(value)] = memory_of(value, name, self._stream)
        return self._memories[id(value)]

    def _follow(self, value: Any) -> None:
        """Let the kernels follow what the array's library has been given."""
        if libraries.share_stream(self.first, value):
            return
        producer = libraries.stream_of(value)
        self._waits = self._waits or not libraries.is_ordered(value)
        if producer is not None and producer != self._stream:
            self.module.wait_for(self._device, self._stream, producer)
            self._producers.add(producer)

    def changed(
        self, value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Changed[DeviceArray]:
        a = self.view(value, name)
        if a.dtype != dtype:
            raise TypeError(f"{name} must be {dtype}, got {a.dtype}")
        check_shape(a, name, shape)
        memory = self._memory(value, name)
        if memory.read_only:
            raise ValueError(f"{name} must be writable, got a read-only {kind(value)}")
        if a.source is not value and not hasattr(type(value), "__setitem__"):
            raise ValueError(f"{name} must be C-contiguous and aligned, got a {kind(value)} that is not")
        return Changed(name, a, value, a.source, memory)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        wanted = np.dtype(dtype)
        return self._exact(libraries.empty(self.first, wanted, shape, self._device), "the result", wanted)

    def _cast(self, a: DeviceArray, name: str, dtype: np.dtype[Any]) -> DeviceArray:
        whole = self._exact(libraries.cast(a.source, name, dtype), name, dtype)
        return dataclasses.replace(whole, shape=a.shape)

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
        whole = self.view(libraries.copied(a.source, a.name), a.name)
        return dataclasses.replace(whole, pointer=whole.pointer + a.offset, offset=a.offset, shape=a.shape)

    def address(self, a: DeviceArray) -> int:
        return a.pointer

    def run(
        self, num_threads: Any, precision: Any = "float32", a: DeviceArray | None = None
    ) -> tuple[int, int, str]:
        wide = a is not None and a.dtype == np.float64
        if choice(precision, "precision", PRECISIONS) != "float32" and wide:
            raise ValueError(f"precision must be 'float32' for float64 arrays, got {precision!r}")
        threads(num_threads)  # which have no meaning here
        return *self.on, precision

    def check_finite(self, a: DeviceArray, name: str) -> None:
        bad = self.module.count_not_finite(a, self.on)
        if bad:
            raise ValueError(f"{name} must be finite as {a.dtype}, got {bad} entries of NaN or infinity")

    def check_range(self, a: DeviceArray, name: str, stop: int, meaning: str) -> None:
        bad = self.module.count_outside(a, stop, self.on)
        if bad:
            raise ValueError(f"{name} must hold integers in [0, {stop}) ({meaning}), got {bad} others")

    def host(self, a: DeviceArray) -> Array:
        out = np.empty(a.shape, a.dtype)
        self.module.read_memory(a.pointer, out, self.on)
        return out

    def result(self, a: DeviceArray) -> Any:
        return a.source

    number = result

    def _memory_of(self, a: DeviceArray) -> Any:
        return Memory(a.pointer, a.shape, None, a.dtype.str, False, None)

    def _overlap(self, a: DeviceArray, b: DeviceArray) -> bool:
        return a.pointer < b.end and b.pointer < a.end
