"""A sine learnt from 8000 noisy samples [De Deyn, Herty, Samaey 2025, example 1, fig. 2 and 3].

Two ensembles of 200 networks: the parameters as the paper prints them, under which the ensemble freezes, and
alpha = infinity with a noise floor, which keeps it moving. Medians over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .._arrays import Array
from .._watch import frozen_share
from ..methods import CBO
from ..network import TwoLayer
from ..result import Result, State
from ..schedules import Exponential, Tenfold
from ..training import check_device, train
from ._common import (
    COLOURS,
    Curve,
    Finding,
    Options,
    draw_band,
    new_figure,
    run_curves,
    save_figure,
    spread,
    within,
    write_csv,
)

NET = TwoLayer(inputs=1, width=100, outputs=1)
BATCH = 800
METHODS = {
    "CBO as printed": CBO(
        particles=200,
        alpha=Tenfold(1e5, every=100, cap=1e7),
        drift=1.0,
        diffusion=1.6**0.5,
        dt=0.1,
    ),
    "CBO, alpha = inf, noise floor": CBO(particles=200, alpha=math.inf, floor=Exponential(0.1, 0.001)),
}

# Median risks of the printed parameters in a plain implementation of the paper, by epoch.
_PRINTED = {10: 0.13, 100: 1.5e-2, 300: 1.3e-2, 1000: 1e-2}
_FLOOR_EPOCHS, _FLOOR_RISK = 300, 2.7e-4


def samples(size: int = 8000) -> tuple[Array, Array]:
    """x [size, 1] ~ U[0, 1] and y [size] = sin 2πx + 0.01 ξ, the same at every call."""
    draw = np.random.Generator(np.random.Philox(2025))
    x = draw.random((size, 1))
    return x, truth(x[:, 0]) + 0.01 * draw.standard_normal(size)


def truth(x: Array) -> Array:
    """The function behind the data."""
    return np.asarray(np.sin(2 * np.pi * x))


def reproduce(options: Options) -> list[Finding]:
    """Run both ensembles, write sine.csv and sine.png, return what was found."""
    check_device(options.device)
    epochs = options.epochs or (300 if options.quick else 1000)
    seeds = options.seeds or (1 if options.quick else 5)
    figure, axes = new_figure(2)
    x, y = samples()

    def run(label: str, seed: int, callback: Callable[[State], None]) -> Result:
        return train(
            NET,
            x,
            y,
            METHODS[label],
            epochs=epochs,
            batch_size=BATCH,
            seed=seed,
            device=options.device,
            callback=callback,
        )

    curves = run_curves(list(METHODS), seeds, epochs, run)
    write_csv(options.out / "sine.csv", curves)
    draw(axes, curves, x, y)
    save_figure(options.out / "sine.png", figure)
    return findings(curves, epochs)


def draw(axes: Any, curves: list[Curve], x: Array, y: Array) -> None:
    """Risk per epoch as in figure 2, the fits at the end as in figure 3."""
    left, right = axes
    grid = np.linspace(0, 1, 401)
    right.plot(x[::20, 0], y[::20], ".", color="0.75", markersize=3, label="data (every 20th)")
    right.plot(grid, truth(grid), color="black", linewidth=1, linestyle=(0, (4, 3)), label="sin 2πx")
    for curve, colour in zip(curves, COLOURS, strict=False):
        draw_band(left, curve, "risk", colour)
        fit = curve.typical().predict(grid[:, None])[:, 0]
        right.plot(grid, fit, color=colour, linewidth=1.6, label=curve.label)
    left.axhline(1e-4, color="0.5", linewidth=1, linestyle=":", label="variance of the label noise")
    left.set(yscale="log", xlabel="epoch", ylabel="risk", title="Risk: median and range over seeds")
    right.set(xlabel="x", ylabel="y", title="Fit at the end (the seed of median risk)")
    left.legend(frameon=False, fontsize=8)
    right.legend(frameon=False, fontsize=8)


def findings(curves: list[Curve], epochs: int) -> list[Finding]:
    """Compare with the paper and with a plain implementation of its method."""
    printed, floor = curves
    epoch = max((e for e in _PRINTED if e <= epochs), default=None)
    early = min(_PRINTED) if epoch is None else epoch
    risk = printed.at("risk", epochs if epoch is None else epoch)
    start = NET.size / 6  # the variance of U[-1, 1] in D coordinates, with its factor 1/2
    frozen = 100 * np.array([frozen_share(result.particles, start) for result in printed.results])
    end = floor.at("risk", -1)
    grid = np.linspace(0, 1, 1001)
    error = float(np.abs(floor.typical().predict(grid[:, None])[:, 0] - truth(grid)).max())
    long = epochs >= _FLOOR_EPOCHS
    return [
        printed.finding(
            f"as printed: risk {_PRINTED[early]:.2g} at epoch {early} (agrees: within a factor of 4)",
            spread(risk),
            # single runs differ by more than the criterion allows
            None if epoch is None or len(risk) < 3 else within(float(np.median(risk)), _PRINTED[epoch], 4),
        ),
        printed.finding(
            "as printed: the ensemble freezes (agrees: no spread left in 90 % of the coordinates)",
            f"{spread(frozen, '.0f')} %",
            bool(np.median(frozen) >= 90) if epochs >= 100 else None,
        ),
        floor.finding(
            f"with the floor: risk {_FLOOR_RISK:.2g} after {_FLOOR_EPOCHS} epochs (agrees: at most 6e-4)",
            f"{spread(end)} after {epochs}",
            bool(np.median(end) <= 6e-4) if long else None,
        ),
        floor.finding(
            "fig. 3: the fit follows the sine, with the floor (agrees: error at most 0.1)",
            f"{error:.2g}",
            error <= 0.1 if long else None,
        ),
    ]
