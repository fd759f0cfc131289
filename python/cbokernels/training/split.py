"""Training data whose samples are dealt out to the ranks of a communicator; every rank has all particles.

A rank scores the particles on its own samples of each batch. With W the sum of the samples' weights (their
number, where they have none), W R adds up over ranks, and so do its gradient and W.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .._arrays import Array, view
from .._ranks import Combine, Ranks, Replicas, add_up
from ..methods.hopping_ranks import DrawnOnHost, shared_gradient
from ..network import TwoLayer
from .counting import samples_axis
from .data import Data, DataBatch, Orders

if TYPE_CHECKING:
    from .._cpu import KernelLoss, Key

_PIECES = 4096  # that the samples are divided into at most, and whole ones dealt out


def own_samples(
    ranks: Ranks, net: TwoLayer, x: Any, y: Any, loss: KernelLoss | None, task_axes: tuple[str, ...] | None,
    rows: Array | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """This rank's part of x and y, of which no more is read; all of them where `training_data` refuses them.
    From then on `ranks` has S as its total, and this rank's part. rows: the samples that are dealt out; None:
    all."""
    x, y = view(x, "x"), view(y, "y")
    axis = samples_axis(net, x, y, loss, task_axes)
    if axis is None:
        return x, y
    samples = x.shape[-2] if rows is None else len(rows)
    part: Any = ranks.deal(samples, -(-samples // _PIECES), "S")
    if rows is not None:
        part = rows[part]
    return x[..., part, :], y[(slice(None),) * axis + (part,)]


def fingerprints(data: Data, ranks: Ranks) -> dict[str, str]:
    """As those of `Data`, of all ranks' parts; they do not depend on the number of ranks."""
    from hashlib import blake2b

    told = {}
    for name, whole in data.arrays().items():
        array = data.call.host(whole)
        axis = 0 if array.ndim == 1 else 1 if name == "y" else array.ndim - 2
        size = -(-ranks.total // _PIECES)
        lead = (slice(None),) * axis
        digests = [
            blake2b(array[(*lead, slice(a, a + size))].tobytes(), digest_size=16).digest()
            for a in range(0, array.shape[axis], size)
        ]
        every = b"".join(ranks.compare(b"".join(digests)))
        shape = [*array.shape[:axis], ranks.total, *array.shape[axis + 1 :]]
        digest = blake2b(every, digest_size=16).hexdigest()
        told[name] = f"{array.dtype} {shape} in pieces with digest {digest}"
    return told


def _add(other: Array, into: Array) -> None:
    """`add_up` that sums all numbers over ranks in the same order, which MPI's own sum does not promise:
    risks that are equal, of which the ranks in hopping know, stay equal."""
    into += other


class SplitBatch(DrawnOnHost):
    """A batch's samples to score networks on, as `DataBatch`: what it says is of all ranks' samples.

    rows: this rank's samples of it, in the batch's order; None: all of them.
    """

    def __init__(self, problem: SplitProblem, rows: Array | None) -> None:
        self._problem, self._rows = problem, rows
        self._parts: dict[tuple[int, int], DataBatch | None] = {}

    def _part(self, a: int, b: int) -> DataBatch | None:
        """Those of this rank's samples [a, b) that are in the batch, if any are."""
        if (a, b) not in self._parts:
            rows: Any = slice(a, b)
            if self._rows is not None:
                rows = self._rows[(self._rows >= a) & (self._rows < b)]
            empty = len(rows) == 0 if self._rows is not None else a == b
            self._parts[a, b] = None if empty else self._problem.part(rows)
        return self._parts[a, b]

    def _sum(self, size: int, score: Callable[[DataBatch, Array], None], add: Combine = _add) -> Array:
        """The mean over all samples of what score(samples, out [size]) says of some."""

        def leaf(a: int, b: int) -> Array:
            state, part = np.zeros(size + 1), self._part(a, b)
            if part is not None and (weight := _weight(part)) > 0:
                score(part, state[:size])
                state[:size] *= weight
                state[size] = weight
            return state

        with np.errstate(over="ignore", invalid="ignore"):  # risks that are not finite
            state = self._problem.ranks.merge(leaf, add)
            mean: Array = state[:size] / (state[size] or 1.0)
        return mean

    def risk(self, theta: Array, out: Array) -> None:
        found = self._sum(out.size, lambda part, to: part.risk(theta, to.reshape(out.shape)))
        out[:] = found.reshape(out.shape)

    def own_risks(self, theta: Array, out: Array) -> None:
        out[:] = self._sum(out.size, lambda part, to: part.own_risks(theta, to))

    def hopping_risk(
        self, center: Array, particles: int, spread: float, mirrored: bool, key: Key, atoms: bool, out: Array
    ) -> None:
        def score(part: DataBatch, to: Array) -> None:
            part.hopping_risk(center, particles, spread, mirrored, key, atoms, to.reshape(out.shape))

        out[:] = self._sum(out.size, score).reshape(out.shape)

    def atoms_of(self, atoms: bool) -> Array | None:
        return self._problem.net._atom_index if atoms else None

    def gradient(self, theta: Array, out: Array, gradient: Array) -> None:
        own = np.empty_like(gradient)

        def score(part: DataBatch, to: Array) -> None:
            part.gradient(theta, to[: len(out)], own)
            to[len(out) :] = own.ravel()

        found = self._sum(out.size + gradient.size, score, add_up)
        out[:] = found[: len(out)]
        with np.errstate(over="ignore"):  # the loop warns of particles that overflow
            gradient[:] = found[len(out) :].reshape(gradient.shape)

    def hopping_gradient(
        self, center: Array, particles: int, spread: float, mirrored: bool, key: Key, atoms: bool,
        fraction: float, out: Array,
    ) -> tuple[float, float, int]:  # fmt: skip
        whole = Replicas()
        whole.deal(particles // 2 if mirrored else particles)
        return shared_gradient(
            whole, self, center, particles, spread, mirrored, key, atoms, fraction, out,
            self._problem.threads,
        )[:3]  # fmt: skip


def _weight(part: DataBatch) -> float:
    """The sum of the samples' weights."""
    return part.x.shape[-2] if part.weights is None else float(part.weights.sum(dtype=np.float64))


class SplitProblem(Orders):
    """As `DataProblem`, of which this rank has a part of the samples.

    The minibatches are those of one process; a rank's part of each is as large as it happens to be.
    """

    def __init__(
        self, net: TwoLayer, data: Data, batch_size: int | None, seed: int, threads: int, ranks: Ranks
    ) -> None:
        super().__init__(ranks.total, batch_size, seed)
        self.net, self.threads, self.ranks, self._data = net, threads, ranks, data
        self._all = SplitBatch(self, None)

    def part(self, rows: Any) -> DataBatch:
        """Some of this rank's samples."""
        data, host = self._data, self._data.call.host
        x, y = (np.ascontiguousarray(a) for a in (host(data.x)[..., rows, :], host(data.y)[:, rows]))
        weights = None if data.weights is None else np.ascontiguousarray(host(data.weights)[rows])
        return DataBatch(self.net, x, y, weights, data.loss, self.threads)

    def minibatches(self, epoch: int) -> None:
        return None

    def batches(self, epoch: int) -> Iterator[SplitBatch]:
        """As those of `DataProblem`."""
        order = self.order(epoch)
        if order is None:
            yield self._all
            return
        first, last = self.ranks.first, self.ranks.last
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            yield SplitBatch(self, rows[(rows >= first) & (rows < last)] - first)

    def risks(self, theta: Array, ensemble: int = 0) -> Array:
        """As those of `DataProblem`; all ranks ask for them at the same time."""
        if len(self._data.y) > 1:
            own = np.empty(len(theta))
            self._all.own_risks(theta, own)
            return own
        out = np.empty((len(theta), 1))
        self._all.risk(theta, out)
        return out[:, 0]
