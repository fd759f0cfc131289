"""Minimisation of any function of an ensemble."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _cpu
from ._arrays import Array, contiguous, view
from ._checks import WORD, boolean, choice, integer, kind, new_array, threads
from ._checks import seed as check_seed
from ._ranks import Ranks
from .methods import CBO, ConsensusHopping
from .methods.base import Method, Setting, Shape, check_method
from .methods.hopping_ranks import DrawnOnHost
from .result import Result, State
from .training.arguments import check_callback, own_particles, particles_of
from .training.checkpoint import alone, fingerprint
from .training.checkpoint import checkpoint as check_checkpoint
from .training.loop import run
from .training.options import Options
from .training.sharing import check_alone, on_ranks, same_on_all, share
from .training.stopping import Stopping

if TYPE_CHECKING:
    from ._cpu import Key

_GLOBAL = CBO(alpha=np.inf, diffusion=10**0.5)


class FunctionProblem(DrawnOnHost):
    """A function of an ensemble as the only batch of every epoch."""

    steps_per_epoch = 1

    def __init__(self, fun: Callable[[Array], Any], threads: int) -> None:
        self._fun, self._threads = fun, threads
        self.evaluations = np.zeros(1, np.int64)  # points so far
        self._shown: dict[tuple[int, ...], Array] = {}  # fun's copies of ensembles, by shape

    def batches(self, epoch: int) -> Iterator[FunctionProblem]:
        yield self

    def minibatches(self, epoch: int) -> None:
        return None

    def risk(self, theta: Array, out: Array) -> None:
        out[:, 0] = self._values_of_copy(theta)

    def risks(self, theta: Array, ensemble: int = 0) -> Array:
        return self._values_of_copy(theta)

    def hopping_gradient(
        self, center: Array, particles: int, spread: float, mirrored: bool, key: Key, atoms: bool,
        fraction: float, out: Array,
    ) -> tuple[float, float, int]:  # fmt: skip
        """Minus the drift of particles drawn around a centre [D], into out [D]; ess, alpha, and the number of
        non-finite values. The ensemble is stored, because fun is called once for all."""
        theta = new_array((particles, len(center)), center.dtype, "particles")
        _cpu.draw_ensemble(center, spread, mirrored, key, theta, self._threads)
        risk = contiguous(np.asarray(self._values(theta), np.float64))
        return _cpu.hopping_gradient(center, spread, mirrored, key, risk, fraction, out, self._threads)

    def hopping_risk(
        self, center: Array, particles: int, spread: float, mirrored: bool, key: Key, atoms: bool, out: Array
    ) -> None:
        """As a minibatch's."""
        theta = new_array((particles, len(center)), center.dtype, "particles")
        _cpu.draw_ensemble(center, spread, mirrored, key, theta, self._threads)
        fold = (
            2 if mirrored else 1
        )  # fun gets all c + s xi and then all c - s xi; pairs follow each other in out
        out.reshape(-1, fold)[:] = np.asarray(self._values(theta), np.float64).reshape(fold, -1).T

    def atoms_of(self, atoms: bool) -> None:
        return None

    def _values_of_copy(self, theta: Array) -> Array:
        """Values at an ensemble that changes later; what fun keeps does not. A copy that fun has not kept,
        nor a view of it, serves again: new memory for each would cost more than the copying."""
        copy = self._shown.pop(theta.shape, None)
        if copy is None:
            copy = np.empty_like(theta)
        np.copyto(copy, theta)
        alone = sys.getrefcount(copy)
        values = self._values(copy.view())
        if sys.getrefcount(copy) == alone:
            self._shown[theta.shape] = copy
        return values

    def _values(self, theta: Array) -> Array:
        """Values of fun at theta [n, D], a view that is made read-only, checked."""
        theta.flags.writeable = False
        values = self._fun(theta)
        self.evaluations += len(theta)
        if isinstance(values, (list, tuple, int, float, np.generic)):
            values = np.asarray(values)
        values = view(values, "the result of fun")
        if values.dtype.kind not in "fiu":
            raise TypeError(f"the result of fun must hold real numbers, got {values.dtype}")
        if values.shape != (len(theta),):
            raise ValueError(
                f"the result of fun must have shape [{len(theta)}] for theta of shape {list(theta.shape)}, "
                f"got {list(values.shape)}"
            )
        return values


