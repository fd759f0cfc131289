"""The closed sets: the reference and the tests have what the compiled module lists; nothing else is taken."""

from __future__ import annotations

import losses
import numpy as np
import pytest
from test_hybrid import NOISES as HYBRID_NOISES
from test_risk import ACTIVATIONS as TRUTHS
from test_update import NOISES as TESTED_NOISES

import cbokernels as cbk
from cbokernels import _cpu, reference
from cbokernels._kinds import ACTIVATIONS, LOSSES, NOISES, takes_labels


def test_the_reference_has_every_kind():
    assert list(reference.ACTIVATIONS) == list(ACTIVATIONS)
    sloped = [activation for activation in ACTIVATIONS if _cpu.ACTIVATIONS[activation]]
    assert list(reference.DERIVATIVES) == sloped
    assert set(ACTIVATIONS) - set(sloped) == {"sign", "step"}
    assert list(reference.LOSSES) == list(LOSSES)
    assert list(reference.NOISES) == list(NOISES)
    assert list(reference.LOSS_SLOPES) == [loss for loss in LOSSES if _cpu.LOSSES[loss][1]]


def test_the_tests_have_every_kind():
    assert list(TRUTHS) == list(ACTIVATIONS)
    assert list(losses.TRUTHS) == list(LOSSES)
    assert list(reference.LOSS_SLOPES) == losses.SLOPED
    assert set(TESTED_NOISES) - {"floored"} == set(HYBRID_NOISES) == set(NOISES)


def test_labels_are_refused_by_losses_of_values_and_the_reverse():
    net = cbk.TwoLayer(2, 3, 1)
    theta, x, out = net.uniform(4, seed=0), np.zeros((5, 2), np.float32), np.empty((4, 1))
    values, labels = np.zeros((1, 5, 1), np.float32), np.zeros((1, 5), np.int32)
    for loss in LOSSES:
        right, wrong = (labels, values) if takes_labels(loss) else (values, labels)
        _cpu.risk(net._kernel, theta, x, right, loss, out, 1)
        with pytest.raises(TypeError, match="y must be a contiguous array"):
            _cpu.risk(net._kernel, theta, x, wrong, loss, out, 1)


def test_unknown_names_are_told_what_there_is():
    with pytest.raises(ValueError, match="unknown activation 'swish', expected one of relu, tanh"):
        _cpu.Network(1, 2, 1, "swish", "mean", False)
    net = cbk.TwoLayer(1, 2, 1)
    theta, x = net.uniform(4, seed=0), np.zeros((5, 1), np.float32)
    with pytest.raises(ValueError, match="unknown loss 'l3', expected one of mse, mae, huber"):
        _cpu.risk(net._kernel, theta, x, np.zeros((1, 5, 1), np.float32), "l3", np.empty((4, 1)), 1)
