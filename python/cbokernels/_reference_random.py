"""The random numbers in plain NumPy: Philox, normals, permutations."""

from __future__ import annotations

from typing import Any

import numpy as np

_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox4x32(counter: Any, key: Any) -> Any:
    """Ten rounds of Philox4x32 on uint32 counter [..., 4] and key [..., 2]."""
    c0, c1, c2, c3 = (np.asarray(counter)[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = (np.asarray(key)[..., i].astype(np.uint64) for i in range(2))
    for _ in range(10):
        p: Any = np.uint64(0xD2511F53) * c0
        q: Any = np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (q >> _HALF) ^ c1 ^ k0, q & _LOW, (p >> _HALF) ^ c3 ^ k1, p & _LOW
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & _LOW, (k1 + np.uint64(0xBB67AE85)) & _LOW
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def words(particles: int, size: int, *, seed: int, step: int, stream: int, first_particle: int = 0) -> Any:
    """Philox words [particles, size rounded up to whole blocks of four]."""
    blocks = -(-size // 4)
    counter = np.empty((particles, blocks, 4), np.uint32)
    counter[..., 0], counter[..., 1] = stream, step
    counter[..., 2] = np.arange(first_particle, first_particle + particles)[:, None]
    counter[..., 3] = np.arange(blocks)
    key = np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32)
    return philox4x32(counter, key).reshape(particles, 4 * blocks)


def standard_normal(
    particles: int,
    size: int,
    *,
    seed: int,
    step: int = 0,
    stream: int = 0,
    first_particle: int = 0,
    dtype: Any = "float64",
) -> Any:
    """Normals [particles, size] by Box-Muller from uniforms (w + 1/2) 2^-32."""
    w = words(particles, size, seed=seed, step=step, stream=stream, first_particle=first_particle)
    u = (w.reshape(particles, -1, 2) + 0.5) * 2.0**-32
    radius, angle = np.sqrt(-2 * np.log(u[..., 0])), 2 * np.pi * u[..., 1]
    z = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return z.reshape(particles, -1)[:, :size].astype(dtype)


def permutation(n: int, *, seed: int, step: int = 0, stream: int = 2, size: int | None = None) -> Any:
    """First `size` entries (default: all) of a permutation of range(n): Fisher-Yates on 64-bit words."""
    size = n if size is None else size
    w = words(1, 2 * size, seed=seed, step=step, stream=stream)[0].astype(object)
    a = np.arange(n)
    for i in range(size):
        j = i + int((w[2 * i] + (w[2 * i + 1] << 32)) * (n - i) >> 64)
        a[i], a[j] = a[j], a[i]
    return a[:size]
