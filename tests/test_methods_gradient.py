"""Adam and the hybrid: their steps against the public kernels and PyTorch, and the papers' runs."""

from __future__ import annotations

import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels import _cpu
from cbokernels.experiments import mnist, sine

NET = cbk.TwoLayer(2, 7, 1, activation="tanh")
SAMPLES = 23


def data(dtype="float32"):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(SAMPLES, 2)).astype(dtype)
    return x, (x[:, 0] * x[:, 1]).astype(dtype)


X, Y = data()


def batches(batch_size, seed, epoch):
    order = np.arange(SAMPLES)
    if batch_size is not None:
        _cpu.permutation(order, SAMPLES, seed, epoch, 2)
    return [order[i : i + (batch_size or SAMPLES)] for i in range(0, SAMPLES, batch_size or SAMPLES)]


def test_defaults():
    adam, hybrid = cbk.Adam(), cbk.Hybrid()
    assert (adam.particles, adam.lr, adam.beta1, adam.beta2, adam.delta) == (1, 0.1, 0.9, 0.999, 1e-8)
    assert (hybrid.particles, hybrid.mix, hybrid.alpha, hybrid.drift) == (1000, 0.7, 1e4, 1.0)
    assert (hybrid.diffusion, hybrid.dt, hybrid.noise, hybrid.radius) == (1.2**0.5, 0.1, "anisotropic", None)
    assert (hybrid.beta1, hybrid.beta2, hybrid.delta) == (0.9, 0.999, 1e-8)
    for method in (adam, hybrid):
        assert pickle.loads(pickle.dumps(method)) == method
        assert hash(method) == hash(type(method)())


@pytest.mark.parametrize("batch_size", [None, 5, 23, 100])
def test_adams_steps_are_the_public_kernels(batch_size, dtype):
    x, y = data(dtype)
    lr = cbk.Exponential(0.1, 0.01)
    method = cbk.Adam(particles=4, lr=lr, beta1=lambda e, n: 0.9 - 0.1 * e, beta2=0.99, delta=1e-6)
    result = cbk.train(NET, x, y, method, epochs=3, batch_size=batch_size, seed=5, dtype=dtype)

    theta = NET.torch_default(4, seed=5, dtype=dtype)
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    step = 0
    for epoch in range(3):
        for rows in batches(batch_size, 5, epoch):
            step += 1
            _, gradient = cbk.risk_gradient(NET, theta, x[rows], y[rows])
            rates = {"lr": lr(epoch, 3), "beta1": 0.9 - 0.1 * epoch, "beta2": 0.99, "delta": 1e-6}
            cbk.adam_update(theta, gradient, first, second, step=step, **rates, out=theta)
    np.testing.assert_array_equal(result.particles, theta)
    np.testing.assert_array_equal(result.parameters, theta[0])
    risks = cbk.risk(NET, theta, x, y)
    np.testing.assert_array_equal(result.history["risks"][-1], risks)
    assert result.history["risk"][-1] == risks[0]


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("noise", [{}, {"noise": "truncated", "radius": 0.5}, {"noise": "isotropic"}])
def test_the_hybrids_steps_are_the_public_kernels(batch_size, noise, dtype):
    x, y = data(dtype)
    mix, alpha = cbk.Geometric(0.5, 1.2), cbk.Geometric(1e2, 10.0)
    method = cbk.Hybrid(particles=6, mix=mix, alpha=alpha, diffusion=0.8, dt=0.2, beta1=0.8, **noise)
    result = cbk.train(NET, x, y, method, epochs=3, batch_size=batch_size, seed=5, dtype=dtype)

    theta = NET.uniform(6, seed=5, dtype=dtype)
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    step = 0
    for epoch in range(3):
        for rows in batches(batch_size, 5, epoch):
            step += 1
            risk, gradient = cbk.risk_gradient(NET, theta, x[rows], y[rows])
            point, _, ess = cbk.consensus(theta, risk, alpha=alpha(epoch, 3))
            cbk.hybrid_update(
                theta, point, gradient, first, second, mix=mix(epoch, 3), diffusion=0.8, dt=0.2, seed=5,
                step=step, beta1=0.8, **noise, out=theta,
            )  # fmt: skip
    np.testing.assert_array_equal(result.particles, theta)
    np.testing.assert_array_equal(result.parameters, point)
    assert result.history["ess"][-1] == ess
    assert result.history["risk"][-1] == cbk.risk(NET, point[None], x, y)[0]


