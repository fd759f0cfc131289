"""The card, the driver, the tools, and what is installed."""

from __future__ import annotations

import datetime
import glob
import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from record import Row, Skip, Steps

ROOT = Path(__file__).resolve().parents[2]
ASKED = (
    "name,driver_version,compute_cap,memory.total,memory.free,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem,"
    "power.limit,temperature.gpu,ecc.mode.current,mig.mode.current,persistence_mode,compute_mode,"
    "clocks_throttle_reasons.active"
)
PACKAGES = (
    "numpy",
    "torch",
    "cupy",
    "cupy-cuda13x",
    "cupy-cuda12x",
    "jax",
    "jaxlib",
    "pytest",
    "pybind11",
    "cmake",
)


def said(*command: str) -> str:
    """What a command prints; Skip where it cannot run."""
    if shutil.which(command[0]) is None:
        raise Skip(f"{command[0]} is not in the PATH")
    done = subprocess.run(command, capture_output=True, text=True, timeout=25, errors="replace")
    if done.returncode:
        raise Skip(
            f"{command[0]}: exit status {done.returncode}: {(done.stderr or done.stdout).strip()[:200]}"
        )
    return done.stdout.strip()


def smi() -> Iterator[Row]:
    """What nvidia-smi says of the first card; name by name where it does not know all of them."""
    header = re.search(r"CUDA Version: *([0-9.]+)", said("nvidia-smi"))
    yield Row("card", "CUDA of the driver", note=header[1] if header else "not said")
    try:  # at once: without persistence each call wakes the driver
        first = said("nvidia-smi", f"--query-gpu={ASKED}", "--format=csv,noheader").splitlines()[0]
        answers = [answer.strip() for answer in first.split(",")]
    except Skip:
        answers = []
        for name in ASKED.split(","):
            try:
                answers += said("nvidia-smi", f"--query-gpu={name}", "--format=csv,noheader").splitlines()[:1]
            except Skip as reason:
                answers.append(str(reason))
    for name, answer in zip(ASKED.split(","), answers, strict=True):
        yield Row("card", name, note=answer)


def machine() -> Iterator[Row]:
    """The computer, Python and its packages, the source."""
    yield Row("machine", "date", note=datetime.date.today().isoformat())
    yield Row("machine", "system", note=platform.platform())
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    yield Row("machine", "CPU", note=f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} threads")
    yield Row("machine", "Python", note=sys.version.split()[0])
    for name in PACKAGES:
        try:
            yield Row("package", name, note=importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            continue
    yield Row("source", "commit", note=said("git", "-C", str(ROOT), "describe", "--always", "--dirty"))


def tools() -> Iterator[Row]:
    """Versions of the programs that later stages use."""
    for name in ("nvcc", "cmake", "ncu", "nsys", "compute-sanitizer", "cuobjdump"):
        try:
            lines = said(name, "--version").splitlines()
            note = next((line for line in lines if re.search(r"\d+\.\d+", line)), lines[-1])
        except Skip as reason:
            note = str(reason)
        yield Row("tool", name, note=note)


def device() -> Iterator[Row]:
    """What the CUDA runtime says, through PyTorch or CuPy."""
    import arrays

    library = arrays.on_card()
    if isinstance(library, arrays.Torch):
        properties = library.torch.cuda.get_device_properties(0)
        names = [name for name in dir(properties) if not name.startswith("_")]
        facts = {name: getattr(properties, name) for name in names}
        facts["CUDA of PyTorch"] = library.torch.version.cuda
        facts["architectures of PyTorch"] = " ".join(library.torch.cuda.get_arch_list())
    else:
        facts = dict(library.cupy.cuda.runtime.getDeviceProperties(0))
        facts["CUDA runtime of CuPy"] = library.cupy.cuda.runtime.runtimeGetVersion()
    for name, value in facts.items():
        if isinstance(value, (int, float, str, bytes, tuple)):
            yield Row("device", name, note=value.decode() if isinstance(value, bytes) else str(value))


def steps(context) -> Steps:
    if context.rehearse:
        return {"machine": machine, "tools": tools}
    return {"card": smi, "machine": machine, "tools": tools, "device": device}


def built() -> Iterator[Row]:
    """What cbokernels has: its module, the architectures in it, and whether a device can be used."""
    import cbokernels as cbk

    importlib.import_module("cbokernels._cuda")  # raises what is wrong with the file
    yield Row("module", "version", note=cbk.__version__)
    yield Row("module", "instruction set of the CPU's", note=cbk.isa())
    reason = cbk.cuda.unavailable_reason()
    yield Row("module", "available", note=reason or f"{cbk.cuda.device_count()} devices", ok=reason is None)
    found = glob.glob(str(Path(cbk.__file__).parent / "_cuda*.so"))
    for path in found:
        yield Row("module", "file", note=os.path.realpath(path))
        images = re.findall(r"sm_\w+", said("cuobjdump", "--list-elf", path))
        yield Row("module", "architectures", note=" ".join(sorted(set(images))))
