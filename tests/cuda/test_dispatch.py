"""CUDA arrays in, CUDA arrays out: protocols, streams, layouts and errors, on an emulated device."""

from __future__ import annotations

import numpy as np
import pytest
from fake_cuda import Array, Capsule, OldCapsule

import cbokernels as cbk

NET = cbk.TwoLayer(3, 5, 2, "tanh")


def arrays(dtype="float32"):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(dtype) for shape in ((6, NET.size), (9, 3), (9, 2))]


@pytest.mark.parametrize("library", [Array, Capsule, OldCapsule])
def test_results_are_of_the_inputs_library(emulated, library, dtype):
    theta, x, y = arrays(dtype)
    on = [library(a) for a in (theta, x, y)]
    for name, inputs in (("forward", 2), ("risk", 3), ("risk_gradient", 3)):
        result, expected = (
            getattr(cbk, name)(NET, *on[:inputs]),
            getattr(cbk, name)(NET, *arrays(dtype)[:inputs]),
        )
        if name != "risk_gradient":
            result, expected = [result], [expected]
        for a, b in zip(result, expected, strict=True):
            assert type(a) is library
            assert a.array.dtype == b.dtype
            np.testing.assert_allclose(a.array, b, rtol=1e-5, atol=1e-6)


def test_theta_may_be_given_by_name(emulated):
    theta, x, _ = arrays()
    assert type(cbk.forward(NET, theta=Array(theta), x=Array(x))) is Array


def test_cpu_arrays_stay_on_the_cpu(emulated):
    assert type(cbk.risk(NET, *arrays())) is np.ndarray
    assert not emulated.on


@pytest.mark.parametrize("mixed", [1, 2])
def test_arrays_are_never_moved(emulated, mixed):
    plain = arrays()
    on = [Array(a) for a in plain]
    name = ["x", "y"][mixed - 1]
    with pytest.raises(TypeError, match=f"{name} must lie in CUDA memory as theta does, got numpy"):
        cbk.risk(NET, *[plain[i] if i == mixed else a for i, a in enumerate(on)])
    with pytest.raises(TypeError, match=f"{name} lies in CUDA memory"):
        cbk.risk(NET, *[on[i] if i == mixed else a for i, a in enumerate(plain)])


def test_all_arrays_lie_on_one_device(emulated):
    theta, x, y = map(Array, arrays())
    emulated.device_of = lambda pointer: int(pointer == x.array.ctypes.data)
    with pytest.raises(ValueError, match="x must lie on CUDA device 0 as theta does, got 1"):
        cbk.risk(NET, theta, x, y)
    emulated.device_of = lambda pointer: -1
    with pytest.raises(
        ValueError, match="theta must lie in CUDA memory, got an address that no device knows"
    ):
        cbk.risk(NET, theta, x, y)


def test_the_callers_stream_is_used_and_others_are_waited_for(emulated):
    theta, x, y = arrays()
    cbk.risk(NET, Array(theta, 77), Array(x, 88), Array(y))
    assert {stream for _, stream in emulated.on} == {77}
    assert set(emulated.waits) == {(77, 88), (88, 77)}  # the kernel for x, and x's library for the kernel
    with pytest.raises(ValueError, match="x has stream 0"):
        cbk.risk(NET, Array(theta), Array(x, 0), Array(y))


def test_dlpack_exporters_learn_the_stream(emulated):
    theta, x, y = arrays()
    cbk.risk(NET, Array(theta, 77), Capsule(x), Array(y))
    assert Capsule.asked == 77
    cbk.risk(NET, Array(theta), Capsule(x), Array(y))
    assert Capsule.asked == 1  # DLPack's name of the default stream


def test_any_layout_is_read(emulated, dtype):
    theta, x, y = arrays(dtype)
    expected = cbk.risk(NET, *map(Array, (theta, x, y))).array
    raw = np.zeros(theta.nbytes + 1, np.uint8)[1:].view(dtype).reshape(theta.shape)
    raw[...] = theta
    for other in (np.asfortranarray(theta), theta[::-1].copy()[::-1], np.repeat(theta, 2, 1)[:, ::2], raw):
        result = cbk.risk(NET, Array(other), Array(np.asfortranarray(x)), Array(y)).array
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("target", ["new", "theta", "shifted"])
def test_out(emulated, target):
    theta, point = arrays()[0], arrays()[0][0].copy()
    expected = cbk.cbo_update(theta, point, seed=5)
    room = np.zeros((7, NET.size), np.float32)
    room[:6] = theta
    source = room[:6]
    out = Array({"new": np.empty_like(theta), "theta": source, "shifted": room[1:]}[target])
    assert cbk.cbo_update(Array(source), Array(point), seed=5, out=out) is out
    np.testing.assert_array_equal(out.array, expected)


