"""One public name per kernel: CPU arrays go to the function itself, CUDA arrays to its twin in `_device`."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from . import cuda

F = TypeVar("F", bound=Callable[..., Any])


def on_device_of(name: str, position: int) -> Callable[[F], F]:
    """Decorator: the argument `name`, the `position`-th, decides where a kernel runs."""

    def decorate(kernel: F) -> F:
        @functools.wraps(kernel)
        def call(*args: Any, **keywords: Any) -> Any:
            value = args[position] if len(args) > position else keywords.get(name)
            if type(value) is np.ndarray or not cuda.is_available():
                return kernel(*args, **keywords)
            arrays = importlib.import_module("._device_arrays", __package__)
            if not arrays.on_cuda(value):
                return kernel(*args, **keywords)
            return getattr(importlib.import_module("._device", __package__), kernel.__name__)(
                *args, **keywords
            )

        return call  # type: ignore[return-value]

    return decorate
