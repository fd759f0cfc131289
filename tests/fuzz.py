"""A structured fuzz of the public kernels against `cbokernels.reference`; pytest runs a short one.

    python tests/fuzz.py --cases 100000 --seed 1 --seconds 300

A case is a call with shapes, values, options and a layout of its arrays (strides, order, alignment, out=,
overlaps) drawn from (seed, number). Its results must be within rounding of the reference, and the same bits
as from plain contiguous arrays and any number of threads. Wrong arguments must be refused by a TypeError or a
ValueError. Inputs are left as they were, and one bad particle does not touch the others. The first case that
breaks this ends the run with status 1, and so does a crash of the interpreter. `--only N` repeats case N.

Every 50th case is a whole run of `train` or `minimize` (fuzz_runs.py).
"""

from __future__ import annotations

import argparse
import collections
import os
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field

import numpy as np
from fuzz_calls import Call
from fuzz_cases import CASES
from fuzz_runs import RUNS, check_run

import cbokernels as cbk
from cbokernels import reference

RUN_EVERY = 50
REFUSED = (TypeError, ValueError)
BAD_OPTIONS = {
    "num_threads": [0, -1, 1.5, "two"],
    "seed": [-1, 2**64, 0.5, None],
    "step": [-1, 2**32, 0.5],
    "stream": [-1, 2**32],
    "first_particle": [-1, 2**32],
    "dt": [np.nan, -1.0, "a"],
    "drift": [np.nan, np.inf],
    "diffusion": [np.nan, -1.0],
    "noise": ["pink", 3, None],
    "floor": [-1.0, np.nan, np.inf],
    "loss": ["mean", 3, None],
    "precision": ["float16", "tf32", None],
    "alpha": [-1.0, np.nan, "a"],
    "lr": [-1.0, np.nan],
    "beta1": [1.0, -0.1, np.nan],
    "beta2": [1.0, -0.1],
    "delta": [-1.0, np.nan],
    "mix": [-0.1, 1.1, np.nan],
    "friction": [-1.0, np.nan],
    "temperature": [-1.0, np.nan],
    "iterations": [0, -1, 1.5],
    "epsilon": [0.0, -1.0, np.nan],
    "tolerance": [-1.0, np.nan],
}
SPECIAL = [np.nan, np.inf, -np.inf, 1e30, -1e30, 1e-42, -0.0]


class Disagreement(AssertionError):
    """A case whose outcome is not one that may be."""


@dataclass
class Laid:
    """Arrays of a call as they are handed over, and what must not change."""

    arrays: dict[str, np.ndarray]
    before: dict[str, bytes] = field(default_factory=dict)


def results(value):
    """The arrays of what a kernel returns."""
    return [np.asarray(v) for v in value] if isinstance(value, tuple) else [np.asarray(value)]


def layout(rng, a, writable):
    """The same numbers elsewhere: in another order, with gaps, backwards, misaligned, or read-only."""
    kind = rng.integers(8)
    if kind == 0 or a.ndim == 0:
        return a.copy()
    if kind == 1:
        return np.array(a, order="F")
    if kind == 2:  # every second or third along one axis
        axis, by = int(rng.integers(a.ndim)), int(rng.integers(2, 4))
        shape = list(a.shape)
        shape[axis] *= by
        room = np.zeros(shape, a.dtype)
        view = room[tuple(slice(None, None, by) if i == axis else slice(None) for i in range(a.ndim))]
    elif kind == 3:  # backwards
        turned = tuple(slice(None, None, -1) if rng.random() < 0.5 else slice(None) for _ in range(a.ndim))
        view = np.zeros_like(a)[turned]
    elif kind == 4:  # at an address that is no multiple of the numbers' size
        room = np.zeros(a.nbytes + 16, np.uint8)
        offset = int(rng.integers(1, 9))
        view = room[offset : offset + a.nbytes].view(a.dtype).reshape(a.shape)
    elif kind == 5:  # inside a larger one
        room = np.zeros([n + 3 for n in a.shape], a.dtype)
        view = room[tuple(slice(1, n + 1) for n in a.shape)]
    elif kind == 6:
        axes = rng.permutation(a.ndim)
        view = np.zeros([a.shape[i] for i in axes], a.dtype).transpose(np.argsort(axes))
    else:
        view = a.copy()
        if not writable:
            view.flags.writeable = False
            return view
    view[...] = a
    return view


def lay(rng, call):
    arrays = {name: layout(rng, a, name in call.changed) for name, a in call.arrays.items()}
    return Laid(arrays, {name: a.tobytes() for name, a in arrays.items() if name not in call.changed})


def run(call, arrays, **more):
    return results(getattr(cbk, call.name)(*call.first, **arrays, **call.options, **more))


