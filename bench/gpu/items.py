"""What is timed, item by item: workloads of bench/README.md, ours beside the peers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from measure import Clock, Row, matmul_precision, replayed
from peers import cupy_risk, jax_risk, torch_gradient, torch_risk, torch_step, torch_update

import cbokernels as cbk

PRECISIONS = ("float32", "tf32", "bf16")


@dataclasses.dataclass
class Workload:
    """An ensemble's shape and its data, NumPy's."""

    net: cbk.TwoLayer
    particles: int
    x: np.ndarray  # [10 batches, S, d]
    y: np.ndarray

    @property
    def loss(self) -> str:
        return "cross_entropy" if self.net.outputs > 1 else "mse"

    @property
    def flop(self) -> float:
        """Of the matrix products of one risk."""
        return 2.0 * self.particles * self.x.shape[1] * self.net.width * (self.net.inputs + self.net.outputs)

    def targets(self, y: torch.Tensor) -> torch.Tensor:
        """y as our kernels take it without a cast: PyTorch's own want 64-bit labels."""
        return y.int() if self.net.outputs > 1 else y

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
        return Workload(cbk.TwoLayer(784, 20, 10), 10 if small else 1000, x, rng.integers(0, 10, x.shape[:2]))
    x = rng.normal(size=(10, 16 if small else 1024, 16)).astype(np.float32)
    net = cbk.TwoLayer(16, 64 if small else 4096, 1, activation="tanh")
    return Workload(net, 4 if small else 64, x, np.sin(x.sum(2)))


