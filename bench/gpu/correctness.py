"""What must hold to the last bit or to a bound: noise, updates, particles of NaN, precision, square roots."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from arrays import array
from calls import numbers
from items import PRECISIONS, Workload, workload
from record import Row, Skip, Steps

import cbokernels as cbk
from cbokernels import _cpu, reference

# of a risk, relative: what rounding the factors of both layers to 24, 11 and 8 bits may cost on average
BOUND = {"float64": 1e-12, "float32": 1e-6, "tf32": 8e-3, "bf16": 3.5e-2}
BAD = {"NaN": np.nan, "infinity": np.inf, "3e38": 3e38}


class Checks:
    """On one library's arrays."""

    def __init__(self, library: Any, small: bool) -> None:
        self._library, self._small = library, small
        self._module = cbk.cuda.module()

    def noise(self) -> Iterator[Row]:
        """Millions of normals in both types."""
        side, every = 128 if self._small else 8192, []
        for dtype in ("float32", "float64"):
            out = self._library.put(np.empty((side, side), dtype))
            key = 2**64 - 1, 0, 1, 0
            self._module.standard_normal(array(out), key, (0, 0, "float32"))
            expected = cbk.standard_normal(side, side, seed=2**64 - 1, step=1, dtype=dtype)
            every.append(self._same("noise", dtype, self._library.host(out), expected))
            yield every[-1]
        yield self._all("noise", "all", every)

    def _same(self, item: str, what: str, result: np.ndarray, expected: np.ndarray) -> Row:
        bits = f"u{result.itemsize}"
        different = int((np.ravel(result).view(bits) != np.ravel(expected).view(bits)).sum())
        note = f"of {result.size:,} numbers" if not different else f"of {result.size:,} numbers differ"
        return Row(item, what, different, note=note, ok=different == 0)

    def updates(self) -> Iterator[Row]:
        """Those whose rounding is fixed, of rows of any alignment."""
        put, every = self._library.put, []
        for size in (6, 37, 15_900):
            theta, point = numbers(5 if self._small else 64, size), numbers(size, seed=1)
            gradient, first, second = numbers(*theta.shape, seed=2), 0 * theta, 0 * theta
            atoms = theta[:, : size // 2 * 2].reshape(len(theta), -1, 2)[:, :500].copy()
            match = np.stack(
                [np.random.default_rng(n).permutation(atoms.shape[1]) for n in range(len(theta))]
            )
            calls: dict[str, tuple[str, list[np.ndarray], dict[str, Any]]] = {
                "cbo_update": ("cbo_update", [theta, point], {"step": 4}),
                "cbo_update, floor": ("cbo_update", [theta, point], {"floor": 0.3}),
                "cbo_update, additive": ("cbo_update", [theta, point], {"noise": "additive"}),
                "adam_update": ("adam_update", [theta, gradient, first, second], {}),
                "hybrid_update": ("hybrid_update", [theta, point, gradient, first, second], {"step": 2}),
                "transport_update": ("transport_update", [atoms, atoms[0], match], {"step": 4}),
            }
            for what, (name, arrays, keywords) in calls.items():
                keywords = keywords if name == "adam_update" else {**keywords, "seed": 3}
                function = getattr(cbk, name)
                result = function(*(put(a.copy()) for a in arrays), **keywords)
                expected = function(*(a.copy() for a in arrays), **keywords)
                every.append(
                    self._same("updates", f"{what}, D = {size}", self._library.host(result), expected)
                )
                yield every[-1]
        yield self._all("updates", "all", every)

    def _all(self, item: str, what: str, every: list[Row]) -> Row:
        failed = [row.what for row in every if not row.ok]
        told = [f"{len(every) - len(failed)} of {len(every)} checks hold", *failed]
        return Row(item, what, note="; ".join(told), ok=not failed)

    def poison(self) -> Iterator[Row]:
        """A bad particle beside good ones: theirs must be the bits they have without it."""
        every = []
        for engine, widths in self._engines():
            for precision in PRECISIONS if engine else ("float64", "float32"):
                for inputs in widths:
                    what = f"d = {inputs}, {precision}{engine}"
                    every.append(self._all("NaN", what, list(self._poisoned(inputs, precision))))
                    yield every[-1]
        yield self._all("NaN", "all", every)

    def _engines(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        wide = (17,) if self._small else (17, 40, 784)
        yield "", (1, 3)
        try:
            groups = self._module.testing.use_warp_groups(False)
            yield " by warps", wide
        finally:
            self._module.testing.use_warp_groups(True)
        if groups:
            yield " by warp groups", wide

    def _poisoned(self, inputs: int, precision: str) -> Iterator[Row]:
        dtype, keywords = precision, {}
        if precision != "float64":
            dtype, keywords = "float32", {"precision": precision}
        net = cbk.TwoLayer(inputs, 20, 2, "tanh")
        clean = numbers(4, net.size).astype(dtype)
        x, y = numbers(40, inputs, seed=1).astype(dtype), numbers(40, 2, seed=2).astype(dtype)
        calls: dict[str, Callable[[Any], Any]] = {
            "forward": lambda t: cbk.forward(net, t, on[0], **keywords),
            "risk": lambda t: cbk.risk(net, t, *on, **keywords),
            "risk_gradient": lambda t: cbk.risk_gradient(net, t, *on, **keywords)[1],
            "atom_risks": lambda t: cbk.atom_risks(net, center, t, *on),
        }
        on, center = [self._library.put(a) for a in (x, y)], self._library.put(clean[0])
        for what, call in calls.items():
            expected = self._library.host(call(self._library.put(clean)))
            for name, bad in BAD.items():
                theta = clean.copy()
                theta[1] = bad
                result = self._library.host(call(self._library.put(theta)))
                others = [np.delete(a, 1, 0) for a in (result, expected)]
                yield self._same("NaN", f"{what} beside {name}", *others)

    def precision(self) -> Iterator[Row]:
        """Risks beside the reference's, relative."""
        for engine, widths in self._engines():
            for name, particles in (("A", 8), ("At", 8), ("B", 4), ("C", 2)):
                work = workload(name, self._small)
                if (work.net.inputs >= 16) == (min(widths) >= 16):
                    for row in self._errors(work, particles):
                        row.item, row.what = f"{name} risk", f"error of {row.what}{engine}"
                        yield row

    def _errors(self, work: Workload, particles: int) -> Iterator[Row]:
        theta, x, y = work.ensembles(1)[0][:particles], work.x[0], work.y[0]
        expected = reference.risk(work.net, theta.astype(float), x.astype(float), y, loss=work.loss)
        for precision, bound in BOUND.items():
            dtype = "float64" if precision == "float64" else "float32"
            keywords = {} if precision == "float64" else {"precision": precision}
            labels = y if work.net.outputs > 1 else y.astype(dtype)
            on = [self._library.put(a) for a in (theta.astype(dtype), x.astype(dtype), labels)]
            result = self._library.host(cbk.risk(work.net, *on, loss=work.loss, **keywords))
            error = float(np.abs(result / expected - 1).max())
            yield Row("", precision, error, ok=error <= bound)

    def low_rank(self) -> Iterator[Row]:
        """Noise of low rank: the CPU's bits, and risks beside those of formed networks."""
        inputs, width, samples, draws = (30, 9, 12, 3) if self._small else (784, 100, 100, 20)
        net, key, every = cbk.TwoLayer(inputs, width, 10), (7, 0, 3, 0), []
        labels = np.random.default_rng(4).integers(0, 10, samples, np.int32)
        for dtype, bound in (("float64", 1e-10), ("float32", 1e-5)):
            x, center = numbers(samples, inputs, seed=1).astype(dtype), numbers(net.size).astype(dtype)
            weights = np.zeros((draws, width))
            weights[-1] = 1  # the sums are that draw's noise
            out = [self._library.put(np.empty(net.size)), np.empty(net.size)]
            on = [self._library.put(a) for a in (x, weights)]
            run, free = (0, 0, "float32"), (1, False, True)
            self._module.low_rank_drift(net._kernel, *map(array, on), key, *free, array(out[0]), run)
            _cpu.low_rank_drift(net._kernel, x, weights, key, *free, out[1], 1)
            every.append(self._same("low rank", f"noise, {dtype}", self._library.host(out[0]), out[1]))
            yield every[-1]
            for batch, atoms in itertools.product((False, True), repeat=2):
                xi = reference.hopping_noise(
                    net, draws, rank=1, batch=x if batch else None, seed=key[0], step=key[2]
                )
                theta = np.concatenate([center + 0.1 * xi, center - 0.1 * xi])
                options = {"loss": "cross_entropy"}
                expected = (
                    reference.atom_risks(net, center, theta, x, labels, **options)
                    if atoms
                    else reference.risk(net, theta, x, labels, **options)[:, None]
                )
                risks = self._library.put(np.empty_like(expected))
                c, *data = (array(self._library.put(a)) for a in (center, x, labels))
                how = ("cross_entropy", 1, batch, atoms, array(risks), run)
                self._module.low_rank_risks(net._kernel, c, 2 * draws, 0.1, True, key, *data, *how)
                error = float(np.abs(self._library.host(risks) / expected - 1).max())
                kind = f"{'span' if batch else 'free'}, {'atoms' if atoms else 'networks'}, {dtype}"
                every.append(Row("low rank", f"error of risks, {kind}", error, ok=error <= bound))
                yield every[-1]
        yield self._all("low rank", "all", every)

    def least_squares(self) -> Iterator[Row]:
        """Weights of pairs by least squares, beside the reference's."""
        inputs, width, samples, pairs = (30, 3, 12, 20) if self._small else (784, 100, 100, 100)
        net, key = cbk.TwoLayer(inputs, width, 10), (7, 0, 3, 0)
        risk = np.random.default_rng(5).normal(size=(2, pairs, width))
        risk[0, 7, 0] = np.nan
        for dtype, bound in (("float64", 1e-11), ("float32", 1e-4)):
            x = numbers(samples, inputs, seed=1).astype(dtype)
            for batch in (False, True):
                expected = reference.least_squares_weights(
                    net, risk.swapaxes(0, 1).reshape(2 * pairs, width), batch=x if batch else None,
                    seed=key[0], step=key[2],
                )  # fmt: skip
                weights, ess = self._library.put(np.empty_like(expected)), self._library.put(np.empty(width))
                on = [array(self._library.put(a)) for a in (x, risk.reshape(2 * pairs, width))]
                out, run = (array(weights), array(ess)), (0, 0, "float32")
                self._module.testing.weights_by_least_squares(net._kernel, *on, key, 1, batch, *out, run)
                error = float(np.abs(self._library.host(weights) - expected).max())
                kind = f"{'span' if batch else 'free'}, {dtype}"
                yield Row("least squares", f"error of weights, {kind}", error, ok=error <= bound)


def square_root(program: Path) -> Iterator[Row]:
    """The normals' own against the correctly rounded one, of every word."""
    if not program.exists():
        raise Skip(f"the program {program.name} of tests/cuda is not built")
    done = subprocess.run([str(program)], capture_output=True, text=True)
    said = " ".join((done.stdout + done.stderr).split())
    yield Row("square root", "every word", note=said[-200:], ok=done.returncode == 0)


def steps(context: Any) -> Steps:
    checks = Checks(context.arrays, context.rehearse)
    return {
        "noise": checks.noise,
        "updates": checks.updates,
        "NaN": checks.poison,
        "precision": checks.precision,
        "low rank": checks.low_rank,
        "least squares": checks.least_squares,
        "square root": lambda: square_root(context.program("roots")),
    }
