"""Runs whose ranks have a card each and whose steps are the host's: particles are scored on the card.

So `ConsensusHopping` runs, which draws them there, and `TransportCBO`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import cuda
from .._arrays import Array
from .._arrays.memory import DeviceArray
from .._ranks import Ranks
from ..network import TwoLayer
from .card import CardScored
from .data import Data, Orders

if TYPE_CHECKING:
    from .._cpu import Key


def card_of(ranks: Ranks) -> tuple[int, int]:
    """The device of this rank among those of its machine, which its ranks take in turn; and the stream."""
    return ranks.local % max(cuda.device_count(), 1), 0


class CardBatch:
    """Samples on a card to score networks of the host's on, as `DataBatch`."""

    def __init__(self, problem: CardProblem, x: DeviceArray, y: DeviceArray, weights: DeviceArray | None):
        self.x, self.y, self.weights, self._problem = x, y, weights, problem
        self._targets = y if weights is None else (y, weights)
        self._first = y[0] if weights is None else (y[0], weights)

    def risk(self, theta: Array, out: Array) -> None:
        problem = self._problem
        there = problem.scratch("risk", out.shape, np.float64)
        problem.call("risk", problem.sent("theta", theta), self.x, self._targets, problem.loss, there)
        problem.read(there, out)

    def hopping_risk(
        self, center: Array, particles: int, spread: float, mirrored: bool, key: Key, atoms: bool, out: Array
    ) -> None:
        problem = self._problem
        there = problem.scratch("risk", out.shape, np.float64)
        drawn = (problem.sent("theta", center), particles, spread, mirrored, key)
        problem.call("hopping_risk", *drawn, self.x, self._first, problem.loss, atoms, there)
        if not mirrored:
            problem.read(there, out)
            return
        halves = np.empty((2, len(out) // 2, out.shape[1]))
        problem.read(there, halves)
        out[:] = halves.swapaxes(0, 1).reshape(out.shape)

    def noise_drift(
        self, weights: Array, atom: Array | None, key: Key, single: bool, out: Array, threads: int
    ) -> None:
        problem = self._problem
        index = None if atom is None else problem.sent("atoms", atom)
        there = problem.scratch("drift", out.shape, np.float64)
        problem.drift(problem.sent("drawn", weights), index, key, single, there)
        problem.read(there, out)

    def atoms_of(self, atoms: bool) -> Array | None:
        return self._problem.net._atom_index if atoms else None


class CardProblem(Orders):
    """As `DataProblem`, on a card. Minibatches are gathered by the host."""

    def __init__(
        self,
        net: TwoLayer,
        data: Data,
        batch_size: int | None,
        seed: int,
        precision: str,
        on: tuple[int, int],
    ) -> None:
        super().__init__(data.samples, batch_size, seed)
        self.net, self.loss, self._data = net, data.loss, data
        there, self._module = CardScored(net, data, precision, on), cuda.module()
        self._on, self._run, self._new = on, (*on, precision), there.new
        self._whole = CardBatch(self, there.x, there.y, there.weights)
        self._kept: dict[str, DeviceArray] = {}

    def scratch(self, name: str, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        """An array on the card; the same memory for the same name, shape and dtype."""
        kept = self._kept.get(name)
        if kept is None or (kept.shape, kept.dtype) != (shape, np.dtype(dtype)):
            kept = self._kept[name] = self._new(shape, np.dtype(dtype))
        return kept

    def sent(self, name: str, values: Array) -> DeviceArray:
        """The host's values there."""
        there = self.scratch(name, values.shape, values.dtype)
        self._module.write_memory(there.pointer, np.ascontiguousarray(values), self._on)
        return there

    def read(self, a: DeviceArray, out: Array) -> None:
        """An array of the card's into one of the host's."""
        self._module.read_memory(a.pointer, out, self._on)

    def call(self, kernel: str, *arguments: Any) -> None:
        """A kernel of the network's."""
        getattr(self._module, kernel)(self.net._kernel, *arguments, self._run)

    def drift(self, *arguments: Any) -> None:
        """The kernel that sums noise."""
        self._module.noise_drift(*arguments, self._run)

    def minibatches(self, epoch: int) -> None:
        return None

    def batches(self, epoch: int) -> Iterator[CardBatch]:
        """As those of `DataProblem`."""
        order, host, data = self.order(epoch), self._data.call.host, self._data
        if order is None:
            yield self._whole
            return
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            x, y = host(data.x).take(rows, data.x.ndim - 2), host(data.y).take(rows, 1)
            weights = None if data.weights is None else self.sent("weights", host(data.weights).take(rows))
            yield CardBatch(self, self.sent("x", x), self.sent("y", y), weights)

    def risks(self, theta: Array, ensemble: int = 0) -> Array:
        """As those of `DataProblem`."""
        out = np.empty((len(theta), len(self._data.y)))
        self._whole.risk(theta, out)
        return out.diagonal().copy() if out.shape[1] > 1 else out[:, 0]
