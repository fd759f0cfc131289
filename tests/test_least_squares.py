"""The least-squares drift of consensus hopping: its weights beside the reference, what it has to do with the
gradient, pairs that are not finite, blocks, threads, checkpoints, and what it refuses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from low_rank import KEY, problem

import cbokernels as cbk
from cbokernels import _cpu, reference


def fitted(net, risk, length, rank=1, single=False, threads=2, key=KEY):
    """Weights [P, M], ess [M], and the number of rows that are not finite."""
    risk, ess = risk.copy(), np.empty(net.width)
    bad = _cpu.fit_weights(net._kernel, rank, length, key, single, risk, ess, threads)
    return risk[: len(risk) // 2], ess, bad


def specified(net, risk, rank=1, batch=None):
    return reference.least_squares_weights(net, risk, rank=rank, batch=batch, seed=5, step=7)


@pytest.mark.parametrize(
    ("shape", "rank", "batch", "pairs"),
    [
        ((40, 33, 10, 15), 1, True, 50),
        ((40, 16, 1, 39), 1, True, 49),
        ((784, 20, 10, 100), 1, True, 100),
        ((120, 5, 3, 100), 1, False, 33),  # free
        ((40, 17, 3, 16), 3, True, 20),  # each neuron has a matrix of its own
        ((40, 9, 12, 16), 1, True, 13),  # and here too: no more pairs than numbers behind the first layer
        ((40, 9, 12, 16), 1, True, 14),
        ((40, 3, 2, 39), 1, True, 1),
        ((60, 70, 4, 50), 1, True, 256),
        ((30, 2, 40, 20), 1, True, 128),
    ],
)
def test_weights_are_the_references(shape, rank, batch, pairs, dtype):
    net, _, x, _, _ = problem(*shape, dtype)
    risk = np.random.default_rng(pairs).normal(size=(2 * pairs, net.width)) * 1e-3 + 2.3
    got, ess, bad = fitted(net, risk, len(x) if batch else net.inputs, rank, dtype == "float32")
    truth = specified(net, risk, rank, x if batch else None)
    error = np.linalg.norm(got - truth, axis=0)
    assert error.max() < (1e-4 if dtype == "float32" else 1e-11)
    np.testing.assert_allclose(np.linalg.norm(got, axis=0), 1, rtol=1e-12)
    assert (ess == 2 * pairs).all()
    assert bad == 0


@pytest.mark.parametrize("rank", [1, 2])
def test_a_pair_that_is_not_finite_leaves_the_others_as_if_it_was_not_drawn(rank, dtype):
    net, _, x, _, _ = problem(40, 21, 3, 30, dtype)
    single = dtype == "float32"
    risk = np.random.default_rng(1).normal(size=(60, 21))
    clean, _, _ = fitted(net, risk, 30, rank, single)
    risk[4, 2], risk[9, 2], risk[11, 20], risk[:, 7] = np.nan, np.inf, -np.inf, np.nan
    risk[20, 5], risk[21, 5] = -1.5e308, 1.5e308  # their difference is not finite
    got, ess, bad = fitted(net, risk, 30, rank, single)
    truth = specified(net, risk, rank, x)
    np.testing.assert_allclose(got, truth, atol=1e-4 if single else 1e-11)
    others = [m for m in range(21) if m not in (2, 5, 7, 20)]
    np.testing.assert_array_equal(got[:, others], clean[:, others])
    assert (got[[2, 4], 2] == 0).all()
    assert got[5, 20] == got[10, 5] == 0
    assert (got[:, 7] == 0).all()
    assert [ess[m] for m in (0, 2, 5, 7, 20)] == [60, 56, 58, 0, 58]
    assert bad == 60


def test_the_size_of_the_risks_does_not_matter(dtype):
    """Up to a power of two, to the last bit, from the least to the greatest numbers."""
    net, _, _, _, _ = problem(40, 21, 3, 30, dtype)
    risk = np.random.default_rng(1).normal(size=(60, 21))
    expected, _, _ = fitted(net, risk, 30, 1, dtype == "float32")
    for exponent in (-990, -400, 400, 1010):
        got, _, _ = fitted(net, np.ldexp(risk, exponent), 30, 1, dtype == "float32")
        np.testing.assert_array_equal(got, expected)
    tiny, _, _ = fitted(net, 5e-324 * np.round(8 * risk), 30, 1, dtype == "float32")
    rounded, _, _ = fitted(net, np.round(8 * risk), 30, 1, dtype == "float32")
    np.testing.assert_array_equal(tiny, rounded)


def test_equal_risks_do_not_move_the_centre():
    net, _, x, _, _ = problem(40, 21, 3, 30)
    got, ess, _ = fitted(net, np.full((60, 21), 0.7), 30)
    assert (got == 0).all()
    assert (ess == 60).all()
    center = np.zeros((1, net.size))
    center[0, net.width * net.inputs :][: net.width] = -1e3  # of all biases: no neuron ever is on
    method = cbk.ConsensusHopping(60, scope="atom", rank=1, directions="batch", spread=0.1, lr=0.1)
    result = cbk.train(net, x, np.ones((30, 3)), method, theta=center, epochs=2, dtype="float64")
    np.testing.assert_array_equal(result.particles, center)
    np.testing.assert_allclose(result.history["ess"], 60, rtol=1e-12)


def gradient_of(net, center, x, y, loss="mse", *, particles, rank=1, batch=True, fit=True, step=7, spread=0.1,
                threads=2):  # fmt: skip
    gradient = np.empty_like(center)
    told = _cpu.low_rank_gradient(
        net._kernel, center, particles, spread, True, (5, 0, step, 0), x, y, loss, rank, batch, True, 0.0,
        fit, gradient, threads,
    )  # fmt: skip
    return gradient, told


@pytest.mark.parametrize(("rank", "batch"), [(1, True), (1, False), (2, True)])
def test_the_drift_is_the_definitions(rank, batch):
    net, center, x, y, _ = problem(23, 11, 2, 15)
    got, told = gradient_of(net, center, x, y, particles=62, rank=rank, batch=batch)
    expected = reference.hopping_gradient(
        net, center, x, y, particles=62, scope="atom", rank=rank, directions="batch" if batch else "free",
        drift="least_squares", seed=5, step=7,
    )  # fmt: skip
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-10)
    assert told == (pytest.approx(62), 0, 0, batch)


def test_with_more_pairs_than_unknowns_the_drift_is_the_gradient():
    """Differences of pairs are linear in small noise. What fits them all is then the gradient itself, over
    the fit's weights of the layers."""
    rng = np.random.default_rng(2)
    net = cbk.TwoLayer(30, 4, 2, activation="tanh")
    x, y = rng.normal(size=(6, 30)), rng.normal(size=(6, 2))
    center = rng.normal(size=net.size)
    got, _ = gradient_of(net, center, x, y, particles=400, spread=1e-4)
    truth = reference.risk_gradient(net, center[None], x, y)[1][0]
    got[: net.width * net.inputs] /= 6
    got[net.width * net.inputs :] *= 0.1
    for m in range(net.width):
        own, of = got[net._atom_index == m], truth[net._atom_index == m]
        assert own @ of > 0.9995 * np.linalg.norm(own) * np.linalg.norm(of)


