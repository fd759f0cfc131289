"""Array types in and out: what is shared, what is refused, what layout the kernels accept."""

from __future__ import annotations

import inspect
import sys
import types

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels import _arrays

NET = cbk.TwoLayer(inputs=3, width=5, outputs=2, activation="tanh")


def problem(dtype, particles=6, samples=20):
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(particles, NET.size)).astype(dtype)
    x = rng.normal(size=(samples, 3)).astype(dtype)
    return theta, x, rng.normal(size=(samples, 2)).astype(dtype)


def calls(theta, x, y, labels, risk, point):
    """Every kernel that takes arrays, by name, on one set of arrays."""
    return {
        "forward": lambda: cbk.forward(NET, theta, x),
        "risk": lambda: cbk.risk(NET, theta, x, y),
        "risk of labels": lambda: cbk.risk(NET, theta, x, labels, loss="cross_entropy"),
        "task_risks": lambda: cbk.task_risks(NET, theta, x, y[None]),
        "consensus point": lambda: cbk.consensus(theta, risk, alpha=3.0).point,
        "consensus weights": lambda: cbk.consensus(theta, risk, alpha=3.0).weights,
        "cbo_update": lambda: cbk.cbo_update(theta, point, seed=5),
    }


NAMES = list(calls(*[np.zeros((1, 1))] * 6))


def arrays(dtype):
    theta, x, y = problem(dtype)
    return theta, x, y, np.arange(20) % 2, np.linspace(0, 1, 6), theta[0].copy()


