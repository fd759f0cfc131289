"""How the kernels' drivers treat the runtime: memory, errors, threads, contexts, forks; on the emulation."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import Array
from libraries import array, numbers

import cbokernels as cbk

NET = cbk.TwoLayer(3, 5, 2, "tanh")
MEMORY, FORK, LAUNCH = 2, 3, 719  # the runtime's numbers of errors
WIDE = cbk.TwoLayer(21, 40, 3)


def arrays(net=NET, particles=6):
    shapes = (particles, net.size), (9, net.inputs), (9, net.outputs)
    return [Array(numbers(shape, "float32")) for shape in shapes]


def synchronise(module):
    here = np.zeros(1)
    module.read_memory(here.ctypes.data, np.empty(1), (0, 0))


@pytest.fixture
def kernels(emulated):
    """The emulated module; what a test did to it ends with the test."""
    yield emulated.module
    emulated.module.fail_calls("", 0)
    emulated.module.set_devices(1)
    emulated.module.set_capability(8)


def test_workspaces_are_kept_over_a_synchronisation(kernels):
    data = arrays()
    cbk.risk_gradient(NET, *data)
    synchronise(kernels)
    before, held = kernels.ledger(), kernels.testing.held_memory(0)
    for _ in range(3):
        cbk.risk_gradient(NET, *data)
        synchronise(kernels)
    assert kernels.ledger() == before
    assert kernels.testing.held_memory(0) == held > 0


def test_kept_memory_can_be_given_back(kernels):
    data = arrays()
    expected = cbk.risk_gradient(NET, *data)
    assert kernels.testing.held_memory(0) > 0
    kernels.testing.trim_memory(0)
    assert kernels.testing.held_memory(0) == 0
    for a, b in zip(cbk.risk_gradient(NET, *data), expected, strict=True):
        np.testing.assert_array_equal(a.array, b.array)
    assert kernels.testing.held_memory(0) > 0
    assert kernels.ledger()["pools"] == 1


def run_threads(work, count=8):
    """`work` in some threads at once; what one raises is raised."""
    errors = []
    start = threading.Barrier(count)

    def body():
        start.wait()
        try:
            for _ in range(4):
                work()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=body) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def weigh(kernels, device):
    """A kernel with a workspace, on some device."""
    theta, risk, point = numbers((300, 7), "float32"), np.ones(300), np.empty(7, "float32")
    given = [array(Array(a)) for a in (theta, risk, point, np.empty(300), np.empty(()))]
    kernels.consensus(*given[:2], 2.0, *given[2:], (device, 0, "float32"))
    np.testing.assert_allclose(point, theta.astype("float64").mean(0), atol=1e-6)


def test_threads_make_one_pool(kernels):
    kernels.set_devices(3)
    before = kernels.ledger()["pools"]
    run_threads(lambda: weigh(kernels, 2))
    assert kernels.ledger()["pools"] == before + 1


def test_shared_memory_is_asked_for_once(emulated, kernels):
    kernels.set_devices(4)
    data = arrays(WIDE)
    expected = cbk.risk(WIDE, *data).array
    emulated.device_of = lambda pointer: 3
    before = kernels.ledger()["shared_settings"]
    run_threads(lambda: np.testing.assert_array_equal(cbk.risk(WIDE, *data).array, expected))
    assert kernels.ledger()["shared_settings"] == before + 1


def test_failures_are_cbo_errors(kernels):
    data = arrays()
    for call, error, words in (
        ("cudaLaunchKernel", LAUNCH, "launch: .*cudaErrorLaunchFailure"),
        ("cudaGetDevice", FORK, r"cudaErrorInitializationError\).*fork.*'spawn' or 'forkserver'"),
        ("cudaLaunchKernel", 209, "NoKernelImageForDevice.*emulated card is sm_80.*CUDAARCHS=80"),
    ):
        kernels.fail_calls(call, error)
        with pytest.raises(cbk.CboError, match=words) as raised:
            cbk.risk_gradient(NET, *data)
        assert "any more" not in str(raised.value)
        kernels.fail_calls("", 0)
        cbk.risk_gradient(NET, *data)


def test_too_little_memory_is_told_in_bytes(kernels):
    data = arrays()
    kernels.testing.trim_memory(0)
    kernels.fail_calls("cudaMallocFromPoolAsync", MEMORY)
    words = r"of \d+ bytes, where 1073741824 of 2147483648 are free on device 0: out of memory \(cudaErrorM"
    with pytest.raises(cbk.CboError, match=f"^workspace {words}"):
        cbk.risk_gradient(NET, *data)
    for call, what in (("cudaMalloc", "memory"), ("cudaMallocHost", "pinned memory")):
        kernels.fail_calls(call, MEMORY)
        with pytest.raises(cbk.CboError, match=f"^{what} of a run {words}"):
            cbk.train(NET, *data[1:], cbk.CBO(particles=4), epochs=1, device="cuda")


def alone(body):
    """What a process prints that runs `body` on the emulation; it must end well."""
    folder = os.environ["CBOKERNELS_CUDA_EMULATION"]
    start = f"""
    import os, sys
    sys.path[:0] = [{folder!r}, {str(Path(__file__).parent)!r}]
    import numpy as np
    import _cuda_emulated as kernels
    import cbokernels as cbk
    from test_runtime import NET, LAUNCH, arrays
    cbk.cuda._module = lambda: kernels
    theta, x, y = arrays()
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(start) + textwrap.dedent(body)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_ends_well_after_an_error_that_stays(emulated):
    said = alone("""
    def lose_the_card(*_):
        kernels.fail_calls("", LAUNCH)
    kernels.set_devices(2)
    kernels.set_device(1)
    try:
        cbk.train(NET, x, y, cbk.CBO(particles=4), epochs=3, device="cuda", callback=lose_the_card)
    except cbk.CboError as error:
        print(error)
    try:
        cbk.risk(NET, theta, x, y)
    except cbk.CboError as error:
        print(error)
    """)
    lines = said.splitlines()
    assert len(lines) == 2
    assert all("cudaErrorLaunchFailure" in line for line in lines)
    assert all("nothing runs on CUDA in this process any more: start a new one" in line for line in lines)


