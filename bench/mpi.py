"""Measures messages and steps of ensembles on ranks of MPI, and predicts from them the speed on 1 to 4,096.

    python bench/mpi.py study              # all of it, in about four minutes on two cores that are quiet

measures with 1 and 2 ranks of one thread each, then predicts. It writes docs/mpi-scaling.png, and its tables
into docs/MPI.md between the lines that name this file. The parts:

    mpiexec -n 2 python bench/mpi.py measure mpi.json       # adds to the same file; OMP_NUM_THREADS=1
    python bench/mpi.py predict mpi.json --out docs [--latency 2e-6 --bandwidth 1.25e10]

`measure` times, for workloads A, B and C (bench/README.md) and for hopping, a step of all particles and of a
quarter of them, and allreduces of 8 bytes to 8 MB, as MPI sums them and as states are combined. With one rank
it also times the same run without comm, by turns.

`predict` fits a latency and a time per byte to the messages, and to each step a part that each rank has, one
per particle, and one that only several ranks have. A message goes through log2 P stages. Between machines a
stage takes --latency seconds, and --bandwidth is in bytes a second. Their defaults are assumptions, typical
of a cluster with a network of 100 Gbit/s: 2 us and 12.5 GB/s. With 0 and 0 they are as measured in memory.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import cbokernels as cbk
from cbokernels import _cpu

SIZES = [8 * 4**i for i in range(11)]  # bytes, of messages
BLOCK = 2**17  # particles that hopping weighs together
BATCHES = 10  # of an epoch: the history's row is a small part of it
RANKS = [2**i for i in range(13)]
SHOWN = RANKS[::2]
BEGINS, ENDS = "<!-- bench/mpi.py writes this -->", "<!-- up to here -->"
PAYS = 0.5  # efficiency below which more ranks are not worth it
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")


@dataclass(frozen=True)
class Case:
    """A step's shapes, and how it is trained."""

    name: str
    particles: int
    width: int
    inputs: int
    outputs: int
    samples: int
    activation: str
    hopping: bool = False
    steps: int = 20

    @property
    def net(self) -> cbk.TwoLayer:
        return cbk.TwoLayer(self.inputs, self.width, self.outputs, self.activation)

    def method(self, particles: int) -> Any:
        if self.hopping:
            return cbk.ConsensusHopping(particles=particles)
        return cbk.CBO(particles=particles, alpha=1e5, floor=0.01)

    def data(self) -> tuple[Any, Any]:
        draw = np.random.default_rng(0)
        x = draw.standard_normal((self.samples, self.inputs), np.float32)
        if self.outputs > 1:
            x[draw.random(x.shape) > 0.19] = 0
            return x, draw.integers(0, self.outputs, self.samples)
        return x, np.sin(x[:, 0])


CASES = [
    Case("A", 200, 100, 1, 1, 800, "relu", steps=1000),
    Case("B", 1000, 20, 784, 10, 1000, "relu", steps=10),
    Case("C", 64, 4096, 16, 1, 1024, "tanh", steps=10),
    Case("hopping", 1000, 100, 1, 1, 800, "relu", hopping=True, steps=200),
]
# Hopping on a network of a million parameters: the cost of a particle from a smaller one, in proportion to D.
LARGE = Case("large hopping", 64, 1250, 98, 1, 100, "relu", hopping=True, steps=10)
LARGE_PARTICLES, LARGE_SIZE = 10**8, 10**6


def machine() -> str:
    """The processor's name, and how many cores."""
    path, name = Path("/proc/cpuinfo"), platform.processor() or platform.machine()
    if path.exists():
        names = [line.partition(":")[2] for line in path.read_text().splitlines() if "model name" in line]
        name = " ".join(names[0].split()) if names else name
    return f"{name}, {os.cpu_count()} cores"


