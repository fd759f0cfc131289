"""What the compiled module does not know is an error there too, whoever calls."""

from __future__ import annotations

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels import _cpu
from cbokernels.methods import base


def update(noise):
    theta = np.zeros((2, 3))
    law = 1.0, 1.0, 0.1, noise, 0.0, 1.0
    _cpu.cbo_update(theta, theta[:1], None, None, law, (0, 0, 0, 0), np.empty((2, 3)), 1)


def test_activations_and_scalings():
    for activation in (
        "relu", "tanh", "sigmoid", "gelu", "softplus", "identity", "leaky_relu", "silu", "sin",
        "erf", "sign", "step",
    ):  # fmt: skip
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


@pytest.mark.parametrize("at", [0, 1, 6])
@pytest.mark.parametrize("layout", ["misaligned", "strided", "swapped", "another dtype", "a list"])
def test_arrays_are_never_converted(layout, at):
    """A copy of what a kernel writes would lose it."""
    law, key = (1.0, 1.0, 0.1, "none", 0.0, 1.0), (0, 0, 0, 0)
    arguments = [np.ones((4, 3)), np.ones((1, 3)), None, None, law, key, np.ones((4, 3)), 1]
    a = arguments[at]
    wrong = {
        "misaligned": np.ones(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape),
        "strided": np.ones((len(a), 6))[:, ::2],
        "swapped": a.astype(">f8"),
        "another dtype": a.astype("f4"),
        "a list": a.tolist(),
    }
    _cpu.cbo_update(*arguments)
    arguments[at] = wrong[layout]
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _cpu.cbo_update(*arguments)


def test_read_only_results_are_refused():
    theta = np.ones((4, 3))
    theta.flags.writeable = False
    law, key = (1.0, 1.0, 0.1, "none", 0.0, 1.0), (0, 0, 0, 0)
    with pytest.raises(ValueError, match="not writeable"):
        _cpu.cbo_update(theta, np.ones(3), None, None, law, key, theta, 1)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_costs_that_are_not_finite(wrong):
    with pytest.raises(ValueError, match="costs must be finite"):
        _cpu.assign_matrix(np.full((3, 3), wrong), np.empty(3, np.int32))


def test_help_of_train_names_every_method_and_shows_a_call():
    shown = cbk.train.__doc__
    assert "cbk.train(net, x, y" in shown
    kinds = [base.Method]
    for kind in kinds:
        kinds += kind.__subclasses__()
    for kind in kinds[1:]:
        if kind.__module__.startswith("cbokernels.methods."):  # experiments have one of their own
            assert f"`{kind.__name__}`" in shown
