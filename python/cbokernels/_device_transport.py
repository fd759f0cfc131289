"""Transport kernels on arrays in CUDA memory; see `_device`.

Atoms that are not finite give the identity and a NaN cost, a match out of range gives a NaN atom.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._checks import FLOATS, boolean, counter, real, threads
from ._checks import first_particle as check_first_particle
from ._checks import seed as check_seed
from ._device_arrays import Call, DeviceArray
from .transport import AS_ATOMS, Assignment

_DOUBLE = np.dtype(np.float64)


def assign(
    atoms: Any,
    support: Any,
    *,
    match: Any = None,
    duals: Any = None,
    certificate: bool = False,
    num_threads: int | None = None,
) -> Assignment:
    """As `transport.assign`, always from a cold start: a first guess changes nothing, prices are refused."""
    call, x = _atoms(atoms, "atoms")
    count, m, k = x.shape
    y = call.array(support, "support", (x.dtype,), (m, k), AS_ATOMS)
    if match is not None:
        call.integers(match, "match", (count, m))
    if duals is not None or boolean(certificate, "certificate"):
        raise ValueError("duals and certificate=True must be left out for CUDA arrays, which have neither")
    threads(num_threads)
    found, f = call.empty(np.int64, (count, m))
    cost, c = call.empty(_DOUBLE, (count,))
    call.module.assign(
        call.on, x.dtype == _DOUBLE, x.pointer, count, y.pointer, 1, m, k, f.pointer, c.pointer
    )
    return Assignment(found, cost)


def wasserstein2(atoms_a: Any, atoms_b: Any, *, num_threads: int | None = None) -> Any:
    """As `transport.wasserstein2`."""
    call, a = _atoms(atoms_a, "atoms_a")
    b = call.array(atoms_b, "atoms_b", (a.dtype,), ("N'", *a.shape[1:]), " as atoms_a are")
    threads(num_threads)
    result, out = call.empty(_DOUBLE, (a.shape[0], b.shape[0]))
    call.module.assign(
        call.on, a.dtype == _DOUBLE, a.pointer, a.shape[0], b.pointer, b.shape[0], *a.shape[1:], 0,
        out.pointer,
    )  # fmt: skip
    return result


def transport_update(
    atoms: Any,
    support: Any,
    match: Any,
    *,
    drift: float = 1.0,
    diffusion: float = 1.2**0.5,
    dt: float = 0.1,
    seed: int = 0,
    step: int = 0,
    first_particle: int = 0,
    out: Any = None,
    num_threads: int | None = None,
) -> Any:
    """As `transport.transport_update`."""
    call, x = _atoms(atoms, "atoms")
    count, m, k = x.shape
    y = call.array(support, "support", (x.dtype,), (m, k), AS_ATOMS)
    partners = call.integers(match, "match", (count, m))
    scalars = real(drift, "drift"), real(diffusion, "diffusion", 0.0), real(dt, "dt", 0.0)
    words = check_seed(seed), counter(step, "step"), check_first_particle(first_particle, count)
    threads(num_threads)
    if out is None:
        result, target = call.empty(x.dtype, x.shape)
    else:
        result, target = out, call.output(out, x.dtype, x.shape)
    x, y = call.apart(x, "atoms", target), call.apart(y, "support", target)
    call.module.transport_update(
        call.on, x.dtype == _DOUBLE, x.pointer, y.pointer, partners.pointer, target.pointer, *x.shape,
        *scalars, *words,
    )  # fmt: skip
    return result


def _atoms(value: Any, name: str) -> tuple[Call, DeviceArray]:
    call = Call(value, name)
    return call, call.array(value, name, FLOATS, ("N", "M", "K"))
