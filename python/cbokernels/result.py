"""What a run gives back, and what its callback sees on the way."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from ._arrays import HOST, Array, check_shape
from ._checks import FLOATS, boolean
from ._extras import extra
from ._files import checked_path, read_arrays, reading, write_arrays
from ._inputs import readable
from ._records import is_checkpoint, read
from .methods.base import Method
from .network import TwoLayer, of_raw_inputs
from .risk import forward

_HISTORY = "history."
_RUN: dict[str, type] = {  # what a file says of a run in its header
    "best_risk": float,
    "best_epoch": int,
    "stopped": str,
    "message": str,
    "success": bool,
    "evaluations": int,
}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
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
    metrics: "validation_risk" and what the run's `metrics` gave, by the history's names; empty without them.

    It may be kept, pickled, and changed by `dataclasses.replace`.
    """

    epoch: int
    particles: Array
    point: Array
    risk: Any
    alpha: Any
    ess: Any
    variance: float
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def _later(cls, look: Callable[[], Array], **fields: Any) -> State:
        """A state whose particles are taken from `look` when somebody asks for them."""
        state = object.__new__(cls)
        state.__dict__.update(fields, _look=look)
        return state

    def __getattr__(self, name: str) -> Array:
        if name != "particles" or "_look" not in self.__dict__:
            raise AttributeError(f"State has no attribute {name!r}")
        particles: Array = self.__dict__["_look"]().copy()
        particles.flags.writeable = False
        self.__dict__[name] = particles
        del self.__dict__["_look"]
        return particles

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name}={_short(getattr(self, name))}" for name in ("risk", "alpha", "ess"))
        further = "".join(f", {name}={_short(value)}" for name, value in self.metrics.items())
        return (
            f"State(epoch={self.epoch}, {numbers}, variance={_short(self.variance)}{further}, "
            f"particles={_kind(self.particles)}, point={_kind(self.point)})"
        )


def _short(value: Any) -> str:
    return np.array2string(np.asarray(value), precision=4)