def minimize(
    fun: Callable[[Array], Any],
    theta: Any,
    method: Method | None = None,
    *,
    steps: int = 1000,
    seed: int = 0,
    progress: bool = False,
    callback: Callable[[State], object] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: int = 1000,
    resume: bool = False,
    target: float | None = None,
    patience: int | None = None,
    tolerance: float = 0.0,
    on_interrupt: str = "raise",
    num_threads: int | None = None,
    comm: Any = None,
    deterministic: bool = False,
) -> Result:
    """Minimise a function of ensembles, from initial particles theta [N, D]; return a `Result`.

        theta = np.random.default_rng(0).uniform(-3, 3, (200, 10))
        result = cbk.minimize(lambda t: (t**2).sum(axis=1), theta, target=1e-6)
        print(result.x, result.fun, result.message)

    fun: takes an ensemble [n, D] (NumPy, read-only, of theta's dtype; fun may keep it) and returns n real
        values, cast to float64 (TypeError for another kind, ValueError for another shape). It is called once
        a step with the particles that are scored, and once with n = 1 at their consensus point, for the
        history, unless all weight is on one particle and the point's value thereby known. Where it is NaN or
        infinite a particle has weight 0. This holds for minus infinity too, which counts as a failure to
        evaluate and not as the best value. Nowhere finite is a `ConsensusError`.
    theta: float32 or float64, finite; decides the arithmetic; not modified. Its N takes the place of the
        method's; for `ConsensusHopping` the centre [1, D].
    method: a `CBO`, of any kind of noise, with or without friction, or a `ConsensusHopping` of scope
        "network", whose default lr is Exponential(0.3, 0.003) here (TypeError for methods that need data of
        a network). An epoch of its schedules is a step here. None: CBO(alpha=inf, diffusion=10**0.5), or
        `ConsensusHopping()` where theta is one point. That ensemble follows its best particle, and its noise
        is large enough to leave local minima and small enough to contract; `CBO()` freezes far from a minimum
        in many dimensions.
    steps: number of steps. seed: in [0, 2^64). progress: show a tqdm bar.
    callback: called with a `State` after every step; the run ends there if it returns anything that is true,
        or raises StopIteration.
    target, patience, tolerance: the run stops where the value at the consensus point ("risk" in the history)
        is at most target, or has not fallen by more than tolerance for `patience` steps. `Result.stopped` and
        `Result.message` say why it ended; `best` is the consensus point with the lowest value, `best_risk`
        that value, `best_step` its step, and `evaluations` the number of points that fun was called for.
    on_interrupt: as in `train`.
    checkpoint, every, resume: as in `train`, by steps. A checkpoint does not know fun: to resume with another
        function is the caller's mistake.
    num_threads: None: as many as the work is worth, at most OpenMP's setting. The result does not depend on
        it.
    comm, deterministic: as in `train`. fun gets the particles of one rank, and on the first also the point.

    The history has one row per step: "risk" is the value at that step's consensus point, and `parameters` the
    last such point. `CboWarning`, once per run each: values that are NaN or infinite, particles that
    overflowed, an ensemble that flies apart, a checkpoint that could not be written, particles of `CBO` that
    are all the same at the start. That the ensemble contracts to a point later is the aim here and no
    warning. TypeError and ValueError for bad arguments.
    """
    if comm is not None and not isinstance(comm, Ranks):
        return on_ranks(minimize, locals())
    ranks = Ranks() if comm is None else comm
    if not callable(fun):
        raise TypeError(f"fun must be callable, got {kind(fun)}")
    rows = particles_of(theta)
    if method is None:
        method = ConsensusHopping() if rows == 1 else _GLOBAL
    check_method(method)
    if not method._any_function:
        raise TypeError(f"method must be one that needs no network, such as CBO(), got {method!r:.80}")
    seed, cores = check_seed(seed), threads(num_threads)
    steps = integer(steps, "steps", 1, WORD)
    check_callback(callback)
    stopping = Stopping.of(target, patience, tolerance)
    returns = choice(on_interrupt, "on_interrupt", ("raise", "return")) == "return"
    store = check_checkpoint(checkpoint, every, resume)
    method = method._for(Shape(None))
    check_alone(ranks, "cpu", on_interrupt)
    start = own_particles(ranks.part_of(theta, share(ranks, method, rows)), "D")
    stepper = method._stepper(start, Setting(seed, cores, ranks=ranks))
    if store is not None:
        store.configuration = {
            "problem": "minimize",
            "method": type(method).__name__,
            **method._description(),
            "seed": repr(seed),
            "dtype": str(start.dtype),
            "theta": fingerprint(start if ranks.alone else np.asarray(view(theta, "theta"))),
            **({"order of sums": "fixed"} if ranks.ordered else {}),
        }
    problem = FunctionProblem(fun, cores)
    options = Options(
        steps, boolean(progress, "progress"), callback, store, warn_collapse=False, stopping=stopping,
        returns=returns, unit="step", state={"evaluations": problem.evaluations}, ranks=ranks,
        arguments=same_on_all(method, seed, rows, start, store, callback),
    )  # fmt: skip
    with alone(store if ranks.rank == 0 else None):
        return run(problem, method, stepper, options)


__all__ = ["minimize"]
