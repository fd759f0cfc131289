"""Consensus hopping: gradient-free training with an ensemble drawn anew at every step and never stored.

    theta_n = c + s xi_n,   theta_{n+N/2} = c - s xi_n  (mirrored)
    g = Σ (beta_n - 1/N) (theta_n - c) / s,   c <- c + lr Adam(g)

CBO with drift dt = 1 around the last consensus [Riedl, Klock, Geldhauser, Fornasier 2023], with the rank
weights of CMA-ES [Hansen 2016], mirrored pairs and Adam [Kingma, Ba 2015] on the consensus drift, a stand-in
for the gradient. Where neurons are judged one by one with noise of low rank, least squares of the pairs'
differences take the weights' place.
"""

from __future__ import annotations

import dataclasses
import warnings
from functools import partial
from typing import Any, ClassVar

import numpy as np

from .. import _cpu
from .._arrays import Array
from .._checks import boolean, choice, integer, positive
from .._ranks import common
from ..errors import CboWarning, ConsensusError
from ..network import TwoLayer, check_network
from ..schedules import Exponential, Parameter, TargetEss
from .adam import moments
from .base import Check, Method, Plan, Problem, Setting, Shape, Stepper, decay, no_consensus, nonnegative
from .hopping_ranks import shared_gradient
from .rounding import LEVELS, RoundedBatch, network_bytes, rounded

_MOST_RANK = 65536
FORMED = 2**22  # numbers of particles that are formed at a time (_own_losses.py)
_FREE = (
    "directions were free in some minibatches or in all, in spite of directions='batch': it expects fewer "
    "samples in a minibatch than inputs, and inputs that are neither all 0 nor near their type's limits"
)
# The rule of the defaults: inputs and parameters a particle from which on neurons are judged one by one, and
# inputs from which on noise is of rank 1.
_ATOM_INPUTS, _ATOM_RATIO, _RANK_INPUTS = 16, 5, 100


