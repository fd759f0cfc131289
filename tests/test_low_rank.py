"""Consensus hopping with noise of low rank: its numbers, its risks beside formed networks, its drift."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from low_rank import KEY, LOST, explicit, lost_differences, nearly_off, problem

import cbokernels as cbk
from cbokernels import _cpu, reference


def risks(net, center, particles, spread, x, y, loss, rank, batch, atoms, mirrored=True, threads=2):
    out = np.empty((particles, net.width if atoms else 1))
    _cpu.low_rank_risks(
        net._kernel, center, particles, spread, mirrored, KEY, x, y, loss, rank, batch, atoms, out, threads
    )
    return out


def test_the_numbers_of_the_noise():
    """Which counter words make signs, directions, biases and second layer."""
    net = cbk.TwoLayer(9, 70, 2, output_bias=True)
    x = np.random.default_rng(0).normal(size=(6, 9))
    first = net.width * net.inputs
    full = reference.standard_normal(3, net.size, seed=11, step=4)
    for batch, rank in itertools.product((None, x), (1, 3)):
        xi = reference.hopping_noise(net, 3, rank=rank, batch=batch, seed=11, step=4)
        np.testing.assert_array_equal(xi[:, first:], full[:, first:])
        matrices = xi[:, :first].reshape(3, 70, 9)
        assert [np.linalg.matrix_rank(m) for m in matrices] == [rank] * 3
        for p, k in itertools.product(range(3), range(rank)):
            words = [  # three words a sign vector of 70
                cbk.philox4x32(np.array([4, 4, p, w // 4], np.uint32), np.array([11, 0], np.uint32))[w % 4]
                for w in range(3 * k, 3 * k + 3)
            ]
            a = np.array([-1.0 if int(words[m // 32]) >> (m % 32) & 1 else 1.0 for m in range(70)])
            length = 9 if batch is None else 6
            b = cbk.standard_normal(3, rank * length, seed=11, step=4, stream=5, dtype="float64")
            b = b[p].reshape(rank, length)[k]
            if batch is not None:
                gram = x @ x.T
                lower = np.linalg.cholesky(gram + 1e-6 * np.trace(gram) / 6 * np.eye(6))
                b = x.T @ np.linalg.solve(lower.T, b)
            matrices[p] -= np.outer(a, b) / np.sqrt(rank)
        np.testing.assert_allclose(matrices, 0, atol=1e-12)


def test_directions_are_normals_projected_on_the_batch():
    net = cbk.TwoLayer(12, 2, 1)
    x = np.random.default_rng(1).normal(size=(4, 12))
    xi = reference.hopping_noise(net, 20_000, rank=1, batch=x, seed=3)
    rows = xi[:, :24].reshape(-1, 2, 12)[:, 0]
    projection = np.linalg.pinv(x) @ x
    np.testing.assert_allclose(rows @ projection, rows, atol=1e-4)
    np.testing.assert_allclose(rows.T @ rows / len(rows), projection, atol=0.05)  # five standard errors
    both = xi[:, :24].reshape(-1, 2, 12)
    np.testing.assert_allclose(np.einsum("pi,pj->ij", both[:, 0], both[:, 1]) / len(rows), 0, atol=0.05)


@pytest.mark.parametrize("atoms", [False, True])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize(
    ("shape", "rank", "batch", "more"),
    [
        ((1, 7, 2, 33), 1, False, {"activation": "sigmoid"}),
        ((5, 17, 3, 31), 2, False, {"activation": "tanh", "scaling": "none"}),
        ((40, 33, 10, 15), 1, True, {}),
        ((40, 70, 3, 16), 3, True, {"activation": "gelu"}),
        ((40, 5, 4, 17), 1, True, {"scaling": "none"}),
        ((70, 2, 12, 69), 1, True, {}),
    ],
)
@pytest.mark.parametrize("mirrored", [True, False])
def test_risks_are_those_of_perturbed_networks(shape, rank, batch, more, loss, atoms, mirrored, dtype):
    net, center, x, y, labels = problem(*shape, dtype, output_bias=not atoms, **more)
    target = labels if loss == "cross_entropy" else y
    arguments = (net, center, 22, 0.3, x, target, loss, rank, batch, atoms, mirrored)
    got, truth = risks(*arguments), explicit(*arguments)
    np.testing.assert_allclose(got, truth, rtol=1e-5 if dtype == "float32" else 1e-11)


@pytest.mark.parametrize("atoms", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "hinge", "mae"])
def test_other_losses_and_weights_of_samples(loss, atoms):
    net, center, x, y, labels = problem(40, 5, 4, 17)
    target = labels if loss in ("cross_entropy", "hinge") else y
    weights = np.arange(17.0) % 3
    for sample_weight in (None, weights):
        out = np.empty((20, 5 if atoms else 1))
        targets = target if sample_weight is None else (target, sample_weight)
        _cpu.low_rank_risks(net._kernel, center, 20, 0.3, True, KEY, x, targets, loss, 1, True, atoms, out, 2)
        xi = reference.hopping_noise(net, 10, rank=1, batch=x, seed=5, step=7)
        theta = np.stack([center + 0.3 * xi, center - 0.3 * xi], axis=1).reshape(20, -1)
        options = {"loss": loss, "sample_weight": sample_weight}
        if atoms:
            truth = reference.atom_risks(net, center, theta, x, target, **options)
        else:
            truth = reference.risk(net, theta, x, target, **options)[:, None]
        np.testing.assert_allclose(out, truth, rtol=1e-11)


@pytest.mark.parametrize("inputs", [127, 130, 199, 257, 300, 319])
def test_a_gram_matrix_in_parts_of_the_inputs(inputs):
    """Few threads multiply what they packed, many all that was packed: the bits are the same."""
    net, center, x, _, labels = problem(inputs, 3, 4, 70, "float32")
    arguments = (net, center, 12, 0.1, x, labels, "cross_entropy", 1, True, True)
    got = risks(*arguments)
    np.testing.assert_array_equal(risks(*arguments, threads=9), got)
    np.testing.assert_allclose(got, explicit(*arguments), rtol=1e-5)


@pytest.mark.parametrize("batch", [False, True])
def test_a_batch_in_several_chunks(batch):
    net, center, x, _, labels = problem(784, 3, 10, 700, "float32")
    arguments = (net, center, 4, 0.1, x, labels, "cross_entropy", 1, batch, True)
    np.testing.assert_allclose(risks(*arguments), explicit(*arguments), rtol=1e-5)


@pytest.mark.parametrize("size", [3e-4, 1.0, 30.0, 3e3])
def test_risks_of_sure_and_wild_networks(size):
    """Relatively exact however small a risk is, and beyond the range of the exponentials at hand."""
    net, center, x, _, _ = problem(30, 6, 4, 20, "float32", scaling="none")
    center *= np.float32(size)
    outputs = reference.forward(net, center[None], x)[0]
    sure = outputs.argmax(axis=1).astype(np.int32)
    xi = reference.hopping_noise(net, 10, rank=1, batch=x, seed=5, step=7)
    theta = np.stack([center + 0.05 * xi, center - 0.05 * xi], axis=1).reshape(20, -1)
    for labels in (sure, (sure + 1) % 4):
        got = risks(net, center, 20, 0.05, x, labels, "cross_entropy", 1, True, True)
        for m in range(net.width):
            g = reference.forward(net, np.where(net._atom_index == m, theta, center), x)
            others = np.delete(g, 0, axis=-1)  # the three that are no label's
            for s, label in enumerate(labels):
                others[:, s] = np.delete(g[:, s], label, axis=-1) - g[:, s, label, None]
            truth = np.logaddexp(0, np.logaddexp.reduce(others, axis=-1)).mean(axis=1)
            # float32 outputs of this size are rounded; what is below every normal number is 0
            np.testing.assert_allclose(got[:, m], truth, rtol=1e-5 + 4e-7 * np.abs(outputs).max(), atol=1e-36)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("spread", [1e-4, 3e-3, 0.02, 0.06, 0.3, 3.0])
def test_risks_of_small_and_large_changes(spread, activation, dtype):
    """Changes of an output from far below to far above what the polynomials are for; a neuron that is 0."""
    net, center, x, _, labels = problem(30, 6, 5, 70, dtype, activation=activation, scaling="none")
    center *= 0.3
    if activation == "relu":
        net.unpack(center[None])[1][0, 0] = -1e3  # a bias
    arguments = (net, center, 38, spread, x, labels, "cross_entropy", 1, True, True)
    got, truth = risks(*arguments), explicit(*arguments)
    np.testing.assert_allclose(got, truth, rtol=3e-6 if dtype == "float32" else 1e-11)
    if activation == "relu":
        np.testing.assert_array_equal(got[:, 0], got[0, 0])  # nothing moves it
    assert np.ptp(got[:, 1:]) > 0


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize(("rank", "batch"), [(1, False), (1, True), (2, True)])
@pytest.mark.parametrize("center_is", ["off", "on", "on where it does not count"])
@pytest.mark.parametrize("activation", ["relu", "step"])
def test_networks_whose_neuron_is_off_have_equal_risks(activation, center_is, rank, batch, mirrored, dtype):
    """They are the same function, whichever draws they stand beside, and ranks must not part them."""
    given = nearly_off(activation, center_is, rank, batch, mirrored, dtype)
    got = risks(*given.arguments, mirrored)
    given.check(got.reshape(len(given.off), -1, 7)[..., 0])


@pytest.mark.parametrize("spread", [0.003, 0.02, 0.05, 0.08, 0.12, 0.2])
@pytest.mark.parametrize("mirrored", [True, False])
def test_exponentials_of_small_changes(spread, mirrored):
    """Relative errors of risks that only they can make: the centre's outputs are 0, of one sample."""
    net, center, x, _, labels = problem(3, 1, 4, 1, "float32", scaling="none")
    center[:] = 0
    net.unpack(center[None])[1][0, 0] = 1  # the neuron's bias
    arguments = (net, center, 1000, spread, x, labels, "cross_entropy", 1, False, True, mirrored)
    np.testing.assert_allclose(risks(*arguments), explicit(*arguments), rtol=1.2e-6)