def test_a_point_within_out_is_read_first(emulated):
    theta = arrays()[0]
    expected = cbk.cbo_update(theta, theta[2].copy(), seed=5)
    on = Array(theta.copy())
    cbk.cbo_update(on, Array(on.array[2]), seed=5, out=on)
    np.testing.assert_array_equal(on.array, expected)


def test_out_that_does_not_fit(emulated):
    theta, point = arrays()[0], arrays()[0][0].copy()
    frozen = theta.copy()
    frozen.flags.writeable = False
    cases = [
        (Array(frozen), ValueError, "out must be writable"),
        (Array(theta.astype("f8")), TypeError, "out must be float32, got float64"),
        (Array(theta[:3].copy()), ValueError, "out must have shape"),
        (theta, TypeError, "out must lie in CUDA memory as theta does"),
    ]
    for out, error, message in cases:
        with pytest.raises(error, match=message):
            cbk.cbo_update(Array(theta), Array(point), out=out)


def test_moments_must_not_overlap(emulated):
    theta = arrays()[0]
    moment = Array(np.zeros_like(theta))
    with pytest.raises(ValueError, match="second must not share memory with first"):
        cbk.adam_update(Array(theta), Array(theta.copy()), moment, moment)


def test_bad_arguments_are_named(emulated):
    theta, x, y = arrays()
    cases = [
        (
            (Array(theta), Array(x.astype("f8")), Array(y)),
            {},
            TypeError,
            "x must be float32 as theta is, got float64",
        ),
        ((Array(theta[:, :-1]), Array(x), Array(y)), {}, ValueError, "theta must have shape"),
        ((Array(theta), Array(x), Array(y)), {"loss": "l1"}, ValueError, "loss must be one of"),
        ((Array(theta), Array(x), Array(y)), {"loss": "cross_entropy"}, TypeError, "y must hold integers"),
        ((Array(theta), Array(x), Array(y)), {"loss": len}, ValueError, "loss must be a name on a card"),
        ((Array(theta), Array(x), Array(y)), {"num_threads": 0}, ValueError, "num_threads"),
        ((Array(theta), Array(x), Array(y)), {"precision": "tf64"}, ValueError, "precision"),
        ((Array(theta.astype("f2")), Array(x), Array(y)), {}, TypeError, "theta must be float32 or float64"),
    ]
    for inputs, keywords, error, message in cases:
        with pytest.raises(error, match=message):
            cbk.risk(NET, *inputs, **keywords)


def test_labels_of_any_integer_type(emulated):
    theta, x, _ = arrays()
    labels = np.arange(9) % 2
    results = [
        cbk.risk(NET, Array(theta), Array(x), Array(labels.astype(t)), loss="cross_entropy").array
        for t in ("i4", "i8", "u1", "u8")
    ]
    for result in results:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("library", [Array, Capsule])
@pytest.mark.parametrize("kind", ["bool", "int32", "int64"])
def test_labels_may_be_booleans_and_columns(emulated, library, kind):
    theta, x, _ = arrays()
    labels = np.arange(9) % 2
    expected = cbk.risk(NET, theta, x, labels, loss="cross_entropy")
    for y in (labels, labels[:, None]):
        on = [library(a) for a in (theta, x, y.astype(kind))]
        np.testing.assert_allclose(cbk.risk(NET, *on, loss="cross_entropy").array, expected, rtol=1e-5)


def test_lists_are_read_where_the_kernels_run(emulated):
    theta, x, y = arrays()
    with pytest.raises(TypeError, match=r"x must lie in CUDA memory as theta does, got numpy"):
        cbk.risk(NET, Array(theta), x.tolist(), Array(y))


def test_a_narrowing_library_is_told(emulated):
    class Narrow(Array):
        def __array_namespace__(self):
            namespace = super().__array_namespace__()
            namespace.empty = lambda shape, dtype, device: Narrow(np.empty(shape, "f4"))
            return namespace

    theta, x, y = arrays()
    with pytest.raises(TypeError, match=r"float64.*Narrow.*float32.*jax_enable_x64"):
        cbk.risk(NET, Narrow(theta), Array(x), Array(y))


def test_functions_without_a_kernel_say_so(emulated):
    theta, _, _ = arrays()
    with pytest.raises(TypeError, match="theta lies in CUDA memory"):
        NET.unpack(Array(theta))
