"""Networks without a gradient: units that jump, weights of a few bits.

Digits, breast cancer and wine, with 20 neurons that are -1 or 1 (sign) or 0 or 1 (step), and weights that are
floats, ternary or of 8 bits. Consensus hopping trains them as they are. Beside it are the straight-through
estimator, which makes a gradient up, with the same start, minibatches, rates and weight decay, and a network
of floats and ReLU trained by Adam. Hopping is level with the estimator where at most one standard error of
the accuracy on held-out samples is between them, on the mean over seeds. Digits are MNIST's where --data has
them, as for `mnist`, else scikit-learn's of 8 x 8 pixels; breast cancer and wine are scikit-learn's. Every
fifth digit of MNIST is held out, or the 10,000 where all four files are there; of the other sets each seed
holds out another fifth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .._arrays import Array
from .._extras import extra
from ..methods import Adam, ConsensusHopping
from ..methods.base import Method
from ..methods.rounding import network_bytes
from ..network import TwoLayer
from ..result import Result, State
from ..schedules import Exponential
from ..training import train
from ..training.arguments import check_device
from . import mnist
from ._common import (
    COLOURS,
    ENOUGH,
    Curve,
    Finding,
    OptionError,
    Options,
    Work,
    new_figure,
    over,
    run_curves,
    save_figure,
    spread,
    write_csv,
)
from ._straight_through import StraightThrough

WIDTH, DECAY, HELD_OUT = 20, 0.1, 5
RATE = Exponential(0.1, 0.001)
SPREAD = Exponential(0.3, 0.1)  # wide enough that draws cross the jumps of sign and step
NETWORKS: tuple[tuple[str, str | None], ...] = (
    ("sign", None),
    ("step", None),
    ("sign", "int8"),
    ("sign", "ternary"),
)
EXPECTED = "what the straight-through estimator reaches in the same runs; no paper has these figures"
HOPPING, ESTIMATOR, ADAM = "hopping", "straight-through", "Adam"


@dataclasses.dataclass(frozen=True)
class Samples:
    """A set of data. learnt: which are learnt from; None: a seed holds out a fifth of its own."""

    x: Array
    y: Array
    batch_size: int
    epochs: int
    learnt: Array | None = None

    def parts(self, seed: int) -> tuple[Array, Array]:
        """Which samples are learnt from, and which are held out."""
        order = np.random.default_rng(seed).permutation(len(self.y))
        held_out = order < len(self.y) // HELD_OUT if self.learnt is None else ~self.learnt
        return ~held_out, held_out

    def net(self, activation: str) -> TwoLayer:
        """Means of jumps would be small beside what the weight decay leaves of the second layer."""
        scaling = "mean" if activation == "relu" else "none"
        return TwoLayer(self.x.shape[1], WIDTH, int(self.y.max()) + 1, activation, scaling)


@dataclasses.dataclass(frozen=True)
class Run:
    """A curve: whose samples, what network, and who trains it."""

    samples: str
    activation: str
    weights: str | None
    who: str

    @property
    def network(self) -> str:
        """In words."""
        return f"{self.activation}, {self.weights or 'floats'}"

    @property
    def label(self) -> str:
        """The curve's name."""
        return f"{self.samples}: {self.network}, {self.who}"

    @property
    def method(self) -> Method:
        """Who trains it."""
        if self.who == ADAM:
            return Adam(lr=RATE)
        if self.who == ESTIMATOR:
            return StraightThrough(lr=RATE, weights=self.weights)
        return ConsensusHopping(weights=self.weights or "rank", scope="atom", spread=SPREAD, lr=RATE)


def plan(samples: Sequence[str]) -> list[Run]:
    """The runs on these sets."""
    runs = []
    for name in samples:
        runs.append(Run(name, "relu", None, ADAM))
        runs += [Run(name, *network, who) for network in NETWORKS for who in (HOPPING, ESTIMATOR)]
    return runs


def load(options: Options) -> dict[str, Samples]:
    """The sets by name."""
    datasets = extra("sklearn.datasets", "reproduce binary", "sklearn")
    sets = {}
    if (options.data / mnist.IMAGES).is_file():
        x, y, learnt = mnist.load_split(options.data)
        sets["digits of MNIST"] = Samples(x - x[learnt].mean(axis=0), y, 100, 30, learnt)
    else:
        sets["digits of 8 x 8"] = _standard(datasets.load_digits, 50, 60)
    sets["breast cancer"] = _standard(datasets.load_breast_cancer, 50, 60)
    sets["wine"] = _standard(datasets.load_wine, 20, 60)
    return sets


def _standard(source: Callable[..., Any], batch_size: int, epochs: int) -> Samples:
    """One of scikit-learn's sets, its columns centred and scaled."""
    x, y = source(return_X_y=True)
    scale = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(scale > 0, scale, 1)
    return Samples(x.astype(np.float32), y, batch_size, epochs)


