"""What ranks of a communicator share of a run, and what they must agree on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _cpu
from .._arrays import Array, view
from .._kinds import planned
from .._ranks import Ranks
from ..methods.base import Method
from ..network import TwoLayer
from ..result import Result
from .checkpoint import Checkpoint, fingerprint, fingerprint_of
from .data import Data

if TYPE_CHECKING:
    from .places import Place


def on_ranks(function: Callable[..., Result], arguments: dict[str, Any]) -> Result:
    """A call with a communicator of mpi4py."""
    from .._mpi import run_on_ranks  # which needs mpi4py

    return run_on_ranks(function, arguments)


def check_alone(ranks: Ranks, device: str, on_interrupt: str) -> None:
    """ValueError for what several ranks cannot do."""
    if ranks.ordered and device != "cpu":
        raise ValueError(
            f"deterministic must be False with device={device!r}: how a card sums depends on its particles"
        )
    if not ranks.alone and on_interrupt != "raise":
        raise ValueError(f"on_interrupt must be 'raise' with comm, got {on_interrupt!r}")


def check_split(split: bool, ranks: Ranks, device: str, metrics: Any, standardize: bool) -> None:
    """ValueError for what data that are split among ranks cannot do."""
    if not split:
        return
    if ranks.alone:
        raise ValueError("comm must be a communicator for data='split', got None")
    wrong = {"device": device if device != "cpu" else "", "metrics": metrics, "standardize": standardize}
    for name, value in wrong.items():
        if value:
            raise ValueError(f"{name} must be left at its default with data='split', got {value!r:.80}")


def share(ranks: Ranks, method: Method, rows: int, unit: int = 1) -> slice:
    """Share out what a run with a theta of so many rows does; this rank's rows. unit: particles that stay
    together."""
    count = method._shares(rows)
    of_each = max(method._evaluated(rows) // max(count, 1), 1)  # particles of a draw
    own = ranks.deal(count, unit // math.gcd(unit, of_each))
    return own if count == rows else slice(0, rows)


def together(place: Place, data: Data, particles: int, dtype: np.dtype[Any]) -> int:
    """Particles that are scored together and so, to have the same bits everywhere, stay on one rank."""
    samples = min(place.batch_size or data.samples, data.samples)
    path, group, _, _ = _cpu.plan(
        place.net._kernel, particles, samples, len(data.y), planned(data.loss), 0.0, dtype == np.float32
    )
    return group if path == "lists" else 1


def same_on_all(
    method: Method, seed: int, rows: int, start: Array, store: Checkpoint | None, callback: Any
) -> dict[str, str]:
    """Text of arguments that all ranks must give alike."""
    return {
        "method": repr(method),
        "seed": repr(seed),
        "theta": f"{rows} rows of {start.shape[1]} {start.dtype}",
        "checkpoint": repr(None if store is None else (str(store.path), store.every, store.resume)),
        "callback": "None" if callback is None else "a callable",
    }


def whole_start(net: TwoLayer, method: Method, rows: int, seed: int, dtype: np.dtype[Any], theta: Any) -> str:
    """The fingerprint of all ranks' particles; those that are drawn are never all in memory."""
    if theta is not None:
        return fingerprint(np.asarray(view(theta, "theta")))
    at_once = max(2**22 // net.size, 1)
    parts = (
        method._initial(net, seed, dtype, None, slice(n, min(n + at_once, rows)))
        for n in range(0, rows, at_once)
    )
    return fingerprint_of((rows, net.size), dtype, parts)