def test_hybrids_ends_are_adam_and_cbo():
    theta = NET.uniform(5, seed=3)
    adam = cbk.train(NET, X, Y, cbk.Adam(lr=0.2), theta=theta, epochs=4)
    hybrid = cbk.train(NET, X, Y, cbk.Hybrid(mix=1.0, dt=0.2), theta=theta, epochs=4)
    np.testing.assert_array_equal(hybrid.particles, adam.particles)
    # CBO counts its noise from 0, the hybrid from 1.
    hybrid = cbk.train(NET, X, Y, cbk.Hybrid(mix=0.0, alpha=1e2), theta=theta, epochs=1)
    point = cbk.consensus(theta, cbk.risk_gradient(NET, theta, X, Y)[0], alpha=1e2).point
    moved = cbk.cbo_update(theta, point, diffusion=1.2**0.5, step=1)
    np.testing.assert_allclose(hybrid.particles, moved, rtol=1e-6, atol=1e-6)


def test_hybrid_solves_for_a_target_ess():
    method = cbk.Hybrid(particles=40, alpha=cbk.TargetEss(0.3))
    history = cbk.train(NET, X, Y, method, epochs=3, batch_size=10).history
    np.testing.assert_allclose(history["ess"], 12, rtol=1e-6)


@pytest.mark.parametrize("net", [NET, cbk.TwoLayer(2, 9, 3, output_bias=True, scaling="none")])
def test_adam_is_pytorchs(net):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    x = rng.normal(size=(50, 2))
    y = rng.normal(size=(50, 1)) if net.outputs == 1 else rng.integers(0, 3, 50)
    theta = net.torch_default(1, seed=1, dtype="float64")
    w, b, c, a = (None if part is None else torch.tensor(part[0]) for part in net.unpack(theta))
    parts = [part.requires_grad_() for part in (w, b, c, a) if part is not None]
    activation = {"tanh": torch.tanh, "relu": torch.relu}[net.activation]
    optimizer = torch.optim.Adam(parts, lr=0.05, betas=(0.8, 0.99), eps=1e-6)
    inputs, targets = torch.tensor(x), torch.tensor(y)
    for _ in range(20):
        optimizer.zero_grad()
        outputs = activation(inputs @ w.T + b) @ c.T / (net.width if net.scaling == "mean" else 1)
        outputs = outputs if a is None else outputs + a
        if net.outputs == 1:
            loss = ((outputs - targets) ** 2).sum(dim=1).mean()
        else:
            loss = torch.nn.functional.cross_entropy(outputs, targets)
        loss.backward()
        optimizer.step()
    expected = np.concatenate([part.detach().numpy().ravel() for part in parts])
    for dtype, atol in (("float64", 1e-12), ("float32", 2e-5)):
        method = cbk.Adam(lr=0.05, beta1=0.8, beta2=0.99, delta=1e-6)
        result = cbk.train(net, x, y, method, theta=theta.astype(dtype), epochs=20, dtype=dtype)
        np.testing.assert_allclose(result.parameters, expected, atol=atol, rtol=0)


def test_networks_of_an_ensemble_do_not_see_each_other():
    theta = NET.torch_default(3, seed=1)
    together = cbk.train(NET, X, Y, cbk.Adam(), theta=theta, epochs=5, batch_size=7)
    for n in range(3):
        alone = cbk.train(NET, X, Y, cbk.Adam(), theta=theta[n : n + 1], epochs=5, batch_size=7)
        np.testing.assert_array_equal(together.particles[n], alone.parameters)
        np.testing.assert_array_equal(together.history["risks"][:, n], alone.history["risk"])


def test_history_of_adam():
    states = []
    result = cbk.train(NET, X, Y, cbk.Adam(particles=3), epochs=4, callback=states.append)
    history = result.history
    assert list(history) == ["epoch", "risk", "alpha", "ess", "variance", "seconds", "risks"]
    assert history["risks"].shape == (4, 3)
    assert history["risks"].dtype == np.float64
    np.testing.assert_array_equal(history["risk"], history["risks"][:, 0])
    assert np.isnan(history["alpha"]).all()
    assert np.isnan(history["ess"]).all()
    np.testing.assert_array_equal(states[-1].point, result.parameters)
    assert [state.risk for state in states] == history["risk"].tolist()
    result.particles[0] = 0
    assert (result.parameters != 0).all()
    assert cbk.train(NET, X, Y, cbk.Adam(), epochs=2).history["variance"].tolist() == [0, 0]


@pytest.mark.parametrize(
    "method", [cbk.Adam(particles=3), cbk.Hybrid(particles=5, alpha=1e2)], ids=["Adam", "Hybrid"]
)
@pytest.mark.parametrize("batch_size", [None, 6])
def test_resumed_runs_have_the_same_bits(tmp_path, method, batch_size, dtype):
    path = tmp_path / "run"
    arguments = {"epochs": 7, "batch_size": batch_size, "dtype": dtype}
    whole = cbk.train(NET, X, Y, method, **arguments)
    for stop in (1, 4):
        cbk.train(
            NET, X, Y, method, checkpoint=path, resume=True, callback=lambda s, stop=stop: s.epoch == stop,
            **arguments,
        )  # fmt: skip
    resumed = cbk.train(NET, X, Y, method, checkpoint=path, resume=True, **arguments)
    np.testing.assert_array_equal(resumed.particles, whole.particles)
    np.testing.assert_array_equal(resumed.parameters, whole.parameters)
    assert list(resumed.history) == list(whole.history)
    for name in whole.history:
        assert resumed.history[name].dtype == whole.history[name].dtype
        if name != "seconds":
            np.testing.assert_array_equal(resumed.history[name], whole.history[name])


