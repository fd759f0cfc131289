"""Inputs centred and scaled inside a run; parameters of the caller's inputs outside."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from .._arrays import HOST, Array, on_cuda
from ..network import TwoLayer, of_raw_inputs
from ..result import Result, State


@dataclasses.dataclass(frozen=True)
class Standard:
    """Inputs x [..., d] as (x - mean) / scale, for a network's parameters.

    A first layer w, b for these is w / scale, b - (w / scale) mean for x itself.
    """

    net: TwoLayer
    mean: Array  # [d], float64
    scale: Array

    @classmethod
    def of(cls, net: TwoLayer, x: Any) -> Standard | None:
        """From training data's mean and standard deviation; columns that are constant have scale 1. None for
        what are no inputs of the network, which `training_data` says. TypeError for x on a card; ValueError
        for what is not finite, or whose deviation is not."""
        if on_cuda(x):
            raise TypeError("x must lie in host memory for standardize=True, got an array in CUDA memory")
        values: Any = HOST.view(x, "x")
        if values.dtype.kind not in "fiub" or values.ndim < 2 or values.shape[-1] != net.inputs:
            return None
        rows = values.reshape(-1, net.inputs)
        if not len(rows):
            return None
        if values.dtype.kind == "f":
            HOST.check_finite(
                values, "x"
            )  # before a NaN spreads to its whole column, so that the message names the entry
        with np.errstate(over="ignore", invalid="ignore"):
            mean, scale = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
        if not np.isfinite(scale).all():
            column = int(np.argmin(np.isfinite(scale)))
            raise ValueError(
                f"x must have finite deviations for standardize=True, got {scale[column]} in column {column}"
            )
        constant = (rows == rows[0]).all(axis=0)
        return cls(net, np.where(constant, rows[0], mean), np.where(constant | ~(scale > 0), 1.0, scale))

    def apply(self, x: Any, name: str) -> Any:
        """x as the run sees it, float64; what is of another shape as it is."""
        values: Any = HOST.view(x, name)
        if values.dtype.kind not in "fiub" or values.ndim < 2 or values.shape[-1] != self.net.inputs:
            return x
        with np.errstate(over="ignore", invalid="ignore"):
            return (values - self.mean) / self.scale

    def fold(self, theta: Array) -> Array:
        """Parameters [..., D] of the run's inputs -> of the caller's."""
        out: Array = of_raw_inputs(self.net, theta, self.mean, self.scale)
        return out

    def unfold(self, theta: Array) -> Array:
        """The other way."""
        out = theta.copy()
        w, b, _, _ = self.net.unpack(out)
        wide: Any = w.astype(np.float64)
        b += wide @ self.mean
        w[...] = wide * self.scale
        return out

    def state(self) -> dict[str, Array]:
        """What a checkpoint keeps of it."""
        return {"input_mean": self.mean, "input_scale": self.scale}

    def result(self, result: Result) -> Result:
        """The run's as the caller's."""
        return result._of_raw_inputs(self.mean, self.scale)

    def callback(self, seen: Callable[[State], object]) -> Callable[[State], object]:
        """The caller's, which sees the caller's parameters."""

        def see(state: State) -> object:
            fields = {
                f.name: getattr(state, f.name) for f in dataclasses.fields(state) if f.name != "particles"
            }
            fields["point"] = self.fold(state.point)
            return seen(State._later(lambda: self.fold(state.particles), **fields))

        return see
