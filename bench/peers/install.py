"""A virtual environment with the library and its peers. Needs the standard library only."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

PACKAGES = {  # what is imported: what provides it
    "numpy": "numpy", "scipy": "scipy", "torch": "torch", "jax": "jax", "numba": "numba", "lap": "lapx",
    "cbx": "cbx",
}  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]


def missing(python: Path, modules: list[str]) -> list[str]:
    """Those that this Python does not find."""
    code = "import importlib.util as u, sys; print(*[m for m in sys.argv[1:] if u.find_spec(m) is None])"
    done = subprocess.run([python, "-c", code, *modules], capture_output=True, text=True, check=True)
    return done.stdout.split()


def enter(folder: Path) -> None:
    """Continue this command in the environment in `folder`, made and filled where it is not."""
    if Path(sys.prefix).resolve() == folder.resolve():
        return
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for module in missing(python, list(PACKAGES)):
        print(f"installing {PACKAGES[module]}", file=sys.stderr)
        subprocess.run([*pip, PACKAGES[module]], stdout=sys.stderr, check=False)
    if missing(python, ["cbokernels"]):
        print("building and installing cbokernels", file=sys.stderr)
        without_cuda = "--config-settings=cmake.define.CBOKERNELS_CUDA=OFF"
        subprocess.run([*pip, without_cuda, str(ROOT)], stdout=sys.stderr, check=True)
    os.execv(python, [str(python), *sys.argv])
