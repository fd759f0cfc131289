"""The caller's data as a run needs it: checked and cast once, then served in minibatches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from . import _cpu
from ._arrays import Array, check_shape, view
from ._checks import choice, kind
from .network import TwoLayer
from .risk import LOSSES
from .risk import _targets as targets

_ORDER = 2  # stream of the random numbers that shuffle the data


def floats(value: Any, name: str, dtype: np.dtype[Any]) -> Array:
    """Contiguous array of `dtype`, cast from any real dtype, without NaN and infinities."""
    a = view(value, name)
    if a.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got {a.dtype} ({kind(value)})")
    with np.errstate(over="ignore"):
        a = np.ascontiguousarray(a, dtype=dtype)
    finite = np.isfinite(a)
    if not finite.all():
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(f"{name} must be finite as {dtype}, got {a[index]} at {list(index)}")
    return a


def training_data(
    net: TwoLayer, x: Any, y: Any, loss: str | None, dtype: np.dtype[Any]
) -> tuple[Array, Array, str]:
    """x [S, d], y [1, S, C] of `dtype` or [1, S] int32 labels, and the loss they are for."""
    x = floats(x, "x", dtype)
    check_shape(x, "x", ("S", net.inputs))
    if loss is None:
        loss = "cross_entropy" if view(y, "y").dtype.kind in "iu" and net.outputs > 1 else "mse"
    if choice(loss, "loss", LOSSES) == "mse":
        y = floats(y, "y", dtype)
    return x, targets(net, y, "y", (), x, loss), loss


class DataBatch:
    """Samples to score networks on. Its arrays are filled anew for each minibatch."""

    def __init__(self, net: TwoLayer, x: Array, y: Array, threads: int) -> None:
        self.x, self.y = x, y
        self._net, self._threads = net._kernel, threads

    def risk(self, theta: Array, out: Array) -> None:
        _cpu.risk(self._net, theta, self.x, self.y, out, self._threads)


class DataProblem:
    """Training data in minibatches: each epoch one shuffled partition, the smaller last batch kept.

    Without a batch size the whole data, in their own order, are each epoch's only batch.
    """

    def __init__(
        self, net: TwoLayer, x: Array, y: Array, *, batch_size: int | None, seed: int, threads: int
    ) -> None:
        self._whole = DataBatch(net, x, y, threads)
        self._seed = seed
        self._order = np.empty(0 if batch_size is None else len(x), np.int64)
        self._parts: list[tuple[Array, DataBatch]] = []
        buffers: dict[int, DataBatch] = {}
        for start in range(0, len(self._order), batch_size or 1):
            rows = self._order[start : start + (batch_size or 1)]
            if len(rows) not in buffers:
                xb = np.empty((len(rows), *x.shape[1:]), x.dtype)
                yb = np.empty((len(y), len(rows), *y.shape[2:]), y.dtype)
                buffers[len(rows)] = DataBatch(net, xb, yb, threads)
            self._parts.append((rows, buffers[len(rows)]))
        self.steps_per_epoch = max(1, len(self._parts))
        self._full_risk = np.empty((1, 1))

    def batches(self, epoch: int) -> Iterator[DataBatch]:
        """The epoch's minibatches; each is valid until the next one is asked for."""
        if not self._parts:
            yield self._whole
            return
        x, y = self._whole.x, self._whole.y
        _cpu.permutation(self._order, len(x), self._seed, epoch, _ORDER)
        for rows, batch in self._parts:
            # "clip" is NumPy's only mode that writes straight into `out`; the rows are in range anyway.
            x.take(rows, 0, batch.x, "clip")
            y.take(rows, 1, batch.y, "clip")
            yield batch

    def point_risk(self, point: Array) -> float:
        """Risk of one network on the full data."""
        self._whole.risk(point[None], self._full_risk)
        return self._full_risk.item()
