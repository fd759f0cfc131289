"""Consensus hopping with noise of low rank on CUDA kernels, beside formed networks and the CPU's steps."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from libraries import array, host, put
from low_rank import KEY, LOST, explicit, lost_differences, nearly_off, problem

import cbokernels as cbk
from cbokernels import _cpu, reference

RUN = (0, 0, "float32")
EXACT = {"float32": 1e-5, "float64": 1e-11}


def risks(cuda, net, center, particles, spread, x, y, loss, rank, batch, atoms, mirrored=True, weights=None):
    out = put(np.full((particles, net.width if atoms else 1), np.nan))
    c, inputs, targets = (array(put(a)) for a in (center, x, y))
    on = targets if weights is None else (targets, array(put(weights)))
    cuda.low_rank_risks(
        net._kernel,
        c,
        particles,
        spread,
        mirrored,
        KEY,
        inputs,
        on,
        loss,
        rank,
        batch,
        atoms,
        array(out),
        RUN,
    )
    return host(out)


SHAPES = [
    ((1, 7, 2, 33), 1, False, {"activation": "sigmoid"}),
    ((5, 17, 3, 131), 2, False, {"activation": "tanh", "scaling": "none"}),
    ((40, 33, 10, 15), 1, True, {}),
    ((40, 35, 3, 16), 3, True, {"activation": "gelu"}),
    ((70, 2, 12, 69), 1, True, {}),
]


@pytest.mark.parametrize("atoms", [False, True])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize(("shape", "rank", "batch", "more"), SHAPES)
@pytest.mark.parametrize("mirrored", [True, False])
def test_risks_are_those_of_perturbed_networks(cuda, shape, rank, batch, more, loss, atoms, mirrored, dtype):
    net, center, x, y, labels = problem(*shape, dtype, output_bias=not atoms, **more)
    target = labels if loss == "cross_entropy" else y
    arguments = (net, center, 6, 0.3, x, target, loss, rank, batch, atoms, mirrored)
    truth = explicit(*arguments, opposites_last=True)
    np.testing.assert_allclose(risks(cuda, *arguments), truth, rtol=EXACT[dtype])


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize(("rank", "batch"), [(1, False), (2, True)])
@pytest.mark.parametrize("center_is", ["off", "on", "on where it does not count"])
def test_networks_whose_neuron_is_off_have_equal_risks(cuda, center_is, rank, batch, mirrored, dtype):
    given = nearly_off("relu", center_is, rank, batch, mirrored, dtype)
    net, center, particles, spread, x, (labels, weights), *kind = given.arguments
    weighted = weights if weights.min() == 0 else None
    got = risks(cuda, net, center, particles, spread, x, labels, *kind, mirrored, weighted)
    given.check(got.reshape(-1, len(given.off), 7)[..., 0].T)


@pytest.mark.parametrize("atoms", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "hinge", "mae"])
def test_other_losses_and_weights_of_samples(cuda, loss, atoms):
    net, center, x, y, labels = problem(40, 5, 4, 17)
    target = labels if loss in ("cross_entropy", "hinge") else y
    weights = np.arange(17.0) % 3
    xi = reference.hopping_noise(net, 3, rank=1, batch=x, seed=5, step=7)
    theta = np.concatenate([center + 0.3 * xi, center - 0.3 * xi])
    options = {"loss": loss, "sample_weight": weights}
    if atoms:
        truth = reference.atom_risks(net, center, theta, x, target, **options)
    else:
        truth = reference.risk(net, theta, x, target, **options)[:, None]
    arguments = (net, center, 6, 0.3, x, target, loss, 1, True, atoms)
    np.testing.assert_allclose(risks(cuda, *arguments, weights=weights), truth, rtol=1e-11)


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("case", LOST)
def test_outputs_whose_differences_are_lost(cuda, case, rank, dtype):
    arguments, largest = lost_differences(*case, rank, dtype)
    assert risks(cuda, *arguments).max() <= 5 * largest + 1e-3


@pytest.mark.parametrize("size", [3e-4, 1.0, 30.0, 3e3])
def test_risks_of_sure_and_wild_networks_are_the_cpus(cuda, size):
    """Relatively exact however small a risk is, and beyond the exponents whose powers need no care."""
    net, center, x, _, _ = problem(30, 6, 4, 20, "float32", scaling="none")
    center *= np.float32(size)
    outputs = reference.forward(net, center[None], x)[0]
    sure = outputs.argmax(axis=1).astype(np.int32)
    for labels in (sure, (sure + 1) % 4):
        own = np.empty((10, net.width))
        _cpu.low_rank_risks(
            net._kernel, center, 10, 0.05, True, KEY, x, labels, "cross_entropy", 1, True, True, own, 1
        )
        truth = np.concatenate([own[::2], own[1::2]])
        got = risks(cuda, net, center, 10, 0.05, x, labels, "cross_entropy", 1, True, True)
        np.testing.assert_allclose(got, truth, rtol=1e-5 + 4e-7 * np.abs(outputs).max(), atol=1e-24)


@pytest.mark.parametrize("atoms", [False, True])
def test_more_outputs_than_shared_memory_holds(cuda, atoms):
    net, center, x, _, labels = problem(9, 3, 150, 5)
    arguments = (net, center, 4, 0.3, x, labels, "cross_entropy", 1, True, atoms)
    np.testing.assert_allclose(
        risks(cuda, *arguments), explicit(*arguments, opposites_last=True), rtol=EXACT["float64"]
    )


@pytest.mark.parametrize("label", [-1, 4])
@pytest.mark.parametrize("atoms", [False, True])
def test_labels_out_of_range_make_the_risk_nan(cuda, label, atoms):
    net, center, x, _, labels = problem(30, 6, 4, 20, "float32")
    labels[3] = label
    got = risks(cuda, net, center, 4, 0.05, x, labels, "cross_entropy", 1, True, atoms)
    assert np.isnan(got).all()


@pytest.mark.parametrize(("atoms", "spread"), [(False, 3e18), (True, 1e19)])
def test_a_particle_that_overflows_spoils_no_other(cuda, atoms, spread):
    """The opposites and the other draws share a block with it."""
    net, center, x, _, labels = problem(30, 6, 4, 20, "float32", activation="identity")
    arguments = (x, labels, "cross_entropy", 1, True, atoms)
    wild = risks(cuda, net, center, 40, spread, *arguments)
    own = np.empty_like(wild)
    _cpu.low_rank_risks(
        net._kernel, center, 40, spread, True, KEY, x, labels, "cross_entropy", 1, True, atoms, own, 1
    )
    finite = np.isfinite(wild)
    np.testing.assert_array_equal(finite, np.isfinite(np.concatenate([own[::2], own[1::2]])))
    assert finite.any()
    assert not finite.all()


def drift(module, net, x, weights, rank, batch, atoms, run, on=lambda a: a):
    out = on(np.empty(net.size))
    arrays = [array(on(a)) if run == RUN else a for a in (x, weights)]
    module.low_rank_drift(
        net._kernel, *arrays, KEY, rank, batch, atoms, array(out) if run == RUN else out, run
    )
    return host(out) if run == RUN else out


@pytest.mark.parametrize("atoms", [True, False])
@pytest.mark.parametrize("rank", [1, 4])
def test_the_noise_has_the_cpus_bits(cuda, rank, atoms, dtype):
    """One draw's weight is 1: the sums are its noise, whose factors are +-1 and +-1/2."""
    net, _, x, _, _ = problem(13, 70, 3, 6, dtype, output_bias=not atoms)
    for draw in range(3):
        weights = np.zeros((3, 70 if atoms else 1))
        weights[draw] = 1
        arguments = (net, x, weights, rank, False, atoms)
        got = drift(cuda, *arguments, RUN, put)
        np.testing.assert_array_equal(got, drift(_cpu, *arguments, 1))
        if rank == 1:  # so that it cannot be wrong on both
            first = net.width * net.inputs
            a = got[:first].reshape(70, 13)
            b = cbk.standard_normal(3, 13, seed=5, step=7, stream=5, dtype=dtype)[draw]
            np.testing.assert_array_equal(np.abs(a), np.abs(np.tile(b, (70, 1))))
            rest = cbk.standard_normal(3, net.size, seed=5, step=7, dtype=dtype)[draw, first:]
            np.testing.assert_array_equal(got[first:], rest)


