"""`train` on the emulated device beside the CPU's runs: the same noise, risks summed in another order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from libraries import put

import cbokernels as cbk
from cbokernels import cli

NET = cbk.TwoLayer(2, 5, 1, "tanh")
CLASSES = cbk.TwoLayer(3, 4, 3)
EPOCHS = 4  # plain, then replayed


def data(net=NET, samples=23, tasks=None, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, net.inputs))
    if net.outputs > 1:
        return x, rng.integers(0, net.outputs, samples)
    y = np.sin(x.sum(axis=1))
    return x, y if tasks is None else y + np.arange(tasks)[:, None]


def assert_close(result, expected, rtol=1e-8):
    """Float64 runs that differ by the order of sums alone; alpha times 1e-16 is what the weights lose."""
    assert list(result.history) == list(expected.history)
    np.testing.assert_allclose(result.parameters, expected.parameters, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(result.particles, expected.particles, rtol=rtol, atol=rtol)
    for name, column in expected.history.items():
        if name != "seconds":
            np.testing.assert_allclose(result.history[name], column, rtol=rtol, atol=rtol, err_msg=name)


def both(net, x, y, method, **keywords):
    keywords = {"epochs": EPOCHS, "batch_size": 9, "dtype": "float64", "seed": 3, **keywords}
    return [cbk.train(net, x, y, method, device=device, **keywords) for device in ("cuda", "cpu")]


METHODS = {
    "cbo": cbk.CBO(6, alpha=50.0),
    "scheduled": cbk.CBO(6, alpha=cbk.Tenfold(1.0, every=2), diffusion=cbk.Geometric(1.2, 0.9), floor=0.1),
    "best": cbk.CBO(6, alpha=np.inf),
    "isotropic": cbk.CBO(6, alpha=50.0, noise="isotropic"),
    "truncated": cbk.CBO(6, alpha=50.0, noise="truncated", radius=lambda epoch, epochs: 0.5 + epoch),
    "additive": cbk.CBO(6, alpha=50.0, noise="additive"),
    "quiet": cbk.CBO(6, alpha=50.0, noise="none"),
    "changing": cbk.CBO(6, alpha=50.0, floor=lambda epoch, epochs: 0.1 * (epoch == 1)),
    "subset": cbk.CBO(9, alpha=50.0, particle_batch=4),
    "subset moves": cbk.CBO(9, alpha=50.0, particle_batch=4, move="batch", noise="truncated", radius=0.7),
    "subset ess": cbk.CBO(9, alpha=cbk.TargetEss(0.6), particle_batch=5, floor=0.1),
    "friction": cbk.CBO(6, alpha=50.0, friction=cbk.Geometric(4.0, 0.5), dt=cbk.Geometric(0.5, 0.9)),
    "subset flies": cbk.CBO(9, alpha=50.0, friction=2.0, particle_batch=4, move="batch"),
    "whole subset": cbk.CBO(6, alpha=50.0, particle_batch=6, move="batch"),
    "ess": cbk.CBO(9, alpha=cbk.TargetEss(0.4)),
    "adam": cbk.Adam(3, lr=cbk.Exponential(0.1, 0.01)),
    "rates": cbk.Adam(3, lr=[0.1, 0.0, 0.3]),
    "transport": cbk.TransportCBO(6, alpha=5.0, diffusion=cbk.Geometric(0.4, 0.5)),
    "transport ess": cbk.TransportCBO(
        9, alpha=cbk.TargetEss(0.5), diffusion=0.3, iterations=3, exact_variance=True
    ),
    "quiet transport": cbk.TransportCBO(6, alpha=np.inf, diffusion=0.0),
    "hybrid": cbk.Hybrid(6, alpha=50.0, mix=cbk.Geometric(0.7, 0.5)),
    "hybrid ess": cbk.Hybrid(6, alpha=cbk.TargetEss(0.5), noise="isotropic"),
    "heavy ball": cbk.HeavyBall(particles=2, temperature=cbk.Geometric(0.1, 0.5)),
    "gradient flow": cbk.GradientFlow(particles=2, temperature=0.1),
    "cold flow": cbk.GradientFlow(particles=2),
    "hopping": cbk.ConsensusHopping(10),
    "steady hopping": cbk.ConsensusHopping(10, spread=0.1, lr=0.1),
    "hopping single": cbk.ConsensusHopping(7, mirrored=False),
    "hopping ess": cbk.ConsensusHopping(10, weights=cbk.TargetEss(0.5)),
    "hopping atoms": cbk.ConsensusHopping(6, scope="atom"),
    "hopping atoms ess": cbk.ConsensusHopping(6, scope="atom", weights=cbk.TargetEss(0.5), mirrored=False),
}


@pytest.mark.parametrize("name", METHODS)
def test_runs_are_the_cpus(cuda, name):
    assert_close(*both(NET, *data(), METHODS[name]))


@pytest.mark.parametrize("name", METHODS)
def test_weight_decay_is_the_cpus(cuda, name):
    assert_close(*both(NET, *data(), METHODS[name], weight_decay=0.4))


def test_decayed_steps_are_the_cpus_bits(cuda):
    result, expected = both(NET, *data(), cbk.CBO(9, alpha=np.inf), dtype="float32", weight_decay=0.4)
    np.testing.assert_array_equal(result.particles, expected.particles)


def test_a_weight_decay_that_is_too_large(cuda):
    with pytest.raises(
        ValueError, match=r"weight_decay times the step's rate must be .* 1, got 1\.1 in epoch 1"
    ):
        cbk.train(NET, *data(), cbk.CBO(4, dt=0.1), epochs=1, device="cuda", weight_decay=11.0)


def test_hopping_sorts_more_risks_than_fit_into_a_block(cuda):
    """Many of which are equal: those of a dead network."""
    net = cbk.TwoLayer(1, 1, 1)
    x, y = data(net, samples=3)
    theta = np.array([[-1.0, -0.5, 1.0]])
    method = cbk.ConsensusHopping(1100, spread=0.5, mirrored=False)
    assert_close(*both(net, np.abs(x), y, method, batch_size=None, epochs=1, theta=theta))


def test_hopping_weighs_in_blocks(cuda):
    """Of 512 atoms' risks a block holds 256 particles: here there are two, of unequal size."""
    net = cbk.TwoLayer(1, 512, 1)
    method = cbk.ConsensusHopping(257, scope="atom", mirrored=False)
    assert_close(*both(net, *data(net, samples=1), method, batch_size=None, epochs=1))


