"""Times the CUDA kernels and `train` on one card, beside PyTorch (eager, compiled, CUDA graph), JAX and CuPy.

    python bench/gpu --out bench/results [--items A-step B-risk ...] [--seconds 420] [--no-compile]
    python bench/gpu --out results --rehearse       # small sizes on the CPU: tries the logic

Needs PyTorch with a card and cbokernels with its CUDA module. Medians of device events (of `train` the wall's
clock), shares of the card's own copy, read and matrix rates as measured in the same run. Writes
gpu-<card>.md and .json, with card, driver and date. Items that no longer fit into the time say so.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import cbokernels as cbk


def environment(cuda: bool) -> dict[str, str]:
    """Card, driver, versions, date."""
    import torch

    facts = {"date": datetime.date.today().isoformat(), "machine": platform.machine()}
    facts |= {"cbokernels": cbk.__version__, "PyTorch": torch.__version__}
    if cuda:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        facts["card"] = torch.cuda.get_device_name()
        try:
            facts["driver"] = subprocess.run(
                query, capture_output=True, text=True, check=True
            ).stdout.split()[0]
        except (OSError, subprocess.CalledProcessError, IndexError):
            facts["driver"] = "unknown"
        facts["CUDA of PyTorch"] = str(torch.version.cuda)
    return facts


def reason_against() -> str | None:
    """Why nothing can be measured here."""
    try:
        import torch
    except ImportError:
        return "PyTorch is not installed, which holds the arrays and is the peer"
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA device"
    return cbk.cuda.unavailable_reason()


def markdown(facts: dict[str, str], limits: dict[str, float], rows: list) -> str:
    """The table, and how often the best peer's time is our best."""
    lines = ["# On a card", "", ", ".join(f"{name} {value}" for name, value in facts.items()), ""]
    lines += ["| limit, measured | |", "|---|---|"]
    for name, value in limits.items():
        unit = "TB/s" if name in ("copy", "read") else "TFLOP/s"
        lines.append(f"| {name} | {value / 1e12:.3g} {unit} |")
    lines += ["", "| item | contestant | median µs | range | share | best peer / best of ours |"]
    lines.append("|---|---|---|---|---|---|")
    for item in dict.fromkeys(row.item for row in rows):
        own = [row for row in rows if row.item == item]
        mine = [r.median for r in own if r.median and r.contestant.startswith("cb")]
        peers = [r.median for r in own if r.median and not r.contestant.startswith("cb")]
        ratio = f"{min(peers) / min(mine):.1f}" if mine and peers else ""
        for row in own:
            time_ = f"{row.median:.1f}" if row.median else row.note
            span = f"{row.low:.1f} to {row.high:.1f}" if row.median else ""
            lines.append(f"| {item} | {row.contestant} | {time_} | {span} | {row.share} | {ratio} |")
            ratio = ""
    return "\n".join(lines) + "\n"


def parsed(names: list[str] | None = None) -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="python bench/gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the Markdown and JSON files")
    parser.add_argument("--items", nargs="+", metavar="ITEM", help="default: all")
    parser.add_argument("--seconds", type=float, default=420.0, help="no item is begun after so long")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--rehearse", action="store_true", help="small sizes on the CPU")
    return parser.parse_args(names)


def main() -> int:
    arguments = parsed()
    reason = None if arguments.rehearse else reason_against()
    if reason is not None:
        print(f"bench/gpu: nothing can be measured here: {reason}", file=sys.stderr)
        return 1
    os.environ.setdefault(
        "XLA_PYTHON_CLIENT_PREALLOCATE", "false"
    )  # JAX would take most of the card's memory
    warnings.simplefilter("ignore", cbk.CboWarning)  # ensembles that collapse while they are timed
    from items import Bench, items
    from measure import Clock, Row, limits

    cuda = not arguments.rehearse
    device = "cuda" if cuda else "cpu"
    began = time.perf_counter()
    clock = Clock(arguments.rounds if cuda else 2, cuda)
    rates = dict(limits(clock, device, 1.0 if cuda else 1e-4))
    bench = Bench(clock, device, rates, arguments.rehearse, cuda and not arguments.no_compile)
    table = items(bench)
    unknown = [name for name in arguments.items or () if name not in table]
    if unknown:
        print(f"bench/gpu: no item {unknown[0]!r}; there are {', '.join(table)}", file=sys.stderr)
        return 2
    rows: list[Row] = []
    for name in arguments.items or table:
        if time.perf_counter() - began > arguments.seconds:
            rows.append(Row(name, "cbokernels", note="not run: out of time"))
            continue
        for row in table[name]():
            rows.append(row)
            print(
                f"{row.item:32} {row.contestant:40} {row.median or 0:12.1f} µs  {row.share} {row.note}",
                flush=True,
            )
    facts = environment(cuda)
    arguments.out.mkdir(parents=True, exist_ok=True)
    stem = "gpu-" + (re.sub(r"[^a-z0-9]+", "-", facts["card"].lower()).strip("-") if cuda else "rehearsal")
    (arguments.out / f"{stem}.md").write_text(markdown(facts, rates, rows))
    record = {"environment": facts, "limits": rates, "rows": [dataclasses.asdict(row) for row in rows]}
    (arguments.out / f"{stem}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {arguments.out / stem}.md and .json after {time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
