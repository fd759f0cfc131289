"""Names and numbers that the compiled module does not know, or misses, are errors: it fills nothing in."""

from __future__ import annotations

import numpy as np
import pytest
from fake_cuda import Array

import cbokernels as cbk
from cbokernels.methods.base import Setting

NETWORK = (2, 4, 1, "tanh", 0.25, False)
NET = cbk.TwoLayer(2, 4, 1, "tanh")
SAMPLES, PARTICLES = 7, 4
X, Y = np.ones((SAMPLES, 2)), np.ones((SAMPLES, 1))

METHODS = {
    "cbo": cbk.CBO(PARTICLES),
    "truncated": cbk.CBO(PARTICLES, noise="truncated", radius=1.0),
    "flying": cbk.CBO(PARTICLES, friction=1.0, particle_batch=2, move="batch"),
    "adam": cbk.Adam(PARTICLES),
    "hybrid": cbk.Hybrid(PARTICLES),
    "hopping": cbk.ConsensusHopping(6, lr=0.1),
    "heavy ball": cbk.HeavyBall(particles=PARTICLES),
    "gradient flow": cbk.GradientFlow(particles=PARTICLES),
    "transport": cbk.TransportCBO(PARTICLES),
}


def planned(method):
    theta = np.zeros((1 if isinstance(method, cbk.ConsensusHopping) else PARTICLES, NET.size))
    made = method._on_card(theta, Setting(seed=0, threads=0, net=NET))
    return made, theta, {**made.numbers(method._values(0, 3)), "limit": 0.0}


def start(module, made, theta, **changes):
    given = {
        "on": (0, 0), "net": NETWORK, "method": made.kernel, "x": X.ctypes.data, "y": Y.ctypes.data,
        "on_host": True, "loss": "mse", "samples": SAMPLES, "batch": 3, "tasks": 1, "own_inputs": False,
        "theta": theta, "task": made.task, "seed": 0, "noise": made.noise, "solve": False,
        "precision": "float32", "more": dict(made.more), "owner": None,
    }  # fmt: skip
    return module.start(**{**given, **changes})


@pytest.mark.parametrize("name", METHODS)
def test_every_number_of_an_epoch_is_asked_for(emulated, name):
    made, theta, numbers = planned(METHODS[name])
    run = start(emulated.module, made, theta)
    order = np.arange(SAMPLES)
    subset = int(made.more.get("subset", 0))
    subsets = np.tile(np.arange(subset), (3, 1)) if subset else None
    run.submit(order, subsets, 1, numbers)
    assert np.isfinite(run.row(0)).any()
    for missing in numbers:
        with pytest.raises(ValueError, match=f"lack '{missing}'"):
            run.submit(order, subsets, 4, {n: v for n, v in numbers.items() if n != missing})
    with pytest.raises(ValueError, match="hold 'momentum', which nobody reads"):
        run.submit(order, subsets, 4, {**numbers, "momentum": 0.9})
    with pytest.raises(ValueError, match=f"order holds 0, expected {SAMPLES}"):
        run.submit(None, subsets, 4, numbers)
    with pytest.raises(ValueError, match=f"subsets holds {0 if subset else 5}, expected {3 * subset}"):
        run.submit(order, None if subset else np.arange(5), 4, numbers)


@pytest.mark.parametrize("name", METHODS)
def test_every_number_of_a_method_is_asked_for(emulated, name):
    made, theta, _ = planned(METHODS[name])
    for missing in made.more:
        with pytest.raises(ValueError, match=f"lack '{missing}'"):
            start(emulated.module, made, theta, more={n: v for n, v in made.more.items() if n != missing})
    with pytest.raises(ValueError, match="hold 'memory', which nobody reads"):
        start(emulated.module, made, theta, more={**made.more, "memory": 1.0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "cbx"}, "unknown method 'cbx'"),
        ({"noise": "quiet"}, "unknown noise 'quiet'"),
        ({"precision": "fp16"}, "unknown precision 'fp16'"),
        ({"net": (2, 4, 1, "linear", 0.25, False)}, "unknown activation 'linear'"),
    ],
)
def test_names_of_a_run(emulated, changes, message):
    made, theta, _ = planned(METHODS["cbo"])
    with pytest.raises(ValueError, match=message):
        start(emulated.module, made, theta, **changes)


def test_names_of_kernels(emulated):
    module = emulated.module
    theta, out = np.zeros((PARTICLES, NET.size)), np.zeros((PARTICLES, SAMPLES))
    t, x, y, o = (a.ctypes.data for a in (theta, X, Y, out))
    for net, precision, message in (
        (NETWORK, "float16", "unknown precision 'float16'"),
        (NETWORK, "", "unknown precision ''"),
        ((2, 4, 1, "elu", 0.25, False), "float32", "unknown activation 'elu'"),
    ):
        for call in (
            lambda net=net, precision=precision: module.forward(
                (0, 0), True, net, t, PARTICLES, x, SAMPLES, o, precision
            ),
            lambda net=net, precision=precision: module.risk(
                (0, 0), True, net, t, PARTICLES, x, SAMPLES, y, "mse", 1, o, 1, precision
            ),
            lambda net=net, precision=precision: module.risk_gradient(
                (0, 0), True, net, t, PARTICLES, x, SAMPLES, y, "mse", o, t, precision
            ),
        ):
            with pytest.raises(ValueError, match=message):
                call()
    with pytest.raises(ValueError, match="unknown noise 'still'"):
        module.cbo_update(
            (0, 0), True, t, t, PARTICLES, NET.size, t, 0, 1, 1.0, 1.0, 0.1, "still", 0.0, 1.0, 0, 0, 0
        )


def test_precision_that_would_be_passed_over_is_refused(emulated):
    """The risks of single neurons are computed in float32's own arithmetic."""
    net = cbk.TwoLayer(2, 4, 1, "tanh")
    theta, x, y = (Array(np.zeros(shape, "f4")) for shape in ((3, net.size), (5, 2), (5, 1)))
    center = Array(np.zeros(net.size, "f4"))
    for precision in ("tf32", "bf16"):
        with pytest.raises(
            ValueError, match=f"precision must be 'float32' for atom_risks, got '{precision}'"
        ):
            cbk.atom_risks(net, center, theta, x, y, precision=precision)
        method = cbk.ConsensusHopping(6, scope="atom")
        with pytest.raises(ValueError, match="precision must be 'float32' for scope='atom'"):
            cbk.train(net, X, Y, method, device="cuda", precision=precision, epochs=1)
