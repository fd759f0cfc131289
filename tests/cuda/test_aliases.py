"""Arrays that share memory: results as if none did, the same on both devices."""

from __future__ import annotations

import numpy as np
import pytest
from fake_cuda import Array

import cbokernels as cbk

NET = cbk.TwoLayer(3, 4, 1, "tanh")
N, D = 5, NET.size
M, K = 4, 5  # of atoms: as many numbers as D, for N = 1


class Memory:
    """Room for arrays that overlap as their offsets say."""

    def __init__(self, dtype):
        self.room = np.random.default_rng(0).normal(size=20 * N * D).astype(dtype)

    def __call__(self, offset, *shape):
        return self.room[offset : offset + int(np.prod(shape))].reshape(shape)


FAR = 4 * N * D  # behind whatever else is there


def cbo(m, theta=0, point=FAR, out=2 * FAR, n=N, **more):
    arrays = {"theta": m(theta, n, D), "point": m(point, D), "out": m(out, n, D)}
    return "cbo_update", arrays, {"seed": 5, **more}, ("out",)


def by_task(m, task):
    arrays = {"theta": m(0, N, D), "point": m(FAR, 2, D), "out": m(2 * FAR, N, D)}
    arrays["task"] = arrays["out"].ravel().view("i4")[task : task + N]
    arrays["task"][:] = np.arange(N) % 2
    return "cbo_update", arrays, {"seed": 5}, ("out",)


def adam(
    m, theta=0, gradient=FAR, first=2 * FAR, second=3 * FAR, out=FAR // 2, function="adam_update", **more
):
    offsets = {"theta": theta, "gradient": gradient, "first": first, "second": second, "out": out}
    arrays = {name: m(at, N, D) for name, at in offsets.items()}
    arrays["second"][:] = np.abs(arrays["second"])
    return function, arrays, {"step": 2, **more}, ("first", "second", "out")


