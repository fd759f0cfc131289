"""What the CUDA side of this installation can do. The compiled module `_cuda` is optional."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

from .errors import CudaUnavailableError


@functools.cache
def _module() -> ModuleType | None:
    try:
        return importlib.import_module("cbokernels._cuda")
    except ImportError:
        return None


def module() -> Any:
    """The compiled kernels; CudaUnavailableError where they are missing or have no device."""
    reason = unavailable_reason()
    if reason is not None:
        raise CudaUnavailableError(f"CUDA is not available: {reason}")
    return _module()


def device_count() -> int:
    """Number of CUDA devices the kernels can run on; 0 without a CUDA build or without a driver."""
    module = _module()
    return 0 if module is None else int(module.device_count())


def is_available() -> bool:
    """Whether CUDA arrays and `device="cuda"` can be used."""
    return device_count() > 0


def unavailable_reason() -> str | None:
    """Why CUDA cannot be used, for messages; None where it can."""
    if _module() is None:
        return "this build of cbokernels has no CUDA kernels (the module cbokernels._cuda is not installed)"
    if device_count() == 0:
        return "cbokernels was built with CUDA, but the driver reports no CUDA device"
    return None