SIGNATURES = {
    "forward": ["net", "theta", "x"],
    "risk": ["net", "theta", "x", "y"],
    "task_risks": ["net", "theta", "x", "ys"],
    "consensus": ["theta", "risk"],
    "cbo_update": ["theta", "point"],
    "standard_normal": ["particles", "size"],
    "philox4x32": ["counter", "key"],
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_everything_after_the_arrays_is_keyword_only(name):
    kernel, plain = (inspect.signature(getattr(m, name)).parameters for m in (cbk, cbk.reference))
    positional = [p for p in kernel if kernel[p].kind is not inspect.Parameter.KEYWORD_ONLY]
    assert positional == SIGNATURES[name]
    assert set(plain) == set(kernel) - {"out", "precision", "num_threads"}
    for p in set(plain) - {"dtype"}:
        assert (plain[p].kind, plain[p].default) == (kernel[p].kind, kernel[p].default)


def strided(a):
    """The same values with gaps."""
    wide = np.zeros([2 * n for n in a.shape], a.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def misaligned(a):
    """The same values at an odd address."""
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    raw[...] = a
    assert not raw.flags.aligned
    return raw


def backwards(a):
    """The same values with negative strides."""
    index = (slice(None, None, -1),) * a.ndim
    return a[index].copy()[index]


class Subclass(np.ndarray):
    pass


LAYOUTS = {
    "strided": strided,
    "misaligned": misaligned,
    "backwards": backwards,
    "fortran": np.asfortranarray,
    "subclass": lambda a: a.view(Subclass),
}


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_integers_reach_the_kernels_aligned(dtype):
    labels = np.arange(7, dtype=dtype)
    other = labels if dtype == np.uint8 else misaligned(labels)
    found = _arrays.HOST.integers(other, "y", ("S",), 7, "labels")
    assert found.flags.aligned
    assert found.flags.c_contiguous
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, labels)


def test_data_reach_the_kernels_aligned(dtype):
    values = np.linspace(-1, 1, 12).reshape(4, 3).astype(dtype)
    for layout in ("misaligned", "strided", "fortran"):
        found = _arrays.HOST.floats(LAYOUTS[layout](values), "x", np.dtype(dtype))
        assert found.flags.aligned
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same_bits(layout, name, dtype):
    plain = arrays(dtype)
    expected = calls(*plain)[name]()
    other = [LAYOUTS[layout](a) for a in plain]
    for a, b in zip(plain, other, strict=True):
        np.testing.assert_array_equal(a, b)
        b.flags.writeable = False
    result = calls(*other)[name]()
    np.testing.assert_array_equal(result, expected)
    assert type(result) is np.ndarray
    for a, b in zip(plain, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_results_are_new_arrays(name, dtype):
    inputs = arrays(dtype)
    result = calls(*inputs)[name]()
    assert result.flags.c_contiguous
    assert result.flags.writeable
    assert not any(np.shares_memory(result, a) for a in inputs)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("num_threads", [1, 3])
def test_out_of_any_layout(layout, num_threads, dtype):
    theta, *_, point = arrays(dtype)
    expected = cbk.cbo_update(theta, point, seed=5)
    out = LAYOUTS[layout](np.zeros_like(theta))
    assert cbk.cbo_update(theta, point, seed=5, out=out, num_threads=num_threads) is out
    np.testing.assert_array_equal(out, expected)
    theta = LAYOUTS[layout](theta)
    assert cbk.cbo_update(theta, point, seed=5, out=theta) is theta
    np.testing.assert_array_equal(theta, expected)


def test_memory_maps_are_read(tmp_path, dtype):
    theta, x, y = problem(dtype)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(cbk.risk(NET, theta, mapped, y), cbk.risk(NET, theta, x, y))


def test_masked_arrays_are_refused():
    theta, x, y = problem("float32")
    with pytest.raises(TypeError, match="x must be an array without a mask"):
        cbk.risk(NET, theta, np.ma.masked_array(x), y)


class Exporter:
    """A minimal array of another library: DLPack and nothing else that NumPy knows."""

    def __init__(self, array, device=1):
        self.array, self.device = np.asarray(array), device

    def __dlpack__(self, **keywords):
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.device, 0

    # For the tests' own arithmetic.
    @property
    def shape(self):
        return self.array.shape

    @property
    def dtype(self):
        return self.array.dtype

    def __getitem__(self, index):
        return type(self)(self.array[index])


class Standard(Exporter):
    """One that follows the array API standard."""

    def __array_namespace__(self):
        return types.SimpleNamespace(from_dlpack=lambda a: Standard(np.from_dlpack(a)))


@pytest.mark.parametrize("name", NAMES)
def test_results_have_the_type_of_the_inputs(name, dtype):
    plain = arrays(dtype)
    expected = calls(*plain)[name]()
    result = calls(*map(Standard, plain))[name]()
    assert type(result) is Standard
    np.testing.assert_array_equal(result.array, expected)


def test_libraries_without_a_namespace_use_their_from_dlpack(monkeypatch):
    module = types.ModuleType("other_arrays")
    module.from_dlpack = lambda a: Foreign(np.from_dlpack(a))
    monkeypatch.setitem(sys.modules, "other_arrays", module)
    Foreign = type("Foreign", (Exporter,), {"__module__": "other_arrays.inner"})
    theta, x, y = problem("float32")
    result = cbk.risk(NET, Foreign(theta), Foreign(x), y)
    assert type(result) is Foreign
    np.testing.assert_array_equal(result.array, cbk.risk(NET, theta, x, y))


def test_results_are_not_narrowed_by_their_library():
    class Narrow(Standard):
        def __array_namespace__(self):
            return types.SimpleNamespace(from_dlpack=lambda a: Narrow(np.from_dlpack(a).astype("f4")))

    theta, x, y = problem("float32")
    assert type(cbk.forward(NET, Narrow(theta), x)) is Narrow
    with pytest.raises(TypeError, match=r"float64.*Narrow.*float32.*jax_enable_x64"):
        cbk.risk(NET, Narrow(theta), x, y)


def test_libraries_that_cannot_import_are_named():
    theta, x, y = problem("float32")
    with pytest.raises(TypeError, match=r"Exporter.*from_dlpack"):
        cbk.risk(NET, Exporter(theta), x, y)
    # As other arguments they are only read.
    np.testing.assert_array_equal(cbk.risk(NET, theta, Exporter(x), y), cbk.risk(NET, theta, x, y))


def test_imported_arrays_that_cannot_be_written_are_no_out():
    theta, *_, point = arrays("float32")
    frozen = theta.copy()
    frozen.flags.writeable = False
    with pytest.raises((TypeError, ValueError), match="out"):
        cbk.cbo_update(theta, point, out=Exporter(frozen))


class CudaArray:
    """What a CUDA library's array looks like, without the memory."""

    __cuda_array_interface__ = {  # noqa: RUF012
        "shape": (6, NET.size), "typestr": "<f4", "data": (4096, False), "version": 3,
    }  # fmt: skip


@pytest.mark.parametrize("array", [CudaArray(), Exporter(np.zeros(3), 2), Exporter(np.zeros(3), 13)])
def test_cuda_arrays_need_cuda(array):
    if cbk.cuda.is_available():
        pytest.skip("CUDA kernels are available")
    theta, x, y, _, _, point = arrays("float32")
    for call in (
        lambda: cbk.forward(NET, array, x),
        lambda: cbk.risk(NET, theta, array, y),
        lambda: cbk.risk(NET, theta, x, array, loss="cross_entropy"),
        lambda: cbk.consensus(theta, array),
        lambda: cbk.cbo_update(theta, point, out=array),
        lambda: NET.unpack(array),
    ):
        with pytest.raises(cbk.CudaUnavailableError, match=r"CUDA memory.*(no CUDA kernels|no CUDA device)"):
            call()


def test_other_devices_are_refused():
    theta, x, y = problem("float32")
    with pytest.raises(TypeError, match=r"x must lie in CPU memory.*10"):
        cbk.risk(NET, theta, Exporter(x, 10), y)


def test_cuda_is_described():
    count = cbk.cuda.device_count()
    assert isinstance(count, int)
    assert count >= 0
    assert cbk.cuda.is_available() == (count > 0)
    assert (cbk.cuda.unavailable_reason() is None) == (count > 0)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("name", NAMES)
def test_torch_tensors_give_torch_tensors(torch, name, dtype):
    plain = arrays(dtype)
    expected = calls(*plain)[name]()
    result = calls(*map(torch.from_numpy, plain))[name]()
    assert isinstance(result, torch.Tensor)
    np.testing.assert_array_equal(result.numpy(), expected)
    assert result.numpy().dtype == expected.dtype


def test_torch_tensors_are_read_in_place(torch, dtype):
    from cbokernels._arrays import view

    tensor = torch.zeros(4, 3, dtype=getattr(torch, dtype))
    assert view(tensor, "theta").ctypes.data == tensor.data_ptr()


def test_torch_out_is_returned(torch, dtype):
    theta, *_, point = arrays(dtype)
    expected = cbk.cbo_update(theta, point, seed=5)
    tensor = torch.from_numpy(theta.copy())
    assert cbk.cbo_update(tensor, torch.from_numpy(point), seed=5, out=tensor) is tensor
    np.testing.assert_array_equal(tensor.numpy(), expected)
    turned = torch.zeros(tensor.shape[::-1], dtype=tensor.dtype).T
    assert cbk.cbo_update(theta, point, seed=5, out=turned) is turned
    np.testing.assert_array_equal(turned.numpy(), expected)


def test_consensus_of_torch_tasks(torch):
    theta = torch.zeros(4, 3)
    result = cbk.consensus(theta, torch.zeros(4, 2, dtype=torch.float64))
    assert all(isinstance(part, torch.Tensor) for part in result)
    assert isinstance(cbk.consensus(theta, torch.zeros(4, dtype=torch.float64)).ess, float)


def test_torch_tensors_that_cannot_be_read_are_named(torch):
    theta, x, y = map(torch.from_numpy, problem("float32"))
    cases = [
        ((theta.clone().requires_grad_(), x, y), "theta.*detach"),
        ((torch.nn.Parameter(theta.clone()), x, y), "theta.*detach"),
        ((theta.bfloat16(), x, y), "theta must be.*bfloat16"),
        ((theta.half(), x, y), "theta must be.*float16"),
        ((theta, x.to_sparse(), y), "x must be a dense"),
        ((theta, x.to("meta"), y), "x must lie in CPU memory.*meta"),
        ((theta, x.double(), y), "x must be float32.*float64"),
    ]
    for inputs, message in cases:
        with pytest.raises(TypeError, match=message):
            cbk.risk(NET, *inputs)
    out = torch.zeros_like(theta).requires_grad_()
    with pytest.raises(TypeError, match=r"out.*detach"):
        cbk.cbo_update(theta, theta[0].clone(), out=out)


def test_kernels_run_from_several_threads():
    from concurrent.futures import ThreadPoolExecutor

    theta, x, y = problem("float32", particles=50, samples=500)
    expected = [cbk.risk(NET, theta + np.float32(i), x, y) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda i: cbk.risk(NET, theta + np.float32(i), x, y), range(8)))
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, wanted)
