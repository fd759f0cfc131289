"""Base classes of all methods: `Method` holds frozen parameters, `Stepper` does a run's steps.

A method joins the training loop with a frozen dataclass derived from `Method` and a class derived from
`Stepper`; the loop knows neither's particulars.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np

from .. import _cpu
from .._arrays import Array
from .._checks import WORD, integer, real, unit
from .._ranks import ALONE, Ranks, common
from ..errors import ConsensusError
from ..network import TwoLayer
from ..schedules import describe, evaluate, parameter

if TYPE_CHECKING:
    from .._cpu import KernelLoss

M = TypeVar("M", bound="Method")
Check = Callable[[Any, str], float]
nonnegative: Check = functools.partial(real, low=0.0)
weighting: Check = functools.partial(real, low=0.0, infinite=True)
fraction: Check = functools.partial(unit, closed=True)
decay: Check = functools.partial(unit, closed=False)


Numbers = dict[str, float]


class Problem(Protocol):
    """What a run minimises, in the batches that its steps are scored on."""

    steps_per_epoch: int

    def batches(self, epoch: int) -> Iterable[Any]:
        """The epoch's batches in order, as `Stepper.step` takes them."""

    def minibatches(self, epoch: int) -> Minibatches | None:
        """The epoch's batches as compiled epochs take them; None where only `batches` can provide them."""

    def risks(self, theta: Array, ensemble: int = 0) -> Array:
        """Risks [n] of theta [n, D] as the history reports them; with T tasks n is T, row t is for task t.
        ensemble: the number of particles of which theta is a part."""


class Minibatches(NamedTuple):
    """The first arguments of compiled epochs: batch i is x[order[i * size : (i + 1) * size]], y and weights
    likewise."""

    net: _cpu.Network
    x: Array
    y: Any  # or a pair of y and weights
    loss: KernelLoss
    order: Array | None  # None: x and y as they stand are the only batch
    size: int


class Shape(NamedTuple):
    """What a method may choose its parameters by."""

    net: TwoLayer | None  # None: a function is minimised
    batch: int | None = None  # samples of a minibatch; None: not known
    exact: bool = True  # whether matrix products are those of float32 or float64
    unranked: str = ""  # where there is no noise of low rank, the words that say so


class Done(NamedTuple):
    """An epoch that is done."""

    values: dict[str, float]  # the method's float parameters in it
    nonfinite: int  # risks that were NaN or infinite
    row: dict[str, Any]  # the history's, by column, without epoch number and time


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a stepper is told of its run besides the particles."""

    seed: int
    threads: int
    net: TwoLayer | None = None  # None: a function is minimised
    tasks: int = 1
    task_axis: bool = False  # whether the caller's y has an axis of tasks, be it one
    precision: str = "float32"  # of matrix products on a card
    ranks: Ranks = ALONE  # that share the ensemble; theta is this one's part of it
    weight_decay: float = 0.0

    @property
    def network(self) -> TwoLayer:
        """The network, which only methods that `minimize` refuses ask for."""
        assert self.net is not None
        return self.net

    def decay(self, values: Numbers, epoch: int) -> float:
        """The share of the parameters that the weight decay takes off them in each step of an epoch; where
        networks have rates of their own, which the stepper checks, this is multiplied by them."""
        rate = values.get("lr", values.get("dt"))
        if rate is None:
            return self.weight_decay
        share = self.weight_decay * rate
        if not share <= 1:
            raise ValueError(
                f"weight_decay times the step's rate must be at most 1, got {share:.3g} in epoch {epoch + 1}"
            )
        return share


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a method runs on a card: the compiled run's arguments, and what its rows and arrays mean."""

    kernel: str  # the compiled run's name for the method
    numbers: Callable[[Numbers], Numbers] = dict  # the method's values in an epoch -> the compiled run's
    noise: str = "none"
    solve: bool = False  # whether alpha is solved for
    task: Array | None = None
    state: dict[str, tuple[tuple[int, ...], Any]] = dataclasses.field(default_factory=dict)
    # shapes and dtypes of the arrays that a later step depends on besides particles and points
    axes: Mapping[str, int] = dataclasses.field(default_factory=dict)  # of particles, where not the first
    more: Mapping[str, float] = dataclasses.field(default_factory=dict)  # the compiled run's other arguments
    arrays: Mapping[str, Array] = dataclasses.field(default_factory=dict)  # that it is given, once
    points: bool = False  # whether there are consensus points; else the first particle is reported
    scored: int = 0  # particles whose risks a consensus weighs
    subsets: Callable[[int, int], Array | None] = lambda first, steps: None
    # which ones, [steps, scored], in the steps from `first` on; None: all
    columns: Callable[[Array, list[float]], dict[str, Any]] = lambda risks, numbers: {}
    # the history's columns that only this method has, from a row's risks and last numbers
    told: Callable[[list[float]], str] = lambda numbers: ""
    # what a run warns of once, from a row's last numbers
    check: Callable[[dict[str, Array]], None] = lambda state: None  # ValueError for a state that no run has
    breakdown: str = ""  # the error's text where a step fails although its risks are finite