def test_a_particle_that_overflows_spoils_no_other():
    net, center, x, _, labels = problem(30, 6, 4, 20, "float32")
    wild = risks(net, center, 40, 3e38, x, labels, "cross_entropy", 1, True, True)
    assert not np.isfinite(wild).all()
    gradient = np.empty_like(center)
    told = _cpu.low_rank_gradient(
        net._kernel,
        center,
        40,
        3e38,
        True,
        KEY,
        x,
        labels,
        "cross_entropy",
        1,
        True,
        True,
        0.0,
        False,
        gradient,
        2,
    )
    assert told[2] == (~np.isfinite(wild)).any(axis=1).sum() > 0


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("case", LOST)
def test_outputs_whose_differences_are_lost(case, rank, dtype):
    """They are rounded by more than polynomials reach."""
    arguments, largest = lost_differences(*case, rank, dtype)
    assert risks(*arguments).max() <= 5 * largest + 1e-3


def test_a_neuron_that_is_far_off_and_moved_far():
    """The sum of two huge numbers of different signs, which without multiply-adds are infinite."""
    net, center, x, _, _ = problem(8, 12, 4, 1, "float32", scaling="none")
    net.unpack(center)[1][:] = np.linspace(-1e18, -9e19, 12)
    labels, spread = np.zeros(1, np.int32), np.float32(1e19)
    got = risks(net, center, 40, 1e19, x, labels, "cross_entropy", 1, False, True)
    xi = reference.hopping_noise(net, 20, rank=1, seed=5, step=7).astype("f4")
    theta = np.stack([center + spread * xi, center - spread * xi], axis=1).reshape(40, -1)
    formed = cbk.atom_risks(net, center, theta, x, labels, loss="cross_entropy")
    told = np.isfinite(formed)
    assert 0 < told.sum() < told.size
    np.testing.assert_allclose(got[told], formed[told], rtol=1e-3)
    assert not np.isfinite(got[~told]).any()


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("atoms", [True, False])
@pytest.mark.parametrize(("rank", "batch"), [(1, False), (1, True), (2, True)])
def test_the_drift_is_the_definitions(rank, batch, atoms, mirrored):
    net, center, x, y, _ = problem(23, 11, 2, 15)
    particles = 62 if mirrored else 61
    gradient = np.empty(net.size)
    *told, spanned = _cpu.low_rank_gradient(
        net._kernel,
        center,
        particles,
        0.1,
        mirrored,
        KEY,
        x,
        y,
        "mse",
        rank,
        batch,
        atoms,
        0.0,
        False,
        gradient,
        3,
    )
    expected = reference.hopping_gradient(
        net, center, x, y, particles=particles, spread=0.1, mirrored=mirrored, seed=5, step=7, rank=rank,
        scope="atom" if atoms else "network", directions="batch" if batch else "free",
    )  # fmt: skip
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-11)
    assert spanned == batch
    assert told[1:] == [0.0, 0]