def reproduce(options: Options) -> list[Finding]:
    """Run the methods, write binary.csv and binary.png, return what was found.

    3 seeds, 30 epochs of MNIST's digits and 60 of others, unless the options say otherwise. `quick`: 1 seed,
    3 and 6 epochs.
    """
    check_device(options.device)
    if options.device != "cpu":
        raise OptionError(f"--device must be cpu for binary: weights are rounded there, got {options.device}")
    if "weights" in options.changes:
        raise OptionError("--set weights: the networks of binary have weights of each kind already")
    sets = load(options)
    figure, axes = new_figure(len(sets))
    seeds = options.seeds or (1 if options.quick else 3)
    runs = {run.label: run for run in plan(list(sets))}
    methods = options.changed({label: run.method for label, run in runs.items()})
    lengths = {
        label: options.epochs or sets[run.samples].epochs // (10 if options.quick else 1)
        for label, run in runs.items()
    }

    def train_one(label: str, seed: int, callback: Callable[[State], None]) -> Result:
        samples = sets[runs[label].samples]
        learnt, held_out = samples.parts(seed)
        x, y = samples.x, samples.y
        return train(
            samples.net(runs[label].activation),
            x[learnt],
            y[learnt],
            methods[label],
            epochs=lengths[label],
            batch_size=samples.batch_size,
            seed=seed,
            weight_decay=DECAY,
            validation=(x[held_out], y[held_out]),
            metrics="accuracy",
            callback=callback,
        )

    def work_of(run: Run) -> Work:
        samples = sets[run.samples]
        learnt = int(samples.parts(0)[0].sum())
        told = {"batch_size": samples.batch_size, "loss": "cross_entropy"}
        return Work(samples.net(run.activation), methods[run.label], learnt, told)

    work = None if options.quick else {label: work_of(run) for label, run in runs.items()}
    curves = run_curves(list(runs), seeds, lengths, train_one, work=work, keep=options.out / "binary.csv")
    for curve in curves:
        run = runs[curve.label]
        size = network_bytes(sets[run.samples].net(run.activation), run.weights)
        curve.columns["bytes"] = [np.full(len(r.history["epoch"]), size) for r in curve.results]
    write_csv(options.out / "binary.csv", curves)
    by_run = dict(zip(runs.values(), curves, strict=True))
    for ax, name in zip(axes, sets, strict=True):
        draw(ax, name, {run: curve for run, curve in by_run.items() if run.samples == name})
    axes[0].legend(frameon=False, fontsize=8, loc="lower center", ncols=3)
    figure.subplots_adjust(left=0.07, wspace=0.28)
    save_figure(options.out / "binary.png", figure, curves, **options.changes)
    return findings(by_run, sets)


def draw(ax: Any, name: str, curves: Mapping[Run, Curve]) -> None:
    """Accuracy on held-out samples, a line for each network, with its bytes."""
    networks = list(dict.fromkeys(run.network for run in curves))
    colours = dict(zip((HOPPING, ESTIMATOR, ADAM), COLOURS, strict=False))
    told, bytes_of = set(), {}
    for run, curve in curves.items():
        correct = 100 * curve.at("validation_accuracy", -1)
        bytes_of[run.network] = int(curve.at("bytes", -1)[0])
        y = networks.index(run.network) + {HOPPING: -0.12, ESTIMATOR: 0.12, ADAM: 0.0}[run.who]
        look = {"color": colours[run.who], "label": None if run.who in told else run.who}
        told.add(run.who)
        ax.plot([correct.min(), correct.max()], [y, y], color=look["color"], linewidth=1.3)
        ax.plot(np.median(correct), y, "s" if run.who == ESTIMATOR else "o", markersize=6, **look)
    ax.set_yticks(range(len(networks)), [f"{n}\n{bytes_of[n]:,} bytes" for n in networks], fontsize=7)
    ax.set(title=f"{name.capitalize()}: {over(list(curves.values()))}", xlabel="held out, correct (%)")
    ax.set_ylim(len(networks), -0.5)  # the last line is the legend's


def findings(curves: Mapping[Run, Curve], sets: Mapping[str, Samples]) -> list[Finding]:
    """Each network that hopping trains beside the same that the estimator trains."""
    rows = []
    for run, curve in curves.items():
        if run.who != HOPPING:
            continue
        samples = sets[run.samples]
        estimator = curves[dataclasses.replace(run, who=ESTIMATOR)]
        adam = curves[Run(run.samples, "relu", None, ADAM)]
        own, theirs = (100 * c.at("validation_accuracy", -1) for c in (curve, estimator))
        count = int(samples.parts(0)[1].sum())
        share = np.clip(theirs.mean() / 100, 1 / count, 1 - 1 / count)
        error = 100 * float(np.sqrt(share * (1 - share) / count))
        behind = float((theirs - own).mean())
        word = "behind" if behind > error else "ahead" if behind < -error else "level"
        whole = len(curve.results[0].history["epoch"]) >= samples.epochs
        rows.append(
            Finding(
                f"{run.samples}, {run.network}: at most {error:.1f} points behind the estimator",
                f"{word}: {_told(curve)}; estimator {_told(estimator)}; Adam {_told(adam)}",
                word != "behind" if whole and len(own) >= ENOUGH else None,
                curve.seconds,
            )
        )
    return rows


def _told(curve: Curve) -> str:
    """Accuracy, seconds of a run, and bytes of the network."""
    seconds = np.median(curve.at("seconds", -1))
    correct = spread(100 * curve.at("validation_accuracy", -1), ".1f")
    return f"{correct} %, {seconds:.1f} s, {int(curve.at('bytes', -1)[0]):,} bytes"
