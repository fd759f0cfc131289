"""Address, shape and flags out of a DLPack capsule, versioned or not [https://dmlc.github.io/dlpack].

The capsule is only read: whoever keeps it keeps the memory, and its destructor gives the memory back.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

_READ_ONLY = 1
_KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}  # NumPy's letters of DLPack's type codes


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


class Imported(NamedTuple):
    """What a capsule says; strides in elements, None where it is C-contiguous.

    A capsule without a version cannot say whether its memory may be written: it may not, as NumPy takes it.
    """

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    typestr: str
    itemsize: int
    read_only: bool
    capsule: Any


def export(value: Any, stream: int) -> Imported:
    """The DLPack export of an array in CUDA memory, for use on `stream`."""
    try:
        capsule = value.__dlpack__(stream=stream, max_version=(1, 0))
    except TypeError:  # a producer older than versions
        capsule = value.__dlpack__(stream=stream)
    pointer_of, is_valid = ctypes.pythonapi.PyCapsule_GetPointer, ctypes.pythonapi.PyCapsule_IsValid
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    is_valid.argtypes = (ctypes.py_object, ctypes.c_char_p)
    if is_valid(capsule, b"dltensor_versioned"):
        managed = _Versioned.from_address(pointer_of(capsule, b"dltensor_versioned"))
        if managed.major != 1:
            raise BufferError(f"DLPack version {managed.major} is not understood, expected 1")
        tensor, read_only = managed.tensor, bool(managed.flags & _READ_ONLY)
    else:
        tensor, read_only = _Tensor.from_address(pointer_of(capsule, b"dltensor")), True
    kind = _KINDS.get(tensor.code, "V") if tensor.lanes == 1 else "V"
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None
    pointer = (tensor.data or 0) + tensor.byte_offset
    itemsize = (tensor.bits * tensor.lanes + 7) // 8
    return Imported(pointer, shape, strides, f"<{kind}{itemsize}", itemsize, read_only, capsule)
