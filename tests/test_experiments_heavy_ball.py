"""Heavy balls: data, parameters, the files, and verdicts that can be NO."""

from __future__ import annotations

import csv

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels.experiments import EXPERIMENTS, Options, heavy_ball
from cbokernels.experiments._common import Curve

RUNS = heavy_ball.RUNS


def test_gaussians_are_centred_and_differ_in_scale():
    x, y = heavy_ball.gaussians(4000)
    assert x.shape == (4000, 40)
    assert set(y) == {-1.0, 1.0}
    assert abs(y.mean()) < 4 / 4000**0.5
    for label, scale in ((1.0, 1.8), (-1.0, 0.2)):
        values = x[y == label]
        assert abs(values.mean()) < 4 * scale / values.size**0.5
        assert values.std() == pytest.approx(scale, rel=4 / (2 * values.size) ** 0.5)
    np.testing.assert_array_equal(heavy_ball.gaussians(4000)[0], x)


def test_parameters_are_the_papers():
    ball, flow = heavy_ball.METHODS[heavy_ball.HEAVY], heavy_ball.METHODS[heavy_ball.FLOW]
    assert ball == cbk.HeavyBall(friction=0.2, temperature=0.0, dt=0.1)
    assert flow == cbk.GradientFlow(dt=0.1)
    assert {run.width for run in RUNS if run.problem == "sine"} == {20, 100, 800}
    assert {run.width for run in RUNS if run.problem == "Gaussians"} == {20, 100, 800}
    assert len({run.label for run in RUNS}) == len(RUNS)
    assert [run.epochs(1000) for run in (RUNS[0], RUNS[-1])] == [1000, 200]


def test_writes_its_files(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(heavy_ball, "HOT_STEPS", 3)
    findings = EXPERIMENTS["heavy-ball"](Options(epochs=6, seeds=2, out=tmp_path))
    assert "88/88" in capfd.readouterr().err  # two seeds of six runs of 6 steps and four of 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["heavy-ball.csv", "heavy-ball.png"]
    assert (tmp_path / "heavy-ball.png").read_bytes().startswith(b"\x89PNG")
    with open(tmp_path / "heavy-ball.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 88
    assert {row["curve"] for row in rows} == {run.label for run in RUNS}
    assert all((row["energy"] != "") == ("heavy ball" in row["curve"]) for row in rows)

    (row,) = (
        r for r in rows if r["curve"] == "Gaussians: heavy ball, n = 20" and r["seed"] + r["epoch"] == "12"
    )
    x, y = (a.astype(np.float32) for a in heavy_ball.gaussians(4000))
    net = cbk.TwoLayer(40, 20, 1)
    result = cbk.train(net, x[:2000], y[:2000], cbk.HeavyBall(), epochs=2, seed=1)
    assert float(row["time"]) == 0.2
    assert float(row["risk"]) == result.history["risk"][-1]
    assert float(row["energy"]) == result.history["energy"][-1]
    assert float(row["held_out"]) == cbk.risk(net, result.particles, x[2000:], y[2000:])[0]
    # theorems hold from the start, the law of the velocities and the risks at t = 100 do not
    assert [finding.agrees for finding in findings] == [None, None, True, True, None, True, False]


def verdicts(
    *, heavy=1e-3, flow=0.11, held_out=0.1, energy=None, dissipated=0.0, velocities=None, steps=1000
):
    curves = []
    for run in RUNS:
        epochs = np.arange(1, run.epochs(1000) + 1)
        risk = {heavy_ball.HEAVY: heavy, heavy_ball.FLOW: flow}[run.method]
        if callable(risk):
            risk = risk(run.width)
        own = np.full(len(epochs), 1.0) if energy is None else energy[: len(epochs)]
        history = {"epoch": epochs, "risk": np.full(len(epochs), risk), "energy": own}
        history["dissipated"] = np.full(len(epochs), dissipated) * epochs
        theta = np.zeros((1, 3 * run.width), np.float32)
        result = cbk.Result(theta[0], theta, history, cbk.TwoLayer(1, run.width, 1))
        curves.append(Curve(run.label, 3 * [result], {"held_out": 3 * [np.full(len(epochs), held_out)]}))
    if velocities is None:
        velocities = np.random.default_rng(0).standard_normal(100_000)
    return [row.agrees for row in heavy_ball.findings(curves, velocities, 1.0, steps)]


def test_verdicts_can_be_no():
    assert verdicts() == [True] * 7
    assert verdicts(heavy=0.01)[0] is False
    assert verdicts(flow=0.01)[1] is False
    assert verdicts(held_out=0.9)[4] is False
    assert verdicts(heavy=lambda width: 1e-3 * width / 100)[5] is False
    assert verdicts(velocities=np.random.default_rng(0).standard_normal(100_000) * 1.05)[6] is False
    assert verdicts(velocities=np.random.default_rng(0).uniform(-(3**0.5), 3**0.5, 100_000))[6] is False
    assert verdicts(steps=10) == [None, None, True, True, None, True, True]


def test_energy_that_rises_or_leaks_is_seen():
    energy = np.exp(-np.arange(1000) / 100)
    assert verdicts(energy=energy)[2:4] == [True, False]  # falls, but nothing was dissipated
    energy[5] *= 1 + 1e-4
    energy[6] = energy[5] * (1 + 1e-5)
    assert verdicts(energy=energy)[2] is False
    linear = 1 - 1e-3 * np.arange(1000)
    assert verdicts(energy=linear, dissipated=1e-3)[2:4] == [True, True]
    assert verdicts(energy=linear, dissipated=1.1e-3)[3] is False
