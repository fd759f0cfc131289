"""Kinetic Langevin dynamics of a network's neurons, the second-order mean-field training
[Krichene, Caluya, Halder 2020], by the BAOAB splitting [Leimkuhler, Matthews 2013].

    d theta = r dt,   dr = -M grad R dt - friction r dt + sqrt(2 friction temperature) dB

    B  r <- r - dt/2 M grad R(theta)      A  theta <- theta + dt/2 r
    O  r <- exp(-friction dt) r + sqrt(temperature (1 - exp(-2 friction dt))) xi

A step is B A O A B. The factor M undoes the 1/M of the mean-field scaling: the force on a neuron does not
shrink with the width.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arrays import AS_THETA, call_of
from ._checks import FLOATS, counter, real
from ._checks import seed as check_seed
from ._kinds import Loss, check_slopes, check_smooth, loss_of
from .network import TwoLayer, check_network
from .risk import _targets as targets


def langevin_step(
    net: TwoLayer,
    theta: Any,
    velocity: Any,
    x: Any,
    y: Any,
    *,
    loss: Loss = "mse",
    friction: float = 1.0,
    temperature: float = 0.0,
    dt: float = 0.1,
    seed: int = 0,
    step: int = 0,
    gradient: Any = None,
    precision: str = "float32",
    num_threads: int | None = None,
) -> Any:
    """Move R networks theta [R, D] and their velocities [R, D], both in place, by one step of length dt.

    Returns the risks [R], float64, at the new theta. x [S, d], y and loss are as in `risk`. temperature is
    1/beta, and 0 (default) means no noise; the noise is standard_normal(R, D, seed=seed, step=step,
    dtype=theta.dtype).
    gradient: None, or an array [R, D] that holds the gradient of the risk, without the factor M, at theta for
    these x and y (as `risk_gradient` gives it). It is updated in place, so that the next step need not
    compute it: the results are the same bits, for one gradient a step instead of two.

    TypeError for kinds and dtypes; ValueError for shapes, a network with scaling="none" or output_bias,
    arrays [R, D] that cannot be written or share memory with each other, friction, temperature or dt negative
    or not finite, seed outside [0, 2^64), step outside [0, 2^32), and as in `risk`.
    """
    call = call_of(theta, "theta")
    particles = call.array(theta, "theta", FLOATS, ("R", check_network(net).size))
    width = net._mean_field_width()
    shape, dtype = particles.shape, particles.dtype
    changed = [call.changed(theta, "theta", shape, dtype), call.changed(velocity, "velocity", shape, dtype)]
    changed.append(call.changed_or_new(gradient, "gradient", shape, dtype))
    call.check_distinct(*changed)
    q, r, g = (a.work for a in changed)
    inputs = call.array(x, "x", (q.dtype,), ("S", net.inputs), AS_THETA)
    told = loss_of(loss, net.outputs)
    check_smooth(net.activation)
    check_slopes(told)
    wanted = targets(net, y, "y", (), inputs, told, call)
    scalars = real(friction, "friction", 0.0), real(temperature, "temperature", 0.0), real(dt, "dt", 0.0)
    key = check_seed(seed), 0, counter(step, "step"), 0
    run = call.run(num_threads, precision, q)
    inputs, wanted = call.apart(inputs, q, r, g), call.apart(wanted, q, r, g)

    risk, kernels, network = call.empty((len(q),), np.float64), call.kernels, net._kernel
    if gradient is None:
        kernels.risk_gradient(network, q, inputs, wanted, told, risk, g, run)
    kernels.langevin_drift(q, r, g, width, *scalars, key, run)
    kernels.risk_gradient(network, q, inputs, wanted, told, risk, g, run)
    kernels.langevin_kick(r, g, width, scalars[-1], run)
    for a in changed:
        a.finish()
    return call.result(risk)