@pytest.mark.parametrize("method", [cbk.Adam(particles=9), cbk.Hybrid(particles=9)], ids=["Adam", "Hybrid"])
def test_same_bits_for_any_number_of_threads(method):
    runs = [
        cbk.train(NET, X, Y, method, epochs=3, batch_size=8, num_threads=threads)
        for threads in (None, 1, 2, 5)
    ]
    for run in runs[1:]:
        np.testing.assert_array_equal(run.particles, runs[0].particles)


def test_saved_results_keep_all_columns(tmp_path):
    result = cbk.train(NET, X, Y, cbk.Adam(particles=3), epochs=2)
    result.save(tmp_path / "r")
    np.testing.assert_array_equal(cbk.Result.load(tmp_path / "r").history["risks"], result.history["risks"])


def test_a_broken_network_does_not_touch_the_others():
    net = cbk.TwoLayer(2, 7, 1)
    theta = net.torch_default(3, seed=1)
    theta[1] = 1e30
    for method in (cbk.Adam(), cbk.Hybrid()):
        with pytest.warns(cbk.CboWarning) as caught:
            result = cbk.train(net, X, Y, method, theta=theta, epochs=3)
        messages = sorted(str(warning.message) for warning in caught)
        assert "1 risks were NaN or infinite" in messages[0]
        assert "overflowed, 1 of 3 particles" in messages[1]
        assert np.isfinite(result.parameters).all()
        if method == cbk.Adam():
            alone = cbk.train(net, X, Y, method, theta=theta[2:], epochs=3)
            np.testing.assert_array_equal(result.particles[2], alone.parameters)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cbk.Adam(particles=0), ValueError, r"particles must be an integer in \[1,"),
        (lambda: cbk.Adam(lr=-1), ValueError, r"lr must lie in \[0, inf\), got -1"),
        (lambda: cbk.Adam(lr="0.1"), TypeError, r"lr must be a real number"),
        (lambda: cbk.Adam(beta1=1.0), ValueError, r"beta1 must lie in \[0, 1\), got 1.0"),
        (lambda: cbk.Adam(beta2=-0.1), ValueError, r"beta2"),
        (lambda: cbk.Adam(delta=math.nan), ValueError, r"delta"),
        (lambda: cbk.Adam(lr=cbk.TargetEss(0.5)), TypeError, r"lr .* which is for alpha"),
        (lambda: cbk.Adam(rate=0.1), TypeError, r"rate"),
        (lambda: cbk.Hybrid(mix=1.5), ValueError, r"mix must lie in \[0, 1\], got 1.5"),
        (lambda: cbk.Hybrid(alpha=-1), ValueError, r"alpha"),
        (lambda: cbk.Hybrid(noise="truncated"), ValueError, r"radius is required"),
        (lambda: cbk.Hybrid(radius=1.0), ValueError, r"radius must be None unless"),
        (lambda: cbk.Hybrid(floor=0.1), TypeError, r"floor"),
        (lambda: cbk.train(NET, X, Y, cbk.Adam(beta1=lambda e, n: 1.0)), ValueError, r"beta1 at epoch 0"),
        (lambda: cbk.minimize(np.sum, np.ones((3, 2)), cbk.Adam()), TypeError, r"needs no network.*got Adam"),
        (lambda: cbk.minimize(np.sum, np.ones((3, 2)), cbk.Hybrid()), TypeError, r"method must be one"),
    ],
)
def test_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_adam_learns_the_sine():
    x, y = sine.samples()
    history = cbk.train(sine.NET, x, y, cbk.Adam(particles=5), epochs=300, batch_size=800).history
    assert history["risks"][-1].min() <= 3e-3


def mnist_folder():
    given = os.environ.get("CBOKERNELS_MNIST")
    return Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data" / "mnist"


@pytest.mark.skipif(
    not (mnist_folder() / mnist.IMAGES).is_file(),
    reason="no MNIST files: name their folder in CBOKERNELS_MNIST",
)
@pytest.mark.parametrize(
    ("method", "epochs", "bound"),
    [(cbk.Adam(), 30, 0.06), (cbk.Hybrid(particles=50), 10, 0.22)],
    ids=["Adam", "Hybrid"],
)
def test_learns_digits(method, epochs, bound):
    x, y = mnist.load(mnist_folder())
    result = cbk.train(mnist.NET, x, y, method, epochs=epochs, batch_size=1000)
    assert result.history["risk"][-1] <= bound
    assert mnist.accuracy(result.parameters, x, y) >= 0.93
