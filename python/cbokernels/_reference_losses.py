"""Losses and their slopes in plain NumPy float64, part of `reference`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np


def _cross_entropy(g: Any, labels: Any, _: float) -> Any:
    return np.logaddexp.reduce(g, axis=-1) - np.take_along_axis(g, _column(labels, g), -1)[..., 0]


def _cross_entropy_slope(g: Any, labels: Any, _: float) -> Any:
    softmax = np.exp(g - np.logaddexp.reduce(g, axis=-1, keepdims=True))
    return softmax - _is_label(g, labels)


def _column(labels: Any, g: Any) -> Any:
    return np.broadcast_to(np.asarray(labels).astype(np.int64)[:, None], (*g.shape[:-1], 1))


def _is_label(g: Any, labels: Any) -> Any:
    return np.arange(g.shape[-1]) == _column(labels, g)


def _signed(g: Any, labels: Any) -> Any:
    """t g of one output, with t = -1 for label 0 and 1 for label 1."""
    return (2 * _column(labels, g) - 1) * g


def _margin(g: Any, labels: Any) -> tuple[Any, Any]:
    """What the hinge is 0 below, and its slope above."""
    if g.shape[-1] == 1:
        return 1 - _signed(g, labels)[..., 0], 1 - 2.0 * _column(labels, g)
    own = _is_label(g, labels)
    others = np.where(own, -np.inf, g)
    rival = np.arange(g.shape[-1]) == others.argmax(-1)[..., None]
    return 1 + others.max(-1) - np.where(own, g, 0).sum(-1), rival.astype(float) - own


def _hinge_slope(g: Any, labels: Any, _: float) -> Any:
    margin, slope = _margin(g, labels)
    return (margin > 0)[..., None] * slope


def _zero_one(g: Any, labels: Any, _: float) -> Any:
    told = g[..., 0] >= 0 if g.shape[-1] == 1 else g.argmax(-1)
    return np.where(np.isnan(g).any(-1), math.nan, told != np.asarray(labels))


# Losses [..., S] of outputs g [..., S, C] against values [S, C] or labels [S], and their slopes in g; last a
# loss's parameter.
LOSSES: dict[str, Callable[[Any, Any, float], Any]] = {
    "mse": lambda g, y, _: ((g - y) ** 2).sum(-1),
    "mae": lambda g, y, _: np.abs(g - y).sum(-1),
    "huber": lambda g, y, delta: np.where(
        np.abs(g - y) <= delta, (g - y) ** 2 / 2, delta * (np.abs(g - y) - delta / 2)
    ).sum(-1),
    "pinball": lambda g, y, q: np.maximum((1 - q) * (g - y), -q * (g - y)).sum(-1),
    "hinge": lambda g, y, _: np.maximum(_margin(g, y)[0], 0),
    "logistic": lambda g, y, _: np.logaddexp(0, -_signed(g, y))[..., 0],
    "cross_entropy": _cross_entropy,
    "zero_one": _zero_one,
}
LOSS_SLOPES: dict[str, Callable[[Any, Any, float], Any]] = {
    "mse": lambda g, y, _: 2 * (g - y),
    "mae": lambda g, y, _: np.sign(g - y),
    "huber": lambda g, y, delta: np.clip(g - y, -delta, delta),
    "pinball": lambda g, y, q: (1 - q) * (g > y) - q * (g < y),
    "hinge": _hinge_slope,
    "logistic": lambda g, y, _: np.exp(-np.logaddexp(0, -g)) - _column(y, g),
    "cross_entropy": _cross_entropy_slope,
}
