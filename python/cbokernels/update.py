"""One step of consensus-based optimization, of Adam, or of both at once.

    theta_n <- theta_n - drift dt (theta_n - v) + noise

    anisotropic   diffusion sqrt(dt) (theta_n - v) * xi; with a floor s > 0:
                  sqrt(diffusion^2 (theta_n - v)^2 + s^2) sqrt(dt) * xi
    isotropic     diffusion sqrt(dt) |theta_n - v| xi
    truncated     diffusion sqrt(dt) min(|theta_n - v|, radius) xi
    additive      diffusion sqrt(dt) xi
    none

[Pinnau, Totzeck, Tse, Martin 2017; Carrillo, Jin, Li, Zhu 2021; De Deyn, Herty, Samaey 2025, eq. 22]

Adam [Kingma, Ba 2015], per coordinate, d the gradient and s, r the moments:

    s <- beta1 s + (1 - beta1) d,   r <- beta2 r + (1 - beta2) d^2,
    theta <- theta - lr s^/(sqrt(r^) + delta),   s^ = s/(1 - beta1^step), r^ = r/(1 - beta2^step)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arrays import AS_THETA, Call, Changed, Values, call_of, check_array
from ._checks import FLOATS, WORD, choice, counter, integer, positive, real, unit
from ._checks import first_particle as check_first_particle
from ._checks import seed as check_seed
from ._kinds import NOISES


def cbo_update(
    theta: Any,
    point: Any,
    *,
    drift: float = 1.0,
    diffusion: float = 1.6**0.5,
    dt: float = 0.1,
    noise: str = "anisotropic",
    floor: float = 0.0,
    seed: int = 0,
    step: int = 0,
    task: Any = None,
    radius: float | None = None,
    first_particle: int = 0,
    out: Any = None,
    num_threads: int | None = None,
) -> Any:
    """Particles [N, D] after one step from theta [N, D] towards point [D], or point [T, D] by task [N].

    theta float32 or float64, point of its dtype; task, integers in [0, T), names each particle's point.
    drift is lambda, diffusion sigma (the papers quote sigma^2), dt the time step. The normals are exactly
    standard_normal(N, D, seed=seed, step=step, first_particle=first_particle, dtype=theta.dtype): count step
    up in a loop, else each turn has the same noise.
    Anisotropic noise without floor is fma(sigma sqrt(dt) xi - lambda dt, theta - v, theta), rounded once.
    floor adds variance to anisotropic noise; radius bounds truncated noise, which requires it.
    out: an array of theta's shape and dtype, theta itself included; it is returned. Where a signal's handler
    ends the call (Ctrl-C), what it holds is undefined.

    TypeError for kinds and dtypes; ValueError for shapes, unknown noise, drift not finite, diffusion, dt or
    floor negative or not finite, a floor without anisotropic noise, a radius not above 0 or without truncated
    noise, a task without point [T, D] or the reverse, seed outside [0, 2^64), step outside [0, 2^32),
    first_particle + N above 2^32, and num_threads below 1.
    """
    call, particles = _particles(theta)
    points, tasks = _points(call, point, task, particles)
    scalars = real(drift, "drift"), real(diffusion, "diffusion", 0.0), real(dt, "dt", 0.0)
    law = (*scalars, *_noise(noise, floor, radius))
    key = check_seed(seed), 0, counter(step, "step"), check_first_particle(first_particle, len(particles))
    run = call.run(num_threads)
    if out is None:
        target = call.empty(particles.shape, particles.dtype)
        call.kernels.cbo_update(particles, points, tasks, None, law, key, target, run)
        return call.result(target)
    changed = call.changed(out, "out", particles.shape, particles.dtype)
    particles, points = call.apart_or_same(particles, changed.work), call.apart(points, changed.work)
    tasks = None if tasks is None else call.apart(tasks, changed.work)
    call.kernels.cbo_update(particles, points, tasks, None, law, key, changed.work, run)
    changed.finish()
    return out


def adam_update(
    theta: Any,
    gradient: Any,
    first: Any,
    second: Any,
    *,
    step: int = 1,
    lr: Any = 0.1,
    beta1: float = 0.9,
    beta2: float = 0.999,
    delta: float = 1e-8,
    out: Any = None,
    num_threads: int | None = None,
) -> Any:
    """Particles [N, D] after one step of Adam from theta [N, D] along gradient [N, D] [Kingma, Ba 2015].

    lr: a number, or an array [N], float64, of each particle's own (on a card its values are not checked).

    All float32 or all float64. The moments first and second [N, D], zero before the first step, are updated
    in place. step counts from 1. Note sqrt(r^) + delta, not sqrt(r^ + delta).
    out: an array of theta's shape and dtype, theta itself included; it is returned. Where a signal's handler
    ends the call (Ctrl-C), what it holds is undefined.

    TypeError for kinds and dtypes; ValueError for shapes, moments that cannot be written or share memory with
    each other or with out, step outside [1, 2^32), lr or delta negative or not finite, beta1 or beta2 outside
    [0, 1), and num_threads below 1.
    """
    call, particles = _particles(theta)
    gradients, changed = _descent(call, particles, gradient, first, second, out)
    step, decays = _decays(step, beta1, beta2, delta)
    rates = None
    if hasattr(lr, "__dlpack__") or hasattr(lr, "__cuda_array_interface__"):
        rates = call.array(lr, "lr", (np.dtype(np.float64),), (len(particles),))
        for n, rate in enumerate([] if call.on_device else call.host(rates)):
            real(float(rate), f"lr[{n}]", 0.0)
    descent, run = (real(lr, "lr", 0.0) if rates is None else 0.0, *decays, step), call.run(num_threads)
    s, r, target = (a.work for a in changed)
    particles, gradients = (call.apart_or_same(call.apart(a, s, r), target) for a in (particles, gradients))
    rates = None if rates is None else call.apart(rates, s, r, target)
    call.kernels.adam_update(particles, gradients, s, r, descent, rates, target, run)
    for a in changed:
        a.finish()
    return call.result(target) if out is None else out


def hybrid_update(
    theta: Any,
    point: Any,
    gradient: Any,
    first: Any,
    second: Any,
    *,
    mix: float = 0.7,
    drift: float = 1.0,
    diffusion: float = 1.2**0.5,
    dt: float = 0.1,
    noise: str = "anisotropic",
    seed: int = 0,
    step: int = 1,
    beta1: float = 0.9,
    beta2: float = 0.999,
    delta: float = 1e-8,
    task: Any = None,
    radius: float | None = None,
    first_particle: int = 0,
    out: Any = None,
    num_threads: int | None = None,
) -> Any:
    """Particles [N, D] after one step that mixes Adam with consensus.

        theta_n <- theta_n - mix dt s^_n/(sqrt(r^_n) + delta) + (1 - mix) (-drift dt (theta_n - v) + noise)

    mix is the paper's gamma, in [0, 1]: 1 is `adam_update` with lr = dt, 0 is `cbo_update`. step counts from
    1, for Adam's bias correction and for the noise. gradient, first, second, beta1, beta2, delta and out are
    as in `adam_update`; point, drift, diffusion, dt, noise, seed, task, radius and first_particle as in
    `cbo_update` [De Deyn, Herty, Samaey 2025, eq. 25-26].

    TypeError and ValueError as there; ValueError for mix outside [0, 1].
    """
    call, particles = _particles(theta)
    points, tasks = _points(call, point, task, particles)
    gradients, changed = _descent(call, particles, gradient, first, second, out)
    drift, diffusion, dt = real(drift, "drift"), real(diffusion, "diffusion", 0.0), real(dt, "dt", 0.0)
    mix = unit(mix, "mix", closed=True)
    law = ((1 - mix) * drift, (1 - mix) * diffusion, dt, *_noise(noise, 0.0, radius))
    step, decays = _decays(step, beta1, beta2, delta)
    key = check_seed(seed), 0, step, check_first_particle(first_particle, len(particles))
    run = call.run(num_threads)
    s, r, target = (a.work for a in changed)
    particles, gradients = (call.apart_or_same(call.apart(a, s, r), target) for a in (particles, gradients))
    points = call.apart(points, s, r, target)
    tasks = None if tasks is None else call.apart(tasks, s, r, target)
    descent = mix * dt, *decays, step
    call.kernels.hybrid_update(particles, points, tasks, gradients, s, r, law, descent, key, target, run)
    for a in changed:
        a.finish()
    return call.result(target) if out is None else out


def _particles(theta: Any) -> tuple[Call, Values]:
    call = call_of(theta, "theta")
    return call, call.array(theta, "theta", FLOATS, ("N", "D"))


def _descent(
    call: Call, theta: Values, gradient: Any, first: Any, second: Any, out: Any
) -> tuple[Values, list[Changed[Values]]]:
    """The gradient, and what Adam's part writes: both moments and `out`, or a new array for it."""
    gradients = call.array(gradient, "gradient", (theta.dtype,), theta.shape, AS_THETA)
    moments = {"first": first, "second": second}
    changed = [call.changed(value, name, theta.shape, theta.dtype) for name, value in moments.items()]
    changed.append(call.changed_or_new(out, "out", theta.shape, theta.dtype))
    call.check_distinct(*changed)
    return gradients, changed


