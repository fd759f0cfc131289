"""Scores and times of the estimators beside scikit-learn's MLP of the same width, on its own data sets.

    pip install 'cbokernels[sklearn]'
    python bench/estimators.py [--sets diabetes wine] [--estimators MLP adam] [--seeds 5] [--width 100]

Five folds, shuffled anew for each seed, the seeds counted from --first-seed. The MLPs have their default
settings, on data standardised as the estimators do it inside, targets too. A score is R² or accuracy on the
fold left out: mean and standard deviation over folds and seeds. Seconds are of a fit; that of 50 MLPs is 50
times one's.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn import datasets
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cbokernels.sklearn import CBOClassifier, CBORegressor

SETS = {
    "diabetes": datasets.load_diabetes,
    "breast_cancer": datasets.load_breast_cancer,
    "wine": datasets.load_wine,
    "digits": datasets.load_digits,
}
OURS: dict[str, dict[str, Any]] = {
    "adam": {},
    "adam, ensemble of 50": {"ensemble": 50},
    "hopping": {"method": "hopping"},
    "hybrid": {"method": "hybrid"},
    "cbo": {"method": "cbo"},
}


def contestants(regression: bool, width: int) -> dict[str, Callable[[int], Any]]:
    """Estimators by name, each made of a seed."""

    def mlp(seed: int) -> Any:
        cls = MLPRegressor if regression else MLPClassifier
        model = make_pipeline(StandardScaler(), cls(hidden_layer_sizes=(width,), random_state=seed))
        return TransformedTargetRegressor(model, transformer=StandardScaler()) if regression else model

    ours = CBORegressor if regression else CBOClassifier
    made = {
        name: lambda seed, given=given: ours(**given, width=width, random_state=seed)
        for name, given in OURS.items()
    }
    return {"MLP": mlp, **made}


def folds(x: Any, y: Any, regression: bool, seeds: range) -> Iterator[tuple[int, Any, Any]]:
    for seed in seeds:
        kind = KFold if regression else StratifiedKFold
        for train, test in kind(5, shuffle=True, random_state=seed).split(x, y):
            yield seed, train, test


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--estimators", nargs="+", choices=["MLP", *OURS], default=["MLP", *OURS])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=100)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # the MLPs' default of 200 epochs
    print("| data | estimator | score | s a fit | against 50 MLPs |\n|---|---|---|---|---|")
    for name in chosen.sets:
        x, y = SETS[name](return_X_y=True)
        regression = name == "diabetes"
        made = contestants(regression, chosen.width)
        made = {other: made[other] for other in chosen.estimators}
        scores: dict[str, list[float]] = {other: [] for other in made}
        seconds: dict[str, list[float]] = {other: [] for other in made}
        seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
        for seed, train, test in folds(x, y, regression, seeds):
            for other, make in made.items():
                model, began = make(seed), time.perf_counter()
                model.fit(x[train], y[train])
                seconds[other].append(time.perf_counter() - began)
                scores[other].append(model.score(x[test], y[test]))
        fifty = 50 * statistics.median(seconds["MLP"]) if "MLP" in made else float("nan")
        for other, found in scores.items():
            took = statistics.median(seconds[other])
            ratio = f"{fifty / took:.0f} times as fast" if "50" in other else ""
            print(
                f"| {name} | {other} | {np.mean(found):.3f} ± {np.std(found):.3f} | {took:.2f} | {ratio} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
