"""The risk of networks as an objective function for CBXpy, which has many more dynamics of this kind.

    f = cbokernels.cbx.objective(net, x, y)
    cbx.dynamics.CBO(f, f_dim="3D", x=particles).optimize()    # particles (M, N, D)

CBXpy itself is not needed to make one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arrays import call_of
from ._checks import kind
from ._inputs import readable
from ._kinds import Loss, is_own, loss_of, takes_labels
from .network import TwoLayer, check_network
from .risk import check_one_per_sample, risk


class Objective:
    """Risks (M, N) of networks (M, N, D), one row for each of M runs, as `objective` describes them."""

    def __init__(
        self, net: TwoLayer, x: Any, y: Any, loss: Loss, sample_weight: Any, num_threads: int | None
    ) -> None:
        self.net, self._loss, self._threads = check_network(net), loss, num_threads
        self._x, self._y = readable(x, "x"), readable(y, "y")
        self._weights = None if sample_weight is None else readable(sample_weight, "sample_weight")
        self._labels: bool | None = None  # once y has been looked at
        if not is_own(told := loss_of(loss, net.outputs)):
            self._labels = takes_labels(told)
        if self._labels is False and isinstance(self._y, np.ndarray):
            check_one_per_sample(self._y, "y", (len(self._x),), net.outputs)
        self._cast: dict[str, tuple[Any, Any, Any]] = {}  # the data by the dtype that they have been cast to

    def __call__(self, particles: Any) -> Any:
        """Risks [...], float64, of particles [..., D], where these lie and in their array type."""
        if not hasattr(particles, "shape"):
            raise TypeError(f"particles must be an array, got {kind(particles)}")
        size, shape = self.net.size, tuple(particles.shape)
        if shape[-1:] != (size,):
            raise ValueError(f"particles must have shape [..., {size}], got {list(shape)}")
        theta = particles.reshape(-1, size)
        x, y, weights = self._data(theta)
        risks = risk(self.net, theta, x, y, loss=self._loss, sample_weight=weights, num_threads=self._threads)
        return risks.reshape(shape[:-1])

    def _data(self, theta: Any) -> tuple[Any, Any, Any]:
        key = f"{type(theta)} {theta.dtype}"
        if key not in self._cast:
            call = call_of(theta, "particles")
            dtype = call.view(theta, "particles").dtype
            if self._labels is None:
                self._labels = takes_labels(loss_of(self._loss, self.net.outputs, call.view(self._y, "y")))

            def cast(values: Any, name: str) -> Any:
                return call.result(call.floats(values, name, dtype))

            weights = None if self._weights is None else cast(self._weights, "sample_weight")
            self._cast[key] = cast(self._x, "x"), self._y if self._labels else cast(self._y, "y"), weights
        return self._cast[key]


def objective(
    net: TwoLayer,
    x: Any,
    y: Any,
    *,
    loss: Loss = "mse",
    sample_weight: Any = None,
    num_threads: int | None = None,
) -> Objective:
    """A function from particles (M, N, D) to their risks (M, N), float64, for CBXpy with f_dim="3D".

    The particles' dtype, float64 unless CBXpy is given others, decides the arithmetic; x [S, d], y and
    sample_weight [S] are cast to it once. They, loss and num_threads are otherwise as in `cbokernels.risk`.
    The function takes arrays [..., D] of any number of axes, NumPy's or PyTorch's, with x and y on the same
    device.

    ValueError for an unknown loss, and those of `cbokernels.risk` when the function is called.
    """
    return Objective(net, x, y, loss, sample_weight, num_threads)


__all__ = ["objective"]