@pytest.mark.parametrize("name", ["cbo", "adam", "hybrid", "heavy ball"])
@pytest.mark.parametrize("batch_size", [None, 23, 40])
def test_whole_batches(cuda, name, batch_size):
    assert_close(*both(NET, *data(), METHODS[name], batch_size=batch_size))


@pytest.mark.parametrize("method", ["cbo", "transport", "adam", "hybrid"])
def test_labels(cuda, method):
    assert_close(*both(CLASSES, *data(CLASSES), METHODS[method]))


@pytest.mark.parametrize("alpha", [50.0, cbk.TargetEss(0.5)], ids=repr)
def test_tasks(cuda, alpha):
    x, y = data(tasks=3)
    assert_close(*both(NET, x, y, cbk.MultiTaskCBO(7, alpha=alpha)))
    assert_close(*both(NET, x, y, cbk.MultiTaskCBO(7, alpha=alpha, particle_batch=4, friction=2.0)))
    own = np.stack([x, x + 1, x - 1])
    assert_close(*both(NET, own, y, cbk.MultiTaskCBO(7, alpha=alpha, task=[2, 0, 1, 1, 0, 2, 2])))


@pytest.mark.parametrize("alpha", [5.0, cbk.TargetEss(0.5)], ids=repr)
def test_tasks_of_measures(cuda, alpha):
    x, y = data(tasks=3)
    method = cbk.TransportCBO(7, alpha=alpha, diffusion=0.3, exact_variance=True)
    assert_close(*both(NET, x, y, method))
    own = np.stack([x, x + 1, x - 1])
    given = dataclasses.replace(method, task=[2, 0, 1, 1, 0, 2, 2], iterations=2)
    assert_close(*both(NET, own, y, given))
    assert_close(*both(NET, x, y[:1], method))  # an axis of one task


