"""The workloads, the items that are timed on them, and the ratios that they must show.

A: N=200 networks of M=100 neurons, d=1, C=1, S=800 samples, ReLU, squared error. At: the same with tanh.
B: N=1000, M=20, d=784, C=10, S=1000, ReLU, cross entropy, 19 % of the inputs non-zero; "B dense": all.
C: N=64, M=4096, d=16, C=1, S=1024, tanh, squared error.
D: N=100 measures of M atoms in R^3 (N=8 for M=1000, 2 for M=2000 in R^100), assigned to one support; "random"
is uniform on [-1, 1]^K, "near" within 0.01 of the support.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LAMBDA, SIGMA, DT, ALPHA, FLOOR = 1.0, 1.6**0.5, 0.1, 1e5, 0.01  # of a training step
SMALL = (
    0.01 * DT,
    0.03 * DT**0.5,
)  # lambda dt and sigma sqrt(dt) of a lone update: its ensemble must not freeze


@dataclass(frozen=True)
class Workload:
    """Networks x -> sum_m c_m act(w_m x + b_m) / M, of parameters (w [M, d], b [M], c [C, M])."""

    inputs: int
    width: int
    outputs: int
    activation: str
    samples: int  # of a step
    thetas: list[Array]  # ensembles [N, D]: on a repeated one the branch predictor learns the particles
    x: Array  # [samples times the batches of an epoch, d]
    y: Array

    @property
    def particles(self) -> int:
        return len(self.thetas[0])

    @property
    def multiply_adds(self) -> float:
        """Of the two products of a risk."""
        return float(self.particles * self.samples * self.width * (self.inputs + self.outputs))

    def batch(self) -> tuple[Array, Array]:
        return self.x[: self.samples], self.y[: self.samples]

    def risks(self) -> list[Array]:
        """Risks [N] for a consensus, by turn: another particle is best in each."""
        risk = np.random.default_rng(2).random(self.particles)
        return [np.roll(risk, 37 * turn) for turn in range(8)]

    def unpack(self, theta: Any) -> tuple[Any, Any, Any]:
        """w [..., M, d], b [..., M], c [..., C, M], of NumPy's, PyTorch's or JAX's arrays."""
        d, m, c = self.inputs, self.width, self.outputs
        lead = theta.shape[:-1]
        w, b, v = theta[..., : m * d], theta[..., m * d : m * d + m], theta[..., m * d + m :]
        return w.reshape(*lead, m, d), b, v.reshape(*lead, c, m)


SHAPES = {  # N, M, d, C, samples, activation, ensembles, batches of an epoch, share of inputs that are not 0
    "A": (200, 100, 1, 1, 800, "relu", 5, 10, 1.0),
    "At": (200, 100, 1, 1, 800, "tanh", 5, 10, 1.0),
    "B": (1000, 20, 784, 10, 1000, "relu", 2, 10, 0.19),
    "B dense": (1000, 20, 784, 10, 1000, "relu", 2, 10, 1.0),
    "C": (64, 4096, 16, 1, 1024, "tanh", 2, 1, 1.0),
}


def workload(name: str, whole_epoch: bool = False) -> Workload:
    """The data of a workload, float32, labels int64; one batch of it unless a whole epoch is asked for."""
    n, m, d, c, samples, activation, ensembles, batches, density = SHAPES[name]
    rng = np.random.default_rng(list(name.encode()))
    thetas = [rng.uniform(-1, 1, (n, m * (d + 1 + c))).astype(np.float32) for _ in range(ensembles)]
    rows = samples * (batches if whole_epoch else 1)
    x = rng.random((rows, d), np.float32)
    if density < 1:
        x *= rng.random((rows, d), np.float32) < density
    if c > 1:
        y: Array = rng.integers(0, c, rows)
    else:
        y = np.sin(2 * np.pi * x[:, 0]) + 0.01 * rng.standard_normal(rows).astype(np.float32)
    return Workload(d, m, c, activation, samples, thetas, x, y)


