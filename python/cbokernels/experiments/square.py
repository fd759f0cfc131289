"""The square learnt by networks as measures, at four widths [De Deyn, Herty, Samaey 2025, example 4, fig. 8].

Optimal-transport CBO of 100 networks with the paper's parameters, mean of ten seeds. With its alpha nearly
every barycenter is the best particle, so that the risks say little of the transport: `mean-field` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _cpu
from .._arrays import Array
from ..methods import TransportCBO
from ..network import TwoLayer
from ..result import Result, State
from ..schedules import Geometric, Tenfold
from ..training import train
from ..training.arguments import check_device
from ._common import (
    COLOURS,
    Curve,
    Finding,
    Options,
    Work,
    new_figure,
    over,
    run_curves,
    save_figure,
    spread,
    whose,
    write_csv,
)

WIDTHS = (10, 50, 100, 200)
BATCH = 2500
RANGE = 2.0  # atoms start uniformly in [-2, 2]
METHOD = TransportCBO(
    particles=100,
    alpha=Tenfold(1e4, every=100, cap=1e7),
    drift=1.0,
    diffusion=Geometric(1.2**0.5, 0.9, every=100),
    dt=0.1,
    iterations=1,
)

EXPECTED = "the paper's figures, and what a plain implementation of its parameters measured"
# Mean risks in a plain implementation after 600 epochs, by width, and what counts as agreement.
_EPOCHS = 600
_RISKS = {10: (4.5e-4, 1e-3), 50: (2.6e-4, 7e-4), 100: (2.5e-4, 7e-4)}
_SEEDS = 3  # fewer make no mean
_SHARP = 100  # epochs after which alpha is at least 1e5


def network(width: int) -> TwoLayer:
    """The paper's network of a width."""
    return TwoLayer(inputs=1, width=width, outputs=1)


def label(width: int) -> str:
    """The curve's name."""
    return f"M = {width}"


def samples(size: int = 5000) -> tuple[Array, Array]:
    """x [size, 1] ~ U[0, 1] and y [size] = x² + 0.01 ξ, the same at every call."""
    draw = np.random.Generator(np.random.Philox(2026))
    x = draw.random((size, 1))
    return x, truth(x[:, 0]) + 0.01 * draw.standard_normal(size)


def truth(x: Array) -> Array:
    """The function behind the data."""
    return np.asarray(x * x)


def reproduce(options: Options) -> list[Finding]:
    """Run all widths, write square.csv and square.png, return what was found.

    600 epochs with 10 seeds (`quick`: 200 with 1), unless the options say otherwise.
    """
    check_device(options.device)
    method = options.changed({"": METHOD})[""]
    particles = getattr(method, "particles")  # noqa: B009
    epochs = options.epochs or (200 if options.quick else _EPOCHS)
    figure, axes = new_figure(2)
    x, y = samples()
    nets = {label(width): network(width) for width in WIDTHS}
    how: dict[str, Any] = {"batch_size": BATCH, "device": options.device, "num_threads": 1}

    def run(name: str, seed: int, callback: Callable[[State], None]) -> Result:
        net = nets[name]
        return train(
            net,
            x,
            y,
            method,
            epochs=epochs,
            seed=seed,
            theta=net.uniform(particles, -RANGE, RANGE, seed=seed),
            callback=callback,
            **how,
        )

    seeds = options.seeds or (1 if options.quick else 10)
    work = {name: Work(net, method, len(y), how) for name, net in nets.items()}
    curves = run_curves(
        list(nets), seeds, epochs, run, abreast=_cpu.max_threads(), work=work, keep=options.out / "square.csv"
    )
    write_csv(options.out / "square.csv", curves)
    draw(axes, curves)
    save_figure(options.out / "square.png", figure, **options.changes)
    return findings(curves, epochs)


def draw(axes: Any, curves: list[Curve]) -> None:
    """Mean risks per epoch as in figure 8, and the errors of the fits."""
    risks, errors = axes
    grid = np.linspace(0, 1, 401)
    for curve, colour in zip(curves, COLOURS, strict=False):
        epochs, mean = curve.results[0].history["epoch"], curve.history("risk").mean(axis=0)
        risks.plot(epochs, mean, color=colour, linewidth=1, label=curve.label)
        error = curve.typical().predict(grid[:, None])[:, 0] - truth(grid)
        errors.plot(grid, error, color=colour, linewidth=1.3, label=curve.label)
    risks.axhline(1e-4, color="0.5", linewidth=1, linestyle=":", label="variance of the label noise")
    risks.set(yscale="log", xlabel="epoch", ylabel="risk", title=f"Risk: {over(curves, 'mean')}")
    errors.set(xlabel="x", ylabel="fit - x²", title=f"Error of the fit{whose(curves)}")
    for ax in axes:
        ax.legend(frameon=False, fontsize=8, loc="upper right")


def findings(curves: list[Curve], epochs: int) -> list[Finding]:
    """Compare with the paper and with a plain implementation of its method."""
    by_width = dict(zip(WIDTHS, curves, strict=True))
    ends = {width: curve.at("risk", -1) for width, curve in by_width.items()}
    told = epochs >= _EPOCHS and len(curves[0].results) >= _SEEDS
    rows = [
        by_width[width].finding(
            f"fig. 8, {label(width)}: mean {risk:.2g} after {_EPOCHS} epochs (agrees: at most {most:.0e})",
            f"{ends[width].mean():.2g}, median {spread(ends[width])}",
            bool(ends[width].mean() <= most) if told else None,
        )
        for width, (risk, most) in _RISKS.items()
    ]
    means = {width: float(end.mean()) for width, end in ends.items()}
    wide = means[WIDTHS[-1]]
    late = np.array([curve.history("ess")[:, _SHARP:] for curve in curves])
    alone = float((late < 1.5).mean()) if late.size else float("nan")
    return [
        *rows,
        by_width[WIDTHS[-1]].finding(
            f"fig. 8: wider is better (agrees: mean of {label(WIDTHS[-1])} below that of {label(WIDTHS[0])})",
            f"{wide:.2g} against {means[WIDTHS[0]]:.2g}",
            wide < means[WIDTHS[0]] if told else None,
        ),
        Finding(
            "alpha >= 1e5: the barycenter is one particle (agrees: ess below 1.5 in 90 % of the epochs)",
            f"{100 * alone:.0f} %" if late.size else "never so large",
            alone >= 0.9 if late.size else None,
            sum(curve.seconds for curve in curves),
        ),
    ]
