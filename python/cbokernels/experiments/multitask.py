"""A hundred shifted sines learnt by one ensemble [De Deyn, Herty, Samaey 2025, example 3, fig. 5 and 6].

200 networks, two for each task, all scored on every task.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._arrays import Array
from ..methods import MultiTaskCBO
from ..network import TwoLayer
from ..result import Result, State
from ..schedules import Tenfold
from ..training import train
from ..training.arguments import check_device
from . import sine
from ._common import (
    COLOURS,
    Curve,
    Finding,
    Options,
    Work,
    draw_band,
    new_figure,
    over,
    run_curves,
    save_figure,
    spread,
    write_csv,
)

TASKS = 100
NET = TwoLayer(inputs=1, width=100, outputs=1)
BATCH = 800
LABEL = "CBO of 100 tasks"
METHOD = MultiTaskCBO(
    particles=200, alpha=Tenfold(1e4, every=100, cap=1e7), drift=1.0, diffusion=1.8**0.5, dt=0.2
)
SHOWN = (0, 25, 50, 75, 99)  # tasks whose fits are drawn, from 0

EXPECTED = "the paper's figures, and what a plain implementation of its parameters measured"
# Median over tasks of the risk in a plain implementation of the paper, by epoch: least and greatest seed.
_MEDIAN = {10: (0.03, 0.16), 100: (2e-3, 5e-3), 300: (5e-4, 1e-3), 1000: (5e-4, 1e-3)}
_LONG = 300  # epochs after which minimum and fits are judged


def samples(size: int = 8000) -> tuple[Array, Array]:
    """x [size, 1] ~ U[0, 1] and ys [100, size] = sin 2πx + Δy_p without noise, the same at every call."""
    x, _ = sine.samples(size)
    return x, truth(x[:, 0])


def truth(x: Array) -> Array:
    """The functions behind the data, [100, S]; Δy_p = 2(p - 1)/99 - 1 for p from 1."""
    return np.asarray(sine.truth(x) + np.linspace(-1, 1, TASKS)[:, None])


def reproduce(options: Options) -> list[Finding]:
    """Run the ensemble, write multitask.csv and multitask.png, return what was found.

    1000 epochs (`quick`: 300) with 1 seed, unless the options say otherwise.
    """
    check_device(options.device)
    method = options.changed({LABEL: METHOD})[LABEL]
    how: dict[str, Any] = {"batch_size": BATCH, "device": options.device}
    epochs = options.epochs or (300 if options.quick else 1000)
    figure, axes = new_figure(2)
    x, ys = samples()

    def run(label: str, seed: int, callback: Callable[[State], None]) -> Result:
        return train(NET, x, ys, method, epochs=epochs, seed=seed, callback=callback, **how)

    work = {LABEL: Work(NET, method, len(x), {**how, "tasks": TASKS})}
    (curve,) = run_curves(
        [LABEL], options.seeds or 1, epochs, run, work=work, keep=options.out / "multitask.csv"
    )
    summarise(curve)
    write_csv(options.out / "multitask.csv", [curve])
    draw(axes, curve)
    save_figure(options.out / "multitask.png", figure, **options.changes)
    return findings(curve, epochs)


def summarise(curve: Curve) -> None:
    """Median, least and greatest risk over the tasks as columns of their own."""
    for name, reduction in (("median", np.median), ("min", np.min), ("max", np.max)):
        curve.reduce(f"risk_{name}", reduction, "risk")


def draw(axes: Any, curve: Curve) -> None:
    """Median and minimum risk per epoch as in figure 5, five tasks' fits as in figure 6."""
    left, right = axes
    draw_band(left, curve, "risk_median", COLOURS[0], label="median")
    draw_band(left, curve, "risk_min", COLOURS[1], label="minimum")
    left.set(yscale="log", xlabel="epoch", ylabel="risk", title=f"Risk over 100 tasks: {over([curve])}")
    left.legend(frameon=False, fontsize=8, loc="upper right")
    grid = np.linspace(0, 1, 401)
    fits = curve.typical("risk_median").predict(grid[:, None])[..., 0]
    for task, colour in zip(SHOWN, COLOURS, strict=False):
        right.plot(grid, truth(grid)[task], color="black", linewidth=1, linestyle=(0, (4, 3)))
        right.plot(grid, fits[task], color=colour, linewidth=1.6, label=f"fit of task {task + 1}")
    right.plot([], [], color="black", linewidth=1, linestyle=(0, (4, 3)), label="sin 2πx + Δy")
    right.set(xlabel="x", ylabel="y", title="Fits of five tasks at the end")
    right.set_ylim(-3.1, 2.2)
    right.legend(frameon=False, fontsize=8, loc="lower center", ncols=3)


def findings(curve: Curve, epochs: int) -> list[Finding]:
    """Compare with the paper and with a plain implementation of its method."""
    epoch = max((e for e in _MEDIAN if e <= epochs), default=None)
    low, high = _MEDIAN[min(_MEDIAN) if epoch is None else epoch]
    median = curve.at("risk_median", epochs if epoch is None else epoch)
    least = curve.at("risk_min", -1)
    grid = np.linspace(0, 1, 1001)
    fits = curve.typical("risk_median").predict(grid[:, None])[..., 0]
    error = np.sqrt(np.square(fits - truth(grid)).mean(axis=1))[list(SHOWN)].max()
    long = epochs >= _LONG
    return [
        curve.finding(
            f"fig. 5: median risk {low:.2g} to {high:.2g} at epoch {epoch or min(_MEDIAN)} "
            "(agrees: within a factor of 3 of these)",
            spread(median),
            None if epoch is None else bool(low / 3 <= np.median(median) <= high * 3),
        ),
        curve.finding(
            "fig. 5: the minimum falls as the median does (agrees: at most 2e-3 at the end)",
            spread(least),
            bool(np.median(least) <= 2e-3) if long else None,
        ),
        curve.finding(
            "fig. 6: five tasks' fits follow their sines (agrees: root mean square errors at most 0.1)",
            f"at most {error:.2g}",
            bool(error <= 0.1) if long else None,
        ),
    ]
