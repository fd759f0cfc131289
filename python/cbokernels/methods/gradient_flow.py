"""First-order mean-field training as a method [Mei, Montanari, Nguyen 2018]."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from .. import _cpu
from .._arrays import Array
from ..network import TwoLayer
from ..schedules import Parameter
from .base import Check, Method, NetworksStepper, Numbers, Plan, Setting, Stepper, nonnegative


@dataclasses.dataclass(frozen=True)
class GradientFlow(Method):
    """First-order mean-field dynamics of the neurons of R independent networks [Mei, Montanari, Nguyen 2018].

        d theta = -M grad R dt + sqrt(2 temperature) dB

    by the explicit Euler-Maruyama scheme, one step per batch; the normals are
    standard_normal(R, D, seed=seed, step=step, dtype=dtype) with steps counted from 0.

    temperature (0: no noise), dt: finite, not negative, each a number, a schedule or a callable.
    particles: R, at least 1 (networks given to `train` bring their own R).

    A result's parameters and "risk" are network 0's; "risks" [E, R] in the history are all networks', on the
    full data. "alpha" and "ess" are NaN. Only for `train`; ValueError for a network with scaling="none" or
    output_bias.
    """

    temperature: Parameter = 0.0
    dt: Parameter = 0.1
    particles: int = 1

    _gradients: ClassVar[bool] = True
    _parameters: ClassVar[dict[str, Check]] = {"temperature": nonnegative, "dt": nonnegative}
    _consensus: ClassVar[bool] = False

    def _kept(self, net: TwoLayer, particles: int, tasks: int, item: int) -> int:
        return item * (particles + 1) * net.size + 8 * particles

    def _stepper(self, theta: Array, setting: Setting) -> Stepper:
        return GradientFlowStepper(theta, setting)

    def _on_card(self, theta: Array, setting: Setting) -> Plan:
        setting.network._mean_field_width()

        def numbers(now: Numbers) -> Numbers:
            return {"drift": 0.0, "diffusion": math.sqrt(2 * now["temperature"]), "dt": now["dt"]}

        return Plan("gradient_flow", numbers, "additive")


class GradientFlowStepper(NetworksStepper):
    """The steps of `GradientFlow`."""

    def __init__(self, theta: Array, setting: Setting) -> None:
        super().__init__(theta, setting)
        self._width = setting.network._mean_field_width()
        self._origin = np.zeros((1, theta.shape[1]), theta.dtype)

    def step(self, batch: Any, step: int) -> int:
        theta, temperature, dt = self.particles, self._now["temperature"], self._now["dt"]
        batch.gradient(theta, self._risk, self._gradient)
        self._shrink(theta)
        # The half kick of the second-order dynamics, taken twice as large, on theta itself.
        _cpu.langevin_kick(theta, self._gradient, 2 * self._width, dt, self._threads)
        if temperature > 0:
            _cpu.cbo_update(
                theta, self._origin, None, None, (0.0, math.sqrt(2 * temperature), dt, "additive", 0.0, 0.0),
                self._key(step), theta, self._threads,
            )  # fmt: skip
        return self._nonfinite()
