"""MNIST: the paper's parameters, the files read and written, and verdicts that can be NO."""

from __future__ import annotations

import csv
import gzip
import os
import random
import struct
import tracemalloc

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels.experiments import EXPERIMENTS, Options, mnist, stability
from cbokernels.experiments._common import Curve, DataError


def packed(data):
    """By gzip, without the time: tests are named by it, and workers must name them alike."""
    return gzip.compress(data, compresslevel=1, mtime=0)


def idx(array, *, magic=None):
    head = struct.pack(f">{1 + array.ndim}I", magic or 0x0800 + array.ndim, *array.shape)
    return packed(head + array.tobytes())


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Ten classes that a network tells apart at a glance: the class's own rows of pixels are lit."""
    folder = tmp_path_factory.mktemp("mnist")
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 10, 10000).astype(np.uint8)
    images = np.zeros((10000, 28, 28), np.uint8)
    for label in range(10):
        images[labels == label, 2 * label : 2 * label + 3] = 255
    (folder / mnist.IMAGES).write_bytes(idx(images))
    (folder / mnist.LABELS).write_bytes(idx(labels))
    return folder


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def tiny(monkeypatch):
    """Ensembles small enough for a test."""
    monkeypatch.setattr(mnist, "PARTICLES", 6)
    monkeypatch.setattr(mnist, "FEWER", 4)


def test_parameters_are_the_papers():
    methods = mnist.methods()
    assert methods["CBO"] == cbk.CBO(particles=1000, alpha=1e5, drift=1.0, diffusion=1.4**0.5, dt=0.1)
    assert methods["hybrid"] == cbk.Hybrid()
    assert (cbk.Hybrid().particles, cbk.Hybrid().mix, cbk.Hybrid().alpha) == (1000, 0.7, 1e4)
    assert methods["Adam"] == cbk.Adam(lr=0.1)
    hopping = methods["consensus hopping"]
    assert (hopping.scope, hopping.spread, hopping.lr) == ("atom", 0.1, cbk.Exponential(0.1, 0.001))
    assert hopping.rank is None
    assert cbk.TwoLayer(784, 20, 10) == mnist.NET
    runs = mnist.plan(100, 1000, everything=True)
    assert [run.batch_size for run in runs] == [1000, 1000, 1000, 100]
    assert [run.epochs for run in runs] == [100, 100, 100, 30]
    runs = mnist.plan(100, 200, everything=False)
    assert [run.epochs for run in runs] == [100, 100, 100, 30, 30, 30]
    assert [run.decays for run in runs] == [False] * 4 + [True] * 2
    hopping = runs[4].made.resolved(mnist.NET, 100)
    assert hopping == cbk.ConsensusHopping().resolved(mnist.NET, 100)  # what it chooses by itself
    # 30 G multiply-adds in 30 epochs [METHODS, section 8]; a gradient costs 3 passes
    forward = 200 * 8000 * 20 * 794
    assert [run.multiply_adds(run.made, 8000) for run in runs[:4]] == [
        forward,
        3 * forward,
        3 * forward / 200,
        forward,
    ]
    assert 30 * runs[4].multiply_adds(runs[4].made, 8000) == pytest.approx(30e9, rel=0.1)
    assert runs[5].multiply_adds(runs[5].made, 8000) == 3 * forward / 200


def test_pixels_and_labels(digits):
    x, y = mnist.load(digits)
    assert x.shape == (10000, 784)
    assert x.dtype == np.float32
    assert (x.min(), x.max()) == (0.0, 1.0)
    assert y.shape == (10000,)
    assert (x[y == 3].reshape(-1, 28, 28)[:, 6:9] == 1).all()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (mnist.IMAGES, None, rf"{mnist.IMAGES} not found in .*--data.*10,000-image half of the MNIST"),
        (mnist.LABELS, None, rf"^{mnist.LABELS} not found"),
        (mnist.IMAGES, b"plain", r"must be a gzip file"),
        (mnist.LABELS, idx(np.zeros(10000, np.uint8))[:-9], r"must be a gzip file"),
        (mnist.LABELS, packed(b"ab"), r"must be IDX .* got header \[\] and 2 bytes"),
        (
            mnist.IMAGES,
            idx(np.zeros((60000, 28, 28), np.uint8)),
            r"sizes \[10000, 28, 28\], got header \[2051, 60000",
        ),
        (mnist.LABELS, idx(np.zeros(10000, np.uint8), magic=2051), r"magic number 2049 .* got header \[2051"),
        (mnist.LABELS, idx(np.zeros(10000, np.uint8) + 10), r"must hold digits, got 10"),
        (mnist.LABELS, packed(gzip.decompress(idx(np.zeros(10000, np.uint8)))[:-1]), r"10007 bytes"),
    ],
)
def test_files_that_are_not(tmp_path, digits, name, content, message):
    for path in digits.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        mnist.load(tmp_path)


