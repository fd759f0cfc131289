"""Networks without a gradient: the data, the runs, the files, the estimator, and verdicts that can be NO."""

from __future__ import annotations

import csv

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels import reference
from cbokernels.experiments import EXPERIMENTS, Options, binary
from cbokernels.experiments._common import Curve, OptionError
from cbokernels.experiments._straight_through import StraightThrough, gradient
from cbokernels.methods.rounding import network_bytes


def made(samples, features, classes):
    """What scikit-learn's loaders give, of the same kind and easier."""

    def load(return_X_y):
        rng = np.random.default_rng(features)
        labels = rng.integers(0, classes, samples)
        return 4 * rng.normal(size=(classes, features))[labels] + rng.normal(size=(samples, features)), labels

    return load


class Loaders:
    load_digits, load_breast_cancer, load_wine = made(300, 64, 10), made(200, 30, 2), made(100, 13, 3)


@pytest.fixture
def sets(monkeypatch):
    """Easy data in the place of scikit-learn's, which need not be installed."""
    extra = binary.extra
    monkeypatch.setattr(
        binary, "extra", lambda module, *more: Loaders if "sklearn" in module else extra(module, *more)
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": "rank"}, "weights of each kind already"),
        ({"window": -1}, r"window must lie in \[0, inf\), got -1"),
        ({"window": "abc"}, "window must be a real number, got 'abc'"),
    ],
)
def test_what_no_run_takes(tmp_path, sets, changes, words):
    with pytest.raises(OptionError, match=words):
        EXPERIMENTS["binary"](Options(epochs=1, data=tmp_path, out=tmp_path, changes=changes))


def test_the_estimator_trains_one_network(tmp_path, sets):
    methods = {"estimator": StraightThrough(), "hopping": cbk.ConsensusHopping()}
    changed = Options(changes={"particles": 8}).changed(methods)
    assert (changed["estimator"].particles, changed["hopping"].particles) == (1, 8)