@pytest.mark.parametrize("atoms", [True, False])
@pytest.mark.parametrize("samples", [15, 112])  # in shared memory, and beyond
def test_the_drift_in_the_span_is_the_cpus(cuda, samples, atoms, dtype):
    net, _, x, _, _ = problem(130, 3, 2, samples, dtype)
    weights = np.random.default_rng(1).normal(size=(7, 3 if atoms else 1))
    arguments = (net, x, weights, 2, True, atoms)
    got, expected = drift(cuda, *arguments, RUN, put), drift(_cpu, *arguments, 1)
    rtol = 1e-5 if dtype == "float32" else 1e-11
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol * np.abs(expected).max())
    xi = reference.hopping_noise(net, 7, rank=2, batch=x, seed=5, step=7)
    truth = (weights[:, net._atom_index if atoms else np.zeros(net.size, int)] * xi).sum(axis=0)
    rtol = 2e-4 if dtype == "float32" else 1e-9
    np.testing.assert_allclose(got, truth, rtol=rtol, atol=rtol * np.abs(truth).max())


@pytest.mark.parametrize("batch", [True, False])
def test_the_order_of_threads_is_free(emulated, batch):
    net, center, x, _, labels = problem(40, 5, 3, 17, "float32")
    weights = np.random.default_rng(1).normal(size=(4, 5))

    def results():
        own = risks(emulated.module, net, center, 8, 0.1, x, labels, "cross_entropy", 2, batch, True)
        other = risks(emulated.module, net, center, 8, 0.1, x, labels, "cross_entropy", 2, batch, False)
        return own, other, drift(emulated.module, net, x, weights, 2, batch, True, RUN, put)

    expected = results()
    try:
        for order in (1, 2, 3):
            emulated.module.set_order(order)
            for got, wanted in zip(results(), expected, strict=True):
                np.testing.assert_array_equal(got, wanted)
    finally:
        emulated.module.set_order(0)


