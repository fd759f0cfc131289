"""Whether CUDA can be used, and why not: what is asked, of whom, the words for it. Drivers are imitated."""

from __future__ import annotations

import types

import numpy as np
import pytest
from test_arrays import Exporter

import cbokernels as cbk
from cbokernels import cli, cuda

CARD = {"name": "card", "capability": (9, 0), "trouble": ""}
GOOD = {
    "error": 0, "name": "cudaSuccess", "words": "no error", "driver": 13000, "runtime": 13000,
    "architectures": "75-real 90-real", "cards": [CARD],
}  # fmt: skip


def found(**changes):
    """Findings of a module; new ones, since they are completed in place."""
    facts = {**GOOD, **changes}
    return {**facts, "cards": [dict(card) for card in facts["cards"]]}


@pytest.fixture
def build(monkeypatch):
    """Makes `cbokernels` believe in a compiled module with these findings; counts who looks."""

    def make(state="in use", file="none", forked=False, **changes):
        def look(launch):
            assert not launch, "a kernel was launched in the caller's process"
            module.looks += 1
            return found(**changes)

        module = types.SimpleNamespace(
            driver_state=lambda: state, look=look, looks=0, __file__=str(file), is_forked=lambda: forked
        )
        monkeypatch.setattr(cuda, "_module", lambda: module)
        return module

    return make


def test_a_card_that_fits(build):
    module = build(cards=[CARD, {**CARD, "name": "other", "capability": (7, 5)}])
    assert cuda.is_available()
    assert cuda.device_count() == 2
    assert cuda.unavailable_reason() is None
    assert module.looks == 1  # and never again
    assert "2: card (sm_90), other (sm_75)" in cli.information()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"error": 35, "name": "cudaErrorInsufficientDriver", "driver": 12040, "cards": []},
            "the driver (CUDA 12.4) is older than CUDA 13.0, which this build needs: "
            "install driver 580 or newer",
        ),
        (
            {"error": 35, "name": "cudaErrorInsufficientDriver", "driver": 11080, "runtime": 12060},
            "the driver (CUDA 11.8) is older than CUDA 12.6, which this build needs: "
            "install driver 525 or newer",
        ),
        (
            {"error": 100, "name": "cudaErrorNoDevice", "words": "no CUDA-capable device is detected"},
            "the driver (CUDA 13.0) says: no CUDA-capable device is detected (cudaErrorNoDevice)",
        ),
        (
            {"cards": [{**CARD, "name": "Titan", "capability": (6, 1)}]},
            "Titan is sm_61, and this build has code for 75-real 90-real: build cbokernels with CUDAARCHS=61",
        ),
        ({"cards": [{**CARD, "trouble": "launch: out of memory"}]}, "launch: out of memory"),
        ({"cards": []}, "the driver reports no CUDA device"),
    ],
)
def test_why_not(build, changes, words):
    build(**changes)
    assert not cuda.is_available()
    assert cuda.device_count() == 0
    assert cuda.unavailable_reason() == words
    with pytest.raises(cbk.CudaUnavailableError) as error:
        cuda.module()
    assert str(error.value) == f"CUDA is not available: {words}"


def test_cards_that_do_not_fit_are_not_counted(build):
    build(cards=[{**CARD, "capability": (12, 0)}, CARD])
    assert cuda.is_available()
    assert cuda.device_count() == 1


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        ("80", (7, 5), False), ("80", (8, 0), True), ("80", (8, 6), True), ("80", (12, 0), True),
        ("80-real", (8, 9), True), ("80-real", (9, 0), False), ("86-real", (8, 0), False),
        ("80-virtual", (8, 0), True), ("80-virtual", (10, 0), True), ("90a-real", (9, 0), True),
        ("90a", (10, 0), False), ("90a-virtual", (9, 0), False), ("100f-real", (10, 3), True),
        ("75-real 80-real 90-real 100-real 120", (12, 1), True),
        ("75-real 80-real 90-real 100-real 120", (11, 0), False), ("the emulation", (8, 0), True),
    ],
)  # fmt: skip
def test_which_cards_run_which_code(build, architectures, capability, runs):
    """NVIDIA's rules: binaries within a major version from their minor on, PTX on all later cards."""
    build(architectures=architectures, cards=[{**CARD, "capability": capability}])
    assert cuda.is_available() is runs


