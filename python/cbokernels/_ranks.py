"""The processes that share one ensemble, each with its slice of the particles.

A method asks its `Ranks` for what depends on all particles. The class in this file is one process alone; that
of several is `_mpi.Communicator`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from . import _cpu
from ._arrays import Array

R = TypeVar("R")
E = TypeVar("E", bound=BaseException)
Leaf = Callable[[int, int], Array]
Combine = Callable[[Array, Array], None]


class Ranks:
    """One process, which holds all particles and exchanges nothing.

    first, last: its particles; total: all ranks'. `deal` sets them.
    """

    rank, size = 0, 1
    local = 0  # the rank among those on this machine
    alone = True  # whether whole epochs may be done without an exchange
    ordered = False  # whether sums are formed in an order that does not depend on the number of ranks
    alike = False  # whether the other ranks have the same particles, and meet the same errors
    cuda_aware = False  # whether `add_on_card` can be asked for
    first = last = total = 0

    def deal(self, total: int, unit: int = 1, name: str = "N") -> slice:
        """Share out so many particles (or, by name "S", samples), whole units of them as far as they go; this
        rank's."""
        self.first, self.last, self.total = 0, total, total
        return slice(0, total)

    def all_of(self, own: int) -> int:
        """All ranks' particles, where this one has so many."""
        return own

    def part_of(self, theta: Any, own: slice) -> Any:
        """The rows `own` of an array that has not been looked at yet."""
        return theta

    def part(self, values: Array) -> Array:
        """This rank's of values [N, ...] of all particles."""
        return values

    def own(self, rows: Array) -> Array:
        """Of ascending numbers of particles those that are this rank's, counted from its first."""
        return rows

    def lead(self, answer: Callable[[], R]) -> R:
        """What the first rank answers; the others do not ask."""
        return answer()

    def spread(self, values: Array) -> None:
        """Fill an array with the first rank's."""

    def gather(self, values: Array, uneven: bool = False) -> Array:
        """The ranks' arrays one after the other, along the first axis; uneven: entries for some particles."""
        return values

    def variance(self, theta: Array, threads: int) -> float:
        """(1/2N) Σ |theta_n - mean|² of all particles."""
        return _cpu.variance(theta, threads)

    def merge(self, leaf: Leaf, combine: Combine, rows: Array | None = None) -> Array:
        """The combination of all particles' states.

        leaf(a, b) is the state of the rows [a, b) of this rank, a float64 vector. combine(other, into) adds
        another to it; combine(a, b) gives the bits of combine(b, a). rows: where not all particles count, the
        numbers of this rank's that do, counted from its first.
        """
        return leaf(0, self.total)

    def add(self, values: Array) -> Array:
        """The sum over ranks of a few float64 numbers that are whole, so that their order means nothing."""
        return values

    def add_on_card(self, address: int, count: int) -> None:
        """Turn so many float64 numbers on this rank's card into their sums over ranks."""
        raise NotImplementedError

    def tell(self, what: R) -> list[R]:
        """What each rank says, by rank."""
        return [what]

    def compare(self, what: R) -> list[R]:
        """As `tell`, before `start`: an error unless all ranks have got here."""
        return [what]

    def start(self, arguments: dict[str, str]) -> None:
        """Before the first step: an error unless all ranks have got here, with the same arguments."""

    def end(self, error: BaseException, saved: str, trace: bool = True) -> None:
        """The run ends by an exception; where only this rank knows of it the whole job ends here.
        trace: whether it is told where the error is from."""

    @contextlib.contextmanager
    def told_by_one(self) -> Iterator[None]:
        """Only the first rank warns."""
        yield


class Replicas(Ranks):
    """A rank that has all particles, as the others have: what they share out is the data."""

    alike = True


ALONE = Ranks()
_COMMON = "_cbokernels_common"


def common(error: E) -> E:
    """An error that is raised on all ranks at the same place."""
    setattr(error, _COMMON, True)
    return error


def is_common(error: BaseException | None) -> bool:
    """Whether an error, or one that it comes from, is raised on all ranks."""
    while error is not None:
        if hasattr(error, _COMMON):
            return True
        error = error.__cause__
    return False


def shares(total: int, ranks: int, unit: int = 1) -> list[int]:
    """Where the ranks' shares of so many particles begin, and the end: as equal as whole units can be."""
    units = -(-total // unit)
    return [min(unit * (units * r // ranks), total) for r in range(ranks + 1)]


def nodes_of(first: int, last: int, leaves: int) -> list[tuple[int, int]]:
    """The fewest nodes (k, j) of the binary tree over `leaves` that are together its leaves [first, last).

    Node (k, j) has the leaves [j 2^k, (j + 1) 2^k), as far as there are so many.
    """
    nodes = []
    while first < last:
        k = 0
        while first % (2 << k) == 0 and min(first + (2 << k), leaves) <= last and (1 << k) < leaves:
            k += 1
        nodes.append((k, first >> k))
        first += 1 << k
    return nodes


def fold(k: int, j: int, leaves: int, value: Callable[[int, int], Array | None], combine: Combine) -> Array:
    """The state of node (k, j): what `value` knows, or its halves combined."""
    if (known := value(k, j)) is not None:
        return known
    left = fold(k - 1, 2 * j, leaves, value, combine)
    if (2 * j + 1) << (k - 1) < leaves:
        combine(fold(k - 1, 2 * j + 1, leaves, value, combine), left)
    return left


def add_up(other: Array, into: Array) -> None:
    """`Combine` of sums."""
    into += other


def combine_moments(other: Array, into: Array) -> None:
    """`Combine` of states (n, Σ|theta - mean|², mean [D]) [Chan, Golub, LeVeque 1983]."""
    n, m = other[0], into[0]
    if n == 0 or m == 0:
        if m == 0:
            into[:] = other
        return
    apart = other[2:] - into[2:]
    into[2:] = (n * other[2:] + m * into[2:]) / (n + m)
    into[1] = (other[1] + into[1]) + np.square(apart).sum() * (n * m / (n + m))
    into[0] = n + m


def moments(theta: Array, threads: int) -> Array:
    """The state of particles [n, D] for `combine_moments`."""
    n, size = theta.shape
    state = np.zeros(2 + size)
    if n:
        state[0], state[1] = n, 2 * n * _cpu.variance(theta, threads)
        _cpu.weighted_sums(theta, np.full((n, 1), 1.0), state[2:].reshape(1, size), threads)
        state[2:] /= n
    return state


def launched() -> bool:
    """Whether this process is one of several that a launcher of MPI has started."""
    sizes = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    return "PMIX_RANK" in os.environ or any(os.environ.get(name, "1") not in ("", "1") for name in sizes)