class Stepper:
    """A method at work on one ensemble; an `epoch` does a `step` for each batch, or all of them in one call
    of compiled code.

    particles [N, D] and what a run reports as its parameters, point ([D], or [T, D] for T tasks), keep their
    memory over the run; alpha and ess are those of the last step. `_state` names the arrays that a later step
    depends on besides those two.
    """

    finishes: ClassVar[bool] = False
    frozen: ClassVar[float | None] = None
    _shared: ClassVar[dict[str, int]] = {}  # arrays of the state that have an axis of particles, and which

    point: Array
    alpha: Any = math.nan
    ess: Any = math.nan

    def __init__(self, theta: Array, setting: Setting) -> None:
        self.particles = theta
        self._seed, self._threads, self._ranks = setting.seed, setting.threads, setting.ranks
        self._setting, self._decay = setting, 0.0  # what the weight decay takes in a step of this epoch
        self._now: Numbers = {}  # the values of the method's float parameters in this epoch
        self._state: dict[str, Array] = {}

    def epochs(
        self, problem: Problem, method: Method, first: int, last: int, hold: Callable[[int], bool]
    ) -> Iterator[Done]:
        """Do the epochs from `first` (from 0) up to `last`, the run's length, one at a time."""
        step = method._first_step + first * problem.steps_per_epoch
        for epoch in range(first, last):
            values = method._values(epoch, last)
            self._now, self._decay = values, self._setting.decay(values, epoch)
            try:
                nonfinite = self.epoch(problem, epoch, step)
            except ConsensusError as error:
                failure = ConsensusError(f"epoch {epoch + 1}, {error}")
                raise (common(failure) if self._ranks.alike else failure) from error
            step += problem.steps_per_epoch
            row = self.report(problem)
            yield Done(
                values,
                self._all_nonfinite(nonfinite),
                {**row, "alpha": self.alpha, "ess": self.ess, "variance": self.variance()},
            )

    @property
    def reported(self) -> Array:
        """As `Runner.reported`."""
        return self.point

    def _key(self, step: int) -> tuple[int, int, int, int]:
        """The words of a step's random numbers, as the compiled module takes them."""
        return self._seed, 0, step, self._ranks.first

    def _all_nonfinite(self, count: int) -> int:
        """Non-finite risks of all ranks; `count` is this one's."""
        return count

    def variance(self) -> float:
        """Of the particles, (1/2N) Σ |theta_n - mean|²."""
        return self._ranks.variance(self.particles, self._threads)

    def _shrink(self, theta: Array, rates: Array | None = None) -> None:
        """The weight decay of a step, between its scores and its move; times each row's rate, if any."""
        if self._decay:
            share = self._decay if rates is None else (self._decay * rates[:, None]).astype(theta.dtype)
            with np.errstate(over="ignore", invalid="ignore"):  # the loop warns of particles that overflow
                theta -= share * theta

    def epoch(self, problem: Problem, epoch: int, step: int) -> int:
        """Do an epoch's steps, the first of which is number `step`; return the number of non-finite risks."""
        nonfinite = 0
        try:
            for batch in problem.batches(epoch):
                nonfinite += self.step(batch, step)
                step += 1
        except ConsensusError as error:
            raise ConsensusError(f"step {step}: {error}") from error
        return nonfinite

    def step(self, batch: Any, step: int) -> int:
        """Do step number `step` of the run, unless `epoch` does; return the number of non-finite risks met.

        batch.risk(theta [n, D], out [n, tasks]) scores particles; batch.gradient(theta, out [n], gradient)
        also gives gradients, except for a function.
        """
        raise NotImplementedError

    def report(self, problem: Problem) -> dict[str, Any]:
        """The history's "risk" after an epoch, and the columns that only this method has."""
        return {"risk": self._ranks.lead(lambda: float(problem.risks(self.point[None])[0]))}

    def state_dict(self) -> dict[str, Array]:
        """What a later step depends on besides particles and point."""
        return self._state

    def shared(self) -> dict[str, int]:
        """Which of particles and state the ranks have a part of each, and along which axis."""
        return {} if self._ranks.alike else {"particles": 0, **self._shared}

    def finish(self, done: int) -> Iterator[Done]:
        """As `Runner.finish`: an epoch that is interrupted here ends halfway."""
        return iter(())

    def restore(self, particles: Array, point: Array, state: dict[str, Array]) -> None:
        """Take up where another run of the same kind stopped."""
        np.copyto(self.particles, particles)
        np.copyto(self.point, point)
        for name, array in self._state.items():
            np.copyto(array, state[name])


