"""What a run is given besides its method and its problem, and what the loop asks of a method at work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Protocol

from .._arrays import Array
from .._ranks import ALONE, Ranks
from ..methods.base import Done, Method
from ..network import TwoLayer
from ..result import State
from .checkpoint import Checkpoint
from .metrics import Evaluation
from .stopping import Stopping
from .watch import Watched

Row = dict[str, Any]  # a row of the history, by column


@dataclasses.dataclass
class Options:
    """A run's arguments that concern neither its method nor its problem."""

    epochs: int
    progress: bool = False
    callback: Callable[[State], object] | None = None
    checkpoint: Checkpoint | None = None
    net: TwoLayer | None = None
    warn_collapse: bool = True
    stopping: Stopping = dataclasses.field(default_factory=Stopping)
    evaluation: Evaluation | None = None
    returns: bool = False  # whether Ctrl-C returns the result of the whole epochs
    unit: str = "epoch"
    state: dict[str, Array] = dataclasses.field(default_factory=dict)  # the problem's counts, for checkpoints
    ranks: Ranks = ALONE
    arguments: dict[str, str] = dataclasses.field(default_factory=dict)  # which must be the same on all ranks

    @property
    def validated(self) -> bool:
        """Whether the watched risk is a validation's."""
        return self.evaluation is not None and self.evaluation.validation is not None

    @property
    def interval(self) -> int:
        """Epochs from one evaluation to the next."""
        return 1 if self.evaluation is None else self.evaluation.every

    def holds(self, epoch: int) -> bool:
        """Whether the ensemble must be available after this epoch (from 1)."""
        told = self.stopping.stops and (not self.validated or epoch % self.interval == 0)
        return told or self.callback is not None or epoch == self.epochs or self.saves(epoch)

    def saves(self, epoch: int) -> bool:
        """Whether an epoch is one of those that end with a checkpoint."""
        return self.checkpoint is not None and (epoch == self.epochs or epoch % self.checkpoint.every == 0)


class Runner(Watched, Protocol):
    """A method at work, on the CPU (`Stepper`) or on a card."""

    finishes: ClassVar[bool]  # whether submitted epochs complete even after an error

    @property
    def point(self) -> Array:
        """What the run reports as its parameters, as it is now."""

    @property
    def reported(self) -> Array:
        """The same as it was after the epoch that was handed out last; valid until the next one is."""

    def epochs(
        self, problem: Any, method: Method, first: int, last: int, hold: Callable[[int], bool]
    ) -> Iterator[Done]:
        """Do the epochs from `first` up to `last`. Where hold(epoch), from 1, the ensemble must be as that
        epoch left it when it is handed out; else later ones may be on their way."""

    def variance(self) -> float:
        """Of the particles as they are now."""

    def state_dict(self) -> dict[str, Array]:
        """What a later step depends on besides particles and point."""

    def shared(self) -> dict[str, int]:
        """Which of particles and state the ranks have a part of each, and along which axis."""

    def restore(self, particles: Array, point: Array, state: dict[str, Array]) -> None:
        """Take up where another run of the same kind stopped; ValueError for a state that no run has."""

    def finish(self, done: int) -> Iterator[Done]:
        """Where an exception ended the run after `done` epochs: those later ones that still complete."""