def test_damaged_files_are_refused(tmp_path, digits):
    """Cut at any length or with a byte changed: one exception, or the same digits."""
    seed = int(os.environ.get("CBOKERNELS_SEED", "17"))
    print(f"CBOKERNELS_SEED={seed}")
    rng = random.Random(seed)
    content, damaged_file = (digits / mnist.LABELS).read_bytes(), tmp_path / "damaged.gz"
    whole = mnist._read_idx(digits / mnist.LABELS, (10000,))
    refused = 0
    for trial in range(400):
        damaged = bytearray(content)
        if trial % 2 == 0:
            del damaged[rng.randrange(len(content)) :]
        else:
            damaged[rng.randrange(len(content))] ^= rng.randrange(1, 256)
        damaged_file.write_bytes(damaged)
        try:
            found = mnist._read_idx(damaged_file, (10000,))
        except DataError as error:
            refused += str(damaged_file) in str(error)
        else:  # some bytes of gzip's header are free
            np.testing.assert_array_equal(found, whole)
            refused += 1
    assert refused == 400


def test_no_more_is_expanded_than_there_may_be(tmp_path, digits):
    labels = gzip.decompress((digits / mnist.LABELS).read_bytes())
    path = tmp_path / "much.gz"
    path.write_bytes(gzip.compress(labels + bytes(50_000_000), compresslevel=1))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="10009 bytes or more"):
            mnist._read_idx(path, (10000,))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_writes_its_files(tmp_path, digits, tiny):
    findings = EXPERIMENTS["mnist"](Options(epochs=2, data=digits, out=tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mnist.csv", "mnist.png"]
    assert (tmp_path / "mnist.png").read_bytes().startswith(b"\x89PNG")
    rows = read(tmp_path / "mnist.csv")
    assert list(dict.fromkeys(row["curve"] for row in rows)) == [
        f"{name}, {digits}"
        for digits, n in (("all digits", 6), ("a fifth held out", 4))
        for name in (f"CBO, N = {n}", f"hybrid, N = {n}", "Adam", "consensus hopping, N = 4")
    ] + [f"{name}, a fifth held out" for name in ("hopping, rank 1, decay, N = 4", "Adam, decay")]
    assert len(rows) == 10 * 2
    assert all(float(row["multiply_adds"]) > 0 for row in rows)
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    EXPERIMENTS["mnist"](Options(epochs=1, data=digits, out=fewer, changes={"particles": 2}))
    curve = "CBO, N = 6, all digits"
    work, less = (
        next(float(row["multiply_adds"]) for row in read(path / "mnist.csv") if row["curve"] == curve)
        for path in (tmp_path, fewer)
    )
    assert less == work / 3
    assert all((row["held_out_accuracy"] == "") == ("all digits" in row["curve"]) for row in rows)
    for curve in ("Adam, all digits", "consensus hopping, N = 4, all digits"):
        first, last = (row for row in rows if row["curve"] == curve)
        assert float(last["risk"]) < float(first["risk"])

    x, y = mnist.load(digits)
    held_out = np.arange(10000) % 5 == 4
    again = cbk.train(mnist.NET, x[~held_out], y[~held_out], cbk.Adam(), epochs=2, batch_size=1000)
    (row,) = (r for r in rows if r["curve"] == "Adam, a fifth held out" and r["epoch"] == "2")
    assert float(row["risk"]) == again.history["risk"][-1]
    right = again.predict(x).argmax(axis=1) == y
    assert float(row["accuracy"]) == pytest.approx(right[~held_out].mean())
    assert float(row["held_out_accuracy"]) == pytest.approx(right[held_out].mean())
    assert {finding.agrees for finding in findings} == {None}


def test_quick_has_only_runs_with_held_out_digits(tmp_path, digits, tiny):
    EXPERIMENTS["mnist"](Options(epochs=1, seeds=1, data=digits, out=tmp_path, quick=True))
    rows = read(tmp_path / "mnist.csv")
    assert len(rows) == 6
    assert all(row["held_out_accuracy"] for row in rows)


def test_verdicts_can_be_no():
    def made(name, risk, correct, epochs, seeds):
        history = {"epoch": np.arange(1, epochs + 1), "risk": np.full(epochs, risk)}
        theta = np.zeros((1, mnist.NET.size), np.float32)
        rows = seeds * [[correct] * epochs]
        result = cbk.Result(theta[0], theta, history, mnist.NET)
        return Curve(name, seeds * [result], {"accuracy": rows, "held_out_accuracy": rows})

    def verdicts(*risks, correct=(0.5, 0.99, 0.99, 0.96), decay=(0.95, 0.954), epochs=50, seeds=3):
        risks, correct = (*risks, 0.1, 0.1), (*correct, *decay)
        curves = [made(*own, epochs, seeds) for own in zip(mnist.all_methods(), risks, correct, strict=True)]
        return [row.agrees for row in mnist.findings(curves[:4], curves)]

    assert verdicts(1.6, 0.1, 0.1, 0.2) == [True] * 7
    assert verdicts(1.6, 0.1, 0.1, 0.2, decay=(0.94, 0.95))[6] is False
    assert verdicts(1.6, 0.1, 0.1, 0.2, seeds=2)[6] is None
    assert verdicts(2.5, 0.3, 0.3, 0.2, correct=(0.5, 0.99, 0.99, 0.9)) == [
        False,
        False,
        False,
        True,
        False,
        False,
        True,
    ]
    assert verdicts(0.2, 0.1, 0.1, 0.2)[3] is False
    assert verdicts(0.2, 0.1, 0.1, 0.2, seeds=1)[3] is None
    assert verdicts(1.6, 0.1, 0.1, 0.2, epochs=5) == [None] * 7


def test_all_four_files(tmp_path, digits):
    """60,000 digits to learn from, and the 10,000 held out."""
    for path in digits.iterdir():
        (tmp_path / path.name).symlink_to(path)
    x, y, learnt = mnist.load_split(tmp_path)
    assert (len(x), learnt.sum()) == (10000, 8000)
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 10, 60000).astype(np.uint8)
    (tmp_path / mnist.MORE_IMAGES).write_bytes(idx(np.zeros((60000, 28, 28), np.uint8)))
    (tmp_path / mnist.MORE_LABELS).write_bytes(idx(labels))
    more_x, more_y, learnt = mnist.load_split(tmp_path)
    assert more_x.shape == (70000, 784)
    np.testing.assert_array_equal(more_y[learnt], labels)
    np.testing.assert_array_equal(more_y[~learnt], y)
    np.testing.assert_array_equal(more_x[~learnt], x)
    (tmp_path / mnist.MORE_LABELS).write_bytes(idx(labels[:-1]))
    with pytest.raises(DataError, match=r"sizes \[60000\]"):
        mnist.load_split(tmp_path)


def test_spikes_are_seen_once_each():
    risk = np.ones(60)
    risk[10:] = 1e-3
    assert stability.spikes(risk).tolist() == []
    risk[20:23] = [0.05, 0.2, 5.0]
    risk[40] = 0.2
    risk[50] = 0.09
    assert stability.spikes(risk).tolist() == [22, 41]
    assert stability.spikes(np.exp(-np.arange(60.0))).tolist() == []


@pytest.mark.parametrize(
    ("label", "spiky", "epochs", "agrees"),
    [
        ("Adam", True, 50, True),
        ("Adam", False, 50, None),
        ("Adam", False, 10000, False),
        ("hybrid", True, 50, False),
        ("hybrid", False, 50, None),
        ("hybrid", False, 1000, True),
    ],
)
def test_verdicts_of_the_long_run(label, spiky, epochs, agrees):
    risk = np.full(epochs, 1e-4)
    risk[30:33] = 1.0 if spiky else 2e-4
    theta = np.zeros((1, mnist.NET.size), np.float32)
    result = cbk.Result(theta[0], theta, {"epoch": np.arange(1, epochs + 1), "risk": risk}, mnist.NET)
    row = stability.finding(Curve(label, [result]))
    assert row.agrees is agrees
    assert ("first at 31, up to 1" in row.measured) == spiky


def test_long_run_stops_in_time_and_goes_on(tmp_path, digits, capsys):
    arguments = ["--data", str(digits), "--out", str(tmp_path / "out"), "--particles", "3"]
    assert stability.main([*arguments, "--minutes", "0"]) == 0
    assert "too little to tell" in capsys.readouterr().out
    assert [(row["curve"], row["epoch"]) for row in read(tmp_path / "out" / "stability.csv")] == [
        ("Adam", "1"),
        ("hybrid", "1"),
    ]
    assert stability.main([*arguments, "--epochs", "3"]) == 0
    rows = read(tmp_path / "out" / "stability.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"] * 2
    x, y = mnist.load(digits)
    again = cbk.train(mnist.NET, x, y, cbk.Hybrid(particles=3), epochs=3, batch_size=1000)
    assert [float(row["risk"]) for row in rows[3:]] == again.history["risk"].tolist()
    assert (tmp_path / "out" / "stability.png").read_bytes().startswith(b"\x89PNG")


def test_long_run_without_data(tmp_path, capsys):
    assert stability.main(["--data", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "10,000-image half" in capsys.readouterr().err
