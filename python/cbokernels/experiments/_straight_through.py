"""The straight-through estimator in NumPy, which hopping is held against where there is no gradient.

Forward, the activation jumps and the weights are rounded. Backward, the derivative of a jump is taken for 1
where |z| <= window, else for 0 [Bengio, Leonard, Courville 2013; Hubara et al. 2016], that of rounding for 1.
Adam with decoupled weight decay moves the parameters.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from .. import _cpu
from .._arrays import Array
from ..methods.base import Check, Method, NetworksStepper, Problem, Setting, Stepper, nonnegative
from ..methods.rounding import rounded
from ..network import TwoLayer
from ..schedules import Parameter

JUMPS = {"sign": -1, "step": 0}  # the value below 0; it is 1 from there up


@dataclasses.dataclass(frozen=True)
class StraightThrough(Method):
    """Trains one network by cross entropy, from the start that hopping has.

    weights: what they are rounded to, as those of `ConsensusHopping`; None: they are not. A result's
    `parameters` are rounded.
    """

    lr: Parameter = 0.1
    weights: str | None = None
    window: float = 1.0

    particles: ClassVar[int] = 1
    _parameters: ClassVar[dict[str, Check]] = {"lr": nonnegative}
    _first_step: ClassVar[int] = 1
    _consensus: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        nonnegative(self.window, "window")

    def _stepper(self, theta: Array, setting: Setting) -> Stepper:
        return _Stepper(self, theta, setting)


class _Stepper(NetworksStepper):
    def __init__(self, method: StraightThrough, theta: Array, setting: Setting) -> None:
        super().__init__(theta, setting)
        self._method, self.point = method, self._rounded(method, setting)
        self._state.update(first=np.zeros_like(theta), second=np.zeros_like(theta))

    def report(self, problem: Problem) -> dict[str, Any]:
        return Stepper.report(self, problem)

    def step(self, batch: Any, step: int) -> int:
        net, method, setting = self._setting.network, self._method, self._setting
        self._gradient[0] = gradient(net, self.point, batch.x, batch.y[0], method.window)
        self._shrink(self.particles)
        descent = self._now["lr"], 0.9, 0.999, 1e-8, step
        _cpu.adam_update(
            self.particles, self._gradient, self._state["first"], self._state["second"], descent, None,
            self.particles, self._threads,
        )  # fmt: skip
        self.point[:] = self._rounded(method, setting)
        return 0

    def _rounded(self, method: StraightThrough, setting: Setting) -> Array:
        theta = self.particles[0]
        return theta.copy() if method.weights is None else rounded(setting.network, theta, method.weights)


def gradient(net: TwoLayer, theta: Array, x: Array, labels: Array, window: float) -> Array:
    """The made-up one [D] of the mean cross entropy, at a theta that is rounded already."""
    w, b, c, _ = net.unpack(theta)
    scale = theta.dtype.type(1 / net.width if net.scaling == "mean" else 1)
    z = x @ w.T + b
    if net.activation in JUMPS:
        hidden, slope = (
            np.where(z < 0, z.dtype.type(JUMPS[net.activation]), z.dtype.type(1)),
            np.abs(z) <= window,
        )
    else:
        assert net.activation == "relu"
        hidden, slope = np.maximum(z, 0), z > 0
    outputs = scale * hidden @ c.T
    e = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    e /= e.sum(axis=1, keepdims=True)
    e[np.arange(len(x)), labels] -= 1
    e *= scale / len(x)
    delta = (e @ c) * slope
    packed: Array = net.pack(delta.T @ x, delta.sum(0), e.T @ hidden)
    return packed
