"""Every kernel under compute-sanitizer: the exercise tests/cuda/kernels.cpp, which the stage `build` makes.

The products by warp groups order their reads of shared memory in ways that racecheck and initcheck do not
know: they are run apart, and what is said of them is told, not judged.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

from record import Row, Skip, Steps

GROUPS = "kns=Groups"  # a part of the names of kernels by warp groups
WITHOUT, ALONE = ("--kernel-name-exclude", GROUPS), ("--kernel-name", GROUPS)
RUNS = {
    "memcheck": ("memcheck", ()),
    "racecheck": ("racecheck", WITHOUT),
    "synccheck": ("synccheck", WITHOUT),
    "initcheck": ("initcheck", WITHOUT),
    "racecheck, warp groups": ("racecheck", ALONE),
    "synccheck, warp groups": ("synccheck", ALONE),
    "initcheck, warp groups": ("initcheck", ALONE),
}


def judged(name: str, tool: str, more: tuple[str, ...], program: str, log: Any) -> Iterator[Row]:
    """How many errors a tool found."""
    command = ["compute-sanitizer", "--tool", tool, *more, "--print-limit", "20", program]
    environment = (
        {**os.environ, "CBOKERNELS_WGMMA": "0"} if more == WITHOUT else None
    )  # nobody reads what they wrote
    with open(log, "w") as file:
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment).returncode
    text = log.read_text(errors="replace")
    found = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:errors?|hazards? displayed)[^\n]*", text)
    if found is None:
        last = text.strip().splitlines()[-1:] or ["nothing"]
        yield Row("kernels", name, note=f"exit status {status}, no summary: {last[0]}"[:200], ok=False)
        return
    errors = int(found[1])
    first = re.search(
        r"^=+ (?:Error|Invalid|Race|Barrier|Uninitialized|Program hit)[^\n]*", text, re.MULTILINE
    )
    note = f"{found[0]}; {first[0]}" if errors and first else found[0]
    yield Row("kernels", name, errors, "errors", note=note[:300], ok=None if more == ALONE else errors == 0)


def steps(context: Any) -> Steps:
    if context.rehearse:
        raise Skip("needs a card")
    program = str(context.program("kernels"))
    if not shutil.which(program):
        raise Skip("tests/cuda/kernels.cpp is not built: nvcc is needed, or a folder --module that has it")

    def plain() -> Iterator[Row]:
        done = subprocess.run([program], capture_output=True, text=True)
        said = (done.stdout + done.stderr).strip().splitlines()[-1:]
        yield Row("kernels", "the same bits each time", note=" ".join(said)[:200], ok=done.returncode == 0)

    table: Steps = {"bits": plain}
    for name, (tool, more) in RUNS.items() if shutil.which("compute-sanitizer") else ():
        log = context.out / f"sanitizers-{name.replace(', ', '-').replace(' ', '-')}.log"
        table[name] = lambda n=name, t=tool, m=more, file=log: judged(n, t, m, program, file)
    if len(table) == 1:
        table["compute-sanitizer"] = absent
    return table


def absent() -> Iterator[Row]:
    """Compute-sanitizer is not installed."""
    raise Skip("compute-sanitizer is not in the PATH")
