"""adam_update against its formula and PyTorch; aliasing, layouts and moments of it and of hybrid_update."""

from __future__ import annotations

import inspect
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from turns import in_turn

import cbokernels as cbk
from cbokernels import reference

TOLERANCE = {"float32": 3e-6, "float64": 1e-13}
SIZES = [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 63, 65, 301, 1025]


def state(particles, size, dtype, *, seed=0, scale=1.0):
    """theta, gradient, first and second; the gradients spread over `scale`."""
    rng = np.random.default_rng([seed, particles, size])
    theta, gradient, first = rng.normal(size=(3, particles, size)).astype(dtype)
    return theta, gradient * np.dtype(dtype).type(scale), first, first**2 + np.dtype(dtype).type(0.1)


def textbook(theta, gradients, *, lr, beta1=0.9, beta2=0.999, delta=1e-8):
    """theta after as many steps as there are gradients, the moments from their sums [Kingma, Ba 2015]."""
    theta, steps = theta.astype(float), len(gradients)
    for t in range(1, steps + 1):
        past = list(enumerate(gradients[:t], 1))
        s = sum((1 - beta1) * beta1 ** (t - i) * d.astype(float) for i, d in past)
        r = sum((1 - beta2) * beta2 ** (t - i) * d.astype(float) ** 2 for i, d in past)
        theta = theta - lr * s / (1 - beta1**t) / (np.sqrt(r / (1 - beta2**t)) + delta)
    return theta


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0, 1e2])
@in_turn("size", SIZES)
def test_adam_is_the_formula_over_several_steps(size, scale, dtype):
    rng = np.random.default_rng(size)
    theta = rng.normal(size=(3, size)).astype(dtype)
    gradients = (scale * rng.normal(size=(6, 3, size))).astype(dtype)
    lr = float(np.dtype(dtype).type(0.1))
    moved, first, second = theta.copy(), np.zeros_like(theta), np.zeros_like(theta)
    plain, *moments = theta.astype(float), np.zeros(theta.shape), np.zeros(theta.shape)
    for step, gradient in enumerate(gradients, 1):
        moved = cbk.adam_update(moved, gradient, first, second, step=step, lr=lr)
        plain = reference.adam_update(plain, gradient, *moments, step=step, lr=lr)
        np.testing.assert_allclose(plain, textbook(theta, gradients[:step], lr=lr), rtol=0, atol=1e-13)
        assert np.abs(moved - plain).max() < TOLERANCE[dtype]
        for moment, truth in zip((first, second), moments, strict=True):
            assert np.abs(moment - truth).max() < TOLERANCE[dtype] / 5 * np.abs(truth).max()


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e2])
def test_adam_is_that_of_pytorch(scale, dtype):
    torch = pytest.importorskip("torch")
    theta, *_ = state(2, 40, dtype)
    parameter = torch.nn.Parameter(torch.from_numpy(theta.copy()))
    optimizer = torch.optim.Adam([parameter], lr=0.05, betas=(0.8, 0.99), eps=1e-3)
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    for step in range(1, 8):
        gradient = state(2, 40, dtype, seed=step, scale=scale)[1]
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
        cbk.adam_update(
            theta, gradient, first, second, step=step, lr=0.05, beta1=0.8, beta2=0.99, delta=1e-3, out=theta
        )
        assert np.abs(theta - parameter.detach().numpy()).max() < TOLERANCE[dtype]


def test_defaults_are_those_of_the_paper(dtype):
    theta, gradient, first, second = state(4, 9, dtype)
    explicit = {"beta1": 0.9, "beta2": 0.999, "delta": 1e-8, "step": 1}
    np.testing.assert_array_equal(
        cbk.adam_update(theta, gradient, first.copy(), second.copy()),
        cbk.adam_update(theta, gradient, first.copy(), second.copy(), lr=0.1, **explicit),
    )


def kernels(point, task=None):
    """Both updates as functions of (theta, gradient, first, second, out)."""
    hybrid = {"step": 3, "seed": 4, "task": task}
    return {
        "adam": lambda *a, **k: cbk.adam_update(*a, step=3, **k),
        "hybrid": lambda theta, *a, **k: cbk.hybrid_update(theta, point, *a, **hybrid, **k),
        "isotropic": lambda theta, *a, **k: cbk.hybrid_update(
            theta, point, *a, noise="isotropic", **hybrid, **k
        ),
    }