def test_the_references_drift_of_full_rank_is_the_kernels():
    net, center, x, y, _ = problem(3, 11, 2, 15)
    gradient = np.empty(net.size)
    _cpu.hopping_gradient(
        net._kernel, center, 30, 0.1, True, KEY, x, y, "mse", net._atom_index, 0.0, gradient, 1
    )
    expected = reference.hopping_gradient(
        net, center, x, y, particles=30, seed=5, step=7, scope="atom", rank=None
    )
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("atoms", [True, False])
def test_many_draws_are_made_some_at_a_time(atoms):
    """More than are kept, and more than one block of weights where each neuron has its own."""
    net, center, x, y, _ = problem(40, 30, 1, 20)
    particles = 6000
    gradient = np.empty(net.size)
    _cpu.low_rank_gradient(
        net._kernel, center, particles, 0.1, True, KEY, x, y, "mse", 1, True, atoms, 0.0, False, gradient, 2
    )
    risk = risks(net, center, particles, 0.1, x, y, "mse", 1, True, atoms)
    xi = reference.hopping_noise(net, particles // 2, rank=1, batch=x, seed=5, step=7)
    columns = net._atom_index if atoms else np.zeros(net.size, int)
    blocks = -(-particles // (2**17 // 30)) if atoms else 1
    bounds = [b * (particles // 2) // blocks for b in range(blocks + 1)]
    drift = np.zeros(net.size)
    for first, last in itertools.pairwise(bounds):
        pairs = risk[2 * first : 2 * last].reshape(last - first, 2, -1)
        weights = reference.rank_weights(np.concatenate([pairs[:, 0], pairs[:, 1]]))
        difference = weights[: last - first] - weights[last - first :]
        drift += (last - first) / (particles // 2) * (difference[:, columns] * xi[first:last]).sum(axis=0)
    np.testing.assert_allclose(gradient, -drift, rtol=1e-8, atol=1e-10)
    assert blocks == (2 if atoms else 1)


@pytest.mark.parametrize("atoms", [True, False])
@pytest.mark.parametrize("batch", [True, False])
def test_the_same_bits_for_any_number_of_threads(atoms, batch, dtype):
    net, center, x, _, labels = problem(60, 37, 10, 50, dtype)
    found = []
    for threads in (1, 2, 5):
        gradient = np.empty_like(center)
        told = _cpu.low_rank_gradient(
            net._kernel, center, 130, 0.1, True, KEY, x, labels, "cross_entropy", 2, batch, atoms, 0.5,
            False, gradient, threads,
        )  # fmt: skip
        found.append((told, gradient.tobytes()))
    assert found[0] == found[1] == found[2]


def test_directions_in_the_batchs_span_point_along_the_gradient():
    """Cosines of the drift with the negative gradient, means over steps: as in METHODS' order."""
    rng = np.random.default_rng(0)
    net = cbk.TwoLayer(300, 10, 4)
    center = net.uniform(1, seed=1, dtype="float64")[0]
    x, y = rng.normal(size=(50, 300)), rng.integers(0, 4, 50, np.int32)
    gradient = reference.risk_gradient(net, center[None], x, y, loss="cross_entropy")[1][0]
    cosines = {}
    for atoms, batch in itertools.product((False, True), (False, True)):
        found = []
        for step in range(10):
            own = np.empty_like(center)
            key = (5, 0, step, 0)
            _cpu.low_rank_gradient(
                net._kernel, center, 200, 0.01, True, key, x, y, "cross_entropy", 1, batch, atoms, 0.0, False,
                own, 2,
            )  # fmt: skip
            found.append(own @ gradient / np.linalg.norm(own) / np.linalg.norm(gradient))
        cosines[atoms, batch] = np.mean(found)
    assert cosines[False, True] > 1.5 * cosines[False, False] > 0.1
    assert cosines[True, True] > 1.5 * cosines[True, False] > 0.3
    assert cosines[True, True] > 1.5 * cosines[False, True]


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(1e-29, "float32"), (1e-36, "float32"), (1e-140, "float64"), (1e-160, "float64"), (1e150, "float64"),
     (1e200, "float64")],
)  # fmt: skip
def test_noise_of_small_and_large_inputs_is_the_references(size, dtype):
    """In the span or free: b does not depend on the size of the inputs."""
    net, _, x, _, _ = problem(40, 3, 2, 12)
    x = (x * size).astype(dtype)
    weights = np.random.default_rng(1).normal(size=(9, 1))
    got = np.empty(net.size)
    _cpu.low_rank_drift(net._kernel, x, weights, KEY, 1, True, False, got, 2)
    xi = reference.hopping_noise(net, 9, rank=1, batch=x, seed=5, step=7)
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(got, (weights * xi).sum(axis=0), atol=tolerance * np.abs(got).max())