def hybrid(m, point=FAR + FAR // 2, **offsets):
    function, arrays, numbers, changed = adam(m, function="hybrid_update", **offsets)
    arrays = {"theta": arrays.pop("theta"), "point": m(point, D), **arrays}
    return function, arrays, numbers, changed


def langevin(m, x=2 * FAR, y=3 * FAR, samples=4):
    offsets = {"theta": 0, "velocity": FAR // 2, "gradient": FAR}
    arrays = {name: m(at, N, D) for name, at in offsets.items()}
    arrays |= {"x": m(x, samples, 3), "y": m(y, samples)}
    return "langevin_step", arrays, {"temperature": 0.5, "seed": 3}, tuple(offsets)


def transport(m, support=FAR, out=2 * FAR, n=1):
    arrays = {"atoms": m(0, n, M, K), "support": m(support, M, K)}
    arrays["match"] = np.tile(np.roll(np.arange(M), 1), (n, 1)).astype("i4")
    return "transport_update", {**arrays, "out": m(out, n, M, K)}, {"seed": 2}, ("out",)


def match_in_out(m):
    function, arrays, numbers, changed = transport(m, n=2)
    arrays["match"] = arrays["out"].ravel().view("i4")[: 2 * M].reshape(2, M)
    arrays["match"][:] = np.roll(np.arange(M), 1)
    return function, arrays, numbers, changed


PATTERNS = {
    "nothing shared": cbo,
    "out is theta": lambda m: cbo(m, out=0),
    "out is theta, isotropic": lambda m: cbo(m, out=0, noise="isotropic"),
    "out a row on": lambda m: cbo(m, out=D),
    "out a number on": lambda m: cbo(m, out=1),
    "out half a row back": lambda m: cbo(m, theta=D // 2, out=0),
    "point in theta": lambda m: cbo(m, point=2 * D, out=0),
    "point between rows": lambda m: cbo(m, point=D + 7, out=0),
    "point is theta": lambda m: cbo(m, point=0, out=0, n=1),
    "point is out": lambda m: cbo(m, point=FAR, out=FAR, n=1),
    "point is theta, isotropic": lambda m: cbo(m, point=0, out=0, n=1, noise="isotropic"),
    "tasks in out": lambda m: by_task(m, 3),
    "Adam in place": lambda m: adam(m, out=0),
    "gradient is theta": lambda m: adam(m, gradient=0, out=0),
    "gradient is out": lambda m: adam(m, out=FAR),
    "gradient overlaps out": lambda m: adam(m, out=FAR + 5),
    "gradient is first": lambda m: adam(m, gradient=2 * FAR, out=0),
    "gradient is second": lambda m: adam(m, gradient=3 * FAR, out=0),
    "gradient overlaps first": lambda m: adam(m, gradient=2 * FAR + D, out=0),
    "theta is first": lambda m: adam(m, theta=2 * FAR),
    "theta overlaps second": lambda m: adam(m, theta=3 * FAR + 1),
    "hybrid in place": lambda m: hybrid(m, out=0),
    "hybrid, point in theta": lambda m: hybrid(m, point=D, out=0),
    "hybrid, point in first": lambda m: hybrid(m, point=2 * FAR + D, out=0),
    "hybrid, gradient is second": lambda m: hybrid(m, gradient=3 * FAR, out=0),
    "Langevin": langevin,
    "x in theta": lambda m: langevin(m, x=1),
    "y in velocity": lambda m: langevin(m, y=FAR // 2 + 3),
    "y in gradient": lambda m: langevin(m, y=FAR),
    "y is gradient": lambda m: langevin(m, y=FAR, samples=N * D),
    "transport in place": lambda m: transport(m, out=0, n=2),
    "support is atoms": lambda m: transport(m, support=0, out=0),
    "support is out": lambda m: transport(m, support=2 * FAR),
    "support in atoms": lambda m: transport(m, support=M * K, out=0, n=2),
    "match in out": match_in_out,
}


def run(call, wrap=lambda a: a):
    """Every array that the call writes, and its result where it is none of them."""
    function, arrays, numbers, changed = call
    given = {name: wrap(a) for name, a in arrays.items()}
    inputs = (NET,) if function == "langevin_step" else ()
    result = getattr(cbk, function)(*inputs, **given, **numbers)
    if "out" in changed:
        assert result is given["out"]
    return [getattr(a, "array", a) for a in (result, *(given[name] for name in changed))]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_results_are_those_of_arrays_apart(emulated, pattern, dtype):
    make = PATTERNS[pattern]
    function, arrays, numbers, changed = make(Memory(dtype))
    expected = run((function, {name: a.copy() for name, a in arrays.items()}, numbers, changed))
    host, card = run(make(Memory(dtype))), run(make(Memory(dtype)), Array)
    exact = function != "langevin_step" and numbers.get("noise") != "isotropic"  # which are of sums
    tolerance = {"float32": 1e-5, "float64": 1e-13}[dtype]
    for wanted, a, b in zip(expected, host, card, strict=True):
        np.testing.assert_array_equal(a, wanted)
        (np.testing.assert_array_equal if exact else np.testing.assert_allclose)(
            b, wanted, **({} if exact else {"rtol": tolerance, "atol": tolerance})
        )


REFUSED = {
    "first is second": lambda m: adam(m, first=3 * FAR),
    "out is first": lambda m: adam(m, out=2 * FAR),
    "out overlaps second": lambda m: adam(m, out=3 * FAR - 1),
}


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_is_written_must_be_apart(emulated, pattern, dtype):
    messages = []
    for wrap in (lambda a: a, Array):
        with pytest.raises(ValueError, match="must not share memory with") as error:
            run(REFUSED[pattern](Memory(dtype)), wrap)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("wrap", [lambda a: a, Array])
def test_interleaved_arrays_are_apart(emulated, wrap, dtype):
    theta, gradient = Memory(dtype)(0, N, D), Memory(dtype)(FAR, N, D)
    expected = np.zeros((2, N, D), dtype)
    wanted = cbk.adam_update(theta, gradient, *expected)
    both = np.zeros((N, D, 2), dtype)
    result = cbk.adam_update(*map(wrap, (theta, gradient, both[..., 0], both[..., 1])))
    np.testing.assert_array_equal(getattr(result, "array", result), wanted)
    np.testing.assert_array_equal(both, np.moveaxis(expected, 0, -1))


@pytest.mark.parametrize(
    "layout", [np.asfortranarray, lambda a: np.repeat(a, 2, 1)[:, ::2], lambda a: a[::-1]]
)
def test_out_of_any_layout(emulated, layout, dtype):
    theta = Memory(dtype)(0, N, D)
    expected = cbk.cbo_update(theta, theta[0], seed=5)
    out = Array(layout(np.zeros_like(theta)))
    assert not out.array.flags.c_contiguous
    assert cbk.cbo_update(Array(theta), Array(theta[0]), seed=5, out=out) is out
    np.testing.assert_array_equal(out.array, expected)
    same = Array(layout(theta.copy()))
    start = same.array.copy()
    cbk.cbo_update(same, Array(theta[0]), seed=5, out=same)
    np.testing.assert_array_equal(same.array, cbk.cbo_update(start, theta[0], seed=5))


def test_prices_within_the_atoms(emulated):
    room = np.random.default_rng(0).normal(size=2 * M * K)
    for wrap in (lambda a: a, Array):
        shared = room.copy()
        shared[-2 * M :] = 0  # the prices are the last atoms' last numbers
        atoms, prices = shared.reshape(2, M, K), shared[-2 * M :].reshape(2, M)
        expected = cbk.assign(atoms.copy(), atoms[0].copy(), duals=prices.copy())
        found = cbk.assign(*map(wrap, (atoms, atoms[0])), duals=wrap(prices))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(getattr(a, "array", a), b, rtol=1e-12)
