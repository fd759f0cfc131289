"""langevin_step: BAOAB against the reference, arrays in place, limits and errors."""

from __future__ import annotations

import inspect
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from losses import SLOPED, beside, fits, targets
from turns import in_turn

import cbokernels as cbk
from cbokernels import reference

ACTIVATIONS = list(reference.DERIVATIVES)  # those with a gradient

TOLERANCE = {"float32": 5e-6, "float64": 1e-13}


def problem(net, networks, samples, dtype, loss="mse", *, seed=0):
    """theta, velocity, x, y."""
    rng = np.random.default_rng([seed, networks, samples, net.size])
    theta, velocity = rng.uniform(-1, 1, (2, networks, net.size)).astype(dtype)
    x = rng.normal(size=(samples, net.inputs)).astype(dtype)
    return theta, velocity, x, targets(rng, loss, (samples,), net.outputs, dtype)


def copies(*arrays):
    return [a.copy() for a in arrays]


def error(result, truth):
    return np.abs(result - truth).max() / (np.abs(truth).max() or 1.0)


@pytest.mark.parametrize("temperature", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(1, 100, 1), (1, 1, 1), (3, 17, 2), (16, 33, 10)], ids=str)
@in_turn("activation, loss", beside(ACTIVATIONS, SLOPED))
def test_is_the_reference_step_by_step(shape, activation, loss, temperature, dtype):
    if not fits(loss, shape[2]):
        return
    net = cbk.TwoLayer(*shape, activation=activation)
    theta, velocity, x, y = problem(net, 3, 40, dtype, loss)
    arguments = {"loss": loss, "friction": 0.7, "temperature": temperature, "dt": 0.05, "seed": 5}
    gradient = cbk.risk_gradient(net, theta, x, y, loss=loss)[1]
    for step in range(4):
        plain = [a.astype(float) for a in (theta, velocity, gradient)]
        q, r, g = plain
        truth = reference.langevin_step(net, q, r, x, y, step=step, gradient=g, **arguments)
        risk = cbk.langevin_step(net, theta, velocity, x, y, step=step, gradient=gradient, **arguments)
        assert risk.dtype == np.float64
        assert risk.shape == (3,)
        for result, wanted in zip((risk, theta, velocity, gradient), (truth, q, r, g), strict=True):
            assert error(result, wanted) < TOLERANCE[dtype]
        assert error(risk, cbk.risk(net, theta, x, y, loss=loss)) < TOLERANCE[dtype]


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 4)),
    networks=st.integers(1, 9),
    samples=st.integers(1, 40),
    friction=st.floats(0, 1e3),
    temperature=st.floats(0, 2),
    dt=st.floats(0, 0.3),
    seed=st.integers(0, 2**64 - 1),
    step=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_any_arguments(shape, networks, samples, dtype, **arguments):
    net = cbk.TwoLayer(*shape, activation="tanh")
    theta, velocity, x, y = problem(net, networks, samples, dtype)
    q, r = theta.astype(float), velocity.astype(float)
    truth = reference.langevin_step(net, q, r, x, y, **arguments)
    risk = cbk.langevin_step(net, theta, velocity, x, y, **arguments)
    for result, wanted in ((risk, truth), (theta, q), (velocity, r)):
        assert np.abs(result - wanted).max() < 2 * TOLERANCE[dtype] * max(1.0, np.abs(wanted).max())


def test_a_step_is_b_a_o_a_b(dtype):
    # Written out once more from the normals and gradients that the library itself gives.
    net = cbk.TwoLayer(2, 9, 1, activation="gelu")
    theta, velocity, x, y = problem(net, 4, 30, dtype)
    gamma, t, dt, n = 0.8, 0.2, 0.1, 9
    q, r = theta.astype(float), velocity.astype(float)
    xi = cbk.standard_normal(*theta.shape, seed=3, step=6, dtype="float64")
    r = r - dt / 2 * n * cbk.risk_gradient(net, q, x.astype(float), y.astype(float))[1]
    q = q + dt / 2 * r
    r = math.exp(-gamma * dt) * r + math.sqrt(t * (1 - math.exp(-2 * gamma * dt))) * xi
    q = q + dt / 2 * r
    risk, gradient = cbk.risk_gradient(net, q, x.astype(float), y.astype(float))
    r = r - dt / 2 * n * gradient
    result = cbk.langevin_step(
        net, theta, velocity, x, y, friction=gamma, temperature=t, dt=dt, seed=3, step=6
    )
    for a, b in ((result, risk), (theta, q), (velocity, r)):
        assert error(a, b) < TOLERANCE[dtype]