def step_seconds(case: Case, particles: int, comm: Any, device: str = "cpu") -> float:
    """Of one step: the middle epoch's of a run, of which the first is left out."""
    x, y = case.data()
    rows = np.tile(np.arange(case.samples), BATCHES)
    result = cbk.train(
        case.net, x[rows], y[rows], case.method(particles), epochs=2 + max(case.steps // BATCHES, 2),
        batch_size=case.samples, loss="cross_entropy" if case.outputs > 1 else "mse", comm=comm,
        device=device,
    )  # fmt: skip
    return float(np.median(np.diff(result.history["seconds"]))) / BATCHES


def weight_seconds() -> float:
    """Of one particle's rank and weight, which hopping finds on each rank for whole blocks."""
    risk, ess = np.random.default_rng(0).random((BLOCK, 1)), np.empty(1)
    began = time.perf_counter()
    _cpu.hopping_weights(risk, True, 0.0, ess, 1)
    return (time.perf_counter() - began) / BLOCK


def measure(path: Path, repeats: int) -> None:
    import warnings

    from mpi4py import MPI

    from cbokernels.distributed import Communicator
    from cbokernels.methods.merging import combiner, length

    warnings.simplefilter("ignore", cbk.CboWarning)
    comm = MPI.COMM_WORLD
    found: dict[str, Any] = {"isa": cbk.isa(), "steps": {}, "without comm": {}, "messages": {}}
    found.update(machine=machine(), date=str(datetime.date.today()), mpi=MPI.Get_library_version()[:40])

    def median(of: Callable[[], float]) -> float:
        times = []
        for _ in range(repeats):
            comm.Barrier()
            times.append(comm.allreduce(of(), MPI.MAX))
        return statistics.median(times)

    for case in [*CASES, LARGE]:
        for particles in (case.particles, case.particles // 4):
            key = f"{case.name} {particles}"
            if comm.size == 1:  # by turns, because the machine is not the same all the time
                pairs = [
                    (step_seconds(case, particles, comm), step_seconds(case, particles, None))
                    for _ in range(repeats)
                ]
                both = [statistics.median(times) for times in zip(*pairs, strict=True)]
                found["steps"][key], found["without comm"][key] = both
            else:
                found["steps"][key] = median(partial(step_seconds, case, particles, comm))
    found["weights"] = median(weight_seconds)
    if comm.size > 1:
        ranks = Communicator(comm)
        ranks.deal(comm.size)
        combine = combiner(np.ones(1))

        def message(send: Callable[[], object], size: int) -> float:
            often = max(3, min(2000, 10**7 // size))
            send()
            began = time.perf_counter()
            for _ in range(often):
                send()
            return (time.perf_counter() - began) / often

        for kind in ("sum", "states"):
            times = []
            for size in SIZES:
                values, out = np.zeros(max(size // 8, length(1, 1))), np.empty(max(size // 8, length(1, 1)))
                if kind == "sum":
                    send = lambda values=values, out=out: comm.Allreduce(values, out)  # noqa: E731
                else:
                    send = lambda values=values: ranks.merge(lambda a, b: values, combine)  # noqa: E731
                times.append(median(lambda send=send, size=size: message(send, size)))
            found["messages"][kind] = times
        ranks.free()
    if comm.rank == 0:
        known = json.loads(path.read_text()) if path.exists() else {}
        known[str(comm.size)] = found
        path.write_text(json.dumps(known, indent=1))
        print(json.dumps(found, indent=1))


def line(x: Any, t: Any) -> tuple[float, float]:
    """a, b >= 0 of a + b x, by least squares of the relative errors."""
    x, t = np.asarray(x, float), np.asarray(t, float)
    design = np.stack([np.ones_like(x), x], axis=1) / t[:, None]
    a, b = np.linalg.lstsq(design, np.ones_like(t), rcond=None)[0]
    if a < 0:
        return 0.0, float((x / t).sum() / np.square(x / t).sum())
    if b < 0:
        return float((1 / t).sum() / np.square(1 / t).sum()), 0.0
    return float(a), float(b)


@dataclass(frozen=True)
class Messages:
    """Seconds of a stage of a collective, and per byte."""

    latency: float
    byte: float

    def __call__(self, ranks: int, size: float) -> float:
        return math.ceil(math.log2(ranks)) * (self.latency + self.byte * size) if ranks > 1 else 0.0

    def gathered(self, ranks: int, size: float) -> float:
        """Of an allgather of so many bytes in all: each arrives once."""
        if ranks == 1:
            return 0.0
        return math.ceil(math.log2(ranks)) * self.latency + self.byte * size * (ranks - 1) / ranks


@dataclass(frozen=True)
class Model:
    """A step's time on P ranks: what each has, what its particles take, what is exchanged."""

    name: str
    particles: float
    size: float  # D
    fixed: float
    each: float
    hopping: bool
    sums: Messages
    states: Messages
    weight: float
    more: float = 0.0  # that each of several ranks has, such as the Python between kernels

    @property
    def label(self) -> str:
        return f"{self.name}: N = {self.particles:.2g}, D = {self.size:.2g}"

    def seconds(self, ranks: int, particles: float | None = None) -> float:
        n = self.particles if particles is None else particles
        work = self.fixed + self.each * math.ceil(n / ranks) + (self.more if ranks > 1 else 0.0)
        if self.hopping:
            weighed = max(n / ranks, min(n, BLOCK)) - n / ranks  # on each rank, besides its own share
            work += self.weight * weighed
            return work + self.sums.gathered(ranks, 8 * n) + self.sums(ranks, 8 * self.size)
        return work + self.states(ranks, 8 * (self.size + 5))

    def efficiency(self, ranks: int) -> float:
        return self.seconds(1) / ranks / self.seconds(ranks)


def models(known: dict[str, Any], latency: float, bandwidth: float) -> list[Model]:
    """From what was measured; with one rank, and messages with the most."""
    count = max((n for n in known if n != "1"), key=int)
    kinds, stages = {}, math.ceil(math.log2(int(count)))
    for kind, times in known[count]["messages"].items():
        a, b = line(SIZES, np.array(times) / stages)
        print(f"a message ({kind}), a stage: {a * 1e6:.2f} us, and {b * 1e9:.3f} ns a byte")
        kinds[kind] = Messages(a, b)
    # The combination of states is the rank's own work, whatever the network is.
    merging = max(kinds["states"].byte - kinds["sum"].byte, 0.0)
    calling = max(kinds["states"].latency - kinds["sum"].latency, 0.0)
    near = tuple(kinds.values())
    if latency or bandwidth:
        a, b = latency or kinds["sum"].latency, 1 / bandwidth if bandwidth else kinds["sum"].byte
        kinds = {"sum": Messages(a, b), "states": Messages(a + calling, b + merging)}
    made, weight = [], known["1"]["weights"]
    for case in [*CASES, LARGE]:
        counts = [case.particles, case.particles // 4]
        fixed, each = line(counts, [known["1"]["steps"][f"{case.name} {n}"] for n in counts])
        particles, size = float(case.particles), float(case.net.size)
        alone = Model(case.name, particles, size, fixed, each, case.hopping, *near, weight)
        first = min((n for n in known if n != "1"), key=int)  # what a step of several ranks has besides
        took = known[first]["steps"][f"{case.name} {counts[1]}"]
        more = max(took - alone.seconds(int(first), counts[1]), 0.0)
        if case is LARGE:
            particles, each, size = float(LARGE_PARTICLES), each * LARGE_SIZE / size, float(LARGE_SIZE)
        made.append(
            Model(case.name, particles, size, fixed, each, case.hopping, *kinds.values(), weight, more)
        )
    return made


def tables(known: dict[str, Any], all_of: list[Model], network: str) -> str:
    """What was measured, and what is predicted, in Markdown."""
    counts, one = sorted(known, key=int), known["1"]
    lines = [
        f"Measured on {one['machine']}, {one['isa']}, one thread a rank, {one['date']}: milliseconds of a\n"
        "step, and how many times one rank's speed. Last what `comm` with one rank adds.",
        "",
        "| workload, particles | " + " | ".join(f"{n} rank" + "s" * (n != "1") for n in counts) + " | comm |",
        "|---" * (len(counts) + 2) + "|",
    ]
    for key, base in one["steps"].items():
        times = [known[n]["steps"][key] for n in counts]
        cells = [f"{1e3 * t:.3g}" + (f" ({base / t:.2f})" if t is not base else "") for t in times]
        lines.append(
            f"| {key} | {' | '.join(cells)} | {100 * (base / one['without comm'][key] - 1):+.1f} % |"
        )
    lines += [
        "",
        f"Predicted from these: times one rank's speed, {network}.\nLast the ranks up to which at least "
        f"{PAYS:.0%} of them are gained.",
        "",
        "| workload | " + " | ".join(f"{ranks:,}" for ranks in SHOWN) + " | pays up to |",
        "|---" * (len(SHOWN) + 2) + "|",
    ]
    for model in all_of:
        cells = [f"{model.seconds(1) / model.seconds(ranks):.3g}" for ranks in SHOWN]
        pays = max(ranks for ranks in RANKS if model.efficiency(ranks) >= PAYS)
        lines.append(f"| {model.label} | {' | '.join(cells)} | {pays:,} |")
    return "\n".join(lines)


def predict(path: Path, out: Path, latency: float, bandwidth: float) -> None:
    known = json.loads(path.read_text())
    if "1" not in known or len(known) < 2:
        raise SystemExit(f"{path} must have measurements with one rank and with more, got {sorted(known)}")
    all_of = models(known, latency, bandwidth)
    network = "in one machine's memory, as measured"
    if latency and bandwidth:
        network = f"with a network assumed to have {latency * 1e6:.3g} us and {bandwidth / 1e9:.3g} GB/s"
    text = tables(known, all_of, network)
    print(text)
    page = out / "MPI.md"
    if page.exists():
        before, mark, rest = page.read_text().partition(BEGINS)
        if mark:
            picture = "![Speed and efficiency by the number of ranks](mpi-scaling.png)"
            page.write_text(f"{before}{BEGINS}\n\n{text}\n\n{picture}\n\n{ENDS}{rest.partition(ENDS)[2]}")
    draw(all_of, known, network, out / "mpi-scaling.png")


def study(out: Path, repeats: int, latency: float, bandwidth: float) -> None:
    """Measure with 1 and 2 ranks, and predict."""
    mpiexec = Path(sys.executable).parent / "mpiexec"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mpi.json"
        for ranks in ("1", "2"):
            command = [str(mpiexec) if mpiexec.exists() else "mpiexec", "-n", ranks, sys.executable, __file__]
            arguments = ["measure", str(path), "--repeats", str(repeats)]
            subprocess.run([*command, *arguments], env=environment, stdout=subprocess.DEVNULL, check=True)
        predict(path, out, latency, bandwidth)


def draw(all_of: list[Model], known: dict[str, Any], network: str, path: Path) -> None:
    from matplotlib.figure import Figure

    one = known["1"]
    figure = Figure(figsize=(10.4, 4.6), layout="constrained")
    figure.suptitle(
        f"Lines: predicted, {network}\nfrom steps (dots) measured on {one['machine']}, {one['date']}",
        fontsize=9,
    )
    strong, weak = figure.subplots(1, 2)
    for model, colour in zip(all_of, COLOURS, strict=True):
        speeds = [model.seconds(1) / model.seconds(p) for p in RANKS]
        strong.plot(RANKS, speeds, color=colour, label=model.label)
        key = f"{model.name} {model.particles:.0f}"
        dots = {int(n): one["steps"][key] / known[n]["steps"][key] for n in known if key in one["steps"]}
        strong.plot(list(dots), list(dots.values()), "o", color=colour, markersize=4)
        first = model.seconds(1, model.particles)
        weak.plot(RANKS, [first / model.seconds(p, model.particles * p) for p in RANKS], color=colour)
    strong.plot(RANKS, RANKS, color="0.6", linestyle=":", label="ideal")
    strong.set(
        xscale="log", yscale="log", xlabel="ranks", ylabel="speedup", title="Strong: N particles in all"
    )
    weak.set(
        xscale="log", xlabel="ranks", ylabel="efficiency", ylim=(0, 1.05), title="Weak: N particles a rank"
    )
    strong.legend(frameon=False, fontsize=8)
    for ax in (strong, weak):
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, color="0.92", linewidth=0.8)
    figure.savefig(path, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("study", "measure", "predict"))
    parser.add_argument("file", type=Path, nargs="?", default=Path("mpi.json"))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--latency", type=float, default=2e-6, help="seconds of a message between machines")
    parser.add_argument("--bandwidth", type=float, default=1.25e10, help="bytes a second between machines")
    given = parser.parse_args()
    if given.what == "study":
        study(given.out, given.repeats, given.latency, given.bandwidth)
    elif given.what == "measure":
        measure(given.file, given.repeats)
    else:
        predict(given.file, given.out, given.latency, given.bandwidth)


if __name__ == "__main__":
    main()
