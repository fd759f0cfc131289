"""Schedules: their values, their limits, and what they refuse."""

from __future__ import annotations

import itertools
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cbokernels as cbk
from cbokernels.schedules import describe, evaluate, parameter

positive = st.floats(1e-100, 1e100)


@pytest.mark.parametrize(
    ("schedule", "epochs", "values"),
    [
        (cbk.Constant(0.3), 5, {0: 0.3, 4: 0.3}),
        (
            cbk.Tenfold(1e5, every=100, cap=1e7),
            1000,
            {0: 1e5, 99: 1e5, 100: 1e6, 199: 1e6, 200: 1e7, 999: 1e7},
        ),
        (cbk.Tenfold(1e4), 301, {0: 1e4, 99: 1e4, 100: 1e5, 300: 1e7}),
        (cbk.Geometric(2.0, 0.5, every=10), 100, {0: 2.0, 9: 2.0, 10: 1.0, 25: 0.5}),
        (cbk.Geometric(3.0, 2.0), 4, {0: 3.0, 1: 6.0, 3: 24.0}),
        (cbk.Exponential(0.1, 0.001), 3, {0: 0.1, 1: 0.01, 2: 0.001}),
        (cbk.Exponential(2.0, 8.0), 1, {0: 2.0}),
        (cbk.TargetEss(0.25), 10, {0: 0.25, 9: 0.25}),
    ],
)
def test_values(schedule, epochs, values):
    for epoch, value in values.items():
        assert schedule(epoch, epochs) == pytest.approx(value, rel=1e-14)


@given(start=positive, stop=positive, epochs=st.integers(2, 3000))
def test_exponential_has_exact_ends_and_is_monotone(start, stop, epochs):
    values = [cbk.Exponential(start, stop)(epoch, epochs) for epoch in range(min(epochs, 50))]
    assert values[0] == start
    assert cbk.Exponential(start, stop)(epochs - 1, epochs) == stop
    slack = 1 + 1e-12
    for a, b in itertools.pairwise(values):
        assert a <= b * slack if start <= stop else b <= a * slack


def test_endless_growth_is_infinity_not_an_error():
    assert cbk.Tenfold(1.0, every=1)(5000, 6000) == math.inf
    assert cbk.Tenfold(1.0, every=1, cap=1e7)(5000, 6000) == 1e7
    assert cbk.Geometric(1.0, 0.1)(5000, 6000) == 0.0


@pytest.mark.parametrize(
    ("schedule", "epoch", "value"),
    [
        (cbk.Geometric(1e-300, 1e300), 1, 1.0),
        (cbk.Geometric(1e-300, 1e300), 2, 1e300),
        (cbk.Geometric(1e-300, 1e300), 3, math.inf),
        (cbk.Geometric(1e300, 1e-300), 2, 1e-300),
        (cbk.Geometric(1e300, 1e-300), 3, 0.0),
        (cbk.Geometric(1e300, 0.9), 7000, 1e300 * 0.9**3500 * 0.9**3500),
        (cbk.Geometric(5e-324, 1e200), 3, 5e-324 * 1e200 * 1e200 * 1e200),
        (cbk.Tenfold(5e-324, 1), 309, 5e-324 * 1e308 * 10),
        (cbk.Tenfold(5e-324, 1), 630, 5e-324 * 1e308 * 1e308 * 1e14),
        (cbk.Tenfold(5e-324, 1), 640, math.inf),
        (cbk.Exponential(5e-324, 1.7e308), 999, 1.7e308),
        (cbk.Exponential(1.7976931348623157e308, 1.7976931348623157e308), 406, 1.7976931348623157e308),
    ],
)
def test_only_values_out_of_range_overflow(schedule, epoch, value):
    assert schedule(epoch, 1000) == pytest.approx(value, rel=1e-12, abs=0)


@pytest.mark.parametrize(
    "schedule",
    [
        cbk.Constant(1),
        cbk.Tenfold(1e5, every=100, cap=1e7),
        cbk.Geometric(1, 0.9, 100),
        cbk.Exponential(0.1, 0.001),
        cbk.TargetEss(0.5),
    ],
)
def test_frozen_hashable_picklable(schedule):
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert hash(schedule) == hash(pickle.loads(pickle.dumps(schedule)))
    with pytest.raises(AttributeError):
        schedule.start = 2.0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cbk.Constant("1"), TypeError, r"value must be a real number, got '1'"),
        (lambda: cbk.Constant(math.nan), ValueError, r"value must lie in \[-inf, inf\], got nan"),
        (lambda: cbk.Tenfold(0.0), ValueError, r"start must lie in \(0, inf\), got 0.0"),
        (lambda: cbk.Tenfold(math.inf), ValueError, r"start must lie in \(0, inf\), got inf"),
        (lambda: cbk.Tenfold(1e5, every=0), ValueError, r"every must be an integer in \[1,"),
        (lambda: cbk.Tenfold(1e5, every=1.5), TypeError, r"every must be an integer, got 1.5"),
        (lambda: cbk.Tenfold(1e5, cap=1e4), ValueError, r"cap must lie in \[100000, inf\], got 10000"),
        (lambda: cbk.Geometric(1.0, -0.5), ValueError, r"factor must lie in"),
        (lambda: cbk.Geometric(True, 0.5), TypeError, r"start must be a real number, got True"),
        (lambda: cbk.Exponential(0.1, 0.0), ValueError, r"stop must lie in"),
        (lambda: cbk.TargetEss(0.0), ValueError, r"fraction must lie in \(0, 1\], got 0.0"),
        (lambda: cbk.TargetEss(math.nan), ValueError, r"fraction must lie in \(0, 1\], got nan"),
        (lambda: cbk.TargetEss(math.inf), ValueError, r"fraction must lie in \(0, 1\], got inf"),
        (lambda: cbk.TargetEss(1.5), ValueError, r"fraction must lie in \(0, 1\], got 1.5"),
        (lambda: cbk.Tenfold(1e5, factor=10), TypeError, r"factor"),
    ],
)
def test_errors_name_the_argument(make, error, message):
    with pytest.raises(error, match=message):
        make()


def check(value, name):
    if value < 0:
        raise ValueError(f"{name} is negative")
    return float(value)


def test_parameters_are_numbers_schedules_or_callables():
    assert evaluate(parameter(3, "dt", check), "dt", check, 5, 10) == 3.0
    assert evaluate(parameter(cbk.Geometric(4, 0.5), "dt", check), "dt", check, 1, 10) == 2.0
    assert evaluate(parameter(lambda e, n: e / n, "dt", check), "dt", check, 5, 10) == 0.5
    with pytest.raises(ValueError, match=r"dt at epoch 5 \(a callable\) is negative"):
        evaluate(parameter(lambda e, n: -1, "dt", check), "dt", check, 5, 10)
    with pytest.raises(TypeError, match=r"diffusion must be a number .* got TargetEss\(fraction=0.5\)"):
        parameter(cbk.TargetEss(0.5), "diffusion", check)


def test_descriptions_tell_library_schedules_apart():
    assert describe(cbk.Tenfold(1e5)) != describe(cbk.Tenfold(1e4))
    assert describe(lambda e, n: 1.0) == describe(lambda e, n: 2.0) == "a callable"
    assert describe(1.0) == "1.0"
