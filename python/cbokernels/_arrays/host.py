"""Arrays in, arrays out: NumPy views of what the caller passes, results in the caller's own array type.

Nothing here casts or moves an array to another device.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _cpu, cuda
from .._checks import kind
from ..errors import CudaUnavailableError

Array = npt.NDArray[Any]
AS_THETA = " as theta is"

# DLPack device types: host memory that any thread may read, and CUDA memory (plain, managed).
_HOST, CUDA_TYPES = (1, 3), (2, 13)


def view(value: Any, name: str) -> Array:
    """NumPy view of a CPU array of any library, without a copy."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must be an array without a mask, got {kind(value)}")
    if isinstance(value, np.ndarray):
        return value.view(np.ndarray)
    if is_torch(value):
        return _from_torch(value, name)
    device = dlpack_device(value)
    if device in CUDA_TYPES or (device is None and hasattr(value, "__cuda_array_interface__")):
        _refuse_cuda(name)
    if device is None:
        raise TypeError(f"{name} must be an array (NumPy, or one with DLPack), got {kind(value)}")
    if device not in _HOST:
        raise TypeError(f"{name} must lie in CPU memory, got {kind(value)} on DLPack device type {device}")
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        dtype = getattr(value, "dtype", "unknown dtype")
        raise TypeError(
            f"{name} must be float32, float64 or integers that NumPy can view, got {kind(value)} of {dtype}"
        ) from error


def like(source: Any, array: Array) -> Any:
    """`array` as the array type of `source`, sharing memory where that library can."""
    if isinstance(source, np.ndarray):
        return array
    if is_torch(source):
        return sys.modules["torch"].from_numpy(array)
    if hasattr(source, "__array_namespace__"):
        library = source.__array_namespace__()
    else:
        library = sys.modules[type(source).__module__.partition(".")[0]]
        if not hasattr(library, "from_dlpack"):
            raise TypeError(f"results cannot be returned as {kind(source)}: its library has no from_dlpack")
    result = library.from_dlpack(array)
    if array.dtype == np.float64 and "float64" not in str(result.dtype):
        raise TypeError(
            f"results are float64, which {kind(source)} narrowed to {result.dtype}: allow 64-bit numbers "
            "there (JAX: jax.config.update('jax_enable_x64', True)) or pass NumPy arrays"
        )
    return result


def array(
    value: Any, name: str, dtypes: Sequence[np.dtype[Any]], shape: Sequence[int | str], why: str = ""
) -> Array:
    """Contiguous array of one of `dtypes`; `shape` holds sizes, and letters for any size of at least 1."""
    a = view(value, name)
    if a.dtype not in dtypes:
        raise TypeError(f"{name} must be {' or '.join(map(str, dtypes))}{why}, got {a.dtype}")
    check_shape(a, name, shape)
    return contiguous(a)


def integers(value: Any, name: str, shape: Sequence[int | str], stop: int, meaning: str) -> Array:
    """Contiguous int32 array of integers in [0, stop), from any integer dtype."""
    a = view(value, name)
    if a.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got {a.dtype}")
    check_shape(a, name, shape)
    if a.min() < 0 or a.max() >= stop:
        index = np.unravel_index(int(np.argmax((a < 0) | (a >= stop))), a.shape)
        where = ", ".join(map(str, index))
        raise ValueError(f"{name} must hold integers in [0, {stop}) ({meaning}), got {a[index]} at [{where}]")
    return contiguous(np.asarray(a, dtype=np.int32))


def floats(value: Any, name: str, dtype: np.dtype[Any]) -> Array:
    """Contiguous array of `dtype`, cast from any real dtype, without NaN and infinities."""
    a = view(value, name)
    if a.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got {a.dtype} ({kind(value)})")
    with np.errstate(over="ignore"):
        a = contiguous(np.asarray(a, dtype=dtype))
    if _cpu.largest(a) == np.inf:  # no array of flags for what is nearly always finite
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(a))[0])
        raise ValueError(f"{name} must be finite as {dtype}, got {a[index]} at {list(index)}")
    return a


