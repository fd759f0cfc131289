"""The experiments with networks as measures: their parameters, their files, verdicts that can be NO."""

from __future__ import annotations

import csv

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels.experiments import EXPERIMENTS, Options, _measures, mean_field, square
from cbokernels.experiments._common import Curve


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_square_data_and_parameters_are_the_papers():
    x, y = square.samples()
    assert x.shape == (5000, 1)
    assert 0 <= x.min() < 0.001 < 0.999 < x.max() <= 1
    noise = y - x[:, 0] ** 2
    assert noise.std() == pytest.approx(0.01, rel=0.05)
    assert abs(noise.mean()) < 5e-4
    assert cbk.TransportCBO() == square.METHOD
    assert square.WIDTHS == (10, 50, 100, 200)
    assert (square.BATCH, square.RANGE) == (2500, 2.0)
    assert square.network(50) == cbk.TwoLayer(1, 50, 1, activation="relu", scaling="mean")


def test_square_writes_its_files(tmp_path, capfd):
    findings = EXPERIMENTS["square"](Options(epochs=2, seeds=2, out=tmp_path))
    assert "16/16" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["square.csv", "square.png"]
    assert (tmp_path / "square.png").read_bytes().startswith(b"\x89PNG")
    rows = read(tmp_path / "square.csv")
    assert len(rows) == 4 * 2 * 2
    assert list(dict.fromkeys(row["curve"] for row in rows)) == ["M = 10", "M = 50", "M = 100", "M = 200"]
    assert list(rows[0])[-3:] == ["objective", "wasserstein_variance", "moved"]
    x, y = square.samples()
    net = square.network(10)
    theta = net.uniform(100, -2.0, 2.0, seed=1)
    again = cbk.train(net, x, y, square.METHOD, epochs=2, batch_size=2500, seed=1, theta=theta)
    assert [float(row["risk"]) for row in rows[2:4]] == again.history["risk"].tolist()
    assert {finding.agrees for finding in findings} == {None}


def made_up(label, seeds=3, epochs=1, **columns):
    """Runs whose columns hold the given values: one for all rows, or one for each."""
    curve = Curve(label, seconds=2.0)
    for _ in range(seeds):
        history = {"epoch": np.arange(1, epochs + 1)}
        history |= {name: np.broadcast_to(value, epochs).astype(float) for name, value in columns.items()}
        curve.results.append(cbk.Result(np.zeros(3), np.zeros((2, 3)), history))
    return curve


def test_verdicts_of_the_square_can_be_no():
    def verdicts(*risks, ess=1.0, epochs=600, seeds=3):
        curves = [
            made_up(square.label(m), seeds, epochs, risk=risk, ess=ess)
            for m, risk in zip(square.WIDTHS, risks, strict=True)
        ]
        return [row.agrees for row in square.findings(curves, epochs)]

    assert verdicts(4e-4, 3e-4, 2e-4, 2e-4) == [True] * 5
    assert verdicts(2e-3, 9e-4, 8e-4, 3e-3, ess=25.0) == [False] * 5
    assert verdicts(4e-4, 3e-4, 2e-4, 2e-4, epochs=100) == [None] * 5
    assert verdicts(4e-4, 3e-4, 2e-4, 2e-4, seeds=2) == [None] * 4 + [True]


def test_shuffled_networks_are_the_same_functions():
    net = square.network(9)
    theta = net.uniform(5, seed=3, dtype="float64")
    other = _measures.shuffled(net, theta, 1)
    assert abs(other - theta).max() > 0.1
    x, y = square.samples(50)
    np.testing.assert_allclose(cbk.risk(net, other, x, y), cbk.risk(net, theta, x, y), rtol=1e-12)
    assert cbk.wasserstein_over_wasserstein(net.atoms(other), net.atoms(theta)) < 1e-25


def test_random_measures_are_nested_behind_the_best():
    large, small = _measures.random_measures(12, 16, 4), _measures.random_measures(12, 8, 4)
    order = [int(np.abs(large[:, :8] - atoms).max(axis=(1, 2)).argmin()) for atoms in small]
    np.testing.assert_array_equal(large[order, :8], small)
    assert sorted(order) == list(range(12))
    net = square.network(16)
    assert cbk.risk(net, net.from_atoms(large), *square.samples(1000)).argmin() == 0


