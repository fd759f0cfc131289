"""What the calls of fuzz.py have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

EPS = {"float32": 1e-5, "float64": 1e-12}  # of a sum of magnitudes
LABELS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


@dataclass
class Call:
    """A call of `cbokernels`' function of this name: first positional arguments, then arrays by name."""

    name: str
    first: tuple[Any, ...]
    arrays: dict[str, np.ndarray]
    options: dict[str, Any]
    compare: Callable[[Call, list[Any], list[Any]], str] | None = None
    changed: tuple[str, ...] = ()  # arrays that the call changes in place
    out: str = ""  # the array that out= may be
    particles: str = ""  # the array whose rows do not touch one another's results
    free: tuple[str, ...] = ()  # arrays that may have other numbers of axes
    tied: tuple[str, ...] = ()  # vectors whose length another array gives
    empty: bool = False  # whether axes may have no entries
    bounds: list[Any] = field(default_factory=list)

    @property
    def eps(self) -> float:
        return EPS[str(next(a.dtype for a in self.arrays.values() if a.dtype.kind == "f"))]


def one_of(rng, values):
    return values[rng.integers(len(values))]


def close(call, found, expected):
    """Each result within its bound of the reference; the message of the first that is not."""
    for i, (f, e, bound) in enumerate(zip(found, expected, call.bounds, strict=True)):
        if f.shape != np.shape(e):
            return f"result {i} has shape {f.shape}, the reference's {np.shape(e)}"
        with np.errstate(invalid="ignore"):
            wrong = ~(np.abs(f - e) <= bound) & ~(np.isnan(f) & np.isnan(e)) & (f != e)
        if wrong.any():
            at = np.unravel_index(np.argmax(wrong), wrong.shape)
            allowed = np.broadcast_to(bound, wrong.shape)[at]
            right = np.asarray(e)[at]
            return f"result {i} at {at} is {f[at]!r}, the reference's {right!r}, allowed {allowed:.3g}"
    return ""


def numbers(rng, shape, dtype):
    """Normal numbers, sometimes scaled, with zeros, or all the same."""
    a = rng.normal(size=shape) * one_of(rng, [1, 1, 1, 0.1, 3])
    if rng.random() < 0.2:
        a *= rng.random(shape) < rng.random()
    if rng.random() < 0.05:
        a[...] = 0.5
    return a.astype(dtype)


def sizes(rng):
    """Few particles and coordinates, around the widths of vectors now and then."""
    return int(one_of(rng, [1, 1, 2, 3, 5, 8, 17])), int(one_of(rng, [1, 2, 3, 4, 5, 7, 15, 16, 17, 33, 70]))


def random_options(rng):
    return {
        "seed": int(one_of(rng, [0, 1, 2**63 + 5, 2**64 - 1])),
        "step": int(one_of(rng, [1, 2, 77, 2**32 - 1])),
    }