@dataclasses.dataclass(frozen=True)
class ConsensusHopping(Method):
    """Consensus hopping; only the centre, two Adam moments and the risks are kept, whatever N is.

    spread and lr take a number, a schedule or any callable of (epoch from 0, epochs). What is "auto" or None
    is chosen by the shape: d inputs, D parameters, N particles, minibatches of S' samples. The method with
    what is chosen is that of `resolved`, and a result's `method`.

    particles: N, drawn at each step; even where mirrored. Default 200.
    spread: s, the standard deviation around the centre, above 0. None: Exponential(0.1, 0.01), but 0.1 in
        scope "atom" and with a rank, and Exponential(0.3, 0.1) for weights that are rounded.
    lr: Adam's step of the centre. None: Exponential(r, r / 100), and r is 0.3 in scope "network" (with a rank
        0.1, and 0.05 with directions "batch"), in scope "atom" 0.01 sqrt(S'), at least 0.1 and at most 0.3; a
        tenth of it for networks with scaling "none".
    weights: "rank" (log N/2 + 1/2 minus log rank, not below 0; equal risks share theirs equally) or
        `TargetEss(fraction)` for Gibbs weights. "ternary" and "int8" weigh particles by rank too, and are
        said of the network's weights: each particle is rounded before it is scored, and so are a result's
        `parameters` (see below).
    mirrored: draw pairs c ± s xi.
    scope: "network" scores whole particles; "atom" scores the centre with one neuron replaced, neuron
        by neuron, which is for many more parameters than particles (no output bias; only for `train`).
        "auto": "atom" where d >= 16, D > 5 N and there is no output bias.
    rank: None for independent noise of all parameters; r for a first layer's noise of rank r, (1 / sqrt r)
        sum_k a_k b_k^T with a_k of -1 and 1 [Sarkar et al. 2025], which costs about a d-th for d inputs and
        drifts as well. 1 is enough. Biases and second layer keep independent noise. Only for `train`.
        "auto": 1 where d >= 100, else None, as it is for losses in Python and with data="split".
    directions: "free", or with a rank "batch": the b_k lie in the span of the minibatch's inputs, as the
        gradient does, and the drift's cosine with it is 2 to 3 times as large. Free (and a `CboWarning`)
        where a batch has d samples or more, or no span: it is for inputs of many dimensions. "auto": "batch"
        with a rank where S' < d.
    drift: "mean" moves the centre by the particles' mean, weighed by their risks; "least_squares" by what
        fits the differences of pairs' risks, neuron by neuron, with ridge regression on the pairs' noise
        (docs/HOPPING.md): with as many draws its cosine with the gradient is about twice as large. It is for
        scope "atom" with a rank, which it brings along where these are "auto", mirrored, and weights "rank",
        whose ranks it does not use. "auto": "least_squares" where all of that is so, else "mean".
    beta1, beta2, delta: Adam's.

        cbk.train(net, x, y, cbk.ConsensusHopping(), batch_size=100, epochs=30, weight_decay=0.1)

    trains digits of 784 pixels, centred, as well as Adam does.

    Whatever N is, a step takes a few MB. Weights are formed within blocks of at most 2^17 particles (scope
    "atom": 2^17 / M, but not below 256), as equal as can be. The drift is their mean, weighted by size:
    exactly the ensemble's up to that N, and above it as good an estimate. Pairs share a block, which with
    least squares has 256 of them at most.

    Rounded weights are t clip(round(w / t), -q, q), halves to even. "ternary" has q = 1, and t is the mean of
    |c| over the centre's weights in the same layer; "int8" has q = 127 and 127 t the largest |c|. Biases are
    not rounded. The noise is full: `rank` must be None. Only for `train` on the CPU, without `standardize`,
    which would scale what is rounded, and without data="split". `network_bytes` tells what it saves.

    The result's `particles` is the centre [1, D], as is a theta given to `train` or `minimize`; `parameters`
    is the centre too, rounded if weights are. "ess" in the history is of the last step (a mean over atoms),
    with least squares the number of particles whose pair has finite risks. "alpha" is that of a `TargetEss`
    (a mean over blocks and atoms). In `minimize` the function gets all N particles at once.
    TypeError for values of another kind and unknown names, ValueError for values out of range.
    """

    particles: int = 200
    spread: Parameter | None = None
    lr: Parameter | None = None
    weights: str | TargetEss = "rank"
    mirrored: bool = True
    scope: str = "auto"
    rank: int | str | None = "auto"
    directions: str = "auto"
    drift: str = "auto"
    beta1: float = 0.9
    beta2: float = 0.999
    delta: float = 1e-12

    _fewest: ClassVar[int] = 2
    _parameters: ClassVar[dict[str, Check]] = {"spread": partial(positive, infinite=False), "lr": nonnegative}
    _any_function: ClassVar[bool] = True
    _stays_on_card: ClassVar[bool] = False  # none is stored

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "mirrored", boolean(self.mirrored, "mirrored"))
        if not isinstance(self.weights, TargetEss) and self.weights not in ("rank", *LEVELS):
            wrong = ValueError if isinstance(self.weights, str) else TypeError
            raise wrong(
                "weights must be 'rank', 'ternary', 'int8' or a cbokernels.TargetEss, got "
                f"{self.weights!r:.80}"
            )
        choice(self.scope, "scope", ("auto", "network", "atom"))
        if isinstance(self.rank, str) and self.rank != "auto":
            raise ValueError(f"rank must be an integer, None or 'auto', got {self.rank!r:.80}")
        if self.rank is not None and self.rank != "auto":
            object.__setattr__(self, "rank", integer(self.rank, "rank", 1, _MOST_RANK + 1))
        if choice(self.directions, "directions", ("auto", "free", "batch")) == "batch" and self.rank is None:
            raise ValueError("rank must be given, such as rank=1, for directions='batch', got None")
        if choice(self.drift, "drift", ("auto", "mean", "least_squares")) == "least_squares":
            self._check_fit()
        if self.mirrored and self.particles % 2:
            raise ValueError(f"particles must be even where mirrored, got {self.particles}")
        for name in ("beta1", "beta2"):
            decay(getattr(self, name), name)
        nonnegative(self.delta, "delta")

    def _check_fit(self) -> None:
        """ValueError where there are no differences of pairs to fit."""
        for name, fits, expected in (
            ("mirrored", self.mirrored, "True"),
            ("scope", self.scope != "network", "'atom'"),
            ("rank", self.rank is not None, "an integer such as 1"),
            ("weights", self.weights == "rank", "'rank'"),
        ):
            if not fits:
                raise ValueError(
                    f"{name} must be {expected} for drift='least_squares', got {getattr(self, name)!r:.80}"
                )

    def _shares(self, rows: int) -> int:
        return self.particles // self._fold

    def _evaluated(self, rows: int) -> int:
        return self.particles

    @property
    def _rounding(self) -> str | None:
        """What the network's weights are rounded to; None: they are not."""
        return self.weights if isinstance(self.weights, str) and self.weights in LEVELS else None

    def network_bytes(self, net: TwoLayer) -> int:
        """Bytes of a trained network: weights of 2 bits where ternary (four a byte), of 8 where int8, else of
        32, as biases and the scale t of each layer are."""
        return network_bytes(check_network(net), self._rounding)

    @property
    def _fold(self) -> int:
        """Particles of a draw."""
        return 2 if self.mirrored else 1

    def resolved(self, net: TwoLayer, batch: int | None = None) -> ConsensusHopping:
        """This method with what it takes for a network and minibatches of so many samples on a CPU.

        batch: None for more samples than inputs. ValueError for a scope that the network does not allow.
        """
        samples = None if batch is None else integer(batch, "batch", 1, 2**63)
        return self._for(Shape(check_network(net), samples))

    def _for(self, shape: Shape) -> ConsensusHopping:
        net, batch, exact, unranked = shape
        if self.scope == "atom" and (net is None or net.output_bias):
            raise ValueError(f"scope='atom' expects a network without output_bias, got {net or 'a function'}")
        if net is None:
            if isinstance(self.rank, int):
                raise ValueError(
                    f"rank must be None for a function, got {self.rank}: it is of a network's layer"
                )
            if self.directions == "batch":
                raise ValueError("directions must be 'free' for a function, got 'batch'")
            if self._rounding is not None:
                raise ValueError(
                    f"weights must be 'rank' or a TargetEss for a function, got {self.weights!r}"
                )
            if self.drift == "least_squares":
                raise ValueError("drift must be 'mean' for a function, got 'least_squares'")
        scope, rank, directions, fits = self.scope, self.rank, self.directions, self._fits
        if fits and unranked:
            raise ValueError(f"drift must be 'mean' {unranked}, got 'least_squares'")
        if fits and net is not None and net.output_bias:
            raise ValueError(f"drift='least_squares' expects a network without output_bias, got {net}")
        if scope == "auto":
            by_atoms = net is not None and (fits or (exact and self._by_atoms(net)))
            scope = "atom" if by_atoms else "network"
        if self._rounding is not None and rank != "auto" and rank is not None:
            raise ValueError(f"rank must be None for weights={self.weights!r}, got {rank}")
        if self._rounding is not None and directions == "batch":
            raise ValueError(f"directions must be 'free' for weights={self.weights!r}, got 'batch'")
        if rank == "auto":
            full = unranked or self._rounding is not None
            wide = net is not None and exact and not full and net.inputs >= _RANK_INPUTS
            rank = 1 if wide or directions == "batch" or fits else None
        if rank is not None and unranked:
            raise ValueError(f"rank must be None {unranked}, got {rank}")
        if directions == "auto":
            span = net is not None and rank is not None and batch is not None and batch < net.inputs
            directions = "batch" if span else "free"
        spread, lr = self.spread, self.lr
        if spread is None and self._rounding is not None:
            spread = Exponential(0.3, 0.1)
        elif spread is None:
            spread = Exponential(0.1, 0.01) if scope == "network" and rank is None else 0.1
        if lr is None:
            if scope == "atom":
                start = 0.3 if batch is None else min(max(0.01 * batch**0.5, 0.1), 0.3)
            else:
                start = 0.3 if rank is None else 0.1 if directions == "free" else 0.05
            if net is not None and net.scaling == "none":
                start /= 10
            lr = Exponential(start, start / 100)
        drift = self.drift
        if drift == "auto":
            pairs = scope == "atom" and rank is not None and self.mirrored and self.weights == "rank"
            drift = "least_squares" if pairs else "mean"
        return dataclasses.replace(
            self, scope=scope, rank=rank, directions=directions, drift=drift, spread=spread, lr=lr
        )

    def _description(self) -> dict[str, str]:
        # theta, which is the centre, does not tell how many there are
        return {**super()._description(), "ConsensusHopping.particles": str(self.particles)}

    def _by_atoms(self, net: TwoLayer) -> bool:
        many = net.size > _ATOM_RATIO * self.particles
        return many and net.inputs >= _ATOM_INPUTS and not net.output_bias

    def _drawn(self) -> int:
        return 1

    def _kept(self, net: TwoLayer, particles: int, tasks: int, item: int) -> int:
        kept = 3 * item * net.size  # gradient and moments of the centre
        if self._rounding is not None:  # particles that are formed, scales, and the centre rounded
            kept += item * (min(self.particles * net.size, FORMED) + 3 * net.size)
        return kept

    def _stepper(self, theta: Array, setting: Setting) -> Stepper:
        return HoppingStepper(self, theta, setting)

    def _check_rounding(self, on_card: bool, split: bool, standardize: bool) -> None:
        """ValueError for runs that cannot round."""
        if self._rounding is None:
            return
        for name, expected, given in (
            ("device", "'cpu'", "'cuda'" if on_card else ""),
            ("data", "'replicated'", "'split'" if split else ""),
            ("standardize", "False", "True" if standardize else ""),
        ):
            if given:
                raise ValueError(f"{name} must be {expected} for weights={self.weights!r}, got {given}")

    def _on_card(self, theta: Array, setting: Setting) -> Plan:
        _check_center(theta)
        atoms, fixed = self.scope == "atom", {"beta1": self.beta1, "beta2": self.beta2, "delta": self.delta}
        if (atoms or self.rank) and setting.precision != "float32":
            what = "scope='atom'" if atoms else f"rank={self.rank}"
            raise ValueError(f"precision must be 'float32' for {what}, got {setting.precision!r}")
        drawn, solve = {"drawn": self.particles, "mirrored": self.mirrored}, self._fraction > 0
        more = {**drawn, "atoms": atoms, "fraction": self._fraction, "rank": self._rank}
        more["in_span"] = in_span = self.directions == "batch"
        more["fit"] = self._fits
        return Plan(
            "hopping", lambda now: {**now, **fixed}, solve=solve, state=moments(theta), more=more,
            scored=self.particles, told=lambda numbers: _FREE if in_span and numbers[0] > 0 else "",
        )  # fmt: skip

    @property
    def _rank(self) -> int:
        """Of the resolved method's noise; 0: full."""
        return self.rank if isinstance(self.rank, int) else 0

    @property
    def _fits(self) -> bool:
        """Whether the resolved method fits the differences of pairs' risks."""
        return self.drift == "least_squares"

    @property
    def _fraction(self) -> float:
        """Of the particles, as the ess of Gibbs weights; 0: rank weights."""
        return self.weights.fraction if isinstance(self.weights, TargetEss) else 0.0


