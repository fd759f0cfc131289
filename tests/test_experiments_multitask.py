"""A hundred tasks: the paper's data and parameters, the files, and verdicts that can be NO."""

from __future__ import annotations

import csv

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels.experiments import EXPERIMENTS, Options, multitask
from cbokernels.experiments._common import Curve


def test_data_are_the_papers():
    x, ys = multitask.samples()
    assert x.shape == (8000, 1)
    assert ys.shape == (100, 8000)
    for p in (1, 2, 50, 100):
        shift = -1 + 2 * (p - 1) / 99
        np.testing.assert_allclose(ys[p - 1], np.sin(2 * np.pi * x[:, 0]) + shift, rtol=0, atol=1e-14)


def test_parameters_are_the_papers():
    method = multitask.METHOD
    assert method == cbk.MultiTaskCBO()
    assert (method.particles, method.dt, method.drift) == (200, 0.2, 1.0)
    assert method.diffusion**2 == pytest.approx(1.8)
    assert [method.alpha(epoch, 1000) for epoch in (0, 99, 100, 200, 300, 999)] == [
        1e4, 1e4, 1e5, 1e6, 1e7, 1e7,
    ]  # fmt: skip
    assert cbk.TwoLayer(1, 100, 1, activation="relu", scaling="mean") == multitask.NET
    assert multitask.BATCH == 800


def test_writes_its_files(tmp_path, capfd):
    findings = EXPERIMENTS["multitask"](Options(epochs=3, seeds=2, out=tmp_path))
    assert "6/6" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["multitask.csv", "multitask.png"]
    assert (tmp_path / "multitask.png").read_bytes().startswith(b"\x89PNG")
    with open(tmp_path / "multitask.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["epoch"]) for row in rows] == [(s, e) for s in "01" for e in "123"]
    x, ys = multitask.samples()
    again = cbk.train(multitask.NET, x, ys, cbk.MultiTaskCBO(), epochs=3, batch_size=800, seed=1)
    risks = np.sort(again.history["risk"][-1])
    assert float(rows[-1]["risk_min"]) == risks[0]
    assert float(rows[-1]["risk_median"]) == (risks[49] + risks[50]) / 2
    assert float(rows[-1]["risk_max"]) == risks[99]
    assert all(np.isfinite(float(value)) for row in rows for name, value in row.items() if name != "curve")
    assert [finding.agrees for finding in findings] == [None, None, None]


def curve(*risks):
    """Runs whose risks are the same for every task and epoch, and whose outputs are 0."""
    made = Curve("made up")
    theta = np.zeros((100, multitask.NET.size), np.float32)
    for risk in risks:
        history = {"epoch": np.arange(1, 301), "risk": np.full((300, 100), risk)}
        made.results.append(cbk.Result(theta, theta, history, multitask.NET))
    multitask.summarise(made)
    return made


def test_verdicts_can_be_no():
    def verdicts(made, epochs=300):
        return [row.agrees for row in multitask.findings(made, epochs)]

    # the zero function fits no sine, whatever the risks say
    assert verdicts(curve(8e-4, 1e-3, 0.5)) == [True, True, False]
    assert verdicts(curve(1e-2, 1e-2, 1e-2)) == [False, False, False]
    assert verdicts(curve(1e-5, 1e-5, 1e-5)) == [False, True, False]
    assert verdicts(curve(1e-2)) == [None, None, None]  # one seed does not tell
    assert verdicts(curve(8e-4), epochs=9) == [None, None, None]


def test_typical_run_is_that_of_the_median_risk():
    made = curve(3e-3, 1e-3, 2e-3)
    assert made.typical("risk_median") is made.results[2]