def test_the_drift_points_along_the_gradient():
    rng = np.random.default_rng(0)
    net = cbk.TwoLayer(300, 10, 4)
    center = net.uniform(1, seed=1, dtype="float64")[0]
    x, y = rng.normal(size=(60, 300)), rng.integers(0, 4, 60, np.int32)
    truth = net.unpack(reference.risk_gradient(net, center[None], x, y, loss="cross_entropy")[1][0])[0]

    def cosine(batch, fit):
        found = []
        for step in range(5):
            options = {"particles": 200, "step": step, "batch": batch, "fit": fit}
            own = net.unpack(gradient_of(net, center, x, y, "cross_entropy", **options)[0])[0]
            length = np.linalg.norm(own, axis=1) * np.linalg.norm(truth, axis=1)
            found.append(((own * truth).sum(axis=1) / length).mean())
        return np.mean(found)

    cosines = {(batch, fit): cosine(batch, fit) for batch, fit in itertools.product((True, False), repeat=2)}
    print(cosines)
    assert cosines[True, True] > 0.85
    assert cosines[True, True] > 1.3 * cosines[True, False]
    assert cosines[False, True] > 1.1 * cosines[False, False]


@pytest.mark.parametrize("directions", ["batch", "free"])
def test_more_pairs_than_are_fitted_together(directions, dtype):
    """1,200 particles make three blocks of 200 pairs; the drift is the mean of theirs."""
    net, center, x, y, _ = problem(40, 9, 2, 20, dtype)
    batch = x if directions == "batch" else None
    got, told = gradient_of(net, center, x, y, particles=1200, batch=directions == "batch")
    risk = np.empty((1200, 9))
    _cpu.low_rank_risks(
        net._kernel, center, 1200, 0.1, True, KEY, x, y, "mse", 1, directions == "batch", True, risk, 2
    )
    xi, drift = reference.hopping_noise(net, 600, rank=1, batch=batch, seed=5, step=7), 0.0
    for first in (0, 200, 400):
        own = slice(first, first + 200)
        weights = reference.least_squares_weights(
            net, risk[2 * first : 2 * first + 400], batch=batch, seed=5, step=7, first_particle=first
        )
        drift = drift + (weights[:, net._atom_index] * xi[own]).sum(axis=0) / 3
    np.testing.assert_allclose(-got, drift, rtol=1e-8, atol=1e-3 if dtype == "float32" else 1e-8)
    assert told[0] == pytest.approx(1200)


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("batch", [True, False])
def test_the_same_bits_for_any_number_of_threads(rank, batch, dtype):
    net, center, x, _, labels = problem(60, 37, 10, 50, dtype)
    found = []
    for threads in (1, 2, 8):
        gradient, told = gradient_of(
            net, center, x, labels, "cross_entropy", particles=130, rank=rank, batch=batch, threads=threads
        )
        found.append((told, gradient.tobytes()))
    assert found[0] == found[1] == found[2]


