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


@pytest.mark.parametrize(
    "options", [{}, {"batch_size": 4}, {"batch_size": 80}, {"standardize": True}], ids=repr
)
@pytest.mark.parametrize("method", METHODS)
def test_samples_without_weight_are_left_out(method, options):
    # With a batch size there would be minibatches of no weight, in which all particles are alike.
    x, y, w = data("mse", 1)
    w *= np.arange(90) % 9 == 0
    x[1], y[1] = np.nan, np.inf  # of weight 0
    net, kept = cbk.TwoLayer(2, 8, 1, activation="tanh"), w > 0
    options = {"epochs": 3, "dtype": "float64", "metrics": "r2", "validation": (x[kept], y[kept]), **options}
    weighted = cbk.train(net, x, y, METHODS[method], sample_weight=w, **options)
    left = cbk.train(net, x[kept], y[kept], METHODS[method], sample_weight=w[kept], **options)
    np.testing.assert_array_equal(weighted.particles, left.particles)
    for name in ("risk", "r2", "validation_risk"):
        np.testing.assert_array_equal(weighted.history[name], left.history[name])


def test_weights_that_vanish_in_float32_are_0():
    x, y, w = data("mse", 1)
    net, w[::2] = cbk.TwoLayer(2, 8, 1), 1e-60
    weighted = cbk.train(net, x, y, METHODS["Hybrid"], sample_weight=w, epochs=2, batch_size=3)
    kept = w.astype("f4") > 0
    left = cbk.train(net, x[kept], y[kept], METHODS["Hybrid"], sample_weight=w[kept], epochs=2, batch_size=3)
    np.testing.assert_array_equal(weighted.particles, left.particles)


def test_samples_without_weight_of_mapped_arrays_and_checkpoints(tmp_path):
    x, y, w = data("mse", 1)
    net, kept = cbk.TwoLayer(2, 8, 1), w > 0
    np.save(tmp_path / "x.npy", x)
    run = {"batch_size": 4, "checkpoint": tmp_path / "run"}
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    cbk.train(net, mapped, y, METHODS["Adam"], epochs=2, sample_weight=w, **run)
    later = cbk.train(  # the same run
        net, x[kept], y[kept], METHODS["Adam"], epochs=4, sample_weight=w[kept], resume=True, **run
    )
    whole = cbk.train(net, x, y, METHODS["Adam"], epochs=4, batch_size=4, sample_weight=w)
    np.testing.assert_array_equal(later.particles, whole.particles)


@pytest.mark.parametrize("own_inputs", [False, True])
@pytest.mark.parametrize("method", ["multitask", "transport", "cross_entropy"])
def test_samples_without_weight_of_tasks_and_labels(method, own_inputs):
    x, y, w = data("mse", 1)
    kept = w > 0
    labels = method == "cross_entropy"
    ys = np.stack([y[:, 0] > 0, y[:, 0] > 0.3]).astype(int) if labels else np.stack([y, -y])
    inputs = np.stack([x, 2 * x]) if own_inputs else x
    how = cbk.TransportCBO(particles=10) if method == "transport" else cbk.MultiTaskCBO(particles=30)
    net, run = cbk.TwoLayer(2, 8, 2 if labels else 1), {"epochs": 2, "batch_size": 3}
    weighted = cbk.train(net, inputs, ys, how, sample_weight=w, **run)
    left = cbk.train(net, inputs[..., kept, :], ys[:, kept], how, sample_weight=w[kept], **run)
    np.testing.assert_array_equal(weighted.particles, left.particles)


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
