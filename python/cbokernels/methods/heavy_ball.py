"""Second-order mean-field training as a method [Krichene, Caluya, Halder 2020]."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from .. import _cpu
from .._arrays import Array
from ..network import TwoLayer
from ..schedules import Parameter
from .base import Check, Method, NetworksStepper, Plan, Problem, Setting, Stepper, nonnegative


@dataclasses.dataclass(frozen=True)
class HeavyBall(Method):
    """Kinetic Langevin dynamics of the neurons of R independent networks [Krichene, Caluya, Halder 2020].

        d theta = r dt,   dr = -M grad R dt - friction r dt + sqrt(2 friction temperature) dB

    by the BAOAB splitting of `langevin_step`, one step per batch, velocities 0 at first. A step costs one
    gradient: that at its end, on its own batch, also opens the next step, so that on minibatches the two
    half kicks of a step come from consecutive batches.

    friction: gamma. temperature: 1/beta, 0 for no noise. dt: the time step. All finite, not negative, and
        each a number, a schedule or a callable.
    particles: R, at least 1 (networks given to `train` bring their own R).

    A result's parameters and "risk" are network 0's, and so are the further columns of the history
        "kinetic"     K = (1/2M) Σ|r|²
        "energy"      R + K, on the full data, which never increases for temperature 0 and a small dt
        "dissipated"  ∫ (friction/M) Σ|r|² dt since the start, by the trapezoidal rule; with temperature 0 the
                      energy lost, up to the error of the scheme
    "risks" and "energies" [E, R] are all networks'; "alpha" and "ess" are NaN. Only for `train`; ValueError
    for a network with scaling="none" or output_bias.
    """

    friction: Parameter = 0.2
    temperature: Parameter = 0.0
    dt: Parameter = 0.1
    particles: int = 1

    _gradients: ClassVar[bool] = True
    _parameters: ClassVar[dict[str, Check]] = {
        "friction": nonnegative,
        "temperature": nonnegative,
        "dt": nonnegative,
    }
    _consensus: ClassVar[bool] = False

    def _kept(self, net: TwoLayer, particles: int, tasks: int, item: int) -> int:
        # gradients, velocities and, float64, their squares; risks and two energies
        return (2 * item + 8) * particles * net.size + 24 * particles

    def _row(self, particles: int) -> int:
        return 16 * particles

    def _stepper(self, theta: Array, setting: Setting) -> Stepper:
        return HeavyBallStepper(theta, setting)

    def _on_card(self, theta: Array, setting: Setting) -> Plan:
        setting.network._mean_field_width()
        like = (theta.shape, theta.dtype)
        state = {"velocity": like, "gradient": like, "motion": ((2, len(theta)), np.float64)}
        return Plan(
            "heavy_ball", state=state, axes={"motion": 1},
            columns=lambda risks, n: _columns(risks, *np.split(np.array(n), 2)),
        )  # fmt: skip


def _columns(risks: Array, kinetic: Array, dissipated: Array) -> dict[str, Any]:
    """The history's columns that only this method has."""
    energies = risks + kinetic
    first = {"kinetic": kinetic[0], "energy": energies[0], "dissipated": dissipated[0]}
    return {**first, "energies": energies}


class HeavyBallStepper(NetworksStepper):
    """The steps of `HeavyBall`."""

    _shared: ClassVar[dict[str, int]] = dict.fromkeys(("velocity", "gradient", "kinetic", "dissipated"), 0)

    def __init__(self, theta: Array, setting: Setting) -> None:
        super().__init__(theta, setting)
        self._width = setting.network._mean_field_width()
        self._velocity = np.zeros_like(theta)
        self._kinetic, self._dissipated = np.zeros(len(theta)), np.zeros(len(theta))
        self._squares = np.empty(theta.shape)
        self._state.update(
            velocity=self._velocity,
            gradient=self._gradient,
            kinetic=self._kinetic,
            dissipated=self._dissipated,
        )

    def step(self, batch: Any, step: int) -> int:
        theta, velocity, gradient, now = self.particles, self._velocity, self._gradient, self._now
        friction, dt = now["friction"], now["dt"]
        if step == 0:
            batch.gradient(theta, self._risk, gradient)
        self._shrink(theta)
        _cpu.langevin_drift(
            theta, velocity, gradient, self._width, friction, now["temperature"], dt, self._key(step),
            self._threads,
        )  # fmt: skip
        batch.gradient(theta, self._risk, gradient)
        _cpu.langevin_kick(velocity, gradient, self._width, dt, self._threads)
        with np.errstate(over="ignore", invalid="ignore"):  # the loop warns of networks that overflow
            np.multiply(velocity, velocity, out=self._squares, dtype=np.float64)
            kinetic = self._squares.sum(axis=1) / (2 * self._width)
            self._dissipated += friction * dt * (self._kinetic + kinetic)
        self._kinetic[:] = kinetic
        return self._nonfinite()

    def report(self, problem: Problem) -> dict[str, Any]:
        columns, gather = super().report(problem), self._ranks.gather
        return {**columns, **_columns(columns["risks"], gather(self._kinetic), gather(self._dissipated))}
