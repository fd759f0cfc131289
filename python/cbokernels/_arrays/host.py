"""Arrays in, arrays out: NumPy views of what the caller passes, results in the caller's own array type.

Nothing here casts or moves an array to another device.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from .. import _cpu, cuda
from .._checks import kind, new_array, threads
from .._checks import precision as check_precision
from ..errors import CudaUnavailableError
from .call import Array, BaseCall, Changed, check_shape

# DLPack device types: host memory that any thread may read, and CUDA memory (plain, managed).
_HOST, CUDA_TYPES = (1, 3), (2, 13)

_BRIDGE = "cbokernels.torch.risk, which is differentiable by theta and can be mapped over it"
NO_GRAD = f"must not require grad, got a tensor that does: detach it first, or take {_BRIDGE}"
NOT_MAPPED = (
    "must be a tensor with memory of its own, got one inside of torch.func (vmap, grad): kernels take whole "
    f"ensembles [N, D] without it; or take {_BRIDGE}"
)


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


def is_torch(value: Any) -> bool:
    """Whether this is a PyTorch tensor; PyTorch is not imported for it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_mapped(tensor: Any) -> bool:
    """Whether a tensor stands for many, or for one that is being differentiated, inside of torch.func."""
    functorch = getattr(sys.modules["torch"]._C, "_functorch", None)
    return bool(functorch is not None and functorch.is_functorch_wrapped_tensor(tensor))


def _from_torch(tensor: Any, name: str) -> Array:
    if tensor.device.type == "cuda":
        _refuse_cuda(name)
    if tensor.device.type != "cpu":
        raise TypeError(f"{name} must lie in CPU memory, got a tensor on {tensor.device}")
    if tensor.requires_grad:
        raise TypeError(f"{name} {NO_GRAD}")
    try:
        result: Array = tensor.numpy()
    except (RuntimeError, TypeError) as error:
        if is_mapped(tensor):
            raise TypeError(f"{name} {NOT_MAPPED}") from error
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


def contiguous(a: Array) -> Array:
    """`a` itself where it is C-contiguous and aligned, else a copy that is."""
    flags = a.flags
    return a if flags.c_contiguous and flags.aligned else np.array(a, order="C")


class HostCall(BaseCall[Array]):
    """Arrays in CPU memory."""

    kernels = _cpu
    on_device = False
    on = (0, 0)

    def __init__(self, first: Any) -> None:
        self.first = first

    def view(self, value: Any, name: str) -> Array:
        a = value if type(value) is np.ndarray else view(value, name)
        flags = a.flags  # as in `contiguous`: this runs several times a call
        return a if flags.c_contiguous and flags.aligned else np.array(a, order="C")

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        made: Array = new_array(shape, dtype)
        return made

    def copy(self, a: Array) -> Array:
        return a.copy()

    def address(self, a: Array) -> int:
        return a.ctypes.data

    def changed(self, value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Changed[Array]:
        # NumPy marks what it imports through DLPack read-only, hence torch's own way in `view`.
        a = view(value, name)
        if a.dtype != dtype:
            raise TypeError(f"{name} must be {dtype}, got {a.dtype}")
        if a.shape != shape:
            check_shape(a, name, shape)
        if not a.flags.writeable:
            raise ValueError(f"{name} must be writable, got a read-only {kind(value)}")
        work = contiguous(a)
        return Changed(name, work, a, work, a)

    def run(self, num_threads: Any, precision: Any = "float32", a: Array | None = None) -> int:
        check_precision(precision)
        return threads(num_threads)

    def check_finite(self, a: Array, name: str) -> None:
        if _cpu.largest(a) == np.inf:  # no array of flags for what is nearly always finite
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(a))[0])
            raise ValueError(f"{name} must be finite as {a.dtype}, got {a[index]} at {list(index)}")

    def check_range(self, a: Array, name: str, stop: int, meaning: str) -> None:
        if a.min() < 0 or a.max() >= stop:
            index = np.unravel_index(int(np.argmax((a < 0) | (a >= stop))), a.shape)
            where = ", ".join(map(str, index))
            raise ValueError(
                f"{name} must hold integers in [0, {stop}) ({meaning}), got {a[index]} at [{where}]"
            )

    def host(self, a: Array) -> Array:
        return a

    def result(self, a: Array) -> Any:
        return like(self.first, a)

    def number(self, a: Array) -> Any:
        return float(a)

    def _cast(self, a: Array, name: str, dtype: Any) -> Array:
        with np.errstate(over="ignore"):
            return contiguous(np.asarray(a, dtype=dtype))

    def _memory_of(self, a: Array) -> Any:
        return a

    def _overlap(self, a: Array, b: Array) -> bool:
        return np.may_share_memory(a, b)
