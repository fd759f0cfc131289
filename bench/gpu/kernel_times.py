"""What each kernel takes, by PyTorch's profiler: which part of an item is whose."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from items import Ours, workload
from record import Row, Steps

import cbokernels as cbk

CALLS = 6


def short(name: str) -> str:
    """A kernel's name without namespaces and arguments."""
    name = re.sub(r"\(anonymous namespace\)::|cbk::(device::)?|^void ", "", name)
    return re.sub(r"\((?![^<]*>).*", "", name)[:120]


def kernels(name: str, call: Any, calls: int, library: Any) -> Iterator[Row]:
    """Microseconds a call in each kernel."""
    from torch.profiler import ProfilerActivity, profile

    call(0)
    library.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for i in range(calls):
            call(i)
        library.synchronize()
    for event in sorted(seen.key_averages(), key=lambda e: -e.self_device_time_total):
        if event.self_device_time_total > 0:
            note = f"{event.count / calls:g} a call"
            yield Row(name, short(event.key), event.self_device_time_total / calls, "µs", note=note)


def steps(context: Any) -> Steps:
    library = context.card()
    if not hasattr(library, "torch"):
        return {}
    ours = Ours(context)
    w = workload("A", False)
    x, y = (library.put(a.reshape(-1, *a.shape[2:])) for a in (w.x, w.y))

    def train(_: int) -> object:
        method = cbk.CBO(w.particles, alpha=1e5, floor=0.01)
        return cbk.train(w.net, x, y, method, epochs=20, batch_size=800, device="cuda")

    table: Steps = {"A step": lambda: kernels("A, 200 steps", train, 1, library)}
    for width in (20, 100):
        name = f"784-{width}-10, 80 steps of hopping"
        run = lambda _, w=width: ours.hop_digits(w, 1)  # noqa: E731
        table[name] = lambda n=name, r=run: kernels(n, r, 1, library)
    for name in ours.table:
        table[name] = lambda n=name: kernels(n, ours.table[n]().call, CALLS, library)
    return table
