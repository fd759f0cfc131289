"""What bounds a few kernels, by Nsight Compute (ncu), where it is installed and may read the card's counters.

python profiles.py ITEM OPTIONS         the call that is profiled
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from items import Ours
from kernel_times import short
from record import Row, Skip, Steps, number
from stage import Context

ITEMS = (
    "B risk bf16",
    "B risk tf32",
    "B risk float32",
    "B update",
    "B consensus, full read",
    "A risk",
    "C risk",
)
SECTIONS = ("SpeedOfLight", "LaunchStats", "Occupancy", "SchedulerStats", "WarpStateStats")
TOLD = {  # of what these sections hold; the rest is in the CSV file
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "% of the multiprocessors' peak",
    "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed": "% of the memories' peak",
    "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed": "% of the card's memory's",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "% of the most warps",
    "launch__registers_per_thread": "registers",
    "launch__grid_size": "blocks",
}
STALL = re.compile(r"smsp__average_warps_issue_stalled_(\w+)_per_issue_active\.ratio")
TIME = "gpu__time_duration.sum"


def profiled(item: str, context: Context) -> Iterator[Row]:
    """A row a kernel of ours, of the first call."""
    options = json.dumps({"rehearse": context.rehearse, "out": str(context.out), "work": str(context.work)})
    sections = [word for section in SECTIONS for word in ("--section", section)]
    command = [
        "ncu", "--csv", "--page", "raw", "--clock-control", "none", "--kernel-name-base", "demangled",
        "--kernel-name", "regex:cbk::", "--launch-count", "6", *sections,
        sys.executable, __file__, item, options,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    print(done.stdout, done.stderr, flush=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith('"')]
    if len(lines) < 3:  # names, units, a kernel
        told = [line for line in done.stdout.splitlines() if line.startswith("==ERROR==")]
        raise Skip(
            told[0] if told else f"ncu gave no kernel, exit status {done.returncode}: see profiles.log"
        )
    stem = re.sub(r"\W+", "-", item)
    (context.out / f"profile-{stem}.csv").write_text("\n".join(lines) + "\n")
    units, *kernels = csv.DictReader(lines)
    for place, kernel in enumerate(kernels, 1):
        time = plain(kernel.get(TIME))
        yield Row(
            item,
            f"{place}. {short(kernel['Kernel Name'])}",
            time,
            units.get(TIME) or "",
            note=told_of(kernel),
        )


def told_of(kernel: dict[str, str]) -> str:
    """Shares of the peaks, and why warps waited most."""
    found = [(plain(kernel.get(name)), words) for name, words in TOLD.items()]
    told = [f"{number(value)} {words}" for value, words in found if value is not None]
    stalls = [
        (plain(value) or 0.0, name[1]) for key, value in kernel.items() if (name := STALL.fullmatch(key))
    ]
    waits = [f"{name} {number(value)}" for value, name in sorted(stalls, reverse=True)[:4]]
    return "; ".join([*told, *(["stalled by " + ", ".join(waits)] if waits else [])])


def plain(value: str | None) -> float | None:
    """A number, where it is one."""
    try:
        return float((value or "").replace(",", ""))
    except ValueError:
        return None


def steps(context: Context) -> Steps:
    context.card()
    if shutil.which("ncu") is None:
        raise Skip("ncu is not in the PATH")
    return {item: lambda i=item: profiled(i, context) for item in ITEMS}


def main() -> None:
    context: Any = Context(json.loads(sys.argv[2]))
    call = Ours(context).table[sys.argv[1]]().call
    call(0)
    context.timed.synchronize()


if __name__ == "__main__":
    main()
