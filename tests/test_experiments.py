"""The sine: its data, its files, verdicts that can be NO; and what all experiments share."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels.experiments import EXPERIMENTS, Finding, Options, sine
from cbokernels.experiments._common import (
    Curve,
    duration,
    mark_clipped,
    new_figure,
    over,
    run_curves,
    save_figure,
    spread,
    table,
    within,
    write_csv,
)


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_sine_data_are_the_papers():
    x, y = sine.samples()
    assert x.shape == (8000, 1)
    assert y.shape == (8000,)
    assert 0 <= x.min() < 0.001 < 0.999 < x.max() <= 1
    noise = y - np.sin(2 * np.pi * x[:, 0])
    assert noise.std() == pytest.approx(0.01, rel=0.05)
    assert abs(noise.mean()) < 5e-4
    np.testing.assert_array_equal(sine.samples()[1], y)


def test_sine_parameters_are_the_papers():
    printed = sine.METHODS["CBO as printed"]
    assert printed == cbk.CBO()
    assert cbk.TwoLayer(1, 100, 1, activation="relu", scaling="mean") == sine.NET
    assert sine.BATCH == 800


def test_sine_parameters_of_the_others():
    assert sine.METHODS["Adam"] == cbk.Adam(lr=0.1, particles=1)
    assert sine.METHODS["consensus hopping"] == cbk.ConsensusHopping(particles=200)
    assert sine.METHODS["CBO, alpha = inf, noise floor"].alpha == np.inf
    assert sine.lengths(1000) == dict.fromkeys(sine.METHODS, 1000) | {"consensus hopping": 300}
    assert set(sine.lengths(250).values()) == {250}
    for label, method in sine.METHODS.items():
        assert sine.passes(method) == (3 if label == "Adam" else method.particles)


def test_sine_writes_its_files(tmp_path, capfd):
    findings = EXPERIMENTS["sine"](Options(epochs=6, seeds=2, out=tmp_path))
    assert "48/48" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sine.csv", "sine.png"]
    assert (tmp_path / "sine.png").read_bytes().startswith(b"\x89PNG")
    rows = read(tmp_path / "sine.csv")
    assert len(rows) == 4 * 2 * 6
    assert list(rows[0]) == [
        "curve",
        "seed",
        "epoch",
        "risk",
        "alpha",
        "ess",
        "variance",
        "seconds",
        "passes",
    ]
    assert list(dict.fromkeys(row["curve"] for row in rows)) == list(sine.METHODS)
    assert rows[6]["seed"] == "1"
    x, y = sine.samples()
    for start, method in zip((6, 30), (cbk.CBO(), cbk.Adam()), strict=True):
        again = cbk.train(sine.NET, x, y, method, epochs=6, batch_size=800, seed=1)
        assert [float(row["risk"]) for row in rows[start : start + 6]] == again.history["risk"].tolist()
    assert [row["passes"] for row in (rows[5], rows[35])] == ["1200", "18"]
    assert {finding.agrees for finding in findings} == {None}  # two runs, too short


def curve(risks, *, variance=1.0):
    """Runs whose risk is constant, one per given value."""
    made = Curve("made up", seconds=2.0)
    for risk in risks:
        history = {
            "epoch": np.arange(1, 1001),
            "risk": np.full(1000, risk),
            "variance": np.full(1000, variance),
        }
        theta = np.zeros((4, sine.NET.size), np.float32)
        made.results.append(cbk.Result(theta[0], theta, history, sine.NET))
    return made


def test_verdicts_of_the_sine_can_be_no():
    def verdicts(*risks, epochs=1000):
        return [row.agrees for row in sine.findings([curve(own) for own in risks], epochs)]

    good = verdicts([1e-2, 1.2e-2, 0.9], [1e-4, 3e-4, 0.9], [3e-4, 2e-3, 0.1], [1.2e-4, 1.3e-4, 2e-4])
    assert good == [True, True, True, False, True, True]  # a zero network fits nothing
    bad = verdicts([0.2, 0.3, 0.3], [1e-3, 2e-3, 2e-3], [1e-2, 1e-2, 1e-4], [1.6e-4, 1.6e-4, 1e-4])
    assert bad == [False, True, False, False, False, False]
    assert verdicts([1.0], [1.0], [1.0], [1.0], epochs=5) == [None] * 6


def test_the_typical_run_is_the_median():
    made = curve([5.0, 1.0, 3.0, 2.0])
    assert made.typical().history["risk"][-1] == 2.0
    np.testing.assert_array_equal(made.at("risk", 300), [5.0, 1.0, 3.0, 2.0])
    assert spread(made.at("risk", -1)) == "2.5 (1 to 5)"
    assert spread(np.array([0.12345])) == "0.12"


def test_csv_has_one_number_per_cell(tmp_path):
    """Columns of more axes are left out unless reduced; a column that a curve lacks is empty for it."""
    theta = np.zeros((1, sine.NET.size), np.float32)
    histories = [
        {"epoch": np.arange(1, 4), "risk": np.array([3.0, 2.0, 1.0])},
        {"epoch": np.arange(1, 3), "risk": np.array([[1.0, 5.0], [2.0, 9.0]])},
    ]
    curves = [Curve(name, [cbk.Result(theta[0], theta, h)]) for name, h in zip("ab", histories, strict=True)]
    curves[1].reduce("greatest", np.max, "risk")
    write_csv(tmp_path / "a.csv", curves)
    assert (tmp_path / "a.csv").read_text().split() == [
        "curve,seed,epoch,risk,greatest", "a,0,1,3.0,", "a,0,2,2.0,", "a,0,3,1.0,", "b,0,1,,5.0",
        "b,0,2,,9.0",
    ]  # fmt: skip


def test_runs_of_different_lengths_share_a_bar(capfd):
    seen = []

    def run(label, seed, callback):
        seen.append((label, seed))
        epochs = {"long": 3, "short": 1}[label]
        return cbk.minimize(
            lambda theta: (theta**2).sum(axis=1), np.ones((4, 2)), cbk.CBO(), steps=epochs, callback=callback
        )

    curves = run_curves(["long", "short"], 2, {"long": 3, "short": 1}, run)
    assert seen == [("long", 0), ("long", 1), ("short", 0), ("short", 1)]
    assert [curve.history("risk").shape for curve in curves] == [(2, 3), (2, 1)]
    assert "8/8" in capfd.readouterr().err


def shrink(label, seed, callback):
    """A run of one step that only `last` does not survive."""
    if label == "last":
        raise KeyboardInterrupt
    return cbk.minimize(
        lambda theta: (theta**2).sum(axis=1), np.ones((4, 2)), cbk.CBO(), steps=1, callback=callback
    )


@pytest.mark.parametrize("abreast", [1, 2])
def test_what_ends_early_leaves_its_whole_curves(tmp_path, abreast):
    path = tmp_path / "kept.csv"
    with pytest.raises(KeyboardInterrupt):
        run_curves(["first", "second", "last"], 2, 1, shrink, abreast=abreast, keep=path)
    assert [(row["curve"], row["seed"]) for row in read(path)] == [
        ("first", "0"), ("first", "1"), ("second", "0"), ("second", "1"),
    ]  # fmt: skip


def test_few_seeds_do_not_say_no():
    assert curve([1.0, 1.0]).finding("", "", False).agrees is None
    assert curve([1.0, 1.0, 1.0]).finding("", "", False).agrees is False
    assert curve([1.0]).finding("", "", True).agrees is True


def test_titles_say_how_many_seeds():
    assert over([curve([1.0])]) == "1 seed"
    assert over([curve([1.0] * 5)]) == "median and range of 5 seeds"


def test_lines_that_leave_the_axes_are_marked():
    _, axes = new_figure(1)
    axes[0].plot([0, 1, 2, 3, 4], [0, 5, 6, 0, -7], color="red")
    axes[0].set(xlim=(0, 4), ylim=(-1, 1))
    mark_clipped(axes[0])
    up, down = axes[0].get_lines()[1:]
    assert (up.get_marker(), up.get_xdata().tolist(), up.get_ydata().tolist()) == ("^", [1], [1])
    assert (down.get_marker(), down.get_xdata().tolist(), down.get_ydata().tolist()) == ("v", [4], [-1])
    assert {up.get_color(), down.get_color()} == {"red"}


@pytest.mark.parametrize(("low", "high"), [(0.47, 0.49), (0.26, 0.53), (0.05, 0.4), (0.011, 0.19), (1e-4, 1)])
def test_no_label_is_cut(tmp_path, low, high):
    figure, axes = new_figure(4)
    for ax in axes:
        ax.plot([0, 1], [low, high])
        ax.set(yscale="log", ylabel="risk")
    save_figure(tmp_path / "a.png", figure, [curve([1.0])])
    for ax in axes:
        bottom, top = ax.get_ylim()
        shown = [text for text in ax.get_yticklabels(which="both") if text.get_text()]
        assert sum(bottom <= text.get_position()[1] <= top for text in shown) >= 2
        assert ax.yaxis.label.get_window_extent().x0 >= 0
    right, left = axes[1].yaxis.label.get_window_extent(), axes[0].get_window_extent()
    assert right.x0 > left.x1  # nor does it lie on the panel beside it


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.01, "1 s"), (89, "89 s"), (200, "3 min"), (7200, "2.0 h"), (5399, "90 min")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_within():
    assert within(2.0, 1.0, 2.0)
    assert within(0.5, 1.0, 2.0)
    assert not within(2.1, 1.0, 2.0)
    assert not within(float("nan"), 1.0, 2.0)


def test_table():
    rows = [
        Finding("a long expectation", "1", True, 1.26),
        Finding("b", "2.5", False, 10),
        Finding("c", "-", None, 0),
    ]
    lines = table(rows).splitlines()
    assert lines[0].split() == ["expected", "measured", "agrees", "seconds"]
    assert re.fullmatch(r"a long expectation +1 +yes +1.3", lines[2])
    assert re.fullmatch(r"b +2.5 +NO +10.0", lines[3])
    assert re.fullmatch(r"c +- +too little to tell +0.0", lines[4])
    assert (
        len({line.index(verdict) for line, verdict in zip(lines[2:], ("yes", "NO", "too"), strict=True)}) == 1
    )


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.skipif(cbk.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_comes_before_everything(tmp_path, name):
    with pytest.raises(cbk.CudaUnavailableError):
        EXPERIMENTS[name](Options(device="cuda", data=tmp_path, out=tmp_path))
