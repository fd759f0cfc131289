"""What the experiments share: repeated runs, the CSV, the figure, and the table of findings."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import math
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .._arrays import Array
from .._extras import extra, progress_bar
from .._files import write_whole
from .._ranks import Ranks, launched
from ..errors import CboError, CboWarning
from ..estimate import estimate
from ..methods.base import Method
from ..network import TwoLayer
from ..result import Result, State

ENOUGH = 3  # seeds, for a verdict against
# Colours that stay apart in grey and for the colour-blind.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


class DataError(CboError):
    """The data of an experiment are missing or are not what they should be."""


class OptionError(CboError):
    """What an option asks for is not there in an experiment."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line asks of an experiment; None leaves a number to the experiment.

    changes: parameters of the methods by name, in place of the experiment's own values.
    """

    epochs: int | None = None
    seeds: int | None = None
    device: str = "cpu"
    data: Path = Path("data/mnist")
    out: Path = Path()
    quick: bool = False
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def changed(self, methods: Mapping[str, Method]) -> dict[str, Method]:
        """The methods by label, with the changes in each that takes such values; OptionError if none does."""
        taken: dict[str, dict[str, Any]] = {label: {} for label in methods}
        for name, value in self.changes.items():
            refused = None
            for label, m in methods.items():
                if name not in {field.name for field in dataclasses.fields(m)}:
                    continue
                meant = _meant(value, getattr(m, name))
                try:
                    dataclasses.replace(m, **{name: meant})
                except TypeError as error:
                    # "drift" is a word of one method and a number of another
                    if isinstance(meant, str) != isinstance(getattr(m, name), str):
                        refused = error
                        continue
                except ValueError:
                    pass  # another change may go with it
                taken[label][name] = meant
            if any(name in changes for changes in taken.values()):
                continue
            if refused:
                raise OptionError(f"--set: {refused}") from refused
            there = ", ".join(sorted({f.name for m in methods.values() for f in dataclasses.fields(m)}))
            raise OptionError(f"--set {name}: there is no such parameter here, only {there}")
        try:
            return {label: dataclasses.replace(m, **taken[label]) for label, m in methods.items()}
        except (TypeError, ValueError) as error:
            raise OptionError(f"--set: {error}") from error


def _meant(value: Any, now: Any) -> Any:
    """The words none, true and false as values, unless the parameter takes names."""
    words = {"none": None, "true": True, "false": False}
    named = isinstance(now, str) and now != "auto"  # a parameter whose values are names
    return words.get(value.lower(), value) if isinstance(value, str) and not named else value


@dataclasses.dataclass(frozen=True)
class Work:
    """What the runs of a curve are, for an estimate of their time; `options` are those of `estimate`."""

    net: TwoLayer
    method: Method
    samples: int
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def seconds(self, epochs: int) -> float:
        """About how long one run takes."""
        return estimate(self.net, self.method, self.samples, epochs, **self.options).seconds


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
        """A row of the table about these runs. Fewer than three seeds cannot tell that something fails."""
        if agrees is False and len(self.results) < ENOUGH:
            agrees = None
        return Finding(expected, measured, agrees, self.seconds)

    def typical(self, name: str = "risk") -> Result:
        """The result whose last risk (or other column) is the (lower) median."""
        order = np.argsort(self.at(name, -1))
        typical: Result = self.results[order[(len(order) - 1) // 2]]
        return typical


@functools.cache
def job() -> Ranks:
    """The processes that reproduce an experiment: those that MPI has started, else this one alone."""
    if not launched():
        return Ranks()
    from .._mpi import MPI, Communicator

    return Communicator(MPI.COMM_WORLD)


class _Stopped(Exception):
    """Ends the runs abreast of one that failed or was interrupted."""


def run_curves(
    labels: Sequence[str],
    seeds: int,
    epochs: int | Mapping[str, int],
    run: Callable[[str, int, Callable[[State], None]], Result],
    *,
    abreast: int = 1,
    work: Mapping[str, Work] | None = None,
    keep: Path | None = None,
) -> list[Curve]:
    """`run(label, seed, callback)` for every label and seed under one progress bar; the runs are dealt out to
    the processes of the job, and each gets the results of all.

    epochs: of every run, or by label. abreast: how many runs at a time, each of which had better use one
    thread then: small ensembles leave two threads waiting for each other. work: what is said of the time
    before it begins. keep: a CSV that is written after every curve, for what is killed later.
    """
    lengths = {label: epochs if isinstance(epochs, int) else epochs[label] for label in labels}
    jobs, ranks = [(label, seed) for label in labels for seed in range(seeds)], job()
    mine = jobs[ranks.rank :: ranks.size]
    lock, stop = threading.Lock(), threading.Event()
    extra("tqdm.auto", "reproduce")  # before anything is said
    if ranks.rank == 0:
        announce(lengths, seeds, work, abreast * ranks.size)
    total, quiet = sum(lengths[label] for label, _ in mine), {"disable": True} if ranks.rank else {}
    curves = {label: Curve(label) for label in labels}
    with progress_bar("reproduce", total=total, unit="epoch", **quiet) as bar, warnings.catch_warnings():
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
                bar.set_description(f"{label}, seed {seed}", refresh=False)
            began = time.perf_counter()
            return run(label, seed, advance), time.perf_counter() - began

        def gather(ended: Iterable[tuple[Result, float]]) -> None:
            if ranks.size > 1:
                parts = ranks.tell(list(ended))
                ended = (parts[i % ranks.size][i // ranks.size] for i in range(len(jobs)))
            for (label, _), (result, seconds) in zip(jobs, ended, strict=True):
                curve = curves[label]
                curve.results.append(result)
                curve.seconds += seconds
                if keep is not None and len(curve.results) == seeds:
                    write_csv(keep, [curve for curve in curves.values() if len(curve.results) == seeds])

        if abreast == 1:
            gather(map(one, mine))
        else:
            with ThreadPoolExecutor(abreast) as pool:
                try:
                    gather(pool.map(one, mine))
                except BaseException:
                    stop.set()
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
    return list(curves.values())


def announce(lengths: Mapping[str, int], seeds: int, work: Mapping[str, Work] | None, abreast: int) -> None:
    """Say on stderr which runs are to come, and about how long they will take."""
    runs = f"{counted(len(lengths), 'curve')} of {counted(seeds, 'seed')}"
    took = ""
    if work:
        seconds = seeds * sum(work[label].seconds(lengths[label]) for label in work) / abreast
        took = f", about {duration(seconds)} here and now"
    print(f"{runs}, {seeds * sum(lengths.values()):,} epochs in all{took}", file=sys.stderr, flush=True)


def counted(number: int, what: str) -> str:
    """A number of things, in words that agree with it."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def over(curves: Sequence[Curve], many: str = "median and range") -> str:
    """What a band or a line over seeds is, for a title."""
    seeds = len(curves[0].results)
    return "1 seed" if seeds == 1 else f"{many} of {seeds} seeds"


