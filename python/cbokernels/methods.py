"""Methods of training and minimisation: frozen parameters, and the object that carries out their steps.

A method joins the training loop with a frozen dataclass derived from `Method` and a `Stepper` of its own;
the loop knows neither's particulars.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import numpy as np

from . import _cpu
from ._arrays import Array
from ._checks import WORD, choice, integer, positive, real
from .network import TwoLayer
from .schedules import Constant, Parameter, TargetEss, Tenfold, describe, evaluate, parameter
from .update import NOISES

_SUBSETS = 3  # stream of the random numbers that choose particle batches
_SINE_ALPHA = Tenfold(1e5, every=100, cap=1e7)
_nonnegative = functools.partial(real, low=0.0)
_weighting = functools.partial(real, low=0.0, infinite=True)


class Batch(Protocol):
    """What the particles are scored on in one step: a minibatch of a training run, or a function."""

    def risk(self, theta: Array, out: Array) -> None:
        """Risks of theta [n, D] into out [n, tasks], float64."""


class Stepper(Protocol):
    """A method at work on one ensemble; the loop calls `begin` once an epoch and `step` once a batch.

    particles [N, D] and point ([D], or [T, D] for T tasks) keep their memory over the run; alpha and ess
    are those of the last step.
    """

    particles: Array
    point: Array
    alpha: float
    ess: Any

    def begin(self, values: dict[str, float]) -> None:
        """Take this epoch's values of the method's float parameters."""

    def step(self, batch: Batch, step: int) -> int:
        """Do step number `step` of the run, counted from 0; return the number of non-finite risks met."""

    def state_dict(self) -> dict[str, Array]:
        """What a later step depends on besides particles and point."""

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Take what `state_dict` gave."""


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """Base of the methods. `_parameters` names the float parameters and the check each value passes."""

    _parameters: ClassVar[dict[str, Callable[[Any, str], float]]] = {}

    def _check_parameters(self) -> None:
        for name, check in self._parameters.items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, parameter(getattr(self, name), name, check))

    def _values(self, epoch: int, epochs: int) -> dict[str, float]:
        """The float parameters' values in an epoch."""
        parameters = ((name, getattr(self, name), check) for name, check in self._parameters.items())
        return {n: evaluate(p, n, check, epoch, epochs) for n, p, check in parameters if p is not None}

    def _description(self) -> dict[str, str]:
        """Text of every field, by which a checkpoint recognises the method that wrote it."""
        fields = (field.name for field in dataclasses.fields(self) if field.name != "particles")
        return {f"{type(self).__name__}.{name}": describe(getattr(self, name)) for name in fields}

    @abc.abstractmethod
    def _initial(self, net: TwoLayer, seed: int, dtype: np.dtype[Any], threads: int | None) -> Array:
        """Particles to start from where the caller gives none."""

    @abc.abstractmethod
    def _stepper(self, theta: Array, seed: int, threads: int) -> Stepper:
        """The method at work on theta [N, D], which it takes over."""


def check_method(method: Any) -> Method:
    """TypeError unless `method` is one (and not, say, its class)."""
    if not isinstance(method, Method):
        raise TypeError(f"method must be a method such as cbokernels.CBO(), got {method!r:.80}")
    return method


