"""Optimal-transport consensus-based optimization as a method: networks as measures over their neurons."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from .. import _cpu
from .._arrays import Array
from .._checks import boolean, integer, real
from .._ranks import Leaf, add_up
from ..errors import ConsensusError
from ..network import TwoLayer
from ..schedules import Geometric, Parameter, Tenfold
from .base import Check, Method, Plan, Problem, Setting, Shape, Stepper, nonnegative, weighting
from .consensus import ConsensusStepper, consensus_plan
from .multitask import kept_task, own_tasks, tasks_of

_ALPHA = Tenfold(1e4, every=100, cap=1e7)
_DIFFUSION = Geometric(1.2**0.5, 0.9, every=100)
_NOT_FINITE = "atoms have become NaN or infinite, which cannot be assigned: take a smaller diffusion or dt"


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
        repeats (on a card, to the same end, it does not).
    task: for several tasks, [N] integers in [0, T), the task of each particle; None: floor(n T / N). Kept as
        a tuple.
    exact_variance: whether the history has V with distances solved anew too. It costs the assignments of
        about one step more in each epoch.

    Several tasks [ibid., eq. 27-28] are trained as by `MultiTaskCBO` where y has an axis of tasks, [T, S] or
    [T, S, C], and x is [S, d] or [T, S, d]: each has its own barycenter, of all particles with the weights of
    its own risks, and each particle moves towards its task's. Partners in task t are kept for the particles
    that belong to it or have weight in it; others are left out of its step, on which they have no effect.
    Memory is N·D + T·D, and 16 bytes of partner and price for each of T·N·M.

    A result's parameters are the barycenter's support as a network, [T, D] with an axis of tasks, where risk,
    ess and a `TargetEss`'s alpha in the history are [E, T]. Further columns of the history, of the
    epoch's last step, before its update:
        "objective"             Σ_n beta_n (1/M) Σ_i |x_{n,i} - y_match(n,i)|², of each task [E, T]
        "wasserstein_variance"  V = (1/2N) Σ_n (1/M) Σ_i |x_{n,i} - y_match(n,i)|², with the coupling that the
                                barycenter was computed with; without noise and with uniform weights
                                (alpha = 0) a step multiplies it by at most (1 - drift dt)²
                                [ibid., proposition 3]
        "wasserstein_variance_exact"
                                with exact_variance, V = (1/2N) Σ_n W2²(mu_n, mu) of the same particles and
                                barycenter, solved anew: at most the other, and equal to it where that
                                coupling is still optimal
        "moved"                 atoms, of N M, with another partner than in the step before (the very first
                                step: than the neuron of the same number)
    But for the objective they are over all particles, each with the barycenter of its own task.

    Only for `train`; ValueError for a network with output_bias. `ConsensusError` where an atom has become NaN
    or infinite, which no assignment has a place for.
    """

    particles: int = 100
    alpha: Parameter = _ALPHA
    drift: Parameter = 1.0
    diffusion: Parameter = _DIFFUSION
    dt: Parameter = 0.1
    iterations: int = 1
    task: Any = None
    exact_variance: bool = False

    _parameters: ClassVar[dict[str, Check]] = {
        "alpha": weighting,
        "drift": real,
        "diffusion": nonnegative,
        "dt": nonnegative,
    }
    _task_axes: ClassVar[tuple[str, ...] | None] = None
    _stays_on_card: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "iterations", integer(self.iterations, "iterations", 1, 2**31))
        object.__setattr__(self, "task", kept_task(self.task))
        boolean(self.exact_variance, "exact_variance")

    def _for(self, shape: Shape) -> TransportCBO:
        if shape.net is not None and shape.net.output_bias:
            raise ValueError(f"net must be without output_bias, which belongs to no neuron, got {shape.net}")
        return self

    def _kept(self, net: TwoLayer, particles: int, tasks: int, item: int) -> int:
        # The atoms twice, partners and prices; for the history the atoms once more, thrice as float64.
        own = (3 * item + 24) * particles * net.size + 16 * tasks * particles * net.width
        return super()._kept(net, particles, tasks, item) + own + 2 * item * tasks * net.size

    def _stepper(self, theta: Array, setting: Setting) -> Stepper:
        return TransportStepper(self, theta, setting, own_tasks(self.task, theta, setting))

    def _on_card(self, theta: Array, setting: Setting) -> Plan:
        particles, tasks, net = len(theta), setting.tasks, setting.network

        def columns(_: Array, numbers: list[float]) -> dict[str, Any]:
            *objectives, variance, fresh, moved = numbers
            objective = np.array(objectives) if setting.task_axis else objectives[0]
            exact = {"wasserstein_variance_exact": fresh} if self.exact_variance else {}
            return {"objective": objective, "wasserstein_variance": variance, **exact, "moved": int(moved)}

        return consensus_plan(
            "transport",
            self.alpha,
            particles,
            noise="additive",
            task=tasks_of(self.task, particles, tasks),
            state={
                "support": ((tasks, net.width, net._atom_size), theta.dtype),
                "match": ((particles, tasks, net.width), np.int64),
                "prices": ((particles, tasks, net.width), np.float64),
                "partners": ((particles, net.width), np.int32),
            },
            more={"iterations": self.iterations, "exact": self.exact_variance},
            columns=columns,
            check=_check_coupling,
            breakdown=_NOT_FINITE,
        )


