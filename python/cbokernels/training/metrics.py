"""What a run is told to evaluate besides its risk: a validation, and metrics of the outputs."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .._arrays import Array
from .._checks import WORD, integer, kind
from .._kinds import loss_text, takes_labels
from .._once import once
from ..network import TwoLayer
from .data import Data

if TYPE_CHECKING:
    from .._cpu import KernelLoss

Metric = Callable[[Array, Array], Any]

_COLUMNS = ("epoch", "risk", "risks", "alpha", "ess", "variance", "seconds")


class Scored(Protocol):
    """Data to evaluate points on, on the CPU or on a card; T is 1 but for several tasks."""

    @property
    def targets(self) -> Array:
        """[T, S, C] values or [T, S] labels, in host memory."""

    def risks(self, theta: Array) -> Array:
        """Risks [T] of theta [T, D], row t on task t."""

    def outputs(self, theta: Array) -> Array:
        """Outputs [T, S, C] of theta [T, D], row t at the inputs of task t."""


def accuracy(y: Array, outputs: Array) -> float:
    """The share of the samples whose largest output is the label's, or y's largest for y [S, C]; one output
    tells label 1 from 0 up."""
    labels = y if y.ndim == 1 else y.argmax(axis=1)
    told = outputs[:, 0] >= 0 if outputs.shape[1] == 1 else outputs.argmax(axis=1)
    return float((told == labels).mean())


def r2(y: Array, outputs: Array) -> float:
    """1 - Σ (y - g)² / Σ (y - mean y)², a mean over outputs. Where y is constant the part of that output is 1
    if it is met exactly and 0 if not, as in scikit-learn."""
    y, outputs = y.astype(np.float64), outputs.astype(np.float64)
    residual = np.square(y - outputs).sum(axis=0)
    total = np.square(y - y.mean(axis=0)).sum(axis=0)
    varies = total > 0
    parts = np.where(varies, 1 - residual / np.where(varies, total, 1.0), residual == 0)
    return float(parts.mean())


def mae(y: Array, outputs: Array) -> float:
    """The mean of |y - g| over samples and outputs."""
    return float(np.abs(y.astype(np.float64) - outputs).mean())


NAMED: dict[str, Metric] = {"accuracy": accuracy, "r2": r2, "mae": mae}


def checked_metrics(value: Any, net: TwoLayer, loss: KernelLoss) -> dict[str, Metric]:
    """The caller's metrics by name: a name, a mapping of names to functions, or several of both."""
    given = [value] if isinstance(value, (str, Mapping)) else () if value is None else value
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"metrics must be names, or a dict of names and functions, got {value!r:.80}")
    metrics: dict[str, Metric] = {}
    for entry in given:
        if isinstance(entry, Mapping):
            pairs = dict(entry)
        elif not isinstance(entry, str):
            raise TypeError(f"metrics must hold names and dicts of functions, got {entry!r:.80}")
        elif entry not in NAMED:
            raise ValueError(f"metrics must be among {', '.join(map(repr, NAMED))}, got {entry!r}")
        else:
            _check_suits(entry, net, loss)
            pairs = {entry: NAMED[entry]}
        for name, function in pairs.items():
            if not isinstance(name, str) or not callable(function):
                raise TypeError(f"metrics must map names to functions, got {name!r}: {function!r:.80}")
            if name in _COLUMNS or name in metrics or name.startswith("validation_"):
                raise ValueError(f"metrics must have names of their own, got {name!r}, which is taken")
            metrics[name] = function
    return metrics


def _check_suits(name: str, net: TwoLayer, loss: KernelLoss) -> None:
    """ValueError where a named metric has no meaning for the data."""
    labels = takes_labels(loss)
    if name == "accuracy" and not labels and net.outputs == 1:
        raise ValueError("metrics 'accuracy' expects labels, or several outputs, got values of one output")
    if name != "accuracy" and labels:
        raise ValueError(f"metrics {name!r} expects values, got labels (loss {loss_text(loss)!r})")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What the history's rows hold besides what the method reports."""

    metrics: dict[str, Metric]
    training: Scored | None  # None where there are no metrics
    validation: Scored | None
    every: int
    task_axis: bool  # whether there is a value of each task

    @once
    def columns(self) -> list[str]:
        """Names of the history's columns."""
        prefixes = [""] if self.validation is None else ["", "validation_"]
        return [
            *(["validation_risk"] if self.validation is not None else []),
            *(prefix + name for name in self.metrics for prefix in prefixes),
        ]

    def row(self, epoch: int, point: Array) -> dict[str, Any]:
        """The columns of an epoch (from 1) with this point, [D] or [T, D]; NaN where it is not its turn."""
        theta = point if self.task_axis else point[None]
        if epoch % self.every:
            return dict.fromkeys(self.columns, np.full(len(theta), math.nan) if self.task_axis else math.nan)
        row: dict[str, Any] = {}
        if self.validation is not None:
            row["validation_risk"] = self._told(self.validation.risks(theta))
        if self.metrics:
            row.update(dict.fromkeys(self.columns[len(row) :]))  # in their order
            self._measure(theta, "", self.training, row)
            self._measure(theta, "validation_", self.validation, row)
        return row

    def _measure(self, theta: Array, prefix: str, scored: Scored | None, row: dict[str, Any]) -> None:
        """The metrics on one set of data, into a row."""
        if scored is None:
            return
        pairs = list(zip(scored.targets, scored.outputs(theta), strict=True))
        for name, metric in self.metrics.items():
            values = [_number(metric(y, outputs), name) for y, outputs in pairs]
            row[prefix + name] = self._told(np.array(values))

    def _told(self, values: Array) -> Any:
        """Values [T] as the history has them."""
        return values if self.task_axis else values.item()

    def description(self, validation: Data | None) -> dict[str, str]:
        """Text by which a checkpoint recognises the run."""
        data = {} if validation is None else validation.fingerprints()
        return {
            "metrics": ", ".join(self.metrics),
            "every_epochs": str(self.every),
            **{f"validation {name}": text for name, text in data.items()},
        }


def evaluation_of(
    metrics: dict[str, Metric], training: Data, validation: Data | None, every_epochs: Any,
    score: Callable[[Data], Scored],
) -> Evaluation | None:  # fmt: skip
    """What a run is to evaluate, None for nothing; `score` takes data to where the run is."""
    every = integer(every_epochs, "every_epochs", 1, WORD)
    if validation is None and not metrics:
        return None
    first, second = score(training) if metrics else None, None if validation is None else score(validation)
    return Evaluation(metrics, first, second, every, training.task_axis)


def _number(value: Any, name: str) -> float:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"metric {name!r} must return a real number, got {kind(value)}")
    return float(value)
