"""What train warns of: risks that are not finite, ensembles that collapse or overflow."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels.experiments import sine

NET = cbk.TwoLayer(1, 12, 1)


def data():
    x = np.random.default_rng(2).random((50, 1))
    return x, np.sin(2 * np.pi * x[:, 0])


def test_warning_of_nonfinite_risks_comes_once_with_the_count():
    x, y = data()
    theta = NET.uniform(6, seed=0)
    theta[2] = 1e30
    method = cbk.CBO(alpha=1e3, drift=0.0, noise="none")
    with pytest.warns(cbk.CboWarning, match=r"epoch 1: 1 risks were NaN or infinite") as caught:
        result = cbk.train(NET, x, y, method, theta=theta, epochs=3)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert np.isfinite(result.parameters).all()


@pytest.mark.filterwarnings("ignore:.*has overflowed:cbokernels.CboWarning")
@pytest.mark.parametrize("method", [cbk.Adam(), cbk.GradientFlow(), cbk.HeavyBall()])
def test_methods_without_a_consensus_are_told_of_none(method):
    x, y = data()
    theta = NET.uniform(6, seed=0)
    theta[2] = 1e30
    with pytest.warns(
        cbk.CboWarning, match=r"epoch 1: 1 risks were NaN or infinite; .*goes on alone"
    ) as caught:
        cbk.train(NET, x, y, method, theta=theta, epochs=1)
    assert not any("consensus" in str(warning.message) for warning in caught)


def test_warning_of_collapse_comes_once_and_says_what_helps():
    x, y = data()
    with pytest.warns(cbk.CboWarning, match=r"has collapsed, .*floor.*alpha.*diffusion") as caught:
        result = cbk.train(NET, x, y, cbk.CBO(particles=20, diffusion=0.3), epochs=400)
    assert len(caught) == 1
    assert re.search(r"; the ensemble had collapsed in epoch \d+, at risk 0\.", result.message)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("shift", [0.0, -10.0])
def test_collapse_and_flight_are_told_whatever_the_risks_sign(shift):
    x, y = data()

    def squares(outputs, y):
        return ((outputs - y) ** 2).mean(axis=(1, 2)) + shift

    with pytest.warns(cbk.CboWarning, match="collapsed"):
        cbk.train(NET, x, y, cbk.CBO(particles=20, diffusion=0.3), loss=squares, epochs=400)
    theta, wild = np.random.default_rng(0).normal(size=(20, 50)), cbk.CBO(noise="isotropic", diffusion=5.0)
    with pytest.warns(cbk.CboWarning, match="flying apart"):
        cbk.minimize(lambda t: np.tanh((t**2).sum(axis=1)) + 0.5 + shift, theta, wild, steps=50)


def test_printed_sine_parameters_are_seen_to_freeze():
    """Although a few coordinates keep the variance of that ensemble large."""
    x, y = sine.samples()
    with pytest.warns(cbk.CboWarning, match="collapsed"):
        result = cbk.train(sine.NET, x, y, cbk.CBO(), epochs=120, batch_size=800)
    assert result.history["risk"][-1] > 1e-3  # well above what the same network learns elsewhere
    assert np.mean(result.particles.std(axis=0, dtype=np.float64) < 1e-6) > 0.9
    assert result.history["variance"][-1] > 1e-6


def test_no_warning_of_collapse_when_the_risk_is_gone_or_nothing_moved():
    x, y = data()
    solved = NET.uniform(20, seed=0)
    solved[:, 24:] = 0  # the second layer: every network is 0
    result = cbk.train(NET, x, 0 * y, cbk.CBO(diffusion=0.3), theta=solved, epochs=400)
    assert (result.particles.std(axis=0) < 1e-7).all()
    cbk.train(NET, x, y, cbk.CBO(particles=9, drift=0.0, noise="none"), epochs=5)


def test_particles_that_are_all_the_same_are_told_of_once():
    x, y = data()
    same = np.tile(NET.uniform(1, seed=0), (6, 1))

    def square(t):
        return (t**2).sum(axis=1)

    runs = [
        lambda method: cbk.train(NET, x, y, method, theta=same, epochs=5),
        lambda method: cbk.train(NET, x, y, method, theta=same[:1], epochs=5),
        lambda method: cbk.minimize(square, np.ones((6, 5)), method, steps=5),
        lambda method: cbk.minimize(square, np.ones((1, 5)), method, steps=5),
    ]
    with pytest.warns(cbk.CboWarning, match="all particles are the same"):
        told = cbk.train(NET, x, np.stack([y, -y]), cbk.MultiTaskCBO(), theta=same, epochs=2)
    assert (told.particles == same).all()
    for run in runs:
        for method in cbk.CBO(), cbk.CBO(noise="isotropic"):
            with pytest.warns(
                cbk.CboWarning, match="all particles are the same, or there is one: .*floor"
            ) as caught:
                result = run(method)
            assert [warning.filename for warning in caught] == [__file__]
            assert "all particles were the same from the start" in result.message
            assert (result.particles == result.particles[0]).all()
        for method in cbk.CBO(floor=0.1), cbk.CBO(noise="additive"):
            assert "the same" not in run(method).message


@pytest.mark.filterwarnings("ignore:.*risks were:cbokernels.CboWarning")
@pytest.mark.filterwarnings("ignore:.*flying apart:cbokernels.CboWarning")
def test_warning_of_overflow():
    x, y = data()
    method = cbk.CBO(particles=20, alpha=math.inf, diffusion=50.0)
    with pytest.warns(
        cbk.CboWarning, match=r"has overflowed, [1-9]\d* of 20 particles hold NaN.* smaller diffusion"
    ) as caught:
        result = cbk.train(NET, x, y, method, epochs=100)
    assert len([w for w in caught if "overflowed" in str(w.message)]) == 1
    assert not np.isfinite(result.history["variance"][-1])
    assert np.isfinite(result.history["risk"]).all()


def test_no_finite_risk_says_when():
    x, y = data()
    theta = np.outer([1e30, 2e30, 3e30], np.ones(NET.size)).astype(np.float32)
    with pytest.raises(cbk.ConsensusError, match=r"epoch 1, step 0: "):
        cbk.train(NET, x, y, cbk.CBO(), theta=theta, epochs=3)
