"""One call of each family beside the reference in float64; a run of each method beside the CPU's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from arrays import array
from record import Row, Steps

import cbokernels as cbk
from cbokernels import reference

NET = cbk.TwoLayer(3, 7, 2, "tanh")
EXACT = 2e-5  # of float32 results of order 1, relative or absolute


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Normals, float32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def error(result: Any, expected: Any) -> float:
    """The largest, relative to the largest expected one where that is above 1; infinite where NaNs differ."""
    result, expected = np.asarray(result, float), np.asarray(expected, float)
    if result.shape != expected.shape or (np.isnan(result) != np.isnan(expected)).any():
        return np.inf
    return float(
        np.nanmax(np.abs(result - expected), initial=0) / max(1.0, np.nanmax(np.abs(expected), initial=0))
    )


def plain(results: Any) -> list[Any]:
    """The arrays of a result, in their order."""
    if isinstance(results, tuple):
        return list(results)
    fields = getattr(results, "__dataclass_fields__", None)
    return [getattr(results, name) for name in fields] if fields else [results]


class Calls:
    """The same call with arrays on the card and in NumPy."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def both(
        self, name: str, *given: Any, net: bool = False, changed: tuple[int, ...] = (), **keywords: Any
    ) -> Iterator[Row]:
        """cbk.<name> beside reference.<name>; `changed`: arrays whose new contents are results too."""
        lead = (NET,) if net else ()
        on = [self._library.put(a.copy()) for a in given]
        wide = [a.astype(float) if a.dtype.kind == "f" else a.copy() for a in given]
        result = plain(getattr(cbk, name)(*lead, *on, **keywords)) + [on[i] for i in changed]
        expected = plain(getattr(reference, name)(*lead, *wide, **keywords)) + [wide[i] for i in changed]
        worst = max(error(self._library.host(a), b) for a, b in zip(result, expected, strict=True))
        yield Row(name, "error against float64", worst, ok=worst <= EXACT)

    def normals(self) -> Iterator[Row]:
        """The noise itself, which no public call draws on a card."""
        out = self._library.put(np.empty((5, 37), np.float32))
        cbk.cuda.module().standard_normal(array(out), (7, 0, 1, 0), (0, 0, "float32"))
        expected = cbk.standard_normal(5, 37, seed=7, step=1)
        same = np.array_equal(self._library.host(out), expected)
        yield Row("standard_normal", "the CPU's bits", ok=same)

    def train(self, name: str, method: Any, net: cbk.TwoLayer, tasks: int | None) -> Iterator[Row]:
        """Four epochs in float64 on both devices: plain, captured and replayed steps."""
        x = np.random.default_rng(0).normal(size=(23, net.inputs))
        y = np.sin(x.sum(1))
        y = y if tasks is None else y + np.arange(tasks)[:, None]
        run = {"epochs": 4, "batch_size": 9, "dtype": "float64", "seed": 3}
        results = [cbk.train(net, x, y, method, device=device, **run) for device in ("cuda", "cpu")]
        worst = error(results[0].particles, results[1].particles)
        risk = float(np.ravel(results[0].history["risk"][-1])[0])
        yield Row(f"train {name}", "error against the CPU", worst, ok=worst <= 1e-8,
                  note=f"last risk {risk:.6g}")  # fmt: skip


def steps(context: Any) -> Steps:
    library: Any = context.arrays
    calls = Calls(library)
    theta, x, y = numbers(5, NET.size), numbers(40, 3, seed=1), numbers(40, 2, seed=2)
    labels, point = np.arange(40) % 2, numbers(NET.size, seed=3)
    atoms, support = numbers(4, 6, 3), numbers(6, 3, seed=4)
    match = np.stack([np.random.default_rng(n).permutation(6) for n in range(4)])
    square = np.abs(numbers(5, NET.size, seed=5))
    risks = np.random.default_rng(6).uniform(size=5)
    both = calls.both
    table: dict[str, Callable[[], Iterator[Row]]] = {
        "standard_normal": calls.normals,
        "forward": lambda: both("forward", theta, x, net=True),
        "risk": lambda: both("risk", theta, x, labels, net=True, loss="cross_entropy"),
        "task_risks": lambda: both("task_risks", theta, x, np.stack([y, 2 * y]), net=True),
        "risk_gradient": lambda: both("risk_gradient", theta, x, y, net=True),
        "atom_risks": lambda: both("atom_risks", point, theta, x, y, net=True),
        "consensus": lambda: both("consensus", theta, risks, alpha=3.0),
        "cbo_update": lambda: both("cbo_update", theta, point, seed=3, step=4),
        "adam_update": lambda: both(
            "adam_update", theta, theta[::-1].copy(), theta / 2, square, changed=(2, 3)
        ),
        "hybrid_update": lambda: both(
            "hybrid_update", theta, point, theta[::-1].copy(), theta / 2, square, seed=8, changed=(3, 4)
        ),
        "langevin_step": lambda: both(
            "langevin_step", theta, theta / 2, x, y, net=True, temperature=0.5, seed=4, changed=(0, 1)
        ),
        "assign": lambda: both("assign", atoms, support),
        "wasserstein2": lambda: both("wasserstein2", atoms, atoms[::-1].copy()),
        "barycenter": lambda: both("barycenter", atoms, risks[:4], iterations=3),
        "transport_update": lambda: both("transport_update", atoms, support, match, seed=3),
        "sinkhorn": lambda: both("sinkhorn", atoms, support, epsilon=3.0, tolerance=1e-8, iterations=2000),
    }
    line = cbk.TwoLayer(2, 5, 1, "tanh")
    methods = {
        "CBO": cbk.CBO(6, alpha=50.0),
        "CBO, friction": cbk.CBO(9, alpha=cbk.TargetEss(0.6), friction=2.0, particle_batch=5),
        "Adam": cbk.Adam(3),
        "Hybrid": cbk.Hybrid(6, alpha=50.0),
        "MultiTaskCBO": cbk.MultiTaskCBO(7, alpha=50.0),
        "TransportCBO": cbk.TransportCBO(6, alpha=5.0),
        "ConsensusHopping": cbk.ConsensusHopping(10),
        "ConsensusHopping, atoms": cbk.ConsensusHopping(6, scope="atom", weights=cbk.TargetEss(0.5)),
        "ConsensusHopping, least squares": cbk.ConsensusHopping(
            6, scope="atom", rank=1, drift="least_squares"
        ),
        "HeavyBall": cbk.HeavyBall(particles=2, temperature=0.1),
        "GradientFlow": cbk.GradientFlow(particles=2, temperature=0.1),
    }
    for name, method in methods.items():
        tasks = 3 if name == "MultiTaskCBO" else None
        table[f"train {name}"] = lambda n=name, m=method, t=tasks: calls.train(n, m, line, t)
    return table
