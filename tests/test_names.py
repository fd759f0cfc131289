"""What the compiled module does not know is an error there too, whoever calls."""

from __future__ import annotations

import numpy as np
import pytest

from cbokernels import _cpu


def update(noise):
    theta = np.zeros((2, 3))
    law = 1.0, 1.0, 0.1, noise, 0.0, 1.0
    _cpu.cbo_update(theta, theta[:1], None, None, law, (0, 0, 0, 0), np.empty((2, 3)), 1)


def test_activations_and_scalings():
    for activation in ("relu", "tanh", "sigmoid", "gelu", "softplus", "identity"):
        assert _cpu.Network(1, 2, 1, activation, "mean", False).size == 6
    for activation in ("linear", "ReLU", ""):
        with pytest.raises(ValueError, match=f"unknown activation '{activation}'"):
            _cpu.Network(1, 2, 1, activation, "mean", False)
    with pytest.raises(ValueError, match="unknown scaling 'sum'"):
        _cpu.Network(1, 2, 1, "relu", "sum", False)


def test_noises():
    for noise in ("anisotropic", "isotropic", "truncated", "additive", "none"):
        update(noise)
    for noise in ("quiet", "None", ""):
        with pytest.raises(ValueError, match=f"unknown noise '{noise}'"):
            update(noise)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_costs_that_are_not_finite(wrong):
    with pytest.raises(ValueError, match="costs must be finite"):
        _cpu.assign_matrix(np.full((3, 3), wrong), np.empty(3, np.int32))
