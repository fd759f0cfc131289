"""Sweeps of the methods' parameters: the charts of the pages on choosing them.

    python docs/sweeps.py --out docs                    # all figures and sweeps.csv, 5 seeds
    python docs/sweeps.py --out build --figures cbo --seeds 1
    python docs/sweeps.py --out docs --draw             # the figures again, from the CSV files

Each point is the median over seeds of short runs, with a bar from the least to the greatest. A cross says
that the ensemble collapsed in most of its runs, a triangle at the upper edge that most had no finite end. The
results do not depend on the number of threads. `digits` needs scikit-learn.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import cbokernels as cbk
from cbokernels.experiments import multitask, sine, square
from cbokernels.experiments._common import COLOURS, new_figure

EPOCHS = 300  # of a run on the sine and on the square
FLOOR = cbk.Exponential(0.1, 0.001)
FLOORS = {"no floor": 0.0, "floor 0.1 to 0.001": FLOOR}
INF = math.inf


@dataclasses.dataclass(frozen=True)
class Run:
    """What is left of a run: its end, and what went wrong."""

    end: float
    collapsed: bool


@dataclasses.dataclass(frozen=True)
class Panel:
    """One parameter: its values, the curves by name, and a run of a curve at a value with a seed."""

    title: str
    label: str
    values: Sequence[Any]
    curves: Sequence[str]
    run: Callable[[str, Any, int], Run]
    ylabel: str = "risk after 300 epochs"


def finish(result: cbk.Result, end: float | None = None) -> Run:
    """A run by its last risk (of several tasks the median), or by another number."""
    risk = float(np.median(result.history["risk"][-1]))
    return Run(risk if end is None else end, "collapsed" in result.message)


def on_sine(method: Any, seed: int) -> Run:
    """The sine of the papers: 8000 samples, 100 neurons, minibatches of 800."""
    x, y = sine.samples()
    return finish(cbk.train(sine.NET, x, y, method, epochs=EPOCHS, batch_size=800, seed=seed, num_threads=1))


def cbo(curve: str, seed: int, **parameters: Any) -> Run:
    """CBO on the sine, with or without a floor."""
    return on_sine(cbk.CBO(**{"alpha": 1e7, "floor": FLOORS[curve], **parameters}), seed)


def falling(start: float) -> cbk.Exponential:
    """A schedule that ends at a tenth of its start."""
    return cbk.Exponential(start, start / 10)


def decaying(start: float) -> cbk.Exponential:
    """A schedule that ends at a hundredth of its start."""
    return cbk.Exponential(start, start / 100)


def hopping_spread(curve: str, start: float, seed: int) -> Run:
    """Consensus hopping on the sine, by how its spread starts."""
    spread: Any = start if curve == "constant" else falling(start)
    return on_sine(cbk.ConsensusHopping(spread=spread), seed)


def hopping_rate(curve: str, start: float, seed: int) -> Run:
    """Consensus hopping on the sine, by how its learning rate starts."""
    return on_sine(cbk.ConsensusHopping(lr=start if curve == "constant" else decaying(start)), seed)


def hopping_weights(curve: str, weights: Any, seed: int) -> Run:
    """Consensus hopping on the sine, by its weights and its number of particles."""
    kind = "rank" if weights == "rank" else cbk.TargetEss(weights)
    return on_sine(cbk.ConsensusHopping(particles=int(curve.split()[-1]), weights=kind), seed)


def swinging(curve: str, seed: int, **parameters: Any) -> Run:
    """Heavy ball or gradient flow on 1000 samples of the sine, to t = 100."""
    x, y = sine.samples(1000)
    method = (cbk.HeavyBall if curve == "heavy ball" else cbk.GradientFlow)(**parameters)
    steps = round(100 / parameters.get("dt", 0.1))
    return finish(cbk.train(sine.NET, x, y, method, epochs=steps, seed=seed, num_threads=1))


def many_tasks(seed: int, **parameters: Any) -> Run:
    """Twenty of the hundred shifted sines, with a fifth of the particles."""
    x, ys = multitask.samples()
    method = cbk.MultiTaskCBO(**{"particles": 40, **parameters})
    return finish(
        cbk.train(multitask.NET, x, ys[2::5], method, epochs=EPOCHS, batch_size=800, seed=seed, num_threads=1)
    )


def by_transport(curve: str, seed: int, alpha: Any, diffusion: float) -> Run:
    """The square with 50 neurons, by barycenters or by plain averages of the networks."""
    x, y = square.samples(1000)
    ess = INF if alpha == INF else cbk.TargetEss(alpha)
    fading = cbk.Exponential(diffusion, diffusion / 20)
    if curve == "barycenter":
        method: Any = cbk.TransportCBO(particles=100, alpha=ess, diffusion=fading)
    else:
        method = cbk.CBO(particles=100, alpha=ess, diffusion=fading, noise="additive")
    net = square.network(50)
    theta = net.uniform(100, -square.RANGE, square.RANGE, seed=seed)
    return finish(cbk.train(net, x, y, method, theta=theta, epochs=EPOCHS, seed=seed, num_threads=1))


@functools.cache
def digit_data() -> tuple[Any, ...]:
    """scikit-learn's 1797 digits of 8 by 8 pixels: every fourth is held out."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x / 16 - 0.5).astype(np.float32)
    held = np.arange(len(x)) % 4 == 3
    return x[~held], y[~held], x[held], y[held]


