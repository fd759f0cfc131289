"""Training with every loss, with weighted samples, and with both on minibatches."""

from __future__ import annotations

import math

import numpy as np
import pytest
from losses import ALL, SLOPED, fits

import cbokernels as cbk
from cbokernels._kinds import loss_of, takes_labels

METHODS = {
    "CBO": cbk.CBO(particles=30, alpha=10),
    "friction": cbk.CBO(particles=30, alpha=10, friction=1.0),
    "hopping": cbk.ConsensusHopping(particles=20),
    "atoms": cbk.ConsensusHopping(particles=20, scope="atom"),
    "transport": cbk.TransportCBO(particles=10, alpha=10),
    "Adam": cbk.Adam(particles=2, lr=0.05),
    "Hybrid": cbk.Hybrid(particles=20),
    "HeavyBall": cbk.HeavyBall(particles=2, dt=0.1),
    "GradientFlow": cbk.GradientFlow(particles=2, dt=0.05),
}


def data(loss, outputs, *, samples=90):
    """Inputs, targets that a network can learn, and weights."""
    rng = np.random.default_rng([outputs, samples])
    x = rng.uniform(-1, 1, (samples, 2))
    values = np.tanh(x @ rng.normal(size=(2, outputs)))
    y = (x[:, 0] > 0.2).astype(int) if takes_labels(loss_of(loss, outputs)) else values
    return x, y, rng.exponential(size=samples) * (rng.random(samples) > 0.3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("loss", ALL, ids=repr)
def test_every_loss_trains(loss, method):
    if METHODS[method]._gradients and loss not in SLOPED and isinstance(loss, str):
        return
    for outputs in (1, 2):
        if not fits(loss, outputs) or (loss == "cross_entropy" and outputs == 1):  # which is 0
            continue
        x, y, w = data(loss, outputs)
        net = cbk.TwoLayer(2, 8, outputs, activation="tanh")
        for weights in (None, w):
            options = {"loss": loss, "batch_size": 40, "sample_weight": weights, "seed": 3}
            result = cbk.train(net, x, y, METHODS[method], epochs=6, **options)
            assert np.isfinite(result.history["risk"]).all()
            labels = y.ndim == 1
            expected = cbk.risk(
                net,
                result.parameters[None],
                x.astype("f4"),
                y if labels else y.astype("f4"),
                loss=loss,
                sample_weight=None if weights is None else w.astype("f4"),
            )
            assert result.history["risk"][-1] == pytest.approx(expected[0], rel=1e-6)
            if loss == "mae" and method in ("hopping", "Adam", "Hybrid"):  # a long run is a better one
                long = cbk.train(net, x, y, METHODS[method], epochs=60, **options)
                assert long.best_risk < 0.8 * long.history["risk"][0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("loss", ["mse", "hinge"])
def test_weights_of_a_minibatch_are_its_rows(loss, method):
    # One batch, in shuffled order: the same as the whole data but for the order of sums.
    x, y, w = data(loss, 1)
    net = cbk.TwoLayer(2, 8, 1, activation="tanh")
    options = {"loss": loss, "sample_weight": w, "epochs": 3, "dtype": "float64"}
    shuffled = cbk.train(net, x, y, METHODS[method], batch_size=len(x), **options)
    whole = cbk.train(net, x, y, METHODS[method], **options)
    np.testing.assert_allclose(shuffled.particles, whole.particles, rtol=1e-7, atol=1e-9)
    other = cbk.train(
        net, x, y, METHODS[method], batch_size=len(x), **{**options, "sample_weight": np.ravel(y) > 0}
    )
    assert not np.allclose(shuffled.particles, other.particles, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_samples_without_weight_are_left_out(method):
    x, y, w = data("mse", 1)
    net = cbk.TwoLayer(2, 8, 1, activation="tanh")
    kept = w > 0
    options = {"epochs": 3, "dtype": "float64"}
    weighted = cbk.train(net, x, y, METHODS[method], sample_weight=kept, **options)
    left = cbk.train(net, x[kept], y[kept], METHODS[method], **options)
    np.testing.assert_allclose(weighted.particles, left.particles, rtol=1e-7, atol=1e-9)


def test_a_minibatch_without_weight_has_the_risk_0():
    net = cbk.TwoLayer(2, 8, 1)
    x, y, w = data("mse", 1, samples=20)
    w = np.zeros(20)
    w[7] = 1.0
    for method in ("CBO", "Adam", "hopping"):
        result = cbk.train(net, x, y, METHODS[method], epochs=3, batch_size=2, sample_weight=w)
        assert np.isfinite(result.history["risk"]).all()
    theta, zero = net.uniform(3, seed=0), np.zeros(20, "f4")
    with pytest.raises(ValueError, match="not be 0 everywhere"):
        cbk.risk(net, theta, x.astype("f4"), y.astype("f4"), sample_weight=zero)
    rows = cbk.train(net, x, y, cbk.Adam(lr=0.1), epochs=1, batch_size=2, sample_weight=w, theta=theta)
    # of the ten batches nine have no slope: Adam's moments alone move the networks
    assert np.isfinite(rows.particles).all()


def test_several_tasks_share_the_weights():
    x, y, w = data("mse", 1)
    net, ys = cbk.TwoLayer(2, 8, 1, activation="tanh"), np.stack([y, -y])
    for inputs in (x, np.stack([x, x])):
        for method in (cbk.MultiTaskCBO(particles=30), cbk.TransportCBO(particles=10)):
            result = cbk.train(
                net, inputs, ys, method, epochs=3, batch_size=30, sample_weight=w, dtype="float64"
            )
            for t in range(2):
                expected = cbk.risk(net, result.parameters[t][None], x, ys[t], sample_weight=w)[0]
                assert result.history["risk"][-1][t] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("method", ["CBO", "hopping", "Adam"])
def test_a_resumed_run_has_the_bits_of_a_whole_one(method, tmp_path):
    x, y, w = data("mse", 1)
    net = cbk.TwoLayer(2, 8, 1)
    method = cbk.CBO(particles=30, floor=0.1) if method == "CBO" else METHODS[method]
    run = {"batch_size": 40, "sample_weight": w, "loss": cbk.Huber(0.3)}
    if isinstance(method, cbk.ConsensusHopping):
        method = cbk.ConsensusHopping(particles=20, spread=0.1, lr=0.1)
    whole = cbk.train(net, x, y, method, epochs=8, **run)
    checkpoint = {"checkpoint": tmp_path / "run", **run}
    cbk.train(net, x, y, method, epochs=4, **checkpoint)
    later = cbk.train(net, x, y, method, epochs=8, resume=True, **checkpoint)
    np.testing.assert_array_equal(later.particles, whole.particles)
    for change, word in (
        ({"sample_weight": w + 1}, "sample_weight"),
        ({"sample_weight": None}, "sample_weight"),
        ({"loss": cbk.Huber(0.4)}, "huber"),
        ({"loss": "huber"}, "huber"),
    ):
        with pytest.raises(ValueError, match=word):
            cbk.train(net, x, y, method, epochs=12, resume=True, **{**checkpoint, **change})


def test_weights_are_the_runs_own():
    x, y, w = data("mse", 1)
    net = cbk.TwoLayer(2, 8, 1)

    def spoil(state):
        w[:] = 0

    expected = cbk.train(net, x, y, METHODS["CBO"], epochs=4, sample_weight=w.copy(), dtype="float64")
    spoilt = cbk.train(net, x, y, METHODS["CBO"], epochs=4, sample_weight=w, dtype="float64", callback=spoil)
    np.testing.assert_array_equal(spoilt.particles, expected.particles)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("loss", ["hinge", "logistic", "zero_one"])
def test_labels_of_one_or_two_outputs_and_their_accuracy(loss, outputs):
    if not fits(loss, outputs):
        return
    x, y, _ = data(loss, outputs)
    assert takes_labels(loss)
    net = cbk.TwoLayer(2, 8, outputs, activation="tanh", output_bias=True)
    result = cbk.train(
        net, x, y, cbk.ConsensusHopping(particles=100, spread=0.5), loss=loss, epochs=150, metrics="accuracy",
        validation=(x, y), batch_size=45,
    )  # fmt: skip
    assert result.history["accuracy"][-1] > 0.9
    zero_one = cbk.risk(net, result.parameters[None], x.astype("f4"), y, loss="zero_one")[0]
    assert result.history["accuracy"][-1] == pytest.approx(1 - zero_one)


@pytest.mark.parametrize(
    ("weights", "error", "words"),
    [
        (np.ones(5), ValueError, "sample_weight must have shape [90], got [5]"),
        (np.zeros(90), ValueError, "sample_weight must not be 0 everywhere"),
        (np.full(90, -1.0), ValueError, "got -1.0 at [0]"),
        (np.full(90, math.nan), ValueError, "got nan at [0]"),
        (np.full(90, 1e39), ValueError, "got inf at [0]"),  # as float32
        (np.full(90, 1e-60), ValueError, "90 zeros"),
        (np.full(90, 1e-42), ValueError, "a mean that float32 can divide by"),
        (np.full(90, 1j), TypeError, "sample_weight must hold real numbers"),
        ("balanced", TypeError, "sample_weight must be an array"),
    ],
)
def test_wrong_weights_are_named(weights, error, words):
    x, y, _ = data("mse", 1)
    with pytest.raises(error) as caught:
        cbk.train(cbk.TwoLayer(2, 8), x, y, METHODS["CBO"], epochs=1, sample_weight=weights)
    assert words in str(caught.value)


@pytest.mark.parametrize("weight", [1e308, 1e-320])
def test_weights_whose_sum_or_its_inverse_overflows_are_refused(weight):
    net = cbk.TwoLayer(2, 3)
    theta, x = net.uniform(2, seed=0, dtype="float64"), np.ones((8, 2))
    with pytest.raises(ValueError, match="a mean that float64 can divide by, got a sum of"):
        cbk.risk(net, theta, x, np.ones(8), sample_weight=np.full(8, weight))


@pytest.mark.parametrize("loss", [("huber", -1.0), ("nosuch", 1.0), ("mae",)])
def test_a_pair_is_no_loss(loss):
    with pytest.raises(TypeError, match="loss must be"):
        cbk.train(cbk.TwoLayer(2, 3), np.ones((8, 2)), np.ones(8), cbk.Adam(), loss=loss, epochs=1)
