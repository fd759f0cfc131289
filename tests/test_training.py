"""train: what it reports, what stops it, what it warns of and refuses, and that it learns."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels.experiments import mnist, sine

NET = cbk.TwoLayer(1, 12, 1)
DIGITS = cbk.TwoLayer(3, 5, 4)


def data(samples=50):
    rng = np.random.default_rng(2)
    x = rng.random((samples, 1))
    return x, np.sin(2 * np.pi * x[:, 0])


def labelled(samples=30):
    rng = np.random.default_rng(3)
    return rng.normal(size=(samples, 3)), rng.integers(0, 4, samples)


def variance(theta):
    theta = theta.astype(np.float64)
    return ((theta - theta.mean(axis=0)) ** 2).sum() / (2 * len(theta))


def test_history_and_result(dtype):
    x, y = data()
    states = []
    result = cbk.train(
        NET, x, y, cbk.CBO(particles=8), epochs=5, batch_size=20, dtype=dtype, callback=states.append
    )
    history = result.history
    assert list(history) == ["epoch", "risk", "alpha", "ess", "variance", "seconds"]
    assert all(column.shape == (5,) for column in history.values())
    np.testing.assert_array_equal(history["epoch"], [1, 2, 3, 4, 5])
    assert history["epoch"].dtype == np.int64
    assert history["risk"].dtype == np.float64
    assert (np.diff(history["seconds"]) > 0).all()
    assert history["seconds"][0] > 0
    assert result.parameters.shape == (NET.size,)
    assert result.particles.shape == (8, NET.size)
    assert result.parameters.dtype == result.particles.dtype == dtype
    full = cbk.risk(NET, result.parameters[None], x.astype(dtype), y.astype(dtype))[0]
    assert history["risk"][-1] == full
    assert history["variance"][-1] == pytest.approx(variance(result.particles), rel=1e-12)
    np.testing.assert_array_equal(states[-1].point, result.parameters)
    for name in ("epoch", "risk", "alpha", "ess", "variance"):
        assert [getattr(state, name) for state in states] == history[name].tolist()
    assert result.net == NET
    assert "epochs=5" in repr(result)


def test_the_variance_is_after_the_last_update():
    x, y = data()
    method = cbk.CBO(particles=8, alpha=0.0, diffusion=0.0, drift=1.0, dt=0.5, noise="none")
    theta = NET.uniform(8, seed=0, dtype="float64")
    result = cbk.train(NET, x, y, method, theta=theta, epochs=1, dtype="float64")
    # alpha = 0 makes v the mean, so one step halves every distance to it.
    assert result.history["variance"][0] == pytest.approx(variance(theta) / 4, rel=1e-12)
    np.testing.assert_allclose(result.parameters, theta.mean(axis=0), rtol=1e-12)


def test_what_a_callback_keeps_stays():
    x, y = data()
    kept, states = [], []

    def callback(state):
        if state.epoch % 2:
            assert not state.particles.flags.writeable
            assert state.point.flags.writeable
            kept.append((state.particles, state.point))
        else:
            states.append(state)  # looked at only when the run is over

    result = cbk.train(NET, x, y, cbk.CBO(particles=8), epochs=4, callback=callback)
    kept[1:1], kept[3:] = [(states[0].particles, states[0].point)], [(states[1].particles, states[1].point)]
    for epoch, (particles, point) in enumerate(kept, 1):
        part = cbk.train(NET, x, y, cbk.CBO(particles=8), epochs=epoch)
        np.testing.assert_array_equal(particles, part.particles)
        np.testing.assert_array_equal(point, part.parameters)
    assert result.particles.flags.writeable


@pytest.mark.parametrize(
    "method", [cbk.Adam(particles=3), cbk.HeavyBall(particles=3), cbk.GradientFlow(particles=3)]
)
@pytest.mark.filterwarnings("ignore:.*overflowed:cbokernels.CboWarning")
def test_networks_on_their_own_hear_of_no_consensus(method):
    x, y = data()
    theta = NET.uniform(3, seed=1)
    theta[1] *= np.float32(1e19)  # a risk that is infinite
    with pytest.warns(
        cbk.CboWarning, match="1 risks were NaN or infinite; such a network goes on alone"
    ) as caught:
        cbk.train(NET, x, y, method, theta=theta, epochs=2)
    assert not any("consensus" in str(w.message) for w in caught)


def test_a_variance_that_overflows_is_no_nan_in_a_particle():
    theta = np.array([[1e200], [-1e200], [3e200], [0.0], [1.0]])
    with pytest.warns(
        cbk.CboWarning, match=r"variance has overflowed, .* as large as 3e\+200: take"
    ) as caught:
        result = cbk.minimize(lambda t: np.arange(len(t)), theta, cbk.CBO(noise="none", dt=0.0), steps=1)
    assert len(caught) == 1
    assert "float64" not in str(caught[0].message)  # which it is
    np.testing.assert_array_equal(result.particles, theta)


def test_an_ensemble_that_flies_apart_is_warned_of_once():
    """Isotropic noise multiplies a distance by more than 1 where diffusion² D > 2 drift, about."""
    theta = np.random.default_rng(0).normal(size=(40, 100))
    method = cbk.CBO(noise="isotropic", diffusion=1.0, dt=0.1)
    with pytest.warns(cbk.CboWarning, match=r"is flying apart, .*1e\+08 times .*isotropic") as caught:
        result = cbk.minimize(lambda t: (t**2).sum(axis=1), theta, method, steps=150)
    assert len(caught) == 1
    assert np.isfinite(result.particles).all()
    assert np.abs(result.particles).max() > 1e30


@pytest.mark.parametrize("answer", [True, np.True_, 1, "yes", 0.5])
def test_callback_stops(answer):
    x, y = data()
    result = cbk.train(
        NET, x, y, cbk.CBO(particles=8), epochs=9, callback=lambda s: answer if s.epoch == 4 else None
    )
    assert len(result.history["epoch"]) == 4
    same = cbk.train(NET, x, y, cbk.CBO(particles=8), epochs=4)
    np.testing.assert_array_equal(result.particles, same.particles)


@pytest.mark.parametrize("answer", [None, False, 0, "", np.False_])
def test_what_is_not_true_does_not_stop(answer):
    x, y = data()
    result = cbk.train(NET, x, y, cbk.CBO(particles=8), epochs=3, callback=lambda s: answer)
    assert len(result.history["epoch"]) == 3


def test_same_bits_for_any_number_of_threads_and_again():
    x, y = data(301)
    runs = [
        cbk.train(NET, x, y, cbk.CBO(particles=37), epochs=4, batch_size=64, num_threads=threads)
        for threads in (None, 1, 2, 3, 7, 1)
    ]
    for run in runs[1:]:
        np.testing.assert_array_equal(run.particles, runs[0].particles)
        np.testing.assert_array_equal(run.history["risk"], runs[0].history["risk"])
        np.testing.assert_array_equal(run.history["variance"], runs[0].history["variance"])
    other = cbk.train(NET, x, y, cbk.CBO(particles=37), epochs=4, batch_size=64, seed=1)
    assert not np.array_equal(other.particles, runs[0].particles)


def test_theta_is_copied_and_its_number_wins(dtype):
    x, y = data()
    theta = np.asfortranarray(NET.uniform(5, seed=9, dtype=dtype))
    before = theta.copy()
    result = cbk.train(NET, x, y, cbk.CBO(particles=100), theta=theta, epochs=2, dtype=dtype)
    assert result.particles.shape == (5, NET.size)
    np.testing.assert_array_equal(theta, before)


def test_default_particles_are_the_networks_uniform():
    x, y = data()
    still = cbk.CBO(particles=6, drift=0.0, noise="none")
    result = cbk.train(NET, x, y, still, epochs=1, seed=77)
    np.testing.assert_array_equal(result.particles, NET.uniform(6, seed=77))


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.int32])
def test_labels_of_any_integer_dtype_mean_cross_entropy(kind):
    x, y = labelled()
    result = cbk.train(DIGITS, x, y.astype(kind), cbk.CBO(particles=6), epochs=2)
    point = result.parameters[None]
    expected = cbk.risk(DIGITS, point, x.astype(np.float32), y, loss="cross_entropy")[0]
    assert result.history["risk"][-1] == expected


def test_integer_targets_of_one_output_mean_squared_error():
    x, y = data()
    labels = np.rint(y).astype(np.int64)
    a = cbk.train(NET, x, labels, cbk.CBO(particles=6), epochs=2)
    b = cbk.train(NET, x, labels.astype(float), cbk.CBO(particles=6), epochs=2, loss="mse")
    c = cbk.train(NET, x, labels[:, None], cbk.CBO(particles=6), epochs=2)
    np.testing.assert_array_equal(a.particles, b.particles)
    np.testing.assert_array_equal(a.particles, c.particles)


def test_arrays_of_other_kinds():
    torch = pytest.importorskip("torch")
    x, y = labelled()
    plain = cbk.train(DIGITS, x, y, cbk.CBO(particles=6), epochs=2)
    other = cbk.train(DIGITS, torch.tensor(x), torch.tensor(y), cbk.CBO(particles=6), epochs=2)
    strided = cbk.train(DIGITS, np.asfortranarray(x), y[::-1][::-1], cbk.CBO(particles=6), epochs=2)
    np.testing.assert_array_equal(plain.particles, other.particles)
    np.testing.assert_array_equal(plain.particles, strided.particles)
    pixels = np.arange(90, dtype=np.uint8).reshape(30, 3)
    a = cbk.train(DIGITS, pixels, y, cbk.CBO(particles=6), epochs=2)
    b = cbk.train(DIGITS, pixels.astype(np.float64), y, cbk.CBO(particles=6), epochs=2)
    np.testing.assert_array_equal(a.particles, b.particles)


def test_a_batch_larger_than_the_data_is_the_data_shuffled():
    x, y = data(20)
    a = cbk.train(NET, x, y, cbk.CBO(particles=6), epochs=2, batch_size=20)
    b = cbk.train(NET, x, y, cbk.CBO(particles=6), epochs=2, batch_size=10**12)
    np.testing.assert_array_equal(a.particles, b.particles)


X, Y = data(6)
THETA = NET.uniform(4, seed=0)
NAN = X.copy()
NAN[3, 0] = np.nan
X3 = np.ones((6, 3))
TASKS = "several tasks are for MultiTaskCBO and TransportCBO"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"net": "net"}, TypeError, r"net must be a cbokernels.TwoLayer, got 'net'"),
        ({"net": cbk.TwoLayer}, TypeError, r"net must be a cbokernels.TwoLayer, got <class"),
        ({"method": "CBO"}, TypeError, r"method must be a method such as cbokernels.CBO\(\), got 'CBO'"),
        (
            {"method": cbk.CBO},
            TypeError,
            r"method must be a method such as cbokernels.CBO\(\), got <class 'cbokernels.methods.cbo.CBO'>",
        ),
        ({"x": X[:, 0]}, ValueError, r"x must have shape \[S, 1\], got \[6\]"),
        ({"x": X[:0]}, ValueError, r"x must have shape \[S, 1\] with no size 0, got \[0, 1\]"),
        ({"x": NAN}, ValueError, r"x must be finite as float32, got nan at \[3, 0\]"),
        ({"x": X * 1e300}, ValueError, r"x must be finite as float32, got inf"),
        ({"x": X.astype(complex)}, TypeError, r"x must hold real numbers, got complex128"),
        ({"x": "X"}, TypeError, r"x must be an array .* got str"),
        ({"y": Y[:5]}, ValueError, r"y must have shape \[6\], got \[5\]"),
        ({"y": np.full(6, np.inf)}, ValueError, r"y must be finite as float32, got inf at \[0\]"),
        ({"y": NAN}, ValueError, r"y must be finite as float32, got nan at \[3, 0\]"),
        ({"y": np.stack([Y, Y])}, ValueError, rf"y must have shape \[6\], got \[2, 6\]: {TASKS}"),
        ({"y": np.zeros((3, 6, 1))}, ValueError, rf"y must have shape \[6\], got \[3, 6, 1\]: {TASKS}"),
        ({"x": np.stack([X, X])}, ValueError, rf"x must have shape \[S, 1\], got \[2, 6, 1\]: {TASKS}"),
        ({"net": DIGITS, "x": X3, "y": np.zeros((2, 6, 4))}, ValueError, rf"shape \[6, 4\], got .*{TASKS}"),
        ({"net": DIGITS, "x": X3, "y": np.zeros((2, 6), int)}, ValueError, rf"shape \[6\], got .*{TASKS}"),
        (
            {"net": DIGITS, "x": X3, "y": np.zeros(6)},
            ValueError,
            r"y must have shape \[6, 4\], or hold integers as labels for 'cross_entropy', got float64 \[6\]",
        ),
        ({"y": Y, "loss": "cross_entropy"}, TypeError, r"y must hold integers, got float64"),
        ({"loss": "l1"}, ValueError, r"loss must be one of 'mse', .*'cross_entropy', .*got 'l1'"),
        ({"epochs": 0}, ValueError, r"epochs must be an integer in \[1, 2\^32\), got 0"),
        ({"epochs": 1.5}, TypeError, r"epochs must be an integer, got 1.5"),
        ({"epochs": 2**31, "batch_size": 1}, ValueError, r"epochs must make at most 2\^32 steps"),
        ({"batch_size": 0}, ValueError, r"batch_size must be an integer in \[1"),
        ({"seed": -1}, ValueError, r"seed must be an integer in \[0, 2\^64\), got -1"),
        ({"seed": 2**64}, ValueError, r"seed"),
        ({"device": "gpu"}, ValueError, r"device must be one of 'cpu', 'cuda', got 'gpu'"),
        ({"dtype": "float16"}, TypeError, r"dtype must be 'float32' or 'float64', got 'float16'"),
        (
            {"theta": THETA.astype(float)},
            TypeError,
            r"theta must be float32 as the argument dtype says, got float64",
        ),
        ({"theta": THETA[:, 1:]}, ValueError, r"theta must have shape \[N, 36\], got \[4, 35\]"),
        ({"theta": THETA * np.float32(np.nan)}, ValueError, r"theta must be finite, .* particle 0"),
        ({"progress": 1}, TypeError, r"progress must be True or False, got 1"),
        ({"callback": 3}, TypeError, r"callback must be callable, got 3"),
        ({"checkpoint": 3}, TypeError, r"checkpoint must be a path, got 3"),
        ({"checkpoint": ""}, ValueError, r"checkpoint must be the path of a file, got ''"),
        (
            {"checkpoint": "no/such/folder/c.npz"},
            FileNotFoundError,
            r"checkpoint must lie in an existing directory",
        ),
        ({"every": 0}, ValueError, r"every"),
        ({"resume": True}, ValueError, r"resume=True expects checkpoint to be a path, got None"),
        ({"num_threads": 0}, ValueError, r"num_threads must be an integer in \[1"),
        ({"precision": "tf32"}, ValueError, r"precision must be 'float32'"),
        ({"batchsize": 10}, TypeError, r"batchsize"),
        (
            {"method": cbk.CBO(dt=lambda e, n: "a")},
            TypeError,
            r"dt at epoch 0 \(a callable\) must be a real number",
        ),
        ({"method": cbk.CBO(dt=lambda e, n: 1 - e), "epochs": 5}, ValueError, r"dt at epoch 2"),
    ],
)
def test_bad_arguments(change, error, message):
    arguments = {"net": NET, "x": X, "y": Y, "method": cbk.CBO(particles=4), "epochs": 1, **change}
    positional = [arguments.pop(name) for name in ("net", "x", "y", "method")]
    with pytest.raises(error, match=message):
        cbk.train(*positional, **arguments)


@pytest.mark.parametrize("labels", [[0, 1, 4], [0, -1, 3]])
def test_labels_out_of_range(labels):
    with pytest.raises(ValueError, match=r"y must hold integers in \[0, 4\)"):
        cbk.train(DIGITS, np.ones((3, 3)), np.array(labels), cbk.CBO(), epochs=1)


@pytest.mark.skipif(cbk.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none():
    with pytest.raises(cbk.CudaUnavailableError, match=r"device='cuda' is not available: .*(build|driver)"):
        cbk.train(NET, X, Y, cbk.CBO(), epochs=1, device="cuda")


@pytest.mark.parametrize(
    ("method", "bound"),
    [
        pytest.param(cbk.CBO(), 5e-2, marks=pytest.mark.slow),
        pytest.param(cbk.CBO(alpha=1e7), 1.8e-3, marks=pytest.mark.slow),
        pytest.param(cbk.CBO(alpha=math.inf), 1.8e-3, marks=pytest.mark.slow),
        (cbk.CBO(alpha=math.inf, floor=cbk.Exponential(0.1, 0.001)), 6e-4),
    ],
    ids=["as printed", "alpha 1e7", "alpha infinite", "floor"],
)
@pytest.mark.filterwarnings("ignore:.*has collapsed:cbokernels.CboWarning")
def test_learns_the_sine(method, bound):
    x, y = sine.samples()
    risks = [
        cbk.train(sine.NET, x, y, method, epochs=300, batch_size=800, seed=seed).history["risk"][-1]
        for seed in range(5)
    ]
    assert np.median(risks) <= bound


def mnist_folder():
    given = os.environ.get("CBOKERNELS_MNIST")
    return Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data" / "mnist"


@pytest.mark.skipif(
    not (mnist_folder() / mnist.IMAGES).is_file(),
    reason="no MNIST files: name their folder in CBOKERNELS_MNIST",
)
def test_learns_digits():
    x, y = mnist.load(mnist_folder())
    method = mnist.methods(200)["CBO"]
    runs = [cbk.train(mnist.NET, x, y, method, epochs=30, batch_size=1000, seed=seed) for seed in range(3)]
    assert np.median([run.history["risk"][-1] for run in runs]) <= 1.3
    assert np.median([mnist.accuracy(run.parameters, x, y) for run in runs]) >= 0.58
