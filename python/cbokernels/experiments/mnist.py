"""10,000 MNIST digits learnt without gradients [De Deyn, Herty, Samaey 2025, example 2, fig. 4].

An ensemble of networks of 20 neurons under the CBO parameters that the paper prints.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .._arrays import Array
from ..methods import CBO
from ..network import TwoLayer
from ..result import Result, State
from ..risk import forward
from ..training import check_device, train
from ._common import (
    COLOURS,
    Curve,
    DataError,
    Finding,
    Options,
    draw_band,
    new_figure,
    run_curves,
    save_figure,
    spread,
    write_csv,
)

NET = TwoLayer(inputs=784, width=20, outputs=10)
BATCH = 1000
LABEL = "CBO as printed"
IMAGES, LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


def method(particles: int = 1000) -> CBO:
    """The printed parameters."""
    return CBO(particles=particles, alpha=1e5, drift=1.0, diffusion=1.4**0.5, dt=0.1)


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
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{str(path)!r} must be a gzip file: {error}") from error
    head = 4 * (1 + len(shape))
    words = np.frombuffer(content[: len(content[:head]) // 4 * 4], ">u4").tolist()
    if words != [0x0800 + len(shape), *shape] or len(content) != head + math.prod(shape):
        raise DataError(
            f"{str(path)!r} must be IDX of unsigned bytes with magic number {0x0800 + len(shape)} and sizes "
            f"{list(shape)}, got header {words} and {len(content)} bytes"
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def reproduce(options: Options) -> list[Finding]:
    """Run the ensemble, write mnist.csv and mnist.png, return what was found."""
    check_device(options.device)
    epochs = options.epochs or (30 if options.quick else 100)
    seeds = options.seeds or 1
    particles = 200 if options.quick else 1000
    figure, axes = new_figure(2)
    x, y = load(options.data)
    accuracies: list[list[float]] = []

    def run(label: str, seed: int, callback: Callable[[State], None]) -> Result:
        accuracies.append([])

        def score(state: State) -> None:
            accuracies[-1].append(accuracy(state.point, x, y))
            callback(state)

        return train(
            NET,
            x,
            y,
            method(particles),
            epochs=epochs,
            batch_size=BATCH,
            seed=seed,
            device=options.device,
            callback=score,
        )

    (curve,) = run_curves([f"{LABEL}, N = {particles}"], seeds, epochs, run)
    curve.columns["accuracy"] = accuracies
    write_csv(options.out / "mnist.csv", [curve])
    draw(axes, curve)
    save_figure(options.out / "mnist.png", figure)
    return findings(curve, epochs)


def accuracy(point: Array, x: Array, y: Array) -> float:
    """Share of the digits that one network classifies correctly."""
    return float((forward(NET, point[None], x)[0].argmax(axis=1) == y).mean())


def draw(axes: Any, curve: Curve) -> None:
    """Risk per epoch as in figure 4, and the training accuracy."""
    left, right = axes
    draw_band(left, curve, "risk", COLOURS[0])
    draw_band(right, curve, "accuracy", COLOURS[0], scale=100)
    left.set(yscale="log", xlabel="epoch", ylabel="risk (cross entropy)", title="Risk")
    left.set_ylim(min(0.1, left.get_ylim()[0]), max(3.0, left.get_ylim()[1]))
    ticks = (0.1, 0.2, 0.5, 1, 2)
    left.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    left.minorticks_off()
    right.set(xlabel="epoch", ylabel="correct (%)", title="Training accuracy", ylim=(0, 100))
    left.legend(frameon=False, fontsize=8)


def findings(curve: Curve, epochs: int) -> list[Finding]:
    """Compare with what a plain implementation of the paper measured with 200 particles."""
    epoch = min(epochs, 10)
    risk, correct = curve.at("risk", epoch), 100 * curve.at("accuracy", epoch)
    long = epochs >= 10
    return [
        curve.finding(
            "risk 1.6 at epoch 10 with N = 200 (agrees: at most 1.9)",
            spread(risk, ".3g"),
            bool(np.median(risk) <= 1.9) if long else None,
        ),
        curve.finding(
            "50 % correct at epoch 10 with N = 200 (agrees: at least 35 %)",
            f"{spread(correct, '.1f')} %",
            bool(np.median(correct) >= 35) if long else None,
        ),
        curve.finding(
            "fig. 4: CBO alone is far from Adam (0.12) and hybrid (0.15) at epoch 10 (agrees: above 0.5)",
            spread(risk, ".3g"),
            bool(np.median(risk) > 0.5) if long else None,
        ),
    ]
