"""Counter-based random numbers: Philox4x32-10 [Salmon et al. 2011] and Box-Muller normals.

A number depends on (seed, stream, step, particle, coordinate) alone: not on the number of threads, the
instruction set or how many others are drawn. Counter words: stream, step, particle, block of four
coordinates; key: the seed's low and high 32 bits. Streams: 0 update noise, 1 initialisation,
2 minibatch order, 3 particle subsets, 4 and 5 signs and directions of hopping's noise of low rank.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _cpu
from ._arrays import Array, contiguous, like, view
from ._checks import WORD, counter, float_dtype, integer, new_array, threads
from ._checks import first_particle as check_first_particle
from ._checks import seed as check_seed


def philox4x32(counter: Any, key: Any) -> Any:
    """Philox4x32-10 of uint32 counters [..., 4] under uint32 keys [..., 2], leading axes broadcast; [..., 4].

    TypeError unless both are uint32 arrays, ValueError for other shapes.
    """
    arrays = []
    for name, value, words in (("counter", counter, 4), ("key", key, 2)):
        a = view(value, name)
        if a.dtype != np.uint32:
            raise TypeError(f"{name} must be uint32, got {a.dtype}")
        if a.ndim == 0 or a.shape[-1] != words:
            raise ValueError(f"{name} must have shape [..., {words}], got {list(a.shape)}")
        arrays.append(a)
    try:
        lead = np.broadcast_shapes(arrays[0].shape[:-1], arrays[1].shape[:-1])
    except ValueError:
        raise ValueError(
            f"key must have the leading axes of counter {list(arrays[0].shape[:-1])} or broadcast to them, "
            f"got {list(arrays[1].shape[:-1])}"
        ) from None
    counters, keys = (contiguous(np.broadcast_to(a, (*lead, a.shape[-1]))) for a in arrays)
    out = new_array((*lead, 4), np.uint32, "out")
    _cpu.philox4x32(counters.reshape(-1, 4), keys.reshape(-1, 2), out.reshape(-1, 4))
    return like(counter, out)


def standard_normal(
    particles: int,
    size: int,
    *,
    seed: int,
    step: int = 0,
    stream: int = 0,
    first_particle: int = 0,
    dtype: Any = "float32",
    num_threads: int | None = None,
) -> Array:
    """Standard normals [particles, size], float32 (default) or float64, by Box-Muller from Philox words.

    Row p belongs to particle first_particle + p; its values do not depend on `size`. Of a block's words w,
    u = (w + 1/2) 2^-32 and z0, z1 = sqrt(-2 ln u0) (cos, sin)(2 pi u1), z2, z3 likewise from u2, u3.

    ValueError for particles or size below 1, seed outside [0, 2^64) and counters outside [0, 2^32);
    TypeError for anything but integers and for other dtypes.
    """
    particles = integer(particles, "particles", 1, WORD + 1)
    size = integer(size, "size", 1, 4 * WORD + 1)
    first = check_first_particle(first_particle, particles)
    key = check_seed(seed), counter(stream, "stream"), counter(step, "step"), first
    workers = threads(num_threads)
    out: Array = new_array((particles, size), float_dtype(dtype), "out")
    _cpu.standard_normal(out, key, workers)
    return out
