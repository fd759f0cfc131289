"""What is timed: workloads of bench/README.md, our calls on them, whole steps, large ensembles."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from measure import Clock
from record import Row, described

import cbokernels as cbk

PRECISIONS = ("float32", "tf32", "bf16")


@dataclasses.dataclass
class Workload:
    """An ensemble's shape and its data, NumPy's."""

    net: cbk.TwoLayer
    particles: int
    x: np.ndarray  # [10 batches, S, d]
    y: np.ndarray  # [10 batches, S]; labels as our kernels take them without a cast

    @property
    def loss(self) -> str:
        return "cross_entropy" if self.net.outputs > 1 else "mse"

    @property
    def flop(self) -> float:
        """Of the matrix products of one risk."""
        return 2.0 * self.particles * self.x.shape[1] * self.net.width * (self.net.inputs + self.net.outputs)

    def ensembles(self, count: int) -> list[np.ndarray]:
        return [self.net.uniform(self.particles, seed=s) for s in range(count)]


def workload(name: str, small: bool) -> Workload:
    """A, At, B or C; `small`: for rehearsals."""
    rng = np.random.default_rng(1)
    if name in ("A", "At"):
        net = cbk.TwoLayer(1, 100, 1, activation="relu" if name == "A" else "tanh")
        x = rng.random((10, 80 if small else 800, 1), np.float32)
        return Workload(net, 20 if small else 200, x, np.sin(2 * np.pi * x[..., 0]))
    if name == "B":
        x = rng.random((10, 20 if small else 1000, 784), np.float32)
        x[rng.random(x.shape) > 0.19] = 0
        y = rng.integers(0, 10, x.shape[:2], np.int32)
        return Workload(cbk.TwoLayer(784, 20, 10), 10 if small else 1000, x, y)
    x = rng.normal(size=(10, 16 if small else 1024, 16)).astype(np.float32)
    net = cbk.TwoLayer(16, 64 if small else 4096, 1, activation="tanh")
    return Workload(net, 4 if small else 64, x, np.sin(x.sum(2)))


@dataclasses.dataclass
class Item:
    """A call of ours: how often between two events, and what it must move (bytes) or compute (FLOP)."""

    call: Callable[[int], object]
    inner: int
    amount: float = 0.0
    of: str = ""
    engines: bool = False  # whether warp groups do it where they are


class Ours:
    """Our calls, made when they are wanted, and rows of what they take."""

    def __init__(self, context: Any) -> None:
        self.library, self.small = context.timed, context.rehearse
        self.clock = Clock(self.library, 2 if self.small else 15)
        self._limit = context.limit
        table: dict[str, Callable[[], Item]] = {
            f"B risk {p}": lambda p=p: self._risk("B", p) for p in PRECISIONS
        }
        table |= {"B update": self._update, "B consensus, full read": lambda: self._consensus(1.0)}
        table |= {f"{name} risk": lambda n=name: self._risk(n, "float32") for name in ("A", "At", "C")}
        table |= {f"{name} risk and gradient": lambda n=name: self._gradient(n) for name in ("C", "B", "A")}
        table |= {"B consensus, alpha 1e5": lambda: self._consensus(1e5)}
        self.table = table

    def rows(self, name: str) -> Iterator[Row]:
        """An item as called, as a graph, and by warps alone where warp groups multiply."""
        item = self.table[name]()
        forms = [self.clock.row, self.clock.graph] if self.library.card else [self.clock.row]
        for form in forms:
            arguments = (item.inner,) if form == self.clock.row else ()
            yield self._shared(form(name, "cbokernels", item.call, *arguments), item)
        if item.engines and self.library.card and cbk.cuda.module().testing.use_warp_groups(False):
            try:
                yield self._shared(self.clock.row(name, "cbokernels, mma", item.call, item.inner), item)
            finally:
                cbk.cuda.module().testing.use_warp_groups(True)

    def _shared(self, row: Row, item: Item) -> Row:
        limit = self._limit(item.of) if item.of else None
        if row.value and limit:
            row.share, row.of = 100 * item.amount / (row.value * 1e-6) / limit, item.of
        return row

    def data(self, name: str, ensembles: int) -> tuple[Workload, list[Any], Any, Any]:
        """A workload; ensembles and its first batch on the card."""
        w = workload(name, self.small)
        put = self.library.put
        return w, [put(t) for t in w.ensembles(ensembles)], put(w.x[0]), put(w.y[0])

    def _risk(self, name: str, precision: str) -> Item:
        w, thetas, x, y = self.data(name, 2 if name in "BC" else 8)
        p = precision if self.library.card else "float32"

        def call(i: int) -> object:
            return cbk.risk(w.net, thetas[i % len(thetas)], x, y, loss=w.loss, precision=p)

        return Item(call, 3 if name in "BC" else 20, w.flop, precision, name in "BC")

    def _gradient(self, name: str) -> Item:
        w, thetas, x, y = self.data(name, 2)
        call = lambda i: cbk.risk_gradient(w.net, thetas[i % 2], x, y, loss=w.loss)  # noqa: E731
        return Item(call, 3, 3 * w.flop, "float32", name in "BC")

    def _update(self) -> Item:
        """Every particle read and written once; four ensembles in turn, more than a cache holds."""
        _, thetas, _, _ = self.data("B", 4)
        point = thetas[0][0] + 0

        def call(i: int) -> object:
            theta = thetas[i % 4]
            return cbk.cbo_update(theta, point, drift=0.01, diffusion=0.03, step=i, out=theta)

        return Item(call, 12, 8.0 * len(thetas[0]) * len(point), "copy")

    def _consensus(self, alpha: float) -> Item:
        """The point where all weights count, or where one does."""
        w, thetas, _, _ = self.data("B", 4)
        risk = self.library.put(np.random.default_rng(2).random(w.particles))
        amount = 4.0 * w.particles * w.net.size if alpha == 1 else 0.0
        return Item(
            lambda i: cbk.consensus(thetas[i % 4], risk, alpha=alpha), 12, amount, "read" if amount else ""
        )

    def steps(self, name: str) -> Iterator[Row]:
        """Whole steps of `train`, by the wall's clock: of all of it, and between its epochs once it runs."""
        w = workload(name, self.small)
        x, y = (self.library.put(a.reshape(-1, *a.shape[2:])) for a in (w.x, w.y))
        epochs, item = 4 if self.small else {"A": 1000, "B": 60}[name], f"{name} whole step"
        for precision in PRECISIONS if name == "B" and self.library.card else PRECISIONS[:1]:
            what = f"cbk.train, {precision}"
            run = {"batch_size": w.x.shape[1], "precision": precision, "loss": w.loss, **self.device}
            method = cbk.CBO(w.particles, alpha=1e5, floor=0.01)
            try:
                cbk.train(w.net, x, y, method, epochs=2, **run)
                whole, between = [], []
                for _ in range(1 if self.small else 3):
                    began = time.perf_counter()
                    result = cbk.train(w.net, x, y, method, epochs=epochs, **run)
                    whole.append((time.perf_counter() - began) / (10 * epochs) * 1e6)
                    seconds = result.history["seconds"]
                    from_ = epochs // 4  # behind the first steps, which are captured
                    between.append((seconds[-1] - seconds[from_]) / (10 * (epochs - 1 - from_)) * 1e6)
            except Exception as error:
                yield Row(item, what, note=described(error), ok=False)
                continue
            for form, times in (("", between), (", with its beginning and end", whole)):
                yield Row(item, what + form, float(np.median(times)), "µs", min(times), max(times))

    @property
    def device(self) -> dict[str, str]:
        """For `train`."""
        return {"device": "cuda" if self.library.card else "cpu"}

    def stored(self) -> Iterator[Row]:
        """As many networks of A as the goal says, in memory: risks, and a run."""
        w, item = workload("A", self.small), "A, stored particles"
        w.particles = 500 if self.small else 100_000
        theta, x, y = (self.library.put(a) for a in (w.ensembles(1)[0], w.x[0], w.y[0]))
        risk = Item(lambda _: cbk.risk(w.net, theta, x, y), 1, w.flop, "float32")
        yield self._shared(self.clock.row(item, "cbokernels, risk", risk.call, 1), risk)
        yield from self._large(item, w, x, y, cbk.CBO(w.particles, alpha=1e5))

    def hopping(self) -> Iterator[Row]:
        """As many drawn networks."""
        w = workload("A", self.small)
        x, y = self.library.put(w.x[0]), self.library.put(w.y[0])
        method = cbk.ConsensusHopping(1000 if self.small else 10_000_000)
        yield from self._large("A, particles in hopping", w, x, y, method)

    def hop_digits(self, width: int, epochs: int, drift: str = "least_squares") -> tuple[Any, float]:
        """A run on data of digits' shape, 80 steps an epoch: N = 200, single neurons, noise of rank 1. Its
        seconds are those of the call."""
        rng, samples = np.random.default_rng(3), 60 if self.small else 8000
        x, y = rng.normal(size=(samples, 784)).astype(np.float32), rng.integers(0, 10, samples)
        method = cbk.ConsensusHopping(
            20 if self.small else 200, scope="atom", rank=1, directions="batch", spread=0.1,
            lr=cbk.Exponential(0.1, 0.001), drift=drift,
        )  # fmt: skip
        options = {"batch_size": 20 if self.small else 100, "weight_decay": 0.05, **self.device}
        began = time.perf_counter()
        result = cbk.train(cbk.TwoLayer(784, width, 10), x, y, method, epochs=epochs, **options)
        return result, time.perf_counter() - began

    def digits(self) -> Iterator[Row]:
        """Whole runs of 2,400 steps."""
        for width, drift in itertools.product((20, 100), ("least_squares", "mean")):
            times = []
            self.hop_digits(width, 2, drift)  # what a process does once
            for _ in range(1 if self.small else 3):
                result, seconds = self.hop_digits(width, 2 if self.small else 30, drift)
                times.append(seconds)
            good = bool(np.isfinite(result.history["risk"]).all())
            middle = float(np.median(times))
            item = f"784-{width}-10, hopping" + (" by the mean" if drift == "mean" else "")
            yield Row(item, "cbk.train", middle, "s", min(times), max(times), ok=good)

    def _large(self, item: str, w: Workload, x: Any, y: Any, method: Any) -> Iterator[Row]:
        result = cbk.train(w.net, x, y, method, epochs=4, callback=lambda state: False, **self.device)
        times = np.diff(result.history["seconds"]) * 1e6
        good = bool(np.isfinite(result.history["risk"]).all())
        low, middle, high = (float(f(times)) for f in (np.min, np.median, np.max))
        note = f"N = {method.particles:,}, a step; risk {result.history['risk'][-1]:.4g}"
        yield Row(item, "cbk.train", middle, "µs", low, high, ok=good, note=note)