class Bench:
    """The items' common part: where they run, the clock, the card's limits."""

    def __init__(
        self, clock: Clock, device: str, limits: dict[str, float], small: bool, compiled: bool
    ) -> None:
        self.clock, self.device, self.limits, self.small, self.compiled = (
            clock,
            device,
            limits,
            small,
            compiled,
        )

    def put(self, a: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(a).to(self.device)

    def forms(self, item: str, name: str, call: Callable[[int], object], inner: int = 10) -> Iterator[Row]:
        """As called, and as a CUDA graph."""
        yield self.clock.row(item, name, call, inner)
        if self.device == "cuda":
            try:
                graph = replayed(call)
            except Exception as error:
                yield Row(item, f"{name}, graph", note=f"{type(error).__name__}: {str(error)[:160]}")
                return
            yield self.clock.row(item, f"{name}, graph", graph, 16)

    def peer(
        self, item: str, name: str, function: Callable[..., Any], arguments: Any, inner: int
    ) -> Iterator[Row]:
        """A PyTorch function eager, compiled and as a graph; arguments(i) are its arguments."""
        yield from self.forms(item, f"PyTorch {name}eager", lambda i: function(*arguments(i)), inner)
        if self.compiled:
            fast = torch.compile(function)
            yield self.clock.row(item, f"PyTorch {name}compile", lambda i: fast(*arguments(i)), inner)

    def shared(self, row: Row, amount: float, limit: str) -> Row:
        """The row with its share of a limit: amount bytes or FLOP a call."""
        if row.median and limit in self.limits:
            row.share = f"{100 * amount / (row.median * 1e-6) / self.limits[limit]:.0f} % of {limit}"
        return row

    def risks(self, name: str) -> Iterator[Row]:
        """Risks of A, At, B (each precision) and C."""
        w = workload(name, self.small)
        item, inner = f"{name} risk", 3 if name in "BC" else 20
        numbers = w.ensembles(2 if name in "BC" else 8)
        thetas, x, y = [self.put(t) for t in numbers], self.put(w.x[0]), self.put(w.y[0])
        own = w.targets(y)

        def ours(precision: str) -> Callable[[int], object]:
            return lambda i: cbk.risk(
                w.net, thetas[i % len(thetas)], x, own, loss=w.loss, precision=precision
            )

        for precision in PRECISIONS if name == "B" else PRECISIONS[:1]:
            suffix = f" {precision}" if name == "B" else ""
            for row in self.forms(item + suffix, "cbokernels", ours(precision), inner):
                yield self.shared(row, w.flop, precision)
            if name == "B":
                yield from self.warp_groups(item + suffix, ours(precision), w.flop, precision)
            dtype = torch.bfloat16 if precision == "bf16" else torch.float32
            with matmul_precision("high" if precision == "tf32" else "highest"):
                risk = torch_risk(w.net, dtype)
                yield from self.peer(
                    item + suffix, "", risk, lambda i: (thetas[i % len(thetas)], x, y), inner
                )
            if precision == "float32":
                yield from self.others(item + suffix, w, numbers, gradient=False)

    def warp_groups(
        self, item: str, call: Callable[[int], object], flop: float, precision: str
    ) -> Iterator[Row]:
        """The same by wgmma, where this card and build can."""
        if self.device != "cuda" or not cbk.cuda.module().use_warp_groups(True):
            return
        try:
            yield self.shared(self.clock.row(item, "cbokernels, wgmma", call, 3), flop, precision)
        finally:
            cbk.cuda.module().use_warp_groups(False)

    def gradients(self, name: str) -> Iterator[Row]:
        """Risks with gradients."""
        w = workload(name, self.small)
        item = f"{name} risk and gradient"
        numbers = w.ensembles(2)
        thetas, x, y = [self.put(t) for t in numbers], self.put(w.x[0]), self.put(w.y[0])
        own = w.targets(y)
        call = lambda i: cbk.risk_gradient(w.net, thetas[i % 2], x, own, loss=w.loss)  # noqa: E731
        for row in self.forms(item, "cbokernels", call, 3):
            yield self.shared(row, 3 * w.flop, "float32")
        yield from self.peer(item, "", torch_gradient(w.net), lambda i: (thetas[i % 2], x, y), 3)
        yield from self.others(item, w, numbers, gradient=True)

    def others(self, item: str, w: Workload, numbers: list[np.ndarray], *, gradient: bool) -> Iterator[Row]:
        """JAX and CuPy where they are."""
        x, y = w.x[0], w.y[0].astype(np.int32 if w.net.outputs > 1 else np.float32)
        contestants: dict[str, Callable[[], Callable[[int], object]]] = {
            "JAX jit, waited for": lambda: jax_risk(w.net, numbers, x, y, gradient=gradient)
        }
        if not gradient:
            contestants["CuPy, waited for"] = lambda: cupy_risk(w.net, numbers, x, y)
        for name, make in contestants.items():
            try:
                call = make()
            except ImportError as error:
                yield Row(item, name, note=f"not here: {error}")
                continue
            yield self.clock.row(item, name, call, 3)

    def update(self) -> Iterator[Row]:
        """The noisy step of B: every particle read and written once."""
        w = workload("B", self.small)
        theta = self.put(w.ensembles(1)[0])
        point, peer = theta.mean(0), theta.clone()
        step = lambda i: cbk.cbo_update(theta, point, drift=0.01, diffusion=0.03, step=i, out=theta)  # noqa: E731
        yield self.shared(self.clock.row("B update", "cbokernels", step), 8 * theta.numel(), "copy")
        yield from self.peer("B update", "", torch_update(peer, point), lambda i: (i,), 10)

    def consensus(self) -> Iterator[Row]:
        """The point of B where all weights count, and where one does."""
        w = workload("B", self.small)
        theta = self.put(w.ensembles(1)[0])
        risk = torch.rand(len(theta), dtype=torch.float64, device=self.device)
        for item, alpha in (("B consensus, full read", 1.0), ("B consensus, alpha 1e5", 1e5)):
            for row in self.forms(item, "cbokernels", lambda _, a=alpha: cbk.consensus(theta, risk, alpha=a)):
                yield self.shared(row, 4 * theta.numel(), "read") if alpha == 1 else row
            point = lambda a=alpha: torch.softmax(-a * risk, 0).float() @ theta  # noqa: E731
            yield from self.peer(item, "", point, lambda _: (), 10)

    def steps(self, name: str) -> Iterator[Row]:
        """Whole steps: `train` with all it does, by the wall's clock; the peers' steps by events."""
        w = workload(name, self.small)
        x, y = (self.put(a.reshape(-1, *a.shape[2:])) for a in (w.x, w.y))
        epochs = 2 if self.small else {"A": 1000, "B": 60}[name]
        theta, item = w.ensembles(1)[0], f"{name} whole step"
        for precision in PRECISIONS if name == "B" else PRECISIONS[:1]:

            def run(epochs: int, precision: str = precision) -> float:
                method = cbk.CBO(alpha=1e5, floor=0.01)
                began = time.perf_counter()
                cbk.train(
                    w.net, x, y, method, epochs=epochs, batch_size=w.x.shape[1], theta=theta,
                    device=self.device, precision=precision, loss=w.loss,
                )  # fmt: skip
                return (time.perf_counter() - began) / (10 * epochs) * 1e6

            contestant = f"cbk.train, {precision}, {10 * epochs} steps"
            try:
                run(2)
                times = sorted(run(epochs) for _ in range(1 if self.small else 3))
                yield Row(item, contestant, times[len(times) // 2], times[0], times[-1])
            except Exception as error:
                yield Row(item, contestant, note=f"{type(error).__name__}: {str(error)[:160]}")
        batches = self.put(w.x), self.put(w.y)
        with matmul_precision("high" if name == "B" else "highest"):
            yield from self.peer(item, "", torch_step(w.net, self.put(theta), *batches), lambda i: (i,), 10)

    def scale(self) -> Iterator[Row]:
        """Ensembles as large as one card holds."""
        for name, particles in (("A", 100_000), ("B", 16_384)):
            w = workload(name, self.small)
            w.particles = w.particles if self.small else particles
            theta, x, y = self.put(w.ensembles(1)[0]), self.put(w.x[0]), w.targets(self.put(w.y[0]))
            item = f"{name} risk, N = {w.particles:,}"
            call = lambda _, w=w, t=theta, x=x, y=y: cbk.risk(w.net, t, x, y, loss=w.loss)  # noqa: E731
            yield self.shared(self.clock.row(item, "cbokernels", call, 1), w.flop, "float32")
        w = workload("A", self.small)
        particles = 1000 if self.small else 10_000_000
        item, method = f"A hopping step, N = {particles:,}", cbk.ConsensusHopping(particles)
        try:
            result = cbk.train(
                w.net, self.put(w.x[0]), self.put(w.y[0]), method, epochs=4, device=self.device,
                callback=lambda state: False,
            )  # fmt: skip
            seconds = np.diff(result.history["seconds"])
            yield Row(item, "cbk.train", *(float(f(seconds)) * 1e6 for f in (np.median, np.min, np.max)))
        except Exception as error:
            yield Row(item, "cbk.train", note=f"{type(error).__name__}: {str(error)[:160]}")


def items(bench: Bench) -> dict[str, Callable[[], Iterator[Row]]]:
    """By name, the most telling first."""
    return {
        "A-step": lambda: bench.steps("A"),
        "A-risk": lambda: bench.risks("A"),
        "B-risk": lambda: bench.risks("B"),
        "B-step": lambda: bench.steps("B"),
        "update": bench.update,
        "consensus": bench.consensus,
        "C-risk": lambda: bench.risks("C"),
        "C-gradient": lambda: bench.gradients("C"),
        "scale": bench.scale,
        "B-gradient": lambda: bench.gradients("B"),
        "At-risk": lambda: bench.risks("At"),
    }
