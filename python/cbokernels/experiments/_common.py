"""What the experiments share: repeated runs, the CSV, the figure, and the table of findings."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._arrays import Array
from .._extras import extra
from .._files import write_whole
from ..errors import CboError, CboWarning
from ..result import Result, State

# Colours that stay apart in grey and for the colour-blind.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


class DataError(CboError):
    """The data of an experiment are missing or are not what they should be."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line asks of an experiment; None leaves a number to the experiment."""

    epochs: int | None = None
    seeds: int | None = None
    device: str = "cpu"
    data: Path = Path("data/mnist")
    out: Path = Path()
    quick: bool = False


@dataclasses.dataclass(frozen=True)
class Finding:
    """A row of the final table; `agrees` is None where the runs were too short or too few to tell."""

    expected: str
    measured: str
    agrees: bool | None
    seconds: float


@dataclasses.dataclass
class Curve:
    """The runs of one method over several seeds; `columns` holds histories besides the results' own."""

    label: str
    results: list[Result] = dataclasses.field(default_factory=list)
    columns: dict[str, list[list[float]]] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    def history(self, name: str) -> Array:
        """One row per seed, one column per epoch."""
        rows = self.columns[name] if name in self.columns else [r.history[name] for r in self.results]
        return np.array(rows)

    def at(self, name: str, epoch: int) -> Array:
        """Values after an epoch (from 1), one per seed; -1 is the last one."""
        return self.history(name)[:, epoch if epoch < 0 else epoch - 1]

    def finding(self, expected: str, measured: str, agrees: bool | None) -> Finding:
        """A row of the table about these runs."""
        return Finding(expected, measured, agrees, self.seconds)

    @property
    def typical(self) -> Result:
        """The result whose last risk is the (lower) median."""
        order = np.argsort(self.at("risk", -1))
        typical: Result = self.results[order[(len(order) - 1) // 2]]
        return typical


def run_curves(
    labels: Sequence[str],
    seeds: int,
    epochs: int,
    run: Callable[[str, int, Callable[[State], None]], Result],
) -> list[Curve]:
    """`run(label, seed, callback)` for every label and seed under one progress bar."""
    tqdm = extra("tqdm.auto", "reproduce")
    curves = [Curve(label) for label in labels]
    with tqdm.tqdm(total=len(labels) * seeds * epochs, unit="epoch") as bar, warnings.catch_warnings():
        # That an ensemble collapses is a finding here, and the table tells it.
        warnings.simplefilter("ignore", CboWarning)

        def advance(state: State) -> None:
            bar.set_postfix_str(f"risk {state.risk:.2e}", refresh=False)
            bar.update()

        for curve in curves:
            began = time.perf_counter()
            for seed in range(seeds):
                bar.set_description(f"{curve.label}, seed {seed}")
                curve.results.append(run(curve.label, seed, advance))
            curve.seconds = time.perf_counter() - began
    return curves


def write_csv(path: Path, curves: Sequence[Curve]) -> None:
    """One line per curve, seed and epoch."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [*curves[0].results[0].history, *curves[0].columns]
    writer.writerow(["curve", "seed", *names])
    for curve in curves:
        columns = [curve.history(name) for name in names]
        for seed in range(len(curve.results)):
            for values in zip(*(column[seed].tolist() for column in columns), strict=True):
                writer.writerow([curve.label, seed, *values])
    write_whole(path, lambda file: file.write(text.getvalue().encode()))


def new_figure(panels: int) -> tuple[Any, Any]:
    """A matplotlib figure with panels side by side, drawn without a display, and its Axes."""
    module = extra("matplotlib.figure", "reproduce")
    figure = module.Figure(figsize=(5.2 * panels, 4.0), layout="constrained")
    axes = figure.subplots(1, panels)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, color="0.92", linewidth=0.8)
        ax.set_axisbelow(True)
    return figure, axes


def save_figure(path: Path, figure: Any) -> None:
    """Write the figure as PNG."""
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=160))


def draw_band(ax: Any, curve: Curve, name: str, colour: str, scale: float = 1.0) -> None:
    """Median over seeds per epoch, and the band from least to greatest."""
    rows = curve.history(name) * scale
    epochs = np.arange(1, rows.shape[1] + 1)
    if len(rows) > 1:
        ax.fill_between(epochs, rows.min(axis=0), rows.max(axis=0), color=colour, alpha=0.18, linewidth=0)
    ax.plot(epochs, np.median(rows, axis=0), color=colour, linewidth=1.3, label=curve.label)


def spread(values: Array, form: str = ".2g") -> str:
    """Median and range of one number per seed."""
    if len(values) == 1:
        return format(values[0], form)
    low, middle, high = values.min(), np.median(values), values.max()
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def within(value: float, target: float, factor: float) -> bool:
    """Whether a value lies within a factor of a target, either way."""
    return math.isfinite(value) and target / factor <= value <= target * factor


def table(findings: Sequence[Finding]) -> str:
    """The findings as aligned text."""
    verdict = {True: "yes", False: "NO", None: "too little to tell"}
    rows = [("expected", "measured", "agrees", "seconds")]
    rows += [(f.expected, f.measured, verdict[f.agrees], f"{f.seconds:.1f}") for f in findings]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)
