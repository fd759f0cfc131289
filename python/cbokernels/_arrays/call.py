"""What a function asks of the arrays that it is called with, wherever they lie."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from .._checks import kind

if TYPE_CHECKING:  # what the stub alone has
    from .._cpu import Execution, Kernels

Array = npt.NDArray[Any]
AS_THETA = " as theta is"


class Values(Protocol):
    """An array as kernels take it, C-contiguous and aligned: NumPy's, or a `DeviceArray`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""

    @property
    def ndim(self) -> int:
        """Number of axes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's type of an entry."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Any:
        """Entry i of the first axis."""

    def reshape(self, size: int, /, *sizes: int) -> Values:
        """The same memory in another shape, with at most one -1."""


A = TypeVar("A", bound=Values)


class Changed(Generic[A]):
    """An array of the caller's that a kernel changes: it works on `work`, then `finish` brings that back."""

    def __init__(self, name: str, work: A, wanted: Any, values: Any, memory: Any) -> None:
        self.name, self.work, self._wanted, self._values = name, work, wanted, values
        self.memory = memory  # as `np.shares_memory` takes it

    def finish(self) -> None:
        """Write the results into the caller's array where the kernel worked on a copy."""
        if self._values is not self._wanted:
            self._wanted[...] = self._values


class BaseCall(abc.ABC, Generic[A]):
    """The arrays of one kernel's call, all on the device of the first; nothing here casts unless it says so,
    and nothing moves an array to another device."""

    on_device: ClassVar[bool]
    kernels: Kernels[A]  # `_cpu`, or a card's
    on: tuple[int, int]  # device and stream; of CPU arrays the first ones
    first: Any

    @abc.abstractmethod
    def view(self, value: Any, name: str) -> A:
        """The array as kernels take it; copied only where its memory has another layout than theirs."""

    @abc.abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: Any) -> A:
        """A new array."""

    @abc.abstractmethod
    def copy(self, a: A) -> A:
        """A new array of the same values."""

    @abc.abstractmethod
    def address(self, a: A) -> int:
        """The address of the first entry."""

    @abc.abstractmethod
    def changed(self, value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Changed[A]:
        """An array of the caller's that the kernel changes; it must match exactly and may have any layout."""

    @abc.abstractmethod
    def run(self, num_threads: Any, precision: Any = "float32", a: A | None = None) -> Execution:
        """The kernels' last argument: threads, or a card's device and stream, and products' precision."""

    @abc.abstractmethod
    def check_finite(self, a: A, name: str) -> None:
        """ValueError where an entry is not finite; a card is waited for."""

    @abc.abstractmethod
    def check_range(self, a: A, name: str, stop: int, meaning: str) -> None:
        """ValueError for integers outside [0, stop); a card is waited for."""

    @abc.abstractmethod
    def host(self, a: A) -> Array:
        """The array as NumPy's; a card is waited for."""

    @abc.abstractmethod
    def result(self, a: A) -> Any:
        """The array as the caller's library has it."""

    @abc.abstractmethod
    def number(self, a: A) -> Any:
        """An array [] as a result: a float, or on a card, which is not waited for, the array."""

    @abc.abstractmethod
    def _cast(self, a: A, name: str, dtype: Any) -> A:
        """These values in another dtype."""

    @abc.abstractmethod
    def _memory_of(self, a: A) -> Any:
        """The array as `np.shares_memory` takes it."""

    @abc.abstractmethod
    def _overlap(self, a: A, b: A) -> bool:
        """Whether writing to one might change the other."""

    def array(
        self,
        value: Any,
        name: str,
        dtypes: Sequence[np.dtype[Any]],
        shape: Sequence[int | str],
        why: str = "",
    ) -> A:
        """An array of one of `dtypes`; `shape` holds sizes, and letters for any size of at least 1."""
        a = self.view(value, name)
        check_array(a, name, dtypes, shape, why)
        return a

    def floats(self, value: Any, name: str, dtype: np.dtype[Any]) -> A:
        """An array of `dtype`, cast from any real dtype; see `check_finite`."""
        a = self.view(value, name)
        if a.dtype.kind not in "fiub":
            raise TypeError(f"{name} must hold real numbers, got {a.dtype} ({kind(value)})")
        return a if a.dtype == dtype else self._cast(a, name, dtype)

    def integers(
        self, value: Any, name: str, shape: Sequence[int | str], stop: int, meaning: str, kinds: str = "iu"
    ) -> A:
        """An int32 array of integers in [0, stop), from dtypes of these kinds. What lies on a card the host
        does not see: there the range is the kernel's to check."""
        a = self._integers(value, name, shape, kinds)
        if not self.on_device:
            self.check_range(a, name, stop, meaning)
        return a if a.dtype == np.int32 else self._cast(a, name, np.dtype(np.int32))

    def own_integers(self, value: Any, name: str, shape: Sequence[int | str]) -> A:
        """A new int64 array of these integers."""
        a = self._integers(value, name, shape)
        return self.copy(a) if a.dtype == np.int64 else self._cast(a, name, np.dtype(np.int64))

    def _integers(self, value: Any, name: str, shape: Sequence[int | str], kinds: str = "iu") -> A:
        a = self.view(value, name)
        if a.dtype.kind not in kinds:
            raise TypeError(f"{name} must hold integers, got {a.dtype}")
        check_shape(a, name, shape)
        return a

    def changed_or_new(
        self, value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Changed[A]:
        """As `changed`, or for None a new one."""
        if value is not None:
            return self.changed(value, name, shape, dtype)
        a = self.empty(shape, dtype)
        return Changed(name, a, None, None, self._memory_of(a))

    def check_distinct(self, *changed: Changed[A]) -> None:
        """ValueError where two of the arrays that a kernel changes share memory."""
        for i, b in enumerate(changed):
            for a in changed[:i]:
                if np.shares_memory(a.memory, b.memory):
                    raise ValueError(f"{b.name} must not share memory with {a.name}, got arrays that overlap")

    def apart(self, a: A, *targets: A) -> A:
        """`a`, or a copy of it where writing to one of `targets` might change it."""
        return self.copy(a) if any(self._overlap(a, target) for target in targets) else a

    def apart_or_same(self, a: A, target: A) -> A:
        """As `apart`, but exactly the same memory needs no copy: each entry is read before it is written."""
        if a is target or not self._overlap(a, target) or self.address(a) == self.address(target):
            return a
        return self.copy(a)


Call: TypeAlias = BaseCall[Values]  # to which only its own arrays are given


def check_array(
    a: Values, name: str, dtypes: Sequence[np.dtype[Any]], shape: Sequence[int | str], why: str = ""
) -> None:
    """TypeError unless `a` has one of these dtypes, and `check_shape`."""
    if a.dtype not in dtypes:
        raise TypeError(f"{name} must be {' or '.join(map(str, dtypes))}{why}, got {a.dtype}")
    check_shape(a, name, shape)


def check_shape(a: Any, name: str, shape: Sequence[int | str]) -> None:
    """ValueError unless `a` has this shape, in which letters stand for any size of at least 1."""
    sizes = a.shape
    if len(sizes) == len(shape):
        for size, wanted in zip(sizes, shape):  # noqa: B905 - equal lengths, and this runs on every call
            if size != wanted and (size == 0 or type(wanted) is not str):
                break
        else:
            return
    empty = " with no size 0" if 0 in sizes else ""
    raise ValueError(f"{name} must have shape {text(shape)}{empty}, got {text(sizes)}")


def text(shape: Sequence[int | str]) -> str:
    """A shape, for messages."""
    return f"[{', '.join(map(str, shape))}]"