def test_draws_that_are_kept_and_drawn_again_have_the_same_weights(dtype):
    """Many neurons: their noise is drawn some draws at a time, and once more as a whole for the fit."""
    net, center, x, _, labels = problem(60, 400, 10, 50, dtype)
    got, _ = gradient_of(net, center, x, labels, "cross_entropy", particles=150)
    risk = np.empty((150, 400))
    _cpu.low_rank_risks(
        net._kernel, center, 150, 0.1, True, KEY, x, labels, "cross_entropy", 1, True, True, risk, 2
    )
    weights, drift = fitted(net, risk, 50, 1, dtype == "float32")[0], np.empty(net.size)
    _cpu.low_rank_drift(net._kernel, x, weights, KEY, 1, True, True, drift, 2)
    np.testing.assert_array_equal(got, (-drift).astype(dtype))


METHOD = cbk.ConsensusHopping(40, scope="atom", rank=1, directions="batch", spread=0.1, lr=0.05)


def digits(dtype="float32"):
    rng = np.random.default_rng(4)
    axes = rng.normal(size=(3, 200))
    y = rng.integers(0, 3, 600)
    return cbk.TwoLayer(200, 10, 3), (axes[y] + rng.normal(size=(600, 200)) * 2).astype(dtype), y


def test_it_learns_faster_than_the_mean(dtype):
    net, x, y = digits()
    risks = {}
    for drift in ("least_squares", "mean"):
        result = cbk.train(
            net, x, y, METHOD.set_params(drift=drift), epochs=3, batch_size=50, seed=0, dtype=dtype
        )
        risks[drift] = result.history["risk"][-1]
        assert result.method.drift == drift
    assert risks["least_squares"] < 0.7 * risks["mean"]


def test_auto_is_least_squares_where_there_are_differences_to_fit():
    net = cbk.TwoLayer(784, 20, 10)

    def chosen(net=net, **parameters):
        return cbk.ConsensusHopping(**parameters).resolved(net, 100).drift

    assert chosen() == chosen(rank=2) == chosen(drift="least_squares") == "least_squares"
    assert chosen(drift="mean") == chosen(mirrored=False) == chosen(rank=None) == "mean"
    assert chosen(scope="network") == chosen(weights=cbk.TargetEss(0.5)) == chosen(weights="int8") == "mean"
    assert chosen(cbk.TwoLayer(1, 20)) == chosen(cbk.TwoLayer(784, 20, 10, output_bias=True)) == "mean"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"mirrored": False}, "mirrored must be True for drift='least_squares', got False"),
        ({"scope": "network"}, "scope must be 'atom' for drift='least_squares', got 'network'"),
        ({"rank": None}, "rank must be an integer such as 1 for drift='least_squares', got None"),
        ({"weights": "int8"}, "weights must be 'rank' for drift='least_squares', got 'int8'"),
        ({"weights": cbk.TargetEss(0.5)}, "weights must be 'rank' for drift='least_squares', got Target"),
    ],
)
def test_what_least_squares_refuses(parameters, message):
    with pytest.raises(ValueError, match=message):
        cbk.ConsensusHopping(drift="least_squares", **parameters)


def test_what_least_squares_refuses_by_shape():
    method = cbk.ConsensusHopping(drift="least_squares")
    with pytest.raises(ValueError, match=r"expects a network without output_bias, got TwoLayer\(inputs=200"):
        method.resolved(cbk.TwoLayer(200, 2, output_bias=True), 100)
    x, y = np.eye(3, 200), np.ones(3)
    with pytest.raises(ValueError, match="drift must be 'mean' for a loss that is a Python function"):
        cbk.train(cbk.TwoLayer(200, 2), x, y, method, loss=lambda o, y: o.mean(axis=(1, 2)), epochs=1)
    with pytest.raises(ValueError, match="drift must be 'mean' for a function, got 'least_squares'"):
        cbk.minimize(lambda t: (t**2).sum(axis=1), np.zeros((1, 3)), method, steps=1)
    with pytest.raises(ValueError, match="drift must be one of"):
        cbk.ConsensusHopping(drift="gradient")
    with pytest.raises(TypeError, match="drift"):
        cbk.ConsensusHopping(drift=1)