KERNELS = list(kernels(None))


@pytest.mark.parametrize("name", KERNELS)
def test_inputs_are_untouched_and_moments_change(name, dtype):
    arrays = state(5, 37, dtype)
    before = [a.copy() for a in arrays]
    result = kernels(arrays[0][0].copy())[name](*arrays)
    assert result.flags.c_contiguous
    assert not any(np.shares_memory(result, a) for a in arrays)
    assert [np.array_equal(a, b) for a, b in zip(arrays, before, strict=True)] == [True, True, False, False]


@pytest.mark.parametrize("name", KERNELS)
def test_out_and_in_place(name, dtype):
    theta, gradient, *moments = state(5, 37, dtype)
    kernel = kernels(theta.mean(axis=0))[name]
    copies = [[m.copy() for m in moments] for _ in range(3)]
    expected = kernel(theta, gradient, *moments)
    out = np.full_like(theta, np.nan)
    assert kernel(theta, gradient, *copies[0], out=out) is out
    over_gradient = gradient.copy()
    assert kernel(theta, over_gradient, *copies[1], out=over_gradient) is over_gradient
    assert kernel(theta, gradient, *copies[2], out=theta) is theta
    for result, pair in zip((out, over_gradient, theta), copies, strict=True):
        np.testing.assert_array_equal(result, expected)
        for moment, wanted in zip(pair, moments, strict=True):
            np.testing.assert_array_equal(moment, wanted)


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
@pytest.mark.parametrize("name", KERNELS)
def test_any_layout_gives_the_same_bits(name, layout, dtype):
    arrays = state(5, 37, dtype)
    others = [LAYOUTS[layout](a) for a in arrays]
    kernel = kernels(arrays[0][1].copy())[name]
    expected = kernel(*arrays)
    out = LAYOUTS[layout](np.zeros_like(arrays[0]))
    assert kernel(*others, out=out) is out
    np.testing.assert_array_equal(out, expected)
    for a, b in zip(arrays, others, strict=True):
        np.testing.assert_array_equal(b, a)


def test_the_gaps_of_non_contiguous_arrays_are_kept(dtype):
    theta, gradient, *moments = state(5, 12, dtype)
    views = [strided(a) for a in (theta, *moments)]
    cbk.adam_update(views[0], gradient, *views[1:], out=views[0])
    expected = cbk.adam_update(theta, gradient, *moments)
    for view, wanted in zip(views, (expected, *moments), strict=True):
        np.testing.assert_array_equal(view, wanted)
        assert (view.base[1::2] == 0).all()
        assert (view.base[:, 1::2] == 0).all()


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("shift", [1, 19, 19 * 6])
@pytest.mark.parametrize("target", ["theta", "gradient", "point"])
def test_overlaps_with_what_is_read_change_nothing(target, shift, name, dtype):
    # out, or a moment, begins `shift` entries behind an array that is only read.
    theta, gradient, *moments = state(6, 19, dtype)
    buffer = np.zeros(4 * 6 * 19, dtype)
    block = lambda start: buffer[start : start + 6 * 19].reshape(6, 19)  # noqa: E731
    point = theta[2].copy()
    expected = kernels(point)[name](theta, gradient, *[m.copy() for m in moments])
    for changed in ("out", "first", "second"):
        arrays = {
            "theta": theta,
            "gradient": gradient,
            "first": moments[0].copy(),
            "second": moments[1].copy(),
        }
        overlapping = block(19 * 6 - shift)
        if changed != "out":
            overlapping[...] = arrays[changed]
            arrays[changed] = overlapping
        # The one written last is the one read: where they overlap, the moment starts with its values.
        if target == "point":
            point = buffer[19 * 6 : 19 * 7]
            point[...] = theta[2]
        else:
            block(19 * 6)[...] = arrays[target]
            arrays[target] = block(19 * 6)
        copies = [a.copy() for a in arrays.values()]
        wanted = kernels(point.copy())[name](*copies)
        if changed == "out":
            np.testing.assert_array_equal(wanted, expected)
        out = {"out": overlapping} if changed == "out" else {}
        result = kernels(point)[name](*arrays.values(), **out)
        np.testing.assert_array_equal(result, wanted)
        if changed != "out":
            np.testing.assert_array_equal(arrays[changed], copies[2 if changed == "first" else 3])


