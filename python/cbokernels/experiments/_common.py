"""What the experiments share: repeated runs, the CSV, the figure, and the table of findings."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .._arrays import Array
from .._extras import extra, progress_bar
from .._files import write_whole
from ..errors import CboError, CboWarning
from ..result import Result, State

# Colours that stay apart in grey and for the colour-blind.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


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
    """The runs of one method, one per seed.

    `columns` holds histories besides the results' own: by name, a row of numbers for each seed.
    """

    label: str
    results: list[Result] = dataclasses.field(default_factory=list)
    columns: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    @property
    def names(self) -> list[str]:
        """The columns with one number per epoch, the results' own first."""
        own = [name for name, column in self.results[0].history.items() if column.ndim == 1]
        return [*own, *self.columns]

    def history(self, name: str) -> Array:
        """[seeds, epochs], and an axis more where a column of the results has one."""
        rows = self.columns[name] if name in self.columns else [r.history[name] for r in self.results]
        return np.array(rows)

    def at(self, name: str, epoch: int) -> Array:
        """Values after an epoch (from 1), one per seed; -1 is the last one."""
        return self.history(name)[:, epoch if epoch < 0 else epoch - 1]

    def reduce(self, name: str, reduction: Callable[..., Any], source: str) -> None:
        """Add the column `name`, from a column of the results with an axis more, which is reduced."""
        self.columns[name] = [reduction(result.history[source], axis=1) for result in self.results]

    def finding(self, expected: str, measured: str, agrees: bool | None) -> Finding:
        """A row of the table about these runs."""
        return Finding(expected, measured, agrees, self.seconds)

    def typical(self, name: str = "risk") -> Result:
        """The result whose last risk (or other column) is the (lower) median."""
        order = np.argsort(self.at(name, -1))
        typical: Result = self.results[order[(len(order) - 1) // 2]]
        return typical


class _Stopped(Exception):
    """Ends the runs abreast of one that failed or was interrupted."""


def run_curves(
    labels: Sequence[str],
    seeds: int,
    epochs: int | Mapping[str, int],
    run: Callable[[str, int, Callable[[State], None]], Result],
    *,
    abreast: int = 1,
) -> list[Curve]:
    """`run(label, seed, callback)` for every label and seed under one progress bar.

    epochs: of every run, or by label. abreast: how many runs at a time, each of which had better use one
        thread then: small ensembles leave two threads waiting for each other.
    """
    jobs = [(label, seed) for label in labels for seed in range(seeds)]
    lock, stop = threading.Lock(), threading.Event()
    total = seeds * sum(epochs if isinstance(epochs, int) else epochs[label] for label in labels)
    with progress_bar("reproduce", total=total, unit="epoch") as bar, warnings.catch_warnings():
        # That an ensemble collapses is a finding here, and the table tells it.
        warnings.simplefilter("ignore", CboWarning)

        def advance(state: State) -> None:
            if stop.is_set():
                raise _Stopped
            risk = state.risk if isinstance(state.risk, float) else np.median(state.risk)
            with lock:
                bar.set_postfix_str(f"risk {risk:.2e}", refresh=False)
                bar.update()

        def one(job: tuple[str, int]) -> tuple[Result, float]:
            label, seed = job
            with lock:
                bar.set_description(f"{label}, seed {seed}")
            began = time.perf_counter()
            return run(label, seed, advance), time.perf_counter() - began

        if abreast == 1:
            done = [one(job) for job in jobs]
        else:
            with ThreadPoolExecutor(abreast) as pool:
                try:
                    done = list(pool.map(one, jobs))
                except BaseException:
                    stop.set()
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
    curves = [Curve(label) for label in labels]
    for (label, _), (result, seconds) in zip(jobs, done, strict=True):
        curve = curves[list(labels).index(label)]
        curve.results.append(result)
        curve.seconds += seconds
    return curves


def write_csv(path: Path, curves: Sequence[Curve]) -> None:
    """One line per curve, seed and epoch; empty where a curve lacks a column that another one has."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(dict.fromkeys(name for curve in curves for name in curve.names))
    writer.writerow(["curve", "seed", *names])
    for curve in curves:
        blank = [""] * len(curve.results[0].history["epoch"])
        for seed in range(len(curve.results)):
            columns = [curve.history(n)[seed].tolist() if n in curve.names else blank for n in names]
            for values in zip(*columns, strict=True):
                writer.writerow([curve.label, seed, *values])
    write_whole(path, lambda file: file.write(text.getvalue().encode()))


def new_figure(panels: int) -> tuple[Any, Any]:
    """A matplotlib figure, drawn without a display, and its Axes: side by side, four in two rows."""
    module = extra("matplotlib.figure", "reproduce")
    rows, columns = (2, 2) if panels == 4 else (1, panels)
    width, height = 5.2 * columns, 4.0 * rows
    figure = module.Figure(figsize=(width, height))
    # Margins in inches; to have them found by matplotlib would double the time of drawing.
    figure.subplots_adjust(0.75 / width, 0.55 / height, 1 - 0.15 / width, 1 - 0.4 / height, 0.22, 0.27)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, color="0.92", linewidth=0.8)
        ax.set_axisbelow(True)
    return figure, axes


def save_figure(path: Path, figure: Any) -> None:
    """Write the figure as PNG."""
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=160))


def draw_band(
    ax: Any, curve: Curve, name: str, colour: str, scale: float = 1.0, x: Array | None = None, **line: Any
) -> None:
    """Median over seeds per epoch, and the band from least to greatest.

    scale: a factor for the values. x: what to draw them against (None: the epochs). Other arguments go to
    `Axes.plot`.
    """
    rows = curve.history(name) * scale
    if x is None:
        x = curve.results[0].history["epoch"]
    if len(rows) > 1:
        ax.fill_between(x, rows.min(axis=0), rows.max(axis=0), color=colour, alpha=0.18, linewidth=0)
    ax.plot(x, np.median(rows, axis=0), **{"color": colour, "linewidth": 1.3, "label": curve.label, **line})


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
