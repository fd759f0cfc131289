"""Risks of a network with one neuron replaced, which the scope "atom" of `ConsensusHopping` weighs."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._kinds import Loss
from ._own_losses import Called, called_atom_risks
from .methods.hopping import ConsensusHopping
from .network import TwoLayer
from .risk import _ensemble, _of_tasks, _targets, _told, _weighted


def atom_risks(
    net: TwoLayer,
    center: Any,
    theta: Any,
    x: Any,
    y: Any,
    *,
    loss: Loss = "mse",
    sample_weight: Any = None,
    precision: str = "float32",
    num_threads: int | None = None,
) -> Any:
    """Risks [N, M], float64: of center [D] with only neuron m taken from theta[n], theta [N, D].

    One first layer per particle gives its M risks. x [S, d], y, loss and sample_weight as in `risk`; center,
    theta and x share one dtype. The output bias, where there is one, is the centre's.

    TypeError for kinds and dtypes, ValueError for shapes, labels, unknown names, a precision other than
    "float32" and num_threads below 1.
    """
    call, particles, inputs = _ensemble(net, theta, x)
    start = call.array(center, "center", (particles.dtype,), (net.size,))
    told = _told(net, loss, y, "y", call, sample_weight)
    targets = _weighted(_targets(net, y, "y", (), inputs, told, call), sample_weight, inputs, call)
    run = call.run(num_threads, precision, particles)
    if precision != "float32":
        raise ValueError(f"precision must be 'float32' for atom_risks, got {precision!r}")
    out = call.empty((len(particles), net.width), np.float64)
    if isinstance(told, Called):
        (wanted,) = _of_tasks(targets.reshape(1, *targets.shape), told, net)
        called_atom_risks(told, net, start, particles, inputs, wanted, out, run)
        return call.result(out)
    call.kernels.atom_risks(net._kernel, start, particles, inputs, targets, told, out, run)
    return call.result(out)


__all__ = ["ConsensusHopping", "atom_risks"]