def test_columns_of_one_buffer_do_not_overlap(dtype):
    theta, gradient, *moments = state(5, 12, dtype)
    both = np.concatenate(moments, axis=1)
    expected = cbk.adam_update(theta, gradient, *moments)
    result = cbk.adam_update(theta, gradient, both[:, :12], both[:, 12:])
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(both, np.concatenate(moments, axis=1))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("shape", [(200, 301), (3, 15_911), (1, 70_001)])
def test_bits_do_not_depend_on_threads(shape, name, dtype):
    theta, gradient, *moments = state(*shape, dtype)
    results = []
    for num_threads in (1, 2, 3, 5, None):
        pair = [m.copy() for m in moments]
        result = kernels(theta[0].copy())[name](theta, gradient, *pair, num_threads=num_threads)
        results.append((result, *pair))
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(a, b)


def test_limits(dtype):
    theta, gradient, *moments = state(5, 12, dtype)
    zeros = np.zeros_like(theta), np.zeros_like(theta)
    for step in (1, 2):  # no gradient, no move
        np.testing.assert_array_equal(cbk.adam_update(theta, 0 * gradient, *zeros, step=step), theta)
    moved = cbk.adam_update(theta, gradient, *moments, lr=0.0)
    np.testing.assert_array_equal(moved, theta)
    # beta = 0 and delta = 0: a step of lr against the gradient's sign
    moved = cbk.adam_update(theta, gradient, *zeros, lr=0.5, beta1=0.0, beta2=0.0, delta=0.0)
    np.testing.assert_allclose(moved, theta - 0.5 * np.sign(gradient), rtol=0, atol=1e-6)
    # delta is added to the root, not under it
    moved = cbk.adam_update(0 * theta, gradient, *zeros, lr=1.0, beta1=0.0, beta2=0.0, delta=3.0)
    np.testing.assert_allclose(moved, -gradient / (np.abs(gradient) + 3), rtol=1e-6)


def test_torch_tensors_are_updated_in_place(dtype):
    torch = pytest.importorskip("torch")
    arrays = state(5, 7, dtype)
    theta, gradient, first, second = (torch.from_numpy(a.copy()) for a in arrays)
    expected = cbk.hybrid_update(arrays[0], arrays[0][0], *arrays[1:])
    result = cbk.hybrid_update(theta, theta[0].clone(), gradient, first, second)
    assert isinstance(result, torch.Tensor)
    assert cbk.adam_update(theta, gradient, first.clone(), second.clone(), out=theta) is theta
    for tensor, wanted in ((result, expected), (first, arrays[2]), (second, arrays[3])):
        np.testing.assert_array_equal(tensor.numpy(), wanted)


