"""Whole runs of `train` and `minimize` with arguments drawn at random, for fuzz.py.

What must hold of each is known without the library: the same bits from any number of threads, from arrays
laid out otherwise, and from a run that was stopped and resumed; in float64 the trajectory that
`cbokernels.reference` makes, within rounding; inputs as they were; nothing but finite numbers in the history
unless a warning said so; and a TypeError or a ValueError for wrong arguments.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from fuzz_calls import LABELS, one_of
from fuzz_networks import ACTIVATIONS

import cbokernels as cbk
from cbokernels import reference

SPECIAL = [0.0, -0.0, 1e-42, 1e-30, 1e30, 3e38]
MINIMIZED = ("CBO", "ConsensusHopping")
WRONG: dict[str, list[Any]] = {
    "epochs": [0, -1, 1.5, "two"],
    "steps": [0, -1, 1.5, None],
    "batch_size": [0, -3, 0.5],
    "seed": [-1, 2**64, 0.5],
    "num_threads": [0, -1, "two"],
    "dtype": ["float16", int, 3],
    "loss": ["mean", 3],
    "weight_decay": [-1.0, np.nan, np.inf, "a"],
    "tolerance": [-1.0, np.nan],
    "patience": [0, -1, 0.5],
    "callback": [3, "f"],
    "every": [0, -1],
    "sample_weight": [np.ones(10**4), np.nan, [-1.0]],
    "theta": [np.zeros(3), np.zeros((3, 10**4), np.float32), "theta"],
    "validation": [(1,), "xy", (np.zeros((2, 10**4)), np.zeros(2))],
    "method": ["CBO", 3, cbk.CBO],
}


@dataclasses.dataclass
class Run:
    """A call of `name` with arrays and options; `method` is there for `train` and `minimize` alike."""

    name: str
    first: tuple[Any, ...]
    arrays: dict[str, Any]
    options: dict[str, Any]
    reference: Callable[[], np.ndarray[Any, Any]] | None = None

    def __call__(self, arrays: dict[str, Any] | None = None, **more: Any) -> cbk.Result:
        a = dict(self.arrays if arrays is None else arrays)
        positional = [a.pop(name) for name in ("x", "y", "theta0") if name in a]
        return getattr(cbk, self.name)(*self.first, *positional, **{**a, **self.options, **more})

    def __str__(self) -> str:
        arrays = ", ".join(f"{n} {a.dtype}{list(a.shape)}" for n, a in self.arrays.items())
        return f"{self.name}({', '.join(map(repr, self.first))}; {arrays}; {self.options})"


def method_of(rng, name: str, minimizes: bool) -> Any:
    particles = int(one_of(rng, [1, 2, 3, 7, 20, 70]))
    alpha = one_of(rng, [0.0, 3.0, 30.0, 1e5, np.inf, cbk.TargetEss(0.5), cbk.Tenfold(10.0, every=2)])
    noise = one_of(rng, ["anisotropic", "isotropic", "truncated", "additive", "none"])
    step: dict[str, Any] = {
        "diffusion": float(one_of(rng, [0.0, 0.5, 1.3])),
        "dt": float(one_of(rng, [0.01, 0.1])),
    }
    far = {"radius": 2.0} if noise == "truncated" else {}
    if name == "CBO":
        if noise == "anisotropic" and rng.random() < 0.3:
            far["floor"] = 0.1
        if rng.random() < 0.3:
            far["particle_batch"] = int(rng.integers(1, particles + 1))
        elif rng.random() < 0.3:
            far["friction"] = float(one_of(rng, [0.0, 1.0, 5.0]))
        return cbk.CBO(particles=particles, alpha=alpha, noise=noise, **step, **far)
    if name == "Hybrid":
        return cbk.Hybrid(
            particles=particles, alpha=alpha, noise=noise, mix=float(rng.random()), **step, **far
        )
    if name == "TransportCBO":
        return cbk.TransportCBO(particles=particles, alpha=alpha, iterations=int(rng.integers(1, 4)), **step)
    if name == "MultiTaskCBO":
        return cbk.MultiTaskCBO(particles=particles + 3, alpha=alpha, noise=noise, **step, **far)
    if name == "ConsensusHopping":
        scope = "network" if minimizes else str(one_of(rng, ["network", "atom"]))
        weights = one_of(rng, ["rank", cbk.TargetEss(0.5)])
        rank = None if minimizes or scope == "atom" else one_of(rng, [None, 1, 3])
        mirrored = bool(rng.integers(2))
        count = 2 * (particles + 1) if mirrored else particles + 1
        return cbk.ConsensusHopping(
            particles=count, weights=weights, mirrored=mirrored, scope=scope, rank=rank
        )
    if name == "Adam":
        return cbk.Adam(particles=particles, lr=float(one_of(rng, [0.001, 0.1])))
    if name == "HeavyBall":
        return cbk.HeavyBall(particles=particles, temperature=float(one_of(rng, [0.0, 0.1])), dt=0.01)
    return cbk.GradientFlow(particles=particles, temperature=float(one_of(rng, [0.0, 0.1])), dt=0.01)


METHODS = (
    "CBO",
    "ConsensusHopping",
    "MultiTaskCBO",
    "TransportCBO",
    "Adam",
    "Hybrid",
    "HeavyBall",
    "GradientFlow",
)


def network_of(rng, method: str) -> cbk.TwoLayer:
    slopes = method in ("Adam", "Hybrid", "HeavyBall", "GradientFlow")
    smooth = [a for a in ACTIVATIONS if a not in ("sign", "step")]
    measures = method in ("TransportCBO", "HeavyBall", "GradientFlow")
    return cbk.TwoLayer(
        int(one_of(rng, [1, 2, 5, 17])),
        int(one_of(rng, [1, 2, 3, 9])),
        int(one_of(rng, [1, 1, 2, 3])),
        activation=str(one_of(rng, smooth if slopes else list(ACTIVATIONS))),
        scaling="mean" if measures else str(one_of(rng, ["mean", "none"])),
        output_bias=False if measures else bool(rng.integers(2)),
    )


def training(rng) -> Run:
    name = str(one_of(rng, METHODS))
    net, samples = network_of(rng, name), int(one_of(rng, [1, 2, 3, 16, 33]))
    labelled = net.outputs > 1 and rng.random() < 0.5
    x = rng.normal(size=(samples, net.inputs))
    if rng.random() < 0.15:  # a column of one special value
        x[:, rng.integers(net.inputs)] = one_of(rng, SPECIAL)
    tasks = (int(rng.integers(1, 4)),) if name == "MultiTaskCBO" else ()
    y: Any = rng.normal(size=(*tasks, samples, net.outputs)[: None if net.outputs > 1 else -1])
    if labelled:
        y = rng.integers(0, net.outputs, (*tasks, samples)).astype(one_of(rng, LABELS))
    dtype = str(one_of(rng, ["float32", "float64"]))
    arrays = {"x": x.astype(one_of(rng, ["float32", "float64"])), "y": y}
    method = method_of(rng, name, False)
    options: dict[str, Any] = {
        "method": method,
        "epochs": int(rng.integers(2, 5)),
        "batch_size": one_of(rng, [None, 1, 2, 7, 10**6]),
        "seed": int(one_of(rng, [0, 3, 2**64 - 1])),
        "dtype": dtype,
    }
    if not labelled:
        options["loss"] = str(one_of(rng, ["mse", "mae", "huber", "pinball"]))
    if rng.random() < 0.3:
        arrays["sample_weight"] = rng.random(samples) + (rng.random(samples) < 0.5)
    if rng.random() < 0.3:
        options["weight_decay"] = float(one_of(rng, [0.01, 1.0]))
    if rng.random() < 0.3:
        options["validation"] = (x[:1].copy(), y[..., :1] if labelled or net.outputs == 1 else y[..., :1, :])
    if rng.random() < 0.5:
        rows = 1 if name == "ConsensusHopping" else method.particles
        arrays["theta"] = (rng.normal(size=(rows, net.size)) * one_of(rng, [0.1, 1.0])).astype(dtype)
    run = Run("train", (net,), arrays, options)
    if name == "CBO" and "theta" in arrays and dtype == "float64" and plain(method, options):
        run.reference = lambda: reference_cbo(run)
    return run


def plain(method: Any, options: dict[str, Any]) -> bool:
    """Whether `reference_cbo` has all that the run does, and rounding does not decide where it goes."""
    fixed = isinstance(method.alpha, float) and method.alpha <= 30
    return (
        fixed
        and method.particle_batch is None
        and method.friction is None
        and options.get("batch_size") is None
    )


def reference_cbo(run: Run) -> np.ndarray[Any, Any]:
    """The particles after all epochs on the whole data."""
    o, method = run.options, run.options["method"]
    (net,), theta = run.first, run.arrays["theta"]
    weight = run.arrays.get("sample_weight")
    loss = o.get("loss", "cross_entropy")
    for step in range(o["epochs"]):
        risk = reference.risk(net, theta, run.arrays["x"], run.arrays["y"], loss=loss, sample_weight=weight)
        point = reference.consensus(theta, risk, alpha=method.alpha).point
        theta = (1 - o.get("weight_decay", 0.0) * method.dt) * theta
        theta = reference.cbo_update(
            theta, point, drift=method.drift, diffusion=method.diffusion, dt=method.dt, noise=method.noise,
            floor=method.floor, radius=method.radius, seed=o["seed"], step=step,
        )  # fmt: skip
    return theta


def function(theta):
    return np.abs(theta).sum(1) - np.cos(3 * theta).prod(1)


def partial(theta):
    """Without a value in half of the space, and infinite somewhere."""
    with np.errstate(all="ignore"):
        return np.where(theta[:, 0] > 1.5, np.inf, np.log(theta[:, -1] + 2))


def minimization(rng) -> Run:
    name = str(one_of(rng, MINIMIZED))
    method, size = method_of(rng, name, True), int(one_of(rng, [1, 2, 3, 8, 20, 65]))
    rows = 1 if name == "ConsensusHopping" else method.particles
    theta = (rng.normal(size=(rows, size)) * one_of(rng, [0.3, 1.0])).astype(
        one_of(rng, ["float32", "float64"])
    )
    options = {
        "method": method,
        "steps": int(rng.integers(2, 12)),
        "seed": int(one_of(rng, [0, 3, 2**64 - 1])),
    }
    return Run("minimize", (one_of(rng, [function, partial]),), {"theta0": theta}, options)


RUNS = {"train": training, "minimize": minimization}


def told(result: cbk.Result) -> dict[str, np.ndarray[Any, Any]]:
    """What must be the same: all but the time."""
    history = {f"history {n}": a for n, a in result.history.items() if n != "seconds"}
    best = {"best": np.asarray(result.best), "best_risk": np.asarray(result.best_risk)}
    return {"parameters": result.parameters, "particles": result.particles, **best, **history}


def difference(a: cbk.Result, b: cbk.Result) -> str:
    first, second = told(a), told(b)
    if list(first) != list(second):
        return f"{list(first)} and {list(second)}"
    other = [n for n in first if np.asarray(first[n]).tobytes() != np.asarray(second[n]).tobytes()]
    return f"other bits in {', '.join(other)}" if other else ""


def attempt(run: Run, **more: Any) -> tuple[cbk.Result | None, str, list[str]]:
    """The result, or how the run failed; and what was warned of. A run may end for want of a finite risk."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result, error = run(**more), ""
        except (cbk.ConsensusError, ValueError) as raised:
            result, error = None, f"{type(raised).__name__}: {raised}"
    strangers = [w for w in caught if not issubclass(w.category, cbk.CboWarning)]
    if strangers:
        raise AssertionError(f"{strangers[0].category.__name__}: {strangers[0].message}")
    return result, error, [str(w.message) for w in caught]