def plain(call, **more):
    """From contiguous copies: the results, and the arrays that change in place."""
    arrays = {name: a.copy() for name, a in call.arrays.items()}
    found = run(call, arrays, **more)
    return [*found, *(arrays[name] for name in call.changed)]


def same(found, expected, what):
    for i, (f, e) in enumerate(zip(found, expected, strict=True)):
        if f.dtype != e.dtype or f.shape != e.shape:
            raise Disagreement(f"{what}: result {i} is {f.dtype} {f.shape}, expected {e.dtype} {e.shape}")
        if f.tobytes() != e.tobytes():
            raise Disagreement(f"{what}: result {i} has other bits\n{f!r}\n{e!r}")


def check_values(call, found):
    """Against the reference, each result within its tolerance."""
    if call.compare is None:
        return
    arrays = {name: a.copy() for name, a in call.arrays.items()}
    options = {k: v for k, v in call.options.items() if k not in ("precision", "num_threads")}
    with np.errstate(all="ignore"):
        expected = results(getattr(reference, call.name)(*call.first, **arrays, **options))
    expected += [arrays[name] for name in call.changed]
    message = call.compare(call, found, expected)
    if message:
        raise Disagreement(message)


def check_out(rng, call, expected):
    """out= anew, in place, and overlapping an input by a part: the same, or a refusal."""
    kind = ["fresh", "in place", "overlapping"][rng.integers(3)]
    arrays = {name: a.copy() for name, a in call.arrays.items()}
    main = arrays[call.out]
    if kind == "fresh":
        out = layout(rng, np.full_like(main, 7), True)
    elif kind == "in place":
        out = arrays[call.out] = layout(rng, main, True)
    else:
        shift = int(rng.integers(1, main.size + 1))
        room = np.zeros(main.size + shift, main.dtype)
        arrays[call.out], out = room[: main.size].reshape(main.shape), room[shift:].reshape(main.shape)
        arrays[call.out][...] = main
    try:
        returned = getattr(cbk, call.name)(*call.first, **arrays, **call.options, out=out)
    except ValueError:
        if kind == "overlapping" or not out.flags.c_contiguous:
            return
        raise
    if returned is not out:
        raise Disagreement(f"out= {kind}: another object is returned")
    same([out, *(arrays[n] for n in call.changed)], expected, f"out= {kind}")


def check_poison(rng, call, expected):
    """Special values in one particle leave every other one's results alone."""
    arrays = {name: a.copy() for name, a in call.arrays.items()}
    count = len(arrays[call.particles])
    bad = int(rng.integers(count))
    row = arrays[call.particles][bad]
    row[rng.random(row.shape) < rng.choice([0.2, 1.0])] = SPECIAL[rng.integers(len(SPECIAL))]
    found = [*run(call, arrays), *(arrays[name] for name in call.changed)]
    rest = np.arange(count) != bad
    same([f[rest] for f in found], [e[rest] for e in expected], f"a bad particle {bad}")


