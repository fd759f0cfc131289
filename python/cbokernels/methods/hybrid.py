"""Consensus-based optimization mixed with Adam, as a method."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from .. import _cpu
from .._arrays import Array
from .._checks import positive, real
from ..network import TwoLayer
from ..schedules import Parameter
from .adam import DECAYS, descent, moments
from .base import Check, Method, Numbers, Plan, Problem, Setting, Stepper, fraction, nonnegative, weighting
from .consensus import ConsensusStepper, check_noise, consensus_plan


@dataclasses.dataclass(frozen=True)
class Hybrid(Method):
    """Consensus and gradients at once [De Deyn, Herty, Samaey 2025, eq. 25-26].

        theta_n <- theta_n - mix dt s^_n / (sqrt(r^_n) + delta)
                   + (1 - mix) (-drift dt (theta_n - v) + diffusion sqrt(dt) (theta_n - v) ⊙ xi_n)

    v is the consensus point, as in `CBO`; s^, r^ are Adam's moments of each particle's own gradient, taken on
    the same minibatch as the risks. Steps count from 1. The defaults are the paper's for its MNIST example.

    mix: the paper's gamma, in [0, 1]; 1 is Adam with lr = dt, 0 is CBO.
    particles, alpha, drift, diffusion, dt, noise, radius: as in `CBO`; beta1, beta2, delta: as in `Adam`.
    Every float parameter takes a number, a schedule or a callable. Only for `train`.
    """

    particles: int = 1000
    mix: Parameter = 0.7
    alpha: Parameter = 1e4
    drift: Parameter = 1.0
    diffusion: Parameter = 1.2**0.5
    dt: Parameter = 0.1
    noise: str = "anisotropic"
    radius: Parameter | None = None
    beta1: Parameter = 0.9
    beta2: Parameter = 0.999
    delta: Parameter = 1e-8

    _gradients: ClassVar[bool] = True
    _parameters: ClassVar[dict[str, Check]] = {
        "mix": fraction,
        "alpha": weighting,
        "drift": real,
        "diffusion": nonnegative,
        "dt": nonnegative,
        "radius": positive,
        **DECAYS,
    }
    _first_step: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_noise(self.noise, self.radius)

    def _kept(self, net: TwoLayer, particles: int, tasks: int, item: int) -> int:
        gradients_and_moments = 3 * item * particles * net.size
        return super()._kept(net, particles, tasks, item) + gradients_and_moments

    def _stepper(self, theta: Array, setting: Setting) -> Stepper:
        return HybridStepper(self, theta, setting)

    def _on_card(self, theta: Array, setting: Setting) -> Plan:
        def mixed(now: Numbers) -> Numbers:
            mix = now["mix"]
            weighted = {"drift": (1 - mix) * now["drift"], "diffusion": (1 - mix) * now["diffusion"]}
            return {n: v for n, v in {**now, **weighted, "lr": mix * now["dt"]}.items() if n != "mix"}

        state = moments(theta)
        scored = setting.ranks.all_of(len(theta))
        return consensus_plan("hybrid", self.alpha, scored, mixed, noise=self.noise, state=state)


class HybridStepper(ConsensusStepper):
    """The steps of `Hybrid`."""

    _shared: ClassVar[dict[str, int]] = {"first": 0, "second": 0}

    def __init__(self, method: Hybrid, theta: Array, setting: Setting) -> None:
        super().__init__(theta, setting, method.alpha, setting.ranks.all_of(len(theta)))
        self._noise = method.noise
        self._gradient = np.empty_like(theta)
        self._state.update(first=np.zeros_like(theta), second=np.zeros_like(theta))

    def epoch(self, problem: Problem, epoch: int, step: int) -> int:
        now, state, data = self._now, self._state, problem.minibatches(epoch)
        if data is None or not self._ranks.alone:
            return super().epoch(problem, epoch, step)
        nonfinite = _cpu.hybrid_epoch(
            *data, self.particles, self._gradient, state["first"], state["second"],
            self._law(now, 1 - now["mix"]), descent(now, now["mix"] * now["dt"], step), self._key(step),
            self._risk, self._found(), self._decay, self._threads,
        )  # fmt: skip
        self._note()
        return nonfinite

    def step(self, batch: Any, step: int) -> int:
        # The step of `hybrid_epoch`, where ranks share the particles or the data.
        now, state, mix = self._now, self._state, self._now["mix"]
        batch.gradient(self.particles, self._risk[:, 0], self._gradient)
        nonfinite = self._gather(self.particles)
        self._shrink(self.particles)
        _cpu.hybrid_update(
            self.particles, self._points, None, self._gradient, state["first"], state["second"],
            self._law(now, 1 - mix), descent(now, mix * now["dt"], step), self._key(step), self.particles,
            self._threads,
        )  # fmt: skip
        return nonfinite