def check_wrong(rng, run: Run) -> None:
    known = [k for k in WRONG if k not in ("steps" if run.name == "train" else "epochs")]
    if run.name == "minimize":
        known = ["steps", "seed", "num_threads", "tolerance", "patience", "callback", "every"]
    key = str(one_of(rng, known))
    value = WRONG[key][rng.integers(len(WRONG[key]))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            run(**{key: value})
        except (TypeError, ValueError) as error:
            if not str(error):
                raise AssertionError(f"{key}={value!r}: refused without a word") from error
            return
    raise AssertionError(f"{key}={value!r}: taken")


def check_resumed(rng, run: Run, whole: cbk.Result) -> None:
    """A run that its callback stops, resumed with other threads."""
    stop = int(rng.integers(1, len(whole.history["risk"]) + 1))
    label = "epoch" if run.name == "train" else "step"
    with tempfile.TemporaryDirectory() as folder:
        stored: dict[str, Any] = {"checkpoint": os.path.join(folder, "run"), "every": int(rng.integers(1, 3))}
        attempt(
            run, **stored, num_threads=2, callback=lambda state: getattr(state, label, state.epoch) >= stop
        )
        resumed, error, _ = attempt(run, **stored, resume=True, num_threads=1)
    if resumed is None or difference(resumed, whole):
        raise AssertionError(f"resumed after {stop}: {error or difference(resumed, whole)}")


def check_run(rng, run: Run, layout: Callable[..., Any]) -> None:
    if rng.random() < 0.2:
        return check_wrong(rng, run)
    before = {name: a.tobytes() for name, a in run.arrays.items()}
    whole, error, said = attempt(run, num_threads=1)
    threads = one_of(rng, [2, 3, None])
    laid = {name: layout(rng, a, False) for name, a in run.arrays.items()}
    again, other_error, _ = attempt(run, arrays=laid, num_threads=threads)
    if error != other_error:
        raise AssertionError(f"one thread: {error or 'done'}\n{threads} threads: {other_error or 'done'}")
    for arrays in (run.arrays, laid):
        if changed := [n for n, a in arrays.items() if a.tobytes() != before[n]]:
            raise AssertionError(f"changed: {changed}")
    if whole is None:
        return
    if message := difference(again, whole):
        raise AssertionError(f"{threads} threads, arrays laid out otherwise: {message}")
    unbounded = [n for n in ("risk", "variance") if not np.isfinite(whole.history[n]).all()]
    if unbounded and not said:
        raise AssertionError(
            f"{unbounded} not finite without a word: {[whole.history[n] for n in unbounded]}"
        )
    if run.reference is not None and np.isfinite(whole.particles).all():
        expected = run.reference()
        size = np.abs(expected).max()
        if not np.abs(whole.particles - expected).max() <= 1e-9 * size:
            raise AssertionError(
                f"off the reference by {np.abs(whole.particles - expected).max() / size:.2g}"
            )
    if rng.random() < 0.4:
        check_resumed(rng, run, whole)
