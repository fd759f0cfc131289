#!/usr/bin/env python3
"""Everything that is to be known of the CUDA kernels on one card, in 15 minutes at most.

    python bench/gpu/first_run.py                       # all, into ./gpu-first-run-<card>-<date>
    python bench/gpu/first_run.py --module DIR          # of a _cuda*.so (and _cpu*.so, kernels) built before
    python bench/gpu/first_run.py --stages targets,peers --out DIR     # some stages, into an earlier folder
    python bench/gpu/first_run.py --stages build --arch 90             # build alone; no card is needed
    python bench/gpu/first_run.py --rehearse --out DIR  # tries the logic on small sizes, judges nothing

Needs NumPy, and PyTorch or CuPy for arrays on the card. Without an installed cbokernels that has its CUDA
module, and without --module, also nvcc, CMake and pybind11, to build one for this card. Whatever else a stage
would use (pytest, ncu, compute-sanitizer, JAX) is used where it is, and its absence is noted.

Each stage is a process with a limit of its own, killed with all it started when that is over; what it had
found stays, and the next one runs. A step that hangs or takes its process with it is noted, and the stage
goes on behind it. DIR/rows.jsonl has every row as it came; DIR/summary.md has all of them and is written anew
after each stage; DIR/<stage>.log is what the stage printed; DIR.tar.gz is all of it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from record import BEGUN, SKIPPED, Options, Record, Row, replace, rows, summary

HERE = Path(__file__).resolve().parent
LEAST = 5.0  # seconds that a stage is begun with


@dataclasses.dataclass(frozen=True)
class Stage:
    """A module with a function `steps`, and seconds: for all of it, and for one step."""

    name: str
    module: str
    limit: float
    step_limit: float = 60


STAGES = [  # the most telling first
    Stage("facts", "facts", 60, 30),
    Stage("build", "build", 900, 890),
    Stage("calls", "calls", 90, 30),
    Stage("correctness", "correctness", 120),
    Stage("targets", "targets", 150),
    Stage("times", "times", 90),
    Stage("kernels", "kernel_times", 60),
    Stage("tests", "tests", 180, 175),
    Stage("profiles", "profiles", 120),
    Stage("peers", "beside", 210, 90),
    Stage("sanitizers", "sanitizers", 300, 120),
]


class Run:
    """One call of this script: the folder, the time that is left, the stages' common options."""

    def __init__(self, out: Path, minutes: float, options: Options) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.options = out.resolve(), options
        self._end = time.monotonic() + 60 * minutes
        self._rows = self.out / "rows.jsonl"
        self._rows.touch()  # a stage may be cut off before its first row
        self._record = Record(self._rows, "stages")

    def stages(self, stages: list[Stage]) -> None:
        """Run them one after another; the summary is up to date after each."""
        for stage in stages:
            left = self._end - time.monotonic()
            began = time.monotonic()
            if left < LEAST:
                row = Row(stage.name, "ended", note="not run: out of time", ok=False)
            else:
                print(f"{stage.name}: at most {min(left, stage.limit):.0f} s", flush=True)
                note = self._stage(stage, min(left, stage.limit))
                seconds = time.monotonic() - began
                whole = [r for r in rows(self._rows) if (r.stage, r.item) == (stage.name, SKIPPED)]
                reason = "" if note else "".join(r.note for r in whole if r.what == "skipped")
                ok = None if reason else not note
                row = Row(stage.name, "ended", round(seconds, 1), "s", note=note or reason, ok=ok)
            self._record.add(row)
            self.summarize()

    def summarize(self) -> None:
        """Write the summary anew."""
        rehearsal = self.options["rehearse"]
        title = "Rehearsal: no figure means anything" if rehearsal else "First run on a card"
        replace(self.out / "summary.md", summary(rows(self._rows), title, judged=not rehearsal))

    def _stage(self, stage: Stage, limit: float) -> str:
        """What is to be said of how it ended, nothing if all is well."""
        end, after, died = time.monotonic() + limit, None, 0
        with open(self.out / f"{stage.name}.log", "ab") as log:
            while True:
                status = self._process(stage, after, end - time.monotonic(), log)
                if status == 0:
                    return f"{died} steps died" if died else ""
                step = self._last_step(stage.name)
                if status is None:
                    return f"cut off after {limit:.0f} s, in {step or 'its beginning'}"
                if step is None or step == after:
                    return f"could not begin, exit status {status}: see {stage.name}.log"
                note = f"exit status {status} (limit {stage.step_limit:.0f} s): see {stage.name}.log"
                Record(self._rows, stage.name).add(Row(step, "died", note=note, ok=False))
                after, died = step, died + 1

    def _process(self, stage: Stage, after: str | None, limit: float, log) -> int | None:
        """Exit status; None where the time was over."""
        options = {
            **self.options, "out": str(self.out), "stage": stage.name, "import": stage.module, "after": after,
            "step_limit": stage.step_limit,
        }  # fmt: skip
        command = [sys.executable, str(HERE / "stage.py"), json.dumps(options)]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if self.options["rehearse"]:
            environment["OMP_NUM_THREADS"] = "1"  # a machine that others use
        package = Path(self.options["work"]) / "package"
        if package.is_dir() and stage.name != "build" and not self.options["rehearse"]:
            environment["PYTHONPATH"] = f"{package}{os.pathsep}{environment.get('PYTHONPATH', '')}"
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip
        end = time.monotonic() + limit
        try:
            while (left := end - time.monotonic()) > 0:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return child.wait(min(left, 10))
                self.summarize()  # whatever ends this process finds it nearly up to date
            return None
        finally:
            child.kill()
            with contextlib.suppress(ProcessLookupError):  # and what it has started: its group
                os.killpg(child.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # the driver may hold it
                child.wait(5)

    def _last_step(self, stage: str) -> str | None:
        begun = None
        for line in self._rows.read_text().splitlines():
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if row["stage"] == stage and row["what"] in (BEGUN, "ended"):
                    begun = row["item"] if row["what"] == BEGUN else None
        return begun


def card() -> str:
    """Its name as a part of the folder's."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        names = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        names = "unknown"
    first = (names.splitlines() or ["unknown"])[0]
    return re.sub(r"[^a-z0-9]+", "-", first.lower()).strip("-")


def chosen(names: str | None, rehearse: bool) -> Iterator[Stage]:
    """The stages of these names, in their own order; ValueError for a name that there is not."""
    wanted = names.split(",") if names else [s.name for s in STAGES if not (rehearse and s.name == "build")]
    known = [stage.name for stage in STAGES]
    for name in wanted:
        if name not in known:
            raise ValueError(f"--stages got {name!r}, expected some of {','.join(known)}")
    return (stage for stage in STAGES if stage.name in wanted)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder for the results; an earlier run's goes on")
    parser.add_argument("--stages", help=f"comma-separated: {','.join(stage.name for stage in STAGES)}")
    parser.add_argument("--minutes", type=float, default=15.0, help="for everything (default 15)")
    parser.add_argument("--module", type=Path, help="folder of a _cuda*.so built before, or the file")
    parser.add_argument("--arch", help="what to build for, as CMAKE_CUDA_ARCHITECTURES (default: this card)")
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / "build" / "first-run")
    parser.add_argument("--rehearse", action="store_true", help="small sizes without a card")
    arguments = parser.parse_args(words)
    try:
        stages = list(chosen(arguments.stages, arguments.rehearse))
    except ValueError as error:
        parser.error(str(error))
    if arguments.module and not arguments.module.exists():
        parser.error(f"--module got {arguments.module}, which does not exist")
    if arguments.module and not any(stage.name == "build" for stage in stages):
        stages.insert(0, next(stage for stage in STAGES if stage.name == "build"))
    out = arguments.out or Path(f"gpu-first-run-{card()}-{datetime.date.today()}")
    run = Run(out, arguments.minutes, {
        "rehearse": arguments.rehearse, "work": str(arguments.work.resolve()),
        "architectures": arguments.arch, "module": arguments.module and str(arguments.module.resolve()),
    })  # fmt: skip
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run.stages(stages)
    finally:  # also where it is interrupted
        signal.signal(signal.SIGTERM, before)
        run.summarize()
        packed = shutil.make_archive(str(run.out), "gztar", run.out.parent, run.out.name)
        print(f"wrote {run.out / 'summary.md'}, and all of it into {packed}", flush=True)
        if arguments.rehearse:
            print("a rehearsal on small sizes without a card: it judges nothing", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