def spoil(rng, call):
    """Arguments that no call may take, and what was done to them."""
    arrays, options = {name: a.copy() for name, a in call.arrays.items()}, dict(call.options)
    name = list(arrays)[rng.integers(len(arrays))]
    a = arrays[name]
    kind = rng.integers(5)
    known = [key for key in BAD_OPTIONS if key in options]
    if kind == 0 and known:
        key = known[rng.integers(len(known))]
        options[key] = BAD_OPTIONS[key][rng.integers(len(BAD_OPTIONS[key]))]
        return arrays, options, f"{key}={options[key]!r}"
    if kind == 1:
        wrong = ["float16", "complex64", "object", "S4", ">f4" if a.dtype.kind == "f" else "f4"]
        wrong += [] if name in call.free else ["bool"]  # labels may be booleans
        dtype = wrong[rng.integers(len(wrong))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            arrays[name] = a.astype(dtype)
        return arrays, options, f"{name} of {dtype}"
    if kind == 2 and a.ndim and name not in call.free:
        arrays[name] = a[..., None, None]
        return arrays, options, f"{name} of {a.ndim + 2} axes"
    if kind == 3 and a.ndim and not call.empty:
        arrays[name] = np.take(a, [], axis=int(rng.integers(a.ndim)))
        return arrays, options, f"{name} of shape {arrays[name].shape}"
    if a.ndim and name not in call.free:
        arrays[name] = np.concatenate([a, a[-1:], a[-1:], a[-1:]], axis=0) if a.ndim == 1 else a[0]
        if a.ndim > 1 or name in call.tied:
            return arrays, options, f"{name} of shape {arrays[name].shape}"
    arrays[name] = "an array"
    return arrays, options, f"{name} a text"


def check_wrong(rng, call):
    arrays, options, what = spoil(rng, call)
    try:
        getattr(cbk, call.name)(*call.first, **arrays, **options)
    except REFUSED as error:
        if not str(error):
            raise Disagreement(f"{what}: refused without a word") from error
        return
    raise Disagreement(f"{what}: taken")


def one(seed, number):
    """Runs a case and returns the kernel's name."""
    rng = np.random.default_rng([seed, number])
    if number % RUN_EVERY == RUN_EVERY - 1:
        return one_run(rng)
    name = list(CASES)[rng.integers(len(CASES))]
    call: Call = CASES[name](rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cbk.CboWarning)
        try:
            aspect = rng.random()
            if aspect < 0.2 and call.arrays:
                check_wrong(rng, call)
                return call.name
            threads = {"num_threads": 1} if "num_threads" in call.options else {}
            call.options.update(threads)
            expected = plain(call)
            check_values(call, expected)
            if threads:
                call.options["num_threads"] = [2, 3, None][rng.integers(3)]
            laid = lay(rng, call)
            try:
                found = [*run(call, laid.arrays), *(laid.arrays[n] for n in call.changed)]
            except ValueError:
                flags = [laid.arrays[n].flags for n in call.changed]
                if all(f.c_contiguous and f.aligned for f in flags):
                    raise
            else:
                same(found, expected, "arrays laid out otherwise")
            for key, before in laid.before.items():
                if laid.arrays[key].tobytes() != before:
                    raise Disagreement(f"{key} was changed")
            if call.out and aspect < 0.5:
                check_out(rng, call, expected)
            elif call.particles and aspect > 0.7 and call.options.get("noise") != "none":
                check_poison(rng, call, expected)
        except Disagreement as error:
            raise Disagreement(f"{describe(call)}\n{error}") from None
        except Exception as error:
            raise Disagreement(f"{describe(call)}\n{type(error).__name__}: {error}") from error
    return call.name


def one_run(rng):
    run = RUNS[list(RUNS)[rng.integers(len(RUNS))]](rng)
    try:
        check_run(rng, run, layout)
    except Exception as error:
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        raise Disagreement(f"{run}\n{kind}{error}") from error
    return run.name


def describe(call):
    arrays = ", ".join(f"{n} {a.dtype}{list(a.shape)}" for n, a in call.arrays.items())
    return f"{call.name}({', '.join(map(repr, call.first))}; {arrays}; {call.options})"


def fuzz(seed, numbers, until=float("inf"), note=lambda number: None):
    """Counts per kernel; raises the first disagreement with what repeats it."""
    counts: collections.Counter[str] = collections.Counter()
    for number in numbers:
        if time.monotonic() > until:
            break
        note(number)
        try:
            counts[one(seed, number)] += 1
        except Disagreement as error:
            raise Disagreement(f"python tests/fuzz.py --seed {seed} --only {number}\n{error}") from None
    return counts


def work(arguments):
    """A process's share; where it is stands in its file, should it crash."""
    note = lambda number: None  # noqa: E731
    if arguments.place:
        place = os.open(arguments.place, os.O_WRONLY)
        note = lambda number: os.pwrite(place, struct.pack("q", number), 0)  # noqa: E731
    numbers = range(arguments.first, arguments.cases, arguments.jobs)
    if arguments.only is not None:
        numbers = [arguments.only]
    try:
        counts = fuzz(arguments.seed, numbers, time.monotonic() + arguments.seconds, note)
    except Disagreement as error:
        print(error, file=sys.stderr)
        return 1
    for name, count in counts.items():
        print(name, count)
    return 0


def share(arguments):
    """Several processes, and the sum of what they report."""
    total: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        started = []
        for first in range(arguments.jobs):
            place = os.path.join(folder, str(first))
            with open(place, "wb") as file:
                file.write(struct.pack("q", -1))
            command = [sys.executable, "-X", "faulthandler", __file__]
            command += ["--place", place, "--first", str(first)]
            for key in ("cases", "seed", "seconds", "jobs"):
                command += [f"--{key}", str(getattr(arguments, key))]
            started.append((place, subprocess.Popen(command, stdout=subprocess.PIPE, text=True)))
        failed = False
        for place, process in started:
            report, _ = process.communicate()
            if process.returncode:
                failed = True
                if process.returncode != 1:
                    with open(place, "rb") as file:
                        number = struct.unpack("q", file.read(8))[0]
                    again = f"python tests/fuzz.py --seed {arguments.seed} --only {number}"
                    print(f"crashed: {again}", file=sys.stderr)
            for line in report.splitlines():
                name, count = line.split()
                total[name] += int(count)
    for name in sorted(total):
        print(f"{total[name]:9d} {name}")
    print(f"{sum(total.values()):9d} cases")
    return int(failed)


def main():
    parser = argparse.ArgumentParser(description="Fuzz the public kernels against their reference.")
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=300.0, help="stop after this long")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--only", type=int, help="run this case alone, in this process")
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--place", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    return work(arguments) if arguments.place or arguments.only is not None else share(arguments)


if __name__ == "__main__":
    sys.exit(main())
