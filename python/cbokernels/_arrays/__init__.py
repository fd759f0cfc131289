"""Arrays in, arrays out, in host memory and on a card: all that is known of the libraries they come from."""

from .dispatch import HOST, Call, call_of
from .host import AS_THETA, Array, apart, array, check_shape, contiguous, floats, integers, like, view

__all__ = [
    "AS_THETA",
    "HOST",
    "Array",
    "Call",
    "apart",
    "array",
    "call_of",
    "check_shape",
    "contiguous",
    "floats",
    "integers",
    "like",
    "view",
]
