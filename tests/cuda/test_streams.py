"""Who waits for whom: libraries that work on streams of their own, which run as late as they may."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys
import types
import weakref
from collections import defaultdict

import numpy as np
import pytest
from conftest import Recorded
from fake_cuda import Array, OldCapsule

import cbokernels as cbk
from cbokernels._arrays.memory import DeviceArray

NET = cbk.TwoLayer(3, 5, 2, "tanh")
STREAMS = {"torch": 7, "cupy": 8, "numba": 9, "jax": 10}


def unowned(value):
    """An argument as a card keeps it, whose work does not keep memory."""
    return dataclasses.replace(value, source=None) if isinstance(value, DeviceArray) else value


class Streams(Recorded):
    """The emulated module on streams that do nothing before somebody waits for them."""

    def __init__(self, module):
        super().__init__(module)
        self.queues = defaultdict(list)

    def give(self, stream, work):
        self.queues[stream].append(work)

    def wait_for(self, device, stream, producer):
        behind = len(self.queues[producer])
        self.give(stream, lambda: self.drain(producer, behind))

    def synchronize(self, on):
        self.drain(on[1])

    def drain(self, stream, count=None):
        """Do what the stream was given, or the first `count` pieces of it."""
        queue = self.queues[stream]
        for i in range(len(queue) if count is None else count):
            work, queue[i] = queue[i], None
            if work is not None:
                work()

    def __getattr__(self, name):
        function = getattr(self.module, name)

        def call(*args):
            if args and isinstance(args[-1], tuple):
                *given, (_, stream, *rest) = map(unowned, args)
                return self.give(stream, lambda: function(*given, (0, 0, *rest)))
            return function(*args)

        return call


def fake_class(name, base, **members):
    return type("FakeArray", (base,), {"__module__": name, **members})


@pytest.fixture
def streams(emulated, monkeypatch):
    lazy = Streams(emulated.module)
    monkeypatch.setattr(cbk.cuda, "_module", lambda: lazy)
    return lazy


@pytest.fixture
def libraries(streams, monkeypatch):
    """Fakes of PyTorch, CuPy, Numba and JAX, by name: their array types."""
    here = contextlib.nullcontext()
    made = {name: types.ModuleType(name) for name in STREAMS}
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
        module.float32, module.float64, module.int32 = np.float32, np.float64, np.int32

    torch, cupy, numba, jax = made.values()
    torch.Tensor = fake_class("torch", Array, is_cuda=True, requires_grad=False)
    torch.cuda = types.SimpleNamespace(current_stream=lambda _: types.SimpleNamespace(cuda_stream=7))
    torch.empty = lambda shape, dtype, device: torch.Tensor(np.full(shape, -7, dtype))
    cupy.ndarray = fake_class("cupy", Array, device=here)
    cupy.cuda = types.SimpleNamespace(
        get_current_stream=lambda: types.SimpleNamespace(ptr=8), Device=lambda _: here
    )
    cupy.empty = lambda shape, dtype: cupy.ndarray(np.full(shape, -7, dtype), 8)
    numba.ndarray = fake_class("numba.cuda", Array)
    numba.cuda = types.SimpleNamespace(
        gpus=[here], external_stream=lambda handle: handle,
        device_array=lambda shape, dtype, stream: numba.ndarray(np.full(shape, -7, dtype), stream),
    )  # fmt: skip

    def export(array, *, stream):
        # XLA knows the stream that it is told; its own is nobody's business.
        streams.wait_for(0, 0 if stream == 1 else stream, STREAMS["jax"])
        return array.array.__dlpack__()

    # Its other interface has no word of streams: who takes that one reads too early.
    interface = Array.__cuda_array_interface__
    jax.Array = fake_class("jax", OldCapsule, __dlpack__=export, __cuda_array_interface__=interface)
    classes = {"torch": torch.Tensor, "cupy": cupy.ndarray, "numba": numba.ndarray, "jax": jax.Array}

    def array(name, values):
        """An array of the library, whose stream has still to write it."""
        array = classes[name](np.full(values.shape, np.nan, values.dtype))
        if name in ("cupy", "numba"):
            array.stream = STREAMS[name]
        streams.give(STREAMS[name], lambda: np.copyto(array.array, values))
        return array

    return types.SimpleNamespace(array=array, classes=classes)


def problem():
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype("f4") for shape in ((6, NET.size), (9, 3))]


@pytest.mark.parametrize(("first", "other"), list(itertools.product(STREAMS, STREAMS)))
def test_inputs_are_read_before_their_memory_is_reused(streams, libraries, first, other):
    theta, x = problem()
    expected = cbk.forward(NET, theta, x)
    on = [libraries.array(first, theta), libraries.array(other, x)]
    result = cbk.forward(NET, *on)
    assert type(result) is libraries.classes[first]
    # Both libraries free the arrays and use the memory for something else, at once if they may.
    for name, array in ((other, on[1]), (first, on[0])):
        streams.give(STREAMS[name], lambda array=array: array.array.fill(np.nan))
    streams.drain(STREAMS[other])
    if first != "jax":  # for which nobody could ask XLA's streams to wait
        streams.drain(STREAMS[first])
    np.testing.assert_allclose(result.array, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("other", ["torch", "cupy", "numba"])
def test_the_library_of_out_finds_it_written(streams, libraries, other):
    theta = problem()[0]
    expected = cbk.cbo_update(theta, theta[0], seed=5)
    out = libraries.array(other, np.zeros_like(theta))
    on = libraries.array("torch", theta), libraries.array("cupy", theta[0])
    assert cbk.cbo_update(*on, seed=5, out=out) is out
    seen = np.empty_like(theta)
    streams.give(STREAMS[other], lambda: np.copyto(seen, out.array))
    streams.drain(STREAMS[other])
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize("other", ["torch", "cupy", "numba"])
def test_nobody_waits_for_libraries_with_streams(streams, libraries, other):
    theta, x = problem()
    result = cbk.forward(NET, libraries.array(other, theta), libraries.array("torch", x))
    assert (result.array == -7).all()


def test_a_call_that_fails_waits_for_what_it_launched(streams, libraries):
    theta, x = problem()
    on = [libraries.array("jax", theta), libraries.array("jax", x), libraries.array("jax", x[:, :2])]
    launched = []

    def risk(*_):
        streams.give(0, lambda: launched.append("done"))
        raise RuntimeError("the second kernel did not start")

    streams.risk = risk
    with pytest.raises(RuntimeError, match="second"):
        cbk.risk(NET, *on)
    assert launched == ["done"]


def test_arrays_that_cannot_be_written_are_refused(emulated, libraries):
    theta = problem()[0]
    frozen, other = libraries.classes["jax"](theta.copy()), libraries.classes["torch"](theta.copy())
    moment = libraries.classes["torch"](np.zeros_like(theta))
    for call, name in (
        (lambda: cbk.cbo_update(frozen, libraries.classes["jax"](theta[0].copy()), out=frozen), "out"),
        (lambda: cbk.adam_update(other, other, frozen, moment), "first"),
        (lambda: cbk.adam_update(other, other, moment, frozen), "second"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be writable, got a read-only jax"):
            call()
    np.testing.assert_array_equal(frozen.array, theta)


def test_derived_array_types_have_their_librarys_stream(streams, libraries):
    theta, x = problem()
    derived = fake_class("mine", libraries.classes["torch"])
    cbk.forward(NET, derived(theta), libraries.classes["torch"](x))
    assert len(streams.queues[STREAMS["torch"]]) == 1


def test_the_module_waits_for_a_stream(emulated):
    """On the emulation it has the default one alone, which does all at once; test_card.py has others."""
    emulated.module.synchronize((0, 0))
    with pytest.raises(TypeError):
        emulated.module.synchronize(0)


def test_a_run_keeps_its_data(emulated):
    theta, x = problem()

    class Owner:
        pass

    owner = Owner()
    kept = weakref.ref(owner)
    y = np.zeros((1, len(x), NET.outputs), x.dtype)
    run = emulated.module.start(
        NET._kernel,
        "adam",
        x,
        y,
        None,
        "mse",
        0,
        theta,
        None,
        0,
        "none",
        False,
        {"rated": False, "decays": False},
        owner,
        (0, 0, "float32"),
    )
    del owner
    assert kept() is not None
    del run
    assert kept() is None


def test_a_run_of_the_wrong_kind_is_refused(emulated):
    theta, x = problem()
    with pytest.raises(TypeError, match="incompatible function arguments"):
        emulated.module.start(
            NET._kernel, "adam", x, x, None, 0, theta, None, 0, "none", False, {}, None, (0, 0, "float32")
        )


def test_casts_are_copies_of_the_dtype_asked_for(emulated):
    """JAX's astype returns the array itself where it can, and int32 for int64 without 64-bit numbers."""

    class Lazy(Array):
        def __array_namespace__(self):
            namespace = super().__array_namespace__()
            namespace.astype = lambda a, dtype, copy=False: Lazy(a.array.astype(dtype, copy=copy))
            return namespace

    class Narrow(Array):
        def __array_namespace__(self):
            namespace = super().__array_namespace__()
            namespace.astype = lambda a, dtype, copy: Narrow(a.array.astype("i4"))
            return namespace

    rng = np.random.default_rng(0)
    atoms, support = rng.normal(size=(2, 4, 3)), rng.normal(size=(4, 3))
    guess = np.tile(np.arange(4)[::-1], (2, 1))
    before = guess.copy()
    found = cbk.assign(Lazy(atoms), Lazy(support), match=Lazy(guess)).match
    np.testing.assert_array_equal(guess, before)
    np.testing.assert_array_equal(found.array, cbk.assign(atoms, support, match=guess).match)
    with pytest.raises(TypeError, match=r"match must be int64, which .*Narrow narrowed to int32"):
        cbk.assign(Narrow(atoms), Narrow(support), match=Narrow(guess.astype("i4")))


def test_a_copy_that_is_no_better_is_refused(emulated):
    class Stubborn(Array):
        def __array_namespace__(self):
            namespace = super().__array_namespace__()
            namespace.asarray = lambda a, copy: Stubborn(np.asfortranarray(a.array))
            return namespace

    theta, x = problem()
    with pytest.raises(ValueError, match="theta must be C-contiguous"):
        cbk.forward(NET, Stubborn(np.asfortranarray(theta)), Stubborn(x))
