"""States, which callbacks get: plain dataclasses, whose particles are as they were."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest

import cbokernels as cbk

NET = cbk.TwoLayer(2, 9, 1)
X = np.random.default_rng(6).normal(size=(40, 2))
METHOD = cbk.CBO(particles=20, alpha=50.0)


def train(**arguments):
    return cbk.train(NET, X, np.sin(X.sum(axis=1)), METHOD, batch_size=15, **arguments)


def test_states_are_plain_dataclasses():
    states, kept = [], []

    def look(state):
        states.append(state)
        kept.append(dataclasses.replace(state, epoch=100))
        assert repr(state).startswith(f"State(epoch={state.epoch}, risk=")

    result = train(epochs=2, callback=look)
    for state, other in zip(states, kept, strict=True):
        assert type(state) is type(other) is cbk.State
        assert other.epoch == 100
        np.testing.assert_array_equal(other.particles, state.particles)
        for again in (copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
            assert dataclasses.asdict(again).keys() == dataclasses.asdict(state).keys()
            np.testing.assert_array_equal(again.particles, state.particles)
    np.testing.assert_array_equal(states[-1].particles, result.particles)
    assert "particles=[20, 36] float32" in repr(states[0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        states[0].epoch = 3
    with pytest.raises(AttributeError, match="State has no attribute 'partikel'"):
        _ = states[0].partikel


def test_a_state_that_is_pickled_before_anyone_looks():
    texts = []
    result = train(epochs=1, callback=lambda s: texts.append(pickle.dumps(s)))
    np.testing.assert_array_equal(pickle.loads(texts[0]).particles, result.particles)
