"""cbo_update: every noise against the reference, exact rounding, aliasing, tasks and counters."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turns import in_turn

import cbokernels as cbk
from cbokernels import reference

NOISES = {
    "anisotropic": {},
    "floored": {"noise": "anisotropic", "floor": 0.3},
    "isotropic": {"noise": "isotropic"},
    "truncated": {"noise": "truncated", "radius": 0.7},
    "additive": {"noise": "additive"},
    "none": {"noise": "none"},
}
TOLERANCE = {"float32": 3e-6, "float64": 1e-13}
SIZES = [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 63, 65, 301, 1025]


def ensemble(particles, size, dtype, *, tasks=None, seed=0):
    rng = np.random.default_rng([seed, particles, size])
    theta = rng.normal(size=(particles, size)).astype(dtype)
    return theta, rng.normal(size=size if tasks is None else (tasks, size)).astype(dtype)


def error(result, truth):
    return np.abs(result - truth).max() / np.abs(truth).max()


@pytest.mark.parametrize("noise", NOISES)
@in_turn("size", SIZES)
def test_every_noise_is_the_reference(noise, size, dtype):
    theta, point = ensemble(1 + size % 7, size, dtype)
    arguments = {"seed": size, "step": 3, "drift": 0.9, "diffusion": 1.1, "dt": 0.2, **NOISES[noise]}
    before = theta.copy()
    result = cbk.cbo_update(theta, point, **arguments)
    assert result.shape == theta.shape
    assert result.dtype == dtype
    assert error(result, reference.cbo_update(theta, point, **arguments)) < TOLERANCE[dtype]
    np.testing.assert_array_equal(theta, before)
    assert not np.shares_memory(result, theta)


@given(
    particles=st.integers(1, 9),
    size=st.integers(1, 70),
    noise=st.sampled_from(list(NOISES)),
    drift=st.floats(-2, 2),
    diffusion=st.floats(0, 3),
    dt=st.floats(0, 1),
    seed=st.integers(0, 2**64 - 1),
    step=st.integers(0, 2**32 - 1),
    first=st.integers(0, 2**32 - 9),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_any_arguments(particles, size, noise, drift, diffusion, dt, seed, step, first, dtype):
    theta, point = ensemble(particles, size, dtype)
    arguments = {
        "drift": drift, "diffusion": diffusion, "dt": dt, "seed": seed, "step": step, "first_particle": first,
        **NOISES[noise],
    }  # fmt: skip
    result = cbk.cbo_update(theta, point, **arguments)
    truth = reference.cbo_update(theta, point, **arguments)
    scale = max(np.abs(theta).max(), np.abs(point).max(), np.abs(truth).max())
    assert np.abs(result - truth).max() <= TOLERANCE[dtype] * scale


def test_defaults_are_those_of_the_paper(dtype):
    theta, point = ensemble(4, 9, dtype)
    explicit = {"drift": 1.0, "diffusion": math.sqrt(1.6), "dt": 0.1, "noise": "anisotropic", "floor": 0.0}
    np.testing.assert_array_equal(
        cbk.cbo_update(theta, point),
        cbk.cbo_update(theta, point, seed=0, step=0, first_particle=0, **explicit),
    )


def rounded(value, bits):
    """A rational number rounded to a binary floating-point number, ties to even."""
    if value == 0:
        return Fraction(0)
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length()
    if abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (exponent - bits + 1)
    return round(value / unit) * unit


@pytest.mark.parametrize("seed", [0, 1])
def test_anisotropic_noise_is_rounded_once(seed, dtype):
    theta, point = ensemble(6, 67, dtype, seed=seed)
    point = theta.mean(axis=0)
    diffusion, drift, dt = 1.6**0.5, 1.0, 0.1
    xi = cbk.standard_normal(6, 67, seed=seed, step=5, first_particle=2, dtype=dtype)
    bits = 24 if dtype == "float32" else 53
    kind = theta.dtype.type
    b, a = Fraction(float(kind(diffusion * math.sqrt(dt)))), Fraction(float(kind(drift * dt)))
    delta = theta - point
    result = cbk.cbo_update(
        theta, point, drift=drift, diffusion=diffusion, dt=dt, seed=seed, step=5, first_particle=2
    )
    for z, d, t, r in zip(xi.flat, delta.flat, theta.flat, result.flat, strict=True):
        factor = rounded(b * Fraction(float(z)) - a, bits)
        assert Fraction(float(r)) == rounded(factor * Fraction(float(d)) + Fraction(float(t)), bits)


def test_noise_is_exactly_standard_normal(dtype):
    # With theta = 0, drift 0 and sigma sqrt(dt) = 1 additive noise leaves the normals themselves.
    result = cbk.cbo_update(
        np.zeros((11, 77), dtype), np.zeros(77, dtype), drift=0.0, diffusion=1.0, dt=1.0, noise="additive",
        seed=2**63, step=8, first_particle=100,
    )  # fmt: skip
    xi = cbk.standard_normal(11, 77, seed=2**63, step=8, first_particle=100, dtype=dtype)
    np.testing.assert_array_equal(result, xi)


@pytest.mark.parametrize("noise", NOISES)
def test_out_and_in_place(noise, dtype):
    theta, point = ensemble(5, 37, dtype)
    arguments = {"seed": 4, "step": 1, **NOISES[noise]}
    expected = cbk.cbo_update(theta, point, **arguments)
    out = np.full_like(theta, np.nan)
    assert cbk.cbo_update(theta, point, out=out, **arguments) is out
    np.testing.assert_array_equal(out, expected)
    assert cbk.cbo_update(theta, point, out=theta, **arguments) is theta
    np.testing.assert_array_equal(theta, expected)


def overlaps(dtype, size):
    """Names and (theta, point, out) that overlap in one buffer."""
    n = 6
    buffer = np.random.default_rng(1).normal(size=4 * n * size).astype(dtype)
    block = lambda start: buffer[start : start + n * size].reshape(n, size)  # noqa: E731
    far = buffer[3 * n * size : 3 * n * size + size]
    yield "out one row behind", block(size), far, block(0)
    yield "out one row ahead", block(0), far, block(size)
    yield "out one entry ahead", block(0), far, block(1)
    yield "point in theta, in place", block(0), buffer[2 * size : 3 * size], block(0)
    yield "point in out", block(0), buffer[2 * n * size : 2 * n * size + size], block(2 * n * size - size)
    yield "reversed rows", block(0), far, block(0)[::-1]
    yield "transposed", block(0)[:, :n], far[:n], block(0)[:, :n].T
    yield "every second row", block(0)[: n // 2], far, block(0)[::2]


@pytest.mark.parametrize("noise", NOISES)
@in_turn("case", range(8))
def test_overlapping_out_changes_nothing(case, noise, dtype):
    name, theta, point, out = list(overlaps(dtype, 19))[case]
    arguments = {"seed": 4, "step": 1, **NOISES[noise]}
    expected = cbk.cbo_update(theta.copy(), point.copy(), **arguments)
    assert np.shares_memory(out, theta) or np.shares_memory(out, point), name
    assert cbk.cbo_update(theta, point, out=out, **arguments) is out
    np.testing.assert_array_equal(out, expected, err_msg=name)


def test_non_contiguous_out_is_written_in_place(dtype):
    theta, point = ensemble(5, 12, dtype)
    whole = np.zeros((10, 24), dtype)
    out = whole[::2, 1::2]
    assert cbk.cbo_update(theta, point, out=out) is out
    np.testing.assert_array_equal(whole[::2, 1::2], cbk.cbo_update(theta, point))
    assert (whole[1::2] == 0).all()
    assert (whole[:, ::2] == 0).all()


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("kind", ["int8", "uint16", "int32", "int64", "uint64"])
def test_tasks_follow_their_own_point(kind, noise, dtype):
    theta, points = ensemble(10, 23, dtype, tasks=3)
    task = np.array([0, 2, 1, 1, 0, 2, 2, 0, 1, 0], kind)
    arguments = {"seed": 6, "step": 2, **NOISES[noise]}
    result = cbk.cbo_update(theta, points, task=task, first_particle=4, **arguments)
    for n in range(10):
        alone = cbk.cbo_update(theta[n : n + 1], points[task[n]], first_particle=4 + n, **arguments)
        np.testing.assert_array_equal(result[n], alone[0])
    truth = reference.cbo_update(theta, points, task=task, first_particle=4, **arguments)
    assert error(result, truth) < TOLERANCE[dtype]


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("split", [1, 4, 8])
def test_particles_may_be_split(split, noise, dtype):
    theta, point = ensemble(9, 21, dtype)
    arguments = {"seed": 6, "step": 2, **NOISES[noise]}
    whole = cbk.cbo_update(theta, point, first_particle=30, **arguments)
    low = cbk.cbo_update(theta[:split], point, first_particle=30, **arguments)
    high = cbk.cbo_update(theta[split:], point, first_particle=30 + split, **arguments)
    np.testing.assert_array_equal(np.concatenate([low, high]), whole)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("shape", [(200, 301), (3, 15_911), (1, 70_001)])
def test_bits_do_not_depend_on_threads(shape, noise, dtype):
    theta, point = ensemble(*shape, dtype)
    one = cbk.cbo_update(theta, point, num_threads=1, **NOISES[noise])
    for num_threads in (2, 3, 5, None):
        again = cbk.cbo_update(theta, point, num_threads=num_threads, **NOISES[noise])
        np.testing.assert_array_equal(again, one)


def test_limits(dtype):
    theta, point = ensemble(5, 12, dtype)
    for noise, arguments in NOISES.items():
        np.testing.assert_array_equal(cbk.cbo_update(theta, point, dt=0.0, **arguments), theta, err_msg=noise)
    reached = cbk.cbo_update(theta, point, noise="none", drift=2.0, dt=0.5)
    np.testing.assert_allclose(reached, np.broadcast_to(point, theta.shape), atol=3e-7)
    np.testing.assert_array_equal(
        cbk.cbo_update(theta, point, noise="truncated", radius=math.inf),
        cbk.cbo_update(theta, point, noise="isotropic"),
    )
    settled = np.broadcast_to(point, theta.shape)
    np.testing.assert_array_equal(cbk.cbo_update(settled, point), settled)
    assert not np.array_equal(cbk.cbo_update(settled, point, floor=0.1), settled)


def test_truncated_noise_is_bounded_by_the_radius(dtype):
    theta, point = ensemble(50, 40, dtype)
    still = {"drift": 0.0, "diffusion": 1.0, "dt": 1.0}
    moves = cbk.cbo_update(theta, point, noise="truncated", radius=0.01, **still) - theta
    xi = cbk.standard_normal(50, 40, seed=0, dtype=dtype)
    np.testing.assert_allclose(moves, 0.01 * xi, atol=1e-6)


THETA, POINT, POINTS = np.zeros((4, 3), "f4"), np.zeros(3, "f4"), np.zeros((2, 3), "f4")
TASK = np.array([0, 1, 0, 1])
READ_ONLY = np.zeros((4, 3), "f4")
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"theta": THETA[0]}, ValueError, ["theta", "[N, D]", "[3]"]),
        ({"theta": THETA[:0]}, ValueError, ["theta", "no size 0", "[0, 3]"]),
        ({"theta": THETA.astype(int)}, TypeError, ["theta", "float32 or float64", "int64"]),
        ({"theta": THETA.astype("c8")}, TypeError, ["theta", "float32 or float64", "complex64"]),
        ({"point": POINT[1:]}, ValueError, ["point", "[3]", "[2]"]),
        ({"point": POINT.astype("f8")}, TypeError, ["point must be float32 as theta is, got float64"]),
        ({"point": [0.0] * 3}, TypeError, ["point", "array", "list"]),
        ({"point": POINTS}, ValueError, ["task", "[N]", "[T, D]", "None"]),
        ({"task": TASK}, ValueError, ["point", "[T, 3]", "[3]"]),
        ({"point": POINTS[:, 1:], "task": TASK}, ValueError, ["point", "[T, 3]", "[2, 2]"]),
        ({"point": POINTS, "task": TASK[1:]}, ValueError, ["task", "[4]", "[3]"]),
        ({"point": POINTS, "task": TASK.astype(float)}, TypeError, ["task", "integers", "float64"]),
        ({"point": POINTS, "task": TASK > 0}, TypeError, ["task", "integers", "bool"]),
        ({"point": POINTS, "task": TASK + 1}, ValueError, ["task", "[0, 2)", "2 at [1]"]),
        ({"point": POINTS, "task": TASK - 1}, ValueError, ["task", "[0, 2)", "-1 at [0]"]),
        ({"point": POINTS, "task": TASK.tolist()}, TypeError, ["task", "array", "list"]),
        ({"drift": math.inf}, ValueError, ["drift", "(-inf, inf)", "inf"]),
        ({"drift": "1"}, TypeError, ["drift", "real", "'1'"]),
        ({"diffusion": -0.1}, ValueError, ["diffusion", "[0, inf)", "-0.1"]),
        ({"diffusion": math.nan}, ValueError, ["diffusion", "[0, inf)", "nan"]),
        ({"dt": -1}, ValueError, ["dt", "[0, inf)", "-1"]),
        ({"dt": math.inf}, ValueError, ["dt", "[0, inf)", "inf"]),
        ({"dt": True}, TypeError, ["dt", "real", "True"]),
        ({"dt": None}, TypeError, ["dt", "real", "None"]),
        ({"noise": "gaussian"}, ValueError, ["noise", "'anisotropic'", "'truncated'", "'gaussian'"]),
        ({"noise": None}, TypeError, ["noise", "string", "None"]),
        ({"floor": -1.0}, ValueError, ["floor", "[0, inf)", "-1.0"]),
        ({"floor": 0.1, "noise": "isotropic"}, ValueError, ["floor", "'isotropic'", "0.1"]),
        ({"noise": "truncated"}, ValueError, ["radius", "truncated", "None"]),
        ({"noise": "truncated", "radius": 0.0}, ValueError, ["radius", "(0, inf]", "0.0"]),
        ({"noise": "truncated", "radius": math.nan}, ValueError, ["radius", "nan"]),
        ({"radius": 1.0}, ValueError, ["radius", "'anisotropic'", "1.0"]),
        ({"seed": -1}, ValueError, ["seed", "[0, 2^64)", "-1"]),
        ({"seed": 2**64}, ValueError, ["seed", "[0, 2^64)", str(2**64)]),
        ({"seed": 0.0}, TypeError, ["seed", "integer", "0.0"]),
        ({"step": 2**32}, ValueError, ["step", "[0, 2^32)", str(2**32)]),
        ({"step": True}, TypeError, ["step", "integer", "True"]),
        ({"first_particle": 2**32 - 3}, ValueError, ["first_particle", "2^32 - 4", str(2**32 - 3)]),
        ({"first_particle": -1}, ValueError, ["first_particle", "-1"]),
        ({"num_threads": -2}, ValueError, ["num_threads", "-2"]),
        ({"out": np.zeros((4, 2), "f4")}, ValueError, ["out must have shape [4, 3]", "[4, 2]"]),
        ({"out": np.zeros((4, 3))}, TypeError, ["out must be float32", "float64"]),
        ({"out": np.zeros((8, 3), "f4")[::2, :2]}, ValueError, ["out must have shape [4, 3]", "[4, 2]"]),
        ({"out": np.zeros((8, 3))[::2]}, TypeError, ["out must be float32", "float64"]),
        ({"out": np.zeros((2, 8, 3), "f4")[:, ::2]}, ValueError, ["out must have shape", "[2, 4, 3]"]),
        ({"out": READ_ONLY}, ValueError, ["out", "writable", "read-only"]),
        ({"out": [[0.0] * 3] * 4}, TypeError, ["out", "array", "list"]),
    ],
)
def test_wrong_arguments_are_named(change, error, words):
    with pytest.raises(error) as caught:
        cbk.cbo_update(**{"theta": THETA, "point": POINT, **change})
    assert all(word in str(caught.value) for word in words), caught.value
    assert (THETA == 0).all()


def test_counters_reach_their_ends(dtype):
    theta, point = ensemble(4, 3, dtype)
    ends = {"seed": 2**64 - 1, "step": 2**32 - 1, "first_particle": 2**32 - 4}
    result = cbk.cbo_update(theta, point, **ends)
    assert error(result, reference.cbo_update(theta, point, **ends)) < TOLERANCE[dtype]


@pytest.mark.parametrize("size", [3, 300])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floors_in_other_units_give_the_same_bits(dtype, size):
    # Powers of two round nothing. Floors up to 2^30 are squared as they are, others are scaled first.
    rng = np.random.default_rng(5)
    theta, point = (rng.standard_normal((n, size)).astype(dtype) for n in (40, 1))
    theta[::4] *= np.logspace(-9, 9, 10).astype(dtype)[:, None]  # far smaller and far larger than the floor

    def moved(unit):
        unit = np.asarray(unit, dtype)
        return cbk.cbo_update(theta * unit, point[0] * unit, floor=0.01 * float(unit), dt=0.25, seed=3) / unit

    expected = moved(1.0)
    assert np.isfinite(expected).all()
    for power in (-60, -40, 35, 60):
        np.testing.assert_array_equal(moved(2.0**power), expected)


@pytest.mark.parametrize("floor", [1e-25, 0.3, 1e25])
def test_floors_and_distances_of_any_size(dtype, floor):
    """The squares of neither are numbers that the dtype has."""
    sizes = (
        [0, 1e-30, 1e-25, 1.0, 1e20, 1e37] if dtype == "float32" else [0, 1e-200, 1e-25, 1.0, 1e160, 1e300]
    )
    theta = np.array([np.repeat([s, -s], 8) for s in sizes], dtype)
    floors = [floor] if dtype == "float32" else [floor, floor**8]
    for each in floors:
        found = cbk.cbo_update(
            theta, np.zeros(16, dtype), drift=0.0, diffusion=1.2, dt=0.1, floor=each, seed=3
        )
        normals = cbk.standard_normal(len(theta), 16, seed=3, dtype=dtype).astype(float)
        noise = np.hypot(1.2 * theta.astype(float), each) * math.sqrt(0.1) * normals
        largest = np.maximum(np.abs(noise), np.abs(theta))
        rounding = 1e-6 if dtype == "float32" else 1e-15
        assert (np.abs(found - (theta + noise)) <= rounding * largest).all()


def test_infinite_distances_with_a_floor(dtype):
    theta = np.array([[np.inf, -np.inf, np.nan, 1.0]], dtype)
    found = cbk.cbo_update(theta, np.zeros(4, dtype), floor=0.1, seed=3)
    assert not np.isfinite(found[0, :3]).any()
    assert np.isfinite(found[0, 3])
