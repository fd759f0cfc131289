"""Arrays in, arrays out, in host memory and on a card: all that is known of the libraries they come from."""

from .call import AS_THETA, Array, Call, Changed, Values, check_array, check_shape, text
from .dispatch import HOST, call_of
from .host import contiguous, like, view
from .memory import on_cuda

__all__ = [
    "AS_THETA",
    "HOST",
    "Array",
    "Call",
    "Changed",
    "Values",
    "call_of",
    "check_array",
    "check_shape",
    "contiguous",
    "like",
    "on_cuda",
    "text",
    "view",
]
