"""Losses of one's own: C functions, which the kernels call, and Python's, which get outputs in blocks."""

from __future__ import annotations

import ctypes
import re
import sys
from _ctypes import CFuncPtr
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _cpu
from ._arrays import Array, view

if TYPE_CHECKING:
    from ._cpu import Key
    from .network import TwoLayer

_SIGNATURE = "double(const T *outputs, const T *target, int64_t C) with T float or double"
_INTEGERS = {
    "int64_t", "long", "long int", "long long", "long long int", "npy_int64", "npy_intp", "Py_ssize_t",
    "ssize_t", "ptrdiff_t", "intptr_t",
}  # fmt: skip
_BLOCK = 2**22  # outputs, or numbers of particles, that are in memory at a time


class Compiled(NamedTuple):
    """A C function of one sample, as the compiled module takes it."""

    labels: bool | None  # whether y holds labels; None: y has not been seen yet
    address: int
    item: int  # bytes of the numbers that it takes
    source: Any  # whose memory it is

    @property
    def text(self) -> str:
        """For messages and checkpoints."""
        return f"a compiled function of {'float' if self.item == 4 else 'double'}"


class Called(NamedTuple):
    """A function in Python."""

    labels: bool | None
    function: Callable[[Array, Array], Any]

    @property
    def text(self) -> str:
        """For messages and checkpoints: all that lasts of it."""
        of = self.function if hasattr(self.function, "__qualname__") else type(self.function)
        return f"the Python function {of.__module__}.{of.__qualname__}"


def own_loss(value: Any) -> Compiled | Called | None:
    """A user's function; None for what is none. ValueError for one of another signature."""
    low_level = getattr(sys.modules.get("scipy"), "LowLevelCallable", None)
    if low_level is not None and isinstance(value, low_level):
        address, signature, data = _capsule(tuple.__getitem__(value, 0))
        if data:
            raise ValueError("loss must be a function without user_data, got one with it")
        return Compiled(None, address, _item(signature), value)
    # Numba's cfunc has both
    pointer = value.ctypes if hasattr(value, "address") and hasattr(value, "ctypes") else value
    if isinstance(pointer, CFuncPtr):
        if any(type(kept).__name__ == "CThunkObject" for kept in (pointer._objects or {}).values()):
            raise TypeError("loss must be in C, or the Python function itself, got ctypes' wrapper of one")
        found = ctypes.cast(pointer, ctypes.c_void_p).value
        return Compiled(None, found or 0, _item(_declared(pointer)), value)
    return Called(None, value) if callable(value) and not isinstance(value, type) else None


def _capsule(capsule: Any) -> tuple[int, str, int]:
    """The pointer in a PyCapsule, its name, which is the signature, and its context."""
    api = ctypes.pythonapi
    name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", api))(capsule)
    get = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    context = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(("PyCapsule_GetContext", api))(capsule)
    return get(("PyCapsule_GetPointer", api))(capsule, name) or 0, (name or b"").decode(), context or 0


def _declared(pointer: Any) -> str:
    """The signature that a ctypes function declares."""
    names = {ctypes.POINTER(ctypes.c_float): "float *", ctypes.POINTER(ctypes.c_double): "double *"}
    whole = ctypes.c_int64, ctypes.c_long, ctypes.c_longlong, ctypes.c_ssize_t
    names.update({kind: "int64_t" for kind in whole if ctypes.sizeof(kind) == 8})
    given = [names.get(kind, str(kind)) for kind in pointer.argtypes or ()]
    result = "double" if pointer.restype is ctypes.c_double else str(pointer.restype)
    return f"{result} ({', '.join(given)})"


def _item(signature: str) -> int:
    """Bytes of a signature's T."""
    words = " ".join(re.sub(r"\bconst\b|\(\*\)", " ", signature).replace("*", " * ").split())
    pointer = r"(?: \w+)? ?, ?"
    found = re.fullmatch(rf"double ?\( ?(float|double) \*{pointer}\1 \*{pointer}([\w ]+?) ?\)", words)
    if found is None or not {found[2], found[2].rpartition(" ")[0]} & _INTEGERS:
        raise ValueError(f"loss must be a C function {_SIGNATURE}, got {signature!r}")
    return 4 if found[1] == "float" else 8


def check_item(loss: Compiled, dtype: np.dtype[Any]) -> None:
    """TypeError unless a compiled function takes numbers of the particles' dtype."""
    if loss.item != dtype.itemsize:
        raise TypeError(f"loss must take numbers of theta's dtype, {dtype}, got {loss.text}")