@pytest.mark.parametrize("shape", [(23,), (23, 1), (1, 23), (2, 23), (2, 23, 1)], ids=str)
def test_axes_of_tasks_are_seen_on_the_device(cuda, shape):
    x, y = data(tasks=2)
    y = y[: len(y) if shape[0] == 2 else 1].reshape(shape)
    run = {"epochs": 1, "device": "cuda", "dtype": "float64"}
    expected = cbk.train(NET, x, y, cbk.TransportCBO(4, alpha=5.0), **run)
    result = cbk.train(NET, put(x), put(y), cbk.TransportCBO(4, alpha=5.0), **run)
    np.testing.assert_array_equal(result.parameters, expected.parameters)


def test_atoms_that_become_infinite(cuda):
    x, y = data()
    run = {"epochs": 4, "batch_size": 9, "dtype": "float64"}
    messages = []
    for device in ("cpu", "cuda"):
        with pytest.raises(cbk.ConsensusError, match="atoms have become NaN or infinite") as error:
            cbk.train(NET, x, y, cbk.TransportCBO(4, alpha=1.0, drift=1e308, dt=1e3), device=device, **run)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_ensembles_too_large_for_one_kernel(cuda):
    net = cbk.TwoLayer(2, 1, 1, "tanh")
    assert_close(*both(net, *data(), cbk.CBO(1030, alpha=5.0), epochs=2, batch_size=None))


@pytest.mark.parametrize(
    "method", [cbk.CBO(6, alpha=5.0), cbk.TransportCBO(6, alpha=5.0, diffusion=0.3)], ids=repr
)
def test_float32(cuda, method):
    result, expected = both(NET, *data(), method, dtype="float32")
    assert result.particles.dtype == np.float32
    assert_close(result, expected, rtol=2e-4)


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"friction": 2.0},
        {"particle_batch": 4},
        {"particle_batch": 4, "move": "batch"},
        {"particle_batch": 4, "move": "batch", "friction": 2.0},
    ],
    ids=str,
)
def test_steps_towards_the_best_are_the_cpus_bits(cuda, extra):
    """At alpha = infinity the point is a particle: nothing is summed on the way."""
    result, expected = both(NET, *data(), cbk.CBO(9, alpha=np.inf, **extra), dtype="float32")
    np.testing.assert_array_equal(result.particles, expected.particles)
    np.testing.assert_array_equal(result.parameters, expected.parameters)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", ["ess", "subset flies", "transport ess", "hybrid", "heavy ball"])
def test_the_order_of_threads_is_free(emulated, name, order):
    x, y = data()
    run = {"epochs": 3, "batch_size": 9, "device": "cuda"}
    expected = cbk.train(NET, x, y, METHODS[name], **run)
    try:
        emulated.module.set_order(order)
        result = cbk.train(NET, x, y, METHODS[name], **run)
    finally:
        emulated.module.set_order(0)
    np.testing.assert_array_equal(result.particles, expected.particles)
    np.testing.assert_array_equal(result.history["risk"], expected.history["risk"])


@pytest.mark.parametrize("subset", [None, 2])
def test_epochs_of_several_graphs(cuda, subset):
    """More steps than one graph takes, and a last batch that is smaller."""
    x, y = data(samples=135)
    method = cbk.CBO(3, alpha=1.0, floor=1.0, particle_batch=subset)
    assert_close(*both(NET, x, y, method, batch_size=2, epochs=3))


def test_more_epochs_than_are_in_flight(cuda):
    assert_close(*both(NET, *data(samples=4), cbk.CBO(2, alpha=1.0, floor=1.0), batch_size=None, epochs=21))


