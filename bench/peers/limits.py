"""What the machine can do: its rate of multiply-adds on one and on all threads, by bench/limits.cpp."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

SCALING = 0.925  # two threads must reach 1.85 times one thread's rate, and so on


class Limits:
    """Measures the multiply-add and copy rates on demand, with a program compiled once."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._folder = tempfile.TemporaryDirectory()
        self._program = Path(self._folder.name) / "limits"
        source = Path(__file__).parents[1] / "limits.cpp"
        flags = ["-std=c++20", "-O3", "-march=native", "-ffp-contract=fast", "-fopenmp"]
        subprocess.run([os.environ.get("CXX", "c++"), *flags, source, "-o", self._program], check=True)

    def measure(self, *what: str) -> dict[str, Any]:
        """GFLOP/s on one and on all threads under "fma", usual ones of all threads under "usual"; GB/s under
        "copy" where that is asked for."""
        command = [str(self._program), str(self.threads), *what]
        environment = {**os.environ, "OMP_PROC_BIND": "true"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        rates: dict[str, Any] = json.loads(done.stdout)
        return rates

    def reached(self, rates: dict[str, Any]) -> bool:
        """Whether all threads had a core of their own, most of the time."""
        return bool(rates["usual"] >= SCALING * self.threads * rates["fma"][0])
