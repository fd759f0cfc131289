"""Where a kernel runs: its first array decides, and makes the call that gives arrays and functions."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _cpu, cuda
from .._checks import precision as check_precision
from . import host
from .host import Array, InPlace


class Call:
    """The arrays of one kernel's call in CPU memory; `card.Call` has the same methods on a card."""

    kernels: Any = _cpu
    on_device = False

    def __init__(self, first: Any) -> None:
        self.first = first

    def view(self, value: Any, name: str) -> Any:
        """The array as it is."""
        return host.view(value, name)

    def array(
        self,
        value: Any,
        name: str,
        dtypes: Sequence[np.dtype[Any]],
        shape: Sequence[int | str],
        why: str = "",
    ) -> Any:
        """As `host.array`."""
        return host.array(value, name, dtypes, shape, why)

    def integers(self, value: Any, name: str, shape: Sequence[int | str], stop: int, meaning: str) -> Any:
        """As `host.integers`."""
        return host.integers(value, name, shape, stop, meaning)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A new array."""
        return np.empty(shape, dtype)

    def changed(self, value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """An array of the caller's that the kernel changes; see `host.InPlace`."""
        return InPlace(value, name, shape, dtype)

    def changed_or_new(self, value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """The same, or for None a new one."""
        return InPlace(np.empty(shape, dtype) if value is None else value, name, shape, dtype)

    def check_distinct(self, *changed: Any) -> None:
        """As `host.check_distinct`."""
        host.check_distinct(*changed)

    def apart(self, a: Any, *targets: Any) -> Any:
        """As `host.apart`."""
        return host.apart(a, *targets)

    def apart_or_same(self, a: Any, target: Any) -> Any:
        """As `host.apart_or_same`."""
        return host.apart_or_same(a, target)

    def precision(self, value: Any, dtype: np.dtype[Any]) -> None:
        """The arithmetic of the kernels' matrix products."""
        check_precision(value)

    def check_finite(self, a: Any, name: str) -> None:
        """ValueError where an entry is not finite; a card is waited for."""
        if not np.isfinite(a).all():
            raise ValueError(f"{name} must be finite as {a.dtype}, got NaN or infinity")

    def host(self, a: Any) -> Array:
        """The array as NumPy's; a card is waited for."""
        return np.asarray(a)

    def result(self, a: Any) -> Any:
        """The array as the caller's library has it."""
        return host.like(self.first, a)

    def number(self, a: Any) -> Any:
        """An array [] as a result: a float, or on a card, which is not waited for, the array."""
        return float(a)


HOST = Call(None)


def call_of(first: Any, name: str) -> Any:
    """The call that the array `first`, the argument `name`, decides."""
    if type(first) is not np.ndarray:
        card: Any = importlib.import_module(".card", __package__)
        if card.on_cuda(first) and cuda.reason_against_use() is None:
            return card.Call(first, name)
    return Call(first)
