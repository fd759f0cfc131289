"""Where a run's data lie and its particles are scored.

`train` chooses one `Place`, by device and ranks, and asks it for all that depends on that.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from .. import cuda
from .._arrays import HOST, Array, Call, call_of, on_cuda, view
from .._ranks import Ranks, Replicas
from ..methods.base import Method, Setting
from ..network import TwoLayer
from .arguments import on_host
from .card import CardScored, DeviceStepper
from .card_ranks import CardProblem, card_of
from .card_slices import SliceStepper
from .counting import samples_that_count
from .data import Data, DataProblem, Orders, validation_data
from .metrics import Evaluation, Scored
from .options import Runner
from .split import SplitProblem, fingerprints, own_samples
from .standard import Standard


@dataclasses.dataclass
class Place:
    """The host. Of several ranks each has all samples and scores its own particles."""

    net: TwoLayer
    batch_size: int | None
    seed: int
    threads: int
    precision: str
    ranks: Ranks
    call: Call = HOST  # that takes the caller's arrays

    device: ClassVar[str] = "cpu"
    unranked: ClassVar[str] = ""  # where there is no noise of low rank, the words that say so

    @property
    def owners(self) -> Ranks:
        """Who share the particles."""
        return self.ranks

    def check(self, x: Any, y: Any) -> None:
        """TypeError for arrays in CUDA memory that cannot be used from here."""
        if on_cuda(x) and cuda.is_available():
            raise TypeError("x lies in CUDA memory: train on it with device='cuda'")

    def own(
        self, x: Any, y: Any, loss: Any, task_axes: tuple[str, ...] | None, rows: Array | None
    ) -> tuple[Any, Any]:
        """The part of the caller's x and y that this process uses, of the samples `rows`; None: of all."""
        if rows is None:
            return x, y
        return samples_that_count(self.call, self.net, x, y, loss, task_axes, rows)

    def samples(self, data: Data) -> tuple[int, slice]:
        """S, and which of them this process uses."""
        return data.samples, slice(data.samples)

    def apart(self, data: Data, x: Any, y: Any) -> Data:
        """The data as copies of x and y, where they are the caller's still, who may change them."""
        own = (self.call.apart(data.x, view(x, "x")), self.call.apart(data.y, view(y, "y")))
        return dataclasses.replace(data, x=own[0], y=own[1])

    def validation(self, pair: Any, data: Data, standard: Standard | None) -> Data:
        """The caller's validation."""
        return validation_data(self.net, pair, data, False, standard)

    def start(self, theta: Any) -> Any:
        """The caller's particles, as an array of the host's."""
        return theta

    def problem(self, data: Data, ensemble: int) -> Orders:
        """The data in minibatches. Unless `ensemble` is 0, this process has a part of so many particles."""
        return DataProblem(self.net, data, self.batch_size, self.seed, self.threads, ensemble)

    def scored(self, data: Data) -> Scored:
        """Data to evaluate points on."""
        return DataProblem(self.net, data, None, self.seed, self.threads)

    def fingerprints(self, data: Data) -> dict[str, str]:
        """As those of `Data`, of all samples."""
        return data.fingerprints()

    def runner(
        self, method: Method, start: Array, setting: Setting, data: Data, problem: Orders,
        evaluation: Evaluation | None,
    ) -> Runner:  # fmt: skip
        """The method at work."""
        return method._stepper(start, setting)


class SplitPlace(Place):
    """The host. Each of several ranks has a part of the samples, and all particles."""

    unranked = "with data='split'"

    @property
    def owners(self) -> Ranks:
        return Replicas()

    def own(
        self, x: Any, y: Any, loss: Any, task_axes: tuple[str, ...] | None, rows: Array | None
    ) -> tuple[Any, Any]:
        return own_samples(self.ranks, self.net, x, y, loss, task_axes, rows)

    def samples(self, data: Data) -> tuple[int, slice]:
        return self.ranks.total, slice(self.ranks.first, self.ranks.last)

    def problem(self, data: Data, ensemble: int) -> Orders:
        return SplitProblem(self.net, data, self.batch_size, self.seed, self.threads, self.ranks)

    def fingerprints(self, data: Data) -> dict[str, str]:
        return fingerprints(data, self.ranks)


class CardPlace(Place):
    """A card, where the particles stay."""

    device = "cuda"

    def check(self, x: Any, y: Any) -> None:
        self.call = call_of(x, "x")  # whose stream and device the run takes

    def apart(self, data: Data, x: Any, y: Any) -> Data:
        return data

    def validation(self, pair: Any, data: Data, standard: Standard | None) -> Data:
        return validation_data(self.net, pair, data, True, standard)

    def start(self, theta: Any) -> Any:
        return on_host(theta)

    def problem(self, data: Data, ensemble: int) -> Orders:
        return Orders(data.samples, self.batch_size, self.seed)

    def scored(self, data: Data) -> Scored:
        return CardScored(self.net, data, self.precision, self.call.on)

    def runner(
        self, method: Method, start: Array, setting: Setting, data: Data, problem: Orders,
        evaluation: Evaluation | None,
    ) -> Runner:  # fmt: skip
        return DeviceStepper(method, start, setting, data, problem, evaluation)


class RanksCardPlace(Place):
    """A card for each of several ranks, where particles are scored. The rest of a step is the host's."""

    device = "cuda"
    unranked = "with a card for each rank"

    def check(self, x: Any, y: Any) -> None:
        if on_cuda(x) or on_cuda(y):
            raise TypeError("x and y must lie in host memory with comm, got an array in CUDA memory")

    def start(self, theta: Any) -> Any:
        return on_host(theta)

    def problem(self, data: Data, ensemble: int) -> Orders:
        on = card_of(self.ranks)
        return CardProblem(self.net, data, self.batch_size, self.seed, self.precision, on)

    def scored(self, data: Data) -> Scored:
        return CardScored(self.net, data, self.precision, card_of(self.ranks))


class SlicePlace(RanksCardPlace):
    """A card for each of several ranks, where its particles stay."""

    def problem(self, data: Data, ensemble: int) -> Orders:
        return Orders(data.samples, self.batch_size, self.seed)

    def runner(
        self, method: Method, start: Array, setting: Setting, data: Data, problem: Orders,
        evaluation: Evaluation | None,
    ) -> Runner:  # fmt: skip
        return SliceStepper(method, start, setting, data, problem, evaluation)


def place_of(device: str, split: bool, ranks: Ranks, method: Method) -> type[Place]:
    """The kind of place that a run's arguments, which are checked already, ask for."""
    if split:
        return SplitPlace
    if device == "cpu":
        return Place
    if ranks.alone:
        return CardPlace
    return SlicePlace if method._stays_on_card else RanksCardPlace
