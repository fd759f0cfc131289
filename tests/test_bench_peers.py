"""The benchmarks against peers compare like with like: their workloads in small, NumPy and the library."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import cbokernels as cbk

PEERS = Path(__file__).parents[1] / "bench" / "peers"
pytestmark = pytest.mark.skipif(not PEERS.is_dir(), reason="a source distribution has no benchmarks")

SMALL = {  # N, M, d, C, samples, activation, ensembles, batches, density
    "A": (5, 7, 1, 1, 33, "relu", 2, 2, 1.0),
    "At": (5, 7, 1, 1, 33, "tanh", 2, 2, 1.0),
    "B": (6, 3, 17, 4, 40, "relu", 2, 2, 0.19),
    "B dense": (6, 3, 17, 4, 40, "relu", 2, 2, 1.0),
    "C": (4, 31, 5, 1, 21, "tanh", 2, 1, 1.0),
}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(PEERS))
    shapes = importlib.import_module("workloads").SHAPES
    assert shapes.keys() == SMALL.keys()
    for name, shape in SMALL.items():
        monkeypatch.setitem(shapes, name, shape)
    return importlib.import_module


@pytest.mark.parametrize("workload", SMALL)
def test_numpy_peers_compute_the_references_risks_and_gradients(module: Any, workload: str) -> None:
    numpy_: ModuleType = module("numpy_")
    work = module("workloads").workload(workload)
    net = cbk.TwoLayer(work.inputs, work.width, work.outputs, activation=work.activation)
    x, y = work.batch()
    theta, x = work.thetas[0].astype(float), x.astype(float)
    loss = "cross_entropy" if work.outputs > 1 else "mse"
    risk, gradient = cbk.reference.risk_gradient(net, theta, x, y, loss=loss)
    np.testing.assert_allclose(numpy_.risks(work, theta, x, y), risk, rtol=1e-12)
    both = numpy_.gradients(work, theta, x, y)
    np.testing.assert_allclose(both[0], risk, rtol=1e-12)
    np.testing.assert_allclose(both[1], gradient, atol=1e-14)
    if work.outputs > 1:
        np.testing.assert_allclose(numpy_.product(work, theta, x, y), risk, rtol=1e-12)


def test_contestants_do_what_the_item_says(module: Any) -> None:
    run, workers = module("run"), module("workers")
    for item in module("workloads").ITEMS:
        if item.kind == "assign":
            continue
        truth, rows = module("numpy_").truth(item, 3), None if item.kind == "consensus" else 3
        for peer in ("numpy_", "ours"):
            for name, contestant in module(peer).contestants(item, 1).items():
                result = contestant.check() if contestant.check else contestant.call(0)
                if item.kind == "step":
                    assert np.isfinite(result).all()
                    continue
                found = [a[:rows] for a in workers.arrays(result)]
                assert run.largest_error(found, truth) < 2e-6, (item.name, name)


def test_verdicts_divide_the_best_peers_median_by_ours(module: Any) -> None:
    report, workloads = module("report"), module("workloads")
    item = next(item for item in workloads.ITEMS if item.name == "A risk")
    rows = [
        report.Row("cbokernels", [1.0, 2.0, 9.0], error=1e-9, memory=17.0, share=0.9),
        report.Row("NumPy loop", [200.0, 100.0, 190.0]),
        report.Row("PyTorch compile", [6.0]),
        report.Row("PyTorch compile, malloc tuned", [5.0]),
        report.Row("numba", [1.0]),
    ]
    found = {v.what: (v.measured, v.reached) for v in report.verdicts(item, rows)}
    assert found == {
        "as fast as NumPy loop": (95.0, True),
        "as fast as PyTorch compile, malloc tuned": (2.5, False),
        "share of the multiply-add rate": (0.9, True),
        "MB above inputs and outputs": (17.0, False),
    }
    text = report.markdown({"threads": "2"}, {item.name: rows}, report.verdicts(item, rows))
    assert "| A risk | NumPy loop | 190 | 145-195 | 95.0 |  |  |  |" in text.splitlines()
