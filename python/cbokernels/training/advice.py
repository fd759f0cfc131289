"""What `train` says of data that it can train on, and better not as they are."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from .._arrays import Array, Values
from .._kinds import Loss, takes_labels
from ..errors import CboWarning
from ..network import TwoLayer
from .data import Data

# Networks start with weights of size 1 and find it hard to leave them far behind. Bytes of pictures are
# trained on all the same.
_LARGE, _SMALL = 300.0, 1e-3
_LARGE_TARGET = 100.0
_LOST = 0.01  # of a standard deviation, by rounding the mean
_OFFSET = 100.0  # mean over standard deviation, from which a neuron's kink does not reach the data
_CLASSES = 20  # more whole numbers than these are no classes, or their user knows


def advise(data: Data, y: Values, net: TwoLayer, loss: Loss | None) -> None:
    """Warn, at the caller of the public function, of what y as it was given and the data that it became show.

    What lies on a card is not looked at.
    """
    if data.call.on_device:
        return
    given, x = data.call.host(y), data.call.host(data.x)
    if loss is None and net.outputs == 1 and not data.task_axis and _look_like_classes(given):
        zero = "make them 0 and 1, " if given.min() < 0 else ""
        _warn(
            f"y holds {'booleans' if given.dtype == bool else 'integers'} that look like class labels, and a "
            f"network of one output takes them as values, with loss 'mse': for classes {zero}take outputs=2 "
            "(or as many as there are) and loss 'cross_entropy', or 'logistic'; for values say loss='mse'"
        )
    if words := _trouble(x.reshape(-1, x.shape[-1])):
        _warn(
            f"x {words}: take standardize=True, or centre its columns and divide them by their standard "
            "deviations (those that are constant tell nothing and can be left out)"
        )
    if not takes_labels(data.loss):
        size = _root_mean_square(data.call.host(data.y).reshape(-1, 1))[0]
        if size > _LARGE_TARGET:
            _warn(f"y is of size {size:.3g}, which a network reaches slowly: scale it to a size near 1")


def _look_like_classes(y: Array) -> bool:
    """Whether these are booleans, or all of 0, 1, ..., K - 1, or -1 and 1."""
    if y.dtype.kind not in "iub":
        return False
    low, high = int(y.min()), int(y.max())
    if not -1 <= low <= 0 < high < _CLASSES:
        return False
    values = np.unique(y)
    return len(values) == 2 if low < 0 else len(values) == high + 1


def _trouble(x: Array) -> str:
    """What is wrong with columns [S, d], in words; empty where nothing is."""
    size = _root_mean_square(x)
    if size.max() > _LARGE:
        return f"is not scaled: {_named(size > _LARGE)} of size {size.max():.3g}"
    if 0 < size.max() < _SMALL:
        return f"is not scaled: no column is larger than {size.max():.3g}"
    mean = x.mean(axis=0, dtype=np.float64)
    spread = np.sqrt(np.maximum(size**2 - mean**2, 0))
    far = (np.abs(mean) > 1) & (np.abs(mean) > _OFFSET * spread)
    return f"is all but constant in {_named(far)}, far from 0" if far.any() and len(x) > 1 else ""


def _root_mean_square(x: Array) -> Array:
    """Of the columns, float64."""
    largest = max(float(x.max()), -float(x.min()))
    scale = 1.0 if largest == 0 or 1e-100 < largest < 1e100 else largest  # whose squares are numbers
    scaled = x if scale == 1 else x / scale
    size: Array = scale * np.sqrt(np.einsum("sd,sd->d", scaled, scaled, dtype=np.float64) / len(x))
    return size


def _named(columns: Array) -> str:
    """The first columns of those that a mask [d] marks."""
    found = np.flatnonzero(columns).tolist()
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return f"column{'s' if len(found) > 1 else ''} {', '.join(map(str, found[:5]))}{more}"


def advise_on_folding(mean: Array, scale: Array, dtype: np.dtype[Any]) -> None:
    """Warn of columns [d] whose mean and scale parameters of this dtype cannot take in."""
    told: Any = np.finfo(dtype)
    with np.errstate(over="ignore"):
        lost = (np.abs(mean) / scale * told.eps > _LOST) | (1 / scale > told.max)
    if lost.any():
        k = int(lost.argmax())
        _warn(
            f"column {k} of x has mean {mean[k]:.3g} and is divided by {scale[k]:.3g}, which {dtype} "
            "parameters for x itself cannot take in: predictions will differ from the history. Centre and "
            "scale x yourself" + (", or take dtype='float64'" if dtype == np.float32 else "")
        )


def _warn(message: str) -> None:
    warnings.warn(message, CboWarning, stacklevel=5)  # _warn, advise, _data, the public function, its caller
