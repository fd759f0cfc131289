"""When a run stops before its last epoch, and the best point so far."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from .._arrays import Array
from .._checks import WORD, integer, real

Columns = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Stopping:
    """The caller's arguments, checked.

    target: the run stops where the watched risk is at most this; None: never.
    patience: it stops where that risk has not fallen by more than `tolerance` for so many epochs; None:
        never.
    """

    target: float | None = None
    patience: int | None = None
    tolerance: float = 0.0

    @classmethod
    def of(cls, target: Any, patience: Any, tolerance: Any) -> Stopping:
        """TypeError and ValueError for what they may not be."""
        return cls(
            None if target is None else real(target, "target"),
            None if patience is None else integer(patience, "patience", 1, WORD),
            real(tolerance, "tolerance", 0.0),
        )

    @property
    def stops(self) -> bool:
        """Whether a risk may end the run."""
        return self.target is not None or self.patience is not None


class Best:
    """Follows the watched risk of a run: the best point, and whether it is time to stop.

    A risk that is not finite is never the best, reaches no target, and has not fallen. Where a row holds
    several tasks' risks their mean is watched.
    """

    def __init__(self, stopping: Stopping, validated: bool, every: int, point: Array) -> None:
        self._stopping, self._validated = stopping, validated
        self._every = every if validated else 1  # epochs without a validation tell nothing
        self.point = np.zeros_like(point)  # the best one, once there is one
        self.last = math.nan  # the watched risk where it was last known
        self._lowest = math.inf
        self._level, self._since = math.inf, 0  # the risk that last fell by more than the tolerance; when
        self.stopped = ""  # "target" or "patience" once it is time

    def look(self, epoch: int, row: dict[str, Any], point: Array | None) -> None:
        """See to an epoch (from 1) with this row of history and point, None for one that is known already."""
        if epoch % self._every:
            return
        watched = row["validation_risk" if self._validated else "risk"]
        risk = watched if type(watched) is float else float(np.mean(watched))
        finite, self.last = math.isfinite(risk), risk
        if finite and risk < self._lowest:
            self._lowest = risk
            if point is not None:
                np.copyto(self.point, point)
        target, patience = self._stopping.target, self._stopping.patience
        if finite and risk < self._level - self._stopping.tolerance:
            self._level, self._since = risk, epoch
        elif patience is not None and epoch - self._since >= patience:
            self.stopped = "patience"
        if target is not None and finite and risk <= target:
            self.stopped = "target"

    def take_up(self, history: Columns, point: Array) -> None:
        """Continue a run with this history, whose best point so far this was."""
        name = "validation_risk" if self._validated else "risk"
        for epoch, risk in enumerate(history[name].tolist(), 1):
            self.stopped = ""  # by other arguments it would have stopped earlier, and it has not
            self.look(epoch, {name: risk}, None)
        np.copyto(self.point, point)

    def sentence(self, stopped: str, done: int, unit: str) -> str:
        """Why a run stopped after so many epochs (or steps)."""
        which = "validation risk" if self._validated else "risk"
        what = self._stopping
        stalled = f"has not fallen by more than {what.tolerance} for {done - self._since} {unit}s"
        return {
            "epochs": f"all {done} {unit}s are done",
            "target": f"the {which} reached the target {what.target} in {unit} {done}",
            "patience": f"the {which} {stalled}, since {unit} {self._since}",
            "callback": f"the callback stopped the run after {unit} {done}",
            "interrupt": f"Ctrl-C ended the run after {unit} {done}",
        }[stopped]

    def success(self, stopped: str) -> bool:
        """Whether a run that stopped for this reason has done what it was to do."""
        if self._stopping.target is not None:
            return self._lowest <= self._stopping.target
        return stopped != "interrupt" and self._lowest < math.inf
