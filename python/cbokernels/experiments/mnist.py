"""10,000 MNIST digits [De Deyn, Herty, Samaey 2025, example 2, fig. 4].

Networks of 20 neurons: CBO and the hybrid with the paper's ensembles of 1000, Adam, and consensus hopping
neuron by neuron. The risks are those of training on all 10,000 digits, as in the paper. Every method then
runs again without every fifth digit, with ensembles of 200, to be scored on these 2,000.
"""

from __future__ import annotations

import dataclasses
import gzip
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._arrays import Array
from ..methods import CBO, Adam, ConsensusHopping, Hybrid
from ..methods.base import Method
from ..network import TwoLayer
from ..result import Result, State
from ..risk import forward
from ..schedules import Exponential
from ..training import train
from ..training.arguments import check_device
from ._common import (
    COLOURS,
    Curve,
    DataError,
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

NET = TwoLayer(inputs=784, width=20, outputs=10)
BATCH, HOPPING_BATCH = 1000, 100
HELD_OUT = 5  # every fifth digit, in runs that are scored on digits not learnt from
PARTICLES, FEWER = 1000, 200  # of the paper's ensembles, and of those that shall end sooner
IMAGES, LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"

# What a plain implementation measured at epoch 10, with ensembles of 200.
_EPOCH = 10
_RISKS = {"CBO": 1.6, "hybrid": 0.15, "Adam": 0.12}
_HOPPING_EPOCHS = 30  # ten times as many steps as the others' epochs have; 96.1 % correct by then


def methods(particles: int = PARTICLES) -> dict[str, Method]:
    """The methods by name: the paper's three, and consensus hopping for more parameters than particles."""
    return {
        "CBO": CBO(particles=particles, alpha=1e5, drift=1.0, diffusion=1.4**0.5, dt=0.1),
        "hybrid": Hybrid(particles=particles, mix=0.7, alpha=1e4, drift=1.0, diffusion=1.2**0.5, dt=0.1),
        "Adam": Adam(lr=0.1),
        "consensus hopping": ConsensusHopping(
            particles=FEWER, scope="atom", spread=0.1, lr=Exponential(0.1, 0.001)
        ),
    }


@dataclasses.dataclass(frozen=True)
class Run:
    """A curve's method, by name, its ensemble, its length, and whether it learns from all digits."""

    method: str
    particles: int
    epochs: int
    everything: bool

    @property
    def label(self) -> str:
        """The curve's name."""
        return f"{self.legend}, {'all digits' if self.everything else 'a fifth held out'}"

    @property
    def legend(self) -> str:
        """The curve's name among those that learn from the same digits."""
        size = getattr(methods(self.particles)[self.method], "particles")  # noqa: B009
        return self.method if size == 1 else f"{self.method}, N = {size}"

    @property
    def batch_size(self) -> int:
        """Samples per step."""
        return HOPPING_BATCH if "hopping" in self.method else BATCH


def plan(epochs: int, particles: int, *, everything: bool) -> list[Run]:
    """The runs of all methods on the same digits."""
    lengths = {"consensus hopping": min(epochs, _HOPPING_EPOCHS)}
    return [Run(name, particles, lengths.get(name, epochs), everything) for name in methods()]


def load(folder: Path) -> tuple[Array, Array]:
    """Pixels [10000, 784] in [0, 1], float32, and digits [10000], from the gzipped IDX files in a folder.

    DataError for files that are missing or hold something else.
    """
    missing = [name for name in (IMAGES, LABELS) if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{' and '.join(missing)} not found in {str(folder)!r} (--data): they are the 10,000-image "
            "half of the MNIST database, at https://ossci-datasets.s3.amazonaws.com/mnist/"
        )
    images = _read_idx(folder / IMAGES, (10000, 28, 28))
    labels = _read_idx(folder / LABELS, (10000,))
    if labels.max() > 9:
        raise DataError(f"{str(folder / LABELS)!r} must hold digits, got {labels.max()}")
    return images.reshape(10000, 784).astype(np.float32) / np.float32(255), labels


def _read_idx(path: Path, shape: tuple[int, ...]) -> Array:
    """Bytes of an IDX file: two zero bytes, type 8, the rank, then big-endian sizes and the entries."""
    head = 4 * (1 + len(shape))
    expected = head + math.prod(shape)
    try:
        with gzip.open(path) as file:
            content = file.read(expected + 1)  # no more, however much it holds
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{str(path)!r} must be a gzip file: {error}") from error
    words = np.frombuffer(content[: len(content[:head]) // 4 * 4], ">u4").tolist()
    if words != [0x0800 + len(shape), *shape] or len(content) != expected:
        raise DataError(
            f"{str(path)!r} must be IDX of unsigned bytes with magic number {0x0800 + len(shape)} and sizes "
            f"{list(shape)}, got header {words} and "
            f"{len(content)} bytes{' or more' if len(content) > expected else ''}"
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def reproduce(options: Options) -> list[Finding]:
    """Run the methods, write mnist.csv and mnist.png, return what was found.

    30 epochs with 1 seed, unless the options say otherwise, hopping at most 30. `quick`: 3 epochs, and only
    the runs with held-out digits, which then serve for the risks too.
    """
    check_device(options.device)
    epochs = options.epochs or (3 if options.quick else 30)
    figure, axes = new_figure(2)
    x, y = load(options.data)
    generalising = plan(epochs, FEWER, everything=False)
    learning = generalising if options.quick else plan(epochs, PARTICLES, everything=True)
    runs = {run.label: run for run in [*learning, *generalising]}
    scores = {label: Scores() for label in runs}

    def train_one(label: str, seed: int, callback: Callable[[State], None]) -> Result:
        run = runs[label]
        learnt = np.full(len(y), True) if run.everything else np.arange(len(y)) % HELD_OUT < HELD_OUT - 1
        score = scores[label].of_run(x, y, learnt)

        def after_epoch(state: State) -> None:
            score(state)
            callback(state)

        return train(
            NET,
            x[learnt],
            y[learnt],
            options.changed(methods(run.particles))[run.method],
            epochs=run.epochs,
            batch_size=run.batch_size,
            seed=seed,
            device=options.device,
            callback=after_epoch,
        )

    lengths = {label: run.epochs for label, run in runs.items()}
    work = {
        label: Work(
            NET, options.changed(methods(run.particles))[run.method],
            len(y) if run.everything else len(y) * (HELD_OUT - 1) // HELD_OUT,
            {"batch_size": run.batch_size, "device": options.device, "loss": "cross_entropy"},
        )
        for label, run in runs.items()
    }  # fmt: skip
    curves = run_curves(
        list(runs), options.seeds or 1, lengths, train_one, work=work, keep=options.out / "mnist.csv"
    )
    for curve in curves:
        curve.columns.update(scores[curve.label].columns)
    write_csv(options.out / "mnist.csv", curves)
    by_run = dict(zip(runs.values(), curves, strict=True))
    shown = [{run: by_run[run] for run in group} for group in (learning, generalising)]
    draw(axes, *shown)
    save_figure(options.out / "mnist.png", figure, curves)
    return findings(*(list(group.values()) for group in shown))


class Scores:
    """Shares of digits classified correctly by a curve's runs, epoch by epoch."""

    def __init__(self) -> None:
        self.columns: dict[str, list[list[float]]] = {}

    def of_run(self, x: Array, y: Array, learnt: Array) -> Callable[[State], None]:
        """A callback that scores one more run: on the digits it learns from, and on the others if any."""
        parts = {"accuracy": learnt, "held_out_accuracy": ~learnt}
        kept = {name: (x[part], y[part], list[float]()) for name, part in parts.items() if part.any()}
        for name, (_, _, row) in kept.items():
            self.columns.setdefault(name, []).append(row)

        def score(state: State) -> None:
            for images, labels, row in kept.values():
                row.append(accuracy(state.point, images, labels))

        return score


def accuracy(point: Array, x: Array, y: Array) -> float:
    """Share of the digits that one network classifies correctly."""
    return float((forward(NET, point[None], x)[0].argmax(axis=1) == y).mean())


def draw(axes: Any, learning: dict[Run, Curve], generalising: dict[Run, Curve]) -> None:
    """Risk per epoch as in figure 4, and the accuracy on digits learnt and held out."""
    left, right = axes
    for (run, curve), colour in zip(learning.items(), COLOURS, strict=False):
        draw_band(left, curve, "risk", colour, label=run.legend)
    digits = "all 10,000 digits" if next(iter(learning)).everything else "8,000 digits"
    title = f"Risk, learning from {digits}: {over(list(learning.values()))}"
    left.set(yscale="log", ylabel="risk (cross entropy)", title=title)
    for (run, curve), colour in zip(generalising.items(), COLOURS, strict=False):
        draw_band(right, curve, "held_out_accuracy", colour, scale=100, label=run.legend)
        draw_band(right, curve, "accuracy", colour, scale=100, label=None, linestyle=":")
    right.plot([], [], color="black", label="solid: on the 2,000 held out")
    right.plot([], [], color="black", linestyle=":", label="dotted: on the 8,000")
    title = f"Accuracy on digits: {over(list(generalising.values()))}"
    right.set(ylabel="correct (%)", title=title, ylim=(0, 100))
    for ax in axes:
        ax.set(xscale="log", xlabel="epoch")
        ax.xaxis.set_major_formatter("{x:.0f}")
        ax.xaxis.set_minor_formatter("")
        ax.legend(frameon=False, fontsize=8)


def findings(learning: Sequence[Curve], generalising: Sequence[Curve]) -> list[Finding]:
    """Compare with what a plain implementation measured, and the methods with each other."""
    rows = [
        _early_risk(curve, name, risk) for (name, risk), curve in zip(_RISKS.items(), learning, strict=False)
    ]
    cbo, hybrid, _, hopping = learning
    far = np.median(cbo.at("risk", -1)) > 3 * np.median(hybrid.at("risk", -1))
    learnt = 100 * hopping.at("accuracy", -1)
    rows += [
        cbo.finding(
            "fig. 4: CBO alone stays far above the hybrid (agrees: more than 3 times its last risk)",
            f"{spread(cbo.at('risk', -1), '.3g')} against {spread(hybrid.at('risk', -1), '.3g')}",
            bool(far) if _length(cbo) >= _EPOCH else None,
        ),
        hopping.finding(
            f"hopping: 96.1 % of training digits after {_HOPPING_EPOCHS} epochs (agrees: at least 94 %)",
            f"{spread(learnt, '.1f')} %",
            bool(np.median(learnt) >= 94) if _length(hopping) >= _HOPPING_EPOCHS else None,
        ),
    ]
    held_out = {
        name: 100 * np.median(curve.at("held_out_accuracy", -1))
        for name, curve in zip(methods(), generalising, strict=True)
    }
    rows.append(
        generalising[-1].finding(
            "held-out digits: hopping keeps up with gradients (agrees: at most 3 points behind Adam)",
            ", ".join(f"{name} {value:.1f} %" for name, value in held_out.items()),
            bool(held_out["consensus hopping"] >= held_out["Adam"] - 3)
            if _length(generalising[-1]) >= _HOPPING_EPOCHS
            else None,
        )
    )
    return rows


def _length(curve: Curve) -> int:
    return len(curve.results[0].history["epoch"])


def _early_risk(curve: Curve, name: str, expected: float) -> Finding:
    risk = curve.at("risk", min(_EPOCH, _length(curve)))
    return curve.finding(
        f"{name}: risk {expected} at epoch {_EPOCH}, ensembles of 200 (agrees: at most {1.5 * expected:.2g})",
        spread(risk, ".3g"),
        bool(np.median(risk) <= 1.5 * expected) if _length(curve) >= _EPOCH else None,
    )
