"""10,000 MNIST digits [De Deyn, Herty, Samaey 2025, example 2, fig. 4].

Networks of 20 neurons: CBO and the hybrid with the paper's ensembles of 1000, Adam, and consensus hopping
neuron by neuron. The risks are those of training on all 10,000 digits, as in the paper. Every method then
runs again without every fifth digit, with ensembles of 200, to be scored on these 2,000; or, where the folder
has MNIST's four files, on 60,000 digits, to be scored on the other 10,000. Beside them are consensus hopping
and Adam as they generalise best: centred pixels, weight decay, minibatches of 100, hopping with noise of rank
1 in the batch's span.
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
    ENOUGH,
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
MORE_IMAGES, MORE_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"

EXPECTED = "the paper's figure, what a plain implementation measured, and Adam's accuracy in the same runs"
# What a plain implementation measured at epoch 10, with ensembles of 200.
_EPOCH = 10
_RISKS = {"CBO": 1.6, "hybrid": 0.15, "Adam": 0.12}
DECAY = 0.1
_RATE = Exponential(0.1, 0.001)
_HOPPING_EPOCHS = 30  # ten times as many steps as the others' epochs have; 96.1 % correct by then


def methods(particles: int = PARTICLES) -> dict[str, Method]:
    """The methods by name: the paper's three, and consensus hopping for more parameters than particles."""
    return {
        "CBO": CBO(particles=particles, alpha=1e5, drift=1.0, diffusion=1.4**0.5, dt=0.1),
        "hybrid": Hybrid(particles=particles, mix=0.7, alpha=1e4, drift=1.0, diffusion=1.2**0.5, dt=0.1),
        "Adam": Adam(lr=0.1),
        "consensus hopping": ConsensusHopping(
            particles=FEWER, scope="atom", rank=None, directions="free", spread=0.1, lr=_RATE
        ),
    }


def decayed() -> dict[str, Method]:
    """The methods that run with weight decay, on centred pixels, by name."""
    hopping = ConsensusHopping(
        particles=FEWER, scope="atom", rank=1, directions="batch", spread=0.1, lr=_RATE
    )
    return {"hopping, rank 1, decay": hopping, "Adam, decay": Adam(lr=_RATE)}


def all_methods(particles: int = PARTICLES) -> dict[str, Method]:
    """All of them."""
    return {**methods(particles), **decayed()}


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
        size = getattr(self.made, "particles")  # noqa: B009
        return self.method if size == 1 else f"{self.method}, N = {size}"

    @property
    def made(self) -> Method:
        """The method."""
        return all_methods(self.particles)[self.method]

    @property
    def decays(self) -> bool:
        """Whether it has weight decay and centred pixels."""
        return self.method in decayed()

    @property
    def batch_size(self) -> int:
        """Samples per step."""
        return HOPPING_BATCH if "hopping" in self.method or self.decays else BATCH

    def multiply_adds(self, method: Method, samples: int) -> float:
        """Of the products in an epoch of so many samples by this method; a gradient costs twice its forward
        pass."""
        width, inputs, outputs = NET.width, NET.inputs, NET.outputs
        batch = self.batch_size
        count: int = getattr(method, "particles")  # noqa: B009
        if isinstance(method, ConsensusHopping) and method.rank is not None:
            drawn = count * batch * (width + batch) / 2 + count * batch * width * (1 + outputs)
            return samples / batch * (2 * batch * width * inputs + batch**2 * inputs / 2 + drawn)
        return float(count * samples * width * (inputs + outputs) * (3 if method._gradients else 1))


def plan(epochs: int, particles: int, *, everything: bool) -> list[Run]:
    """The runs of all methods on the same digits; those with decay only where some are held out."""
    short = min(epochs, _HOPPING_EPOCHS)
    runs = [Run(name, particles, short if "hopping" in name else epochs, everything) for name in methods()]
    return runs if everything else [*runs, *(Run(name, particles, short, False) for name in decayed())]