def output(value: Any, dtype: np.dtype[Any], shape: tuple[int, ...], name: str = "out") -> Array:
    """Writable view of an array of the caller's, which must match exactly; it may be non-contiguous."""
    # NumPy marks what it imports through DLPack read-only, hence torch's own way in `view`.
    a = view(value, name)
    if a.dtype != dtype:
        raise TypeError(f"{name} must be {dtype}, got {a.dtype}")
    if a.shape != shape:
        raise ValueError(f"{name} must have shape {_text(shape)}, got {_text(a.shape)}")
    if not a.flags.writeable:
        raise ValueError(f"{name} must be writable, got a read-only {kind(value)}")
    return a


class InPlace:
    """An array of the caller's that a kernel changes: it works on `work`, then `finish` brings that back."""

    def __init__(self, value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.name = name
        self.wanted = output(value, dtype, shape, name)
        self.work = contiguous(self.wanted)

    def finish(self) -> None:
        """Write the results into the caller's array where the kernel worked on a copy."""
        if self.work is not self.wanted:
            self.wanted[...] = self.work


def check_distinct(*changed: InPlace) -> None:
    """ValueError where two of the arrays that a kernel changes share memory."""
    for i, b in enumerate(changed):
        for a in changed[:i]:
            if np.shares_memory(a.wanted, b.wanted):
                raise ValueError(f"{b.name} must not share memory with {a.name}, got arrays that overlap")


def apart(a: Array, *targets: Array) -> Array:
    """`a`, or a copy of it where writing to one of `targets` might change it."""
    return a.copy() if any(np.may_share_memory(a, target) for target in targets) else a


def apart_or_same(a: Array, target: Array) -> Array:
    """As `apart`, but exactly the same memory needs no copy: each entry is read before it is written."""
    if a is target or not np.may_share_memory(a, target):
        return a
    return a if a.ctypes.data == target.ctypes.data else a.copy()


def is_contiguous(a: Array) -> bool:
    """Whether the compiled kernels can work on `a` itself."""
    flags = a.flags
    return flags.c_contiguous and flags.aligned


def contiguous(a: Array) -> Array:
    """`a` itself where it is C-contiguous and aligned, else a copy that is."""
    return a if is_contiguous(a) else np.array(a, order="C")


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
    raise ValueError(f"{name} must have shape {_text(shape)}{empty}, got {_text(sizes)}")


def _text(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def is_torch(value: Any) -> bool:
    """Whether this is a PyTorch tensor; PyTorch is not imported for it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _from_torch(tensor: Any, name: str) -> Array:
    if tensor.device.type == "cuda":
        _refuse_cuda(name)
    if tensor.device.type != "cpu":
        raise TypeError(f"{name} must lie in CPU memory, got a tensor on {tensor.device}")
    if tensor.requires_grad:
        raise TypeError(f"{name} must not require grad, got a tensor that does: detach it first")
    try:
        result: Array = tensor.numpy()
    except (RuntimeError, TypeError) as error:
        raise TypeError(
            f"{name} must be a dense float32, float64 or integer tensor, got {tensor.layout} {tensor.dtype}"
        ) from error
    return result


def dlpack_device(value: Any) -> int | None:
    """DLPack's type of the device on which an array lies; None without DLPack."""
    if not (hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__")):
        return None
    return int(value.__dlpack_device__()[0])


def _refuse_cuda(name: str) -> None:
    reason = cuda.unavailable_reason()
    if reason is None:
        raise TypeError(
            f"{name} lies in CUDA memory: the first array does not, or this function has no kernel there; "
            "arrays are never moved between devices"
        )
    raise CudaUnavailableError(f"{name} lies in CUDA memory, and {reason}; CPU arrays run on the CPU kernels")