def exact_labels(y: Array, name: str, dtype: np.dtype[Any]) -> Array:
    """Integers as int32; ValueError for what numbers of this dtype, or 32 bits, do not hold exactly."""
    most = 2**24 if dtype == np.float32 else 2**31 - 1
    if y.max() > most or y.min() < -most:
        raise ValueError(f"{name} must hold integers of at most {most} for {dtype} networks, got {y.max()}")
    return y.astype(np.int32)


def values_of(loss: Called, outputs: Array, y: Array) -> Array:
    """What a function says of outputs [n, S, C], its own, float64; checked."""
    values = loss.function(outputs, y)
    if isinstance(values, (list, tuple, int, float, np.generic)):
        values = np.asarray(values)
    values = view(values, "the result of loss")
    if values.dtype.kind not in "fiu":
        raise TypeError(f"the result of loss must hold real numbers, got {values.dtype}")
    if values.shape != outputs.shape[:1]:
        raise ValueError(
            f"the result of loss must have shape [{len(outputs)}] for outputs {list(outputs.shape)}, got "
            f"{list(values.shape)}"
        )
    return values.astype(np.float64)


def called_risks(
    loss: Called, net: TwoLayer, theta: Array, x: Array, ys: Array, out: Array, threads: int,
    ensemble: int = 0,
) -> None:  # fmt: skip
    """Risks of theta [n, D] at x [S, d] on tasks ys [T, S] or [T, S, C], into out [n, T].

    ensemble: of so many particles theta is a part; 0: it is whole.
    """
    kernel = net._kernel.part_of(max(ensemble, len(theta)))
    rows = max(_BLOCK // (len(x) * net.outputs), 1)
    for first in range(0, len(theta), rows):
        part = theta[first : first + rows]
        outputs = np.empty((len(part), len(x), net.outputs), theta.dtype)
        _cpu.forward(kernel, part, x, outputs, threads)
        for t, y in enumerate(ys):  # a function may do with its outputs what it likes
            own = outputs if t == len(ys) - 1 else outputs.copy()
            out[first : first + rows, t] = values_of(loss, own, _read_only(y))


def called_atom_risks(
    loss: Called, net: TwoLayer, center: Any, theta: Any, x: Any, y: Array, out: Any, threads: Any
) -> None:
    """Risks of a centre [D] with only neuron m taken from theta[n], into out [n, M]."""
    alone, y = type(net)(net.inputs, 1, net.outputs, net.activation, scaling="none"), _read_only(y)
    scale = np.asarray(net._scale, theta.dtype)

    def neurons(networks: Array, first: int, last: int) -> Array:
        """What neurons [first, last) of networks [n, D] add to the outputs, [n, m, S, C]."""
        w, b, c, _ = net.unpack(networks)
        parts = w[:, first:last], b[:, first:last, None], np.swapaxes(c, 1, 2)[:, first:last]
        atoms = np.concatenate(parts, axis=2).reshape(-1, alone.size)
        added = np.empty((len(atoms), len(x), net.outputs), theta.dtype)
        _cpu.forward(alone._kernel, atoms, x, added, threads)
        return scale * added.reshape(len(networks), -1, *added.shape[1:])

    whole = np.empty((1, len(x), net.outputs), theta.dtype)
    _cpu.forward(net._kernel, center[None], x, whole, threads)
    columns = max(min(_BLOCK // whole.size, net.width), 1)
    rows = max(_BLOCK // (whole.size * columns), 1)
    for m in range(0, net.width, columns):
        last = min(m + columns, net.width)
        rest = whole - neurons(center[None], m, last)[0]
        for n in range(0, len(theta), rows):
            outputs = rest + neurons(theta[n : n + rows], m, last)
            values = values_of(loss, outputs.reshape(-1, *whole.shape[1:]), y)
            out[n : n + rows, m:last] = values.reshape(outputs.shape[:2])


def drawn(
    center: Array, particles: int, spread: float, mirrored: bool, key: Key, samples: int, threads: int
) -> Any:
    """Particles drawn around a centre, some at a time: (their rows in an array where pairs follow each other,
    the particles [n, D], all of c + s xi first)."""
    fold, size = 2 if mirrored else 1, len(center)
    most = max(_BLOCK // (fold * max(samples, size)), 1)
    for first in range(0, particles // fold, most):
        last = min(first + most, particles // fold)
        theta = np.empty((fold * (last - first), size), center.dtype)
        _cpu.draw_ensemble(center, spread, mirrored, (*key[:3], key[3] + first), theta, threads)
        yield slice(fold * first, fold * last), theta


def _read_only(y: Array) -> Array:
    y = y.view()
    y.flags.writeable = False
    return y