def load(folder: Path) -> tuple[Array, Array]:
    """Pixels [10000, 784] in [0, 1], float32, and digits [10000], from the gzipped IDX files in a folder.

    DataError for files that are missing or hold something else.
    """
    return _load(folder, IMAGES, LABELS, 10000)


def load_split(folder: Path) -> tuple[Array, Array, Array]:
    """Pixels and digits, and which of them are to be learnt from: of the 10,000 all but every fifth; where
    the folder has the other 60,000 too, these."""
    x, y = load(folder)
    if not all((folder / name).is_file() for name in (MORE_IMAGES, MORE_LABELS)):
        return x, y, np.arange(len(y)) % HELD_OUT < HELD_OUT - 1
    more = _load(folder, MORE_IMAGES, MORE_LABELS, 60000)
    both = np.concatenate([more[0], x]), np.concatenate([more[1], y])
    return (*both, np.arange(len(both[1])) < len(more[1]))


def _load(folder: Path, images_file: str, labels_file: str, count: int) -> tuple[Array, Array]:
    missing = [name for name in (images_file, labels_file) if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{' and '.join(missing)} not found in {str(folder)!r} (--data): they are the 10,000-image "
            "half of the MNIST database, at https://ossci-datasets.s3.amazonaws.com/mnist/"
        )
    images = _read_idx(folder / images_file, (count, 28, 28))
    labels = _read_idx(folder / labels_file, (count,))
    if labels.max() > 9:
        raise DataError(f"{str(folder / labels_file)!r} must hold digits, got {labels.max()}")
    return images.reshape(count, 784).astype(np.float32) / np.float32(255), labels


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
    figure, axes = new_figure(4)
    x, y = load(options.data)
    split = load_split(options.data)
    generalising = plan(epochs, FEWER, everything=False)
    learning = plan(epochs, PARTICLES, everything=True)
    if options.quick:
        learning = generalising[: len(learning)]
    runs = {run.label: run for run in [*learning, *generalising]}
    scores = {label: Scores() for label in runs}
    changed = {n: options.changed(all_methods(n)) for n in (PARTICLES, FEWER)}

    def data_of(run: Run) -> tuple[Array, Array, Array]:
        images, labels, learnt = (x, y, np.full(len(y), True)) if run.everything else split
        return (images - images[learnt].mean(axis=0) if run.decays else images), labels, learnt

    def train_one(label: str, seed: int, callback: Callable[[State], None]) -> Result:
        run = runs[label]
        images, labels, learnt = data_of(run)
        score = scores[label].of_run(images, labels, learnt)

        def after_epoch(state: State) -> None:
            score(state)
            callback(state)

        return train(
            NET,
            images[learnt],
            labels[learnt],
            changed[run.particles][run.method],
            epochs=run.epochs,
            batch_size=run.batch_size,
            seed=seed,
            device=options.device,
            weight_decay=DECAY if run.decays else 0.0,
            callback=after_epoch,
        )

    samples = {label: len(y) if run.everything else int(split[2].sum()) for label, run in runs.items()}
    lengths = {label: run.epochs for label, run in runs.items()}
    work = {
        label: Work(
            NET, changed[run.particles][run.method], samples[label],
            {"batch_size": run.batch_size, "device": options.device, "loss": "cross_entropy"},
        )
        for label, run in runs.items()
    }  # fmt: skip
    curves = run_curves(
        list(runs), options.seeds or 1, lengths, train_one, work=work, keep=options.out / "mnist.csv"
    )
    for curve in curves:
        curve.columns.update(scores[curve.label].columns)
        run = runs[curve.label]
        epoch = run.multiply_adds(changed[run.particles][run.method], samples[curve.label])
        curve.columns["multiply_adds"] = [epoch * r.history["epoch"] for r in curve.results]
    write_csv(options.out / "mnist.csv", curves)
    by_run = dict(zip(runs.values(), curves, strict=True))
    shown = [{run: by_run[run] for run in group} for group in (learning, generalising)]
    draw(axes, shown[0], shown[1], counts=(int(split[2].sum()), int((~split[2]).sum())))
    save_figure(options.out / "mnist.png", figure, curves, **options.changes)
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