def test_consensus_of_aligned_networks_is_either():
    """Where all neurons stand in one order the barycenter is the plain average, and both risks agree."""
    net = square.network(4)
    draw = np.random.default_rng(2)
    corners = 10.0 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    theta = net.from_atoms(corners + 0.1 * draw.standard_normal((8, 4, 3)))
    x, y = square.samples(30)
    aligned = _measures.consensus_risks(net, theta, x, y)
    mixed = _measures.consensus_risks(net, _measures.shuffled(net, theta, 5), x, y)
    for share in _measures.SHARES:
        assert aligned[f"barycenter_{share}"] == pytest.approx(aligned[f"average_{share}"], rel=1e-9)
        assert mixed[f"barycenter_{share}"] == pytest.approx(aligned[f"barycenter_{share}"], rel=1e-9)
        assert abs(mixed[f"average_{share}"] - aligned[f"average_{share}"]) > 1e-3


def test_mean_field_methods_differ_in_the_consensus_only():
    transport, plain = (_measures.method(name, 0.5) for name in (_measures.TRANSPORT, _measures.PLAIN))
    assert isinstance(transport, cbk.TransportCBO)
    assert isinstance(plain, cbk.CBO)
    assert plain.noise == "additive"
    for name in ("particles", "alpha", "drift", "diffusion", "dt"):
        assert getattr(transport, name) == getattr(plain, name)
    assert transport.alpha == cbk.TargetEss(0.25)


def test_mean_field_writes_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(_measures, "NUMBERS", (4, 8, 16))
    monkeypatch.setattr(_measures, "NEURONS", (4, 8, 16))
    findings = EXPERIMENTS["mean-field"](Options(epochs=3, seeds=1, out=tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mean-field.csv", "mean-field.png"]
    assert (tmp_path / "mean-field.png").read_bytes().startswith(b"\x89PNG")
    rows = read(tmp_path / "mean-field.csv")
    of = {label: [row for row in rows if row["curve"] == label] for label in {row["curve"] for row in rows}}
    assert [row["size"] for row in of["N to 2N"]] == ["4", "8"]
    assert all(float(row["consensus_distance"]) > 0 for row in of["N to 2N"] + of["M to 2M"])
    decay = [float(row["of_bound"]) for row in of["V, N = 20, M = 10"]]
    assert decay[0] == 1
    assert max(decay) <= 1 + 1e-7
    of_used, anew = (np.array([float(r[n]) for r in of["V, N = 20, M = 10"]]) for n in _measures.VARIANCES)
    assert (anew <= of_used * (1 + 1e-12)).all()
    assert float(of["transport from U[-2, 2]"][2]["average_4"]) > 0
    assert [finding.agrees for finding in findings] == [True, True, True] + [None] * 7


def test_verdicts_of_mean_field_can_be_no():
    def verdicts(factor, kept, exponents, ratio, epochs=300):
        values = factor ** np.arange(40.0)
        columns = {**dict.fromkeys(_measures.VARIANCES, values), "variance": np.linspace(1, kept, 40)}
        size = np.array([8.0, 16.0, 32.0])
        distances = dict(
            zip(("consensus_distance", "ensemble_distance"), (size**e for e in exponents), strict=True)
        )
        risks = {f"{kind}_4": value for kind, value in (("barycenter", 1e-3), ("average", ratio * 1e-3))}
        labels = [*mean_field.SCRATCH, *mean_field.SHUFFLED]
        curves = [
            *(made_up(label, epochs=40, **columns) for label in mean_field.CONTRACTIONS),
            *(made_up(label, epochs=3, size=size, **distances) for label in mean_field.GROWTHS),
            *(
                made_up(label, risk=1e-3 if i % 2 == 0 else ratio * 1e-3, **risks)
                for i, label in enumerate(labels)
            ),
        ]
        return [row.agrees for row in mean_field.findings(curves, epochs)]

    assert verdicts(0.81, 0.9, (-0.4, -0.3), 20) == [True] * 10
    assert verdicts(0.86, 0.4, (0.0, -0.1), 2) == [False] * 10
    assert verdicts(0.81, 0.9, (-0.4, -0.3), 20, epochs=100) == [True] * 7 + [None] * 3