def test_writes_its_files(tmp_path, sets, capfd):
    findings = EXPERIMENTS["binary"](Options(epochs=3, seeds=2, data=tmp_path, out=tmp_path))
    assert "162/162" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["binary.csv", "binary.png"]
    assert (tmp_path / "binary.png").read_bytes().startswith(b"\x89PNG")
    with open(tmp_path / "binary.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 27 * 2 * 3
    names = ("digits of 8 x 8", "breast cancer", "wine")
    assert list(dict.fromkeys(row["curve"] for row in rows))[:3] == [
        f"{names[0]}: relu, floats, Adam",
        f"{names[0]}: sign, floats, hopping",
        f"{names[0]}: sign, floats, straight-through",
    ]
    # two verdicts need three seeds and all epochs
    assert [finding.agrees for finding in findings] == [None] * 12
    size = 13 * 20 // 4 + 3 * 20 // 4 + 4 * (20 + 2)
    (row,) = (
        row
        for row in rows
        if row["curve"] == "wine: sign, ternary, hopping" and (row["seed"], row["epoch"]) == ("1", "3")
    )
    assert int(row["bytes"]) == size
    assert f"{size:,} bytes" in findings[-1].measured

    sample = binary.load(Options(data=tmp_path))["wine"]
    learnt, held_out = sample.parts(1)
    assert (learnt.sum(), held_out.sum()) == (80, 20)
    method = cbk.ConsensusHopping(
        weights="ternary", scope="atom", spread=cbk.Exponential(0.3, 0.1), lr=cbk.Exponential(0.1, 0.001)
    )
    net = cbk.TwoLayer(13, 20, 3, "sign", "none")
    again = cbk.train(
        net, sample.x[learnt], sample.y[learnt], method, epochs=3, batch_size=20, seed=1, weight_decay=0.1
    )
    right = again.predict(sample.x[held_out]).argmax(axis=1) == sample.y[held_out]
    assert float(row["validation_accuracy"]) == pytest.approx(right.mean())


def test_quick(tmp_path, sets):
    EXPERIMENTS["binary"](Options(quick=True, data=tmp_path, out=tmp_path))
    with open(tmp_path / "binary.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 27 * 6
    last = {row["curve"]: float(row["accuracy"]) for row in rows}
    assert min(last.values()) > 0.3  # ten classes, three, and two


def test_every_seed_holds_out_another_fifth(sets, tmp_path):
    sample = binary.load(Options(data=tmp_path))["breast cancer"]
    first, second = (sample.parts(seed)[1] for seed in (0, 1))
    assert (first != second).any()
    assert (sample.parts(0)[0] == ~first).all()
    np.testing.assert_allclose(sample.x.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(sample.x.std(axis=0), 1, atol=1e-5)


def test_without_scikit_learn(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(
        ImportError, match=r"reproduce binary needs sklearn: pip install 'cbokernels\[sklearn\]'"
    ):
        EXPERIMENTS["binary"](Options(data=tmp_path, out=tmp_path))


def test_only_on_the_cpu(monkeypatch, tmp_path):
    monkeypatch.setattr(binary, "check_device", lambda device: None)
    with pytest.raises(OptionError, match="--device must be cpu for binary"):
        EXPERIMENTS["binary"](Options(device="cuda", data=tmp_path, out=tmp_path))


def test_verdicts_can_be_no():
    sample = binary.Samples(np.zeros((500, 4), np.float32), np.arange(500) % 2, 50, 60)

    def verdict(hopping, estimator, seeds=3, epochs=60):
        curves = {}
        for run, correct in zip(
            (binary.Run("made up", "relu", None, "Adam"),
             *(binary.Run("made up", "sign", "int8", who) for who in ("hopping", "straight-through"))),
            (0.99, hopping, estimator),
            strict=True,
        ):  # fmt: skip
            history = {"epoch": np.arange(1, epochs + 1), "validation_accuracy": np.full(epochs, correct)}
            history["seconds"] = history["bytes"] = history["epoch"]
            result = cbk.Result(np.zeros(3), np.zeros((1, 3)), history)
            curves[run] = Curve(run.label, seeds * [result])
        (finding,) = binary.findings(curves, {"made up": sample})
        return finding.agrees, finding.measured.partition(":")[0]

    assert verdict(0.89, 0.9) == (True, "level")  # 100 held out: one standard error is 3 points
    assert verdict(0.86, 0.9) == (False, "behind")
    assert verdict(0.94, 0.9) == (True, "ahead")
    assert verdict(0.86, 0.9, seeds=2) == (None, "behind")
    assert verdict(0.9, 0.9, epochs=59) == (None, "level")


@pytest.mark.parametrize("weights", [None, "ternary", "int8"])
@pytest.mark.parametrize("activation", ["relu", "sign", "step"])
def test_the_estimator_moves_as_it_says(activation, weights):
    """One step of it, with derivatives of 1 put in by hand."""
    net = cbk.TwoLayer(4, 6, 3, activation, "none")
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(20, 4)), rng.integers(0, 3, 20)
    start = net.uniform(1, seed=1, dtype="float64")
    method = StraightThrough(lr=0.01, weights=weights)
    result = cbk.train(net, x, y, method, epochs=1, dtype="float64", theta=start)
    theta = start[0] if weights is None else reference.rounded(net, start[0], weights)
    w, b, c, _ = net.unpack(theta)
    grad = np.zeros(net.size)
    to_w, to_b, to_c, _ = net.unpack(grad)
    for row, label in zip(x, y, strict=True):
        z = w @ row + b
        hidden = {"relu": np.maximum(z, 0), "sign": np.where(z < 0, -1, 1), "step": np.where(z < 0, 0, 1)}
        slope = {"relu": z > 0}.get(activation, np.abs(z) <= 1)
        out = c @ hidden[activation]
        error = np.exp(out) / np.exp(out).sum() - np.eye(3)[label]
        to_c += np.outer(error, hidden[activation]) / 20
        to_w += np.outer((error @ c) * slope, row) / 20
        to_b += (error @ c) * slope / 20
    np.testing.assert_allclose(gradient(net, theta, x, y, 1.0), grad, rtol=1e-10, atol=1e-14)
    moved = start[0] - 0.01 * grad / (np.abs(grad) + 1e-8)
    np.testing.assert_allclose(result.particles[0], moved, rtol=1e-9)
    told = moved if weights is None else reference.rounded(net, moved, weights)
    np.testing.assert_allclose(result.parameters, told, rtol=1e-9, atol=1e-12)


def test_bytes_of_networks():
    net = cbk.TwoLayer(784, 20, 10, "sign", "none")
    assert network_bytes(net, None) == 4 * net.size
    assert network_bytes(net, "ternary") < network_bytes(net, None) / 15
