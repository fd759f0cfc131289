"""Losses by their definitions, weighted samples, and what has no gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
from losses import ALL, SLOPED, corner_distance, fits, targets, true_risk, truth
from turns import in_turn

import cbokernels as cbk
from cbokernels import reference
from cbokernels._kinds import LOSSES, takes_labels

TOLERANCE = {"float32": 3e-6, "float64": 1e-12}
# (d, M, C), N, S: by knots, in registers, by products, by lists of the inputs that are not 0
PATHS = {
    "knots": ((1, 60, 1), 6, 1500),
    "direct": ((3, 9, 1), 5, 70),
    "wide": ((12, 1100, 1), 2, 70),
    "products": ((20, 31, 5), 4, 133),
    "lists": ((90, 16, 5), 130, 41),
}


def outputs_of(values, dtype):
    """A network and its particle whose outputs on these inputs [S, C] are the inputs."""
    values = np.asarray(values, dtype)
    net = cbk.TwoLayer(*[values.shape[1]] * 3, activation="identity", scaling="none")
    one = np.eye(values.shape[1], dtype=dtype)
    return net, net.pack(one, np.zeros(len(one), dtype), one)[None], values


def case(path, loss, dtype, seed=0):
    """A network, its particles and data that go on a path."""
    shape, particles, samples = PATHS[path]
    if not fits(loss, shape[2]):
        shape = (*shape[:2], 1)
    rng = np.random.default_rng([seed, samples])
    net = cbk.TwoLayer(*shape, activation="relu" if path == "knots" else "tanh", output_bias=True)
    theta = rng.uniform(-1, 1, (particles, net.size)).astype(dtype)
    x = rng.normal(size=(samples, net.inputs)).astype(dtype)
    if path == "lists":
        x[rng.random(x.shape) < 0.95] = 0
    return net, theta, x, targets(rng, loss, (samples,), net.outputs, dtype), rng


def weights_of(rng, samples, dtype):
    """Weights of which a third are 0."""
    w = rng.exponential(size=samples).astype(dtype)
    w[rng.random(samples) < 1 / 3] = 0
    w[0] = 1
    return w


def error(result, expected):
    """Relative to the largest entry."""
    return np.abs(result - expected).max() / (np.abs(expected).max() or 1.0)


@pytest.mark.parametrize(
    ("loss", "outputs", "y", "expected"),
    [
        ("mse", [[3.0, -1.0]], [[1.0, 1.0]], 8),
        ("mae", [[3.0, -1.0]], [[1.0, 1.5]], 4.5),
        ("huber", [[3.0, 0.5]], [[1.0, 1.0]], 1.5 + 0.125),
        (cbk.Huber(2.0), [[4.0, 0.0]], [[1.0, 1.0]], 4 + 0.5),
        ("pinball", [[3.0, 0.0]], [[1.0, 1.0]], 1.5),
        (cbk.Pinball(0.9), [[3.0, 0.0]], [[1.0, 1.0]], 0.2 + 0.9),
        (cbk.Pinball(0.0), [[3.0, 0.0]], [[1.0, 1.0]], 2),
        (cbk.Pinball(1.0), [[3.0, 0.0]], [[1.0, 1.0]], 1),
        ("hinge", [[0.25]], [1], 0.75),
        ("hinge", [[0.25]], [0], 1.25),
        ("hinge", [[2.0]], [1], 0),
        ("hinge", [[1.0, 3.0, 2.5]], [1], 0.5),
        ("hinge", [[1.0, 3.0, 2.5]], [2], 1.5),
        ("hinge", [[1.0, 3.0, 1.5]], [1], 0),
        ("logistic", [[0.0]], [1], math.log(2)),
        ("logistic", [[2.0]], [0], math.log1p(math.exp(2))),
        ("logistic", [[-80.0]], [1], 80),
        ("cross_entropy", [[0.0, 0.0, 0.0, 0.0]], [2], math.log(4)),
        ("zero_one", [[1.0, 3.0, 2.5]], [1], 0),
        ("zero_one", [[1.0, 3.0, 2.5]], [0], 1),
        ("zero_one", [[3.0, 3.0]], [0], 0),  # the first of equals
        ("zero_one", [[3.0, 3.0]], [1], 1),
        ("zero_one", [[0.5]], [1], 0),
        ("zero_one", [[-0.5]], [1], 1),
        ("zero_one", [[0.0]], [1], 0),
        ("zero_one", [[0.0]], [0], 1),
        ("zero_one", [[np.inf, 3.0]], [0], 0),
        ("zero_one", [[-np.inf, -np.inf]], [0], 0),
    ],
)
def test_known_answers(loss, outputs, y, expected, dtype):
    net, theta, x = outputs_of(outputs, dtype)
    y = np.asarray(y) if np.ndim(y) == 1 else np.asarray(y, dtype)
    if np.isfinite(x).all():
        assert cbk.risk(net, theta, x, y, loss=loss)[0] == pytest.approx(expected, rel=1e-6)
    g = np.asarray(outputs)[None]
    assert truth(loss, g, y)[0, 0] == pytest.approx(expected)
    law = reference._law(reference.LOSSES, loss, g.shape[2])
    assert law(g, y)[0, 0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("loss", "outputs", "y", "expected"),
    [
        ("mae", [[1.0, 2.0, 0.0]], [[1.0, 1.0, 1.0]], [0, 1, -1]),
        ("huber", [[1.0, 2.0, 0.0, 4.0]], [[1.0, 1.0, 0.5, 1.0]], [0, 1, -0.5, 1]),
        (cbk.Huber(0.25), [[1.0, 2.0, 0.0]], [[1.0, 1.0, 1.0]], [0, 0.25, -0.25]),
        (cbk.Pinball(0.75), [[1.0, 2.0, 0.0]], [[1.0, 1.0, 1.0]], [0, 0.25, -0.75]),
        ("hinge", [[0.5]], [1], [-1]),
        ("hinge", [[0.5]], [0], [1]),
        ("hinge", [[1.0]], [1], [0]),  # at the corner
        ("hinge", [[3.0, 3.0, 1.0]], [2], [1, 0, -1]),  # the first of equal rivals
        ("hinge", [[2.0, 1.0]], [0], [0, 0]),  # at the corner
        ("logistic", [[0.0]], [1], [-0.5]),
        ("logistic", [[0.0]], [0], [0.5]),
    ],
)
def test_slopes_at_corners(loss, outputs, y, expected, dtype):
    net, theta, x = outputs_of(outputs, dtype)
    y = np.asarray(y) if np.ndim(y) == 1 else np.asarray(y, dtype)
    shifted = cbk.TwoLayer(net.inputs, net.width, net.outputs, "identity", "none", output_bias=True)
    theta = np.concatenate([theta, np.zeros((1, net.outputs), dtype)], axis=1)
    slope = cbk.risk_gradient(shifted, theta, x, y, loss=loss)[1][0, -net.outputs :]
    np.testing.assert_allclose(slope, expected, rtol=1e-6)
    _, plain = reference.risk_gradient(shifted, theta, x, y, loss=loss)
    np.testing.assert_allclose(plain[0, -net.outputs :], expected)


def test_the_defaults_are_those_of_the_names(dtype):
    for name, loss in ("huber", cbk.Huber()), ("pinball", cbk.Pinball()):
        net, theta, x, y, _ = case("products", name, dtype)
        named = cbk.risk_gradient(net, theta, x, y, loss=name)
        for a, b in zip(cbk.risk_gradient(net, theta, x, y, loss=loss), named, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("q", [0.1, 0.5, 0.8])
def test_pinball_is_least_at_the_quantile(q):
    y = np.random.default_rng(0).exponential(size=(1001, 1))
    net = cbk.TwoLayer(1, 1, 1, "identity", "none", output_bias=True)
    constants = np.sort(y)[:, 0]
    theta = np.zeros((len(constants), net.size))
    theta[:, -1] = constants
    risks = cbk.risk(net, theta, np.zeros_like(y), y, loss=cbk.Pinball(q))
    assert constants[risks.argmin()] == np.quantile(y, q, method="inverted_cdf")


@pytest.mark.parametrize("path", PATHS)
@in_turn("loss", ALL)
def test_weighted_risks(loss, path, dtype):
    net, theta, x, y, rng = case(path, loss, dtype)
    w = weights_of(rng, len(x), dtype)
    outputs = reference.forward(net, theta, x)
    expected = true_risk(outputs, y, loss, w.astype(float))
    result = cbk.risk(net, theta, x, y, loss=loss, sample_weight=w, num_threads=1)
    assert error(result, expected) < TOLERANCE[dtype]
    np.testing.assert_allclose(
        reference.risk(net, theta, x, y, loss=loss, sample_weight=w), expected, rtol=1e-11, atol=1e-13
    )
    for num_threads in (2, 3, None):
        again = cbk.risk(net, theta, x, y, loss=loss, sample_weight=w, num_threads=num_threads)
        np.testing.assert_array_equal(again, result)
    # equal weights are none, weights of 0 leave samples out
    plain = cbk.risk(net, theta, x, y, loss=loss)
    assert error(cbk.risk(net, theta, x, y, loss=loss, sample_weight=np.full_like(w, 0.25)), plain) < 1e-6
    kept = w > 0
    left = cbk.risk(net, theta, x[kept], y[kept], loss=loss)
    assert (
        error(cbk.risk(net, theta, x, y, loss=loss, sample_weight=kept.astype(dtype)), left)
        < TOLERANCE[dtype]
    )


@pytest.mark.parametrize("path", PATHS)
@in_turn("loss", [loss for loss in ALL if loss != "zero_one"])
def test_weighted_gradients(loss, path, dtype):
    net, theta, x, y, rng = case(path, loss, dtype)
    outputs = reference.forward(net, theta, x)
    size = np.abs(outputs).max()
    away = (
        np.min([corner_distance(loss, g, y) for g in outputs], axis=0)
        > (1e-5 if dtype == "float32" else 0) * size
    )
    x, y = x[away], y[away]
    w = weights_of(rng, len(x), dtype)
    risk, gradient = cbk.risk_gradient(net, theta, x, y, loss=loss, sample_weight=w)
    expected, slope = reference.risk_gradient(net, theta, x, y, loss=loss, sample_weight=w)
    assert error(risk, expected) < TOLERANCE[dtype]
    for part, wanted in zip(net.unpack(gradient), net.unpack(slope), strict=True):
        size = max(np.abs(wanted).max(), 0.01)  # hinge's output bias: terms of size 1 whose mean is 0.0008
        assert np.abs(part - wanted).max() < 2 * TOLERANCE[dtype] * size
    for num_threads in (1, 3):
        again = cbk.risk_gradient(net, theta, x, y, loss=loss, sample_weight=w, num_threads=num_threads)
        np.testing.assert_array_equal(again[0], risk)
        np.testing.assert_array_equal(again[1], gradient)


@pytest.mark.parametrize("loss", ALL, ids=repr)
def test_atoms_and_tasks(loss, dtype):
    for path in ("direct", "products"):
        net, theta, x, y, rng = case(path, loss, dtype)
        w = weights_of(rng, len(x), dtype)
        for weights in (None, w):
            options = {"loss": loss, "sample_weight": weights}
            swapped = cbk.atom_risks(net, theta[0], theta[1:], x, y, **options)
            expected = reference.atom_risks(net, theta[0], theta[1:], x, y, **options)
            assert error(swapped, expected) < TOLERANCE[dtype]
            ys = np.stack([y, y[::-1], y])
            risks = cbk.task_risks(net, theta, x, ys, **options)
            assert error(risks, reference.task_risks(net, theta, x, ys, **options)) < TOLERANCE[dtype]
            own = cbk.task_risks(net, theta, np.stack([x, x[::-1], x]), ys, **options)
            assert (
                error(own, reference.task_risks(net, theta, np.stack([x, x[::-1], x]), ys, **options))
                < TOLERANCE[dtype]
            )


@pytest.mark.parametrize("path", PATHS)
@in_turn("loss", LOSSES)
def test_a_sample_without_weight_is_not_looked_at(loss, path, dtype):
    net, theta, x, y, rng = case(path, loss, dtype)
    w = weights_of(rng, len(x), dtype)
    expected = cbk.risk(net, theta, x, y, loss=loss, sample_weight=w)
    if not takes_labels(loss):
        y[w == 0] = np.nan
    elif path not in ("knots", "lists"):
        x[w == 0] = np.nan
    np.testing.assert_array_equal(cbk.risk(net, theta, x, y, loss=loss, sample_weight=w), expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_nan_outputs_are_no_losses(loss):
    if takes_labels(loss):
        for row in ([np.nan, 1.0], [1.0, np.nan], [np.nan, np.nan], [np.nan]):
            if not fits(loss, len(row)):
                continue
            net, theta, x = outputs_of([row], "float64")
            net = cbk.TwoLayer(net.inputs, net.width, net.outputs, "identity", "none", output_bias=True)
            theta = np.concatenate([theta, np.array([row])], axis=1)
            for label in range(len(row)):
                assert np.isnan(cbk.risk(net, theta, np.zeros_like(x), np.array([label]), loss=loss)[0])


@pytest.mark.parametrize("loss", SLOPED)
def test_gradients_of_nan_particles_are_nan(loss, dtype):
    net, theta, x, y, _ = case("products", loss, dtype)
    whole = cbk.risk_gradient(net, theta, x, y, loss=loss)
    theta[1] = np.nan
    risk, gradient = cbk.risk_gradient(net, theta, x, y, loss=loss)
    assert np.isnan(risk[1])
    assert np.isnan(gradient[1]).all()
    np.testing.assert_array_equal(np.delete(gradient, 1, 0), np.delete(whole[1], 1, 0))


def test_a_wild_particle_has_a_finite_risk():
    # in float32 these losses' squares and products would be infinite
    net, theta, x = outputs_of([[3e37, -1e38]], "float32")
    y = np.zeros((1, 2), "f4")
    for loss, expected in (("mse", 9e74 + 1e76), ("mae", 1.3e38), (cbk.Huber(1e3), 1.3e41)):
        assert cbk.risk(net, theta, x, y, loss=loss)[0] == pytest.approx(expected, rel=1e-6)
        weighted = cbk.risk(net, theta, x, y, loss=loss, sample_weight=np.full(1, 3, "f4"))
        assert weighted[0] == pytest.approx(expected, rel=1e-6)


def test_the_weights_scale_does_not_matter(dtype):
    net, theta, x, y, rng = case("products", "mse", dtype)
    w = weights_of(rng, len(x), dtype)
    expected = cbk.risk(net, theta, x, y, sample_weight=w)
    for scale in (2.0**-60, 2.0**60):
        scaled = cbk.risk(net, theta, x, y, sample_weight=w * np.dtype(dtype).type(scale))
        np.testing.assert_array_equal(scaled, expected)


NET = cbk.TwoLayer(3, 5, 2)
THETA, X, Y = (np.zeros(shape, "f4") for shape in [(4, NET.size), (6, 3), (6, 2)])
LABELS = np.zeros(6, int)
CALLS = {
    "risk": lambda **options: cbk.risk(NET, THETA, X, **{"y": Y, **options}),
    "risk_gradient": lambda **options: cbk.risk_gradient(NET, THETA, X, **{"y": Y, **options}),
    "task_risks": lambda **options: cbk.task_risks(NET, THETA, X, options.pop("y", Y)[None], **options),
    "atom_risks": lambda **options: cbk.atom_risks(NET, THETA[0], THETA, X, **{"y": Y, **options}),
}


@pytest.mark.parametrize("function", CALLS)
@pytest.mark.parametrize(
    ("change", "error_type", "words"),
    [
        ({"sample_weight": np.ones(5, "f4")}, ValueError, ["sample_weight", "[6]", "[5]"]),
        ({"sample_weight": np.ones((6, 1), "f4")}, ValueError, ["sample_weight", "[6]", "[6, 1]"]),
        ({"sample_weight": np.ones(6)}, TypeError, ["sample_weight", "float32 as theta is", "float64"]),
        ({"sample_weight": np.ones(6, int)}, TypeError, ["sample_weight", "float32", "int64"]),
        (
            {"sample_weight": np.zeros(6, "f4")},
            ValueError,
            ["sample_weight", "not be 0 everywhere", "6 zeros"],
        ),
        (
            {"sample_weight": np.array([1, 1, -1, 1, 1, 1], "f4")},
            ValueError,
            ["not negative, got -1.0 at [2]"],
        ),
        ({"sample_weight": np.array([1, np.nan, 0, 1, 1, 1], "f4")}, ValueError, ["finite", "nan at [1]"]),
        ({"sample_weight": np.array([1, np.inf, 0, 1, 1, 1], "f4")}, ValueError, ["finite", "inf at [1]"]),
        ({"sample_weight": "balanced"}, TypeError, ["sample_weight", "array", "str"]),
        ({"loss": "logistic", "y": LABELS}, ValueError, ["logistic", "one output, got 2"]),
        ({"loss": "hinge"}, TypeError, ["y", "integers", "float32"]),
        ({"loss": "hinge", "y": LABELS + 2}, ValueError, ["y", "[0, 2)", "2 at"]),
        ({"loss": "mae", "y": LABELS}, ValueError, ["y", "int64", "say loss='cross_entropy'"]),
        ({"loss": cbk.Huber}, TypeError, ["loss", "got the class Huber"]),
    ],
)
def test_wrong_arguments_are_named(function, change, error_type, words):
    with pytest.raises(error_type) as caught:
        CALLS[function](**change)
    assert all(word in str(caught.value) for word in words), caught.value


def test_labels_of_one_output():
    net = cbk.TwoLayer(3, 5)
    theta = np.zeros((4, net.size), "f4")
    for loss in ("hinge", "logistic", "zero_one"):
        assert np.isfinite(cbk.risk(net, theta, X, np.array([0, 1, 0, 1, 1, 0]), loss=loss)).all()
        with pytest.raises(ValueError, match=r"integers in \[0, 2\).*got 2 at \[3\]"):
            cbk.risk(net, theta, X, np.array([0, 1, 0, 2, 1, 0]), loss=loss)
    with pytest.raises(ValueError, match=r"integers in \[0, 1\).*got 1 at \[1\]"):
        cbk.risk(net, theta, X, np.array([0, 1, 0, 1, 1, 0]), loss="cross_entropy")


def test_weights_may_be_a_list():
    net, theta, x, y, _ = case("direct", "mse", "float32")
    w = list(range(len(x)))
    expected = cbk.risk(net, theta, x, y, sample_weight=np.array(w, "f4"))
    np.testing.assert_array_equal(cbk.risk(net, theta, x, y, sample_weight=w), expected)


def test_what_has_no_gradient():
    words = "a gradient needs a loss among 'mse', .*'cross_entropy', got 'zero_one', which has none"
    velocity = np.zeros((1, 30), "f4")
    with pytest.raises(ValueError, match=words):
        cbk.risk_gradient(NET, THETA, X, LABELS, loss="zero_one")
    with pytest.raises(ValueError, match=words):
        cbk.langevin_step(NET, THETA[:1].copy(), velocity, X, LABELS, loss="zero_one")
    for method in (cbk.Adam(), cbk.Hybrid(), cbk.HeavyBall(), cbk.GradientFlow()):
        with pytest.raises(ValueError, match=words):
            cbk.train(NET, X, LABELS, method, loss="zero_one", epochs=1)


def test_parameters_are_checked():
    for wrong in (0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="delta"):
            cbk.Huber(wrong)
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="quantile"):
            cbk.Pinball(wrong)
    with pytest.raises(TypeError, match="delta"):
        cbk.Huber("1")
    with pytest.raises(TypeError, match="quantile"):
        cbk.Pinball(None)
    assert cbk.Huber(1) == cbk.Huber() != cbk.Huber(2)
    assert hash(cbk.Pinball(0.25)) == hash(cbk.Pinball(0.25))
