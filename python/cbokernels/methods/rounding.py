"""Weights of few levels, which `ConsensusHopping` trains without a gradient: "ternary" and "int8".

    Q(w) = t clip(round(w / t), -q, q),   halves to even

with q = 1 and t the mean of |w| for "ternary" [Ma et al. 2024], q = 127 and t the largest |w| / 127 for
"int8", over the weights of a layer. Biases are not rounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _cpu
from .._arrays import Array
from ..network import TwoLayer
from .hopping_ranks import DrawnOnHost

if TYPE_CHECKING:
    from .._cpu import Key

LEVELS = {"ternary": 1, "int8": 127}  # q
_PER_BYTE, _FLOAT = {"ternary": 4, "int8": 1}, 4  # weights, and bytes


def scales(net: TwoLayer, center: Array, name: str) -> Array:
    """t of each coordinate of a centre [D]; -1 where it is a bias."""
    t = np.full_like(center, -1)
    layers, of = net.unpack(t), net.unpack(center)
    for layer, weights in ((layers[0], of[0]), (layers[2], of[2])):
        size = np.abs(weights)
        layer[:] = size.mean(dtype=np.float64) if name == "ternary" else size.max() / LEVELS[name]
    return t


def rounded(net: TwoLayer, theta: Array, name: str, threads: int = 0) -> Array:
    """A network [D] with its weights rounded by its own scales."""
    network: Array = theta.copy()
    _cpu.round_rows(network[None], scales(net, theta, name), LEVELS[name], threads)
    return network


def network_bytes(net: TwoLayer, name: str | None) -> int:
    """Of a network whose weights are rounded, or are floats, as its biases and its layers' scales are."""
    if name is None:
        return _FLOAT * net.size
    layers = net.width * net.inputs, net.width * net.outputs
    biases = net.size - sum(layers)
    return sum(-(-weights // _PER_BYTE[name]) + _FLOAT for weights in layers) + _FLOAT * biases


class RoundedBatch(DrawnOnHost):
    """A batch that rounds the particles drawn around a centre, by the centre's scales, before it scores
    them."""

    def __init__(self, batch: Any, net: TwoLayer, name: str) -> None:
        self._batch, self._net, self._name = batch, net, name
        self.atoms_of = batch.atoms_of

    def hopping_risk(
        self, center: Array, particles: int, spread: float, mirrored: bool, key: Key, atoms: bool, out: Array
    ) -> None:
        """As a `DataBatch`'s."""
        rounding = scales(self._net, center, self._name), LEVELS[self._name]
        self._batch.formed_risk(center, particles, spread, mirrored, key, atoms, out, rounding)
