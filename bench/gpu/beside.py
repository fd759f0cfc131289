"""The same items by PyTorch (eager, as a CUDA graph, compiled), JAX and CuPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from items import PRECISIONS, Ours, workload
from measure import matmul_precision
from record import Row, Skip, Steps, described

Step = Callable[[], Iterator[Row]]


class Beside:
    """Rows of the peers, on the clock that ours were timed with."""

    def __init__(self, context: Any) -> None:
        import torch

        self._torch, self._small = torch, context.rehearse
        self._clock = Ours(context).clock
        self._device = "cpu" if self._small else "cuda"

    def _put(self, a: np.ndarray) -> Any:
        return self._torch.from_numpy(a).to(self._device)

    def _data(self, name: str) -> tuple[Any, list[Any], Any, Any]:
        """A workload, two ensembles and its first batch; labels have PyTorch's 64 bits."""
        w = workload(name, self._small)
        y = w.y[0].astype(np.int64) if w.net.outputs > 1 else w.y[0]
        return w, [self._put(t) for t in w.ensembles(2)], self._put(w.x[0]), self._put(y)

    def _forms(
        self, item: str, function: Any, arguments: Callable[[int], tuple[Any, ...]], inner: int,
        *, graph: bool = True,
    ) -> Iterator[Row]:  # fmt: skip
        """Eager, as a graph, compiled."""
        eager: Callable[[int], object] = lambda i: function(*arguments(i))  # noqa: E731
        yield self._clock.row(item, "PyTorch eager", eager, inner)
        if self._small:
            return
        if graph:
            yield self._clock.graph(item, "PyTorch eager", eager)
        fast = self._torch.compile(function)
        yield self._clock.row(item, "PyTorch compile", lambda i: fast(*arguments(i)), inner)

    def risk(self, name: str, precision: str) -> Iterator[Row]:
        """Risks, at the precision that PyTorch has under this name."""
        import peers

        w, thetas, x, y = self._data(name)
        dtype = self._torch.bfloat16 if precision == "bf16" else self._torch.float32
        item = f"{name} risk {precision}" if name == "B" else f"{name} risk"
        with matmul_precision("high" if precision == "tf32" else "highest"):
            risk = peers.torch_risk(w.net, dtype)
            yield from self._forms(item, risk, lambda i: (thetas[i % 2], x, y), 3 if name in "BC" else 20)
        if precision == "float32":
            yield from self._others(item, name, gradient=False)

    def gradient(self, name: str) -> Iterator[Row]:
        """Risks with gradients."""
        import peers

        w, thetas, x, y = self._data(name)
        item = f"{name} risk and gradient"
        gradient = peers.torch_gradient(w.net)
        yield from self._forms(item, gradient, lambda i: (thetas[i % 2], x, y), 3, graph=False)
        yield from self._others(item, name, gradient=True)

    def _others(self, item: str, name: str, *, gradient: bool) -> Iterator[Row]:
        """JAX and CuPy, where they are; their streams are not PyTorch's, so that each call is waited for."""
        import peers

        w = workload(name, self._small)
        data = w.net, w.ensembles(2), w.x[0], w.y[0]
        makers: dict[str, Callable[[], Any]] = {"JAX jit": lambda: peers.jax_risk(*data, gradient=gradient)}
        if not gradient:
            makers["CuPy"] = lambda: peers.cupy_risk(*data)
        for peer, make in makers.items():
            try:
                call = make()
            except Exception as error:
                yield Row(item, f"{peer}, waited for", note=described(error))
                continue
            yield self._clock.row(item, f"{peer}, waited for", call, 3, waits=True)

    def update(self) -> Iterator[Row]:
        """The noisy step of B, on four ensembles in turn as ours."""
        import peers

        thetas = [self._put(t) for t in workload("B", self._small).ensembles(4)]
        point = thetas[0].mean(0)
        calls = [peers.torch_update(theta, point) for theta in thetas]
        yield self._clock.row("B update", "PyTorch eager", lambda i: calls[i % 4](i), 12)
        if not self._small:
            fast = self._torch.compile(lambda theta: peers.torch_update(theta, point)(0))
            yield self._clock.row("B update", "PyTorch compile", lambda i: fast(thetas[i % 4]), 12)

    def consensus(self) -> Iterator[Row]:
        """The point of B where all weights count."""
        thetas = [self._put(t) for t in workload("B", self._small).ensembles(4)]
        risk = self._torch.rand(len(thetas[0]), dtype=self._torch.float64, device=self._device)
        point = lambda theta: self._torch.softmax(-risk, 0).float() @ theta  # noqa: E731
        yield from self._forms("B consensus, full read", point, lambda i: (thetas[i % 4],), 12)

    def step(self, name: str) -> Iterator[Row]:
        """Whole steps of CBO; B in tf32."""
        import peers

        w = workload(name, self._small)
        y = w.y.astype(np.int64) if w.net.outputs > 1 else w.y
        step = peers.torch_step(w.net, self._put(w.ensembles(1)[0]), self._put(w.x), self._put(y))
        with matmul_precision("high" if name == "B" else "highest"):
            yield from self._forms(f"{name} whole step", step, lambda i: (i % 10,), 10)


def steps(context: Any) -> Steps:
    try:
        import torch
    except ImportError as error:
        raise Skip(f"PyTorch is not here: {error}") from None
    if not context.rehearse and not torch.cuda.is_available():
        raise Skip("PyTorch finds no CUDA device")
    beside = Beside(context)
    table: dict[str, Step] = {
        "A step": lambda: beside.step("A"),
        "A risk": lambda: beside.risk("A", "float32"),
    }
    table |= {f"B risk {p}": lambda p=p: beside.risk("B", p) for p in PRECISIONS}
    table |= {"B update": beside.update, "B consensus": beside.consensus, "B step": lambda: beside.step("B")}
    table |= {f"{name} gradient": lambda n=name: beside.gradient(n) for name in ("C", "B", "A")}
    return table | {f"{name} risk": lambda n=name: beside.risk(n, "float32") for name in ("C", "At")}
