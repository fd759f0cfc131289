"""The module that is tried: one built before, the installed one, or one built here for this card.

Built ones are put beside links to this tree's Python files, in WORK/package, which then comes first in
PYTHONPATH.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from facts import ROOT, built
from record import Row, Steps

PROGRAMS = (
    "kernels",
    "roots",
)  # of tests/cuda: every kernel's exercise, the normals' square root on every word
EXACT = ("-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true")
SOURCE = ROOT / "python" / "cbokernels"


def link(work: Path, modules: Path) -> None:
    """The package of this tree with the compiled modules of a folder, or with one of them."""
    package = work / "package" / "cbokernels"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    compiled = [modules] if modules.is_file() else sorted(modules.glob("_c*.so"))
    names = {path.name.split(".")[0] for path in compiled}
    if "_cuda" not in names:
        raise FileNotFoundError(
            f"no _cuda*.so in {modules}: it has {', '.join(sorted(names)) or 'no _c*.so'}"
        )
    if "_cpu" not in names:  # of the installed package, or of this tree
        spec = importlib.util.find_spec("cbokernels")
        places = list(spec.submodule_search_locations or ()) if spec else []
        compiled += [path for place in (*places, SOURCE) for path in Path(place).glob("_cpu*.so")][:1]
    for path in (*(path for path in SOURCE.iterdir() if path.suffix != ".so"), *compiled):
        (package / path.name).symlink_to(path.resolve())
    for path in ((modules.parent if modules.is_file() else modules) / name for name in PROGRAMS):
        if path.is_file():
            (work / path.name).unlink(missing_ok=True)
            (work / path.name).symlink_to(path)


def run(*command: str | Path) -> None:
    """Run a command; what it prints is in the stage's log."""
    print("$", *command, flush=True)
    subprocess.run([str(word) for word in command], check=True, stderr=subprocess.STDOUT)


def compile_module(work: Path, architectures: str) -> Iterator[Row]:
    """By CMake, for this Python; then the programs, from the same library."""
    missing = [name for name in ("nvcc", "cmake") if shutil.which(name) is None]
    missing += [] if importlib.util.find_spec("pybind11") else ["pybind11"]
    if missing:
        names = ", ".join(missing)
        raise FileNotFoundError(f"cbokernels has no CUDA module, and to build one {names} must be installed")
    import pybind11

    folder = work / "build"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    run(
        "cmake", "-S", ROOT, "-B", folder, *generator, "-DCBOKERNELS_CUDA=ON", "-DCMAKE_BUILD_TYPE=Release",
        f"-DCMAKE_CUDA_ARCHITECTURES={architectures}", "-DCMAKE_CUDA_FLAGS=-lineinfo",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", f"-DPython_EXECUTABLE={sys.executable}",
    )  # fmt: skip
    run("cmake", "--build", folder, "--target", "_cuda", "_cpu", "--parallel", str(os.cpu_count()))
    yield Row("module", "built", note=f"for {architectures}", ok=True)
    libraries = [path for name in ("cbk_cuda", "cbk_cuda_sm90a") for path in folder.glob(f"lib{name}.a")]
    cards = re.findall(r"\d+", architectures)
    codes = [f"-gencode=arch=compute_{card},code=sm_{card}" for card in cards] or ["-arch=native"]
    for name in PROGRAMS:
        source, made = ROOT / "tests" / "cuda" / f"{name}.cpp", folder / f"{name}.o"
        if source.exists():
            run("nvcc", "-std=c++17", *codes, *EXACT, "-lineinfo", "-x", "cu", "-c", source, "-o", made)
            run("nvcc", *codes, made, *libraries, "-o", folder / name)
            yield Row("module", name, note="built", ok=True)


def module(context) -> Iterator[Row]:
    """Find it or build it."""
    work = context.work
    if context.module:
        link(work, Path(context.module))
        yield Row("module", "built", note="before this run", ok=True)
        return
    if (
        subprocess.run(
            [sys.executable, "-c", "import cbokernels._cuda"], stderr=subprocess.DEVNULL
        ).returncode
        == 0
    ):
        shutil.rmtree(work / "package", ignore_errors=True)
        yield Row("module", "built", note="the installed one is used", ok=True)
        return
    try:
        yield from compile_module(work, context.architectures)
    finally:
        if any((work / "build").glob("_cuda*.so")):
            link(work, work / "build")


def steps(context) -> Steps:
    def found() -> Iterator[Row]:
        package = context.work / "package"
        if package.is_dir():
            sys.path.insert(0, str(package))
        yield from built()

    return {"module": lambda: module(context), "what it has": found}
