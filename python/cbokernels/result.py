"""What a run gives back, and what its callback sees on the way."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from ._arrays import HOST, Array, check_shape
from ._checks import FLOATS
from ._extras import extra
from ._files import checked_path, read_arrays, reading, write_arrays
from ._records import is_checkpoint, read
from .network import TwoLayer
from .risk import forward

_HISTORY = "history."


@dataclasses.dataclass(frozen=True, eq=False)
class State:
    """A run at the end of an epoch, as its callback sees it (in `minimize` an epoch is a step).

    epoch: from 1.
    particles [N, D]: after the epoch's last update; a read-only copy, made when it is looked at, or after the
        callback where the state is kept.
    point [D]: the consensus point of the epoch's last step, formed before its update (`Adam`, `HeavyBall`,
        `GradientFlow`: network 0; several tasks: [T, D]); a copy.
    risk: of that point, on the full data. alpha, ess: of that step, NaN where there are none. For several
        tasks risk and ess are arrays [T].
    variance: of the particles, (1/2N) Σ |theta_n - mean|².
    """

    epoch: int
    particles: Array
    point: Array
    risk: Any
    alpha: Any
    ess: Any
    variance: float


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What `train` and `minimize` return.

    parameters [D]: the consensus point of the last step, formed before its update; network 0 for `Adam`,
        `HeavyBall` and `GradientFlow`; the barycenter's support, a neuron for each of its points, for
        `TransportCBO`; the points [T, D] of all tasks where y has an axis of tasks.
    particles [N, D]: the ensemble after that update.
    history: arrays of equal length, one row per epoch (per step in `minimize`): "epoch" (from 1), "risk" (of
        the consensus point of the epoch's last step, on the full data, float64), "alpha" and "ess" (of that
        step, NaN where undefined), "variance" (of the particles after its update, (1/2N) Σ |theta_n - mean|²)
        and "seconds" (since the start). With an axis of tasks "risk" and "ess" are [E, T]. Methods that train
        networks independently add "risks" [E, N], and some more, as they say.
    net: the network trained; None for `minimize`.
    """

    parameters: Array
    particles: Array
    history: dict[str, Array]
    net: TwoLayer | None = None

    def __repr__(self) -> str:
        epochs, risk = len(self.history["epoch"]), np.asarray(self.history["risk"][-1])
        particles = f"{list(self.particles.shape)} {self.particles.dtype}"
        return (
            f"Result(epochs={epochs}, risk={np.array2string(risk, precision=4)}, particles={particles}, "
            f"net={self.net})"
        )

    def predict(self, x: Any, *, num_threads: int | None = None) -> Array:
        """Outputs [S, C] of the network with `parameters` at x [S, d], which is cast to the particles' dtype.

        For T points [T, S, C], each at its own inputs where x is [T, S, d]. ValueError for another shape, for
        NaN and infinities, and for a result without a network (`minimize`).
        """
        if self.net is None:
            raise ValueError("predict expects the result of training a network, got one of minimize")
        x = HOST.host(HOST.floats(x, "x", self.particles.dtype))
        HOST.check_finite(x, "x")
        if x.ndim == 3 and self.parameters.ndim == 2:
            check_shape(x, "x", (len(self.parameters), "S", self.net.inputs))
            pairs = zip(self.parameters[:, None], x, strict=True)
            return np.concatenate([forward(self.net, p, own, num_threads=num_threads) for p, own in pairs])
        check_shape(x, "x", ("S", self.net.inputs))
        outputs: Array = forward(self.net, np.atleast_2d(self.parameters), x, num_threads=num_threads)
        return outputs[0] if self.parameters.ndim == 1 else outputs

    def plot(self, ax: Any = None, **line: Any) -> Any:
        """Draw the risk per epoch (a line per task), log axis where all are positive; return the Axes.

        ax: the Axes to draw on (None: a new figure); other arguments go to `Axes.plot`.
        ImportError if matplotlib is missing.
        """
        if ax is None:
            pyplot = extra("matplotlib.pyplot", "plot")
            _, ax = pyplot.subplots(layout="constrained")
        risk = self.history["risk"]
        ax.plot(self.history["epoch"], risk, **line)
        if (risk[np.isfinite(risk)] > 0).all():
            ax.set_yscale("log")
        ax.set_xlabel("step" if self.net is None else "epoch")
        ax.set_ylabel("risk")
        return ax

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result to a file (npz, no pickles), whole or not at all; the name is taken as it is."""
        write_arrays(checked_path(path, "path"), {"net": pack_net(self.net)}, self._arrays())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Result:
        """Read what `save` wrote, or a checkpoint as the result of the epochs it holds.

        FileNotFoundError for a missing file, ValueError for one that is neither.
        """
        file = checked_path(path, "path")
        if is_checkpoint(file):
            header, run = read(file)
            history = run.history
            arrays = {**run.state, "parameters": run.state.get("point", np.empty(0))}
        else:
            header, arrays = read_arrays(file)
            history = {n.removeprefix(_HISTORY): a for n, a in arrays.items() if n.startswith(_HISTORY)}
        with reading(file):
            result = cls(arrays["parameters"], arrays["particles"], history, unpack_net(header["net"]))
            result._check()
        return result

    def _arrays(self) -> dict[str, Array]:
        columns = {_HISTORY + name: column for name, column in self.history.items()}
        return {"parameters": self.parameters, "particles": self.particles, **columns}

    def _check(self) -> None:
        """ValueError for what no run gives back."""
        particles, parameters, history = self.particles, self.parameters, self.history
        size = particles.shape[-1] if self.net is None else self.net.size
        if particles.dtype not in FLOATS or particles.ndim != 2 or particles.shape[1] != size:
            raise ValueError(f"its particles are {particles.dtype} {list(particles.shape)} for {self.net}")
        if parameters.dtype != particles.dtype or parameters.shape[-1:] != (size,) or parameters.ndim > 2:
            raise ValueError(f"its parameters are {parameters.dtype} {list(parameters.shape)} of {size}")
        if not {"epoch", "risk"} <= history.keys() or len({len(a) for a in history.values()}) != 1:
            raise ValueError(f"its history has columns { ({n: list(a.shape) for n, a in history.items()}) }")
        if not np.array_equal(history["epoch"], np.arange(1, len(history["epoch"]) + 1)):
            raise ValueError("its epochs are not 1, 2, 3, ...")


def pack_net(net: TwoLayer | None) -> dict[str, Any] | None:
    """A network's shape for a JSON header."""
    return None if net is None else dataclasses.asdict(net)


def unpack_net(fields: dict[str, Any] | None) -> TwoLayer | None:
    """The inverse of `pack_net`."""
    return None if fields is None else TwoLayer(**fields)


__all__ = ["Result", "State"]
