"""What bounds a few kernels, by Nsight Compute (ncu), where it is installed and may read the card's counters.

python profiles.py ITEM         the call that is profiled
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from items import Ours
from record import Row, Skip, Steps, number

ITEMS = (
    "B risk bf16",
    "B risk tf32",
    "B risk float32",
    "B update",
    "B consensus, full read",
    "A risk",
    "C risk",
)
METRICS = {
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "multiprocessors, % of peak",
    "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed": "memory, % of peak",
    "lts__throughput.avg.pct_of_peak_sustained_elapsed": "L2, % of peak",
    "sm__inst_executed_pipe_tensor.sum": "tensor instructions",
    "smsp__issue_active.avg.pct_of_peak_sustained_active": "issue slots, % used",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "warps, % of most",
    "launch__registers_per_thread": "registers",
    "launch__shared_mem_per_block": "shared memory",
    "launch__grid_size": "blocks",
    "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio": "stalls, memory",
    "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio": "stalls, barriers",
    "smsp__average_warps_issue_stalled_mio_throttle_per_issue_active.ratio": "stalls, shared memory's queue",
    "smsp__average_warps_issue_stalled_math_pipe_throttle_per_issue_active.ratio": "stalls, arithmetic",
    "l1tex__data_bank_conflicts_pipe_lsu.sum": "bank conflicts",
}
TIME = "gpu__time_duration.sum"


def profiled(item: str, options: str, limit: float) -> Iterator[Row]:
    """A row a kernel of ours, of the first call."""
    command = [
        "ncu", "--csv", "--page", "raw", "--clock-control", "none", "--kernel-name-base", "demangled",
        "--kernel-name", "regex:cbk::", "--launch-count", "4", "--metrics", ",".join((TIME, *METRICS)),
        sys.executable, __file__, item, options,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=limit)
    print(done.stdout, done.stderr, flush=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith('"')]
    table = list(csv.DictReader(lines))
    if len(table) < 2:  # the first line below the names has the units
        told = [line for line in done.stdout.splitlines() if line.startswith("==ERROR==")]
        raise Skip(
            told[0] if told else f"ncu gave no kernel, exit status {done.returncode}: see profiles.log"
        )
    units = table[0]
    for place, kernel in enumerate(table[1:], 1):
        found = [(words, kernel.get(name)) for name, words in METRICS.items()]
        note = "; ".join(f"{words} {_plain(value)}" for words, value in found if value)
        name = kernel["Kernel Name"].split("(")[0].replace("void ", "")[:100]
        value = float(kernel[TIME].replace(",", ""))
        yield Row(item, f"{place}. {name}", value, units[TIME], note=note)


def _plain(value: str) -> str:
    try:
        return number(float(value.replace(",", "")))
    except ValueError:
        return value


def steps(context: Any) -> Steps:
    context.card()
    if shutil.which("ncu") is None:
        raise Skip("ncu is not in the PATH")
    options = json.dumps({"rehearse": False, "out": str(context.out), "work": str(context.work)})
    return {item: lambda i=item: profiled(i, options, 50) for item in ITEMS}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from stage import Context

    context = Context(json.loads(sys.argv[2]))
    Ours(context).table[sys.argv[1]]().call(0)
    context.timed.synchronize()