def _kind(a: Array) -> str:
    return f"{list(a.shape)} {a.dtype}"


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
        networks independently add "risks" [E, N], and some more, as they say. `validation` and `metrics` add
        "validation_risk", each metric and "validation_" with its name, NaN in epochs without an evaluation.
    net: the network trained; None for `minimize`. method: the method that was used; None in a result that
        was loaded from a file.
    best: as `parameters`, of the epoch with the lowest watched risk. That is the validation's risk where
        there is a validation, else the training's; of several tasks their mean. Risks that are not finite are
        never best, and where there is no other `best` is `parameters`.
    best_risk, best_epoch: that risk, NaN where there is none, and its epoch, from 1, or 0.
    stopped: why the run ended: "epochs" (all are done), "target", "patience", "callback", or "interrupt"
        (Ctrl-C, with on_interrupt="return"). Of a checkpoint that was loaded "checkpoint".
    message: the same as a sentence, and what the run warned of, with counts.
    success: whether the target was reached, where there is one, else whether the run ended as it was told to,
        with a finite risk.
    evaluations: points at which `minimize` had its function evaluated; 0 for `train`.

    For SciPy's users `x` is best, `fun` best_risk, `nit` the number of epochs done, `nfev` evaluations.

        result = cbk.train(net, x, y, cbk.CBO(), validation=(x_new, y_new), patience=50)
        result.predict(x_new, best=True)
    """

    parameters: Array
    particles: Array
    history: dict[str, Array]
    net: TwoLayer | None = None
    method: Method | None = None
    best: Array = None  # type: ignore[assignment]  # parameters
    best_risk: float = math.nan
    best_epoch: int = 0
    stopped: str = "epochs"
    message: str = ""
    success: bool = False
    evaluations: int = 0

    def __post_init__(self) -> None:
        if self.best is None:
            object.__setattr__(self, "best", self.parameters)

    def __repr__(self) -> str:
        risk = _short(self.history["risk"][-1])
        return (
            f"Result(epochs={self.nit}, risk={risk}, best_risk={self.best_risk:.4g}, "
            f"best_epoch={self.best_epoch}, stopped={self.stopped!r}, particles={_kind(self.particles)}, "
            f"net={self.net})"
        )

    @property
    def best_step(self) -> int:
        """As best_epoch: in `minimize` an epoch is a step."""
        return self.best_epoch

    @property
    def x(self) -> Array:
        """SciPy's name of `best`."""
        return self.best

    @property
    def fun(self) -> float:
        """SciPy's name of `best_risk`."""
        return self.best_risk

    @property
    def nit(self) -> int:
        """SciPy's name of the number of epochs, or steps, that are done."""
        return len(self.history["epoch"])

    @property
    def nfev(self) -> int:
        """SciPy's name of `evaluations`."""
        return self.evaluations

    def predict(self, x: Any, *, best: bool = False, num_threads: int | None = None) -> Array:
        """Outputs [S, C] of the network with `parameters` at x [S, d], which is cast to the particles' dtype.

        best: of the network with the parameters `best` instead.

        For T points [T, S, C], each at its own inputs where x is [T, S, d]. ValueError for another shape, for
        NaN and infinities, and for a result without a network (`minimize`).
        """
        net, x = self._inputs(x, "predict")
        points = self.best if boolean(best, "best") else self.parameters
        if x.ndim == 3 and points.ndim == 2:
            check_shape(x, "x", (len(points), "S", net.inputs))
            pairs = zip(points[:, None], x, strict=True)
            return np.concatenate([forward(net, p, own, num_threads=num_threads) for p, own in pairs])
        check_shape(x, "x", ("S", net.inputs))
        outputs: Array = forward(net, np.atleast_2d(points), x, num_threads=num_threads)
        return outputs[0] if points.ndim == 1 else outputs

    def predict_all(self, x: Any, *, num_threads: int | None = None) -> Array:
        """Outputs [N, S, C] of all particles, as networks, at x [S, d], which is cast to their dtype.

        Of networks that were trained independently (`Adam`) the mean and the spread tell more than one of
        them, which is all that `predict` looks at:

            outputs = result.predict_all(x)
            mean, spread = outputs.mean(axis=0), outputs.std(axis=0)

        ValueError as in `predict`.
        """
        net, x = self._inputs(x, "predict_all")
        check_shape(x, "x", ("S", net.inputs))
        outputs: Array = forward(net, self.particles, x, num_threads=num_threads)
        return outputs

    def _inputs(self, x: Any, function: str) -> tuple[TwoLayer, Array]:
        if self.net is None:
            raise ValueError(f"{function} expects the result of training a network, got one of minimize")
        inputs = HOST.host(HOST.floats(readable(x, "x"), "x", self.particles.dtype))
        HOST.check_finite(inputs, "x")
        return self.net, inputs

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
        """Write the result to a file (npz, no pickles), whole or not at all; the name is taken as it is. The
        method, which may hold functions, is left out."""
        header = {"net": pack_net(self.net), "run": {name: getattr(self, name) for name in _RUN}}
        write_arrays(checked_path(path, "path"), header, self._arrays())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Result:
        """Read what `save` wrote, or a checkpoint as the result of the epochs it holds.

        FileNotFoundError for a missing file, ValueError for one that is neither. In a file written before
        there was a `best` it is `parameters`, with best_risk NaN.
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
            rest = header.get("run", {})
            if is_checkpoint(file) and "best" in arrays:
                rest = _of_checkpoint(history, arrays)
            best = arrays["best" if rest.get("best_epoch") else "parameters"]
            result = cls(
                arrays["parameters"], arrays["particles"], history, unpack_net(header["net"]),
                best=best, **rest,
            )  # fmt: skip
            result._check()
            if is_checkpoint(file) and {"input_mean", "input_scale"} <= arrays.keys():
                result = result._of_raw_inputs(arrays["input_mean"], arrays["input_scale"])
        return result

    def _of_raw_inputs(self, mean: Array, scale: Array) -> Result:
        """This of a run on inputs (x - mean) / scale as one on x."""
        assert self.net is not None
        given = {name: getattr(self, name) for name in ("parameters", "particles", "best")}
        arrays = {name: of_raw_inputs(self.net, theta, mean, scale) for name, theta in given.items()}
        return dataclasses.replace(self, **arrays)

    def _arrays(self) -> dict[str, Array]:
        columns = {_HISTORY + name: column for name, column in self.history.items()}
        return {"parameters": self.parameters, "particles": self.particles, "best": self.best, **columns}

    def _check(self) -> None:
        """ValueError for what no run gives back."""
        particles, parameters, history = self.particles, self.parameters, self.history
        size = particles.shape[-1] if self.net is None else self.net.size
        if particles.dtype not in FLOATS or particles.ndim != 2 or particles.shape[1] != size:
            raise ValueError(f"its particles are {particles.dtype} {list(particles.shape)} for {self.net}")
        if parameters.dtype != particles.dtype or parameters.shape[-1:] != (size,) or parameters.ndim > 2:
            raise ValueError(f"its parameters are {parameters.dtype} {list(parameters.shape)} of {size}")
        if self.best.dtype != parameters.dtype or self.best.shape != parameters.shape:
            raise ValueError(f"its best is {self.best.dtype} {list(self.best.shape)}")
        if not {"epoch", "risk"} <= history.keys() or len({len(a) for a in history.values()}) != 1:
            raise ValueError(f"its history has columns { ({n: list(a.shape) for n, a in history.items()}) }")
        if not np.array_equal(history["epoch"], np.arange(1, len(history["epoch"]) + 1)):
            raise ValueError("its epochs are not 1, 2, 3, ...")
        for name, expected in _RUN.items():
            if not isinstance(getattr(self, name), expected):
                raise ValueError(f"its {name} is {getattr(self, name)!r:.80}")


def lowest(history: dict[str, Array]) -> tuple[float, int]:
    """The lowest watched risk of a history that is finite, and the first epoch that has it; or NaN and 0."""
    watched = history["validation_risk"] if "validation_risk" in history else history["risk"]
    risks = np.where(np.isfinite(watched), watched, np.inf).reshape(len(watched), -1).mean(axis=1)
    best = int(risks.argmin())
    return (float(risks[best]), best + 1) if np.isfinite(risks[best]) else (math.nan, 0)


def _of_checkpoint(history: dict[str, Array], arrays: dict[str, Array]) -> dict[str, Any]:
    """What a checkpoint tells of its run besides history, parameters and particles."""
    risk, epoch = lowest(history)
    done = len(history["epoch"])
    return {
        "best_risk": risk,
        "best_epoch": epoch,
        "stopped": "checkpoint",
        "message": f"the run as its checkpoint has it, after {done} epochs",
        "success": epoch > 0,
        "evaluations": int(arrays["evaluations"][0]) if "evaluations" in arrays else 0,
    }


def pack_net(net: TwoLayer | None) -> dict[str, Any] | None:
    """A network's shape for a JSON header."""
    return None if net is None else dataclasses.asdict(net)


def unpack_net(fields: dict[str, Any] | None) -> TwoLayer | None:
    """The inverse of `pack_net`."""
    return None if fields is None else TwoLayer(**fields)


__all__ = ["Result", "State"]