@dataclasses.dataclass(frozen=True)
class CBO(Method):
    """Consensus-based optimization [Pinnau, Totzeck, Tse, Martin 2017;
    De Deyn, Herty, Samaey 2025, eq. 21-22].

        beta_n ∝ exp(-alpha R_n),   v = Σ beta_n theta_n,
        theta_n <- theta_n - drift dt (theta_n - v) + diffusion sqrt(dt) (theta_n - v) ⊙ xi_n

    The defaults are the paper's for its sine example. Every float parameter takes a number, a schedule
    (`Tenfold`, `Geometric`, ...) or any callable of (epoch from 0, epochs).

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

    _parameters: ClassVar[dict[str, Callable[[Any, str], float]]] = {
        "alpha": _weighting,
        "drift": real,
        "diffusion": _nonnegative,
        "dt": _nonnegative,
        "floor": _nonnegative,
        "radius": positive,
    }

    def __post_init__(self) -> None:
        self._check_parameters()
        object.__setattr__(self, "particles", integer(self.particles, "particles", 1, WORD + 1))
        choice(self.noise, "noise", NOISES)
        choice(self.move, "move", ("all", "batch"))
        if self.noise == "truncated" and self.radius is None:
            raise ValueError("radius is required for noise='truncated', got None")
        if self.noise != "truncated" and self.radius is not None:
            raise ValueError(f"radius must be None unless noise is 'truncated', got {self.radius!r}")
        if self.noise != "anisotropic" and self.floor not in (0.0, Constant(0.0)):
            raise ValueError(f"floor must be 0 unless noise is 'anisotropic', got {self.floor!r}")
        if self.particle_batch is not None:
            batch = integer(self.particle_batch, "particle_batch", 1, WORD + 1)
            object.__setattr__(self, "particle_batch", batch)

    def _initial(self, net: TwoLayer, seed: int, dtype: np.dtype[Any], threads: int | None) -> Array:
        return net.uniform(self.particles, -1.0, 1.0, seed=seed, dtype=dtype, num_threads=threads)

    def _stepper(self, theta: Array, seed: int, threads: int) -> Stepper:
        return CBOStepper(self, theta, seed, threads)


class CBOStepper:
    """The steps of `CBO`. Everything they need is checked and allocated here: a step only calls kernels."""

    def __init__(self, method: CBO, theta: Array, seed: int, threads: int) -> None:
        particles, size = theta.shape
        scored = particles if method.particle_batch is None else method.particle_batch
        if scored > particles:
            raise ValueError(f"particle_batch must be at most N = {particles} particles, got {scored}")
        self.particles = theta
        self.alpha = self.ess = math.nan
        self._seed, self._threads = seed, threads
        self._noise = method.noise
        self._solve_alpha = isinstance(method.alpha, TargetEss)
        self._target = math.nan
        self._drift = self._diffusion = self._dt = self._floor = 0.0
        self._radius = 0.0
        self._point = np.zeros((1, size), theta.dtype)
        self.point = self._point[0]
        self._risk, self._weights, self._ess = np.empty((scored, 1)), np.empty((scored, 1)), np.empty(1)
        # A batch of all particles would only copy them.
        self._batch = np.empty(scored, np.int64) if scored < particles else None
        self._scored = theta if self._batch is None else np.empty((scored, size), theta.dtype)
        self._moving = self._batch if method.move == "batch" else None

    def begin(self, values: dict[str, float]) -> None:
        self.alpha = values["alpha"]
        self._target = max(1.0, self.alpha * len(self._risk))
        self._drift, self._diffusion, self._dt = values["drift"], values["diffusion"], values["dt"]
        self._floor = values["floor"]
        self._radius = values.get("radius", 0.0)

    def step(self, batch: Batch, step: int) -> int:
        theta, scored, risk, point = self.particles, self._scored, self._risk, self._point
        if self._batch is not None:
            _cpu.permutation(self._batch, len(theta), self._seed, step, _SUBSETS)
            self._batch.sort()
            theta.take(self._batch, 0, scored, "clip")
        batch.risk(scored, risk)
        if self._solve_alpha:
            self.alpha = _cpu.alpha_for_ess(risk[:, 0], self._target)
        nonfinite = _cpu.consensus(scored, risk, self.alpha, point, self._weights, self._ess, self._threads)
        self.ess = self._ess.item()
        _cpu.cbo_update(
            theta, point, None, self._moving,
            self._drift, self._diffusion, self._dt, self._noise, self._floor, self._radius,
            self._seed, step, 0, theta, self._threads,
        )  # fmt: skip
        return nonfinite

    def state_dict(self) -> dict[str, Array]:
        return {}

    def load_state_dict(self, state: dict[str, Array]) -> None:
        pass


__all__ = ["CBO"]