def test_noise_is_exactly_standard_normal(dtype):
    # No force (y = g = 0 at c = 0, h = 0), no memory, temperature 1: the velocity is the normals themselves.
    net = cbk.TwoLayer(3, 31, 2, activation="identity")
    theta, x, y = np.zeros((5, net.size), dtype), np.zeros((4, 3), dtype), np.zeros((4, 2), dtype)
    velocity = np.zeros_like(theta)
    still = np.zeros_like(theta)
    cbk.langevin_step(
        net, theta, velocity, x, y, friction=1e4, temperature=1.0, dt=1e-2, seed=9, step=4, gradient=still
    )
    xi = cbk.standard_normal(5, net.size, seed=9, step=4, dtype=dtype)
    np.testing.assert_allclose(theta, 5e-3 * xi, rtol=1e-6)
    kick = 5e-3 * 31 * cbk.risk_gradient(net, theta, x, y)[1]
    np.testing.assert_allclose(velocity + kick, xi, rtol=0, atol=1e-6 if dtype == "float32" else 1e-15)


@pytest.mark.parametrize("temperature", [0.0, 0.1])
@pytest.mark.parametrize("loss", SLOPED)
def test_the_gradients_buffer_changes_no_bit(loss, temperature, dtype):
    net = cbk.TwoLayer(3, 17, 2 if fits(loss, 2) else 1, activation="softplus")
    theta, velocity, x, y = problem(net, 3, 40, dtype, loss)
    others = copies(theta, velocity)
    gradient = cbk.risk_gradient(net, theta, x, y, loss=loss)[1]
    for step in range(5):
        arguments = {"loss": loss, "temperature": temperature, "step": step}
        risk = cbk.langevin_step(net, theta, velocity, x, y, **arguments)
        again = cbk.langevin_step(net, *others, x, y, gradient=gradient, **arguments)
        for a, b in zip((risk, theta, velocity), (again, *others), strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(gradient, cbk.risk_gradient(net, theta, x, y, loss=loss)[1])


def test_networks_do_not_touch_each_other(dtype):
    net = cbk.TwoLayer(2, 9, 1)
    theta, velocity, x, y = problem(net, 5, 30, dtype)
    alone = copies(theta[:3], velocity[:3])
    theta[3], velocity[4] = np.nan, np.inf
    risk = cbk.langevin_step(net, theta, velocity, x, y, temperature=0.1)
    expected = cbk.langevin_step(net, *alone, x, y, temperature=0.1)
    assert not np.isfinite(risk[3:]).any()
    for result, wanted in zip((risk, theta, velocity), (expected, *alone), strict=True):
        np.testing.assert_array_equal(result[:3], wanted)


def test_limits(dtype):
    net = cbk.TwoLayer(2, 9, 1, activation="tanh")
    theta, velocity, x, y = problem(net, 3, 30, dtype)
    q, r = copies(theta, velocity)
    risk = cbk.langevin_step(net, q, r, x, y, dt=0.0, temperature=1.0)
    np.testing.assert_array_equal(q, theta)
    np.testing.assert_array_equal(r, velocity)
    assert error(risk, cbk.risk(net, theta, x, y)) < TOLERANCE[dtype]
    # Without friction there is no noise either.
    cbk.langevin_step(net, q, r, x, y, friction=0.0, temperature=1.0)
    cbk.langevin_step(net, theta, velocity, x, y, friction=0.0, temperature=0.0)
    np.testing.assert_array_equal(q, theta)


@pytest.mark.parametrize("shape", [(1, 100, 1), (30, 301, 3)], ids=str)
def test_bits_do_not_depend_on_threads(shape, dtype):
    net = cbk.TwoLayer(*shape)
    results = []
    for num_threads in (1, 2, 5, None):
        theta, velocity, x, y = problem(net, 3, 200, dtype)
        risk = cbk.langevin_step(net, theta, velocity, x, y, temperature=0.1, num_threads=num_threads)
        results.append((risk, theta, velocity))
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(a, b)


def strided(a):
    wide = np.zeros([2 * n for n in a.shape], a.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def misaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    raw[...] = a
    return raw


LAYOUTS = {
    "strided": strided,
    "misaligned": misaligned,
    "backwards": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "fortran": np.asfortranarray,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("buffer", [False, True])
def test_any_layout_gives_the_same_bits(buffer, layout, dtype):
    net = cbk.TwoLayer(3, 17, 2)
    plain = [*problem(net, 3, 40, dtype)]
    if buffer:
        plain.append(cbk.risk_gradient(net, plain[0], *plain[2:])[1])
    other = [LAYOUTS[layout](a) for a in plain]
    for a in other[2:4]:
        a.flags.writeable = False
    risks = [
        cbk.langevin_step(net, *arrays[:4], gradient=arrays[4] if buffer else None)
        for arrays in (plain, other)
    ]
    np.testing.assert_array_equal(*risks)
    for a, b in zip(plain, other, strict=True):
        np.testing.assert_array_equal(a, b)
    if layout == "strided":
        assert all((a.base[1::2] == 0).all() for a in other)


def test_parts_of_one_buffer(dtype):
    net = cbk.TwoLayer(1, 9, 1)
    theta, velocity, x, y = problem(net, 3, 9, dtype)
    both = np.concatenate([theta, velocity], axis=1)
    cbk.langevin_step(net, both[:, : net.size], both[:, net.size :], x, y)
    # data that lie in theta count as they were before
    inside, faster = copies(theta, velocity)
    risk = cbk.langevin_step(net, inside, faster, inside[0, :9, None], y)
    other, speed, data = copies(theta, velocity, theta[0, :9, None])
    expected = cbk.langevin_step(net, other, speed, data, y)
    for result, wanted in zip((risk, inside, faster), (expected, other, speed), strict=True):
        np.testing.assert_array_equal(result, wanted)
    cbk.langevin_step(net, theta, velocity, x, y)
    np.testing.assert_array_equal(both, np.concatenate([theta, velocity], axis=1))


def test_torch_tensors_are_updated_in_place(dtype):
    torch = pytest.importorskip("torch")
    net = cbk.TwoLayer(1, 9, 1)
    arrays = problem(net, 3, 9, dtype)
    tensors = [torch.from_numpy(a.copy()) for a in arrays]
    expected = cbk.langevin_step(net, *arrays)
    risk = cbk.langevin_step(net, *tensors)
    assert isinstance(risk, torch.Tensor)
    for tensor, a in ((risk, expected), *zip(tensors, arrays, strict=True)):
        np.testing.assert_array_equal(tensor.numpy(), a)


BITS = """
import hashlib
import numpy as np
import cbokernels as cbk

digest = hashlib.sha256()
net = cbk.TwoLayer(3, 67, 1)
for dtype in ("float32", "float64"):
    theta, velocity, gradient = np.random.default_rng(0).normal(size=(3, 2, net.size)).astype(dtype)
    cbk._cpu.langevin_drift(theta, velocity, gradient, 67.0, 0.7, 0.3, 0.1, (5, 0, 8, 0), 1)
    cbk._cpu.langevin_kick(velocity, gradient, 67.0, 0.1, 1)
    digest.update(theta.tobytes() + velocity.tobytes())
print(cbk.isa(), digest.hexdigest())
"""


def test_every_instruction_set_has_the_same_bits():
    digests = set()
    for isa in cbk.isas():
        environment = {**os.environ, "CBOKERNELS_ISA": isa}
        command = [sys.executable, "-c", BITS]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        used, digest = run.stdout.split()
        assert used == isa
        digests.add(digest)
    assert len(digests) == 1


def test_everything_after_the_arrays_is_keyword_only():
    public, plain = (inspect.signature(m.langevin_step).parameters for m in (cbk, reference))
    positional = [p for p in public if public[p].kind is not inspect.Parameter.KEYWORD_ONLY]
    assert positional == ["net", "theta", "velocity", "x", "y"]
    assert set(plain) == set(public) - {"precision", "num_threads"}
    assert all((plain[p].kind, plain[p].default) == (public[p].kind, public[p].default) for p in plain)


NET = cbk.TwoLayer(inputs=3, width=5, outputs=2)
THETA, VELOCITY = np.zeros((4, NET.size), "f4"), np.zeros((4, NET.size), "f4")
X, Y = np.ones((6, 3), "f4"), np.ones((6, 2), "f4")
READ_ONLY = np.zeros_like(THETA)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("change", "error_type", "words"),
    [
        ({"net": "relu"}, TypeError, ["net", "TwoLayer", "'relu'"]),
        (
            {"net": cbk.TwoLayer(3, 5, 2, scaling="none")},
            ValueError,
            ["net", "scaling='mean'", "scaling='none'"],
        ),
        (
            {"net": cbk.TwoLayer(3, 5, 2, output_bias=True), "theta": np.zeros((4, 32), "f4")},
            ValueError,
            ["net", "no output_bias", "output_bias=True"],
        ),
        ({"theta": THETA[0]}, ValueError, ["theta", "[R, 30]", "[30]"]),
        ({"theta": THETA[:, 1:]}, ValueError, ["theta", "[R, 30]", "[4, 29]"]),
        ({"theta": THETA.astype("f2")}, TypeError, ["theta", "float32 or float64", "float16"]),
        ({"theta": THETA.tolist()}, TypeError, ["theta", "array", "list"]),
        ({"theta": READ_ONLY}, ValueError, ["theta", "writable", "read-only"]),
        ({"velocity": READ_ONLY}, ValueError, ["velocity", "writable", "read-only"]),
        ({"gradient": READ_ONLY}, ValueError, ["gradient", "writable", "read-only"]),
        ({"velocity": VELOCITY[1:]}, ValueError, ["velocity must have shape [4, 30], got [3, 30]"]),
        ({"velocity": VELOCITY.astype("f8")}, TypeError, ["velocity must be float32, got float64"]),
        ({"gradient": VELOCITY[1:]}, ValueError, ["gradient must have shape [4, 30], got [3, 30]"]),
        ({"gradient": np.zeros((4, 30))}, TypeError, ["gradient must be float32, got float64"]),
        ({"velocity": THETA}, ValueError, ["velocity must not share memory with theta"]),
        ({"gradient": THETA[::-1]}, ValueError, ["gradient must not share memory with theta"]),
        ({"gradient": VELOCITY}, ValueError, ["gradient must not share memory with velocity"]),
        ({"x": X[:, :2]}, ValueError, ["x", "[S, 3]", "[6, 2]"]),
        ({"x": X.astype("f8")}, TypeError, ["x must be float32 as theta is, got float64"]),
        ({"y": Y[1:]}, ValueError, ["y", "[6, 2]", "[5, 2]"]),
        ({"y": Y.astype("f8")}, TypeError, ["y", "float32", "float64"]),
        ({"loss": "l1"}, ValueError, ["loss", "'mse'", "'cross_entropy'", "'l1'"]),
        ({"loss": "cross_entropy"}, TypeError, ["y", "integers", "float32"]),
        ({"loss": "cross_entropy", "y": np.full(6, 2)}, ValueError, ["y", "[0, 2)", "2 at [0]"]),
        ({"friction": -0.1}, ValueError, ["friction", "[0, inf)", "-0.1"]),
        ({"friction": math.inf}, ValueError, ["friction", "[0, inf)", "inf"]),
        ({"friction": None}, TypeError, ["friction", "real", "None"]),
        ({"temperature": -1e-9}, ValueError, ["temperature", "[0, inf)", "-1e-09"]),
        ({"temperature": math.nan}, ValueError, ["temperature", "[0, inf)", "nan"]),
        ({"dt": -0.1}, ValueError, ["dt", "[0, inf)", "-0.1"]),
        ({"dt": math.inf}, ValueError, ["dt", "[0, inf)", "inf"]),
        ({"dt": "0.1"}, TypeError, ["dt", "real", "'0.1'"]),
        ({"seed": -1}, ValueError, ["seed", "[0, 2^64)", "-1"]),
        ({"step": 2**32}, ValueError, ["step", "[0, 2^32)", str(2**32)]),
        ({"step": 1.0}, TypeError, ["step", "integer", "1.0"]),
        ({"precision": "tf32"}, ValueError, ["precision", "'float32'", "'tf32'"]),
        ({"num_threads": 0}, ValueError, ["num_threads", "got 0"]),
    ],
)
def test_wrong_arguments_are_named(change, error_type, words):
    arguments = {"net": NET, "theta": THETA, "velocity": VELOCITY, "x": X, "y": Y, "temperature": 1.0}
    with pytest.raises(error_type) as caught:
        cbk.langevin_step(**{**arguments, **change})
    assert all(word in str(caught.value) for word in words), caught.value
    assert not any(a.any() for a in (THETA, VELOCITY, READ_ONLY))
