"""The libraries in whose arrays the kernels' tests put their numbers: PyTorch and CuPy on a card, `fake_cuda`
on the emulation; and the numbers."""

from __future__ import annotations

import importlib

import fake_cuda
import numpy as np

_current = fake_cuda

EXACT = {"float32": 3e-6, "float64": 2e-14}  # of sums of a few hundred terms of order 1


def numbers(shape, dtype, seed=0) -> np.ndarray:
    """Normals, the same at every call."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def use(name: str) -> None:
    """Take arrays of this library from now on."""
    global _current
    _current = fake_cuda if name == "emulation" else importlib.import_module(name)


def usable() -> list[str]:
    """Those that have a card here."""
    names = []
    for name in ("torch", "cupy"):
        try:
            library = importlib.import_module(name)
        except ImportError:
            continue
        if library.cuda.is_available():
            names.append(name)
    return names


def put(a: np.ndarray):
    """A CUDA array with these numbers; on the emulation their own memory, in any layout."""
    if _current is fake_cuda:
        return fake_cuda.Array(a)
    if _current.__name__ == "cupy":
        return _current.array(a, order="K")
    return _current.from_numpy(np.array(a)).cuda()


def host(a) -> np.ndarray:
    """Its numbers."""
    if _current is fake_cuda:
        return a.array
    return a.get() if _current.__name__ == "cupy" else a.cpu().numpy()


def array(a):
    """It as the compiled module takes it."""
    from cbokernels._arrays.memory import DeviceArray

    interface = a.__cuda_array_interface__
    return DeviceArray(pointer(a), interface["shape"], np.dtype(interface["typestr"]), a, "a")


def pointer(a) -> int:
    """Its address."""
    return a.__cuda_array_interface__["data"][0]
