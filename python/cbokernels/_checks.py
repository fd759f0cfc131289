"""Checks of scalar arguments. Every message names the argument, what it got and what it expects."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

WORD = 2**32  # counters of the random numbers are 32-bit words
PRECISIONS = ("float32", "tf32", "bf16")
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def kind(value: object) -> str:
    """Name of a value's type, for messages."""
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def real(value: Any, name: str, low: float = -math.inf, *, infinite: bool = False) -> float:
    """A real number not below `low`; infinities only where said, NaN never."""
    value = _number(value, name)
    if not low <= value or (math.isinf(value) and not infinite):
        end = "inf]" if infinite else "inf)"
        start = "(-inf" if math.isinf(low) and not infinite else f"[{low:g}"
        raise ValueError(f"{name} must lie in {start}, {end}, got {value!r}")
    return float(value)


def unit(value: Any, name: str, *, closed: bool) -> float:
    """A real number in [0, 1), or with `closed` in [0, 1]."""
    value = _number(value, name)
    if not 0 <= value <= 1 or (value == 1 and not closed):
        raise ValueError(f"{name} must lie in [0, 1{']' if closed else ')'}, got {value!r}")
    return float(value)


def _number(value: Any, name: str) -> float:
    if type(value) is float:
        return value
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {value!r} ({kind(value)})")
    return float(value)


def positive(value: Any, name: str, high: float = math.inf, *, infinite: bool = True) -> float:
    """A real number above 0 and at most `high`; infinity is allowed unless told otherwise."""
    value = _number(value, name)
    if not 0 < value <= high or (math.isinf(value) and not infinite):
        raise ValueError(f"{name} must lie in (0, {high:g}{']' if infinite else ')'}, got {value!r}")
    return float(value)


def integer(value: Any, name: str, low: int, stop: int) -> int:
    """An integer in [low, stop)."""
    if type(value) is not int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError(f"{name} must be an integer, got {value!r} ({kind(value)})")
        value = int(value)
    if not low <= value < stop:
        raise ValueError(f"{name} must be an integer in [{low}, {_power(stop)}), got {value}")
    return int(value)


def _power(stop: int) -> str:
    exponent = stop.bit_length() - 1
    return f"2^{exponent}" if exponent >= 20 and stop == 1 << exponent else str(stop)


def boolean(value: Any, name: str) -> bool:
    """True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r} ({kind(value)})")
    return bool(value)


def choice(value: Any, name: str, choices: Sequence[str]) -> str:
    """One of a few names."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {value!r} ({kind(value)})")
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def precision(value: Any) -> None:
    """The arithmetic of matrix products; the CPU kernels have one."""
    if value != "float32":
        choice(value, "precision", PRECISIONS)
        raise ValueError(f"precision must be 'float32' for CPU arrays, got {value!r}")


def threads(num_threads: Any) -> int:
    """Number of threads for the compiled kernels, where 0 is OpenMP's own setting."""
    return 0 if num_threads is None else integer(num_threads, "num_threads", 1, 2**31)


def seed(value: Any) -> int:
    """Key of the random numbers."""
    return integer(value, "seed", 0, 2**64)


def counter(value: Any, name: str) -> int:
    """One 32-bit counter word of the random numbers."""
    return integer(value, name, 0, WORD)


def first_particle(value: Any, particles: int) -> int:
    """Counter word of the first of `particles` particles; the last one's is a 32-bit word too."""
    first = counter(value, "first_particle")
    if first + particles > WORD:
        raise ValueError(f"first_particle must be at most 2^32 - {particles} (particles), got {first}")
    return first


def new_array(shape: tuple[int, ...], dtype: Any, name: str = "an array") -> Any:
    """An array that is not filled; MemoryError also for sizes whose product no address can hold, which NumPy
    takes for a wrong value."""
    try:
        return np.empty(shape, dtype)
    except ValueError:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        text = f"{name} {list(shape)} of {np.dtype(dtype)} would take {float(size):.3g} bytes"
        raise MemoryError(text) from None


def float_dtype(value: Any) -> np.dtype[Any]:
    """float32 or float64, given as a name, a NumPy type or a dtype."""
    if value is not None:  # which NumPy reads as float64
        try:
            return FLOATS[FLOATS.index(np.dtype(value))]
        except (TypeError, ValueError):
            pass
    raise TypeError(f"dtype must be 'float32' or 'float64', got {value!r}")