@pytest.mark.parametrize("work", ["cbk.risk(NET, theta, x, y)", "cbk.risk_gradient(NET, theta, x, y)"])
def test_forked_processes_are_told(emulated, work):
    said = alone(f"""
    {work}
    if os.fork() == 0:
        try:
            {work}
        except cbk.CboError as error:
            print(error, cbk.cuda.is_available())
        try:
            kernels.device_of(theta.array.ctypes.data)
        except cbk.CboError as error:
            print(error)
        sys.stdout.flush()
        os._exit(0)
    os.wait()
    {work}
    """)
    assert said.count("forked from one that had used CUDA") == 2
    assert said.count("'spawn' or 'forkserver'") == 2
    assert said.count("False") == 1


def test_work_on_one_device_makes_no_context_on_another(emulated, kernels):
    kernels.set_devices(2)
    data = arrays()
    emulated.device_of = lambda pointer: 1
    cbk.risk_gradient(NET, *data)
    cbk.train(NET, *data[1:], cbk.CBO(particles=4), epochs=2, device="cuda")
    kernels.testing.trim_memory(1)
    assert kernels.ledger()["contexts"] == {1}
    assert kernels.get_device() == 0


def test_where_memory_lies_is_told_without_a_context(kernels):
    kernels.set_devices(2)
    assert kernels.device_of(arrays()[0].array.ctypes.data) == 0
    assert kernels.ledger()["contexts"] == set()


def test_the_callers_device_comes_back(kernels):
    kernels.set_devices(2)
    kernels.set_device(1)
    cbk.risk_gradient(NET, *arrays())
    assert kernels.get_device() == 1
    kernels.fail_calls("cudaLaunchKernel", LAUNCH)
    with pytest.raises(cbk.CboError):
        cbk.risk(NET, *arrays())
    kernels.fail_calls("", 0)
    assert kernels.get_device() == 1
