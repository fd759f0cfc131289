"""Held-out digits of consensus hopping with one setting changed at a time: scope "atom", noise of rank 1,
directions in the batch's span.

    python bench/digits_sweep.py --data DIR --device cuda [--width 20] [--first-seed 100] [--seeds 5]
                                 [--held-out last first] [--only Adam base] [--drift mean]

Data and defaults are those of bench/digits.py. Prints a Markdown table of means over splits and seeds, each
with its standard error; where Adam comes first, the difference from Adam's on the same split and seed too. On
a card a run takes half a second, on two cores of a CPU several.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from digits import BATCH, EPOCHS, HOPPING, RATE, SPLITS, accuracy, halves

import cbokernels as cbk

FALL = cbk.Exponential
DECAYS = {20: 0.1, 100: 0.05}
FIRST = 2 / 3  # of the epochs, in minibatches of 100
ADAMS = {"Adam": RATE, "Adam, rate 0.1 to 0.01": FALL(0.1, 0.01)}


def late(epoch: int, epochs: int, start: float = 0.1, stop: float = 0.001) -> float:
    """The rate's fall over both parts of a run: the second is told as an epoch beyond the first."""
    return start * (stop / start) ** (epoch / max(epochs - 1, 1))


def falling(epoch: int, epochs: int) -> float:
    """A rate that ends at 0, in a straight line."""
    return 0.1 * (1 - epoch / epochs)


# What is changed: of the method, of `train`.
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "base": ({}, {}),
    "N = 50": ({"particles": 50}, {}),
    "N = 100": ({"particles": 100}, {}),
    "N = 400": ({"particles": 400}, {}),
    "N = 1000": ({"particles": 1000}, {}),
    "rank 2": ({"rank": 2}, {}),
    "free directions": ({"directions": "free"}, {}),
    "no pairs": ({"mirrored": False}, {}),
    "Gibbs weights, ess N/2": ({"weights": cbk.TargetEss(0.5)}, {}),
    "Gibbs weights, ess N/8": ({"weights": cbk.TargetEss(0.125)}, {}),
    "spread 0.03": ({"spread": 0.03}, {}),
    "spread 0.3": ({"spread": 0.3}, {}),
    "spread 0.3 to 0.03": ({"spread": FALL(0.3, 0.03)}, {}),
    "spread 0.1 to 0.01": ({"spread": FALL(0.1, 0.01)}, {}),
    "beta1 0.8": ({"beta1": 0.8}, {}),
    "beta1 0.95": ({"beta1": 0.95}, {}),
    "beta2 0.99": ({"beta2": 0.99}, {}),
    "rate 0.05 to 0.0005": ({"lr": FALL(0.05, 0.0005)}, {}),
    "rate 0.2 to 0.002": ({"lr": FALL(0.2, 0.002)}, {}),
    "rate 0.1 to 0.0001": ({"lr": FALL(0.1, 0.0001)}, {}),
    "rate 0.1 to 0.01": ({"lr": FALL(0.1, 0.01)}, {}),
    "rate 0.1 to 0.03": ({"lr": FALL(0.1, 0.03)}, {}),
    "rate 0.1 to 0 in a line": ({"lr": falling}, {}),
    "minibatches of 50": ({}, {"batch_size": 50}),
    "minibatches of 200": ({}, {"batch_size": 200}),
    "minibatches of 200 from two thirds on": ({}, {"late": 200}),
    "minibatches of 400 from two thirds on": ({}, {"late": 400}),
    "60 epochs": ({}, {"epochs": 60}),
    "half the decay": ({}, {"decay": 0.5}),
    "twice the decay": ({}, {"decay": 2.0}),
}


def trained(net: cbk.TwoLayer, learned: Any, method: Any, seed: int, options: dict[str, Any]) -> Any:
    """Parameters; with `late` the last third of the epochs has larger minibatches, at one run's rates."""
    later, epochs = options.pop("late", None), options.pop("epochs")
    if later is None:
        return cbk.train(net, *learned, method, epochs=epochs, seed=seed, **options).parameters
    first = round(FIRST * epochs)
    begun = cbk.train(
        net, *learned, method.set_params(lr=lambda epoch, _: late(epoch, epochs)),
        epochs=first, seed=seed, **options,
    ).parameters  # fmt: skip
    method = method.set_params(lr=lambda epoch, _: late(first + epoch, epochs))
    options["batch_size"] = later
    return cbk.train(
        net, *learned, method, theta=begun[None], epochs=epochs - first, seed=seed + 10**6, **options
    ).parameters


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--width", type=int, nargs="+", default=[20])
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--held-out", nargs="+", choices=SPLITS, default=["last"])
    parser.add_argument("--only", nargs="+", choices=[*ADAMS, *CHANGES])
    parser.add_argument("--drift", choices=["auto", "mean", "least_squares"], default="auto")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    told = parser.parse_args()
    parts = {split: halves(told.data, split) for split in told.held_out}
    print(f"held out: {', '.join(parts)}; seeds from {told.first_seed} on: {told.seeds}\n")
    print("| network | changed | held out | less Adam's | learned | s |\n|---|---|---|---|---|---|")
    for width in told.width:
        net, decay = cbk.TwoLayer(784, width, 10), DECAYS.get(width, 0.05)
        adams: Any = np.nan
        for name in told.only or ["Adam", *CHANGES]:
            changes, run = CHANGES.get(name, ({}, {}))
            method = HOPPING.set_params(drift=told.drift, **changes)
            if name in ADAMS:
                method = cbk.Adam(lr=ADAMS[name])
            options = {"epochs": EPOCHS, "batch_size": BATCH, "device": told.device, **run}
            options["weight_decay"] = decay * options.pop("decay", 1.0)
            hits, began = [], time.perf_counter()
            for learned, out in parts.values():
                for seed in range(told.first_seed, told.first_seed + told.seeds):
                    theta = trained(net, learned, method, seed, dict(options))
                    hits.append([accuracy(net, theta, *part) for part in (out, learned)])
            seconds = (time.perf_counter() - began) / len(hits)
            held, known = np.transpose(hits)
            adams = held if name == "Adam" else adams
            print(
                f"| 784-{width}-10 | {name} | {told_of(held)} | {told_of(held - adams)} | {known.mean():.2f} "
                f"| {seconds:.2f} |",
                flush=True,
            )


def told_of(values: Any) -> str:
    """Mean and standard error; of nothing where there is nothing to compare with."""
    if np.isnan(values).any():
        return ""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{values.mean():.2f} ± {error:.2f}"


if __name__ == "__main__":
    main()
