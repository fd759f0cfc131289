"""The experiments: their data, their files, and verdicts that can be NO."""

from __future__ import annotations

import csv
import gzip
import re
import struct

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels.experiments import EXPERIMENTS, Finding, Options, mnist, sine
from cbokernels.experiments._common import Curve, DataError, spread, table, within


def idx(array, *, magic=None):
    head = struct.pack(f">{1 + array.ndim}I", magic or 0x0800 + array.ndim, *array.shape)
    return gzip.compress(head + array.tobytes(), compresslevel=1)


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


def test_mnist_parameters_are_the_papers():
    assert mnist.method() == cbk.CBO(particles=1000, alpha=1e5, drift=1.0, diffusion=1.4**0.5, dt=0.1)
    assert cbk.TwoLayer(784, 20, 10) == mnist.NET
    assert mnist.BATCH == 1000


def test_sine_parameters_of_the_others():
    assert sine.METHODS["Adam"] == cbk.Adam(lr=0.1, particles=1)
    assert sine.METHODS["consensus hopping"] == cbk.ConsensusHopping(particles=200)
    assert sine.METHODS["CBO, alpha = inf, noise floor"].alpha == np.inf
    assert sine.lengths(1000) == dict.fromkeys(sine.METHODS, 1000) | {"consensus hopping": 300}
    assert set(sine.lengths(250).values()) == {250}
    for label, method in sine.METHODS.items():
        assert sine.PASSES[label] == (3 if label == "Adam" else method.particles)


def test_sine_writes_its_files(tmp_path, capfd):
    findings = EXPERIMENTS["sine"](Options(epochs=12, seeds=2, out=tmp_path))
    assert "96/96" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sine.csv", "sine.png"]
    assert (tmp_path / "sine.png").read_bytes().startswith(b"\x89PNG")
    rows = read(tmp_path / "sine.csv")
    assert len(rows) == 4 * 2 * 12
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
    assert rows[12]["seed"] == "1"
    x, y = sine.samples()
    for start, method in zip((12, 60), (cbk.CBO(), cbk.Adam()), strict=True):
        again = cbk.train(sine.NET, x, y, method, epochs=12, batch_size=800, seed=1)
        assert [float(row["risk"]) for row in rows[start : start + 12]] == again.history["risk"].tolist()
    assert [row["passes"] for row in (rows[11], rows[71])] == ["2400", "36"]
    assert {finding.agrees for finding in findings} == {None}  # two runs, too short


def test_mnist_writes_its_files(tmp_path, digits):
    findings = EXPERIMENTS["mnist"](Options(epochs=4, data=digits, out=tmp_path / ".", quick=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mnist.csv", "mnist.png"]
    rows = read(tmp_path / "mnist.csv")
    assert len(rows) == 4
    assert float(rows[-1]["accuracy"]) > float(rows[0]["accuracy"])
    assert float(rows[-1]["risk"]) < float(rows[0]["risk"])
    assert [finding.agrees for finding in findings] == [None, None, None]


def test_mnist_pixels_and_labels(digits):
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
        (mnist.LABELS, gzip.compress(b"ab"), r"must be IDX .* got header \[\] and 2 bytes"),
        (
            mnist.IMAGES,
            idx(np.zeros((60000, 28, 28), np.uint8)),
            r"sizes \[10000, 28, 28\], got header \[2051, 60000",
        ),
        (mnist.LABELS, idx(np.zeros(10000, np.uint8), magic=2051), r"magic number 2049 .* got header \[2051"),
        (mnist.LABELS, idx(np.zeros(10000, np.uint8) + 10), r"must hold digits, got 10"),
        (mnist.LABELS, gzip.compress(gzip.decompress(idx(np.zeros(10000, np.uint8)))[:-1]), r"10007 bytes"),
    ],
)
def test_mnist_files_that_are_not(tmp_path, digits, name, content, message):
    for path in digits.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        mnist.load(tmp_path)


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


def test_verdicts_of_mnist_can_be_no():
    def made(risk, correct, epochs=300):
        c = curve([risk])
        c.columns["accuracy"] = [[correct] * 1000]
        return [row.agrees for row in mnist.findings(c, epochs)]

    assert made(1.5, 0.5) == [True, True, True]
    assert made(2.2, 0.1) == [False, False, True]
    assert made(0.1, 0.97) == [True, True, False]
    assert made(1.5, 0.5, epochs=5) == [None, None, None]


def test_the_typical_run_is_the_median():
    made = curve([5.0, 1.0, 3.0, 2.0])
    assert made.typical().history["risk"][-1] == 2.0
    np.testing.assert_array_equal(made.at("risk", 300), [5.0, 1.0, 3.0, 2.0])
    assert spread(made.at("risk", -1)) == "2.5 (1 to 5)"
    assert spread(np.array([0.12345])) == "0.12"


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
