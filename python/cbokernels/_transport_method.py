"""Optimal-transport consensus-based optimization as a method: networks as measures over their neurons."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from . import _cpu
from ._arrays import Array
from ._checks import integer, real
from ._method import Check, Method, Problem, Setting, Stepper, nonnegative, weighting
from .errors import ConsensusError
from .methods import ConsensusStepper
from .network import TwoLayer
from .schedules import Geometric, Parameter, Tenfold

_ALPHA = Tenfold(1e4, every=100, cap=1e7)
_DIFFUSION = Geometric(1.2**0.5, 0.9, every=100)


@dataclasses.dataclass(frozen=True)
class TransportCBO(Method):
    """CBO of networks as measures over their neurons [De Deyn, Herty, Samaey 2025, eq. 48-54].

    The order of a network's neurons means nothing, so that the consensus is no average of parameters but the
    Wasserstein-2 barycenter of the networks' measures: every particle's neurons x_{n,i} = (w, b, c) are
    assigned to the support y of the previous step's barycenter (at first: the best particle), and with
    beta_n ∝ exp(-alpha R_n)

        y_j = Σ_n beta_n x_{n,i: match(n,i) = j},
        x_{n,i} <- x_{n,i} - drift dt (x_{n,i} - y_match(n,i)) + diffusion sqrt(dt) xi

    The noise is that of `transport_update`, on every coordinate, whatever the distance: only its schedule
    makes it end, and the ensemble cannot freeze before, nor is a collapse warned of. The defaults are the
    paper's for its example x².

    particles: N, at least 1 (an ensemble given to `train` brings its own N).
    alpha: in [0, inf], or `TargetEss`; at an effective sample size of 1, usual for alpha >= 1e5, the
        barycenter is the best particle.
    drift, diffusion, dt: as in `CBO`. Every float parameter takes a number, a schedule or a callable of
        (epoch from 0, epochs).
    iterations: of the barycenter's fixed point in each step, at least 1; it ends early where the coupling
        repeats.

    A result's parameters are the barycenter's support as a network. Further columns of the history, of the
    epoch's last step, before its update:
        "objective"             Σ_n beta_n (1/M) Σ_i |x_{n,i} - y_match(n,i)|²
        "wasserstein_variance"  V = (1/2N) Σ_n (1/M) Σ_i |x_{n,i} - y_match(n,i)|², with the coupling that the
                                barycenter was computed with; without noise and with uniform weights
                                (alpha = 0) a step multiplies it by at most (1 - drift dt)²
                                [ibid., proposition 3]
        "moved"                 atoms, of N M, with another partner than in the step before (the very first
                                step: than the neuron of the same number)

    Only for `train`; ValueError for a network with output_bias. `ConsensusError` where an atom has become NaN
    or infinite, which no assignment has a place for.
    """

    particles: int = 100
    alpha: Parameter = _ALPHA
    drift: Parameter = 1.0
    diffusion: Parameter = _DIFFUSION
    dt: Parameter = 0.1
    iterations: int = 1

    _parameters: ClassVar[dict[str, Check]] = {
        "alpha": weighting,
        "drift": real,
        "diffusion": nonnegative,
        "dt": nonnegative,
    }

    def __post_init__(self) -> None:
        self._check_parameters()
        self._check_count("particles")
        object.__setattr__(self, "iterations", integer(self.iterations, "iterations", 1, 2**31))

    def _for(self, net: TwoLayer | None) -> TransportCBO:
        if net is not None and net.output_bias:
            raise ValueError(f"net must be without output_bias, which belongs to no neuron, got {net}")
        return self

    def _stepper(self, theta: Array, setting: Setting) -> Stepper:
        return TransportStepper(self, theta, setting)


class TransportStepper(ConsensusStepper):
    """The steps of `TransportCBO`.

    The barycenter is the consensus point of the ensemble with every particle's neurons in the order of their
    partners, so that it is computed as in `CBO`, on that ensemble.
    """

    def __init__(self, method: TransportCBO, theta: Array, setting: Setting) -> None:
        super().__init__(theta, setting, method.alpha, len(theta))
        assert setting.net is not None  # functions have no neurons, and `minimize` refuses the method
        self._net, self._iterations = setting.net, method.iterations
        shape = len(theta), self._net.width, self._net._atom_size
        self.point = np.zeros_like(theta[0])
        self._atoms = np.zeros(shape, theta.dtype)  # as the last step met them
        self._others = np.empty_like(self._atoms)  # the same in the order of their partners; then moved
        self._support = self._points.reshape(shape[1:])
        self._match = np.tile(np.arange(shape[1]), (shape[0], 1))
        self._prices, self._cost = np.zeros(shape[:2]), np.empty(shape[0])
        self._first_atoms = np.arange(shape[0])[:, None] * shape[1]  # each particle's, among all N M
        self._changed = 0
        self._state.update(support=self._points, match=self._match, prices=self._prices)

    def step(self, batch: Any, step: int) -> int:
        batch.risk(self.particles, self._risk)
        self._atoms[:] = self._net.atoms(self.particles)
        if step == 0:
            self._gather(self._flat(self._atoms))
            self._support[:] = self._atoms[self._weights.argmax()]
        before = self._match.copy()
        nonfinite = self._move_barycenter()
        self._changed = int((self._match != before).sum())
        now = self._now
        _cpu.transport_update(
            self._atoms, self._support, self._match.astype(np.int32), now["drift"], now["diffusion"],
            now["dt"], self._seed, step, 0, self._others, self._threads,
        )  # fmt: skip
        self.particles[:] = self._net.from_atoms(self._others)
        self.point[:] = self._net.from_atoms(self._support)
        return nonfinite

    def _move_barycenter(self) -> int:
        """The fixed-point iterations of a step: match, prices and support; the number of non-finite risks."""
        nonfinite = 0
        for iteration in range(self._iterations):
            before = self._match.copy()
            self._assign()
            if iteration > 0 and np.array_equal(self._match, before):
                break
            self._others.reshape(-1, self._others.shape[2])[self._first_atoms + self._match] = self._atoms
            nonfinite = self._gather(self._flat(self._others))
        return nonfinite

    def _assign(self) -> None:
        """All atoms to the support, from the last partners and prices."""
        largest = max(_cpu.largest(self._atoms), _cpu.largest(self._support))
        if math.isinf(largest):
            raise ConsensusError(
                "atoms have become NaN or infinite, which cannot be assigned: take a smaller diffusion or dt"
            )
        _cpu.assign(
            self._atoms, self._support, largest, self._prices, True, self._match, self._cost, None,
            self._threads,
        )  # fmt: skip

    @staticmethod
    def _flat(atoms: Array) -> Array:
        return atoms.reshape(len(atoms), -1)

    def report(self, problem: Problem) -> dict[str, Any]:
        squares = np.square(self._atoms.astype(np.float64) - self._support[self._match])
        distances = squares.sum(axis=(1, 2)) / squares.shape[1]  # of each particle, under its coupling
        weights = self._weights[:, 0]
        return {
            **super().report(problem),
            "objective": float((weights[weights > 0] * distances[weights > 0]).sum()),
            "wasserstein_variance": float(distances.mean() / 2),
            "moved": self._changed,
        }


__all__ = ["TransportCBO"]