METHODS = {
    f"{scope}, rank {rank}, {directions}": cbk.ConsensusHopping(
        10, scope=scope, rank=rank, directions=directions, spread=0.1, lr=cbk.Exponential(0.1, 0.01)
    )
    for scope, rank, directions in itertools.product(("atom", "network"), (1, 2), ("free", "batch"))
}
METHODS["single"] = cbk.ConsensusHopping(7, mirrored=False, scope="atom", rank=1, directions="batch")
METHODS["ess"] = cbk.ConsensusHopping(10, weights=cbk.TargetEss(0.5), rank=1, directions="batch")


def data(dtype="float64", samples=23):
    net, _, x, y, labels = problem(12, 5, 3, samples, dtype)
    return net, x, y, labels


def both(net, x, y, method, **keywords):
    keywords = {"epochs": 3, "batch_size": 9, "dtype": "float64", "seed": 3, **keywords}
    return [cbk.train(net, x, y, method, device=device, **keywords) for device in ("cuda", "cpu")]


def assert_close(got, expected, rtol=1e-8):
    assert list(got.history) == list(expected.history)
    np.testing.assert_allclose(got.parameters, expected.parameters, rtol=rtol, atol=rtol)
    for name, column in expected.history.items():
        if name != "seconds":
            np.testing.assert_allclose(got.history[name], column, rtol=rtol, atol=rtol, err_msg=name)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("loss", ["labels", "values"])
def test_runs_are_the_cpus(cuda, name, loss):
    net, x, y, labels = data()
    assert_close(*both(net, x, labels if loss == "labels" else y, METHODS[name], weight_decay=0.3))


