"""The emulated module, which `.ci/cuda` builds and names in CBOKERNELS_CUDA_EMULATION (its folder)."""

from __future__ import annotations

import importlib
import os
import sys

import pytest

import cbokernels as cbk

FOLDER = os.environ.get("CBOKERNELS_CUDA_EMULATION")


@pytest.fixture(scope="session")
def kernels():
    """The CUDA kernels' module on the host's emulation."""
    if not FOLDER:
        pytest.skip("needs the emulated CUDA module: build tests/cuda and set CBOKERNELS_CUDA_EMULATION")
    sys.path.insert(0, FOLDER)
    return importlib.import_module("_cuda_emulated")


class Recorded:
    """The module, noting the streams that waited for others and where the kernels ran."""

    def __init__(self, module):
        self.module, self.waits, self.on = module, [], []

    def wait_for(self, device, stream, producer):
        self.waits.append((stream, producer))

    def __getattr__(self, name):
        function = getattr(self.module, name)

        def call(*args):
            if args and isinstance(args[0], tuple):
                self.on.append(args[0])
                args = ((args[0][0], 0), *args[1:])  # the emulation knows no stream of this number
            return function(*args)

        return call


@pytest.fixture
def cuda(kernels, monkeypatch):
    """`cbokernels` as if the emulated module were its CUDA build."""
    recorded = Recorded(kernels)
    monkeypatch.setattr(cbk.cuda, "_module", lambda: recorded)
    return recorded
