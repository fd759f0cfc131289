"""Names and numbers that the compiled module does not know, or misses, are errors: it fills nothing in."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fake_cuda import Array
from libraries import array

import cbokernels as cbk
from cbokernels.methods.base import Setting, Shape

NET = cbk.TwoLayer(2, 4, 1, "tanh")
SAMPLES, PARTICLES = 7, 4
ON = 0, 0, "float32"  # device, stream, precision
X, Y = np.ones((SAMPLES, 2)), np.ones((SAMPLES, 1))

METHODS = {
    "cbo": cbk.CBO(PARTICLES),
    "truncated": cbk.CBO(PARTICLES, noise="truncated", radius=1.0),
    "flying": cbk.CBO(PARTICLES, friction=1.0, particle_batch=2, move="batch"),
    "adam": cbk.Adam(PARTICLES),
    "rates": cbk.Adam(PARTICLES, lr=[0.1] * PARTICLES),
    "hybrid": cbk.Hybrid(PARTICLES),
    "hopping": cbk.ConsensusHopping(6, lr=0.1),
    "heavy ball": cbk.HeavyBall(particles=PARTICLES),
    "gradient flow": cbk.GradientFlow(particles=PARTICLES),
    "transport": cbk.TransportCBO(PARTICLES),
}


def planned(method):
    method = method._for(Shape(NET))
    theta = np.zeros((1 if isinstance(method, cbk.ConsensusHopping) else PARTICLES, NET.size))
    made = method._on_card(theta, Setting(seed=0, threads=0, net=NET))
    return made, theta, {**made.numbers(method._values(0, 3)), "limit": 0.0, "decay": 0.0}


def start(module, made, theta, **changes):
    given = {
        "net": NET._kernel, "method": made.kernel, "x": X, "y": Y[None], "weights": None, "loss": "mse",
        "batch": 3, "theta": theta, "task": made.task, "seed": 0, "noise": made.noise, "solve": False,
        "more": {**made.more, "decays": False}, "owner": None, "run": ON,
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
    more = {**made.more, "decays": True}
    for missing in more:
        with pytest.raises(ValueError, match=f"lack '{missing}'"):
            start(emulated.module, made, theta, more={n: v for n, v in more.items() if n != missing})
    with pytest.raises(ValueError, match="hold 'memory', which nobody reads"):
        start(emulated.module, made, theta, more={**more, "memory": 1.0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "cbx"}, "unknown method 'cbx'"),
        ({"noise": "quiet"}, "unknown noise 'quiet'"),
        ({"run": (0, 0, "fp16")}, "unknown precision 'fp16'"),
        ({"loss": "l3"}, "unknown loss 'l3'"),
    ],
)
def test_names_of_a_run(emulated, changes, message):
    made, theta, _ = planned(METHODS["cbo"])
    with pytest.raises(ValueError, match=message):
        start(emulated.module, made, theta, **changes)


def test_names_of_kernels(emulated):
    module = emulated.module
    shapes = (PARTICLES, NET.size), X.shape, Y.shape, (PARTICLES, SAMPLES, 1), (PARTICLES,)
    t, x, y, o, r = (array(Array(np.zeros(shape))) for shape in shapes)
    for precision in ("float16", ""):
        for name, arguments in (
            ("forward", (t, x, o)), ("risk", (t, x, y, "mse", r)), ("risk_gradient", (t, x, y, "mse", r, t))
        ):  # fmt: skip
            with pytest.raises(ValueError, match=f"unknown precision '{precision}'"):
                getattr(module, name)(NET._kernel, *arguments, (0, 0, precision))
    law = 1.0, 1.0, 0.1, "still", 0.0, 1.0
    with pytest.raises(ValueError, match="unknown noise 'still'"):
        module.cbo_update(t, t[0], None, None, law, (0, 0, 0, 0), t, ON)


def test_arrays_that_do_not_fit_are_refused(emulated):
    """As the CPU's module refuses them."""
    module, key = emulated.module, (0, 0, 0, 0)
    t, x, y, r, short = (
        array(Array(np.zeros(shape))) for shape in ((4, NET.size), (7, 2), (7, 1), 4, (3, NET.size))
    )
    law = 1.0, 1.0, 0.1, "none", 0.0, 1.0
    with pytest.raises(ValueError, match=r"theta has shape \[7, 2\], expected \[7, 16\]"):
        module.risk(NET._kernel, x, x, y, "mse", r, ON)
    with pytest.raises(ValueError, match=r"out has shape \[3, 16\], expected \[4, 16\]"):
        module.cbo_update(t, t[0], None, None, law, key, short, ON)
    with pytest.raises(ValueError, match=r"point has shape \[2\], expected \[16\]"):
        module.cbo_update(t, x[0], None, None, law, key, t, ON)
    with pytest.raises(TypeError, match="y must be a contiguous array"):
        module.risk(NET._kernel, t, x, y, "cross_entropy", r, ON)
    for wrong in (np.zeros((4, NET.size)), dataclasses.replace(t, dtype=np.dtype("f4"))):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            module.cbo_update(t, t[0], None, None, law, key, wrong, ON)


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
