"""Losses with a parameter; those without one are names.

L(y, g) of one sample, with e_c = g_c - y_c:

    "mse"            Σ_c e_c²
    "mae"            Σ_c |e_c|
    "huber"          Σ_c e_c² / 2 where |e_c| <= delta, else delta (|e_c| - delta / 2)
    "pinball"        Σ_c (1 - q) e_c where e_c > 0, else -q e_c
    "cross_entropy"  log Σ_c exp(g_c) - g_y
    "hinge"          max(0, 1 + max_{c != y} g_c - g_y) [Crammer, Singer 2001]; of one output max(0, 1 - t g)
    "logistic"       log(1 + exp(-t g)), of one output
    "zero_one"       0 where y is the first of the largest outputs', else 1; of one output 0 where y is 1 for
                     g >= 0, or 0 for g < 0

"cross_entropy" to "zero_one" compare with labels y in [0, C). One output tells two labels apart, 0 and 1,
taken as t = -1 and 1 (not in "cross_entropy", which is 0 then). "zero_one" has no gradient. At a corner the
others' slope is 0, and of equal rivals in "hinge" the first one has it.

A loss of one's own is a function in Python, outputs [n, S, C] and y (values [S, C], or labels [S] where it
holds integers) -> [n]; or a C function of one sample, double(const T *outputs, const T *target, int64_t C)
with T the particles' type, which is float or double: a `scipy.LowLevelCallable`, a Numba `cfunc`, or ctypes'
with restype and argtypes. Its target is [C] values, or one label as T. Both are without a gradient and run on
the CPU. The Python function gets outputs in blocks of bounded memory and takes no sample_weight; threads call
the C function at the same time.
"""

from __future__ import annotations

import dataclasses

from ._checks import positive, unit


@dataclasses.dataclass(frozen=True)
class Huber:
    """The loss "huber" with another `delta`: squares up to there, and straight lines from there on.

    delta: above 0 and finite (default 1.0), else ValueError; TypeError for another kind.
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "delta", positive(self.delta, "delta", infinite=False))


@dataclasses.dataclass(frozen=True)
class Pinball:
    """The loss "pinball" of another `quantile` q: its minimum over constants is the q-quantile of y.

    quantile: in [0, 1] (default 0.5, half of "mae"), else ValueError; TypeError for another kind.
    """

    quantile: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "quantile", unit(self.quantile, "quantile", closed=True))


NAMES: dict[type, str] = {Huber: "huber", Pinball: "pinball"}