def measures(count: int, kind: str, coordinates: int = 3) -> tuple[Array, Array]:
    """Workload D: three ensembles of atoms [3, N, M, K] and a support [M, K], float32."""
    rng = np.random.default_rng([count, kind == "near"])
    support = rng.uniform(-1, 1, (count, coordinates))
    shape = (3, 100 if count < 1000 else 8 if count < 2000 else 2, *support.shape)
    atoms = support + 0.01 * rng.normal(size=shape) if kind == "near" else rng.uniform(-1, 1, shape)
    return atoms.astype(np.float32), support.astype(np.float32)


@dataclass(frozen=True)
class Goal:
    """At least `ratio` times as fast as the fastest contestant whose name matches one of the patterns."""

    ratio: float
    against: tuple[str, ...] = ("*",)


@dataclass(frozen=True)
class Item:
    """What contestants are timed at. kind: risk, gradient (and risk), step (of training), update, consensus,
    assign."""

    name: str
    workload: str
    kind: str
    goals: tuple[Goal, ...] = ()
    share: float | None = None  # of the multiply-add rate that must be reached
    setting: tuple[Any, ...] = ()  # consensus: (alpha,); assign: (M, "random" or "near") and K

    def chosen(self, words: list[str]) -> bool:
        """Whether one of the words is its name, its workload, or a letter of D's."""
        return not words or bool({self.name, self.workload, self.kind} & set(words))


TORCH_COMPILED = ("PyTorch compile*",)

ITEMS = [
    Item("A risk", "A", "risk", (Goal(90, ("NumPy loop",)), Goal(2.9, TORCH_COMPILED)), 0.85),
    Item("At risk", "At", "risk", (Goal(8.5, ("NumPy loop", "PyTorch compile*")),)),
    Item("A gradient", "A", "gradient", (Goal(40, ("PyTorch compile vmap(grad)*",)),)),
    Item("At gradient", "At", "gradient"),
    Item("A step", "A", "step", (Goal(3.5, TORCH_COMPILED), Goal(70, ("CBXpy*",)))),
    Item("B dense risk", "B dense", "risk", (Goal(2.6, ("NumPy product",)),), 0.85),
    Item("B risk", "B", "risk", (Goal(4.8, ("NumPy product",)),)),
    Item("B dense gradient", "B dense", "gradient", (Goal(2.5, ("JAX*", "PyTorch*")),)),
    Item("B gradient", "B", "gradient", (Goal(2.5, ("JAX*", "PyTorch*")),)),
    Item("B step", "B", "step", (Goal(6),)),
    Item("C risk", "C", "risk", (Goal(4.5),)),
    Item("C gradient", "C", "gradient", (Goal(8),)),
    Item("A update", "A", "update", (Goal(6, ("PyTorch*",)),)),
    Item("B update", "B", "update", (Goal(11, ("PyTorch*",)),)),
    Item("C update", "C", "update", (Goal(9, ("PyTorch*",)),)),
    Item("B consensus", "B", "consensus", (Goal(40, ("NumPy",)),), setting=(ALPHA,)),
    Item("B consensus, full read", "B", "consensus", (Goal(1, ("NumPy",)),), setting=(0.0,)),
    *(
        Item(
            f"D {kind} M={count}",
            "D",
            "assign",
            (Goal(goal, ("SciPy on * processes",)),) if count == 200 else (),
            setting=(count, kind),
        )
        for kind, goal in (("random", 4.5), ("near", 25.0))
        for count in (10, 50, 100, 200, 1000)
    ),
    *(
        Item(f"D {kind} M=2000 K=100", "D", "assign", setting=(2000, kind, 100))
        for kind in ("random", "near")
    ),
]


@dataclass(frozen=True)
class Contestant:
    """`call(turn)` does the item's work `units` times and returns when it is done; the turn chooses the
    ensemble. `check()` returns the arrays whose error is reported; None: those of call(0).
    """

    call: Callable[[int], Any]
    check: Callable[[], Any] | None = None
    units: int = 1
    in_place: bool = False  # what a call returns is its input
