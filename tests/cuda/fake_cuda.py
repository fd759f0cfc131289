"""An array library whose CUDA memory is host memory: what the emulated kernels can read and write."""

from __future__ import annotations

import types

import numpy as np


class Array:
    """Exports `__cuda_array_interface__` v3; `stream` is what the interface says."""

    def __init__(self, array, stream=None):
        self.array, self.stream = np.asarray(array), stream

    device = "fake:0"

    @property
    def __cuda_array_interface__(self):
        return {
            "shape": self.array.shape,
            "typestr": self.array.dtype.str,
            "data": (self.array.ctypes.data, not self.array.flags.writeable),
            "strides": None if self.array.flags.c_contiguous else self.array.strides,
            "version": 3,
            "stream": self.stream,
        }

    def __array_namespace__(self):
        return types.SimpleNamespace(
            empty=lambda shape, dtype, device: type(self)(np.full(shape, -7, dtype)),
            asarray=lambda a, copy: type(self)(a.array.copy()),
            astype=lambda a, dtype, copy: type(self)(a.array.astype(dtype, copy=copy)),
            float32=np.float32, float64=np.float64, int32=np.int32, int64=np.int64,
        )  # fmt: skip

    def __setitem__(self, index, values):
        self.array[index] = values.array


class Capsule(Array):
    """Exports DLPack alone, as version 1 or, with `old`, as before; keeps the stream asked for."""

    old = False
    asked = None
    __cuda_array_interface__ = property()  # AttributeError: it has none

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, *, stream=None, **keywords):
        if self.old and keywords:
            raise TypeError("unexpected keyword max_version")
        type(self).asked = stream
        return self.array.__dlpack__(**keywords)


class OldCapsule(Capsule):
    old = True