@pytest.mark.parametrize("net", [cbk.TwoLayer(64, 20, 10), cbk.TwoLayer(10, 3), cbk.TwoLayer(200, 2)])
def test_least_squares_bring_scope_and_rank_along(net):
    method = cbk.ConsensusHopping(drift="least_squares").resolved(net, 50)
    assert (method.scope, method.rank, method.drift) == ("atom", 1, "least_squares")
    assert method.directions == ("batch" if net.inputs > 50 else "free")


@pytest.mark.filterwarnings("ignore:x is not scaled")
def test_a_step_without_a_finite_risk_is_an_error():
    net, x, _ = digits()
    center = np.full((1, net.size), 1e30, np.float32)
    with pytest.raises(
        cbk.ConsensusError, match=r"step 0: no particle has a finite risk at one of the neurons"
    ):
        cbk.train(net, x, np.ones((600, 3), np.float32), METHOD, theta=center, batch_size=100, epochs=1)


@pytest.mark.parametrize("drift", ["least_squares", "mean"])
def test_a_run_that_is_continued(drift, tmp_path):
    net, x, y = digits()
    method, path = METHOD.set_params(drift=drift), tmp_path / "run.npz"
    options = {"batch_size": 100, "seed": 3, "weight_decay": 0.1}
    whole = cbk.train(net, x, y, method, epochs=4, **options)
    cbk.train(net, x, y, method, epochs=2, checkpoint=path, **options)
    rest = cbk.train(net, x, y, method, epochs=4, checkpoint=path, resume=True, num_threads=1, **options)
    np.testing.assert_array_equal(rest.parameters, whole.parameters)
    np.testing.assert_array_equal(rest.history["risk"], whole.history["risk"])
    other = METHOD.set_params(drift="mean" if drift == "least_squares" else "least_squares")
    with pytest.raises(ValueError, match=r"drift is .* in the checkpoint and .* now"):
        cbk.train(net, x, y, other, epochs=5, checkpoint=path, resume=True, **options)


def test_plan_counts_the_fit():
    net = cbk.TwoLayer(784, 20, 10)
    mean, fit = (
        cbk.plan(net, 200, 100, method=METHOD.set_params(drift=drift)).cost
        for drift in ("mean", "least_squares")
    )
    # E E^T, its factor and inverse, and for each neuron L^-1 V, L^-T z, W^T W, W u and a small factor
    own = 100**2 // 2 * (12 + 1) + 100 * (12 * 13 // 2 + 11) + 11**3 // 6
    assert fit.multiply_adds - mean.multiply_adds == pytest.approx(
        100**2 // 2 * 100 + 2 * 100**3 // 6 + 20 * own, rel=2e-3
    )
    assert fit.normals == mean.normals
    assert mean.memory < fit.memory < mean.memory + 2e6
    many = cbk.plan(cbk.TwoLayer(784, 100, 10), 10**6, 100, method=METHOD).cost
    assert many.memory < 8e6


def test_what_the_kernels_refuse():
    net, center, x, y, _ = problem(40, 9, 2, 20)
    risk, ess = np.ones((20, 9)), np.empty(9)
    for wrong, message in (
        ({"rank": 0}, "rank must be in"),
        ({"length": 0}, "length must be at least 1"),
        ({"risk": risk[:19]}, "rows of pairs"),
        ({"risk": risk[:, :8].copy()}, r"risk has shape \[20, 8\]"),
        ({"ess": ess[:8].copy()}, r"ess has shape \[8\]"),
    ):
        given = {"rank": 1, "length": 20, "key": KEY, "single": False, "risk": risk, "ess": ess, **wrong}
        with pytest.raises(ValueError, match=message):
            _cpu.fit_weights(net._kernel, *given.values(), 1)
    gradient = np.empty_like(center)
    for mirrored, atoms in ((False, True), (True, False)):
        with pytest.raises(ValueError, match="a fit expects atoms and pairs"):
            _cpu.low_rank_gradient(
                net._kernel,
                center,
                20,
                0.1,
                mirrored,
                KEY,
                x,
                y,
                "mse",
                1,
                True,
                atoms,
                0.0,
                True,
                gradient,
                1,
            )
