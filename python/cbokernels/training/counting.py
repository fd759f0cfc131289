"""The samples that count: those whose weight is not 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import cuda
from .._arrays import Array, Call, Values, check_shape, view
from .._inputs import readable
from .._kinds import takes_labels
from ..network import TwoLayer
from ..risk import check_weights
from .data import axes_shown, loss_for

if TYPE_CHECKING:
    from .._cpu import KernelLoss


def weights_that_count(
    call: Call, sample_weight: Any, x: Any, dtype: np.dtype[Any]
) -> tuple[Values | None, Array | None]:
    """The caller's weights [S], cast and checked, as a copy without those that are 0; the numbers of the
    samples that stay, None for all. None for an x without samples, which `training_data` refuses."""
    name, shape = "sample_weight", _seen(call, x, "x").shape
    if len(shape) < 2:
        return None, None
    samples = shape[-2]
    weights = call.floats(readable(sample_weight, name), name, dtype)
    check_shape(weights, name, (samples,))
    host = call.host(weights)
    check_weights(host)
    rows = np.flatnonzero(host)
    if len(rows) == samples:
        return call.copy(weights), None
    return _taken(call, weights, rows, 0), rows


def samples_that_count(
    call: Call, net: TwoLayer, x: Any, y: Any, loss: KernelLoss | None, task_axes: tuple[str, ...] | None,
    rows: Array,
) -> tuple[Any, Any]:  # fmt: skip
    """These samples of the caller's x and y, copied; both as they are where `training_data` refuses them."""
    x, y = _seen(call, x, "x"), _seen(call, y, "y")
    axis = samples_axis(net, x, y, loss, task_axes)
    return (x, y) if axis is None else (_taken(call, x, rows, x.ndim - 2), _taken(call, y, rows, axis))


def _seen(call: Call, value: Any, name: str) -> Any:
    """An array of the caller's; one of the host's is not copied, whatever its layout."""
    return call.view(value, name) if call.on_device else view(value, name)


def _taken(call: Call, a: Any, rows: Array, axis: int) -> Any:
    """Some entries along an axis, as a copy; those of an array on a card go by way of the host."""
    taken = call.host(a).take(rows, axis)
    if not call.on_device:
        return taken
    there = call.empty(taken.shape, taken.dtype)
    cuda.module().write_memory(call.address(there), taken, call.on)
    return there


def samples_axis(
    net: TwoLayer, x: Any, y: Any, loss: KernelLoss | None, task_axes: tuple[str, ...] | None
) -> int | None:
    """The axis of y's samples; None where x and y have no samples, or not as many."""
    samples = x.shape[-2] if x.ndim > 1 else 0
    if task_axes is None:
        own = ("T",) if x.ndim == 3 else ()
        task_axes = own or axes_shown(net, x, y, takes_labels(loss_for(net, y, loss)))
    axis = len(task_axes)
    return axis if samples and y.ndim > axis and y.shape[axis] == samples else None