def test_without_a_driver_nobody_is_asked(build, monkeypatch):
    module = build("absent")
    monkeypatch.setattr("subprocess.run", None)
    assert "no NVIDIA driver is installed" in cuda.unavailable_reason()
    assert module.looks == 0


def in_a_child(folder, body):
    """A module whose `look` runs in the child; a Python file does for it."""
    path = folder / "_cuda.py"
    path.write_text(f"import os\ndef look(launch):\n    assert launch\n    {body}\n")
    return path


def test_a_process_without_cuda_asks_a_child(build, tmp_path):
    card = {**CARD, "trouble": "of the child"}
    module = build("idle", in_a_child(tmp_path, f"return {found(cards=[card])}"))
    assert cuda.unavailable_reason() == "of the child"
    assert cuda.unavailable_reason() == "of the child"
    assert module.looks == 0


def test_a_child_that_the_driver_kills(build, tmp_path):
    module = build("idle", in_a_child(tmp_path, "os.kill(os.getpid(), 11)"))
    assert "ended by signal 11" in cuda.unavailable_reason()
    assert module.looks == 0


def test_a_driver_that_does_not_answer(build, tmp_path, monkeypatch):
    monkeypatch.setattr(cuda, "_SECONDS", 0.5)
    build("idle", in_a_child(tmp_path, "import time; time.sleep(60)"))
    assert cuda.unavailable_reason() == "the driver did not answer within 0.5 seconds"


@pytest.mark.parametrize("executable", ["", "/no/such/python", None])
def test_where_python_cannot_be_started_the_process_asks_itself(build, tmp_path, monkeypatch, executable):
    if executable is not None:
        monkeypatch.setattr(cuda.sys, "executable", executable)
    module = build("idle", in_a_child(tmp_path, "raise SystemExit(3)"))
    assert cuda.is_available()
    assert module.looks == 1


@pytest.mark.parametrize("use", [cuda.module, lambda: cbk.cuda.reason_against_use()])
def test_who_is_about_to_use_cuda_asks_no_child(build, monkeypatch, use):
    module = build("idle")
    monkeypatch.setattr("subprocess.run", None)
    use()
    assert cuda.is_available()
    assert module.looks == 1


def test_a_forked_process_is_told(build):
    build(forked=True)
    assert not cuda.is_available()
    assert cuda.device_count() == 0
    with pytest.raises(cbk.CudaUnavailableError, match=r"forked.*'spawn' or 'forkserver'"):
        cuda.module()


def test_cpu_arrays_ask_for_no_card(build, monkeypatch):
    module = build("idle")
    monkeypatch.setattr("subprocess.run", None)
    net = cbk.TwoLayer(3, 4, 1)
    theta, x, y = np.ones((2, net.size)), np.ones((5, 3)), np.ones((5, 1))
    cbk.risk(net, theta.view(type("Own", (np.ndarray,), {})), Exporter(x), y)
    with pytest.raises(TypeError, match="its library has no from_dlpack"):  # after the kernel has run
        cbk.risk(net, Exporter(theta), x, y)
    cbk.train(net, Exporter(x), y, cbk.CBO(particles=2), epochs=1)
    assert module.looks == 0


def test_a_build_without_cuda_says_how_to_get_it(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(cuda.importlib, "import_module", missing)
    cuda._load.cache_clear()
    try:
        assert not cuda.is_available()
        reason = cuda.unavailable_reason()
        assert "no CUDA kernels" in reason
        assert "CBOKERNELS_CUDA=ON" in reason
    finally:
        cuda._load.cache_clear()
