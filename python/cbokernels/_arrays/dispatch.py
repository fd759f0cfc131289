"""Where a kernel runs: its first array decides, and makes the call that gives arrays and functions."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from .. import cuda
from .call import Call
from .card import CardCall
from .host import HostCall
from .memory import on_cuda

HOST = cast(Call, HostCall(np.empty(0)))  # of NumPy's arrays, whose results are NumPy's


def call_of(first: Any, name: str) -> Call:
    """The call that the array `first`, the argument `name`, decides."""
    if type(first) is np.ndarray:
        return HOST
    if not on_cuda(first) or cuda.reason_against_use() is not None:
        return cast(Call, HostCall(first))
    return cast(Call, CardCall(first, name))
