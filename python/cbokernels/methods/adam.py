"""Adam as a method."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from .. import _cpu
from .._arrays import Array
from ..network import TwoLayer
from ..schedules import Parameter
from .base import Check, Method, NetworksStepper, Numbers, Plan, Problem, Setting, Stepper, decay, nonnegative

DECAYS: dict[str, Check] = {"beta1": decay, "beta2": decay, "delta": nonnegative}


@dataclasses.dataclass(frozen=True)
class Adam(Method):
    """Adam [Kingma, Ba 2015] on N independent networks at once, all on the same minibatches.

        theta_n <- theta_n - lr s^_n / (sqrt(r^_n) + delta)

    with the bias-corrected moments s^, r^ of each network's own gradients, as in `adam_update`. Steps count
    from 1. Initial particles are drawn as PyTorch's nn.Linear draws them (`TwoLayer.torch_default`).

    particles: N, at least 1 (networks given to `train` bring their own N).
    lr, delta: finite, not negative. beta1, beta2: in [0, 1). Each takes a number, a schedule or a callable.
        lr may also be an array [N] of numbers, kept as a tuple: network n then has the bits of one that is
        trained alone with lr[n].

    A result's parameters and "risk" are network 0's; "risks" [E, N] in the history are all networks', on the
    full data. "alpha" and "ess" are NaN. Only for `train`.
    """

    particles: int = 1
    lr: Parameter | Sequence[float] = 0.1
    beta1: Parameter = 0.9
    beta2: Parameter = 0.999
    delta: Parameter = 1e-8

    _gradients: ClassVar[bool] = True
    _parameters: ClassVar[dict[str, Check]] = {"lr": nonnegative, **DECAYS}
    _of_each: ClassVar[tuple[str, ...]] = ("lr",)
    _first_step: ClassVar[int] = 1
    _consensus: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if (rates := rates_of(self.lr)) is not None:
            object.__setattr__(self, "lr", rates)
        super().__post_init__()

    def _rates(self, networks: int) -> Array | None:
        """Each of so many networks' own learning rate; None where they have one."""
        if not isinstance(self.lr, tuple):
            return None
        if len(self.lr) != networks:
            raise ValueError(f"lr must have a rate for each of the {networks} networks, got {len(self.lr)}")
        return np.array(self.lr)

    def _own_rates(self, theta: Array, setting: Setting) -> Array | None:
        """Those of this rank's networks."""
        ranks, rates = setting.ranks, self._rates(setting.ranks.all_of(len(theta)))
        if rates is None:
            return None
        if (decay := setting.weight_decay * rates.max()) > 1:
            raise ValueError(f"weight_decay times the step's rate must be at most 1, got {decay:.3g}")
        return np.ascontiguousarray(ranks.part(rates))

    def _initial(
        self, net: TwoLayer, seed: int, dtype: np.dtype[Any], threads: int | None, own: slice
    ) -> Array:
        return net._torch_default(own, seed, dtype, threads)

    def _kept(self, net: TwoLayer, particles: int, tasks: int, item: int) -> int:
        return 8 * particles + 3 * item * particles * net.size  # gradients and moments

    def _stepper(self, theta: Array, setting: Setting) -> Stepper:
        return AdamStepper(self, theta, setting)

    def _on_card(self, theta: Array, setting: Setting) -> Plan:
        rates = self._own_rates(theta, setting)
        if rates is None:
            return Plan("adam", state=moments(theta), more={"rated": False})
        return Plan(
            "adam", lambda now: {**now, "lr": 0.0}, state=moments(theta), more={"rated": True},
            arrays={"rates": rates},
        )  # fmt: skip


def rates_of(lr: Any) -> tuple[float, ...] | None:
    """The learning rates of an array [N], checked; None for one of another kind."""
    if isinstance(lr, tuple) and lr and all(type(rate) is float for rate in lr):
        rates = lr  # scikit-learn's `clone` wants back the object that it gave
    elif isinstance(lr, (list, tuple)) or getattr(lr, "ndim", 0) > 0:
        given = np.asarray(lr)
        if given.ndim != 1 or not len(given) or given.dtype.kind not in "fiu":
            raise ValueError(f"lr must be a number, a schedule or an array [N] of numbers, got {lr!r:.80}")
        rates = tuple(float(rate) for rate in given)
    else:
        return None
    for n, rate in enumerate(rates):
        nonnegative(rate, f"lr[{n}]")
    return rates


def moments(theta: Array) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shapes and dtypes of Adam's, for a `Plan`."""
    return {"first": (theta.shape, theta.dtype), "second": (theta.shape, theta.dtype)}


def descent(now: Numbers, lr: float, step: int) -> tuple[float, float, float, float, int]:
    """The numbers of Adam's step, as the compiled module takes them."""
    return lr, now["beta1"], now["beta2"], now["delta"], step


class AdamStepper(NetworksStepper):
    """The steps of `Adam`."""

    _shared: ClassVar[dict[str, int]] = {"first": 0, "second": 0}

    def __init__(self, method: Adam, theta: Array, setting: Setting) -> None:
        super().__init__(theta, setting)
        self._rates = method._own_rates(theta, setting)
        self._state.update(first=np.zeros_like(theta), second=np.zeros_like(theta))

    def epoch(self, problem: Problem, epoch: int, step: int) -> int:
        now, state, data = self._now, self._state, problem.minibatches(epoch)
        if data is None:
            return super().epoch(problem, epoch, step)
        return _cpu.adam_epoch(
            *data, self.particles, self._gradient, state["first"], state["second"],
            descent(now, now.get("lr", 0.0), step), self._rates, self._risk, self._decay, self._threads,
        )  # fmt: skip

    def step(self, batch: Any, step: int) -> int:
        # The step of `adam_epoch`, where ranks share the data.
        now, state = self._now, self._state
        batch.gradient(self.particles, self._risk, self._gradient)
        self._shrink(self.particles, self._rates)
        _cpu.adam_update(
            self.particles, self._gradient, state["first"], state["second"],
            descent(now, now.get("lr", 0.0), step), self._rates, self.particles, self._threads,
        )  # fmt: skip
        return self._nonfinite()