def draw(
    axes: Any, learning: dict[Run, Curve], generalising: dict[Run, Curve], counts: tuple[int, int]
) -> None:
    """Risk per epoch as in figure 4; the accuracy on digits learnt and held out, of which there are so many;
    that on the held-out ones against the work and the time."""
    first, *others = axes
    for (run, curve), colour in zip(learning.items(), COLOURS, strict=False):
        draw_band(first, curve, "risk", colour, label=run.legend)
    digits = "all 10,000" if next(iter(learning)).everything else f"{counts[0]:,}"
    title = f"Risk, learning from {digits} digits: {over(list(learning.values()))}"
    first.set(yscale="log", ylabel="risk (cross entropy)", title=title)
    for (run, curve), colour in zip(generalising.items(), COLOURS, strict=False):
        draw_band(others[0], curve, "accuracy", colour, scale=100, label=None, linestyle=":")
        for ax, name in zip(others, (None, "multiply_adds", "seconds"), strict=True):
            x = None if name is None else np.median(curve.history(name), axis=0)
            draw_band(ax, curve, "held_out_accuracy", colour, scale=100, x=x, label=run.legend)
    others[0].plot([], [], color="black", linestyle=":", label=f"dotted: on the {counts[0]:,} learnt from")
    lowest = min(
        np.median(curve.history("held_out_accuracy"), axis=0).max() for curve in generalising.values()
    )
    title = f"{counts[0]:,} digits learnt from, {counts[1]:,} held out: {over(list(generalising.values()))}"
    others[0].set(title=title, ylim=(0, 100))
    for ax, against in zip(others[1:], ("work", "time"), strict=True):  # the best of them are told apart
        ax.set(title=f"Held-out digits against {against}", ylim=(max(0, 100 * lowest - 20), 100))
    for ax, told in zip(axes, ("epoch", "epoch", "multiply-adds", "seconds"), strict=True):
        ax.set(xscale="log", xlabel=told)
        if told != "multiply-adds":
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter("")
    for ax in others:
        ax.set(ylabel="correct (%)")
    for ax in axes[:2]:
        ax.legend(frameon=False, fontsize=8)


def findings(learning: Sequence[Curve], generalising: Sequence[Curve]) -> list[Finding]:
    """Compare with what a plain implementation measured, and the methods with each other."""
    rows = [
        _early_risk(curve, name, risk) for (name, risk), curve in zip(_RISKS.items(), learning, strict=False)
    ]
    cbo, hybrid, _, hopping = learning[: len(methods())]
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
        for name, curve in zip(all_methods(), generalising, strict=True)
    }
    plain, sharp, adam = generalising[3:]
    rows.append(
        plain.finding(
            "held-out digits: hopping keeps up with gradients (agrees: at most 3 points behind Adam)",
            ", ".join(f"{name} {held_out[name]:.1f} %" for name in methods()),
            bool(held_out["consensus hopping"] >= held_out["Adam"] - 3)
            if _length(plain) >= _HOPPING_EPOCHS
            else None,
        )
    )
    behind = np.median(100 * adam.at("held_out_accuracy", -1)) - np.median(
        100 * sharp.at("held_out_accuracy", -1)
    )
    rows.append(
        sharp.finding(
            "hopping of rank 1 with decay: level with Adam with it (agrees: at most 0.5 points behind, "
            "one standard error of 2,000 digits)",
            f"{spread(100 * sharp.at('held_out_accuracy', -1), '.2f')} % against "
            f"{spread(100 * adam.at('held_out_accuracy', -1), '.2f')} %",
            bool(behind <= 0.5)
            if _length(sharp) >= _HOPPING_EPOCHS and len(sharp.results) >= ENOUGH
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