def _decays(step: Any, beta1: Any, beta2: Any, delta: Any) -> tuple[int, tuple[float, float, float]]:
    betas = unit(beta1, "beta1", closed=False), unit(beta2, "beta2", closed=False)
    return integer(step, "step", 1, WORD), (*betas, real(delta, "delta", 0.0))


def _points(call: Call, point: Any, task: Any, theta: Values) -> tuple[Values, Values | None]:
    """Points [T, D] and each particle's row of them; or one point [D] for all, and None."""
    count, size = theta.shape
    points = call.view(point, "point")
    if task is None:
        if points.ndim == 2:
            raise ValueError("task [N] is required for point [T, D], got None")
        check_array(points, "point", (theta.dtype,), (size,), AS_THETA)
        return points, None
    check_array(points, "point", (theta.dtype,), ("T", size), AS_THETA)
    return points, call.integers(task, "task", (count,), len(points), "rows of point")


def _noise(noise: Any, floor: Any, radius: Any) -> tuple[str, float, float]:
    noise = choice(noise, "noise", NOISES)
    floor = real(floor, "floor", 0.0)
    if floor and noise != "anisotropic":
        raise ValueError(f"floor must be 0 for noise={noise!r} (anisotropic noise has one), got {floor!r}")
    if noise == "truncated":
        if radius is None:
            raise ValueError("radius is required for noise='truncated', got None")
        return noise, floor, positive(radius, "radius")
    if radius is not None:
        raise ValueError(f"radius must be None for noise={noise!r} (truncated noise has one), got {radius!r}")
    return noise, floor, 0.0