@pytest.mark.parametrize("batch_size", [None, 2])
def test_runs_in_one_batch_and_in_several_graphs(cuda, batch_size):
    net, x, _, labels = data(samples=11 if batch_size is None else 135)
    method = METHODS["atom, rank 1, batch"]
    assert_close(*both(net, x, labels, method, batch_size=batch_size, epochs=2))


def test_only_the_last_batch_has_a_span(cuda):
    net, x, _, labels = data()
    with pytest.warns(cbk.CboWarning, match="fewer samples in a minibatch than inputs"):
        assert_close(*both(net, x, labels, METHODS["atom, rank 1, batch"], batch_size=20))


def test_it_weighs_in_blocks(cuda):
    net, center, x, y, _ = problem(6, 512, 1, 1)
    method = cbk.ConsensusHopping(258, scope="atom", rank=1, directions="batch")
    assert_close(*both(net, x, y, method, batch_size=None, epochs=1, theta=center[None]))


def test_float32(cuda):
    net, x, _, labels = data()
    got, expected = both(net, x, labels, METHODS["atom, rank 1, batch"], dtype="float32")
    assert_close(got, expected, rtol=2e-4)


@pytest.mark.filterwarnings("ignore:x is not scaled")
@pytest.mark.parametrize(("size", "samples"), [(1, 30), (0, 9), (1e-36, 9), (1e-42, 9)])
def test_directions_are_free_where_there_is_no_span_and_that_is_said_once(cuda, size, samples):
    net, x, _, labels = data(samples=60)
    x *= size
    method = METHODS["atom, rank 1, batch"]
    free = cbk.ConsensusHopping(**{**method.get_params(), "directions": "free"})
    options = {"epochs": 3, "batch_size": samples, "seed": 1, "dtype": "float32", "device": "cuda"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="x is not scaled")
        expected = cbk.train(net, x, labels, free, **options)
    with pytest.warns(cbk.CboWarning, match="fewer samples in a minibatch than inputs") as caught:
        got = cbk.train(net, x, labels, method, **options)
    said = [w.filename for w in caught if "fewer samples" in str(w.message)]
    assert said == [__file__]
    np.testing.assert_array_equal(got.parameters, expected.parameters)


def test_a_run_that_is_continued(cuda, tmp_path):
    net, x, _, labels = data()
    method = cbk.ConsensusHopping(**{**METHODS["atom, rank 1, batch"].get_params(), "lr": 0.05})
    options = {"batch_size": 9, "seed": 3, "weight_decay": 0.1, "standardize": True, "device": "cuda"}
    whole = cbk.train(net, x, labels, method, epochs=6, **options)
    saved = {"checkpoint": tmp_path / "run.npz", "every": 1}
    cbk.train(net, x, labels, method, epochs=4, **saved, **options)
    rest = cbk.train(net, x, labels, method, epochs=6, resume=True, **saved, **options)
    np.testing.assert_array_equal(rest.parameters, whole.parameters)
    np.testing.assert_array_equal(rest.history["risk"], whole.history["risk"])


def assert_ends_without_a_finite_risk(method):
    """With the same words as the CPU's run."""
    net, x, _, labels = data()
    options = {"theta": np.full((1, net.size), 1e300), "dtype": "float64", "epochs": 1, "batch_size": 9}
    messages = []
    for device in ("cpu", "cuda"):
        with pytest.raises(cbk.ConsensusError, match="step 0: no particle has a finite risk") as error:
            cbk.train(net, x, labels, method, device=device, **options)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_networks_without_a_finite_risk_are_not_weighted(cuda):
    assert_ends_without_a_finite_risk(METHODS["network, rank 1, batch"])


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_precisions_that_it_has_not(cuda, precision):
    net, x, _, labels = data()
    with pytest.raises(ValueError, match="precision must be 'float32' for rank=1, got"):
        cbk.train(
            net, x, labels, METHODS["network, rank 1, batch"], device="cuda", precision=precision, epochs=1
        )