def _check_center(theta: Array) -> None:
    if len(theta) != 1:
        raise ValueError(f"theta must have shape [1, D] for ConsensusHopping, got {list(theta.shape)}")


class HoppingStepper(Stepper):
    """The steps of `ConsensusHopping` on a centre [1, D], which is whole on every rank."""

    def shared(self) -> dict[str, int]:
        return {}

    def variance(self) -> float:
        return _cpu.variance(self.particles, self._threads)

    def __init__(self, method: ConsensusHopping, theta: Array, setting: Setting) -> None:
        _check_center(theta)
        super().__init__(theta, setting)
        self._method = method
        self.point = theta[0]
        if method._rounding is not None:
            self.point = rounded(setting.network, theta[0], method._rounding, setting.threads)
        self._state.update(first=np.zeros_like(theta), second=np.zeros_like(theta))
        self._gradient = np.empty_like(theta)
        self._atoms = setting.net._atom_index if setting.net is not None and method.scope == "atom" else None
        self._told = setting.ranks.rank > 0  # that directions were not as asked for

    def epoch(self, problem: Problem, epoch: int, step: int) -> int:
        data, method, now, state = problem.minibatches(epoch), self._method, self._now, self._state
        if data is None or not self._ranks.alone or method._rounding is not None:
            return super().epoch(problem, epoch, step)
        how = (
            method.particles, now["spread"], method.mirrored, method._rank, method.directions == "batch",
            method._fraction, method._fits,
        )  # fmt: skip
        self.ess, alpha, nonfinite, spanned = _cpu.hopping_epoch(
            *data, self.particles, self._gradient, state["first"], state["second"], self._descent(step),
            self._key(step), how, self._atoms, self._decay, self._threads,
        )  # fmt: skip
        self._note(alpha)
        if not spanned:
            self._tell(6)  # itself, epoch, epochs, run, the function, its caller
        return nonfinite

    def step(self, batch: Any, step: int) -> int:
        # The step of `hopping_epoch`, of a function, and where ranks share the draws.
        method = self._method
        given = (
            self.particles[0], method.particles, self._now["spread"], method.mirrored, self._key(step),
            method.scope == "atom", method._fraction, self._gradient[0],
        )  # fmt: skip
        rounding = method._rounding
        if rounding is not None:
            batch = RoundedBatch(batch, self._setting.network, rounding)
        if self._ranks.alone and rounding is None:
            self.ess, alpha, nonfinite = batch.hopping_gradient(*given)
        else:
            noise = (method._rank, method.directions == "batch") if method._rank else None
            self.ess, alpha, nonfinite, free = shared_gradient(
                self._ranks, batch, *given, self._threads, noise, method._fits
            )
            if free:
                # itself, step, two epoch, epochs, run, the function, what gives it ranks, and its caller
                self._tell(11)
        if self.ess == 0:
            raise common(ConsensusError(no_consensus(method.particles, atoms=method.scope == "atom")))
        self._note(alpha)
        self._shrink(self.particles)
        _cpu.adam_update(
            self.particles, self._gradient, self._state["first"], self._state["second"], self._descent(step),
            None, self.particles, self._threads,
        )  # fmt: skip
        if rounding is not None:
            self.point[:] = rounded(self._setting.network, self.particles[0], rounding, self._threads)
        return int(nonfinite)

    def _tell(self, stacklevel: int) -> None:
        if not self._told:
            self._told = True
            warnings.warn(_FREE, CboWarning, stacklevel=stacklevel)

    def _descent(self, step: int) -> tuple[float, float, float, float, int]:
        method = self._method
        return self._now["lr"], method.beta1, method.beta2, method.delta, step + 1

    def _note(self, alpha: float) -> None:
        if self._method._fraction:
            self.alpha = alpha