def _check_coupling(state: dict[str, Array]) -> None:
    """ValueError for a saved state whose partners are no permutations or whose numbers are not finite."""
    for name in ("match", "partners"):
        if name in state and (np.sort(state[name], axis=-1) != np.arange(state[name].shape[-1])).any():
            raise ValueError(f"its {name} must be permutations")
    for name in ("support", "prices"):
        if not np.isfinite(state[name]).all():
            raise ValueError(f"its {name} must be finite")


class TransportStepper(ConsensusStepper):
    """The steps of `TransportCBO`, for T tasks.

    A barycenter is the weighted mean of the ensemble with every particle's neurons in the order of their
    partners.
    """

    _shared: ClassVar[dict[str, int]] = {"match": 1, "prices": 1}

    def __init__(self, method: TransportCBO, theta: Array, setting: Setting, task: Array) -> None:
        super().__init__(theta, setting, method.alpha, setting.ranks.all_of(len(theta)))
        self._net, self._iterations, self._alone = setting.network, method.iterations, not setting.task_axis
        self._exact_variance = method.exact_variance
        shape, tasks = (len(theta), self._net.width, self._net._atom_size), setting.tasks
        self._networks = np.zeros((tasks, theta.shape[1]), theta.dtype)
        self.point = self._networks[0] if self._alone else self._networks
        self._atoms = np.zeros(shape, theta.dtype)  # as the last step met them
        self._others = np.empty_like(self._atoms)  # the same in the order of their partners; then moved
        self._support = np.zeros((tasks, *shape[1:]), theta.dtype)
        self._match = np.tile(np.arange(shape[1]), (tasks, shape[0], 1))
        self._prices, self._cost = np.zeros(self._match.shape), np.empty((tasks, shape[0]))
        self._first_atoms = np.arange(shape[0])[:, None] * shape[1]  # each particle's, among all N M
        self._task, self._own = task, (task, np.arange(shape[0]))
        self._changed = 0
        self._state.update(support=self._support, match=self._match, prices=self._prices)

    def step(self, batch: Any, step: int) -> int:
        batch.risk(self.particles, self._risk)
        self._atoms[:] = self._net.atoms(self.particles)
        self._check_atoms()
        nonfinite = self._weigh()
        if step == 0:
            self._support[:] = self._best_atoms()
        before = self._match[self._own]
        self._move_barycenters()
        match = self._match[self._own]
        self._changed = int(self._ranks.add(np.array([(match != before).sum()], float))[0])
        self._shrink(self._atoms)
        _cpu.transport_update(
            self._atoms, self._support, self._task, match.astype(np.int32), self._law(self._now),
            self._key(step), self._others, self._threads,
        )  # fmt: skip
        self.particles[:] = self._net.from_atoms(self._others)
        self._networks[:] = self._net.from_atoms(self._support)
        return nonfinite

    def _weigh(self) -> int:
        """The weights, for which alone consensus points are formed; the number of non-finite risks."""
        return self._gather(self.particles) if self._ranks.alone else self._merge(self.particles, None, 0)

    def _best_atoms(self) -> Array:
        """Those [T, M, K] of each task's heaviest particle, the first of several."""
        best, first, atoms = self._ranks.gather(self._weights).argmax(axis=0), self._ranks.first, self._atoms

        def leaf(a: int, b: int) -> Array:
            found = np.zeros(self._support.shape)
            for t, n in enumerate(best - first):
                if a <= n < b:
                    found[t] = atoms[n]
            return found.ravel()

        return self._sum(leaf).reshape(self._support.shape)

    def _sum(self, leaf: Leaf) -> Array:
        """Over the particles of all ranks."""
        return leaf(0, len(self._atoms)) if self._ranks.alone else self._ranks.merge(leaf, add_up)

    def _move_barycenters(self) -> None:
        """The fixed-point iterations of a step: match, prices and supports."""
        rows = np.concatenate([t * len(self._atoms) + used for t, used in enumerate(self._used())])
        for iteration in range(self._iterations):
            before = self._match.copy() if iteration > 0 else None
            self._assign(rows)
            if (
                before is not None
                and not self._ranks.add(np.array([(self._match != before).sum()], float))[0]
            ):
                break
            self._support[:] = self._sum(self._averages).reshape(self._support.shape)

    def _averages(self, a: int, b: int) -> Array:
        """Of the particles [a, b): sums of the atoms in the order of their partners, by weight."""
        sums, ordered = np.zeros((len(self._support), 1, self._networks.shape[1])), self._others[a:b]
        for t, own in enumerate(sums):
            weights = np.ascontiguousarray(self._weights[a:b, t : t + 1])
            used = np.flatnonzero(weights)
            order = self._first_atoms[used] + self._match[t, a + used]
            ordered.reshape(-1, ordered.shape[2])[order] = self._atoms[a + used]
            _cpu.weighted_sums(self._flat(ordered), weights, own, self._threads)
        return sums.ravel()

    def _used(self) -> list[Array]:
        """The particles that have weight in a task or belong to it, task after task."""
        needed = self._weights.T > 0
        needed[self._own] = True
        return [np.flatnonzero(row) for row in needed]

    def _assign(self, rows: Array) -> None:
        """Atoms to supports from the last partners and prices; rows are t N + n, particle n in task t."""
        largest = max(self._check_atoms(), _cpu.largest(self._support))
        _cpu.assign_rows(
            self._atoms, self._support, largest, self._prices, self._match, self._cost, rows, self._threads
        )

    def _check_atoms(self) -> float:
        """The largest magnitude."""
        largest = _cpu.largest(self._atoms)
        if math.isinf(largest):
            raise ConsensusError(_NOT_FINITE)
        return largest

    def restore(self, particles: Array, point: Array, state: dict[str, Array]) -> None:
        _check_coupling(state)
        super().restore(particles, point, state)

    @staticmethod
    def _flat(atoms: Array) -> Array:
        return atoms.reshape(len(atoms), -1)

    def _tell(self, values: Array) -> Any:
        return values.item() if self._alone else values.copy()

    def report(self, problem: Problem) -> dict[str, Any]:
        distances, weighted = np.empty(len(self._atoms)), np.zeros((len(self._atoms), len(self._support)))
        for t, (used, weights) in enumerate(zip(self._used(), self._weights.T, strict=True)):
            partners = self._support[t][self._match[t, used]]
            found = (
                np.square(self._atoms[used].astype(np.float64) - partners).sum(axis=(1, 2)) / self._net.width
            )
            weights, own = weights[used], self._task[used] == t
            weighted[used[weights > 0], t] = weights[weights > 0] * found[weights > 0]
            distances[used[own]] = found[own]
        exact = {"wasserstein_variance_exact": self._fresh_variance()} if self._exact_variance else {}
        sums = self._sum(lambda a, b: np.append(weighted[a:b].sum(axis=0), distances[a:b].sum()))
        return {
            "risk": self._ranks.lead(lambda: self._tell(problem.risks(self._networks))),
            "objective": self._tell(sums[:-1]),
            "wasserstein_variance": float(sums[-1] / self._count / 2),
            **exact,
            "moved": self._changed,
        }

    def _fresh_variance(self) -> float:
        """(1/2N) Σ_n W2² of the last step's particles to the supports it led to; partners and prices stay."""
        match, prices = self._match[self._own], self._prices[self._own]
        self._assign(self._task * np.int64(len(self._atoms)) + self._own[1])
        self._match[self._own], self._prices[self._own] = match, prices
        cost = self._cost[self._own]
        return float(self._sum(lambda a, b: cost[a:b].sum(keepdims=True))[0] / self._count / 2)