def test_callbacks_see_their_epoch(cuda):
    x, y = data()
    seen = []

    def callback(state):
        assert not state.particles.flags.writeable
        seen.append((state.particles.copy(), state.point, state.risk))
        return state.epoch == 3

    result = cbk.train(NET, x, y, cbk.CBO(4), epochs=9, batch_size=9, device="cuda", callback=callback)
    assert result.history["epoch"].tolist() == [1, 2, 3]
    for epoch, (particles, point, risk) in enumerate(seen, 1):
        short = cbk.train(NET, x, y, cbk.CBO(4), epochs=epoch, batch_size=9, device="cuda")
        np.testing.assert_array_equal(particles, short.particles)
        np.testing.assert_array_equal(point, short.parameters)
        assert risk == short.history["risk"][-1]


def test_particles_of_the_callers(cuda):
    x, y = data()
    theta = NET.uniform(3, seed=9, dtype="float32")
    run = {"epochs": 2, "device": "cuda"}
    expected = cbk.train(NET, x, y, cbk.CBO(8), theta=theta.copy(), **run)
    result = cbk.train(NET, x, y, cbk.CBO(8), theta=put(theta), **run)
    np.testing.assert_array_equal(result.particles, expected.particles)
    np.testing.assert_array_equal(theta, NET.uniform(3, seed=9, dtype="float32"))


@pytest.mark.parametrize("net", [NET, CLASSES], ids=str)
def test_data_on_the_device(cuda, net):
    x, y = data(net)
    method = cbk.CBO(4, alpha=5.0)
    run = {"epochs": 2, "batch_size": 9, "device": "cuda", "dtype": "float64"}
    expected = cbk.train(net, x, y, method, **run)
    for on in (
        (put(x), put(y)),
        (put(np.asfortranarray(x)), put(y.astype("f4" if net is NET else "u1"))),
    ):
        result = cbk.train(net, *on, method, **run)
        assert type(result.particles) is np.ndarray
        np.testing.assert_allclose(result.particles, expected.particles, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("net", [NET, CLASSES], ids=str)
def test_samples_without_weight_on_the_device(cuda, net):
    x, y = data(net)
    w = np.arange(23.0) % 3
    run = {"epochs": 2, "batch_size": 2, "device": "cuda", "dtype": "float64"}
    kept = w > 0
    for on in (np.asarray, put):
        weighted = cbk.train(net, on(x), on(y), cbk.CBO(4, alpha=5.0), sample_weight=on(w), **run)
        left = cbk.train(net, x[kept], y[kept], cbk.CBO(4, alpha=5.0), sample_weight=w[kept], **run)
        np.testing.assert_array_equal(weighted.particles, left.particles)


def test_bad_data_on_the_device(cuda):
    x, y = data(CLASSES)
    x[3, 1] = np.nan
    run = {"epochs": 1, "device": "cuda"}
    with pytest.raises(ValueError, match="x must be finite as float32, got 1 entries"):
        cbk.train(CLASSES, put(x), put(y), cbk.CBO(4), **run)
    y[5] = 3
    with pytest.raises(ValueError, match=r"y must hold integers in \[0, 3\).*got 1 others"):
        cbk.train(CLASSES, put(x), put(y), cbk.CBO(4), **run)
    with pytest.raises(TypeError, match="y must lie in CUDA memory as x does"):
        cbk.train(CLASSES, put(x), y, cbk.CBO(4), **run)
    with pytest.raises(ValueError, match=r"x must have shape \[S, 3\]"):
        cbk.train(CLASSES, put(x[:, :2].copy()), put(y), cbk.CBO(4), **run)
    with pytest.raises(TypeError, match="x lies in CUDA memory: train on it with device='cuda'"):
        cbk.train(CLASSES, put(x), put(y), cbk.CBO(4), epochs=1)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (cbk.CBO(particle_batch=5), "particle_batch must be at most N = 4 particles, got 5"),
        (cbk.TransportCBO(task=[0, 0, 0, 1]), "task"),
    ],
    ids=["subset", "task"],
)
def test_methods_that_do_not_fit(cuda, method, message):
    with pytest.raises(ValueError, match=message):
        cbk.train(NET, *data(), method, epochs=1, device="cuda", theta=NET.uniform(4, seed=0))