BITS = """
import hashlib
import numpy as np
import cbokernels as cbk

digest = hashlib.sha256()
for dtype in ("float32", "float64"):
    theta, gradient = np.random.default_rng(0).normal(size=(2, 7, 333)).astype(dtype)
    first, second = np.zeros((2, 7, 333), dtype)
    for step in (1, 2, 3):
        theta = cbk.adam_update(theta, gradient, first, second, step=step)
        theta = cbk.hybrid_update(theta, theta[0], gradient, first, second, step=step, seed=5)
    for a in (theta, first, second):
        digest.update(a.tobytes())
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


@pytest.mark.parametrize(
    ("name", "arrays"),
    [
        ("adam_update", ["theta", "gradient", "first", "second"]),
        ("hybrid_update", ["theta", "point", "gradient", "first", "second"]),
    ],
)
def test_everything_after_the_arrays_is_keyword_only(name, arrays):
    public, plain = (inspect.signature(getattr(m, name)).parameters for m in (cbk, reference))
    assert [p for p in public if public[p].kind is not inspect.Parameter.KEYWORD_ONLY] == arrays
    assert set(plain) == set(public) - {"out", "num_threads"}
    assert all((plain[p].kind, plain[p].default) == (public[p].kind, public[p].default) for p in plain)


THETA, POINT = np.zeros((4, 3), "f4"), np.zeros(3, "f4")
FIRST, SECOND = np.zeros((4, 3), "f4"), np.zeros((4, 3), "f4")
READ_ONLY = np.zeros((4, 3), "f4")
READ_ONLY.flags.writeable = False
WIDE = np.zeros((5, 3), "f4")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"theta": THETA[0]}, ValueError, ["theta", "[N, D]", "[3]"]),
        ({"theta": THETA[:0]}, ValueError, ["theta", "no size 0", "[0, 3]"]),
        ({"theta": THETA.astype(int)}, TypeError, ["theta", "float32 or float64", "int64"]),
        ({"gradient": THETA[1:]}, ValueError, ["gradient", "[4, 3]", "[3, 3]"]),
        ({"gradient": THETA.astype("f8")}, TypeError, ["gradient must be float32 as theta is, got float64"]),
        ({"gradient": THETA.tolist()}, TypeError, ["gradient", "array", "list"]),
        ({"first": FIRST[:, 1:]}, ValueError, ["first must have shape [4, 3], got [4, 2]"]),
        ({"second": FIRST[:, 0]}, ValueError, ["second must have shape [4, 3], got [4]"]),
        ({"first": FIRST.astype("f8")}, TypeError, ["first must be float32, got float64"]),
        ({"second": FIRST.astype("i4")}, TypeError, ["second must be float32, got int32"]),
        ({"second": SECOND.tolist()}, TypeError, ["second", "array", "list"]),
        ({"first": READ_ONLY}, ValueError, ["first", "writable", "read-only"]),
        ({"second": READ_ONLY}, ValueError, ["second", "writable", "read-only"]),
        ({"first": SECOND}, ValueError, ["second must not share memory with first"]),
        ({"first": WIDE[1:], "second": WIDE[:-1]}, ValueError, ["second", "share memory with first"]),
        ({"out": FIRST}, ValueError, ["out must not share memory with first"]),
        ({"out": SECOND[::-1]}, ValueError, ["out must not share memory with second"]),
        ({"out": READ_ONLY}, ValueError, ["out", "writable", "read-only"]),
        ({"out": np.zeros((4, 3))}, TypeError, ["out must be float32", "float64"]),
        ({"out": np.zeros((3, 4), "f4")}, ValueError, ["out must have shape [4, 3]", "[3, 4]"]),
        ({"step": 0}, ValueError, ["step", "[1, 2^32)", "got 0"]),
        ({"step": 2**32}, ValueError, ["step", "[1, 2^32)", str(2**32)]),
        ({"step": 1.0}, TypeError, ["step", "integer", "1.0"]),
        ({"beta1": 1.0}, ValueError, ["beta1", "[0, 1)", "1.0"]),
        ({"beta1": -0.1}, ValueError, ["beta1", "[0, 1)", "-0.1"]),
        ({"beta2": 1}, ValueError, ["beta2", "[0, 1)", "1"]),
        ({"beta2": math.nan}, ValueError, ["beta2", "[0, 1)", "nan"]),
        ({"beta2": "0.9"}, TypeError, ["beta2", "real", "'0.9'"]),
        ({"delta": -1e-8}, ValueError, ["delta", "[0, inf)", "-1e-08"]),
        ({"delta": math.inf}, ValueError, ["delta", "[0, inf)", "inf"]),
        ({"delta": None}, TypeError, ["delta", "real", "None"]),
        ({"num_threads": 0}, ValueError, ["num_threads", "got 0"]),
    ],
)
@pytest.mark.parametrize("name", ["adam_update", "hybrid_update"])
def test_wrong_arguments_are_named(name, change, error, words):
    arguments = {"theta": THETA, "gradient": THETA + 1, "first": FIRST, "second": SECOND, **change}
    if name == "hybrid_update":
        arguments["point"] = POINT
    with pytest.raises(error) as caught:
        getattr(cbk, name)(**arguments)
    assert all(word in str(caught.value) for word in words), caught.value
    assert not any(a.any() for a in (THETA, FIRST, SECOND, READ_ONLY, WIDE))


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_wrong_learning_rates_are_named(value):
    with pytest.raises(ValueError, match=rf"lr must lie in \[0, inf\), got {value}"):
        cbk.adam_update(THETA, THETA + 1, FIRST, SECOND, lr=value)
    assert not FIRST.any()
