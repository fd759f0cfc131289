"""Arguments that `train` and `minimize` share."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _cpu, cuda
from .._arrays import HOST, Array, call_of, view
from .._checks import FLOATS, choice
from ..errors import CudaUnavailableError


def particles_of(theta: Any) -> int:
    """N, of an array that is checked later."""
    shape = getattr(theta, "shape", ())
    return int(shape[0]) if shape else 0


def on_host(theta: Any) -> Any:
    """An array in CUDA memory as NumPy's; anything else as it is."""
    call = call_of(theta, "theta")
    return call.host(call.view(theta, "theta")) if call.on_device else theta


def own_particles(theta: Any, size: int | str, dtype: np.dtype[Any] | None = None) -> Array:
    """A copy of the caller's particles [N, D], which must be finite; of `dtype`, None for either."""
    given = view(theta, "theta").dtype
    if dtype is not None and given != dtype:
        other = f", or say dtype={str(given)!r}" if given in FLOATS else ""
        raise TypeError(f"theta must be {dtype} as the argument dtype says, got {given}: cast it{other}")
    copy = np.array(HOST.array(theta, "theta", FLOATS, ("N", size)), order="C")
    if _cpu.largest(copy) == np.inf:
        wrong = int(np.argmin(np.isfinite(copy).all(axis=1)))
        raise ValueError(f"theta must be finite, got NaN or infinities in particle {wrong}")
    return copy


def check_device(device: Any, without: str | None = None) -> None:
    """CudaUnavailableError where the device asked for is not there, or a method needed is `without` it."""
    if choice(device, "device", ("cpu", "cuda")) == "cuda":
        reason = cuda.reason_against_use()
        if reason is None and without is not None:
            reason = f"{without} has no CUDA implementation in this version"
        if reason is not None:
            raise CudaUnavailableError(f"device='cuda' is not available: {reason}")


def check_callback(callback: Any) -> None:
    """TypeError unless a callback can be called."""
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable, got {callback!r}")