def on_digits(method: Any, seed: int) -> Run:
    """The digits by 20 neurons, 30 epochs of minibatches of 64: accuracy on those held out, in percent."""
    x, y, x_new, y_new = digit_data()
    result = cbk.train(
        cbk.TwoLayer(64, 20, 10), x, y, method, epochs=30, batch_size=64, seed=seed, num_threads=1
    )
    return finish(result, 100 * float((result.predict(x_new).argmax(1) == y_new).mean()))


def hopping_on_digits(curve: str, seed: int, **parameters: Any) -> Run:
    """Consensus hopping on the digits, in either scope."""
    scope = curve.split()[-1]
    options = {"particles": 200, "spread": 0.1, "lr": decaying(0.1), **parameters}
    return on_digits(cbk.ConsensusHopping(scope=scope, **options), seed)


ENDS = ("low", "median", "high")
HELD_OUT = "accuracy on held-out digits [%]"
SCOPES = ("hopping, scope atom", "hopping, scope network")
SIGMA2 = (0.2, 0.4, 0.8, 1.2, 1.6, 2.0, 2.5, 3.0, 4.0)
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
FIGURES: dict[str, list[Panel]] = {
    "cbo": [
        Panel(
            r"$\alpha$", r"$\alpha$", (1e2, 1e3, 1e4, 1e5, 1e6, 1e7, INF), tuple(FLOORS),
            lambda c, v, s: cbo(c, s, alpha=v),
        ),
        Panel(
            r"Diffusion, $\alpha = 10^7$", r"$\sigma^2$", SIGMA2, tuple(FLOORS),
            lambda c, v, s: cbo(c, s, diffusion=v**0.5),
        ),
        Panel(r"Time step, $\alpha = 10^7$", "Δt", STEPS, tuple(FLOORS), lambda c, v, s: cbo(c, s, dt=v)),
        Panel(
            r"Particles, $\alpha = \infty$", "N", (5, 10, 20, 50, 100, 200, 500, 1000), tuple(FLOORS),
            lambda c, v, s: cbo(c, s, particles=v, alpha=INF),
        ),
    ],
    "hopping": [
        Panel(
            "Spread", "first spread", (0.003, 0.01, 0.03, 0.1, 0.3, 1.0), ("falling to a tenth", "constant"),
            hopping_spread,
        ),
        Panel(
            "Learning rate", "first learning rate", (0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
            ("falling to a hundredth", "constant"), hopping_rate,
        ),
        Panel(
            "Particles", "N", (10, 20, 50, 100, 200, 500, 1000), ("hopping", "CBO with a floor"),
            lambda c, v, s: on_sine(cbk.ConsensusHopping(particles=v), s) if c == "hopping"
            else cbo("floor 0.1 to 0.001", s, particles=v, alpha=INF),
        ),
        Panel(
            "Weights", "effective sample size over N, or ranks", ("rank", 0.05, 0.1, 0.25, 0.5, 0.9),
            ("N = 200", "N = 20"), hopping_weights,
        ),
    ],
    "gradients": [
        Panel(
            "Adam: learning rate", "lr", (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
            ("constant", "falling to a hundredth"),
            lambda c, v, s: on_sine(cbk.Adam(lr=v if c == "constant" else decaying(v)), s),
        ),
        Panel(
            "Hybrid of 20 networks: share of Adam", "mix", (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0),
            ("Δt = 0.1", "Δt = 0.02"),
            lambda c, v, s: on_sine(cbk.Hybrid(particles=20, mix=v, dt=float(c.split()[-1])), s),
        ),
        Panel(
            "Heavy ball: friction", "friction", (0.01, 0.03, 0.1, 0.2, 0.5, 1.0, 3.0), ("heavy ball",),
            lambda c, v, s: swinging(c, s, friction=v), "risk at t = 100",
        ),
        Panel(
            "Heavy ball and gradient flow: time step", "Δt", (0.01, 0.03, 0.1, 0.3, 1.0),
            ("heavy ball", "gradient flow"), lambda c, v, s: swinging(c, s, dt=v), "risk at t = 100",
        ),
    ],
    "measures": [
        Panel(
            "Multi-task: particles for 20 tasks", "N", (20, 40, 100, 200, 400), ("20 tasks",),
            lambda c, v, s: many_tasks(s, particles=v), "median risk after 300 epochs",
        ),
        Panel(
            "Multi-task: diffusion, Δt = 0.2", r"$\sigma^2$", (0.6, 1.0, 1.4, 1.8, 2.2, 2.6), ("20 tasks",),
            lambda c, v, s: many_tasks(s, diffusion=v**0.5), "median risk after 300 epochs",
        ),
        Panel(
            "Transport: effective sample size", r"ess over N ($\infty$: $\alpha = \infty$)",
            (INF, 0.05, 0.1, 0.25, 0.5, 1.0), ("barycenter", "plain average"),
            lambda c, v, s: by_transport(c, s, v, 1.0),
        ),
        Panel(
            "Transport: noise, ess N/4", "first diffusion, falling to a twentieth",
            (0.1, 0.3, 1.0, 3.0, 10.0), ("barycenter", "plain average"),
            lambda c, v, s: by_transport(c, s, 0.25, v),
        ),
    ],
    "digits": [
        Panel(
            "Particles", "N", (20, 50, 100, 200, 500), SCOPES,
            lambda c, v, s: hopping_on_digits(c, s, particles=v), HELD_OUT,
        ),
        Panel(
            "Hopping: learning rate", "first rate, falling to a hundredth", (0.01, 0.03, 0.1, 0.3, 1.0),
            SCOPES, lambda c, v, s: hopping_on_digits(c, s, lr=decaying(v)), HELD_OUT,
        ),
        Panel(
            "Hopping: spread", "constant spread", (0.01, 0.03, 0.1, 0.3, 1.0), SCOPES,
            lambda c, v, s: hopping_on_digits(c, s, spread=v), HELD_OUT,
        ),
        Panel(
            "With gradients: learning rate", "lr, or Δt", (0.003, 0.01, 0.03, 0.1, 0.3),
            ("Adam", "hybrid of 20, mix 0.7"),
            lambda c, v, s: on_digits(cbk.Adam(lr=v) if c == "Adam" else cbk.Hybrid(particles=20, dt=v), s),
            HELD_OUT,
        ),
    ],
}  # fmt: skip


def outcome(panel: Panel, curve: str, value: Any, seed: int) -> Run:
    """A run; one in which no particle has a finite risk any more has an end of NaN."""
    try:
        return panel.run(curve, value, seed)
    except cbk.ConsensusError:
        return Run(math.nan, False)


def sweep(panel: Panel, seeds: int, pool: ThreadPoolExecutor) -> list[dict[str, Any]]:
    """A row for each curve and value: the median of the ends, their range, and what went wrong how often."""
    points = [(curve, value) for curve in panel.curves for value in panel.values]
    jobs = [(*point, seed) for point in points for seed in range(seeds)]
    runs = list(pool.map(lambda job: outcome(panel, *job), jobs))
    rows = []
    for i, (curve, value) in enumerate(points):
        own = runs[i * seeds : (i + 1) * seeds]
        ends = np.array([run.end if math.isfinite(run.end) else INF for run in own])
        rows.append(
            {
                "panel": panel.title,
                "curve": curve,
                "value": value,
                "low": ends.min(),
                "median": float(np.median(ends)),
                "high": ends.max(),
                "collapsed": sum(run.collapsed for run in own),
                "broken": int(np.isinf(ends).sum()),
            }
        )
    return rows


def draw(ax: Any, panel: Panel, rows: list[dict[str, Any]], seeds: int) -> None:
    """The panel's curves over its values, which stand at equal distances."""
    risk = panel.ylabel != HELD_OUT
    places = np.arange(len(panel.values))
    for shift, (curve, colour) in enumerate(zip(panel.curves, COLOURS, strict=False)):
        own = [row for row in rows if row["curve"] == curve]
        low, middle, high = (np.array([row[k] for row in own]) for k in ENDS)
        x = places + 0.12 * (shift - (len(panel.curves) - 1) / 2)
        whole = np.isfinite(middle)
        top = np.where(np.isfinite(high), high, 1e3 if risk else 100)
        ax.vlines(x[whole], low[whole], top[whole], color=colour, linewidth=1.2)
        ax.plot(x[whole], middle[whole], color=colour, linewidth=1, alpha=0.5)
        stuck = np.array([2 * row["collapsed"] > seeds for row in own])
        ax.plot(x[whole & ~stuck], middle[whole & ~stuck], "o", color=colour, markersize=5, label=curve)
        label = None if (whole & ~stuck).any() else curve
        ax.plot(x[whole & stuck], middle[whole & stuck], "x", color=colour, markersize=7, label=label)
        edge = np.full((~whole).sum(), 0.97)
        ax.plot(x[~whole], edge, "^", color=colour, transform=ax.get_xaxis_transform())
    ax.set_xticks(places, ["∞" if value == INF else str_of(value) for value in panel.values])
    if risk:
        ends = np.array([row["median"] for row in rows])
        ax.set(
            yscale="log",
            ylim=(ends.min() / 2, max(3 * min(ends[np.isfinite(ends)].max(), 10), 20 * ends.min())),
        )
    else:
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + 0.25 * (high - low))  # the legend's place
    ax.set(xlabel=panel.label, ylabel=panel.ylabel, title=panel.title)
    ax.legend(frameon=False, fontsize=8)


def str_of(value: Any) -> str:
    """A value as a label."""
    return value if isinstance(value, str) else f"{value:g}".replace("e+0", "e")


def saved(path: Path, panel: Panel) -> list[dict[str, Any]]:
    """A panel's rows as `write` left them."""
    names = [str(value) for value in panel.values]
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["panel"] == panel.title]
    return [
        {
            "panel": row["panel"],
            "curve": row["curve"],
            "value": panel.values[names.index(row["value"])],
            **{name: float(row[name]) for name in ENDS},
            **{name: int(row[name]) for name in ("collapsed", "broken")},
        }
        for row in rows
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """The rows as CSV, the ends to four digits."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **{name: f"{row[name]:.4g}" for name in ENDS}} for row in rows)


def main() -> None:
    """Run the figures that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    out = Path("build/sweeps")
    parser.add_argument("--out", type=Path, default=out, help="a folder (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each point (default: %(default)s)")
    parser.add_argument("--figures", nargs="+", choices=FIGURES, default=list(FIGURES))
    parser.add_argument("--draw", action="store_true", help="only draw, from the CSV files that are there")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", cbk.CboWarning)  # a collapse is what some of these runs are to show
    with ThreadPoolExecutor(2) as pool:
        for name in arguments.figures:
            figure, axes = new_figure(4)
            path, table = arguments.out / f"sweep-{name}.csv", []
            for ax, panel in zip(axes, FIGURES[name], strict=True):
                rows = saved(path, panel) if arguments.draw else sweep(panel, arguments.seeds, pool)
                draw(ax, panel, rows, arguments.seeds)
                table += rows
                print(f"{name}: {panel.title}", flush=True)
            figure.savefig(arguments.out / f"sweep-{name}.png", dpi=110)
            write(path, table)


if __name__ == "__main__":
    main()
