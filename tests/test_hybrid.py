"""hybrid_update: the formula over several steps, its limits at both ends of mix, tasks and noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turns import in_turn

import cbokernels as cbk
from cbokernels import reference

TOLERANCE = {"float32": 3e-6, "float64": 1e-13}
SIZES = [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 63, 65, 301, 1025]
NOISES = {
    "anisotropic": {},
    "isotropic": {"noise": "isotropic"},
    "truncated": {"noise": "truncated", "radius": 0.7},
    "additive": {"noise": "additive"},
    "none": {"noise": "none"},
}


def state(particles, size, dtype, *, seed=0, scale=1.0):
    """theta, gradient, first and second; the gradients spread over `scale`."""
    rng = np.random.default_rng([seed, particles, size])
    theta, gradient, first = rng.normal(size=(3, particles, size)).astype(dtype)
    return theta, gradient * np.dtype(dtype).type(scale), first, first**2 + np.dtype(dtype).type(0.1)


@pytest.mark.parametrize("noise", NOISES)
@in_turn("size", SIZES)
def test_hybrid_is_the_formula_over_several_steps(size, noise, dtype):
    arguments = {"mix": 0.7, "drift": 0.9, "diffusion": 1.1, "dt": 0.2, "seed": size, **NOISES[noise]}
    theta, _, first, second = state(1 + size % 7, size, dtype)
    first *= 0
    second *= 0
    moments = [np.zeros(theta.shape) for _ in range(2)]
    for step, scale in enumerate([1e-4, 1e-2, 1.0, 1e2, 1.0], 1):
        _, gradient, point, _ = state(*theta.shape, dtype, seed=step, scale=scale)
        plain = reference.hybrid_update(theta, point[0], gradient, *moments, step=step, **arguments)
        # eq. 25-26, term by term
        s, r = moments[0] / (1 - 0.9**step), moments[1] / (1 - 0.999**step)
        adam = -0.7 * 0.2 * s / (np.sqrt(r) + 1e-8)
        xi = cbk.standard_normal(*theta.shape, seed=size, step=step, dtype="float64")
        difference = theta.astype(float) - point[0]
        length = np.linalg.norm(difference, axis=1, keepdims=True)
        spread = {
            "anisotropic": difference, "isotropic": length, "truncated": np.minimum(length, 0.7),
            "additive": 1.0, "none": 0.0,
        }[noise]  # fmt: skip
        cbo = -0.9 * 0.2 * difference + 1.1 * math.sqrt(0.2) * spread * xi
        np.testing.assert_allclose(plain, theta + adam + 0.3 * cbo, rtol=1e-12, atol=1e-12)
        theta = cbk.hybrid_update(theta, point[0], gradient, first, second, step=step, **arguments)
        assert theta.dtype == dtype
        assert np.abs(theta - plain).max() < TOLERANCE[dtype] * max(1.0, np.abs(plain).max())


@given(
    particles=st.integers(1, 9),
    size=st.integers(1, 70),
    noise=st.sampled_from(list(NOISES)),
    mix=st.floats(0, 1),
    scale=st.floats(1e-4, 1e2),
    dt=st.floats(0, 1),
    beta1=st.floats(0, 0.999),
    beta2=st.floats(0, 0.999),
    delta=st.floats(1e-8, 1),
    seed=st.integers(0, 2**64 - 1),
    step=st.integers(1, 2**32 - 1),
    first_particle=st.integers(0, 2**32 - 9),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_any_arguments(particles, size, noise, scale, dtype, **arguments):
    theta, gradient, first, second = state(particles, size, dtype, scale=scale)
    point = theta.mean(axis=0)
    moments = first.astype(float), second.astype(float)
    arguments |= NOISES[noise]
    plain = reference.hybrid_update(theta, point, gradient, *moments, **arguments)
    result = cbk.hybrid_update(theta, point, gradient, first, second, **arguments)
    # A moment of alternating signs may cancel: what counts is the size of what goes into it.
    scale = max(np.abs(theta).max(), np.abs(plain).max(), 1 / (1 - arguments["beta1"]))
    assert np.abs(result - plain).max() <= 2 * TOLERANCE[dtype] * scale
    for moment, truth in zip((first, second), moments, strict=True):
        assert np.abs(moment - truth).max() <= TOLERANCE[dtype] * max(1.0, np.abs(truth).max())


def test_defaults_are_those_of_the_paper(dtype):
    theta, gradient, first, second = state(4, 9, dtype)
    explicit = {
        "mix": 0.7, "drift": 1.0, "diffusion": 1.2**0.5, "dt": 0.1, "noise": "anisotropic", "seed": 0,
        "step": 1, "beta1": 0.9, "beta2": 0.999, "delta": 1e-8, "first_particle": 0,
    }  # fmt: skip
    np.testing.assert_array_equal(
        cbk.hybrid_update(theta, theta[0], gradient, first.copy(), second.copy()),
        cbk.hybrid_update(theta, theta[0], gradient, first, second, **explicit),
    )


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("step", [1, 7, 4000])
def test_mix_one_is_adam_and_mix_zero_is_cbo(step, noise, dtype):
    theta, gradient, first, second = state(6, 77, dtype)
    point = theta[:2].mean(axis=0)
    common = {"drift": 1.3, "diffusion": 0.8, "seed": 3, "first_particle": 5, **NOISES[noise]}
    moments = [(first.copy(), second.copy()) for _ in range(3)]
    adam = cbk.adam_update(theta, gradient, *moments[0], step=step, lr=0.07)
    one = cbk.hybrid_update(theta, point, gradient, *moments[1], step=step, mix=1, dt=0.07, **common)
    np.testing.assert_array_equal(one, adam)
    zero = cbk.hybrid_update(theta, point, gradient, *moments[2], step=step, mix=0, dt=0.07, **common)
    np.testing.assert_array_equal(zero, cbk.cbo_update(theta, point, step=step, dt=0.07, **common))
    for pair in moments[1:]:  # the moments move whatever the mix is
        for moment, expected in zip(pair, moments[0], strict=True):
            np.testing.assert_array_equal(moment, expected)
    assert not np.array_equal(moments[0][0], first)


def test_noise_is_exactly_standard_normal(dtype):
    # theta, gradient, drift 0 and (1 - mix) sigma sqrt(dt) = 1: additive noise leaves the normals themselves.
    zero = np.zeros((11, 77), dtype)
    result = cbk.hybrid_update(
        zero, zero[0], zero, zero.copy(), zero.copy(), mix=0.5, drift=0.0, diffusion=2.0, dt=1.0,
        noise="additive", seed=2**63, step=8, first_particle=100,
    )  # fmt: skip
    xi = cbk.standard_normal(11, 77, seed=2**63, step=8, first_particle=100, dtype=dtype)
    np.testing.assert_array_equal(result, xi)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("kind", ["int8", "int32", "uint64"])
def test_tasks_follow_their_own_point(kind, noise, dtype):
    theta, gradient, first, second = state(10, 23, dtype)
    points = theta[:3] / 2
    task = np.array([0, 2, 1, 1, 0, 2, 2, 0, 1, 0], kind)
    arguments = {"seed": 6, "step": 2, **NOISES[noise]}
    rows = [tuple(m[n : n + 1].copy() for m in (first, second)) for n in range(10)]
    result = cbk.hybrid_update(
        theta, points, gradient, first, second, task=task, first_particle=4, **arguments
    )
    for n in range(10):
        alone = cbk.hybrid_update(
            theta[n : n + 1],
            points[task[n]],
            gradient[n : n + 1],
            *rows[n],
            first_particle=4 + n,
            **arguments,
        )
        np.testing.assert_array_equal(result[n], alone[0])
        np.testing.assert_array_equal(first[n], rows[n][0][0])


def test_particles_do_not_touch_each_other(dtype):
    theta, gradient, *moments = state(6, 19, dtype)
    point = theta[0].copy()
    pairs = [[m.copy() for m in moments] for _ in range(2)]
    whole = cbk.hybrid_update(theta, point, gradient, *pairs[0])
    theta[3], gradient[4] = np.nan, np.inf
    result = cbk.hybrid_update(theta, point, gradient, *pairs[1])
    assert np.isnan(result[3:5]).all()
    np.testing.assert_array_equal(np.delete(result, [3, 4], 0), np.delete(whole, [3, 4], 0))


THETA, POINT, POINTS = np.zeros((4, 3), "f4"), np.zeros(3, "f4"), np.zeros((2, 3), "f4")
FIRST, SECOND = np.zeros((4, 3), "f4"), np.zeros((4, 3), "f4")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"point": POINT[1:]}, ValueError, ["point", "[3]", "[2]"]),
        ({"point": POINT.astype("f8")}, TypeError, ["point must be float32 as theta is, got float64"]),
        ({"point": POINTS}, ValueError, ["task", "[N]", "[T, D]", "None"]),
        ({"task": np.zeros(4, int)}, ValueError, ["point", "[T, 3]", "[3]"]),
        ({"point": POINTS, "task": np.full(4, 2)}, ValueError, ["task", "[0, 2)", "2 at [0]"]),
        ({"point": POINTS, "task": np.zeros(4)}, TypeError, ["task", "integers", "float64"]),
        ({"mix": 1.1}, ValueError, ["mix", "[0, 1]", "1.1"]),
        ({"mix": -0.1}, ValueError, ["mix", "[0, 1]", "-0.1"]),
        ({"mix": math.nan}, ValueError, ["mix", "[0, 1]", "nan"]),
        ({"mix": True}, TypeError, ["mix", "real", "True"]),
        ({"drift": math.inf}, ValueError, ["drift", "(-inf, inf)", "inf"]),
        ({"diffusion": -0.1}, ValueError, ["diffusion", "[0, inf)", "-0.1"]),
        ({"dt": -1}, ValueError, ["dt", "[0, inf)", "-1"]),
        ({"noise": "gaussian"}, ValueError, ["noise", "'anisotropic'", "'gaussian'"]),
        ({"noise": "truncated"}, ValueError, ["radius", "truncated", "None"]),
        ({"radius": 1.0}, ValueError, ["radius", "'anisotropic'", "1.0"]),
        ({"seed": 2**64}, ValueError, ["seed", "[0, 2^64)", str(2**64)]),
        ({"first_particle": 2**32 - 3}, ValueError, ["first_particle", "2^32 - 4", str(2**32 - 3)]),
    ],
)
def test_wrong_hybrid_arguments_are_named(change, error, words):
    arguments = {"theta": THETA, "point": POINT, "gradient": THETA + 1, "first": FIRST, "second": SECOND}
    with pytest.raises(error) as caught:
        cbk.hybrid_update(**{**arguments, **change})
    assert all(word in str(caught.value) for word in words), caught.value
    assert not any(a.any() for a in (THETA, FIRST, SECOND))