class NetworksStepper(Stepper):
    """Base for methods that train N networks independently of each other; the first one is reported."""

    def __init__(self, theta: Array, setting: Setting) -> None:
        super().__init__(theta, setting)
        self.point = theta[0] if setting.ranks.rank == 0 else theta[0].copy()
        self._risk, self._gradient = np.empty(len(theta)), np.empty_like(theta)

    def report(self, problem: Problem) -> dict[str, Any]:
        ranks = self._ranks
        ranks.spread(self.point)
        risks = ranks.gather(problem.risks(self.particles, ranks.total))
        return {"risk": float(risks[0]), "risks": risks}

    def _all_nonfinite(self, count: int) -> int:
        return int(self._ranks.add(np.array([count], float))[0])

    def _nonfinite(self) -> int:
        return len(self._risk) - int(np.isfinite(self._risk).sum())


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """Base of the methods. `_parameters` names the float parameters and the check each value passes."""

    _fewest: ClassVar[int] = 1  # particles
    _parameters: ClassVar[dict[str, Check]] = {}
    _of_each: ClassVar[tuple[str, ...]] = ()  # float parameters that may be arrays, kept as tuples
    _first_step: ClassVar[int] = 0  # number of a run's first step, which drives its random numbers
    _any_function: ClassVar[bool] = False  # minimises functions too, not only the risks of networks
    _consensus: ClassVar[bool] = True  # risks are weights, and a particle without one has weight 0
    _gradients: ClassVar[bool] = False  # its steps need those of the loss
    _stays_on_card: ClassVar[bool] = True  # what several ranks with a card each have of its particles
    _contracts: ClassVar[bool] = False  # the whole ensemble is drawn to one point and may freeze there
    _task_axes: ClassVar[tuple[str, ...] | None] = ()  # y's before the samples; None: one of tasks, or none

    @property
    def _needs_spread(self) -> bool:
        """Whether particles that are all the same stay where they are."""
        return False

    def __post_init__(self) -> None:
        self._check_count("particles", self._fewest)
        chosen = {field.name for field in dataclasses.fields(self) if field.default is None}
        for name, check in self._parameters.items():
            value = getattr(self, name)
            if not (self._is_array(name) or (value is None and name in chosen)):
                object.__setattr__(self, name, parameter(value, name, check))

    def _is_array(self, name: str) -> bool:
        """Whether a float parameter has a number for each network, checked already."""
        return name in self._of_each and isinstance(getattr(self, name), tuple)

    def _check_count(self, name: str, low: int = 1) -> None:
        object.__setattr__(self, name, integer(getattr(self, name), name, low, WORD + 1))

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name, as scikit-learn asks for them. A schedule is one value, `deep` or not."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def set_params(self: M, **parameters: Any) -> M:
        """A method like this one but for these parameters; this one, being frozen, does not change.

        ValueError for a name that it does not have, as from scikit-learn's estimators; values are checked as
        at construction.
        """
        known = self.get_params()
        for name in parameters:
            if name not in known:
                raise ValueError(
                    f"parameters of {type(self).__name__} must be some of {', '.join(known)}, got {name!r}"
                )
        return dataclasses.replace(self, **parameters)

    def _values(self, epoch: int, epochs: int) -> dict[str, float]:
        """The float parameters' values in an epoch."""
        parameters = ((name, getattr(self, name), check) for name, check in self._parameters.items())
        return {
            n: evaluate(p, n, check, epoch, epochs)
            for n, p, check in parameters
            if p is not None and not self._is_array(n)  # which does not change
        }

    def _description(self) -> dict[str, str]:
        """Text of every field, by which a checkpoint recognises the method that wrote it."""
        fields = (field.name for field in dataclasses.fields(self) if field.name != "particles")
        return {f"{type(self).__name__}.{name}": describe(getattr(self, name)) for name in fields}

    def _initial(
        self, net: TwoLayer, seed: int, dtype: np.dtype[Any], threads: int | None, own: slice
    ) -> Array:
        """The rows `own` of the particles to start from where the caller gives none."""
        return net._uniform(own, -1.0, 1.0, seed, dtype, threads)

    def _shares(self, rows: int) -> int:
        """How many units of a theta of so many rows the ranks share out; 0: none, each has it whole."""
        return rows

    def _evaluated(self, rows: int) -> int:
        """The particles that a step scores where theta has so many rows."""
        return rows

    def _drawn(self) -> int:
        """Rows of the theta that a run starts with where the caller gives none."""
        particles: int = getattr(self, "particles")  # noqa: B009 - each method declares it, with its default
        return particles

    def _kept(self, net: TwoLayer, particles: int, tasks: int, item: int) -> int:
        """Bytes of the arrays besides the particles that its steps need, with `item` bytes a number; here
        risks and weights, which are float64, and points."""
        return 16 * particles * tasks + item * tasks * net.size

    def _row(self, particles: int) -> int:
        """Bytes of the arrays in a row of history."""
        return 0 if self._consensus else 8 * particles

    def _for(self, shape: Shape) -> Method:
        """This method with what depends on a run's shape filled in; ValueError for what it cannot have."""
        return self

    @abc.abstractmethod
    def _stepper(self, theta: Array, setting: Setting) -> Stepper:
        """The method at work on theta [N, D], which it takes over."""

    def _on_card(self, theta: Array, setting: Setting) -> Plan:
        """How the method runs on a card; ValueError where the CUDA kernels do not have it."""
        name = type(self).__name__
        raise ValueError(f"method {name} has no CUDA implementation: train with device='cpu'")


def no_consensus(particles: int, where: str = "", atoms: bool = False) -> str:
    """Text of the error of a step in which all risks are NaN or infinite; atoms: those of a neuron."""
    where += " at one of the neurons" if atoms else ""
    return f"no particle has a finite risk{where} ({particles} particles): there is no consensus point"


def check_method(method: Any) -> Method:
    """TypeError unless `method` is one (and not, say, its class)."""
    if not isinstance(method, Method):
        raise TypeError(f"method must be a method such as cbokernels.CBO(), got {method!r:.80}")
    return method
