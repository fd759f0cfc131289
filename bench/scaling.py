"""Times risks and gradients against N, M, S and d, each doubled four times, the others as in a workload.

    pip install matplotlib && python bench/scaling.py [--out docs] [--workloads A B C] [--threads 2]

Writes scaling.csv and scaling.png, the cost per multiply-add of a plain pass, and prints a Markdown table:
the largest rise of that cost from one size to the next, where more than 1.6 is a cliff, and the gain by
threads. A row is marked where the threads did not reach their share of the machine's multiply-adds.
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

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from limits import Limits
from workloads import SHAPES, Array

AXES = {"N": "#0072b2", "M": "#d55e00", "S": "#009e73", "d": "#cc79a7"}
DOUBLINGS, CLIFF, GAIN = 4, 1.6, 0.925  # 1.85 times one thread's speed on two
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
    """Doubled four times, with the workload's own size in the middle where it can be halved twice."""
    n, m, d, c, s, activation, _, _, density = SHAPES[workload]
    own = Shape(n, m, d, c, s, activation, density)
    first = max(1, getattr(own, axis) // 2 ** (DOUBLINGS // 2))
    return [replace(own, **{axis: first * 2**k}) for k in range(DOUBLINGS + 1)]


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
    text = [f"| workload | | axis | largest rise of cost | cliff | gain by {threads} threads | |"]
    text += ["|---|---|---|---|---|---|---|"]
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
        cells = [*key, f"{rises[worst]:.2f} ({where}{ways})", cliff, gain, note]
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
        sizes = [2**k for k in range(len(line))]
        label = f"{axis} from {getattr(line[0].shape, axis)}"
        ax.plot(sizes, [p.cost(1) for p in line], "o-", color=AXES[axis], label=label)
        ax.plot(sizes, [p.cost(0) for p in line], ".--", color=AXES[axis], alpha=0.5)
        ax.set(
            xscale="log",
            yscale="log",
            title=f"{workload} {kind.replace('_', ' and ')}",
            xticks=sizes,
            xticklabels=sizes,
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
    options = parser.parse_args()
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
    print(f"{cbk.isa()}, {options.threads} threads\n\n{table(points, options.threads, quiet)}")


if __name__ == "__main__":
    main()