def test_risks_that_are_not_finite(cuda):
    x, y = data()
    theta = NET.uniform(4, seed=0, dtype="float32")
    theta[1] = 3e38
    run = {"epochs": 3, "batch_size": 9, "device": "cuda"}
    with pytest.warns(cbk.CboWarning, match="epoch 1: 3 risks were NaN or infinite") as warned:
        result = cbk.train(NET, x, y, cbk.CBO(4, drift=0.0, diffusion=0.0), theta=theta, **run)
    assert len(warned) == 1
    assert warned[0].filename == __file__
    np.testing.assert_array_equal(result.particles, theta)
    theta[:] = np.linspace(2e38, 3e38, len(theta))[:, None]
    with pytest.raises(cbk.ConsensusError, match=r"epoch 1, step 0: no particle has a finite risk \(4 part"):
        cbk.train(NET, x, y, cbk.CBO(4), theta=theta, **run)


def test_ensembles_that_collapse_or_overflow(cuda):
    x, y = data()
    run = {"epochs": 4, "device": "cuda", "dtype": "float64"}
    with pytest.warns(cbk.CboWarning, match="the ensemble has collapsed"):
        cbk.train(NET, x, y, cbk.CBO(4, drift=10.0, diffusion=0.0), **run)
    with pytest.warns(cbk.CboWarning) as warned:
        cbk.train(NET, x, y, cbk.CBO(4, drift=-1e200, diffusion=0.0), **run)
    assert any("the ensemble has overflowed" in str(w.message) for w in warned)


def test_the_command_passes_the_device_on(cuda, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib", reason="figures")
    seen = []
    train = cbk.training.train

    def short(net, x, y, method, **keywords):
        seen.append(keywords["device"])
        few = dataclasses.replace(method, particles=2)
        return train(net, x[:500], y[:500], few, **{**keywords, "batch_size": None, "epochs": 1})

    monkeypatch.setattr("cbokernels.experiments.sine.train", short)
    monkeypatch.setattr("cbokernels._cpu.max_threads", lambda: 1)  # the emulation knows one thread alone
    out = ["--out", str(tmp_path)]
    arguments = ["reproduce", "sine", "--quick", "--seeds", "1", "--epochs", "1", "--device", "cuda", *out]
    assert cli.main(arguments) == 0
    assert set(seen) == {"cuda"}
    assert cli.main(["reproduce", "mean-field", "--quick", "--device", "cuda", *out]) == 1
    assert "mean-field has no CUDA implementation" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("method", [cbk.CBO(4, alpha=1.0), cbk.Hybrid(4, alpha=1.0)], ids=["cbo", "hybrid"])
def test_precision_reaches_the_kernels(cuda, method, precision):
    net = cbk.TwoLayer(32, 8, 3)
    x, y = data(net)
    run = {"epochs": 2, "batch_size": 12, "device": "cuda"}
    exact, rough = (cbk.train(net, x, y, method, precision=p, **run) for p in ("float32", precision))
    assert (rough.particles != exact.particles).any()
    np.testing.assert_allclose(rough.history["risk"], exact.history["risk"], rtol=0.05)
    with pytest.raises(ValueError, match="precision must be 'float32' for dtype 'float64'"):
        cbk.train(net, x, y, method, precision=precision, dtype="float64", **run)


def test_runs_on_a_card_can_be_estimated(cuda):
    told = cbk.estimate(NET, cbk.CBO(particles=20), 50, 5, batch_size=20, device="cuda")
    assert told.seconds > 0
    assert (told.available, told.fits) == (None, None)  # of the card's memory
