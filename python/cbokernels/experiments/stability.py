"""The long run of figure 4 [De Deyn, Herty, Samaey 2025]: Adam grows unstable where the hybrid does not.

    python -m cbokernels.experiments.stability --data DIR --out DIR [--minutes 60] [--epochs 10000]

trains both on 10,000 MNIST digits until the time is over, with an ensemble of 200 (`--particles`). It writes
stability.csv and stability.png, and checkpoints from which the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._arrays import Array
from ..errors import CboError
from ..result import Result, State
from ..training import train
from . import mnist
from ._common import COLOURS, Curve, Finding, draw_band, new_figure, run_curves, save_figure, table, write_csv

NAMES = ("Adam", "hybrid")
SPIKE = 100.0  # how many times the least risk before it a risk is that counts as a spike
_LONG = 1000  # epochs after which a run without spikes counts as stable


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the given arguments (None: those of the process) and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m cbokernels.experiments.stability")
    parser.add_argument("--data", type=Path, default=Path("data/mnist"), help="MNIST files")
    parser.add_argument("--out", type=Path, default=Path(), help="CSV, PNG and checkpoints")
    parser.add_argument("--minutes", type=float, default=60.0, help="when to stop (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=10000, help="at most (default: %(default)s)")
    parser.add_argument("--particles", type=int, default=mnist.FEWER, help="default: %(default)s")
    arguments = parser.parse_args(argv)
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        print(table(reproduce(**vars(arguments))))
    except (CboError, ImportError, OSError, ValueError) as error:
        print(f"stability: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stability: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def reproduce(data: Path, out: Path, minutes: float, epochs: int, particles: int) -> list[Finding]:
    """Run both methods for half of the time each, Adam's rest going to the hybrid; return what was found."""
    figure, axes = new_figure(1)
    x, y = mnist.load(data)
    methods = mnist.methods(particles)
    began = time.monotonic()

    def run(label: str, seed: int, callback: Callable[[State], None]) -> Result:
        deadline = began + 60 * minutes * (NAMES.index(label) + 1) / len(NAMES)

        def stop(state: State) -> bool:
            callback(state)
            return time.monotonic() >= deadline

        return train(
            mnist.NET,
            x,
            y,
            methods[label],
            epochs=epochs,
            batch_size=mnist.BATCH,
            seed=seed,
            callback=stop,
            checkpoint=out / f"stability-{label}.npz",
            every=100,
            resume=True,
        )

    curves = run_curves(NAMES, 1, epochs, run)
    write_csv(out / "stability.csv", curves)
    draw(axes[0], curves, particles)
    save_figure(out / "stability.png", figure)
    return [finding(curve) for curve in curves]


def draw(ax: Any, curves: Sequence[Curve], particles: int) -> None:
    """Risk per epoch as in figure 4."""
    for curve, colour in zip(curves, reversed(COLOURS[:2]), strict=True):
        label = f"{curve.label}, N = {particles}" if curve.label == "hybrid" else curve.label
        draw_band(ax, curve, "risk", colour, label=label, linewidth=0.9)
    ax.set(
        xscale="log", yscale="log", xlabel="epoch", ylabel="risk (cross entropy)", title="Long runs on MNIST"
    )
    ax.legend(frameon=False, fontsize=8, loc="lower left")


def spikes(risk: Array) -> Array:
    """Epochs (from 1) at which a risk leaves the range up to SPIKE times the least one before it."""
    above = risk > SPIKE * np.minimum.accumulate(risk)
    above[1:] &= ~above[:-1]
    return np.flatnonzero(above) + 1


def finding(curve: Curve) -> Finding:
    """Whether a run had the spikes that the paper shows for Adam and not for the hybrid."""
    risk = curve.history("risk")[0]
    found, epochs = spikes(risk), len(risk)
    least = int(risk.argmin())
    measured = f"{len(found)} in {epochs} epochs, least risk {risk[least]:.1e}"
    if len(found):
        measured += f", first at {found[0]}, up to {risk[found[0] - 1 :].max():.2g}"
    if curve.label == "Adam":
        agrees = True if len(found) else (False if epochs >= 10 * _LONG else None)
        expected = f"fig. 4: Adam's risk spikes (by a factor above {SPIKE:.0f})"
    else:
        agrees = False if len(found) else (True if epochs >= _LONG else None)
        expected = f"fig. 4: the hybrid's does not (by a factor above {SPIKE:.0f})"
    return Finding(expected, measured, agrees, curve.seconds)  # about this run, be it the only one


if __name__ == "__main__":
    sys.exit(main())
