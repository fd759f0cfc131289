"""Losses that are Python functions, against built-in ones of the same formula, also in training."""

from __future__ import annotations

import numpy as np
import pytest
from own_losses import IN_PYTHON, log_cosh, mse, poisson

import cbokernels as cbk
from cbokernels import _own_losses

RNG = np.random.default_rng(7)
X = RNG.uniform(-1, 1, (70, 3))
TARGETS = {
    ("mse", 1): RNG.normal(size=70),
    ("mse", 4): RNG.normal(size=(70, 4)),
    ("cross_entropy", 4): RNG.integers(0, 4, 70),
}
METHODS = {
    "CBO": cbk.CBO(particles=20, alpha=10),
    "friction": cbk.CBO(particles=20, alpha=10, friction=1.0),
    "particle batch": cbk.CBO(particles=20, alpha=10, particle_batch=8),
    "hopping": cbk.ConsensusHopping(particles=20, weights=cbk.TargetEss(0.5)),
    "single draws": cbk.ConsensusHopping(particles=15, mirrored=False, weights=cbk.TargetEss(0.5)),
    "atoms": cbk.ConsensusHopping(particles=20, scope="atom", weights=cbk.TargetEss(0.5)),
    "transport": cbk.TransportCBO(particles=10, alpha=10),
}


def problem(outputs, dtype, particles=9):
    net = cbk.TwoLayer(3, 6, outputs, activation="tanh")
    return net, net.uniform(particles, seed=1, dtype=dtype), X.astype(dtype)


def cast(y, dtype):
    return y if y.dtype.kind == "i" else y.astype(dtype)


@pytest.mark.parametrize("case", TARGETS, ids=str)
def test_risks_are_those_of_the_built_in_loss(case, dtype, monkeypatch):
    loss, outputs = case
    net, theta, x = problem(outputs, dtype)
    y, rel = cast(TARGETS[case], dtype), 2e-6 if dtype == "float32" else 1e-13
    found = cbk.risk(net, theta, x, y, loss=IN_PYTHON[loss])
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, cbk.risk(net, theta, x, y, loss=loss), rtol=rel)
    np.testing.assert_allclose(found, cbk.reference.risk(net, theta, x, y, loss=IN_PYTHON[loss]), rtol=rel)
    ys = np.stack([y, y[::-1]])
    tasks = cbk.task_risks(net, theta, x, ys, loss=IN_PYTHON[loss])
    np.testing.assert_array_equal(tasks[:, 0], found)
    np.testing.assert_allclose(tasks, cbk.task_risks(net, theta, x, ys, loss=loss), rtol=rel)
    own = np.stack([x, x[::-1]])
    np.testing.assert_allclose(
        cbk.task_risks(net, theta, own, ys, loss=IN_PYTHON[loss]), np.stack([found, found], axis=1), rtol=rel
    )
    np.testing.assert_allclose(
        cbk.atom_risks(net, theta[0], theta, x, y, loss=IN_PYTHON[loss]),
        cbk.atom_risks(net, theta[0], theta, x, y, loss=loss),
        rtol=20 * rel,
    )
    again = cbk.risk(net, theta, x, y, loss=IN_PYTHON[loss], num_threads=3)
    np.testing.assert_array_equal(again, found)
    for block in (1, 500):  # outputs at a time; NumPy's sums depend on the array's strides
        monkeypatch.setattr(_own_losses, "_BLOCK", block)
        again = cbk.risk(net, theta, x, y, loss=IN_PYTHON[loss])
        np.testing.assert_allclose(again, found, rtol=rel / 10)


def test_memory_is_bounded(monkeypatch):
    net, theta, x = problem(4, "float32", particles=50)
    sizes = []

    def loss(outputs, y):
        sizes.append(outputs.size)
        return mse(outputs, y)

    monkeypatch.setattr(_own_losses, "_BLOCK", 1000)
    cbk.risk(net, theta, x, TARGETS["mse", 4].astype("f4"), loss=loss)
    cbk.atom_risks(net, theta[0], theta, x, TARGETS["mse", 4].astype("f4"), loss=loss)
    cbk.train(net, X, TARGETS["mse", 4], cbk.ConsensusHopping(particles=50), loss=loss, epochs=1)
    assert max(sizes) <= 1000
    assert sum(sizes) == (50 + 50 * 6 + 50 + 1) * 70 * 4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", TARGETS, ids=str)
