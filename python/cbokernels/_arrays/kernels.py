"""The compiled CUDA kernels under the names and arguments of the compiled CPU kernels.

A call is refused, and arrays share memory, as on the CPU, but for what follows.

Nothing here waits for the device, save for arrays of libraries whose streams are not known
(`libraries`). What the host would have to see is therefore left to the kernels: a label, a task or a
match out of range makes its risk, particle or atom NaN; `consensus` gives NaN weights and an ess of 0 where
no particle has a finite risk, without a warning or an error, and its ess is an array; atoms and prices that
are not finite give the identity and a NaN cost (`sinkhorn` a NaN result), weights that are no weights a NaN
barycenter. A match that is no permutation is not seen.

Only here a precision other than "float32" is known. Arrays whose library cannot copy them (Numba) must be
C-contiguous, aligned and apart from what is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .memory import DeviceArray

_DOUBLE = np.dtype(np.float64)


def _address(a: DeviceArray | None) -> int:
    return 0 if a is None else a.pointer


class Kernels:
    """One call's; the number of threads, which all take last, has no meaning here."""

    def __init__(self, module: Any, on: tuple[int, int], launched: Callable[[], None]) -> None:
        self._module, self._on, self._launched = module, on, launched
        self.precision = "float32"

    def _run(self, name: str, theta: DeviceArray, *args: Any) -> None:
        try:
            getattr(self._module, name)(self._on, theta.dtype == _DOUBLE, *args)
        finally:
            self._launched()

    def forward(self, net: Any, theta: DeviceArray, x: DeviceArray, out: DeviceArray, _: int) -> None:
        """Outputs."""
        self._run(
            "forward", theta, net, theta.pointer, len(theta), x.pointer, len(x), out.pointer, self.precision
        )

    def risk(
        self, net: Any, theta: DeviceArray, x: DeviceArray, y: DeviceArray, loss: str, out: DeviceArray,
        _: int,
    ) -> None:  # fmt: skip
        """Risks on tasks y [T, S, ...] that share inputs x [S, d], or have their own, [T, S, d]."""
        shared = x.ndim == 2
        for t in range(1 if shared else len(y)):
            inputs = x if shared else x[t]
            self._run(
                "risk", theta, net, theta.pointer, len(theta), inputs.pointer, len(inputs), y[t].pointer,
                loss, len(y) if shared else 1, out.pointer + t * _DOUBLE.itemsize,
                1 if shared else len(y), self.precision,
            )  # fmt: skip

    def risk_gradient(
        self, net: Any, theta: DeviceArray, x: DeviceArray, y: DeviceArray, loss: str,
        out: DeviceArray, gradient: DeviceArray, _: int,
    ) -> None:  # fmt: skip
        """Risks and gradients."""
        self._run(
            "risk_gradient", theta, net, theta.pointer, len(theta), x.pointer, len(x), y.pointer,
            loss, out.pointer, gradient.pointer, self.precision,
        )  # fmt: skip

    def atom_risks(
        self, net: Any, center: DeviceArray, theta: DeviceArray, x: DeviceArray, y: DeviceArray,
        loss: str, out: DeviceArray, _: int,
    ) -> None:  # fmt: skip
        """Risks of single neurons."""
        self._run(
            "atom_risks", theta, net, center.pointer, theta.pointer, len(theta), x.pointer, len(x), y.pointer,
            loss, out.pointer,
        )  # fmt: skip

    def consensus(
        self, theta: DeviceArray, risk: DeviceArray, alpha: float, point: DeviceArray, weights: DeviceArray,
        ess: DeviceArray, _: int,
    ) -> int:  # fmt: skip
        """Consensus; 0, since the risks that are not finite are not counted for the host."""
        self._run(
            "consensus", theta, theta.pointer, risk.pointer, *theta.shape, math.prod(ess.shape), alpha,
            point.pointer, weights.pointer, ess.pointer,
        )  # fmt: skip
        return 0

    def cbo_update(
        self, theta: DeviceArray, points: DeviceArray, tasks: DeviceArray | None, _moving: None, *args: Any
    ) -> None:
        """`args`: the law, the words of the noise, and the target."""
        *numbers, target, _ = args
        self._run(
            "cbo_update", theta, theta.pointer, target.pointer, *theta.shape, points.pointer, _address(tasks),
            len(points), *numbers,
        )  # fmt: skip

    def adam_update(
        self, theta: DeviceArray, gradient: DeviceArray, first: DeviceArray, second: DeviceArray, *args: Any
    ) -> None:
        """`args`: Adam's numbers and the target."""
        *numbers, target, _ = args
        self._run(
            "adam_update", theta, theta.pointer, target.pointer, *theta.shape, gradient.pointer,
            first.pointer, second.pointer, *numbers,
        )  # fmt: skip

    def hybrid_update(
        self, theta: DeviceArray, points: DeviceArray, tasks: DeviceArray | None, gradient: DeviceArray,
        first: DeviceArray, second: DeviceArray, *args: Any,
    ) -> None:  # fmt: skip
        """`args`: the numbers of both parts and the target."""
        *numbers, target, _ = args
        self._run(
            "hybrid_update", theta, theta.pointer, target.pointer, *theta.shape, points.pointer,
            _address(tasks), len(points), gradient.pointer, first.pointer, second.pointer, *numbers,
        )  # fmt: skip

    def langevin_drift(
        self, theta: DeviceArray, velocity: DeviceArray, gradient: DeviceArray, width: int, *args: Any
    ) -> None:
        """All of a step but its last half kick."""
        *numbers, _ = args
        self._run(
            "langevin_drift", theta, theta.pointer, velocity.pointer, gradient.pointer, *theta.shape, width,
            *numbers,
        )  # fmt: skip

    def langevin_kick(
        self, velocity: DeviceArray, gradient: DeviceArray, width: int, dt: float, _: int
    ) -> None:
        """The last half kick."""
        self._run("langevin_kick", velocity, velocity.pointer, gradient.pointer, *velocity.shape, width, dt)

    def assign(
        self, x: DeviceArray, y: DeviceArray, _most: float, duals: DeviceArray | None, guess: bool,
        match: DeviceArray, cost: DeviceArray, gap: DeviceArray | None, _: int,
    ) -> None:  # fmt: skip
        """Assignments to one support."""
        self._run(
            "assign", x, x.pointer, len(x), y.pointer, 1, *x.shape[1:], match.pointer, guess, _address(duals),
            cost.pointer, _address(gap),
        )  # fmt: skip

    def wasserstein2(self, a: DeviceArray, b: DeviceArray, _most: float, out: DeviceArray, _: int) -> None:
        """Distances of all pairs."""
        self._run(
            "assign", a, a.pointer, len(a), b.pointer, len(b), *a.shape[1:], 0, False, 0, out.pointer, 0
        )

    def barycenter(
        self, x: DeviceArray, weights: DeviceArray, start: bool, y: DeviceArray, match: DeviceArray,
        history: DeviceArray, objective: DeviceArray,
    ) -> None:  # fmt: skip
        """All iterations; y holds the start, or with start=False gets it from the heaviest particle."""
        self._run(
            "barycenter", x, x.pointer, *x.shape, weights.pointer, start, y.pointer, math.prod(history.shape),
            match.pointer, history.pointer, objective.pointer,
        )  # fmt: skip

    def sinkhorn(
        self, x: DeviceArray, y: DeviceArray, _most: float, epsilon: float, tolerance: float, iterations: int,
        cost: DeviceArray, error: DeviceArray, projection: DeviceArray, _: int,
    ) -> None:  # fmt: skip
        """Entropic transport to one support."""
        self._run(
            "sinkhorn", x, x.pointer, *x.shape, y.pointer, len(y), epsilon, tolerance, iterations,
            cost.pointer, error.pointer, projection.pointer,
        )  # fmt: skip

    def transport_update(
        self, x: DeviceArray, y: DeviceArray, task: None, match: DeviceArray, *args: Any
    ) -> None:
        """One support for all; `args`: the numbers of the step and the target."""
        *numbers, target, _ = args
        self._run(
            "transport_update", x, x.pointer, y.pointer, match.pointer, target.pointer, *x.shape, *numbers
        )
