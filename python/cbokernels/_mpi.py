"""The ranks of an MPI communicator, by mpi4py, which share the particles of a run."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ._arrays import Array
from ._extras import extra
from ._once import once
from ._ranks import (
    Combine,
    Leaf,
    R,
    Ranks,
    add_up,
    combine_moments,
    common,
    fold,
    is_common,
    moments,
    nodes_of,
    shares,
)
from .errors import CboError, CboWarning

MPI = extra("mpi4py.MPI", "cbokernels.distributed", "mpi")

_combines: list[Combine] = []  # `_combine` calls the last one: MPI allows few reductions, so one serves all


def _combine(other: Any, into: Any, kind: Any) -> None:
    """The reduction that MPI calls."""
    with np.errstate(over="ignore", invalid="ignore"):
        _combines[-1](np.frombuffer(other, np.float64), np.frombuffer(into, np.float64))


_OP = MPI.Op.Create(_combine, commute=True)


LEAVES = 64  # that the particles are divided into for sums in a fixed order


class Communicator(Ranks):
    """The ranks of an MPI communicator, which share the particles of one run.

    ordered: sums are formed leaf by leaf in a binary tree over at most `LEAVES` shares of the particles,
    which the number of ranks does not change. Else each rank's sum goes into one allreduce.
    calls: how often each collective of MPI was called.
    """

    alone = False

    def __init__(self, comm: Any, ordered: bool = False) -> None:
        self._comm, self.ordered = comm.Dup(), ordered
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        here = comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.local = here.Get_rank()
        here.Free()
        self.calls: Counter[str] = Counter()
        self._started = False
        self._types: dict[int, Any] = {}

    def free(self) -> None:
        """Give back what MPI holds for these ranks."""
        for kind in self._types.values():
            kind.Free()
        self._types.clear()
        self._comm.Free()

    # The particles

    def deal(self, total: int, unit: int = 1, name: str = "N") -> slice:
        if self.ordered:
            unit *= -(-total // (unit * LEAVES))
        units = -(-total // unit)
        if self.size > units:
            order = ", in a fixed order" if self.ordered else ""
            most = f"at most {units} ranks for {name} = {total}{order}"
            raise ValueError(f"comm must have {most}, got {self.size}")
        self._edges, self._unit, self._leaves = shares(total, self.size, unit), unit, units
        self.first, self.last, self.total = *self._edges[self.rank : self.rank + 2], total
        return slice(self.first, self.last)

    def all_of(self, own: int) -> int:
        return self.total

    def part_of(self, theta: Any, own: slice) -> Any:
        return theta[own]

    def part(self, values: Array) -> Array:
        return np.ascontiguousarray(values[self.first : self.last])

    def own(self, rows: Array) -> Array:
        low, high = np.searchsorted(rows, (self.first, self.last))
        mine: Array = rows[low:high] - self.first
        return mine

    # What all ranks know

    def _counted(self, name: str) -> Any:
        self.calls[name] += 1
        return getattr(self._comm, name)

    def lead(self, answer: Callable[[], R]) -> R:
        found: R = self._counted("bcast")(answer() if self.rank == 0 else None)
        return found

    def spread(self, values: Array) -> None:
        self._counted("Bcast")(values)

    def gather(self, values: Array, uneven: bool = False) -> Array:
        values = np.ascontiguousarray(values)
        row = values[:1].size or int(np.prod(values.shape[1:]))
        counts = np.diff(self._edges)
        if uneven:
            counts = np.array(self._counted("allgather")(len(values)))
        out = np.empty((int(counts.sum()), *values.shape[1:]), values.dtype)
        starts = (np.cumsum(counts) - counts) * row
        self._counted("Allgatherv")(values, [out, (counts * row).tolist(), starts.tolist(), _type_of(values)])
        return out

    def add(self, values: Array) -> Array:
        out = np.empty_like(values)
        self._counted("Allreduce")(values, out, MPI.SUM)
        return out

    @once
    def cuda_aware(self) -> bool:
        return all(self._comm.allgather(_takes_device_memory()))

    def add_on_card(self, address: int, count: int) -> None:
        self._counted("Allreduce")(MPI.IN_PLACE, [_OnCard(address, count), MPI.DOUBLE], MPI.SUM)

    def tell(self, what: R) -> list[R]:
        told: list[R] = self._counted("allgather")(what)
        return told

    # Sums over particles

    def variance(self, theta: Array, threads: int) -> float:
        with np.errstate(over="ignore", invalid="ignore"):  # of an ensemble that overflows
            state = self.merge(lambda a, b: moments(theta[a:b], threads), combine_moments)
        return float(state[1] / (2 * self.total))

    def merge(self, leaf: Leaf, combine: Combine, rows: Array | None = None) -> Array:
        if self.ordered:
            return self._in_order(leaf, combine, rows)
        own = leaf(0, self.last - self.first if rows is None else len(rows))
        out = np.empty_like(own)
        if combine is add_up:
            self._counted("Allreduce")(own, out, MPI.SUM)
            return out
        kind = self._types.get(len(own))
        if kind is None:  # one item, which MPI never divides
            kind = self._types[len(own)] = MPI.DOUBLE.Create_contiguous(len(own)).Commit()
        _combines.append(combine)
        try:
            self._counted("Allreduce")([own, 1, kind], [out, 1, kind], _OP)
        finally:
            _combines.pop()
        return out

    def _in_order(self, leaf: Leaf, combine: Combine, rows: Array | None) -> Array:
        """The same by the tree over leaves, whose nodes every rank gets and puts together alike."""
        edges = np.minimum(self._unit * np.arange(self._leaves + 1), self.total) - self.first
        if rows is not None:
            edges = np.searchsorted(rows, edges)
        bounds = [-(-edge // self._unit) for edge in self._edges]
        everyone = [nodes_of(a, b, self._leaves) for a, b in itertools.pairwise(bounds)]

        def state(k: int, j: int) -> Array | None:
            return leaf(int(edges[j]), int(edges[j + 1])) if k == 0 else None

        mine = np.array([fold(k, j, self._leaves, state, combine) for k, j in everyone[self.rank]])
        counts = [len(nodes) * mine.shape[1] for nodes in everyone]
        starts = np.cumsum([0, *counts[:-1]]).tolist()
        every = np.empty((sum(map(len, everyone)), mine.shape[1]))
        self._counted("Allgatherv")(mine, [every, counts, starts, MPI.DOUBLE])
        known = dict(zip([node for nodes in everyone for node in nodes], every, strict=True))
        root = (self._leaves - 1).bit_length()
        return fold(root, 0, self._leaves, lambda k, j: known.get((k, j)), combine)

    # The run's beginning and end

    def compare(self, what: R) -> list[R]:
        told: list[R] = self._counted("allgather")(what)
        for rank, other in enumerate(told):
            if isinstance(other, str):  # of `leave`
                self._started = True
                raise common(CboError(f"rank {rank} of {self.size} could not begin: {other}"))
        for rank, other in enumerate(told):
            if type(other) is not type(told[0]):
                self._started = True
                raise common(ValueError(f"data must be the same on all ranks, got another on rank {rank}"))
        return told

    def start(self, arguments: dict[str, str]) -> None:
        told = self.compare(arguments)
        self._started = True
        for rank, other in enumerate(told):
            for name, text in other.items():
                if text != (first := told[0].get(name)):
                    what = f"got {first} on rank 0 and {text} on rank {rank}"
                    raise common(ValueError(f"{name} must be the same on all ranks, {what}"))

    def end(self, error: BaseException, saved: str, trace: bool = True) -> None:
        if is_common(error):
            return
        # Where all ranks fail alike the first one's message is enough.
        time.sleep(min(0.3 * self.rank, 3.0))
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__)) if trace else ""
        reason = " ".join(str(error).split()) or "no message"
        sys.stderr.write(
            f"{text}cbokernels: rank {self.rank} of {self.size} ended the job: "
            f"{type(error).__name__}: {reason}{saved}\n"
        )
        sys.stderr.flush()
        time.sleep(0.3)  # time for the launcher to pass the message on before it ends the job
        try:
            MPI.COMM_WORLD.Abort(1)
        finally:  # Abort may return: some MPIs only ask their launcher to end the job
            os._exit(1)

    def leave(self, error: BaseException) -> None:
        """The call ends by an exception: before `start`, where the others wait and are told, or after it."""
        if self._started:
            return self.end(error, "")
        self._started = True
        self._comm.allgather(f"{type(error).__name__}: {' '.join(str(error).split())}")

    @contextlib.contextmanager
    def told_by_one(self) -> Iterator[None]:
        with warnings.catch_warnings():
            if self.rank:
                warnings.simplefilter("ignore", CboWarning)
            yield


def _takes_device_memory() -> bool:
    """Whether this process's MPI says that it takes addresses of CUDA memory.

    The question is an extension of Open MPI's and MPICH's; where it is missing, the answer is no. With
    CBOKERNELS_CUDA_AWARE_MPI=0 in the environment it is no, too.
    """
    query = getattr(ctypes.CDLL(MPI.__file__), "MPIX_Query_cuda_support", None)
    return os.environ.get("CBOKERNELS_CUDA_AWARE_MPI") != "0" and query is not None and bool(query())


class _OnCard:
    """Float64 numbers in CUDA memory, as mpi4py takes them."""

    def __init__(self, address: int, count: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (count,),
            "typestr": "<f8",
            "data": (address, False),
            "version": 3,
        }


def _type_of(values: Array) -> Any:
    return MPI._typedict[values.dtype.char]


def ranks_of(comm: Any, deterministic: bool, split: bool = False) -> Ranks:
    """The ranks of a communicator; of a single one, which exchanges nothing, unless sums are ordered or data
    are split."""
    if not isinstance(comm, MPI.Intracomm):
        raise TypeError(f"comm must be a communicator of mpi4py such as MPI.COMM_WORLD, got {comm!r:.80}")
    if comm.Get_size() == 1 and not deterministic and not split:
        return Ranks()
    return Communicator(comm, deterministic)


def run_on_ranks(function: Callable[..., R], arguments: dict[str, Any]) -> R:
    """`train` or `minimize` with these arguments, whose comm is one of mpi4py's."""
    split = arguments.get("data") == "split"
    ranks = ranks_of(arguments["comm"], arguments["deterministic"], split)
    try:
        with ranks.told_by_one():
            result = function(**{**arguments, "comm": ranks})
    except BaseException as error:
        if isinstance(ranks, Communicator):
            ranks.leave(error)
        raise
    finally:
        if isinstance(ranks, Communicator):
            ranks.free()
    return result


def gather(values: Array, comm: Any, root: int = 0) -> Array | None:
    """The ranks' arrays, such as `Result.particles`, one after the other on rank `root`; None on others."""
    parts = comm.gather(np.ascontiguousarray(values), root)
    return None if parts is None else np.concatenate(parts)
