"""Consensus-based optimization as a method: its parameters and its steps."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from .. import _cpu
from .._arrays import Array
from .._checks import choice, positive, real
from ..network import TwoLayer
from ..schedules import Constant, Parameter, Tenfold
from .base import Check, Method, Plan, Problem, Setting, Stepper, nonnegative, weighting
from .consensus import ConsensusStepper, check_noise, consensus_plan

_SUBSETS = 3  # stream of the random numbers that choose particle batches
_SINE_ALPHA = Tenfold(1e5, every=100, cap=1e7)


@dataclasses.dataclass(frozen=True)
class CBO(Method):
    """Consensus-based optimization [Pinnau, Totzeck, Tse, Martin 2017;
    De Deyn, Herty, Samaey 2025, eq. 21-22].

        beta_n ∝ exp(-alpha R_n),   v = Σ beta_n theta_n,
        theta_n <- theta_n - drift dt (theta_n - v) + diffusion sqrt(dt) (theta_n - v) ⊙ xi_n

    The defaults are the paper's for its sine example, and freeze: in many dimensions the ensemble contracts
    to a point before it has found a minimum. What does not, with alpha=inf: for networks a floor, such as
    Exponential(0.1, 0.001); for functions diffusion=10**0.5, which `minimize` takes by itself. Every float
    parameter takes a number, a schedule (`Tenfold`, `Geometric`, ...) or any callable of (epoch from 0,
    epochs).

    particles: N, at least 1 (an ensemble given to `train` or `minimize` brings its own N).
    alpha: in [0, inf], or `TargetEss`; infinity takes the best particle, and the mean of exactly equal best.
    drift, diffusion, dt: lambda, sigma (the paper quotes sigma²) and the time step, all finite, the last two
        not negative.
    noise: "anisotropic", "isotropic", "truncated", "additive" or "none", as in `cbo_update`.
    floor: standard deviation per unit time of noise that anisotropic noise never falls below; it keeps an
        ensemble from freezing. 0 in the papers.
    radius: above 0; the distance at which "truncated" noise, and no other, stops growing.
    particle_batch: how many particles, at most N, drawn anew at each step, compute risks and form the
        consensus point [Carrillo, Jin, Li, Zhu 2021]; None: all.
    move: whether "all" particles then move or only those of the "batch".
    friction: None, or gamma >= 0 for the heavy-ball form, particles of mass 1 with velocities that start at 0
        [Grassi, Pareschi 2021, the semi-implicit scheme of their SD-PSO]: with the right side above written
        theta_n + d_n,
            V_n <- (V_n + d_n) / (1 + friction dt),   theta_n <- theta_n + dt V_n
        Around a fixed point this contracts in mean square when diffusion² < 2 friction drift; take a friction
        well above that, or the ensemble flies apart behind its moving point: 4 with a diffusion of 2.5 and
        a dt of 0.5 trains the sine, 1 with the defaults does not.

    TypeError for values of another kind and unknown names, ValueError for values out of range; what a
    callable returns is checked when it is called.
    """

    particles: int = 200
    alpha: Parameter = _SINE_ALPHA
    drift: Parameter = 1.0
    diffusion: Parameter = 1.6**0.5
    dt: Parameter = 0.1
    noise: str = "anisotropic"
    floor: Parameter = 0.0
    radius: Parameter | None = None
    particle_batch: int | None = None
    move: str = "all"
    friction: Parameter | None = None

    _parameters: ClassVar[dict[str, Check]] = {
        "alpha": weighting,
        "drift": real,
        "diffusion": nonnegative,
        "dt": nonnegative,
        "floor": nonnegative,
        "radius": positive,
        "friction": nonnegative,
    }
    _any_function: ClassVar[bool] = True
    _contracts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_noise(self.noise, self.radius)
        choice(self.move, "move", ("all", "batch"))
        if self.noise != "anisotropic" and self.floor not in (0.0, Constant(0.0)):
            raise ValueError(f"floor must be 0 unless noise is 'anisotropic', got {self.floor!r}")
        if self.particle_batch is not None:
            self._check_count("particle_batch")

    @property
    def _needs_spread(self) -> bool:
        return self.noise != "additive" and self.floor in (0.0, Constant(0.0))

    def _scored(self, particles: int) -> int:
        """How many of N particles compute risks in a step."""
        scored = particles if self.particle_batch is None else self.particle_batch
        if scored > particles:
            raise ValueError(f"particle_batch must be at most N = {particles} particles, got {scored}")
        return scored

    def _evaluated(self, rows: int) -> int:
        return self._scored(rows)

    def _kept(self, net: TwoLayer, particles: int, tasks: int, item: int) -> int:
        scored = self._scored(particles)
        batch = scored if scored < particles else 0
        flying = 0 if self.friction is None else 2 * particles  # velocities, and where the update goes
        return super()._kept(net, scored, tasks, item) + item * net.size * (batch + flying)

    def _stepper(self, theta: Array, setting: Setting) -> Stepper:
        return CBOStepper(self, theta, setting)

    def _on_card(self, theta: Array, setting: Setting) -> Plan:
        ranks, particles = setting.ranks, setting.ranks.all_of(len(theta))
        scored, flies = self._scored(particles), self.friction is not None
        subset = min(scored, len(theta)) if scored < particles else 0

        def subsets(first: int, steps: int) -> Array | None:
            if not subset:
                return None
            drawn, rows = np.full((steps, subset), -1), np.empty(scored, np.int64)
            for step, own in enumerate(drawn, first):
                _draw_subset(rows, particles, setting.seed, step)
                mine = ranks.own(rows)
                own[: len(mine)] = mine
            return drawn

        state = {"velocity": (theta.shape, theta.dtype)} if flies else {}
        more = {"subset": subset, "subset_moves": subset > 0 and self.move == "batch", "flies": flies}
        return consensus_plan(
            "cbo", self.alpha, scored, noise=self.noise, state=state, more=more, subsets=subsets
        )


def _draw_subset(out: Array, particles: int, seed: int, step: int) -> None:
    """Some of N particles, in ascending order, into `out`, int64."""
    _cpu.permutation(out, particles, seed, step, _SUBSETS)
    out.sort()


class CBOStepper(ConsensusStepper):
    """The steps of `CBO`."""

    _shared: ClassVar[dict[str, int]] = {"velocity": 0}

    def __init__(self, method: CBO, theta: Array, setting: Setting, task: Array | None = None) -> None:
        particles, size = setting.ranks.all_of(len(theta)), theta.shape[1]
        scored = method._scored(particles)
        super().__init__(theta, setting, method.alpha, scored)
        self._noise, self._task, self._total = method.noise, task, particles
        # A batch of all particles would only copy them.
        self._batch = np.empty(scored, np.int64) if scored < particles else None
        self._scored = theta if self._batch is None else np.empty((len(self._risk), size), theta.dtype)
        self._batch_moves = method.move == "batch"
        self._moving: Array | None = None
        self._moved = theta  # where the update writes
        if method.friction is not None:
            self._moved = np.zeros_like(theta)
            self._state["velocity"] = np.zeros_like(theta)

    def epoch(self, problem: Problem, epoch: int, step: int) -> int:
        whole = self._ranks.alone and self._batch is None and "friction" not in self._now
        data = problem.minibatches(epoch) if whole else None
        if data is None:
            return super().epoch(problem, epoch, step)
        nonfinite = _cpu.cbo_epoch(
            *data, self.particles, self._task, self._law(self._now), self._key(step), self._risk,
            self._found(), self._decay, self._threads,
        )  # fmt: skip
        self._note()
        return nonfinite

    def step(self, batch: Any, step: int) -> int:
        # The step of `cbo_epoch` too, which has none for functions, for tasks with inputs of their own, for
        # batches of particles, for friction and for several ranks.
        own, scored = None, self._scored
        if self._batch is not None:
            _draw_subset(self._batch, self._total, self._seed, step)
            own = self._ranks.own(self._batch)
            scored = scored[: len(own)]
            self.particles.take(own, 0, scored, "clip")
            self._moving = own if self._batch_moves else None
        if len(scored):
            batch.risk(scored, self._risk[: len(scored)])
        nonfinite = self._gather(scored, own)
        now = self._now
        if self._decay and self._moving is not None:
            self.particles[self._moving] *= 1 - self._decay
        else:
            self._shrink(self.particles)
        _cpu.cbo_update(
            self.particles, self._points, self._task, self._moving, self._law(now), self._key(step),
            self._moved, self._threads,
        )  # fmt: skip
        if "friction" in now:
            self._fly(now["friction"], now["dt"])
        return nonfinite

    def _fly(self, friction: float, dt: float) -> None:
        """The heavy-ball form, from the step that the update would have made."""
        theta, velocity, step = self.particles, self._state["velocity"], self._moved
        rows = slice(None) if self._moving is None else self._moving
        with np.errstate(over="ignore", invalid="ignore"):  # the loop warns of an ensemble that overflows
            step -= theta
            velocity[rows] += step[rows]
            velocity[rows] /= 1 + friction * dt
            np.multiply(velocity, dt, out=step)
            theta[rows] += step[rows]
