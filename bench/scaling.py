"""Times risks and gradients against N, M, S and d, each doubled, S and d from 1, the others as in a workload.

    pip install matplotlib && python bench/scaling.py [--out docs] [--workloads A B C] [--threads 2]

Writes scaling.csv and scaling.png, the cost per multiply-add of a plain pass, and prints a Markdown table:
the largest rise of that cost from one size to the next, where more than 1.6 is a cliff, the cost at the
first size against the least, and the gain by threads. A row is marked where the threads did not reach their
share of the machine's multiply-adds. A second table has the cost of row-wise kernels against D, from 1, with
one thread; --rows is that table alone.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import cbokernels as cbk
from cbokernels import _cpu

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from limits import Limits
from workloads import SHAPES, Array

AXES = {"N": "#0072b2", "M": "#d55e00", "S": "#009e73", "d": "#cc79a7"}
FROM_ONE = ("S", "d")
DOUBLINGS, CLIFF, GAIN = 4, 1.6, 0.925  # 1.85 times one thread's speed on two
ROW_SIZES, ROW_NUMBERS = (1, 2, 3, 4, 5, 8, 10, 16, 20, 64, 256, 1000), 40_000
KINDS = {"risk": cbk.risk, "risk_gradient": cbk.risk_gradient}


@dataclass(frozen=True)
class Shape:
    N: int
    M: int
    d: int
    C: int
    S: int
    activation: str
    density: float

    @property
    def multiply_adds(self) -> float:
        return float(self.N * self.S * self.M * (self.d + self.C))


@dataclass(frozen=True)
class Point:
    """Median seconds on one and on all threads at a shape of which `axis` has been scaled."""

    workload: str
    kind: str
    axis: str
    shape: Shape
    way: str  # of the risk, as planned
    seconds: tuple[float, float]

    def cost(self, threads: int) -> float:
        """Nanoseconds per multiply-add on one (0) or all (1) threads."""
        return 1e9 * self.seconds[threads] / self.shape.multiply_adds


def shapes(workload: str, axis: str) -> list[Shape]:
    """Doubled four times, with the workload's own size in the middle where it can be halved twice; along some
    axes all powers of two before them."""
    n, m, d, c, s, activation, _, _, density = SHAPES[workload]
    own = Shape(n, m, d, c, s, activation, density)
    first = max(1, getattr(own, axis) // 2 ** (DOUBLINGS // 2))
    before = [2**k for k in range(first.bit_length()) if 2**k < first] if axis in FROM_ONE else []
    return [replace(own, **{axis: size}) for size in before + [first * 2**k for k in range(DOUBLINGS + 1)]]


def data(shape: Shape) -> tuple[cbk.TwoLayer, list[Array], Array, Array]:
    rng = np.random.default_rng(1)
    net = cbk.TwoLayer(shape.d, shape.M, shape.C, activation=shape.activation)
    x = rng.random((shape.S, shape.d), np.float32)
    if shape.density < 1:
        x *= rng.random(x.shape, np.float32) < shape.density
    y: Array = rng.integers(0, shape.C, shape.S) if shape.C > 1 else np.sin(6 * x[:, 0])
    return net, [net.uniform(shape.N, seed=seed) for seed in (1, 2)], x, y


def medians(calls: list[Callable[[int], Any]], budget: float = 0.2) -> list[float]:
    """Of each call, in turns, at least three and as many as the budget in seconds allows."""
    samples: list[list[float]] = [[] for _ in calls]
    began = time.perf_counter()
    while len(samples[0]) < 4 or (time.perf_counter() - began < budget and len(samples[0]) < 60):
        for call, own in zip(calls, samples, strict=True):
            start = time.perf_counter()
            call(len(own))
            own.append(time.perf_counter() - start)
    return [statistics.median(own[1:]) for own in samples]


def measure(workload: str, kind: str, axis: str, shape: Shape, threads: int) -> Point:
    net, thetas, x, y = data(shape)
    loss = "cross_entropy" if shape.C > 1 else "mse"
    function: Any = KINDS[kind]

    def on(count: int) -> Callable[[int], Any]:
        return lambda turn: function(net, thetas[turn % 2], x, y, loss=loss, num_threads=count)

    one, every = medians([on(1), on(threads)])
    way = cbk.plan(net, particles=shape.N, samples=shape.S, loss=loss, density=shape.density).path
    return Point(workload, kind, axis, shape, way, (one, every))


def row_kernels(size: int, dtype: str) -> dict[str, Callable[[], Any]]:
    """Calls of row-wise kernels on rows of `size`, of the same numbers in all."""
    rng = np.random.default_rng(1)
    count = ROW_NUMBERS // size
    theta, gradient, first, second = rng.random((4, count, size)).astype(dtype)
    velocity = np.zeros_like(theta)
    risk, point, out = rng.random(count), theta[0].copy(), np.empty_like(theta)
    match = np.zeros((count, 1), np.int64)
    one: dict[str, Any] = {"num_threads": 1}
    key = (1, 0, 2, 0)
    calls: dict[str, Callable[[], Any]] = {
        f"cbo_update, {noise}": partial(
            cbk.cbo_update,
            theta,
            point,
            noise=noise,
            radius=1.0 if noise == "truncated" else None,
            out=out,
            **one,
        )
        for noise in ("anisotropic", "isotropic", "truncated", "additive", "none")
    }
    calls |= {
        "cbo_update, floor": partial(cbk.cbo_update, theta, point, floor=0.1, out=out, **one),
        "hybrid_update": partial(cbk.hybrid_update, theta, point, gradient, first, second, out=out, **one),
        "adam_update": partial(cbk.adam_update, theta, gradient, first, second, out=out, **one),
        "standard_normal": partial(_cpu.standard_normal, out, key, 1),
        "uniform": partial(_cpu.uniform, out, -1.0, 1.0, key, 1),
        "langevin_step, noise": partial(
            _cpu.langevin_drift, theta, velocity, gradient, 1.0, 1.0, 0.5, 1e-3, key, 1
        ),
        "transport_update": partial(
            cbk.transport_update, theta[:, None], point[None], match, out=out[:, None], **one
        ),
        "langevin_step, force": partial(_cpu.langevin_kick, velocity, gradient, 1.0, 1e-3, 1),
        "hopping, ensemble": partial(_cpu.draw_ensemble, point, 0.1, False, key, out, 1),
        "hopping, drift": partial(
            _cpu.noise_drift, risk[:, None], None, key, dtype == "float32", np.empty(size), 1
        ),
        "consensus": partial(cbk.consensus, theta, risk, alpha=1.0, **one),
        "consensus, 3 tasks, a coordinate of one": partial(
            cbk.consensus, theta, np.ascontiguousarray(np.tile(risk, (3, 1)).T), alpha=1.0, **one
        ),
        "ensemble_variance": partial(_cpu.variance, theta, 1),
    }
    return calls


def row_table(dtype: str) -> str:
    """Nanoseconds a coordinate, the least of many calls; the dearest of D = 2 to 20 against the longest."""
    costs: dict[str, list[float]] = {}
    for size in ROW_SIZES:
        for name, call in row_kernels(size, dtype).items():
            seconds = []
            for _ in range(40):
                start = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - start)
            costs.setdefault(name, []).append(1e9 * min(seconds) / (ROW_NUMBERS // size * size))
    text = [f"| {dtype}, ns a coordinate | {' | '.join(f'D = {d}' for d in ROW_SIZES)} | D = 2 to 20 |"]
    text += ["|---" * (len(ROW_SIZES) + 2) + "|"]
    for name, line in costs.items():
        dearest = max(c for c, d in zip(line, ROW_SIZES, strict=True) if 2 <= d <= 20)
        text.append(f"| {name} | {' | '.join(f'{c:.2f}' for c in line)} | {dearest / line[-1]:.1f} |")
    return "\n".join(text)


def undisturbed(limits: Limits, run: Callable[[Shape], Point], own: list[Shape]) -> tuple[list[Point], bool]:
    """The points, of a third attempt at the latest, and whether the threads had their cores all the time."""
    for _ in range(3):
        before = limits.reached(limits.measure())
        points = [run(shape) for shape in own]
        if before and limits.reached(limits.measure()):
            return points, True
    return points, False


def lines(points: list[Point]) -> dict[tuple[str, str, str], list[Point]]:
    """By workload, kind and axis."""
    found: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        found.setdefault((point.workload, point.kind, point.axis), []).append(point)
    return found


def table(points: list[Point], threads: int, quiet: set[tuple[str, str, str]]) -> str:
    text = ["| workload | | axis | largest rise of cost | cliff | first size against the least "]
    text[0] += f"| gain by {threads} threads | |"
    text += ["|---|---|---|---|---|---|---|---|"]
    for key, line in lines(points).items():
        pairs = list(pairwise(line))
        rises = [max(b.cost(t) / a.cost(t) for t in (0, 1)) for a, b in pairs]
        worst = max(range(len(rises)), key=rises.__getitem__)
        a, b = pairs[worst]
        where = f"{key[2]} {getattr(a.shape, key[2])} to {getattr(b.shape, key[2])}"
        ways = f", {a.way} to {b.way}" if a.way != b.way else ""
        gains = [p.seconds[0] / p.seconds[1] for p in line]
        gain = f"{min(gains):.2f} to {max(gains):.2f}" + ("" if min(gains) >= GAIN * threads else ", too low")
        cliff = "yes" if rises[worst] > CLIFF else "no"
        note = "" if key in quiet else "load beside it"
        start = line[0].cost(0) / min(p.cost(0) for p in line)
        cells = [*key, f"{rises[worst]:.2f} ({where}{ways})", cliff, f"{start:.1f}", gain, note]
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)


def draw(points: list[Point], threads: int, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib import ticker

    found = lines(points)
    workloads = list(dict.fromkeys(key[0] for key in found))
    figure, axes = plt.subplots(
        len(KINDS), len(workloads), figsize=(3.6 * len(workloads), 6), squeeze=False, constrained_layout=True
    )
    for (workload, kind, axis), line in found.items():
        ax = axes[list(KINDS).index(kind)][workloads.index(workload)]
        sizes = [getattr(p.shape, axis) / getattr(line[0].shape, axis) for p in line]
        label = f"{axis} from {getattr(line[0].shape, axis)}"
        ax.plot(sizes, [p.cost(1) for p in line], "o-", color=AXES[axis], label=label)
        ax.plot(sizes, [p.cost(0) for p in line], ".--", color=AXES[axis], alpha=0.5)
        ax.set(
            xscale="log",
            yscale="log",
            title=f"{workload} {kind.replace('_', ' and ')}",
        )
        ax.minorticks_off()
        ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        ax.legend(fontsize="x-small")
    for ax in axes[-1]:
        ax.set_xlabel("times the first size")
    for row in axes:
        row[0].set_ylabel(f"ns per multiply-add\n(dashed 1 thread, solid {threads})")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--workloads", nargs="+", default=["A", "B", "C"], choices=list(SHAPES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", action="store_true")
    options = parser.parse_args()
    print(f"{cbk.isa()}, {options.threads} threads")
    if not options.rows:
        print(f"\n{networks(options)}")
    for dtype in ("float32", "float64"):
        print(f"\n{row_table(dtype)}")


def networks(options: argparse.Namespace) -> str:
    """The first table; writes the files."""
    limits, points, quiet = Limits(options.threads), [], set()
    for workload in options.workloads:
        for kind in KINDS:
            for axis in AXES:
                run = partial(measure, workload, kind, axis, threads=options.threads)
                line, alone = undisturbed(limits, run, shapes(workload, axis))
                points += line
                if alone:
                    quiet.add((workload, kind, axis))
                print(f"{workload} {kind} {axis} done", file=sys.stderr, flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "scaling.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        names = ["workload", "kind", "axis", "N", "M", "S", "d", "C", "way", "ms_1", f"ms_{options.threads}"]
        writer.writerow(names)
        for p in points:
            s = p.shape
            milliseconds = [f"{1e3 * value:.4f}" for value in p.seconds]
            writer.writerow([p.workload, p.kind, p.axis, s.N, s.M, s.S, s.d, s.C, p.way, *milliseconds])
    draw(points, options.threads, options.out / "scaling.png")
    return table(points, options.threads, quiet)


if __name__ == "__main__":
    main()