def whose(curves: Sequence[Curve]) -> str:
    """Which seed a fit is of, for a title; nothing where there is one only."""
    return "" if len(curves[0].results) == 1 else " (the seed of median risk)"


def duration(seconds: float) -> str:
    """Seconds in a form for people."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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
    if job().rank == 0:
        write_whole(path, lambda file: file.write(text.getvalue().encode()))


TITLE_LETTERS = 45  # as many are as wide as a panel


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


def save_figure(path: Path, figure: Any, curves: Sequence[Curve] = (), **changes: Any) -> None:
    """Write the figure as PNG; in its corners, how many seeds its curves have and what `--set` changed."""
    if changes:
        told = "--set " + " ".join(f"{name}={value}" for name, value in changes.items())
        figure.text(0.005, 0.995, told, ha="left", va="top", fontsize=8, color="0.4")
    if curves:
        seeds = counted(len(curves[0].results), "seed")
        figure.text(0.995, 0.995, seeds, ha="right", va="top", fontsize=8, color="0.4")
    for ax in figure.axes:
        _shorten_ticks(ax)
        letters = len(ax.get_title())
        if letters > TITLE_LETTERS:
            ax.title.set_fontsize(ax.title.get_fontsize() * TITLE_LETTERS / letters)
    if job().rank == 0:
        write_whole(path, lambda file: figure.savefig(file, format="png", dpi=160))


def _shorten_ticks(ax: Any) -> None:
    """Plain numbers on a logarithmic y axis of about one decade. Powers there push the axis's label out."""
    low, high = ax.get_ylim()
    if ax.get_yscale() != "log" or high > 20 * low:
        return
    ticker = extra("matplotlib.ticker", "reproduce")
    axis, plain = ax.yaxis, ticker.FuncFormatter(lambda value, _: f"{value:.3g}")
    if high > 1.6 * low:
        axis.set_minor_locator(ticker.LogLocator(subs=(2, 3, 5) if high > 4 * low else (1.5, 2, 3, 4, 5, 7)))
    else:
        axis.set_major_locator(ticker.MaxNLocator(4))
        axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(plain)
    axis.set_minor_formatter(plain)


def draw_band(
    ax: Any, curve: Curve, name: str, colour: str, scale: float = 1.0, x: Array | None = None, **line: Any
) -> None:
    """Median over seeds per epoch, and the band from least to greatest.

    scale: of the values. x: what to draw them against, None: the epochs. `line` goes to `Axes.plot`.
    """
    rows = curve.history(name) * scale
    if x is None:
        x = curve.results[0].history["epoch"]
    if len(rows) > 1:
        ax.fill_between(x, rows.min(axis=0), rows.max(axis=0), color=colour, alpha=0.18, linewidth=0)
    look = {"color": colour, "linewidth": 1.3, "label": curve.label, "marker": "o" if len(x) == 1 else None}
    ax.plot(x, np.median(rows, axis=0), **{**look, **line})


def mark_clipped(ax: Any) -> None:
    """A triangle at the edge wherever a line leaves the axes, in the line's colour."""
    low, high = ax.get_ylim()
    left, right = ax.get_xlim()
    for line in ax.get_lines():
        x, y = (np.asarray(values, np.float64) for values in line.get_data())
        seen = (x >= left) & (x <= right)
        for edge, marker, outside in ((high, "^", seen & (y > high)), (low, "v", seen & (y < low))):
            begins = np.flatnonzero(outside & ~np.concatenate([[False], outside[:-1]]))
            shown = {"color": line.get_color(), "markersize": 5, "clip_on": False}
            ax.plot(x[begins], np.full(len(begins), edge), marker, linestyle="", **shown)
    ax.set(xlim=(left, right), ylim=(low, high))


def spread(values: Array, form: str = ".2g") -> str:
    """Median and range of one number per seed."""
    if len(values) == 1:
        return format(values[0], form)
    low, middle, high = values.min(), np.median(values), values.max()
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def within(value: float, target: float, factor: float) -> bool:
    """Whether a value lies within a factor of a target, either way."""
    return math.isfinite(value) and target / factor <= value <= target * factor


def table(findings: Sequence[Finding], open_verdict: str = "too little to tell") -> str:
    """The findings as aligned text; `open_verdict` stands where there is none."""
    verdict = {True: "yes", False: "NO", None: open_verdict}
    rows = [("expected", "measured", "agrees", "seconds")]
    rows += [(f.expected, f.measured, verdict[f.agrees], f"{f.seconds:.1f}") for f in findings]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)
