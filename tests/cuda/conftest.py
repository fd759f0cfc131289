"""Where the CUDA kernels' tests run: on a card, or on the emulation that `.ci/cuda` builds and names in
CBOKERNELS_CUDA_EMULATION (its folder).

With CBOKERNELS_REQUIRE_GPU=1 on a card or not at all: what would be skipped fails, and tests of the emulation
itself are left out. Without it those that only a card can run are.
"""

from __future__ import annotations

import importlib
import os

import libraries
import pytest

import cbokernels as cbk

FOLDER = os.environ.get("CBOKERNELS_CUDA_EMULATION")
REQUIRED = os.environ.get("CBOKERNELS_REQUIRE_GPU") == "1"


def _places() -> list[str]:
    if FOLDER and not REQUIRED:
        return ["emulation"]
    return (libraries.usable() if cbk.cuda.is_available() else []) or ["nowhere"]


def pytest_collection_modifyitems(config, items):
    """Leave out the emulation's own tests, or the card's."""
    other = "emulated" if REQUIRED else "card"
    out = [item for item in items if other in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]


class Recorded:
    """The emulated module, noting which streams waited or were waited for, and where kernels ran."""

    def __init__(self, module):
        self.module, self.waits, self.synchronized, self.on = module, [], [], []

    def wait_for(self, device, stream, producer):
        self.waits.append((stream, producer))

    def synchronize(self, on):
        self.synchronized.append(on)

    def __getattr__(self, name):
        function = getattr(self.module, name)

        def call(*args):
            if args and isinstance(args[-1], tuple):
                device, stream, *rest = args[-1]
                self.on.append((device, stream))
                args = (*args[:-1], (device, 0, *rest))  # the emulation knows no stream of this number
            return function(*args)

        return call


@pytest.fixture
def emulated(monkeypatch):
    """`cbokernels` as if the emulated module were its CUDA build."""
    if not FOLDER:
        pytest.skip("needs the emulated CUDA module: build tests/cuda and set CBOKERNELS_CUDA_EMULATION")
    monkeypatch.syspath_prepend(FOLDER)
    recorded = Recorded(importlib.import_module("_cuda_emulated"))
    monkeypatch.setattr(cbk.cuda, "_module", lambda: recorded)
    libraries.use("emulation")
    return recorded


@pytest.fixture(params=_places())
def cuda(request):
    """`cbokernels` with its CUDA kernels, on arrays of each library in turn; their module."""
    if request.param == "emulation":
        return request.getfixturevalue("emulated").module
    if request.param == "nowhere":
        reason = cbk.cuda.unavailable_reason() or "neither PyTorch nor CuPy has one"
        (pytest.fail if REQUIRED else pytest.skip)(f"needs a card or the emulation: {reason}")
    libraries.use(request.param)
    return cbk.cuda.module()


class Card:
    """A library on the card, and what its tests need of it."""

    def __init__(self, module, name):
        self.module, self._name, self._library = module, name, importlib.import_module(name)

    def stream(self):
        """A context in which the library works on a stream of its own."""
        if self._name == "cupy":
            return self._library.cuda.Stream(non_blocking=True)
        return self._library.cuda.stream(self._library.cuda.Stream())

    def is_idle(self):
        """Whether the library's stream has done what it was given."""
        if self._name == "cupy":
            return self._library.cuda.get_current_stream().done
        return self._library.cuda.current_stream().query()

    def work(self):
        """Keep the library's stream busy for some milliseconds."""
        ones = self._library.ones((8192, 8192))
        if self._name == "torch":
            ones = ones.cuda()
        for _ in range(4):
            ones = ones @ ones


@pytest.fixture
def card(cuda, request):
    """The `cuda` fixture where it is a card."""
    return Card(cuda, request.node.callspec.params["cuda"])
