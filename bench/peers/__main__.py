"""Times cbokernels beside its peers, each in its best form, and prints who is how much faster, and how exact.

    python bench/peers [--threads 2] [--items A,At,B,...] [--rounds 9] [--json FILE] [--venv DIR] [--anyway]

Installs NumPy, SciPy, PyTorch, JAX, numba, lapx, CBXpy and, unless it can be imported already, this
repository into a virtual environment, runs there, and prints Markdown. Every contestant of an item takes its
turn in every round (one that is five times slower than the best peer only in the first three), in a process
of its own that stands still otherwise; ensembles change from call to call. Peers run with their usual
environment and with a tuned one: PyTorch with malloc keeping its memory, NumPy's OpenBLAS with its AVX-512
code. Figures count only where the threads reached their share of multiply-adds before and after; else nothing
is reported.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import install


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python bench/peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    words = "comma list of workloads (A, At, B, B dense, C, D), kinds or items; default all"
    parser.add_argument("--items", default="", help=words)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="file for every sample")
    parser.add_argument("--venv", type=Path, default=install.ROOT / "build" / "peers", help="build/peers")
    parser.add_argument("--anyway", action="store_true", help="report even if threads lack their cores")
    options = parser.parse_args()
    install.enter(options.venv)
    import run

    return run.run(options)


if __name__ == "__main__":
    sys.exit(main())
