"""What a training run will need, before it is begun."""

from __future__ import annotations

import dataclasses
import math
import os
import resource
import time
import warnings
from typing import Any

import numpy as np

from . import _cpu
from ._checks import WORD, choice, float_dtype, integer, threads
from ._kinds import Loss, loss_of, takes_labels
from .errors import CboWarning
from .methods.base import Method, Shape, check_method
from .network import TwoLayer, check_network
from .result import State
from .risk import plan
from .training.train import train

_LEAST = 0.2  # seconds that are measured, at least
_SHORT = 0.005  # an epoch this short tells little of the steps in it
_PACKED, _WORKSPACE = 4 << 20, 1 << 20  # bytes of packed samples, and of what each thread works on
_ROW = 600  # bytes of a row of history, as Python keeps it, without arrays; and of an array in it:
_COLUMN = 320
_KNOTS = 96  # bytes a sample for sums between knots


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a run needs, and what it has.

    memory: bytes, the sum of
        particles: N D numbers (of `ConsensusHopping`, the centre),
        arrays: gradients, moments, velocities, partners, prices, ...: what the method keeps besides,
        data: x and y in the run's dtype, be it the caller's arrays or copies,
        scratch: minibatches and the kernels' workspaces,
        history: the rows of all epochs.
    seconds: of the whole run, from a few steps on random data; NaN where memory does not suffice.
    available: bytes that this process may have: the machine's memory, or less where a limit is set on the
        process or its control group. None for a card, whose memory nobody asked for.
    """

    memory: int
    seconds: float
    particles: int
    arrays: int
    data: int
    scratch: int
    history: int
    available: int | None

    @property
    def fits(self) -> bool | None:
        """Whether memory is at most available; None where that is not known."""
        return None if self.available is None else self.memory <= self.available


def estimate(
    net: TwoLayer,
    method: Method,
    samples: int,
    epochs: int,
    *,
    loss: Loss = "mse",
    tasks: int = 1,
    batch_size: int | None = None,
    device: str = "cpu",
    dtype: Any = "float32",
    num_threads: int | None = None,
) -> Estimate:
    """Memory and time of `train(net, x, y, method, epochs=epochs, ...)` on S = `samples`; an `Estimate`.

    Memory is computed from the shapes, without validation and metrics. With a checkpoint particles, arrays
    and data are there twice, and an ensemble that seems to have collapsed is looked at once more with 8 bytes
    a coordinate. The time is measured on random data, by two or more epochs of the same batches, of some of
    them where there are many: that takes 0.2 seconds, or two epochs where they are longer. Many zeros in x,
    which are skipped, make the run shorter, and a machine with other work to do makes it longer.

    tasks: of `MultiTaskCBO` and `TransportCBO`. The other arguments are those of `train`, as are the errors.
    """
    check_network(net)
    samples = integer(samples, "samples", 1, 2**40)
    epochs, tasks = integer(epochs, "epochs", 1, WORD), integer(tasks, "tasks", 1, 2**31)
    if batch_size is not None:
        batch_size = integer(batch_size, "batch_size", 1, 2**63)
    step = samples if batch_size is None else min(batch_size, samples)
    method = check_method(method)._for(Shape(net, step))
    labels, kind = takes_labels(loss_of(loss, net.outputs)), float_dtype(dtype)
    if tasks > 1 and method._task_axes == ():
        raise ValueError(f"tasks must be 1 for {type(method).__name__}, got {tasks}")
    choice(device, "device", ("cpu", "cuda"))
    workers = threads(num_threads) or _cpu.max_threads()

    item, particles = kind.itemsize, method._drawn()
    sample = item * net.inputs + tasks * (4 if labels else item * net.outputs)
    minibatches = 0 if batch_size is None else 8 * samples + 2 * step * sample
    calls = ((particles, step), (1, samples))  # a step's, the history's
    paths = [plan(net, n, s, loss=loss, tasks=tasks, dtype=kind).path for n, s in calls]
    knots = max(_KNOTS * s if path == "knots" else 0 for path, (_, s) in zip(paths, calls, strict=True))
    own = method._row(particles) if tasks == 1 else 16 * tasks
    sizes = {
        "particles": item * particles * net.size,
        "arrays": method._kept(net, particles, tasks, item),
        "data": samples * sample,
        "scratch": _PACKED + workers * _WORKSPACE + minibatches + knots,
        "history": epochs * (_ROW + 2 * own + (_COLUMN if own else 0)),
    }
    memory = sum(sizes.values())
    available = _available() if device == "cpu" else None
    seconds = math.nan
    if available is None or memory <= available:
        options = {"loss": loss, "batch_size": batch_size, "device": device, "num_threads": num_threads}
        seconds = _seconds(net, method, samples, epochs, tasks, kind, options)
    return Estimate(memory, seconds, available=available, **sizes)


def _available() -> int:
    """Bytes of memory that this process may have."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [machine, resource.getrlimit(resource.RLIMIT_AS)[0]]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            with open(f"/sys/fs/cgroup/{name}") as file:
                limits.append(int(file.read()))
        except (OSError, ValueError):  # no such group, or one without a limit
            continue
    return min(limit for limit in limits if limit != resource.RLIM_INFINITY)


def _seconds(
    net: TwoLayer, method: Method, samples: int, epochs: int, tasks: int, dtype: np.dtype[Any],
    options: dict[str, Any],
) -> float:  # fmt: skip
    """Of all epochs, from those of a few batches."""
    batch_size = options["batch_size"]
    for batches in (4, 64):
        count = samples if batch_size is None else min(samples, batches * batch_size)
        epoch = _epoch_seconds(net, method, count, epochs, tasks, dtype, options)
        if epoch > _SHORT or count == samples:
            break
    return epochs * epoch * samples / count


def _epoch_seconds(
    net: TwoLayer, method: Method, samples: int, epochs: int, tasks: int, dtype: np.dtype[Any],
    options: dict[str, Any],
) -> float:  # fmt: skip
    """The mean of some epochs on random data, without the first one, which pays for what is new."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples, net.inputs), dtype=dtype.type)
    shape = (tasks, samples) if tasks > 1 or method._task_axes == ("T",) else (samples,)
    if takes_labels(loss_of(options["loss"], net.outputs)):
        y = rng.integers(0, net.outputs, shape)
    else:
        y = rng.standard_normal((*shape, net.outputs), dtype=dtype.type)
    marks: list[float] = []

    def callback(state: State) -> bool:
        marks.append(time.perf_counter())
        return len(marks) > 1 and marks[-1] - marks[0] >= _LEAST

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CboWarning)
        train(net, x, y, method, epochs=max(epochs, 2), dtype=dtype, callback=callback, **options)
    return (marks[-1] - marks[0]) / (len(marks) - 1)


__all__ = ["Estimate", "estimate"]
