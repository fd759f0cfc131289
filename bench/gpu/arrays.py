"""Where a run's arrays are: PyTorch's or CuPy's on a card, the emulation's, or NumPy's in rehearsals."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from record import Skip

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "cuda"))
import libraries

Call = Callable[[int], object]
array = libraries.array


class Torch:
    """PyTorch on the card."""

    card = True

    def __init__(self) -> None:
        import torch

        self.torch = torch
        libraries.use("torch")

    put, host = staticmethod(libraries.put), staticmethod(libraries.host)

    def synchronize(self) -> None:
        """Wait for the card."""
        self.torch.cuda.synchronize()

    def busy(self, milliseconds: float) -> None:
        """Keep the stream busy for at least so long, and come back at once."""
        self.torch.cuda._sleep(int(milliseconds * 2e6))  # no card's clock is much faster than 2 GHz

    def event(self) -> Any:
        """Recorded now."""
        event = self.torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def passed(self, event: Any) -> bool:
        """Whether the card has come to it."""
        return bool(event.query())

    def between(self, start: Any, end: Any) -> float:
        """Microseconds; waits for the end."""
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e3

    def graph(self, call: Call, copies: int) -> Callable[[], object]:
        """As many calls as a CUDA graph; what they return lives as long as the function that replays it."""
        cuda = self.torch.cuda
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            for i in range(3):
                call(i)
        cuda.current_stream().wait_stream(side)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            kept = [call(i) for i in range(copies)]
        return lambda: (graph.replay(), kept)

    def filled(self, count: int) -> Any:
        """So many float32 numbers."""
        return self.torch.ones(count, device="cuda")

    def copy(self, target: Any, source: Any) -> None:
        """Read and write."""
        target.copy_(source)


class Cupy:
    """CuPy on the card."""

    card = True
    _spin = (
        'extern "C" __global__ void spin(long long clocks) {'
        " const long long end = clock64() + clocks; while (clock64() < end) {} }"
    )

    def __init__(self) -> None:
        import cupy

        self.cupy = cupy
        self._kernel = cupy.RawKernel(self._spin, "spin")
        libraries.use("cupy")

    put, host = staticmethod(libraries.put), staticmethod(libraries.host)

    def synchronize(self) -> None:
        """As Torch's; so are the others."""
        self.cupy.cuda.get_current_stream().synchronize()

    def busy(self, milliseconds: float) -> None:
        self._kernel((1,), (1,), (np.int64(milliseconds * 2e6),))

    def event(self) -> Any:
        event = self.cupy.cuda.Event()
        event.record()
        return event

    def passed(self, event: Any) -> bool:
        return bool(event.done)

    def between(self, start: Any, end: Any) -> float:
        end.synchronize()
        return float(self.cupy.cuda.get_elapsed_time(start, end)) * 1e3

    def graph(self, call: Call, copies: int) -> Callable[[], object]:
        with self.cupy.cuda.Stream(non_blocking=True) as stream:
            warm = [call(i) for i in range(copies)]  # memory that the pool then has
            stream.synchronize()
            del warm
            stream.begin_capture()
            kept = [call(i) for i in range(copies)]
            graph = stream.end_capture()
        return lambda: (graph.launch(), kept)

    def filled(self, count: int) -> Any:
        return self.cupy.ones(count, np.float32)

    def copy(self, target: Any, source: Any) -> None:
        self.cupy.copyto(target, source)


class Host:
    """NumPy on the CPU, for rehearsals: nothing is queued, and figures mean nothing."""

    card = False
    put = host = staticmethod(np.array)
    copy = staticmethod(np.copyto)

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def busy(self, milliseconds: float) -> None:
        """The CPU is not a queue."""

    def event(self) -> float:
        return time.perf_counter()

    def passed(self, event: float) -> bool:
        return False

    def between(self, start: float, end: float) -> float:
        return (end - start) * 1e6

    def graph(self, call: Call, copies: int) -> Callable[[], object]:
        return lambda: [call(i) for i in range(copies)]

    def filled(self, count: int) -> Any:
        return np.ones(count, np.float32)


class Emulated(Host):
    """Host memory that passes for a card's, where CBOKERNELS_CUDA_EMULATION names the emulation's folder."""

    put, host = staticmethod(libraries.put), staticmethod(libraries.host)

    def __init__(self) -> None:
        folder = os.environ.get("CBOKERNELS_CUDA_EMULATION")
        if not folder:
            raise Skip("a rehearsal without the emulated CUDA module (CBOKERNELS_CUDA_EMULATION)")
        sys.path.append(folder)
        module = importlib.import_module("_cuda_emulated")
        module.set_capability(9)  # the card that has every kernel
        sys.modules["cbokernels._cuda"] = OneStream(module)
        libraries.use("emulation")


class OneStream:
    """The emulated module, where streams of array libraries do not exist."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def wait_for(self, *_: int) -> None:
        """There is one stream."""

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._module, name)
        if not callable(function):
            return function

        def call(*args: Any) -> Any:
            if args and isinstance(args[-1], tuple):
                device, _, *rest = args[-1]
                args = (*args[:-1], (device, 0, *rest))
            return function(*args)

        return call


def on_card() -> Torch | Cupy:
    """The library that is here; Skip where none has a card."""
    for kind in (Torch, Cupy):
        if kind.__name__.lower() in libraries.usable():
            return kind()
    raise Skip("neither PyTorch nor CuPy is installed and finds a CUDA device")