def test_training_goes_where_the_built_in_loss_leads(case, method, monkeypatch):
    loss, outputs = case
    net = cbk.TwoLayer(3, 6, outputs, activation="tanh")
    run = {
        "epochs": 3,
        "batch_size": 32,
        "seed": 5,
        "dtype": "float64",
        "weight_decay": 0.01,
        "validation": (X[:20], TARGETS[case][:20]),
    }
    monkeypatch.setattr(_own_losses, "_BLOCK", 3000)
    own, built_in = (
        cbk.train(net, X, TARGETS[case], METHODS[method], loss=given, **run)
        for given in (IN_PYTHON[loss], loss)
    )
    np.testing.assert_allclose(own.particles, built_in.particles, rtol=1e-6, atol=1e-9)
    for column in ("risk", "validation_risk", "ess"):
        np.testing.assert_allclose(own.history[column], built_in.history[column], rtol=1e-6)
    again = cbk.train(net, X, TARGETS[case], METHODS[method], loss=IN_PYTHON[loss], num_threads=3, **run)
    np.testing.assert_array_equal(again.particles, own.particles)


@pytest.mark.parametrize("threads", [1, 3])
def test_minibatches_that_threads_gather_are_those_of_one_step_after_another(threads):
    """More rows than a thread gathers at a time, the last batch shorter; a Python loss gathers in NumPy."""
    rng = np.random.default_rng(5)
    net = cbk.TwoLayer(300, 3, 2)
    x, y = rng.normal(size=(130, 300)), rng.normal(size=(130, 2))
    run = {"epochs": 2, "batch_size": 50, "seed": 3, "dtype": "float64", "num_threads": threads}
    method = cbk.ConsensusHopping(particles=20, rank=None, directions="free", scope="atom")
    own, built_in = (cbk.train(net, x, y, method, loss=given, **run) for given in (IN_PYTHON["mse"], "mse"))
    np.testing.assert_allclose(own.parameters, built_in.parameters, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("own", [False, True])
def test_several_tasks(own):
    net, ys = cbk.TwoLayer(3, 6), RNG.normal(size=(3, 70))
    x = np.stack([X, X[::-1], X + 0.1]) if own else X
    run = {"epochs": 3, "batch_size": 32, "dtype": "float64"}
    method = cbk.MultiTaskCBO(particles=30, alpha=10)
    results = [cbk.train(net, x, ys, method, loss=loss, **run) for loss in (mse, "mse")]
    np.testing.assert_allclose(results[0].particles, results[1].particles, rtol=1e-7)
    np.testing.assert_allclose(results[0].history["risk"], results[1].history["risk"], rtol=1e-7)


def test_a_loss_that_is_not_built_in():
    """Rates of Poisson's law: the risk is least at the true ones."""
    x = RNG.uniform(-1, 1, (600, 1))
    rates = np.exp(0.7 + 0.8 * x[:, 0])
    counts = np.random.default_rng(0).poisson(rates)
    net = cbk.TwoLayer(1, 20)
    result = cbk.train(net, x, counts, cbk.ConsensusHopping(), loss=poisson, epochs=200, seed=1)
    least = poisson(np.log(rates)[None, :, None], counts)[0]
    assert result.history["risk"][-1] < least + 0.01
    assert np.corrcoef(result.predict(x)[:, 0], np.log(rates))[0, 1] > 0.95


@pytest.mark.parametrize(
    "method",
    [cbk.Adam(), cbk.Hybrid(particles=5), cbk.HeavyBall(), cbk.GradientFlow()],
    ids=lambda m: type(m).__name__,
)
def test_gradients_are_refused(method):
    net, theta, x = problem(1, "float32")
    with pytest.raises(ValueError, match=r"a gradient needs a loss among 'mse'.*Python function .*mse"):
        cbk.train(net, X, TARGETS["mse", 1], method, loss=mse, epochs=1)
    with pytest.raises(ValueError, match="a gradient needs a loss"):
        cbk.risk_gradient(net, theta, x, TARGETS["mse", 1].astype("f4"), loss=mse)
    with pytest.raises(ValueError, match="a gradient needs a loss"):
        cbk.langevin_step(net, theta, np.zeros_like(theta), x, TARGETS["mse", 1].astype("f4"), loss=mse)


@pytest.mark.parametrize(
    ("loss", "kind", "message"),
    [
        (lambda g, y: g, ValueError, r"must have shape \[9\] for outputs \[9, 70, 1\], got \[9, 70, 1\]"),
        (lambda g, y: 1.0, ValueError, r"must have shape \[9\].* got \[\]"),
        (lambda g, y: np.ones(8), ValueError, r"must have shape \[9\].* got \[8\]"),
        (lambda g, y: np.ones(9, complex), TypeError, "must hold real numbers, got complex128"),
        (lambda g, y: None, TypeError, "the result of loss must be an array"),
        (lambda g, y: y.fill(0), ValueError, "read-only"),
        (lambda g, y: {}["here"], KeyError, "here"),
        (3, TypeError, r"loss must be one of 'mse'.* cbokernels.Huber .* a function .* got 3 \(int\)"),
        ("l1", ValueError, "loss must be one of 'mse'.* cbokernels.Huber or cbokernels.Pinball.* got 'l1'"),
        (cbk.Huber, TypeError, "got the class Huber"),
    ],
)
def test_wrong_losses(loss, kind, message):
    net, theta, x = problem(1, "float32")
    with pytest.raises(kind, match=message):
        cbk.risk(net, theta, x, TARGETS["mse", 1].astype("f4"), loss=loss)


def test_weights_are_refused():
    net, theta, x = problem(1, "float32")
    weights = np.ones(70, "f4")
    with pytest.raises(ValueError, match=r"sample_weight must be None .* got the Python function .*mse"):
        cbk.risk(net, theta, x, TARGETS["mse", 1].astype("f4"), loss=mse, sample_weight=weights)
    with pytest.raises(ValueError, match="sample_weight must be None"):
        cbk.train(net, X, TARGETS["mse", 1], METHODS["CBO"], loss=mse, sample_weight=weights, epochs=1)


def test_low_rank_is_refused():
    net, method = cbk.TwoLayer(3, 6), cbk.ConsensusHopping(rank=1)
    with pytest.raises(ValueError, match="rank must be None for a loss that is a Python function, got 1"):
        cbk.train(net, X, TARGETS["mse", 1], method, loss=mse, epochs=1)


def test_labels_that_are_not_exact_are_refused():
    net, theta, x = problem(1, "float32")
    with pytest.raises(ValueError, match=r"y must hold integers of at most 16777216 .* got 16777217"):
        cbk.risk(net, theta, x, np.full(70, 2**24 + 1), loss=poisson)


def test_nan_is_a_risk_like_any_other():
    """A particle whose risk is NaN has weight 0, one warning is given, and others are what they would be."""
    net = cbk.TwoLayer(3, 6)

    def loss(outputs, y):
        risks = mse(outputs, y)
        risks[outputs[:, 0, 0] > 0.1] = np.nan
        return risks

    with pytest.warns(cbk.CboWarning, match="NaN or infinite"):
        result = cbk.train(net, X, TARGETS["mse", 1], METHODS["CBO"], loss=loss, epochs=1, seed=3)
    assert np.isfinite(result.particles).all()
    with pytest.raises(cbk.ConsensusError):
        cbk.train(
            net, X, TARGETS["mse", 1], METHODS["CBO"], loss=lambda g, y: np.full(len(g), np.nan), epochs=1
        )


def test_an_exception_ends_the_run_and_leaves_the_checkpoint(tmp_path):
    net, path, calls = cbk.TwoLayer(3, 6), tmp_path / "run", []

    def ends(outputs, y):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return log_cosh(outputs, y)

    run = {"seed": 2, "checkpoint": path, "every": 1}
    with pytest.raises(KeyboardInterrupt):
        cbk.train(net, X, TARGETS["mse", 1], METHODS["CBO"], loss=ends, epochs=6, **run)
    resumed = cbk.train(net, X, TARGETS["mse", 1], METHODS["CBO"], loss=ends, epochs=6, resume=True, **run)
    whole = cbk.train(net, X, TARGETS["mse", 1], METHODS["CBO"], loss=log_cosh, epochs=6, seed=2)
    np.testing.assert_array_equal(resumed.particles, whole.particles)
    with pytest.raises(
        ValueError, match=r"loss is the Python function .*ends in the checkpoint and .*log_cosh now"
    ):
        cbk.train(net, X, TARGETS["mse", 1], METHODS["CBO"], loss=log_cosh, epochs=6, resume=True, **run)
    loaded = cbk.Result.load(path)
    np.testing.assert_array_equal(loaded.particles, whole.particles)


def test_outputs_belong_to_the_function():
    """It may keep them and change them."""
    net, theta, x = problem(1, "float32")
    y, kept = TARGETS["mse", 1].astype("f4"), []

    def loss(outputs, targets):
        kept.append(outputs)
        outputs -= targets
        return np.square(outputs, out=outputs).mean(axis=(1, 2))

    found = cbk.task_risks(net, theta, x, np.stack([y, y]), loss=loss)
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
    np.testing.assert_allclose(found[:, 0], cbk.risk(net, theta, x, y), rtol=1e-5)
    assert not np.shares_memory(kept[0], kept[1])
